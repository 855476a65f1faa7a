//! Protocol modules made by others: linked in with `make build MODULE=FOLDER`, and begun with `tcpcopy modules new`.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use tcpcopy::demo::copy::Programs;
use tcpcopy_io::netns::{Host, Lab, wait_for};
use tcpcopy_tests::copy::{PORT, Setup};

use crate::harness::Bench;

const PATIENCE: Duration = Duration::from_secs(30);

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace")
}

/// A build folder of these tests' own, which is kept: the programs of the other tests stay as they are, and only the first
/// run takes long.
fn target(bench: &Bench<'_>) -> PathBuf {
    bench.programs.tcpcopy.parent().and_then(Path::parent).expect("target/<profile>").join("module-test")
}

fn assert_good(output: &Output) {
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

/// A server that knows as much of memcached as this test's client says, and remembers the commands of all connections.
fn serve(host: &Host) -> Arc<Mutex<Vec<String>>> {
    let address = SocketAddr::new(host.ipv4.into(), PORT);
    let listener = host.run(|| TcpListener::bind(address)).expect("a thread").expect("a listener");
    let heard = Arc::new(Mutex::new(Vec::new()));
    let all = Arc::clone(&heard);
    // It ends with the program: nothing tells a listener to stop.
    thread::spawn(move || {
        for connection in listener.incoming() {
            let (connection, heard) = (connection.expect("a connection"), Arc::clone(&all));
            thread::spawn(move || answer(&connection, &heard));
        }
    });
    heard
}

fn answer(mut connection: &TcpStream, heard: &Mutex<Vec<String>>) {
    let mut lines = BufReader::new(connection).lines();
    while let Some(Ok(line)) = lines.next() {
        let is_write = line.starts_with("set ");
        heard.lock().expect("no panic").push(line);
        if is_write {
            // The data block, which is a line here.
            let _ = lines.next();
        }
        let _ = connection.write_all(if is_write { b"STORED\r\n" } else { b"END\r\n" });
    }
}

/// Says each command and waits for its answer before the next one.
fn talk(lab: &Lab, commands: &[String]) {
    let address = SocketAddr::new(lab.online.ipv4.into(), PORT);
    let mut connection = lab.client.run(|| TcpStream::connect(address)).expect("a thread").expect("online answers");
    connection.set_read_timeout(Some(PATIENCE)).expect("a limit");
    let mut answers = BufReader::new(connection.try_clone().expect("a descriptor")).lines();
    for command in commands {
        connection.write_all(format!("{command}\r\n").as_bytes()).expect("online takes it");
        answers.next().expect("online answers").expect("online answers");
    }
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
    let (online, target) = (serve(&lab.online), serve(&lab.target));
    let programs = Programs { tcpcopy, intercept: bench.programs.intercept.clone() };
    let copy = Setup::new(&programs, bench.folder, &lab).start(&lab);
    let is_probe = |command: &&String| command.starts_with("get probe");
    let up = wait_for(PATIENCE, || {
        talk(&lab, &["get probe".to_owned()]);
        wait_for(Duration::from_millis(200), || target.lock().expect("no panic").first().map(|_| ()))
    });
    assert!(up.is_some(), "nothing is copied; see {}", bench.folder.display());

    // Reads and writes in turn: the target gets the reads, in their order, and nothing else.
    let commands: Vec<String> = (0..200)
        .map(|i| if i % 2 == 0 { format!("set key{i} 0 0 5\r\nvalue") } else { format!("get key{i}") })
        .collect();
    talk(&lab, &commands);
    let reads: Vec<&String> = commands.iter().filter(|command| command.starts_with("get")).collect();
    let received = || -> Vec<String> {
        target.lock().expect("no panic").iter().filter(|command| !is_probe(command)).cloned().collect()
    };
    wait_for(PATIENCE, || (received().len() >= reads.len()).then_some(()));
    let log = copy.stop();
    assert_eq!(received().iter().collect::<Vec<_>>(), reads);
    let all = online.lock().expect("no panic").iter().filter(|command| !is_probe(command)).count();
    assert_eq!(all, commands.len(), "online got all");
    for line in ["by module memcached_reads 0.1.0 (built in)", "memcached_reads: set", "write (bytes dropped)"] {
        assert!(log.contains(line), "`{line}` is not in the log:\n{log}");
    }
    assert!(!log.contains("balance"), "{log}");
}
