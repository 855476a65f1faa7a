//! The numbers of the encoding.

use std::fmt;

/// The first bytes on a connection, in either direction. The first is no text, no TLS record and not zero, so that
/// other protocols, and the C programs' control link (which begins with zeros), are told apart by one byte.
pub const MAGIC: [u8; 4] = [0x8e, b'T', b'C', b'P'];
/// The version that is spoken here.
pub const VERSION: u16 = 2;
/// Bytes of a hello before its body: magic, version, length of the body.
pub const HELLO_HEAD_LEN: usize = 8;
/// Bytes of body in the hello of this version. A longer one is read as far as it is known.
pub const HELLO_BODY_LEN: usize = 12;
/// Longest body of a hello that is accepted, in bytes.
pub const MAX_HELLO_BODY_LEN: usize = 1024;
/// Bytes before the body of each frame: type, zero, length of the body.
pub const FRAME_HEADER_LEN: usize = 4;
/// Longest body of a frame, in bytes.
pub const MAX_BODY_LEN: usize = u16::MAX as usize;
/// In a type: a receiver that does not know it skips the frame instead of giving the connection up.
pub const MAY_BE_IGNORED: u8 = 0x80;
/// Bytes of an IPv4 route to add.
pub const ROUTE_ADD_V4_LEN: usize = 20;
/// Bytes of an IPv6 route to add.
pub const ROUTE_ADD_V6_LEN: usize = 44;
/// Bytes of a route to remove.
pub const ROUTE_REMOVE_LEN: usize = 8;
/// Bytes of a response before its options.
pub const RESPONSE_FIXED_LEN: usize = 24;
/// Bytes of a route's wish for payload.
pub const ROUTE_PAYLOAD_LEN: usize = 12;
/// In a route's wish for payload: everything.
pub const EVERYTHING: u32 = u32::MAX;
/// Bytes of a datagram before its payload.
pub const DATAGRAM_FIXED_LEN: usize = 12;
/// Feature: routes may ask for payload, and responses may carry it.
pub const FEATURE_PAYLOAD: u32 = 1;
/// Feature: routes of UDP flows, and datagrams.
pub const FEATURE_UDP: u32 = 2;
/// Feature: the sender has a secret. Both ends have it, or the connection ends: each proves that it knows the secret, with
/// [`Kind::Challenge`] and [`Kind::Proof`], before anything else is taken.
pub const FEATURE_AUTHENTICATION: u32 = 4;
/// Feature, from intercept to a tcpcopy that it refuses: it serves TLS and nothing else.
pub const FEATURE_TLS_ONLY: u32 = 8;
/// Feature: questions about intercept's host, and its report.
pub const FEATURE_CHECKS: u32 = 16;
/// Bytes of a question.
pub const QUESTION_LEN: usize = 38;
/// Questions in a frame at most.
pub const MAX_QUESTIONS: usize = 16;
/// Bytes of a report before its answers.
pub const REPORT_FIXED_LEN: usize = 28;
/// Bytes of each answer in it.
pub const REPORT_ANSWER_LEN: usize = 4;
/// Longest release that a report names, in bytes.
pub const MAX_REPORT_VERSION: usize = 64;
/// Longest list of devices in a report, in bytes.
pub const MAX_REPORT_DEVICES: usize = 256;
/// Longest filter in a report, in bytes.
pub const MAX_REPORT_FILTER: usize = 2048;
/// Bytes of a challenge: random, never the same twice.
pub const NONCE_LEN: usize = 32;
/// Bytes of a proof.
pub const PROOF_LEN: usize = 32;
/// Most payload in one record of a response, in bytes; what has more is written as several.
pub const MAX_RECORD_PAYLOAD: usize = 32 << 10;
/// Bytes of the statistics of this version. Longer ones are read as far as they are known.
pub const STATS_LEN: usize = 48;
/// Longest text of an error, in bytes.
pub const MAX_ERROR_LEN: usize = 1024;

/// What a frame carries.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Kind {
    /// IPv4 routes to add.
    RouteAddV4 = 0x01,
    /// IPv6 routes to add.
    RouteAddV6 = 0x02,
    /// Routes to remove.
    RouteRemove = 0x03,
    /// Wishes for payload.
    RoutePayload = 0x04,
    /// IPv4 routes of UDP flows to add.
    UdpRouteAddV4 = 0x05,
    /// IPv6 routes of UDP flows to add.
    UdpRouteAddV6 = 0x06,
    /// What would become of packets at intercept?
    Questions = 0x07,
    /// Packets of targets.
    Responses = 0x10,
    /// Packets of targets with payload.
    FullResponses = 0x12,
    /// Datagrams of targets.
    Datagrams = 0x13,
    /// What intercept answers to questions.
    HostReport = 0x14,
    /// Counters of intercept.
    Stats = 0x11 | MAY_BE_IGNORED,
    /// Asks for a pong.
    Ping = 0x20,
    /// Answers a ping.
    Pong = 0x21,
    /// Why the sender is about to close, in words.
    Error = 0x22,
    /// Random bytes that the proofs of both ends are about.
    Challenge = 0x30,
    /// Shows that the sender knows the secret.
    Proof = 0x31,
}

impl Kind {
    /// The kind behind a type byte, if this version has it.
    pub const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            0x01 => Self::RouteAddV4,
            0x02 => Self::RouteAddV6,
            0x03 => Self::RouteRemove,
            0x04 => Self::RoutePayload,
            0x05 => Self::UdpRouteAddV4,
            0x06 => Self::UdpRouteAddV6,
            0x07 => Self::Questions,
            0x10 => Self::Responses,
            0x12 => Self::FullResponses,
            0x13 => Self::Datagrams,
            0x14 => Self::HostReport,
            0x91 => Self::Stats,
            0x20 => Self::Ping,
            0x21 => Self::Pong,
            0x22 => Self::Error,
            0x30 => Self::Challenge,
            0x31 => Self::Proof,
            _ => return None,
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RouteAddV4 => "IPv4 route additions",
            Self::RouteAddV6 => "IPv6 route additions",
            Self::RouteRemove => "route removals",
            Self::RoutePayload => "wishes for payload",
            Self::UdpRouteAddV4 => "IPv4 UDP route additions",
            Self::UdpRouteAddV6 => "IPv6 UDP route additions",
            Self::Questions => "questions",
            Self::Responses => "responses",
            Self::FullResponses => "responses with payload",
            Self::Datagrams => "datagrams",
            Self::HostReport => "a report of intercept's host",
            Self::Stats => "statistics",
            Self::Ping => "ping",
            Self::Pong => "pong",
            Self::Error => "error",
            Self::Challenge => "challenge",
            Self::Proof => "proof",
        })
    }
}
