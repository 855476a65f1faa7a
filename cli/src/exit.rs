//! How the programs end: every exit code, in one place.

use std::error::Error as _;
use std::ffi::OsString;
use std::fmt;
use std::io::{self, Write};
use std::num::ParseIntError;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Parser};

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

/// Help and version that were asked for, or what is wrong with the words of a command line: says it, and how the program ends.
pub(crate) fn parsed(program: &str, error: &clap::Error) -> ExitCode {
    match wrong_value(error) {
        Some(message) => say(&format!("{program}: {message}\nall options: {program} -h")),
        None => {
            // A reader that has gone away, such as `head`, is no reason to fail.
            let _ = error.print();
        }
    }
    if error.use_stderr() { Exit::Usage.into() } else { Exit::Done.into() }
}

/// Reads the words of a command line, the program's name first. A number below zero is taken for an option's value, so that
/// the message can name the option.
///
/// # Errors
/// What is wrong, or help or the version; options are named by their short names, too.
pub(crate) fn parse<A: Parser>(words: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> Result<A, clap::Error> {
    let takes_value = |arg: &Arg| arg.get_action().takes_values();
    let mut command =
        A::command().mut_args(|arg| if takes_value(&arg) { arg.allow_negative_numbers(true) } else { arg });
    // Arguments can be shown from then on.
    command.build();
    let names: Vec<(String, String)> = command
        .get_arguments()
        .filter_map(|arg| Some((arg.to_string(), format!("-{} (--{})", arg.get_short()?, arg.get_long()?))))
        .collect();
    let named = |mut error: clap::Error| {
        if let Some(ContextValue::String(shown)) = error.get(ContextKind::InvalidArg)
            && error.kind() == ErrorKind::ValueValidation
            && let Some((_, name)) = names.iter().find(|(text, _)| text == shown)
        {
            let name = ContextValue::String(name.clone());
            error.insert(ContextKind::InvalidArg, name);
        }
        error
    };
    let mut matches = command.try_get_matches_from(words).map_err(named)?;
    A::from_arg_matches_mut(&mut matches)
}

/// Words for a value that is none of the option's kind, which the standard library and clap say by what fits the computer,
/// and not the option.
fn wrong_value(error: &clap::Error) -> Option<String> {
    let of = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let (option, value) = (of(ContextKind::InvalidArg)?, of(ContextKind::InvalidValue)?);
    let source = error.source()?;
    let is_whole = |digits: &str| !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
    Some(if is_whole(value) {
        format!("in {option}: `{value}` is a larger number than can be")
    } else if value.strip_prefix('-').is_some_and(is_whole) {
        format!("in {option}: `{value}` is a smaller number than can be")
    } else if source.is::<ParseIntError>() {
        format!("in {option}: `{value}` is no whole number")
    } else {
        format!("in {option}: `{value}`: {source}")
    })
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
    use super::*;
    use crate::intercept::arguments::Arguments;

    #[test]
    fn what_is_no_number_is_said_with_the_option() {
        let told = |words: &[&str]| wrong_value(&parse::<Arguments>(words).unwrap_err());
        assert_eq!(told(&["intercept", "--nice", "much"]).unwrap(), "in --nice <N>: `much` is no whole number");
        let large = "99999999999999999999999999";
        assert!(told(&["intercept", "--stats-interval", large]).unwrap().contains("larger number"));
        assert_eq!(
            told(&["intercept", "-q", "-1"]).unwrap(),
            "in -q (--queue-length): `-1` is a smaller number than can be"
        );
        assert_eq!(
            told(&["intercept", "-n", "300"]).unwrap(),
            "in -n (--combined): `300` is a larger number than can be"
        );
        assert_eq!(told(&["intercept", "--combined=x"]).unwrap(), "in -n (--combined): `x` is no whole number");
        assert_eq!(told(&["intercept", "--bogus"]), None);
        assert_eq!(told(&["intercept", "-h"]), None);
    }

    #[test]
    fn what_is_no_address_is_said_with_the_option() {
        let error = parse::<crate::tcpcopy::arguments::Arguments>(["tcpcopy", "-H", "300.1.1.1"]).unwrap_err();
        let message = wrong_value(&error).unwrap();
        assert_eq!(message, "in -H (--loopback-source): `300.1.1.1`: invalid IP address syntax");
    }
}
