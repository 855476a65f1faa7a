//! Two workers in each program: together they do what one does, and each does a part of it.

use std::collections::HashSet;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tcpcopy::demo::client::Reuse;
use tcpcopy::demo::server::Received;
use tcpcopy_io::netns::{Lab, wait_for};
use tcpcopy_tests::copy::{Copy, Setup};
use tcpcopy_tests::load;
use tcpcopy_tests::settle;

use crate::harness::Bench;
use crate::own_modules::{assert_good, root};
use crate::udp::row;
use crate::workloads::{QUIET, assert_copied, assert_perfect, at, plan, web_servers};

const REQUESTS: u64 = 3_000;

/// The connections on which requests came.
fn connections(received: &[Received]) -> u64 {
    received.iter().map(|received| received.connection).collect::<HashSet<_>>().len() as u64
}

/// The number behind a name in the last line of intercept's log that has both.
fn number(log: &str, line: &str, name: &str) -> u64 {
    let line = log.lines().rfind(|text| text.contains(line) && text.contains(name));
    let digits = line.and_then(|text| text.split(name).nth(1)?.split(|c: char| !c.is_ascii_digit()).next());
    digits
        .and_then(|digits| digits.parse().ok())
        .unwrap_or_else(|| panic!("no `{name}` in a line with `{line:?}`:\n{log}"))
}

/// Stops the programs. Each connection must have been seen by one worker and once, each response relayed once, and where
/// clients have many ports each worker must have had a part of both.
fn stop_and_judge(copy: Copy, setup: &Setup<'_>, target: &[Received], are_spread: bool) {
    let log = copy.stop();
    let seen = ["worker 0", "worker 1"].map(|worker| row(&log, worker, "sessions seen"));
    assert_eq!(seen.iter().sum::<u64>(), row(&log, "sessions", "seen"), "{log}");
    assert_eq!(seen.iter().sum::<u64>(), connections(target), "a connection was seen by both, or never:\n{log}");
    assert_eq!(row(&log, "kernel", "lost: the capture buffer was full"), 0, "{log}");
    let intercept = fs::read_to_string(setup.intercept_log()).expect("intercept's log");
    let captured = ["worker 0:", "worker 1:"].map(|worker| number(&intercept, worker, "captured:"));
    assert_eq!(captured.iter().sum::<u64>(), number(&intercept, "total resp packs:", "captured:"), "{intercept}");
    assert!(!log.contains("balance") && !intercept.contains("balance"), "{log}{intercept}");
    if are_spread {
        // That one of two has none of so many connections has no chance worth speaking of.
        assert!(seen.iter().chain(&captured).all(|part| *part > 0), "sessions {seen:?}, responses {captured:?}");
    }
}

fn share(bench: &Bench<'_>, reuse: Reuse, rate: f64, options: &[(&str, &str)]) {
    let lab = Lab::new().expect("a lab");
    let [online, target] = web_servers(bench, &lab);
    let mut setup = Setup::new(bench.programs, bench.folder, &lab);
    setup.set_workers("2");
    for (option, value) in options {
        setup.set(option, value);
    }
    let mut copy = setup.start(&lab);
    copy.wait_until_copying(&lab, lab.online.ipv4.into(), || target.requests());
    let before = target.requests();
    assert_eq!(
        load::run(&lab.client, &plan(at(lab.online.ipv4), rate, REQUESTS, 50, reuse)).failures,
        [],
        "online did not answer"
    );
    assert_copied(&online, &target, before, REQUESTS);
    stop_and_judge(copy, &setup, &target.received(), true);
}

pub(crate) fn keepalive(bench: &Bench<'_>) {
    share(bench, Reuse::KeepAlive, 1_500.0, &[]);
}

pub(crate) fn new_connections(bench: &Bench<'_>) {
    share(bench, Reuse::Close, 750.0, &[]);
}

/// What a look of the module in `slow_module.c` at a request takes.
const LOOK: Duration = Duration::from_millis(3);

/// Compiles that module into `folder`.
fn slow_module(folder: &Path) -> PathBuf {
    let library = folder.join("libtcpcopy_slow.so");
    let mut cc = Command::new("cc");
    cc.args(["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-I"]);
    cc.arg(root().join("plugins/api/include"))
        .arg("-o")
        .arg(&library)
        .arg(root().join("tests/tests/lab/slow_module.c"));
    assert_good(&cc.output().expect("cc (package gcc)"));
    library
}

/// Connections come half again as fast as one worker's module can look at their requests: one falls behind, two do not.
pub(crate) fn too_much_for_one(bench: &Bench<'_>) {
    const CONNECTIONS: u64 = 2_000;
    let rate = 1.5 / LOOK.as_secs_f64();
    let module = slow_module(bench.folder).display().to_string();
    for workers in ["1", "2"] {
        let folder = bench.folder.join(workers);
        fs::create_dir(&folder).expect("a folder");
        let bench = Bench { folder: &folder, ..*bench };
        let lab = Lab::new().expect("a lab");
        let [online, target] = web_servers(&bench, &lab);
        let mut setup = Setup::new(bench.programs, bench.folder, &lab);
        setup.set_workers(workers);
        setup.set("--proto", &module);
        let mut copy = setup.start(&lab);
        copy.wait_until_copying(&lab, lab.online.ipv4.into(), || target.requests());
        let before = target.requests();
        let start = Instant::now();
        let outcome = load::run(&lab.client, &plan(at(lab.online.ipv4), rate, CONNECTIONS, 50, Reuse::Close));
        assert_eq!(outcome.failures, [], "online did not answer");
        let took = start.elapsed();
        settle(before + CONNECTIONS, QUIET, || target.requests());
        let took_all = start.elapsed();
        println!("{workers} workers: {CONNECTIONS} connections in {took:.1?}, all of them copied after {took_all:.1?}");
        assert_perfect(&online.received(), &target.received(), CONNECTIONS);
        if workers == "1" {
            assert!(took_all >= LOOK * CONNECTIONS as u32, "one worker was asked for each request");
            copy.stop();
        } else {
            stop_and_judge(copy, &setup, &target.received(), true);
        }
    }
}

/// Packet sockets share packets as libpcap's rings do.
pub(crate) fn packet_sockets(bench: &Bench<'_>) {
    share(bench, Reuse::Close, 750.0, &[("--capture", "raw")]);
}

/// The C programs' link, whose routes each worker of intercept knows, too.
pub(crate) fn legacy_link(bench: &Bench<'_>) {
    share(bench, Reuse::Close, 500.0, &[("--intercept-protocol", "legacy")]);
}

pub(crate) fn ipv6(bench: &Bench<'_>) {
    let lab = Lab::new().expect("a lab");
    let [online, target] = web_servers(bench, &lab);
    let mut setup = Setup::ipv6(bench.programs, bench.folder, &lab);
    setup.set_workers("2");
    let mut copy = setup.start(&lab);
    let server: IpAddr = lab.online.ipv6.into();
    copy.wait_until_copying(&lab, server, || target.requests());
    for (reuse, first_id) in [(Reuse::KeepAlive, 0), (Reuse::Close, 10_000)] {
        let before = target.requests();
        let plan = load_plan(server, reuse, first_id);
        assert_eq!(load::run(&lab.client, &plan).failures, [], "online did not answer");
        settle(before + 1_000, QUIET, || target.requests());
    }
    assert_perfect(&online.received(), &target.received(), 2_000);
    stop_and_judge(copy, &setup, &target.received(), true);
}

fn load_plan(server: IpAddr, reuse: Reuse, first_id: u64) -> tcpcopy::demo::client::Plan {
    tcpcopy::demo::client::Plan { first_id, ..plan(at(server), 500.0, 1_000, 20, reuse) }
}

/// Makes a device `wan` between online and the client, which can go away without the rest of the lab.
pub(crate) fn make_wan(lab: &Lab) {
    lab.cable(&lab.online, &lab.client, "wan").expect("a cable");
    for (host, address) in [(&lab.online, "10.99.0.1/24"), (&lab.client, "10.99.0.2/24")] {
        host.ip(&format!("address add {address} dev wan")).expect("ip address");
    }
}

/// A device is removed and made again: all workers lose their captures, and open them again, and each flow is still with
/// one of them.
pub(crate) fn a_device_goes_away(bench: &Bench<'_>) {
    let lab = Lab::new().expect("a lab");
    let [online, target] = web_servers(bench, &lab);
    make_wan(&lab);
    let server: IpAddr = [10, 99, 0, 1].into();
    let mut setup = Setup::new(bench.programs, bench.folder, &lab);
    setup.set("-i", "wan");
    setup.set_workers("2");
    let mut copy = setup.start(&lab);
    copy.wait_until_copying(&lab, server, || target.requests());

    let lines = |said: &str| {
        let log = fs::read_to_string(setup.tcpcopy_log()).expect("tcpcopy's log");
        log.lines().filter(|line| line.contains(said)).count()
    };
    let both_say = |said: &str| {
        let all = wait_for(QUIET, || (lines(said) >= 2).then_some(()));
        assert!(all.is_some(), "{} of 2 workers say `{said}`", lines(said));
    };
    lab.online.ip("link delete wan").expect("ip link");
    both_say("it is opened again when the device is back");
    make_wan(&lab);
    both_say("capturing on `wan` again");

    copy.wait_until_copying(&lab, server, || target.requests());
    let before = target.requests();
    for (reuse, first_id) in [(Reuse::KeepAlive, 0), (Reuse::Close, 10_000)] {
        assert_eq!(load::run(&lab.client, &load_plan(server, reuse, first_id)).failures, [], "online did not answer");
    }
    assert_copied(&online, &target, before, 2_000);
    stop_and_judge(copy, &setup, &target.received(), true);
}

/// Every worker of the new one learns the routes again, and each tcpcopy's connection may have the number that another
/// one's had.
pub(crate) fn restarted_intercept(bench: &Bench<'_>) {
    let lab = Lab::new().expect("a lab");
    let [online, target] = web_servers(bench, &lab);
    let mut setup = Setup::new(bench.programs, bench.folder, &lab);
    setup.set_workers("2");
    let mut copy = setup.start(&lab);
    copy.wait_until_copying(&lab, lab.online.ipv4.into(), || target.requests());
    let before = target.requests();
    let load = load::Running::start(&lab.client, plan(at(lab.online.ipv4), 500.0, REQUESTS, 50, Reuse::KeepAlive));
    settle(before + REQUESTS / 3, QUIET, || target.requests());
    copy.intercept.kill();
    copy.intercept = setup.start_intercept(&lab.assistant);
    assert_eq!(load.join().failures, [], "online did not answer");
    assert_copied(&online, &target, before, REQUESTS);
    stop_and_judge(copy, &setup, &target.received(), true);
}
