//! How long online takes to begin its answers.
//!
//! Measured as the gate measures the target: from the first segment of a request until the first new data in the other
//! direction, and once for what a client sends without waiting. What differs is the place: online is measured where its
//! packets are captured, the target from where its copy is let through to where its answer is heard of.

use std::time::Duration;

use tcpcopy_wire::{SeqNumber, TcpSegment, Timestamp};

/// See the [module's documentation](self). All times are of the capture's clock.
#[derive(Debug)]
pub(crate) struct OnlineTime {
    /// When the request came that online has not begun to answer; [`Timestamp::NEVER`] when there is none.
    asked_at: Timestamp,
    /// How far online's stream has been seen.
    seen: Option<SeqNumber>,
}

/// What a segment of online means for the measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// It has data that were not seen before.
    pub(crate) is_new: bool,
    /// Online begins to answer with it, after so long.
    pub(crate) began_after: Option<Duration>,
}

impl Default for OnlineTime {
    fn default() -> Self {
        Self { asked_at: Timestamp::NEVER, seen: None }
    }
}

impl OnlineTime {
    /// A request began.
    pub(crate) fn on_request(&mut self, at: Timestamp) {
        self.asked_at = self.asked_at.min(at);
    }

    /// A segment of online was captured.
    pub(crate) fn on_segment(&mut self, at: Timestamp, segment: &TcpSegment<'_>) -> Answer {
        self.on_data(at, segment.tcp.seq(), segment.payload_len)
    }

    fn on_data(&mut self, at: Timestamp, seq: SeqNumber, len: u32) -> Answer {
        let end = seq + len;
        // Further ahead than any window reaches (RFC 7323, section 2.3) lies nothing that online could send.
        let is_new = len > 0 && self.seen.is_none_or(|seen| end.is_after(seen) && end.distance_from(seen) <= 1 << 30);
        if !is_new {
            return Answer { is_new, began_after: None };
        }
        self.seen = Some(end);
        let asked_at = std::mem::replace(&mut self.asked_at, Timestamp::NEVER);
        Answer { is_new, began_after: (asked_at != Timestamp::NEVER).then(|| at.since(asked_at)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_millis(ms)
    }

    fn began(time: &mut OnlineTime, ms: u64, seq: u32, len: u32) -> Option<u128> {
        time.on_data(at(ms), SeqNumber(seq), len).began_after.map(|time| time.as_millis())
    }

    #[test]
    fn an_answer_counts_from_its_request_and_once() {
        let mut time = OnlineTime::default();
        assert_eq!(began(&mut time, 1, 100, 50), None, "a greeting answers nothing");
        time.on_request(at(10));
        assert_eq!(began(&mut time, 15, 150, 0), None, "an acknowledgement is no answer");
        assert_eq!(began(&mut time, 30, 150, 1_000), Some(20));
        assert_eq!(began(&mut time, 31, 1_150, 1_000), None, "the answer goes on");
    }

    #[test]
    fn what_was_sent_again_answers_nothing() {
        let mut time = OnlineTime::default();
        time.on_request(at(10));
        assert_eq!(began(&mut time, 12, 0, 1_000), Some(2));
        time.on_request(at(20));
        assert_eq!(began(&mut time, 21, 0, 1_000), None);
        assert_eq!(began(&mut time, 22, 1_000 + (1 << 30), 1), None, "out of every window");
        assert_eq!(began(&mut time, 25, 500, 1_000), Some(5), "its second half is new");
    }

    #[test]
    fn pipelined_requests_count_from_the_first() {
        let mut time = OnlineTime::default();
        time.on_request(at(10));
        time.on_request(at(14));
        assert_eq!(began(&mut time, 20, u32::MAX, 10), Some(10), "sequence numbers wrap");
        assert_eq!(began(&mut time, 21, 9, 10), None);
    }
}
