//! What the main thread looks at the counters for while a copy runs: statistics for the log, the progress of a replay, and
//! whether anything arrives.

use std::time::{Duration, Instant};

use super::diagnosis::{self, Diagnosis};
use super::given;
use super::options::Options;
use super::progress::ProgressDisplay;
use super::report::{self, Snapshot};

/// Counters are fetched at least this often: libpcap's wrap.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// See the [module's documentation](self).
pub(super) struct Looks {
    due: Instant,
    diagnosis: Diagnosis,
    progress: Option<ProgressDisplay>,
    /// Time between statistics in the log.
    interval: Option<Duration>,
    statistics_due: Option<Instant>,
    /// The counters at the last statistics.
    before: Snapshot,
}

impl Looks {
    /// `interval`: time between statistics in the log, if there are to be any.
    pub(super) fn new(options: &Options, interval: Option<Duration>) -> Self {
        let now = Instant::now();
        let is_replay = options.replay.is_some();
        let command = given::doctor_command(std::env::args());
        let mut looks = Self {
            due: now,
            diagnosis: Diagnosis::new(command, is_replay, now),
            progress: is_replay.then(|| ProgressDisplay::new(options.daemon)),
            interval,
            statistics_due: interval.map(|interval| now + interval),
            before: Snapshot::default(),
        };
        looks.due = now + looks.pause();
        looks
    }

    /// When the next look is due.
    pub(super) fn next_due(&self) -> Instant {
        self.due
    }

    /// Takes on another time between statistics, if it is another.
    pub(super) fn set_interval(&mut self, now: Instant, interval: Option<Duration>) {
        if self.interval != interval {
            self.interval = interval;
            self.statistics_due = interval.map(|interval| now + interval);
            self.due = now + self.pause();
        }
    }

    /// These are the counters, at the time of a look. Whether statistics were written.
    pub(super) fn look(&mut self, now: Instant, total: Snapshot) -> bool {
        self.due = now + self.pause();
        if let Some((level, text)) = self.diagnosis.look(now, &total) {
            log::log!(level, "{text}");
        }
        if let (Some(display), Some(replay)) = (&mut self.progress, &total.replay) {
            display.show(replay);
        }
        let (Some(interval), Some(due)) = (self.interval, self.statistics_due.filter(|due| now >= *due)) else {
            return false;
        };
        // A late look (a suspended host) does not make the next ones come in a row.
        self.statistics_due = Some((due + interval).max(now + interval / 2));
        for line in report::statistics(&total) {
            log::info!("{line}");
        }
        for warning in report::warnings(&self.before, &total) {
            log::warn!("{warning}");
        }
        self.before = total;
        true
    }

    /// Time until the next look.
    fn pause(&self) -> Duration {
        let progress = self.progress.as_ref().map(|_| ProgressDisplay::every());
        [self.interval, progress].into_iter().flatten().fold(LONGEST_PAUSE.min(diagnosis::LOOK_EVERY), Duration::min)
    }
}
