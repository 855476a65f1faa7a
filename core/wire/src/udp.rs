//! UDP (RFC 768): a checked view of captured datagrams, and the packets that we send.

use std::fmt;
use std::net::IpAddr;
use std::ops::Range;

use crate::address::{Endpoint, Flow, Port};
use crate::build::{as_v6, ip_header_len};
use crate::checksum::Sum;
use crate::error::ParseError;
use crate::ip::{IpPacket, PROTOCOL_UDP};

/// Bytes of a UDP header.
pub const UDP_HEADER_LEN: usize = 8;
/// Bytes of an IPv6 fragment header (RFC 8200, section 4.5).
const FRAGMENT_HEADER_LEN: usize = 8;
/// Next-header value of the IPv6 fragment header.
const FRAGMENT_HEADER: u8 = 44;
const HOP_LIMIT: u8 = 64;

/// A UDP datagram as it was captured.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct UdpDatagram<'a> {
    /// Who sent it.
    pub src: Endpoint,
    /// Whom it was sent to.
    pub dst: Endpoint,
    /// The payload that was captured; shorter than `payload_len` when the capture cut it.
    pub payload: &'a [u8],
    /// Bytes of payload that the datagram had on the wire, by its own header.
    pub payload_len: u16,
}

impl<'a> UdpDatagram<'a> {
    /// Reads the datagram in an IP packet.
    ///
    /// # Errors
    /// [`ParseError::Truncated`] when the capture ends inside the header, [`ParseError::Malformed`] when the header claims
    /// more than the packet has, or less than itself.
    #[inline]
    pub fn parse(ip: &IpPacket<'a>) -> Result<Self, ParseError> {
        Self::from_transport(ip.src, ip.dst, ip.transport, ip.transport_len)
    }

    /// Reads a datagram that was `transport_len` bytes long with its header; `transport` are those of them that are here.
    ///
    /// # Errors
    /// As [`parse`](Self::parse).
    #[inline]
    pub fn from_transport(
        src: IpAddr,
        dst: IpAddr,
        transport: &'a [u8],
        transport_len: usize,
    ) -> Result<Self, ParseError> {
        let (h, rest) = transport.split_first_chunk::<UDP_HEADER_LEN>().ok_or(ParseError::Truncated)?;
        let len = usize::from(u16::from_be_bytes([h[4], h[5]]));
        if len < UDP_HEADER_LEN || len > transport_len {
            return Err(ParseError::Malformed);
        }
        let payload_len = len - UDP_HEADER_LEN;
        Ok(Self {
            src: Endpoint::new(src, Port(u16::from_be_bytes([h[0], h[1]]))),
            dst: Endpoint::new(dst, Port(u16::from_be_bytes([h[2], h[3]]))),
            payload: &rest[..rest.len().min(payload_len)],
            payload_len: payload_len as u16,
        })
    }

    /// Whether bytes of the payload are missing from the capture.
    #[inline]
    pub fn is_cut(&self) -> bool {
        self.payload.len() < usize::from(self.payload_len)
    }

    /// The flow, taking the sender as the client.
    #[inline]
    pub fn flow_from_client(&self) -> Flow {
        Flow { client: self.src, server: self.dst }
    }

    /// The flow, taking the sender as the server.
    #[inline]
    pub fn flow_from_server(&self) -> Flow {
        Flow { client: self.dst, server: self.src }
    }
}

impl fmt::Debug for UdpDatagram<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {} UDP len {}", self.src, self.dst, self.payload_len)
    }
}

/// A datagram to be sent, without its payload. Both ends are of one address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpRepr {
    /// Sender.
    pub src: Endpoint,
    /// Receiver.
    pub dst: Endpoint,
    /// Identification, which ties the fragments of a datagram together; of IPv4 the low 16 bits.
    pub ip_id: u32,
}

impl UdpRepr {
    /// Most bytes of payload that a datagram can have in this address family (RFC 768 with RFC 791 or RFC 8200).
    pub const fn max_payload(addr: &IpAddr) -> usize {
        match addr {
            IpAddr::V4(_) => 65_535 - 20 - UDP_HEADER_LEN,
            IpAddr::V6(_) => 65_535 - UDP_HEADER_LEN,
        }
    }

    /// Writes the IP packets of the datagram, one after the other: one if it fits `mtu` bytes, otherwise its fragments
    /// (RFC 791, section 3.2; RFC 8200, section 4.5). `emit` is called once for each, with what appends it to a buffer.
    ///
    /// The payload must not be longer than [`max_payload`](Self::max_payload), and `mtu` at least 68.
    pub fn write(&self, payload: &[u8], mtu: usize, mut emit: impl FnMut(&dyn Fn(&mut Vec<u8>))) {
        let header = self.header(payload);
        let len = UDP_HEADER_LEN + payload.len();
        let ip_header = ip_header_len(&self.dst.addr);
        if ip_header + len <= mtu {
            return emit(&|out| self.write_part(header, payload, 0..len, None, out));
        }
        let v6 = self.dst.addr.is_ipv6();
        let room = mtu - ip_header - if v6 { FRAGMENT_HEADER_LEN } else { 0 };
        // All but the last fragment carry a multiple of eight bytes.
        let room = (room & !7).max(8);
        for start in (0..len).step_by(room) {
            let end = (start + room).min(len);
            emit(&|out| self.write_part(header, payload, start..end, Some(end < len), out));
        }
    }

    fn header(&self, payload: &[u8]) -> [u8; UDP_HEADER_LEN] {
        let len = UDP_HEADER_LEN + payload.len();
        let mut h = [0; UDP_HEADER_LEN];
        h[0..2].copy_from_slice(&self.src.port.0.to_be_bytes());
        h[2..4].copy_from_slice(&self.dst.port.0.to_be_bytes());
        h[4..6].copy_from_slice(&(len as u16).to_be_bytes());
        let sum = Sum::default()
            .add_pseudo_header(self.src.addr, self.dst.addr, PROTOCOL_UDP, len as u32)
            .add_bytes(&h)
            .add_bytes(payload)
            .finish();
        // Zero would say that there is no checksum.
        let sum = if sum == 0 { 0xffff } else { sum };
        h[6..8].copy_from_slice(&sum.to_be_bytes());
        h
    }

    /// Appends one IP packet with these bytes of header and payload; `more`: of a fragment, whether others follow.
    fn write_part(
        &self,
        header: [u8; UDP_HEADER_LEN],
        payload: &[u8],
        part: Range<usize>,
        more: Option<bool>,
        out: &mut Vec<u8>,
    ) {
        let offset = part.start as u16;
        let more_bit = u16::from(more == Some(true));
        match (self.src.addr, self.dst.addr) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let mut h = [0u8; 20];
                h[0] = 0x45;
                h[2..4].copy_from_slice(&((20 + part.len()) as u16).to_be_bytes());
                h[4..6].copy_from_slice(&(self.ip_id as u16).to_be_bytes());
                h[6..8].copy_from_slice(&((more_bit << 13) | (offset / 8)).to_be_bytes());
                h[8] = HOP_LIMIT;
                h[9] = PROTOCOL_UDP;
                h[12..16].copy_from_slice(&src.octets());
                h[16..20].copy_from_slice(&dst.octets());
                let sum = Sum::default().add_bytes(&h).finish();
                h[10..12].copy_from_slice(&sum.to_be_bytes());
                out.extend_from_slice(&h);
            }
            (src, dst) => {
                let extra = if more.is_some() { FRAGMENT_HEADER_LEN } else { 0 };
                let mut h = [0u8; 40 + FRAGMENT_HEADER_LEN];
                h[0] = 0x60;
                h[4..6].copy_from_slice(&((extra + part.len()) as u16).to_be_bytes());
                h[6] = if more.is_some() { FRAGMENT_HEADER } else { PROTOCOL_UDP };
                h[7] = HOP_LIMIT;
                h[8..24].copy_from_slice(&as_v6(src));
                h[24..40].copy_from_slice(&as_v6(dst));
                h[40] = PROTOCOL_UDP;
                // The offset is in units of eight bytes, above three low bits.
                h[42..44].copy_from_slice(&(offset | more_bit).to_be_bytes());
                h[44..48].copy_from_slice(&self.ip_id.to_be_bytes());
                out.extend_from_slice(&h[..40 + extra]);
            }
        }
        let from_header = part.start.min(UDP_HEADER_LEN)..part.end.min(UDP_HEADER_LEN);
        out.extend_from_slice(&header[from_header]);
        let behind = |at: usize| at.saturating_sub(UDP_HEADER_LEN);
        out.extend_from_slice(&payload[behind(part.start)..behind(part.end)]);
    }
}
