//! SYN, SYN-ACK, and what may come instead.

use tcpcopy_engine::ledger::{PacketDrop, SessionEnd};

use crate::script::*;

#[test]
fn the_syn_has_the_clients_number_and_options() {
    let mut s = Script::new();
    s.client(segment(SYN, 0, 0).mss(1400).scale(9).sack_permitted().timestamps(123_456, 0));
    let syn = s.expect(SYN, 0, 0, 0);
    assert_eq!(syn.options.mss, Some(1400));
    assert_eq!(syn.options.window_scale, Some(9));
    assert!(syn.options.sack_permitted);
    assert!(syn.options.timestamps.is_some());
    s.nothing_more();
}

#[test]
fn the_mss_is_cut_to_what_is_allowed() {
    let mut s = Script::with(|c| c.mss = 1200);
    s.client(segment(SYN, 0, 0).mss(8960));
    assert_eq!(s.expect(SYN, 0, 0, 0).options.mss, Some(1200));

    let mut s = Script::with(|c| c.mtu = 1000);
    s.client(segment(SYN, 0, 0).mss(1460));
    assert_eq!(s.expect(SYN, 0, 0, 0).options.mss, Some(960));
}

#[test]
fn options_that_the_client_did_not_offer_are_not_offered() {
    let mut s = Script::new();
    s.client(segment(SYN, 0, 0));
    let options = s.expect(SYN, 0, 0, 0).options;
    assert!(!options.sack_permitted && options.window_scale.is_none() && options.timestamps.is_none());
}

#[test]
fn a_syn_without_answer_is_sent_again_with_growing_patience() {
    let mut s = Script::new();
    s.client(segment(SYN, 0, 0).mss(1460));
    let first = s.expect(SYN, 0, 0, 0);
    s.pass_ms(30_000);
    for after in [1_000, 3_000, 7_000, 15_000] {
        let again = s.expect_after(first.at, after, (SYN, 0, 0, 0));
        assert_eq!(again.options, first.options);
    }
    s.nothing_more();
    assert_eq!(s.ended, [SessionEnd::TargetUnreachable]);
}

#[test]
fn the_clients_repeated_syn_is_no_second_session() {
    let mut s = Script::new();
    s.client(segment(SYN, 0, 0).mss(1460));
    s.expect(SYN, 0, 0, 0);
    s.client(segment(SYN, 0, 0).mss(1460));
    s.nothing_more();
    assert_eq!(s.ledger().sessions_seen, 1);
    assert_eq!(s.ledger().packets_dropped[PacketDrop::Duplicate as usize], 1);
}

#[test]
fn a_reset_in_answer_to_the_syn_is_a_refusal() {
    let mut s = Script::new();
    s.client(segment(SYN, 0, 0).mss(1460));
    s.expect(SYN, 0, 0, 0);
    // One that does not acknowledge the SYN is not for it (RFC 9293, section 3.10.7.3).
    s.target(segment(RST_ACK, 0, 0));
    assert_eq!(s.ended, []);
    s.target(segment(RST_ACK, 0, 1));
    assert_eq!(s.ended, [SessionEnd::TargetRefused]);
    s.pass_ms(5_000);
    s.nothing_more();
}

#[test]
fn a_challenge_in_syn_sent_is_answered_with_a_reset_and_another_syn() {
    // The target still has an older connection on these ports (RFC 5961, section 4).
    let mut s = Script::new();
    s.client(segment(SYN, 0, 0).mss(1460));
    let at = s.expect(SYN, 0, 0, 0).at;
    s.target(segment(ACK, 5_000, 70_000));
    s.expect(RST, 70_000, 0, 0);
    s.pass_ms(100);
    s.expect_after(at, 40, (SYN, 0, 0, 0));
    s.nothing_more();
    s.target(segment(SYN_ACK, 0, 1).mss(1460));
    s.expect(ACK, 1, 1, 0);
}

#[test]
fn a_syn_ack_is_acknowledged_every_time_it_comes() {
    let mut s = Script::established();
    s.target(segment(SYN_ACK, 0, 1).mss(1000).scale(7).sack_permitted());
    s.expect(ACK, 1, 1, 0);
    s.nothing_more();
}

#[test]
fn data_that_came_before_the_syn_ack_carries_its_acknowledgement() {
    let mut s = Script::new();
    s.client(segment(SYN, 0, 0).mss(1460));
    s.expect(SYN, 0, 0, 0);
    s.client(segment(ACK, 1, 1));
    s.client(segment(PSH_ACK, 1, 1).data(100));
    s.nothing_more();
    s.target(segment(SYN_ACK, 0, 1).mss(1460));
    s.expect(PSH_ACK, 1, 1, 100);
    s.nothing_more();
}

#[test]
fn timestamps_go_by_one_clock_and_echo_the_targets() {
    // The script begins at 10 s.
    let mut s = Script::with(|config| config.timestamp_base = u32::MAX - 10_005);
    s.client(segment(SYN, 0, 0).mss(1460).timestamps(77, 0));
    assert_eq!(s.expect(SYN, 0, 0, 0).options.timestamps, Some((u32::MAX - 5, 0)));
    s.pass_ms(10);
    s.target(segment(SYN_ACK, 0, 1).mss(1460).timestamps(900, u32::MAX - 5));
    assert_eq!(s.expect(ACK, 1, 1, 0).options.timestamps, Some((4, 900)), "10 ms later, over the wrap");
    s.pass_ms(100);
    s.client(segment(PSH_ACK, 1, 1).data(10).timestamps(1, 1));
    assert_eq!(s.expect(PSH_ACK, 1, 1, 10).options.timestamps, Some((104, 900)));
    s.target(segment(PSH_ACK, 1, 11).data(20).timestamps(1_000, 104));
    // An older packet that arrives late does not turn the echo back (RFC 7323, section 4.3).
    s.target(segment(ACK, 1, 11).timestamps(950, 104));
    s.pass_ms(50);
    assert_eq!(s.expect(ACK, 11, 21, 0).options.timestamps.unwrap().1, 1_000);
}

#[test]
fn timestamps_and_their_room_are_left_out_when_the_target_does_not_agree() {
    let mut s = Script::new();
    s.client(segment(SYN, 0, 0).mss(1460).timestamps(7, 0));
    s.expect(SYN, 0, 0, 0);
    s.target(segment(SYN_ACK, 0, 1).mss(1000));
    s.expect(ACK, 1, 1, 0);
    s.client(segment(PSH_ACK, 1, 1).data(1_000).timestamps(8, 0));
    assert_eq!(s.expect(PSH_ACK, 1, 1, 1_000).options.timestamps, None);

    let mut s = Script::new();
    s.client(segment(SYN, 0, 0).mss(1460).timestamps(7, 0));
    s.expect(SYN, 0, 0, 0);
    s.target(segment(SYN_ACK, 0, 1).mss(1000).timestamps(1, 7));
    s.expect(ACK, 1, 1, 0);
    s.client(segment(PSH_ACK, 1, 1).data(1_000).timestamps(8, 0));
    s.expect(ACK, 1, 1, 988);
    s.expect(PSH_ACK, 989, 1, 12);
}

#[test]
fn data_on_a_syn_follows_the_handshake() {
    // TCP Fast Open. Online did not take the data here, so the client sends it again.
    let mut s = Script::new();
    s.client(segment(SYN, 0, 0).mss(1460).data(50));
    s.expect(SYN, 0, 0, 0);
    s.target(segment(SYN_ACK, 0, 1).mss(1460));
    s.expect(ACK, 1, 1, 50);
    s.client(segment(PSH_ACK, 1, 1).data(50));
    s.nothing_more();
    s.client(segment(PSH_ACK, 51, 1).data(50));
    s.expect(PSH_ACK, 51, 1, 50);
}

#[test]
fn a_syn_that_was_captured_behind_its_data_begins_no_second_session() {
    let mut s = Script::new();
    s.client(segment(PSH_ACK, 1, 1).data(100));
    s.expect(SYN, 0, 0, 0);
    s.client(segment(SYN, 0, 0).mss(1460));
    s.target(segment(SYN_ACK, 0, 1).mss(1000));
    s.expect(PSH_ACK, 1, 1, 100);
    s.nothing_more();
    assert_eq!((s.ledger().sessions_seen, s.ledger().joined), (1, 1));
}

#[test]
fn without_its_syn_a_session_is_joined_at_its_next_data_or_not_at_all() {
    let mut s = Script::new();
    s.client(segment(ACK, 500, 300));
    s.client(segment(FIN_ACK, 500, 300));
    s.client(segment(RST, 500, 0));
    s.nothing_more();
    assert_eq!(s.ledger().packets_dropped[PacketDrop::NoSession as usize], 3);
    s.client(segment(PSH_ACK, 600, 300).data(100));
    s.expect(SYN, 599, 0, 0);
    s.target(segment(SYN_ACK, 0, 600).mss(1000));
    s.expect(PSH_ACK, 600, 1, 100);
    s.nothing_more();

    let mut s = Script::with(|c| c.only_whole_sessions = true);
    s.client(segment(PSH_ACK, 600, 300).data(100));
    s.nothing_more();
    assert_eq!(s.ledger().sessions_seen, 0);
}

#[test]
fn a_link_that_comes_up_is_told_the_routes_of_live_sessions_again() {
    let mut s = Script::established();
    assert_eq!(s.routes_added(), 1, "on the session's own link alone");
    s.link_up(0);
    s.link_up(1);
    assert_eq!(s.routes_added(), 2, "and again on that link");
}

#[test]
fn a_target_that_has_not_answered_is_named_when_the_copy_is_stopped() {
    let mut s = Script::new();
    s.client(segment(SYN, 0, 0));
    s.expect(SYN, 0, 0, 0);
    s.pass_ms(1_500);
    s.stop();
    assert_eq!(s.ended, [SessionEnd::TargetUnreachable]);
    let mut s = Script::new();
    s.client(segment(SYN, 0, 0));
    s.stop();
    assert_eq!(s.ended, [SessionEnd::Stopped], "it had no time to");
}
