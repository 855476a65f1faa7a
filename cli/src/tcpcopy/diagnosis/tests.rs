use super::*;

use std::net::SocketAddr;

use tcpcopy_wire::control::LinkStats;

/// Counters of a copy with one link, changed by `change`.
fn snapshot(change: impl FnOnce(&mut Snapshot)) -> Snapshot {
    let mut snapshot = Snapshot { links: 1, links_up: 1, ..Snapshot::default() };
    snapshot.relays = vec![(SocketAddr::from(([10, 0, 0, 3], 36_524)), LinkStats::default())];
    change(&mut snapshot);
    snapshot
}

/// Clients connect, and SYNs go out.
fn busy(change: impl FnOnce(&mut Snapshot)) -> Snapshot {
    snapshot(|s| {
        (s.ledger.packets_captured, s.ledger.client_packets, s.ledger.syns_sent) = (100, 100, 30);
        s.transmit.sent = 30;
        change(s);
    })
}

#[test]
fn each_symptom_has_its_counters() {
    use Symptom::*;
    let idle = snapshot(|_| {});
    let cases: [(State, Snapshot, &str); 9] = [
        (State::Unknown, snapshot(|_| {}), ""),
        (State::Working, busy(|s| (s.ledger.connections, s.ledger.responses) = (1, 1)), ""),
        (State::Working, snapshot(|s| s.ledger.udp_sent = 5), ""),
        (
            State::Broken(NothingMatches),
            snapshot(|s| {
                s.ledger.packets_captured = 8;
                s.ledger.packets_dropped[PacketDrop::NoMap as usize] = 7;
            }),
            "8 packets were captured, none of which is for an online server of -x (7 are",
        ),
        (State::Broken(LinksDown), busy(|s| s.links_up = 0), "30 SYNs were sent, and no link to intercept works"),
        (
            State::Broken(NotSent),
            busy(|s| {
                s.transmit.sent = 0;
                s.transmit.failed[SendError::Forbidden as usize] = 30;
            }),
            "does not send our packets (forbidden)",
        ),
        (
            State::Broken(NoAnswers),
            busy(|_| {}),
            "30 SYNs were sent, and intercept reported no answer of the target; it",
        ),
        (
            State::Broken(OnlyResets),
            busy(|s| (s.ledger.responses, s.ledger.response_resets) = (30, 30)),
            "RST only: does a server listen",
        ),
        (
            State::Broken(NoSynAck),
            busy(|s| s.ledger.responses = 4),
            "of 4 packets of the target that were reported none",
        ),
    ];
    for (expected, now, words) in cases {
        let state = judge(&idle, &now);
        assert_eq!(state, expected);
        if let State::Broken(symptom) = state {
            let text = describe(symptom, &idle, &now);
            assert!(text.contains(words), "{text}");
        }
    }
}

#[test]
fn what_intercept_says_of_itself_is_told() {
    let idle = snapshot(|_| {});
    let told = |change: fn(&mut Snapshot)| describe(Symptom::NoAnswers, &idle, &busy(change));
    assert!(told(|_| {}).contains("it captured nothing: does the target get the SYNs"));
    assert!(told(|s| s.relays[0].1.frames_captured = 9).contains("9 packets, none of them for our sessions"));
    let unrouted = told(|s| (s.relays[0].1.frames_captured, s.relays[0].1.unrouted) = (9, 3));
    assert!(unrouted.contains("9 packets, of which 3 belong to no session"), "{unrouted}");
    assert!(told(|s| s.links = 0).contains("--response-device"));
}

/// A diagnosis that is shown snapshots, each some seconds after the start.
struct Course {
    start: Instant,
    diagnosis: Diagnosis,
}

impl Course {
    fn new(is_replay: bool) -> Self {
        let start = Instant::now();
        Self { start, diagnosis: Diagnosis::new("tcpcopy doctor -x 80-10.0.0.2:80".to_owned(), is_replay, start) }
    }

    fn look(&mut self, second: u64, snapshot: &Snapshot) -> Option<(log::Level, String)> {
        self.diagnosis.look(self.start + Duration::from_secs(second), snapshot)
    }
}

#[test]
fn a_change_is_told_once() {
    let mut course = Course::new(false);
    let sent = |syns: u64, connections: u64| {
        busy(|s| {
            (s.ledger.syns_sent, s.ledger.packets_captured, s.ledger.connections) = (syns, syns, connections);
            s.transmit.sent = syns;
        })
    };
    assert_eq!(course.look(5, &sent(3, 0)), None, "too early");
    let (level, text) = course.look(10, &sent(6, 0)).expect("no session for ten seconds");
    assert_eq!(level, log::Level::Warn);
    assert!(text.contains("6 SYNs") && text.ends_with("run: tcpcopy doctor -x 80-10.0.0.2:80"), "{text}");
    for (second, syns) in [(15, 9), (20, 12), (25, 15), (30, 18)] {
        assert_eq!(course.look(second, &sent(syns, 0)), None, "told already");
    }
    let refused = |syns: u64| {
        let mut now = sent(syns, 0);
        (now.ledger.responses, now.ledger.response_resets) = (syns - 18, syns - 18);
        now
    };
    assert_eq!(course.look(35, &refused(20)), None);
    assert!(course.look(40, &refused(24)).expect("another symptom").1.contains("RST only"));
    assert_eq!(course.look(45, &sent(25, 3)), None);
    let (level, text) = course.look(50, &sent(26, 4)).expect("it works");
    assert_eq!((level, text.as_str()), (log::Level::Info, "sessions are established now"));
    course.look(55, &sent(30, 4));
    assert!(course.look(60, &sent(34, 4)).is_some(), "and again it does not");
}

#[test]
fn sessions_that_have_just_begun_are_given_time() {
    let mut course = Course::new(false);
    assert_eq!(course.look(5, &snapshot(|s| s.ledger.packets_captured = 1)), None);
    // The only SYN is a moment old.
    let late = busy(|s| (s.ledger.syns_sent, s.ledger.packets_captured, s.ledger.client_packets) = (1, 2, 2));
    assert_eq!(course.look(10, &late), None);
    let mut later = late.clone();
    (later.ledger.connections, later.ledger.packets_captured) = (1, 3);
    assert_eq!(course.look(20, &later), None, "nothing was told, so nothing is taken back");
}

#[test]
fn silence_is_strange_when_it_is_new() {
    let mut course = Course::new(false);
    assert_eq!(course.look(29, &snapshot(|_| {})), None);
    let (_, text) = course.look(30, &snapshot(|_| {})).expect("nothing at all for half a minute");
    assert!(text.contains("nothing is captured") && text.contains("-i and -F"), "{text}");
    assert_eq!(course.look(40, &snapshot(|_| {})), None, "told already");

    let mut course = Course::new(false);
    let works = |packets: u64| {
        busy(|s| {
            (s.ledger.packets_captured, s.ledger.connections) = (packets, packets);
            s.ledger.responses = packets;
        })
    };
    // A client that comes once a minute: that is how it is here.
    for (second, packets) in [(20, 1), (80, 2), (140, 3), (300, 3)] {
        assert_eq!(course.look(second, &works(packets)), None, "after {second} s");
    }
    assert!(course.look(320, &works(3)).expect("three minutes are new").1.contains("nothing is captured"));

    let mut replay = Course::new(true);
    assert_eq!(replay.look(100, &snapshot(|_| {})), None, "a pause in a file");
}
