//! The workloads: what each client sent must be at the target, once, in order, unaltered.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use tcpcopy::demo::client::{Plan, Reuse};
use tcpcopy::demo::compare::Comparison;
use tcpcopy::demo::server::{Received, Server};
use tcpcopy_io::netns::Lab;
use tcpcopy_tests::copy::{PORT, PROBES, Setup};
use tcpcopy_tests::counters::{ResetWatch, capture_if_wanted};
use tcpcopy_tests::load::{self, Wrk, WrkLoad};
use tcpcopy_tests::nginx::Nginx;
use tcpcopy_tests::settle;

use crate::harness::Bench;

/// When nothing has reached the target for this long, nothing more will: longer than any retransmission timer's pause.
pub(crate) const QUIET: Duration = Duration::from_secs(20);

pub(crate) fn at(address: impl Into<IpAddr>) -> SocketAddr {
    SocketAddr::new(address.into(), PORT)
}

pub(crate) fn plan(server: SocketAddr, rate: f64, requests: u64, connections: usize, reuse: Reuse) -> Plan {
    Plan { connections, rate: Some(rate), reuse, ..Plan::new(server, requests) }
}

/// A web server on online, and one on the target.
pub(crate) fn web_servers(bench: &Bench<'_>, lab: &Lab) -> [Nginx; 2] {
    [&lab.online, &lab.target].map(|host| Nginx::start(host, bench.folder))
}

/// Waits for the rest of `requests` requests at the target, which had `before` of whatever kind when they began; fails unless
/// the copy of what online got is perfect.
pub(crate) fn assert_copied(online: &Nginx, target: &Nginx, before: u64, requests: u64) {
    settle(before + requests, QUIET, || target.requests());
    assert_perfect(&online.received(), &target.received(), requests);
}

/// Compares two servers' requests, and fails unless the copy is perfect and has `expected` requests.
pub(crate) fn assert_perfect(online: &[Received], target: &[Received], expected: u64) {
    let result = Comparison::new(online, target, |id| id < PROBES);
    assert_eq!(result.online, expected, "requests that online logged");
    assert!(
        result.is_perfect(),
        "of {} requests {} reached the target; lost {:?}, altered {:?}, more than once {:?}, never sent {:?}, out of order {:?}",
        result.online,
        result.target,
        some(&result.lost),
        some(&result.altered),
        some(&result.duplicated),
        some(&result.invented),
        some(&result.out_of_order),
    );
}

/// How many, and the first ones.
fn some(ids: &[u64]) -> (usize, &[u64]) {
    (ids.len(), &ids[..ids.len().min(8)])
}

/// The lab itself: without it, no verdict below means anything.
pub(crate) fn hosts_reach_each_other(bench: &Bench<'_>) {
    let lab = Lab::new().expect("a lab");
    let online = Nginx::start(&lab.online, bench.folder);
    let resets = ResetWatch::from_all(&lab.online);
    for (number, server) in [at(lab.online.ipv4), at(lab.online.ipv6)].into_iter().enumerate() {
        for (offset, reuse) in [(0, Reuse::KeepAlive), (1_000, Reuse::Close)] {
            let first_id = number as u64 * 10_000 + offset;
            let outcome = load::run(&lab.client, &Plan { first_id, ..plan(server, 2_000.0, 500, 10, reuse) });
            assert_eq!((outcome.answered, &outcome.failures[..]), (500, &[][..]));
        }
    }
    assert_eq!(settle(2_000, QUIET, || online.requests()), 2_000);
    let mut ids: Vec<_> = online.received().iter().map(|received| received.id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 2_000, "every request has a number of its own");
    assert_eq!(resets.count(), 0, "the client sends no RST");

    // Loss between tcpcopy and target touches nobody else; and the watch sees a RST when there is one.
    lab.lose_packets(1.0).expect("iptables");
    let target = ResetWatch::from_all(&lab.target);
    let connected = lab.target.run(|| TcpStream::connect(at(lab.online.ipv4)).map(drop));
    connected.expect("the target's namespace").expect("the target reaches online");
    assert_eq!(target.count(), 0);
    let refused = lab.target.run(|| TcpStream::connect(SocketAddr::new(lab.online.ipv4.into(), 9)).map(drop));
    refused.expect("the target's namespace").expect_err("nobody listens there");
    assert_eq!(target.count(), 1, "the RST that refused the connection");
}

/// What `nginx_copy` needs to know.
struct Case {
    loss: f64,
    rate: f64,
    requests: u64,
    connections: usize,
    reuse: Reuse,
}

/// A paced client, nginx on both sides; the whole verdict.
fn nginx_copy(bench: &Bench<'_>, lab: &Lab, case: &Case) {
    let [online, target] = web_servers(bench, lab);
    let client_resets = ResetWatch::from_all(&lab.online);
    let copied_resets = ResetWatch::from_replicas(&lab.target);
    let _captures = [&lab.online, &lab.target].map(|host| capture_if_wanted(host, bench.folder));
    let mut copy = Setup::new(bench.programs, bench.folder, lab).start(lab);
    copy.wait_until_copying(lab, lab.online.ipv4.into(), || target.requests());
    if case.loss > 0.0 {
        lab.lose_packets(case.loss).expect("iptables");
    }
    let before = target.requests();

    assert_eq!(
        load::run(&lab.client, &plan(at(lab.online.ipv4), case.rate, case.requests, case.connections, case.reuse))
            .failures,
        [],
        "online did not answer"
    );
    assert_copied(&online, &target, before, case.requests);
    let (sent, copied) = (client_resets.count(), copied_resets.count());
    assert!(copied <= sent, "{copied} RSTs reached the target, but the clients sent {sent}");
    copy.stop();
    let copied = copied_resets.count();
    assert!(copied <= sent, "stopping sent RSTs to the target: {copied} now, and the clients sent {sent}");
}

pub(crate) fn keepalive(bench: &Bench<'_>) {
    let lab = Lab::new().expect("a lab");
    let case = Case { loss: 0.0, rate: 2_000.0, requests: 8_000, connections: 50, reuse: Reuse::KeepAlive };
    nginx_copy(bench, &lab, &case);
}

/// Of new connections 30 in a hundred are copied, each whole, from ports that another instance has not; the rest are
/// counted.
pub(crate) fn a_sample(bench: &Bench<'_>) {
    let lab = Lab::new().expect("a lab");
    let [online, target] = web_servers(bench, &lab);
    let mut setup = Setup::new(bench.programs, bench.folder, &lab);
    for (option, value) in [("-r", "30"), ("-f", "3")] {
        setup.set(option, value);
    }
    let mut copy = setup.start(&lab);
    copy.wait_until_copying(&lab, lab.online.ipv4.into(), || target.requests());
    assert_eq!(
        load::run(&lab.client, &plan(at(lab.online.ipv4), 500.0, 2_000, 20, Reuse::Close)).failures,
        [],
        "online did not answer"
    );
    settle(u64::MAX, Duration::from_secs(3), || target.requests());
    let [sent, copied] = [&online, &target].map(|server| {
        let mut ids: Vec<u64> =
            server.received().iter().filter_map(|received| received.id).filter(|id| *id < PROBES).collect();
        ids.sort_unstable();
        ids
    });
    assert_eq!(sent.len(), 2_000);
    assert!((450..750).contains(&copied.len()), "{} of 2,000 were copied", copied.len());
    assert!(copied.windows(2).all(|pair| pair[0] < pair[1]) && copied.iter().all(|id| sent.binary_search(id).is_ok()));
    let log = copy.stop();
    assert!(log.contains("not in the sample") && !log.contains("balance"), "{log}");
}

pub(crate) fn new_connections(bench: &Bench<'_>) {
    let lab = Lab::new().expect("a lab");
    let case = Case { loss: 0.0, rate: 1_000.0, requests: 4_000, connections: 50, reuse: Reuse::Close };
    nginx_copy(bench, &lab, &case);
}

pub(crate) fn loss_keepalive(bench: &Bench<'_>) {
    let lab = Lab::new().expect("a lab");
    let case = Case { loss: 0.02, rate: 1_000.0, requests: 5_000, connections: 50, reuse: Reuse::KeepAlive };
    nginx_copy(bench, &lab, &case);
}

pub(crate) fn loss_new_connections(bench: &Bench<'_>) {
    let lab = Lab::new().expect("a lab");
    let case = Case { loss: 0.02, rate: 500.0, requests: 2_500, connections: 50, reuse: Reuse::Close };
    nginx_copy(bench, &lab, &case);
}

pub(crate) fn port_reuse(bench: &Bench<'_>) {
    let lab = Lab::new().expect("a lab");
    lab.client.set_sysctl("net/ipv4/ip_local_port_range", "20000 20399").expect("400 source ports");
    lab.client.set_sysctl("net/ipv4/tcp_tw_reuse", "1").expect("tcp_tw_reuse");
    let case = Case { loss: 0.0, rate: 1_000.0, requests: 4_000, connections: 50, reuse: Reuse::Close };
    nginx_copy(bench, &lab, &case);
}

pub(crate) fn wrk_closing(bench: &Bench<'_>) {
    let lab = Lab::new().expect("a lab");
    let [online, target] = web_servers(bench, &lab);
    let client_resets = ResetWatch::from_all(&lab.online);
    let copied_resets = ResetWatch::from_replicas(&lab.target);
    let mut copy = Setup::new(bench.programs, bench.folder, &lab).start(&lab);
    copy.wait_until_copying(&lab, lab.online.ipv4.into(), || target.requests());
    let before = (online.requests(), target.requests());

    let wrk = Wrk { connections: 50, seconds: 5, close: true, load: WrkLoad::Numbered { pause_ms: 40, limit: 3_000 } };
    wrk.run(&lab.client, at(lab.online.ipv4), bench.folder);
    let sent = online.requests() - before.0;
    assert!(sent >= 1_000, "wrk sent only {sent} requests");
    settle(before.1 + sent, QUIET, || target.requests());
    assert_perfect(&online.received(), &target.received(), sent);
    copy.stop();
    let (sent, copied) = (client_resets.count(), copied_resets.count());
    assert!(copied <= sent, "{copied} RSTs reached the target, but the clients sent {sent}");
}

pub(crate) fn large_posts(bench: &Bench<'_>) {
    const POSTS: u64 = 30;
    let lab = Lab::new().expect("a lab");
    let origin = Instant::now();
    let online = Server::start(&lab.online, at(lab.online.ipv4), origin).expect("online");
    let target = Server::start(&lab.target, at(lab.target.ipv4), origin).expect("target");
    let copied_resets = ResetWatch::from_replicas(&lab.target);
    let mut copy = Setup::new(bench.programs, bench.folder, &lab).start(&lab);
    copy.wait_until_copying(&lab, lab.online.ipv4.into(), || target.requests());
    let before = target.requests();

    let mut plan = Plan::new(at(lab.online.ipv4), POSTS);
    plan.connections = 3;
    plan.body_len = |_| 2_000_000;
    let outcome = load::run(&lab.client, &plan);
    assert_eq!(outcome.failures, [], "online did not answer");
    settle(before + POSTS, QUIET, || target.requests());
    assert_perfect(&online.received(), &target.received(), POSTS);
    for sent in &outcome.sent {
        let arrived = online.received().iter().any(|r| r.id == Some(sent.id) && r.fingerprint == sent.fingerprint);
        assert!(arrived, "request {} did not reach online as it was sent", sent.id);
    }
    copy.stop();
    assert_eq!(copied_resets.count(), 0, "RSTs reached the target; the clients sent none");
}

pub(crate) fn ipv6(bench: &Bench<'_>) {
    let lab = Lab::new().expect("a lab");
    let [online, target] = web_servers(bench, &lab);
    let copied_resets = ResetWatch::from_replicas_v6(&lab.target);
    let mut copy = Setup::ipv6(bench.programs, bench.folder, &lab).start(&lab);
    copy.wait_until_copying(&lab, lab.online.ipv6.into(), || target.requests());
    let before = target.requests();

    for (reuse, first_id) in [(Reuse::KeepAlive, 0), (Reuse::Close, 1_000)] {
        let plan = Plan { first_id, ..plan(at(lab.online.ipv6), 500.0, 1_000, 20, reuse) };
        assert_eq!(load::run(&lab.client, &plan).failures, [], "online did not answer");
    }
    assert_copied(&online, &target, before, 2_000);
    copy.stop();
    assert_eq!(copied_resets.count(), 0, "RSTs reached the target; the clients sent none");
}

/// The same addresses, names and ports in both; each must see its own requests alone.
pub(crate) fn two_labs_at_once(bench: &Bench<'_>) {
    let labs = [Lab::new().expect("a lab"), Lab::new().expect("a second lab")];
    let origin = Instant::now();
    let running: Vec<_> = labs
        .iter()
        .enumerate()
        .map(|(number, lab)| {
            let folder = bench.folder.join(format!("lab-{number}"));
            std::fs::create_dir(&folder).expect("a folder");
            let online = Server::start(&lab.online, at(lab.online.ipv4), origin).expect("online");
            let target = Server::start(&lab.target, at(lab.target.ipv4), origin).expect("target");
            let mut copy = Setup::new(bench.programs, &folder, lab).start(lab);
            copy.wait_until_copying(lab, lab.online.ipv4.into(), || target.requests());
            let before = target.requests();
            // Numbers that the other lab does not use.
            let first_id = number as u64 * 1_000_000;
            let plan = Plan { first_id, ..plan(at(lab.online.ipv4), 300.0, 600, 10, Reuse::KeepAlive) };
            (online, target, copy, before, load::Running::start(&lab.client, plan))
        })
        .collect();
    for (online, target, copy, before, client) in running {
        assert_eq!(client.join().failures, [], "online did not answer");
        settle(before + 600, QUIET, || target.requests());
        assert_perfect(&online.received(), &target.received(), 600);
        copy.stop();
    }
}
