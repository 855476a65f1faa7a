//! Reading the control link.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use byteorder::{BigEndian, ByteOrder};

use super::checks::{HostReport, Questions};
use super::frame::{
    DATAGRAM_FIXED_LEN, FRAME_HEADER_LEN, HELLO_BODY_LEN, HELLO_HEAD_LEN, Kind, MAGIC, MAX_ERROR_LEN,
    MAX_HELLO_BODY_LEN, MAX_QUESTIONS, MAY_BE_IGNORED, NONCE_LEN, PROOF_LEN, QUESTION_LEN, REPORT_FIXED_LEN,
    RESPONSE_FIXED_LEN, ROUTE_ADD_V4_LEN, ROUTE_ADD_V6_LEN, ROUTE_PAYLOAD_LEN, ROUTE_REMOVE_LEN, STATS_LEN, VERSION,
};
use super::legacy::{self, LegacyError, LegacyRecords, RecordKind};
use super::{DatagramResponse, FlowId, Hello, LinkStats, Payload, ResponseHeader};
use crate::address::{Endpoint, Flow, Port};
use crate::ip::Transport;
use crate::seq::SeqNumber;
use crate::tcp::{Flags, MAX_OPTIONS_LEN};

/// The type of the first record of a TLS connection (RFC 8446, 5.1).
const TLS_HANDSHAKE: u8 = 0x16;

/// Which end of the link reads. Each accepts only what the other one may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Reads responses and statistics.
    Tcpcopy,
    /// Reads route changes.
    Intercept,
}

/// A message, borrowing from the bytes it was read from.
#[derive(Clone, Debug)]
pub enum Message<'a> {
    /// The first message of a connection.
    Hello(Hello),
    /// Routes to add.
    RouteAdds(RouteAdds<'a>),
    /// Routes to remove.
    RouteRemoves(RouteRemoves<'a>),
    /// Wishes for payload.
    RoutePayloads(RoutePayloads<'a>),
    /// Packets of targets.
    Responses(Responses<'a>),
    /// Datagrams of targets.
    Datagrams(Datagrams<'a>),
    /// What would become of packets at intercept?
    Questions(Questions<'a>),
    /// What intercept answers to that.
    HostReport(HostReport<'a>),
    /// Counters of intercept.
    Stats(LinkStats),
    /// Asks for a pong with the same number.
    Ping(u64),
    /// Answers a ping.
    Pong(u64),
    /// Why the sender is about to close.
    Error(&'a str),
    /// Random bytes that the proofs of both ends are about.
    Challenge([u8; NONCE_LEN]),
    /// Shows that the sender knows the secret.
    Proof([u8; PROOF_LEN]),
    /// A frame of a type that this version does not know and need not know.
    Skipped {
        /// The type.
        kind: u8,
    },
    /// The first message of a tcpcopy of the C programs, which has the version that is served.
    LegacyHello,
    /// A route to add, from such a tcpcopy. It names the session by nothing else.
    LegacyRoute(Flow),
    /// Packets of targets, from an intercept of the C programs.
    LegacyRecords(LegacyRecords<'a>),
}

/// Why a stream of bytes is not the control link. The connection cannot be used any further.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// The connection does not begin as a control link does.
    WrongMagic {
        /// The first bytes that came, as many as are needed to tell.
        first: [u8; 4],
        /// How many of them came.
        len: u8,
    },
    /// The other end speaks another version.
    Version {
        /// The version spoken here.
        ours: u16,
        /// The version that came.
        theirs: u16,
    },
    /// The length of a hello is impossible.
    HelloLength {
        /// Bytes of body it claims.
        len: usize,
    },
    /// The byte after a frame's type, which is zero in this version, is not.
    Reserved {
        /// The type.
        kind: u8,
        /// The byte.
        byte: u8,
    },
    /// A type that this version does not know, and that must not be skipped.
    UnknownKind {
        /// The type.
        kind: u8,
    },
    /// A message that this end never receives.
    WrongDirection {
        /// What came.
        kind: Kind,
        /// Who got it.
        role: Role,
    },
    /// Something else than a proof from an end that has not proved who it is.
    Unproved {
        /// The type.
        kind: u8,
    },
    /// A part of a proof that nobody asked for.
    Unasked {
        /// What came.
        kind: Kind,
    },
    /// A frame whose length does not suit what it carries.
    Length {
        /// What it carries.
        kind: Kind,
        /// Bytes of body.
        len: usize,
    },
    /// A response that claims more options than a TCP header has room for.
    OptionsLength {
        /// Bytes of options it claims.
        len: u8,
    },
    /// A text is not UTF-8.
    Text,
    /// What came is not the C programs' control link either.
    Legacy(LegacyError),
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WrongMagic { first, len } => {
                f.write_str("not a control link of this program: it begins with")?;
                let came = &first[..usize::from(*len)];
                for byte in came {
                    write!(f, " {byte:02x}")?;
                }
                if came[0] == 0 {
                    f.write_str(", as what an intercept of version 1.x sends: give tcpcopy --intercept-protocol legacy")
                } else if came[0] == TLS_HANDSHAKE {
                    f.write_str(
                        ", as TLS does, which intercept does not serve here: give intercept --tls-cert and --tls-key, or \
                         leave --tls-ca out at tcpcopy",
                    )
                } else if came.iter().all(|b| b.is_ascii_graphic() || *b == b' ') {
                    write!(f, " ({:?})", String::from_utf8_lossy(came))
                } else {
                    Ok(())
                }
            }
            Self::Version { ours, theirs } => write!(
                f,
                "the other end speaks version {theirs} of the control link, this end version {ours}; use tcpcopy and \
                 intercept of one release"
            ),
            Self::HelloLength { len } => write!(f, "a hello with an impossible length of {len} bytes"),
            Self::Reserved { kind, byte } => {
                write!(f, "a frame of type {kind:#04x} with {byte:#04x} where zero belongs")
            }
            Self::UnknownKind { kind } => write!(f, "a frame of unknown type {kind:#04x} that must not be skipped"),
            Self::WrongDirection { kind, role } => {
                let role = match role {
                    Role::Tcpcopy => "tcpcopy",
                    Role::Intercept => "intercept",
                };
                write!(f, "{kind} sent to {role}, which never receives them")
            }
            Self::Unproved { kind } => {
                write!(f, "a frame of type {kind:#04x} from an end that has not proved that it knows the secret")
            }
            Self::Unasked { kind } => write!(f, "a {kind} that nobody asked for"),
            Self::Length { kind, len } => write!(f, "a frame of {kind} with an impossible length of {len} bytes"),
            Self::OptionsLength { len } => write!(f, "a response with {len} bytes of TCP options; 40 are possible"),
            Self::Text => f.write_str("a text that is not UTF-8"),
            Self::Legacy(e) => e.fmt(f),
        }
    }
}

impl std::error::Error for DecodeError {}

/// Reads one direction of a control link. It holds no bytes: the caller keeps what has arrived and hands it over.
#[derive(Clone, Debug)]
pub struct Decoder {
    role: Role,
    greeted: bool,
    proof_only: bool,
    legacy: Option<Legacy>,
}

/// Which direction of the C programs' control link is read.
#[derive(Clone, Copy, Debug)]
enum Legacy {
    FromTcpcopy,
    FromIntercept(RecordKind),
}

impl Decoder {
    /// A decoder at the start of a connection, at the end `role`. intercept's recognises a tcpcopy of the C programs by
    /// its first byte.
    pub const fn new(role: Role) -> Self {
        Self { role, greeted: false, proof_only: false, legacy: None }
    }

    /// A decoder of what an intercept of the C programs sends, which begins with no hello.
    pub const fn legacy(records: RecordKind) -> Self {
        let legacy = Some(Legacy::FromIntercept(records));
        Self { role: Role::Tcpcopy, greeted: true, proof_only: false, legacy }
    }

    /// Whether nothing is taken after the hello but what proves that the other end knows the secret, and errors. Other
    /// frames are refused by their first byte, so that a stranger cannot make this end keep the beginning of a long one.
    pub const fn take_proof_only(&mut self, proof_only: bool) {
        self.proof_only = proof_only;
    }

    /// The message that `bytes` begin with, and how many of them it takes; `None` when more bytes are needed. A message
    /// that is returned has been checked to its last byte.
    ///
    /// # Errors
    /// What is wrong with the bytes, as soon as that can be told. The decoder must not be used again.
    #[inline]
    pub fn next<'a>(&mut self, bytes: &'a [u8]) -> Result<Option<(Message<'a>, usize)>, DecodeError> {
        if let Some(legacy) = self.legacy {
            let message = match legacy {
                Legacy::FromTcpcopy => legacy::decode_client(bytes),
                Legacy::FromIntercept(records) => legacy::decode_records(records, bytes),
            };
            return message.map_err(DecodeError::Legacy);
        }
        if !self.greeted {
            if self.role == Role::Intercept && bytes.first() == Some(&0) {
                let hello = legacy::decode_version(bytes).map_err(DecodeError::Legacy)?;
                self.greeted = hello.is_some();
                self.legacy = hello.is_some().then_some(Legacy::FromTcpcopy);
                return Ok(hello);
            }
            let hello = decode_hello(bytes)?;
            self.greeted = hello.is_some();
            return Ok(hello);
        }
        let Some((header, rest)) = bytes.split_first_chunk::<FRAME_HEADER_LEN>() else {
            // Two bytes are enough to see that it is not a frame.
            if let [kind, reserved, ..] = bytes {
                self.check_header(*kind, *reserved)?;
            }
            return Ok(None);
        };
        let kind = self.check_header(header[0], header[1])?;
        let len = usize::from(BigEndian::read_u16(&header[2..]));
        if let Some(kind) = kind {
            check_length(kind, len)?;
        }
        let Some(body) = rest.get(..len) else { return Ok(None) };
        let message = match kind {
            None => Message::Skipped { kind: header[0] },
            Some(kind) => decode_body(kind, body)?,
        };
        Ok(Some((message, FRAME_HEADER_LEN + len)))
    }

    /// The kind of a frame; `None` when it is to be skipped.
    #[inline]
    fn check_header(&self, kind_byte: u8, reserved: u8) -> Result<Option<Kind>, DecodeError> {
        let kind = Kind::from_byte(kind_byte);
        match kind {
            Some(Kind::Error) => {}
            Some(Kind::Challenge | Kind::Proof) if self.proof_only => {}
            Some(kind @ (Kind::Challenge | Kind::Proof)) => return Err(DecodeError::Unasked { kind }),
            _ if self.proof_only => return Err(DecodeError::Unproved { kind: kind_byte }),
            _ => {}
        }
        match (kind, self.role) {
            (None, _) if kind_byte & MAY_BE_IGNORED != 0 => return Ok(None),
            (None, _) => return Err(DecodeError::UnknownKind { kind: kind_byte }),
            (
                Some(
                    kind @ (Kind::RouteAddV4
                    | Kind::RouteAddV6
                    | Kind::UdpRouteAddV4
                    | Kind::UdpRouteAddV6
                    | Kind::RoutePayload
                    | Kind::RouteRemove
                    | Kind::Questions),
                ),
                Role::Tcpcopy,
            )
            | (
                Some(kind @ (Kind::Responses | Kind::FullResponses | Kind::Datagrams | Kind::HostReport | Kind::Stats)),
                Role::Intercept,
            ) => {
                return Err(DecodeError::WrongDirection { kind, role: self.role });
            }
            _ => {}
        }
        if reserved != 0 {
            return Err(DecodeError::Reserved { kind: kind_byte, byte: reserved });
        }
        Ok(kind)
    }
}

fn decode_hello(bytes: &[u8]) -> Result<Option<(Message<'_>, usize)>, DecodeError> {
    let came = bytes.len().min(MAGIC.len());
    if bytes[..came] != MAGIC[..came] {
        let mut first = [0; 4];
        first[..came].copy_from_slice(&bytes[..came]);
        return Err(DecodeError::WrongMagic { first, len: came as u8 });
    }
    let Some(head) = bytes.first_chunk::<HELLO_HEAD_LEN>() else { return Ok(None) };
    let theirs = BigEndian::read_u16(&head[4..]);
    if theirs != VERSION {
        return Err(DecodeError::Version { ours: VERSION, theirs });
    }
    let len = usize::from(BigEndian::read_u16(&head[6..]));
    if !(HELLO_BODY_LEN..=MAX_HELLO_BODY_LEN).contains(&len) {
        return Err(DecodeError::HelloLength { len });
    }
    let Some(body) = bytes.get(HELLO_HEAD_LEN..HELLO_HEAD_LEN + len) else { return Ok(None) };
    let hello = Hello {
        features: BigEndian::read_u32(body),
        route_ttl: Duration::from_secs(u64::from(BigEndian::read_u32(&body[4..]))),
        max_batch: BigEndian::read_u16(&body[8..]),
    };
    Ok(Some((Message::Hello(hello), HELLO_HEAD_LEN + len)))
}

/// Whether a frame of this kind can have a body of this length: known before the body has arrived.
#[inline]
fn check_length(kind: Kind, len: usize) -> Result<(), DecodeError> {
    let possible = match kind {
        Kind::RouteAddV4 | Kind::UdpRouteAddV4 => len.is_multiple_of(ROUTE_ADD_V4_LEN) && len > 0,
        Kind::RoutePayload => len.is_multiple_of(ROUTE_PAYLOAD_LEN) && len > 0,
        Kind::FullResponses => len >= RESPONSE_FIXED_LEN + 2,
        Kind::Datagrams => len >= DATAGRAM_FIXED_LEN,
        Kind::RouteAddV6 | Kind::UdpRouteAddV6 => len.is_multiple_of(ROUTE_ADD_V6_LEN) && len > 0,
        Kind::RouteRemove => len.is_multiple_of(ROUTE_REMOVE_LEN) && len > 0,
        Kind::Responses => len >= RESPONSE_FIXED_LEN,
        Kind::Questions => len.is_multiple_of(QUESTION_LEN) && (1..=MAX_QUESTIONS * QUESTION_LEN).contains(&len),
        Kind::HostReport => len >= REPORT_FIXED_LEN,
        Kind::Stats => len >= STATS_LEN,
        Kind::Ping | Kind::Pong => len == 8,
        Kind::Error => len <= MAX_ERROR_LEN,
        Kind::Challenge => len == NONCE_LEN,
        Kind::Proof => len == PROOF_LEN,
    };
    if possible { Ok(()) } else { Err(DecodeError::Length { kind, len }) }
}

#[inline]
fn decode_body(kind: Kind, body: &[u8]) -> Result<Message<'_>, DecodeError> {
    Ok(match kind {
        Kind::RouteAddV4 => Message::RouteAdds(RouteAdds { body, v6: false, transport: Transport::Tcp }),
        Kind::RouteAddV6 => Message::RouteAdds(RouteAdds { body, v6: true, transport: Transport::Tcp }),
        Kind::UdpRouteAddV4 => Message::RouteAdds(RouteAdds { body, v6: false, transport: Transport::Udp }),
        Kind::UdpRouteAddV6 => Message::RouteAdds(RouteAdds { body, v6: true, transport: Transport::Udp }),
        Kind::RoutePayload => Message::RoutePayloads(RoutePayloads { body }),
        Kind::RouteRemove => Message::RouteRemoves(RouteRemoves { body }),
        Kind::Responses => Message::Responses(Responses::checked(body, false)?),
        Kind::FullResponses => Message::Responses(Responses::checked(body, true)?),
        Kind::Datagrams => Message::Datagrams(Datagrams::checked(body)?),
        Kind::Questions => Message::Questions(Questions::checked(body)?),
        Kind::HostReport => Message::HostReport(HostReport::decode(body)?),
        Kind::Stats => {
            let mut c = [0u64; STATS_LEN / 8];
            BigEndian::read_u64_into(&body[..STATS_LEN], &mut c);
            Message::Stats(LinkStats {
                frames_captured: c[0],
                kernel_drops: c[1],
                unrouted: c[2],
                relayed: c[3],
                overflowed: c[4],
                routes_alive: c[5],
            })
        }
        Kind::Ping => Message::Ping(BigEndian::read_u64(body)),
        Kind::Pong => Message::Pong(BigEndian::read_u64(body)),
        Kind::Error => Message::Error(std::str::from_utf8(body).map_err(|_| DecodeError::Text)?),
        Kind::Challenge => Message::Challenge(fixed(kind, body)?),
        Kind::Proof => Message::Proof(fixed(kind, body)?),
    })
}

fn fixed<const N: usize>(kind: Kind, body: &[u8]) -> Result<[u8; N], DecodeError> {
    body.try_into().map_err(|_| DecodeError::Length { kind, len: body.len() })
}

/// The entries of a frame of routes to add.
#[derive(Clone, Debug)]
pub struct RouteAdds<'a> {
    body: &'a [u8],
    v6: bool,
    transport: Transport,
}

impl Iterator for RouteAdds<'_> {
    type Item = (FlowId, Transport, Flow);

    fn next(&mut self) -> Option<Self::Item> {
        let entry_len = if self.v6 { ROUTE_ADD_V6_LEN } else { ROUTE_ADD_V4_LEN };
        let (e, rest) = self.body.split_at_checked(entry_len)?;
        self.body = rest;
        let id = FlowId(BigEndian::read_u64(e));
        let (client, server) = e[8..].split_at((entry_len - 8) / 2);
        Some((id, self.transport, Flow { client: endpoint(client), server: endpoint(server) }))
    }
}

/// An endpoint of 6 or 18 bytes.
fn endpoint(e: &[u8]) -> Endpoint {
    let (addr, port) = e.split_at(e.len() - 2);
    let addr = match <[u8; 4]>::try_from(addr) {
        Ok(v4) => IpAddr::V4(Ipv4Addr::from(v4)),
        Err(_) => IpAddr::V6(Ipv6Addr::from(BigEndian::read_u128(addr))),
    };
    Endpoint::new(addr, Port(BigEndian::read_u16(port)))
}

/// The entries of a frame of wishes for payload.
#[derive(Clone, Debug)]
pub struct RoutePayloads<'a> {
    body: &'a [u8],
}

impl Iterator for RoutePayloads<'_> {
    type Item = (FlowId, Payload);

    fn next(&mut self) -> Option<Self::Item> {
        let (e, rest) = self.body.split_first_chunk::<ROUTE_PAYLOAD_LEN>()?;
        self.body = rest;
        let payload = match BigEndian::read_u32(&e[8..]) {
            0 => Payload::Headers,
            // A datagram or a segment that is not merged has no more than that.
            n => u16::try_from(n).map_or(Payload::Full, Payload::First),
        };
        Some((FlowId(BigEndian::read_u64(e)), payload))
    }
}

/// The entries of a frame of routes to remove.
#[derive(Clone, Debug)]
pub struct RouteRemoves<'a> {
    body: &'a [u8],
}

impl Iterator for RouteRemoves<'_> {
    type Item = FlowId;

    fn next(&mut self) -> Option<FlowId> {
        let (e, rest) = self.body.split_first_chunk::<ROUTE_REMOVE_LEN>()?;
        self.body = rest;
        Some(FlowId(u64::from_be_bytes(*e)))
    }
}

/// The entries of a frame of responses.
#[derive(Clone, Debug)]
pub struct Responses<'a> {
    body: &'a [u8],
    /// Each has a payload behind its options.
    full: bool,
}

impl<'a> Responses<'a> {
    /// Walks over the entries once, so that handing them out cannot fail.
    #[inline]
    fn checked(body: &'a [u8], full: bool) -> Result<Self, DecodeError> {
        let mut at = 0;
        while at < body.len() {
            let kind = if full { Kind::FullResponses } else { Kind::Responses };
            let wrong = DecodeError::Length { kind, len: body.len() };
            let Some(&options_len) = body.get(at + RESPONSE_FIXED_LEN - 1) else { return Err(wrong) };
            if usize::from(options_len) > MAX_OPTIONS_LEN {
                return Err(DecodeError::OptionsLength { len: options_len });
            }
            at += RESPONSE_FIXED_LEN + usize::from(options_len);
            if full {
                let Some(len) = body.get(at..at + 2) else { return Err(wrong) };
                at += 2 + usize::from(BigEndian::read_u16(len));
            }
            if at > body.len() {
                return Err(wrong);
            }
        }
        Ok(Self { body, full })
    }
}

impl<'a> Iterator for Responses<'a> {
    type Item = ResponseHeader<'a>;

    #[inline]
    fn next(&mut self) -> Option<ResponseHeader<'a>> {
        let (e, rest) = self.body.split_first_chunk::<RESPONSE_FIXED_LEN>()?;
        let (options, rest) = rest.split_at_checked(usize::from(e[23]))?;
        let (payload, rest) = if self.full {
            let (len, rest) = rest.split_at_checked(2)?;
            rest.split_at_checked(usize::from(BigEndian::read_u16(len)))?
        } else {
            (&[][..], rest)
        };
        self.body = rest;
        Some(ResponseHeader {
            payload,
            id: FlowId(BigEndian::read_u64(&e[0..])),
            seq: SeqNumber(BigEndian::read_u32(&e[8..])),
            ack: SeqNumber(BigEndian::read_u32(&e[12..])),
            payload_len: BigEndian::read_u32(&e[16..]),
            window: BigEndian::read_u16(&e[20..]),
            flags: Flags(e[22]),
            options,
        })
    }
}

/// The entries of a frame of datagrams.
#[derive(Clone, Debug)]
pub struct Datagrams<'a> {
    body: &'a [u8],
}

impl<'a> Datagrams<'a> {
    fn checked(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut entries = Self { body };
        while entries.next().is_some() {}
        if entries.body.is_empty() {
            Ok(Self { body })
        } else {
            Err(DecodeError::Length { kind: Kind::Datagrams, len: body.len() })
        }
    }
}

impl<'a> Iterator for Datagrams<'a> {
    type Item = DatagramResponse<'a>;

    #[inline]
    fn next(&mut self) -> Option<DatagramResponse<'a>> {
        let (e, rest) = self.body.split_first_chunk::<DATAGRAM_FIXED_LEN>()?;
        let (payload, rest) = rest.split_at_checked(usize::from(BigEndian::read_u16(&e[10..])))?;
        self.body = rest;
        Some(DatagramResponse {
            id: FlowId(BigEndian::read_u64(e)),
            payload_len: BigEndian::read_u16(&e[8..]),
            payload,
        })
    }
}
