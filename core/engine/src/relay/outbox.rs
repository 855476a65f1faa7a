//! What the relay wants sent.

use tcpcopy_wire::control::{BatchEncoder, DatagramResponse, RecordEncoder, ResponseHeader};
use tcpcopy_wire::tcp::Flags;
use tcpcopy_wire::{Flow, Transport};

use super::PeerId;

/// What a peer's responses are written in.
#[derive(Debug)]
pub(super) enum Encoder {
    /// Version 2 of the control link.
    Current(BatchEncoder),
    /// That of the C programs.
    Legacy(RecordEncoder),
}

impl Default for Encoder {
    fn default() -> Self {
        Self::Current(BatchEncoder::default())
    }
}

#[derive(Debug, Default)]
struct Batch {
    bytes: Vec<u8>,
    encoder: Encoder,
    responses: u64,
}

/// Filled by [`Relay::handle`](super::Relay::handle), emptied by the caller, who keeps one and uses it again: its buffers
/// grow to the largest burst and then stay. Responses are in it as they go over the control link.
#[derive(Debug, Default)]
pub struct RelayOutbox {
    /// By peer.
    batches: Vec<Batch>,
    /// The peers whose batch is not empty.
    filled: Vec<PeerId>,
    responses: u64,
    bytes: usize,
    /// What a person should know.
    pub notices: Vec<RelayNotice>,
}

impl RelayOutbox {
    /// An empty outbox.
    pub fn new() -> Self {
        Self::default()
    }

    /// For each peer that has something: whole frames to send, and how many responses are in them (a response may take
    /// more than one entry).
    pub fn batches(&self) -> impl Iterator<Item = (PeerId, &[u8], u64)> {
        self.filled.iter().map(|peer| {
            let batch = &self.batches[peer.0 as usize];
            (*peer, &batch.bytes[..], batch.responses)
        })
    }

    /// Responses to send, over all peers.
    #[inline]
    pub fn responses(&self) -> u64 {
        self.responses
    }

    /// Bytes to send, over all peers.
    #[inline]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Forgets what was to be sent; keeps the memory, and the notices.
    pub fn clear_batches(&mut self) {
        for peer in self.filled.drain(..) {
            self.batches[peer.0 as usize].empty();
        }
        self.responses = 0;
        self.bytes = 0;
    }

    #[inline]
    pub(super) fn push(&mut self, peer: PeerId, transport: Transport, flow: &Flow, response: &ResponseHeader<'_>) {
        let batch = &mut self.batches[peer.0 as usize];
        if batch.responses == 0 {
            self.filled.push(peer);
        }
        let before = batch.bytes.len();
        match (&mut batch.encoder, transport) {
            (Encoder::Current(encoder), Transport::Tcp) => encoder.response(response, &mut batch.bytes),
            (Encoder::Current(encoder), Transport::Udp) => {
                let ResponseHeader { id, payload_len, payload, .. } = *response;
                let datagram = DatagramResponse { id, payload_len: payload_len as u16, payload };
                encoder.datagram(&datagram, &mut batch.bytes);
            }
            // Such a peer has routes of TCP over IPv4 only; what is not that has no form there.
            (Encoder::Legacy(encoder), _) => _ = encoder.record(flow, response, &mut batch.bytes),
        }
        batch.responses += 1;
        self.responses += 1;
        self.bytes += batch.bytes.len() - before;
    }

    /// As [`push`](Self::push), of a segment whose whole payload is wanted. Where the capture cut it, the segment is
    /// written as two: what was captured, and then the rest, which is as good as lost.
    #[inline]
    pub(super) fn push_all_of(&mut self, peer: PeerId, flow: &Flow, response: &ResponseHeader<'_>) {
        let captured = response.payload.len() as u32;
        let is_legacy = matches!(self.batches[peer.0 as usize].encoder, Encoder::Legacy(_));
        // A SYN counts in the sequence numbers; it never has that much data.
        if is_legacy || captured == 0 || captured >= response.payload_len || response.flags.contains(Flags::SYN) {
            return self.push(peer, Transport::Tcp, flow, response);
        }
        let flags = response.flags.without(Flags::FIN | Flags::PSH);
        self.push(peer, Transport::Tcp, flow, &ResponseHeader { payload_len: captured, flags, ..*response });
        let rest = ResponseHeader {
            seq: response.seq + captured,
            payload_len: response.payload_len - captured,
            payload: &[],
            ..*response
        };
        let batch = &mut self.batches[peer.0 as usize];
        let before = batch.bytes.len();
        if let Encoder::Current(encoder) = &mut batch.encoder {
            encoder.response(&rest, &mut batch.bytes);
        }
        self.bytes += batch.bytes.len() - before;
    }

    /// Makes a peer known, before anything is pushed for it.
    pub(super) fn set_encoder(&mut self, peer: PeerId, encoder: Encoder) {
        let at = peer.0 as usize;
        if self.batches.len() <= at {
            self.batches.resize_with(at + 1, Batch::default);
        }
        self.batches[at].encoder = encoder;
    }

    /// Forgets what was to be sent to a peer. Returns the number of responses.
    pub(super) fn discard(&mut self, peer: PeerId) -> u64 {
        let Some(batch) = self.batches.get_mut(peer.0 as usize) else { return 0 };
        let responses = batch.responses;
        self.responses -= responses;
        self.bytes -= batch.bytes.len();
        batch.empty();
        self.filled.retain(|p| *p != peer);
        responses
    }
}

impl Batch {
    fn empty(&mut self) {
        self.bytes.clear();
        match &mut self.encoder {
            Encoder::Current(encoder) => encoder.seal(),
            Encoder::Legacy(encoder) => encoder.seal(),
        }
        self.responses = 0;
    }
}

/// Something for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RelayNotice {
    /// Responses found no route in time. Told at most every 10 seconds.
    Unrouted {
        /// The protocol of the newest of them.
        transport: Transport,
        /// Its flow.
        flow: Flow,
        /// How many since the last such notice.
        responses: u64,
    },
    /// A tcpcopy went, and its routes with it.
    RoutesOrphaned {
        /// Its connection.
        peer: PeerId,
        /// How many routes it had.
        routes: u64,
    },
    /// A tcpcopy has as many routes as one may have; more are refused until some are gone. Told once for each connection.
    PeerRoutesFull {
        /// Its connection.
        peer: PeerId,
        /// How many that is.
        limit: usize,
    },
    /// There are as many routes as allowed; more are refused until some are gone.
    RouteTableFull {
        /// How many that is.
        limit: usize,
    },
}

impl RelayNotice {
    /// Whether it comes of routes alone, so that relays with the same routes would all say it.
    pub fn is_of_routes(&self) -> bool {
        match self {
            Self::Unrouted { .. } => false,
            Self::RoutesOrphaned { .. } | Self::PeerRoutesFull { .. } | Self::RouteTableFull { .. } => true,
        }
    }
}
