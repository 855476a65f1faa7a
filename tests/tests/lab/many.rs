//! Several of everything: online servers, targets, intercepts, and tcpcopy without an intercept.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use tcpcopy::demo::client::{Plan, Reuse};
use tcpcopy::demo::server::Received;
use tcpcopy_io::netns::{Host, Lab, Process};
use tcpcopy_tests::copy::{self, PORT, PROBES, Setup};
use tcpcopy_tests::load;
use tcpcopy_tests::nginx::Nginx;
use tcpcopy_tests::settle;

use crate::harness::Bench;
use crate::workloads::{QUIET, assert_copied, assert_perfect, at, web_servers};

/// A load of numbered requests, on new connections and on ones that are kept.
fn plans(server: impl Into<IpAddr>, first_id: u64) -> [Plan; 2] {
    let server = at(server);
    [(Reuse::KeepAlive, 0), (Reuse::Close, 1_000)].map(|(reuse, offset)| Plan {
        connections: 10,
        rate: Some(500.0),
        reuse,
        first_id: first_id + offset,
        ..Plan::new(server, 500)
    })
}

fn run(host: &Host, plans: &[Plan]) {
    for plan in plans {
        assert_eq!(load::run(host, plan).failures, [], "online did not answer");
    }
}

/// A folder of its own for each program that would write to the same files.
fn folder(bench: &Bench<'_>, name: &str) -> PathBuf {
    let folder = bench.folder.join(name);
    fs::create_dir(&folder).expect("a folder");
    folder
}

/// Sends probes from the client to `online` until `copied` grows.
pub(crate) fn wait_until_copying(lab: &Lab, online: IpAddr, mut copied: impl FnMut() -> u64) {
    let before = copied();
    for attempt in 0..100 {
        let plan =
            Plan { first_id: PROBES + attempt, reuse: Reuse::Close, ..Plan::new(SocketAddr::new(online, PORT), 1) };
        load::run(&lab.client, &plan);
        if settle(before + 1, std::time::Duration::from_millis(200), &mut copied) > before {
            return;
        }
    }
    panic!("no request of {online} was copied");
}

/// Numbered requests, probes left out.
fn without_probes(received: Vec<Received>) -> Vec<Received> {
    received.into_iter().filter(|received| received.id.is_some_and(|id| id < PROBES)).collect()
}

fn stop(name: &str, mut process: Process) {
    copy::stop(name, &mut process);
}

/// Two online servers, one target: each tcpcopy has ports of its own (`-f`), and both use one intercept.
pub(crate) fn two_online_one_target(bench: &Bench<'_>) {
    let lab = Lab::with(&["online2"]).expect("a lab");
    let onlines = [&lab.online, &lab.more[0]];
    let servers = onlines.map(|host| Nginx::start(host, &folder(bench, host.name)));
    let target = Nginx::start(&lab.target, bench.folder);
    let mut setup = Setup::new(bench.programs, bench.folder, &lab);
    let intercept = setup.start_intercept(&lab.assistant);
    let copies: Vec<Process> = onlines
        .iter()
        .zip(["1", "2"])
        .map(|(online, instance)| {
            setup.set("-f", instance);
            let copy = setup.start_tcpcopy(online);
            wait_until_copying(&lab, online.ipv4.into(), || target.requests());
            copy
        })
        .collect();
    let before = target.requests();
    for (number, online) in onlines.iter().enumerate() {
        run(&lab.client, &plans(online.ipv4, 10_000 * number as u64));
    }
    settle(before + 2_000, QUIET, || target.requests());
    let sent: Vec<Received> = servers.iter().flat_map(|server| without_probes(server.received())).collect();
    let mut result: Vec<_> = without_probes(target.received()).iter().map(|received| received.id).collect();
    let mut expected: Vec<_> = sent.iter().map(|received| received.id).collect();
    result.sort_unstable();
    expected.sort_unstable();
    assert_eq!(expected.len(), 2_000);
    assert!(result == expected, "{} of 2000 requests reached the target", result.len());
    for copy in copies {
        stop("tcpcopy", copy);
    }
    stop("intercept", intercept);
}

/// One online server, two of whose addresses go to two targets; the intercepts share the responses of both by their
/// filters, each of half of the ports, and each has three connections.
pub(crate) fn two_targets_two_intercepts(bench: &Bench<'_>) {
    let lab = Lab::with(&["target2"]).expect("a lab");
    let other_target = &lab.more[0];
    other_target.ip(&format!("route add 10.78.0.0/16 via {}", lab.assistant.ipv4)).expect("ip route");
    let online = Nginx::start(&lab.online, bench.folder);
    // The second service of online: another address, the same server.
    let second: std::net::Ipv4Addr = [10, 77, 9, 9].into();
    lab.online.add_address(second.into()).expect("ip address");
    let targets = [&lab.target, other_target].map(|host| Nginx::start(host, &folder(bench, host.name)));

    let mut setup = Setup::new(bench.programs, bench.folder, &lab);
    let mut intercepts = Vec::new();
    for (name, filter, port) in [
        ("first", "tcp and src port 80 and tcp[2:2] & 2 = 0", "36524"),
        ("second", "tcp and src port 80 and tcp[2:2] & 2 = 2", "36525"),
    ] {
        let own = folder(bench, name);
        let mut part = Setup::new(bench.programs, &own, &lab);
        part.intercept = ["-i", "eth0", "-F", filter, "-p", port].map(str::to_owned).to_vec();
        intercepts.push(part.start_intercept_at(&lab.assistant, port.parse().expect("a port")));
    }
    let assistant = lab.assistant.ipv4;
    setup.set("-s", &format!("{assistant}:36524,{assistant}:36525"));
    setup.set("-C", "3");
    setup.set("-x", &format!("{}:80-{}:80,{second}:80-{}:80", lab.online.ipv4, lab.target.ipv4, other_target.ipv4));
    let copy = setup.start_tcpcopy(&lab.online);
    assert_eq!(copy.connections_to(36524), 3);
    for (address, target) in [lab.online.ipv4, second].into_iter().zip(&targets) {
        wait_until_copying(&lab, address.into(), || target.requests());
    }
    for (number, (address, target)) in [lab.online.ipv4, second].into_iter().zip(&targets).enumerate() {
        let first_id = 10_000 * number as u64;
        let before = target.requests();
        run(&lab.client, &plans(address, first_id));
        settle(before + 1_000, QUIET, || target.requests());
        let of_this = |received: Vec<Received>| -> Vec<Received> {
            let ids = first_id..first_id + 10_000;
            received.into_iter().filter(|received| received.id.is_some_and(|id| ids.contains(&id))).collect()
        };
        assert_perfect(&of_this(online.received()), &of_this(target.received()), 1_000);
    }
    stop("tcpcopy", copy);
    for intercept in intercepts {
        stop("intercept", intercept);
    }
    // Each had its part of the work.
    for name in ["first", "second"] {
        let log = fs::read_to_string(bench.folder.join(name).join("intercept.log")).expect("intercept's log");
        let relayed = log.lines().rev().find_map(|line| line.split("total resp packs:").nth(1)).expect("statistics");
        let relayed: u64 = relayed.split(',').next().and_then(|n| n.parse().ok()).expect("a number");
        assert!(relayed > 100, "{name}: {relayed} responses");
    }
}

/// Real servers behind a director that hands packets on as they are, as LVS does with direct routing: each real server
/// has the service's address and an assistant of its own.
pub(crate) fn direct_routing(bench: &Bench<'_>) {
    let lab = Lab::with(&["director", "real2", "assistant2"]).expect("a lab");
    let [director, other_real, other_assistant] = &lab.more[..] else { panic!("three more hosts") };
    let service: std::net::Ipv4Addr = [10, 79, 0, 1].into();
    for (real, assistant) in [(&lab.target, &lab.assistant), (other_real, other_assistant)] {
        real.ip(&format!("address add {service}/32 dev lo")).expect("ip address");
        real.ip(&format!("route replace 10.78.0.0/16 via {}", assistant.ipv4)).expect("ip route");
        // Packets of replicas come by way of the director.
        for device in ["all", "eth0"] {
            real.set_sysctl(&format!("net/ipv4/conf/{device}/rp_filter"), "0").expect("sysctl");
        }
    }
    director.set_sysctl("net/ipv4/ip_forward", "1").expect("sysctl");
    director.set_sysctl("net/ipv4/conf/all/send_redirects", "0").expect("sysctl");
    director.set_sysctl("net/ipv4/conf/eth0/send_redirects", "0").expect("sysctl");
    for device in ["all", "eth0"] {
        director.set_sysctl(&format!("net/ipv4/conf/{device}/rp_filter"), "0").expect("sysctl");
    }
    director.set_sysctl("net/ipv4/fib_multipath_hash_policy", "1").expect("sysctl");
    let to_reals = format!("nexthop via {} nexthop via {}", lab.target.ipv4, other_real.ipv4);
    director.ip(&format!("route add {service}/32 {to_reals}")).expect("ip route");
    lab.online.ip(&format!("route add {service}/32 via {}", director.ipv4)).expect("ip route");

    let online = Nginx::start(&lab.online, bench.folder);
    let reals = [&lab.target, other_real].map(|host| Nginx::start(host, &folder(bench, host.name)));
    let count = || reals.iter().map(Nginx::requests).sum::<u64>();
    let mut setup = Setup::new(bench.programs, bench.folder, &lab);
    setup.set("-x", &format!("{}:80-{service}:80", lab.online.ipv4));
    setup.set("-s", &format!("{},{}", lab.assistant.ipv4, other_assistant.ipv4));
    let first = setup.start_intercept(&lab.assistant);
    let own = folder(bench, "second");
    let second = Setup::new(bench.programs, &own, &lab).start_intercept(other_assistant);
    let copy = setup.start_tcpcopy(&lab.online);
    wait_until_copying(&lab, lab.online.ipv4.into(), count);
    let before = count();
    run(&lab.client, &plans(lab.online.ipv4, 0));
    settle(before + 1_000, QUIET, count);
    let each: Vec<Vec<Received>> = reals.iter().map(|real| without_probes(real.received())).collect();
    let mut together: Vec<_> = each.iter().flatten().map(|received| received.id).collect();
    let mut expected: Vec<_> = without_probes(online.received()).iter().map(|received| received.id).collect();
    together.sort_unstable();
    expected.sort_unstable();
    assert!(together == expected, "{} of {} requests reached the real servers", together.len(), expected.len());
    assert!(
        each.iter().all(|real| real.len() > 100),
        "each has its part: {:?}",
        each.iter().map(Vec::len).collect::<Vec<_>>()
    );
    stop("tcpcopy", copy);
    stop("intercept", first);
    stop("intercept", second);
}

/// The target routes its answers to online itself: no intercept, no assistant.
pub(crate) fn no_assistant(bench: &Bench<'_>) {
    let lab = Lab::new().expect("a lab");
    lab.target.ip(&format!("route replace 10.78.0.0/16 via {}", lab.online.ipv4)).expect("ip route");
    let [online, target] = web_servers(bench, &lab);
    let mut setup = Setup::new(bench.programs, bench.folder, &lab);
    setup.set("-s", "local");
    setup.set("--response-device", "eth0");
    let copy = setup.start_tcpcopy(&lab.online);
    wait_until_copying(&lab, lab.online.ipv4.into(), || target.requests());
    let before = target.requests();
    run(&lab.client, &plans(lab.online.ipv4, 0));
    assert_copied(&online, &target, before, 1_000);
    stop("tcpcopy", copy);
}

/// Each connection three times over, from sources of their own; and a limit on how many begin.
pub(crate) fn three_times_over(bench: &Bench<'_>) {
    let lab = Lab::new().expect("a lab");
    let [online, target] = web_servers(bench, &lab);
    let mut setup = Setup::new(bench.programs, bench.folder, &lab);
    setup.set("-n", "3");
    let mut copy = setup.start(&lab);
    let probes = copy.wait_until_copying(&lab, lab.online.ipv4.into(), || target.requests());
    settle(u64::MAX, std::time::Duration::from_secs(2), || target.requests());
    let before = target.requests();
    run(&lab.client, &plans(lab.online.ipv4, 0));
    settle(before + 3_000, QUIET, || target.requests());
    let log = copy.stop();
    let mut received = without_probes(target.received());
    received.sort_by_key(|received| received.id);
    assert_eq!((received.len(), without_probes(online.received()).len()), (3_000, 1_000));
    for three in received.chunks(3) {
        let mut connections: Vec<_> = three.iter().map(|received| received.connection).collect();
        connections.sort_unstable();
        connections.dedup();
        assert!(three.iter().all(|received| received.id == three[0].id) && connections.len() == 3, "{three:?}");
    }
    assert!(probes > 0 && !log.contains("balance"), "{log}");
}
