//! ICMP errors (RFC 792, RFC 4443): what a host or router says of a packet that it could not deliver.

use std::net::IpAddr;

use crate::address::{Endpoint, Flow, Port};
use crate::ip::IpPacket;

/// Protocol number of ICMP.
pub const PROTOCOL_ICMP: u8 = 1;
/// Protocol number of ICMPv6.
pub const PROTOCOL_ICMPV6: u8 = 58;
/// Bytes before the packet that an error quotes.
const HEADER_LEN: usize = 8;

/// What an error says, over either version of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IcmpCause {
    /// No route leads to the network.
    NetUnreachable,
    /// The host does not answer on its own network.
    HostUnreachable,
    /// Nothing listens on the port.
    PortUnreachable,
    /// A rule forbids it.
    Prohibited,
    /// The packet is larger than the next network takes, which is so many bytes (zero: not said).
    TooBig(u32),
    /// The packet went through too many routers, mostly in a loop.
    TimeExceeded,
    /// Something else: type and code.
    Other(u8, u8),
}

/// An error about a packet that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpError {
    /// Who says so.
    pub from: IpAddr,
    /// What.
    pub cause: IcmpCause,
    /// The connection of the packet; its sender is the client.
    pub flow: Flow,
}

impl IcmpError {
    /// The error in a packet, when it is one about a packet with ports, and quotes enough of it.
    pub fn parse(ip: &IpPacket<'_>) -> Option<Self> {
        let (header, quoted) = ip.transport.split_at_checked(HEADER_LEN)?;
        let (kind, code) = (header[0], header[1]);
        let word = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
        let cause = match (ip.protocol, kind, code) {
            (PROTOCOL_ICMP, 3, 4) => IcmpCause::TooBig(word & 0xffff),
            (PROTOCOL_ICMP, 3, 0 | 6 | 11) | (PROTOCOL_ICMPV6, 1, 0) => IcmpCause::NetUnreachable,
            (PROTOCOL_ICMP, 3, 1 | 7 | 12) | (PROTOCOL_ICMPV6, 1, 3) => IcmpCause::HostUnreachable,
            (PROTOCOL_ICMP, 3, 3) | (PROTOCOL_ICMPV6, 1, 4) => IcmpCause::PortUnreachable,
            (PROTOCOL_ICMP, 3, 9 | 10 | 13) | (PROTOCOL_ICMPV6, 1, 1 | 5 | 6) => IcmpCause::Prohibited,
            (PROTOCOL_ICMPV6, 2, _) => IcmpCause::TooBig(word),
            (PROTOCOL_ICMP, 11, _) | (PROTOCOL_ICMPV6, 3, _) => IcmpCause::TimeExceeded,
            (PROTOCOL_ICMP, 3 | 5 | 12, _) | (PROTOCOL_ICMPV6, 1 | 4, _) => IcmpCause::Other(kind, code),
            _ => return None,
        };
        let about = IpPacket::parse(quoted, quoted.len()).ok()?;
        let &[a, b, c, d] = about.transport.first_chunk()?;
        Some(Self {
            from: ip.src,
            cause,
            flow: Flow {
                client: Endpoint::new(about.src, Port(u16::from_be_bytes([a, b]))),
                server: Endpoint::new(about.dst, Port(u16::from_be_bytes([c, d]))),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::TcpRepr;
    use crate::seq::SeqNumber;
    use crate::tcp::{Flags, Options};

    fn syn(src: &str, dst: &str) -> Vec<u8> {
        let endpoint = |text: &str| text.parse::<std::net::SocketAddr>().expect("an endpoint").into();
        let repr = TcpRepr {
            src: endpoint(src),
            dst: endpoint(dst),
            seq: SeqNumber(7),
            ack: SeqNumber(0),
            flags: Flags::SYN,
            window: 1,
            options: Options::default(),
            ip_id: 1,
        };
        let mut packet = Vec::new();
        repr.write((&[], &[]), &mut packet);
        packet
    }

    /// An ICMP error of `from` with the first `quoted` bytes of a packet.
    fn error(from: &str, head: [u8; 2], word: u32, about: &[u8]) -> Option<IcmpError> {
        let from: IpAddr = from.parse().expect("an address");
        let mut body = vec![head[0], head[1], 0, 0];
        body.extend(word.to_be_bytes());
        body.extend(about);
        let protocol = if from.is_ipv4() { PROTOCOL_ICMP } else { PROTOCOL_ICMPV6 };
        IcmpError::parse(&IpPacket { src: from, dst: from, protocol, transport: &body, transport_len: body.len() })
    }

    #[test]
    fn the_cause_and_the_connection_are_read() {
        let packet = syn("10.78.0.1:700", "10.0.0.2:80");
        for (head, word, cause) in [
            ([3, 0], 0, IcmpCause::NetUnreachable),
            ([3, 1], 0, IcmpCause::HostUnreachable),
            ([3, 3], 0, IcmpCause::PortUnreachable),
            ([3, 13], 0, IcmpCause::Prohibited),
            ([3, 4], 1400, IcmpCause::TooBig(1400)),
            ([11, 0], 0, IcmpCause::TimeExceeded),
            ([3, 5], 0, IcmpCause::Other(3, 5)),
        ] {
            // RFC 792: the IP header and 64 bits of what follows it.
            let read = error("10.0.0.9", head, word, &packet[..28]).expect("an error");
            assert_eq!(read.cause, cause);
            assert_eq!(read.from, IpAddr::from([10, 0, 0, 9]));
            assert_eq!(read.flow.to_string(), "10.78.0.1:700 -> 10.0.0.2:80");
        }
        let packet = syn("[fd78::1]:700", "[fd00::2]:80");
        for (head, word, cause) in [
            ([1, 0], 0, IcmpCause::NetUnreachable),
            ([1, 1], 0, IcmpCause::Prohibited),
            ([1, 3], 0, IcmpCause::HostUnreachable),
            ([1, 4], 0, IcmpCause::PortUnreachable),
            ([2, 0], 1280, IcmpCause::TooBig(1280)),
        ] {
            let read = error("fd00::9", head, word, &packet).expect("an error");
            assert_eq!((read.cause, read.flow.to_string().as_str()), (cause, "[fd78::1]:700 -> [fd00::2]:80"));
        }
    }

    #[test]
    fn what_is_no_error_or_too_short_is_none() {
        let packet = syn("10.78.0.1:700", "10.0.0.2:80");
        assert_eq!(error("10.0.0.9", [8, 0], 0, &packet), None, "an echo request");
        assert_eq!(error("fd00::9", [128, 0], 0, &packet), None, "an echo request");
        for len in 0..24 {
            assert_eq!(error("10.0.0.9", [3, 1], 0, &packet[..len]), None, "{len} bytes of the packet");
        }
        let short = [3u8; 7];
        let ip = IpPacket {
            src: IpAddr::from([10, 0, 0, 9]),
            dst: IpAddr::from([10, 0, 0, 9]),
            protocol: PROTOCOL_ICMP,
            transport: &short,
            transport_len: 7,
        };
        assert_eq!(IcmpError::parse(&ip), None);
    }
}
