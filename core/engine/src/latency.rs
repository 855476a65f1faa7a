//! How long things took, in few bytes and mergeable.

use std::time::Duration;

/// Buckets for each doubling of the time.
const PER_OCTAVE: u32 = 8;
/// From 1 microsecond to over an hour.
const BUCKETS: usize = 33 * PER_OCTAVE as usize;

/// A histogram of durations: each bucket is about 9 % wide.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Latency {
    buckets: Box<[u64; BUCKETS]>,
    count: u64,
    total: Duration,
}

impl Default for Latency {
    fn default() -> Self {
        Self { buckets: Box::new([0; BUCKETS]), count: 0, total: Duration::ZERO }
    }
}

impl Latency {
    /// Adds one duration.
    #[inline]
    pub fn record(&mut self, time: Duration) {
        self.buckets[bucket(time.as_micros() as u64)] += 1;
        self.count += 1;
        self.total = self.total.saturating_add(time);
    }

    /// All of them together.
    pub fn total(&self) -> Duration {
        self.total
    }

    /// How many lasted as long as this, and longer than the one before, for durations that double from 8 microseconds on.
    pub fn octaves(&self) -> impl Iterator<Item = (Duration, u64)> {
        let octaves = self.buckets.chunks(PER_OCTAVE as usize).zip(0u32..);
        octaves.map(|(buckets, octave)| (Duration::from_micros(8 << octave), buckets.iter().sum()))
    }

    /// The longest of each bucket that is not empty, in microseconds, and how many are in it; from short to long.
    pub fn counts(&self) -> impl Iterator<Item = (u64, u64)> {
        let filled = self.buckets.iter().enumerate().filter(|(_, n)| **n > 0);
        filled.map(|(bucket, n)| (upper_end(bucket), *n))
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The time that `share` (0 to 1) of them did not exceed, to within a bucket; `None` when there are none.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let rank = ((self.count as f64 * share).ceil() as u64).clamp(1, self.count.max(1));
        let mut seen = 0;
        let at = self.buckets.iter().position(|n| {
            seen += n;
            seen >= rank
        })?;
        Some(Duration::from_micros(upper_end(at)))
    }

    /// What has been added since it was like `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut since = self.clone();
        for (own, before) in since.buckets.iter_mut().zip(earlier.buckets.iter()) {
            *own = own.saturating_sub(*before);
        }
        since.count = self.count.saturating_sub(earlier.count);
        since.total = self.total.saturating_sub(earlier.total);
        since
    }

    /// Adds all of another histogram.
    pub fn merge(&mut self, other: &Self) {
        for (own, others) in self.buckets.iter_mut().zip(other.buckets.iter()) {
            *own += others;
        }
        self.count += other.count;
        self.total = self.total.saturating_add(other.total);
    }
}

/// Up to 8 us each value has a bucket; above, each octave has eight.
fn bucket(micros: u64) -> usize {
    let micros = micros.max(1);
    let octave = micros.ilog2();
    if octave < 3 {
        return micros as usize;
    }
    let within = (micros >> (octave - 3)) & 7;
    (((octave - 2) * PER_OCTAVE) as usize + within as usize).min(BUCKETS - 1)
}

/// The largest number of microseconds in a bucket.
fn upper_end(bucket: usize) -> u64 {
    if bucket < PER_OCTAVE as usize {
        return bucket as u64;
    }
    let (octave, within) = (bucket as u32 / PER_OCTAVE + 2, bucket as u64 % u64::from(PER_OCTAVE));
    ((8 + within + 1) << (octave - 3)) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_is_in_a_bucket_of_its_size() {
        let mut micros = 1;
        while micros < 1 << 34 {
            let end = upper_end(bucket(micros));
            assert!(end >= micros && end <= micros + micros / 8, "{micros}: {end}");
            micros += 1 + micros / 17;
        }
    }

    #[test]
    fn each_time_is_in_its_octave() {
        let mut latency = Latency::default();
        for micros in [1, 7, 8, 15, 16, 1_000, 5_000_000] {
            latency.record(Duration::from_micros(micros));
        }
        let filled: Vec<(u128, u64)> =
            latency.octaves().filter(|(_, n)| *n > 0).map(|(bound, n)| (bound.as_micros(), n)).collect();
        assert_eq!(filled, [(8, 2), (16, 2), (32, 1), (1_024, 1), (8_388_608, 1)]);
        assert_eq!(latency.total(), Duration::from_micros(5_001_047));
    }

    #[test]
    fn counts_are_those_of_the_buckets_by_their_ends() {
        let mut latency = Latency::default();
        for micros in [3, 3, 1_000, 70_000_000] {
            latency.record(Duration::from_micros(micros));
        }
        let counts: Vec<(u64, u64)> = latency.counts().collect();
        assert_eq!(counts.iter().map(|(_, n)| *n).collect::<Vec<_>>(), [2, 1, 1]);
        for ((end, _), micros) in counts.iter().zip([3, 1_000, 70_000_000]) {
            assert!((micros..=micros + micros / 8).contains(end), "{micros}: {end}");
        }
    }

    #[test]
    fn quantiles_of_two_halves_are_those_of_the_whole() {
        let (mut a, mut b) = (Latency::default(), Latency::default());
        assert_eq!(a.quantile(0.5), None);
        for ms in 1..=500 {
            a.record(Duration::from_millis(ms));
            b.record(Duration::from_millis(500 + ms));
        }
        let before = a.clone();
        a.merge(&b);
        assert_eq!(a.since(&before), b);
        assert_eq!(a.count(), 1000);
        for (share, ms) in [(0.5, 500), (0.99, 990), (1.0, 1000)] {
            let found = a.quantile(share).unwrap().as_millis() as u64;
            assert!((ms..=ms + ms / 8).contains(&found), "{share}: {found}");
        }
    }
}
