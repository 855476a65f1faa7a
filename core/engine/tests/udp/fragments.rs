//! Datagrams that do not fit a packet, captured and sent.

use std::time::Duration;

use tcpcopy_engine::ledger::{ByteDrop, PacketDrop};
use tcpcopy_engine::{CopierConfig, Input};
use tcpcopy_wire::link::LinkType;

use crate::stage::{CLIENT, CLIENT_V6, ONLINE, ONLINE_V6, Sent, Stage, TARGET, TARGET_V6, config, end, map, packets};

/// Both families: client, online, target, bytes of an IP header.
const FAMILIES: [(&str, &str, &str, usize); 2] = [(CLIENT, ONLINE, TARGET, 20), (CLIENT_V6, ONLINE_V6, TARGET_V6, 40)];

fn payload(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 % 251) as u8).collect()
}

/// Captures packets; none but the last may let something out.
fn capture_all<'a>(stage: &mut Stage, packets: impl IntoIterator<Item = &'a Vec<u8>>) -> Vec<Sent> {
    let mut sent = Vec::new();
    for packet in packets {
        assert_eq!(sent, []);
        sent = stage.capture(packet);
    }
    sent
}

#[test]
fn fragments_are_put_together_and_made_again() {
    for (client, online, target, header) in FAMILIES {
        for len in [1_473, 4_096, 4_097, 60_000, 65_507 - 20] {
            let mut stage = Stage::plain();
            let (whole, fragments) = (payload(len), packets(client, online, 7, &payload(len), 1_280));
            assert!(fragments.len() > 1);
            let sent = capture_all(&mut stage, &fragments);
            // With IPv6 a fragment header takes eight bytes of each packet.
            let room = if header == 20 { 1_480 } else { 1_448 };
            let expected = if header + 8 + len <= 1_500 { 1 } else { (8 + len).div_ceil(room) };
            let copy = Sent { from: end(client), to: end(target), payload: whole, packets: expected };
            assert_eq!(sent, [copy]);
            let ledger = stage.copier.ledger();
            assert_eq!((ledger.udp_fragments, ledger.udp_reassembled), (fragments.len() as u64, 1));
            assert_eq!(ledger.udp_fragments_sent, if expected > 1 { expected as u64 } else { 0 });
            assert_eq!((ledger.bytes_captured, ledger.bytes_copied, ledger.pending_bytes), (len as u64, len as u64, 0));
            assert_eq!(stage.bytes_dropped(ByteDrop::IncompleteDatagram), 0);
            assert!(stage.copier.memory() < 2_048, "the fragments are forgotten: {} bytes", stage.copier.memory());
        }
    }
}

#[test]
fn the_largest_datagram_arrives() {
    let mut stage = Stage::plain();
    let sent = capture_all(&mut stage, &packets(CLIENT, ONLINE, 7, &payload(65_507), 1_500));
    assert_eq!(sent[0].payload, payload(65_507));
    // IPv6 has room for 20 bytes more; towards IPv4 that is too much.
    let largest = payload(65_527);
    let sent = capture_all(&mut stage, &packets(CLIENT_V6, ONLINE_V6, 7, &largest, 1_500));
    assert_eq!(sent[0].payload, largest);
    let sources = tcpcopy_engine::copier::source::SourcePool::new(vec!["10.78.0.1".parse().unwrap()]);
    let mut stage = Stage::new(CopierConfig { sources, ..config(vec![map(ONLINE_V6, TARGET)]) });
    assert_eq!(capture_all(&mut stage, &packets(CLIENT_V6, ONLINE_V6, 7, &largest, 1_500)), []);
    assert_eq!((stage.dropped(PacketDrop::TooLarge), stage.bytes_dropped(ByteDrop::PacketDropped)), (1, 65_527));
}

#[test]
fn the_order_of_fragments_does_not_matter() {
    for (client, online, ..) in FAMILIES {
        let fragments = packets(client, online, 7, &payload(4_000), 1_280);
        let [a, b, c, d] = &fragments[..] else { panic!("{} fragments", fragments.len()) };
        for order in [[d, c, b, a], [b, d, a, c], [a, c, d, b]] {
            let mut stage = Stage::plain();
            let sent = capture_all(&mut stage, order);
            assert_eq!(sent[0].payload, payload(4_000));
        }
        // One captured twice is one of them all the same.
        let mut stage = Stage::plain();
        let sent = capture_all(&mut stage, [a, c, a, c, b, d]);
        assert_eq!(sent[0].payload, payload(4_000));
        assert_eq!(stage.dropped(PacketDrop::Duplicate), 2);
    }
}

#[test]
fn datagrams_of_several_clients_do_not_mix() {
    let mut stage = Stage::plain();
    let other = "10.1.0.2:40000";
    // The same identification, at the same time.
    let (ours, theirs) =
        (packets(CLIENT, ONLINE, 7, &[1; 3_000], 1_500), packets(other, ONLINE, 7, &[2; 3_000], 1_500));
    let mut sent = Vec::new();
    for (a, b) in ours.iter().zip(&theirs) {
        sent.extend(stage.capture(a));
        sent.extend(stage.capture(b));
    }
    assert_eq!(sent.len(), 2);
    assert_eq!((sent[0].from, &sent[0].payload), (end(CLIENT), &vec![1; 3_000]));
    assert_eq!((sent[1].from, &sent[1].payload), (end(other), &vec![2; 3_000]));
}

#[test]
fn what_stays_incomplete_is_counted() {
    let mut stage = Stage::plain();
    let fragments = packets(CLIENT, ONLINE, 7, &payload(4_000), 1_500);
    capture_all(&mut stage, [&fragments[0], &fragments[2]]);
    let kept = 4_000 - 1_480;
    stage.pass(Duration::from_secs(29));
    assert_eq!(stage.copier.ledger().udp_incomplete, 0);
    stage.pass(Duration::from_secs(2));
    let ledger = stage.copier.ledger();
    assert_eq!((ledger.udp_incomplete, ledger.pending_bytes), (1, 0));
    assert_eq!(stage.bytes_dropped(ByteDrop::IncompleteDatagram), kept);
    assert_eq!(stage.copier.next_deadline(), None, "nothing is left to wait for");
    // The rest comes too late.
    assert_eq!(stage.capture(&fragments[1]), []);
}

/// No choice between two versions of the same bytes would be right (RFC 5722).
#[test]
fn overlapping_fragments_are_believed_in_neither_version() {
    for (client, online, ..) in FAMILIES {
        let fragments = packets(client, online, 7, &[1; 4_000], 1_500);
        let lies = packets(client, online, 7, &[2; 4_000], 1_500);
        let shifted = packets(client, online, 7, &[3; 4_000], 1_280);
        for lie in [&lies[1], &shifted[1]] {
            let mut stage = Stage::plain();
            for packet in [&fragments[0], &fragments[1], lie, &fragments[2], &fragments[0], &fragments[1]] {
                assert_eq!(stage.capture(packet), [], "nothing with these addresses and this number is believed");
            }
            assert_eq!(stage.copier.ledger().udp_incomplete, 1);
            assert!(stage.dropped(PacketDrop::FragmentRefused) >= 1);
            stage.pass(Duration::from_secs(31));
            assert_eq!(stage.copier.ledger().pending_bytes, 0);
            // The number may be used again for something else then.
            assert_eq!(capture_all(&mut stage, &fragments).len(), 1);
        }
    }
}

/// A number that comes again too soon puts a fragment into the place of one that was lost (RFC 4963).
#[test]
fn fragments_of_two_datagrams_do_not_make_one() {
    for (client, online, ..) in FAMILIES {
        let mut stage = Stage::plain();
        let (first, second) =
            (packets(client, online, 7, &[1; 4_000], 1_500), packets(client, online, 7, &[2; 4_000], 1_500));
        let mixed = [&first[0], &second[1], &second[2]];
        assert_eq!(capture_all(&mut stage, mixed), []);
        assert_eq!((stage.dropped(PacketDrop::FragmentRefused), stage.copier.ledger().udp_incomplete), (1, 1));
        // Without a checksum (IPv4) nobody can tell.
        let mut unchecked = first.clone();
        let at = first[0].len() - (1_480 - 6);
        if client == CLIENT {
            unchecked[0][at..at + 2].fill(0);
            assert_eq!(capture_all(&mut stage, &unchecked).len(), 1);
        }
    }
}

#[test]
fn fragments_of_others_are_left_alone() {
    let mut stage = Stage::plain();
    for packet in packets(CLIENT, "10.0.0.99:53", 7, &payload(4_000), 1_500) {
        assert_eq!(stage.capture(&packet), []);
    }
    assert_eq!((stage.dropped(PacketDrop::Fragment), stage.copier.ledger().bytes_captured), (3, 0));
    // Of another protocol.
    let mut tcp = packets(CLIENT, ONLINE, 7, &payload(4_000), 1_500).remove(0);
    tcp[9] = 6;
    assert_eq!(stage.capture(&tcp), []);
    assert_eq!((stage.dropped(PacketDrop::Fragment), stage.copier.ledger().udp_fragments), (4, 0));
    // To online, but to no port that is copied: only the first fragment says so.
    for packet in packets(CLIENT, "10.0.0.1:99", 7, &payload(4_000), 1_500) {
        assert_eq!(stage.capture(&packet), []);
    }
    assert_eq!(stage.dropped(PacketDrop::NoMap), 1);
    assert_eq!(stage.copier.ledger().pending_bytes, 0);
}

#[test]
fn a_fragment_captured_in_part_is_not_used() {
    let mut stage = Stage::plain();
    let fragments = packets(CLIENT, ONLINE, 7, &payload(3_000), 1_500);
    let (first, wire_len) = (&fragments[0][..1_000], fragments[0].len());
    assert_eq!(stage.tell(Input::Frame { link: LinkType::Raw, bytes: first, wire_len }), []);
    assert_eq!(stage.dropped(PacketDrop::Truncated), 1);
    assert_eq!(capture_all(&mut stage, &fragments[1..]), []);
}

#[test]
fn a_flood_of_fragments_is_bounded() {
    let mut stage = Stage::plain();
    let mut most = 0;
    // The last fragment only, so that nothing ever becomes whole.
    let mut last = packets(CLIENT, ONLINE, 0, &payload(60_000), 1_500).pop().expect("fragments");
    for id in 0..5_000_u16 {
        last[4..6].copy_from_slice(&id.to_be_bytes());
        stage.capture(&last);
        stage.now = stage.now + Duration::from_micros(10);
        most = most.max(stage.copier.memory());
    }
    assert!(most < 64 << 20, "{most} bytes");
    // It does not stand in the way of others.
    let sent = capture_all(&mut stage, &packets("10.1.0.2:40000", ONLINE, 7, &payload(3_000), 1_500));
    assert_eq!(sent[0].payload, payload(3_000));
    stage.pass(Duration::from_secs(31));
    assert_eq!(stage.copier.ledger().pending_bytes, 0);
}

#[test]
fn counters_do_not_run_backwards_for_fragments_of_nobody() {
    let mut stage = Stage::plain();
    let mut before = 0;
    for packet in packets(CLIENT, "10.0.0.1:99", 7, &payload(4_000), 1_500) {
        stage.capture(&packet);
        let captured = stage.copier.ledger().bytes_captured;
        assert!(captured >= before, "{captured} bytes captured, after {before}");
        before = captured;
    }
}
