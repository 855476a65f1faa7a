//! UDP datagrams: written, whole or in fragments, and read again.

use std::net::IpAddr;

use proptest::prelude::*;
use tcpcopy_wire::checksum::Sum;
use tcpcopy_wire::ip::{IpFragment, IpPacket, PROTOCOL_UDP};
use tcpcopy_wire::link::LinkType;
use tcpcopy_wire::udp::{UDP_HEADER_LEN, UdpRepr};
use tcpcopy_wire::{Endpoint, Packet, ParseError, Port, UdpDatagram};

fn ends(ipv6: bool) -> (Endpoint, Endpoint) {
    let end = |text: &str, port| Endpoint::new(text.parse::<IpAddr>().expect("an address"), Port(port));
    if ipv6 { (end("fd00::1", 5353), end("fd00::2", 53)) } else { (end("10.0.0.1", 5353), end("10.0.0.2", 53)) }
}

fn packets(ipv6: bool, payload: &[u8], mtu: usize) -> Vec<Vec<u8>> {
    let (src, dst) = ends(ipv6);
    let mut packets = Vec::new();
    UdpRepr { src, dst, ip_id: 77 }.write(payload, mtu, |write| {
        let mut packet = Vec::new();
        write(&mut packet);
        packets.push(packet);
    });
    packets
}

/// The transport bytes of a datagram's packets, put together by their offsets.
fn put_together(packets: &[Vec<u8>]) -> Vec<u8> {
    let mut whole = Vec::new();
    for (i, packet) in packets.iter().enumerate() {
        let f = match Packet::from_frame(LinkType::Raw, packet, packet.len()).expect("a packet of ours") {
            Packet::Fragment(f) => f,
            other => panic!("{other:?}"),
        };
        assert_eq!((f.protocol, f.id, f.offset), (PROTOCOL_UDP, 77, whole.len()));
        assert_eq!((f.more, f.len), (i + 1 < packets.len(), f.data.len()));
        whole.extend_from_slice(f.data);
    }
    whole
}

fn checksum_is_right(src: IpAddr, dst: IpAddr, transport: &[u8]) -> bool {
    let sum = Sum::default().add_pseudo_header(src, dst, PROTOCOL_UDP, transport.len() as u32).add_bytes(transport);
    transport[6..8] != [0, 0] && sum.finish() == 0
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        ipv6: bool,
        payload in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..1_600),
            prop::collection::vec(any::<u8>(), 1_400..1_500),
            prop::collection::vec(any::<u8>(), 60_000..=65_507),
        ],
        mtu in prop_oneof![Just(1_500usize), 1_280usize..9_000],
    ) {
        let (src, dst) = ends(ipv6);
        let packets = packets(ipv6, &payload, mtu);
        prop_assert!(packets.iter().all(|p| p.len() <= mtu));
        let ip_header = if ipv6 { 40 } else { 20 };
        let transport = if let [packet] = &packets[..] {
            let ip = IpPacket::parse(packet, packet.len()).expect("a whole packet");
            prop_assert_eq!((ip.src, ip.dst, ip.protocol), (src.addr, dst.addr, PROTOCOL_UDP));
            ip.transport.to_vec()
        } else {
            prop_assert!(ip_header + UDP_HEADER_LEN + payload.len() > mtu);
            put_together(&packets)
        };
        prop_assert!(checksum_is_right(src.addr, dst.addr, &transport));
        let read = UdpDatagram::from_transport(src.addr, dst.addr, &transport, transport.len()).expect("a datagram");
        prop_assert_eq!((read.src, read.dst, usize::from(read.payload_len)), (src, dst, payload.len()));
        prop_assert_eq!(read.payload, &payload[..]);
        if !ipv6 {
            for packet in &packets {
                prop_assert_eq!(Sum::default().add_bytes(&packet[..20]).finish(), 0, "the header's checksum");
            }
        }
    }

    #[test]
    fn whatever_comes_is_read_or_refused(
        ipv6: bool,
        len in 0usize..4_000,
        changes in prop::collection::vec((0usize..120, any::<u8>()), 0..6),
        cut in 0usize..5_000,
    ) {
        for mut packet in packets(ipv6, &vec![7; len], 1_280) {
            let wire_len = packet.len();
            for (at, value) in &changes {
                let at = at % packet.len();
                packet[at] = *value;
            }
            packet.truncate(cut);
            match Packet::from_frame(LinkType::Raw, &packet, wire_len) {
                Ok(Packet::Udp(d)) => prop_assert!(d.payload.len() <= usize::from(d.payload_len)),
                Ok(Packet::Fragment(f)) => {
                    prop_assert!(f.data.len() <= f.len && f.offset + f.len <= 65_535);
                }
                Ok(Packet::Tcp(_)) => {}
                Err(e) => prop_assert_ne!(e, ParseError::Fragment),
            }
        }
    }
}

#[test]
fn a_datagram_that_lies_about_its_length_is_refused() {
    let packet = packets(false, b"query", 1_500).remove(0);
    let with_len = |len: u16| {
        let mut changed = packet.clone();
        changed[24..26].copy_from_slice(&len.to_be_bytes());
        Packet::from_frame(LinkType::Raw, &changed, changed.len()).map(|p| match p {
            Packet::Udp(d) => d.payload.to_vec(),
            other => panic!("{other:?}"),
        })
    };
    assert_eq!(with_len(13), Ok(b"query".to_vec()));
    // What follows the datagram is padding.
    assert_eq!(with_len(11), Ok(b"que".to_vec()));
    assert_eq!(with_len(14), Err(ParseError::Malformed));
    assert_eq!(with_len(7), Err(ParseError::Malformed));
}

#[test]
fn a_cut_datagram_says_so() {
    let packet = packets(true, &[1; 100], 1_500).remove(0);
    let Ok(Packet::Udp(d)) = Packet::from_frame(LinkType::Raw, &packet[..80], packet.len()) else {
        panic!("a datagram");
    };
    assert!(d.is_cut());
    assert_eq!((d.payload.len(), d.payload_len), (32, 100));
}

#[test]
fn fragments_that_cannot_be_are_refused() {
    let parts = packets(false, &[1; 4_001], 1_500);
    let mut beyond = parts[2].clone();
    beyond[6..8].copy_from_slice(&0x1fff_u16.to_be_bytes());
    assert_eq!(IpFragment::parse(&beyond), Err(ParseError::Malformed), "it would end beyond 64 KB");
    let mut odd = parts[2].clone();
    odd[6] |= 0x20;
    assert_eq!(IpFragment::parse(&odd), Err(ParseError::Malformed), "only the last may have an odd length");
}
