//! `tcpcopy`: copies what the clients of a production server send to a test server.

use std::process::ExitCode;

fn main() -> ExitCode {
    tcpcopy::program::main(tcpcopy::tcpcopy::modules::BuiltIn::shipped())
}
