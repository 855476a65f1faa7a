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

/// A part of an IP packet (RFC 791, section 3.2; RFC 8200, section 4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpFragment<'a> {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// The protocol of the whole packet's payload.
    pub protocol: u8,
    /// Ties the fragments of one packet together; of IPv4 16 bits.
    pub id: u32,
    /// Where in the packet's payload this part begins, in bytes.
    pub offset: usize,
    /// Whether others follow this part.
    pub more: bool,
    /// The bytes of this part that were captured.
    pub data: &'a [u8],
    /// Bytes of this part on the wire.
    pub len: usize,
}

impl<'a> IpFragment<'a> {
    /// Reads a packet of which [`IpPacket::parse`] has said [`ParseError::Fragment`].
    ///
    /// # Errors
    /// As [`IpPacket::parse`]; [`ParseError::Malformed`] also for a part that reaches beyond 64 KB, and for one that
    /// is not the last and no multiple of eight bytes.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ParseError> {
        let version = bytes.first().ok_or(ParseError::Truncated)? >> 4;
        let fragment = match version {
            4 => Self::parse_v4(bytes)?,
            6 => Self::parse_v6(bytes)?,
            _ => return Err(ParseError::NotIp),
        };
        let ends_badly = fragment.more && !fragment.len.is_multiple_of(8);
        if fragment.len == 0 || ends_badly || fragment.offset + fragment.len > usize::from(u16::MAX) {
            return Err(ParseError::Malformed);
        }
        Ok(fragment)
    }

    fn parse_v4(bytes: &'a [u8]) -> Result<Self, ParseError> {
        let h: &[u8; 20] = bytes.first_chunk().ok_or(ParseError::Truncated)?;
        let header_len = usize::from(h[0] & 0x0f) * 4;
        let total_len = usize::from(u16::from_be_bytes([h[2], h[3]]));
        if header_len < 20 || total_len < header_len {
            return Err(ParseError::Malformed);
        }
        let place = u16::from_be_bytes([h[6], h[7]]);
        Ok(Self {
            src: IpAddr::V4(Ipv4Addr::new(h[12], h[13], h[14], h[15])),
            dst: IpAddr::V4(Ipv4Addr::new(h[16], h[17], h[18], h[19])),
            protocol: h[9],
            id: u16::from_be_bytes([h[4], h[5]]).into(),
            offset: usize::from(place & 0x1fff) * 8,
            more: place & 0x2000 != 0,
            data: bytes.get(header_len..total_len.min(bytes.len())).ok_or(ParseError::Truncated)?,
            len: total_len - header_len,
        })
    }

    fn parse_v6(bytes: &'a [u8]) -> Result<Self, ParseError> {
        let (src, dst) = v6_addresses(bytes)?;
        let h: &[u8; 40] = bytes.first_chunk().ok_or(ParseError::Truncated)?;
        let total_len = 40 + usize::from(u16::from_be_bytes([h[4], h[5]]));
        let (mut next, mut at) = (h[6], 40);
        // What may stand before a fragment header: options for each hop or the destination, and routing.
        for _ in 0..MAX_EXTENSION_HEADERS {
            let ext: &[u8; 8] = bytes.get(at..).and_then(|b| b.first_chunk()).ok_or(ParseError::Truncated)?;
            if next != 44 {
                if !matches!(next, 0 | 43 | 60) {
                    return Err(ParseError::Malformed);
                }
                next = ext[0];
                at += (usize::from(ext[1]) + 1) * 8;
                continue;
            }
            at += 8;
            let place = u16::from_be_bytes([ext[2], ext[3]]);
            return Ok(Self {
                src,
                dst,
                protocol: ext[0],
                id: u32::from_be_bytes([ext[4], ext[5], ext[6], ext[7]]),
                offset: usize::from(place & 0xfff8),
                more: place & 1 != 0,
                data: bytes.get(at..total_len.min(bytes.len())).ok_or(ParseError::Truncated)?,
                len: total_len.checked_sub(at).ok_or(ParseError::Malformed)?,
            });
        }
        Err(ParseError::Malformed)
    }
}

fn v6_addresses(bytes: &[u8]) -> Result<(IpAddr, IpAddr), ParseError> {
    let h: &[u8; 40] = bytes.first_chunk().ok_or(ParseError::Truncated)?;
    let src: [u8; 16] = h[8..24].try_into().map_err(|_| ParseError::Truncated)?;
    let dst: [u8; 16] = h[24..40].try_into().map_err(|_| ParseError::Truncated)?;
    Ok((IpAddr::V6(Ipv6Addr::from(src)), IpAddr::V6(Ipv6Addr::from(dst))))
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
    let (src, dst) = v6_addresses(bytes)?;
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
                    src,
                    dst,
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
