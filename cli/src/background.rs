//! How the programs go into the background.

use std::process::ExitCode;

use tcpcopy_io::process::{self, Daemonized, Readiness, StartReport};

use crate::exit::{self, Exit, Failure};

/// Goes into the background, if that is wanted, and returns in the process that does the work.
///
/// # Errors
/// In the process that waited in the terminal: how it ends, which is as the daemon's start went. What went wrong has been said.
pub(crate) fn leave_terminal(program: &str, wanted: bool) -> Result<Readiness, ExitCode> {
    if !wanted {
        return Ok(Readiness::foreground());
    }
    Err(match process::daemonize() {
        Ok(Daemonized::Child(readiness)) => return Ok(readiness),
        Ok(Daemonized::Parent(StartReport::Ready)) => Exit::Done.into(),
        Ok(Daemonized::Parent(StartReport::Failed { code, message })) => {
            exit::say(&message);
            code.into()
        }
        Ok(Daemonized::Parent(StartReport::Died)) => {
            let died = "the daemon ended before it was ready; its log may say why";
            exit::complain(program, &Failure::new(Exit::Failure, died))
        }
        Err(e) => exit::complain(program, &Failure::cannot("become a daemon")(e)),
    })
}
