//! Packets that come in tunnels, as mirrors deliver them.

use std::net::{IpAddr, Ipv4Addr};

use tcpcopy_engine::ledger::PacketDrop;
use tcpcopy_engine::{Copier, CopierConfig, Input, Map, Outbox};
use tcpcopy_module_api::ModuleHandle;
use tcpcopy_module_tcp::PlainTcp;
use tcpcopy_module_udp::PlainUdp;
use tcpcopy_wire::build::TcpRepr;
use tcpcopy_wire::decap::{Decapsulation, VXLAN_PORT};
use tcpcopy_wire::link::LinkType;
use tcpcopy_wire::tcp::{Flags, Options};
use tcpcopy_wire::udp::UdpRepr;
use tcpcopy_wire::{Endpoint, Port, SeqNumber, Timestamp, Transport};

const fn end(last: u8, port: u16) -> Endpoint {
    Endpoint::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)), Port(port))
}

const CLIENT: Endpoint = end(9, 40_000);
const ONLINE: Endpoint = end(1, 80);
const TARGET: Endpoint = end(2, 8080);

fn copier(vxlan: Vec<u16>) -> Copier {
    let config = CopierConfig::new(vec![Map::tcp(None, ONLINE.port, TARGET)], ModuleHandle::new(PlainTcp));
    Copier::new(CopierConfig { decapsulation: Decapsulation { vxlan, ..Decapsulation::default() }, ..config })
}

/// The client's SYN as an Ethernet frame in VXLAN, of which the last `cut` bytes are missing.
fn mirrored(src: Endpoint, dst: Endpoint, cut: usize) -> Vec<u8> {
    let (seq, ack, flags) = (SeqNumber(1_000), SeqNumber(0), Flags::SYN);
    let repr = TcpRepr { src, dst, seq, ack, flags, window: 1_000, options: Options::default(), ip_id: 1 };
    let mut payload = vec![8, 0, 0, 0, 0, 0, 1, 0, 2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    repr.write((&[], &[]), &mut payload);
    payload.truncate(payload.len() - cut);
    outer(&payload)
}

/// A datagram to the port of VXLAN.
fn outer(payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    UdpRepr { src: end(200, 50_000), dst: end(201, VXLAN_PORT), ip_id: 1 }
        .write(payload, 1500, |write| write(&mut packet));
    packet
}

/// An IPv4 packet as fragments with `len` bytes of payload each, and the rest.
fn fragments_of(packet: &[u8], len: usize) -> Vec<Vec<u8>> {
    let (header, payload) = packet.split_at(20);
    let count = payload.chunks(len).count();
    let fragment = |(i, part): (usize, &[u8])| {
        let mut fragment = [header, part].concat();
        fragment[2..4].copy_from_slice(&(20 + part.len() as u16).to_be_bytes());
        let more = if i + 1 < count { 0x2000 } else { 0 };
        fragment[6..8].copy_from_slice(&(more | (i * len / 8) as u16).to_be_bytes());
        fragment
    };
    payload.chunks(len).enumerate().map(fragment).collect()
}

/// Hands a packet over; returns how many packets are sent in consequence.
fn captured(copier: &mut Copier, bytes: &[u8]) -> usize {
    let mut out = Outbox::new();
    let input = Input::Frame { link: LinkType::Raw, bytes, wire_len: bytes.len() };
    copier.handle(Timestamp::from_millis(1), input, &mut out);
    copier.ledger().check().unwrap();
    out.packet_count()
}

#[test]
fn what_a_mirror_delivers_in_a_tunnel_is_copied() {
    let mut copier = copier(vec![VXLAN_PORT]);
    let concerns = |packet: &[u8]| copier.concerns(LinkType::Raw, packet, packet.len());
    assert!(concerns(&mirrored(CLIENT, ONLINE, 0)) && !concerns(&mirrored(ONLINE, CLIENT, 0)));
    assert_eq!(captured(&mut copier, &mirrored(CLIENT, ONLINE, 0)), 1, "a SYN");
    assert_eq!(captured(&mut copier, &mirrored(ONLINE, CLIENT, 0)), 0, "the mirror shows both directions");
    assert_eq!(captured(&mut copier, &mirrored(CLIENT, TARGET, 0)), 0, "and our own copies");
    let ledger = copier.ledger();
    assert_eq!((ledger.packets_decapsulated, ledger.sessions_seen, ledger.packets_used), (3, 1, 1));
    assert_eq!(ledger.packets_dropped[PacketDrop::FromOnline as usize], 1);
    assert_eq!(ledger.packets_dropped[PacketDrop::OwnCopy as usize], 1);
}

#[test]
fn without_the_option_a_tunnel_is_a_datagram_like_any_other() {
    let mut copier = copier(vec![]);
    assert_eq!(captured(&mut copier, &mirrored(CLIENT, ONLINE, 0)), 0);
    assert_eq!(copier.ledger().packets_decapsulated, 0);
    assert_eq!(copier.ledger().sessions_seen, 0);
}

#[test]
fn what_cannot_be_taken_out_is_dropped_by_name() {
    let mut copier = copier(vec![VXLAN_PORT]);
    let whole = mirrored(CLIENT, ONLINE, 0);
    let mut no_vni = whole.clone();
    no_vni[28] = 0;
    let mut in_another = vec![8, 0, 0, 0, 0, 0, 1, 0, 2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    in_another.extend(&fragments_of(&whole, 40)[0]);
    // The tunnel is whole in the last one; what is in it is not.
    for packet in [&whole[..30], &no_vni, &outer(&in_another), &mirrored(CLIENT, ONLINE, 10)] {
        assert_eq!(captured(&mut copier, packet), 0);
    }
    for reason in [PacketDrop::TunnelCut, PacketDrop::TunnelUnknown, PacketDrop::TunnelFragment, PacketDrop::Truncated]
    {
        assert_eq!(copier.ledger().packets_dropped[reason as usize], 1, "{reason}");
    }
}

#[test]
fn a_tunnels_packet_is_put_together_from_its_fragments() {
    let fragments = fragments_of(&mirrored(CLIENT, ONLINE, 0), 32);
    assert!(fragments.len() > 2);
    for in_order in [true, false] {
        let mut copier = copier(vec![VXLAN_PORT]);
        let mut order: Vec<&Vec<u8>> = fragments.iter().collect();
        if !in_order {
            order.reverse();
        }
        let (last, before) = order.split_last().unwrap();
        for fragment in before {
            assert_eq!(captured(&mut copier, fragment), 0);
        }
        assert_eq!(captured(&mut copier, before[0]), 0, "once more");
        assert_eq!(captured(&mut copier, last), 1, "a SYN");
        let ledger = copier.ledger();
        assert_eq!((ledger.packets_decapsulated, ledger.sessions_seen, ledger.tunnels_incomplete), (1, 1, 0));
        assert_eq!(ledger.tunnel_fragments, fragments.len() as u64 + 1);
        assert_eq!(ledger.packets_dropped[PacketDrop::Duplicate as usize], 1);
        assert_eq!(copier.next_deadline().map(|at| at > Timestamp::from_millis(20_000)), Some(false), "nothing waits");
    }
}

#[test]
fn a_tunnels_packet_of_which_a_fragment_is_missing_is_given_up_in_time() {
    let mut copier = copier(vec![VXLAN_PORT]);
    let fragments = fragments_of(&mirrored(CLIENT, ONLINE, 0), 32);
    assert_eq!(captured(&mut copier, &fragments[0]), 0);
    let deadline = copier.next_deadline().expect("the rest is waited for");
    assert_eq!(deadline, Timestamp::from_millis(30_001));
    copier.handle(deadline, Input::Timeout, &mut Outbox::new());
    copier.ledger().check().unwrap();
    assert_eq!((copier.ledger().tunnels_incomplete, copier.next_deadline()), (1, None));
}

#[test]
fn fragments_of_a_copied_service_are_left_to_it_unless_they_are_a_tunnels() {
    let udp = Map { transport: Transport::Udp, module: 1, ..Map::tcp(None, Port(53), TARGET) };
    let modules = vec![ModuleHandle::new(PlainTcp), ModuleHandle::new(PlainUdp)];
    let config = CopierConfig::new(vec![Map::tcp(None, ONLINE.port, TARGET), udp], modules[0].clone());
    let decapsulation = Decapsulation { vxlan: vec![VXLAN_PORT], ..Decapsulation::default() };
    let mut copier = Copier::new(CopierConfig { modules, decapsulation, ..config });

    let mut query = Vec::new();
    UdpRepr { src: CLIENT, dst: end(1, 53), ip_id: 9 }.write(&[b'q'; 100], 1500, |write| write(&mut query));
    let sent: usize = fragments_of(&query, 48).iter().map(|fragment| captured(&mut copier, fragment)).sum();
    assert_eq!(sent, 1, "the query");
    let sent: usize =
        fragments_of(&mirrored(CLIENT, ONLINE, 0), 32).iter().map(|fragment| captured(&mut copier, fragment)).sum();
    assert_eq!(sent, 1, "the SYN");
}
