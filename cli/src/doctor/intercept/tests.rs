use clap::Parser;

use super::super::finding::Outcome::{self, Failure, Ok as Fine, Warning};
use super::*;
use crate::intercept::arguments::Arguments;

fn options(words: &str) -> Options {
    let words = std::iter::once("intercept").chain(words.split_whitespace());
    Options::check(Arguments::try_parse_from(words).unwrap()).unwrap()
}

#[track_caller]
fn says(finding: &Finding, outcome: Outcome, word: &str) {
    assert_eq!(finding.outcome, outcome, "{finding}");
    assert!(finding.to_string().contains(word), "nothing of {word:?} in {finding}");
}

#[test]
fn what_the_capture_shows_is_judged() {
    let second = Duration::from_secs(1);
    for (seen, outcome, word) in [
        (Seen::default(), Warning, "nor any other"),
        (Seen { unfiltered: 9, ..Seen::default() }, Warning, "9 others"),
        (Seen { packets: 10, accepted: 2, ..Seen::default() }, Fine, "2 of them accept"),
        (Seen { packets: 10, resets: 9, ..Seen::default() }, Warning, "refuses connections"),
        (Seen { packets: 10, accepted: 1, resets: 9, ..Seen::default() }, Fine, "10 packets"),
    ] {
        says(&traffic("tcp", &seen, second), outcome, word);
    }
}

#[test]
fn a_queue_without_a_rule_is_a_failure_unless_one_will_be_made() {
    let judged = |words: &str, has_nfqueue, is_taken, may_look| {
        judge_queue(options(words).queue.as_ref().unwrap(), &[], has_nfqueue, is_taken, may_look)
    };
    says(&judged("--nfqueue 3", true, false, true)[0], Failure, "--setup PORT");
    says(&judged("--nfqueue 3 --setup 80", true, false, true)[0], Fine, "makes its own");
    says(&judged("--nfqueue 3 --setup 80", false, false, true)[0], Warning, "modprobe nfnetlink_queue");
    says(&judged("--nfqueue 3 --setup 80", true, true, true)[0], Fine, "is read");
    assert_eq!(judged("--nfqueue 3", true, false, false), [], "who may not look at rules cannot judge them");
}

#[test]
fn the_port_is_free_or_somebody_s() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let taken = listener.local_addr().unwrap().port();
    // Whoever connects hears something that is no control link.
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = std::io::Write::write_all(&mut stream, b"220 mail\r\n");
        }
    });
    says(&port(&options(&format!("-o 80 -b 127.0.0.1 -p {taken}"))), Failure, "another program");
    says(&port(&options("-o 80 -b 192.0.2.1")), Failure, "no address of this host");
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    says(&port(&options(&format!("-o 80 -b 127.0.0.1 -p {free}"))), Fine, "is free");
    says(&super::taken(1, Listener::Hidden), Warning, "does not answer this host itself");
    says(&super::taken(1, Listener::Intercept(Some("9.9".to_owned()))), Fine, "an intercept 9.9");
}
