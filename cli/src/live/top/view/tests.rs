use std::time::{Duration, Instant};

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Cell;
use tcpcopy_engine::Latency;

use super::*;
use crate::live::protocol::{InForce, Kernel, Link, MapStatus, Numbers};

/// A copy to two targets by two workers, one of which is refused, after so many requests.
fn status(requests: u64) -> Status {
    let mut latency = Latency::default();
    (0..requests).for_each(|_| latency.record(Duration::from_micros(300)));
    let numbers = |part: u64| Numbers {
        counters: [
            ("requests", requests / part),
            ("requests_copied", requests / part),
            ("packets_captured", 5 * requests / part),
            ("sessions_alive", 12 / part),
            ("retransmits", 0),
        ]
        .map(|(name, count)| (name.to_owned(), count))
        .into(),
        packets_dropped: [("no map matches".to_owned(), 4), ("malformed".to_owned(), 0)].into(),
        sessions_ended_early: [("target refused the connection".to_owned(), requests / 10)].into(),
        kernel: Kernel { dropped: 3, ..Kernel::default() },
        lag: (&latency).into(),
        response_time: (&latency).into(),
        links_up: 1,
        links: 1,
        ..Numbers::default()
    };
    let map = |target: &str, refused| MapStatus {
        online: "80".to_owned(),
        target: target.to_owned(),
        module: "tcp".to_owned(),
        sessions_alive: 6,
        requests_copied: requests / 2,
        connections: 77,
        refused,
        response_time: (&latency).into(),
        ..MapStatus::default()
    };
    let link = |worker, up| Link { worker, up, intercept: "10.0.0.3:36524".to_owned(), ..Link::default() };
    Status {
        program: "tcpcopy".to_owned(),
        release: "0.1.0".to_owned(),
        pid: 4711,
        uptime_seconds: 3_723.0,
        in_force: InForce { paused: false, settings: [("rate".to_owned(), "20%".to_owned())].into() },
        total: numbers(1),
        maps: vec![map("10.0.0.2:80", 0), map("[fd00:1234:5678:9abc:def0:1234:5678:9abc]:8080", requests / 10)],
        workers: vec![numbers(2), numbers(2)],
        links: vec![link(0, true), link(1, false)],
        ..Status::default()
    }
}

fn view() -> View {
    let (mut view, start) = (View::default(), Instant::now());
    view.history.add(status(1_000), start);
    view.history.add(status(1_500), start + Duration::from_secs(1));
    view.history.add(status(3_500), start + Duration::from_secs(3));
    view
}

/// The screen's lines.
fn drawn(view: &mut View, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, view)).unwrap();
    let buffer = terminal.backend().buffer();
    let rows = buffer.content().chunks(usize::from(width).max(1));
    rows.map(|row| row.iter().map(Cell::symbol).collect::<String>().trim_end().to_owned()).collect()
}

/// The only line that begins like this.
fn line<'a>(lines: &'a [String], beginning: &str) -> &'a str {
    let mut found = lines.iter().filter(|line| line.starts_with(beginning));
    let line = found.next().unwrap_or_else(|| panic!("no line begins with `{beginning}`:\n{}", lines.join("\n")));
    assert!(found.next().is_none(), "{beginning}");
    line
}

#[test]
fn everything_is_on_a_large_screen() {
    let lines = drawn(&mut view(), 140, 50);
    assert!(lines[0].starts_with("tcpcopy 0.1.0 running process 4711, for 01:02:03   rate=20%"), "{}", lines[0]);
    // 500 in a second, then 2,000 in two.
    assert_eq!(line(&lines, "captured"), "captured              1000/s  ▄█");
    assert_eq!(line(&lines, "sessions  "), "sessions                  12  ██");
    let lag: Vec<&str> = line(&lines, "lag   ").split_whitespace().collect();
    assert_eq!(lag, ["lag"].iter().chain(&["319", "us"].repeat(8)).copied().collect::<Vec<_>>());
    let healthy: Vec<&str> = line(&lines, "80 > 10.0.0.2:80 tcp").split_whitespace().skip(4).collect();
    assert_eq!(healthy, ["6", "500", "1000", "319", "us", "0", "77", "0", "0", "0"]);
    let ill: Vec<&str> = line(&lines, "80 > [fd00:1234").split_whitespace().rev().take(3).collect();
    assert_eq!(ill, ["0", "0", "350"]);
    let refused: Vec<&str> = line(&lines, "session   ").split_whitespace().rev().take(2).collect();
    assert_eq!(refused, ["350", "100"]);
    assert!(!lines.iter().any(|line| line.contains("malformed")), "what did not happen is not listed");
    assert!(lines.iter().any(|line| line.starts_with("kernel    the capture buffer was full")));
    let worker: Vec<&str> = line(&lines, "1    ").split_whitespace().collect();
    assert_eq!(worker, ["1", "2500", "500", "500", "1000", "6", "3", "1/1"]);
    assert!(lines.iter().any(|line| line.starts_with("10.0.0.3:36524") && line.contains(" 1 DOWN")));
    assert!(lines[49].starts_with("q: leave, the copy goes on  p: pause"), "{}", lines[49]);
}

#[test]
fn on_80_columns_nothing_is_cut_off() {
    let mut view = view();
    let lines = drawn(&mut view, 80, 60);
    for beginning in ["times", "   alive", "dropped", "worker", "intercept"] {
        let (narrow, wide) = (line(&lines, beginning), drawn(&mut view, 300, 60));
        let last_word = |line: &str| line.split_whitespace().last().map(str::to_owned);
        let wide = wide.iter().find(|line| last_word(line) == last_word(narrow));
        assert!(wide.is_some(), "cut: {narrow}");
    }
    let name =
        lines.iter().position(|line| line.starts_with("80 > [fd00:1234:5678:9abc:def0:1234:5678:9abc]:8080 tcp"));
    assert!(lines[name.unwrap() + 1].ends_with(" 350      0          0"), "{}", lines.join("\n"));
    assert!(lines.iter().any(|line| line.starts_with("lag, ever")));
}

#[test]
fn a_small_screen_is_scrolled() {
    let mut view = view();
    let top = drawn(&mut view, 80, 10);
    assert!(top[1].starts_with("captured") && top[9].contains("more lines"), "{top:?}");
    view.scrolled = u16::MAX;
    let bottom = drawn(&mut view, 80, 10);
    assert!(bottom[8].starts_with("10.0.0.3:36524") && bottom[9].contains(" 0 more lines"), "{bottom:?}");
    assert_eq!(bottom[0], top[0]);
}

#[test]
fn no_screen_is_too_small() {
    for (width, height) in [(0, 0), (1, 1), (1, 50), (200, 1), (200, 2), (29, 3), (31, 4)] {
        drawn(&mut view(), width, height);
        drawn(&mut View::default(), width, height);
    }
}

#[test]
fn what_is_asked_said_and_over_stands_at_the_bottom() {
    let mut view = view();
    view.asks = true;
    assert!(drawn(&mut view, 120, 20)[19].starts_with("Pause?"));
    view.asks = false;
    view.note = Some(("paused: nothing is copied".to_owned(), Instant::now()));
    assert_eq!(drawn(&mut view, 120, 20)[19], "paused: nothing is copied");
    view.ended = Some("the program has ended".to_owned());
    let lines = drawn(&mut view, 120, 20);
    assert!(lines[19].starts_with("the program has ended; these were its last numbers. q leaves"), "{}", lines[19]);
    assert!(lines[0].contains("ENDED"), "{}", lines[0]);
    let mut paused = status(4_000);
    paused.in_force.paused = true;
    let mut view = View::default();
    view.history.add(paused, Instant::now());
    let lines = drawn(&mut view, 120, 20);
    assert!(lines[0].contains("PAUSED") && lines[19].contains("p: resume"), "{lines:?}");
}

#[test]
fn bars_are_as_high_as_their_share() {
    assert_eq!(sparkline(&[0.0, 1.0, 4.0, 8.0]), " ▁▄█");
    assert_eq!(sparkline(&[0.0, 0.0]), "  ");
    assert_eq!(sparkline(&[]), "");
}

#[test]
fn numbers_are_short() {
    let shown: Vec<String> = [0.0, 0.4, 9.0, 950.4, 12_300.0, 4_500_000.0, 7e9].map(number).into();
    assert_eq!(shown, ["0", "0.4", "9", "950", "12.3k", "4.5M", "7.0G"]);
}
