//! Hosts as anonymous network namespaces.
//!
//! Nothing here has a name that another run could meet: a namespace lives as long as the descriptor that refers to it,
//! and the programs started in it die with the process that started them. A process that is killed outright leaves
//! nothing behind either.

#![allow(unsafe_code)]

mod lab;
mod process;
mod wire;

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;
use std::time::Duration;
use std::{error, fmt, thread};

pub use lab::{Host, Lab, REPLICAS_V4, REPLICAS_V6};
pub use process::{CpuTime, Process};
pub use wire::Wire;

/// Why hosts could not be made.
#[derive(Debug)]
pub enum NetnsError {
    /// This process may not create network namespaces, neither by its capabilities nor in a user namespace of its own.
    NotPermitted {
        /// What the kernel said.
        source: io::Error,
        /// What probably forbids it, and what to do.
        advice: &'static str,
    },
    /// A step failed.
    Step {
        /// What was being done.
        doing: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A command failed.
    Command {
        /// Its command line.
        line: String,
        /// What it wrote to its standard error.
        message: String,
    },
}

impl NetnsError {
    fn step(doing: impl Into<String>, source: io::Error) -> Self {
        Self::Step { doing: doing.into(), source }
    }
}

impl fmt::Display for NetnsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPermitted { source, advice } => {
                write!(f, "this process may not create network namespaces ({source}): {advice}")
            }
            Self::Step { doing, source } => write!(f, "cannot {doing}: {source}"),
            Self::Command { line, message } => write!(f, "`{line}` failed: {}", message.trim()),
        }
    }
}

impl error::Error for NetnsError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::NotPermitted { source, .. } | Self::Step { source, .. } => Some(source),
            Self::Command { .. } => None,
        }
    }
}

/// Makes this process able to create network namespaces: as it is when its capabilities allow that, else in a user
/// namespace of its own in which the present user is root. Call it at the start of `main`: the kernel lets a process
/// enter a user namespace only while it has a single thread.
///
/// # Errors
/// [`NetnsError::NotPermitted`] when neither way is open.
pub fn prepare() -> Result<(), NetnsError> {
    if !has_capabilities() {
        enter_user_namespace()?;
    }
    Namespace::new().map(drop).map_err(|error| match error {
        NetnsError::Step { source, .. } => NetnsError::NotPermitted { source, advice: advice() },
        other => other,
    })
}

const CAP_NET_ADMIN: u64 = 1 << 12;
const CAP_NET_RAW: u64 = 1 << 13;
const CAP_SYS_ADMIN: u64 = 1 << 21;

fn has_capabilities() -> bool {
    let needed = CAP_NET_ADMIN | CAP_NET_RAW | CAP_SYS_ADMIN;
    let Ok(status) = fs::read_to_string("/proc/self/status") else { return false };
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).is_some_and(|caps| caps & needed == needed)
}

fn enter_user_namespace() -> Result<(), NetnsError> {
    // SAFETY: these take nothing and cannot fail.
    let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
    // SAFETY: changes the credentials of this process only; no memory is involved.
    if unsafe { libc::unshare(libc::CLONE_NEWUSER) } != 0 {
        let source = io::Error::last_os_error();
        let advice = if source.raw_os_error() == Some(libc::EINVAL) {
            "the process has more than one thread already"
        } else {
            advice()
        };
        return Err(NetnsError::NotPermitted { source, advice });
    }
    // Without this the kernel refuses gid_map from an ordinary user (user_namespaces(7)).
    for (file, text) in
        [("setgroups", "deny".to_owned()), ("uid_map", format!("0 {uid} 1")), ("gid_map", format!("0 {gid} 1"))]
    {
        fs::write(format!("/proc/self/{file}"), text)
            .map_err(|source| NetnsError::NotPermitted { source, advice: advice() })?;
    }
    Ok(())
}

fn advice() -> &'static str {
    let sysctl = |path: &str| fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<u64>().ok());
    if sysctl("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == Some(1) {
        "run as root, or allow user namespaces: sysctl kernel.apparmor_restrict_unprivileged_userns=0"
    } else if sysctl("/proc/sys/kernel/unprivileged_userns_clone") == Some(0) {
        "run as root, or allow user namespaces: sysctl kernel.unprivileged_userns_clone=1"
    } else if sysctl("/proc/sys/user/max_user_namespaces") == Some(0) {
        "run as root, or allow user namespaces: sysctl user.max_user_namespaces=1000"
    } else {
        "run as root; in a container, start it with --privileged (or --cap-add SYS_ADMIN --cap-add NET_ADMIN)"
    }
}

/// A network namespace without a name. It is gone when this is dropped and nothing runs in it any more.
#[derive(Debug)]
pub struct Namespace {
    fd: OwnedFd,
}

impl Namespace {
    /// A new, empty namespace; its loopback device is down.
    ///
    /// # Errors
    /// When the kernel refuses, see [`prepare`].
    pub fn new() -> Result<Self, NetnsError> {
        let made = thread::scope(|scope| {
            let made = scope.spawn(|| {
                // SAFETY: moves this short-lived thread alone; no memory is involved.
                if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
                    return Err(io::Error::last_os_error());
                }
                File::open("/proc/thread-self/ns/net")
            });
            made.join().unwrap_or_else(|_| Err(io::Error::other("the thread that creates it panicked")))
        });
        let fd = made.map_err(|source| NetnsError::step("create a network namespace", source))?.into();
        Ok(Self { fd })
    }

    /// Moves the calling thread into this namespace, for good. Sockets that it opens from now on belong there.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn enter(&self) -> io::Result<()> {
        // SAFETY: the descriptor is open for as long as `self` lives; no memory is involved.
        match unsafe { libc::setns(self.fd.as_raw_fd(), libc::CLONE_NEWNET) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// The same namespace, for a thread of its own.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn share(&self) -> io::Result<Self> {
        Ok(Self { fd: self.fd.try_clone()? })
    }

    /// Runs `work` in this namespace, on a thread of its own, and waits for it.
    ///
    /// # Errors
    /// When the thread cannot enter the namespace.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        thread::scope(|scope| {
            let thread = scope.spawn(|| self.enter().map(|()| work()));
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// A command that will run in this namespace, with no standard input, in a process group of its own (so that a
    /// Ctrl-C at the terminal reaches only us, and we stop it in our own order), and that the kernel kills when the
    /// thread that spawns it ends: spawn from a thread that lives as long as the program should.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        use std::os::unix::process::CommandExt;
        let mut command = Command::new(program);
        command.stdin(std::process::Stdio::null()).process_group(0).env("PATH", search_path());
        let fd = self.fd.as_raw_fd();
        let parent = std::process::id();
        // SAFETY: between fork and exec only async-signal-safe system calls are made, on values copied above. The
        // descriptor is inherited by the fork; should the namespace have been dropped before the spawn, setns fails.
        unsafe {
            command.pre_exec(move || {
                if libc::setns(fd, libc::CLONE_NEWNET) != 0 || libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                    return Err(io::Error::last_os_error());
                }
                // The parent may have died before the line above.
                if libc::getppid() as u32 != parent {
                    libc::_exit(1);
                }
                Ok(())
            });
        }
        command
    }

    /// Runs a command to its end and returns what it printed.
    ///
    /// # Errors
    /// [`NetnsError::Command`] with what it wrote to its standard error, when it fails.
    pub fn output(&self, program: &str, arguments: &[&str]) -> Result<String, NetnsError> {
        let line = || format!("{program} {}", arguments.join(" "));
        let output = self
            .command(program)
            .args(arguments)
            .output()
            .map_err(|source| NetnsError::step(format!("run `{}`", line()), source))?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(NetnsError::Command { line: line(), message: String::from_utf8_lossy(&output.stderr).into_owned() })
        }
    }

    /// Sets a kernel parameter of this namespace, such as `net/ipv4/ip_forward`. One that already has the value is not
    /// written: in many containers `/proc/sys` is read-only.
    ///
    /// # Errors
    /// When it has another value and cannot be written.
    pub fn set_sysctl(&self, name: &str, value: &str) -> Result<(), NetnsError> {
        let path = format!("/proc/sys/{name}");
        // /proc/sys/net shows the namespace of the thread that opens it.
        self.run(|| match fs::read_to_string(&path) {
            Ok(present) if present.split_whitespace().eq(value.split_whitespace()) => Ok(()),
            Ok(_) => fs::write(&path, value),
            Err(error) => Err(error),
        })
        .and_then(|result| result)
        .map_err(|source| NetnsError::step(format!("set {path} to {value}"), source))
    }

    /// A path that names this namespace for other programs while this process lives.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.fd.as_raw_fd())
    }
}

/// The `PATH` of commands: an ordinary user's may leave out where `ip`, `iptables` and servers are.
pub(crate) fn search_path() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{path}:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin")
}

/// Whether commands will find this program.
pub fn has_program(name: &str) -> bool {
    search_path().split(':').any(|folder| !folder.is_empty() && std::path::Path::new(folder).join(name).is_file())
}

/// Raises the number of descriptors that this process and its children may open to the hard limit, and returns it.
pub fn raise_open_file_limit() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls take a pointer to a live, properly typed local.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 && limit.rlim_cur < limit.rlim_max {
            let raised = libc::rlimit { rlim_cur: limit.rlim_max, ..limit };
            if libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) == 0 {
                limit = raised;
            }
        }
    }
    limit.rlim_cur
}

/// Asks `probe` again and again until it has an answer or `patience` is used up.
pub fn wait_for<T>(patience: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let end = std::time::Instant::now() + patience;
    loop {
        if let Some(answer) = probe() {
            return Some(answer);
        }
        if std::time::Instant::now() >= end {
            return None;
        }
        thread::sleep(Duration::from_millis(10));
    }
}
