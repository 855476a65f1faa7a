//! `tcpcopy`: copies what the clients of a production server send to a test server.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let name = arguments.next();
    if std::env::args_os().nth(1).is_some_and(|word| word == "demo") {
        return tcpcopy::demo::run(arguments);
    }
    // What is not UTF-8 is no option of ours; the message shows it with replacement characters.
    tcpcopy::tcpcopy::main(name.into_iter().chain(arguments).map(|a| a.to_string_lossy().into_owned()))
}
