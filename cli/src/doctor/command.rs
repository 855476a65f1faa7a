//! `tcpcopy doctor` and `intercept doctor` as they are typed, and how their findings are printed.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use clap::builder::Styles;
use serde::Serialize;

use super::finding::{Finding, Outcome};
use super::{intercept as at_intercept, run};
use crate::config;
use crate::exit::{self, Exit, Failure};
use crate::tcpcopy::modules::BuiltIn;
use crate::{intercept, tcpcopy};

/// Seconds for which traffic is watched unless something else is wanted.
const WATCH: u16 = 3;
/// The longest that makes sense.
const MAX_WATCH: u16 = 3600;

/// Looks for what keeps a copy from working, with the options of the copy, and says what mends it.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "tcpcopy doctor",
    styles = Styles::plain(),
    disable_help_flag = true,
    disable_version_flag = true,
    override_usage = "tcpcopy doctor [--json] [--watch SECONDS] OPTIONS-OF-THE-COPY...",
    after_help = "Exit codes: 0 nothing is in the way (warnings are no failures), 1 something is, 2 wrong options."
)]
pub struct OfTcpcopy {
    /// How the findings are wanted.
    #[command(flatten)]
    pub wanted: Wanted,
    /// The options of the copy.
    #[command(flatten)]
    pub copy: tcpcopy::arguments::Arguments,
}

/// Looks for what keeps intercept from seeing the target's answers, with intercept's options, and says what mends it.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "intercept doctor",
    styles = Styles::plain(),
    disable_help_flag = true,
    disable_version_flag = true,
    override_usage = "intercept doctor [--json] [--watch SECONDS] OPTIONS-OF-INTERCEPT...",
    after_help = "Exit codes: 0 nothing is in the way (warnings are no failures), 1 something is, 2 wrong options."
)]
pub struct OfIntercept {
    /// How the findings are wanted.
    #[command(flatten)]
    pub wanted: Wanted,
    /// The options of intercept.
    #[command(flatten)]
    pub intercept: intercept::arguments::Arguments,
}

/// How the findings are wanted.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Wanted {
    /// Print the findings as one JSON object, at the end.
    #[arg(long, help_heading = "Doctor")]
    pub json: bool,
    /// Watch the traffic for so many seconds, 1 to 3600 [default: 3].
    #[arg(long, value_name = "SECONDS", help_heading = "Doctor")]
    pub watch: Option<u16>,
}

impl Wanted {
    fn duration(self) -> Result<Duration, Failure> {
        let seconds = crate::values::in_range("--watch", self.watch.unwrap_or(WATCH), 1..=MAX_WATCH)?;
        Ok(Duration::from_secs(seconds.into()))
    }
}

/// `tcpcopy doctor`; `words` begin with the command's name.
pub fn of_tcpcopy(words: impl IntoIterator<Item = OsString>, built_in: BuiltIn) -> ExitCode {
    let OfTcpcopy { wanted, copy } = match parse::<OfTcpcopy>(words) {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    diagnose("tcpcopy", wanted, |watch, emit| run::run(&tcpcopy::check_arguments(copy, built_in)?, watch, emit))
}

/// `intercept doctor`; `words` begin with the command's name.
pub fn of_intercept(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let OfIntercept { wanted, intercept: arguments } = match parse::<OfIntercept>(words) {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    diagnose("intercept", wanted, |watch, emit| {
        at_intercept::run(&intercept::check_arguments(arguments)?, watch, emit);
        Ok(())
    })
}

fn parse<A: Parser>(words: impl IntoIterator<Item = OsString>) -> Result<A, ExitCode> {
    let words = words.into_iter().map(|word| word.to_string_lossy().into_owned());
    exit::parse::<A>(config::mend(words)).map_err(|error| {
        let program =
            if A::command().get_name().starts_with("tcpcopy") { "tcpcopy doctor" } else { "intercept doctor" };
        exit::parsed(program, &error)
    })
}

fn diagnose(
    program: &'static str,
    wanted: Wanted,
    check: impl FnOnce(Duration, &mut dyn FnMut(Finding)) -> Result<(), Failure>,
) -> ExitCode {
    let mut findings = Vec::new();
    let checked = wanted.duration().and_then(|watch| {
        check(watch, &mut |finding| {
            if !wanted.json {
                print(&finding.to_string());
            }
            findings.push(finding);
        })
    });
    if let Err(failure) = checked {
        return exit::complain(program, &failure);
    }
    let summary = Summary::of(program, &findings);
    print(&if wanted.json { summary.json() } else { summary.line() });
    if summary.failures > 0 { Exit::Failure.into() } else { Exit::Done.into() }
}

/// A line for whoever reads; one that has gone away is no reason to fail.
fn print(line: &str) {
    let mut stdout = io::stdout().lock();
    let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
}

/// All findings, and how many there are of each outcome.
#[derive(Debug, Serialize)]
struct Summary<'a> {
    program: &'static str,
    version: &'static str,
    ok: usize,
    warnings: usize,
    failures: usize,
    findings: &'a [Finding],
}

impl<'a> Summary<'a> {
    fn of(program: &'static str, findings: &'a [Finding]) -> Self {
        let count = |outcome| findings.iter().filter(|finding| finding.outcome == outcome).count();
        Self {
            program,
            version: env!("CARGO_PKG_VERSION"),
            ok: count(Outcome::Ok),
            warnings: count(Outcome::Warning),
            failures: count(Outcome::Failure),
            findings,
        }
    }

    fn line(&self) -> String {
        let number = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
        format!("{} ok, {}, {}", self.ok, number(self.warnings, "warning"), number(self.failures, "failure"))
    }

    fn json(&self) -> String {
        // Texts and numbers only: nothing in it can fail to be written.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
