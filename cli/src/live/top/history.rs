//! What has been seen of a copy: the last two states, of which rates are the difference, and a line of points for each graph.

use std::collections::VecDeque;
use std::time::Instant;

use crate::live::protocol::{Numbers, Status};

/// Points of a graph that are kept: as many as the widest terminal shows.
const POINTS: usize = 512;

/// What there is a graph of.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Point {
    pub(super) captured: f64,
    pub(super) copied: f64,
    pub(super) answered: f64,
    pub(super) sessions: f64,
    pub(super) lag_us: f64,
    pub(super) response_us: f64,
    pub(super) retransmits: f64,
}

/// See the [module's documentation](self).
#[derive(Default)]
pub(in crate::live) struct History {
    before: Option<Status>,
    now: Option<Status>,
    at: Option<Instant>,
    /// Seconds from one to the other.
    seconds: f64,
    points: VecDeque<Point>,
}

impl History {
    /// Another state, as it was then.
    pub(in crate::live) fn add(&mut self, status: Status, at: Instant) {
        self.seconds = self.at.map_or(0.0, |before| at.duration_since(before).as_secs_f64());
        self.before = self.now.replace(status);
        self.at = Some(at);
        if let (Some(now), Some(before)) = (&self.now, &self.before) {
            let rate = |count: fn(&Numbers) -> u64| self.rate(count(&now.total), count(&before.total));
            let recent = |durations: fn(&Numbers) -> &crate::live::durations::Durations| {
                durations(&now.total).since(durations(&before.total)).p99_us.unwrap_or(0) as f64
            };
            let point = Point {
                captured: rate(captured),
                copied: rate(copied),
                answered: rate(answered),
                sessions: sessions(now) as f64,
                lag_us: recent(|numbers| &numbers.lag),
                response_us: recent(response_time),
                retransmits: rate(|numbers| numbers.counter("retransmits")),
            };
            self.points.push_back(point);
            if self.points.len() > POINTS {
                self.points.pop_front();
            }
        }
    }

    /// The latest state.
    pub(in crate::live) fn now(&self) -> Option<&Status> {
        self.now.as_ref()
    }

    /// The one before, which what only counts since then is compared with; the latest itself when there is none.
    pub(super) fn before(&self) -> Option<&Status> {
        self.before.as_ref().or(self.now.as_ref())
    }

    /// How much a second, of a counter that was `before` and is `now`. One that has shrunk begins anew.
    pub(super) fn rate(&self, now: u64, before: u64) -> f64 {
        if self.seconds > 0.0 { now.saturating_sub(before) as f64 / self.seconds } else { 0.0 }
    }

    /// The latest point of the graphs.
    pub(super) fn point(&self) -> Point {
        self.points.back().copied().unwrap_or_default()
    }

    /// The last points of a graph, at most so many.
    pub(super) fn line(&self, points: usize, value: fn(&Point) -> f64) -> Vec<f64> {
        self.points.iter().skip(self.points.len().saturating_sub(points)).map(value).collect()
    }
}

/// Requests over TCP and datagrams.
pub(super) fn captured(numbers: &Numbers) -> u64 {
    numbers.counter("requests") + numbers.counter("udp_datagrams")
}

pub(super) fn copied(numbers: &Numbers) -> u64 {
    numbers.counter("requests_copied") + numbers.counter("udp_sent")
}

pub(super) fn answered(numbers: &Numbers) -> u64 {
    numbers.response_time.count + numbers.counter("udp_answered")
}

/// Sessions, and clients of UDP.
pub(super) fn sessions(status: &Status) -> u64 {
    status.total.counter("sessions_alive") + status.total.counter("udp_flows_alive")
}

/// That of requests; where there are only datagrams, theirs.
pub(super) fn response_time(numbers: &Numbers) -> &crate::live::durations::Durations {
    if numbers.response_time.count == 0 { &numbers.udp_response_time } else { &numbers.response_time }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn status(requests: u64) -> Status {
        let mut status = Status::default();
        status.total.counters = [("requests".to_owned(), requests), ("sessions_alive".to_owned(), 3)].into();
        status
    }

    #[test]
    fn rates_are_what_came_in_the_time_between() {
        let (mut history, start) = (History::default(), Instant::now());
        assert_eq!(history.point(), Point::default());
        history.add(status(1_000), start);
        assert_eq!(history.point(), Point::default(), "what came before the view began is no rate");
        history.add(status(1_300), start + Duration::from_secs(2));
        assert_eq!((history.point().captured, history.point().sessions), (150.0, 3.0));
        history.add(status(5), start + Duration::from_secs(3));
        assert!(history.point().captured <= 0.0, "it began anew");
        assert_eq!(history.line(10, |point| point.captured), [150.0, 0.0]);
        assert_eq!(history.line(1, |point| point.captured), [0.0]);
    }

    #[test]
    fn so_many_points_are_kept_and_no_more() {
        let (mut history, start) = (History::default(), Instant::now());
        for second in 0..2_000 {
            history.add(status(second), start + Duration::from_secs(second));
        }
        assert_eq!(history.line(usize::MAX, |point| point.captured).len(), POINTS);
    }
}
