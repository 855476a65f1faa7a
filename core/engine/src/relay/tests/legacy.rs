//! Peers of the C programs beside those of this generation.

use tcpcopy_wire::control::{Decoder, LegacyFormat, Message, RecordKind};

use super::*;

/// What a tcpcopy of the C programs reads: flow, sequence number, payload length, and the payload that came with it.
type Read = (Flow, u32, u32, Vec<u8>);

impl Bench {
    fn legacy(config: LegacyConfig) -> Self {
        Self::new(|c| c.legacy = config)
    }

    fn legacy_up(&mut self, peer: u32) {
        self.give(RelayInput::LegacyPeerUp { peer: PeerId(peer) });
    }

    /// Takes what has been relayed to peers of the C programs.
    fn records(&mut self, kind: RecordKind) -> Vec<(u32, Read)> {
        let mut all = Vec::new();
        for (peer, bytes, count) in self.out.batches() {
            let (mut decoder, mut at, before) = (Decoder::legacy(kind), 0, all.len());
            while let Some((message, len)) = decoder.next(&bytes[at..]).unwrap() {
                let Message::LegacyRecords(records) = message else { panic!("{message:?}") };
                all.extend(records.map(|(flow, r)| (peer.0, (flow, r.seq.0, r.payload_len, r.payload.to_vec()))));
                at += len;
            }
            assert_eq!((at, (all.len() - before) as u64), (bytes.len(), count), "whole frames only");
        }
        self.out.clear_batches();
        all
    }
}

const WITH_PAYLOAD: LegacyFormat = LegacyFormat { records: RecordKind::WithPayload, combined: true };

#[test]
fn a_tcpcopy_of_each_generation_gets_its_own_sessions_in_its_own_form() {
    let mut b = Bench::legacy(LegacyConfig::default());
    b.up(0, 80, 0);
    b.legacy_up(1);
    b.add(0, 7, flow(1));
    b.add(1, 1, flow(2));
    b.respond(flow(1), 100, 10);
    b.respond(flow(2), 200, 20);
    let sizes: Vec<(u32, usize)> = b.out.batches().map(|(peer, bytes, _)| (peer.0, bytes.len())).collect();
    assert_eq!(sizes, [(0, 4 + 24 + 12), (1, 66)]);
    b.out.clear_batches();

    // Its flow may go over to the other; then so do its responses.
    b.add(0, 8, flow(2));
    b.respond(flow(2), 300, 30);
    assert_eq!(b.relayed(), [(0, (8, 300, 30))]);
    b.add(1, 2, flow(2));
    b.respond(flow(2), 400, 40);
    assert_eq!(b.records(RecordKind::Headers), [(1, (flow(2), 400, 40, vec![]))]);
}

#[test]
fn early_responses_are_released_to_an_old_peer_too() {
    let mut b = Bench::legacy(LegacyConfig::default());
    b.legacy_up(0);
    b.respond(flow(1), 1, 0);
    b.respond(flow(1), 2, 5);
    assert_eq!(b.relay.stats().held, 2);
    b.add(0, 1, flow(1));
    assert_eq!(b.records(RecordKind::Headers), [(0, (flow(1), 1, 0, vec![])), (0, (flow(1), 2, 5, vec![]))]);
}

#[test]
fn the_batch_limit_and_bare_records() {
    let mut b = Bench::legacy(LegacyConfig { max_batch: 2, ..LegacyConfig::default() });
    let bare = LegacyFormat { combined: false, ..LegacyFormat::default() };
    let mut bare = Bench::legacy(LegacyConfig { format: bare, ..LegacyConfig::default() });
    for b in [&mut b, &mut bare] {
        b.legacy_up(0);
        b.add(0, 1, flow(1));
        for seq in 0..3 {
            b.respond(flow(1), seq, 0);
        }
    }
    let size = |b: &Bench| b.out.batches().next().unwrap().1.len();
    assert_eq!((size(&b), size(&bare)), (130 + 66, 3 * 64));
    assert_eq!((b.records(RecordKind::Headers).len(), bare.records(RecordKind::Headers).len()), (3, 3));
}

#[test]
fn short_payload_comes_without_being_asked_for() {
    let mut b = Bench::legacy(LegacyConfig { format: WITH_PAYLOAD, ..LegacyConfig::default() });
    assert_eq!(b.relay.wants_payload(), Payload::Headers);
    b.legacy_up(0);
    assert_eq!(b.relay.wants_payload(), Payload::First(128), "from the first response on");
    b.respond(flow(1), 1, 10);
    b.add(0, 1, flow(1));
    b.respond(flow(1), 11, 128);
    b.respond(flow(1), 139, 129);
    let read = [(1, 10, vec![b'x'; 10]), (11, 128, vec![b'x'; 128]), (139, 129, vec![])];
    let read = read.map(|(seq, len, payload)| (0, (flow(1), seq, len, payload)));
    assert_eq!(b.records(RecordKind::WithPayload), read);
}

#[test]
fn an_idle_route_of_an_old_peer_ends_as_nothing_else_would_end_it() {
    let mut b = Bench::legacy(LegacyConfig::default());
    b.legacy_up(0);
    b.add(0, 1, flow(1));
    b.add(0, 2, flow(2));
    for _ in 0..3 {
        b.wait(Duration::from_secs(1500));
        b.respond(flow(2), 1, 0);
    }
    assert_eq!((b.relay.stats().routes_expired, b.relay.stats().routes_alive), (1, 1));
    b.gone(0);
    assert_eq!(b.relay.stats().routes_orphaned, 1);
}

/// Nobody removes it; an hour of closed connections would fill the table.
#[test]
fn a_route_of_an_old_peer_ends_soon_after_the_target_has_closed() {
    let mut b = Bench::legacy(LegacyConfig::default());
    b.legacy_up(0);
    b.up(1, 3600, 0);
    for n in [1, 2, 3, 4] {
        b.add(0, n.into(), flow(n));
    }
    b.add(1, 5, flow(5));
    for (n, flags) in [(1, Flags::FIN | Flags::ACK), (2, Flags::RST), (3, Flags::ACK), (4, Flags::FIN), (5, Flags::RST)]
    {
        let mut packet = response(flow(n), 1, 0);
        packet[33] = flags.0;
        b.give(RelayInput::Frame { link: LinkType::Raw, bytes: &packet, wire_len: packet.len() });
    }
    // The client of one still sends, and the target acknowledges.
    for _ in 0..4 {
        b.wait(Duration::from_secs(50));
        b.respond(flow(4), 2, 0);
    }
    assert_eq!(
        (b.relay.stats().routes_expired, b.relay.stats().routes_alive),
        (2, 3),
        "3 is open, 4 half-closed, 5 not ours"
    );
    b.wait(Duration::from_secs(130));
    assert_eq!((b.relay.stats().routes_expired, b.relay.stats().routes_alive), (3, 2));
    // A port that is used again is a new route.
    b.add(0, 6, flow(1));
    b.wait(Duration::from_secs(200));
    b.respond(flow(1), 1, 0);
    assert_eq!(b.relay.stats().routes_alive, 3);
}

#[test]
fn what_has_no_form_for_an_old_peer_is_no_route_of_it() {
    let mut b = Bench::legacy(LegacyConfig { single: true, ..LegacyConfig::default() });
    b.legacy_up(0);
    b.add(0, 1, flow_v6(1));
    b.respond(flow_v6(1), 1, 0);
    assert_eq!((b.relay.stats().routes_added, b.relay.stats().held, b.out.responses()), (0, 1, 0));
}

#[test]
fn without_routes_each_flow_has_a_connection_of_its_own() {
    let mut b = Bench::legacy(LegacyConfig { single: true, ..LegacyConfig::default() });
    b.respond(flow(0), 0, 0);
    for peer in [0, 1, 2] {
        b.legacy_up(peer);
    }
    b.up(3, 80, 0);
    b.add(3, 9, flow(1));
    let mut of = [0, 0, 0];
    for n in 2..300 {
        b.respond(flow(n), 1, 0);
        b.respond(flow(n), 2, 0);
        let read = b.records(RecordKind::Headers);
        assert!(read.len() == 2 && read[0].0 == read[1].0 && read[0].1.0 == flow(n), "{read:?}");
        of[read[0].0 as usize] += 1;
    }
    assert!(of.iter().all(|n| *n > 40), "all take part: {of:?}");
    b.respond(flow(1), 5, 0);
    assert_eq!(b.relayed(), [(3, (9, 5, 0))], "who registers a flow gets it");
    assert_eq!((b.relay.stats().routeless, b.relay.stats().matched), (2 * 298, 1));

    for peer in [1, 0] {
        b.gone(peer);
    }
    b.respond(flow(2), 3, 0);
    assert_eq!(b.records(RecordKind::Headers), [(2, (flow(2), 3, 0, vec![]))]);
    b.gone(2);
    b.respond(flow(2), 4, 0);
    assert_eq!(b.out.responses(), 0);
    b.wait(Duration::from_secs(2));
    assert_eq!(b.dropped(RelayDrop::NoRoute), 2);
}

#[test]
fn without_the_option_nothing_goes_without_a_route() {
    let mut b = Bench::legacy(LegacyConfig::default());
    b.legacy_up(0);
    b.respond(flow(1), 1, 0);
    assert_eq!((b.out.responses(), b.relay.stats().held), (0, 1));
}
