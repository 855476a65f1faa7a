//! The control link of the C programs, internal version 6 (tcpcopy and intercept 1.0 and later).
//!
//! tcpcopy sends messages of 14 bytes: on each connection first its version, then one for each session before its SYN.
//! intercept sends nothing but records, each the headers of one TCP packet of a target:
//!
//! | offset | size | content |
//! |---|---|---|
//! | 0 | 20 | IPv4 header |
//! | 20 | 20 | TCP header |
//! | 40 | 24 | TCP options, zeros behind them |
//! | 64 | 128 | in builds with payload: room for what is at 20 + the TCP header's length, if it has no more than 128 bytes |
//!
//! Records come bare, or combined: behind a count of two bytes, 16 of them at most, with payload 6. Nothing says which of
//! these four forms the other end speaks; bare and combined are told apart by the first byte, the sizes are not.
//!
//! Where the C programs contradict themselves: a record's IP header keeps the length of options that are not there, so the
//! TCP header is always read at 20, and its length taken from the header all the same. Options above 24 bytes are cut
//! while the TCP header keeps their length. What is written here has neither: an IP header without options, as many whole
//! TCP options as fit, and lengths to match.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use byteorder::{BigEndian, ByteOrder};

use super::{FlowId, Message, ResponseHeader};
use crate::address::{Endpoint, Flow, Port};
use crate::checksum::Sum;
use crate::ip::PROTOCOL_TCP;
use crate::seq::SeqNumber;
use crate::tcp::Flags;

/// The version that is spoken.
pub const LEGACY_VERSION: u16 = 6;
/// Bytes of each message from tcpcopy.
pub const CLIENT_MESSAGE_LEN: usize = 14;
/// Bytes of TCP options that a record has room for.
pub const MAX_RECORD_OPTIONS: usize = 24;
/// Bytes of payload that a record has room for.
pub const MAX_RECORD_DATA: usize = 128;
/// The id of records until somebody has looked up whose they are; no session has it.
pub const NO_SESSION: FlowId = FlowId(u64::MAX);

/// Type of the message that adds a route.
const CLIENT_ADD: u16 = 1;
/// Type of the message that removes one. Defined, and never sent.
const CLIENT_DEL: u16 = 2;
/// Bytes of an IP header without options, and of a TCP header without options.
const HEADER_LEN: usize = 20;
/// Where the TCP header of a record is.
const TCP_AT: usize = HEADER_LEN;
/// Where the TCP options of a record are.
const OPTIONS_AT: usize = TCP_AT + HEADER_LEN;
/// Bytes that the version message must be zero in before its version.
const ZEROS: usize = 6;

/// What a record holds: a matter of how the C programs were built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum RecordKind {
    /// Headers: 64 bytes.
    #[default]
    Headers,
    /// Headers, and payload of 128 bytes at most (`--with-resp-payload`): 192 bytes.
    WithPayload,
}

impl RecordKind {
    /// Bytes of a record.
    pub const fn record_len(self) -> usize {
        let headers = OPTIONS_AT + MAX_RECORD_OPTIONS;
        match self {
            Self::Headers => headers,
            Self::WithPayload => headers + MAX_RECORD_DATA,
        }
    }

    /// Records in one frame at most.
    pub const fn max_count(self) -> u16 {
        match self {
            Self::Headers => 16,
            Self::WithPayload => 6,
        }
    }
}

/// How intercept writes records. Both ends must be built alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// What a record holds.
    pub records: RecordKind,
    /// Records in frames with a count. Otherwise bare ones (`--disable-combined`).
    pub combined: bool,
}

impl Default for Format {
    fn default() -> Self {
        Self { records: RecordKind::Headers, combined: true }
    }
}

/// Why bytes are not version 6 of the C programs' control link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LegacyError {
    /// It is another version.
    Version {
        /// The one that is spoken here.
        ours: u16,
        /// The one that came.
        theirs: u16,
    },
    /// The connection begins with zero, but not with a version message.
    NoVersion,
    /// A message of a type that does not exist.
    Kind {
        /// The type.
        kind: u16,
    },
    /// A count of records that no frame has.
    Count {
        /// The count.
        count: u16,
        /// How many there may be.
        max: u16,
    },
    /// What should be a record is no packet of TCP over IPv4.
    Record {
        /// Its first byte.
        first: u8,
    },
}

impl fmt::Display for LegacyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let other_build = "was intercept built with --with-resp-payload, or without? legacy-payload is for the first, legacy for \
                           the second";
        match self {
            Self::Version { ours, theirs } => write!(
                f,
                "a tcpcopy of the C programs that speaks version {theirs} of their control link; of those, version {ours} \
                 is served here (tcpcopy 1.0 and later)"
            ),
            Self::NoVersion => write!(
                f,
                "a tcpcopy of the C programs that does not say its version, which is older than {LEGACY_VERSION}, the one \
                 that is served here"
            ),
            Self::Kind { kind } => write!(f, "a message of unknown type {kind} from a tcpcopy of the C programs"),
            Self::Count { count, max } => {
                write!(f, "a frame of {count} records, of which there are {max} at most: {other_build}")
            }
            Self::Record { first } => {
                write!(f, "a record that begins with {first:#04x} and is no TCP packet: {other_build}")
            }
        }
    }
}

impl std::error::Error for LegacyError {}

/// Appends the message that each connection begins with.
pub fn encode_version(out: &mut Vec<u8>) {
    let mut message = [0; CLIENT_MESSAGE_LEN];
    BigEndian::write_u16(&mut message[6..], LEGACY_VERSION);
    out.extend_from_slice(&message);
}

/// Appends the message that a session begins with. Whether there is one: for IPv6 there is none.
pub fn encode_client_add(flow: &Flow, out: &mut Vec<u8>) -> bool {
    let (IpAddr::V4(client), IpAddr::V4(server)) = (flow.client.addr, flow.server.addr) else { return false };
    out.extend_from_slice(&client.octets());
    out.extend_from_slice(&flow.client.port.0.to_be_bytes());
    out.extend_from_slice(&CLIENT_ADD.to_be_bytes());
    out.extend_from_slice(&server.octets());
    out.extend_from_slice(&flow.server.port.0.to_be_bytes());
    true
}

/// The version message, if that is what a connection begins with, and its length; `None` when more bytes are needed.
///
/// # Errors
/// Another version, as soon as it is there; or no version at all.
pub(super) fn decode_version(bytes: &[u8]) -> Result<Option<(Message<'_>, usize)>, LegacyError> {
    if bytes.iter().take(ZEROS).any(|byte| *byte != 0) {
        return Err(LegacyError::NoVersion);
    }
    let Some(version) = bytes.get(ZEROS..ZEROS + 2) else { return Ok(None) };
    let theirs = BigEndian::read_u16(version);
    if theirs != LEGACY_VERSION {
        return Err(LegacyError::Version { ours: LEGACY_VERSION, theirs });
    }
    Ok((bytes.len() >= CLIENT_MESSAGE_LEN).then_some((Message::LegacyHello, CLIENT_MESSAGE_LEN)))
}

/// A message of tcpcopy after the first, and its length; `None` when more bytes are needed.
///
/// # Errors
/// A type that does not exist.
pub(super) fn decode_client(bytes: &[u8]) -> Result<Option<(Message<'_>, usize)>, LegacyError> {
    let Some(m) = bytes.first_chunk::<CLIENT_MESSAGE_LEN>() else { return Ok(None) };
    let message = match BigEndian::read_u16(&m[6..]) {
        CLIENT_ADD => {
            Message::LegacyRoute(Flow { client: endpoint(&m[..4], &m[4..]), server: endpoint(&m[8..], &m[12..]) })
        }
        CLIENT_DEL => Message::Skipped { kind: CLIENT_DEL as u8 },
        kind => return Err(LegacyError::Kind { kind }),
    };
    Ok(Some((message, CLIENT_MESSAGE_LEN)))
}

/// The records that `bytes` begin with, and their length; `None` when more bytes are needed.
///
/// # Errors
/// What is no record, or not of this kind.
pub(super) fn decode_records(kind: RecordKind, bytes: &[u8]) -> Result<Option<(Message<'_>, usize)>, LegacyError> {
    let (head, count) = match bytes.first() {
        None => return Ok(None),
        // The high byte of a count is zero, and an IPv4 header begins with a four.
        Some(first) if first >> 4 == 4 => (0, 1),
        Some(0) => {
            let Some(count) = bytes.get(..2).map(BigEndian::read_u16) else { return Ok(None) };
            let max = kind.max_count();
            if count > max {
                return Err(LegacyError::Count { count, max });
            }
            (2, usize::from(count))
        }
        Some(first) => return Err(LegacyError::Record { first: *first }),
    };
    let end = head + count * kind.record_len();
    let Some(body) = bytes.get(head..end) else { return Ok(None) };
    if let Some(wrong) = body.chunks_exact(kind.record_len()).find(|record| !is_tcp(record)) {
        return Err(LegacyError::Record { first: wrong[0] });
    }
    Ok(Some((Message::LegacyRecords(LegacyRecords { body, kind }), end)))
}

/// Whether a record holds the headers of a TCP packet over IPv4.
fn is_tcp(record: &[u8]) -> bool {
    (0x45..=0x4f).contains(&record[0]) && record[9] == PROTOCOL_TCP && tcp_header_len(record) >= HEADER_LEN
}

fn tcp_header_len(record: &[u8]) -> usize {
    usize::from(record[TCP_AT + 12] >> 4) * 4
}

fn endpoint(addr: &[u8], port: &[u8]) -> Endpoint {
    Endpoint::new(IpAddr::V4(Ipv4Addr::from(BigEndian::read_u32(addr))), Port(BigEndian::read_u16(port)))
}

/// Records that came together: each the packet's flow, with its sender as the server, and what it says. Their id is
/// [`NO_SESSION`].
#[derive(Clone, Debug)]
pub struct LegacyRecords<'a> {
    body: &'a [u8],
    kind: RecordKind,
}

impl<'a> Iterator for LegacyRecords<'a> {
    type Item = (Flow, ResponseHeader<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let (record, rest) = self.body.split_at_checked(self.kind.record_len())?;
        self.body = rest;
        let (ip, tcp) = record.split_at(TCP_AT);
        let flow = Flow { server: endpoint(&ip[12..], tcp), client: endpoint(&ip[16..], &tcp[2..]) };
        let (ip_len, tcp_len) = (usize::from(ip[0] & 0x0f) * 4, tcp_header_len(record));
        // A total length of zero is that of a packet above 64 KB, which says too little: it is sent again.
        let payload_len = usize::from(BigEndian::read_u16(&ip[2..])).saturating_sub(ip_len + tcp_len);
        let options_len = (tcp_len - HEADER_LEN).min(MAX_RECORD_OPTIONS);
        let payload = match self.kind {
            RecordKind::WithPayload if payload_len <= MAX_RECORD_DATA => tcp.get(tcp_len..tcp_len + payload_len),
            _ => None,
        };
        let header = ResponseHeader {
            id: NO_SESSION,
            seq: SeqNumber(BigEndian::read_u32(&tcp[4..])),
            ack: SeqNumber(BigEndian::read_u32(&tcp[8..])),
            flags: Flags(tcp[13]),
            window: BigEndian::read_u16(&tcp[14..]),
            payload_len: payload_len as u32,
            options: &record[OPTIONS_AT..OPTIONS_AT + options_len],
            payload: payload.unwrap_or(&[]),
        };
        Some((flow, header))
    }
}

/// Writes records in one of their forms.
#[derive(Clone, Debug)]
pub struct RecordEncoder {
    format: Format,
    max_count: u16,
    /// Where the count of the frame that may take more is, and the count.
    open: Option<(usize, u16)>,
}

impl RecordEncoder {
    /// Writes in this form. `max_batch`: records in one frame at most; zero, or more than a frame may have: as many as one
    /// may have.
    pub fn new(format: Format, max_batch: u16) -> Self {
        let most = format.records.max_count();
        Self { format, max_count: if max_batch == 0 { most } else { max_batch.min(most) }, open: None }
    }

    /// Appends a packet: one record, or several where it is longer than an IPv4 header can say (a capture merges packets).
    /// The form has no room for IPv6: whether the packet was written.
    pub fn record(&mut self, flow: &Flow, response: &ResponseHeader<'_>, out: &mut Vec<u8>) -> bool {
        let (IpAddr::V4(client), IpAddr::V4(server)) = (flow.client.addr, flow.server.addr) else { return false };
        let (options, options_len) = fitting(response.options);
        let headers_len = 2 * HEADER_LEN + options_len;
        let longest = u32::from(u16::MAX) - headers_len as u32;
        let (mut seq, mut rest) = (response.seq, response.payload_len);
        loop {
            let part = rest.min(longest);
            let is_last = part == rest;
            let flags = if is_last { response.flags } else { response.flags.without(Flags::FIN | Flags::PSH) };
            let at = self.begin(out);
            let record = &mut out[at..];

            record[0] = 0x45;
            BigEndian::write_u16(&mut record[2..], (headers_len + part as usize) as u16);
            record[6] = 0x40; // not to be fragmented
            record[8] = 64;
            record[9] = PROTOCOL_TCP;
            record[12..16].copy_from_slice(&server.octets());
            record[16..20].copy_from_slice(&client.octets());
            let checksum = Sum::default().add_bytes(&record[..HEADER_LEN]).finish();
            BigEndian::write_u16(&mut record[10..], checksum);

            let tcp = &mut record[TCP_AT..];
            BigEndian::write_u16(tcp, flow.server.port.0);
            BigEndian::write_u16(&mut tcp[2..], flow.client.port.0);
            BigEndian::write_u32(&mut tcp[4..], seq.0);
            BigEndian::write_u32(&mut tcp[8..], response.ack.0);
            tcp[12] = ((HEADER_LEN + options_len) as u8) << 2;
            tcp[13] = flags.0;
            BigEndian::write_u16(&mut tcp[14..], response.window);
            tcp[HEADER_LEN..HEADER_LEN + MAX_RECORD_OPTIONS].copy_from_slice(&options);
            let whole = response.payload.len() == response.payload_len as usize && part <= MAX_RECORD_DATA as u32;
            if self.format.records == RecordKind::WithPayload && whole {
                let at = HEADER_LEN + options_len;
                tcp[at..at + part as usize].copy_from_slice(response.payload);
            }
            if is_last {
                return true;
            }
            seq += part;
            rest -= part;
        }
    }

    /// Ends the frame: what is written next begins another. To be called when the buffer is given away.
    pub fn seal(&mut self) {
        self.open = None;
    }

    /// Appends an empty record, counted. Returns where it is.
    fn begin(&mut self, out: &mut Vec<u8>) -> usize {
        if self.format.combined {
            let (at, count) = match self.open {
                Some((at, count)) if count < self.max_count => (at, count + 1),
                _ => {
                    out.extend_from_slice(&[0, 0]);
                    (out.len() - 2, 1)
                }
            };
            BigEndian::write_u16(&mut out[at..], count);
            self.open = Some((at, count));
        }
        let at = out.len();
        out.resize(at + self.format.records.record_len(), 0);
        at
    }
}

/// The whole options that fit a record, and their length, which is a multiple of four.
fn fitting(options: &[u8]) -> ([u8; MAX_RECORD_OPTIONS], usize) {
    let mut fit = [0; MAX_RECORD_OPTIONS];
    let mut len = options.len();
    if len > MAX_RECORD_OPTIONS {
        len = 0;
        while let Some(kind) = options.get(len) {
            let next = match kind {
                // The end of the list, and the one that is a byte of nothing (RFC 9293, section 3.1).
                0 => break,
                1 => len + 1,
                _ => len + usize::from(options.get(len + 1).copied().unwrap_or(0)).max(2),
            };
            if next > MAX_RECORD_OPTIONS {
                break;
            }
            len = next;
        }
    }
    fit[..len].copy_from_slice(&options[..len]);
    (fit, len.next_multiple_of(4))
}

#[cfg(test)]
mod tests;
