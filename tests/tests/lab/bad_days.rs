//! What goes wrong around tcpcopy, and must not go wrong because of it.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use tcpcopy::demo::client::{Plan, Reuse};
use tcpcopy::demo::compare::Comparison;
use tcpcopy::demo::server::Server;
use tcpcopy_io::netns::{Lab, wait_for};
use tcpcopy_tests::copy::{INTERCEPT_PORT, PORT, PROBES, Setup};
use tcpcopy_tests::load::{self, Running};
use tcpcopy_tests::settle;

use crate::harness::Bench;
use crate::workloads::{QUIET, assert_perfect, web_servers};

/// The last number in front of which, or behind which, a log's line says `what`; `None` when no line does.
fn counted(log: &str, what: &str) -> Option<u64> {
    let line = log.lines().rev().find(|line| line.contains(what))?;
    let (before, after) = line.split_once(what)?;
    let number = |text: &str| text.trim_matches(|c: char| !c.is_ascii_digit()).parse().ok();
    let behind = after.trim_start_matches([':', '=', ' ']);
    let digits = behind.find(|c: char| !c.is_ascii_digit()).unwrap_or(behind.len());
    number(&behind[..digits]).or_else(|| number(before.split_whitespace().next_back()?))
}

/// While intercept is away, the target's answers are lost; what the clients send meanwhile must not be.
pub(crate) fn intercept_restart(bench: &Bench<'_>) {
    intercept_restart_with(bench, &[]);
}

/// The same over the C programs' link, where nothing but the connection itself tells that intercept is back.
pub(crate) fn intercept_restart_legacy(bench: &Bench<'_>) {
    intercept_restart_with(bench, &["--intercept-protocol", "legacy"]);
}

fn intercept_restart_with(bench: &Bench<'_>, options: &[&str]) {
    const CONNECTIONS: usize = 20;
    let lab = Lab::new().expect("a lab");
    let origin = Instant::now();
    let server = SocketAddr::new(lab.online.ipv4.into(), PORT);
    let online = Server::start(&lab.online, server, origin).expect("online");
    let target = Server::start(&lab.target, SocketAddr::new(lab.target.ipv4.into(), PORT), origin).expect("target");
    let mut setup = Setup::new(bench.programs, bench.folder, &lab);
    setup.tcpcopy.extend(options.iter().map(|word| (*word).to_owned()));
    let mut copy = setup.start(&lab);
    copy.wait_until_copying(&lab, lab.online.ipv4.into(), || target.requests());
    let before = target.requests();

    let plan = Plan { connections: CONNECTIONS, rate: Some(500.0), ..Plan::new(server, 4_000) };
    let client = Running::start(&lab.client, plan);
    thread::sleep(Duration::from_secs(2));
    copy.intercept.kill();
    thread::sleep(Duration::from_secs(1));
    copy.intercept = setup.start_intercept(&lab.assistant);
    assert_eq!(client.join().failures, [], "online did not answer");

    settle(before + 4_000, QUIET, || target.requests());
    let result = Comparison::new(&online.received(), &target.received(), |id| id < PROBES);
    assert!(result.lost.len() <= CONNECTIONS, "lost more than what was in flight: {:?}", result.lost);
    for (what, requests) in
        [("altered", &result.altered), ("more than once", &result.duplicated), ("out of order", &result.out_of_order)]
    {
        assert!(requests.is_empty(), "{what}: {requests:?}");
    }
    copy.stop();
}

/// A target that goes away loses requests; each must be counted, and those that come after its return must arrive.
pub(crate) fn target_restart(bench: &Bench<'_>) {
    let lab = Lab::new().expect("a lab");
    let server = SocketAddr::new(lab.online.ipv4.into(), PORT);
    let [online, mut target] = web_servers(bench, &lab);
    let mut copy = Setup::new(bench.programs, bench.folder, &lab).start(&lab);
    copy.wait_until_copying(&lab, lab.online.ipv4.into(), || target.requests());

    let plan = Plan { connections: 20, rate: Some(500.0), ..Plan::new(server, 3_000) };
    let client = Running::start(&lab.client, plan);
    thread::sleep(Duration::from_secs(2));
    target.process.kill();
    thread::sleep(Duration::from_secs(1));
    target.restart(&lab.target);
    assert_eq!(client.join().failures, [], "online did not answer");
    settle(u64::MAX, Duration::from_secs(5), || target.requests());

    // The target is back: whatever begins now must arrive.
    let before = target.requests();
    const LATER: u64 = 1_000_000;
    let plan =
        Plan { reuse: Reuse::Close, connections: 20, rate: Some(500.0), first_id: LATER, ..Plan::new(server, 1_000) };
    assert_eq!(load::run(&lab.client, &plan).failures, [], "online did not answer");
    settle(before + 1_000, QUIET, || target.requests());
    let later = |all: Vec<_>| -> Vec<_> {
        all.into_iter().filter(|r: &tcpcopy::demo::server::Received| r.id >= Some(LATER)).collect()
    };
    assert_perfect(&later(online.received()), &later(target.received()), 1_000);

    let log = copy.stop();
    let result = Comparison::new(&online.received(), &target.received(), |id| id < LATER);
    let lengths = online.received();
    let lost: u64 =
        lengths.iter().filter(|r| r.id.is_some_and(|id| result.lost.contains(&id))).map(|r| r.fingerprint).sum();
    let dropped: u64 =
        ["in a dropped packet", "waiting when their session ended", "unacknowledged when the target closed"]
            .iter()
            .filter_map(|reason| counted(&log, reason))
            .sum();
    // An acknowledged request may die in the target's own buffers: at most what each connection had under way.
    let in_flight = 20 * 200;
    assert!(
        lost <= dropped + in_flight,
        "{} requests with {lost} bytes are missing, but tcpcopy counted {dropped} dropped bytes",
        result.lost.len()
    );
    assert!(result.altered.is_empty(), "altered: {:?}", result.altered);
}

pub(crate) fn target_unreachable(bench: &Bench<'_>) {
    const SESSIONS: u64 = 12;
    let lab = Lab::new().expect("a lab");
    let server = SocketAddr::new(lab.online.ipv4.into(), PORT);
    let online = Server::start(&lab.online, server, Instant::now()).expect("online");
    // It does not refuse, it is silent.
    lab.target.iptables("-A INPUT -p tcp --dport 80 -j DROP").expect("iptables");
    let setup = Setup::new(bench.programs, bench.folder, &lab);
    let copy = setup.start(&lab);
    let send = |sessions| {
        let plan = Plan { reuse: Reuse::Close, rate: Some(50.0), connections: 4, ..Plan::new(server, sessions) };
        assert_eq!(load::run(&lab.client, &plan).failures, [], "online did not answer");
    };
    // The first sessions may come before the capture is ready; their SYNs at the target tell when it is.
    let ready = wait_for(Duration::from_secs(30), || {
        send(1);
        let rules = lab.target.output("iptables", &["-v", "-S", "INPUT"]).expect("iptables");
        rules.lines().any(|rule| rule.contains("--dport") && !rule.contains("-c 0 0")).then_some(())
    });
    assert!(ready.is_some(), "no SYN reached the target; see {}", bench.folder.display());
    send(SESSIONS);
    let seen = online.connections();
    // Every SYN is sent again a few times; then the session is given up.
    thread::sleep(Duration::from_secs(30));
    let log = copy.stop();
    let unanswered = counted(&log, "target did not answer the SYN").unwrap_or_default();
    assert!((SESSIONS..=seen).contains(&unanswered), "{unanswered} sessions counted of {seen}:\n{log}");
}

/// Strangers on intercept's port: a port scan, a browser, noise, a peer that says nothing.
pub(crate) fn garbage_to_intercept(bench: &Bench<'_>) {
    let lab = Lab::new().expect("a lab");
    let origin = Instant::now();
    let server = SocketAddr::new(lab.online.ipv4.into(), PORT);
    let online = Server::start(&lab.online, server, origin).expect("online");
    let target = Server::start(&lab.target, SocketAddr::new(lab.target.ipv4.into(), PORT), origin).expect("target");
    let setup = Setup::new(bench.programs, bench.folder, &lab);
    let mut copy = setup.start(&lab);
    copy.wait_until_copying(&lab, lab.online.ipv4.into(), || target.requests());
    let before = target.requests();

    let intercept = SocketAddr::new(lab.assistant.ipv4.into(), INTERCEPT_PORT);
    let noise: Vec<u8> = (0..100_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let strangers: [&[u8]; 5] = [b"", b"GET / HTTP/1.1\r\nHost: intercept\r\n\r\n", &[0xff; 64], &[0; 64], &noise];
    let plan = Plan { connections: 10, rate: Some(300.0), ..Plan::new(server, 900) };
    let client = Running::start(&lab.client, plan);
    for bytes in strangers {
        let closed = lab.client.run(|| {
            let mut stream = TcpStream::connect_timeout(&intercept, Duration::from_secs(10)).expect("intercept's port");
            stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a time-out");
            // The other side may have hung up already.
            let _ = stream.write_all(bytes);
            if bytes.is_empty() {
                let _ = stream.shutdown(Shutdown::Both);
            }
            let mut answer = Vec::new();
            match stream.read_to_end(&mut answer) {
                Ok(_) => true,
                Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
            }
        });
        let what = &bytes[..bytes.len().min(16)];
        assert!(closed.expect("the client's namespace"), "intercept did not close the connection after {what:?}");
    }
    assert_eq!(client.join().failures, [], "online did not answer");
    settle(before + 900, QUIET, || target.requests());
    assert_perfect(&online.received(), &target.received(), 900);
    assert!(copy.intercept.try_wait().is_none(), "intercept ended");
    copy.stop();
    let log = fs::read_to_string(setup.intercept_log()).expect("intercept's log");
    assert!(!log.contains("panicked"), "{log}");
}
