//! Sparse histograms of durations, as they go over sockets and into files: the longest of each bucket that is not empty, in
//! microseconds, and how many are in it; from short to long. What they say is the same whoever shows it.

use tcpcopy_engine::Latency;

/// More than this is not counted, whatever a file or another process says: numbers up to here are sure to be exact in sums
/// and shares.
const MOST: u64 = 1 << 50;

/// The buckets of a histogram of the engine.
pub(crate) fn buckets(latency: &Latency) -> impl Iterator<Item = (u64, u64)> {
    latency.buckets().map(|(end, count)| (u64::try_from(end.as_micros()).unwrap_or(u64::MAX), count))
}

/// How many durations there are.
pub(crate) fn count(buckets: &[(u64, u64)]) -> u64 {
    buckets.iter().fold(0u64, |sum, (_, n)| sum.saturating_add(*n).min(MOST))
}

/// The time in microseconds that `share` (0 to 1) of them did not exceed, to within a bucket; `None` when there are none.
pub(crate) fn quantile(buckets: &[(u64, u64)], share: f64) -> Option<u64> {
    let count = count(buckets);
    let rank = ((count as f64 * share).ceil() as u64).clamp(1, count.max(1));
    let mut seen = 0u64;
    let found = buckets.iter().find(|(_, n)| {
        seen = seen.saturating_add(*n);
        seen >= rank
    });
    found.map(|(end, _)| *end)
}

/// What came since it was as `before`.
pub(crate) fn since(now: impl Iterator<Item = (u64, u64)>, before: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let known = |end: u64| before.binary_search_by_key(&end, |(end, _)| *end).map_or(0, |at| before[at].1);
    now.map(|(end, n)| (end, n.saturating_sub(known(end)))).filter(|(_, n)| *n > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_of_another_process_harms_nothing() {
        let nonsense = [(u64::MAX, u64::MAX), (0, u64::MAX), (7, 0), (7, 1)];
        assert_eq!(count(&nonsense), MOST);
        assert_eq!(quantile(&nonsense, 1.0), Some(u64::MAX));
        assert_eq!(since(nonsense.into_iter(), &nonsense[1..])[0], (u64::MAX, u64::MAX));
        assert_eq!((count(&[]), quantile(&[], 0.5)), (0, None));
        assert_eq!(quantile(&[(7, 0)], 0.5), None);
    }

    #[test]
    fn what_came_since_is_the_difference_of_each_bucket() {
        let before = [(1, 4), (8, 2), (16, 1)];
        let now = [(1, 4), (2, 3), (8, 5), (16, 1)];
        assert_eq!(since(now.into_iter(), &before), [(2, 3), (8, 3)]);
        assert_eq!(quantile(&now, 0.5), Some(2));
    }
}
