//! Packets that come in tunnels, as mirrors deliver them.

use std::net::{IpAddr, Ipv4Addr};

use tcpcopy_engine::ledger::PacketDrop;
use tcpcopy_engine::{Copier, CopierConfig, Input, Map, Outbox};
use tcpcopy_module_api::ModuleHandle;
use tcpcopy_module_tcp::PlainTcp;
use tcpcopy_wire::build::TcpRepr;
use tcpcopy_wire::decap::{Decapsulation, VXLAN_PORT};
use tcpcopy_wire::link::LinkType;
use tcpcopy_wire::tcp::{Flags, Options};
use tcpcopy_wire::udp::UdpRepr;
use tcpcopy_wire::{Endpoint, Port, SeqNumber, Timestamp};

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
    let mut packet = Vec::new();
    UdpRepr { src: end(200, 50_000), dst: end(201, VXLAN_PORT), ip_id: 1 }
        .write(&payload, 1500, |write| write(&mut packet));
    packet
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
    let mut fragment = whole.clone();
    fragment.truncate(20 + 40);
    fragment[2..4].copy_from_slice(&60u16.to_be_bytes());
    fragment[6] = 0x20;
    // The tunnel is whole in the last one; what is in it is not.
    for packet in [&whole[..30], &no_vni, &fragment, &mirrored(CLIENT, ONLINE, 10)] {
        assert_eq!(captured(&mut copier, packet), 0);
    }
    for reason in [PacketDrop::TunnelCut, PacketDrop::TunnelUnknown, PacketDrop::TunnelFragment, PacketDrop::Truncated]
    {
        assert_eq!(copier.ledger().packets_dropped[reason as usize], 1, "{reason}");
    }
}
