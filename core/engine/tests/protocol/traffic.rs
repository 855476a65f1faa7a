//! How much is copied, and from which address and port.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use tcpcopy_engine::copier::source::SourcePool;
use tcpcopy_engine::ledger::{PacketDrop, SessionEnd};
use tcpcopy_engine::{Copier, CopierConfig, Input, Map, Outbox, Rate, SampleBy, Traffic};
use tcpcopy_module_api::ModuleHandle;
use tcpcopy_module_tcp::PlainTcp;
use tcpcopy_wire::build::TcpRepr;
use tcpcopy_wire::link::LinkType;
use tcpcopy_wire::tcp::{Flags, Options};
use tcpcopy_wire::{Endpoint, Port, SeqNumber, TcpSegment, Timestamp};

const ONLINE: Endpoint = Endpoint::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), Port(80));
const TARGET: Endpoint = Endpoint::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)), Port(8080));

fn copier(change: impl FnOnce(&mut CopierConfig)) -> Copier {
    let map = Map::tcp(None, ONLINE.port, TARGET);
    let mut config = CopierConfig::new(vec![map], ModuleHandle::new(PlainTcp));
    change(&mut config);
    Copier::new(config)
}

/// A client's packet; returns where the copies of it come from.
fn captured(copier: &mut Copier, src: Endpoint, flags: Flags, payload: &[u8]) -> Vec<Endpoint> {
    let dst = if src.addr.is_loopback() { Endpoint::new(src.addr, ONLINE.port) } else { ONLINE };
    let (seq, ack) = (SeqNumber(1_000), SeqNumber(500));
    let repr = TcpRepr { src, dst, seq, ack, flags, window: 1_000, options: Options::default(), ip_id: 1 };
    let (mut bytes, mut out) = (Vec::new(), Outbox::new());
    repr.write((payload, &[]), &mut bytes);
    let input = Input::Frame { link: LinkType::Raw, bytes: &bytes, wire_len: bytes.len() };
    copier.handle(Timestamp::from_millis(1), input, &mut out);
    copier.ledger().check().unwrap();
    out.packets().map(|(_, packet)| TcpSegment::from_ip_packet(packet, packet.len()).unwrap().src).collect()
}

fn client(number: u16) -> Endpoint {
    Endpoint::new(IpAddr::V4(Ipv4Addr::new(10, 9, (number >> 8) as u8, number as u8)), Port(20_000 + number))
}

#[test]
fn a_sample_has_the_same_connections_in_every_run_from_their_beginning_or_their_middle() {
    let copied = |percentage: u8, flags: Flags, payload: &[u8]| -> Vec<u16> {
        let mut copier = copier(|config| config.traffic.percentage = percentage);
        let copied: Vec<u16> =
            (0..2_000).filter(|n| !captured(&mut copier, client(*n), flags, payload).is_empty()).collect();
        let left_out = copier.ledger().packets_dropped[PacketDrop::NotSampled as usize];
        assert_eq!(copied.len() as u64 + left_out, 2_000);
        copied
    };
    let fifth = copied(20, Flags::SYN, b"");
    assert!((320..480).contains(&fifth.len()), "{} of 2,000", fifth.len());
    assert_eq!(copied(20, Flags::SYN, b""), fifth);
    assert_eq!(copied(20, Flags::ACK | Flags::PSH, b"joined"), fifth);
    assert!(fifth.iter().all(|n| copied(40, Flags::SYN, b"").contains(n)), "more is more of the same");
    assert_eq!(copied(100, Flags::SYN, b"").len(), 2_000);
}

#[test]
fn a_sample_that_changes_is_the_same_as_one_from_the_start_for_what_begins_then() {
    let order = |copier: &mut Copier, input: Input<'_>| {
        let mut out = Outbox::new();
        copier.handle(Timestamp::from_millis(1), input, &mut out);
        assert!(out.is_empty(), "sessions that there are go on");
    };
    let mut copier = copier(|config| config.traffic.ramp = Some(Duration::from_secs(60)));
    order(&mut copier, Input::Sample(20));
    let taken = |copier: &mut Copier, range: std::ops::Range<u16>| -> Vec<u16> {
        range.filter(|n| !captured(copier, client(*n), Flags::SYN, b"").is_empty()).collect()
    };
    let mut from_the_start = self::copier(|config| config.traffic.percentage = 20);
    let fifth = taken(&mut from_the_start, 0..2_000);
    assert_eq!(taken(&mut copier, 0..2_000), fifth);
    let joined =
        |copier: &mut Copier, n: u16| !captured(copier, client(n), Flags::ACK | Flags::PSH, b"more").is_empty();
    let left_out = (0..2_000).find(|n| !fifth.contains(n)).unwrap();
    assert!(!joined(&mut copier, left_out));
    order(&mut copier, Input::Sample(100));
    assert!(joined(&mut copier, left_out), "now it is in the sample");
    assert_eq!(taken(&mut copier, 2_000..2_100).len(), 100);
    order(&mut copier, Input::MaxRate(Some(Rate::Count(10))));
    let few = taken(&mut copier, 2_100..2_200).len();
    assert!((1..=3).contains(&few), "{few} at once, of 10 in a second");
    order(&mut copier, Input::MaxRate(None));
    assert_eq!(taken(&mut copier, 2_200..2_300).len(), 100);
}

#[test]
fn instances_have_ports_of_their_own() {
    let ports: Vec<u16> = (0..32)
        .map(|instance| {
            let mut copier = copier(|config| config.traffic.instance = instance);
            captured(&mut copier, client(5), Flags::SYN, b"")[0].port.0
        })
        .collect();
    assert_eq!(ports[0], 20_005, "the client's own");
    for (n, port) in ports.iter().enumerate() {
        assert!(*port >= 1_024 && !ports[..n].contains(port), "{ports:?}");
    }
}

#[test]
fn a_client_on_this_host_gets_an_address_that_the_target_can_answer() {
    let here = Endpoint::new(IpAddr::V4(Ipv4Addr::LOCALHOST), Port(30_000));
    let address = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
    let mut copier = copier(|config| config.traffic.loopback_source = Some(address));
    assert_eq!(captured(&mut copier, here, Flags::SYN, b""), [Endpoint::new(address, here.port)]);
    assert_eq!(captured(&mut copier, client(5), Flags::SYN, b""), [client(5)], "others keep theirs");
}

/// A client's packet at a time, with its place in the client's stream; returns where the copies of it come from.
fn captured_at(copier: &mut Copier, ms: u64, src: Endpoint, flags: Flags, seq: u32, payload: &[u8]) -> Vec<Endpoint> {
    let (seq, ack) = (SeqNumber(1_000 + seq), SeqNumber(500));
    let repr = TcpRepr { src, dst: ONLINE, seq, ack, flags, window: 1_000, options: Options::default(), ip_id: 1 };
    let (mut bytes, mut out) = (Vec::new(), Outbox::new());
    repr.write((payload, &[]), &mut bytes);
    let input = Input::Frame { link: LinkType::Raw, bytes: &bytes, wire_len: bytes.len() };
    copier.handle(Timestamp::from_millis(ms), input, &mut out);
    copier.ledger().check().unwrap();
    out.packets().map(|(_, packet)| TcpSegment::from_ip_packet(packet, packet.len()).unwrap().src).collect()
}

#[test]
fn copies_of_a_connection_have_sources_of_their_own() {
    for (addresses, distinct_addresses) in [(0, 1), (2, 2), (5, 5)] {
        let mut copier = copier(|config| {
            config.traffic.copies = 5;
            let pool = (1..=addresses).map(|n| IpAddr::V4(Ipv4Addr::new(10, 78, 0, n))).collect();
            config.sources = SourcePool::new(pool);
        });
        let mut sources = captured(&mut copier, client(5), Flags::SYN, b"");
        assert_eq!(sources.len(), 5);
        assert_eq!(sources[0].port, client(5).port, "the first has the client's own port");
        sources.sort_by_key(|source| (source.addr, source.port.0));
        sources.dedup();
        assert_eq!(sources.len(), 5, "{sources:?}");
        sources.dedup_by_key(|source| source.addr);
        assert_eq!(sources.len(), distinct_addresses);
        let ledger = copier.ledger();
        assert_eq!((ledger.packets_captured, ledger.packets_multiplied, ledger.sessions_seen), (1, 4, 5));
        assert_eq!(ledger.client_syns, 1);
    }
}

#[test]
fn a_sample_of_clients_has_all_of_their_connections_or_none() {
    let mut copier = copier(|config| {
        config.traffic.percentage = 30;
        config.traffic.sample_by = SampleBy::Client;
    });
    let mut copied = 0;
    for number in 0..500 {
        let of_client: Vec<bool> = (0..4)
            .map(|port| {
                let src = Endpoint::new(client(number).addr, Port(2_000 + port));
                !captured(&mut copier, src, Flags::SYN, b"").is_empty()
            })
            .collect();
        assert!(of_client.iter().all(|c| *c == of_client[0]), "{of_client:?}");
        copied += u32::from(of_client[0]);
    }
    assert!((100..200).contains(&copied), "{copied} of 500");
}

#[test]
fn a_ramp_lets_the_sample_grow() {
    let copied_from = |start: u64| {
        let mut copier = copier(|config| {
            config.traffic.percentage = 50;
            config.traffic.ramp = Some(Duration::from_secs(100));
        });
        // The clock of the ramp begins with the first packet.
        captured_at(&mut copier, start, client(4_000), Flags::SYN, 0, b"");
        (0..10u64)
            .map(|tenth| {
                let at = start + tenth * 10_000 + 10_000;
                (0..400)
                    .filter(|n| {
                        !captured_at(&mut copier, at, client(tenth as u16 * 400 + n), Flags::SYN, 0, b"").is_empty()
                    })
                    .count()
            })
            .collect::<Vec<_>>()
    };
    let copied = copied_from(7_000);
    assert_eq!(copied, copied_from(900_000));
    for (tenth, copied) in copied.into_iter().enumerate() {
        let expected = 400 * (tenth + 1) * 5 / 100;
        assert!(copied.abs_diff(expected) < 12 + expected / 4, "after {tenth}: {copied}, expected about {expected}");
    }
}

#[test]
fn connections_above_the_rate_are_left_out_whole() {
    let mut copier = copier(|config| config.traffic.max_rate = Some(Rate::Count(100)));
    let mut copied = 0;
    for n in 0..2_000u16 {
        let at = u64::from(n);
        let passed = !captured_at(&mut copier, at, client(n), Flags::SYN, 0, b"").is_empty();
        copied += u32::from(passed);
        let more = captured_at(&mut copier, at, client(n), Flags::ACK | Flags::PSH, 1, b"joined?");
        assert!(more.is_empty(), "one that was left out is not joined, one that was not still connects");
    }
    assert!((200..=212).contains(&copied), "{copied} in two seconds");
    let left_out = copier.ledger().sessions_ended[SessionEnd::OverRate as usize];
    assert_eq!(u64::from(copied) + left_out, 2_000);
    assert_eq!(copier.ledger().sessions_alive, u64::from(copied));
    // Once such a client is done, it is forgotten, and its next connection has its chance.
    let gone = (0..2_000).find(|n| captured_at(&mut copier, 2_000, client(*n), Flags::RST, 8, b"").is_empty());
    assert!(gone.is_some());
}

#[test]
fn outside_the_share_connections_are_left_out_whole_and_those_under_way_go_on() {
    let mut copier = copier(|_| {});
    let mut outbox = Outbox::new();
    assert!(!captured_at(&mut copier, 0, client(1), Flags::SYN, 0, b"").is_empty());
    copier.handle(Timestamp::from_millis(1), Input::Share(2_500), &mut outbox);
    let begun = |copier: &mut Copier, from: u16, at| {
        (from..from + 2_000).filter(|n| !captured_at(copier, at, client(*n), Flags::SYN, 0, b"").is_empty()).count()
    };
    let copied = begun(&mut copier, 2, 2);
    assert!((420..580).contains(&copied), "{copied} of 2,000 are not a quarter");
    let left_out = |copier: &Copier| copier.ledger().sessions_ended[SessionEnd::Throttled as usize] as usize;
    assert_eq!(copied + left_out(&copier), 2_000);
    assert_eq!(copier.ledger().sessions_alive as usize, 1 + copied);
    // Whole: its data is not joined, not even when there is room again.
    copier.handle(Timestamp::from_millis(3), Input::Share(0), &mut outbox);
    assert_eq!(begun(&mut copier, 5_000, 4), 0);
    copier.handle(Timestamp::from_millis(5), Input::Share(Traffic::WHOLE), &mut outbox);
    captured_at(&mut copier, 2_000, client(5_000), Flags::ACK | Flags::PSH, 1, b"joined?");
    assert_eq!(copier.ledger().joined, 0);
    assert_eq!(begun(&mut copier, 9_000, 2_001), 2_000);
    copier.ledger().check().unwrap();
}

#[test]
fn outside_the_share_connections_that_are_open_already_are_not_joined_until_there_is_room() {
    let mut copier = copier(|_| {});
    copier.handle(Timestamp::ZERO, Input::Share(0), &mut Outbox::new());
    assert!(captured_at(&mut copier, 1, client(1), Flags::ACK | Flags::PSH, 1, b"one").is_empty());
    assert_eq!(copier.ledger().packets_dropped[PacketDrop::Throttled as usize], 1);
    copier.handle(Timestamp::from_millis(2), Input::Share(Traffic::WHOLE), &mut Outbox::new());
    assert!(!captured_at(&mut copier, 3, client(1), Flags::ACK | Flags::PSH, 4, b"two").is_empty());
    assert_eq!(copier.ledger().joined, 1);
}

#[test]
fn the_newest_are_given_up_first_and_counted() {
    let mut copier = copier(|_| {});
    for n in 0..10 {
        captured_at(&mut copier, u64::from(n), client(n), Flags::SYN, 0, b"");
    }
    copier.handle(Timestamp::from_millis(20), Input::CloseNewest(25), &mut Outbox::new());
    assert_eq!(copier.ledger().sessions_ended[SessionEnd::Throttled as usize], 3, "rounded up");
    assert_eq!(copier.ledger().sessions_alive, 7);
    let ended = |copier: &Copier| copier.ledger().packets_dropped[PacketDrop::SessionEnded as usize];
    captured_at(&mut copier, 21, client(6), Flags::ACK | Flags::PSH, 1, b"goes on");
    assert_eq!(ended(&copier), 0);
    captured_at(&mut copier, 22, client(7), Flags::ACK | Flags::PSH, 1, b"does not");
    assert_eq!(ended(&copier), 1);
    copier.handle(Timestamp::from_millis(23), Input::CloseNewest(100), &mut Outbox::new());
    assert!(copier.is_finished());
    copier.ledger().check().unwrap();
}

#[test]
fn above_the_limit_of_sessions_new_ones_are_shed_and_counted_by_themselves() {
    let mut copier = copier(|config| config.session_limit = 3);
    for n in 0..5 {
        captured_at(&mut copier, u64::from(n), client(n), Flags::SYN, 0, b"");
    }
    let ledger = copier.ledger();
    assert_eq!((ledger.sessions_alive, ledger.sessions_over_limit, ledger.sessions_shed), (3, 2, 0));
    assert_eq!(ledger.packets_dropped[PacketDrop::TooManySessions as usize], 2);
    ledger.check().unwrap();
}

#[test]
fn sessions_that_are_known_though_they_are_over_count_as_memory() {
    let mut copier = copier(|config| config.memory_limit = 200 << 10);
    copier.handle(Timestamp::ZERO, Input::Share(0), &mut Outbox::new());
    for n in 0..5_000 {
        captured_at(&mut copier, 1, client(n), Flags::SYN, 0, b"");
    }
    assert!(copier.memory() < 210 << 10, "{}", copier.memory());
    assert!(copier.ledger().sessions_shed > 3_000);
    copier.ledger().check().unwrap();
}

#[test]
fn a_target_that_does_not_read_costs_no_more_memory_than_there_may_be() {
    let memory_limit = 1 << 20;
    let mut copier = copier(|config| config.memory_limit = memory_limit);
    for n in 0..4 {
        captured_at(&mut copier, 0, client(n), Flags::SYN, 0, b"");
    }
    // It does not even accept; each client sends a megabyte.
    for part in 0..1_000 {
        for n in 0..4 {
            captured_at(&mut copier, 1, client(n), Flags::ACK | Flags::PSH, 1 + part * 1_000, &[7; 1_000]);
            assert!(copier.ledger().pending_bytes <= memory_limit as u64 * 5 / 4 + 1_000);
        }
    }
    let ledger = copier.ledger();
    let given_up = ledger.sessions_ended[SessionEnd::NoMemory as usize];
    assert!((1..4).contains(&given_up), "{given_up}: not more than must be");
    assert_eq!(ledger.sessions_alive, 4 - given_up);
    ledger.check().unwrap();
}

#[test]
fn connections_begin_while_those_that_are_copied_have_less_than_the_limit() {
    let mut copier = copier(|config| config.traffic.max_rate = Some(Rate::Bytes(1_000)));
    assert!(!captured_at(&mut copier, 0, client(1), Flags::SYN, 0, b"").is_empty());
    captured_at(&mut copier, 10, client(1), Flags::ACK, 1, &[7; 1_000]);
    assert!(captured_at(&mut copier, 20, client(2), Flags::SYN, 0, b"").is_empty(), "a second's worth has just come");
    assert!(!captured_at(&mut copier, 1_000, client(3), Flags::SYN, 0, b"").is_empty());
    captured_at(&mut copier, 1_000, client(1), Flags::ACK, 1_001, &[7; 1_000]);
    assert_eq!(copier.ledger().pending_bytes, 2_000, "what has begun is copied whole");
}

#[test]
fn the_next_pass_has_connections_of_its_own() {
    let mut copier = copier(|_| {});
    let first = captured(&mut copier, client(5), Flags::SYN, b"");
    captured(&mut copier, client(6), Flags::SYN, b"");
    copier.handle(Timestamp::from_millis(2), Input::NextPass, &mut Outbox::new());
    let second = captured(&mut copier, client(5), Flags::SYN, b"");
    assert_eq!((first.len(), second.len()), (1, 1), "the same SYN once more is another connection's");
    assert_ne!(first, second);
    assert_eq!(copier.ledger().sessions_seen, 3);
}

/// The IPv4 fragments of a packet, cut behind so many bytes of its transport header and payload.
fn fragments(packet: &[u8], cuts: &[usize]) -> Vec<Vec<u8>> {
    let (header, transport) = packet.split_at(20);
    let mut ends: Vec<usize> = cuts.to_vec();
    ends.push(transport.len());
    let mut start = 0;
    let mut fragments = Vec::new();
    for end in ends {
        let mut fragment = [header, &transport[start..end]].concat();
        let more = u16::from(end < transport.len()) << 13;
        let len = fragment.len() as u16;
        fragment[2..4].copy_from_slice(&len.to_be_bytes());
        fragment[6..8].copy_from_slice(&(more | (start / 8) as u16).to_be_bytes());
        fragments.push(fragment);
        start = end;
    }
    fragments
}

#[test]
fn a_request_in_fragments_is_put_together() {
    let mut copier = copier(|_| {});
    assert_eq!(captured(&mut copier, client(5), Flags::SYN, b"").len(), 1);
    let src = client(5);
    let (seq, ack) = (SeqNumber(1_001), SeqNumber(500));
    let flags = Flags::ACK | Flags::PSH;
    let repr = TcpRepr { src, dst: ONLINE, seq, ack, flags, window: 1_000, options: Options::default(), ip_id: 7 };
    let mut bytes = Vec::new();
    repr.write((&[b'r'; 2_000], &[]), &mut bytes);
    let mut parts = fragments(&bytes, &[16, 1_480]);
    parts.swap(0, 2);
    for part in &parts {
        let input = Input::Frame { link: LinkType::Raw, bytes: part, wire_len: part.len() };
        copier.handle(Timestamp::from_millis(2), input, &mut Outbox::new());
        copier.ledger().check().unwrap();
    }
    let ledger = copier.ledger();
    assert_eq!((ledger.tcp_fragments, ledger.pending_bytes, ledger.requests), (3, 2_000, 1));
    assert_eq!((ledger.packets_used, ledger.tcp_incomplete), (4, 0));
    // One whose rest never comes is given up, and counted.
    let input = Input::Frame { link: LinkType::Raw, bytes: &fragments(&bytes, &[16])[0], wire_len: 36 };
    copier.handle(Timestamp::from_millis(3), input, &mut Outbox::new());
    copier.handle(Timestamp::from_millis(31_000), Input::Timeout, &mut Outbox::new());
    assert_eq!(copier.ledger().tcp_incomplete, 1);
}
