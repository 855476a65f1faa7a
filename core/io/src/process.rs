//! The process: becoming a daemon, the pid file, signals, capabilities.
#![allow(unsafe_code)]

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

pub use signal_hook_mio::v1_0::Signals;

/// Interrupt from the terminal.
pub const SIGINT: i32 = libc::SIGINT;
/// Order to end.
pub const SIGTERM: i32 = libc::SIGTERM;
/// Order to open the log again.
pub const SIGHUP: i32 = libc::SIGHUP;

/// A source for [`mio::Poll`] that becomes readable when INT, TERM or HUP has come; `pending()` lists them. From this
/// call on these signals no longer end the process.
///
/// # Errors
/// When the system refuses a handler.
pub fn signals() -> io::Result<Signals> {
    Signals::new([SIGINT, SIGTERM, SIGHUP])
}

// ---------------------------------------------------------------------------------------------------------------------
// Capabilities

/// A privilege of capabilities(7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Capability {
    /// Files whatever their mode.
    DacOverride = 1,
    /// Larger socket buffers than the system's limit, NFQUEUE.
    NetAdmin = 12,
    /// Capture, and sending packets with headers of our own.
    NetRaw = 13,
}

impl Capability {
    /// Its name in capabilities(7).
    pub const fn name(self) -> &'static str {
        match self {
            Self::DacOverride => "CAP_DAC_OVERRIDE",
            Self::NetAdmin => "CAP_NET_ADMIN",
            Self::NetRaw => "CAP_NET_RAW",
        }
    }

    /// Its place in the kernel's sets.
    pub(crate) const fn bit(self) -> u64 {
        1 << self as u8
    }

    /// What a person can do about its absence.
    pub fn remedy(self) -> String {
        format!("this needs {}; run as root, or once: {}", self.name(), setcap_line())
    }
}

/// The command that grants the running program what it needs.
pub fn setcap_line() -> String {
    let program = std::env::current_exe().map_or_else(|_| "PROGRAM".to_owned(), |path| path.display().to_string());
    format!("setcap cap_net_raw,cap_net_admin+ep {program}")
}

/// Whether the process has a capability now.
pub fn has_capability(capability: Capability) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    effective_capabilities(&status).is_some_and(|set| set >> (capability as u8) & 1 == 1)
}

fn effective_capabilities(status: &str) -> Option<u64> {
    let text = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(text.trim(), 16).ok()
}

// ---------------------------------------------------------------------------------------------------------------------
// Daemon

/// Which side of [`daemonize`] this is.
pub enum Daemonized {
    /// The process that a person started. The daemon has reported; all that is left is to exit.
    Parent(StartReport),
    /// The daemon.
    Child(Readiness),
}

/// How the start of a daemon went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartReport {
    /// It runs.
    Ready,
    /// It could not start.
    Failed {
        /// The exit code it wants its starter to have.
        code: u8,
        /// Its words.
        message: String,
    },
    /// It ended without a word.
    Died,
}

/// The promise of a starting program to tell how its start went. A daemon's is kept through a pipe to the process that
/// waits in the terminal.
#[derive(Debug)]
#[must_use = "the starting process waits for it"]
pub struct Readiness {
    pipe: Option<File>,
}

impl Readiness {
    /// The promise of a program that stays in the foreground: nobody waits.
    pub fn foreground() -> Self {
        Self { pipe: None }
    }

    /// The start is done. A daemon lets go of its terminal.
    ///
    /// # Errors
    /// When `/dev/null` cannot take the terminal's place.
    pub fn ready(mut self) -> io::Result<()> {
        let Some(mut pipe) = self.pipe.take() else { return Ok(()) };
        redirect_to_null(&[libc::STDOUT_FILENO, libc::STDERR_FILENO])?;
        // The starter may have been killed; that is no reason to stop.
        let _ = pipe.write_all(&[0]);
        Ok(())
    }

    /// The start failed: prints `message` where the person who started the program sees it, and makes the starting
    /// process exit with `code`. The caller exits with the same.
    pub fn failed(mut self, code: u8, message: &str) {
        match self.pipe.take() {
            // Not `eprintln!`: where nobody listens it panics, and the exit code would be that of a panic.
            None => {
                let _ = writeln!(io::stderr(), "{message}");
            }
            Some(mut pipe) => {
                let _ = pipe.write_all(&[code.max(1)]).and_then(|()| pipe.write_all(message.as_bytes()));
            }
        }
    }
}

/// Leaves the terminal: the calling process waits until the daemon reports and gets that report; the daemon goes on in
/// a session of its own with `/` as its directory (make paths absolute before). Until [`Readiness::ready`] it still
/// writes to the terminal.
///
/// # Errors
/// When the system has no process, pipe or session to give.
///
/// # Panics
/// When the process has more than one thread: only the calling one would live on in the daemon.
pub fn daemonize() -> io::Result<Daemonized> {
    let threads = fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    assert_eq!(threads, 1, "a process becomes a daemon before it starts threads");

    let (read_end, write_end) = pipe()?;
    // SAFETY: the process has one thread (checked above), so no lock is held by a thread that the child lacks.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            drop(read_end);
            let readiness = Readiness { pipe: Some(write_end) };
            match detach() {
                Ok(()) => Ok(Daemonized::Child(readiness)),
                Err(e) => {
                    readiness.failed(1, &format!("cannot become a daemon: {e}"));
                    std::process::exit(1);
                }
            }
        }
        first_child => {
            drop(write_end);
            let report = wait_for_report(read_end);
            // SAFETY: waits for our own child, which has exited or is about to; a null status is allowed.
            unsafe { libc::waitpid(first_child, std::ptr::null_mut(), 0) };
            Ok(Daemonized::Parent(report))
        }
    }
}

/// In the first child: a new session without a terminal, and a second child that can never get one.
fn detach() -> io::Result<()> {
    // SAFETY: setsid takes no arguments; it fails only for a group leader, which a fresh child is not.
    if unsafe { libc::setsid() } == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: as in `daemonize`: one thread.
    match unsafe { libc::fork() } {
        -1 => return Err(io::Error::last_os_error()),
        0 => {}
        // SAFETY: ends the intermediate process without running destructors that belong to the daemon.
        _ => unsafe { libc::_exit(0) },
    }
    std::env::set_current_dir("/")?;
    redirect_to_null(&[libc::STDIN_FILENO])
}

fn wait_for_report(mut pipe: File) -> StartReport {
    let mut bytes = Vec::new();
    // A broken pipe and an empty one say the same: the daemon is gone.
    let _ = pipe.read_to_end(&mut bytes);
    match bytes.split_first() {
        None => StartReport::Died,
        Some((0, _)) => StartReport::Ready,
        Some((&code, message)) => StartReport::Failed { code, message: String::from_utf8_lossy(message).into_owned() },
    }
}

fn pipe() -> io::Result<(File, File)> {
    let mut fds = [0; 2];
    // SAFETY: the kernel writes two descriptors into an array of two.
    if unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: both descriptors are new, open, and owned by nobody else.
    let [read_end, write_end] = fds.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
    Ok((File::from(read_end), File::from(write_end)))
}

fn redirect_to_null(fds: &[i32]) -> io::Result<()> {
    let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    for &fd in fds {
        // SAFETY: `null` is open; the standard descriptors may be replaced at any time, std does not own them.
        if unsafe { libc::dup2(null.as_raw_fd(), fd) } == -1 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

// ---------------------------------------------------------------------------------------------------------------------
// Pid file

/// Why there is no pid file.
#[derive(Debug)]
pub enum PidFileError {
    /// The program whose pid is in the file still runs.
    Running {
        /// The file.
        path: PathBuf,
        /// What it says.
        pid: String,
    },
    /// The file cannot be written.
    Io {
        /// The file.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
}

impl fmt::Display for PidFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Running { path, pid } => write!(
                f,
                "already running as process {pid}, says the pid file {}; stop that one first or choose another file",
                path.display()
            ),
            Self::Io { path, source } => write!(f, "cannot write the pid file {}: {source}", path.display()),
        }
    }
}

impl std::error::Error for PidFileError {}

/// A file with our pid, locked while we live and removed at the end. The lock, not the number, says whether the owner
/// lives: what a crash left behind is replaced, also when its number has been given to another process.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
    locked: File,
}

impl PidFile {
    /// Writes the pid of this process to `path`. A daemon does this after [`daemonize`].
    ///
    /// # Errors
    /// See [`PidFileError`].
    pub fn create(path: &Path) -> Result<Self, PidFileError> {
        let to_error = |source| PidFileError::Io { path: path.to_owned(), source };
        loop {
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o644)
                .open(path)
                .map_err(to_error)?;
            // SAFETY: flock on a descriptor that lives during the call.
            if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
                let e = io::Error::last_os_error();
                if e.kind() != io::ErrorKind::WouldBlock {
                    return Err(to_error(e));
                }
                let mut pid = String::new();
                file.read_to_string(&mut pid).map_err(to_error)?;
                return Err(PidFileError::Running { path: path.to_owned(), pid: pid.trim().to_owned() });
            }
            // The former owner may have removed the file between our open and our lock: then we hold a file that has
            // no name any more, and begin again.
            let ours = file.metadata().map_err(to_error)?;
            match fs::metadata(path) {
                Ok(named) if (named.dev(), named.ino()) == (ours.dev(), ours.ino()) => {}
                _ => continue,
            }
            file.set_len(0).and_then(|()| file.rewind()).map_err(to_error)?;
            writeln!(file, "{}", std::process::id()).map_err(to_error)?;
            return Ok(Self { path: path.to_owned(), locked: file });
        }
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // Removed while still locked, so that no newcomer can have written to it.
        if fs::remove_file(&self.path).is_err() {
            // A folder in which the user that we have become may not remove anything. Empty, it names nobody.
            let _ = self.locked.set_len(0);
        }
    }
}

#[cfg(test)]
mod tests;
