//! Packets of the target: handshake, acknowledgements, data, FIN and RST (RFC 9293, section 3.10.7).

use tcpcopy_wire::Timestamp;
use tcpcopy_wire::control::{Payload, ResponseHeader};
use tcpcopy_wire::tcp::{Flags, Options};

use super::{Closure, DELAYED_ACK, Heard, State, TargetHalf, Wire};
use crate::session::queue::StreamQueue;

/// Ranges kept of responses that came ahead of their turn; more are not acknowledged and come again.
const MAX_RANGES: usize = 64;

impl TargetHalf {
    /// Takes one packet of the target. Bytes that it acknowledges leave the queue. The caller goes on with
    /// [`transmit`](Self::transmit), which sends what this made possible and what it owes.
    pub(crate) fn on_response(
        &mut self,
        wire: &mut Wire<'_>,
        header: &ResponseHeader<'_>,
        queue: Option<&mut StreamQueue>,
    ) -> Heard {
        let ledger = &mut *wire.ledger;
        ledger.responses += 1;
        ledger.data_responses += u64::from(header.payload_len > 0);
        ledger.response_fins += u64::from(header.flags.contains(Flags::FIN));
        ledger.response_resets += u64::from(header.flags.contains(Flags::RST));
        match self.state {
            State::Unopened | State::Closed => {
                ledger.stale_responses += 1;
                Heard::default()
            }
            State::SynSent => self.on_handshake(wire, header),
            State::Open => self.on_established(wire, header, queue),
        }
    }

    /// SYN-SENT (RFC 9293, section 3.10.7.3).
    fn on_handshake(&mut self, wire: &mut Wire<'_>, header: &ResponseHeader<'_>) -> Heard {
        let acks_syn = header.flags.contains(Flags::ACK) && header.ack == self.iss + 1;
        if header.flags.contains(Flags::RST) {
            let closure = acks_syn.then_some(Closure::Refused);
            if closure.is_some() {
                self.enter_closed();
            }
            return Heard { closure, ..Heard::default() };
        }
        if header.flags.contains(Flags::SYN) && acks_syn {
            self.state = State::Open;
            self.heard_at = wire.now;
            wire.ledger.connections += 1;
            wire.ledger.of_map(wire.map, |of_map| of_map.connections += 1);
            let options = Options::parse(header.options);
            self.agree(wire, &options);
            if self.retries == 0 {
                self.round_trip.sample(wire.now, header.ack);
            }
            self.retries = 0;
            self.round_trip.stop();
            self.una = self.iss + 1;
            self.window = u32::from(header.window);
            self.window_seq = header.seq;
            self.rcv_nxt = header.seq + 1;
            self.rcv_acked = header.seq;
            self.timestamp_recent = options.timestamps.map_or(0, |(value, _)| value);
            self.retransmit_at = Timestamp::NEVER;
            self.ack_at = wire.now;
        } else if header.flags.contains(Flags::ACK) && !acks_syn {
            // The target still holds an older connection on these ports and challenges the SYN (RFC 5961, section 4).
            // A RST at the place it names lets it forget, and the next SYN is welcome.
            self.emit_reset(wire, header.ack);
            self.retransmit_at = self.retransmit_at.min(wire.now + DELAYED_ACK);
        }
        Heard::default()
    }

    fn on_established(
        &mut self,
        wire: &mut Wire<'_>,
        header: &ResponseHeader<'_>,
        queue: Option<&mut StreamQueue>,
    ) -> Heard {
        let mut heard = Heard::default();
        let ahead_of_us = header.seq.distance_from(self.rcv_nxt);
        let receive_window = i32::from(super::WINDOW) << self.our_shift;
        if header.flags.contains(Flags::RST) {
            // A RST in the window ends the connection; one outside is somebody's mistake (RFC 9293, section 3.5.3).
            if (0..=receive_window).contains(&ahead_of_us) || header.seq == self.rcv_acked {
                if header.flags.contains(Flags::ACK) {
                    self.on_last_ack(wire, header.ack, queue);
                }
                self.enter_closed();
                heard.closure = Some(Closure::Reset);
            }
            return heard;
        }
        self.heard_at = wire.now;
        if header.flags.contains(Flags::SYN) {
            // The SYN-ACK again: our acknowledgement of it was lost.
            self.ack_at = wire.now;
            return heard;
        }
        if ahead_of_us > receive_window {
            self.ack_at = wire.now;
            return heard;
        }
        let options = if header.options.is_empty() { Options::default() } else { Options::parse(header.options) };
        if let Some((value, _)) = options.timestamps
            && ahead_of_us <= 0
            && value.wrapping_sub(self.timestamp_recent) < 1 << 31
        {
            self.timestamp_recent = value;
        }
        if header.flags.contains(Flags::ACK) {
            self.on_ack(wire, header, &options, queue);
        }
        let fin = header.flags.contains(Flags::FIN);
        if header.payload_len > 0 || fin {
            self.on_data(wire, header, fin, &mut heard);
        } else if ahead_of_us == -1 {
            // A keepalive probe (RFC 9293, section 3.8.4) wants an answer.
            self.ack_at = wire.now;
        }
        heard
    }

    fn on_data(&mut self, wire: &mut Wire<'_>, header: &ResponseHeader<'_>, fin: bool, heard: &mut Heard) {
        let end = header.seq + header.payload_len;
        let shown = self.payload != Payload::Headers;
        if shown && !self.has_wanted(header) {
            // Asked for a moment ago; what comes without it is as good as lost, and the target sends it again.
            wire.ledger.responses_without_payload += 1;
            self.ack_at = wire.now;
            return;
        }
        if fin && !self.peer_fin {
            self.fin_ahead = Some(end);
        }
        let before = self.rcv_nxt;
        if header.seq.is_after(self.rcv_nxt) {
            // A hole before it: say so at once, with what we have (RFC 5681, section 4.2).
            let ranges = self.ahead.get_or_insert_default();
            let room = ranges.len() < MAX_RANGES
                && (!shown
                    || self.arrivals.get_or_insert_default().keep(header.seq, header.payload_len, header.payload));
            if room {
                ranges.insert(header.seq, end);
            }
            self.ack_at = wire.now;
            return;
        }
        if end.is_after(self.rcv_nxt) {
            if shown {
                heard.fresh_at = self.rcv_nxt.distance_from(header.seq) as u32;
                heard.fresh_len = end.distance_from(self.rcv_nxt) as u32;
                heard.has_payload = true;
                self.shown = end;
            }
            self.rcv_nxt = end;
        } else if self.fin_ahead != Some(self.rcv_nxt) {
            // Nothing new: our acknowledgement was lost.
            self.ack_at = wire.now;
            return;
        }
        if let Some(ranges) = &mut self.ahead {
            while let Some(right) = ranges.take_at(self.rcv_nxt) {
                self.rcv_nxt = right;
            }
            if ranges.is_empty() {
                self.ahead = None;
            }
            // A hole was filled: the sender is waiting to know.
            self.ack_at = wire.now;
        }
        let data = self.rcv_nxt.distance_from(before) as u32;
        wire.ledger.response_bytes += u64::from(data);
        heard.advanced = data;
        heard.burst_end = header.flags.contains(Flags::PSH)
            && self.ahead.is_none()
            && !header.payload_len.is_multiple_of(u32::from(self.peer_mss));
        if self.fin_ahead == Some(self.rcv_nxt) {
            self.fin_ahead = None;
            self.rcv_nxt += 1;
            self.peer_fin = true;
            self.max_at_peer_fin = self.max;
            heard.advanced += 1;
            heard.fin = true;
        }
        // Every second full segment is acknowledged at once, anything else soon (RFC 9293, section 3.8.6.3). At once
        // still means after the release of what waits for this response: it carries the acknowledgement.
        let owed = self.rcv_nxt.distance_from(self.rcv_acked) as u32;
        if owed >= 2 * u32::from(self.peer_mss) || (self.peer_fin && self.fin_sent) {
            // (Behind our FIN nothing follows that it could ride on.)
            self.ack_at = wire.now;
        } else {
            self.ack_at = self.ack_at.min(wire.now + DELAYED_ACK);
        }
    }

    /// Whether a response has as much of its payload as is wanted.
    fn has_wanted(&self, header: &ResponseHeader<'_>) -> bool {
        let wanted = match self.payload {
            Payload::Headers => 0,
            Payload::First(n) => header.payload_len.min(u32::from(n)),
            Payload::Full => header.payload_len,
        };
        header.payload.len() >= wanted as usize
    }
}
