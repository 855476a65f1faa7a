//! Tunnels in which switches and clouds deliver mirrored traffic: VXLAN (RFC 7348), Geneve (RFC 8926), GRE (RFC 2784,
//! RFC 2890) and ERSPAN types I, II and III (draft-foschiano-erspan).
//!
//! Only frames are taken out of tunnels here; nothing is decided about them. An outer packet that is no tunnel of an
//! enabled kind is left to the ordinary readers, which know better what is wrong with it.

use std::fmt;

use crate::error::ParseError;
use crate::ip::{IpFragment, IpPacket, PROTOCOL_UDP};
use crate::link::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, LinkType};
use crate::udp::{UDP_HEADER_LEN, UdpDatagram};

/// UDP port of VXLAN.
pub const VXLAN_PORT: u16 = 4789;
/// UDP port of Geneve.
pub const GENEVE_PORT: u16 = 6081;
/// Protocol number of GRE.
pub const PROTOCOL_GRE: u8 = 47;
/// Tunnels inside each other that are opened at most: a mirror of a mirrored network has two.
pub const MAX_TUNNELS: usize = 4;

/// Ethernet frames (RFC 7637, RFC 8926).
const TRANSPARENT_ETHERNET: u16 = 0x6558;
const ERSPAN_I_II: u16 = 0x88be;
const ERSPAN_III: u16 = 0x22eb;

/// A frame, or what of it was captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// How it begins.
    pub link: LinkType,
    /// The bytes that were captured.
    pub bytes: &'a [u8],
    /// Its length on the wire, in bytes.
    pub wire_len: usize,
}

/// Why a frame cannot be taken out of its tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TunnelError {
    /// The outer packet ends inside the tunnel's headers.
    Truncated,
    /// The tunnel's header is of a kind or version that is not known or not enabled, or it carries something else than
    /// frames.
    UnknownForm,
    /// An outer packet is an IP fragment: the way of the mirrored traffic has too small an MTU.
    Fragment,
    /// More than [`MAX_TUNNELS`] tunnels inside each other.
    TooDeep,
}

impl fmt::Display for TunnelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Truncated => "the packet ends inside its tunnel's headers",
            Self::UnknownForm => "a tunnel header of an unknown form",
            Self::Fragment => "a tunnel's packet in IP fragments",
            Self::TooDeep => "too many tunnels inside each other",
        })
    }
}

impl std::error::Error for TunnelError {}

/// A part of an outer packet; see [`Decapsulation::outer_fragment`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OuterFragment<'a> {
    /// The fragment.
    pub fragment: IpFragment<'a>,
    /// Its own bytes tell that it is a tunnel's. Those of UDP do so in the first fragment only.
    pub is_certain: bool,
}

/// The tunnels that are opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decapsulation {
    /// UDP ports of VXLAN.
    pub vxlan: Vec<u16>,
    /// UDP ports of Geneve.
    pub geneve: Vec<u16>,
    /// GRE with IPv4, IPv6 or Ethernet in it.
    pub gre: bool,
    /// ERSPAN, which is carried by GRE.
    pub erspan: bool,
}

impl Decapsulation {
    /// Whether any tunnel is opened.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.has_gre() || !self.vxlan.is_empty() || !self.geneve.is_empty()
    }

    /// Whether packets of GRE are opened.
    pub fn has_gre(&self) -> bool {
        self.gre || self.erspan
    }

    /// The frame in the innermost tunnel; `None` when `frame` is in no tunnel.
    ///
    /// # Errors
    /// [`TunnelError`].
    pub fn innermost<'a>(&self, frame: Frame<'a>) -> Result<Option<Frame<'a>>, TunnelError> {
        let mut innermost = None;
        for _ in 0..MAX_TUNNELS {
            match self.open(innermost.unwrap_or(frame))? {
                Some(inner) => innermost = Some(inner),
                None => return Ok(innermost),
            }
        }
        match self.open(innermost.unwrap_or(frame)) {
            Ok(None) => Ok(innermost),
            _ => Err(TunnelError::TooDeep),
        }
    }

    /// Opens one tunnel, if there is one.
    fn open<'a>(&self, frame: Frame<'a>) -> Result<Option<Frame<'a>>, TunnelError> {
        let Ok(bytes) = frame.link.ip_packet(frame.bytes) else { return Ok(None) };
        let link_len = frame.bytes.len() - bytes.len();
        let ip = match IpPacket::parse(bytes, frame.wire_len.saturating_sub(link_len)) {
            Ok(ip) => ip,
            Err(ParseError::Fragment) if self.fragment(bytes).is_some_and(|f| f.is_certain) => {
                return Err(TunnelError::Fragment);
            }
            Err(_) => return Ok(None),
        };
        self.open_packet(&ip)
    }

    /// Opens one tunnel, if the packet is one.
    fn open_packet<'a>(&self, ip: &IpPacket<'a>) -> Result<Option<Frame<'a>>, TunnelError> {
        let inner = match ip.protocol {
            PROTOCOL_GRE if self.has_gre() => self.gre(Rest { bytes: ip.transport, wire_len: ip.transport_len })?,
            PROTOCOL_UDP => {
                let Ok(datagram) = UdpDatagram::parse(ip) else { return Ok(None) };
                let rest = Rest { bytes: datagram.payload, wire_len: datagram.payload_len.into() };
                let port = datagram.dst.port.0;
                if self.vxlan.contains(&port) {
                    vxlan(rest)?
                } else if self.geneve.contains(&port) {
                    geneve(rest)?
                } else {
                    return Ok(None);
                }
            }
            _ => return Ok(None),
        };
        Ok(Some(inner))
    }

    /// The fragment that a frame is, when it may be of a tunnel's packet. Put together from all of them, the packet goes to
    /// [`innermost_of_packet`](Self::innermost_of_packet).
    pub fn outer_fragment<'a>(&self, frame: Frame<'a>) -> Option<OuterFragment<'a>> {
        let bytes = frame.link.ip_packet(frame.bytes).ok()?;
        let link_len = frame.bytes.len() - bytes.len();
        match IpPacket::parse(bytes, frame.wire_len.saturating_sub(link_len)) {
            Err(ParseError::Fragment) => self.fragment(bytes),
            _ => None,
        }
    }

    /// The frame in the innermost tunnel of a packet; `None` when it is no tunnel.
    ///
    /// # Errors
    /// [`TunnelError`].
    pub fn innermost_of_packet<'a>(&self, ip: &IpPacket<'a>) -> Result<Option<Frame<'a>>, TunnelError> {
        match self.open_packet(ip)? {
            None => Ok(None),
            Some(frame) => Ok(Some(self.innermost(frame)?.unwrap_or(frame))),
        }
    }

    fn fragment<'a>(&self, bytes: &'a [u8]) -> Option<OuterFragment<'a>> {
        let fragment = IpFragment::parse(bytes).ok()?;
        let is_certain = match fragment.protocol {
            PROTOCOL_GRE if self.has_gre() => true,
            PROTOCOL_UDP if self.vxlan.is_empty() && self.geneve.is_empty() => return None,
            PROTOCOL_UDP if fragment.offset == 0 => {
                let header: Option<&[u8; UDP_HEADER_LEN]> = fragment.data.first_chunk();
                let port = header.map(|h| u16::from_be_bytes([h[2], h[3]]))?;
                if !self.vxlan.contains(&port) && !self.geneve.contains(&port) {
                    return None;
                }
                true
            }
            PROTOCOL_UDP => false,
            _ => return None,
        };
        Some(OuterFragment { fragment, is_certain })
    }

    /// GRE, version 0. Checksum, key and sequence number are gone past; routing (RFC 1701) is not known.
    fn gre<'a>(&self, packet: Rest<'a>) -> Result<Frame<'a>, TunnelError> {
        const CHECKSUM: u16 = 0x8000;
        const KEY: u16 = 0x2000;
        const SEQUENCE: u16 = 0x1000;
        /// Routing, strict source route, and the version.
        const UNKNOWN: u16 = 0x4000 | 0x0800 | 0x0007;

        let (h, mut rest) = packet.header::<4>()?;
        let flags = u16::from_be_bytes([h[0], h[1]]);
        if flags & UNKNOWN != 0 {
            return Err(TunnelError::UnknownForm);
        }
        for field in [CHECKSUM, KEY, SEQUENCE] {
            if flags & field != 0 {
                rest = rest.header::<4>()?.1;
            }
        }
        match u16::from_be_bytes([h[2], h[3]]) {
            // Type I is type II without its header, and without a sequence number to tell.
            ERSPAN_I_II if self.erspan && flags & SEQUENCE == 0 => Ok(rest.frame(LinkType::Ethernet)),
            ERSPAN_I_II if self.erspan => erspan_2(rest),
            ERSPAN_III if self.erspan => erspan_3(rest),
            kind if self.gre => rest.of_ether_type(kind),
            _ => Err(TunnelError::UnknownForm),
        }
    }
}

/// RFC 7348, section 5. Of its flags only the one that says that the VNI is valid is defined, and it must be set.
fn vxlan(packet: Rest<'_>) -> Result<Frame<'_>, TunnelError> {
    let (h, rest) = packet.header::<8>()?;
    if h[0] & 0x08 == 0 {
        return Err(TunnelError::UnknownForm);
    }
    Ok(rest.frame(LinkType::Ethernet))
}

/// RFC 8926, section 3.4. Control packets are between the tunnel's ends.
fn geneve(packet: Rest<'_>) -> Result<Frame<'_>, TunnelError> {
    let (h, rest) = packet.header::<8>()?;
    let (version, is_control) = (h[0] >> 6, h[1] & 0x80 != 0);
    if version != 0 || is_control {
        return Err(TunnelError::UnknownForm);
    }
    let options_len = usize::from(h[0] & 0x3f) * 4;
    rest.skip(options_len)?.of_ether_type(u16::from_be_bytes([h[2], h[3]]))
}

/// draft-foschiano-erspan-03, section 4.2.
fn erspan_2(packet: Rest<'_>) -> Result<Frame<'_>, TunnelError> {
    let (h, rest) = packet.header::<8>()?;
    if h[0] >> 4 != 1 {
        return Err(TunnelError::UnknownForm);
    }
    Ok(rest.frame(LinkType::Ethernet))
}

/// draft-foschiano-erspan-03, section 4.3.
fn erspan_3(packet: Rest<'_>) -> Result<Frame<'_>, TunnelError> {
    const ETHERNET: u8 = 0;
    const IP: u8 = 2;
    let (h, rest) = packet.header::<12>()?;
    if h[0] >> 4 != 2 {
        return Err(TunnelError::UnknownForm);
    }
    let frame_type = (h[10] >> 2) & 0x1f;
    let has_subheader = h[11] & 1 != 0;
    let rest = if has_subheader { rest.skip(8)? } else { rest };
    match frame_type {
        ETHERNET => Ok(rest.frame(LinkType::Ethernet)),
        IP => Ok(rest.frame(LinkType::Raw)),
        _ => Err(TunnelError::UnknownForm),
    }
}

/// What is left of a packet behind the headers read so far.
#[derive(Clone, Copy)]
struct Rest<'a> {
    bytes: &'a [u8],
    wire_len: usize,
}

impl<'a> Rest<'a> {
    fn header<const N: usize>(self) -> Result<(&'a [u8; N], Self), TunnelError> {
        let (header, bytes) = self.bytes.split_first_chunk().ok_or(TunnelError::Truncated)?;
        Ok((header, Self { bytes, wire_len: self.wire_len.saturating_sub(N) }))
    }

    fn skip(self, len: usize) -> Result<Self, TunnelError> {
        let bytes = self.bytes.get(len..).ok_or(TunnelError::Truncated)?;
        Ok(Self { bytes, wire_len: self.wire_len.saturating_sub(len) })
    }

    fn frame(self, link: LinkType) -> Frame<'a> {
        Frame { link, bytes: self.bytes, wire_len: self.wire_len }
    }

    fn of_ether_type(self, kind: u16) -> Result<Frame<'a>, TunnelError> {
        match kind {
            TRANSPARENT_ETHERNET => Ok(self.frame(LinkType::Ethernet)),
            ETHERTYPE_IPV4 | ETHERTYPE_IPV6 => Ok(self.frame(LinkType::Raw)),
            _ => Err(TunnelError::UnknownForm),
        }
    }
}
