//! One run: a lab, servers, both programs, a load, and what is there after how long.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use tcpcopy::demo::compare::Comparison;
use tcpcopy::demo::copy::Programs;
use tcpcopy_io::netns::Lab;
use tcpcopy_tests::copy::{Copy, PORT, PROBES, Setup};
use tcpcopy_tests::counters::ResetWatch;
use tcpcopy_tests::nginx::Nginx;
use tempfile::TempDir;

/// A lab with nginx on both sides and a copy between them that works.
pub(crate) struct Scene {
    pub(crate) copy: Copy,
    pub(crate) online: Nginx,
    pub(crate) target: Nginx,
    pub(crate) lab: Lab,
    pub(crate) folder: TempDir,
    /// Requests logged before the load.
    before: (u64, u64),
}

/// What a run gave.
pub(crate) struct Measured {
    /// Requests at online.
    pub(crate) online: u64,
    /// Requests at the target, when `within` had passed since the end of the load.
    pub(crate) in_time: u64,
    /// Requests at the target at last.
    pub(crate) at_last: u64,
    /// Processor time a request, in microseconds: tcpcopy and intercept.
    pub(crate) cpu: (f64, f64),
    /// RSTs that clients sent, and RSTs that reached the target.
    pub(crate) resets: (u64, u64),
    /// Everything that either server logged, compared.
    pub(crate) comparison: Comparison,
}

impl Measured {
    /// The share of requests that were copied in time, in percent.
    pub(crate) fn share(&self) -> f64 {
        100.0 * self.in_time as f64 / self.online.max(1) as f64
    }
}

impl Scene {
    pub(crate) fn new(programs: &Programs) -> Self {
        Self::with(programs, |_| {})
    }

    /// With programs whose options `change` has changed.
    pub(crate) fn with(programs: &Programs, change: impl FnOnce(&mut Setup<'_>)) -> Self {
        let folder = TempDir::with_prefix("tcpcopy-bench-").expect("a folder");
        let lab = Lab::new().expect("a lab");
        let online = Nginx::start(&lab.online, folder.path());
        let target = Nginx::start(&lab.target, folder.path());
        let mut setup = Setup { has_time: false, ..Setup::new(programs, folder.path(), &lab) };
        change(&mut setup);
        let mut copy = setup.start(&lab);
        copy.wait_until_copying(&lab, lab.online.ipv4.into(), || target.requests());
        // Probes that were on their way.
        thread::sleep(Duration::from_millis(300));
        let before = (online.requests(), target.requests());
        Self { copy, online, target, lab, folder, before }
    }

    pub(crate) fn server(&self) -> SocketAddr {
        SocketAddr::new(self.lab.online.ipv4.into(), PORT)
    }

    /// Runs `load`, and counts what is at the target `within` its end, and at most `patience` after its end.
    pub(crate) fn measure(self, within: Duration, patience: Duration, load: impl FnOnce(&Self)) -> Measured {
        let client_resets = ResetWatch::from_all(&self.lab.online);
        let copied_resets = ResetWatch::from_replicas(&self.lab.target);
        let cpu = |scene: &Self| {
            [&scene.copy.tcpcopy, &scene.copy.intercept]
                .map(|process| process.cpu_time().expect("a running program").total())
        };
        let before = cpu(&self);
        load(&self);
        let end = Instant::now();
        let copied = || self.target.requests() - self.before.1;
        let online = || self.online.requests() - self.before.0;
        while copied() < online() && end.elapsed() < within {
            thread::sleep(Duration::from_millis(10));
        }
        let in_time = copied();
        while copied() < online() && end.elapsed() < patience {
            thread::sleep(Duration::from_millis(50));
        }
        let at_last = copied();
        let after = cpu(&self);
        let online = online();
        let per_request = |at: usize| after[at].saturating_sub(before[at]).as_secs_f64() * 1e6 / at_last.max(1) as f64;
        let cpu = (per_request(0), per_request(1));
        let resets = (client_resets.count(), copied_resets.count());
        let comparison = Comparison::new(&self.online.received(), &self.target.received(), |id| id < PROBES);
        Measured { online, in_time, at_last, cpu, resets, comparison }
    }
}
