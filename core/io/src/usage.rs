//! What this process and this host use: processor time, memory, load.
#![allow(unsafe_code)]

use std::fs;
use std::time::Duration;

/// Processor time that this process has used since its start, all its threads together, in its own code and in the kernel.
pub fn process_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes a time into a time. Every Linux has this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Memory of this process that is in use now (resident set), in bytes; 0 where `/proc` does not tell.
pub fn resident_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    memory_field(&status, "VmRSS:").unwrap_or(0)
}

/// A size in one of `/proc`'s tables of memory, `VmRSS:     2048 kB`, in bytes.
pub(crate) fn memory_field(table: &str, name: &str) -> Option<u64> {
    let text = table.lines().find_map(|line| line.strip_prefix(name))?;
    Some(text.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// Time of all processors of the host together, in ticks since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostTime {
    /// Time in which they worked, for whomever.
    pub busy: u64,
    /// All time.
    pub total: u64,
}

/// What the host's processors have done so far; zeros where `/proc` does not tell.
pub fn host_time() -> HostTime {
    host(&fs::read_to_string("/proc/stat").unwrap_or_default()).unwrap_or_default()
}

/// proc_stat(5): user, nice, system, idle, iowait, irq, softirq, steal; guest time is within user time.
fn host(stat: &str) -> Option<HostTime> {
    let ticks: Vec<u64> =
        stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace().take(8).map_while(|n| n.parse().ok()).collect();
    let total: u64 = ticks.iter().sum();
    let idle = ticks.get(3)? + ticks.get(4).copied().unwrap_or(0);
    Some(HostTime { busy: total - idle, total })
}

/// The host's load of the last minute: processes that run or wait to. 0 where `/proc` does not tell.
pub fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().and_then(|load| load.parse().ok()).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_and_memory_grow_by_what_is_used() {
        let before = process_time();
        let until = before + Duration::from_millis(30);
        let mut sum = 0u64;
        while process_time() < until {
            sum = sum.wrapping_mul(31).wrapping_add(1);
        }
        assert!(std::hint::black_box(sum) > 0 && process_time() >= until);
        assert!(resident_bytes() > 100 << 10);
        let now = host_time();
        assert!(now.busy > 0 && now.total > now.busy, "{now:?}");
        assert!(load() >= 0.0);
    }

    #[test]
    fn the_kernels_tables_are_read() {
        let stat = "cpu  100 20 30 1000 50 5 6 7 90 0\ncpu0 1 2 3 4\n";
        assert_eq!(host(stat), Some(HostTime { busy: 168, total: 1218 }));
        assert_eq!(host("cpu  1 2\n"), None);
        assert_eq!(memory_field("Name:\tx\nVmRSS:\t    2048 kB\n", "VmRSS:"), Some(2 << 20));
        assert_eq!(memory_field("VmRSS: none", "VmRSS:"), None);
    }
}
