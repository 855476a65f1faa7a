//! Link layers that a capture may show: where in a frame the IP packet begins.

use std::fmt;

use crate::error::ParseError;

/// The link types of the pcap world that we read (<https://www.tcpdump.org/linktypes.html>).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkType {
    /// BSD loopback (DLT_NULL, DLT_LOOP): four bytes of address family.
    Null,
    /// Ethernet, with any number of VLAN tags up to [`MAX_VLAN_TAGS`].
    Ethernet,
    /// No link header: the frame is an IP packet (DLT_RAW, LINKTYPE_IPV4, LINKTYPE_IPV6).
    Raw,
    /// Linux cooked capture, version 1: the `any` device of older libpcap.
    LinuxSll,
    /// Linux cooked capture, version 2.
    LinuxSll2,
}

/// VLAN tags that are skipped at most (QinQ has two).
pub const MAX_VLAN_TAGS: usize = 4;

/// EtherType of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// EtherType of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;

/// Bytes of an Ethernet header without a VLAN tag.
pub const ETHERNET_HEADER_LEN: usize = 14;

/// The address of a network interface on an Ethernet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MacAddress(pub [u8; 6]);

impl MacAddress {
    /// Whether it is of one interface: neither a group's (or everyone's) nor nobody's.
    pub fn is_of_one_interface(self) -> bool {
        self.0[0] & 1 == 0 && self.0 != [0; 6]
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            let colon = if i > 0 { ":" } else { "" };
            write!(f, "{colon}{byte:02x}")?;
        }
        Ok(())
    }
}

/// The Ethernet header of an IP packet.
pub fn ethernet_header(to: MacAddress, from: MacAddress, ipv6: bool) -> [u8; ETHERNET_HEADER_LEN] {
    let kind = if ipv6 { ETHERTYPE_IPV6 } else { ETHERTYPE_IPV4 };
    let mut header = [0; ETHERNET_HEADER_LEN];
    header[..6].copy_from_slice(&to.0);
    header[6..12].copy_from_slice(&from.0);
    header[12..].copy_from_slice(&kind.to_be_bytes());
    header
}

impl LinkType {
    /// The link type behind a pcap `DLT_*` or `LINKTYPE_*` number, if it is one that we read.
    pub fn from_dlt(dlt: i32) -> Option<Self> {
        match dlt {
            0 | 108 => Some(Self::Null),
            1 => Some(Self::Ethernet),
            12 | 14 | 101 | 228 | 229 => Some(Self::Raw),
            113 => Some(Self::LinuxSll),
            276 => Some(Self::LinuxSll2),
            _ => None,
        }
    }

    /// The IP packet inside a frame, trailing padding included.
    ///
    /// # Errors
    /// [`ParseError::Truncated`] when the frame ends inside the link header; [`ParseError::NotIp`] when it carries
    /// something else (ARP, LLDP, …).
    #[inline]
    pub fn ip_packet(self, frame: &[u8]) -> Result<&[u8], ParseError> {
        match self {
            Self::Raw => Ok(frame),
            Self::Null => frame.get(4..).ok_or(ParseError::Truncated),
            Self::Ethernet => after_ether_type(frame, 12),
            Self::LinuxSll => after_ether_type(frame, 14),
            Self::LinuxSll2 => {
                let header = frame.get(..20).ok_or(ParseError::Truncated)?;
                match u16::from_be_bytes([header[0], header[1]]) {
                    ETHERTYPE_IPV4 | ETHERTYPE_IPV6 => Ok(&frame[20..]),
                    0x8100 | 0x88a8 | 0x9100 => after_ether_type(frame, 22),
                    _ => Err(ParseError::NotIp),
                }
            }
        }
    }
}

/// Follows EtherTypes from offset `at`, over VLAN tags, to the IP packet.
#[inline]
fn after_ether_type(frame: &[u8], mut at: usize) -> Result<&[u8], ParseError> {
    for _ in 0..=MAX_VLAN_TAGS {
        let kind = frame.get(at..at + 2).ok_or(ParseError::Truncated)?;
        match u16::from_be_bytes([kind[0], kind[1]]) {
            ETHERTYPE_IPV4 | ETHERTYPE_IPV6 => return Ok(&frame[at + 2..]),
            0x8100 | 0x88a8 | 0x9100 => at += 4,
            _ => return Err(ParseError::NotIp),
        }
    }
    Err(ParseError::NotIp)
}
