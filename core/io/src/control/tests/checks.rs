//! Questions about intercept's host, and the report.

use tcpcopy_wire::control::{FEATURE_CHECKS, Fate, HostReport};

use super::*;

#[test]
fn questions_are_answered_on_the_link_they_came_on() {
    let mut b = Bench::new().serve(|_| {}).connect(1, |config| config.hello.features = FEATURE_CHECKS);
    let link = b.until_link_up();
    let now = b.now();
    let asked = [Question { transport: Transport::Tcp, flow: flow(7) }];
    b.links.as_mut().unwrap().ask(link, &asked, now).unwrap();
    let (peer, questions) = b.until("questions", |s| match s {
        Seen::Questions(peer, questions) => Some((*peer, questions.clone())),
        _ => None,
    });
    assert_eq!(questions, asked);
    let report = HostReport {
        clock: 1,
        frames_captured: 2,
        kernel_drops: 3,
        reads_queue: false,
        forwards_ipv4: Some(false),
        forwards_ipv6: None,
        version: "9",
        devices: "eth0",
        filter: "tcp and src port 80",
        answers: tcpcopy_wire::control::Answers::default(),
    };
    let answers = [Answer { is_seen: Some(true), server_is_local: false, fate: Fate::Dropped }];
    b.server.as_mut().unwrap().send_report(peer, &report, &answers, now);
    let came = b.until("a report", |s| match s {
        Seen::Report(from, filter, answers) => Some((*from, filter.clone(), answers.clone())),
        _ => None,
    });
    assert_eq!(came, (link, "tcp and src port 80".to_owned(), answers.to_vec()));
}

#[test]
fn an_intercept_that_does_not_know_questions_is_not_asked() {
    let mut b = Bench::new().serve(|config| config.hello.features = 0).connect(1, |_| {});
    let link = b.until_link_up();
    let now = b.now();
    let asked = [Question { transport: Transport::Tcp, flow: flow(7) }];
    assert_eq!(b.links.as_mut().unwrap().ask(link, &asked, now), Err(SendError::NotSupported));
}
