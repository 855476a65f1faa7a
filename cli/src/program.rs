//! The program `tcpcopy` with all its commands: the copy itself, `modules`, `demo`, and those for a copy that runs.

use std::process::ExitCode;

use crate::demo;
use crate::live::command as live;
use crate::tcpcopy::{
    self,
    modules::{BuiltIn, command},
};

/// Runs the program, with the words of its command line and these modules.
pub fn main(built_in: BuiltIn) -> ExitCode {
    let mut words = std::env::args_os();
    let name = words.next();
    match std::env::args_os().nth(1) {
        Some(word) if word == "demo" => return demo::run(words),
        Some(word) if word == "modules" => return command::run(words, built_in),
        Some(word) if live::knows("tcpcopy", &word) => return live::run("tcpcopy", name.into_iter().chain(words)),
        _ => {}
    }
    // What is not UTF-8 is no option of ours; the message shows it with replacement characters.
    let words = name.into_iter().chain(words).map(|word| word.to_string_lossy().into_owned());
    tcpcopy::main(words, built_in)
}
