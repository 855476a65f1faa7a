//! What is written can be read again, and nothing that is read makes a parser panic.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;
use tcpcopy_wire::build::{TcpRepr, ip_header_len};
use tcpcopy_wire::checksum::Sum;
use tcpcopy_wire::ip::{IpPacket, PROTOCOL_TCP};
use tcpcopy_wire::link::{LinkType, MAX_VLAN_TAGS};
use tcpcopy_wire::tcp::{Flags, MAX_OPTIONS_LEN, MAX_SACK_BLOCKS, Options, TcpHeader};
use tcpcopy_wire::{Endpoint, ParseError, Port, SeqNumber, TcpSegment};

const LINKS: [LinkType; 5] =
    [LinkType::Null, LinkType::Ethernet, LinkType::Raw, LinkType::LinuxSll, LinkType::LinuxSll2];

fn options() -> impl Strategy<Value = Options> {
    (
        any::<Option<u16>>(),
        proptest::option::of(0u8..=14),
        any::<bool>(),
        any::<Option<(u32, u32)>>(),
        proptest::collection::vec(any::<(u32, u32)>(), 0..6),
    )
        .prop_map(|(mss, window_scale, sack_permitted, timestamps, sack)| {
            let mut options = Options::default();
            (options.mss, options.window_scale) = (mss, window_scale);
            (options.sack_permitted, options.timestamps) = (sack_permitted, timestamps);
            for (left, right) in sack {
                options.push_sack(SeqNumber(left), SeqNumber(right));
            }
            options
        })
}

fn repr() -> impl Strategy<Value = TcpRepr> {
    let addresses = prop_oneof![
        any::<([u8; 4], [u8; 4])>().prop_map(|(a, b)| (IpAddr::from(a), IpAddr::from(b))),
        any::<([u8; 16], [u8; 16])>().prop_map(|(a, b)| (IpAddr::from(a), IpAddr::from(b))),
    ];
    (addresses, any::<(u16, u16, u32, u32, u8, u16, u16)>(), options()).prop_map(|((src, dst), numbers, options)| {
        let (src_port, dst_port, seq, ack, flags, window, ip_id) = numbers;
        TcpRepr {
            src: Endpoint::new(src, Port(src_port)),
            dst: Endpoint::new(dst, Port(dst_port)),
            seq: SeqNumber(seq),
            ack: SeqNumber(ack),
            flags: Flags(flags),
            window,
            options,
            ip_id,
        }
    })
}

fn written(repr: &TcpRepr, payload: &[u8], cut: usize) -> Vec<u8> {
    let mut packet = Vec::new();
    repr.write(payload.split_at(cut.min(payload.len())), &mut packet);
    packet
}

proptest! {
    #[test]
    fn options_survive_the_wire(options in options()) {
        let len = options.encoded_len();
        prop_assert!(len <= MAX_OPTIONS_LEN && len % 4 == 0);
        let mut bytes = vec![0xee; len];
        options.encode(&mut bytes);
        let read = Options::parse(&bytes);
        prop_assert_eq!(
            (read.mss, read.window_scale, read.sack_permitted, read.timestamps),
            (options.mss, options.window_scale, options.sack_permitted, options.timestamps)
        );
        // The SACK blocks that found room, and as many as there was room for.
        let kept = read.sack_blocks();
        prop_assert_eq!(kept, &options.sack_blocks()[..kept.len()]);
        prop_assert!(kept.len() == options.sack_blocks().len() || len + 8 > MAX_OPTIONS_LEN || len + 12 > MAX_OPTIONS_LEN);
    }

    #[test]
    fn any_bytes_may_stand_where_options_should(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        let options = Options::parse(&bytes);
        prop_assert!(options.sack_blocks().len() <= MAX_SACK_BLOCKS);
        prop_assert!(options.window_scale.is_none_or(|shift| shift <= 14));
        let mut again = vec![0; options.encoded_len()];
        options.encode(&mut again);
    }

    #[test]
    fn a_segment_survives_the_wire(
        repr in repr(), payload in proptest::collection::vec(any::<u8>(), 0..2000), cut in 0usize..2000
    ) {
        let packet = written(&repr, &payload, cut);
        let segment = TcpSegment::from_ip_packet(&packet, packet.len()).unwrap();
        prop_assert_eq!((segment.src, segment.dst), (repr.src, repr.dst));
        prop_assert_eq!((segment.tcp.seq(), segment.tcp.ack()), (repr.seq, repr.ack));
        prop_assert_eq!((segment.tcp.flags(), segment.tcp.window()), (repr.flags, repr.window));
        prop_assert_eq!(segment.payload, &payload[..]);
        prop_assert_eq!(segment.payload_len as usize, payload.len());
        prop_assert!(!segment.is_cut());

        let ip = IpPacket::parse(&packet, packet.len()).unwrap();
        let sum = Sum::default()
            .add_pseudo_header(ip.src, ip.dst, PROTOCOL_TCP, ip.transport_len as u32)
            .add_bytes(ip.transport)
            .finish();
        prop_assert_eq!(sum, 0, "TCP checksum");
        if ip.src.is_ipv4() {
            prop_assert_eq!(Sum::default().add_bytes(&packet[..20]).finish(), 0, "IPv4 header checksum");
            prop_assert_eq!(usize::from(u16::from_be_bytes([packet[2], packet[3]])), packet.len());
        }
    }

    #[test]
    fn a_capture_may_end_anywhere(repr in repr(), payload in proptest::collection::vec(any::<u8>(), 0..100)) {
        let packet = written(&repr, &payload, 0);
        let headers = packet.len() - payload.len();
        for end in 0..packet.len() {
            match TcpSegment::from_ip_packet(&packet[..end], packet.len()) {
                Ok(segment) => {
                    prop_assert!(end >= headers && segment.is_cut());
                    prop_assert_eq!(segment.payload, &payload[..end - headers]);
                    prop_assert_eq!(segment.payload_len as usize, payload.len());
                }
                Err(error) => {
                    prop_assert!(end < headers);
                    prop_assert_eq!(error, ParseError::Truncated);
                }
            }
        }
    }

    #[test]
    fn padding_behind_the_packet_is_no_payload(repr in repr(), padding in 1usize..40) {
        let mut packet = written(&repr, b"data", 2);
        packet.resize(packet.len() + padding, 0xaa);
        let segment = TcpSegment::from_ip_packet(&packet, packet.len()).unwrap();
        prop_assert_eq!(segment.payload, b"data");
        prop_assert_eq!(segment.payload_len, 4);
    }

    #[test]
    fn every_link_layer_leads_to_the_packet(repr in repr(), tags in 0..=MAX_VLAN_TAGS) {
        let packet = written(&repr, b"x", 0);
        for link in LINKS {
            let frame = framed(link, tags, &packet, repr.src.addr);
            let segment = TcpSegment::from_frame(link, &frame, frame.len()).unwrap();
            prop_assert_eq!((segment.src, segment.dst, segment.payload), (repr.src, repr.dst, &b"x"[..]));
        }
    }

    #[test]
    fn no_bytes_make_a_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), wire_len: usize) {
        for link in LINKS {
            let _ = link.ip_packet(&bytes);
            let _ = TcpSegment::from_frame(link, &bytes, wire_len);
        }
        let _ = (IpPacket::parse(&bytes, wire_len), TcpHeader::parse(&bytes).map(|h| h.options()));
    }

    #[test]
    fn no_mutated_packet_makes_a_parser_panic(
        repr in repr(),
        tags in 0..=MAX_VLAN_TAGS,
        link in prop::sample::select(&LINKS[..]),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        end: prop::sample::Index,
        wire_len in 0usize..3000,
    ) {
        let mut frame = framed(link, tags, &written(&repr, &[7; 60], 0), repr.src.addr);
        for (at, value) in changes {
            let at = at.index(frame.len());
            frame[at] = value;
        }
        let frame = &frame[..end.index(frame.len() + 1)];
        if let Ok(segment) = TcpSegment::from_frame(link, frame, wire_len) {
            let _ = (segment.tcp.options(), segment.is_cut(), segment.checksum_is_offloaded());
            let _ = format!("{segment:?}");
        }
    }
}

/// `packet` behind the header of a link layer, with VLAN tags where that has any.
fn framed(link: LinkType, tags: usize, packet: &[u8], addr: IpAddr) -> Vec<u8> {
    let ether_type: u16 = if addr.is_ipv4() { 0x0800 } else { 0x86dd };
    let mut frame = match link {
        LinkType::Raw => return packet.to_vec(),
        LinkType::Null => vec![2, 0, 0, 0],
        LinkType::Ethernet => vec![0x11; 12],
        LinkType::LinuxSll => vec![0x11; 14],
        LinkType::LinuxSll2 => {
            let mut header = ether_type.to_be_bytes().to_vec();
            header.resize(20, 0x11);
            header
        }
    };
    if matches!(link, LinkType::Ethernet | LinkType::LinuxSll) {
        for tag in 0..tags {
            frame.extend([[0x81, 0x00], [0x88, 0xa8], [0x91, 0x00]][tag % 3]);
            frame.extend([0x20, 0x05]);
        }
        frame.extend(ether_type.to_be_bytes());
    }
    frame.extend(packet);
    frame
}

fn plain(src: IpAddr, dst: IpAddr) -> TcpRepr {
    TcpRepr {
        src: Endpoint::new(src, Port(1)),
        dst: Endpoint::new(dst, Port(2)),
        seq: SeqNumber(3),
        ack: SeqNumber(4),
        flags: Flags::ACK,
        window: 5,
        options: Options::default(),
        ip_id: 6,
    }
}

fn plain_v6() -> Vec<u8> {
    written(&plain(Ipv6Addr::LOCALHOST.into(), Ipv6Addr::UNSPECIFIED.into()), b"data", 0)
}

/// Puts an extension header between the IPv6 header of `packet` and what follows.
fn with_extension(packet: &[u8], kind: u8, mut extension: Vec<u8>) -> Vec<u8> {
    extension[0] = packet[6];
    let mut out = packet[..40].to_vec();
    out[6] = kind;
    let payload_len = u16::from_be_bytes([packet[4], packet[5]]) + extension.len() as u16;
    out[4..6].copy_from_slice(&payload_len.to_be_bytes());
    out.extend(extension);
    out.extend(&packet[40..]);
    out
}

#[test]
fn extension_headers_are_skipped_by_their_own_length() {
    // Destination options in units of 8 bytes beyond the first; the authentication header in units of 4 beyond two.
    for (kind, length_field, len) in [(60, 1, 16), (0, 0, 8), (43, 2, 24), (51, 4, 24)] {
        let mut extension = vec![0; len];
        extension[1] = length_field;
        let packet = with_extension(&plain_v6(), kind, extension);
        let segment = TcpSegment::from_ip_packet(&packet, packet.len()).unwrap();
        assert_eq!((segment.payload, segment.payload_len), (&b"data"[..], 4), "extension {kind}");
    }
}

#[test]
fn an_endless_chain_of_extension_headers_is_refused() {
    let mut packet = plain_v6();
    for _ in 0..20 {
        packet = with_extension(&packet, 60, vec![0; 8]);
    }
    assert_eq!(TcpSegment::from_ip_packet(&packet, packet.len()).unwrap_err(), ParseError::Malformed);
}

#[test]
fn fragments_are_told_from_whole_packets() {
    // IPv4: don't-fragment alone is no fragment; more-fragments or an offset is one.
    let mut v4 = written(&plain(Ipv4Addr::LOCALHOST.into(), Ipv4Addr::BROADCAST.into()), b"data", 0);
    for (field, fragment) in [(0x4000u16, false), (0x0000, false), (0x2000, true), (0x0001, true), (0x20b9, true)] {
        v4[6..8].copy_from_slice(&field.to_be_bytes());
        let read = TcpSegment::from_ip_packet(&v4, v4.len());
        assert_eq!(read.err(), fragment.then_some(ParseError::Fragment), "{field:#06x}");
    }
    // IPv6: a fragment header with neither is a whole packet (RFC 6946, atomic fragment).
    for (field, fragment) in [(0x0000u16, false), (0x0001, true), (0x0008, true), (0x0006, false)] {
        let mut header = vec![0; 8];
        header[2..4].copy_from_slice(&field.to_be_bytes());
        let packet = with_extension(&plain_v6(), 44, header);
        let read = TcpSegment::from_ip_packet(&packet, packet.len());
        assert_eq!(read.err(), fragment.then_some(ParseError::Fragment), "{field:#06x}");
    }
}

#[test]
fn a_length_field_of_zero_stands_for_the_length_on_the_wire() {
    let payload = vec![7; 100_000];
    for (src, dst) in [
        (IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V4(Ipv4Addr::LOCALHOST)),
        (IpAddr::V6(Ipv6Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)),
    ] {
        let mut packet = written(&plain(src, dst), b"", 0);
        packet.extend(&payload);
        if src.is_ipv4() {
            packet[2..4].fill(0);
        } else {
            packet[4..6].fill(0);
        }
        let segment = TcpSegment::from_ip_packet(&packet, packet.len()).unwrap();
        assert_eq!(segment.payload_len, 100_000);
        assert_eq!(segment.payload, payload);
        assert_eq!(packet.len() - payload.len(), ip_header_len(&dst) + 20);
    }
}

#[test]
fn headers_that_contradict_themselves_are_malformed() {
    let whole = written(&plain(Ipv4Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()), b"data", 0);
    let changed = |at: usize, value: u8| {
        let mut packet = whole.clone();
        packet[at] = value;
        TcpSegment::from_ip_packet(&packet, packet.len()).map(|s| s.payload_len)
    };
    assert_eq!(changed(0, 0x44), Err(ParseError::Malformed), "IPv4 header of 16 bytes");
    assert_eq!(changed(3, 19), Err(ParseError::Malformed), "total length inside the IPv4 header");
    assert_eq!(changed(3, 39), Err(ParseError::Truncated), "total length inside the TCP header");
    assert_eq!(changed(32, 0x40), Err(ParseError::Malformed), "TCP header of 16 bytes");
    assert_eq!(changed(32, 0xf0), Err(ParseError::Truncated), "TCP header beyond the packet");
    assert_eq!(changed(9, 17), Err(ParseError::OtherProtocol));
    assert_eq!(changed(0, 0x55), Err(ParseError::NotIp));
    assert_eq!(TcpSegment::from_ip_packet(&[], 0).unwrap_err(), ParseError::Truncated);
}

#[test]
fn frames_of_other_protocols_are_not_ip() {
    let mut arp = vec![0x11; 12];
    arp.extend([0x08, 0x06]);
    arp.resize(60, 0);
    assert_eq!(TcpSegment::from_frame(LinkType::Ethernet, &arp, 60).unwrap_err(), ParseError::NotIp);
    let mut too_many_tags = vec![0x11; 12];
    for _ in 0..=MAX_VLAN_TAGS {
        too_many_tags.extend([0x81, 0x00, 0, 1]);
    }
    too_many_tags.extend([0x08, 0x00]);
    assert_eq!(TcpSegment::from_frame(LinkType::Ethernet, &too_many_tags, 60).unwrap_err(), ParseError::NotIp);
}
