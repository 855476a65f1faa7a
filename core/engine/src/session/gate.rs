//! The gate: when may the client's next request go to the target?
//!
//! A client that waited for a response before it spoke again shows that by its acknowledgement number: it moved since
//! the client's data before. Such data begins a *turn*, and its copy waits until the target has answered the turn before:
//!
//! - until as many bytes have come as online had sent (the distance that the client's ACK moved), or
//! - until a burst of the target ends with PSH on a segment that is not a whole number of MSS long (so it ends what the
//!   server wrote, and is not a slice of more), and nothing else is waiting to be read, or
//! - until the target has sent something in this turn and then been quiet for [`QUIET`] or two round trips (a response
//!   of many segments pauses for one between two flights), with no hole in what it sent, or
//! - until the target has closed.
//!
//! A module that follows the target's responses replaces all of these but the last by an exact rule: it says of each
//! message that it will be answered and, later, that it has been. A turn then waits until as many answers are complete
//! as were expected before it, and for nothing else.
//!
//! Data that the client sent without waiting belongs to the turn of the data before it and is never held. A server that
//! speaks first needs no rule of its own: the client's first data comes after its ACK has moved.

use std::time::Duration;

use tcpcopy_wire::Timestamp;

use super::queue::StreamQueue;
use crate::latency::Measured;
use crate::ledger::Ledger;

/// How long the target must have been quiet, after it began to answer, to count as done.
const QUIET: Duration = Duration::from_millis(10);

/// The gate of one session.
#[derive(Debug)]
pub(crate) struct GateState {
    /// Bytes that the target sent in this turn, in order, FIN counted as one.
    got: u32,
    /// The last data of the target ended a burst.
    push: bool,
    /// The target closed: nothing is held any more.
    open: bool,
    /// The connection was rebuilt: the next turn passes, the one before it will not be answered.
    skip_turn: bool,
    /// The front mark has been counted as held.
    holding: bool,
    /// When the request was let through that the target has not begun to answer; [`Timestamp::NEVER`] when it has.
    asked_at: Timestamp,
    /// When the target last sent data, as far as the quiet time goes; later than now where that is longer.
    last_data: Timestamp,
    /// The module counts responses: nothing but their number lets a turn through.
    counted: bool,
    /// Responses that the module has called complete.
    completed: u32,
    /// When the quiet time ends; [`Timestamp::NEVER`] while nothing waits for it.
    pub(crate) quiet_at: Timestamp,
}

impl GateState {
    pub(crate) fn new() -> Self {
        Self {
            got: 0,
            push: false,
            open: false,
            skip_turn: false,
            holding: false,
            asked_at: Timestamp::NEVER,
            last_data: Timestamp::ZERO,
            counted: false,
            completed: 0,
            quiet_at: Timestamp::NEVER,
        }
    }

    /// The target sent `bytes` new bytes in order; `push` as the module's documentation defines the end of a burst.
    #[inline]
    pub(crate) fn on_target_data(&mut self, now: Timestamp, bytes: u32, push: bool) {
        self.got = self.got.saturating_add(bytes);
        self.push = push;
        self.last_data = now;
    }

    /// How long the target took to begin to answer, if it does so now.
    #[inline]
    pub(crate) fn take_response_time(&mut self, now: Timestamp) -> Option<Measured> {
        let asked_at = std::mem::replace(&mut self.asked_at, Timestamp::NEVER);
        (asked_at != Timestamp::NEVER).then(|| Measured::between(asked_at, now))
    }

    /// The quiet time that has begun lasts so many microseconds if that is longer than [`QUIET`].
    #[inline]
    pub(crate) fn allow_pause(&mut self, micros: u64) {
        self.last_data = self.last_data.after_micros(micros.saturating_sub(QUIET.as_micros() as u64));
    }

    /// Something of the response is missing, so more will come, however long that takes.
    #[inline]
    pub(crate) fn expect_more(&mut self) {
        self.last_data = Timestamp::NEVER;
    }

    /// No more responses will come: nothing is held any more.
    pub(crate) fn open_for_good(&mut self) {
        self.open = true;
    }

    /// The connection to the target is new: the turn that was under way will not be answered, and neither are the
    /// messages up to the `completed`th.
    pub(crate) fn restart(&mut self, completed: u32) {
        *self = Self { skip_turn: !self.counted, counted: self.counted, completed, ..Self::new() };
    }

    /// What was sent since the connection is new will be answered, and that is to be waited for.
    pub(crate) fn await_answer(&mut self) {
        self.skip_turn = false;
    }

    /// From now on the bytes of responses count, and their pauses.
    pub(crate) fn stop_counting(&mut self) {
        self.counted = false;
    }

    /// From now on only the number of complete responses counts.
    pub(crate) fn count_responses(&mut self) {
        self.counted = true;
    }

    /// A response is complete.
    pub(crate) fn complete_response(&mut self) {
        self.completed = self.completed.wrapping_add(1);
    }

    /// Responses that are complete.
    pub(crate) fn completed(&self) -> u32 {
        self.completed
    }

    /// Whether a mark waits for the end of the burst that is being read, so that the session wants to know of it.
    #[inline]
    pub(crate) fn waits_for_drain(&self) -> bool {
        self.holding && self.push && self.got > 0 && !self.counted
    }

    /// Lets through what may go. `drained`: all responses that have arrived have been handled. Returns whether anything
    /// was released.
    #[inline]
    pub(crate) fn poll(&mut self, now: Timestamp, drained: bool, queue: &mut StreamQueue, ledger: &mut Ledger) -> bool {
        let mut released = false;
        self.quiet_at = Timestamp::NEVER;
        while let Some(mark) = queue.first_held() {
            if mark.need > 0 {
                if self.open || self.skip_turn || (!self.counted && self.got >= mark.need) {
                    ledger.gate_by_bytes += u64::from(self.holding);
                } else if self.counted {
                    // Counts wrap, like sequence numbers.
                    if (self.completed.wrapping_sub(mark.responses) as i32) < 0 {
                        self.hold(ledger);
                        return released;
                    }
                    ledger.gate_by_module += u64::from(self.holding);
                } else if self.got > 0 && self.push && (drained || !self.holding) {
                    ledger.gate_by_push += u64::from(self.holding);
                } else if self.got > 0 && now >= self.last_data + QUIET {
                    ledger.gate_by_quiet += u64::from(self.holding);
                } else {
                    self.hold(ledger);
                    if self.got > 0 {
                        self.quiet_at = self.last_data + QUIET;
                    }
                    return released;
                }
                self.skip_turn = false;
                self.got = 0;
                self.push = false;
                self.holding = false;
            }
            if let Some(since) = queue.release() {
                ledger.requests_copied += 1;
                ledger.lag.add(Measured::between(since, now));
                self.asked_at = self.asked_at.min(now);
            }
            released = true;
        }
        released
    }

    fn hold(&mut self, ledger: &mut Ledger) {
        if !self.holding {
            self.holding = true;
            ledger.gate_held += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::queue::{Mark, MarkKind};
    use super::*;

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_millis(ms)
    }

    /// A queue with one segment for each needed number of response bytes.
    fn queue(needs: &[u32]) -> StreamQueue {
        let mut queue = StreamQueue::default();
        for &need in needs {
            queue.push_data(b"request", Mark { need, push: true, ..Mark::default() });
        }
        queue
    }

    fn released(queue: &mut StreamQueue) -> usize {
        let mut n = 0;
        while let Some(mark) = queue.next_released() {
            queue.mark_sent(mark.len);
            n += 1;
        }
        n
    }

    #[test]
    fn a_client_that_does_not_wait_is_not_held() {
        let (mut gate, mut ledger, mut queue) = (GateState::new(), Ledger::default(), queue(&[0, 0, 0]));
        assert!(gate.poll(at(0), false, &mut queue, &mut ledger));
        assert_eq!(released(&mut queue), 3);
        assert_eq!(ledger.gate_held, 0);
    }

    #[test]
    fn a_turn_is_held_until_as_much_has_come_as_online_sent() {
        let (mut gate, mut ledger, mut queue) = (GateState::new(), Ledger::default(), queue(&[0, 100, 0]));
        gate.poll(at(0), false, &mut queue, &mut ledger);
        assert_eq!(released(&mut queue), 1);
        gate.on_target_data(at(1), 60, false);
        assert!(!gate.poll(at(1), true, &mut queue, &mut ledger));
        gate.on_target_data(at(2), 40, false);
        assert!(gate.poll(at(2), false, &mut queue, &mut ledger));
        // The third was pipelined behind the second.
        assert_eq!(released(&mut queue), 2);
        assert_eq!((ledger.gate_held, ledger.gate_by_bytes), (1, 1));
    }

    #[test]
    fn a_shorter_answer_counts_when_its_burst_has_ended() {
        let (mut gate, mut ledger, mut queue) = (GateState::new(), Ledger::default(), queue(&[100]));
        gate.poll(at(0), true, &mut queue, &mut ledger);
        gate.on_target_data(at(1), 60, true);
        assert!(gate.waits_for_drain());
        assert!(!gate.poll(at(1), false, &mut queue, &mut ledger), "more may be waiting to be read");
        assert!(gate.poll(at(1), true, &mut queue, &mut ledger));
        assert_eq!(ledger.gate_by_push, 1);
    }

    #[test]
    fn a_shorter_answer_without_push_counts_after_a_quiet_time() {
        let (mut gate, mut ledger, mut queue) = (GateState::new(), Ledger::default(), queue(&[100]));
        gate.poll(at(0), true, &mut queue, &mut ledger);
        assert_eq!(gate.quiet_at, Timestamp::NEVER, "a target that has not begun to answer is waited for");
        gate.on_target_data(at(5), 60, false);
        assert!(!gate.poll(at(5), true, &mut queue, &mut ledger));
        assert_eq!(gate.quiet_at, at(5) + QUIET);
        assert!(gate.poll(at(5) + QUIET, true, &mut queue, &mut ledger));
        assert_eq!(ledger.gate_by_quiet, 1);
    }

    #[test]
    fn each_turn_needs_an_answer_of_its_own() {
        let (mut gate, mut ledger, mut queue) = (GateState::new(), Ledger::default(), queue(&[0, 10, 10]));
        gate.poll(at(0), false, &mut queue, &mut ledger);
        gate.on_target_data(at(1), 25, false);
        gate.poll(at(1), true, &mut queue, &mut ledger);
        assert_eq!(released(&mut queue), 2, "what was left over of a longer answer is not the next one");
        gate.on_target_data(at(2), 10, false);
        gate.poll(at(2), true, &mut queue, &mut ledger);
        assert_eq!(released(&mut queue), 1);
    }

    #[test]
    fn the_clients_close_waits_like_its_data() {
        let (mut gate, mut ledger, mut queue) = (GateState::new(), Ledger::default(), queue(&[0]));
        queue.push_end(MarkKind::Fin, 11, 0);
        gate.poll(at(0), true, &mut queue, &mut ledger);
        assert_eq!(released(&mut queue), 1);
        gate.on_target_data(at(1), 11, false);
        gate.poll(at(1), false, &mut queue, &mut ledger);
        assert_eq!(queue.next_released().map(|m| m.kind), Some(MarkKind::Fin));
    }

    #[test]
    fn nothing_is_held_for_a_target_that_has_closed() {
        let (mut gate, mut ledger, mut queue) = (GateState::new(), Ledger::default(), queue(&[100, 100]));
        gate.open_for_good();
        gate.poll(at(0), false, &mut queue, &mut ledger);
        assert_eq!(released(&mut queue), 2);
    }

    #[test]
    fn a_rebuilt_connection_owes_no_answer_to_the_turn_before() {
        let (mut gate, mut ledger, mut queue) = (GateState::new(), Ledger::default(), queue(&[100, 100]));
        gate.restart(0);
        gate.poll(at(0), true, &mut queue, &mut ledger);
        assert_eq!(released(&mut queue), 1);
    }

    /// A queue with one segment for each pair of needed bytes and expected responses.
    fn counted_queue(turns: &[(u32, u32)]) -> StreamQueue {
        let mut queue = StreamQueue::default();
        for &(need, responses) in turns {
            queue.push_data(b"request", Mark { need, responses, push: true, ..Mark::default() });
        }
        queue
    }

    #[test]
    fn where_responses_are_counted_only_their_number_opens() {
        let mut queue = counted_queue(&[(0, 0), (0, 1), (100, 2), (100, 3)]);
        let (mut gate, mut ledger) = (GateState::new(), Ledger::default());
        gate.count_responses();
        gate.poll(at(0), true, &mut queue, &mut ledger);
        assert_eq!(released(&mut queue), 2, "two pipelined requests");
        gate.on_target_data(at(1), 500, true);
        gate.complete_response();
        assert!(!gate.waits_for_drain());
        assert!(!gate.poll(at(60_000), true, &mut queue, &mut ledger), "one of two is answered, however much came");
        gate.complete_response();
        assert!(gate.poll(at(60_001), false, &mut queue, &mut ledger));
        assert_eq!((released(&mut queue), ledger.gate_by_module), (1, 1));
        gate.complete_response();
        assert!(gate.poll(at(60_002), false, &mut queue, &mut ledger));
    }

    #[test]
    fn counting_goes_on_behind_what_a_rebuilt_connection_lost() {
        let mut queue = counted_queue(&[(100, 3), (100, 4)]);
        let (mut gate, mut ledger) = (GateState::new(), Ledger::default());
        gate.count_responses();
        gate.restart(3);
        gate.poll(at(0), true, &mut queue, &mut ledger);
        assert_eq!(released(&mut queue), 1);
        gate.complete_response();
        gate.poll(at(1), true, &mut queue, &mut ledger);
        assert_eq!(released(&mut queue), 1);
    }
}
