use std::net::SocketAddr;

use tcpcopy_wire::build::TcpRepr;
use tcpcopy_wire::link::LinkType;
use tcpcopy_wire::tcp::Options as TcpOptions;
use tcpcopy_wire::{Port, SeqNumber};

use super::super::finding::Outcome::{self, Failure, Ok as Fine, Warning};
use super::*;

fn maps() -> Vec<Map> {
    vec![Map::tcp(None, Port(80), "10.0.0.2:8080".parse::<SocketAddr>().unwrap().into())]
}

/// A packet of TCP, as a capture on a tunnel device shows it.
fn packet(from: &str, to: &str, flags: Flags) -> Vec<u8> {
    let end = |text: &str| text.parse::<SocketAddr>().unwrap().into();
    let (seq, ack) = (SeqNumber(1), SeqNumber(0));
    let repr =
        TcpRepr { src: end(from), dst: end(to), seq, ack, flags, window: 1, options: TcpOptions::default(), ip_id: 0 };
    let mut bytes = Vec::new();
    repr.write((&[], &[]), &mut bytes);
    bytes
}

fn seen(packets: &[Vec<u8>]) -> Seen {
    let mut seen = Seen::default();
    for bytes in packets {
        let frame = Frame { link: LinkType::Raw, bytes, wire_len: bytes.len() };
        seen.count(&maps(), &Decapsulation::default(), frame);
    }
    seen
}

#[test]
fn packets_are_told_apart_by_the_maps() {
    let begins = packet("192.0.2.1:4000", "10.0.0.1:80", Flags::SYN);
    let goes_on = packet("192.0.2.1:4000", "10.0.0.1:80", Flags::ACK);
    let of_another = packet("192.0.2.2:4000", "10.0.0.1:80", Flags::ACK);
    let answer = packet("10.0.0.1:80", "192.0.2.1:4000", Flags::SYN | Flags::ACK);
    let other = packet("192.0.2.1:4000", "10.0.0.1:22", Flags::ACK);
    let seen = seen(&[begins, goes_on, of_another, answer, other, vec![0x45]]);
    assert_eq!((seen.packets, seen.of_maps, seen.begun, seen.clients.len()), (6, 3, 1, 2));
    assert_eq!(seen.busiest(), "1 to tcp port 22");
}

#[track_caller]
fn says(seen: &Seen, beside: Option<&Beside>, filter_is_given: bool, outcome: Outcome, words: &[&str]) {
    let maps = maps();
    let devices = ["eth0".to_owned()];
    let duration = Duration::from_secs(3);
    let wanted = Wanted { filter: "tcp and dst port 80", filter_is_given, devices: &devices, maps: &maps, duration };
    let finding = judge(wanted, seen, beside);
    assert_eq!(finding.outcome, outcome, "{finding}");
    for word in words {
        assert!(finding.to_string().contains(word), "nothing of {word:?} in {finding}");
    }
}

#[test]
fn nothing_to_copy_is_explained_by_what_else_was_there() {
    let to_80 = seen(&[packet("192.0.2.1:4000", "10.0.0.1:80", Flags::SYN)]);
    let to_8080 = seen(&vec![packet("192.0.2.1:4000", "10.0.0.1:8080", Flags::ACK); 7]);
    let nothing = Seen::default();
    let unfiltered = |seen: &Seen| Beside { unfiltered: seen.clone(), ..Beside::default() };
    let elsewhere = Beside { other_devices: vec![("eth1".to_owned(), 12)], ..Beside::default() };

    says(&to_80, None, false, Fine, &["1 packets of 1 client on eth0", "1 of them beginnings"]);
    says(&to_8080, None, true, Failure, &["the filter took 7 others", "7 to tcp port 8080"]);
    says(&nothing, Some(&unfiltered(&to_80)), true, Failure, &["1 without it", "leave -F out"]);
    says(&nothing, Some(&unfiltered(&to_80)), false, Failure, &["--decap"]);
    says(&nothing, Some(&elsewhere), false, Failure, &["12 on `eth1`", "-i eth1"]);
    says(&nothing, Some(&unfiltered(&to_8080)), false, Warning, &["7 packets were seen, 7 to tcp port 8080", "-x"]);
    says(&nothing, Some(&Beside::default()), false, Warning, &["nor any other", "clients just now"]);
    says(&nothing, None, false, Warning, &["no packet to tcp port 80 on eth0 within 3 s"]);
}
