//! UDP: every datagram's fate is known, whatever else happens.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use tcpcopy::demo::client::Plan;
use tcpcopy::demo::server::Server;
use tcpcopy_io::netns::{Host, Lab, Process};
use tcpcopy_tests::copy::{self, PORT, Setup};
use tcpcopy_tests::dns::{self, DNS_PORT, Dnsmasq, Query};
use tcpcopy_tests::load::Running;
use tcpcopy_tests::settle;
use tcpcopy_tests::udp::{Arrived, Receiver, Traffic, times_arrived, wait_until_copying};

use crate::harness::Bench;
use crate::workloads::assert_perfect;

/// The port of statsd, and of all that is made up here.
const STATS_PORT: u16 = 8125;
/// When nothing has reached the target for this long, nothing more will: datagrams are not sent again.
const QUIET: Duration = Duration::from_secs(3);

fn at(address: impl Into<IpAddr>, port: u16) -> SocketAddr {
    SocketAddr::new(address.into(), port)
}

/// Maps for both families, from online to the target, on the same port.
fn both_families(lab: &Lab, port: u16) -> String {
    let (online, target) = (&lab.online, &lab.target);
    format!("udp:{}:{port}-{}:{port},udp:[{}]:{port}-[{}]:{port}", online.ipv4, target.ipv4, online.ipv6, target.ipv6)
}

/// A map for IPv4.
fn ipv4_map(lab: &Lab, to: SocketAddr) -> String {
    format!("udp:{}:{STATS_PORT}-{to}", lab.online.ipv4)
}

/// A count in the table that tcpcopy prints at its end, the last one in the log: the row `name` of the section `title`; 0 when there is none.
pub(crate) fn row(log: &str, title: &str, name: &str) -> u64 {
    let is_title = |line: &&str| line.starts_with(title) && line.ends_with(|c: char| c.is_ascii_digit());
    let Some(start) = log.lines().collect::<Vec<_>>().iter().rposition(is_title) else { return 0 };
    let mut section = log.lines().skip(start).enumerate().take_while(|(n, line)| *n == 0 || line.starts_with(' '));
    let number = section.find_map(|(_, line)| {
        let (text, number) = line.rsplit_once(' ')?;
        let text = text.trim();
        let text = text.strip_prefix(title).map_or(text, str::trim_start);
        (text == name).then(|| number.parse().ok())?
    });
    number.unwrap_or(0)
}

/// Ends a tcpcopy that runs without intercept. Returns what it logged.
fn stop_alone(setup: &Setup<'_>, mut tcpcopy: Process) -> String {
    copy::stop("tcpcopy", &mut tcpcopy);
    fs::read_to_string(setup.tcpcopy_log()).expect("tcpcopy's log")
}

/// Fails unless each of these numbers arrived, once, and as it was sent.
fn assert_whole(arrived: &[Arrived], ids: std::ops::Range<u64>, len: usize) {
    let times = times_arrived(arrived);
    let missing: Vec<u64> = ids.clone().filter(|id| !times.contains_key(id)).collect();
    let several: Vec<_> = times.iter().filter(|(_, n)| **n > 1).collect();
    let altered: Vec<_> = arrived.iter().filter(|d| !d.is_intact || d.len != len).collect();
    assert!(
        missing.is_empty() && several.is_empty() && altered.is_empty() && times.keys().all(|id| ids.contains(id)),
        "of {ids:?}: missing {:?}, more than once {:?}, altered {:?}",
        (missing.len(), missing.first()),
        (several.len(), several.first()),
        (altered.len(), altered.first())
    );
}

/// dnsmasq on both sides: each query at online is at the target, with its type, from the same port, and in its order.
pub(crate) fn dns(bench: &Bench<'_>) {
    const QUERIES: u64 = 1_000;
    const PORTS: usize = 20;
    // dnsmasq's socket holds some 250 queries. The client waits for online's answers only: were more than that under way
    // when the target is slow for a moment, they would be lost there.
    const AT_ONCE: u64 = 200;
    let lab = Lab::new().expect("a lab");
    let online = Dnsmasq::start(&lab.online, bench.folder);
    let target = Dnsmasq::start(&lab.target, bench.folder);
    let setup = Setup::udp(bench.programs, bench.folder, &lab, &both_families(&lab, DNS_PORT), Some(DNS_PORT));
    let copy = setup.start(&lab);
    let servers = [at(lab.online.ipv4, DNS_PORT), at(lab.online.ipv6, DNS_PORT)];
    // A host looks for its neighbours over IPv6 only when it is sure of its own address, which takes a second or two.
    let mut probes = 0;
    for (server, prefix) in servers.into_iter().zip(["probe-four", "probe-six"]) {
        while target.count(prefix) == 0 {
            assert!(probes < 200, "no query was copied; see {}", bench.folder.display());
            probes += dns::ask(&lab.client, server, prefix, 0..1, 1);
            thread::sleep(Duration::from_millis(50));
        }
    }
    for (server, prefix) in servers.into_iter().zip(["four", "six"]) {
        for first in (0..QUERIES).step_by(AT_ONCE as usize) {
            let queries = first..first + AT_ONCE;
            let answers = dns::ask(&lab.client, server, prefix, queries.clone(), PORTS);
            assert_eq!(answers, AT_ONCE, "answers of online");
            settle(queries.end, QUIET, || target.count(prefix));
        }
        let (asked, copied) = (online.queries(prefix), target.queries(prefix));
        assert_eq!(asked.len() as u64, QUERIES);
        assert_eq!(by_port(&copied), by_port(&asked), "queries of the target, and of online");
        let replica =
            |query: &Query| query.from.to_string().starts_with(if prefix == "six" { "fd78:" } else { "10.78." });
        assert!(copied.iter().all(replica), "a query came from {:?}", copied.iter().find(|query| !replica(query)));
        for kind in ["A", "AAAA", "TXT"] {
            assert!(copied.iter().filter(|query| query.kind == kind).count() as u64 >= QUERIES / 3);
        }
    }
    // The last answer may still be on its way.
    thread::sleep(Duration::from_millis(500));
    let log = copy.stop();
    let (sent, answered) = (row(&log, "udp", "sent to targets, all copies"), row(&log, "udp", "datagrams answered"));
    assert!((2 * QUERIES..=2 * QUERIES + probes).contains(&sent), "{log}");
    assert!(answered >= 2 * QUERIES, "the target answered every query, and intercept saw it:\n{log}");
    assert_eq!(row(&log, "udp", "responses to nothing that was sent"), 0, "{log}");
    assert!(row(&log, "udp", "clients, by target and copy") >= 2 * PORTS as u64, "{log}");
    assert!(log.contains("50 % of the answers within (ms)"), "{log}");
}

/// Type and name of the queries of each port, in order.
fn by_port(queries: &[Query]) -> HashMap<u16, Vec<(&str, &str)>> {
    let mut ports: HashMap<u16, Vec<_>> = HashMap::new();
    for query in queries {
        ports.entry(query.port).or_default().push((query.kind.as_str(), query.name.as_str()));
    }
    ports
}

/// More than a packet holds, over both families; with two workers, too, where fragments must find the right one.
pub(crate) fn large_datagrams(bench: &Bench<'_>) {
    for workers in ["1", "2"] {
        let lab = Lab::new().expect("a lab");
        let origin = Instant::now();
        let any = |address: IpAddr| at(address, STATS_PORT);
        let receivers = |host: &Host| {
            [host.ipv4.into(), host.ipv6.into()].map(|address| Receiver::start(host, any(address), origin, true))
        };
        let (online, target) = (receivers(&lab.online), receivers(&lab.target));
        let maps = both_families(&lab, STATS_PORT);
        let mut setup = Setup::udp(bench.programs, bench.folder, &lab, &maps, Some(STATS_PORT));
        setup.set("--workers", workers);
        // Over IPv6 the ports of a fragment are beyond what a filter finds by itself.
        let filter = setup.intercept.last_mut().expect("a filter");
        *filter = format!("({filter}) or (ip6[6] = 44 and ip6[40] = 17)");
        setup.intercept.extend(["--workers", workers].map(str::to_owned));
        let copy = setup.start(&lab);
        let mut sent = 0;
        for (family, server) in [lab.online.ipv4.into(), lab.online.ipv6.into()].map(any).into_iter().enumerate() {
            wait_until_copying(&lab.client, server, &target[family]);
            let mut first_id = 0;
            for (len, rate) in [(1_472, 500), (1_473, 500), (4_096, 200), (60_000, 40)] {
                let traffic = Traffic { first_id, len, rate, ports: 4, ..Traffic::new(server, rate) };
                traffic.send(&lab.client);
                let all = first_id + traffic.datagrams;
                for (host, receiver) in [("online", &online[family]), ("the target", &target[family])] {
                    settle(all, QUIET, || receiver.count());
                    let arrived: Vec<_> = receiver.arrived().into_iter().filter(|d| d.id >= first_id).collect();
                    let (came, dropped) = (arrived.len() as u64, receiver.dropped());
                    assert!(
                        came >= traffic.datagrams,
                        "{came} of {} at {host}, whose socket dropped {dropped}",
                        traffic.datagrams
                    );
                    assert_whole(&arrived, first_id..all, len);
                }
                first_id = all;
                sent += traffic.datagrams;
            }
        }
        // The last answers may still be on their way.
        thread::sleep(Duration::from_millis(500));
        let log = copy.stop();
        assert_eq!(row(&log, "udp", "datagrams of which fragments are missing"), 0, "{log}");
        assert!(row(&log, "udp", "fragments of these") > 2 * (200 * 3 + 40 * 41), "{log}");
        assert!(row(&log, "udp", "datagrams answered") >= sent, "{log}");
    }
}

/// One way, and as fast as metrics come: what does not arrive is in a counter.
pub(crate) fn one_way(bench: &Bench<'_>) {
    const RATE: u64 = 50_000;
    const DATAGRAMS: u64 = RATE * 4;
    let lab = Lab::new().expect("a lab");
    let origin = Instant::now();
    let server = at(lab.online.ipv4, STATS_PORT);
    let _online = Receiver::start(&lab.online, server, origin, false);
    let to = at(lab.target.ipv4, STATS_PORT);
    let target = Receiver::start(&lab.target, to, origin, false);
    let setup = Setup::udp(bench.programs, bench.folder, &lab, &ipv4_map(&lab, to), None);
    let tcpcopy = setup.start_tcpcopy(&lab.online);
    let probes = wait_until_copying(&lab.client, server, &target);
    let device_drops = || lab.device_drops().expect("the counters of devices");
    let before = device_drops();

    let sending = Instant::now();
    let traffic = Traffic { ports: 20, len: 60, rate: RATE, ..Traffic::new(server, DATAGRAMS) };
    traffic.send(&lab.client);
    let took = sending.elapsed();
    settle(DATAGRAMS, QUIET, || target.count());
    let (socket_drops, device_drops) = (target.dropped(), device_drops() - before);
    let log = stop_alone(&setup, tcpcopy);

    let times = times_arrived(&target.arrived());
    assert!(times.values().all(|n| *n == 1), "a datagram arrived more than once");
    assert!(target.arrived().iter().all(|d| d.is_intact && d.len == 60), "a datagram was altered");
    let missing = DATAGRAMS - times.len() as u64;
    let counted = |title, name| row(&log, title, name);
    let ring = counted("kernel", "lost: the capture buffer was full")
        + counted("kernel", "lost: the device could not take them");
    let (dropped, unsent) = (counted("packets", "dropped"), counted("target", "packets that could not be sent"));
    println!(
        "{DATAGRAMS} datagrams in {:.1} s: {} arrived; lost by devices {device_drops}, in the capture's ring {ring}, left out \
         by tcpcopy {dropped}, not sent {unsent}, lost at the target's socket {socket_drops}",
        took.as_secs_f64(),
        times.len()
    );
    assert_eq!(
        missing,
        device_drops + ring + dropped + unsent + socket_drops,
        "each one that is missing is counted:\n{log}"
    );
    assert!(dropped == 0 && unsent == 0, "tcpcopy itself left none out:\n{log}");
    let (captured, sent) = (counted("udp", "datagrams captured"), counted("udp", "sent to targets, all copies"));
    assert!(captured == sent && sent <= DATAGRAMS + probes && sent + device_drops + ring >= DATAGRAMS, "{log}");
    assert!(log.contains("udp responses: not counted") || counted("udp", "responses received") == 0, "{log}");
}

/// A target that is not there must not hold up the one that is.
pub(crate) fn several_targets(bench: &Bench<'_>) {
    const DATAGRAMS: u64 = 4_000;
    let lab = Lab::new().expect("a lab");
    let origin = Instant::now();
    let server = at(lab.online.ipv4, STATS_PORT);
    let online = Receiver::start(&lab.online, server, origin, false);
    let second_port = STATS_PORT + 1;
    let [first, second] =
        [STATS_PORT, second_port].map(|port| Receiver::start(&lab.target, at(lab.target.ipv4, port), origin, false));
    // Nobody has the first address, nobody listens on the second's port, and two are as they should be.
    let targets = ["10.77.0.99:8125", "10.77.0.3:9", "10.77.0.3:8125", "10.77.0.3:8126"];
    let maps: Vec<String> = targets.iter().map(|to| ipv4_map(&lab, to.parse().expect("an address"))).collect();
    let setup = Setup::udp(bench.programs, bench.folder, &lab, &maps.join(","), None);
    let tcpcopy = setup.start_tcpcopy(&lab.online);
    wait_until_copying(&lab.client, server, &first);
    Traffic::new(server, DATAGRAMS).send(&lab.client);
    let sent_at: HashMap<u64, Duration> = {
        settle(DATAGRAMS, QUIET, || online.count());
        online.arrived().iter().map(|d| (d.id, d.at)).collect()
    };
    assert_eq!(sent_at.len() as u64, DATAGRAMS, "online received all");
    for target in [&first, &second] {
        settle(DATAGRAMS, QUIET, || target.count());
        assert_whole(&target.arrived(), 0..DATAGRAMS, 100);
        // A missing host is looked for for three seconds at a time: whoever waits for that is late by seconds.
        let mut delays: Vec<Duration> = target.arrived().iter().map(|d| d.at.saturating_sub(sent_at[&d.id])).collect();
        delays.sort_unstable();
        let median = delays[delays.len() / 2];
        assert!(median < Duration::from_secs(1), "half of the datagrams were later by {median:?} than at online");
    }
    let log = stop_alone(&setup, tcpcopy);
    assert_eq!(row(&log, "udp", "sent to targets, all copies"), 4 * row(&log, "udp", "datagrams captured"), "{log}");
    assert_eq!(row(&log, "udp", "copies left out"), 0, "{log}");
}

/// TCP and UDP, in one process, at the same time.
pub(crate) fn beside_tcp(bench: &Bench<'_>) {
    const REQUESTS: u64 = 2_000;
    const DATAGRAMS: u64 = 4_000;
    let lab = Lab::new().expect("a lab");
    let origin = Instant::now();
    let web = at(lab.online.ipv4, PORT);
    let stats = at(lab.online.ipv4, STATS_PORT);
    let web_online = Server::start(&lab.online, web, origin).expect("online");
    let web_target = Server::start(&lab.target, at(lab.target.ipv4, PORT), origin).expect("target");
    let online = Receiver::start(&lab.online, stats, origin, true);
    let target = Receiver::start(&lab.target, at(lab.target.ipv4, STATS_PORT), origin, true);
    let maps = format!("{PORT}-{}:{PORT},{}", lab.target.ipv4, ipv4_map(&lab, at(lab.target.ipv4, STATS_PORT)));
    let mut setup = Setup::udp(bench.programs, bench.folder, &lab, &maps, Some(STATS_PORT));
    let filter = setup.intercept.last_mut().expect("a filter");
    *filter = format!("(tcp and src port {PORT}) or (udp and src port {STATS_PORT})");
    let mut copy = setup.start(&lab);
    copy.wait_until_copying(&lab, lab.online.ipv4.into(), || web_target.requests());
    wait_until_copying(&lab.client, stats, &target);
    let before = web_target.requests();

    let plan = Plan { connections: 20, rate: Some(500.0), ..Plan::new(web, REQUESTS) };
    let client = Running::start(&lab.client, plan);
    Traffic::new(stats, DATAGRAMS).send(&lab.client);
    assert_eq!(client.join().failures, [], "online did not answer");
    settle(before + REQUESTS, QUIET, || web_target.requests());
    assert_perfect(&web_online.received(), &web_target.received(), REQUESTS);
    for receiver in [&online, &target] {
        settle(DATAGRAMS, QUIET, || receiver.count());
        assert_whole(&receiver.arrived(), 0..DATAGRAMS, 100);
    }
    thread::sleep(Duration::from_millis(500));
    let log = copy.stop();
    assert!(row(&log, "udp", "datagrams answered") >= DATAGRAMS, "{log}");
    assert!(row(&log, "target", "connections accepted") > 0, "{log}");
}

/// `-n`, `-f`, `-r`, `--max-rate`: more of it, beside another tcpcopy, and less of it.
pub(crate) fn how_much(bench: &Bench<'_>) {
    const DATAGRAMS: u64 = 2_000;
    const PORTS: usize = 100;
    let copied = |options: &[(&str, &str)]| {
        let lab = Lab::new().expect("a lab");
        let origin = Instant::now();
        let server = at(lab.online.ipv4, STATS_PORT);
        let online = Receiver::start(&lab.online, server, origin, false);
        let to = at(lab.target.ipv4, STATS_PORT);
        let target = Receiver::start(&lab.target, to, origin, false);
        let mut setup = Setup::udp(bench.programs, bench.folder, &lab, &ipv4_map(&lab, to), None);
        for (option, value) in options {
            setup.set(option, value);
        }
        let tcpcopy = setup.start_tcpcopy(&lab.online);
        wait_until_copying(&lab.client, server, &target);
        let ports = Traffic { ports: PORTS, ..Traffic::new(server, DATAGRAMS) }.send(&lab.client);
        settle(DATAGRAMS, QUIET, || online.count());
        settle(u64::MAX, QUIET, || target.count());
        assert_whole(&online.arrived(), 0..DATAGRAMS, 100);
        let log = stop_alone(&setup, tcpcopy);
        (target.arrived(), ports, log)
    };

    let (arrived, ports, _) = copied(&[("-n", "3")]);
    let times = times_arrived(&arrived);
    assert!(times.len() as u64 == DATAGRAMS && times.values().all(|n| *n == 3), "three copies of each");
    let sources = |arrived: &[Arrived]| arrived.iter().map(|d| d.from).collect::<HashSet<_>>();
    assert_eq!(sources(&arrived).len(), 3 * PORTS, "each client has three sources, and keeps them");
    assert!(arrived.iter().all(|d| ports.contains(&d.from.port())), "with addresses enough the ports stay");

    let (arrived, ports, _) = copied(&[("-f", "1"), ("-c", "10.78.0.1")]);
    assert_eq!(sources(&arrived).len(), PORTS);
    let kept = arrived.iter().filter(|d| ports.contains(&d.from.port())).count();
    assert!(arrived.len() as u64 == DATAGRAMS && kept < arrived.len() / 2, "{kept} with a client's own port");

    let (arrived, _, log) = copied(&[("-r", "40")]);
    let clients = sources(&arrived).len();
    assert!((15..=65).contains(&clients), "{clients} of {PORTS} clients are not about 40 %");
    assert_eq!(arrived.len() as u64, clients as u64 * DATAGRAMS / PORTS as u64, "of each client all, or nothing");
    assert!(row(&log, "packets", "not in the sample") >= DATAGRAMS - arrived.len() as u64, "{log}");

    let (arrived, _, log) = copied(&[("--max-rate", "10")]);
    let (sent, left_out) =
        (row(&log, "udp", "sent to targets, all copies"), row(&log, "packets", "above the rate limit"));
    assert_eq!(sent + left_out, row(&log, "udp", "datagrams captured"), "{log}");
    assert!((1..DATAGRAMS / 2).contains(&(arrived.len() as u64)) && arrived.len() as u64 <= sent, "{log}");
}
