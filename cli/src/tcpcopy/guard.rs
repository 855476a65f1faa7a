//! What the main thread looks after while a copy runs: the limit of processor time, the conditions to end, and the service
//! manager's wish to hear that all workers live.

use std::time::{Duration, Instant};

use tcpcopy_engine::{Ledger, Traffic};
use tcpcopy_io::usage;

use super::options::Options;
use super::supervise::Running;
use super::worker::Order;
use crate::protect::cpu::{self, CpuLimit, Throttle};
use crate::protect::service::Service;
use crate::protect::stop_if::{self, Look, Watch};

/// Changes of the share are said no more often than this.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// See the [module's documentation](self).
pub(super) struct Guard {
    pub(super) service: Service,
    cpu: Option<Meter>,
    watch: Option<(Watch, Instant)>,
    began: Instant,
}

/// The limit of processor time, and the last measurement.
struct Meter {
    limit: CpuLimit,
    at: Instant,
    used: Duration,
    /// When the share may be said again.
    say_at: Instant,
    share: u16,
}

impl Guard {
    pub(super) fn new(options: &Options) -> Self {
        let now = Instant::now();
        let cpu = options.cpu_limit.clone().map(|limit| Meter {
            limit,
            at: now,
            used: usage::process_time(),
            say_at: now,
            share: Traffic::WHOLE,
        });
        let conditions = options.stop_if.clone();
        let watch = (!conditions.is_empty()).then(|| (Watch::new(conditions), now));
        Self { service: Service::from_environment(), cpu, watch, began: now }
    }

    /// When there is something to do.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let measure = self.cpu.as_ref().map(|meter| meter.at + cpu::MEASURE_EVERY);
        let look = self.watch.as_ref().map(|(_, at)| *at);
        [measure, look, self.service.alive_at()].into_iter().flatten().min()
    }

    /// Does what is due. Returns why the copy is to end, if it is.
    pub(super) fn on_time(&mut self, running: &mut Running) -> Option<String> {
        let now = Instant::now();
        if let Some(throttle) = self.cpu.as_mut().and_then(|meter| meter.measure(now)) {
            running.order(&Order::Throttle(throttle));
        }
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let (look, alive) = (is_due(self.watch.as_ref().map(|(_, at)| *at)), is_due(self.service.alive_at()));
        if !look && !alive {
            return None;
        }
        let all_answer = running.collect(&Order::Report);
        if alive {
            self.service.alive(now, all_answer);
        }
        let (watch, next) = self.watch.as_mut().filter(|_| look)?;
        *next = now + stop_if::LOOK_EVERY;
        let look = Look {
            at: self.began.elapsed(),
            host: usage::host_time(),
            load: usage::load(),
            memory: usage::resident_bytes(),
            ..Look::default()
        };
        watch.look(look.with_ledger(&running.total().ledger))
    }
}

impl Meter {
    /// Measures, when it is time to; returns what the workers are told, if that is something new.
    fn measure(&mut self, now: Instant) -> Option<Throttle> {
        let passed = now.duration_since(self.at);
        if passed < cpu::MEASURE_EVERY {
            return None;
        }
        let total = usage::process_time();
        let used = total.saturating_sub(self.used).as_secs_f64() / passed.as_secs_f64();
        (self.at, self.used) = (now, total);
        let throttle = self.limit.measured(used)?;
        let (before, percent) = (self.share, f64::from(throttle.share) / f64::from(Traffic::WHOLE) * 100.0);
        self.share = throttle.share;
        let (limit, used) = (&self.limit, used * 100.0);
        if throttle.share == Traffic::WHOLE {
            log::info!(
                "all new connections are copied again: {used:.0} % of a processor is used, the limit is {limit}"
            );
        } else if now >= self.say_at {
            self.say_at = now + SAY_EVERY;
            if throttle.share < before {
                log::warn!(
                    "{used:.0} % of a processor is used, the limit is {limit} (--cpu-limit): {percent:.1} % of new \
                     connections are copied"
                );
            } else if throttle.close_percent > 0 {
                log::warn!(
                    "{used:.0} % of a processor is used, the limit is {limit} (--cpu-limit), though no connection is begun: \
                     of those under way the newest {} % are closed",
                    throttle.close_percent
                );
            } else {
                log::info!("{percent:.1} % of new connections are copied, for --cpu-limit");
            }
        }
        Some(throttle)
    }
}

/// What a copy does, in a line.
pub(super) fn status(ledger: &Ledger) -> String {
    let early: u64 = ledger.sessions_ended.iter().sum();
    format!(
        "copying: {} sessions alive, {} completed, {early} ended early, {} requests copied",
        ledger.sessions_alive, ledger.sessions_completed, ledger.requests_copied
    )
}
