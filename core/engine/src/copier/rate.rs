//! A limit on what is copied in a second.

use std::time::Duration;

use tcpcopy_wire::Timestamp;

use crate::copier::config::Rate;

/// What may come at once after a quiet time: as much as in this time at the limit.
const BURST: Duration = Duration::from_millis(100);

/// A limit that lets short bursts pass: what passes moves `due` on by the time that it takes at the limit, and passes while
/// `due` is not too far ahead of the clock.
#[derive(Debug)]
pub(crate) struct RateLimit {
    rate: Rate,
    due: Timestamp,
}

impl RateLimit {
    pub(crate) fn new(rate: Rate) -> Self {
        Self { rate, due: Timestamp::ZERO }
    }

    /// Whether a datagram of so many bytes may pass now.
    pub(crate) fn allows(&mut self, now: Timestamp, bytes: usize) -> bool {
        // The first of a burst passes however large it is.
        if !self.has_room(now) {
            return false;
        }
        match self.rate {
            Rate::Count(n) => self.spend(now, 1, n),
            Rate::Bytes(n) => self.spend(now, bytes as u64, n),
        }
        true
    }

    /// Whether a connection may begin now. What its bytes use up is told to [`carry`](Self::carry) as they come.
    pub(crate) fn allows_session(&mut self, now: Timestamp) -> bool {
        if !self.has_room(now) {
            return false;
        }
        if let Rate::Count(n) = self.rate {
            self.spend(now, 1, n);
        }
        true
    }

    /// A connection that was allowed has brought so many bytes.
    pub(crate) fn carry(&mut self, now: Timestamp, bytes: u64) {
        if let Rate::Bytes(n) = self.rate {
            self.spend(now, bytes, n);
        }
    }

    fn has_room(&self, now: Timestamp) -> bool {
        self.due <= now + BURST
    }

    fn spend(&mut self, now: Timestamp, amount: u64, per_second: u64) {
        let took = amount.saturating_mul(1_000_000_000).div_ceil(per_second.max(1));
        self.due = self.due.max(now) + Duration::from_nanos(took);
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
        assert!((10_000..=10_110).contains(&passed(Rate::Count(1_000), 5, 100)));
        assert!((10_000..=10_110).contains(&passed(Rate::Bytes(100_000), 5, 100)));
        assert_eq!(passed(Rate::Count(5_000), 2, 100), 20_000);
    }

    #[test]
    fn connections_begin_while_those_before_leave_room() {
        let mut limit = RateLimit::new(Rate::Bytes(1_000));
        assert!(limit.allows_session(Timestamp::ZERO) && limit.allows_session(Timestamp::ZERO));
        // Two seconds' worth.
        limit.carry(Timestamp::ZERO, 2_000);
        assert!(!limit.allows_session(Timestamp::from_millis(1_800)));
        assert!(limit.allows_session(Timestamp::from_millis(1_900)));
    }
}
