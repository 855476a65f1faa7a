//! Who gets a copy, and from whom it seems to come.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tcpcopy_engine::ledger::{ByteDrop, PacketDrop};
use tcpcopy_engine::{CopierConfig, Input, LinkId, Map, Notice, Rate, Traffic};
use tcpcopy_wire::control::RouteChange;
use tcpcopy_wire::link::LinkType;
use tcpcopy_wire::{Endpoint, Port};

use crate::stage::{CLIENT, CLIENT_V6, ONLINE, ONLINE_V6, Sent, Stage, TARGET, TARGET_V6, config, end, map, packets};

/// A client of many: the number is in its address and port.
fn client(number: u16) -> String {
    format!("10.1.{}.{}:{}", number >> 8, number & 0xff, 20_000 + number)
}

#[test]
fn a_datagram_reaches_the_target_as_it_is() {
    let mut stage = Stage::plain();
    for (client, online, target) in [(CLIENT, ONLINE, TARGET), (CLIENT_V6, ONLINE_V6, TARGET_V6)] {
        for payload in [&b"query"[..], b"", &[7; 1_452]] {
            let sent = stage.datagram(client, online, payload);
            let copy = Sent { from: end(client), to: end(target), payload: payload.to_vec(), packets: 1 };
            assert_eq!(sent, [copy]);
        }
    }
    let ledger = stage.copier.ledger();
    assert_eq!((ledger.packets_used, ledger.udp_datagrams, ledger.udp_sent), (6, 6, 6));
    assert_eq!((ledger.bytes_captured, ledger.bytes_copied, ledger.pending_bytes), (2 * 1_457, 2 * 1_457, 0));
    assert_eq!((ledger.udp_flows, ledger.udp_flows_alive), (2, 2));
}

#[test]
fn every_map_that_matches_gets_a_copy() {
    let any = Map { online_addr: None, ..map(ONLINE, "10.0.0.4:53") };
    let other_port = map("10.0.0.1:54", "10.0.0.5:53");
    let over_tcp = Map::tcp(Some(end(ONLINE).addr), end(ONLINE).port, end("10.0.0.6:53"));
    let mut stage =
        Stage::new(config(vec![map(ONLINE, TARGET), over_tcp, map(ONLINE, "10.0.0.3:53"), any, other_port]));
    let targets: Vec<_> = stage.datagram(CLIENT, ONLINE, b"q").into_iter().map(|sent| sent.to).collect();
    assert_eq!(targets, [end(TARGET), end("10.0.0.3:53"), end("10.0.0.4:53")]);
    let targets: Vec<_> = stage.datagram(CLIENT, "10.0.0.7:53", b"q").into_iter().map(|sent| sent.to).collect();
    assert_eq!(targets, [end("10.0.0.4:53")]);
    assert_eq!(stage.datagram(CLIENT, "10.0.0.1:55", b"q"), []);
    assert_eq!(stage.dropped(PacketDrop::NoMap), 1);
    // Captured twice, sent four times: the bytes of the further copies are in the equation as what they are.
    let ledger = stage.copier.ledger();
    assert_eq!((ledger.bytes_captured, ledger.bytes_copied, ledger.bytes_multiplied), (2, 4, 2));
}

#[test]
fn our_own_copies_are_not_copied() {
    // Online's port is also the target's, and any address will do.
    let mut stage = Stage::new(config(vec![Map { online_addr: None, ..map(ONLINE, "10.0.0.2:53") }]));
    let copy = stage.query(b"q");
    assert_eq!(stage.datagram("10.1.0.1:40000", "10.0.0.2:53", &copy.payload), []);
    assert_eq!(stage.dropped(PacketDrop::OwnCopy), 1);
}

#[test]
fn a_target_on_this_host_gets_what_comes_from_this_host() {
    let mut stage = Stage::new(config(vec![Map { online_addr: None, ..map(ONLINE, "127.0.0.1:5353") }]));
    assert_eq!(stage.datagram(CLIENT, ONLINE, b"q"), []);
    let sent = stage.datagram("127.0.0.1:4000", "127.0.0.1:53", b"q");
    assert_eq!((sent[0].from, sent[0].to), (end("127.0.0.1:4000"), end("127.0.0.1:5353")));
}

#[test]
fn copies_of_one_client_have_sources_of_their_own() {
    let mut stage = Stage::with(Traffic { copies: 4, ..Traffic::default() }, &[]);
    let mut sources = HashMap::new();
    let mut taken = HashSet::new();
    for round in 0..3 {
        // Ports up to the highest, where a shift has to wrap.
        for port in [1_024, 1_025, 40_000, 40_064, 40_128, 65_535] {
            let client = format!("10.1.0.1:{port}");
            let sent = stage.datagram(&client, ONLINE, b"q");
            assert_eq!(sent.len(), 4, "{client}");
            let from: Vec<Endpoint> = sent.iter().map(|sent| sent.from).collect();
            assert!(from.iter().all(|source| source.addr == end(&client).addr && source.port >= Port(1_024)));
            if round == 0 {
                assert!(from.iter().all(|source| taken.insert(*source)), "{client}: {from:?} is not free");
            }
            assert_eq!(sources.entry(client).or_insert(from.clone()), &from, "the sources stay");
        }
    }
}

#[test]
fn copies_from_a_list_take_an_address_each() {
    let pool = ["10.78.0.1", "10.78.0.2", "10.78.0.3", "fd78::1", "fd78::2", "fd78::3"];
    let mut stage = Stage::with(Traffic { copies: 3, ..Traffic::default() }, &pool);
    for (client, online) in [(CLIENT, ONLINE), (CLIENT_V6, ONLINE_V6)] {
        let from: Vec<Endpoint> = stage.datagram(client, online, b"q").iter().map(|sent| sent.from).collect();
        assert!(from.iter().all(|source| source.port == end(client).port), "{from:?}");
        assert_eq!(from.iter().map(|source| source.addr).collect::<HashSet<_>>().len(), 3, "{from:?}");
    }
}

#[test]
fn two_clients_never_share_a_source() {
    let mut stage = Stage::with(Traffic::default(), &["10.78.0.1"]);
    let from: Vec<Endpoint> =
        ["10.1.0.1:4000", "10.1.0.2:4000"].map(|client| stage.datagram(client, ONLINE, b"q")[0].from).to_vec();
    assert_eq!(from[0], end("10.78.0.1:4000"));
    assert!(from[1].addr == from[0].addr && from[1].port != from[0].port, "{from:?}");
}

#[test]
fn instances_do_not_meet() {
    let mut taken = HashSet::new();
    for instance in 0..4 {
        let mut stage = Stage::with(Traffic { instance, ..Traffic::default() }, &[]);
        for port in [1_024, 5_000, 40_000, 65_535] {
            let sent = stage.datagram(&format!("10.1.0.1:{port}"), ONLINE, b"q");
            assert!(taken.insert(sent[0].from), "{} has two masters", sent[0].from);
        }
    }
}

#[test]
fn clients_on_this_host_may_be_given_an_address() {
    let traffic = Traffic { loopback_source: Some("10.0.0.9".parse().unwrap()), ..Traffic::default() };
    let mut stage =
        Stage::new(CopierConfig { traffic, ..config(vec![Map { online_addr: None, ..map(ONLINE, TARGET) }]) });
    assert_eq!(stage.datagram("127.0.0.1:4000", "127.0.0.1:53", b"q")[0].from, end("10.0.0.9:4000"));
    assert_eq!(stage.datagram(CLIENT, ONLINE, b"q")[0].from, end(CLIENT));
}

#[test]
fn a_sample_is_of_clients_and_always_the_same() {
    let sampled = |seed| {
        let traffic = Traffic { percentage: 30, ..Traffic::default() };
        let mut stage = Stage::new(CopierConfig { traffic, seed, ..config(vec![map(ONLINE, TARGET)]) });
        let mut sampled = HashSet::new();
        for _ in 0..3 {
            for number in 0..2_000 {
                let sent = stage.datagram(&client(number), ONLINE, b"q");
                sampled.extend(sent.iter().map(|sent| sent.from));
            }
        }
        let (used, not) = (stage.copier.ledger().packets_used, stage.dropped(PacketDrop::NotSampled));
        assert_eq!(used, 3 * sampled.len() as u64, "a client is in the sample with all it sends, or with nothing");
        assert_eq!(used + not, 6_000);
        assert_eq!(stage.bytes_dropped(ByteDrop::PacketDropped), not);
        sampled
    };
    let first = sampled(1);
    assert!((500..700).contains(&first.len()), "{} of 2,000 are not 30 %", first.len());
    assert_eq!(first, sampled(2), "another run takes the same clients");
}

#[test]
fn what_exceeds_the_rate_is_counted() {
    for (max_rate, payload_len) in [(Rate::Count(1_000), 10), (Rate::Bytes(100_000), 100)] {
        let mut stage = Stage::with(Traffic { max_rate: Some(max_rate), ..Traffic::default() }, &[]);
        let mut copied = 0;
        // 4,000 a second for two seconds, where 1,000 may pass.
        for _ in 0..8_000 {
            stage.now = stage.now + Duration::from_micros(250);
            copied += stage.datagram(CLIENT, ONLINE, &vec![1; payload_len]).len() as u64;
        }
        assert!((1_900..=2_200).contains(&copied), "{copied} at {max_rate:?}");
        assert_eq!(stage.dropped(PacketDrop::OverRate), 8_000 - copied);
        assert_eq!(stage.bytes_dropped(ByteDrop::PacketDropped), (8_000 - copied) * payload_len as u64);
        // What stays below it all passes.
        stage.now = stage.now + Duration::from_secs(1);
        for _ in 0..500 {
            stage.now = stage.now + Duration::from_micros(1_250);
            assert_eq!(stage.datagram(CLIENT, ONLINE, &vec![1; payload_len]).len(), 1);
        }
    }
}

#[test]
fn a_target_of_the_other_family_needs_addresses_of_it() {
    let maps = || vec![map(ONLINE, TARGET_V6), map(ONLINE, TARGET)];
    let mut stage = Stage::new(config(maps()));
    let sent = stage.datagram(CLIENT, ONLINE, b"q");
    assert_eq!(sent.len(), 1, "the other target is served all the same: {sent:?}");
    assert_eq!(stage.copier.ledger().udp_copies_left_out + stage.dropped(PacketDrop::NoSource), 1);
    assert!(matches!(stage.out.notices[..], [Notice::NoFreeSource { .. }]), "{:?}", stage.out.notices);

    let mut stage = Stage::new(config(vec![map(ONLINE, TARGET_V6)]));
    assert_eq!(stage.datagram(CLIENT, ONLINE, b"q"), []);
    assert_eq!((stage.dropped(PacketDrop::NoSource), stage.bytes_dropped(ByteDrop::PacketDropped)), (1, 1));

    let sources = tcpcopy_engine::copier::source::SourcePool::new(vec!["fd78::1".parse().unwrap()]);
    let mut stage = Stage::new(CopierConfig { sources, ..config(vec![map(ONLINE, TARGET_V6)]) });
    let sent = stage.datagram(CLIENT, ONLINE, b"q");
    assert_eq!((sent[0].from, sent[0].to), (end("[fd78::1]:40000"), end(TARGET_V6)));
}

#[test]
fn what_was_captured_in_part_is_not_copied() {
    let mut stage = Stage::plain();
    let packet = packets(CLIENT, ONLINE, 1, &[9; 500], 1_500).remove(0);
    let cut = stage.tell(Input::Frame { link: LinkType::Raw, bytes: &packet[..300], wire_len: packet.len() });
    assert_eq!(cut, []);
    assert_eq!((stage.dropped(PacketDrop::Truncated), stage.bytes_dropped(ByteDrop::PacketDropped)), (1, 500));
}

#[test]
fn a_client_is_forgotten_when_it_is_silent() {
    let mut stage = Stage::plain();
    stage.query(b"q");
    let (id, client, target) = stage.last_route();
    assert_eq!((client, target), (end(CLIENT), end(TARGET)));
    assert_eq!(id.0 >> 63, 1, "ids of TCP sessions never have the highest bit");
    // It is not silent.
    for _ in 0..10 {
        stage.pass(Duration::from_secs(20));
        stage.query(b"q");
    }
    assert_eq!(stage.routes.len(), 1, "{:?}", stage.routes);
    stage.pass(Duration::from_secs(31));
    assert_eq!(stage.routes[1..], [(LinkId(0), RouteChange::Remove { id })]);
    assert_eq!(stage.copier.ledger().udp_flows_alive, 0);
    assert_eq!(stage.copier.next_deadline(), None, "nothing is left to wait for");
    stage.query(b"q");
    assert_ne!(stage.last_route().0, id, "ids do not repeat");
}

#[test]
fn routes_go_to_one_link_of_each_intercept() {
    let base = config(vec![map(ONLINE, TARGET)]);
    let mut stage = Stage::new(CopierConfig { intercepts: 2, links_per_intercept: 3, ..base });
    for number in 0..6 {
        stage.datagram(&client(number), ONLINE, b"q");
    }
    let mut links = HashMap::<_, Vec<u16>>::new();
    for (link, change) in stage.routes.drain(..) {
        let RouteChange::Add { id, .. } = change else { panic!("{change:?}") };
        links.entry(id).or_default().push(link.0);
    }
    assert!(links.values().all(|l| l.len() == 2 && l[0] < 3 && l[1] == l[0] + 3), "{links:?}");
    assert_eq!(links.values().map(|l| l[0]).collect::<HashSet<_>>().len(), 3, "all links are used: {links:?}");
    // When one comes back, what it carried is announced on it, and nothing else.
    stage.tell(Input::LinkDown(LinkId(4)));
    stage.tell(Input::LinkUp(LinkId(4)));
    let again: HashSet<_> = stage
        .routes
        .iter()
        .map(|(link, change)| match change {
            RouteChange::Add { id, .. } if *link == LinkId(4) => *id,
            other => panic!("{other:?} on {link:?}"),
        })
        .collect();
    let expected: HashSet<_> = links.iter().filter(|(_, l)| l.contains(&4)).map(|(id, _)| *id).collect();
    assert_eq!(again, expected);
}

#[test]
fn stopping_removes_all_routes() {
    let mut stage = Stage::plain();
    stage.datagram(&client(1), ONLINE, b"q");
    stage.datagram(&client(2), ONLINE, b"q");
    stage.routes.clear();
    stage.tell(Input::Stop);
    assert_eq!(stage.routes.len(), 2);
    assert!(stage.routes.iter().all(|(_, change)| matches!(change, RouteChange::Remove { .. })));
    assert!(stage.copier.is_finished());
    assert_eq!(stage.datagram(&client(3), ONLINE, b"q"), []);
    assert_eq!(stage.dropped(PacketDrop::Stopping), 1);
}

#[test]
fn at_the_limit_the_one_silent_longest_makes_room() {
    let mut stage = Stage::new(CopierConfig { session_limit: 3, ..config(vec![map(ONLINE, TARGET)]) });
    for number in [1, 2, 3, 1] {
        stage.datagram(&client(number), ONLINE, b"q");
    }
    let ids = stage.routes.iter().filter_map(|(_, change)| match change {
        RouteChange::Add { id, flow, .. } => Some((flow.client, *id)),
        _ => None,
    });
    let ids: HashMap<_, _> = ids.collect();
    stage.routes.clear();
    assert_eq!(stage.datagram(&client(4), ONLINE, b"q").len(), 1, "the newcomer is copied");
    assert_eq!(stage.routes[0].1, RouteChange::Remove { id: ids[&end(&client(2))] }, "not the one used again");
    let ledger = stage.copier.ledger();
    assert_eq!((ledger.udp_flows_evicted, ledger.udp_flows_alive), (1, 3));
}

#[test]
fn memory_is_counted_and_bounded() {
    let memory_limit = 1 << 20;
    let mut stage = Stage::new(CopierConfig { memory_limit, ..config(vec![map(ONLINE, TARGET)]) });
    let mut most = 0;
    for number in 0..20_000 {
        assert_eq!(stage.datagram(&client(number), ONLINE, b"q").len(), 1);
        most = most.max(stage.copier.memory());
    }
    assert!((memory_limit / 2..=memory_limit + 4_096).contains(&most), "{most} bytes");
    let ledger = stage.copier.ledger();
    assert_eq!(ledger.udp_flows_evicted + ledger.udp_flows_alive, 20_000);
}
