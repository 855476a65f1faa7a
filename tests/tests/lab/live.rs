//! A running copy, watched and steered by the commands `status`, `pause`, `resume`, `set` and `top`.

use std::fs::{self, File, Permissions};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::Value;
use tcpcopy::demo::client::Reuse;
use tcpcopy_io::netns::{Host, Lab, Process, wait_for};
use tcpcopy_tests::copy::{Copy, Setup};
use tcpcopy_tests::load;
use tcpcopy_tests::nginx::Nginx;
use tcpcopy_tests::settle;
use tcpcopy_tests::terminal::Terminal;

use crate::harness::Bench;
use crate::workloads::{QUIET, at, plan, web_servers};

const PATIENCE: Duration = Duration::from_secs(60);

/// A copy between two nginx, and the way to ask it.
struct Stage<'a> {
    lab: Lab,
    target: Nginx,
    copy: Copy,
    bench: &'a Bench<'a>,
    _online: Nginx,
}

impl<'a> Stage<'a> {
    fn start(bench: &'a Bench<'a>) -> Self {
        let lab = Lab::new().expect("a lab");
        let [online, target] = web_servers(bench, &lab);
        let mut setup = Setup::new(bench.programs, bench.folder, &lab);
        setup.set("--socket", &socket(bench).display().to_string());
        setup.intercept.extend(["--socket".to_owned(), intercept_socket(bench).display().to_string()]);
        let mut copy = setup.start(&lab);
        copy.wait_until_copying(&lab, lab.online.ipv4.into(), || target.requests());
        Self { lab, target, copy, bench, _online: online }
    }

    fn online(&self) -> IpAddr {
        self.lab.online.ipv4.into()
    }

    fn run(&self, words: &[&str]) -> Output {
        run(&self.bench.programs.tcpcopy, words, &socket(self.bench))
    }

    /// Runs a command that must be carried out; returns what it says.
    fn done(&self, words: &[&str]) -> String {
        said(&self.run(words))
    }

    fn status(&self) -> Value {
        serde_json::from_str(&self.done(&["status", "--json"])).expect("a JSON object")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.bench.folder.join("tcpcopy.log")).expect("tcpcopy's log")
    }
}

fn socket(bench: &Bench<'_>) -> PathBuf {
    bench.folder.join("tcpcopy.sock")
}

fn intercept_socket(bench: &Bench<'_>) -> PathBuf {
    bench.folder.join("intercept.sock")
}

fn run(program: &Path, words: &[&str], socket: &Path) -> Output {
    let mut command = Command::new(program);
    command.args(words).arg("--socket").arg(socket).stdin(Stdio::null());
    command.output().expect("a program of ours")
}

fn said(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "ended with {}:\n{out}{err}", output.status);
    out.into_owned()
}

/// A counter of a status, by the names on the way to it.
fn number(status: &Value, path: &[&str]) -> u64 {
    let found = path.iter().fold(status, |value, name| match name.parse::<usize>() {
        Ok(index) => &value[index],
        Err(_) => &value[*name],
    });
    found.as_u64().unwrap_or_else(|| panic!("no number at {path:?}: {status:#}"))
}

pub(crate) fn status_agrees(bench: &Bench<'_>) {
    const REQUESTS: u64 = 600;
    let stage = Stage::start(bench);
    let before = stage.target.requests();
    for (reuse, first_id) in [(Reuse::KeepAlive, 0), (Reuse::Close, REQUESTS / 2)] {
        let mut plan = plan(at(stage.online()), 400.0, REQUESTS / 2, 10, reuse);
        plan.first_id = first_id;
        assert_eq!(load::run(&stage.lab.client, &plan).failures, []);
    }
    assert_eq!(settle(before + REQUESTS, QUIET, || stage.target.requests()), before + REQUESTS);
    // The last sessions are over a moment after the last request is logged.
    let over = wait_for(PATIENCE, || {
        let status = stage.status();
        (number(&status, &["total", "counters", "sessions_alive"]) == 0).then_some(status)
    });
    let status = over.expect("the end of all sessions");
    let logged = stage.target.received();
    let mut connections: Vec<u64> = logged.iter().map(|received| received.connection).collect();
    connections.sort_unstable();
    connections.dedup();
    let (requests, connections) = (logged.len() as u64, connections.len() as u64);
    for (path, expected) in [
        (&["total", "counters", "requests_copied"][..], requests),
        (&["total", "response_time", "count"], requests),
        (&["total", "counters", "connections"], connections),
        (&["maps", "0", "requests"], requests),
        (&["maps", "0", "requests_copied"], requests),
        (&["maps", "0", "response_time", "count"], requests),
        (&["maps", "0", "connections"], connections),
        (&["maps", "0", "sessions"], connections),
        (&["maps", "0", "sessions_alive"], 0),
        (&["maps", "0", "refused"], 0),
        (&["workers", "0", "counters", "requests_copied"], requests),
        (&["pid"], u64::from(stage.copy.tcpcopy.id())),
    ] {
        assert_eq!(number(&status, path), expected, "{path:?}");
    }
    assert_eq!(
        number(&status, &["maps", "0", "bytes_copied"]),
        number(&status, &["total", "counters", "bytes_copied"])
    );
    assert_eq!(status["maps"][0]["target"], format!("{}:80", stage.lab.target.ipv4));
    assert_eq!((&status["links"][0]["up"], &status["in_force"]["paused"]), (&true.into(), &false.into()));
    assert!(number(&status, &["total", "lag", "p99_us"]) > 0);

    let text = stage.done(&["status"]);
    for words in [format!("let through {requests}, answered {requests}"), format!("connections accepted {connections}")]
    {
        assert!(text.contains(&words), "`{words}` is missing in:\n{text}");
    }
    let intercept = said(&run(&bench.programs.intercept, &["status", "--json"], &intercept_socket(bench)));
    let intercept: Value = serde_json::from_str(&intercept).expect("a JSON object");
    assert!(number(&intercept, &["total", "counters", "frames"]) > requests, "{intercept:#}");
    assert_eq!(number(&intercept, &["total", "links_up"]), 1);

    // The level at run time, of both.
    assert!(!stage.log().contains("[debug]"));
    assert!(stage.done(&["set", "log-level=debug", "stats-interval=1"]).contains("log-level=debug\n"));
    stage.done(&["set"]);
    assert!(stage.log().contains("[debug]"));
    said(&run(&bench.programs.intercept, &["set", "log-level=warn"], &intercept_socket(bench)));
    let lines = |word: &str| stage.log().matches(word).count();
    let so_far = lines("bytes: captured");
    assert!(wait_for(PATIENCE, || (lines("bytes: captured") > so_far + 1).then_some(())).is_some(), "no statistics");
    assert!(lines("log-level was info, and is debug from now on, by process ") == 1, "{}", stage.log());
    stage.copy.stop();
    assert!(!socket(bench).exists() && !intercept_socket(bench).exists());
}

pub(crate) fn pause_and_resume(bench: &Bench<'_>) {
    let stage = Stage::start(bench);
    let clients = [(Reuse::KeepAlive, 0), (Reuse::Close, 1 << 20)].map(|(reuse, first_id)| {
        let mut plan = plan(at(stage.online()), 200.0, 1 << 20, 8, reuse);
        plan.first_id = first_id;
        load::Running::start(&stage.lab.client, plan)
    });
    let more_at_target = |than: u64| wait_for(PATIENCE, || (stage.target.requests() > than).then_some(()));
    assert!(more_at_target(stage.target.requests() + 200).is_some(), "no copy");

    assert!(stage.done(&["pause"]).starts_with("paused\n"));
    let relieved = wait_for(PATIENCE, || {
        let status = stage.status();
        (number(&status, &["total", "counters", "sessions_alive"]) == 0).then_some(status)
    });
    let status = relieved.expect("the end of the sessions");
    assert!(number(&status, &["total", "sessions_ended_early", "paused"]) >= 8, "{status:#}");
    let at_pause = stage.target.requests();
    for client in &clients {
        let answered = || client.progress.answered.load(Ordering::Relaxed);
        let before = answered();
        assert!(wait_for(PATIENCE, || (answered() > before + 200).then_some(())).is_some(), "online is left alone");
    }
    assert_eq!(stage.target.requests(), at_pause, "a request reached the target in the pause");
    let status = stage.status();
    assert_eq!((&status["in_force"]["paused"], number(&status, &["maps", "0", "sessions_alive"])), (&true.into(), 0));
    assert!(number(&status, &["total", "counters", "syns_paused"]) >= 200, "{status:#}");
    assert!(number(&status, &["total", "packets_dropped", "captured while paused"]) >= 1_000, "{status:#}");

    assert!(stage.done(&["resume"]).starts_with("running\n"));
    assert!(more_at_target(at_pause + 200).is_some(), "no copy after the pause");
    let kept_alive = || {
        let id = |id: u64| id < 1 << 20;
        let seen = stage.target.received();
        seen.iter().filter(|received| received.id.is_some_and(id)).count()
    };
    let before = kept_alive();
    let joined = wait_for(PATIENCE, || (kept_alive() > before + 50).then_some(()));
    assert!(joined.is_some(), "connections that went on are not joined");
    for client in clients {
        client.progress.stop.store(true, Ordering::Relaxed);
        assert_eq!(client.join().failures, []);
    }
    let log = stage.copy.stop();
    assert!(log.contains("paused by process ") && log.contains("resumed by process "), "{log}");
    assert!(!log.contains("balance"), "{log}");
}

pub(crate) fn a_fifth(bench: &Bench<'_>) {
    const REQUESTS: u64 = 1_000;
    let stage = Stage::start(bench);
    let refused = stage.run(&["set", "rate=lots", "max-rate=5"]);
    assert_eq!(refused.status.code(), Some(2));
    let unknown = stage.run(&["set", "speed=5"]);
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("max-rate=1000"), "{unknown:?}");
    assert!(stage.done(&["set"]).contains("max-rate=none\nrate=100%\n"), "one wrong value changes nothing");

    assert!(stage.done(&["set", "rate=20%"]).contains("rate=20%\n"));
    let before = (stage.target.requests(), stage.status());
    let mut plan = plan(at(stage.online()), 500.0, REQUESTS, 20, Reuse::Close);
    plan.first_id = 1;
    assert_eq!(load::run(&stage.lab.client, &plan).failures, []);
    let counted = |status: &Value, name| number(status, &["total", "counters", name]);
    let grown = |status: &Value, name| counted(status, name) - counted(&before.1, name);
    let all = wait_for(PATIENCE, || {
        let status = stage.status();
        (grown(&status, "client_syns") >= REQUESTS && counted(&status, "sessions_alive") == 0).then_some(status)
    });
    let status = all.expect("all connections are seen, and those that are copied over");
    let chosen = grown(&status, "sessions_seen");
    assert_eq!(chosen + grown(&status, "syns_not_sampled"), grown(&status, "client_syns"));
    // Of a thousand with a fifth each, fewer than 130 or more than 270 come once in 30 million runs.
    assert!((130..=270).contains(&chosen), "{chosen} of {REQUESTS}");
    let copied = settle(before.0 + chosen, QUIET, || stage.target.requests()) - before.0;
    assert_eq!(copied, chosen, "each that was chosen, and no other");

    assert!(stage.done(&["set", "rate=100%"]).contains("rate=100%\n"));
    let before = stage.target.requests();
    plan.first_id += REQUESTS;
    assert_eq!(load::run(&stage.lab.client, &plan).failures, []);
    assert_eq!(settle(before + REQUESTS, QUIET, || stage.target.requests()), before + REQUESTS);
    stage.copy.stop();
}

pub(crate) fn top(bench: &Bench<'_>) {
    let mut stage = Stage::start(bench);
    let plan = plan(at(stage.online()), 100.0, 1 << 20, 4, Reuse::Close);
    let client = load::Running::start(&stage.lab.client, plan);
    let command = format!("{} top --socket {}", bench.programs.tcpcopy.display(), socket(bench).display());
    let folder = bench.folder;
    let script = || Command::new("script");

    let mut terminal = Terminal::start(script(), folder, (50, 140), &command);
    for words in ["running", "captured", "answered", "unanswered", "p: pause"] {
        terminal.wait_for(words);
    }
    terminal.press(b"p");
    terminal.wait_for("Pause?");
    terminal.press(b"y");
    terminal.wait_for("PAUSED");
    assert_eq!(stage.status()["in_force"]["paused"], true);
    terminal.press(b"p");
    terminal.wait_for("running");
    assert_eq!(stage.status()["in_force"]["paused"], false);
    terminal.press(b"q");
    terminal.end();
    assert_eq!(stage.copy.tcpcopy.try_wait(), None, "the copy goes on");

    // A small terminal; Ctrl-C.
    let mut terminal = Terminal::start(script(), folder, (3, 20), &command);
    terminal.wait_for("captured");
    terminal.press(b"\x1b[B\x1b[B\x03");
    terminal.end();

    // Without a terminal there is nothing to draw on.
    let output = stage.run(&["top"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");

    // The copy ends under it.
    let mut terminal = Terminal::start(script(), folder, (50, 140), &command);
    terminal.wait_for("running");
    client.progress.stop.store(true, Ordering::Relaxed);
    assert_eq!(client.join().failures, []);
    stage.copy.stop();
    terminal.wait_for("the program has ended");
    terminal.press(b"q");
    terminal.end();
}

/// Starts a tcpcopy that copies nothing, whose socket is where `socket` says, or in `runtime`.
fn idle_copy(bench: &Bench<'_>, host: &Host, runtime: &Path, socket: Option<&Path>, port: u16) -> Process {
    let log = File::options().create(true).append(true).open(bench.folder.join(format!("{port}.log"))).expect("a log");
    let mut command = host.command(&bench.programs.tcpcopy);
    command.env("RUNTIME_DIRECTORY", runtime);
    command.args(["-x", &format!("{port}-10.99.0.1:80"), "-c", "10.78.0.x", "-s", "local", "-i", "eth0"]);
    if let Some(socket) = socket {
        command.arg("--socket").arg(socket);
    }
    command.stdout(log.try_clone().expect("a descriptor")).stderr(log);
    let mut process = Process::start(&mut command).expect("tcpcopy");
    let standard = runtime.join(format!("tcpcopy-{}.sock", process.id()));
    let is_there = || socket.unwrap_or(&standard).exists();
    let started = wait_for(PATIENCE, || process.try_wait().map(Err).or_else(|| is_there().then_some(Ok(()))));
    assert!(matches!(started, Some(Ok(()))), "{started:?}; see {}", bench.folder.display());
    process
}

/// Whether there are other users, as there are not in a user namespace with nobody but root.
fn has_other_users() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace().nth(2).and_then(|len| len.parse::<u64>().ok()).is_some_and(|len| len > 65_534)
}

pub(crate) fn who_and_whom(bench: &Bench<'_>) {
    let lab = Lab::new().expect("a lab");
    let runtime = bench.folder.join("runtime");
    let ask = |words: &[&str]| {
        let mut command = Command::new(&bench.programs.tcpcopy);
        let output = command.args(words).env("RUNTIME_DIRECTORY", &runtime).stdin(Stdio::null()).output();
        let output = output.expect("tcpcopy");
        let code = output.status.code().expect("a code");
        (code, String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
    };
    let (code, text) = ask(&["status"]);
    assert!(code == 4 && text.contains("no tcpcopy is running"), "{code}: {text}");

    let mut first = idle_copy(bench, &lab.online, &runtime, None, 81);
    let (code, text) = ask(&["status"]);
    assert!(code == 0 && text.contains("81 to 10.99.0.1:80"), "{code}: {text}");
    let mut second = idle_copy(bench, &lab.online, &runtime, None, 82);
    let (code, text) = ask(&["status"]);
    let listed = [(first.id(), 81), (second.id(), 82)].map(|(id, port)| format!("--pid {id}   {port} to 10.99.0.1:80"));
    assert!(code == 2 && listed.iter().all(|line| text.contains(line)), "{code}: {text}");
    let (code, text) = ask(&["pause", "--pid", &second.id().to_string()]);
    assert!(code == 0 && text.starts_with("paused\n"), "{code}: {text}");

    // One that is killed leaves its socket, which counts for nothing and goes with the next start.
    first.kill();
    let left = runtime.join(format!("tcpcopy-{}.sock", first.id()));
    assert!(left.exists());
    let (code, text) = ask(&["status"]);
    assert!(code == 0 && text.contains("82 to ") && text.contains(": paused\n"), "{code}: {text}");
    let socket = bench.folder.join("third.sock");
    let mut third = idle_copy(bench, &lab.online, &runtime, Some(&socket), 83);
    let mut fourth = idle_copy(bench, &lab.online, &runtime, None, 84);
    assert!(!left.exists(), "a dead process' socket stays");

    // A live socket is not taken.
    let mut thief = Command::new(&bench.programs.tcpcopy);
    thief.args(["-x", "85-10.99.0.1:80", "-c", "10.78.0.x", "-s", "local", "-i", "lo", "--socket"]).arg(&socket);
    let output = thief.stdin(Stdio::null()).output().expect("tcpcopy");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1), "{text}");
    assert!(text.contains(&format!("process {} of user 0 listens on {}", third.id(), socket.display())), "{text}");
    assert!(said(&run(&bench.programs.tcpcopy, &["status"], &socket)).contains("83 to 10.99.0.1:80"));

    if has_other_users() {
        let program = bench.folder.join("tcpcopy");
        // Not by fs::copy: a child of another test, forked meanwhile, would hold it open for writing ("text file busy").
        let copied = Command::new("cp").arg(&bench.programs.tcpcopy).arg(&program).status();
        assert!(copied.is_ok_and(|status| status.success()), "a copy of the program");
        fs::set_permissions(bench.folder, Permissions::from_mode(0o755)).expect("the folder's mode");
        let as_nobody = || {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program);
            let output =
                command.args(["pause", "--socket"]).arg(&socket).output().expect("setpriv (package util-linux)");
            (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
        };
        let (code, text) = as_nobody();
        assert!(code == Some(3) && text.contains("not for this user"), "{code:?}: {text}");
        // Nor when somebody has opened the file to all.
        fs::set_permissions(&socket, Permissions::from_mode(0o666)).expect("the socket's mode");
        let (code, text) = as_nobody();
        assert!(code == Some(3) && text.contains("only user 0 and root may ask, not user 65534"), "{code:?}: {text}");
        let text = said(&run(&bench.programs.tcpcopy, &["set"], &socket));
        assert!(text.starts_with("running\n"), "{text}");
        let log = fs::read_to_string(bench.folder.join("83.log")).expect("a log");
        assert!(log.contains("refused on the socket: process "), "{log}");
    }
    for process in [&mut second, &mut third, &mut fourth] {
        assert!(process.stop(PATIENCE).is_some_and(|status| status.success()));
    }
    assert_eq!(fs::read_dir(&runtime).expect("the folder").count(), 0);
}
