//! What was lost, and how much may be in flight: RTT (RFC 6298), congestion window (RFC 5681, with a generous start),
//! fast retransmit and recovery (RFC 6582, RFC 6675), the probe for a lost tail (RFC 8985, section 7).

use std::time::Duration;

use tcpcopy_wire::control::ResponseHeader;
use tcpcopy_wire::tcp::{Flags, Options};
use tcpcopy_wire::{SeqNumber, Timestamp};

use super::{Closure, SYN_RETRIES, SYN_TIMEOUT, State, TargetHalf, Wire};
use crate::session::queue::StreamQueue;

const MIN_RTO_US: u64 = 200_000;
const MAX_RTO: Duration = Duration::from_secs(8);
const MAX_RTO_US: u64 = MAX_RTO.as_micros() as u64;
/// Before the first measurement (RFC 6298, section 2.1).
const INITIAL_RTO_US: u64 = 1_000_000;
/// Time-outs in a row after which the target counts as gone: about 70 s.
const MAX_RETRIES: u8 = 12;
/// A receiver may keep an acknowledgement back this long; a tail probe allows for it.
const PEER_DELAYED_ACK_US: u64 = 50_000;
/// Segments that may be in flight before anything is known of the path.
const INITIAL_WINDOW: u32 = 64;
const DUPLICATE_ACKS: u8 = 3;

/// The round-trip estimator, in microseconds: one segment is timed at a time, and none that was sent again (Karn's rule).
#[derive(Clone, Copy, Debug)]
pub(super) struct RoundTrip {
    smoothed_us: u32,
    variance_us: u32,
    timed_end: SeqNumber,
    timed_at: Timestamp,
}

impl RoundTrip {
    pub(super) const fn new() -> Self {
        Self { smoothed_us: 0, variance_us: 0, timed_end: SeqNumber(0), timed_at: Timestamp::NEVER }
    }

    /// Times the segment that ends at `end`, unless one is being timed.
    #[inline]
    pub(super) fn start(&mut self, now: Timestamp, end: SeqNumber) {
        if self.timed_at == Timestamp::NEVER {
            self.timed_at = now;
            self.timed_end = end;
        }
    }

    /// Something was sent again: what is being timed means nothing now.
    pub(super) fn stop(&mut self) {
        self.timed_at = Timestamp::NEVER;
    }

    /// An acknowledgement came.
    #[inline]
    pub(super) fn sample(&mut self, now: Timestamp, ack: SeqNumber) {
        if self.timed_at == Timestamp::NEVER || ack.is_before(self.timed_end) {
            return;
        }
        let rtt = (now.nanos_since(self.timed_at) / 1_000).clamp(1, 60_000_000) as u32;
        self.timed_at = Timestamp::NEVER;
        if self.smoothed_us == 0 {
            self.smoothed_us = rtt;
            self.variance_us = rtt / 2;
        } else {
            self.variance_us = self.variance_us - self.variance_us / 4 + rtt.abs_diff(self.smoothed_us) / 4;
            self.smoothed_us = self.smoothed_us - self.smoothed_us / 8 + rtt / 8;
        }
    }

    #[inline]
    fn timeout_us(&self, backoff: u8) -> u64 {
        let base = if self.smoothed_us == 0 {
            INITIAL_RTO_US
        } else {
            (u64::from(self.smoothed_us) + 4 * u64::from(self.variance_us)).max(MIN_RTO_US)
        };
        (base << backoff.min(10)).min(MAX_RTO_US)
    }

    #[inline]
    pub(super) fn twice_us(&self) -> u64 {
        2 * u64::from(self.smoothed_us)
    }

    #[inline]
    fn tail_probe_us(&self) -> u64 {
        self.twice_us() + PEER_DELAYED_ACK_US
    }

    fn is_measured(&self) -> bool {
        self.smoothed_us != 0
    }
}

/// The congestion window, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Congestion {
    window: u32,
    threshold: u32,
    /// While recovering: where recovery ends.
    recover: Option<SeqNumber>,
    /// While recovering with SACK: what lies before this was sent again already.
    resent: SeqNumber,
    duplicates: u8,
}

impl Congestion {
    pub(super) fn new(mss: u16) -> Self {
        Self {
            window: INITIAL_WINDOW * u32::from(mss),
            threshold: u32::MAX,
            recover: None,
            resent: SeqNumber(0),
            duplicates: 0,
        }
    }

    pub(super) fn window(&self) -> u32 {
        self.window
    }

    /// `acked` new bytes were acknowledged outside of recovery.
    #[inline]
    fn grow(&mut self, acked: u32, mss: u32) {
        const LIMIT: u32 = 1 << 30;
        let step =
            if self.window < self.threshold { acked.min(2 * mss) } else { (mss * mss / self.window.max(1)).max(1) };
        self.window = (self.window + step).min(LIMIT);
    }

    /// Half of what was in flight becomes the new threshold.
    fn shrink(&mut self, flight: u32, mss: u32) {
        self.threshold = (flight / 2).max(2 * mss);
    }
}

impl TargetHalf {
    /// Bytes (FIN included) sent and not acknowledged.
    #[inline]
    pub(super) fn flight(&self) -> u32 {
        self.max.distance_from(self.una) as u32
    }

    /// An acknowledgement (RFC 9293, section 3.10.7.4, fifth).
    pub(super) fn on_ack(
        &mut self,
        wire: &mut Wire<'_>,
        header: &ResponseHeader<'_>,
        options: &Options,
        queue: Option<&mut StreamQueue>,
    ) {
        let ack = header.ack;
        if ack.is_after(self.max) {
            // Of something never sent.
            self.ack_at = wire.now;
            return;
        }
        if ack.is_before(self.una) {
            return;
        }
        // A window from a segment older than the one it was last taken from means nothing (RFC 9293, section 3.10.7.4).
        let newest = ack.is_after(self.una) || !header.seq.is_before(self.window_seq);
        let window = if newest { u32::from(header.window) << self.peer_shift } else { self.window };
        if newest {
            self.window_seq = header.seq;
        }
        let opened = self.window == 0 && window > 0;
        let same_window = window == self.window;
        self.window = window;
        if self.sack && self.flight() > 0 {
            for &(left, right) in options.sack_blocks() {
                // A block below `ack` reports a duplicate (RFC 2883).
                if left.is_at_or_after(ack) && right.is_at_or_before(self.max) {
                    self.sacked.get_or_insert_default().insert(left, right);
                }
            }
        }
        if ack.is_after(self.una) {
            self.on_new_ack(wire, ack, queue);
        } else if self.flight() > 0 && header.payload_len == 0 && !header.flags.contains(Flags::FIN) {
            if self.window == 0 {
                // The window probe was answered: the target lives, but has no room.
                self.retries = self.retries.min(6);
            } else if same_window || self.sacked.is_some() {
                self.on_duplicate_ack(wire, queue.as_deref());
            }
        }
        if opened && self.flight() > 0 {
            // What was sent into the closed window was thrown away.
            self.nxt = self.una;
            self.retries = 0;
        } else if opened {
            // Nothing to probe for any more.
            self.retransmit_at = Timestamp::NEVER;
        }
    }

    /// The target has everything before `ack`, which lies after `una`; returns how many bytes, FIN included, that adds.
    #[inline]
    fn take_acknowledged(&mut self, wire: &mut Wire<'_>, ack: SeqNumber, queue: Option<&mut StreamQueue>) -> u32 {
        let acked = ack.distance_from(self.una) as u32;
        let fin_now = self.fin_sent && !self.fin_acked && ack == self.max;
        let bytes = acked - u32::from(fin_now);
        self.fin_acked |= fin_now;
        wire.ledger.bytes_copied += u64::from(bytes);
        wire.ledger.of_map(wire.map, |of_map| of_map.bytes_copied += u64::from(bytes));
        wire.ledger.pending_bytes -= u64::from(bytes);
        if let Some(queue) = queue {
            queue.consume(bytes);
        }
        self.una = ack;
        self.nxt = self.nxt.later(ack);
        acked
    }

    /// A RST that acknowledges: what the target had received before it reset is copied.
    pub(super) fn on_last_ack(&mut self, wire: &mut Wire<'_>, ack: SeqNumber, queue: Option<&mut StreamQueue>) {
        if ack.is_after(self.una) && !ack.is_after(self.max) {
            self.take_acknowledged(wire, ack, queue);
        }
    }

    fn on_new_ack(&mut self, wire: &mut Wire<'_>, ack: SeqNumber, mut queue: Option<&mut StreamQueue>) {
        wire.ledger.recovered += u64::from(self.retries > 0 || self.congestion.recover.is_some());
        let acked = self.take_acknowledged(wire, ack, queue.as_deref_mut());
        self.retries = 0;
        self.tail_probed = false;
        self.round_trip.sample(wire.now, ack);
        if let Some(sacked) = &mut self.sacked {
            sacked.remove_before(ack);
            if sacked.is_empty() {
                self.sacked = None;
            }
        }
        let mss = u32::from(self.mss);
        self.congestion.duplicates = 0;
        match self.congestion.recover {
            Some(recover) if ack.is_before(recover) => {
                // A partial acknowledgement: the next hole was lost too (RFC 6582, section 3.2).
                self.congestion.window = self.congestion.window.saturating_sub(acked).max(2 * mss);
                self.resend_hole(wire, queue.as_deref(), true);
            }
            Some(_) => {
                self.congestion.recover = None;
                self.congestion.window = self.congestion.threshold;
            }
            None => self.congestion.grow(acked, mss),
        }
        self.rearm(wire.now);
    }

    fn on_duplicate_ack(&mut self, wire: &mut Wire<'_>, queue: Option<&StreamQueue>) {
        let mss = u32::from(self.mss);
        let sacked = self.sacked.as_ref().map_or(0, |s| s.total());
        self.congestion.duplicates = self.congestion.duplicates.saturating_add(1);
        if self.congestion.recover.is_some() {
            self.congestion.window = self.congestion.window.saturating_add(mss);
            if self.sack {
                self.resend_hole(wire, queue, false);
            }
        } else if self.nxt == self.max && (self.congestion.duplicates >= DUPLICATE_ACKS || sacked >= 3 * mss) {
            self.congestion.shrink(self.flight(), mss);
            self.congestion.window = self.congestion.threshold + 3 * mss;
            self.congestion.recover = Some(self.max);
            self.congestion.resent = self.una;
            self.resend_hole(wire, queue, true);
            self.retransmit_at = wire.now.after_micros(self.round_trip.timeout_us(0));
        }
    }

    /// Sends the first segment again that is missing and was not yet sent again in this recovery. Without SACK that is
    /// known only of the one at `una`, and `at_una` says so.
    fn resend_hole(&mut self, wire: &mut Wire<'_>, queue: Option<&StreamQueue>, at_una: bool) {
        let from = if at_una && self.sacked.is_none() { self.una } else { self.congestion.resent.later(self.una) };
        let Some(start) = self.first_missing(from) else { return };
        if !at_una && self.sacked.as_ref().and_then(|s| s.end()).is_none_or(|end| !start.is_before(end)) {
            return;
        }
        self.congestion.resent = self.resend_at(wire, queue, start);
    }

    /// The first position from `from` on that was sent and is not reported as received.
    pub(super) fn first_missing(&self, from: SeqNumber) -> Option<SeqNumber> {
        let start = self.sacked.as_ref().and_then(|s| s.covering(from)).map_or(from, |(_, right)| right);
        start.is_before(self.max).then_some(start)
    }

    /// Bytes in flight below `nxt` that the target does not have yet, as far as it said.
    #[inline]
    pub(super) fn outstanding(&self) -> u32 {
        let sent = self.nxt.distance_from(self.una) as u32;
        sent.saturating_sub(self.sacked.as_ref().map_or(0, |s| s.total()))
    }

    /// Starts the timer for what is in flight, or stops it.
    #[inline]
    pub(super) fn rearm(&mut self, now: Timestamp) {
        self.retransmit_at = if self.flight() == 0 {
            Timestamp::NEVER
        } else if self.may_probe_tail() {
            now.after_micros(self.round_trip.tail_probe_us().min(self.round_trip.timeout_us(0)))
        } else {
            now.after_micros(self.round_trip.timeout_us(self.retries))
        };
    }

    /// The window is closed and nothing is in flight: when to look whether it has opened.
    pub(super) fn arm_window_probe(&mut self, now: Timestamp) {
        self.retransmit_at = now.after_micros(self.round_trip.timeout_us(self.retries));
    }

    fn may_probe_tail(&self) -> bool {
        !self.tail_probed
            && self.retries == 0
            && self.congestion.recover.is_none()
            && self.nxt == self.max
            && self.window > 0
            && self.round_trip.is_measured()
    }

    /// `retransmit_at` has come.
    pub(crate) fn on_timeout(&mut self, wire: &mut Wire<'_>, queue: Option<&mut StreamQueue>) -> Option<Closure> {
        match self.state {
            State::Unopened | State::Closed => {
                self.retransmit_at = Timestamp::NEVER;
                None
            }
            State::SynSent => {
                if self.retries >= SYN_RETRIES {
                    self.enter_closed();
                    return Some(Closure::Unreachable);
                }
                self.retries += 1;
                self.round_trip.stop();
                wire.ledger.retransmits += 1;
                wire.ledger.of_map(wire.map, |of_map| of_map.retransmits += 1);
                wire.ledger.timeouts += 1;
                let mss = Some(self.peer_mss);
                self.send_syn(wire, mss);
                self.retransmit_at = wire.now + (SYN_TIMEOUT * (1 << self.retries)).min(MAX_RTO);
                None
            }
            State::Open if self.flight() == 0 => {
                // Nothing in flight, so the timer waits on a closed window: see whether it has opened.
                self.probe_window(wire, queue);
                None
            }
            State::Open if self.may_probe_tail() => {
                self.tail_probed = true;
                self.resend_tail(wire, queue.as_deref());
                self.retransmit_at = wire.now.after_micros(self.round_trip.timeout_us(0));
                None
            }
            State::Open => {
                if self.retries >= MAX_RETRIES {
                    self.reset(wire);
                    return Some(Closure::GaveUp);
                }
                self.retries += 1;
                wire.ledger.timeouts += 1;
                let mss = u32::from(self.mss);
                if self.window > 0 {
                    self.congestion.shrink(self.flight(), mss);
                    self.congestion.window = mss;
                }
                self.congestion.recover = None;
                self.congestion.duplicates = 0;
                // What the target reported out of order it may have thrown away since (RFC 2018, section 8).
                self.sacked = None;
                self.nxt = self.una;
                self.round_trip.stop();
                // At least the first segment goes, whatever the windows say; `transmit` goes on from there.
                self.nxt = self.resend_at(wire, queue.as_deref(), self.una);
                self.retransmit_at = wire.now.after_micros(self.round_trip.timeout_us(self.retries));
                None
            }
        }
    }
}
