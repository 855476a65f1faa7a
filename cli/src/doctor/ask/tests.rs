use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::thread;

use tcpcopy_wire::control::{
    Answer, Answers, Decoder, FEATURE_CHECKS, Fate, Hello, Message, Role, encode_hello, encode_host_report,
};
use tcpcopy_wire::{Endpoint, Flow, Transport};

use super::*;

fn question() -> Question {
    let end = |text: &str| Endpoint::from(text.parse::<SocketAddr>().unwrap());
    Question { transport: Transport::Tcp, flow: Flow { client: end("10.78.0.1:40000"), server: end("10.0.0.2:80") } }
}

/// An intercept of a single connection that has these features, and sends `answer` when it is asked.
fn intercept(features: u32, answer: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let (mut decoder, mut bytes) = (Decoder::new(Role::Intercept), Vec::new());
        let mut buffer = [0; 4096];
        while let Ok(came @ 1..) = stream.read(&mut buffer) {
            bytes.extend_from_slice(&buffer[..came]);
            while let Some((message, used)) = decoder.next(&bytes).unwrap() {
                let mut reply = Vec::new();
                match message {
                    Message::Hello(_) => encode_hello(&Hello { features, ..Hello::default() }, &mut reply),
                    Message::Questions(asked) => {
                        assert_eq!(asked.collect::<Vec<_>>(), [question()]);
                        reply.clone_from(&answer);
                    }
                    _ => {}
                }
                bytes.drain(..used);
                if stream.write_all(&reply).is_err() {
                    return;
                }
            }
        }
    });
    address
}

fn reach(intercepts: Vec<SocketAddr>) -> Vec<Reached> {
    let hello = Hello { features: FEATURE_CHECKS, ..Hello::default() };
    ask(LinksConfig::new(intercepts, 4, hello), &[question()]).unwrap()
}

fn report(clock: u64) -> Vec<u8> {
    let report = HostReport {
        clock,
        frames_captured: 7,
        kernel_drops: 0,
        reads_queue: false,
        forwards_ipv4: Some(false),
        forwards_ipv6: None,
        version: "9.9",
        devices: "eth0",
        filter: "tcp",
        answers: Answers::default(),
    };
    let mut frame = Vec::new();
    let answer = Answer { is_seen: Some(true), server_is_local: false, fate: Fate::Dropped };
    encode_host_report(&report, &[answer], &mut frame);
    frame
}

#[test]
fn each_intercept_is_asked_once_and_its_clock_compared() {
    const HOUR: u128 = 3_600_000_000_000;
    let ahead = u64::try_from(wall_clock() + HOUR).unwrap();
    let with_answer = intercept(FEATURE_CHECKS, report(ahead));
    let without = intercept(0, Vec::new());
    let all = reach(vec![with_answer, without]);
    let [Reached::Yes(report), Reached::Unasked { legacy: false }] = &all[..] else { panic!("{all:?}") };
    assert_eq!((report.version.as_str(), report.frames_captured, report.answers.len()), ("9.9", 7, 1));
    let minute = HOUR as i128 / 60;
    assert!((report.clock_ahead - HOUR as i128).abs() < minute, "{} ns", report.clock_ahead);
}

#[test]
fn an_answer_that_is_none_is_a_fault_of_the_link() {
    let mut broken = report(0);
    broken[2..4].copy_from_slice(&3u16.to_be_bytes());
    let all = reach(vec![intercept(FEATURE_CHECKS, broken)]);
    assert!(matches!(&all[..], [Reached::No { reason: CloseReason::Protocol(_), .. }]), "{all:?}");
}

#[test]
fn nobody_there_is_told_from_somebody_who_is_silent() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = listener.local_addr().unwrap();
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let deaf = intercept(FEATURE_CHECKS, Vec::new());
    let all = reach(vec![silent, nobody, deaf]);
    let [first, second, third] = &all[..] else { panic!("{all:?}") };
    assert!(matches!(first, Reached::No { reason: CloseReason::NoHello(_), .. }), "{first:?}");
    let refused = |reason: &CloseReason| matches!(reason, CloseReason::Io(io::ErrorKind::ConnectionRefused, _));
    assert!(matches!(second, Reached::No { reason, .. } if refused(reason)), "{second:?}");
    assert_eq!(*third, Reached::Silent);
}
