//! The traditional set-up: intercept on the target itself, reading NFQUEUE; no assistant, no route, and copies that have
//! their clients' own addresses. What the target answers to a copy must reach nobody.

use std::fs;
use std::io::Read;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use tcpcopy::demo::client::{Plan, Reuse};
use tcpcopy_io::netns::{Host, Lab, Process, has_program, wait_for};
use tcpcopy_tests::copy::{self, PORT, PROBES, Setup};
use tcpcopy_tests::counters::{PacketWatch, ResetWatch, capture_if_wanted, resets_sent};
use tcpcopy_tests::load::{self, Running};
use tcpcopy_tests::settle;
use tcpcopy_tests::udp::{Receiver, Traffic, wait_until_copying};

use crate::harness::Bench;
use crate::udp::row;
use crate::workloads::{QUIET, assert_copied, assert_perfect, web_servers};

const PATIENCE: Duration = Duration::from_secs(30);
const SIGCONT: i32 = 18;
const SIGSTOP: i32 = 19;

/// All rules of a host.
fn rules(host: &Host) -> String {
    ["iptables", "ip6tables"].map(|program| host.output(program, &["-S"]).expect("iptables")).concat()
}

/// A paced client, nginx on both sides; the whole verdict.
fn nginx_copy(bench: &Bench<'_>, lab: &Lab, server: fn(&Host) -> IpAddr, requests: u64, reuse: Reuse) {
    let (online_addr, target_addr) = (server(&lab.online), server(&lab.target));
    let [online, target] = web_servers(bench, lab);
    let no_rules = rules(&lab.target);
    let _captures = [&lab.client, &lab.target].map(|host| capture_if_wanted(host, bench.folder));
    let client_resets = ResetWatch::from_all(&lab.online);
    let from_target = PacketWatch::from(&lab.client, "tcp", target_addr);
    let resets_before = resets_sent(&lab.client);
    let setup = Setup::traditional(bench.programs, bench.folder, target_addr);
    let mut copy = setup.start_with_intercept_on(lab, &lab.target);
    copy.wait_until_copying(lab, online_addr, || target.requests());
    let before = target.requests();

    let plan =
        Plan { connections: 50, rate: Some(1_000.0), reuse, ..Plan::new(SocketAddr::new(online_addr, PORT), requests) };
    assert_eq!(load::run(&lab.client, &plan).failures, [], "online did not answer");
    assert_copied(&online, &target, before, requests);
    assert_eq!(from_target.count(), 0, "packets of the target reached the real client");
    assert_eq!(resets_sent(&lab.client), resets_before, "the real client sent RSTs");
    assert_eq!(client_resets.count(), 0);
    copy.stop();
    assert_eq!(rules(&lab.target), no_rules, "intercept leaves no rule behind");
    // The target answers again, and the watch sees it.
    assert_eq!(ask(&lab.client, SocketAddr::new(target_addr, PORT), 1), 1);
    assert!(from_target.count() > 0);

    let log = fs::read_to_string(setup.intercept_log()).expect("intercept's log");
    for told in
        ["reading NFQUEUE 7", "made the rule `iptables -I OUTPUT", "removed the rule", "accepted for the passlist:0"]
    {
        assert!(log.contains(told), "`{told}` is not in the log:\n{log}");
    }
    assert!(!log.contains("unseen") && !log.contains("WARN") && !log.contains("balance"), "{log}");
}

pub(crate) fn keepalive(bench: &Bench<'_>) {
    nginx_copy(bench, &Lab::new().expect("a lab"), |host| host.ipv4.into(), 5_000, Reuse::KeepAlive);
}

pub(crate) fn new_connections(bench: &Bench<'_>) {
    nginx_copy(bench, &Lab::new().expect("a lab"), |host| host.ipv4.into(), 3_000, Reuse::Close);
}

pub(crate) fn ipv6(bench: &Bench<'_>) {
    nginx_copy(bench, &Lab::new().expect("a lab"), |host| host.ipv6.into(), 1_000, Reuse::Close);
}

/// Requests with numbers that no verdict counts.
fn ask(host: &Host, server: SocketAddr, requests: u64) -> u64 {
    let plan = Plan { first_id: 2 * PROBES, reuse: Reuse::Close, ..Plan::new(server, requests) };
    let outcome = load::run(host, &plan);
    assert_eq!(outcome.failures, [], "{server} did not answer");
    outcome.answered
}

fn is_answered(host: &Host, server: SocketAddr) -> bool {
    host.run(|| TcpStream::connect_timeout(&server, Duration::from_secs(3)).is_ok()).expect("a thread")
}

/// While the copy runs, a host on the passlist uses the target as ever; another one gets no answer.
pub(crate) fn passlist(bench: &Bench<'_>) {
    const REQUESTS: u64 = 3_000;
    let lab = Lab::new().expect("a lab");
    let [online, target] = web_servers(bench, &lab);
    let (server, target_server) =
        (SocketAddr::new(lab.online.ipv4.into(), PORT), SocketAddr::new(lab.target.ipv4.into(), PORT));
    let resets_before = resets_sent(&lab.client);
    let mut setup = Setup::traditional(bench.programs, bench.folder, lab.target.ipv4.into());
    setup.intercept.extend(["-x".to_owned(), format!("192.0.2.0/24,{},127.0.0.1", lab.assistant.ipv4)]);
    let mut copy = setup.start_with_intercept_on(&lab, &lab.target);
    copy.wait_until_copying(&lab, lab.online.ipv4.into(), || target.requests());
    let before = target.requests();

    let plan = Plan { connections: 20, rate: Some(600.0), ..Plan::new(server, REQUESTS) };
    let client = Running::start(&lab.client, plan);
    assert_eq!(ask(&lab.assistant, target_server, 200), 200, "the passlisted host");
    assert!(is_answered(&lab.target, SocketAddr::from(([127, 0, 0, 1], PORT))), "the target itself");
    assert!(!is_answered(&lab.client, target_server), "the client is not on the passlist");
    assert_eq!(client.join().failures, [], "online did not answer");
    settle(before + REQUESTS + 200, QUIET, || target.requests());
    assert_perfect(&online.received(), &target.received(), REQUESTS);
    assert_eq!(resets_sent(&lab.client), resets_before, "the real client sent RSTs");
    copy.stop();

    let log = fs::read_to_string(setup.intercept_log()).expect("intercept's log");
    let last = log.lines().rfind(|line| line.contains("accepted for the passlist:")).expect("the report");
    assert!(!last.contains("passlist:0"), "{last}");
    assert!(is_answered(&lab.client, target_server), "after the end everybody is answered");
}

/// A kill leaves rules behind, but no harm: they let everything pass, and the next start removes them.
pub(crate) fn killed(bench: &Bench<'_>) {
    let lab = Lab::new().expect("a lab");
    let [_online, target] = web_servers(bench, &lab);
    let (server, target_server) =
        (SocketAddr::new(lab.online.ipv4.into(), PORT), SocketAddr::new(lab.target.ipv4.into(), PORT));
    // Somebody else's rule, which nobody may touch.
    lab.target.iptables("-A OUTPUT -p tcp --sport 9999 -j DROP").expect("iptables");
    let no_rules = rules(&lab.target);
    let setup = Setup::traditional(bench.programs, bench.folder, lab.target.ipv4.into());
    let mut copy = setup.start_with_intercept_on(&lab, &lab.target);
    copy.wait_until_copying(&lab, lab.online.ipv4.into(), || target.requests());
    assert!(!is_answered(&lab.assistant, target_server), "nobody is on the passlist");

    let killed = copy.intercept.id();
    copy.intercept.kill();
    assert_eq!(ask(&lab.assistant, target_server, 50), 50, "the target's own service");
    let left = rules(&lab.target);
    assert_eq!(left.matches(&format!("tcpcopy-intercept-{killed}-")).count(), 2, "{left}");

    copy.intercept = setup.start_intercept(&lab.target);
    let now = rules(&lab.target);
    assert!(!now.contains(&format!("tcpcopy-intercept-{killed}-")), "{now}");
    assert!(!is_answered(&lab.assistant, target_server), "it intercepts again");
    // tcpcopy finds it again by itself.
    copy.wait_until_copying(&lab, lab.online.ipv4.into(), || target.requests());
    let before = target.requests();
    let plan = Plan { connections: 10, rate: Some(500.0), reuse: Reuse::Close, ..Plan::new(server, 500) };
    assert_eq!(load::run(&lab.client, &plan).failures, [], "online did not answer");
    assert_eq!(settle(before + 500, QUIET, || target.requests()), before + 500);

    // Without --setup it says what to type, and cleans up all the same.
    copy.intercept.kill();
    let by_hand = Setup {
        intercept: ["--nfqueue", "7"].map(str::to_owned).to_vec(),
        ..Setup::traditional(bench.programs, bench.folder, lab.target.ipv4.into())
    };
    copy.intercept = by_hand.start_intercept(&lab.target);
    assert_eq!(rules(&lab.target), no_rules);
    copy.stop();
    let log = fs::read_to_string(setup.intercept_log()).expect("intercept's log");
    for told in [
        "removed a rule that an intercept which was killed had left",
        "type: iptables -I OUTPUT -p tcp --sport PORT -j NFQUEUE --queue-num 7 --queue-bypass",
    ] {
        assert!(log.contains(told), "`{told}` is not in the log:\n{log}");
    }
}

/// Datagrams' answers, counted and stopped.
pub(crate) fn udp(bench: &Bench<'_>) {
    const STATS_PORT: u16 = 8125;
    const DATAGRAMS: u64 = 2_000;
    let lab = Lab::new().expect("a lab");
    let origin = Instant::now();
    let [server, to] = [&lab.online, &lab.target].map(|host| SocketAddr::new(host.ipv4.into(), STATS_PORT));
    let _online = Receiver::start(&lab.online, server, origin, false);
    let target = Receiver::start(&lab.target, to, origin, true);
    let from_target = PacketWatch::from(&lab.client, "udp", lab.target.ipv4.into());
    let mut setup = Setup::traditional(bench.programs, bench.folder, lab.target.ipv4.into());
    setup.set("-x", &format!("udp:{STATS_PORT}-{to}"));
    setup.set("-s", &lab.target.ipv4.to_string());
    setup.intercept = ["--nfqueue", "7", "--setup", &format!("udp:{STATS_PORT}")].map(str::to_owned).to_vec();
    let copy = setup.start_with_intercept_on(&lab, &lab.target);
    wait_until_copying(&lab.client, server, &target);
    Traffic { ports: 20, len: 200, rate: 2_000, ..Traffic::new(server, DATAGRAMS) }.send(&lab.client);
    assert_eq!(settle(DATAGRAMS, QUIET, || target.count()), DATAGRAMS);
    // The last answers may still be on their way.
    thread::sleep(Duration::from_millis(500));
    assert_eq!(from_target.count(), 0, "answers of the target reached the real client");
    let log = copy.stop();
    assert!(row(&log, "udp", "datagrams answered") >= DATAGRAMS, "{log}");
}

/// While intercept does not get round to reading, the queue fills; what comes then is answered, and counted.
pub(crate) fn overflow(bench: &Bench<'_>) {
    const STATS_PORT: u16 = 8125;
    const LENGTH: u64 = 10;
    const DATAGRAMS: u64 = 50;
    let lab = Lab::new().expect("a lab");
    let to = SocketAddr::new(lab.target.ipv4.into(), STATS_PORT);
    let target = Receiver::start(&lab.target, to, Instant::now(), true);
    let from_target = PacketWatch::from(&lab.client, "udp", lab.target.ipv4.into());
    let mut setup = Setup::traditional(bench.programs, bench.folder, lab.target.ipv4.into());
    setup.intercept = ["--setup", &format!("udp:{STATS_PORT}"), "-q", &LENGTH.to_string()].map(str::to_owned).to_vec();
    let mut intercept = setup.start_intercept(&lab.target);
    let is_stopped = |intercept: &Process| {
        let stat = fs::read_to_string(format!("/proc/{}/stat", intercept.id())).expect("a process");
        stat.rsplit_once(") ").is_some_and(|(_, fields)| fields.starts_with('T'))
    };
    intercept.signal(SIGSTOP);
    wait_for(PATIENCE, || is_stopped(&intercept).then_some(())).expect("a stopped intercept");
    Traffic { ports: 1, rate: 500, ..Traffic::new(to, DATAGRAMS) }.send(&lab.client);
    settle(DATAGRAMS, QUIET, || target.count());
    assert_eq!(settle(DATAGRAMS - LENGTH, QUIET, || from_target.count()), DATAGRAMS - LENGTH, "answered all the same");
    intercept.signal(SIGCONT);
    copy::stop("intercept", &mut intercept);
    assert_eq!(from_target.count(), DATAGRAMS - LENGTH, "what was queued is dropped");
    let log = fs::read_to_string(setup.intercept_log()).expect("intercept's log");
    for told in [
        format!("NFQUEUE 0: packets:{LENGTH}, dropped:{LENGTH}, "),
        format!("let through unseen, queue full:{}", DATAGRAMS - LENGTH),
        "make the queue longer with -q".to_owned(),
        "taken for the test server itself".to_owned(),
    ] {
        assert!(log.contains(&told), "`{told}` is not in the log:\n{log}");
    }
}

/// Runs intercept to its end on a host; returns its exit code and its words.
fn end_of(bench: &Bench<'_>, host: &Host, before: &[&str], words: &[&str]) -> (Option<i32>, String) {
    let program = bench.programs.intercept.to_string_lossy().into_owned();
    let line: Vec<&str> = before.iter().copied().chain([program.as_str()]).chain(words.iter().copied()).collect();
    let mut command = host.command(line[0]);
    command.args(&line[1..]).stderr(Stdio::piped());
    let mut process = Process::start(&mut command).expect("intercept");
    let status = process.wait(PATIENCE).expect("the end of intercept");
    let mut text = String::new();
    let stderr = process.child_mut().stderr.take().expect("its words");
    { stderr }.read_to_string(&mut text).expect("its words");
    (status.code(), text)
}

pub(crate) fn failing_starts(bench: &Bench<'_>) {
    let lab = Lab::new().expect("a lab");
    let no_rules = rules(&lab.target);
    let setup = Setup::traditional(bench.programs, bench.folder, lab.target.ipv4.into());
    let mut first = setup.start_intercept(&lab.target);
    // The queue is taken, and the other's rules stay.
    let (code, text) = end_of(bench, &lab.target, &[], &["--nfqueue", "7", "--setup", "81", "-p", "7000"]);
    let told = ["NFQUEUE 7 is read already", &format!("process {} (intercept)", first.id()), "--queue-num"];
    assert!(code == Some(1) && told.iter().all(|part| text.contains(part)), "{code:?}: {text}");
    assert_eq!(rules(&lab.target).matches("tcpcopy-intercept-").count(), 2);
    copy::stop("intercept", &mut first);
    assert_eq!(rules(&lab.target), no_rules);

    // Root without the privilege.
    if has_program("setpriv") {
        let without = ["setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin"];
        let (code, text) = end_of(bench, &lab.target, &without, &["--nfqueue", "7"]);
        let told = ["CAP_NET_ADMIN", "setcap"];
        assert!(code == Some(3) && told.iter().all(|part| text.contains(part)), "{code:?}: {text}");
    } else {
        eprintln!("SKIPPED: taking a privilege away needs setpriv");
    }
    // Nothing of it is left, so the next one starts.
    let mut last = setup.start_intercept(&lab.target);
    assert!(wait_for(PATIENCE, || (rules(&lab.target) != no_rules).then_some(())).is_some());
    copy::stop("intercept", &mut last);
    assert_eq!(rules(&lab.target), no_rules);
}
