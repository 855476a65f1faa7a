use tcpcopy_io::host::Offloads;

use super::super::finding::Outcome::{self, Failure, Ok as Fine, Warning};
use super::*;

const TARGET: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

fn eth0() -> Device {
    Device {
        name: "eth0".to_owned(),
        is_up: true,
        has_carrier: true,
        mtu: 1500,
        kind: DeviceKind::Ethernet,
        addresses: Vec::new(),
        offloads: Offloads { gro: Some(true), lro: Some(false), ..Offloads::default() },
    }
}

fn way() -> Way {
    Way {
        device: "eth0".to_owned(),
        gateway: None,
        is_local: false,
        source: Some([10, 0, 0, 1].into()),
        mtu: None,
        next_hop: NextHop::Known,
    }
}

#[track_caller]
fn says(finding: &Finding, outcome: Outcome, words: &[&str]) {
    let text = finding.to_string();
    assert_eq!(finding.outcome, outcome, "{text}");
    for word in words {
        assert!(text.contains(word), "nothing of {word:?} in: {text}");
    }
    assert!(outcome == Fine || finding.remedy.is_some(), "no remedy in: {text}");
}

#[test]
fn missing_capabilities_are_named_with_the_line_that_grants_them() {
    let have = |net_raw, net_admin| Privileges { net_raw, net_admin };
    let judge = |have, needs_admin| capabilities(have, "setcap THIS", needs_admin);
    let queue = Some("NFQUEUE cannot be read");
    for (have, needs_admin, outcome, word) in [
        (have(true, true), None, Fine, "CAP_NET_RAW and CAP_NET_ADMIN"),
        (have(true, false), None, Warning, "setcap THIS"),
        (have(false, true), None, Failure, "setcap THIS"),
        (have(false, false), None, Failure, "CAP_NET_RAW is missing"),
        (have(false, true), queue, Fine, "not needed"),
        (have(true, false), queue, Failure, "NFQUEUE cannot be read"),
        (have(false, false), queue, Failure, "setcap THIS"),
    ] {
        says(&judge(have, needs_admin), outcome, &[word]);
    }
}

#[test]
fn devices_that_cannot_be_captured_on_are_failures() {
    let down = Device { is_up: false, name: "eth1".to_owned(), ..eth0() };
    let unplugged = Device { has_carrier: false, name: "eth2".to_owned(), ..eth0() };
    let devices = [eth0(), down, unplugged];
    for (name, promiscuous, outcome, words) in [
        ("eth0", false, Fine, ["is up, Ethernet, MTU 1500", "GRO"]),
        ("eth1", false, Failure, ["is down", "ip link set eth1 up"]),
        ("eth2", false, Failure, ["no carrier", "ip link show eth2"]),
        ("eth9", false, Failure, ["no device `eth9`", "eth0, eth1, eth2"]),
        ("any", false, Fine, ["all of eth0", "eth2"]),
        ("any", true, Warning, ["addressed to other hosts", "-i eth1"]),
    ] {
        says(&device(name, &devices, promiscuous), outcome, &words);
    }
}

#[test]
fn memory_is_compared_with_what_is_there() {
    const MB: u64 = 1 << 20;
    for (rings, limit, available, outcome) in [
        (32, 2048, Some(8000), Fine),
        (32, 2048, Some(1000), Warning),
        (2000, 100, Some(1000), Failure),
        (32, 2048, None, Fine),
    ] {
        says(&memory(rings * MB, limit * MB, available.map(|n: u64| n * MB)), outcome, &["MB"]);
    }
}

#[test]
fn ways_to_targets_are_described() {
    says(&route(TARGET, Err("Network is unreachable")), Failure, &["no route to 10.0.0.2", "ip route add 10.0.0.2"]);
    says(&route(TARGET, Ok(&way())), Fine, &["directly on `eth0`", "from 10.0.0.1"]);
    let through = Way { gateway: Some([10, 0, 0, 254].into()), ..way() };
    says(&route(TARGET, Ok(&through)), Fine, &["via 10.0.0.254"]);
}

#[test]
fn a_next_hop_that_does_not_answer_is_a_failure() {
    let with = |next_hop| Way { next_hop, ..way() };
    let router = Way { gateway: Some([10, 0, 0, 254].into()), next_hop: NextHop::Failed, ..way() };
    let judge = |way: &Way, pinged| next_hop(TARGET, way, pinged).unwrap();
    says(&judge(&with(NextHop::Known), true), Fine, &["answers pings"]);
    says(&judge(&with(NextHop::Known), false), Fine, &["does not answer pings"]);
    says(&judge(&with(NextHop::Failed), false), Failure, &["the target 10.0.0.2", "ip neigh show 10.0.0.2"]);
    says(&judge(&with(NextHop::Asked), false), Failure, &["does not answer on `eth0`"]);
    says(&judge(&with(NextHop::Unknown), false), Fine, &["may be forbidden"]);
    says(&judge(&router, false), Failure, &["the router 10.0.0.254"]);
    assert_eq!(next_hop(TARGET, &Way { is_local: true, ..way() }, false), None);
}

#[test]
fn what_does_not_fit_is_named_with_what_does() {
    let small = Device { mtu: 1400, ..eth0() };
    let narrow = Way { mtu: Some(1300), ..way() };
    for (device, way, seen, outcome, words) in [
        (eth0(), way(), Some(PathSize::Whole), Fine, ["reach 10.0.0.2 whole", "1500"]),
        (small, way(), Some(PathSize::Whole), Failure, ["do not fit `eth0`", "-M 1400"]),
        (eth0(), narrow, Some(PathSize::Reported(1300)), Failure, ["the way to 10.0.0.2", "-M 1300"]),
        (eth0(), way(), Some(PathSize::Reported(1280)), Failure, ["a router takes 1280", "-M 1280"]),
        (eth0(), way(), Some(PathSize::LostAbove(1400)), Warning, ["nobody says why", "-M 1400"]),
        (eth0(), way(), Some(PathSize::NoAnswer), Fine, ["this host's side", "not known"]),
        (eth0(), way(), None, Fine, ["this host's side", "not known"]),
    ] {
        says(&mtu(TARGET, 1500, Some(&device), &way, seen), outcome, &words);
    }
}

#[test]
fn tracked_connections_are_counted_against_the_table() {
    let to = Endpoint::from(std::net::SocketAddr::new(TARGET, 80));
    let notrack = "iptables -t raw -A OUTPUT -d 10.0.0.2 -p tcp --dport 80 -j NOTRACK";
    let table = |count, max| Some(Conntrack { count, max });
    for (table, used, exempt, outcome, word) in [
        (None, false, false, Fine, "tracks no connections"),
        (table(0, 1000), false, false, Fine, "no connection is tracked"),
        (table(0, 1000), true, false, Warning, notrack),
        (table(10, 1000), false, false, Warning, notrack),
        (table(10, 1000), true, true, Fine, "exempt"),
        (table(800, 1000), true, false, Warning, "nearly full"),
        (table(1000, 1000), true, false, Failure, "nf_conntrack_max=2000"),
    ] {
        says(&conntrack(table, used, exempt, to, Transport::Tcp), outcome, &[word]);
    }
}

#[test]
fn a_host_that_forwards_answers_is_a_failure() {
    says(&forwarding(Some(false), Some(false), true), Fine, &["forwards nothing"]);
    says(&forwarding(None, None, true), Fine, &["forwards nothing"]);
    says(&forwarding(Some(true), Some(false), true), Failure, &["sysctl net.ipv4.ip_forward=0"]);
    says(&forwarding(Some(false), Some(true), true), Failure, &["sysctl net.ipv6.conf.all.forwarding=0"]);
    says(&forwarding(Some(false), Some(true), false), Fine, &[]);
}

#[test]
fn a_user_who_is_not_there_can_be_made() {
    assert_eq!(user(None), None);
    assert_eq!(user(Some(Account::find("root"))), None);
    let finding = user(Some(Account::find("no-such-user-here"))).unwrap();
    assert_eq!((finding.check, finding.outcome), ("options", Outcome::Failure));
    assert_eq!(finding.remedy.as_deref(), Some("useradd --system --shell /usr/sbin/nologin no-such-user-here"));
    let finding = user(Some(Account::find("root:no-such-group-here"))).unwrap();
    assert!(finding.text.contains("no-such-group-here"), "{}", finding.text);
}
