//! How long things took, in the form of the statistics file: only the buckets in which there is something.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tcpcopy_engine::latency::Latency;

use crate::histogram;

/// A sparse histogram of durations, with the buckets of [`Latency`], each about 9 % wide.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Times {
    /// All durations together, in microseconds.
    pub sum_us: u64,
    /// The longest of each bucket, in microseconds, and how many are in it; from short to long.
    pub counts: Vec<(u64, u64)>,
}

impl Times {
    /// What came to a histogram since it was as `before`.
    pub fn between(before: &Latency, now: &Latency) -> Self {
        let old: Vec<(u64, u64)> = histogram::buckets(before).collect();
        let counts = histogram::since(histogram::buckets(now), &old);
        let sum = now.total().saturating_sub(before.total());
        Self { sum_us: u64::try_from(sum.as_micros()).unwrap_or(u64::MAX), counts }
    }

    /// Whether there are none. For serde, too.
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        histogram::count(&self.counts)
    }

    /// Adds all of another histogram.
    pub fn merge(&mut self, other: &Self) {
        self.sum_us = self.sum_us.saturating_add(other.sum_us);
        for &(end, count) in &other.counts {
            match self.counts.binary_search_by_key(&end, |(end, _)| *end) {
                Ok(at) => self.counts[at].1 = self.counts[at].1.saturating_add(count),
                Err(at) => self.counts.insert(at, (end, count)),
            }
        }
    }

    /// The time that `share` (0 to 1) of them did not exceed, to within a bucket; `None` when there are none.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        histogram::quantile(&self.counts, share).map(Duration::from_micros)
    }

    /// The average; `None` when there are none.
    pub fn mean(&self) -> Option<Duration> {
        self.sum_us.checked_div(self.count()).map(Duration::from_micros)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_add_up_to_the_whole() {
        let mut latency = Latency::default();
        let (mut before, mut sum) = (latency.clone(), Times::default());
        for round in 1..=20u64 {
            for i in 0..round * 7 {
                latency.record(Duration::from_micros(i * i * 13));
            }
            sum.merge(&Times::between(&before, &latency));
            before = latency.clone();
        }
        assert_eq!(sum, Times::between(&Latency::default(), &latency));
        assert_eq!(sum.count(), latency.count());
        for share in [0.0, 0.5, 0.99, 1.0] {
            assert_eq!(sum.quantile(share), latency.quantile(share), "{share}");
        }
        assert_eq!(sum.mean().unwrap().as_micros(), latency.total().as_micros() / u128::from(latency.count()));
    }

    #[test]
    fn of_nothing_there_is_nothing_to_say() {
        let none = Times::between(&Latency::default(), &Latency::default());
        assert_eq!((none.is_empty(), none.count(), none.quantile(0.5), none.mean()), (true, 0, None, None));
    }
}
