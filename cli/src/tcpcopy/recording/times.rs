//! How long things took, in the form of the statistics file: only the buckets in which there is something.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tcpcopy_engine::latency::Latency;

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
        let mut old = before.counts().peekable();
        let mut counts = Vec::new();
        for (end, count) in now.counts() {
            let known = old.next_if(|(known, _)| *known == end).map_or(0, |(_, count)| count);
            if count > known {
                counts.push((end, count - known));
            }
        }
        let sum = now.total().saturating_sub(before.total());
        Self { sum_us: u64::try_from(sum.as_micros()).unwrap_or(u64::MAX), counts }
    }

    /// Whether there are none. For serde, too.
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        // No more than is sure to be a number in sums and shares, whatever a file says.
        self.counts.iter().fold(0u64, |sum, (_, n)| sum.saturating_add(*n).min(1 << 50))
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
        let count = self.count();
        let rank = ((count as f64 * share).ceil() as u64).clamp(1, count.max(1));
        let mut seen = 0u64;
        let found = self.counts.iter().find(|(_, n)| {
            seen = seen.saturating_add(*n);
            seen >= rank
        });
        found.map(|(end, _)| Duration::from_micros(*end))
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
