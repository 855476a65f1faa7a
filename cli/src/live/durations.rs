//! Durations as they go over the socket: quantiles, and the histogram that they are of.

use serde::{Deserialize, Serialize};
use tcpcopy_engine::Latency;

use crate::histogram;

/// How long things took, in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Durations {
    /// How many there are.
    pub count: u64,
    /// The time that half of them did not exceed; nothing of none.
    pub p50_us: Option<u64>,
    /// The time that 90 of a hundred did not exceed.
    pub p90_us: Option<u64>,
    /// The time that 99 of a hundred did not exceed.
    pub p99_us: Option<u64>,
    /// The time that none exceeded.
    pub max_us: Option<u64>,
    /// The longest time in each bucket that is not empty, and how many are in it.
    pub buckets: Vec<(u64, u64)>,
}

impl From<&Latency> for Durations {
    fn from(latency: &Latency) -> Self {
        Self::of(histogram::buckets(latency).collect())
    }
}

impl Durations {
    fn of(buckets: Vec<(u64, u64)>) -> Self {
        let quantile = |share| histogram::quantile(&buckets, share);
        let (p50_us, p90_us, p99_us, max_us) = (quantile(0.5), quantile(0.9), quantile(0.99), quantile(1.0));
        Self { count: histogram::count(&buckets), p50_us, p90_us, p99_us, max_us, buckets }
    }

    /// What came since `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        Self::of(histogram::since(self.buckets.iter().copied(), &before.buckets))
    }
}

/// A time in microseconds as people read it: `340 us`, `12.5 ms`, `1.2 s`; `-` for none.
pub fn time_in_words(micros: Option<u64>) -> String {
    match micros {
        None => "-".to_owned(),
        Some(us @ 0..1_000) => format!("{us} us"),
        Some(us @ 1_000..1_000_000) => format!("{:.1} ms", us as f64 / 1e3),
        Some(us) => format!("{:.1} s", us as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_came_since_is_what_a_histogram_of_its_own_would_say() {
        let (mut all, mut second) = (Latency::default(), Latency::default());
        for ms in 1..=100 {
            all.record(Duration::from_millis(ms));
        }
        let before = Durations::from(&all);
        assert_eq!(before.count, 100);
        assert_eq!(before.p50_us, all.quantile(0.5).map(|time| time.as_micros() as u64));
        assert_eq!(before.since(&before), Durations::default());
        for ms in 500..=600 {
            all.record(Duration::from_millis(ms));
            second.record(Duration::from_millis(ms));
        }
        assert_eq!(Durations::from(&all).since(&before), Durations::from(&second));
    }

    #[test]
    fn times_are_read_at_a_glance() {
        let words: Vec<String> = [None, Some(340), Some(12_500), Some(1_200_000)].map(time_in_words).into();
        assert_eq!(words, ["-", "340 us", "12.5 ms", "1.2 s"]);
    }
}
