//! The gate, and acknowledgements that ride.

use tcpcopy_engine::Gate;
use tcpcopy_engine::ledger::PacketDrop;

use crate::script::*;

#[test]
fn a_keepalive_request_costs_one_packet() {
    let mut s = Script::established();
    for turn in 0..10 {
        let (seq, ack) = (1 + 100 * turn, 1 + 200 * turn);
        s.client(segment(PSH_ACK, seq, ack).data(100));
        s.expect(PSH_ACK, seq, ack, 100);
        s.target(segment(PSH_ACK, ack, seq + 100).data(200));
        // The client acknowledges online's response on its own; that is no packet for the target.
        s.client(segment(ACK, seq + 100, ack + 200));
        s.drained();
        s.pass_ms(20);
        s.nothing_more();
    }
}

#[test]
fn an_acknowledgement_waits_no_longer_than_40_ms_for_a_ride() {
    let mut s = Script::established();
    s.client(segment(PSH_ACK, 1, 1).data(100));
    s.expect(PSH_ACK, 1, 1, 100);
    s.target(segment(PSH_ACK, 1, 101).data(200));
    let at = s.now();
    s.pass_ms(1_000);
    s.expect_after(at, 40, (ACK, 101, 201, 0));
    s.nothing_more();
}

#[test]
fn two_full_segments_are_acknowledged_at_once() {
    let mut s = Script::established();
    s.client(segment(PSH_ACK, 1, 1).data(100));
    s.expect(PSH_ACK, 1, 1, 100);
    s.target(segment(ACK, 1, 101).data(1_460));
    s.nothing_more();
    s.target(segment(ACK, 1_461, 101).data(1_460));
    s.expect(ACK, 101, 2_921, 0);
    // What a capture shows as one large segment is one to acknowledge, too.
    s.target(segment(ACK, 2_921, 101).data(40_000));
    s.expect(ACK, 101, 42_921, 0);
    s.nothing_more();
}

#[test]
fn a_request_waits_for_as_many_bytes_as_online_sent() {
    let mut s = Script::established();
    s.client(segment(PSH_ACK, 1, 1).data(100));
    s.expect(PSH_ACK, 1, 1, 100);
    s.client(segment(PSH_ACK, 101, 3_001).data(50));
    s.nothing_more();
    s.target(segment(ACK, 1, 101).data(1_460));
    s.drained();
    s.nothing_more();
    s.target(segment(ACK, 1_461, 101).data(1_460));
    s.drained();
    s.expect(ACK, 101, 2_921, 0);
    let at = s.now();
    s.target(segment(PSH_ACK, 2_921, 101).data(80));
    let released = s.expect(PSH_ACK, 101, 3_001, 50);
    assert_eq!(released.at, at, "at once");
    s.nothing_more();
    assert_eq!((s.ledger().gate_held, s.ledger().gate_by_bytes), (1, 1));
}

#[test]
fn a_shorter_response_counts_as_whole_at_the_end_of_its_burst() {
    let mut s = Script::established();
    s.client(segment(PSH_ACK, 1, 1).data(100));
    s.expect(PSH_ACK, 1, 1, 100);
    s.client(segment(PSH_ACK, 101, 3_001).data(50));
    s.target(segment(PSH_ACK, 1, 101).data(200));
    s.nothing_more();
    s.drained();
    s.expect(PSH_ACK, 101, 201, 50);
    assert_eq!(s.ledger().gate_by_push, 1);
}

#[test]
fn a_shorter_response_without_push_counts_as_whole_after_a_quiet_time() {
    let mut s = Script::established();
    s.client(segment(PSH_ACK, 1, 1).data(100));
    s.expect(PSH_ACK, 1, 1, 100);
    s.client(segment(PSH_ACK, 101, 3_001).data(50));
    s.pass_ms(300);
    s.target(segment(ACK, 1, 101).data(200));
    s.drained();
    s.all_sent();
    let at = s.now();
    s.pass_ms(39);
    s.expect_after(at, 10, (PSH_ACK, 101, 201, 50));
    s.nothing_more();
    assert_eq!(s.ledger().gate_by_quiet, 1);
}

#[test]
fn a_silent_target_holds_the_request_for_good() {
    let mut s = Script::established();
    s.client(segment(PSH_ACK, 1, 1).data(100));
    s.expect(PSH_ACK, 1, 1, 100);
    s.target(segment(ACK, 1, 101));
    s.client(segment(PSH_ACK, 101, 201).data(50));
    s.drained();
    s.pass_ms(60_000);
    s.nothing_more();
}

#[test]
fn pipelined_requests_are_not_held() {
    let mut s = Script::established();
    for n in 0..5 {
        s.client(segment(PSH_ACK, 1 + 100 * n, 1).data(100));
        s.expect(PSH_ACK, 1 + 100 * n, 1, 100);
    }
    assert_eq!(s.ledger().gate_held, 0);
}

#[test]
fn nothing_is_held_without_the_gate() {
    let mut s = Script::established_with(|c| c.gate = Gate::Off);
    s.client(segment(PSH_ACK, 1, 1).data(100));
    s.expect(PSH_ACK, 1, 1, 100);
    s.client(segment(PSH_ACK, 101, 3_001).data(50));
    s.expect(PSH_ACK, 101, 1, 50);
}

#[test]
fn the_clients_first_words_wait_for_a_server_that_speaks_first() {
    let mut s = Script::established();
    // Online's greeting of 80 bytes was acknowledged.
    s.client(segment(PSH_ACK, 1, 81).data(60));
    s.nothing_more();
    s.target(segment(PSH_ACK, 1, 1).data(80));
    s.expect(PSH_ACK, 1, 81, 60);
}

#[test]
fn repetitions_and_probes_of_the_client_reach_nobody() {
    let mut s = Script::established();
    s.client(segment(PSH_ACK, 1, 1).data(100));
    s.expect(PSH_ACK, 1, 1, 100);
    // A retransmission, a keepalive with one byte of garbage, a keepalive without, and the bare ACK of nothing new.
    s.client(segment(PSH_ACK, 1, 1).data(100));
    s.client(segment(ACK, 100, 1).data(1));
    s.client(segment(ACK, 100, 1));
    s.client(segment(ACK, 101, 1));
    s.nothing_more();
    assert!(s.ledger().packets_dropped[PacketDrop::Duplicate as usize] >= 3, "{:?}", s.ledger());
}

#[test]
fn what_overlaps_is_sent_once() {
    let mut s = Script::established();
    s.client(segment(ACK, 1, 1).data(100));
    s.expect(ACK, 1, 1, 100);
    s.client(segment(PSH_ACK, 51, 1).data(100));
    s.expect(PSH_ACK, 101, 1, 50);
    // Ahead of its turn, then what was missing, with an overlap on both sides.
    s.client(segment(PSH_ACK, 251, 1).data(50));
    s.nothing_more();
    s.client(segment(PSH_ACK, 141, 1).data(140));
    let total: usize = s.all_sent().iter().map(|p| p.len).sum();
    assert_eq!(total, 150);
}

#[test]
fn a_pause_of_a_round_trip_is_not_the_end_of_a_response() {
    // A target 50 ms away sends in flights, one a round trip.
    let mut s = Script::new();
    s.client(segment(SYN, 0, 0).mss(1460).scale(7));
    s.expect(SYN, 0, 0, 0);
    s.pass_ms(50);
    s.target(segment(SYN_ACK, 0, 1).mss(1000).scale(7));
    s.expect(ACK, 1, 1, 0);
    s.client(segment(PSH_ACK, 1, 1).data(100));
    s.expect(PSH_ACK, 1, 1, 100);
    s.client(segment(PSH_ACK, 101, 30_001).data(50));
    s.pass_ms(50);
    for flight in 0..3 {
        s.target(segment(ACK, 1 + 10_000 * flight, 101).data(10_000));
        s.drained();
        let sent = s.all_sent();
        if flight == 2 {
            assert_eq!(sent[0].seq, 101, "released by the last byte");
        } else {
            assert!(sent.iter().all(|p| p.len == 0), "{sent:?}");
            s.pass_ms(60);
            s.nothing_more();
        }
    }
    assert_eq!(s.ledger().gate_by_bytes, 1);
}

#[test]
fn a_response_with_a_hole_in_it_is_not_over() {
    let mut s = Script::established();
    s.client(segment(PSH_ACK, 1, 1).data(100));
    s.expect(PSH_ACK, 1, 1, 100);
    s.client(segment(PSH_ACK, 101, 4_381).data(50));
    s.target(segment(ACK, 1, 101).data(1_460));
    s.target(segment(ACK, 2_921, 101).data(1_460));
    s.drained();
    s.all_sent();
    s.pass_ms(1_000);
    s.nothing_more();
    s.target(segment(ACK, 1_461, 101).data(1_460));
    assert_eq!(s.all_sent()[0].seq, 101);
}
