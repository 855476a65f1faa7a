//! What the process takes of the machine.

use std::fs;
use std::io;
use std::time::Duration;

use super::rusage;

/// What the process takes of the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Memory that is in use now (resident set), in bytes: capture buffers included.
    pub memory: u64,
    /// CPU time of all threads so far, that of the system on their behalf included.
    pub cpu: Duration,
}

impl Usage {
    /// As it is now (proc_pid_status(5), getrusage(2)).
    ///
    /// # Errors
    /// When the system does not say: /proc is not mounted.
    pub fn now() -> io::Result<Self> {
        let status = fs::read_to_string("/proc/self/status")?;
        let memory = resident(&status).ok_or_else(|| io::Error::other("no VmRSS in /proc/self/status"))?;
        Ok(Self { memory, cpu: rusage()? })
    }
}

/// `VmRSS:     1234 kB`, in bytes.
fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_resident_set_is_read_from_its_line() {
        assert_eq!(resident("VmPeak:\t 9 kB\nVmRSS:\t    2048 kB\nThreads:\t1\n"), Some(2 << 20));
        assert_eq!(resident("VmPeak:\t 9 kB\n"), None);
    }

    #[test]
    fn what_is_taken_is_counted() {
        let before = Usage::now().unwrap();
        let memory = vec![1_u8; 64 << 20];
        let read = || memory.iter().map(|byte| u64::from(*byte)).sum::<u64>();
        while read() > 0 && Usage::now().unwrap().cpu < before.cpu + Duration::from_millis(20) {}
        // Other tests free theirs in the meantime; these bytes have been read, and are there.
        let after = Usage::now().unwrap();
        assert!(after.memory >= memory.len() as u64, "{after:?}");
    }
}
