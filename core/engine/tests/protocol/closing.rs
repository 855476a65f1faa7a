//! FIN and RST, from either side, at their place in the stream.

use std::time::Duration;

use tcpcopy_engine::ledger::{ByteDrop, SessionEnd};

use crate::script::*;

#[test]
fn the_clients_fin_goes_out_behind_its_data() {
    let mut s = Script::established();
    s.client(segment(PSH_ACK, 1, 1).data(100));
    s.expect(PSH_ACK, 1, 1, 100);
    s.client(segment(FIN_ACK, 101, 1));
    s.expect(FIN_ACK, 101, 1, 0);
    s.target(segment(FIN_ACK, 1, 102));
    s.expect(ACK, 102, 2, 0);
    s.nothing_more();
    assert_eq!(s.ledger().sessions_completed, 1);
}

#[test]
fn a_fin_that_was_captured_ahead_of_its_data_waits() {
    let mut s = Script::established();
    s.client(segment(FIN_ACK, 101, 1));
    s.nothing_more();
    s.client(segment(PSH_ACK, 1, 1).data(100));
    let sent = s.all_sent();
    assert_eq!(sent.iter().map(|p| p.len).sum::<usize>(), 100);
    assert!(sent.last().unwrap().flags.contains(FIN_ACK), "{sent:?}");
}

#[test]
fn a_half_closed_client_still_gets_its_response_acknowledged() {
    let mut s = Script::established();
    s.client(segment(FIN_ACK, 1, 1).data(100));
    let sent = s.all_sent();
    assert_eq!((sent.len(), sent[0].len), (1, 100), "{sent:?}");
    assert!(sent[0].flags.contains(FIN_ACK));
    s.target(segment(ACK, 1, 102));
    s.pass_ms(5_000);
    s.nothing_more();
    assert_eq!(s.ledger().sessions_alive, 1);
    s.target(segment(PSH_ACK, 1, 102).data(500));
    s.target(segment(FIN_ACK, 501, 102));
    s.pass_ms(100);
    s.expect(ACK, 102, 502, 0);
    assert_eq!(s.ledger().sessions_completed, 1);
}

#[test]
fn the_targets_fin_is_acknowledged_and_the_client_may_go_on() {
    let mut s = Script::established();
    s.client(segment(PSH_ACK, 1, 1).data(100));
    s.expect(PSH_ACK, 1, 1, 100);
    s.target(segment(FIN_ACK, 1, 101).data(200));
    s.pass_ms(100);
    s.expect(ACK, 101, 202, 0);
    s.client(segment(FIN_ACK, 101, 202));
    s.expect(FIN_ACK, 101, 202, 0);
    s.target(segment(ACK, 202, 102));
    assert_eq!(s.ledger().sessions_completed, 1);
    assert_eq!(s.ledger().resets_sent, 0);
}

#[test]
fn the_targets_fin_again_is_acknowledged_again_after_the_end() {
    let mut s = Script::established();
    s.client(segment(FIN_ACK, 1, 1));
    s.expect(FIN_ACK, 1, 1, 0);
    s.target(segment(FIN_ACK, 1, 2));
    s.expect(ACK, 2, 2, 0);
    s.pass_ms(500);
    s.target(segment(FIN_ACK, 1, 2));
    s.pass_ms(100);
    s.expect(ACK, 2, 2, 0);
    s.nothing_more();
}

#[test]
fn a_lost_fin_is_sent_again() {
    let mut s = Script::established();
    s.client(segment(FIN_ACK, 1, 1));
    let at = s.expect(FIN_ACK, 1, 1, 0).at;
    s.pass(Duration::from_secs(2));
    let again = s.expect(FIN_ACK, 1, 1, 0);
    assert!(again.at > at);
    s.target(segment(ACK, 1, 2));
    s.all_sent();
    s.pass(Duration::from_secs(10));
    s.nothing_more();
}

#[test]
fn the_clients_reset_follows_when_its_bytes_have_arrived() {
    let mut s = Script::established();
    s.client(segment(PSH_ACK, 1, 1).data(100));
    s.expect(PSH_ACK, 1, 1, 100);
    s.client(segment(RST_ACK, 101, 1));
    s.nothing_more();
    s.target(segment(ACK, 1, 101));
    s.expect(RST_ACK, 101, 1, 0);
    s.nothing_more();
    assert_eq!((s.ledger().sessions_completed, s.ledger().resets_sent), (1, 1));
}

#[test]
fn a_reset_of_the_target_counts_only_in_the_window() {
    let mut s = Script::established();
    s.client(segment(PSH_ACK, 1, 1).data(100));
    s.expect(PSH_ACK, 1, 1, 100);
    s.target(segment(RST, 0u32.wrapping_sub(100_000), 0));
    assert_eq!((s.ledger().sessions_alive, s.ledger().bytes_dropped[ByteDrop::TargetClosed as usize]), (1, 0));
    s.target(segment(RST, 1, 0));
    assert_eq!(s.ledger().bytes_dropped[ByteDrop::TargetClosed as usize], 100, "sent, and perhaps not read");
}

#[test]
fn after_a_reset_of_the_target_the_next_request_goes_on_a_new_connection() {
    let mut s = Script::established();
    s.client(segment(PSH_ACK, 1, 1).data(100));
    s.expect(PSH_ACK, 1, 1, 100);
    s.target(segment(PSH_ACK, 1, 101).data(50));
    s.target(segment(RST, 51, 0));
    s.nothing_more();
    s.pass_ms(1_000);
    s.nothing_more();
    s.client(segment(PSH_ACK, 101, 51).data(100));
    let syn = s.all_sent();
    assert_eq!((syn.len(), syn[0].flags), (1, SYN));
    assert!(syn[0].seq > 101, "beyond the old connection's numbers");
    assert_eq!(s.ledger().reconnects, 1);
}

#[test]
fn a_stop_closes_what_is_open_and_then_resets_what_does_not_close() {
    let mut s = Script::established();
    s.client(segment(PSH_ACK, 1, 1).data(100));
    s.expect(PSH_ACK, 1, 1, 100);
    s.target(segment(ACK, 1, 101));
    s.stop();
    let at = s.expect(FIN_ACK, 101, 1, 0).at;
    assert!(!s.is_finished());
    s.pass_ms(3_000);
    let sent = s.all_sent();
    let last = sent.last().unwrap();
    assert!(last.flags.contains(RST) && last.at.since(at) >= Duration::from_secs(1), "{sent:?}");
    assert!(s.is_finished());
    assert_eq!(s.ended, [SessionEnd::Stopped]);
}

#[test]
fn an_idle_session_is_given_up_and_a_busy_one_is_not() {
    let mut s = Script::established_with(|c| c.idle_timeout = Duration::from_secs(60));
    s.pass(Duration::from_secs(59));
    s.client(segment(PSH_ACK, 1, 1).data(100));
    s.target(segment(ACK, 1, 101));
    s.pass(Duration::from_secs(59));
    assert!(s.ended.is_empty());
    s.pass(Duration::from_secs(2));
    assert_eq!(s.ended, [SessionEnd::Idle]);
}

#[test]
fn a_new_connection_on_the_same_port_waits_for_the_old_ones_close() {
    let mut s = Script::established();
    s.client(segment(PSH_ACK, 1, 1).data(100));
    s.expect(PSH_ACK, 1, 1, 100);
    s.client(segment(FIN_ACK, 101, 1));
    s.expect(FIN_ACK, 101, 1, 0);
    // The same ports, another initial sequence number.
    s.client(segment(SYN, 90_000, 0).mss(1460));
    s.client(segment(PSH_ACK, 90_001, 1).data(70));
    s.nothing_more();
    s.target(segment(FIN_ACK, 1, 102));
    let sent = s.all_sent();
    let kinds: Vec<_> = sent.iter().map(|p| (p.flags, p.seq)).collect();
    assert_eq!(kinds, [(ACK, 102), (SYN, 90_000)], "no RST between");
    assert_eq!((s.ledger().sessions_seen, s.ledger().sessions_completed), (2, 1));
}

#[test]
fn what_a_reset_carries_is_no_part_of_the_stream() {
    let mut s = Script::established();
    s.client(segment(RST_ACK, 1, 1).data(30));
    s.expect(RST_ACK, 1, 1, 0);
    assert_eq!(s.ledger().bytes_dropped[ByteDrop::PacketDropped as usize], 30);
    assert_eq!(s.ledger().sessions_completed, 1);
}

#[test]
fn a_session_that_ended_while_it_waited_leaves_its_place_to_the_next() {
    let mut s = Script::established();
    s.client(segment(SYN, 90_000, 0).mss(1460));
    s.expect(FIN_ACK, 1, 1, 0);
    s.client_cut_to(segment(PSH_ACK, 90_001, 1).data(500), 96);
    assert_eq!(s.ended, [SessionEnd::CaptureCut]);
    s.client(segment(SYN, 95_000, 0).mss(1460));
    s.nothing_more();
    s.target(segment(FIN_ACK, 1, 2));
    s.expect(ACK, 2, 2, 0);
    s.expect(SYN, 95_000, 0, 0);
    s.nothing_more();
    assert_eq!((s.ledger().sessions_seen, s.ledger().sessions_alive), (3, 1));
}

#[test]
fn no_reset_opens_a_stream_again_that_a_fin_has_closed() {
    let mut s = Script::established();
    s.client(segment(FIN_ACK, 1, 1).data(100));
    assert_eq!(s.all_sent().len(), 1);
    s.client(segment(RST_ACK, 1_200, 1));
    s.client(segment(PSH_ACK, 1, 1).data(150));
    s.nothing_more();
    s.target(segment(ACK, 1, 102));
    s.expect(RST_ACK, 102, 1, 0);
    s.nothing_more();
}

#[test]
fn a_syn_ack_under_the_former_sessions_id_is_the_new_ones() {
    let mut s = Script::established();
    s.client(segment(FIN_ACK, 1, 1));
    s.expect(FIN_ACK, 1, 1, 0);
    s.target(segment(FIN_ACK, 1, 2));
    s.expect(ACK, 2, 2, 0);
    let former = s.id;
    s.client(segment(SYN, 90_000, 0).mss(1460));
    s.expect(SYN, 90_000, 0, 0);
    // The new route has not reached intercept yet.
    let new = std::mem::replace(&mut s.id, former);
    s.target(segment(SYN_ACK, 0, 90_000));
    s.nothing_more();
    assert_eq!(s.ledger().stale_responses, 1, "not for this SYN");
    s.target(segment(SYN_ACK, 0, 90_001));
    s.expect(ACK, 90_001, 1, 0);
    assert_ne!(former, new);
    assert_eq!(s.ledger().connections, 2);
}
