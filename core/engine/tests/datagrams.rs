//! UDP copy, datagram by datagram.

use std::net::IpAddr;
use std::time::Duration;

use proptest::prelude::*;
use tcpcopy_engine::copier::source::SourcePool;
use tcpcopy_engine::ledger::{ByteDrop, PacketDrop};
use tcpcopy_engine::{Copier, CopierConfig, Input, Ledger, LinkId, Map, Outbox, Rate};
use tcpcopy_module_api::{
    About, Attachment, Ctx, Module, ModuleHandle, Options, Payload, Session, SessionInfo, TargetData, Transport,
};
use tcpcopy_module_udp::PlainUdp;
use tcpcopy_wire::control::{DatagramResponse, FlowId, RouteChange};
use tcpcopy_wire::ip::IpFragment;
use tcpcopy_wire::link::LinkType;
use tcpcopy_wire::udp::UdpRepr;
use tcpcopy_wire::{Endpoint, Packet, Port, Timestamp, UdpDatagram};

fn end(text: &str) -> Endpoint {
    text.parse::<std::net::SocketAddr>().expect("an endpoint").into()
}

fn map(online_port: u16, target: &str) -> Map {
    Map { online_addr: None, online_port: Port(online_port), target: end(target), transport: Transport::Udp, module: 0 }
}

/// The packets of one datagram.
fn packets(src: &str, dst: &str, payload: &[u8], mtu: usize, id: u32) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    UdpRepr { src: end(src), dst: end(dst), ip_id: id }.write(payload, mtu, |write| {
        let mut packet = Vec::new();
        write(&mut packet);
        packets.push(packet);
    });
    packets
}

/// A datagram that was sent: from, to, payload.
type Sent = (Endpoint, Endpoint, Vec<u8>);

struct Script {
    copier: Copier,
    out: Outbox,
    now: Timestamp,
    routes: Vec<(LinkId, RouteChange)>,
    ids: u32,
}

impl Script {
    fn new(maps: Vec<Map>, change: impl FnOnce(&mut CopierConfig)) -> Self {
        Self::with_module(ModuleHandle::new(PlainUdp), maps, change)
    }

    fn with_module(module: ModuleHandle, maps: Vec<Map>, change: impl FnOnce(&mut CopierConfig)) -> Self {
        let mut config = CopierConfig::new(maps, module);
        change(&mut config);
        let now = Timestamp::from_millis(1_000);
        Self { copier: Copier::new(config), out: Outbox::new(), now, routes: Vec::new(), ids: 0 }
    }

    fn ledger(&self) -> &Ledger {
        self.copier.ledger()
    }

    fn dropped(&self, reason: PacketDrop) -> u64 {
        self.ledger().packets_dropped[reason as usize]
    }

    /// Tells the engine something; returns the packets that it sent for it.
    fn tell(&mut self, input: Input<'_>) -> Vec<Vec<u8>> {
        self.copier.handle(self.now, input, &mut self.out);
        self.copier.ledger().check().unwrap();
        self.routes.append(&mut self.out.routes);
        let packets = self.out.packets().map(|(_, packet)| packet.to_vec()).collect();
        self.out.clear();
        packets
    }

    fn frame(&mut self, packet: &[u8]) -> Vec<Vec<u8>> {
        self.tell(Input::Frame { link: LinkType::Raw, bytes: packet, wire_len: packet.len() })
    }

    /// A client's datagram is captured, in packets of up to 1500 bytes; returns the datagrams that it became.
    fn captured(&mut self, src: &str, dst: &str, payload: &[u8]) -> Vec<Sent> {
        self.ids += 1;
        let mut sent = Vec::new();
        for packet in packets(src, dst, payload, 1_500, self.ids) {
            sent.extend(self.frame(&packet));
        }
        put_together(&sent)
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.copier.next_deadline().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.tell(Input::Timeout);
            assert!(self.copier.next_deadline() != Some(at), "a deadline that does not pass");
        }
        self.now = end;
    }

    fn route_ids(&mut self) -> Vec<FlowId> {
        let added = |(_, change): (LinkId, RouteChange)| match change {
            RouteChange::Add { id, transport: Transport::Udp, .. } => Some(id),
            _ => None,
        };
        self.routes.drain(..).filter_map(added).collect()
    }

    fn answer(&mut self, id: FlowId, payload: &[u8]) -> Vec<Vec<u8>> {
        self.tell(Input::Datagram(DatagramResponse { id, payload_len: payload.len() as u16, payload }))
    }
}

/// The datagrams in packets, each packet of at most 1500 bytes.
fn put_together(packets: &[Vec<u8>]) -> Vec<Sent> {
    let mut sent = Vec::new();
    let mut parts: Vec<u8> = Vec::new();
    for packet in packets {
        assert!(packet.len() <= 1_500);
        match Packet::from_frame(LinkType::Raw, packet, packet.len()).expect("a packet of ours") {
            Packet::Udp(d) => sent.push((d.src, d.dst, d.payload.to_vec())),
            Packet::Fragment(IpFragment { src, dst, offset, more, data, .. }) => {
                assert_eq!(offset, parts.len(), "fragments go out in order");
                parts.extend_from_slice(data);
                if !more {
                    let d = UdpDatagram::from_transport(src, dst, &parts, parts.len()).expect("a datagram");
                    sent.push((d.src, d.dst, d.payload.to_vec()));
                    parts.clear();
                }
            }
            Packet::Tcp(segment) => panic!("{segment:?}"),
        }
    }
    assert!(parts.is_empty());
    sent
}

#[test]
fn a_datagram_goes_to_the_target_with_its_port_from_an_address_of_the_list() {
    let pool = SourcePool::new(vec!["10.78.0.1".parse().unwrap(), "fd78::1".parse().unwrap()]);
    let maps = vec![map(53, "10.0.0.9:5353"), map(54, "[fd00::9]:54")];
    let mut script = Script::new(maps, |c| c.sources = pool);
    let sent = script.captured("10.0.0.7:4000", "10.0.0.1:53", b"query");
    assert_eq!(sent, [(end("10.78.0.1:4000"), end("10.0.0.9:5353"), b"query".to_vec())]);
    let sent = script.captured("[fd00::7]:4000", "[fd00::1]:54", b"");
    assert_eq!(sent, [(end("[fd78::1]:4000"), end("[fd00::9]:54"), Vec::new())]);
    assert!(script.captured("10.0.0.7:4000", "10.0.0.1:55", b"other").is_empty());
    assert!(script.captured("10.78.0.1:4000", "10.0.0.9:5353", b"ours").is_empty());
    let counts = [PacketDrop::NoMap, PacketDrop::OwnCopy].map(|reason| script.dropped(reason));
    assert_eq!((counts, script.ledger().packets_used, script.ledger().bytes_copied), ([1, 1], 2, 5));
}

#[test]
fn without_a_list_the_client_keeps_its_address() {
    let mut script = Script::new(vec![map(53, "10.0.0.9:53")], |_| {});
    let sent = script.captured("10.0.0.7:4000", "10.0.0.1:53", b"query");
    assert_eq!(sent[0].0, end("10.0.0.7:4000"));
    // -H: only where a loopback address could not be answered.
    let mut script = Script::new(vec![map(53, "10.0.0.9:53")], |c| {
        c.traffic.loopback_source = Some("10.0.0.1".parse().unwrap());
    });
    assert_eq!(script.captured("127.0.0.1:4000", "127.0.0.1:53", b"query")[0].0, end("10.0.0.1:4000"));
    assert_eq!(script.captured("10.0.0.7:4000", "10.0.0.1:53", b"query")[0].0, end("10.0.0.7:4000"));
}

#[test]
fn every_map_that_matches_gets_a_copy() {
    let maps = vec![map(53, "10.0.0.8:53"), map(80, "10.0.0.8:80"), map(53, "10.0.0.9:53")];
    let mut script = Script::new(maps, |_| {});
    let sent = script.captured("10.0.0.7:4000", "10.0.0.1:53", b"query");
    assert_eq!(sent.iter().map(|s| s.1).collect::<Vec<_>>(), [end("10.0.0.8:53"), end("10.0.0.9:53")]);
    let ledger = script.ledger();
    assert_eq!((ledger.bytes_captured, ledger.bytes_multiplied, ledger.bytes_copied), (5, 5, 10));
    assert_eq!((ledger.udp_datagrams, ledger.udp_sent, ledger.udp_flows), (1, 2, 2));
}

#[test]
fn large_datagrams_are_put_together_and_cut_again() {
    for (src, dst, target) in
        [("10.0.0.7:4000", "10.0.0.1:53", "10.0.0.9:53"), ("[fd00::7]:4000", "[fd00::1]:53", "[fd00::9]:53")]
    {
        let mut script = Script::new(vec![map(53, target)], |_| {});
        for len in [1_472, 1_473, 4_096, 60_000, 65_507] {
            let payload: Vec<u8> = (0..len as u32).map(|i| (i % 249) as u8).collect();
            let sent = script.captured(src, dst, &payload);
            assert_eq!(sent, [(end(src), end(target), payload)]);
        }
        assert!(script.ledger().udp_reassembled >= 4 && script.ledger().udp_fragments_sent > 80);
    }
}

#[test]
fn what_stays_incomplete_is_counted() {
    let mut script = Script::new(vec![map(53, "10.0.0.9:53")], |_| {});
    let parts = packets("10.0.0.7:4000", "10.0.0.1:53", &[1; 4_000], 1_500, 1);
    script.frame(&parts[0]);
    script.frame(&parts[2]);
    script.pass(Duration::from_secs(31));
    assert_eq!(script.ledger().udp_incomplete, 1);
    assert_eq!(script.ledger().bytes_dropped[ByteDrop::IncompleteDatagram as usize], 1_472 + 1_048);
    // Fragments of another protocol are nobody's.
    let mut other = parts[0].clone();
    other[9] = 6;
    script.frame(&other);
    assert_eq!(script.dropped(PacketDrop::Fragment), 1);
}

#[test]
fn copies_of_a_client_have_sources_of_their_own() {
    let pool = |n: u8| SourcePool::new((1..=n).map(|i| IpAddr::from([10, 78, 0, i])).collect());
    for addresses in [1, 8] {
        let mut script = Script::new(vec![map(53, "10.0.0.9:53")], |c| {
            c.sources = pool(addresses);
            c.traffic.copies = 4;
        });
        let first = script.captured("10.0.0.7:60000", "10.0.0.1:53", b"a");
        let again = script.captured("10.0.0.7:60000", "10.0.0.1:53", b"b");
        let sources = |sent: &[Sent]| sent.iter().map(|s| s.0).collect::<Vec<_>>();
        assert_eq!(sources(&first), sources(&again), "a client keeps its sources");
        let mut distinct = sources(&first);
        distinct.sort_by_key(|e| (e.addr, e.port));
        distinct.dedup();
        assert_eq!(distinct.len(), 4);
        // With an address for each, all keep the client's port.
        assert_eq!(first.iter().all(|s| s.0.port == Port(60_000)), addresses == 8);
        assert!(first.iter().all(|s| s.0.port.0 >= 1024));
    }
    // A second tcpcopy with the same addresses: other ports.
    let mut script = Script::new(vec![map(53, "10.0.0.9:53")], |c| c.traffic.instance = 1);
    assert_ne!(script.captured("10.0.0.7:60000", "10.0.0.1:53", b"a")[0].0.port, Port(60_000));
}

#[test]
fn two_clients_never_share_a_source() {
    let pool = SourcePool::new(vec!["10.78.0.1".parse().unwrap()]);
    let mut script = Script::new(vec![map(53, "10.0.0.9:53")], |c| c.sources = pool);
    let one = script.captured("10.0.0.7:4000", "10.0.0.1:53", b"a")[0].0;
    let two = script.captured("10.0.0.8:4000", "10.0.0.1:53", b"a")[0].0;
    assert_ne!(one, two);
    assert_eq!(one.port, Port(4_000));
}

#[test]
fn a_percentage_takes_always_the_same_clients() {
    let run = || {
        let mut script = Script::new(vec![map(53, "10.0.0.9:53")], |c| c.traffic.percentage = 30);
        let taken: Vec<bool> = (0..1_000)
            .map(|i| !script.captured(&format!("10.0.{}.{}:5000", i / 200, i % 200), "10.0.0.1:53", b"a").is_empty())
            .collect();
        assert_eq!(script.dropped(PacketDrop::NotSampled), taken.iter().filter(|t| !**t).count() as u64);
        taken
    };
    let taken = run();
    assert_eq!(taken, run());
    let share = taken.iter().filter(|t| **t).count();
    assert!((250..350).contains(&share), "{share} of 1000");
}

#[test]
fn what_is_above_the_rate_is_counted() {
    let mut script = Script::new(vec![map(53, "10.0.0.9:53")], |c| c.traffic.max_rate = Some(Rate::Datagrams(100)));
    for _ in 0..1_000 {
        script.captured("10.0.0.7:4000", "10.0.0.1:53", b"a");
        script.pass(Duration::from_millis(1));
    }
    let copied = script.ledger().udp_sent;
    assert!((100..=112).contains(&copied), "{copied} in a second");
    assert_eq!(copied + script.dropped(PacketDrop::OverRate), 1_000);
}

#[test]
fn responses_are_matched_and_timed() {
    let mut script = Script::new(vec![map(53, "10.0.0.9:53")], |c| c.links_per_intercept = 2);
    for _ in 0..3 {
        script.captured("10.0.0.7:4000", "10.0.0.1:53", b"query");
    }
    let ids = script.route_ids();
    assert_eq!(ids.len(), 1, "a flow has one route");
    script.pass(Duration::from_millis(5));
    script.answer(ids[0], b"answer");
    script.pass(Duration::from_millis(15));
    script.answer(ids[0], b"answer");
    let ledger = script.ledger();
    assert_eq!((ledger.udp_responses, ledger.udp_answered, ledger.response_bytes), (2, 2, 12));
    assert_eq!(script.copier.udp_latency().quantile(0.1).unwrap().as_millis(), 5);
    assert_eq!(script.copier.udp_latency().quantile(0.9).unwrap().as_millis() / 4, 5);
    // An unknown id, and one too many.
    script.answer(FlowId(77), b"stale");
    script.answer(ids[0], b"answer");
    script.answer(ids[0], b"answer");
    assert_eq!((script.ledger().stale_responses, script.ledger().udp_unsolicited), (1, 1));
}

#[test]
fn an_idle_client_is_forgotten_with_its_route() {
    let mut script = Script::new(vec![map(53, "10.0.0.9:53")], |_| {});
    script.captured("10.0.0.7:4000", "10.0.0.1:53", b"query");
    let id = script.route_ids()[0];
    script.pass(Duration::from_secs(20));
    script.captured("10.0.0.7:4000", "10.0.0.1:53", b"query");
    script.pass(Duration::from_secs(29));
    assert_eq!(script.ledger().udp_flows_alive, 1);
    script.pass(Duration::from_secs(2));
    assert_eq!((script.ledger().udp_flows_alive, script.ledger().udp_unanswered), (0, 2));
    assert!(script.routes.contains(&(LinkId(0), RouteChange::Remove { id })));
    // The next one has another id, though the same slot.
    script.captured("10.0.0.7:4000", "10.0.0.1:53", b"query");
    assert_ne!(script.route_ids(), [id]);
}

#[test]
fn the_client_that_was_silent_longest_makes_room() {
    let mut script = Script::new(vec![map(53, "10.0.0.9:53")], |c| c.session_limit = 2);
    for client in ["10.0.0.1:1", "10.0.0.2:1", "10.0.0.1:1", "10.0.0.3:1"] {
        assert_eq!(script.captured(client, "10.0.0.4:53", b"x").len(), 1);
    }
    let removed = script.routes.iter().filter(|(_, c)| matches!(c, RouteChange::Remove { .. })).count();
    assert_eq!((script.ledger().udp_flows_evicted, script.ledger().udp_flows_alive, removed), (1, 2, 1));
    script.routes.clear();
    script.captured("10.0.0.1:1", "10.0.0.4:53", b"x");
    assert!(script.routes.is_empty(), "the other one was silent for longer");
}

#[test]
fn routes_are_announced_again_and_taken_back() {
    let mut script = Script::new(vec![map(53, "10.0.0.9:53")], |c| c.intercepts = 2);
    script.captured("10.0.0.7:4000", "10.0.0.1:53", b"query");
    assert_eq!(script.route_ids().len(), 2, "one for each intercept");
    script.tell(Input::LinkUp(LinkId(1)));
    assert_eq!(script.routes.iter().map(|(link, _)| *link).collect::<Vec<_>>(), [LinkId(1)]);
    script.routes.clear();
    script.tell(Input::Stop);
    assert_eq!(script.routes.len(), 2);
    assert!(script.copier.is_finished());
    assert!(script.captured("10.0.0.7:4000", "10.0.0.1:53", b"query").is_empty());
    assert_eq!(script.dropped(PacketDrop::Stopping), 1);
}

/// Drops what begins with `-`, sends `hello` first, holds what begins with `?`, and counts answers.
struct Picky;

impl Module for Picky {
    fn about() -> About {
        About { name: "picky", ..About::new(Transport::Udp, "1") }
    }

    fn create(_: &Options) -> Result<Self, String> {
        Ok(Self)
    }

    fn on_open(&self, _: &SessionInfo) -> Attachment {
        Attachment::watch(PickySession)
    }
}

struct PickySession;

impl Session for PickySession {
    fn on_open(&mut self, ctx: &mut Ctx<'_>) {
        ctx.want_payload(Payload::First(4));
        ctx.send(b"hello");
    }

    fn on_client_data(&mut self, ctx: &mut Ctx<'_>, data: &[u8]) {
        match data.first() {
            Some(b'-') => ctx.drop(data.len(), "begins with a minus"),
            Some(b'?') => {}
            Some(b'!') => ctx.abort("shouting"),
            _ => ctx.pass(usize::MAX),
        }
    }

    fn on_target_data(&mut self, ctx: &mut Ctx<'_>, data: TargetData<'_>) {
        ctx.count("answers", 1);
        ctx.count("hidden", data.hidden.into());
    }
}

#[test]
fn a_module_decides_datagram_by_datagram() {
    let mut script = Script::with_module(ModuleHandle::new(Picky), vec![map(53, "10.0.0.9:53")], |_| {});
    let mut send = |payload: &[u8]| -> Vec<Vec<u8>> {
        script.captured("10.0.0.7:4000", "10.0.0.1:53", payload).into_iter().map(|s| s.2).collect()
    };
    assert_eq!(send(b"one"), [b"hello".to_vec(), b"one".to_vec()]);
    assert!(send(b"-two").is_empty());
    assert!(send(b"?three").is_empty());
    assert_eq!(send(b"four"), [b"four".to_vec()], "what was left undecided is not part of the next");
    let id = script.route_ids()[0];
    script.tell(Input::Datagram(DatagramResponse { id, payload_len: 9, payload: b"answ" }));
    assert!(script.captured("10.0.0.7:4000", "10.0.0.1:53", b"!five").is_empty());
    assert!(script.captured("10.0.0.7:4000", "10.0.0.1:53", b"six").is_empty());
    assert_eq!(script.dropped(PacketDrop::SessionEnded), 1);
    let counted: Vec<(String, u64)> =
        script.copier.module_counters().iter().map(|c| (c.name.to_string(), c.count)).collect();
    for expected in [("begins with a minus", 1), ("left undecided", 2), ("answers", 1), ("hidden", 5), ("shouting", 1)]
    {
        assert!(counted.contains(&(expected.0.to_owned(), expected.1)), "{expected:?} in {counted:?}");
    }
    assert_eq!(script.ledger().bytes_inserted, 5);
}

proptest! {
    /// Whatever is captured, in whatever order and pieces, the ledger balances and nothing is left behind.
    #[test]
    fn the_ledger_balances(
        steps in prop::collection::vec(
            (0u8..6, 0u8..3, prop_oneof![0usize..200, 1_000usize..5_000], any::<prop::sample::Index>(), any::<(u8, u8)>(), 0u64..20_000),
            1..60,
        ),
        watched: bool,
        copies in 1u16..4,
        limit in 1usize..8,
    ) {
        let module = if watched { ModuleHandle::new(Picky) } else { ModuleHandle::new(PlainUdp) };
        let maps = vec![map(53, "10.0.0.9:53"), map(53, "[fd00::9]:53")];
        let mut script = Script::with_module(module, maps, |c| {
            c.sources = SourcePool::new(vec!["10.78.0.1".parse().unwrap(), "fd78::1".parse().unwrap()]);
            c.traffic.copies = copies;
            c.session_limit = limit;
        });
        for (kind, client, len, at, (position, value), wait) in steps {
            let payload = vec![b"-?!abc"[usize::from(kind)]; len];
            let (src, dst) = (format!("10.0.1.{client}:4000"), "10.0.0.1:53");
            let mut parts = packets(&src, dst, &payload, 600, u32::from(client));
            match kind {
                // Some of the fragments, and one of them changed.
                0 => { parts.remove(at.index(parts.len())); }
                1 => {
                    let n = at.index(parts.len());
                    let byte = usize::from(position) % parts[n].len();
                    parts[n][byte] = value;
                }
                2 => parts.reverse(),
                _ => {}
            }
            for part in parts {
                script.frame(&part);
            }
            if let Some(id) = script.route_ids().first() {
                script.answer(*id, &payload[..payload.len().min(1_000)]);
            }
            script.pass(Duration::from_millis(wait));
            prop_assert!(script.ledger().udp_flows_alive as usize <= limit);
        }
        script.pass(Duration::from_secs(100));
        script.tell(Input::Stop);
        prop_assert_eq!((script.ledger().udp_flows_alive, script.ledger().pending_bytes), (0, 0));
        prop_assert_eq!(script.copier.next_deadline().is_some_and(|at| at < script.now), false);
    }
}
