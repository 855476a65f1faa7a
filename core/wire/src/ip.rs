//! Checked views of IPv4 (RFC 791) and IPv6 (RFC 8200) headers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::error::ParseError;

/// Protocol number of TCP.
pub const PROTOCOL_TCP: u8 = 6;
/// Protocol number of UDP.
pub const PROTOCOL_UDP: u8 = 17;

/// A transport protocol that can be copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Transport {
    /// TCP (RFC 9293).
    Tcp = PROTOCOL_TCP,
    /// UDP (RFC 768).
    Udp = PROTOCOL_UDP,
}

impl std::fmt::Display for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// What of an IP header the rest of the program needs, with the transport bytes that were captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpPacket<'a> {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// The transport protocol, after any IPv6 extension headers.
    pub protocol: u8,
    /// Transport header and payload, as far as they were captured: may be shorter than `transport_len`.
    pub transport: &'a [u8],
    /// Bytes of transport header and payload that the packet had on the wire, by its own header.
    pub transport_len: usize,
}

impl<'a> IpPacket<'a> {
    /// Reads an IP packet of either version. `wire_len` is the packet's length on the wire as the capture reports it;
    /// it stands in for a length field of zero (IPv4 and IPv6 segments above 64 KB, "BIG TCP").
    ///
    /// # Errors
    /// [`ParseError::Fragment`] for any fragment but a whole packet, [`ParseError::Truncated`] when the capture ends
    /// inside a header, [`ParseError::Malformed`] when the header contradicts itself, [`ParseError::NotIp`] for
    /// another version.
    #[inline]
    pub fn parse(bytes: &'a [u8], wire_len: usize) -> Result<Self, ParseError> {
        match bytes.first().map(|b| b >> 4) {
            Some(4) => parse_v4(bytes, wire_len),
            Some(6) => parse_v6(bytes, wire_len),
            Some(_) => Err(ParseError::NotIp),
            None => Err(ParseError::Truncated),
        }
    }
}

#[inline]
fn parse_v4(bytes: &[u8], wire_len: usize) -> Result<IpPacket<'_>, ParseError> {
    let h: &[u8; 20] = bytes.first_chunk().ok_or(ParseError::Truncated)?;
    let header_len = usize::from(h[0] & 0x0f) * 4;
    let total_len = match usize::from(u16::from_be_bytes([h[2], h[3]])) {
        0 => wire_len,
        n => n,
    };
    if header_len < 20 || total_len < header_len {
        return Err(ParseError::Malformed);
    }
    // More-fragments flag or an offset: a part of a packet.
    if u16::from_be_bytes([h[6], h[7]]) & 0x3fff != 0 {
        return Err(ParseError::Fragment);
    }
    let end = total_len.min(bytes.len());
    let transport = bytes.get(header_len..end).ok_or(ParseError::Truncated)?;
    Ok(IpPacket {
        src: IpAddr::V4(Ipv4Addr::new(h[12], h[13], h[14], h[15])),
        dst: IpAddr::V4(Ipv4Addr::new(h[16], h[17], h[18], h[19])),
        protocol: h[9],
        transport,
        transport_len: total_len - header_len,
    })
}

/// IPv6 extension headers that are skipped at most.
const MAX_EXTENSION_HEADERS: usize = 8;

fn parse_v6(bytes: &[u8], wire_len: usize) -> Result<IpPacket<'_>, ParseError> {
    let h: &[u8; 40] = bytes.first_chunk().ok_or(ParseError::Truncated)?;
    let src: [u8; 16] = h[8..24].try_into().map_err(|_| ParseError::Truncated)?;
    let dst: [u8; 16] = h[24..40].try_into().map_err(|_| ParseError::Truncated)?;
    let payload_len = match usize::from(u16::from_be_bytes([h[4], h[5]])) {
        0 => wire_len.saturating_sub(40),
        n => n,
    };
    let total_len = 40 + payload_len;
    let mut next = h[6];
    let mut at = 40;
    for _ in 0..MAX_EXTENSION_HEADERS {
        let unit = match next {
            // Hop-by-hop options, routing, destination options, mobility, HIP, shim6: length in units of 8 bytes.
            0 | 43 | 60 | 135 | 139 | 140 => 8,
            // Authentication header: length in units of 4 bytes, one less in its bias.
            51 => 4,
            44 => {
                let fragment: &[u8; 4] =
                    bytes.get(at..).and_then(|rest| rest.first_chunk()).ok_or(ParseError::Truncated)?;
                // More-fragments flag or an offset. With neither it is a whole packet (RFC 6946).
                if u16::from_be_bytes([fragment[2], fragment[3]]) & 0xfff9 != 0 {
                    return Err(ParseError::Fragment);
                }
                next = fragment[0];
                at += 8;
                continue;
            }
            _ => {
                if total_len < at {
                    return Err(ParseError::Malformed);
                }
                let end = total_len.min(bytes.len());
                return Ok(IpPacket {
                    src: IpAddr::V6(Ipv6Addr::from(src)),
                    dst: IpAddr::V6(Ipv6Addr::from(dst)),
                    protocol: next,
                    transport: bytes.get(at..end).ok_or(ParseError::Truncated)?,
                    transport_len: total_len - at,
                });
            }
        };
        let ext = bytes.get(at..at + 2).ok_or(ParseError::Truncated)?;
        next = ext[0];
        at += if unit == 8 { (usize::from(ext[1]) + 1) * 8 } else { (usize::from(ext[1]) + 2) * 4 };
    }
    Err(ParseError::Malformed)
}
