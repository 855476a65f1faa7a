//! Protocol modules made by others: linked in with `make build MODULE=FOLDER`, and begun with `tcpcopy modules new`.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use tcpcopy::demo::copy::Programs;
use tcpcopy_io::netns::{Lab, wait_for};
use tcpcopy_tests::copy::{PORT, Setup};
use tcpcopy_tests::lines::{LineClient, LineServer, PROBE};

use crate::harness::Bench;

pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace")
}

/// A build folder of these tests' own, which is kept: the programs of the other tests stay as they are, and only the first
/// run takes long.
pub(crate) fn target(bench: &Bench<'_>) -> PathBuf {
    bench.programs.tcpcopy.parent().and_then(Path::parent).expect("target/<profile>").join("module-test")
}

pub(crate) fn assert_good(output: &Output) {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
}

/// Builds tcpcopy with the example module for memcached.
fn build(bench: &Bench<'_>) -> PathBuf {
    let output = Command::new(root().join("scripts/build-with-module.sh"))
        .arg(root().join("docs/examples/memcached-reads"))
        .args(["--quiet", "--offline"])
        .env("CARGO_TARGET_DIR", target(bench))
        .output()
        .expect("the script");
    assert_good(&output);
    target(bench).join("debug/tcpcopy")
}

/// A module that `tcpcopy modules new` writes passes its own tests, and is found when it is built.
pub(crate) fn new_module_works(bench: &Bench<'_>) {
    let folder = bench.folder.join("module");
    let mut new = Command::new(&bench.programs.tcpcopy);
    new.args(["modules", "new", "my-own"]).arg(&folder).arg("--source").arg(root());
    assert_good(&new.output().expect("tcpcopy"));
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    for command in ["test", "build"] {
        let mut cargo = Command::new(&cargo);
        cargo.args([command, "--offline", "--manifest-path"]).arg(folder.join("Cargo.toml"));
        // The versions that are there already.
        std::fs::copy(root().join("Cargo.lock"), folder.join("Cargo.lock")).expect("a copy");
        let programs = bench.programs.tcpcopy.parent().expect("a folder");
        cargo.env("CARGO_TARGET_DIR", target(bench)).env("TCPCOPY_PROGRAMS", programs);
        let output = cargo.output().expect("cargo");
        assert_good(&output);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            command != "test" || text.contains("the right lines reach the target: ok"),
            "its lab test is skipped: {text}"
        );
    }
    let mut list = Command::new(&bench.programs.tcpcopy);
    let list = list.args(["modules", "--module-dir"]).arg(target(bench).join("debug")).output().expect("tcpcopy");
    assert_good(&list);
    let list = String::from_utf8_lossy(&list.stdout);
    assert!(list.contains("\nmy-own 0.1.0, tcp, /") && list.contains("libtcpcopy_my_own.so\n"), "{list}");
}

pub(crate) fn copies_by_its_module(bench: &Bench<'_>) {
    let tcpcopy = build(bench);
    let output = Command::new(&tcpcopy).arg("modules").output().expect("the program");
    let list = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && list.starts_with("memcached_reads 0.1.0, tcp, built in (the default)\n"),
        "{list}"
    );
    for other in ["\ntcp ", "\nudp "] {
        assert!(list.contains(other), "the others are still there: {list}");
    }

    let lab = Lab::new().expect("a lab");
    let [online, target] = [&lab.online, &lab.target].map(|host| LineServer::start(host, PORT));
    let programs = Programs { tcpcopy, intercept: bench.programs.intercept.clone() };
    let copy = Setup::new(&programs, bench.folder, &lab).start(&lab);
    wait_until_copied(&lab, PORT, &target, bench);

    // Reads and writes in turn: the target gets the reads, in their order, and nothing else.
    let commands: Vec<String> = (0..200)
        .map(|i| if i % 2 == 0 { format!("set key{i} 0 0 5\r\nvalue") } else { format!("get key{i}") })
        .collect();
    LineClient::connect(&lab, PORT).talk(&commands);
    let reads: Vec<&String> = commands.iter().filter(|command| command.starts_with("get")).collect();
    wait_for(PATIENCE, || (target.heard().len() >= reads.len()).then_some(()));
    let log = copy.stop();
    assert_eq!(target.heard().iter().collect::<Vec<_>>(), reads);
    assert_eq!(online.heard().len(), commands.len(), "online got all");
    for line in ["by module memcached_reads 0.1.0 (built in)", "memcached_reads: set", "write (bytes dropped)"] {
        assert!(log.contains(line), "`{line}` is not in the log:\n{log}");
    }
    assert!(!log.contains("balance"), "{log}");
}

/// Says something harmless until the target hears of it: from then on everything must be copied.
pub(crate) fn wait_until_copied(lab: &Lab, port: u16, target: &LineServer, bench: &Bench<'_>) {
    let up = wait_for(PATIENCE, || {
        LineClient::connect(lab, port).talk(&[PROBE.to_owned()]);
        wait_for(Duration::from_millis(200), || target.was_probed().then_some(()))
    });
    assert!(up.is_some(), "nothing is copied on port {port}; see {}", bench.folder.display());
}
