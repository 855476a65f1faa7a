use super::*;

fn sample() -> Snapshot {
    let mut s = Snapshot { links: 2, links_up: 2, ..Snapshot::default() };
    s.ledger.packets_captured = 10;
    s.ledger.packets_used = 7;
    for _ in 0..2 {
        s.ledger.drop_packet(PacketDrop::NoMap);
    }
    s.ledger.drop_packet(PacketDrop::Duplicate);
    s.ledger.connections = 5;
    s.transmit.failed[SendError::TooLarge as usize] = 3;
    s
}

#[test]
fn statistics_name_only_the_reasons_that_occurred() {
    let lines = statistics(&sample()).join("\n");
    assert!(
        lines.contains(
            "packets: captured 10 + multiplied 0 = used 7 + dropped 3 (2 no map matches, 1 nothing new \
             (retransmission, keepalive or captured twice))"
        ),
        "{lines}"
    );
    assert!(lines.contains("conns:5,") && lines.contains("not sent 3 (3 too large); links up 2 of 2"), "{lines}");
    assert!(lines.contains("+ ended early 0\n"), "{lines}");
}

fn udp_sample() -> Snapshot {
    let mut s = Snapshot { links: 1, ..Snapshot::default() };
    s.ledger.udp_datagrams = 1000;
    s.ledger.udp_sent = 2000;
    s.ledger.udp_responses = 1801;
    s.ledger.udp_answered = 1800;
    s.ledger.udp_unsolicited = 1;
    for _ in 0..100 {
        s.udp_latency.record(std::time::Duration::from_micros(1000));
    }
    s
}

#[test]
fn datagrams_have_lines_of_their_own_where_there_are_any() {
    assert!(!statistics(&sample()).join("\n").contains("udp") && !table(&sample()).contains("udp"));
    let lines = statistics(&udp_sample()).join("\n");
    assert!(lines.contains("udp: datagrams 1000, sent 2000 (0 fragments)"), "{lines}");
    assert!(
        lines.contains(
            "udp responses: 1801, answered 1800 of 2000 sent (90.0 %), unanswered 0, unsolicited 1; 50 % within 1.0"
        ),
        "{lines}"
    );
    let text = table(&udp_sample());
    assert!(
        text.contains("udp        datagrams captured") && text.contains("50 % of the answers within (ms)"),
        "{text}"
    );
    let alone = Snapshot { links: 0, ..udp_sample() };
    assert!(statistics(&alone).contains(&"udp responses: not counted without an intercept (-s)".to_owned()));
    let mut both = udp_sample();
    both += &udp_sample();
    assert_eq!(both.udp_latency.count(), 200);
}

#[test]
fn snapshots_of_workers_add_up() {
    let mut total = sample();
    total += &sample();
    assert_eq!((total.ledger.packets_captured, total.links, total.transmit.failed.iter().sum::<u64>()), (20, 4, 6));
    assert_eq!(total.ledger.check(), Ok(()));
}

#[test]
fn a_warning_needs_a_reason() {
    let before = sample();
    let mut now = sample();
    assert!(warnings(&before, &now).is_empty());
    now.ledger.sessions_alive = 7;
    now.capture.dropped = 4;
    now.links_up = 1;
    let text = warnings(&before, &now).join("\n");
    assert!(text.contains("5 connections for 7 active") && text.contains("4 packets were lost"), "{text}");
    assert!(text.contains("1 of 2 links"), "{text}");
}

#[test]
fn the_multiplier_is_told_where_there_is_one() {
    let mut s = sample();
    assert!(!table(&s).contains("multiplier:"), "{}", table(&s));
    (s.ledger.sessions_seen, s.ledger.sessions_multiplied, s.ledger.sessions_without_source) = (297, 197, 3);
    let told = "multiplier: 2.97 copies of each connection begun, without a free source 3";
    assert!(table(&s).contains(told) && statistics(&s).contains(&told.to_owned()), "{}", table(&s));
}

#[test]
fn how_long_things_took_is_told() {
    let mut s = sample();
    assert!(!statistics(&s).join("\n").contains("lag"));
    (s.ledger.requests, s.ledger.requests_copied) = (3, 2);
    for micros in [100, 200] {
        s.ledger.lag.record(std::time::Duration::from_micros(micros));
    }
    s.ledger.response_time.record(std::time::Duration::from_millis(7));
    let lines = statistics(&s).join("\n");
    assert!(lines.contains("requests: captured 3, let through 2; lag: 50 % within 0.1"), "{lines}");
    assert!(lines.contains("target: began to answer 1; 50 % within 7."), "{lines}");
    let text = table(&s);
    assert!(
        text.contains("requests   captured") && text.contains("99 % of those answers begun, within (ms)"),
        "{text}"
    );
    assert!(!lines.contains("online: ") && !text.contains("by online"), "nobody has measured it: {lines}\n{text}");
    s.ledger.online_response_time.record(std::time::Duration::from_millis(5));
    let (lines, text) = (statistics(&s).join("\n"), table(&s));
    assert!(lines.contains("online: began to answer 1; 50 % within 5."), "{lines}");
    assert!(text.contains("99 % of those answers begun by online, within (ms)"), "{text}");
}

#[test]
fn a_replay_says_what_was_found_and_what_became_of_it() {
    let mut s = sample();
    assert_eq!(replay_summary(&s), Vec::<String>::new(), "there is none");
    s.replay = Some(Progress { ending: true, frames: 12, ..Progress::default() });
    (s.ledger.sessions_seen, s.ledger.sessions_completed, s.ledger.syns_not_sampled) = (10, 8, 5);
    s.ledger.end_session(SessionEnd::CaptureCut);
    s.ledger.end_session(SessionEnd::CaptureHole);
    (s.ledger.requests, s.ledger.requests_copied) = (30, 28);
    (s.ledger.bytes_captured, s.ledger.bytes_copied) = (20_000, 12_000);
    s.ledger.drop_bytes(ByteDrop::SessionEnded, 8_000);
    assert_eq!(
        replay_summary(&s),
        [
            "sessions: found 15, replayed 8, skipped or ended early 7 (5 not in the sample, 1 hole in the capture, \
             1 packet cut by the capture)",
            "requests: found 30, replayed 28, skipped 2",
            "bytes: found 20.0 kB, replayed 12.0 kB, skipped 8000 bytes (8000 waiting when their session ended)",
            "packets: in the files 12, of clients 0, of no use 3 (2 no map matches, 1 nothing new (retransmission, \
             keepalive or captured twice))",
        ]
    );
    s.replay = Some(Progress { pass: (1, 2), read: (1, 4), frames: 12, ..Progress::default() });
    assert!(replay_summary(&s)[0].starts_with("the replay was ended before its end: pass 1 of 2, 25 % done"));
}

#[test]
fn the_table_lists_totals_and_reasons() {
    let table = table(&sample());
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    for row in ["packets captured 10", "used 7", "no map matches 2", "too large 3"] {
        assert!(rows.contains(&row.split(' ').collect()), "{table}");
    }
    let width = |line: &str| line.chars().count();
    assert!(table.lines().all(|line| width(line) == width(table.lines().next().unwrap_or_default())), "{table}");
    assert!(!table.contains("malformed") && !table.contains("balance"), "{table}");
}
