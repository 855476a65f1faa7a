//! The programs as their users meet them: exit codes, messages, the demo.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use tcpcopy_io::netns::{Lab, Process, wait_for};

use crate::harness::Bench;

const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn wrong_options(bench: &Bench<'_>) {
    let (tcpcopy, intercept) = (&bench.programs.tcpcopy, &bench.programs.intercept);
    // Arguments, and what the message must contain.
    let cases: [(&Path, &str, &str); 11] = [
        (tcpcopy, "", "-x"),
        (tcpcopy, "--no-such-option", "--no-such-option"),
        (tcpcopy, "-x 80 -s 10.0.0.4", "-x"),
        (tcpcopy, "-x 80-10.0.0.3:99999 -s 10.0.0.4", "99999"),
        (tcpcopy, "-x 80-10.0.0.3:80 -s", "--intercept"),
        (tcpcopy, "-x 80-10.0.0.3:80 -s 10.0.0.400", "10.0.0.400"),
        (tcpcopy, "-x 80-10.0.0.3:80 -s 10.0.0.4 -c 10.78.0.y", "10.78.0.y"),
        (tcpcopy, "-x 80-10.0.0.3:80 -s 10.0.0.4 -C many", "many"),
        (intercept, "-i eth0", "-F"),
        (intercept, "-F tcp -x 10.0.0.9", "contradict"),
        (intercept, "-F tcp -p 123456", "123456"),
    ];
    for (program, arguments, expected) in cases {
        let output = Command::new(program)
            .args(arguments.split_whitespace())
            .stdin(Stdio::null())
            .output()
            .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        let line = format!("{} {arguments}", program.file_name().unwrap_or_default().display());
        assert_ended(&line, &output, 2);
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(message.contains(expected), "`{line}` does not speak of {expected}:\n{message}");
        assert!(output.stdout.is_empty(), "`{line}` complains on its standard output");
    }
    for program in [tcpcopy, intercept] {
        for option in ["-h", "-v"] {
            let output = Command::new(program).arg(option).output().expect("a program of ours");
            assert_ended(option, &output, 0);
            assert!(!output.stdout.is_empty(), "{option} prints nothing");
        }
    }
}

fn assert_ended(line: &str, output: &Output, code: i32) {
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "`{line}` ended with {}:\n{message}", output.status);
}

pub(crate) fn intercept_unreachable(bench: &Bench<'_>) {
    let lab = Lab::new().expect("a lab");
    let assistant = lab.assistant.ipv4.to_string();
    let map = format!("80-{}:80", lab.target.ipv4);
    let log = bench.folder.join("tcpcopy.log");
    let file = File::create(&log).expect("a log file");
    let mut command = lab.online.command(&bench.programs.tcpcopy);
    command.args(["-x", &map, "-s", &assistant, "-c", "10.78.0.x", "-i", "eth0"]).stdout(Stdio::null()).stderr(file);
    let mut tcpcopy = Process::start(&mut command).expect("tcpcopy");
    let status = tcpcopy.wait(PATIENCE).expect("the end of tcpcopy");
    let message = fs::read_to_string(&log).expect("a log file");
    assert_eq!(status.code(), Some(4), "ended with {status}:\n{message}");
    assert!(message.contains(&assistant), "the message does not name the address {assistant}:\n{message}");
}

/// `tcpcopy ... 2>&1 | head`: nobody reads any more why it could not start; the exit code says it all the same.
pub(crate) fn unread_failure(bench: &Bench<'_>) {
    let lab = Lab::new().expect("a lab");
    let map = format!("80-{}:80", lab.target.ipv4);
    let log = bench.folder.join("tcpcopy.log");
    for arguments in [vec![], vec!["-l".as_ref(), log.as_os_str()]] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let mut command = lab.online.command(&bench.programs.tcpcopy);
        command.args(["-x", &map, "-s", &lab.assistant.ipv4.to_string(), "-c", "10.78.0.x", "-i", "eth0"]);
        command.args(&arguments).stdout(Stdio::null()).stderr(writer);
        let mut tcpcopy = Process::start(&mut command).expect("tcpcopy");
        let status = tcpcopy.wait(PATIENCE).expect("the end of tcpcopy");
        assert_eq!(status.code(), Some(4), "with {arguments:?}: ended with {status}, and not because of intercept");
    }
}

/// A demo that runs, with its standard output in a file.
struct Demo {
    process: Process,
    mark: String,
    folder: std::path::PathBuf,
}

impl Demo {
    fn start(bench: &Bench<'_>, arguments: &[&str]) -> Self {
        let folder = bench.folder.to_owned();
        // Every process that it starts inherits this, and so can be found.
        let mark = format!("TCPCOPY_LAB_MARK={}", folder.display());
        let (name, value) = mark.split_once('=').expect("a mark");
        let output = File::create(folder.join("demo.out")).expect("a file");
        let mut command = Command::new(&bench.programs.tcpcopy);
        command.arg("demo").args(arguments).env(name, value).env("TMPDIR", &folder).current_dir(&folder);
        command.stdin(Stdio::null()).stdout(output.try_clone().expect("a descriptor")).stderr(output);
        let process = Process::start(&mut command).expect("tcpcopy");
        Self { process, mark, folder }
    }

    fn output(&self) -> String {
        fs::read_to_string(self.folder.join("demo.out")).expect("the demo's output")
    }

    /// Processes that belong to it.
    fn processes(&self) -> Vec<String> {
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").expect("/proc").flatten() {
            let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
            if environment.split(|&byte| byte == 0).any(|variable| variable == self.mark.as_bytes()) {
                let line = fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
                found.push(format!("{} {}", entry.file_name().display(), line.replace('\0', " ")));
            }
        }
        found
    }

    /// Waits until its client is at work, with all programs running.
    fn wait_until_busy(&mut self) {
        let busy = wait_for(PATIENCE, || {
            self.process.try_wait().map(Err).or_else(|| self.output().contains(" 1 s ").then_some(Ok(())))
        });
        assert!(matches!(busy, Some(Ok(()))), "the demo did not begin ({busy:?}):\n{}", self.output());
        let processes = self.processes();
        assert!(processes.len() >= 3, "the demo, tcpcopy and intercept should run, not {processes:?}");
    }

    fn assert_nothing_left(&self) {
        let gone = wait_for(Duration::from_secs(20), || self.processes().is_empty().then_some(()));
        assert!(gone.is_some(), "left running: {:?}", self.processes());
        let files: Vec<_> = fs::read_dir(&self.folder).expect("a folder").flatten().map(|e| e.file_name()).collect();
        assert_eq!(files, ["demo.out"], "left in the folders for work and for temporary files");
    }
}

pub(crate) fn demo(bench: &Bench<'_>) {
    let mut demo = Demo::start(bench, &["--seconds", "3", "--rate", "500"]);
    let status = demo.process.wait(PATIENCE).expect("the end of the demo");
    let output = demo.output();
    assert_eq!(status.code(), Some(0), "the demo ended with {status}:\n{output}");
    for row in ["requests online", "requests at the target", "lost", "altered", "median", "p99", "CPU per request"] {
        assert!(output.contains(row), "no {row:?} in:\n{output}");
    }
    demo.assert_nothing_left();
}

pub(crate) fn demo_interrupted(bench: &Bench<'_>) {
    const SIGINT: i32 = 2;
    const SIGTERM: i32 = 15;
    for signal in [SIGINT, SIGTERM] {
        let mut demo = Demo::start(bench, &["--seconds", "60", "--rate", "200"]);
        demo.wait_until_busy();
        demo.process.signal(signal);
        let status = demo.process.wait(PATIENCE).expect("the end of the demo");
        assert_eq!(status.code(), Some(128 + signal), "the demo ended with {status}:\n{}", demo.output());
        demo.assert_nothing_left();
    }
}

pub(crate) fn demo_killed(bench: &Bench<'_>) {
    let mut demo = Demo::start(bench, &["--seconds", "60", "--rate", "200"]);
    demo.wait_until_busy();
    demo.process.kill();
    demo.assert_nothing_left();
}
