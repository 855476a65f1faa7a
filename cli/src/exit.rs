//! How the programs end: every exit code, in one place.

use std::any::Any;
use std::error::Error as _;
use std::ffi::OsString;
use std::fmt;
use std::io::{self, Write};
use std::num::{IntErrorKind, ParseIntError};
use std::process::ExitCode;
use std::thread;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Parser};
use tcpcopy_io::capture::CaptureError;

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
    match in_words(error) {
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

/// What is wrong with the words of a command line, said as our own checks say it: the option, what it was given, what it wants.
/// `None` for help and for what clap says well enough.
fn in_words(error: &clap::Error) -> Option<String> {
    let of = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let option = of(ContextKind::InvalidArg)?;
    let value = of(ContextKind::InvalidValue);
    match (error.kind(), value) {
        (ErrorKind::ValueValidation, Some(value)) => Some(format!("in {option}: {}", reason(value, error.source()?))),
        (ErrorKind::InvalidValue, None | Some("")) => Some(format!("in {option}: the value is missing")),
        (ErrorKind::TooManyValues, Some(value)) => {
            Some(format!("in {option}: it takes no value, and `{value}` is one"))
        }
        (ErrorKind::UnknownArgument, _) if looks_negative(option) => Some(format!(
            "`{option}` is no option; as the value of the option before it, a number above zero is expected"
        )),
        (ErrorKind::UnknownArgument, _) if option.starts_with('-') => {
            let similar = of(ContextKind::SuggestedArg).map(|similar| format!("; there is {similar}"));
            Some(format!("there is no option `{option}`{}", similar.unwrap_or_default()))
        }
        (ErrorKind::UnknownArgument, _) => Some(format!(
            "`{option}` is neither an option nor the value of one; a value with spaces is put in quotation marks"
        )),
        _ => None,
    }
}

/// Why a value is none that an option takes; of numbers the standard library says it without the option's needs.
fn reason(value: &str, error: &(dyn std::error::Error + 'static)) -> String {
    match error.downcast_ref::<ParseIntError>().map(ParseIntError::kind) {
        Some(IntErrorKind::PosOverflow) => format!("`{value}` is a larger number than can be"),
        Some(_) if looks_negative(value) => format!("`{value}` is a smaller number than can be"),
        Some(_) => format!("`{value}` is no whole number"),
        // A range of clap's: `70000 is not in 0..=65535`.
        None => match error.to_string() {
            text if text.starts_with(value) => text.replace(" in ", " within ").replace("..=", " to "),
            text => format!("`{value}`: {text}"),
        },
    }
}

fn looks_negative(word: &str) -> bool {
    word.strip_prefix('-').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
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

    /// A capture that cannot be opened, on a device that was given by `option`.
    pub(crate) fn of_capture(e: &CaptureError, option: &str) -> Self {
        match e {
            CaptureError::NoSuchDevice { .. } => Self::usage(format!("in {option}: {e}")),
            CaptureError::BadFilter { .. } | CaptureError::UnsupportedLink { .. } => Self::usage(e),
            CaptureError::NoPermission { .. } => Self::new(Exit::Permission, e),
            _ => Self::new(Exit::Failure, e),
        }
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
    fn what_is_wrong_with_a_word_is_said_with_the_option() {
        let told = |words: &[&str]| in_words(&parse::<Arguments>(words).unwrap_err());
        assert_eq!(told(&["intercept", "--nice", "much"]).unwrap(), "in --nice <N>: `much` is no whole number");
        let large = "99999999999999999999999999";
        assert!(told(&["intercept", "--stats-interval", large]).unwrap().contains("larger number"));
        for (words, expected) in [
            (["--port", "70000"], "in -p (--port): 70000 is not within 0 to 65535"),
            (["--daemon=5", "-L"], "in -d (--daemon): it takes no value, and `5` is one"),
            (["-d", "--bind"], "in -b (--bind): the value is missing"),
            (["-p", "-1"], "in -p (--port): -1 is not within 0 to 65535"),
            (["-q", "-1"], "in -q (--queue-length): "),
            (["-d", "--bogus"], "there is no option `--bogus`"),
            (["-d", "--filtre"], "there is no option `--filtre`; there is --filter"),
            (["-d", "stray"], "`stray` is neither an option nor the value of one"),
        ] {
            let told = told(&["intercept", words[0], words[1]]).unwrap_or_default();
            assert!(told.starts_with(expected), "{expected:?} is not said: {told}");
        }
        assert_eq!(told(&["intercept", "-h"]), None);
    }

    #[test]
    fn what_is_no_address_is_said_with_the_option() {
        let error = parse::<crate::tcpcopy::arguments::Arguments>(["tcpcopy", "-H", "300.1.1.1"]).unwrap_err();
        let message = in_words(&error).unwrap();
        assert_eq!(message, "in -H (--loopback-source): `300.1.1.1`: invalid IP address syntax");
    }
}
