//! The client half: rebuilds the client's byte stream from captured segments. Passive: it never sends anything.
//!
//! # Theory of operation
//!
//! `next` is the sequence number expected next; everything before it has been handed on. A segment is cut at `next`: what
//! lies before is a duplicate, what begins at it is handed on, what lies ahead waits in the reassembly. While anything
//! waits there is a hole; a hole that stands too long ends the session, because bytes are never skipped.
//!
//! `turn_ack` is the client's acknowledgement number at its last data (or the first seen): how far it moves until the
//! next data tells how much of a response the client had received in between, which is what the gate goes by.

use tcpcopy_wire::tcp::Flags;
use tcpcopy_wire::{SeqNumber, TcpSegment, Timestamp};

use super::reassembly::{LIMIT, Piece, Reassembly};

/// How the client closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClientEnd {
    /// It has not.
    Open,
    /// With a FIN at this number.
    Fin(SeqNumber),
    /// With a RST at this number.
    Reset(SeqNumber),
}

/// What a segment of the client brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Intake<'a> {
    /// Bytes that come next in the stream. More may follow from [`ClientHalf::take_piece`].
    pub(crate) in_order: &'a [u8],
    /// Bytes kept for later.
    pub(crate) kept: u32,
    /// Bytes that were here before.
    pub(crate) duplicate: u32,
    /// Something was new: bytes, an acknowledgement, a FIN or a RST.
    pub(crate) is_new: bool,
    /// Bytes ahead of anything the client could have sent, or after its end.
    pub(crate) out_of_window: bool,
    /// The reassembly is full: the hole will not be filled.
    pub(crate) overflow: bool,
}

/// See the [module's documentation](self).
#[derive(Debug)]
pub(crate) struct ClientHalf {
    next: SeqNumber,
    ack_seen: SeqNumber,
    turn_ack: SeqNumber,
    has_ack: bool,
    /// The end was handed on.
    ended: bool,
    end: ClientEnd,
    reassembly: Option<Box<Reassembly>>,
    /// When the present hole appeared; [`Timestamp::NEVER`] while there is none.
    pub(crate) hole_since: Timestamp,
}

impl ClientHalf {
    /// A stream whose first byte is `next`.
    pub(crate) fn new(next: SeqNumber) -> Self {
        Self {
            next,
            ack_seen: SeqNumber(0),
            turn_ack: SeqNumber(0),
            has_ack: false,
            ended: false,
            end: ClientEnd::Open,
            reassembly: None,
            hole_since: Timestamp::NEVER,
        }
    }

    /// How the client closed.
    pub(crate) fn end(&self) -> ClientEnd {
        self.end
    }

    /// How far the client has received online's stream.
    pub(crate) fn acknowledged(&self) -> SeqNumber {
        self.ack_seen
    }

    /// How far the stream has been handed on since `first`; a FIN counts as one.
    #[inline]
    pub(crate) fn handed_on_since(&self, first: SeqNumber) -> u32 {
        self.next.distance_from(first) as u32
    }

    /// Bytes that wait for a hole to be filled.
    pub(crate) fn waiting(&self) -> u64 {
        self.reassembly.as_ref().map_or(0, |r| r.bytes() as u64)
    }

    /// Takes one segment; of a SYN, the data. Its payload must not be cut.
    #[inline]
    pub(crate) fn on_segment<'a>(&mut self, now: Timestamp, segment: &TcpSegment<'a>) -> Intake<'a> {
        let flags = segment.tcp.flags();
        // A SYN takes the number before its data.
        let seq = segment.tcp.seq() + u32::from(flags.contains(Flags::SYN));
        let mut intake = Intake::default();
        if flags.contains(Flags::RST) {
            self.on_reset(now, seq, &mut intake);
            return intake;
        }
        let ack = flags.contains(Flags::ACK).then(|| segment.tcp.ack());
        if let Some(ack) = ack {
            if !self.has_ack {
                self.has_ack = true;
                self.turn_ack = ack;
                self.ack_seen = ack;
                intake.is_new = true;
            } else if ack.is_after(self.ack_seen) {
                self.ack_seen = ack;
                intake.is_new = true;
            }
        }
        let data = segment.payload;
        if !data.is_empty() {
            self.on_data(now, seq, data, ack, flags.contains(Flags::PSH), &mut intake);
        }
        if flags.contains(Flags::FIN) && self.end == ClientEnd::Open {
            let at = seq + data.len() as u32;
            if at.is_at_or_after(self.next) && !intake.out_of_window {
                self.end = ClientEnd::Fin(at);
                intake.is_new = true;
                if at != self.next + intake.in_order.len() as u32 {
                    self.hole_since = self.hole_since.min(now);
                }
            }
        }
        intake
    }

    #[inline]
    fn on_data<'a>(
        &mut self,
        now: Timestamp,
        seq: SeqNumber,
        data: &'a [u8],
        ack: Option<SeqNumber>,
        push: bool,
        intake: &mut Intake<'a>,
    ) {
        let ahead = seq.distance_from(self.next);
        if let ClientEnd::Fin(at) | ClientEnd::Reset(at) = self.end
            && (seq + data.len() as u32).is_after(at)
        {
            intake.out_of_window = true;
            return;
        }
        if ahead <= 0 {
            let old = (ahead.unsigned_abs() as usize).min(data.len());
            intake.duplicate = old as u32;
            intake.in_order = &data[old..];
            intake.is_new |= old < data.len();
            return;
        }
        // The largest window that a receiver can announce (RFC 7323, section 2.3).
        if ahead > 1 << 30 {
            intake.out_of_window = true;
            return;
        }
        let reassembly = self.reassembly.get_or_insert_default();
        let kept = reassembly.insert(seq, data, ack, push);
        intake.kept = kept as u32;
        intake.duplicate = (data.len() - kept) as u32;
        intake.is_new |= kept > 0;
        intake.overflow = reassembly.bytes() > LIMIT;
        self.hole_since = self.hole_since.min(now);
    }

    fn on_reset(&mut self, now: Timestamp, seq: SeqNumber, intake: &mut Intake<'_>) {
        if matches!(self.end, ClientEnd::Reset(_)) || (self.ended && seq.is_before(self.next)) {
            return;
        }
        if seq.distance_from(self.next) > 1 << 30 {
            intake.out_of_window = true;
            return;
        }
        // A RST below what is expected comes from a client that answers something old; it resets all the same.
        // Behind a FIN that was handed on there is nothing to wait for.
        let at = if self.ended { self.next } else { seq.later(self.next) };
        if at != self.next {
            self.hole_since = self.hole_since.min(now);
        }
        self.ended = false;
        self.end = ClientEnd::Reset(at);
        intake.is_new = true;
    }

    /// The in-order bytes of an [`Intake`] were handed on.
    #[inline]
    pub(crate) fn advance(&mut self, bytes: usize) {
        self.next += bytes as u32;
    }

    /// Bytes of response that the client acknowledged since its data before that which carries `ack`; begins a turn.
    #[inline]
    pub(crate) fn turn(&mut self, ack: Option<SeqNumber>) -> u32 {
        let Some(ack) = ack else { return 0 };
        let moved = ack.distance_from(self.turn_ack);
        if moved <= 0 {
            return 0;
        }
        self.turn_ack = ack;
        moved as u32
    }

    /// Whether anything waits for bytes that are to come before it.
    #[inline]
    pub(crate) fn waits(&self) -> bool {
        self.reassembly.is_some()
    }

    /// What waited for the bytes just handed on: the next piece, and how many of the waiting bytes proved duplicates.
    pub(crate) fn take_piece(&mut self) -> (Option<Piece>, usize) {
        let Some(reassembly) = &mut self.reassembly else { return (None, 0) };
        let duplicates = reassembly.trim(self.next);
        let piece = reassembly.take_at(self.next);
        if reassembly.is_empty() {
            self.reassembly = None;
        }
        (piece, duplicates)
    }

    /// The client's end, if it comes next in the stream. Says so once.
    #[inline]
    pub(crate) fn take_end(&mut self, now: Timestamp) -> Option<ClientEnd> {
        let mut taken = None;
        if let ClientEnd::Fin(at) | ClientEnd::Reset(at) = self.end
            && !self.ended
            && at.is_at_or_before(self.next)
        {
            self.ended = true;
            if matches!(self.end, ClientEnd::Fin(_)) {
                self.next = at + 1;
            }
            taken = Some(self.end);
        }
        let unended = !self.ended && self.end != ClientEnd::Open;
        self.hole_since = match (self.reassembly.is_some() || unended, self.hole_since) {
            (false, _) => Timestamp::NEVER,
            (true, Timestamp::NEVER) => now,
            (true, since) => since,
        };
        taken
    }

    /// The client's end was missed, but it must be over: it has opened a new connection on the same port.
    pub(crate) fn presume_end(&mut self) {
        if self.end == ClientEnd::Open {
            self.end = ClientEnd::Fin(self.next);
        }
    }

    /// Forgets what waits; returns the number of bytes.
    pub(crate) fn forget(&mut self) -> u64 {
        let waiting = self.waiting();
        self.reassembly = None;
        self.hole_since = Timestamp::NEVER;
        waiting
    }
}
