//! The page of several runs: that it is well-formed and whole, and that it says what was counted.

use roxmltree::{Document, Node, ParsingOptions};

use super::*;
use crate::tcpcopy::recording::sample::{Counts, InterceptLine, MapLine, ModuleCount, ReplayLine};
use crate::tcpcopy::recording::times::Times;
use crate::tcpcopy::recording::{Begin, End, Ended, Sample};

fn counts(of: &[(&'static str, u64)]) -> Counts {
    of.iter().map(|(name, n)| ((*name).into(), *n)).collect()
}

fn begin() -> Begin {
    let map = MapLine {
        online: "port 80".to_owned(),
        target: "10.0.0.2:8080".to_owned(),
        transport: "TCP".to_owned(),
        module: "tcp 1".to_owned(),
    };
    Begin {
        format: 1,
        version: "1.2.3".to_owned(),
        host: "web1".to_owned(),
        began: "2026-01-31T12:34:56+01:00".to_owned(),
        maps: vec![map],
        devices: vec!["eth0".to_owned()],
        filter: "tcp and (dst port 80)".to_owned(),
        intercepts: vec!["10.0.0.3:36524".to_owned()],
        measures_online: true,
        workers: 2,
        options: vec![("map".to_owned(), "80-10.0.0.2:8080".to_owned())],
        ..Begin::default()
    }
}

fn sample(second: u64) -> Sample {
    Sample {
        at: second as f64 + 1.0,
        seconds: 1.0,
        counted: counts(&[
            ("requests", 1_000 + second),
            ("requests_copied", 990),
            ("sessions_seen", 20),
            ("sessions_completed", 17),
            ("connections", 19),
            ("packets_captured", 3_000),
            ("packets_used", 2_500),
            ("bytes_captured", 200_000),
            ("bytes_copied", 200_000),
            ("packets_sent", 2_800),
            ("retransmits", 3),
            ("capture_received", 3_000),
            ("capture_dropped", 4),
        ]),
        now: counts(&[("sessions_alive", 2 + 2 * second), ("links", 2), ("links_up", 1)]),
        packets_dropped: counts(&[("no map matches", 100), ("truncated by the capture", 400)]),
        sessions_ended_early: counts(&[("target refused the connection", 1)]),
        lag: Times { sum_us: 99_000, counts: vec![(95, 900), (2_047, 90)] },
        response_time: Times { sum_us: 5_000_000, counts: vec![(5_119, 970), (40_959, 10)] },
        online_response_time: Times { sum_us: 20_000_000, counts: vec![(20_479, 1_000)] },
        intercepts: vec![InterceptLine {
            address: "10.0.0.3:36524".to_owned(),
            captured: 12_345,
            ..InterceptLine::default()
        }],
        ..Sample::default()
    }
}

fn run(seconds: u64) -> History {
    let mut history = History::new(begin());
    for second in 0..seconds {
        history.add(&sample(second));
    }
    history.end = Some(End { ended: "2026-01-31T12:44:56+01:00".to_owned(), how: Ended::Stopped });
    history
}

/// Reads a page as XML, and looks at what every page must be like.
fn checked(page: &str) -> String {
    let options = ParsingOptions { allow_dtd: true, ..ParsingOptions::default() };
    let document = Document::parse_with_options(page, options).unwrap_or_else(|e| panic!("{e}\n{page}"));
    for node in document.descendants().filter(Node::is_element) {
        let tag = node.tag_name().name();
        assert!(!["script", "link", "img", "iframe", "object", "embed", "use", "a"].contains(&tag), "<{tag}>");
        for attribute in node.attributes() {
            assert!(!attribute.name().starts_with("on"), "{} runs a script", attribute.name());
            assert!(!["href", "src", "style"].contains(&attribute.name()), "{}", attribute.name());
            let is_number =
                |text: &str| text.split([' ', ',']).all(|part| part.parse::<f64>().is_ok_and(f64::is_finite));
            if ["x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "r", "width", "height", "points"]
                .contains(&attribute.name())
            {
                assert!(is_number(attribute.value()), "{}", attribute.value());
            }
        }
        if tag == "svg" && node.attribute("role") == Some("img") {
            assert!(node.attribute("aria-label").is_some_and(|label| !label.is_empty()));
        }
    }
    for elsewhere in ["http", "//", "url(", "@import", "<script"] {
        assert!(!page.contains(elsewhere), "the page refers to something elsewhere: {elsewhere}");
    }
    let texts = document.descendants().filter(Node::is_text).filter_map(|node| node.text());
    texts.collect::<Vec<_>>().join("\n")
}

#[track_caller]
fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "`{part}` is missing in:\n{text}");
    }
}

#[test]
fn a_page_says_what_was_counted() {
    let history = run(600);
    let text = checked(&render(&history));
    assert_says(
        &text,
        &[
            "port 80 → 10.0.0.2:8080",
            "on eth0, on host web1",
            "2026-01-31 12:34:56 +01:00",
            "after 10 min: it was stopped",
            "tcpcopy 1.2.3, 2 workers",
            // 600 * 1000 + 0 + 1 + … + 599.
            "779,700",
            "594,000 sent of 779,700 captured",
            "76.2 %",
            "12,000",
            "600 sessions ended early (5.00 %)",
            "99 of 100 within 2.05 ms",
            "99 of 100 within 41 ms",
            "99 of 100 within 20.5 ms",
            "0.25 ×",
            "2,400 packets are missing from the capture",
            "target refused the connection",
            "Nothing listens at the target’s port",
            "no map matches",
            "240,000",
            "1 of 2 links worked at the end",
            "12,345",
            "tcp and (dst port 80)",
            "80-10.0.0.2:8080",
        ],
    );
}

#[test]
fn the_numbers_of_a_page_are_those_of_the_samples() {
    let history = run(77);
    let t = &history.totals;
    let text = checked(&render(&history));
    for n in
        [t.count("requests"), t.count("sessions_seen"), t.target.count(), t.online.count(), t.count("bytes_copied")]
    {
        assert_says(&text, &[&numbers::count(n)]);
    }
    for share in [0.5, 0.99, 0.999] {
        assert_says(&text, &[&numbers::time(t.target.quantile(share).unwrap())]);
    }
    for (reason, n) in t.packets_dropped.iter().chain(&t.sessions_ended_early) {
        assert_says(&text, &[reason, &numbers::count(*n)]);
    }
}

#[test]
fn a_long_run_makes_no_larger_page() {
    let (short, long) = (render(&run(300)), render(&run(9_000)));
    checked(&long);
    assert!(long.len() < short.len() * 2 && long.len() < 400_000, "{} and {} bytes", short.len(), long.len());
}

#[test]
fn a_run_without_anything_is_a_page_too() {
    let text = checked(&render(&History::default()));
    assert_says(
        &text,
        &["No data of clients was captured", "There is no sample", "No answer of the target was heard of"],
    );
    let mut history = History::new(begin());
    history.add(&Sample { at: 0.02, seconds: 0.02, ..Sample::default() });
    checked(&render(&history));
}

#[test]
fn a_replay_has_its_account() {
    let mut history =
        History::new(Begin { files: vec!["/tmp/online.pcap".to_owned()], devices: Vec::new(), ..begin() });
    let damages = vec!["/tmp/online.pcap ends in the middle of a packet".to_owned()];
    let replay = ReplayLine { packets: 4_321, pass: 4, passes: 3, all_read: true, damages };
    history.add(&Sample { replay: Some(replay), ..sample(0) });
    history.end = Some(End { ended: String::new(), how: Ended::ReplayOver });
    let text = checked(&render(&history));
    assert_says(
        &text,
        &["as recorded in a capture", "4,321", "3 of 3", "in the middle of a packet", "everything was replayed"],
    );
}

#[test]
fn of_datagrams_it_speaks_as_such() {
    let mut history = History::new(begin());
    history.begin.maps[0].transport = "UDP".to_owned();
    let counted = counts(&[("udp_datagrams", 5_000), ("udp_sent", 5_000), ("udp_answered", 4_990), ("udp_flows", 7)]);
    let udp_response_time = Times { sum_us: 1, counts: vec![(500, 4_990)] };
    history.add(&Sample {
        at: 1.0,
        seconds: 1.0,
        counted,
        udp_response_time,
        now: counts(&[("udp_flows_alive", 7)]),
        ..Sample::default()
    });
    let text = checked(&render(&history));
    assert_says(
        &text,
        &["5,000", "datagrams captured", "Clients that are remembered", "99 of 100 within 500 µs", "4,990"],
    );
    assert!(!text.contains("sessions ended early"), "{text}");
}

#[test]
fn hostile_names_are_only_text() {
    const EVIL: &str = "\"><script>alert('x')</script><!-- & ]]> \u{0}\u{1b}[2J\u{202e} {{7*7}}";
    let mut history = run(2);
    let evil = || EVIL.to_owned();
    let b = &mut history.begin;
    (b.host, b.version, b.began, b.filter) = (evil(), evil(), evil(), evil());
    (b.devices, b.intercepts) = (vec![evil()], vec![evil()]);
    b.options = vec![(evil(), evil())];
    b.maps[0] = MapLine { online: evil(), target: evil(), transport: "TCP".to_owned(), module: evil() };
    let name = || std::borrow::Cow::Owned(EVIL.to_owned());
    history.add(&Sample {
        at: 3.0,
        seconds: 1.0,
        counted: [(name(), 9)].into(),
        packets_dropped: [(name(), 7)].into(),
        bytes_dropped: [(name(), 7)].into(),
        sessions_ended_early: [(name(), 8)].into(),
        packets_not_sent: [(name(), 1)].into(),
        modules: vec![ModuleCount { module: evil(), name: evil(), count: 1, bytes: 1 }],
        intercepts: vec![InterceptLine { address: evil(), captured: 1, ..InterceptLine::default() }],
        replay: Some(ReplayLine { damages: vec![evil()], ..ReplayLine::default() }),
        ..sample(2)
    });
    history.end = Some(End { ended: evil(), how: Ended::Failed(evil()) });
    let page = render(&history);
    // Whole and in one piece, it is in the texts alone.
    assert_says(&checked(&page), &["\"><script>alert('x')</script><!-- & ]]> \u{fffd}\u{fffd}[2J\u{fffd} {{7*7}}"]);
    assert!(!page.contains("<script") && !page.contains('\u{1b}') && !page.contains('\u{202e}'));
}

#[test]
fn bins_hold_all_there_is() {
    let spread = Times { sum_us: 1, counts: vec![(3, 1), (8, 2), (127, 3), (1_151, 4), (5_119, 5), (80_000_000, 6)] };
    for times in [&spread, &run(1).totals.target, &Times { sum_us: 1, counts: vec![(1, 1)] }] {
        let ends = plots::bins(&[times]);
        assert!(ends.len() >= 2 && ends.len() <= 40 && ends.is_sorted(), "{ends:?}");
        let sum: f64 = plots::shares(times, &ends).iter().sum();
        assert!((sum - 100.0).abs() < 1e-6, "{sum} % of {times:?} are in {ends:?}");
    }
}

#[test]
fn numbers_without_sense_do_no_harm() {
    let mut history = History::new(begin());
    let all = u64::MAX;
    history.add(&Sample {
        at: f64::MAX,
        seconds: -1.0,
        counted: counts(&[("requests_copied", all), ("sessions_seen", 1)]),
        sessions_ended_early: counts(&[("target silent", 1 << 60)]),
        response_time: Times { sum_us: all, counts: vec![(0, all), (all, all)] },
        lag: Times { sum_us: 0, counts: vec![(all, 0)] },
        ..Sample::default()
    });
    checked(&render(&history));
}
