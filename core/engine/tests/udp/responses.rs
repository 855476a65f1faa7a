//! What targets answer.

use std::time::Duration;

use tcpcopy_engine::ledger::PacketDrop;
use tcpcopy_engine::{CopierConfig, Input, LinkId};
use tcpcopy_wire::Timestamp;
use tcpcopy_wire::control::{DatagramResponse, FlowId};

use crate::stage::{CLIENT, ONLINE, Stage, TARGET, config, map, packets};

#[test]
fn answers_are_matched_to_requests() {
    let mut stage = Stage::plain();
    for _ in 0..10 {
        stage.query(b"q");
        let (id, ..) = stage.last_route();
        stage.now = stage.now + Duration::from_millis(20);
        stage.response(id, 300);
        stage.now = stage.now + Duration::from_millis(80);
    }
    let ledger = stage.copier.ledger();
    assert_eq!((ledger.udp_responses, ledger.udp_answered, ledger.udp_unsolicited), (10, 10, 0));
    assert_eq!((ledger.responses, ledger.data_responses, ledger.response_bytes), (10, 10, 3_000));
    let latency = stage.copier.udp_latency();
    assert_eq!(latency.count(), 10);
    for share in [0.1, 0.5, 1.0] {
        let millis = latency.quantile(share).expect("there are answers").as_millis();
        assert!((20..=23).contains(&millis), "{millis} ms");
    }
}

#[test]
fn several_questions_at_once_are_answered_in_their_order() {
    let mut stage = Stage::plain();
    for _ in 0..5 {
        stage.query(b"q");
        stage.now = stage.now + Duration::from_millis(10);
    }
    let (id, ..) = stage.last_route();
    // Each takes 50 ms.
    for _ in 0..5 {
        stage.response(id, 1);
        stage.now = stage.now + Duration::from_millis(10);
    }
    let latency = stage.copier.udp_latency();
    let (first, last) = (latency.quantile(0.01).unwrap(), latency.quantile(1.0).unwrap());
    assert!(first == last && (50..57).contains(&first.as_millis()), "{first:?} to {last:?}");
}

/// Copies to two targets, and measures online.
fn measuring(is_wanted: bool) -> Stage {
    let maps = vec![map(ONLINE, TARGET), map(ONLINE, "10.0.0.3:5353")];
    Stage::new(CopierConfig { measure_online: is_wanted, ..config(maps) })
}

#[test]
fn onlines_answers_are_measured_once_by_the_captures_clock() {
    let mut stage = measuring(true);
    for turn in 0..10 {
        stage.tell(Input::CapturedAt(Timestamp::from_millis(1_000 * turn)));
        assert_eq!(stage.datagram(CLIENT, ONLINE, b"q").len(), 2);
        stage.tell(Input::CapturedAt(Timestamp::from_millis(1_000 * turn + 20)));
        // In one packet, and in several.
        for packet in packets(ONLINE, CLIENT, turn as u32, &[0; 3_000], if turn % 2 == 0 { 100_000 } else { 1_500 }) {
            assert_eq!(stage.capture(&packet), [], "nothing follows from what online sends");
        }
    }
    let ledger = stage.copier.ledger();
    assert_eq!((ledger.online_response_time.count(), ledger.online_packets, ledger.udp_datagrams), (10, 10, 10));
    for share in [0.1, 1.0] {
        let millis = ledger.online_response_time.quantile(share).expect("there are answers").as_millis();
        assert!((20..=23).contains(&millis), "{millis} ms");
    }
}

#[test]
fn an_answer_to_what_is_not_copied_is_not_measured() {
    for (is_wanted, reason) in [(true, PacketDrop::NoSession), (false, PacketDrop::NoMap)] {
        let mut stage = measuring(is_wanted);
        stage.datagram(ONLINE, CLIENT, b"an answer");
        let ledger = stage.copier.ledger();
        assert_eq!((ledger.online_response_time.count(), ledger.packets_dropped[reason as usize]), (0, 1));
    }
}

#[test]
fn an_answer_to_nothing_is_counted() {
    let mut stage = Stage::plain();
    stage.query(b"q");
    let (id, ..) = stage.last_route();
    stage.response(id, 10);
    stage.response(id, 10);
    let ledger = stage.copier.ledger();
    assert_eq!((ledger.udp_answered, ledger.udp_unsolicited, ledger.stale_responses), (1, 1, 0));
    assert_eq!(stage.copier.udp_latency().count(), 1);
}

#[test]
fn an_answer_to_a_client_that_is_forgotten_is_stale() {
    let mut stage = Stage::plain();
    stage.query(b"q");
    let (id, ..) = stage.last_route();
    stage.pass(Duration::from_secs(40));
    assert_eq!(stage.copier.ledger().udp_unanswered, 1);
    // The same client again, in the same place, under another id.
    stage.query(b"q");
    for stale in [id, FlowId(id.0 & !(1 << 63)), FlowId(u64::MAX), FlowId(id.0 | 0xff00), FlowId(0)] {
        stage.response(stale, 10);
    }
    let ledger = stage.copier.ledger();
    assert_eq!((ledger.stale_responses, ledger.udp_answered), (5, 0));
}

#[test]
fn what_was_never_answered_is_counted_in_the_end() {
    let mut stage = Stage::plain();
    for _ in 0..1_000 {
        stage.query(b"one way");
    }
    let (id, ..) = stage.last_route();
    stage.response(id, 10);
    stage.tell(Input::Stop);
    let ledger = stage.copier.ledger();
    assert_eq!((ledger.udp_sent, ledger.udp_answered, ledger.udp_unanswered), (1_000, 1, 999));
}

/// A client waits some seconds for an answer, and then asks again: the answer to that is not one to the lost question.
#[test]
fn a_lost_answer_does_not_spoil_the_latency_of_the_next_ones() {
    let mut stage = Stage::plain();
    stage.query(b"lost");
    let (id, ..) = stage.last_route();
    for _ in 0..20 {
        stage.now = stage.now + Duration::from_secs(10);
        stage.query(b"q");
        stage.now = stage.now + Duration::from_millis(1);
        stage.response(id, 10);
    }
    let slowest = stage.copier.udp_latency().quantile(1.0).expect("there are answers");
    assert!(slowest < Duration::from_millis(2), "{slowest:?}");
    stage.tell(Input::Stop);
    let ledger = stage.copier.ledger();
    assert_eq!((ledger.udp_answered, ledger.udp_unanswered), (20, 1));
}

#[test]
fn without_intercepts_nothing_is_expected_back() {
    let mut stage = Stage::new(CopierConfig { intercepts: 0, ..config(vec![map(ONLINE, TARGET)]) });
    for _ in 0..100 {
        stage.datagram(CLIENT, ONLINE, b"q");
    }
    stage.tell(Input::LinkUp(LinkId(0)));
    stage.tell(Input::Datagram(DatagramResponse { id: FlowId(1 << 63), payload_len: 1, payload: b"x" }));
    stage.tell(Input::Stop);
    assert_eq!(stage.routes, []);
    assert_eq!(stage.copier.ledger().udp_sent, 100);
    assert_eq!(stage.copier.ledger().udp_unanswered, 0, "nobody can tell");
}
