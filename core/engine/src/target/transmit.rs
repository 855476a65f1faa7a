//! Cutting segments and sending them.

use tcpcopy_wire::build::TcpRepr;
use tcpcopy_wire::tcp::{Flags, MAX_SACK_BLOCKS, Options};
use tcpcopy_wire::{SeqNumber, Timestamp};

use super::{State, TargetHalf, WINDOW, Wire};
use crate::session::queue::{Mark, MarkKind, StreamQueue};

impl TargetHalf {
    /// Sends what the queue has released, as far as the windows allow, and the acknowledgement that is due.
    #[inline]
    pub(crate) fn transmit(&mut self, wire: &mut Wire<'_>, queue: Option<&mut StreamQueue>) {
        if self.state != State::Open {
            return;
        }
        if let Some(queue) = queue {
            if self.nxt != self.max {
                self.resend_from_nxt(wire, queue);
            }
            if self.nxt == self.max {
                self.send_new(wire, queue);
            }
            if self.flight() == 0 && self.retransmit_at == Timestamp::NEVER && queue.has_released() {
                // The window is closed: probe it later.
                self.arm_window_probe(wire.now);
            }
        } else if self.nxt != self.max {
            // Only the FIN is left to send again.
            self.nxt = self.resend_at(wire, None, self.nxt);
        }
        if self.ack_at <= wire.now && self.state == State::Open {
            self.emit(wire, self.max, Flags::ACK, (&[], &[]));
        }
    }

    /// After a time-out: goes over what was sent before, as the windows allow.
    fn resend_from_nxt(&mut self, wire: &mut Wire<'_>, queue: &StreamQueue) {
        while self.nxt.is_before(self.max) {
            let Some(start) = self.first_missing(self.nxt) else {
                self.nxt = self.max;
                return;
            };
            self.nxt = start;
            if self.room() == 0 {
                return;
            }
            self.nxt = self.resend_at(wire, Some(queue), start);
        }
    }

    /// Bytes that may be sent at `nxt` now.
    #[inline]
    fn room(&self) -> u32 {
        let used = self.nxt.distance_from(self.una) as u32;
        let peer = self.window.saturating_sub(used);
        let outstanding = self.outstanding();
        if outstanding == 0 {
            return peer;
        }
        peer.min(self.congestion.window().saturating_sub(outstanding))
    }

    #[inline]
    fn send_new(&mut self, wire: &mut Wire<'_>, queue: &mut StreamQueue) {
        while let Some(&Mark { kind, len: waiting, push, .. }) = queue.next_released() {
            match kind {
                MarkKind::Data => {
                    let whole = waiting.min(u32::from(self.mss));
                    let room = self.room();
                    // Less than a whole segment goes only when nothing is on its way that would open the window
                    // (silly-window avoidance, RFC 9293, section 3.8.6.2).
                    if room == 0 || (room < whole && self.flight() > 0) {
                        return;
                    }
                    let len = whole.min(room);
                    let last = len == waiting;
                    let fin = last && queue.fin_follows();
                    let mut flags = Flags::ACK;
                    if last && push {
                        flags |= Flags::PSH;
                    }
                    if fin {
                        flags |= Flags::FIN;
                    }
                    let at = self.max.distance_from(self.una) as u32;
                    let seq = self.max;
                    self.max += len;
                    self.emit(wire, seq, flags, queue.slices(at, len));
                    queue.mark_sent(len);
                    if fin {
                        queue.mark_sent(0);
                        self.fin_went_out(wire);
                    }
                }
                MarkKind::Fin => {
                    self.emit(wire, self.max, Flags::ACK | Flags::FIN, (&[], &[]));
                    queue.mark_sent(0);
                    self.fin_went_out(wire);
                }
                MarkKind::Reset => {
                    // The client's bytes first: behind a RST nothing can be sent again.
                    if self.flight() > 0 {
                        return;
                    }
                    self.emit_reset(wire, self.max);
                    queue.mark_sent(0);
                    self.enter_closed();
                    return;
                }
            }
            self.nxt = self.max;
            self.round_trip.start(wire.now, self.max);
            if self.retransmit_at == Timestamp::NEVER {
                self.rearm(wire.now);
            }
        }
    }

    fn fin_went_out(&mut self, wire: &mut Wire<'_>) {
        self.max += 1;
        self.fin_sent = true;
        self.closed_first = !self.peer_fin;
        wire.ledger.fins_sent += 1;
    }

    /// Sends one segment again from `start`, at most up to what was reported as received; returns where it ended.
    pub(super) fn resend_at(
        &mut self,
        wire: &mut Wire<'_>,
        queue: Option<&StreamQueue>,
        start: SeqNumber,
    ) -> SeqNumber {
        let data_end = self.max - u32::from(self.fin_sent && !self.fin_acked);
        let mut end = data_end;
        if let Some(next) = self.sacked.as_ref().and_then(|s| s.next_start(start)) {
            end = end.earlier(next);
        }
        end = end.earlier(start + u32::from(self.mss));
        let len = end.distance_from(start).max(0) as u32;
        let fin = self.fin_sent && !self.fin_acked && end == data_end;
        let mut flags = Flags::ACK;
        if len > 0 && end == data_end {
            flags |= Flags::PSH;
        }
        if fin {
            flags |= Flags::FIN;
        }
        let payload = match queue {
            Some(queue) if len > 0 => queue.slices(start.distance_from(self.una) as u32, len),
            _ => (&[][..], &[][..]),
        };
        self.round_trip.stop();
        wire.ledger.retransmits += 1;
        wire.ledger.of_map(wire.map, |of_map| of_map.retransmits += 1);
        self.emit(wire, start, flags, payload);
        end + u32::from(fin)
    }

    /// The last segment once more, to hear what is missing.
    pub(super) fn resend_tail(&mut self, wire: &mut Wire<'_>, queue: Option<&StreamQueue>) {
        let data_end = self.max - u32::from(self.fin_sent && !self.fin_acked);
        let start = self.una.later(data_end - u32::from(self.mss));
        self.resend_at(wire, queue, start);
    }

    /// One byte into a closed window (RFC 9293, section 3.8.6.1). From then on it is in flight like any other.
    pub(super) fn probe_window(&mut self, wire: &mut Wire<'_>, queue: Option<&mut StreamQueue>) {
        self.retransmit_at = Timestamp::NEVER;
        let Some(queue) = queue else { return };
        let Some(mark) = queue.next_released() else { return };
        if mark.kind == MarkKind::Data {
            let seq = self.max;
            self.max += 1;
            self.nxt = self.max;
            self.emit(wire, seq, Flags::ACK, queue.slices(0, 1));
            queue.mark_sent(1);
        }
        self.rearm(wire.now);
    }

    pub(super) fn emit_syn(&mut self, wire: &mut Wire<'_>, options: Options) {
        let repr = Self::repr(wire, self.iss, SeqNumber(0), Flags::SYN, options);
        Self::write(wire, &repr, (&[], &[]));
    }

    /// A RST at `seq`. It acknowledges what we have, as the RST of a client does that closes with data unread.
    pub(super) fn emit_reset(&mut self, wire: &mut Wire<'_>, seq: SeqNumber) {
        wire.ledger.resets_sent += 1;
        if self.state == State::Open {
            self.emit(wire, seq, Flags::RST | Flags::ACK, (&[], &[]));
        } else {
            let repr = Self::repr(wire, seq, SeqNumber(0), Flags::RST, Options::default());
            Self::write(wire, &repr, (&[], &[]));
        }
    }

    /// Sends a segment of an open connection, with the acknowledgement of all that has come.
    #[inline]
    fn emit(&mut self, wire: &mut Wire<'_>, seq: SeqNumber, flags: Flags, payload: (&[u8], &[u8])) {
        let mut repr = Self::repr(wire, seq, self.rcv_nxt, flags, Options::default());
        if self.timestamps {
            repr.options.timestamps = Some((wire.timestamp_value(), self.timestamp_recent));
        }
        let len = payload.0.len() + payload.1.len();
        if self.sack
            && let Some(ahead) = &self.ahead
        {
            // As many blocks as the segment has room for: one that is full has none.
            let room = (usize::from(self.mss).saturating_sub(len).saturating_sub(4) / 8).min(MAX_SACK_BLOCKS);
            for (left, right) in ahead.iter().take(room) {
                repr.options.push_sack(left, right);
            }
        }
        wire.ledger.data_packets_sent += u64::from(len > 0);
        self.rcv_acked = self.rcv_nxt;
        // A duplicate acknowledgement must stand alone to count as one (RFC 5681, section 2).
        if len == 0 || self.ahead.is_none() {
            self.ack_at = Timestamp::NEVER;
        }
        Self::write(wire, &repr, payload);
    }

    /// The next packet.
    #[inline]
    fn repr(wire: &mut Wire<'_>, seq: SeqNumber, ack: SeqNumber, flags: Flags, options: Options) -> TcpRepr {
        *wire.ip_id = wire.ip_id.wrapping_add(1);
        let (src, dst, ip_id) = (*wire.source, *wire.target, *wire.ip_id);
        TcpRepr { src, dst, seq, ack, flags, window: WINDOW, options, ip_id }
    }

    fn write(wire: &mut Wire<'_>, repr: &TcpRepr, payload: (&[u8], &[u8])) {
        wire.ledger.packets_sent += 1;
        wire.out.push_packet(wire.target.addr, |bytes| repr.write(payload, bytes));
    }
}
