use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use proptest::prelude::*;
use tcpcopy_wire::Transport;
use tcpcopy_wire::build::TcpRepr;
use tcpcopy_wire::control::{Decoder, FEATURE_UDP, Hello, Message, Role, encode_hello};
use tcpcopy_wire::tcp::{Flags, Options};
use tcpcopy_wire::{Endpoint, Port, SeqNumber};

use super::*;

mod legacy;
mod payload;
mod translation;

/// A relay, its outbox, and a clock that only tests move.
struct Bench {
    relay: Relay,
    out: RelayOutbox,
    now: Timestamp,
}

/// What a tcpcopy would read: id, sequence number and payload length.
type Record = (u64, u32, u32);

impl Bench {
    fn new(change: impl FnOnce(&mut RelayConfig)) -> Self {
        let mut config = RelayConfig { initial_routes: 16, ..RelayConfig::default() };
        change(&mut config);
        Self { relay: Relay::new(config), out: RelayOutbox::new(), now: Timestamp::from_millis(5) }
    }

    /// With peers 0 and 1, whose routes live for 80 seconds.
    fn with_peers() -> Self {
        let mut b = Self::new(|_| {});
        for peer in [0, 1] {
            b.up(peer, 80, 0);
        }
        b
    }

    fn give(&mut self, input: RelayInput<'_>) {
        self.relay.handle(self.now, input, &mut self.out);
        self.relay.stats().check().unwrap();
    }

    fn up(&mut self, peer: u32, ttl: u64, max_batch: u16) {
        let (peer, route_ttl, features) = (PeerId(peer), Duration::from_secs(ttl), FEATURE_PAYLOAD | FEATURE_UDP);
        self.give(RelayInput::PeerUp { peer, route_ttl, max_batch, features });
    }

    fn add(&mut self, peer: u32, id: u64, flow: Flow) {
        let change = RouteChange::Add { id: FlowId(id), transport: Transport::Tcp, flow };
        self.give(RelayInput::Route { peer: PeerId(peer), change });
    }

    fn remove(&mut self, peer: u32, id: u64) {
        self.give(RelayInput::Route { peer: PeerId(peer), change: RouteChange::Remove { id: FlowId(id) } });
    }

    fn gone(&mut self, peer: u32) {
        self.give(RelayInput::PeerGone { peer: PeerId(peer) });
    }

    /// The target sends `len` bytes on `flow`.
    fn respond(&mut self, flow: Flow, seq: u32, len: usize) {
        let packet = response(flow, seq, len);
        self.give(RelayInput::Frame { link: LinkType::Raw, bytes: &packet, wire_len: packet.len() });
    }

    /// Lets time pass, with every deadline on the way kept.
    fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(due) = self.relay.next_deadline().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.give(RelayInput::Timeout);
            assert!(self.relay.next_deadline().is_none_or(|next| next > due), "a deadline that does not pass");
        }
        self.now = end;
    }

    /// Takes what has been relayed, as each peer's tcpcopy would read it.
    fn relayed(&mut self) -> Vec<(u32, Record)> {
        let mut all = Vec::new();
        for (peer, bytes, count) in self.out.batches() {
            let records = records(bytes);
            assert_eq!(records.len() as u64, count);
            all.extend(records.into_iter().map(|r| (peer.0, r)));
        }
        assert_eq!(all.len() as u64, self.out.responses());
        self.out.clear_batches();
        all
    }

    fn dropped(&self, reason: RelayDrop) -> u64 {
        self.relay.stats().dropped[reason as usize]
    }
}

fn records(bytes: &[u8]) -> Vec<Record> {
    let mut decoder = Decoder::new(Role::Tcpcopy);
    let mut hello = Vec::new();
    encode_hello(&Hello::default(), &mut hello);
    decoder.next(&hello).unwrap();
    let (mut at, mut all) = (0, Vec::new());
    while let Some((message, len)) = decoder.next(&bytes[at..]).unwrap() {
        let Message::Responses(responses) = message else { panic!("only responses come from the relay: {message:?}") };
        all.extend(responses.map(|r| (r.id.0, r.seq.0, r.payload_len)));
        at += len;
    }
    assert_eq!(at, bytes.len(), "whole frames only");
    all
}

fn flow(n: u16) -> Flow {
    let end = |last, port| Endpoint::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)), Port(port));
    Flow { client: end(1, 1024 + n), server: end(2, 80) }
}

fn flow_v6(n: u16) -> Flow {
    let end = |last, port| Endpoint::new(IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last)), Port(port));
    Flow { client: end(1, 1024 + n), server: end(2, 80) }
}

fn response(flow: Flow, seq: u32, len: usize) -> Vec<u8> {
    let mut options = Options::default();
    options.timestamps = Some((1, 2));
    let repr = TcpRepr {
        src: flow.server,
        dst: flow.client,
        seq: SeqNumber(seq),
        ack: SeqNumber(77),
        flags: Flags::ACK,
        window: 500,
        options,
        ip_id: 9,
    };
    let mut packet = Vec::new();
    repr.write((&vec![b'x'; len], &[]), &mut packet);
    packet
}

#[test]
fn a_response_goes_to_the_tcpcopy_that_added_its_flow() {
    let mut b = Bench::with_peers();
    // Equal ids of different peers are different routes.
    b.add(0, 7, flow(1));
    b.add(1, 7, flow(2));
    b.add(1, 8, flow_v6(2));
    b.respond(flow(1), 100, 10);
    b.respond(flow(2), 200, 0);
    b.respond(flow_v6(2), 300, 3);
    assert_eq!(b.relayed(), [(0, (7, 100, 10)), (1, (7, 200, 0)), (1, (8, 300, 3))]);
    let stats = b.relay.stats();
    assert_eq!((stats.frames, stats.matched, stats.relayed, stats.routes_alive), (3, 3, 3, 3));
    assert_eq!(b.relay.link_stats(PeerId(1)).relayed, 2);
    assert_eq!(b.relay.link_stats(PeerId(1)).routes_alive, 2);
}

#[test]
fn every_field_of_the_header_arrives_and_a_cut_payload_keeps_its_length() {
    let mut b = Bench::with_peers();
    b.add(0, 7, flow(1));
    let packet = response(flow(1), 100, 1400);
    b.give(RelayInput::Frame { link: LinkType::Raw, bytes: &packet[..60], wire_len: packet.len() });
    let (_, bytes, _) = b.out.batches().next().unwrap();
    let header = &bytes[4..];
    let expected: &[u8] = &[
        0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 100, 0, 0, 0, 77, 0, 0, 5, 120, 1, 244, 16, 12, 1, 1, 8, 10, 0, 0, 0, 1, 0, 0,
        0, 2,
    ];
    assert_eq!(header, expected);
}

#[test]
fn responses_that_come_early_are_released_in_order_by_their_route() {
    let mut b = Bench::with_peers();
    for seq in 0..3 {
        b.respond(flow(1), seq, 0);
        b.respond(flow(2), 10 + seq, 0);
    }
    assert_eq!(b.relayed(), []);
    assert_eq!(b.relay.stats().held, 6);
    b.wait(Duration::from_millis(999));
    b.add(0, 5, flow(1));
    assert_eq!(b.relayed(), [(0, (5, 0, 0)), (0, (5, 1, 0)), (0, (5, 2, 0))]);
    b.wait(Duration::from_millis(1));
    b.add(0, 6, flow(2));
    assert_eq!(b.relayed(), [], "they were kept for a second, not longer");
    let stats = b.relay.stats();
    assert_eq!((stats.early_kept, stats.early_released, stats.held), (6, 3, 0));
    assert_eq!(b.dropped(RelayDrop::NoRoute), 3);
    let told = RelayNotice::Unrouted { transport: Transport::Tcp, flow: flow(2), responses: 1 };
    assert!(b.out.notices.contains(&told), "{:?}", b.out.notices);
}

#[test]
fn a_full_early_queue_keeps_the_newest() {
    let mut b = Bench::new(|c| c.early_limit = 4);
    b.up(0, 80, 0);
    for seq in 0..6 {
        b.respond(flow(seq % 2), u32::from(seq), 0);
    }
    assert_eq!((b.relay.stats().held, b.dropped(RelayDrop::EarlyFull)), (4, 2));
    b.add(0, 1, flow(1));
    assert_eq!(b.relayed(), [(0, (1, 3, 0)), (0, (1, 5, 0))]);
    // The place of what was released is used again.
    for seq in 6..9 {
        b.respond(flow(0), seq, 0);
    }
    b.add(0, 2, flow(0));
    let released: Vec<u32> = b.relayed().into_iter().map(|(_, (_, seq, _))| seq).collect();
    assert_eq!(released, [4, 6, 7, 8]);
    assert_eq!(b.relay.next_deadline(), Some(b.now + SWEEP_EVERY), "nothing early is left to wait for");
}

#[test]
fn a_tcpcopy_that_connects_again_gets_what_came_meanwhile() {
    let mut b = Bench::with_peers();
    b.add(0, 7, flow(1));
    b.add(1, 7, flow(2));
    b.gone(0);
    assert_eq!(b.relay.stats().routes_alive, 1);
    assert!(b.out.notices.contains(&RelayNotice::RoutesOrphaned { peer: PeerId(0), routes: 1 }));
    b.respond(flow(1), 1, 0);
    b.respond(flow(2), 2, 0);
    assert_eq!(b.relayed(), [(1, (7, 2, 0))], "the other tcpcopy notices nothing");
    b.wait(Duration::from_millis(300));
    b.up(0, 80, 0);
    b.add(0, 7, flow(1));
    assert_eq!(b.relayed(), [(0, (7, 1, 0))]);
}

#[test]
fn what_a_lost_tcpcopy_has_not_been_sent_is_counted() {
    let mut b = Bench::with_peers();
    b.add(0, 7, flow(1));
    for seq in 0..3 {
        b.respond(flow(1), seq, 0);
    }
    b.relayed();
    b.respond(flow(1), 3, 0);
    let reason = RelayDrop::LinkFull;
    b.give(RelayInput::Undelivered { peer: PeerId(0), responses: 2, reason });
    assert_eq!((b.relay.stats().relayed, b.dropped(RelayDrop::LinkFull)), (2, 2));
    assert_eq!(b.relay.link_stats(PeerId(0)).overflowed, 2);
    b.gone(0);
    assert_eq!(b.dropped(RelayDrop::LinkClosed), 1, "the one that was still in the outbox");
    assert_eq!(b.relayed(), []);
}

#[test]
fn the_newest_claim_on_a_flow_wins() {
    let mut b = Bench::with_peers();
    b.add(0, 7, flow(1));
    b.add(1, 9, flow(1));
    // Too late: the route belongs to somebody else by now.
    b.remove(0, 7);
    b.respond(flow(1), 1, 0);
    assert_eq!(b.relayed(), [(1, (9, 1, 0))]);
    let stats = b.relay.stats();
    assert_eq!((stats.routes_replaced, stats.unknown_removals, stats.routes_alive), (1, 1, 1));
}

#[test]
fn an_id_used_again_moves_to_its_new_flow() {
    let mut b = Bench::with_peers();
    b.add(0, 7, flow(1));
    b.add(0, 7, flow(2));
    b.add(0, 7, flow(2));
    b.respond(flow(1), 1, 0);
    b.respond(flow(2), 2, 0);
    assert_eq!(b.relayed(), [(0, (7, 2, 0))]);
    assert_eq!(b.relay.stats().routes_alive, 1);
    b.remove(0, 7);
    assert_eq!((b.relay.stats().routes_removed, b.relay.stats().routes_alive), (1, 0));
}

#[test]
fn an_idle_route_expires_and_a_used_one_does_not() {
    let mut b = Bench::with_peers();
    b.add(0, 1, flow(1));
    b.add(0, 2, flow(2));
    b.add(0, 3, flow(3));
    for _ in 0..4 {
        b.wait(Duration::from_secs(40));
        b.respond(flow(2), 1, 0);
        // Adding a route again is a sign of life too.
        b.add(0, 3, flow(3));
    }
    let stats = b.relay.stats();
    assert_eq!((stats.routes_expired, stats.routes_alive), (1, 2));
    // An eighth of 80 s after them at the latest.
    b.wait(Duration::from_secs(92));
    assert_eq!((b.relay.stats().routes_expired, b.relay.next_deadline()), (3, None));
}

#[test]
fn the_time_to_live_is_that_of_the_peer_or_the_default() {
    let mut b = Bench::new(|c| c.default_route_ttl = Duration::from_secs(10));
    b.up(0, 0, 0);
    b.up(1, 1000, 0);
    b.add(0, 1, flow(1));
    b.add(1, 1, flow(2));
    b.wait(Duration::from_secs(14));
    assert_eq!((b.relay.stats().routes_expired, b.relay.link_stats(PeerId(1)).routes_alive), (1, 1));
}

#[test]
fn frames_that_are_no_responses_are_counted_by_kind() {
    let mut b = Bench::with_peers();
    let good = response(flow(1), 1, 0);
    let mut fragment = good.clone();
    fragment[6] = 0x20;
    let mut malformed = good.clone();
    malformed[0] = 0x41;
    let mut tunnelled = good.clone();
    tunnelled[9] = 47;
    for bytes in [&good[..30], &fragment, &malformed, &tunnelled, &[0x20; 40]] {
        b.give(RelayInput::Frame { link: LinkType::Raw, bytes, wire_len: bytes.len() });
    }
    let counts = [RelayDrop::Truncated, RelayDrop::Fragment, RelayDrop::Malformed, RelayDrop::OtherProtocol]
        .map(|reason| b.dropped(reason));
    assert_eq!(counts, [1, 1, 1, 2]);
    assert_eq!((b.relay.stats().frames, b.relay.stats().responses), (5, 0));
}

#[test]
fn a_peer_that_is_not_up_changes_nothing() {
    let mut b = Bench::new(|_| {});
    b.add(3, 1, flow(1));
    b.remove(3, 1);
    b.gone(3);
    assert_eq!(b.relay.stats(), &RelayStats { unknown_removals: 1, ..RelayStats::default() });
}

#[test]
fn the_number_of_routes_is_bounded() {
    let mut b = Bench::new(|c| c.route_limit = 2);
    b.up(0, 80, 0);
    for n in 0..4 {
        b.add(0, n, flow(n as u16));
    }
    // A flow that has a route already needs no new one.
    b.add(0, 9, flow(1));
    assert_eq!((b.relay.stats().routes_alive, b.relay.stats().routes_refused), (2, 2));
    assert_eq!(b.out.notices, [RelayNotice::RouteTableFull { limit: 2 }], "told once");
}

#[test]
fn a_peer_that_floods_routes_leaves_room_for_the_others() {
    let mut b = Bench::new(|c| {
        c.route_limit = 8;
        c.route_limit_per_peer = 4;
    });
    for peer in [0, 1] {
        b.up(peer, 80, 0);
    }
    for n in 0..1_000 {
        b.add(0, n, flow(n as u16));
    }
    assert_eq!((b.relay.stats().routes_alive, b.relay.stats().routes_over_share), (4, 996));
    let notice = RelayNotice::PeerRoutesFull { peer: PeerId(0), limit: 4 };
    assert_eq!(b.out.notices, [notice], "told once");
    assert_eq!(b.relay.stats().routes_refused, 0, "the table itself is not full");

    // The other's session works, a flow of its own can be added again, and one that goes makes room.
    b.add(1, 7, flow(2_000));
    b.respond(flow(2_000), 5, 10);
    assert_eq!(b.relayed(), [(1, (7, 5, 10))]);
    b.add(0, 3, flow(3));
    assert_eq!(b.relay.stats().routes_over_share, 996);
    // A flow of another peer does not count as one of its own.
    b.add(0, 9, flow(2_000));
    assert_eq!(b.relay.stats().routes_over_share, 997);
    b.remove(0, 3);
    b.add(0, 10, flow(10));
    b.respond(flow(10), 6, 0);
    assert_eq!(b.relayed(), [(0, (10, 6, 0))]);
    b.gone(0);
    assert_eq!((b.relay.stats().routes_alive, b.relay.stats().routes_orphaned), (1, 4));
}

/// Early responses and those of others are nobody else's business.
#[test]
fn a_peer_hears_only_of_what_it_registered() {
    let mut b = Bench::with_peers();
    b.respond(flow(1), 1, 10);
    b.respond(flow(2), 2, 20);
    b.add(0, 10, flow(1));
    b.add(1, 20, flow(3));
    b.respond(flow(1), 3, 30);
    b.respond(flow(3), 4, 40);
    b.respond(flow(4), 5, 50);
    assert_eq!(b.relayed(), [(0, (10, 1, 10)), (0, (10, 3, 30)), (1, (20, 4, 40))]);
    // Nor of what another one may ask for: the id is its own.
    b.remove(1, 10);
    b.respond(flow(1), 6, 60);
    assert_eq!(b.relayed(), [(0, (10, 6, 60))]);
    b.wait(EARLY_KEPT_FOR);
    assert!(b.relayed().is_empty());
    assert_eq!(b.dropped(RelayDrop::NoRoute), 2);
}

#[test]
fn batches_keep_to_what_the_peer_takes() {
    let mut b = Bench::new(|_| {});
    b.up(0, 80, 2);
    b.add(0, 1, flow(1));
    for seq in 0..5 {
        b.respond(flow(1), seq, 0);
    }
    let (_, bytes, _) = b.out.batches().next().unwrap();
    // Records of 36 bytes, two in a frame.
    assert_eq!(bytes.len(), 5 * 36 + 3 * 4);
    assert_eq!(bytes.len(), b.out.bytes());
}

#[test]
fn an_idle_session_costs_at_most_128_bytes() {
    for sessions in [1_000, 20_000, 57_345, 131_072, 200_000] {
        let mut b = Bench::new(|c| c.initial_routes = 1);
        b.up(0, 80, 0);
        for n in 0..sessions {
            let mut f = flow_v6((n % 50_000) as u16);
            f.server.port = Port((n / 50_000) as u16);
            let change = RouteChange::Add { id: FlowId(n), transport: Transport::Tcp, flow: f };
            b.relay.handle(b.now, RelayInput::Route { peer: PeerId(0), change }, &mut b.out);
        }
        let each = b.relay.route_memory() as f64 / sessions as f64;
        assert!(each <= 128.0, "{each} bytes for each of {sessions} sessions");
    }
}

#[derive(Clone, Debug)]
enum Step {
    Up(u32),
    Gone(u32),
    Add(u32, u64, u16),
    Remove(u32, u64),
    Respond(u16),
    Undelivered(u32, u64),
    Garbage(Vec<u8>),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => (0..3u32).prop_map(Step::Up),
        1 => (0..3u32).prop_map(Step::Gone),
        6 => (0..3u32, 0..6u64, 0..6u16).prop_map(|(p, id, f)| Step::Add(p, id, f)),
        3 => (0..3u32, 0..6u64).prop_map(|(p, id)| Step::Remove(p, id)),
        8 => (0..6u16).prop_map(Step::Respond),
        1 => (0..3u32, 0..3u64).prop_map(|(p, n)| Step::Undelivered(p, n)),
        1 => prop::collection::vec(any::<u8>(), 0..80).prop_map(Step::Garbage),
        3 => (0..3_000u64).prop_map(Step::Wait),
    ]
}

proptest! {
    /// Against a model that is as simple as can be: a list of routes and a list of responses that wait.
    #[test]
    fn the_relay_does_what_a_simple_model_does(steps in prop::collection::vec(step(), 1..120)) {
        // (peer, id, flow, last use in whole seconds); the ttl is far away.
        let mut routes: Vec<(u32, u64, u16)> = Vec::new();
        let mut waiting: Vec<(u16, u32, Timestamp)> = Vec::new();
        let mut up = [false; 3];
        let mut b = Bench::new(|c| c.early_limit = 5);
        let mut expected = Vec::new();
        let mut seen = Vec::new();
        for (n, step) in steps.into_iter().enumerate() {
            let n = n as u32;
            match step {
                Step::Up(p) => {
                    routes.retain(|r| r.0 != p);
                    up[p as usize] = true;
                    b.up(p, 1_000_000, 0);
                }
                Step::Gone(p) => {
                    routes.retain(|r| r.0 != p);
                    up[p as usize] = false;
                    b.gone(p);
                }
                Step::Add(p, id, f) => {
                    if up[p as usize] {
                        routes.retain(|r| r.2 != f && (r.0, r.1) != (p, id));
                        routes.push((p, id, f));
                        waiting.retain(|w| w.2 + EARLY_KEPT_FOR > b.now);
                        expected.extend(waiting.iter().filter(|w| w.0 == f).map(|w| (p, (id, w.1, 0))));
                        waiting.retain(|w| w.0 != f);
                    }
                    b.add(p, id, flow(f));
                }
                Step::Remove(p, id) => {
                    routes.retain(|r| (r.0, r.1) != (p, id));
                    b.remove(p, id);
                }
                Step::Respond(f) => {
                    if let Some(r) = routes.iter().find(|r| r.2 == f) {
                        expected.push((r.0, (r.1, n, 0)));
                    } else {
                        waiting.retain(|w| w.2 + EARLY_KEPT_FOR > b.now);
                        waiting.push((f, n, b.now));
                    }
                    b.respond(flow(f), n, 0);
                    // Released places count until they are at the front, so how many wait may differ, but never by more
                    // than the bound; what the relay pushed out, the model forgets too.
                    let held = b.relay.stats().held as usize;
                    prop_assert!(held <= 5 && held <= waiting.len());
                    let gone = waiting.len() - held;
                    waiting.drain(..gone);
                }
                Step::Undelivered(p, responses) => {
                    b.give(RelayInput::Undelivered { peer: PeerId(p), responses, reason: RelayDrop::LinkFull });
                }
                Step::Garbage(bytes) => {
                    b.give(RelayInput::Frame { link: LinkType::Ethernet, bytes: &bytes, wire_len: bytes.len() });
                }
                Step::Wait(ms) => b.wait(Duration::from_millis(ms)),
            }
            // After each step, so that a peer's batch is never lost with it.
            seen.extend(b.relayed());
            prop_assert_eq!(&seen, &expected);
            prop_assert_eq!(b.relay.stats().routes_alive, routes.len() as u64);
        }
    }
}

/// As in two threads that share a capture: both know the route, one hears of the flow.
#[test]
fn relays_with_the_same_routes_are_counted_as_one() {
    let (mut used, mut idle) = (Bench::with_peers(), Bench::with_peers());
    for b in [&mut used, &mut idle] {
        b.add(0, 1, flow(1));
        b.add(1, 2, flow(2));
    }
    for second in 0..100 {
        used.respond(flow(1), second, 10);
        for b in [&mut used, &mut idle] {
            b.wait(Duration::from_secs(1));
        }
    }
    idle.respond(flow(9), 1, 10);
    assert_eq!((used.relay.stats().routes_alive, idle.relay.stats().routes_alive), (1, 0), "each by what it hears");
    let total = RelayStats::of_workers([used.relay.stats(), idle.relay.stats()]);
    total.check().unwrap();
    assert_eq!((total.frames, total.relayed, total.held), (101, 100, 1));
    assert_eq!((total.routes_added, total.routes_alive, total.routes_expired), (2, 1, 1));

    let mut total = total;
    assert_eq!(total.count_undelivered(RelayDrop::LinkFull, 40), 40);
    assert_eq!((total.relayed, total.dropped[RelayDrop::LinkFull as usize]), (60, 40));
    assert_eq!(total.count_undelivered(RelayDrop::LinkClosed, 100), 60, "no more than there were");
    total.check().unwrap();
}
