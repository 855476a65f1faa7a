//! Protocol modules in shared libraries, loaded by the program as it is shipped.

use std::fs;
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
pub(crate) fn library(bench: &Bench<'_>, folder: &str, name: &str) -> PathBuf {
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

/// What the clients did.
#[derive(Default)]
struct Done {
    gets: u64,
    sets: u64,
    /// Bytes of the writes, with their data.
    written: u64,
}

/// Reads and writes on several connections that are open at the same time, some pipelined.
fn read_and_write(lab: &Lab) -> Done {
    let mut done = Done::default();
    let mut clients: Vec<LineClient> = (0..10).map(|_| LineClient::connect(lab, PORT)).collect();
    for turn in 0..40 {
        for (number, client) in clients.iter_mut().enumerate() {
            let key = (number * 7 + turn) % (2 * KEYS);
            let mut answers = Vec::new();
            let mut commands = Vec::new();
            // Up to three commands at once: a read, a write in the middle, a read.
            for part in 0..=turn % 3 {
                if part == 1 {
                    // Its data look like a read.
                    let write = "set written 0 0 9\r\nget key1\r\r\n";
                    done.sets += 1;
                    done.written += write.len() as u64;
                    commands.push(write.to_owned());
                    answers.push("STORED".to_owned());
                } else {
                    done.gets += 1;
                    commands.push(format!("get key{key}\r\n"));
                    if key < KEYS {
                        answers.extend([format!("VALUE key{key} 0 {}", 20 * key), "v".repeat(20 * key)]);
                    }
                    answers.push("END".to_owned());
                }
            }
            client.send(&commands.concat());
            for answer in answers {
                assert_eq!(client.read_line(), answer, "of online");
            }
        }
    }
    done
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
    // A command that changes nothing here, and is not counted with the reads: a probe that arrives late changes no verdict.
    setup.set("--proto-opt", "commands=touch");
    let copy = setup.start(&lab);
    let up = wait_for(PATIENCE, || {
        LineClient::connect(&lab, PORT).talk(&["touch probe 0".to_owned()]);
        wait_for(Duration::from_millis(200), || (counted("cmd_touch") > 0).then_some(()))
    });
    assert!(up.is_some(), "nothing is copied; see {}", bench.folder.display());

    let done = read_and_write(&lab);
    let copied = settle(done.gets, PATIENCE, || counted("cmd_get"));
    let log = copy.stop();
    let of_online = online.statistics(&lab.online);
    assert_eq!((of_online["cmd_get"], of_online["cmd_set"]), (done.gets, KEYS as u64 + done.sets), "online got all");
    assert_eq!(copied, done.gets, "reads that the target counts");
    assert_eq!(counted("get_hits"), of_online["get_hits"], "reads that find something");
    assert_eq!(counted("cmd_set"), KEYS as u64, "the target got no write but the test's own");
    let squeezed = log.split_whitespace().collect::<Vec<_>>().join(" ");
    for (name, count) in [("get", done.gets), ("set", done.sets), ("write (bytes dropped)", done.written)] {
        // With the beginning of what comes behind it, or 40 would be found in 400.
        let line = format!("memcached_reads: {name} {count} ");
        assert!(format!("{squeezed} ").contains(&line), "`{line}` is not in the log:\n{log}");
    }
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

/// The code blocks of a text that are in Rust, with the language in capitals where they need what is elsewhere, so that they
/// are not compiled by themselves.
fn rust_blocks(text: &str) -> Vec<&str> {
    let code = |block: &'_ str| block.find('\n').map(|end| end + 1);
    let blocks = text.split("\n```").filter(|block| block.starts_with("rust") || block.starts_with("Rust"));
    blocks.filter_map(|block| Some(block[code(block)?..].split("```").next().unwrap_or_default())).collect()
}

/// Does what the guide for authors tells: the module that it arrives at passes the tests that it gives.
pub(crate) fn guide_works(bench: &Bench<'_>) {
    let guide = fs::read_to_string(root().join("docs/modules.md")).expect("the guide");
    let blocks = rust_blocks(&guide);
    let file = |name: &str| {
        let first_line = format!("// {name}\n");
        let mut with_name = blocks.iter().filter(|block| block.starts_with(&first_line));
        let block =
            with_name.next().unwrap_or_else(|| panic!("the guide has no block that begins with {first_line:?}"));
        assert!(with_name.next().is_none(), "the guide has {name} once");
        *block
    };
    let folder = bench.folder.join("tcpcopy-kv-reads");
    let mut new = Command::new(&bench.programs.tcpcopy);
    new.args(["modules", "new", "kv-reads"]).arg(&folder).arg("--source").arg(root());
    assert_good(&new.output().expect("tcpcopy"));
    fs::write(folder.join("src/lib.rs"), file("src/lib.rs")).expect("the module");
    fs::write(folder.join("tests/conversation.rs"), file("tests/conversation.rs")).expect("a test");
    fs::write(folder.join("tests/conformance.rs"), file("tests/conformance.rs")).expect("a test");
    fs::copy(root().join("Cargo.lock"), folder.join("Cargo.lock")).expect("the versions that are there already");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["test", "--offline", "--test", "conversation", "--test", "conformance", "--manifest-path"]);
    let output = cargo.arg(folder.join("Cargo.toml")).env("CARGO_TARGET_DIR", target(bench)).output().expect("cargo");
    assert_good(&output);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(text.matches("test result: ok. ").count(), 2, "{text}");
    assert!(!text.contains("ok. 0 passed"), "{text}");
}

/// The program does not start with a module that it cannot use, and says why.
pub(crate) fn refusals(bench: &Bench<'_>) {
    fs::write(bench.folder.join("text.so"), "no library").expect("a file");
    let mut compiler = Command::new("cc");
    compiler.args(["-std=c11", "-shared", "-fPIC", "-DVERSION=77", "-I"]).arg(root().join("plugins/api/include"));
    compiler.arg("-o").arg(bench.folder.join("other_version.so"));
    assert_good(&compiler.arg(root().join("core/io/tests/modules/variants.c")).output().expect("cc"));
    build_drop_lines(bench.folder);
    for (module, option, said) in [
        ("missing", "", "there is no module `missing`"),
        ("./missing.so", "", "No such file"),
        ("./text.so", "", "not a shared library"),
        ("./other_version.so", "", "built for ABI version 77"),
        ("drop-lines", "colour=red", "no option `colour`"),
        ("drop-lines", "words=,", "option `words`: give one word or more"),
    ] {
        let mut tcpcopy = Command::new(&bench.programs.tcpcopy);
        tcpcopy.current_dir(bench.folder).args(["-x", "80-10.0.0.2:80", "-s", "10.0.0.3", "--module-dir", "."]);
        tcpcopy.args(["--proto", module]);
        if !option.is_empty() {
            tcpcopy.args(["--proto-opt", option]);
        }
        let output = tcpcopy.output().expect("tcpcopy");
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "--proto {module}: {message}");
        assert!(message.contains(said), "--proto {module} {option}: `{said}` is not in: {message}");
    }
}
