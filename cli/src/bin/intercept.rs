//! intercept: reports to tcpcopy what the test server answers to the copies.

use std::process::ExitCode;

fn main() -> ExitCode {
    match std::env::args_os().nth(1) {
        Some(word) if word == "doctor" => tcpcopy::doctor::command::of_intercept(std::env::args_os().skip(1)),
        _ => tcpcopy::intercept::main(std::env::args_os()),
    }
}
