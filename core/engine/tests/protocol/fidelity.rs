//! The client's round-trip time, kept towards the target; the target's packets, captured here; the end of a capture.

use tcpcopy_engine::ledger::SessionEnd;

use crate::script::*;

/// A script of a client that is 20 ms away, connected, and its SYN-ACK taken up.
fn twenty_ms_away() -> Script {
    let mut s = Script::with(|config| config.preserve_rtt = true);
    s.client(segment(SYN, 0, 0).mss(1460));
    s.expect(SYN, 0, 0, 0);
    s.pass_ms(1);
    let came = s.now();
    s.target(segment(SYN_ACK, 0, 1).mss(1000));
    s.pass_ms(19);
    s.nothing_more();
    s.client(segment(ACK, 1, 1));
    s.nothing_more();
    s.pass_ms(5);
    s.expect_after(came, 20, (ACK, 1, 1, 0));
    s
}

#[test]
fn a_client_20_ms_away_takes_20_ms_for_everything() {
    let mut s = twenty_ms_away();
    for turn in 0..3 {
        let (seq, ack) = (1 + 200 * turn, 1 + 3_120 * turn);
        s.client(segment(PSH_ACK, seq, ack).data(100));
        s.expect(PSH_ACK, seq, ack, 100);
        s.pass_ms(3);
        let came = s.now();
        s.target(segment(PSH_ACK, ack, seq + 100).data(200));
        s.drained();
        // Online was quicker than the target: the client's next request is here already.
        s.client(segment(PSH_ACK, seq + 100, ack + 200).data(100));
        s.nothing_more();
        s.pass_ms(30);
        s.expect_after(came, 20, (PSH_ACK, seq + 100, ack + 200, 100));
        let came = s.now();
        s.target(segment(ACK, ack + 200, seq + 200).data(1_460));
        s.target(segment(PSH_ACK, ack + 1_660, seq + 200).data(1_460));
        s.pass_ms(30);
        s.expect_after(came, 20, (ACK, seq + 200, ack + 3_120, 0));
        s.nothing_more();
        assert_eq!(s.ledger().responses_delayed, 0);
    }
}

#[test]
fn a_client_that_never_acknowledges_is_not_waited_for_for_ever() {
    let mut s = Script::with(|config| config.preserve_rtt = true);
    s.client(segment(SYN, 0, 0).mss(1460));
    s.expect(SYN, 0, 0, 0);
    let came = s.now();
    s.target(segment(SYN_ACK, 0, 1).mss(1000));
    s.pass_ms(3_500);
    let sent = s.all_sent();
    assert!(sent.iter().any(|p| p.flags == ACK && p.at.since(came).as_millis() >= 3_000), "{sent:?}");
}

#[test]
fn what_waits_when_the_session_ends_is_forgotten() {
    let mut s = twenty_ms_away();
    s.client(segment(PSH_ACK, 1, 1).data(100));
    s.expect(PSH_ACK, 1, 1, 100);
    s.target(segment(PSH_ACK, 1, 101).data(200));
    assert_eq!(s.ledger().responses_delayed, 1);
    s.stop();
    s.pass_ms(2_000);
    assert!(s.is_finished());
    assert_eq!(s.ledger().responses_delayed, 0);
}

#[test]
fn at_the_end_of_the_capture_a_session_closes_behind_the_answer() {
    let mut s = Script::established();
    s.client(segment(PSH_ACK, 1, 1).data(100));
    s.expect(PSH_ACK, 1, 1, 100);
    s.next_pass();
    s.nothing_more();
    s.target(segment(PSH_ACK, 1, 101).data(200));
    s.drained();
    s.expect(FIN_ACK, 101, 201, 0);
    s.target(segment(FIN_ACK, 201, 102));
    s.expect(ACK, 102, 202, 0);
    assert_eq!((s.ledger().sessions_completed, s.ledger().sessions_alive), (1, 0));
    assert_eq!((s.ledger().requests, s.ledger().requests_copied), (1, 1));
}

#[test]
fn at_the_end_of_the_capture_one_that_was_answered_closes_at_once_and_one_with_a_hole_ends() {
    let mut s = Script::established();
    s.next_pass();
    s.expect(FIN_ACK, 1, 1, 0);
    let mut s = Script::established();
    s.client(segment(PSH_ACK, 101, 1).data(100));
    s.next_pass();
    assert_eq!(s.ended, [SessionEnd::CaptureHole]);
}

#[test]
fn the_targets_packets_can_be_captured_here() {
    let mut s = Script::with(|config| (config.sees_responses, config.intercepts) = (true, 0));
    s.client(segment(SYN, 0, 0).mss(1460));
    s.expect(SYN, 0, 0, 0);
    assert_eq!(s.routes_added(), 0, "nobody is told");
    s.target_frame(segment(SYN_ACK, 0, 1).mss(1000));
    s.expect(ACK, 1, 1, 0);
    s.client(segment(PSH_ACK, 1, 1).data(100));
    s.expect(PSH_ACK, 1, 1, 100);
    s.client(segment(PSH_ACK, 101, 201).data(50));
    s.nothing_more();
    s.target_frame(segment(PSH_ACK, 1, 101).data(200));
    s.expect(PSH_ACK, 101, 201, 50);
    s.foreign_target_frame(segment(PSH_ACK, 201, 151).data(10));
    s.nothing_more();
    assert_eq!((s.ledger().responses, s.ledger().foreign_responses), (2, 1));
}
