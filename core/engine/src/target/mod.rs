//! The target half: a small, correct TCP client (RFC 9293) towards the target.
//!
//! # Theory of operation
//!
//! The rest of the session reaches it through five things: [`open`](TargetHalf::open) a connection, let it
//! [`transmit`](TargetHalf::transmit) what the queue has released (a released FIN or RST mark closes), hear what the
//! target did from [`on_response`](TargetHalf::on_response), give it its [`timeout`](TargetHalf::on_timeout), and
//! [`reset`](TargetHalf::reset) it. Nothing outside knows of packets.
//!
//! ```text
//!  Unopened --open--> SynSent --SYN-ACK--> Open --(FIN both ways, acknowledged)--> Closed
//!                        |                  |
//!                        +--RST, no answer--+--RST, no answer, reset()-----------> Closed
//! ```
//!
//! Within `Open` three flags tell how far closing has come: `fin_sent`, `fin_acked`, `peer_fin`.
//!
//! Sequence variables of the sending direction (RFC 9293, section 3.3.1), all in the replica's own sequence space:
//!
//! ```text
//!        una                  nxt               max
//!  ------|--------------------|-----------------|--------
//!  acked | sent, not acked    | to be sent again| never sent
//! ```
//!
//! `nxt` equals `max` except after a retransmission time-out, when everything from `una` on is gone over again. Byte 0 of
//! the queue is `una`; the FIN occupies the number behind the last byte.
//!
//! Timers: `retransmit_at` is the probe for a lost tail (RFC 8985, section 7), then the retransmission time-out (RFC
//! 6298) or, while the target's window is closed, the window probe; `ack_at` is the delayed acknowledgement (RFC 9293,
//! section 3.8.6.3).
//!
//! Files: this one opens and closes, `receive` takes the target's packets, `recovery` decides what was lost and how much
//! may be in flight, `transmit` cuts segments.

mod arrivals;
mod receive;
mod recovery;
mod transmit;

use std::time::Duration;

use tcpcopy_wire::build::ip_header_len;
use tcpcopy_wire::control::Payload;
use tcpcopy_wire::tcp::Options;
use tcpcopy_wire::{Endpoint, SeqNumber, Timestamp};

use crate::Ledger;
use crate::Outbox;
use crate::copier::config::CopierConfig;
use crate::ranges::RangeSet;
use arrivals::Arrivals;
use recovery::{Congestion, RoundTrip};

/// First SYN time-out (RFC 6298, section 2.1).
const SYN_TIMEOUT: Duration = Duration::from_secs(1);
/// SYNs sent again before the target counts as unreachable: 1 + 2 + 4 + 8 + 8 = 23 s.
const SYN_RETRIES: u8 = 4;
/// An acknowledgement waits this long for a segment to ride on.
const DELAYED_ACK: Duration = Duration::from_millis(40);
/// Window that we announce, before scaling. Responses are consumed at once, so it never closes.
const WINDOW: u16 = u16::MAX;

/// What a half needs from around it while it works.
pub(crate) struct Wire<'a> {
    pub(crate) now: Timestamp,
    pub(crate) ledger: &'a mut Ledger,
    pub(crate) out: &'a mut Outbox,
    /// IPv4 identification of the next packet.
    pub(crate) ip_id: &'a mut u16,
    /// The replica.
    pub(crate) source: &'a Endpoint,
    /// The target.
    pub(crate) target: &'a Endpoint,
    /// The map that leads to it.
    pub(crate) map: u16,
    pub(crate) config: &'a CopierConfig,
}

impl Wire<'_> {
    /// The timestamp value of what is sent now (RFC 7323). All replicas go by one clock: a tuple that is used again, by
    /// whatever client, then carries a later timestamp than before, and the target's TIME-WAIT lets it pass.
    fn timestamp_value(&self) -> u32 {
        self.config.timestamp_base.wrapping_add(self.now.as_millis() as u32)
    }
}

/// What the replica's SYN offers: what the client's SYN offered to online.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Offer {
    pub(crate) mss: Option<u16>,
    pub(crate) window_scale: Option<u8>,
    pub(crate) sack: bool,
    /// Whether the client uses timestamps.
    pub(crate) timestamps: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Unopened,
    SynSent,
    Open,
    Closed,
}

/// How the target ended a connection on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closure {
    /// RST in answer to the SYN.
    Refused,
    /// No answer to the SYN.
    Unreachable,
    /// RST on an open connection.
    Reset,
    /// No acknowledgement after all retransmissions.
    GaveUp,
}

/// What a packet of the target meant.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Heard {
    /// New bytes in order, FIN counted as one.
    pub(crate) advanced: u32,
    /// They ended a burst; see [`gate`](crate::session::gate).
    pub(crate) burst_end: bool,
    /// The target closed its direction with them.
    pub(crate) fin: bool,
    /// The connection is gone.
    pub(crate) closure: Option<Closure>,
    /// The packet brought payload that was asked for: `fresh_len` new bytes begin at `fresh_at` of its payload, and more
    /// may have waited for them: see [`TargetHalf::take_arrived`].
    pub(crate) has_payload: bool,
    pub(crate) fresh_at: u32,
    pub(crate) fresh_len: u32,
}

/// The sending and receiving state of one connection to the target.
#[derive(Debug)]
pub(crate) struct TargetHalf {
    pub(crate) state: State,
    fin_sent: bool,
    fin_acked: bool,
    peer_fin: bool,
    /// We sent our FIN before we had the target's: the wait after the close is ours.
    closed_first: bool,
    timestamps: bool,
    sack: bool,
    /// A probe for a lost tail is under way: the next time-out is a real one.
    tail_probed: bool,
    offered_scale: Option<u8>,
    our_shift: u8,
    peer_shift: u8,
    /// Time-outs in a row without an answer.
    retries: u8,
    /// Largest payload we send, options deducted.
    mss: u16,
    /// Largest payload the target sends, options deducted.
    peer_mss: u16,

    iss: SeqNumber,
    una: SeqNumber,
    nxt: SeqNumber,
    max: SeqNumber,
    /// The target's window, scaled, counted from `una`.
    window: u32,
    /// Sequence number of the segment that said so.
    window_seq: SeqNumber,
    /// `max` when the target's FIN arrived: what was sent later, a closed target has not read.
    max_at_peer_fin: SeqNumber,
    sacked: Option<Box<RangeSet>>,

    rcv_nxt: SeqNumber,
    /// The acknowledgement we sent last.
    rcv_acked: SeqNumber,
    ahead: Option<Box<RangeSet>>,
    /// How much of what the target sends is wanted, and what of it came ahead of its turn.
    payload: Payload,
    arrivals: Option<Box<Arrivals>>,
    /// The end of what was shown in order.
    shown: SeqNumber,
    /// Where the target's FIN stands, if it came ahead of its turn.
    fin_ahead: Option<SeqNumber>,

    /// The target's timestamp to echo.
    timestamp_recent: u32,

    round_trip: RoundTrip,
    congestion: Congestion,

    pub(crate) retransmit_at: Timestamp,
    pub(crate) ack_at: Timestamp,
    /// When the target was last heard, or the connection opened.
    pub(crate) heard_at: Timestamp,
}

impl TargetHalf {
    pub(crate) fn new() -> Self {
        let zero = SeqNumber(0);
        Self {
            state: State::Unopened,
            fin_sent: false,
            fin_acked: false,
            peer_fin: false,
            closed_first: false,
            timestamps: false,
            sack: false,
            tail_probed: false,
            offered_scale: None,
            our_shift: 0,
            peer_shift: 0,
            retries: 0,
            mss: 536,
            peer_mss: 536,
            iss: zero,
            una: zero,
            nxt: zero,
            max: zero,
            window: 0,
            window_seq: zero,
            max_at_peer_fin: zero,
            sacked: None,
            rcv_nxt: zero,
            rcv_acked: zero,
            ahead: None,
            payload: Payload::Headers,
            arrivals: None,
            shown: zero,
            fin_ahead: None,
            timestamp_recent: 0,
            round_trip: RoundTrip::new(),
            congestion: Congestion::new(536),
            retransmit_at: Timestamp::NEVER,
            ack_at: Timestamp::NEVER,
            heard_at: Timestamp::ZERO,
        }
    }

    /// Sends the SYN, with `iss` as initial sequence number.
    pub(crate) fn open(&mut self, wire: &mut Wire<'_>, iss: SeqNumber, offer: Offer) {
        // What the module wants to see, it wants of every connection.
        *self = Self { payload: self.payload, ..Self::new() };
        self.state = State::SynSent;
        self.iss = iss;
        self.una = iss;
        self.nxt = iss + 1;
        self.max = iss + 1;
        self.sack = offer.sack;
        self.offered_scale = offer.window_scale;
        self.timestamps = offer.timestamps;
        self.peer_mss = offer.mss.unwrap_or(536);
        self.heard_at = wire.now;
        self.round_trip.start(wire.now, iss + 1);
        self.send_syn(wire, offer.mss);
        self.retransmit_at = wire.now + SYN_TIMEOUT;
    }

    fn send_syn(&mut self, wire: &mut Wire<'_>, mss: Option<u16>) {
        let timestamps = self.timestamps.then(|| (wire.timestamp_value(), 0));
        let options = Options::of_syn(mss, self.offered_scale, self.sack, timestamps);
        wire.ledger.syns_sent += 1;
        self.emit_syn(wire, options);
    }

    /// What the handshake has agreed on, from the SYN-ACK's options.
    fn agree(&mut self, wire: &Wire<'_>, options: &Options) {
        let headers = (ip_header_len(&wire.target.addr) + 20) as u16;
        let default = if wire.target.addr.is_ipv4() { 536 } else { 1220 };
        let path = wire.config.mtu.saturating_sub(headers).max(64);
        self.timestamps &= options.timestamps.is_some();
        self.sack &= options.sack_permitted;
        if let (Some(ours), Some(theirs)) = (self.offered_scale, options.window_scale) {
            (self.our_shift, self.peer_shift) = (ours, theirs);
        }
        let deduct = if self.timestamps { 12 } else { 0 };
        self.mss = options.mss.unwrap_or(default).clamp(64, path) - deduct;
        self.peer_mss = self.peer_mss.min(path).max(64) - deduct;
        self.congestion = Congestion::new(self.mss);
    }

    /// Whether the connection has come up and not gone down.
    pub(crate) fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// Whether the SYN has gone out more than once, and nothing has come.
    pub(crate) fn is_unanswered(&self) -> bool {
        self.state == State::SynSent && self.retries > 0
    }

    /// Whether the SYN is on its way, and this acknowledges it.
    pub(crate) fn expects_syn_ack(&self, ack: SeqNumber) -> bool {
        self.state == State::SynSent && ack == self.iss + 1
    }

    /// Whether there is nothing to send on an open connection as long as the queue is empty.
    #[inline]
    pub(crate) fn rests(&self, now: Timestamp) -> bool {
        self.state == State::Open && self.nxt == self.max && self.ack_at > now && !(self.fin_acked && self.peer_fin)
    }

    /// Whether the target closed its direction.
    pub(crate) fn peer_closed(&self) -> bool {
        self.peer_fin
    }

    /// Whether something is missing in what the target has sent.
    #[inline]
    pub(crate) fn has_hole(&self) -> bool {
        self.ahead.is_some()
    }

    /// Twice the smoothed round-trip time, in microseconds; zero before the first measurement.
    #[inline]
    pub(crate) fn two_round_trips(&self) -> u64 {
        self.round_trip.twice_us()
    }

    /// How much of the target's payload is wanted from now on. What came ahead of its turn without it counts as lost: the
    /// target sends it again (RFC 2018, section 8, allows a receiver to change its mind).
    pub(crate) fn want_payload(&mut self, payload: Payload) {
        self.payload = payload;
        self.shown = self.rcv_nxt;
        self.arrivals = None;
        if payload != Payload::Headers {
            self.ahead = None;
            self.fin_ahead = None;
        }
    }

    /// What came ahead of its turn and is next to be shown: its bytes, and how many hidden ones follow.
    pub(crate) fn take_arrived(&mut self) -> Option<(Vec<u8>, u32)> {
        let arrivals = self.arrivals.as_mut()?;
        let next = arrivals.take_at(self.shown);
        if arrivals.is_empty() {
            self.arrivals = None;
        }
        let (bytes, hidden) = next?;
        self.shown += bytes.len() as u32 + hidden;
        Some((bytes, hidden))
    }

    /// Whether our FIN went out.
    pub(crate) fn fin_sent(&self) -> bool {
        self.fin_sent
    }

    /// Whether our FIN was acknowledged: the target has everything.
    pub(crate) fn fin_acked(&self) -> bool {
        self.fin_acked
    }

    /// Whether our side closed first, so that RFC 9293's TIME-WAIT is ours.
    pub(crate) fn closed_first(&self) -> bool {
        self.closed_first
    }

    /// Bytes that were sent before the target's FIN arrived, or would have been if it had, and are not acknowledged.
    pub(crate) fn unacked_before_peer_fin(&self) -> u32 {
        let upto = if self.peer_fin { self.max_at_peer_fin } else { self.max };
        upto.distance_from(self.una).max(0) as u32
    }

    /// An initial sequence number for a new connection on the same ports, beyond what this one has used.
    pub(crate) fn next_iss(&self) -> SeqNumber {
        self.max + 0x1_0000
    }

    /// Forgets what is kept only for retransmission, and all timers; after the end of the connection.
    fn enter_closed(&mut self) {
        self.state = State::Closed;
        self.retransmit_at = Timestamp::NEVER;
        self.ack_at = Timestamp::NEVER;
        self.sacked = None;
        self.ahead = None;
        self.arrivals = None;
    }

    /// Tells the target with a RST that the connection is over, and forgets it.
    pub(crate) fn reset(&mut self, wire: &mut Wire<'_>) {
        match self.state {
            State::Unopened | State::Closed => {}
            State::SynSent => self.enter_closed(),
            State::Open => {
                self.emit_reset(wire, self.max);
                self.enter_closed();
            }
        }
    }
}
