//! The delay line of a session (`--preserve-rtt`): what the target sends is taken up one round-trip time of the client later.
//!
//! # Theory of operation
//!
//! ```text
//! client ------ RTT/2 ------ online | capture            tcpcopy ---- next to nothing ---- target
//! ```
//!
//! At online, a client is half a round trip away in each direction: a response's acknowledgement, and the request that
//! follows it, come one round trip after the response was sent. tcpcopy is next to the target, and so its acknowledgements
//! and requests come at once. Where the target's own delays matter (how long it keeps connections and buffers, how its
//! congestion window grows), each of its packets waits here as long as the client's round-trip time, and everything that
//! follows from it happens that much later: the handshake's end, acknowledgements, the next request.
//!
//! The time is the one between the captures of the client's SYN and of its first acknowledgement: online answers a SYN at
//! once. Until that is there, what comes from the target waits.

use std::collections::VecDeque;
use std::time::Duration;

use tcpcopy_wire::control::{FlowId, ResponseHeader};
use tcpcopy_wire::tcp::Flags;
use tcpcopy_wire::{SeqNumber, Timestamp};

use crate::ledger::Ledger;

/// A client that has acknowledged nothing for this long is taken to be no distance away.
const PATIENCE: Duration = Duration::from_secs(3);
/// Responses that wait in one session at most.
const LIMIT: usize = 4096;
/// The longest TCP options (RFC 9293, section 3.1).
const MAX_OPTIONS: usize = 40;

/// A response that waits.
#[derive(Debug)]
pub(crate) struct DelayedResponse {
    came: Timestamp,
    id: FlowId,
    seq: SeqNumber,
    ack: SeqNumber,
    flags: Flags,
    window: u16,
    payload_len: u32,
    options_len: u8,
    options: [u8; MAX_OPTIONS],
    payload: Vec<u8>,
}

impl DelayedResponse {
    /// As it came.
    pub(crate) fn header(&self) -> ResponseHeader<'_> {
        ResponseHeader {
            id: self.id,
            seq: self.seq,
            ack: self.ack,
            flags: self.flags,
            window: self.window,
            payload_len: self.payload_len,
            options: &self.options[..usize::from(self.options_len)],
            payload: &self.payload,
        }
    }
}

/// See the [module's documentation](self).
#[derive(Debug)]
pub(crate) struct DelayLine {
    opened_at: Timestamp,
    round_trip: Option<Duration>,
    responses: VecDeque<DelayedResponse>,
}

impl DelayLine {
    /// Bytes that a response takes while it waits, its payload left out.
    pub(crate) const RESPONSE_BYTES: usize = size_of::<DelayedResponse>();

    /// The line of a session whose SYN was captured now.
    pub(crate) fn new(now: Timestamp) -> Self {
        Self { opened_at: now, round_trip: None, responses: VecDeque::new() }
    }

    /// The client has acknowledged something: the first time that tells how far away it is.
    #[inline]
    pub(crate) fn on_client_ack(&mut self, now: Timestamp) {
        if self.round_trip.is_none() {
            self.round_trip = Some(now.since(self.opened_at));
        }
    }

    /// A response has come.
    pub(crate) fn put(&mut self, now: Timestamp, header: &ResponseHeader<'_>, ledger: &mut Ledger) {
        if self.responses.len() >= LIMIT || header.options.len() > MAX_OPTIONS {
            ledger.responses_delayed_lost += 1;
            return;
        }
        let mut options = [0; MAX_OPTIONS];
        options[..header.options.len()].copy_from_slice(header.options);
        ledger.responses_delayed += 1;
        self.responses.push_back(DelayedResponse {
            came: now,
            id: header.id,
            seq: header.seq,
            ack: header.ack,
            flags: header.flags,
            window: header.window,
            payload_len: header.payload_len,
            options_len: header.options.len() as u8,
            options,
            payload: header.payload.to_vec(),
        });
    }

    /// The oldest response, if its time has come.
    pub(crate) fn take(&mut self, now: Timestamp, ledger: &mut Ledger) -> Option<DelayedResponse> {
        if self.next_due() > now {
            return None;
        }
        if self.round_trip.is_none() {
            self.round_trip = Some(Duration::ZERO);
        }
        ledger.responses_delayed -= 1;
        self.responses.pop_front()
    }

    /// When the oldest response is to be taken up; [`Timestamp::NEVER`] while none waits.
    #[inline]
    pub(crate) fn next_due(&self) -> Timestamp {
        self.responses.front().map_or(Timestamp::NEVER, |oldest| oldest.came + self.round_trip.unwrap_or(PATIENCE))
    }

    /// Responses that wait.
    pub(crate) fn len(&self) -> usize {
        self.responses.len()
    }
}
