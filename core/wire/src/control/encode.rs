//! Writing the control link.

use std::net::IpAddr;

use byteorder::{BigEndian, ByteOrder};

use super::frame::{
    DATAGRAM_FIXED_LEN, EVERYTHING, FRAME_HEADER_LEN, HELLO_BODY_LEN, HELLO_HEAD_LEN, Kind, MAGIC, MAX_BODY_LEN,
    MAX_ERROR_LEN, MAX_RECORD_PAYLOAD, NONCE_LEN, PROOF_LEN, RESPONSE_FIXED_LEN, ROUTE_ADD_V4_LEN, ROUTE_ADD_V6_LEN,
    ROUTE_PAYLOAD_LEN, ROUTE_REMOVE_LEN, STATS_LEN, VERSION,
};
use super::{DatagramResponse, Hello, LinkStats, Payload, ResponseHeader, RouteChange};
use crate::address::{Endpoint, Flow};
use crate::ip::Transport;
use crate::tcp::{Flags, MAX_OPTIONS_LEN};

/// Appends a hello.
pub fn encode_hello(hello: &Hello, out: &mut Vec<u8>) {
    let mut h = [0u8; HELLO_HEAD_LEN + HELLO_BODY_LEN];
    h[..4].copy_from_slice(&MAGIC);
    BigEndian::write_u16(&mut h[4..], VERSION);
    BigEndian::write_u16(&mut h[6..], HELLO_BODY_LEN as u16);
    BigEndian::write_u32(&mut h[8..], hello.features);
    BigEndian::write_u32(&mut h[12..], u32::try_from(hello.route_ttl.as_secs()).unwrap_or(u32::MAX));
    BigEndian::write_u16(&mut h[16..], hello.max_batch);
    out.extend_from_slice(&h);
}

/// Appends a ping. `stamp` comes back unchanged in the pong.
pub fn encode_ping(stamp: u64, out: &mut Vec<u8>) {
    frame(Kind::Ping, &stamp.to_be_bytes(), out);
}

/// Appends the answer to a ping.
pub fn encode_pong(stamp: u64, out: &mut Vec<u8>) {
    frame(Kind::Pong, &stamp.to_be_bytes(), out);
}

/// Appends counters.
pub fn encode_stats(stats: &LinkStats, out: &mut Vec<u8>) {
    let mut body = [0u8; STATS_LEN];
    let counters = [
        stats.frames_captured,
        stats.kernel_drops,
        stats.unrouted,
        stats.relayed,
        stats.overflowed,
        stats.routes_alive,
    ];
    BigEndian::write_u64_into(&counters, &mut body);
    frame(Kind::Stats, &body, out);
}

/// Appends an error, its text cut to [`MAX_ERROR_LEN`] bytes at a character's boundary.
pub fn encode_error(text: &str, out: &mut Vec<u8>) {
    frame(Kind::Error, cut(text, MAX_ERROR_LEN).as_bytes(), out);
}

/// The beginning of a text, at most so many bytes, up to a character's boundary.
pub(super) fn cut(text: &str, limit: usize) -> &str {
    &text[..text.floor_char_boundary(limit)]
}

/// Appends a challenge.
pub fn encode_challenge(nonce: &[u8; NONCE_LEN], out: &mut Vec<u8>) {
    frame(Kind::Challenge, nonce, out);
}

/// Appends a proof.
pub fn encode_proof(proof: &[u8; PROOF_LEN], out: &mut Vec<u8>) {
    frame(Kind::Proof, proof, out);
}

fn frame(kind: Kind, body: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&[kind as u8, 0]);
    out.extend_from_slice(&(body.len() as u16).to_be_bytes());
    out.extend_from_slice(body);
}

/// A frame at the end of a buffer to which entries may still be added.
#[derive(Clone, Copy, Debug)]
struct OpenFrame {
    kind: Kind,
    start: usize,
    /// Length of the buffer after the last entry: it tells whether something else was appended since.
    end: usize,
    entries: u16,
}

/// Appends route changes and responses to a buffer, one after the other, and lets neighbours of one kind share a frame.
///
/// After each call the buffer holds whole frames only. Call [`seal`](Self::seal) when bytes were taken out of the
/// buffer; frames that others append behind its back are noticed.
#[derive(Clone, Debug, Default)]
pub struct BatchEncoder {
    open: Option<OpenFrame>,
    max_batch: u16,
}

impl BatchEncoder {
    /// An encoder that puts at most `max_batch` entries into a frame; zero: as many as fit.
    pub const fn new(max_batch: u16) -> Self {
        Self { open: None, max_batch }
    }

    /// Begins a new frame with the next entry.
    pub fn seal(&mut self) {
        self.open = None;
    }

    /// Appends a route change. The two ends of a flow to add are of one address family (a mixed flow would be written
    /// as IPv6 with a mapped address).
    pub fn route(&mut self, change: &RouteChange, out: &mut Vec<u8>) {
        match change {
            RouteChange::Add { id, transport, flow: Flow { client, server } } => {
                let tcp = *transport == Transport::Tcp;
                if let (IpAddr::V4(c), IpAddr::V4(s)) = (client.addr, server.addr) {
                    let mut e = [0u8; ROUTE_ADD_V4_LEN];
                    BigEndian::write_u64(&mut e, id.0);
                    e[8..12].copy_from_slice(&c.octets());
                    BigEndian::write_u16(&mut e[12..], client.port.0);
                    e[14..18].copy_from_slice(&s.octets());
                    BigEndian::write_u16(&mut e[18..], server.port.0);
                    self.entry(if tcp { Kind::RouteAddV4 } else { Kind::UdpRouteAddV4 }, &e, &[], out);
                } else {
                    let mut e = [0u8; ROUTE_ADD_V6_LEN];
                    BigEndian::write_u64(&mut e, id.0);
                    write_v6(client, &mut e[8..26]);
                    write_v6(server, &mut e[26..44]);
                    self.entry(if tcp { Kind::RouteAddV6 } else { Kind::UdpRouteAddV6 }, &e, &[], out);
                }
            }
            RouteChange::Payload { id, payload } => {
                let mut e = [0u8; ROUTE_PAYLOAD_LEN];
                BigEndian::write_u64(&mut e, id.0);
                let bytes = match payload {
                    Payload::Headers => 0,
                    Payload::First(n) => u32::from(*n),
                    Payload::Full => EVERYTHING,
                };
                BigEndian::write_u32(&mut e[8..], bytes);
                self.entry(Kind::RoutePayload, &e, &[], out);
            }
            RouteChange::Remove { id } => {
                let mut e = [0u8; ROUTE_REMOVE_LEN];
                BigEndian::write_u64(&mut e, id.0);
                self.entry(Kind::RouteRemove, &e, &[], out);
            }
        }
    }

    /// Appends a response. Options beyond 40 bytes, which no TCP header has, are left out. One with more payload than
    /// [`MAX_RECORD_PAYLOAD`] is written as several that follow each other in the stream.
    #[inline]
    pub fn response(&mut self, r: &ResponseHeader<'_>, out: &mut Vec<u8>) {
        if r.payload.is_empty() { self.header(r, out) } else { self.full_response(*r, out) }
    }

    fn full_response(&mut self, mut r: ResponseHeader<'_>, out: &mut Vec<u8>) {
        while r.payload.len() > MAX_RECORD_PAYLOAD {
            let (now, later) = r.payload.split_at(MAX_RECORD_PAYLOAD);
            let len = now.len() as u32;
            // What ends the segment comes with its last part.
            let flags = r.flags.without(Flags::FIN | Flags::PSH);
            self.full_record(&ResponseHeader { payload: now, payload_len: len, flags, ..r }, out);
            r = ResponseHeader {
                payload: later,
                payload_len: r.payload_len.saturating_sub(len),
                seq: r.seq + len,
                ..r
            };
        }
        self.full_record(&r, out);
    }

    fn full_record(&mut self, r: &ResponseHeader<'_>, out: &mut Vec<u8>) {
        let (e, options) = fixed_part(r);
        let len = (r.payload.len() as u16).to_be_bytes();
        self.entry_of(Kind::FullResponses, &[&e, options, &len, r.payload], out);
    }

    /// Appends a datagram, with as much of its payload as fits.
    pub fn datagram(&mut self, d: &DatagramResponse<'_>, out: &mut Vec<u8>) {
        let shown = &d.payload[..d.payload.len().min(MAX_BODY_LEN - DATAGRAM_FIXED_LEN)];
        let mut e = [0u8; DATAGRAM_FIXED_LEN];
        BigEndian::write_u64(&mut e, d.id.0);
        BigEndian::write_u16(&mut e[8..], d.payload_len);
        BigEndian::write_u16(&mut e[10..], shown.len() as u16);
        self.entry(Kind::Datagrams, &e, shown, out);
    }

    #[inline]
    fn header(&mut self, r: &ResponseHeader<'_>, out: &mut Vec<u8>) {
        let (e, options) = fixed_part(r);
        self.entry(Kind::Responses, &e, options, out);
    }

    #[inline]
    fn entry(&mut self, kind: Kind, fixed: &[u8], rest: &[u8], out: &mut Vec<u8>) {
        self.entry_of(kind, &[fixed, rest], out);
    }

    #[inline]
    fn entry_of(&mut self, kind: Kind, parts: &[&[u8]], out: &mut Vec<u8>) {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let mut open = match self.open {
            Some(open)
                if open.kind == kind
                    && open.end == out.len()
                    && (self.max_batch == 0 || open.entries < self.max_batch)
                    && open.entries < u16::MAX
                    && open.end - open.start - FRAME_HEADER_LEN + len <= MAX_BODY_LEN =>
            {
                open
            }
            _ => {
                let start = out.len();
                out.extend_from_slice(&[kind as u8, 0, 0, 0]);
                OpenFrame { kind, start, end: out.len(), entries: 0 }
            }
        };
        for part in parts {
            out.extend_from_slice(part);
        }
        open.end = out.len();
        open.entries += 1;
        let body_len = (open.end - open.start - FRAME_HEADER_LEN) as u16;
        BigEndian::write_u16(&mut out[open.start + 2..], body_len);
        self.open = Some(open);
    }
}

/// A response up to its options, and its options.
#[inline]
fn fixed_part<'a>(r: &ResponseHeader<'a>) -> ([u8; RESPONSE_FIXED_LEN], &'a [u8]) {
    let options = &r.options[..r.options.len().min(MAX_OPTIONS_LEN)];
    let mut e = [0u8; RESPONSE_FIXED_LEN];
    BigEndian::write_u64(&mut e, r.id.0);
    BigEndian::write_u32(&mut e[8..], r.seq.0);
    BigEndian::write_u32(&mut e[12..], r.ack.0);
    BigEndian::write_u32(&mut e[16..], r.payload_len);
    BigEndian::write_u16(&mut e[20..], r.window);
    e[22] = r.flags.0;
    e[23] = options.len() as u8;
    (e, options)
}

fn write_v6(e: &Endpoint, out: &mut [u8]) {
    let addr = match e.addr {
        IpAddr::V4(a) => a.to_ipv6_mapped(),
        IpAddr::V6(a) => a,
    };
    out[..16].copy_from_slice(&addr.octets());
    BigEndian::write_u16(&mut out[16..], e.port.0);
}
