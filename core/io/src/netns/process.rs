//! A program that runs in a namespace, watched through `/proc`.

use std::fs;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use super::wait_for;
use crate::usage::memory_field;

/// Processor time of a process since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuTime {
    /// In its own code.
    pub user: Duration,
    /// In the kernel on its behalf.
    pub system: Duration,
}

impl CpuTime {
    /// User and system time together.
    pub fn total(self) -> Duration {
        self.user + self.system
    }
}

/// A running program; killed and reaped when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    status: Option<ExitStatus>,
}

impl Process {
    /// Starts `command`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(command: &mut Command) -> io::Result<Self> {
        Ok(Self { child: command.spawn()?, status: None })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The child, to take its pipes.
    pub fn child_mut(&mut self) -> &mut Child {
        &mut self.child
    }

    /// How it ended, if it has.
    pub fn try_wait(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            // An error means that there is no such child any more, which cannot be as only this reaps it.
            self.status = self.child.try_wait().unwrap_or(Some(ExitStatus::from_raw(0)));
        }
        self.status
    }

    /// Waits until it has ended, at most for `patience`.
    pub fn wait(&mut self, patience: Duration) -> Option<ExitStatus> {
        wait_for(patience, || self.try_wait())
    }

    /// Sends it a signal, unless it has ended.
    pub fn signal(&mut self, signal: i32) {
        if self.try_wait().is_none() {
            // SAFETY: the child has not been reaped, so the id is still its own.
            unsafe { libc::kill(self.child.id() as i32, signal) };
        }
    }

    /// Asks it to end with SIGTERM; kills it when it has not ended after `patience`, and returns `None` then.
    pub fn stop(&mut self, patience: Duration) -> Option<ExitStatus> {
        self.signal(libc::SIGTERM);
        let status = self.wait(patience);
        if status.is_none() {
            self.kill();
        }
        status
    }

    /// Kills it and waits until it is gone.
    pub fn kill(&mut self) {
        self.signal(libc::SIGKILL);
        if self.status.is_none() {
            self.status = self.child.wait().ok();
        }
    }

    /// Processor time used so far, all threads together; `None` once it has ended.
    pub fn cpu_time(&self) -> Option<CpuTime> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.id())).ok()?;
        // The name in parentheses may hold anything; fields are counted behind it (proc(5): utime is field 14).
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        // SAFETY: takes a number, returns a number.
        let per_second = u64::try_from(unsafe { libc::sysconf(libc::_SC_CLK_TCK) }).ok()?.max(1);
        let time =
            |field: &&str| field.parse::<u64>().ok().map(|ticks| Duration::from_millis(ticks * 1000 / per_second));
        Some(CpuTime { user: time(fields.get(11)?)?, system: time(fields.get(12)?)? })
    }

    /// Resident memory in bytes; `None` once it has ended.
    pub fn resident(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id())).ok()?;
        memory_field(&status, "VmRSS:")
    }

    /// Whether a TCP socket in its namespace listens on `port`.
    pub fn sees_listener(&self, port: u16) -> bool {
        const LISTEN: &str = "0A";
        self.tcp_sockets(|local, _, state| local == port && state == LISTEN) > 0
    }

    /// Number of established connections from its namespace to `port` elsewhere.
    pub fn connections_to(&self, port: u16) -> usize {
        const ESTABLISHED: &str = "01";
        self.tcp_sockets(|_, remote, state| remote == port && state == ESTABLISHED)
    }

    fn tcp_sockets(&self, wanted: impl Fn(u16, u16, &str) -> bool) -> usize {
        let port = |address: &str| u16::from_str_radix(address.rsplit(':').next()?, 16).ok();
        let matches = |line: &str| {
            let mut fields = line.split_whitespace().skip(1);
            let local = fields.next().and_then(port)?;
            let remote = fields.next().and_then(port)?;
            Some(wanted(local, remote, fields.next()?))
        };
        ["tcp", "tcp6"]
            .iter()
            .filter_map(|file| fs::read_to_string(format!("/proc/{}/net/{file}", self.id())).ok())
            .map(|table| table.lines().skip(1).filter(|line| matches(line) == Some(true)).count())
            .sum()
    }

    /// Number of packet sockets in its namespace: captures that are open.
    pub fn captures(&self) -> usize {
        let table = fs::read_to_string(format!("/proc/{}/net/packet", self.id())).unwrap_or_default();
        table.lines().skip(1).count()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
