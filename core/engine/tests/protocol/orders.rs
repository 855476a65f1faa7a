//! Orders to a running copy: pause, go on, copy more or less.

use tcpcopy_engine::ledger::{ByteDrop, PacketDrop, SessionEnd};

use crate::script::*;

#[test]
fn a_pause_closes_what_is_open_at_once() {
    let mut s = Script::established();
    s.client(segment(PSH_ACK, 1, 1).data(100));
    s.expect(PSH_ACK, 1, 1, 100);
    s.client(segment(PSH_ACK, 101, 201).data(70));
    s.nothing_more();
    s.pause();
    // The second request waited for the answer to the first, and does not go any more.
    s.expect(FIN_ACK, 101, 1, 0);
    assert_eq!(s.ledger().bytes_dropped[ByteDrop::SessionEnded as usize], 70);
    s.target(segment(FIN_ACK, 1, 102));
    s.expect(ACK, 102, 2, 0);
    s.nothing_more();
    assert!(s.is_finished());
    let map = &s.ledger().maps[0];
    assert_eq!((map.sessions, map.sessions_alive, map.ended(SessionEnd::Paused)), (1, 0, 1));
    assert_eq!((map.requests, map.requests_copied, map.bytes_copied, map.connections), (2, 1, 100, 1));
}

#[test]
fn a_target_that_keeps_a_paused_connection_open_is_reset() {
    let mut s = Script::established();
    s.pause();
    s.expect(FIN_ACK, 1, 1, 0);
    s.target(segment(ACK, 1, 2));
    s.pass_ms(1_500);
    let sent = s.all_sent();
    assert_eq!(sent.len(), 1, "{sent:?}");
    assert!(sent[0].flags.contains(RST), "{sent:?}");
    assert!(s.is_finished());
    assert_eq!(s.ended, [SessionEnd::Paused]);
}

#[test]
fn what_is_captured_in_a_pause_is_dropped_and_counted() {
    let mut s = Script::new();
    s.pause();
    s.client(segment(SYN, 0, 0).mss(1460));
    s.client(segment(ACK, 1, 1));
    s.client(segment(PSH_ACK, 1, 1).data(100));
    s.nothing_more();
    let ledger = s.ledger();
    assert_eq!((ledger.sessions_seen, ledger.syns_paused, ledger.client_packets), (0, 1, 3));
    assert_eq!(ledger.packets_dropped[PacketDrop::Paused as usize], 3);
    assert_eq!(ledger.bytes_dropped[ByteDrop::PacketDropped as usize], 100);
}

#[test]
fn after_a_pause_what_goes_on_is_joined_and_what_begins_is_copied() {
    let mut s = Script::established();
    s.pause();
    s.expect(FIN_ACK, 1, 1, 0);
    s.client(segment(PSH_ACK, 1, 1).data(100));
    s.pass_ms(3_000);
    s.resume();
    s.all_sent();
    s.client(segment(PSH_ACK, 101, 201).data(70));
    let joined = s.all_sent();
    assert!(joined.len() == 1 && joined[0].flags == SYN, "{joined:?}");
    assert_eq!((s.ledger().joined, s.ledger().sessions_alive), (1, 1));
}

#[test]
fn a_pause_that_is_over_at_once_leaves_nothing_half_closed() {
    let mut s = Script::established();
    s.pause();
    s.expect(FIN_ACK, 1, 1, 0);
    s.resume();
    let sent = s.all_sent();
    assert!(sent.len() == 1 && sent[0].flags.contains(RST), "{sent:?}");
    assert!(s.is_finished());
    s.client(segment(PSH_ACK, 1, 1).data(100));
    s.nothing_more();
    assert_eq!(s.ledger().packets_dropped[PacketDrop::SessionEnded as usize], 1, "for a second");
    s.pass_ms(1_100);
    s.client(segment(PSH_ACK, 101, 1).data(100));
    assert_eq!(s.ledger().joined, 1);
}

#[test]
fn neither_order_is_heeded_twice_nor_behind_a_stop() {
    let mut s = Script::established();
    s.resume();
    s.client(segment(PSH_ACK, 1, 1).data(100));
    s.expect(PSH_ACK, 1, 1, 100);
    s.pause();
    s.pause();
    assert_eq!(s.all_sent().len(), 1);
    s.stop();
    s.resume();
    s.client(segment(PSH_ACK, 101, 1).data(100));
    assert_eq!(s.ledger().packets_dropped[PacketDrop::Stopping as usize], 1);
    s.pass_ms(3_000);
    assert!(s.is_finished());
    assert_eq!(s.ledger().sessions_ended.iter().sum::<u64>(), 1);
}
