//! What was lost, on which path, and how it is noticed.

use tcpcopy_engine::ledger::SessionEnd;

use crate::script::*;

/// A round trip of 20 ms is measured, and everything acknowledged. The streams stand at 101 and 201.
fn measured() -> Script {
    let mut s = Script::established();
    s.client(segment(PSH_ACK, 1, 1).data(100));
    s.expect(PSH_ACK, 1, 1, 100);
    s.pass_ms(20);
    s.target(segment(PSH_ACK, 1, 101).data(200));
    s.pass_ms(100);
    s.expect(ACK, 101, 201, 0);
    s.nothing_more();
    s
}

#[test]
fn a_lost_tail_is_probed_before_the_time_out() {
    let mut s = measured();
    s.client(segment(PSH_ACK, 101, 201).data(100));
    let at = s.expect(PSH_ACK, 101, 201, 100).at;
    s.pass_ms(199);
    let probe = s.expect(PSH_ACK, 101, 201, 100);
    let after = probe.at.since(at).as_millis();
    assert!((40..200).contains(&after), "the tail probe came after {after} ms");
    s.nothing_more();
    s.target(segment(ACK, 201, 201));
    s.pass_ms(5_000);
    s.nothing_more();
}

#[test]
fn time_outs_double_and_then_the_session_is_given_up() {
    let mut s = measured();
    s.client(segment(PSH_ACK, 101, 201).data(100));
    s.expect(PSH_ACK, 101, 201, 100);
    s.pass_ms(600_000);
    let sent = s.all_sent();
    let (reset, again) = sent.split_last().unwrap();
    assert!(again.iter().all(|p| p.seq == 101 && p.len == 100), "{again:?}");
    assert!(reset.flags.contains(RST));
    let gaps: Vec<u128> = again.windows(2).map(|w| w[1].at.since(w[0].at).as_millis()).collect();
    assert!(gaps[0] >= 190, "no time-out below 200 ms: {gaps:?}");
    assert!(gaps.windows(2).skip(1).all(|w| w[1] >= w[0] * 19 / 10 || w[1] >= 8_000), "doubling to 8 s: {gaps:?}");
    assert_eq!(s.ended, [SessionEnd::GaveUp]);
}

#[test]
fn three_duplicate_acknowledgements_bring_the_segment_again() {
    let mut s = measured();
    s.client(segment(PSH_ACK, 101, 201).data(8_000));
    assert_eq!(s.all_sent().len(), 8);
    // The first is lost. A target without SACK says only that.
    for _ in 0..2 {
        s.target(segment(ACK, 201, 101));
    }
    s.nothing_more();
    s.target(segment(ACK, 201, 101));
    let again = s.expect(ACK, 101, 201, 1_000);
    assert_eq!(again.at, s.now());
    s.target(segment(ACK, 201, 8_101));
    s.pass_ms(5_000);
    s.nothing_more();
}

#[test]
fn only_what_sack_reports_missing_is_sent_again() {
    let mut s = measured();
    s.client(segment(PSH_ACK, 101, 201).data(8_000));
    s.all_sent();
    // The segments at 101 and 3101 are lost.
    s.target(segment(ACK, 201, 101).sack(1_101, 2_101));
    s.target(segment(ACK, 201, 101).sack(1_101, 3_101));
    s.target(segment(ACK, 201, 101).sack(4_101, 5_101).sack(1_101, 3_101));
    s.target(segment(ACK, 201, 101).sack(4_101, 6_101).sack(1_101, 3_101));
    s.target(segment(ACK, 201, 101).sack(4_101, 8_101).sack(1_101, 3_101));
    let again: Vec<_> = s.all_sent().iter().map(|p| (p.seq, p.len)).collect();
    assert_eq!(again, [(101, 1_000), (3_101, 1_000)]);
    s.target(segment(ACK, 201, 8_101));
    s.pass_ms(5_000);
    s.nothing_more();
    assert_eq!(s.ledger().timeouts, 0);
}

#[test]
fn a_hole_in_the_responses_is_reported_at_once_and_by_sack() {
    let mut s = measured();
    s.client(segment(PSH_ACK, 101, 201).data(100));
    s.expect(PSH_ACK, 101, 201, 100);
    s.target(segment(ACK, 1_661, 201).data(1_460));
    let duplicate = s.expect(ACK, 201, 201, 0);
    assert_eq!(duplicate.at, s.now());
    assert_eq!(duplicate.sack(), [(1_661, 3_121)]);
    s.target(segment(ACK, 201, 201).data(1_460));
    let filled = s.expect(ACK, 201, 3_121, 0);
    assert_eq!(filled.at, s.now());
    assert_eq!(filled.sack(), []);
}

#[test]
fn a_full_segment_has_no_room_for_sack_and_does_not_swallow_the_duplicate_acknowledgement() {
    let mut s = measured();
    s.target(segment(ACK, 1_661, 101).data(1_460));
    s.expect(ACK, 101, 201, 0);
    s.client(segment(PSH_ACK, 101, 201).data(1_000));
    let full = s.expect(PSH_ACK, 101, 201, 1_000);
    assert_eq!(full.sack(), []);
}

#[test]
fn a_repeated_response_is_acknowledged_again() {
    let mut s = measured();
    s.target(segment(PSH_ACK, 1, 101).data(200));
    s.expect(ACK, 101, 201, 0);
    s.nothing_more();
    assert_eq!(s.ledger().response_bytes, 200);
}

#[test]
fn a_keepalive_of_the_target_is_answered() {
    let mut s = measured();
    s.target(segment(ACK, 200, 101));
    s.expect(ACK, 101, 201, 0);
    s.target(segment(ACK, 200, 101).data(1));
    s.expect(ACK, 101, 201, 0);
    s.nothing_more();
}

#[test]
fn acknowledgements_of_what_was_never_sent_change_nothing() {
    let mut s = measured();
    s.client(segment(PSH_ACK, 101, 201).data(100));
    s.expect(PSH_ACK, 101, 201, 100);
    s.target(segment(ACK, 201, 50_000));
    s.target(segment(ACK, 201, 0u32.wrapping_sub(70_000)));
    assert_eq!(s.ledger().pending_bytes, 100);
    s.target(segment(ACK, 201, 201));
    assert_eq!(s.ledger().pending_bytes, 0);
}

#[test]
fn a_hole_in_the_capture_ends_the_session_after_a_while() {
    let mut s = measured();
    s.client(segment(PSH_ACK, 201, 201).data(100));
    s.pass_ms(29_900);
    assert!(s.ended.is_empty());
    s.pass_ms(200);
    assert_eq!(s.ended, [SessionEnd::CaptureHole]);
    assert!(s.all_sent().iter().all(|p| p.len == 0), "nothing from behind the hole");
}

#[test]
fn a_hole_that_is_filled_in_time_is_none() {
    let mut s = measured();
    s.client(segment(PSH_ACK, 201, 201).data(100));
    s.pass_ms(20_000);
    s.nothing_more();
    s.client(segment(PSH_ACK, 101, 201).data(100));
    assert_eq!(s.all_sent().iter().map(|p| p.len).sum::<usize>(), 200);
    s.target(segment(ACK, 201, 301));
    s.pass_ms(10_000);
    assert!(s.ended.is_empty());
}

#[test]
fn a_packet_of_which_only_a_part_was_captured_ends_the_session() {
    let mut s = measured();
    s.client_cut_to(segment(PSH_ACK, 101, 201).data(500), 96);
    assert_eq!(s.ended, [SessionEnd::CaptureCut]);
    assert!(s.all_sent().iter().all(|p| p.len == 0));
}
