//! How much is copied, and from which address and port.

use std::net::{IpAddr, Ipv4Addr};

use tcpcopy_engine::ledger::PacketDrop;
use tcpcopy_engine::{Copier, CopierConfig, Input, Map, Outbox};
use tcpcopy_module_api::ModuleHandle;
use tcpcopy_module_tcp::PlainTcp;
use tcpcopy_wire::build::TcpRepr;
use tcpcopy_wire::link::LinkType;
use tcpcopy_wire::tcp::{Flags, Options};
use tcpcopy_wire::{Endpoint, Port, SeqNumber, TcpSegment, Timestamp};

const ONLINE: Endpoint = Endpoint::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), Port(80));
const TARGET: Endpoint = Endpoint::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)), Port(8080));

fn copier(change: impl FnOnce(&mut CopierConfig)) -> Copier {
    let map = Map::tcp(None, ONLINE.port, TARGET);
    let mut config = CopierConfig::new(vec![map], ModuleHandle::new(PlainTcp));
    change(&mut config);
    Copier::new(config)
}

/// A client's packet; returns where the copies of it come from.
fn captured(copier: &mut Copier, src: Endpoint, flags: Flags, payload: &[u8]) -> Vec<Endpoint> {
    let dst = if src.addr.is_loopback() { Endpoint::new(src.addr, ONLINE.port) } else { ONLINE };
    let (seq, ack) = (SeqNumber(1_000), SeqNumber(500));
    let repr = TcpRepr { src, dst, seq, ack, flags, window: 1_000, options: Options::default(), ip_id: 1 };
    let (mut bytes, mut out) = (Vec::new(), Outbox::new());
    repr.write((payload, &[]), &mut bytes);
    let input = Input::Frame { link: LinkType::Raw, bytes: &bytes, wire_len: bytes.len() };
    copier.handle(Timestamp::from_millis(1), input, &mut out);
    copier.ledger().check().unwrap();
    out.packets().map(|(_, packet)| TcpSegment::from_ip_packet(packet, packet.len()).unwrap().src).collect()
}

fn client(number: u16) -> Endpoint {
    Endpoint::new(IpAddr::V4(Ipv4Addr::new(10, 9, (number >> 8) as u8, number as u8)), Port(20_000 + number))
}

#[test]
fn a_sample_has_the_same_connections_in_every_run_from_their_beginning_or_their_middle() {
    let copied = |percentage: u8, flags: Flags, payload: &[u8]| -> Vec<u16> {
        let mut copier = copier(|config| config.traffic.percentage = percentage);
        let copied: Vec<u16> =
            (0..2_000).filter(|n| !captured(&mut copier, client(*n), flags, payload).is_empty()).collect();
        let left_out = copier.ledger().packets_dropped[PacketDrop::NotSampled as usize];
        assert_eq!(copied.len() as u64 + left_out, 2_000);
        copied
    };
    let fifth = copied(20, Flags::SYN, b"");
    assert!((320..480).contains(&fifth.len()), "{} of 2,000", fifth.len());
    assert_eq!(copied(20, Flags::SYN, b""), fifth);
    assert_eq!(copied(20, Flags::ACK | Flags::PSH, b"joined"), fifth);
    assert!(fifth.iter().all(|n| copied(40, Flags::SYN, b"").contains(n)), "more is more of the same");
    assert_eq!(copied(100, Flags::SYN, b"").len(), 2_000);
}

#[test]
fn instances_have_ports_of_their_own() {
    let ports: Vec<u16> = (0..32)
        .map(|instance| {
            let mut copier = copier(|config| config.traffic.instance = instance);
            captured(&mut copier, client(5), Flags::SYN, b"")[0].port.0
        })
        .collect();
    assert_eq!(ports[0], 20_005, "the client's own");
    for (n, port) in ports.iter().enumerate() {
        assert!(*port >= 1_024 && !ports[..n].contains(port), "{ports:?}");
    }
}

#[test]
fn a_client_on_this_host_gets_an_address_that_the_target_can_answer() {
    let here = Endpoint::new(IpAddr::V4(Ipv4Addr::LOCALHOST), Port(30_000));
    let address = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
    let mut copier = copier(|config| config.traffic.loopback_source = Some(address));
    assert_eq!(captured(&mut copier, here, Flags::SYN, b""), [Endpoint::new(address, here.port)]);
    assert_eq!(captured(&mut copier, client(5), Flags::SYN, b""), [client(5)], "others keep theirs");
}
