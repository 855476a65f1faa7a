//! Payload and datagrams.

use tcpcopy_wire::udp::UdpRepr;

use super::*;

/// What a tcpcopy would read of payloads: id, sequence number (none of a datagram), payload length, payload.
type Shown = (u64, Option<u32>, u32, Vec<u8>);

impl Bench {
    fn wish(&mut self, peer: u32, id: u64, payload: Payload) {
        let change = RouteChange::Payload { id: FlowId(id), payload };
        self.give(RelayInput::Route { peer: PeerId(peer), change });
    }

    fn add_udp(&mut self, peer: u32, id: u64, flow: Flow) {
        let change = RouteChange::Add { id: FlowId(id), transport: Transport::Udp, flow };
        self.give(RelayInput::Route { peer: PeerId(peer), change });
    }

    /// Packets pass the capture, which keeps `snaplen` bytes of each.
    fn capture(&mut self, packets: &[Vec<u8>], snaplen: usize) {
        for packet in packets {
            let bytes = &packet[..packet.len().min(snaplen)];
            self.give(RelayInput::Frame { link: LinkType::Raw, bytes, wire_len: packet.len() });
        }
    }
}

fn payloads(b: &mut Bench) -> Vec<Shown> {
    let mut all = Vec::new();
    for (_, bytes, _) in b.out.batches() {
        let mut decoder = Decoder::new(Role::Tcpcopy);
        let mut stream = Vec::new();
        encode_hello(&Hello::default(), &mut stream);
        let mut at = stream.len();
        decoder.next(&stream).unwrap();
        stream.extend_from_slice(bytes);
        while let Some((message, len)) = decoder.next(&stream[at..]).unwrap() {
            match message {
                Message::Responses(rs) => {
                    all.extend(rs.map(|r| (r.id.0, Some(r.seq.0), r.payload_len, r.payload.to_vec())));
                }
                Message::Datagrams(ds) => {
                    all.extend(ds.map(|d| (d.id.0, None, d.payload_len.into(), d.payload.to_vec())));
                }
                other => panic!("{other:?}"),
            }
            at += len;
        }
    }
    b.out.clear_batches();
    all
}

fn datagrams(flow: Flow, payload: &[u8], mtu: usize) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    UdpRepr { src: flow.server, dst: flow.client, ip_id: 5 }.write(payload, mtu, |write| {
        let mut packet = Vec::new();
        write(&mut packet);
        packets.push(packet);
    });
    packets
}

#[test]
fn payload_is_reported_as_far_as_the_route_asks_for_it() {
    let mut b = Bench::with_peers();
    b.add(0, 1, flow(1));
    b.respond(flow(1), 100, 50);
    b.wish(1, 1, Payload::Full);
    assert_eq!(b.relay.wants_payload(), Payload::Headers, "it is another peer's route");
    assert_eq!(b.relay.stats().unknown_wishes, 1);
    b.wish(0, 1, Payload::First(3));
    assert_eq!(b.relay.wants_payload(), Payload::First(3));
    b.respond(flow(1), 150, 50);
    b.wish(0, 1, Payload::Full);
    b.respond(flow(1), 200, 4);
    b.wish(0, 1, Payload::Headers);
    b.respond(flow(1), 204, 4);
    let shown: Vec<_> = payloads(&mut b).into_iter().map(|(_, seq, len, p)| (seq.unwrap(), len, p.len())).collect();
    assert_eq!(shown, [(100, 50, 0), (150, 50, 3), (200, 4, 4), (204, 4, 0)]);
    assert_eq!(b.relay.wants_payload(), Payload::Full, "what was wanted once may be wanted again");
}

#[test]
fn datagrams_have_routes_of_their_own() {
    let mut b = Bench::with_peers();
    b.add(0, 1, flow(1));
    b.add_udp(0, 2, flow(1));
    b.wish(0, 2, Payload::First(4));
    b.respond(flow(1), 7, 9);
    // In three fragments, of which the first stands for all.
    let fragments = datagrams(flow(1), b"answer and more, and more, and more", 40);
    assert!(fragments.len() > 2);
    b.capture(&fragments, usize::MAX);
    assert_eq!(payloads(&mut b), [(1, Some(7), 9, vec![]), (2, None, 35, b"answ".to_vec())]);
    assert_eq!(b.dropped(RelayDrop::Fragment), fragments.len() as u64 - 1);
    assert_eq!(b.relay.stats().datagrams, 1);
}

#[test]
fn early_responses_of_both_protocols_find_their_own_route() {
    let mut b = Bench::with_peers();
    b.respond(flow(1), 7, 9);
    b.capture(&datagrams(flow(1), b"early", 1500), usize::MAX);
    b.add(0, 1, flow(1));
    assert_eq!(payloads(&mut b), [(1, Some(7), 9, vec![])]);
    b.add_udp(1, 2, flow(1));
    assert_eq!(payloads(&mut b), [(2, None, 5, vec![])]);
    assert_eq!(b.relay.stats().held, 0);
}

#[test]
fn early_responses_keep_payload_once_a_route_wants_any() {
    let mut b = Bench::with_peers();
    b.respond(flow(2), 1, 30);
    b.add(0, 2, flow(2));
    assert_eq!(payloads(&mut b), [(2, Some(1), 30, vec![])], "nobody has asked for payload so far");
    b.add(0, 1, flow(1));
    b.wish(0, 1, Payload::First(3));
    b.respond(flow(3), 1, 30);
    b.wish(0, 1, Payload::Full);
    b.respond(flow(4), 2, 30);
    b.add(1, 3, flow(3));
    b.add(1, 4, flow(4));
    assert_eq!(payloads(&mut b), [(3, Some(1), 30, vec![b'x'; 3]), (4, Some(2), 30, vec![b'x'; 30])]);
}

/// It would take the frame for a mistake and close the link.
#[test]
fn a_tcpcopy_that_does_not_know_of_payload_is_sent_none() {
    let mut b = Bench::with_peers();
    let (peer, route_ttl) = (PeerId(2), Duration::from_secs(80));
    b.give(RelayInput::PeerUp { peer, route_ttl, max_batch: 0, features: 0 });
    b.add(0, 1, flow(1));
    b.wish(0, 1, Payload::Full);
    b.respond(flow(3), 1, 30);
    b.add(2, 3, flow(3));
    assert_eq!(payloads(&mut b), [(3, Some(1), 30, vec![])]);
}

#[test]
fn the_payload_of_early_responses_is_bounded() {
    let mut b = Bench::with_peers();
    b.add(0, 1, flow(1));
    b.wish(0, 1, Payload::Full);
    let big = response(flow(2), 1, 60_000);
    for round in 0..2 {
        b.capture(&vec![big.clone(); 80], usize::MAX);
        b.add(0, 2, flow(2));
        let shown = payloads(&mut b);
        // In two entries each, because no entry holds 60,000 bytes.
        let with = shown.iter().filter(|(.., payload)| !payload.is_empty()).count() / 2;
        assert_eq!(with, (4 << 20) / 60_000, "round {round}");
        assert_eq!(shown.iter().filter(|(.., payload)| payload.is_empty()).count(), 80 - with);
        b.remove(0, 2);
    }
    // What expires makes room, too.
    b.capture(&vec![big.clone(); 80], usize::MAX);
    b.wait(Duration::from_secs(2));
    b.capture(&[big], usize::MAX);
    b.add(0, 2, flow(2));
    assert_eq!(payloads(&mut b).iter().map(|(.., payload)| payload.len()).sum::<usize>(), 60_000);
}

#[test]
fn a_segment_cut_by_the_capture_is_reported_in_two() {
    let mut b = Bench::with_peers();
    b.add(0, 1, flow(1));
    b.wish(0, 1, Payload::Full);
    let mut packet = response(flow(1), 100, 1000);
    packet[33] |= Flags::FIN.0 | Flags::PSH.0;
    let headers = packet.len() - 1000;
    b.capture(&[packet], headers + 200);
    let (_, bytes, count) = b.out.batches().next().unwrap();
    assert_eq!((count, bytes.len()), (1, b.out.bytes()));
    // Flags are the last but one of 24 bytes; the second entry is in a frame of its own.
    assert_eq!(bytes[4 + 22], Flags::ACK.0);
    assert_eq!(bytes[4 + 24 + 12 + 2 + 200 + 4 + 22], (Flags::ACK | Flags::FIN | Flags::PSH).0);
    assert_eq!(payloads(&mut b), [(1, Some(100), 200, vec![b'x'; 200]), (1, Some(300), 800, vec![])]);
    assert_eq!(b.relay.stats().relayed, 1);

    // Where only the first bytes are wanted nothing is missing.
    b.wish(0, 1, Payload::First(150));
    b.capture(&[response(flow(1), 100, 1000)], headers + 200);
    assert_eq!(payloads(&mut b), [(1, Some(100), 1000, vec![b'x'; 150])]);
}

#[test]
fn more_first_bytes_than_an_entry_holds_are_everything() {
    let mut b = Bench::with_peers();
    b.add(0, 1, flow(1));
    b.wish(0, 1, Payload::First(40_000));
    assert_eq!(b.relay.wants_payload(), Payload::Full);
    b.respond(flow(1), 0, 60_000);
    let shown: Vec<_> = payloads(&mut b).into_iter().map(|(_, seq, len, p)| (seq.unwrap(), len, p.len())).collect();
    assert_eq!(shown, [(0, 32_768, 32_768), (32_768, 27_232, 27_232)]);
}

#[test]
fn datagrams_without_a_route_are_counted_apart() {
    let mut b = Bench::with_peers();
    b.respond(flow(1), 7, 9);
    b.capture(&datagrams(flow(1), b"nobody asked", 1500), usize::MAX);
    b.wait(Duration::from_secs(2));
    assert_eq!((b.dropped(RelayDrop::NoRoute), b.relay.stats().datagrams_unrouted), (2, 1));
    let protocols: Vec<Transport> = b
        .out
        .notices
        .iter()
        .map(|notice| match notice {
            RelayNotice::Unrouted { transport, .. } => *transport,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(protocols, [Transport::Tcp], "the second within ten seconds is only counted");
}
