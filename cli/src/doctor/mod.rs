//! `doctor`: looks for what keeps a copy from working, and says what mends it.

mod finding;
pub mod probe;

use std::ffi::OsString;
use std::process::ExitCode;

use crate::exit::Exit;
use crate::tcpcopy::modules::BuiltIn;

pub use finding::{Finding, Outcome};

/// `tcpcopy doctor`, with the options of the real run.
pub fn run(words: impl Iterator<Item = OsString>, built_in: BuiltIn) -> ExitCode {
    let words = words.map(|word| word.to_string_lossy().into_owned());
    let options = match crate::tcpcopy::options_of(words, built_in) {
        Ok(options) => options,
        Err(code) => return code,
    };
    let findings = probe::run(&options);
    for finding in &findings {
        println!("{finding}");
    }
    if findings.iter().any(|finding| finding.outcome == Outcome::Failure) { Exit::Failure } else { Exit::Done }.into()
}
