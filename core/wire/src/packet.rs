//! From a captured frame to a TCP segment, a UDP datagram or a fragment of one, every length checked.

use std::fmt;

use crate::address::{Endpoint, Flow};
use crate::checksum::Sum;
use crate::error::ParseError;
use crate::ip::{IpFragment, IpPacket, PROTOCOL_TCP, PROTOCOL_UDP};
use crate::link::LinkType;
use crate::tcp::TcpHeader;
use crate::udp::UdpDatagram;

/// What a captured frame holds.
#[derive(Clone, Copy, Debug)]
pub enum Packet<'a> {
    /// A TCP segment.
    Tcp(TcpSegment<'a>),
    /// A UDP datagram.
    Udp(UdpDatagram<'a>),
    /// A part of an IP packet.
    Fragment(IpFragment<'a>),
}

impl<'a> Packet<'a> {
    /// Reads a frame. `wire_len` is the frame's length on the wire, as the capture reports it.
    ///
    /// # Errors
    /// What the frame is instead; see [`ParseError`]. Never [`ParseError::Fragment`].
    #[inline]
    pub fn from_frame(link: LinkType, frame: &'a [u8], wire_len: usize) -> Result<Self, ParseError> {
        let bytes = link.ip_packet(frame)?;
        let link_len = frame.len() - bytes.len();
        match IpPacket::parse(bytes, wire_len.saturating_sub(link_len)) {
            Ok(ref ip) if ip.protocol == PROTOCOL_TCP => Ok(Self::Tcp(TcpSegment::parse(ip)?)),
            Ok(ref ip) if ip.protocol == PROTOCOL_UDP => Ok(Self::Udp(UdpDatagram::parse(ip)?)),
            Ok(_) => Err(ParseError::OtherProtocol),
            Err(ParseError::Fragment) => Ok(Self::Fragment(IpFragment::parse(bytes)?)),
            Err(e) => Err(e),
        }
    }
}

/// A TCP segment as it was captured.
#[derive(Clone, Copy)]
pub struct TcpSegment<'a> {
    /// Who sent it.
    pub src: Endpoint,
    /// Whom it was sent to.
    pub dst: Endpoint,
    /// Its header.
    pub tcp: TcpHeader<'a>,
    /// The payload that was captured; shorter than `payload_len` when the capture's snap length cut it.
    pub payload: &'a [u8],
    /// Bytes of payload that the segment had on the wire.
    pub payload_len: u32,
    checksum_is_partial: bool,
}

impl<'a> TcpSegment<'a> {
    /// Reads a frame. `wire_len` is the frame's length on the wire, as the capture reports it.
    ///
    /// # Errors
    /// What the frame is instead; see [`ParseError`].
    #[inline]
    pub fn from_frame(link: LinkType, frame: &'a [u8], wire_len: usize) -> Result<Self, ParseError> {
        let ip_bytes = link.ip_packet(frame)?;
        let link_len = frame.len() - ip_bytes.len();
        Self::from_ip_packet(ip_bytes, wire_len.saturating_sub(link_len))
    }

    /// Reads an IP packet; `wire_len` is its own length on the wire.
    ///
    /// # Errors
    /// What the packet is instead; see [`ParseError`].
    #[inline]
    pub fn from_ip_packet(bytes: &'a [u8], wire_len: usize) -> Result<Self, ParseError> {
        let ip = IpPacket::parse(bytes, wire_len)?;
        if ip.protocol == PROTOCOL_TCP { Self::parse(&ip) } else { Err(ParseError::OtherProtocol) }
    }

    /// Reads the segment in an IP packet.
    ///
    /// # Errors
    /// [`ParseError::Truncated`] or [`ParseError::Malformed`].
    #[inline]
    pub fn parse(ip: &IpPacket<'a>) -> Result<Self, ParseError> {
        let tcp = TcpHeader::parse(ip.transport)?;
        let payload_len = ip.transport_len.checked_sub(tcp.header_len()).ok_or(ParseError::Malformed)?;
        let partial = Sum::default().add_pseudo_header(ip.src, ip.dst, PROTOCOL_TCP, ip.transport_len as u32).folded();
        Ok(Self {
            src: Endpoint::new(ip.src, tcp.src_port()),
            dst: Endpoint::new(ip.dst, tcp.dst_port()),
            tcp,
            payload: &ip.transport[tcp.header_len()..],
            payload_len: payload_len as u32,
            checksum_is_partial: tcp.checksum() == partial,
        })
    }

    /// Whether bytes of the payload are missing from the capture.
    #[inline]
    pub fn is_cut(&self) -> bool {
        self.payload.len() < self.payload_len as usize
    }

    /// Whether the checksum field holds only the sum of the pseudo-header: the sender leaves the rest to its network
    /// card, as it does on every capture of outgoing or virtual-network traffic.
    #[inline]
    pub fn checksum_is_offloaded(&self) -> bool {
        self.checksum_is_partial
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

impl fmt::Debug for TcpSegment<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} -> {} {:?} seq {} ack {} win {} len {}",
            self.src,
            self.dst,
            self.tcp.flags(),
            self.tcp.seq(),
            self.tcp.ack(),
            self.tcp.window(),
            self.payload_len
        )
    }
}
