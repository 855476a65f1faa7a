//! Captures that tcpdump has written, replayed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tcpcopy::demo::client::{Plan, Reuse};
use tcpcopy::demo::compare::Comparison;
use tcpcopy::demo::server::Received;
use tcpcopy_io::netns::{Host, Lab, Process};
use tcpcopy_tests::copy::{PROBES, Setup, stop};
use tcpcopy_tests::counters;
use tcpcopy_tests::load;
use tcpcopy_tests::nginx::Nginx;
use tcpcopy_tests::settle;

use crate::harness::Bench;
use crate::workloads::{assert_perfect, at};

const PATIENCE: Duration = Duration::from_secs(60);

/// Runs a load against online while tcpdump looks on; what online got, and the capture.
fn record(lab: &Lab, folder: &Path, plans: &[Plan], arguments: &[&str]) -> (Vec<Received>, PathBuf) {
    let online = Nginx::start(&lab.online, folder);
    let file = folder.join("online.pcap");
    let mut tcpdump = counters::capture(&lab.online, &file, arguments);
    for plan in plans {
        assert_eq!(load::run(&lab.client, plan).failures, [], "online did not answer");
    }
    // It gets what it has captured up to a second later, and forgets what it has not got when it ends.
    let size = || fs::metadata(&file).expect("the capture").len();
    settle(u64::MAX, Duration::from_secs(3), size);
    stop("tcpdump", &mut tcpdump);
    (online.received(), file)
}

fn plan(lab: &Lab, first_id: u64, rate: f64, requests: u64, reuse: Reuse) -> Plan {
    let server = at(lab.online.ipv4);
    Plan { connections: 10, rate: Some(rate), reuse, first_id, ..Plan::new(server, requests) }
}

/// Runs a replay to its end. Returns what it printed, and how long it took.
pub(crate) fn replay(host: &Host, programs: &Path, folder: &Path, words: &str) -> (String, Duration) {
    let output = folder.join("replay.txt");
    let file = File::options().create(true).append(true).open(&output).expect("a file");
    let mut command = host.command(programs);
    command.args(words.split_whitespace()).stdout(file.try_clone().expect("a descriptor")).stderr(file);
    let began = Instant::now();
    let mut tcpcopy = Process::start(&mut command).expect("tcpcopy");
    let status = tcpcopy.wait(PATIENCE);
    let printed = fs::read_to_string(output).expect("what it printed");
    assert!(status.is_some_and(|status| status.success()), "{status:?}: {printed}");
    assert!(!printed.contains("balance"), "{printed}");
    (printed, began.elapsed())
}

/// By the file's times, faster, and as fast as possible, packed and not: each time the whole of it arrives once.
pub(crate) fn files(bench: &Bench<'_>) {
    let lab = Lab::new().expect("a lab");
    let plans = [plan(&lab, 0, 500.0, 1_000, Reuse::KeepAlive), plan(&lab, 10_000, 250.0, 500, Reuse::Close)];
    let (sent, file) = record(&lab, bench.folder, &plans, &["tcp port 80"]);
    let gzip = Command::new("gzip").arg("--keep").arg(&file).status().expect("gzip");
    assert!(gzip.success());
    let packed = format!("{}.gz", file.display());
    let plain = file.display().to_string();

    let setup = Setup::new(bench.programs, bench.folder, &lab);
    let intercept = setup.start_intercept(&lab.assistant);
    let common = format!("-x 80-{}:80 -s {} -c 10.78.0.x", lab.target.ipv4, lab.assistant.ipv4);
    for (i, (options, at_least, at_most)) in [
        (format!("{common} -i {plain}"), 3_500, 30_000),
        (format!("{common} -i {packed} -a 4"), 800, 3_400),
        (format!("{common} -i {plain} --as-fast-as-possible"), 0, 30_000),
    ]
    .into_iter()
    .enumerate()
    {
        let folder = bench.folder.join(format!("target{i}"));
        fs::create_dir(&folder).expect("a folder");
        let target = Nginx::start(&lab.target, &folder);
        let (printed, took) = replay(&lab.online, &bench.programs.tcpcopy, &folder, &options);
        assert_perfect(&sent, &target.received(), 1_500);
        for line in ["requests: found 1500, replayed 1500, skipped 0", "skipped or ended early 0"] {
            assert!(printed.contains(line), "`{line}` is not in:\n{printed}");
        }
        let took = took.as_millis();
        assert!(took >= at_least, "{options}: it took {took} ms only");
        // A slow machine is no failure; only being slower than the file would be none of the machine's.
        if took > at_most {
            println!("{options} took {took} ms");
        }
    }
    drop(intercept);
}

/// Three passes, each with connections of its own, without an intercept: responses come to where tcpcopy runs.
pub(crate) fn passes(bench: &Bench<'_>) {
    let lab = Lab::new().expect("a lab");
    let (sent, file) = record(&lab, bench.folder, &[plan(&lab, 0, 500.0, 500, Reuse::Close)], &["tcp dst port 80"]);
    let target = Nginx::start(&lab.target, bench.folder);
    let options = format!(
        "-x {}:80-{}:80 -s local --response-device eth0 -c 10.78.0.x -i {} -T 3 --as-fast-as-possible",
        lab.online.ipv4,
        lab.target.ipv4,
        file.display()
    );
    // The target routes its answers to the assistant: that is where this tcpcopy runs.
    let (printed, _) = replay(&lab.assistant, &bench.programs.tcpcopy, bench.folder, &options);
    assert!(printed.contains("requests: found 1500, replayed 1500, skipped 0"), "{printed}");
    let mut received = target.received();
    received.sort_by_key(|received| received.id);
    assert_eq!(received.len(), 1_500);
    for three in received.chunks(3) {
        let mut connections: Vec<_> = three.iter().map(|received| received.connection).collect();
        connections.sort_unstable();
        connections.dedup();
        assert!(three.iter().all(|received| received.id == three[0].id), "each request three times");
        assert_eq!(connections.len(), 3, "each time on a connection of its own");
    }
    assert_eq!(sent.len(), 500);
}

/// A capture that ends in the middle of everything: cut packets, sessions without beginning or end, a truncated file.
pub(crate) fn damaged(bench: &Bench<'_>) {
    let lab = Lab::new().expect("a lab");
    let (sent, file) =
        record(&lab, bench.folder, &[plan(&lab, 0, 500.0, 500, Reuse::KeepAlive)], &["-s", "120", "tcp dst port 80"]);
    let bytes = fs::read(&file).expect("the capture");
    fs::write(&file, &bytes[..bytes.len() * 3 / 4 + 5]).expect("the capture");
    let target = Nginx::start(&lab.target, bench.folder);
    let options =
        format!("-x 80-{}:80 -s local -c 10.78.0.x -i {} --as-fast-as-possible", lab.target.ipv4, file.display());
    let (printed, _) = replay(&lab.assistant, &bench.programs.tcpcopy, bench.folder, &options);
    assert!(printed.contains("cannot be read beyond its first"), "{printed}");
    assert!(printed.contains("packet cut by the capture"), "{printed}");
    // Whatever arrives was sent, once.
    let result = Comparison::new(&sent, &target.received(), |id| id < PROBES);
    assert_eq!((result.invented.len(), result.duplicated.len()), (0, 0));
}
