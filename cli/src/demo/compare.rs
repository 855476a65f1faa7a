//! What the online server received against what the target received.

use std::collections::HashMap;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::server::Received;

/// The result of a comparison. A perfect copy has every list empty.
#[derive(Clone, Debug, Default)]
pub struct Comparison {
    /// Number of requests that online received.
    pub online: u64,
    /// Number of requests that the target received.
    pub target: u64,
    /// Requests that never reached the target.
    pub lost: Vec<u64>,
    /// Requests that reached the target with other bytes.
    pub altered: Vec<u64>,
    /// Requests that reached the target more than once.
    pub duplicated: Vec<u64>,
    /// Requests that the target received, but online did not.
    pub invented: Vec<u64>,
    /// Requests that reached the target behind one that online received later on the same connection, or on a connection
    /// together with requests of another one.
    pub out_of_order: Vec<u64>,
    /// Median time from a request's arrival at online to its arrival at the target.
    pub median_lag: Duration,
    /// The time that 99 of 100 requests do not exceed.
    pub p99_lag: Duration,
}

impl Comparison {
    /// Compares requests whose numbers `counted` accepts. Both servers must count time from the same origin.
    pub fn new(online: &[Received], target: &[Received], counted: impl Fn(u64) -> bool) -> Self {
        let mut result = Self::default();
        let mut expected: HashMap<u64, Expected> = HashMap::with_capacity(online.len());
        for received in online {
            let Some(id) = received.id.filter(|&id| counted(id)) else { continue };
            let position = result.online;
            result.online += 1;
            expected.entry(id).or_insert(Expected { received: *received, position, arrivals: 0 });
        }

        // 1 us to an hour, three digits; these bounds are always valid.
        let mut lags = Histogram::<u64>::new_with_bounds(1, 3_600_000_000, 3).unwrap_or_else(|_| unreachable!());
        // For each connection at the target: the connection at online, and the position there of its last request.
        let mut progress: HashMap<u64, (u64, u64)> = HashMap::new();
        for received in target {
            let Some(id) = received.id.filter(|&id| counted(id)) else { continue };
            result.target += 1;
            let Some(expected) = expected.get_mut(&id) else {
                result.invented.push(id);
                continue;
            };
            expected.arrivals += 1;
            if expected.arrivals == 2 {
                result.duplicated.push(id);
            }
            if expected.arrivals > 1 {
                continue;
            }
            if received.fingerprint != expected.received.fingerprint {
                result.altered.push(id);
            }
            let last = progress.entry(received.connection).or_insert((expected.received.connection, expected.position));
            if last.0 != expected.received.connection || last.1 > expected.position {
                result.out_of_order.push(id);
            }
            last.1 = expected.position;
            lags.saturating_record(received.at.saturating_sub(expected.received.at).as_micros() as u64);
        }
        result.lost = expected.iter().filter(|(_, expected)| expected.arrivals == 0).map(|(&id, _)| id).collect();
        result.lost.sort_unstable();
        result.median_lag = Duration::from_micros(lags.value_at_quantile(0.5));
        result.p99_lag = Duration::from_micros(lags.value_at_quantile(0.99));
        result
    }

    /// Whether every request arrived once, unaltered and in order, and nothing else did.
    pub fn is_perfect(&self) -> bool {
        [&self.lost, &self.altered, &self.duplicated, &self.invented, &self.out_of_order]
            .iter()
            .all(|list| list.is_empty())
    }
}

struct Expected {
    received: Received,
    /// Its place among all that online received.
    position: u64,
    arrivals: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(id: u64, connection: u64, millis: u64) -> Received {
        Received { id: Some(id), fingerprint: id * 10, connection, at: Duration::from_millis(millis) }
    }

    #[test]
    fn a_perfect_copy_has_its_lag_measured() {
        let online = [received(1, 0, 10), received(2, 0, 20), received(3, 1, 20)];
        let target = [received(3, 0, 22), received(1, 1, 12), received(2, 1, 22)];
        let result = Comparison::new(&online, &target, |_| true);
        assert!(result.is_perfect(), "{result:?}");
        assert_eq!((result.online, result.target), (3, 3));
        let lag = result.median_lag.as_micros();
        assert!((1_990..=2_010).contains(&lag), "{lag}");
    }

    #[test]
    fn each_fault_is_named() {
        let online =
            [received(1, 0, 10), received(2, 0, 20), received(3, 0, 30), received(4, 1, 40), received(5, 1, 50)];
        let mut changed = received(3, 0, 31);
        changed.fingerprint += 1;
        // 1 is lost, 3 altered, 2 twice and behind 3, 9 invented, 5 on a connection with others.
        let target = [
            changed,
            received(2, 0, 32),
            received(2, 0, 33),
            received(9, 0, 34),
            received(5, 0, 51),
            received(4, 1, 51),
        ];
        let result = Comparison::new(&online, &target, |_| true);
        assert_eq!(result.lost, [1]);
        assert_eq!(result.altered, [3]);
        assert_eq!(result.duplicated, [2]);
        assert_eq!(result.invented, [9]);
        assert_eq!(result.out_of_order, [2, 5]);
        assert!(!result.is_perfect());
    }

    #[test]
    fn what_is_not_counted_is_left_out() {
        let result = Comparison::new(&[received(1, 0, 1), received(100, 0, 2)], &[received(1, 0, 1)], |id| id < 100);
        assert!(result.is_perfect());
        assert_eq!(result.online, 1);
    }
}
