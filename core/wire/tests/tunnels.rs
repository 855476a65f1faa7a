//! Frames in tunnels, wrapped here header by header as their specifications draw them, and taken out again.

use std::net::IpAddr;

use proptest::prelude::*;
use tcpcopy_wire::decap::{Decapsulation, Frame, GENEVE_PORT, MAX_TUNNELS, TunnelError, VXLAN_PORT};
use tcpcopy_wire::link::LinkType;
use tcpcopy_wire::udp::UdpRepr;
use tcpcopy_wire::{Endpoint, Packet, Port};

fn everything() -> Decapsulation {
    Decapsulation { vxlan: vec![VXLAN_PORT, 8472], geneve: vec![GENEVE_PORT], gre: true, erspan: true }
}

fn udp(port: u16, payload: &[u8]) -> Vec<u8> {
    let end = |text: &str, port| Endpoint::new(text.parse::<IpAddr>().unwrap(), Port(port));
    let mut packet = Vec::new();
    UdpRepr { src: end("192.0.2.1", 49_152), dst: end("192.0.2.2", port), ip_id: 7 }
        .write(payload, 65_535, |write| write(&mut packet));
    packet
}

/// The datagram whose way through tunnels is tried.
fn inner() -> Vec<u8> {
    udp(53, b"mirrored")
}

fn ethernet(ether_type: u16, payload: &[u8]) -> Vec<u8> {
    [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2], &ether_type.to_be_bytes()[..], payload].concat()
}

/// Ethernet with two VLAN tags.
fn qinq(payload: &[u8]) -> Vec<u8> {
    let tagged = [&[0, 100, 0x81, 0, 0, 7, 8, 0], payload].concat();
    ethernet(0x88a8, &tagged)
}

fn ipv4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 0, 0, 1, 0, 0, 64, protocol, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2];
    packet.extend_from_slice(payload);
    let len = packet.len() as u16;
    packet[2..4].copy_from_slice(&len.to_be_bytes());
    packet
}

fn ipv6(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend_from_slice(&(payload.len() as u16).to_be_bytes());
    packet.extend_from_slice(&[protocol, 64]);
    packet.extend_from_slice(&[0xfd; 16]);
    packet.extend_from_slice(&[0xfe; 16]);
    packet.extend_from_slice(payload);
    packet
}

fn vxlan(frame: &[u8]) -> Vec<u8> {
    udp(VXLAN_PORT, &[&[0x08, 0, 0, 0, 0, 0x12, 0x34, 0], frame].concat())
}

/// GRE with these flags, of which those of optional fields are followed by what they say.
fn gre(flags: u16, kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet = [flags.to_be_bytes(), kind.to_be_bytes()].concat();
    for field in [0x8000, 0x2000, 0x1000] {
        if flags & field != 0 {
            packet.extend_from_slice(&[0xaa; 4]);
        }
    }
    packet.extend_from_slice(payload);
    packet
}

const ERSPAN_2: [u8; 8] = [0x10, 7, 0, 1, 0, 0, 0, 5];
const ERSPAN_3: [u8; 12] = [0x20, 7, 0, 1, 1, 2, 3, 4, 0, 0, 0, 0];
const SEQUENCE: u16 = 0x1000;

fn open(tunnels: &Decapsulation, link: LinkType, bytes: &[u8]) -> Result<Option<Vec<u8>>, TunnelError> {
    let found = tunnels.innermost(Frame { link, bytes, wire_len: bytes.len() })?;
    Ok(found.map(|frame| {
        assert_eq!(frame.wire_len, frame.bytes.len(), "nothing was cut");
        frame.link.ip_packet(frame.bytes).expect("an IP packet").to_vec()
    }))
}

#[test]
fn each_tunnel_gives_back_what_was_sent_into_it() {
    let frame = ethernet(0x0800, &inner());
    let (raw, ether) = (LinkType::Raw, LinkType::Ethernet);
    let tagged = [&ERSPAN_2[..], &qinq(&inner())].concat();
    let second = [&ERSPAN_2[..], &frame].concat();
    let third = [&ERSPAN_3[..], &frame].concat();
    let mut long = ERSPAN_3;
    long[11] = 1;
    let with_subheader = [&long[..], &[9; 8], &frame].concat();
    let mut of_ip = ERSPAN_3;
    of_ip[10] = 2 << 2;
    let with_packet = [&of_ip[..], &inner()].concat();
    let geneve = [&[2, 0, 0x65, 0x58, 0, 0, 9, 0], &[0xee; 8][..], &frame].concat();
    for (what, link, outer) in [
        ("VXLAN", raw, vxlan(&frame)),
        ("VXLAN on another port", raw, udp(8472, &[&[0x88, 0, 0, 0, 0, 0, 1, 0], &frame[..]].concat())),
        ("VXLAN of a trunk, on a trunk", ether, qinq(&vxlan(&qinq(&inner())))),
        ("VXLAN in VXLAN", ether, ethernet(0x0800, &vxlan(&ethernet(0x0800, &vxlan(&frame))))),
        ("Geneve with options", raw, udp(GENEVE_PORT, &geneve)),
        ("GRE with IPv4", raw, ipv4(47, &gre(0, 0x0800, &inner()))),
        ("GRE with checksum, key and number", raw, ipv4(47, &gre(0xb000, 0x0800, &inner()))),
        ("GRE with Ethernet, over IPv6", raw, ipv6(47, &gre(0x2000, 0x6558, &frame))),
        ("ERSPAN I", raw, ipv4(47, &gre(0, 0x88be, &frame))),
        ("ERSPAN II", ether, ethernet(0x0800, &ipv4(47, &gre(SEQUENCE, 0x88be, &second)))),
        ("ERSPAN II of a trunk", raw, ipv4(47, &gre(SEQUENCE, 0x88be, &tagged))),
        ("ERSPAN III", raw, ipv6(47, &gre(SEQUENCE, 0x22eb, &third))),
        ("ERSPAN III with its subheader", raw, ipv4(47, &gre(SEQUENCE, 0x22eb, &with_subheader))),
        ("ERSPAN III of an IP packet", raw, ipv4(47, &gre(SEQUENCE, 0x22eb, &with_packet))),
    ] {
        assert_eq!(open(&everything(), link, &outer), Ok(Some(inner())), "{what}");
        assert_eq!(open(&Decapsulation::default(), link, &outer), Ok(None), "{what}, with nothing enabled");
    }
}

#[test]
fn what_is_in_no_tunnel_is_left_alone() {
    for packet in [inner(), ipv4(6, &[0; 20]), ipv4(47, &[]), vec![], vec![0x45; 7]] {
        let only_vxlan = Decapsulation { vxlan: vec![VXLAN_PORT], ..Decapsulation::default() };
        assert_eq!(open(&only_vxlan, LinkType::Raw, &packet), Ok(None));
    }
    // The port counts at the receiver only.
    assert_eq!(open(&everything(), LinkType::Ethernet, &ethernet(0x0806, &vxlan(&[0; 40]))), Ok(None));
}

#[test]
fn what_cannot_be_opened_is_named() {
    let frame = ethernet(0x0800, &inner());
    let only_gre = Decapsulation { gre: true, ..Decapsulation::default() };
    let only_erspan = Decapsulation { erspan: true, ..Decapsulation::default() };
    let mut wrong_version = ERSPAN_2;
    wrong_version[0] = 0x20;
    let in_fragment = |mut packet: Vec<u8>| {
        packet[6] = 0x20;
        packet.truncate(20 + 32);
        packet[2..4].copy_from_slice(&52u16.to_be_bytes());
        packet
    };
    for (what, tunnels, packet, error) in [
        ("a header that is cut", everything(), udp(VXLAN_PORT, &[8, 0, 0, 0]), TunnelError::Truncated),
        ("no VNI", everything(), udp(VXLAN_PORT, &[&[0; 8], &frame[..]].concat()), TunnelError::UnknownForm),
        ("GRE version 1", everything(), ipv4(47, &gre(1, 0x880b, &frame)), TunnelError::UnknownForm),
        ("GRE with routing", everything(), ipv4(47, &gre(0x4000, 0x0800, &inner())), TunnelError::UnknownForm),
        ("MPLS in GRE", everything(), ipv4(47, &gre(0, 0x8847, &inner())), TunnelError::UnknownForm),
        ("ERSPAN, not enabled", only_gre, ipv4(47, &gre(0, 0x88be, &frame)), TunnelError::UnknownForm),
        ("GRE, not enabled", only_erspan, ipv4(47, &gre(0, 0x0800, &inner())), TunnelError::UnknownForm),
        (
            "ERSPAN II of another version",
            everything(),
            ipv4(47, &gre(SEQUENCE, 0x88be, &wrong_version)),
            TunnelError::UnknownForm,
        ),
        ("a cut ERSPAN III", everything(), ipv4(47, &gre(SEQUENCE, 0x22eb, &ERSPAN_3[..11])), TunnelError::Truncated),
        (
            "Geneve options beyond the end",
            everything(),
            udp(GENEVE_PORT, &[0x3f, 0, 0x65, 0x58, 0, 0, 1, 0, 0]),
            TunnelError::Truncated,
        ),
        (
            "Geneve between its ends",
            everything(),
            udp(GENEVE_PORT, &[0, 0x80, 0x65, 0x58, 0, 0, 1, 0]),
            TunnelError::UnknownForm,
        ),
        ("a fragment of VXLAN", everything(), in_fragment(vxlan(&frame)), TunnelError::Fragment),
        ("a fragment of GRE", everything(), in_fragment(ipv4(47, &[0; 60])), TunnelError::Fragment),
    ] {
        assert_eq!(open(&tunnels, LinkType::Raw, &packet), Err(error), "{what}");
    }
}

#[test]
fn tunnels_in_tunnels_are_bounded() {
    let mut packet = inner();
    for depth in 1..=MAX_TUNNELS + 1 {
        packet = ipv4(47, &gre(0, 0x0800, &packet));
        let expected = if depth <= MAX_TUNNELS { Ok(Some(inner())) } else { Err(TunnelError::TooDeep) };
        assert_eq!(open(&everything(), LinkType::Raw, &packet), expected, "{depth} tunnels");
    }
}

/// A mirror that cuts frames leaves their own headers as they were: what is missing is seen.
#[test]
fn a_frame_that_the_mirror_has_cut_is_known_as_cut() {
    let frame = ethernet(0x0800, &udp(53, &[7; 100]));
    let packet = vxlan(&frame[..80]);
    let inner = everything().innermost(Frame { link: LinkType::Raw, bytes: &packet, wire_len: packet.len() });
    let inner = inner.unwrap().unwrap();
    match Packet::from_frame(inner.link, inner.bytes, inner.wire_len) {
        Ok(Packet::Udp(datagram)) => assert!(datagram.is_cut() && datagram.payload_len == 100, "{datagram:?}"),
        other => panic!("{other:?}"),
    }
}

fn a_link() -> impl Strategy<Value = LinkType> {
    prop_oneof![
        Just(LinkType::Raw),
        Just(LinkType::Ethernet),
        Just(LinkType::Null),
        Just(LinkType::LinuxSll),
        Just(LinkType::LinuxSll2)
    ]
}

proptest! {
    #[test]
    fn any_bytes_are_survived(link in a_link(), bytes in prop::collection::vec(any::<u8>(), 0..300), wire_len in 0usize..70_000) {
        let _ = everything().innermost(Frame { link, bytes: &bytes, wire_len });
    }

    /// Real tunnels, changed and cut at random: an inner frame always lies within the outer one.
    #[test]
    fn changed_tunnels_are_survived(
        kind in 0u8..6,
        changes in prop::collection::vec((0usize..120, any::<u8>()), 0..6),
        cut in 0usize..200,
        nested: bool,
    ) {
        let mut frame = ethernet(0x0800, &inner());
        if nested {
            frame = ethernet(0x0800, &vxlan(&frame));
        }
        let mut outer = match kind {
            0 => vxlan(&frame),
            1 => udp(GENEVE_PORT, &[&[0, 0, 0x65, 0x58, 0, 0, 9, 0], &frame[..]].concat()),
            2 => ipv4(47, &gre(0xb000, 0x6558, &frame)),
            3 => ipv4(47, &gre(SEQUENCE, 0x88be, &[&ERSPAN_2[..], &frame].concat())),
            4 => ipv6(47, &gre(SEQUENCE, 0x22eb, &[&ERSPAN_3[..], &frame].concat())),
            _ => ipv6(47, &gre(0, 0x88be, &frame)),
        };
        for (at, byte) in changes {
            if let Some(place) = outer.get_mut(at) {
                *place = byte;
            }
        }
        let wire_len = outer.len();
        outer.truncate(outer.len().saturating_sub(cut));
        if let Ok(Some(inner)) = everything().innermost(Frame { link: LinkType::Raw, bytes: &outer, wire_len }) {
            let (from, whole) = (inner.bytes.as_ptr_range(), outer.as_ptr_range());
            prop_assert!(whole.start <= from.start && from.end <= whole.end);
            let _ = Packet::from_frame(inner.link, inner.bytes, inner.wire_len);
        }
    }
}
