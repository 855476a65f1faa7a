//! How much is sent: MSS, the target's window, probes when it is closed.

use crate::script::*;

#[test]
fn a_super_segment_is_cut_to_the_targets_mss() {
    let mut s = Script::established();
    s.client(segment(PSH_ACK, 1, 1).data(60_000));
    let sent = s.all_sent();
    assert_eq!(sent.len(), 60, "60 segments of 1000");
    for (i, p) in sent.iter().enumerate() {
        assert_eq!((p.seq, p.len), (1 + 1_000 * i as u32, 1_000));
        assert_eq!(p.flags, if i == 59 { PSH_ACK } else { ACK }, "PSH only on the last");
    }
}

#[test]
fn the_clients_cut_is_kept_where_it_fits() {
    let mut s = Script::established();
    for (seq, len) in [(1, 700), (701, 300), (1_001, 1_000), (2_001, 1)] {
        s.client(segment(ACK, seq, 1).data(len));
        s.expect(ACK, seq, 1, len);
    }
}

#[test]
fn the_scaled_window_is_honoured_and_filled() {
    let mut s = Script::new();
    s.client(segment(SYN, 0, 0).mss(1460).scale(7));
    s.expect(SYN, 0, 0, 0);
    // The window of a SYN-ACK is not scaled (RFC 7323, section 2.2); later ones are, by 2.
    s.target(segment(SYN_ACK, 0, 1).mss(1000).scale(2).window(3_000));
    s.expect(ACK, 1, 1, 0);
    s.client(segment(PSH_ACK, 1, 1).data(30_000));
    assert_eq!(s.all_sent().iter().map(|p| p.len).sum::<usize>(), 3_000);
    s.target(segment(ACK, 1, 3_001).window(2_500));
    assert_eq!(s.all_sent().iter().map(|p| p.len).sum::<usize>(), 10_000);
    s.target(segment(ACK, 1, 5_001).window(2_500));
    let more = s.all_sent();
    assert_eq!((more[0].seq, more.iter().map(|p| p.len).sum::<usize>()), (13_001, 2_000));
}

#[test]
fn without_scaling_on_both_sides_windows_are_taken_as_they_are() {
    let mut s = Script::new();
    s.client(segment(SYN, 0, 0).mss(1460));
    s.expect(SYN, 0, 0, 0);
    s.target(segment(SYN_ACK, 0, 1).mss(1000).scale(5).window(2_000));
    s.expect(ACK, 1, 1, 0);
    s.client(segment(PSH_ACK, 1, 1).data(30_000));
    assert_eq!(s.all_sent().len(), 2);
    s.target(segment(ACK, 1, 2_001).window(3_000));
    assert_eq!(s.all_sent().len(), 3);
}

#[test]
fn a_closed_window_is_probed_until_it_opens() {
    let mut s = Script::established();
    s.client(segment(PSH_ACK, 1, 1).data(10));
    s.expect(PSH_ACK, 1, 1, 10);
    s.target(segment(ACK, 1, 11).window(0));
    s.client(segment(PSH_ACK, 11, 1).data(500));
    s.nothing_more();
    let mut probes = Vec::new();
    for _ in 0..1_000 {
        s.pass_ms(100);
        for probe in s.all_sent() {
            probes.push(probe);
            s.target(segment(ACK, 1, 11).window(0));
        }
    }
    // Answered probes go on for good.
    assert!((8..=40).contains(&probes.len()), "{} probes in 100 s", probes.len());
    assert!(probes.iter().all(|p| p.seq == 11 && p.len == 1), "{probes:?}");
    let gaps: Vec<_> = probes.windows(2).map(|w| w[1].at.since(w[0].at)).collect();
    assert!(gaps.windows(2).take(3).all(|w| w[1] > w[0]), "with growing patience: {gaps:?}");
    s.target(segment(ACK, 1, 11).window(512));
    let sent = s.all_sent();
    assert_eq!(sent.iter().map(|p| p.len).sum::<usize>(), 500, "all of it, the probe's byte again: {sent:?}");
    assert!(s.ended.is_empty());
}

#[test]
fn the_probes_byte_counts_when_the_target_takes_it() {
    let mut s = Script::established();
    s.client(segment(PSH_ACK, 1, 1).data(10));
    s.expect(PSH_ACK, 1, 1, 10);
    s.target(segment(ACK, 1, 11).window(0));
    s.client(segment(PSH_ACK, 11, 1).data(500));
    s.pass_ms(1_500);
    assert!(!s.all_sent().is_empty());
    s.target(segment(ACK, 1, 12).window(512));
    s.expect(PSH_ACK, 12, 1, 499);
    s.nothing_more();
}
