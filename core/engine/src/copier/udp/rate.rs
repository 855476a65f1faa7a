//! A limit on what is copied in a second.

use std::time::Duration;

use tcpcopy_wire::Timestamp;

use crate::copier::config::Rate;

/// What may come at once after a quiet time: as much as in this time at the limit.
const BURST: Duration = Duration::from_millis(100);

/// A limit that lets short bursts pass: each datagram moves `due` on by the time that it takes at the limit, and passes
/// while `due` is not too far ahead of the clock.
#[derive(Debug)]
pub(super) struct RateLimit {
    rate: Rate,
    due: Timestamp,
}

impl RateLimit {
    pub(super) fn new(rate: Rate) -> Self {
        Self { rate, due: Timestamp::ZERO }
    }

    /// Whether a datagram of so many bytes may pass now.
    pub(super) fn allows(&mut self, now: Timestamp, bytes: usize) -> bool {
        let (amount, per_second) = match self.rate {
            Rate::Datagrams(n) => (1, n),
            Rate::Bytes(n) => (bytes as u64, n),
        };
        let from = self.due.max(now);
        // The first of a burst passes however large it is.
        if from > now + BURST {
            return false;
        }
        self.due = from + Duration::from_nanos((amount * 1_000_000_000).div_ceil(per_second.max(1)));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(rate: Rate, offered_per_ms: u64, bytes: usize) -> u64 {
        let mut limit = RateLimit::new(rate);
        let mut passed = 0;
        for ms in 0..10_000 {
            for _ in 0..offered_per_ms {
                passed += u64::from(limit.allows(Timestamp::from_millis(ms), bytes));
            }
        }
        passed
    }

    #[test]
    fn what_is_above_the_limit_does_not_pass() {
        // Ten seconds and one burst.
        assert!((10_000..=10_110).contains(&passed(Rate::Datagrams(1_000), 5, 100)));
        assert!((10_000..=10_110).contains(&passed(Rate::Bytes(100_000), 5, 100)));
        assert_eq!(passed(Rate::Datagrams(5_000), 2, 100), 20_000);
    }
}
