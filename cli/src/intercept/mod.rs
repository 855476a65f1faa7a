//! The program intercept: options, start, and the loop that brings captured responses to the tcpcopys that wait.

pub mod arguments;
mod crew;
mod examine;
mod exposition;
mod hands;
mod legacy;
mod live;
pub mod options;
pub mod passlist;
pub mod queue;
mod report;
mod run;
#[cfg(test)]
pub(crate) use exposition::Exposition;
#[cfg(test)]
mod tests;
mod told;
mod translation;
mod worker;

use std::ffi::OsString;
use std::process::ExitCode;

use tcpcopy_io::process::{self, Daemonized, PidFile, Readiness, StartReport};

use crate::config;
use crate::exit::{self, Exit, Failure};
use crate::logging::Log;
use arguments::Arguments;
use options::Options;
use run::Intercept;

/// Runs intercept with the words of its command line, the program's name first.
pub fn main(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let words: Vec<OsString> = words.into_iter().collect();
    // Everything is text; what is not, no option can mean.
    let words = config::mend(words.into_iter().map(|w| w.to_string_lossy().into_owned()));
    let arguments = match exit::parse::<Arguments>(words) {
        Ok(arguments) => arguments,
        Err(e) => return exit::parsed("intercept", &e),
    };
    match options_of(arguments).and_then(|options| start(&options)) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            exit::say(&format!("intercept: {failure}"));
            failure.exit.into()
        }
    }
}

/// Arguments of a command line, with those of the configuration file that they name, made into checked options.
pub(crate) fn options_of(arguments: Arguments) -> Result<Options, Failure> {
    let merged = match &arguments.config {
        None => arguments,
        Some(path) => config::merge(&arguments, &config::read(path).map_err(Failure::usage)?),
    };
    Options::check(merged)
}

/// Goes into the background if that is wanted, and runs.
fn start(options: &Options) -> Result<Exit, Failure> {
    let readiness = if options.daemon {
        match process::daemonize().map_err(|e| Failure::new(Exit::Failure, format!("cannot become a daemon: {e}")))? {
            Daemonized::Child(readiness) => readiness,
            Daemonized::Parent(StartReport::Ready) => return Ok(Exit::Done),
            Daemonized::Parent(StartReport::Failed { code, message }) => {
                exit::say(&message);
                std::process::exit(code.into());
            }
            Daemonized::Parent(StartReport::Died) => {
                return Err(Failure::new(Exit::Failure, "the daemon ended without a word; its log may say more"));
            }
        }
    } else {
        Readiness::foreground()
    };
    match set_up(options) {
        Ok((log, pid_file, intercept)) => {
            readiness.ready().map_err(|e| Failure::new(Exit::Failure, format!("cannot leave the terminal: {e}")))?;
            let result = intercept.run(&log);
            if let (Err(failure), true) = (&result, options.log.is_some()) {
                log::error!("{failure}");
            }
            drop(pid_file);
            result.map(|()| Exit::Done)
        }
        Err(failure) => {
            // In the terminal of the person who started it, daemon or not.
            readiness.failed(failure.exit as u8, &format!("intercept: {failure}"));
            std::process::exit(failure.exit as i32);
        }
    }
}

fn set_up(options: &Options) -> Result<(Log, Option<PidFile>, Intercept), Failure> {
    let log = Log::start(options.log.as_deref(), options.log_level, options.log_format)
        .map_err(|e| Failure::new(Exit::Failure, e))?;
    let present = options.identity.begin()?;
    let pid_file =
        options.pid.as_deref().map(PidFile::create).transpose().map_err(|e| Failure::new(Exit::Failure, e))?;
    Ok((log, pid_file, Intercept::open(options, present)?))
}

/// Whether a command line is taken; otherwise why not.
#[cfg(test)]
pub(crate) fn check_words(words: &[String]) -> Result<(), String> {
    let arguments = exit::parse::<Arguments>(words).map_err(|e| e.to_string())?;
    Options::check(arguments).map(drop).map_err(|failure| failure.message)
}
