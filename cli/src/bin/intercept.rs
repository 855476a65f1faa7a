//! intercept: reports to tcpcopy what the test server answers to the copies.

use std::process::ExitCode;

fn main() -> ExitCode {
    tcpcopy::program::intercept()
}
