//! Protocol modules in shared libraries, loaded by the program as it is shipped.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tcpcopy_io::netns::{Lab, wait_for};
use tcpcopy_tests::copy::{PORT, Setup};
use tcpcopy_tests::lines::{LineClient, LineServer};
use tcpcopy_tests::memcached::Memcached;
use tcpcopy_tests::settle;

use crate::harness::Bench;
use crate::own_modules::{PATIENCE, assert_good, root, target, wait_until_copied};

/// Where crates are built for themselves: cargo gives a library that others load one name, whatever it was built with,
/// so that building it as a part of a program in the same place would take turns with this.
fn examples(bench: &Bench<'_>) -> PathBuf {
    target(bench).join("examples")
}

/// Runs cargo for a crate that is not built with the rest.
fn cargo(bench: &Bench<'_>, command: &str, folder: &str) {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args([command, "--quiet", "--offline", "--manifest-path"]).arg(root().join(folder).join("Cargo.toml"));
    assert_good(&cargo.env("CARGO_TARGET_DIR", examples(bench)).output().expect("cargo"));
}

/// The library of a module in Rust.
fn library(bench: &Bench<'_>, folder: &str, name: &str) -> PathBuf {
    cargo(bench, "build", folder);
    examples(bench).join("debug").join(format!("libtcpcopy_{name}.so"))
}

/// Builds the example in C into `folder`.
fn build_drop_lines(folder: &Path) {
    let mut make = Command::new("make");
    make.arg("-C").arg(root().join("docs/examples/c-drop-lines")).arg(format!("OUT={}", folder.display()));
    assert_good(&make.env_remove("MAKEFLAGS").output().expect("make"));
}

pub(crate) fn example_passes_its_tests(bench: &Bench<'_>) {
    cargo(bench, "test", "docs/examples/memcached-reads");
}

const KEYS: usize = 50;

/// Reads and writes on several connections, some pipelined. Returns how many of either.
fn read_and_write(lab: &Lab) -> (u64, u64) {
    let (mut gets, mut sets) = (0, 0);
    for number in 0..10 {
        let mut client = LineClient::connect(lab, PORT);
        for turn in 0..40 {
            let key = (number * 7 + turn) % (2 * KEYS);
            let mut answers = Vec::new();
            let mut commands = Vec::new();
            // Up to three commands at once: a read, a write in the middle, a read.
            for part in 0..=turn % 3 {
                if part == 1 {
                    // Its data look like a read.
                    commands.push("set written 0 0 9\r\nget key1\r\r\n".to_owned());
                    answers.push("STORED".to_owned());
                    sets += 1;
                } else {
                    commands.push(format!("get key{key}\r\n"));
                    if key < KEYS {
                        answers.extend([format!("VALUE key{key} 0 {}", 20 * key), "v".repeat(20 * key)]);
                    }
                    answers.push("END".to_owned());
                    gets += 1;
                }
            }
            client.send(&commands.concat());
            for answer in answers {
                assert_eq!(client.read_line(), answer, "of online");
            }
        }
    }
    (gets, sets)
}

/// Online and target count what they were asked, and the module what it left out.
pub(crate) fn memcached_reads(bench: &Bench<'_>) {
    let module = library(bench, "docs/examples/memcached-reads", "memcached_reads");
    let lab = Lab::new().expect("a lab");
    let [online, target] = [&lab.online, &lab.target].map(|host| Memcached::start(host, bench.folder));
    for (server, host) in [(&online, &lab.online), (&target, &lab.target)] {
        for key in 0..KEYS {
            // The target's answers are longer than online's, and have another one's beginning in the middle.
            let value = if std::ptr::eq(server, &raw const target) { "END\r\nv" } else { "v" };
            server.store(host, &format!("key{key}"), &value.repeat(20 * key));
        }
    }
    let counted = |name: &str| target.statistics(&lab.target)[name];
    let mut setup = Setup::new(bench.programs, bench.folder, &lab);
    setup.set("--proto", &module.display().to_string());
    let copy = setup.start(&lab);
    let address = SocketAddr::new(lab.online.ipv4.into(), PORT);
    let up = wait_for(PATIENCE, || {
        let mut client = LineClient::connect(&lab, address.port());
        client.send("get probe\r\n");
        client.read_line();
        wait_for(Duration::from_millis(200), || (counted("cmd_get") > 0).then_some(()))
    });
    assert!(up.is_some(), "nothing is copied; see {}", bench.folder.display());

    let (before, hits, stored) = (counted("cmd_get"), counted("get_hits"), counted("cmd_set"));
    let online_hits = online.statistics(&lab.online)["get_hits"];
    let (gets, sets) = read_and_write(&lab);
    let copied = settle(before + gets, Duration::from_secs(5), || counted("cmd_get")) - before;
    let log = copy.stop();
    assert_eq!(copied, gets, "reads that the target counts");
    assert_eq!(counted("cmd_set"), stored, "writes that the target counts");
    assert_eq!(online.statistics(&lab.online)["cmd_set"], KEYS as u64 + sets, "online got them");
    assert_eq!(counted("get_hits") - hits, online.statistics(&lab.online)["get_hits"] - online_hits, "hits");
    let written = format!("memcached_reads: set {sets}\n");
    let squeezed = log.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(squeezed.contains(written.trim()), "`{}` is not in the log:\n{log}", written.trim());
    assert!(!log.contains("balance"), "{log}");
}

pub(crate) fn one_for_each_map(bench: &Bench<'_>) {
    let folder = bench.folder.join("modules");
    fs::create_dir(&folder).expect("a folder");
    let library = library(bench, "docs/examples/memcached-reads", "memcached_reads");
    fs::copy(&library, folder.join("libtcpcopy_memcached_reads.so")).expect("a copy");
    build_drop_lines(&folder);

    let lab = Lab::new().expect("a lab");
    let ports = [PORT, 81, 82];
    let online = ports.map(|port| LineServer::start(&lab.online, port));
    let target = ports.map(|port| LineServer::start(&lab.target, port));
    let mut setup = Setup::new(bench.programs, bench.folder, &lab);
    let to = lab.target.ipv4;
    setup.set("-x", &format!("memcached_reads:80-{to}:80,drop-lines:81-{to}:81,82-{to}:82"));
    setup.set("--module-dir", &folder.display().to_string());
    setup.set("--proto-opt", "drop-lines.words=quit,flush_all");
    setup.intercept = ["-i", "eth0", "-F", "tcp and src portrange 80-82"].map(str::to_owned).to_vec();
    let copy = setup.start(&lab);
    for (port, target) in ports.iter().zip(&target) {
        wait_until_copied(&lab, *port, target, bench);
    }
    let commands: Vec<String> =
        ["get a", "set b 0 0 5\r\nvalue", "FLUSH_ALL now", "get c", "quitter", "gets d"].map(str::to_owned).to_vec();
    for port in ports {
        LineClient::connect(&lab, port).talk(&commands);
    }
    let expected: [&[&str]; 3] = [
        &["get a", "get c", "gets d"],
        &["get a", "set b 0 0 5", "get c", "quitter", "gets d"],
        &["get a", "set b 0 0 5", "FLUSH_ALL now", "get c", "quitter", "gets d"],
    ];
    for ((port, target), expected) in ports.iter().zip(&target).zip(expected) {
        wait_for(PATIENCE, || (target.heard().len() >= expected.len()).then_some(()));
        assert_eq!(target.heard(), expected, "port {port}");
    }
    assert!(online.iter().all(|online| online.heard().len() == commands.len()));
    let log = copy.stop();
    for line in ["memcached_reads 0.1.0", "drop-lines", "begins with a word of the list"] {
        assert!(log.contains(line), "`{line}` is not in the log:\n{log}");
    }
    assert!(!log.contains("balance"), "{log}");
}

/// A session that a hook panics in is over; the module's other sessions and other maps go on.
pub(crate) fn panics(bench: &Bench<'_>) {
    let library = library(bench, "core/io/tests/modules", "sample");
    let lab = Lab::new().expect("a lab");
    let ports = [PORT, 81];
    let _online = ports.map(|port| LineServer::start(&lab.online, port));
    let target = ports.map(|port| LineServer::start(&lab.target, port));
    let mut setup = Setup::new(bench.programs, bench.folder, &lab);
    let to = lab.target.ipv4;
    setup.set("-x", &format!("{}:80-{to}:80,81-{to}:81", library.display()));
    setup.set("--proto-opt", "sample.panic-in=a line that says so");
    setup.intercept = ["-i", "eth0", "-F", "tcp and src portrange 80-81"].map(str::to_owned).to_vec();
    let mut copy = setup.start(&lab);
    for (port, target) in ports.iter().zip(&target) {
        wait_until_copied(&lab, *port, target, bench);
    }
    let mut beside = ports.map(|port| LineClient::connect(&lab, port));
    let mut say = |what: &str| {
        for client in &mut beside {
            client.talk(&[what.to_owned()]);
        }
    };
    say("before");
    for number in 0..3 {
        let mut client = LineClient::connect(&lab, PORT);
        client.talk(&[format!("number {number}")]);
        // What is on its way when the session ends would end with it.
        wait_for(PATIENCE, || (target[0].heard().len() >= 2 + number).then_some(()));
        client.talk(&["panic!".to_owned()]);
    }
    say("after");
    wait_for(PATIENCE, || (target.iter().map(|target| target.heard().len()).sum::<usize>() >= 7).then_some(()));
    assert_eq!(copy.tcpcopy.try_wait(), None, "tcpcopy runs");
    assert_eq!(target[0].heard(), ["before", "number 0", "number 1", "number 2", "after"]);
    assert_eq!(target[1].heard(), ["before", "after"]);
    let log = copy.stop();
    assert_eq!(log.matches("failed by a mistake in it").count(), 1, "said once:\n{log}");
    let counted = log.lines().any(|line| line.contains("the module panicked") && line.trim_end().ends_with(" 3"));
    assert!(counted, "three sessions are counted:\n{log}");
    assert!(!log.contains("balance"), "{log}");
}
