//! The program intercept: options, start, and the loop that brings captured responses to the tcpcopys that wait.

pub mod arguments;
mod crew;
mod examine;
mod exposition;
mod hands;
mod legacy;
pub mod options;
pub mod passlist;
pub mod queue;
mod report;
mod run;
mod start;
mod steering;
#[cfg(test)]
mod tests;
mod told;
mod translation;
mod worker;

#[cfg(test)]
pub(crate) use exposition::Exposition;

use std::ffi::OsString;
use std::process::ExitCode;

use tcpcopy_io::process::{PidFile, Readiness};

use crate::background;
use crate::config;
use crate::exit::{self, Exit, Failure};
use crate::logging::Log;
use arguments::Arguments;
use options::Options;
use run::Intercept;
use start::start;

/// Runs intercept with the words of its command line, the program's name first.
pub fn main(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let words: Vec<OsString> = words.into_iter().collect();
    // Everything is text; what is not, no option can mean.
    let words = config::mend(words.into_iter().map(|w| w.to_string_lossy().into_owned()));
    let arguments = match exit::parse::<Arguments>(words) {
        Ok(arguments) => arguments,
        Err(e) => return exit::parsed("intercept", &e),
    };
    let options = match check_arguments(arguments) {
        Ok(options) => options,
        Err(failure) => return exit::complain("intercept", &failure),
    };
    match background::leave_terminal("intercept", options.daemon) {
        Ok(readiness) => run(&options, readiness).map_or_else(|failure| failure.exit, |()| Exit::Done).into(),
        Err(ended) => ended,
    }
}

/// Arguments of a command line, with those of the configuration file that they name, made into checked options.
pub(crate) fn check_arguments(arguments: Arguments) -> Result<Options, Failure> {
    let merged = match &arguments.config {
        None => arguments,
        Some(path) => config::merge(&arguments, &config::read(path).map_err(Failure::usage)?),
    };
    Options::check(merged)
}

/// Everything from the first system call to the last. A failure has been told to whoever waits when this returns.
fn run(options: &Options, readiness: Readiness) -> Result<(), Failure> {
    let (log, _pid_file, intercept) = match set_up(options) {
        Ok(all) => all,
        Err(failure) => {
            // In the terminal of the person who started it, daemon or not.
            readiness.failed(failure.exit as u8, &format!("intercept: {failure}"));
            return Err(failure);
        }
    };
    let result = readiness.ready().map_err(Failure::cannot("leave the terminal")).and_then(|()| intercept.run(&log));
    if let Err(failure) = &result {
        if options.log.is_some() {
            log::error!("{failure}");
        }
        exit::say(&format!("intercept: {failure}"));
    }
    result
}

fn set_up(options: &Options) -> Result<(Log, Option<PidFile>, Intercept), Failure> {
    let log = Log::start(options.log.as_deref(), options.log_level, options.log_format)
        .map_err(|e| Failure::new(Exit::Failure, e))?;
    let present = options.identity.begin()?;
    let pid_file =
        options.pid.as_deref().map(PidFile::create).transpose().map_err(|e| Failure::new(Exit::Failure, e))?;
    Ok((log, pid_file, start(options, present)?))
}

/// Whether a command line is taken; otherwise why not.
#[cfg(test)]
pub(crate) fn check_words(words: &[String]) -> Result<(), String> {
    let arguments = exit::parse::<Arguments>(words).map_err(|e| e.to_string())?;
    Options::check(arguments).map(drop).map_err(|failure| failure.message)
}
