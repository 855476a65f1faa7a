//! The control link between tcpcopy and intercept, version 2: what its messages mean, and their encoding.
//! docs/protocol.md specifies it for those who write a peer.
//!
//! A connection begins with a [`Hello`] in each direction, tcpcopy's first. Frames follow: a header of four bytes (type,
//! zero, length of the body) and the body. [`BatchEncoder`] packs route changes and responses into as few frames as
//! possible; [`Decoder`] reads either direction from whatever part of the stream has arrived.

mod checks;
mod decode;
mod encode;
mod frame;
mod greeting;
mod legacy;
#[cfg(test)]
mod tests;

pub use checks::{Answer, Answers, Fate, HostReport, Question, Questions, encode_host_report, encode_questions};
pub use decode::{Datagrams, DecodeError, Decoder, Message, Responses, Role, RouteAdds, RoutePayloads, RouteRemoves};
pub use encode::{
    BatchEncoder, encode_challenge, encode_error, encode_hello, encode_ping, encode_pong, encode_proof, encode_stats,
};
pub use frame::{
    DATAGRAM_FIXED_LEN, EVERYTHING, FEATURE_AUTHENTICATION, FEATURE_CHECKS, FEATURE_PAYLOAD, FEATURE_TLS_ONLY,
    FEATURE_UDP, FRAME_HEADER_LEN, HELLO_BODY_LEN, HELLO_HEAD_LEN, Kind, MAGIC, MAX_BODY_LEN, MAX_ERROR_LEN,
    MAX_HELLO_BODY_LEN, MAX_QUESTIONS, MAX_RECORD_PAYLOAD, MAX_REPORT_DEVICES, MAX_REPORT_FILTER, MAX_REPORT_VERSION,
    MAY_BE_IGNORED, NONCE_LEN, PROOF_LEN, QUESTION_LEN, REPORT_ANSWER_LEN, REPORT_FIXED_LEN, RESPONSE_FIXED_LEN,
    ROUTE_ADD_V4_LEN, ROUTE_ADD_V6_LEN, ROUTE_PAYLOAD_LEN, ROUTE_REMOVE_LEN, STATS_LEN, VERSION,
};
pub use greeting::{Greeting, GreetingError, MIN_SECRET_LEN, Secret, ShortSecret};
pub use legacy::{
    CLIENT_MESSAGE_LEN, Format as LegacyFormat, LEGACY_VERSION, LegacyError, LegacyRecords, MAX_RECORD_DATA,
    MAX_RECORD_OPTIONS, NO_SESSION, RecordEncoder, RecordKind, encode_client_add, encode_version,
};

use std::time::Duration;

use crate::address::Flow;
use crate::ip::Transport;
use crate::packet::TcpSegment;
use crate::seq::SeqNumber;
use crate::tcp::Flags;

/// Names a session towards the target. Chosen by tcpcopy, unique among the sessions that live in one tcpcopy worker,
/// and sent back with each response, so that a response finds its session without a look-up by address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowId(pub u64);

/// A change to intercept's routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteChange {
    /// Responses of `flow` (client: the replica's source; server: the target) go to the connection that this arrives on,
    /// marked with `id`. Adding a flow again replaces its id and its connection.
    Add {
        /// The id that responses carry.
        id: FlowId,
        /// The protocol. TCP and UDP flows of the same addresses and ports are different routes.
        transport: Transport,
        /// The replica's connection.
        flow: Flow,
    },
    /// How much of the payload of a route's responses is wanted from now on; [`Payload::Headers`] until this is said.
    Payload {
        /// The id it was added with.
        id: FlowId,
        /// How much.
        payload: Payload,
    },
    /// The session is over.
    Remove {
        /// The id it was added with.
        id: FlowId,
    },
}

/// How much of the payload of a target's packets is wanted; the more, the greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Payload {
    /// Nothing of it.
    #[default]
    Headers,
    /// The first bytes of each packet, at most so many. Zero means nothing.
    First(u16),
    /// Everything.
    Full,
}

impl Payload {
    /// The part of a packet's payload that is wanted.
    #[inline]
    pub fn of(self, payload: &[u8]) -> &[u8] {
        match self {
            Self::Headers => &[],
            Self::First(n) => &payload[..payload.len().min(n.into())],
            Self::Full => payload,
        }
    }
}

/// One TCP packet that the target sent, as intercept reports it: the TCP header, the payload's length, and as much of the
/// payload as the route asked for and the capture had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseHeader<'a> {
    /// The session it belongs to.
    pub id: FlowId,
    /// Sequence number.
    pub seq: SeqNumber,
    /// Acknowledgement number.
    pub ack: SeqNumber,
    /// TCP flags.
    pub flags: Flags,
    /// Advertised window, not scaled.
    pub window: u16,
    /// Bytes of payload that the packet had on the wire (up to 64 KB and more where the capture shows merged segments).
    pub payload_len: u32,
    /// The TCP options, undecoded, at most 40 bytes.
    pub options: &'a [u8],
    /// The first bytes of the payload; none unless the route asked for them.
    pub payload: &'a [u8],
}

impl<'a> ResponseHeader<'a> {
    /// What a captured segment of the target says, with all of the payload that was captured; of no session yet.
    #[inline]
    pub fn of(segment: &TcpSegment<'a>) -> Self {
        Self {
            id: FlowId(0),
            seq: segment.tcp.seq(),
            ack: segment.tcp.ack(),
            flags: segment.tcp.flags(),
            window: segment.tcp.window(),
            payload_len: segment.payload_len,
            options: segment.tcp.options_bytes(),
            payload: segment.payload,
        }
    }
}

/// One UDP datagram that the target sent, as intercept reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DatagramResponse<'a> {
    /// The flow it belongs to.
    pub id: FlowId,
    /// Bytes of payload that the datagram had on the wire.
    pub payload_len: u16,
    /// The first bytes of the payload; none unless the route asked for them.
    pub payload: &'a [u8],
}

/// What each end says first. Both ends send the same fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Hello {
    /// What the sender can do beyond this version; a feature is used when both ends have its bit: [`FEATURE_PAYLOAD`],
    /// [`FEATURE_UDP`]. [`Greeting`] sets [`FEATURE_AUTHENTICATION`] by itself.
    pub features: u32,
    /// From tcpcopy: how long intercept keeps a route for which no response comes, in whole seconds on the wire. Zero
    /// leaves it to intercept. intercept sends zero.
    pub route_ttl: Duration,
    /// Most entries that the sender takes in one frame of route changes or responses; zero: as many as fit.
    pub max_batch: u16,
}

/// Counters of intercept, sent to a tcpcopy now and then. All only grow, except `routes_alive`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct LinkStats {
    /// Frames that intercept has captured, for whichever tcpcopy.
    pub frames_captured: u64,
    /// Frames that the kernel dropped before intercept could read them.
    pub kernel_drops: u64,
    /// Responses for which no route was known in time.
    pub unrouted: u64,
    /// Responses sent on this connection.
    pub relayed: u64,
    /// Responses for this connection that were lost because it was full.
    pub overflowed: u64,
    /// Routes that lead to this connection now.
    pub routes_alive: u64,
}
