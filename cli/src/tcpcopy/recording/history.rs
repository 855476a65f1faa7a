//! A run as it was sampled: its totals, and its course in a bounded number of points.

use super::sample::{Begin, Counts, End, InterceptLine, ModuleCount, ReplayLine, Sample};
use super::times::Times;

/// Points at most; then neighbours become one.
pub const MAX_POINTS: usize = 3_600;
/// No count is taken for larger, whatever a file says: up to here sums and shares of counts are sure to be numbers.
const MAX_COUNT: u64 = 1 << 50;

/// A point of a run's course.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Point {
    /// Seconds from the beginning of the run to the end of this while.
    pub at: f64,
    /// How long it was, in seconds.
    pub seconds: f64,
    /// Requests and datagrams captured.
    pub captured: u64,
    /// Requests let through to the target, and datagrams sent.
    pub copied: u64,
    /// Requests and datagrams that the target answered.
    pub answered: u64,
    /// Clients' bytes captured.
    pub bytes_captured: u64,
    /// Bytes that the target has.
    pub bytes_copied: u64,
    /// Sessions begun.
    pub sessions_begun: u64,
    /// Sessions that ended early.
    pub sessions_failed: u64,
    /// Most sessions, and UDP clients, that were alive at the ends of samples.
    pub alive: u64,
    /// Segments sent again.
    pub retransmits: u64,
    /// Packets that the kernel had no room for.
    pub lost: u64,
    /// From capture until let through.
    pub lag: Times,
    /// The target's time to begin its answers.
    pub target: Times,
    /// Online's.
    pub online: Times,
}

impl Point {
    fn of(sample: &Sample) -> Self {
        let n = |name: &str| sample.counted.get(name).copied().unwrap_or(0).min(MAX_COUNT);
        let now = |name: &str| sample.now.get(name).copied().unwrap_or(0).min(MAX_COUNT);
        let mut target = sample.response_time.clone();
        target.merge(&sample.udp_response_time);
        Self {
            at: sample.at,
            seconds: sample.seconds,
            captured: n("requests") + n("udp_datagrams"),
            copied: n("requests_copied") + n("udp_sent"),
            answered: sample.response_time.count() + n("udp_answered"),
            bytes_captured: n("bytes_captured"),
            bytes_copied: n("bytes_copied"),
            sessions_begun: n("sessions_seen") + n("udp_flows"),
            sessions_failed: sample
                .sessions_ended_early
                .values()
                .fold(0, |sum, n| u64::min(sum + n.min(&MAX_COUNT), MAX_COUNT)),
            alive: now("sessions_alive") + now("udp_flows_alive"),
            retransmits: n("retransmits"),
            lost: n("capture_dropped") + n("capture_dropped_by_device"),
            lag: sample.lag.clone(),
            target,
            online: sample.online_response_time.clone(),
        }
    }

    fn merge(&mut self, later: &Self) {
        self.at = later.at;
        self.seconds += later.seconds;
        self.captured = self.captured.saturating_add(later.captured);
        self.copied = self.copied.saturating_add(later.copied);
        self.answered = self.answered.saturating_add(later.answered);
        self.bytes_captured = self.bytes_captured.saturating_add(later.bytes_captured);
        self.bytes_copied = self.bytes_copied.saturating_add(later.bytes_copied);
        self.sessions_begun = self.sessions_begun.saturating_add(later.sessions_begun);
        self.sessions_failed = self.sessions_failed.saturating_add(later.sessions_failed);
        self.alive = self.alive.max(later.alive);
        self.retransmits = self.retransmits.saturating_add(later.retransmits);
        self.lost = self.lost.saturating_add(later.lost);
        self.lag.merge(&later.lag);
        self.target.merge(&later.target);
        self.online.merge(&later.online);
    }
}

/// Joins neighbours, so many at a time.
fn joined(points: &[Point], together: usize) -> Vec<Point> {
    let join = |group: &[Point]| {
        let mut all = group[0].clone();
        group[1..].iter().for_each(|later| all.merge(later));
        all
    };
    points.chunks(together).map(join).collect()
}

/// The sums of all samples, and the last state.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Totals {
    /// The length of the run, in seconds.
    pub seconds: f64,
    /// See [`Sample::counted`]. So with the fields of the same names that follow.
    pub counted: Counts,
    /// See [`Sample`].
    pub now: Counts,
    /// See [`Sample`].
    pub packets_dropped: Counts,
    /// See [`Sample`].
    pub bytes_dropped: Counts,
    /// See [`Sample`].
    pub sessions_ended_early: Counts,
    /// See [`Sample`].
    pub packets_not_sent: Counts,
    /// See [`Sample`].
    pub lag: Times,
    /// The target's time to begin its answers, to requests and to datagrams.
    pub target: Times,
    /// Online's.
    pub online: Times,
    /// See [`Sample`].
    pub modules: Vec<ModuleCount>,
    /// See [`Sample`].
    pub intercepts: Vec<InterceptLine>,
    /// See [`Sample`].
    pub replay: Option<ReplayLine>,
}

impl Totals {
    /// A counter.
    pub fn count(&self, name: &str) -> u64 {
        self.counted.get(name).copied().unwrap_or(0)
    }

    /// What there was at the end.
    pub fn last(&self, name: &str) -> u64 {
        self.now.get(name).copied().unwrap_or(0).min(MAX_COUNT)
    }

    fn add(&mut self, sample: &Sample) {
        self.seconds = self.seconds.max(sample.at);
        for (own, more) in [
            (&mut self.counted, &sample.counted),
            (&mut self.packets_dropped, &sample.packets_dropped),
            (&mut self.bytes_dropped, &sample.bytes_dropped),
            (&mut self.sessions_ended_early, &sample.sessions_ended_early),
            (&mut self.packets_not_sent, &sample.packets_not_sent),
        ] {
            for (name, count) in more {
                let sum = own.entry(name.clone()).or_default();
                *sum = sum.saturating_add(*count).min(MAX_COUNT);
            }
        }
        self.now.clone_from(&sample.now);
        self.lag.merge(&sample.lag);
        self.target.merge(&sample.response_time);
        self.target.merge(&sample.udp_response_time);
        self.online.merge(&sample.online_response_time);
        for more in &sample.modules {
            match self.modules.iter_mut().find(|own| own.module == more.module && own.name == more.name) {
                None => self.modules.push(more.clone()),
                Some(own) => {
                    own.count = own.count.saturating_add(more.count);
                    own.bytes = own.bytes.saturating_add(more.bytes);
                }
            }
        }
        // An intercept that cannot be asked any more has said what it said.
        for latest in &sample.intercepts {
            match self.intercepts.iter_mut().find(|own| own.address == latest.address) {
                None => self.intercepts.push(latest.clone()),
                Some(own) => own.clone_from(latest),
            }
        }
        if sample.replay.is_some() {
            self.replay.clone_from(&sample.replay);
        }
    }
}

/// See the [module's documentation](self).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// How it began.
    pub begin: Begin,
    /// How it ended, if that is known.
    pub end: Option<End>,
    /// All together.
    pub totals: Totals,
    points: Vec<Point>,
}

impl History {
    /// One without samples.
    pub fn new(begin: Begin) -> Self {
        Self { begin, ..Self::default() }
    }

    /// Adds a sample. Tells whether the points have become coarser: then samples twice as long are enough.
    pub fn add(&mut self, sample: &Sample) -> bool {
        self.totals.add(sample);
        let point = Point::of(sample);
        match self.points.last_mut() {
            // In a small part of a while, as the last one is, there is too little to make a rate of.
            Some(last) if point.seconds < last.seconds / 2.0 => last.merge(&point),
            _ => self.points.push(point),
        }
        let is_full = self.points.len() >= MAX_POINTS;
        if is_full {
            self.points = joined(&self.points, 2);
        }
        is_full
    }

    /// The course of the run, in points of about the same length, so many or less.
    pub fn course(&self, points: usize) -> Vec<Point> {
        if self.points.len() <= points {
            return self.points.clone();
        }
        let all: f64 = self.points.iter().map(|point| point.seconds).sum();
        let each = all / points.max(1) as f64;
        let mut course: Vec<Point> = Vec::with_capacity(points);
        let mut passed = 0.0;
        for point in &self.points {
            // One that has become too long leaves less to the next, so that there are never more than wanted.
            let due = each * course.len() as f64;
            let is_last = course.len() >= points;
            match course.last_mut() {
                Some(last) if is_last || passed + point.seconds / 2.0 < due => last.merge(point),
                _ => course.push(point.clone()),
            }
            passed += point.seconds;
        }
        course
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(i: u64) -> Sample {
        Sample {
            at: (i + 1) as f64,
            seconds: 1.0,
            counted: [("requests".into(), i)].into(),
            now: [("sessions_alive".into(), i % 100)].into(),
            lag: Times { sum_us: 8 * i, counts: vec![(8, i)] },
            ..Sample::default()
        }
    }

    #[test]
    fn a_long_run_keeps_its_sums_in_a_bounded_number_of_points() {
        let mut history = History::new(Begin::default());
        let mut coarser = 0;
        let samples = 20_000;
        for i in 0..samples {
            coarser += u32::from(history.add(&sample(i)));
            assert!(history.points.len() <= MAX_POINTS);
        }
        assert!(coarser >= 3, "{coarser}");
        let all = samples * (samples - 1) / 2;
        for points in [MAX_POINTS, 200, 1] {
            let course = history.course(points);
            assert!(course.len() <= points);
            assert_eq!(course.iter().map(|point| point.captured).sum::<u64>(), all);
            assert_eq!(course.iter().map(|point| point.lag.count()).sum::<u64>(), all);
            let seconds: f64 = course.iter().map(|point| point.seconds).sum();
            assert!((seconds - samples as f64).abs() < 0.5, "{seconds}");
        }
        assert_eq!(history.course(1)[0].alive, 99);
        assert_eq!((history.totals.count("requests"), history.totals.last("sessions_alive")), (all, 99));
    }

    #[test]
    fn a_short_rest_at_the_end_is_no_point_of_its_own() {
        let mut history = History::new(Begin::default());
        history.add(&sample(5));
        history.add(&Sample { at: 1.1, seconds: 0.1, ..sample(3) });
        let course = history.course(10);
        assert_eq!((course.len(), course[0].captured), (1, 8));
        assert!(History::default().course(10).is_empty());
    }
}
