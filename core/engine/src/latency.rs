//! How long things took, in few bytes and mergeable.

use std::time::Duration;

use tcpcopy_wire::Timestamp;

/// Buckets for each doubling of the time.
const PER_OCTAVE: u32 = 8;
/// From 1 microsecond to over an hour.
const BUCKETS: usize = 33 * PER_OCTAVE as usize;

/// A histogram of durations: each bucket is about 9 % wide.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Latency {
    buckets: Box<[u64; BUCKETS]>,
    count: u64,
    /// Of all together; in 64 bits they would come to an end.
    total_nanos: u128,
}

/// A time that was measured, and where it belongs in each histogram.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    bucket: usize,
    nanos: u64,
}

impl Measured {
    /// From one moment to another.
    #[inline]
    pub(crate) fn between(from: Timestamp, to: Timestamp) -> Self {
        Self::of(to.nanos_since(from))
    }

    #[inline]
    fn of(nanos: u64) -> Self {
        Self { bucket: bucket(nanos / 1_000), nanos }
    }
}

impl Default for Latency {
    fn default() -> Self {
        Self { buckets: Box::new([0; BUCKETS]), count: 0, total_nanos: 0 }
    }
}

impl Latency {
    /// Adds one duration.
    pub fn record(&mut self, time: Duration) {
        self.add(Measured::of(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)));
    }

    /// Adds one that was measured.
    #[inline]
    pub(crate) fn add(&mut self, time: Measured) {
        if let Some(count) = self.buckets.get_mut(time.bucket) {
            *count += 1;
        }
        self.count += 1;
        self.total_nanos += u128::from(time.nanos);
    }

    /// All of them together.
    pub fn total(&self) -> Duration {
        const SECOND: u128 = 1_000_000_000;
        let seconds = u64::try_from(self.total_nanos / SECOND).unwrap_or(u64::MAX);
        Duration::new(seconds, (self.total_nanos % SECOND) as u32)
    }

    /// How many lasted as long as this, and longer than the one before, for durations that double from 8 microseconds on.
    pub fn octaves(&self) -> impl Iterator<Item = (Duration, u64)> {
        let octaves = self.buckets.chunks(PER_OCTAVE as usize).zip(0u32..);
        octaves.map(|(buckets, octave)| (Duration::from_micros(8 << octave), buckets.iter().sum()))
    }

    /// Those of the buckets in which there are some: the longest time of each, and how many there are.
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, u64)> {
        let filled = self.buckets.iter().enumerate().filter(|(_, count)| **count > 0);
        filled.map(|(at, count)| (Duration::from_micros(upper_end(at)), *count))
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
        since.total_nanos = self.total_nanos.saturating_sub(earlier.total_nanos);
        since
    }

    /// Adds all of another histogram.
    pub fn merge(&mut self, other: &Self) {
        for (own, others) in self.buckets.iter_mut().zip(other.buckets.iter()) {
            *own += others;
        }
        self.count += other.count;
        self.total_nanos = self.total_nanos.saturating_add(other.total_nanos);
    }
}

/// Up to 8 us each value has a bucket; above, each octave has eight.
#[inline]
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
        let buckets: Vec<(u128, u64)> = latency.buckets().map(|(end, n)| (end.as_micros(), n)).collect();
        assert_eq!(buckets.iter().map(|(_, n)| n).sum::<u64>(), 7);
        assert!(
            buckets[..4].iter().zip([1, 7, 8, 15]).all(|((end, n), micros)| (*end, *n) == (micros, 1)),
            "{buckets:?}"
        );
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
