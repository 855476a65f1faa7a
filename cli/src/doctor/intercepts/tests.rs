use std::io::ErrorKind;
use std::net::IpAddr;

use proptest::prelude::*;

use super::super::finding::Outcome::{self, Failure, Ok as Fine, Warning};
use super::*;

const INTERCEPT: &str = "10.0.0.3:36524";

fn address() -> SocketAddr {
    INTERCEPT.parse().unwrap()
}

fn asked() -> Vec<Question> {
    let end = |text: &str| tcpcopy_wire::Endpoint::from(text.parse::<SocketAddr>().unwrap());
    let flow = tcpcopy_wire::Flow { client: end("10.78.0.1:40000"), server: end("10.0.0.2:80") };
    vec![Question { transport: Transport::Tcp, flow }]
}

fn answer() -> Answer {
    Answer { is_seen: Some(true), server_is_local: false, fate: Fate::Dropped }
}

fn report() -> Report {
    Report {
        clock_ahead: 0,
        round_trip: Duration::from_millis(1),
        frames_captured: 5,
        kernel_drops: 0,
        reads_queue: false,
        forwards_ipv4: Some(false),
        forwards_ipv6: Some(false),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        devices: "eth0".to_owned(),
        filter: "tcp and src port 80".to_owned(),
        answers: vec![answer()],
    }
}

/// The worst finding is this, with these words.
#[track_caller]
fn says(reached: &Reached, check: Check, outcome: Outcome, words: &[&str]) {
    let findings = judge(address(), reached, &asked());
    let of_check = findings.iter().filter(|finding| finding.check == check.name() && finding.outcome == outcome);
    let text = of_check.map(ToString::to_string).collect::<String>();
    assert!(!text.is_empty(), "no {outcome:?} of {check:?}: {findings:#?}");
    for word in words {
        assert!(text.contains(word), "nothing of {word:?} in {text}");
    }
    assert_eq!(findings.iter().map(|finding| finding.outcome).max(), Some(outcome), "{findings:#?}");
}

#[test]
fn an_intercept_that_cannot_be_reached_is_a_failure() {
    let refused = CloseReason::Io(ErrorKind::ConnectionRefused, "Connection refused".to_owned());
    let silent = CloseReason::NoHello(Duration::from_secs(3));
    for (reason, other_port, words) in [
        (refused.clone(), false, ["start intercept", "ss -lntp"]),
        (refused, true, ["leave -p out", "36524"]),
        (silent, false, ["ping 10.0.0.3", "no firewall"]),
        (CloseReason::TurnedAway, false, ["--allow", "intercept's log"]),
        (CloseReason::Refused("give tcpcopy a --secret-file".to_owned()), false, ["--secret-file", "options"]),
    ] {
        says(&Reached::No { reason, other_port }, Check::Intercept, Failure, &words);
    }
}

#[test]
fn an_intercept_that_cannot_be_asked_is_a_warning() {
    says(&Reached::Unasked { legacy: true }, Check::Intercept, Warning, &["C programs", "ip_forward"]);
    says(&Reached::Unasked { legacy: false }, Check::Intercept, Warning, &["release", env!("CARGO_PKG_VERSION")]);
    says(&Reached::Silent, Check::Intercept, Warning, &["did not answer", "intercept doctor"]);
}

#[test]
fn what_a_report_tells_is_judged() {
    let with = |change: fn(&mut Report)| {
        let mut report = report();
        change(&mut report);
        Reached::Yes(Box::new(report))
    };
    let of = |is_seen, server_is_local, fate| {
        Reached::Yes(Box::new(Report { answers: vec![Answer { is_seen, server_is_local, fate }], ..report() }))
    };
    let (yes, on_target) = (Some(true), true);
    says(&with(|_| {}), Check::Intercept, Fine, &["1.0 ms", "5 packets"]);
    says(&with(|r| r.kernel_drops = 7), Check::Intercept, Warning, &["dropped 7 packets", "-B"]);
    says(&with(|r| r.version = "0.0.9".to_owned()), Check::Version, Warning, &["0.0.9", env!("CARGO_PKG_VERSION")]);
    says(&with(|r| r.clock_ahead = 900_000_000), Check::Clock, Fine, &["within a second"]);
    says(&with(|r| r.clock_ahead = 90_000_000_000), Check::Clock, Warning, &["90.0 s ahead of", "NTP"]);
    says(&with(|r| r.clock_ahead = -90_000_000_000), Check::Clock, Warning, &["90.0 s behind"]);
    says(
        &of(Some(false), false, Fate::Dropped),
        Check::InterceptFilter,
        Failure,
        &["tcp and src port 80", "intercept -i eth0 -F 'tcp and src host 10.0.0.2 and src port 80'"],
    );
    says(&of(None, false, Fate::Dropped), Check::InterceptFilter, Warning, &["intercept doctor"]);
    says(&of(yes, false, Fate::Dropped), Check::InterceptHost, Fine, &["forwards nothing"]);
    says(&of(yes, false, Fate::ReversePath), Check::InterceptHost, Fine, &[]);
    says(
        &of(yes, false, Fate::Forwarded),
        Check::InterceptHost,
        Failure,
        &["sysctl net.ipv4.ip_forward=0", "blackhole"],
    );
    says(&of(yes, false, Fate::NoRoute), Check::InterceptHost, Failure, &["tells the target so"]);
    says(
        &of(yes, false, Fate::Delivered),
        Check::InterceptHost,
        Failure,
        &["10.78.0.1 is an address of 10.0.0.3 itself"],
    );
    says(&of(yes, false, Fate::Unknown), Check::InterceptHost, Fine, &["ip_forward=0"]);
    says(
        &with(|r| (r.forwards_ipv4, r.answers[0].fate) = (None, Fate::Unknown)),
        Check::InterceptHost,
        Warning,
        &["could not be told"],
    );
    says(&of(yes, on_target, Fate::Delivered), Check::InterceptHost, Fine, &["takes packets from 10.78.0.1"]);
    says(&of(yes, on_target, Fate::ReversePath), Check::InterceptHost, Failure, &["rp_filter"]);
    says(&of(yes, on_target, Fate::Dropped), Check::InterceptHost, Failure, &["does not take packets"]);
    says(
        &with(|r| (r.reads_queue, r.answers[0].is_seen) = (true, None)),
        Check::InterceptFilter,
        Fine,
        &["queue eth0"],
    );
}

/// Whoever is at the other end does not write to the terminal, nor fill it.
#[test]
fn texts_of_others_stay_in_their_line() {
    let mut hostile = report();
    hostile.version = "1\u{1b}[2J\nok       intercept: fine".to_owned();
    hostile.filter = "x".repeat(5000);
    hostile.answers[0].is_seen = Some(false);
    for finding in judge(address(), &Reached::Yes(Box::new(hostile)), &asked()) {
        assert!(!finding.text.contains(['\n', '\u{1b}']), "{}", finding.text);
        assert!(finding.text.len() < 1000, "{}", finding.text);
    }
}

#[test]
fn each_target_is_asked_about_once() {
    let map = |target: &str| {
        tcpcopy_engine::Map::tcp(None, tcpcopy_wire::Port(80), target.parse::<SocketAddr>().unwrap().into())
    };
    let maps = [map("10.0.0.2:80"), map("10.0.0.2:80"), map("[fd00::2]:80"), map("10.0.0.2:81")];
    let source: IpAddr = [10, 78, 0, 1].into();
    let questions = questions(&maps, |target| target.is_ipv4().then_some(source));
    let servers: Vec<String> = questions.iter().map(|question| question.flow.server.to_string()).collect();
    assert_eq!(servers, ["10.0.0.2:80", "10.0.0.2:81"]);
}

proptest! {
    #[test]
    fn whatever_is_reported_is_judged(
        numbers in any::<[u64; 2]>(), clock_ahead in any::<i128>(), flags in any::<[bool; 3]>(),
        texts in ["\\PC{0,300}", "\\PC{0,300}", "\\PC{0,300}"], answers in 0usize..4,
    ) {
        let report = Report {
            clock_ahead,
            round_trip: Duration::from_nanos(numbers[0]),
            frames_captured: numbers[0],
            kernel_drops: numbers[1],
            reads_queue: flags[0],
            forwards_ipv4: Some(flags[1]),
            forwards_ipv6: None,
            version: texts[0].clone(),
            devices: texts[1].clone(),
            filter: texts[2].clone(),
            answers: vec![Answer { is_seen: flags[2].then_some(false), ..answer() }; answers],
        };
        prop_assert!(!judge(address(), &Reached::Yes(Box::new(report)), &asked()).is_empty());
    }
}
