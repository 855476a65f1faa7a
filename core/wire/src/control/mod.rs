//! The control link between tcpcopy and intercept, version 2: what its messages mean. docs/protocol.md specifies the
//! encoding for those who write a peer.

use crate::address::Flow;
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
        /// The replica's connection.
        flow: Flow,
    },
    /// The session is over.
    Remove {
        /// The id it was added with.
        id: FlowId,
    },
}

/// One packet that the target sent, as intercept reports it: the TCP header and the payload's length.
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
}
