//! The program `tcpcopy` from outside: exit codes, messages, daemon, pid file, signals. What needs privileges says so
//! when it has none.

mod scratch;
mod waiting;

use std::fs;
use std::io::Read;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use scratch::{Running, Scratch, run, signal, tcpcopy};
use waiting::{may_run, until, until_file_has};

/// Options of a copy on `lo` that has nothing to do, and no intercept.
const IDLE: &[&str] = &["-x", "9-127.0.0.1:10", "-s", "127.0.0.1:1", "-c", "127.1.2.3", "-i", "lo"];

#[test]
fn usage_errors_end_with_2_and_help_with_0() {
    let (code, out, err) = run(&["-h"]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.contains("-x, --map"), "{out}");
    let (code, out, _) = run(&["-v"]);
    assert_eq!((code, out.trim()), (0, concat!("tcpcopy ", env!("CARGO_PKG_VERSION"))));
    for arguments in [
        &[][..],
        &["-x", "80"],
        &["-n", "2"],
        &["--nonsense"],
        &["-x", "80-10.0.0.2:80", "-s", "10.0.0.3", "-F", "tcp and and"],
        &["--config", "/nonexistent/tcpcopy.toml"],
        &["-x", "80-127.0.0.1:80", "-s", "10.0.0.3", "-d"],
    ] {
        let (code, out, err) = run(arguments);
        assert_eq!((code, out.as_str()), (2, ""), "{arguments:?}: {err}");
        assert!(!err.is_empty());
    }
}

#[test]
fn a_mistake_in_the_file_is_shown_with_its_line() {
    let scratch = Scratch::new("config");
    let file = scratch.file("tcpcopy.toml");
    fs::write(&file, "map = '80-10.0.0.2:80'\nintercpt = '10.0.0.3'\n").unwrap();
    let (code, _, err) = run(&["--config", file.to_str().unwrap()]);
    assert_eq!(code, 2);
    assert!(err.contains("tcpcopy.toml") && err.contains("line 2") && err.contains("intercpt"), "{err}");
}

#[test]
fn an_intercept_that_is_not_there_ends_with_4() {
    if !may_run() {
        return;
    }
    // Nothing listens on port 1.
    let (code, _, err) = run(IDLE);
    assert_eq!(code, 4, "{err}");
    assert!(err.contains("127.0.0.1:1") && err.contains("attempt 3") && err.contains("-L"), "{err}");

    let scratch = Scratch::new("unreachable");
    let (log, pid) = (scratch.file("log"), scratch.file("pid"));
    let daemon = ["-d", "-l", log.to_str().unwrap(), "-P", pid.to_str().unwrap()];
    let (code, _, err) = run(&[IDLE, &daemon].concat());
    assert_eq!(code, 4, "the starting process has the daemon's exit code: {err}");
    assert!(err.contains("127.0.0.1:1") && err.contains("attempt 3"), "{err}");
    until_file_has(&log, "attempt 3");
    until("the pid file's end", || (!pid.exists()).then_some(()));
}

#[test]
fn without_permission_it_ends_with_3_and_names_the_remedy() {
    if !may_run() {
        return;
    }
    let Ok(output) = Command::new("setpriv")
        .args(["--bounding-set", "-net_raw", "--inh-caps", "-net_raw", env!("CARGO_BIN_EXE_tcpcopy")])
        .args(IDLE)
        .output()
    else {
        eprintln!("SKIPPED: needs the program setpriv");
        return;
    };
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{err}");
    assert!(err.contains("CAP_NET_RAW") && err.contains("setcap cap_net_raw,cap_net_admin+ep /"), "{err}");
}

#[test]
fn a_daemon_is_ready_when_its_starter_returns() {
    if !may_run() {
        return;
    }
    let scratch = Scratch::new("daemon");
    let (log, pid_file) = (scratch.file("log"), scratch.file("pid"));
    let daemon = ["-L", "-d", "-l", log.to_str().unwrap(), "-P", pid_file.to_str().unwrap()];
    let arguments = [IDLE, &daemon].concat();
    let (code, _, err) = run(&arguments);
    assert_eq!(code, 0, "{err}");
    let pid = fs::read_to_string(&pid_file).expect("a daemon that is ready has written its pid").trim().to_owned();
    let process = PathBuf::from(format!("/proc/{pid}"));
    assert!(process.exists());
    assert!(fs::read_to_string(&log).unwrap().contains("capturing on lo"));
    // A session of its own, without a terminal, and nobody's child that waits.
    let stat = fs::read_to_string(process.join("stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    assert_ne!(
        fields[3],
        fs::read_to_string("/proc/self/stat").unwrap().rsplit(") ").next().unwrap().split(' ').nth(3).unwrap()
    );
    assert_eq!(fields[4], "0", "no terminal");
    assert_eq!(fs::read_link(process.join("fd/2")).unwrap(), Path::new("/dev/null"));

    let (code, _, err) = run(&arguments);
    assert_eq!(code, 1, "{err}");
    assert!(err.contains(&format!("already running as process {pid}")), "{err}");

    let moved = scratch.file("log.1");
    fs::rename(&log, &moved).unwrap();
    signal(pid.parse().unwrap(), "HUP");
    until_file_has(&log, "log opened again");

    // Where the new file cannot be, the old one goes on, and says why.
    let elsewhere = scratch.file("log.2");
    fs::rename(&log, &elsewhere).unwrap();
    fs::create_dir(&log).unwrap();
    signal(pid.parse().unwrap(), "HUP");
    let said = until_file_has(&elsewhere, "lines go on in this file");
    assert!(said.contains("Is a directory"), "{said}");
    fs::remove_dir(&log).unwrap();
    signal(pid.parse().unwrap(), "HUP");
    until_file_has(&log, "log opened again");

    signal(pid.parse().unwrap(), "TERM");
    until("the daemon's end", || (!process.exists()).then_some(()));
    assert!(!pid_file.exists());
    let text = fs::read_to_string(&log).unwrap();
    assert!(text.contains("stopping") && text.contains("packets    captured"), "{text}");
}

#[test]
fn an_interrupt_prints_the_table_and_ends_with_0() {
    if !may_run() {
        return;
    }
    let scratch = Scratch::new("interrupt");
    let log = scratch.file("log");
    let more = ["-L", "--workers", "2", "-c", "127.1.2.4", "--stats-interval", "1", "-l", log.to_str().unwrap()];
    let mut child = Running(tcpcopy(&[IDLE, &more].concat()).stdout(Stdio::piped()).spawn().unwrap());
    let text = until_file_has(&log, "links up 0 of 2");
    for word in [
        "active:0,rel:0,obs del:0,tw:0",
        "conns:0,",
        "packets: captured 0 + multiplied 0 = used 0 + dropped 0",
        "2 of 2 links",
    ] {
        assert!(text.contains(word) || until_file_has(&log, word).contains(word), "{text}");
    }
    signal(child.0.id(), "INT");
    let mut table = String::new();
    child.0.stdout.take().unwrap().read_to_string(&mut table).unwrap();
    assert_eq!(child.0.wait().unwrap().code(), Some(0));
    assert!(table.contains("packets    captured") && table.contains("sessions   seen"), "{table}");
}

#[test]
fn datagrams_are_copied_without_an_intercept() {
    if !may_run() {
        return;
    }
    let scratch = Scratch::new("udp");
    let log = scratch.file("log");
    let bind = || {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a limit");
        socket
    };
    let (online, target, client) = (bind(), bind(), bind());
    let port = |socket: &UdpSocket| socket.local_addr().expect("an address").port();
    let map = format!("udp:{}-127.0.0.1:{}", port(&online), port(&target));
    let arguments = ["-x", &map, "-c", "127.1.2.5", "-n", "2", "-i", "lo", "-l", log.to_str().unwrap()];
    let mut child = Running(tcpcopy(&arguments).stdout(Stdio::piped()).spawn().unwrap());
    let text = until_file_has(&log, "capturing on lo");
    for line in ["no -s: the target's responses are not counted", "over udp, by module udp 0.1.0 (built in)"] {
        assert!(text.contains(line), "{text}");
    }
    let mut sources = Vec::new();
    let mut buffer = [0; 64];
    until("both copies of one datagram", || {
        client.send_to(b"which copy", online.local_addr().unwrap()).expect("it is sent");
        while let Ok((len, from)) = target.recv_from(&mut buffer) {
            assert_eq!(&buffer[..len], b"which copy");
            sources.push(from);
        }
        (sources.len() >= 2).then_some(())
    });
    sources.sort();
    sources.dedup();
    assert_eq!(sources.len(), 2, "each copy has a source of its own: {sources:?}");
    assert!(sources.iter().all(|source| source.ip().to_string() == "127.1.2.5"), "{sources:?}");
    assert!(sources.iter().any(|source| source.port() == port(&client)), "{sources:?}");
    signal(child.0.id(), "INT");
    let mut table = String::new();
    child.0.stdout.take().unwrap().read_to_string(&mut table).unwrap();
    assert_eq!(child.0.wait().unwrap().code(), Some(0));
    assert!(table.contains("udp        datagrams captured") && table.contains("sent to targets"), "{table}");
    assert!(!table.contains("balance"), "{table}");
}

/// What comes through a pipe cannot be looked at before the start.
#[test]
fn a_replay_of_which_nothing_can_be_read_fails() {
    if !may_run() {
        return;
    }
    let scratch = Scratch::new("no-capture");
    let path = scratch.file("file");
    fs::write(&path, "nothing that a capture begins with").unwrap();
    let options = ["-x", "9-127.0.0.1:10", "-s", "local", "-c", "127.1.2.3", "-i", "-", "--socket", "none"];
    let mut command = tcpcopy(&options);
    let Output { status, stdout, stderr } = command.stdin(fs::File::open(&path).unwrap()).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert_eq!(status.code(), Some(1), "{out}{err}");
    assert!(
        out.contains("sessions: found 0") && err.contains("standard input cannot be read as a capture"),
        "{out}{err}"
    );
}
