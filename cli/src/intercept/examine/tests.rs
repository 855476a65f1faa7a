use clap::Parser;

use super::*;
use crate::intercept::arguments::Arguments;

fn examiner(words: &str) -> Examiner {
    let arguments = Arguments::try_parse_from(std::iter::once("intercept").chain(words.split_whitespace())).unwrap();
    Examiner::new(&Options::check(arguments).unwrap())
}

fn question(transport: Transport, server: &str) -> Question {
    let end = |text: &str| text.parse::<SocketAddr>().unwrap().into();
    let client = if server.starts_with('[') { "[fd78::1]:4000" } else { "10.78.0.1:4000" };
    Question { transport, flow: tcpcopy_wire::Flow { client: end(client), server: end(server) } }
}

fn now() -> Timestamp {
    Timestamp::ZERO + Duration::from_secs(1)
}

#[test]
fn a_filter_sees_what_it_takes() {
    const ASKER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 9));
    for (filter, transport, server, expected) in [
        ("-i any -o 8080", Transport::Tcp, "192.0.2.1:8080", Some(true)),
        ("-i any -o 8080", Transport::Tcp, "192.0.2.1:80", Some(false)),
        ("-i any -o 192.0.2.2:8080", Transport::Tcp, "192.0.2.1:8080", Some(false)),
        ("-i any -o 8080", Transport::Udp, "192.0.2.1:8080", Some(false)),
        ("-i any -F udp", Transport::Udp, "[2001:db8::1]:53", Some(true)),
        ("-i any -o 8080", Transport::Tcp, "[2001:db8::1]:8080", Some(true)),
        ("--nfqueue 7 --setup 8080", Transport::Tcp, "192.0.2.1:8080", Some(true)),
        ("--nfqueue 7 --setup 8080", Transport::Tcp, "192.0.2.1:80", None),
    ] {
        let answer = examiner(filter).look(&question(transport, server), ASKER);
        assert_eq!(answer.is_seen, expected, "intercept {filter}, {transport} {server}");
    }
}

#[test]
fn each_that_asks_is_answered_once() {
    let mut examiner = examiner("-i any -o 8080");
    let from: SocketAddr = "192.0.2.9:1".parse().unwrap();
    assert_eq!(examiner.next_deadline(), None);
    for peer in 0..3 {
        examiner.take(PeerId(peer), from, vec![question(Transport::Tcp, "192.0.2.1:8080"); peer as usize]);
    }
    examiner.forget(PeerId(1));
    assert_eq!(examiner.next_deadline(), Some(Timestamp::ZERO));
    let mut answered = Vec::new();
    let captured = Captured { frames: 7, kernel_drops: 8 };
    examiner.answer(&captured, now(), |peer, report, answers| {
        assert_eq!((report.frames_captured, report.kernel_drops, report.filter), (7, 8, "tcp and src port 8080"));
        answered.push((peer, answers.len()));
    });
    assert_eq!(answered, [(PeerId(0), 0), (PeerId(2), 2)]);
    assert_eq!(examiner.next_deadline(), None);
    // The next one waits a moment.
    examiner.take(PeerId(0), from, Vec::new());
    assert_eq!(examiner.next_deadline(), Some(now() + LOOK_EVERY));
}

#[test]
fn a_flood_of_questions_is_forgotten() {
    let mut examiner = examiner("-i any -o 8080");
    for _ in 0..1000 {
        examiner.take(PeerId(0), "192.0.2.9:1".parse().unwrap(), vec![question(Transport::Tcp, "192.0.2.1:8080")]);
    }
    let mut reports = 0;
    examiner.answer(&Captured { frames: 0, kernel_drops: 0 }, now(), |_, _, _| reports += 1);
    assert_eq!(reports, WAITING);
}
