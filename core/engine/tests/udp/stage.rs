//! Clients and targets that exist only as the datagrams they would send, around one engine.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tcpcopy_engine::copier::source::SourcePool;
use tcpcopy_engine::ledger::{ByteDrop, PacketDrop};
use tcpcopy_engine::{Copier, CopierConfig, Input, LinkId, Map, Outbox, Traffic};
use tcpcopy_module_api::{ModuleHandle, Transport};
use tcpcopy_module_udp::PlainUdp;
use tcpcopy_wire::control::{DatagramResponse, FlowId, RouteChange};
use tcpcopy_wire::link::LinkType;
use tcpcopy_wire::udp::UdpRepr;
use tcpcopy_wire::{Endpoint, Packet, Timestamp, UdpDatagram};

pub(crate) const ONLINE: &str = "10.0.0.1:53";
pub(crate) const TARGET: &str = "10.0.0.2:5353";
pub(crate) const CLIENT: &str = "10.1.0.1:40000";
pub(crate) const ONLINE_V6: &str = "[fd00::1]:53";
pub(crate) const TARGET_V6: &str = "[fd00::2]:5353";
pub(crate) const CLIENT_V6: &str = "[fd01::1]:40000";

pub(crate) fn end(text: &str) -> Endpoint {
    text.parse::<SocketAddr>().expect("a test's endpoint").into()
}

/// A map for the datagrams to `online`, by the first module.
pub(crate) fn map(online: &str, target: &str) -> Map {
    let online = end(online);
    Map { transport: Transport::Udp, ..Map::tcp(Some(online.addr), online.port, end(target)) }
}

/// A configuration that copies datagrams as they are.
pub(crate) fn config(maps: Vec<Map>) -> CopierConfig {
    CopierConfig::new(maps, ModuleHandle::new(PlainUdp))
}

/// The IP packets of a datagram.
pub(crate) fn packets(src: &str, dst: &str, id: u32, payload: &[u8], mtu: usize) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    UdpRepr { src: end(src), dst: end(dst), ip_id: id }.write(payload, mtu, |write| {
        let mut packet = Vec::new();
        write(&mut packet);
        packets.push(packet);
    });
    packets
}

/// A datagram that the engine sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) from: Endpoint,
    pub(crate) to: Endpoint,
    pub(crate) payload: Vec<u8>,
    /// IP packets that it was sent in.
    pub(crate) packets: usize,
}

/// An engine with its clock, and what it sent.
pub(crate) struct Stage {
    pub(crate) copier: Copier,
    pub(crate) out: Outbox,
    pub(crate) now: Timestamp,
    /// Route changes so far.
    pub(crate) routes: Vec<(LinkId, RouteChange)>,
    mtu: usize,
}

impl Stage {
    pub(crate) fn new(config: CopierConfig) -> Self {
        let mtu = config.mtu.into();
        let copier = Copier::new(config);
        Self { copier, out: Outbox::new(), now: Timestamp::from_millis(1), routes: Vec::new(), mtu }
    }

    /// Plain copy from [`ONLINE`] to [`TARGET`], of IPv4 and IPv6.
    pub(crate) fn plain() -> Self {
        Self::new(config(vec![map(ONLINE, TARGET), map(ONLINE_V6, TARGET_V6)]))
    }

    /// The same, with other ideas about how much is copied.
    pub(crate) fn with(traffic: Traffic, sources: &[&str]) -> Self {
        let addresses: Vec<IpAddr> = sources.iter().map(|a| a.parse().expect("a test's address")).collect();
        let plain = config(vec![map(ONLINE, TARGET), map(ONLINE_V6, TARGET_V6)]);
        Self::new(CopierConfig { traffic, sources: SourcePool::new(addresses), ..plain })
    }

    /// Hands an input over, and returns the datagrams that come out.
    pub(crate) fn tell(&mut self, input: Input<'_>) -> Vec<Sent> {
        self.copier.handle(self.now, input, &mut self.out);
        self.copier.ledger().check().expect("the ledger balances");
        self.routes.append(&mut self.out.routes);
        let sent = datagrams(&self.out, self.mtu);
        self.out.clear_packets();
        sent
    }

    /// A packet is captured.
    pub(crate) fn capture(&mut self, packet: &[u8]) -> Vec<Sent> {
        self.tell(Input::Frame { link: LinkType::Raw, bytes: packet, wire_len: packet.len() })
    }

    /// A datagram is captured, in one packet.
    pub(crate) fn datagram(&mut self, src: &str, dst: &str, payload: &[u8]) -> Vec<Sent> {
        let packets = packets(src, dst, 1, payload, 100_000);
        assert_eq!(packets.len(), 1);
        self.capture(&packets[0])
    }

    /// The only datagram that follows from one of [`CLIENT`]'s.
    pub(crate) fn query(&mut self, payload: &[u8]) -> Sent {
        let sent = self.datagram(CLIENT, ONLINE, payload);
        let [only] = &sent[..] else { panic!("one datagram, not {sent:?}") };
        only.clone()
    }

    /// An intercept reports a datagram of the target.
    pub(crate) fn response(&mut self, id: FlowId, payload_len: u16) {
        let sent = self.tell(Input::Datagram(DatagramResponse { id, payload_len, payload: &[] }));
        assert_eq!(sent, [], "nothing is answered to a datagram");
    }

    /// Lets time pass, with all that is due in it.
    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        let mut at_once = 0;
        while let Some(at) = self.copier.next_deadline().filter(|at| *at <= end) {
            at_once = if at > self.now { 0 } else { at_once + 1 };
            assert!(at_once < 100, "the deadline {at:?} stays due");
            self.now = self.now.max(at);
            assert_eq!(self.tell(Input::Timeout), [], "time alone sends no datagrams");
        }
        self.now = end;
    }

    /// The route that was added last.
    pub(crate) fn last_route(&self) -> (FlowId, Endpoint, Endpoint) {
        let added = self.routes.iter().rev().find_map(|(_, change)| match change {
            RouteChange::Add { id, transport: Transport::Udp, flow } => Some((*id, flow.client, flow.server)),
            _ => None,
        });
        added.expect("a route was added")
    }

    pub(crate) fn dropped(&self, reason: PacketDrop) -> u64 {
        self.copier.ledger().packets_dropped[reason as usize]
    }

    pub(crate) fn bytes_dropped(&self, reason: ByteDrop) -> u64 {
        self.copier.ledger().bytes_dropped[reason as usize]
    }
}

/// The datagrams in the outbox; those in fragments put together in the order in which the engine writes them.
pub(crate) fn datagrams(out: &Outbox, mtu: usize) -> Vec<Sent> {
    let mut sent = Vec::new();
    let (mut parts, mut count) = (Vec::new(), 0);
    for (to, packet) in out.packets() {
        assert!(packet.len() <= mtu, "{} bytes are more than the MTU", packet.len());
        match Packet::from_frame(LinkType::Raw, packet, packet.len()).expect("a packet of the engine") {
            Packet::Udp(datagram) => sent.push(read(&datagram, 1)),
            Packet::Fragment(f) => {
                assert_eq!(f.offset, parts.len(), "fragments follow each other");
                parts.extend_from_slice(f.data);
                count += 1;
                if !f.more {
                    let datagram = UdpDatagram::from_transport(f.src, f.dst, &parts, parts.len());
                    sent.push(read(&datagram.expect("a datagram"), count));
                    (parts, count) = (Vec::new(), 0);
                }
            }
            Packet::Tcp(segment) => panic!("{segment:?} in a copy of UDP"),
        }
        assert!(sent.last().is_none_or(|last| last.to.addr == to || count > 0), "sent to the address it is for");
    }
    assert!(parts.is_empty(), "the last fragment is missing");
    sent
}

fn read(datagram: &UdpDatagram<'_>, packets: usize) -> Sent {
    assert!(!datagram.is_cut());
    Sent { from: datagram.src, to: datagram.dst, payload: datagram.payload.to_vec(), packets }
}
