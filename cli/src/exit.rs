//! How the programs end: every exit code, in one place.

use std::any::Any;
use std::error::Error as _;
use std::fmt;
use std::io::{self, Write};
use std::num::{IntErrorKind, ParseIntError};
use std::process::ExitCode;
use std::thread;

use clap::error::{ContextKind, ContextValue};

/// What an exit code means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// All went well.
    Done = 0,
    /// Something failed while running.
    Failure = 1,
    /// An option, or the configuration file, is wrong.
    Usage = 2,
    /// A privilege is missing.
    Permission = 3,
    /// An intercept, or the target, could not be reached at start.
    Unreachable = 4,
    /// A condition of `--stop-if` came true.
    Condition = 5,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Tells the person at the terminal. Where nobody listens any more, nothing is said, and nothing fails for it.
pub(crate) fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Tells why a program or command ends, and so how.
pub(crate) fn complain(program: &str, failure: &Failure) -> ExitCode {
    say(&format!("{program}: {failure}"));
    failure.exit.into()
}

/// Ends a command that has a text to print, or a reason why there is none.
pub(crate) fn answer(program: &str, answer: Result<String, Failure>) -> ExitCode {
    match answer {
        Ok(text) => {
            // A reader that has gone away, such as `head`, is no reason to fail.
            let _ = io::stdout().write_all(text.as_bytes());
            Exit::Done.into()
        }
        Err(failure) => complain(program, &failure),
    }
}

/// What a panic says.
pub(crate) fn words_of_panic(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message")
}

/// Why a worker's thread has failed, if it has.
pub(crate) fn failure_of_worker(ended: thread::Result<io::Result<()>>) -> Option<String> {
    match ended {
        Ok(Ok(())) => None,
        Ok(Err(e)) => Some(format!("a worker cannot wait for events: {e}")),
        Err(panic) => Some(format!("a worker failed by a mistake in the program: {}", words_of_panic(&*panic))),
    }
}

/// Help and version that were asked for, or what is wrong with the words of a command line: says it, and how the program ends.
pub(crate) fn parsed(program: &str, error: &clap::Error) -> ExitCode {
    match no_number(error) {
        Some(message) => say(&format!("{program}: {message}\nall options: {program} -h")),
        None => {
            // A reader that has gone away, such as `head`, is no reason to fail.
            let _ = error.print();
        }
    }
    if error.use_stderr() { Exit::Usage.into() } else { Exit::Done.into() }
}

/// Words for what is no number where one is expected, which the standard library says without the option's needs.
fn no_number(error: &clap::Error) -> Option<String> {
    let of = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let (option, value) = (of(ContextKind::InvalidArg)?, of(ContextKind::InvalidValue)?);
    let reason = match error.source()?.downcast_ref::<ParseIntError>()?.kind() {
        IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => "is a larger number than can be",
        _ => "is no whole number",
    };
    Some(format!("in {option}: `{value}` {reason}"))
}

/// Why a program ends early, in words for the person who started it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// What was being done, what went wrong, and what can be done about it.
    pub message: String,
}

impl Failure {
    /// A failure of this kind.
    pub fn new(exit: Exit, message: impl fmt::Display) -> Self {
        Self { exit, message: message.to_string() }
    }

    /// What the system does not let us do, for `map_err`: `cannot start a thread: …`.
    pub fn cannot<E: fmt::Display>(doing: &str) -> impl FnOnce(E) -> Self {
        move |e| Self::new(Exit::Failure, format!("cannot {doing}: {e}"))
    }

    /// A wrong option or configuration.
    pub fn usage(message: impl fmt::Display) -> Self {
        Self::new(Exit::Usage, message)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::intercept::arguments::Arguments;

    #[test]
    fn what_is_no_number_is_said_with_the_option() {
        let told = |words: &[&str]| no_number(&Arguments::try_parse_from(words).unwrap_err());
        assert_eq!(told(&["intercept", "--nice", "much"]).unwrap(), "in --nice <N>: `much` is no whole number");
        let large = "99999999999999999999999999";
        assert!(told(&["intercept", "--stats-interval", large]).unwrap().contains("larger number"));
        assert_eq!(told(&["intercept", "--bogus"]), None);
        assert_eq!(told(&["intercept", "-h"]), None);
    }
}
