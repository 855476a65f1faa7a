//! What keeps a production host safe from the copy that runs on it: limits, conditions to end, fewer rights.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use tcpcopy::demo::client::{Plan, Reuse};
use tcpcopy::demo::compare::Comparison;
use tcpcopy_io::netns::{Lab, Process, wait_for};
use tcpcopy_tests::copy::{PORT, PROBES, Setup};
use tcpcopy_tests::lines::{LineClient, LineServer};
use tcpcopy_tests::load::{self, Running};
use tcpcopy_tests::settle;

use crate::harness::Bench;
use crate::modules::library;
use crate::own_modules::wait_until_copied;
use crate::workers::make_wan;
use crate::workloads::{QUIET, assert_copied, web_servers};

const PATIENCE: Duration = Duration::from_secs(60);
const NOBODY: u32 = 65_534;
const NET_ADMIN: u64 = 1 << 12;
const NET_RAW: u64 = 1 << 13;

/// The number that a row of the final table ends with; the last one of this name.
fn row(log: &str, name: &str) -> u64 {
    let line = log.lines().rev().find(|line| line.contains(name));
    line.and_then(|line| line.split_whitespace().next_back()?.parse().ok()).unwrap_or(0)
}

/// Processors that a process uses over a time.
fn used(process: &Process, time: Duration) -> f64 {
    let total = || process.cpu_time().expect("a running program").total();
    let (before, began) = (total(), Instant::now());
    thread::sleep(time);
    total().saturating_sub(before).as_secs_f64() / began.elapsed().as_secs_f64()
}

/// New connections all the time, more than the limit has room for: some are left out whole, the others are copied whole, and
/// the processor time stays near the limit.
pub(crate) fn cpu_limit(bench: &Bench<'_>) {
    let lab = Lab::new().expect("a lab");
    let [online, target] = web_servers(bench, &lab);
    let server = SocketAddr::new(lab.online.ipv4.into(), PORT);
    let plan = |first_id, seconds: u64| Plan {
        connections: 20,
        rate: Some(1_000.0),
        reuse: Reuse::Close,
        first_id,
        ..Plan::new(server, seconds * 1_000)
    };
    let mut setup = Setup::new(bench.programs, bench.folder, &lab);
    let mut copy = setup.start(&lab);
    copy.wait_until_copying(&lab, server.ip(), || target.requests());
    let client = Running::start(&lab.client, plan(0, 6));
    thread::sleep(Duration::from_secs(1));
    let without_limit = used(&copy.tcpcopy, Duration::from_secs(4));
    client.join();
    settle(u64::MAX, Duration::from_secs(2), || target.requests());
    copy.stop();

    let percent = (without_limit * 50.0).ceil();
    setup.set("--cpu-limit", &format!("{percent:.0}"));
    let mut copy = setup.start(&lab);
    copy.wait_until_copying(&lab, server.ip(), || target.requests());
    let client = Running::start(&lab.client, plan(1_000_000, 16));
    // Until the share has found its place.
    thread::sleep(Duration::from_secs(5));
    let with_limit = used(&copy.tcpcopy, Duration::from_secs(10)) * 100.0;
    assert_eq!(client.join().failures, [], "online did not answer");
    settle(u64::MAX, Duration::from_secs(3), || target.requests());
    let log = copy.stop();
    let figures = format!("{with_limit:.0} % used, limit {percent:.0} %, {:.0} % without", without_limit * 100.0);
    println!("{figures}");
    assert!(with_limit < percent * 1.4 + 2.0, "{figures}\n{log}");

    let left_out = row(&log, "left out for the limit of processor time");
    assert!(left_out > 500, "{left_out} sessions left out; {figures}\n{log}");
    assert!(log.contains("(--cpu-limit)"), "{log}");
    let is_limited = |id: u64| (1_000_000..PROBES).contains(&id);
    let result = Comparison::new(&online.received(), &target.received(), is_limited);
    assert!(result.target > 500, "{} requests were copied; {figures}", result.target);
    assert!(result.altered.is_empty() && result.duplicated.is_empty() && result.invented.is_empty(), "{result:?}");
    // One request each.
    let closed = row(&log, "ended early").saturating_sub(left_out);
    assert!(result.lost.len() as u64 <= left_out + closed, "lost {} of {left_out} left out", result.lost.len());
}

/// The target is stopped and refuses every connection: tcpcopy ends by itself, with the figures and its code.
pub(crate) fn stop_if_errors(bench: &Bench<'_>) {
    let lab = Lab::new().expect("a lab");
    let [_online, mut target] = web_servers(bench, &lab);
    let server = SocketAddr::new(lab.online.ipv4.into(), PORT);
    let mut setup = Setup::new(bench.programs, bench.folder, &lab);
    setup.set("--stop-if", "errors>20% for 3s");
    let mut copy = setup.start(&lab);
    copy.wait_until_copying(&lab, server.ip(), || target.requests());
    let plan = Plan { connections: 10, rate: Some(200.0), reuse: Reuse::Close, ..Plan::new(server, 100_000) };
    let client = Running::start(&lab.client, plan);
    thread::sleep(Duration::from_secs(5));
    assert_eq!(copy.tcpcopy.try_wait(), None, "while the target answers, the copy goes on");
    target.process.kill();
    let status = copy.tcpcopy.wait(PATIENCE);
    client.progress.stop.store(true, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(client.join().failures, [], "online did not answer");
    let log = fs::read_to_string(setup.tcpcopy_log()).expect("tcpcopy's log");
    assert_eq!(status.and_then(|status| status.code()), Some(5), "{log}");
    for said in
        ["stopping, because of --stop-if 'errors>20% for 3s': ", "refused, reset or not answered", "sessions   seen"]
    {
        assert!(log.contains(said), "`{said}` is not in the log:\n{log}");
    }
}

/// Whether this process may become any user: not in a user namespace that has only one.
fn has_users() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let all = map.split_whitespace().eq(["0", "0", "4294967295"]);
    if !all {
        eprintln!("SKIPPED: there is no other user in this user namespace");
    }
    all
}

/// A folder that belongs to nobody, within the test's.
fn folder_of_nobody(bench: &Bench<'_>) -> PathBuf {
    let folder = bench.folder.join("nobody");
    fs::create_dir(&folder).expect("a folder");
    chown(&folder, Some(NOBODY), Some(NOBODY)).expect("chown");
    fs::set_permissions(bench.folder, fs::Permissions::from_mode(0o755)).expect("chmod");
    folder
}

/// A field of each thread's status.
fn of_threads(process: &Process, field: &str) -> Vec<String> {
    let threads = fs::read_dir(format!("/proc/{}/task", process.id())).expect("threads");
    let status = |folder: PathBuf| fs::read_to_string(folder.join("status")).expect("status");
    let value = |status: String| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
            .expect("the field")
            .trim()
            .to_owned()
    };
    threads.map(|thread| value(status(thread.expect("a thread").path()))).collect()
}

/// Every thread runs as nobody, and none has more than these capabilities, or could get more.
fn assert_is_nobody(process: &Process, capabilities: u64) {
    let nobody = [NOBODY.to_string().as_str(); 4].join("\t");
    for field in ["Uid", "Gid"] {
        assert!(
            of_threads(process, field).iter().all(|ids| *ids == nobody),
            "{field}: {:?}",
            of_threads(process, field)
        );
    }
    let sets = |field| -> Vec<u64> {
        let texts = of_threads(process, field);
        texts.iter().map(|text| u64::from_str_radix(text, 16).expect("a set")).collect()
    };
    for field in ["CapEff", "CapPrm", "CapInh", "CapAmb", "CapBnd"] {
        assert!(sets(field).iter().all(|set| set & !capabilities == 0), "{field}: {:x?}", sets(field));
    }
    assert!(sets("CapEff").contains(&capabilities), "{:x?}", sets("CapEff"));
    assert!(of_threads(process, "NoNewPrivs").iter().all(|on| on == "1"), "{:?}", of_threads(process, "NoNewPrivs"));
}

fn logged(file: &Path, said: &str) {
    let found = wait_for(QUIET, || fs::read_to_string(file).ok()?.contains(said).then_some(()));
    assert!(
        found.is_some(),
        "`{said}` is not in {}:\n{}",
        file.display(),
        fs::read_to_string(file).unwrap_or_default()
    );
}

/// Both programs become nobody with one capability, and still open their logs again, capture on a device that went away,
/// and remove their pid files.
pub(crate) fn as_nobody(bench: &Bench<'_>) {
    if !has_users() {
        return;
    }
    let lab = Lab::new().expect("a lab");
    let [online, target] = web_servers(bench, &lab);
    make_wan(&lab);
    let server = IpAddr::from([10, 99, 0, 1]);
    let folder = folder_of_nobody(bench);
    let path = |name: &str| folder.join(name).to_str().expect("a plain path").to_owned();
    let mut setup = Setup::new(bench.programs, bench.folder, &lab);
    setup.set("-i", "wan");
    setup.set_workers("2");
    setup.tcpcopy.extend(
        ["--user", "nobody", "--metrics", "0", "-l", &path("copy.log"), "-P", &path("copy.pid")].map(str::to_owned),
    );
    let own = ["--user", "nobody:nogroup", "--metrics", "0", "-l", &path("int.log"), "-P", &path("int.pid")];
    setup.intercept.extend(own.map(str::to_owned));
    let mut copy = setup.start(&lab);
    copy.wait_until_copying(&lab, server, || target.requests());
    for process in [&copy.tcpcopy, &copy.intercept] {
        assert_is_nobody(process, NET_RAW);
    }
    logged(&folder.join("copy.log"), "running as user nobody with CAP_NET_RAW");

    // Rotated logs.
    for (name, process) in [("copy.log", &mut copy.tcpcopy), ("int.log", &mut copy.intercept)] {
        fs::rename(folder.join(name), folder.join(format!("{name}.1"))).expect("the log is there");
        process.signal(1);
        logged(&folder.join(name), "log opened again");
    }
    lab.online.ip("link delete wan").expect("ip link");
    logged(&folder.join("copy.log"), "it is opened again when the device is back");
    make_wan(&lab);
    logged(&folder.join("copy.log"), "capturing on `wan` again");

    copy.wait_until_copying(&lab, server, || target.requests());
    let before = target.requests();
    let plan = Plan {
        connections: 20,
        rate: Some(500.0),
        reuse: Reuse::Close,
        ..Plan::new(SocketAddr::new(server, PORT), 1_000)
    };
    assert_eq!(load::run(&lab.client, &plan).failures, [], "online did not answer");
    assert_copied(&online, &target, before, 1_000);
    copy.stop();
    for name in ["copy.pid", "int.pid"] {
        assert!(!folder.join(name).exists(), "{name} is left");
    }
}

/// In the traditional set-up intercept needs more: verdicts, and iptables to make, count and remove its rules.
pub(crate) fn queue_as_nobody(bench: &Bench<'_>) {
    if !has_users() {
        return;
    }
    let lab = Lab::new().expect("a lab");
    let [online, target] = web_servers(bench, &lab);
    let rules =
        || ["iptables", "ip6tables"].map(|program| lab.target.output(program, &["-S"]).expect("rules")).concat();
    let no_rules = rules();
    let mut setup = Setup::traditional(bench.programs, bench.folder, lab.target.ipv4.into());
    setup.intercept.extend(["--user", "nobody", "--stats-interval", "1"].map(str::to_owned));
    let mut copy = setup.start_with_intercept_on(&lab, &lab.target);
    let server = SocketAddr::new(lab.online.ipv4.into(), PORT);
    copy.wait_until_copying(&lab, server.ip(), || target.requests());
    let wanted = NET_ADMIN | NET_RAW;
    let effective = of_threads(&copy.intercept, "CapEff");
    // The second thread answers on the socket, and needs nothing.
    assert_eq!(effective.iter().map(|set| u64::from_str_radix(set, 16)).collect::<Vec<_>>(), [Ok(wanted), Ok(0)]);
    assert_is_nobody(&copy.intercept, wanted);
    assert_ne!(rules(), no_rules);
    let before = target.requests();
    let plan = Plan { connections: 10, rate: Some(500.0), reuse: Reuse::Close, ..Plan::new(server, 1_000) };
    assert_eq!(load::run(&lab.client, &plan).failures, [], "online did not answer");
    assert_copied(&online, &target, before, 1_000);
    copy.stop();
    assert_eq!(rules(), no_rules, "intercept leaves no rule behind");
}

/// A module that never comes back holds one of two workers: from then on the service manager's watchdog hears nothing.
pub(crate) fn hanging_worker(bench: &Bench<'_>) {
    let library = library(bench, "core/io/tests/modules", "sample");
    let lab = Lab::new().expect("a lab");
    let _online = LineServer::start(&lab.online, PORT);
    let target = LineServer::start(&lab.target, PORT);
    let mut setup = Setup::new(bench.programs, bench.folder, &lab);
    setup.set("-x", &format!("{}:80-{}:80", library.display(), lab.target.ipv4));
    setup.set("--proto-opt", "sample.panic-in=nothing, but hang");
    setup.set("--workers", "2");
    let _intercept = setup.start_intercept(&lab.assistant);
    let socket = bench.folder.join("notify");
    let manager = UnixDatagram::bind(&socket).expect("a socket");
    manager.set_read_timeout(Some(Duration::from_millis(100))).expect("a limit");
    let is_alive = || {
        let mut bytes = [0; 4096];
        let n = manager.recv(&mut bytes).ok()?;
        bytes[..n].starts_with(b"WATCHDOG=1").then_some(())
    };
    let log = setup.tcpcopy_log();
    let mut command = lab.online.command(&bench.programs.tcpcopy);
    command.args(&setup.tcpcopy).env("NOTIFY_SOCKET", &socket).env("WATCHDOG_USEC", "1000000");
    let mut tcpcopy = Process::start(command.arg("-l").arg(&log).stdout(Stdio::null())).expect("tcpcopy");
    wait_until_copied(&lab, PORT, &target, bench);
    for _ in 0..3 {
        assert!(wait_for(PATIENCE, is_alive).is_some(), "both workers answer");
    }
    let mut client = LineClient::connect(&lab, PORT);
    client.talk(&["hang!".to_owned()]);
    logged(&log, "the service manager is not told that all is well");
    while is_alive().is_some() {}
    assert_eq!(wait_for(Duration::from_secs(8), is_alive), None, "one of the workers hangs");
    let status = tcpcopy.stop(PATIENCE);
    assert!(status.is_some_and(|status| status.success()), "it ends all the same: {status:?}");
}
