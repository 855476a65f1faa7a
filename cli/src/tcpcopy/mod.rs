//! The program `tcpcopy`: from its arguments to its exit code.

pub mod arguments;
pub mod decap;
pub mod diagnosis;
pub mod exposition;
pub mod filter;
pub mod given;
pub mod grammar;
mod guard;
mod legacy;
mod looks;
pub mod modules;
pub mod options;
pub mod output;
pub mod page;
pub mod progress;
pub mod recording;
pub mod replay;
pub mod report;
pub(crate) mod start;
pub mod status;
mod steering;
mod supervise;
pub mod worker;

use std::process::ExitCode;

use clap::error::ErrorKind;
use tcpcopy_io::capture;
use tcpcopy_io::process::Readiness;

use crate::background;
use crate::config;
use crate::exit::{self, Exit, Failure};
use crate::logging::Log;
use arguments::Arguments;
use modules::{BuiltIn, Catalogue};
use options::Options;
use start::start;

/// Runs a copy. `arguments` begin with the program's name; `built_in` are the modules that it has.
pub fn main(arguments: impl IntoIterator<Item = String>, built_in: BuiltIn) -> ExitCode {
    let options = match read_options(arguments, built_in) {
        Ok(options) => options,
        Err(Early::Clap(e)) => return exit::parsed("tcpcopy", &e),
        Err(Early::Failure(e)) => return exit::complain("tcpcopy", &e),
    };
    match background::leave_terminal("tcpcopy", options.daemon) {
        Ok(readiness) => run(&options, readiness).map_or_else(|failure| failure.exit, |()| Exit::Done).into(),
        Err(ended) => ended,
    }
}

/// Why the program ends before it has begun.
enum Early {
    /// Help, version, or what clap finds wrong.
    Clap(clap::Error),
    /// What we find wrong.
    Failure(Failure),
}

impl From<Failure> for Early {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

/// Arguments, configuration file and this host's addresses, made into checked options.
fn read_options(arguments: impl IntoIterator<Item = String>, built_in: BuiltIn) -> Result<Options, Early> {
    check_arguments(parse(arguments)?, built_in).map_err(Early::Failure)
}

/// Arguments of a command line, with those of the configuration file that they name, made into checked options.
pub(crate) fn check_arguments(arguments: Arguments, built_in: BuiltIn) -> Result<Options, Failure> {
    let arguments = match &arguments.config {
        None => arguments,
        Some(path) => {
            let file = config::read::<Arguments>(path).map_err(Failure::usage)?;
            let mut merged = config::merge(&arguments, &file);
            // Of options of modules the command line's win one by one, not all at once: the last one counts.
            merged.proto_opt = [file.proto_opt, arguments.proto_opt].concat();
            // What has no long name is in no file; of both names of the ramp the command line's wins.
            merged.grow = arguments.grow;
            if arguments.grow && arguments.ramp.is_none() {
                merged.ramp = None;
            }
            (merged.c_rtt, merged.c_pool, merged.c_snaplen) = (arguments.c_rtt, arguments.c_pool, arguments.c_snaplen);
            merged
        }
    };
    let catalogue = Catalogue::new(built_in, &arguments.module_dir)?;
    Options::check(arguments, &catalogue, &capture::local_addresses())
}

/// The arguments as they are written.
fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Arguments, Early> {
    let arguments = config::mend(arguments);
    exit::parse::<Arguments>(arguments).map_err(|e| match e.kind() {
        ErrorKind::MissingRequiredArgument => Failure::usage(e.render()).into(),
        _ => Early::Clap(e),
    })
}

/// Everything from the first system call to the last. A failure has been told to whoever waits when this returns.
fn run(options: &Options, readiness: Readiness) -> Result<(), Failure> {
    let log = match Log::start(options.log.as_deref(), options.log_level, options.log_format) {
        Ok(log) => log,
        Err(e) => {
            let failure = Failure::new(Exit::Failure, e);
            readiness.failed(failure.exit as u8, &format!("tcpcopy: {failure}"));
            return Err(failure);
        }
    };
    let started = match start(options) {
        Ok(started) => started,
        Err(failure) => {
            if options.log.is_some() {
                log::error!("{failure}");
            }
            readiness.failed(failure.exit as u8, &format!("tcpcopy: {failure}"));
            return Err(failure);
        }
    };
    let Some(running) = started else { return Ok(()) };
    if let Err(e) = readiness.ready() {
        log::warn!("cannot let go of the terminal: {e}");
    }
    let result = running.supervise(options, &log);
    if let Err(failure) = &result {
        log::error!("{failure}");
    }
    result
}

/// Whether a command line is taken; otherwise why not.
#[cfg(test)]
pub(crate) fn check_words(words: &[String]) -> Result<(), String> {
    let to_text = |early| match early {
        Early::Clap(e) => e.to_string(),
        Early::Failure(failure) => failure.message,
    };
    let arguments = parse(words.iter().cloned()).map_err(to_text)?;
    let catalogue = Catalogue::new::<&str>(BuiltIn::shipped(), &[]).map_err(|failure| failure.message)?;
    Options::check(arguments, &catalogue, &[]).map(drop).map_err(|failure| failure.message)
}

#[cfg(test)]
mod tests;
