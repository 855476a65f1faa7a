//! The control link between hosts that trust nobody: with TLS and a secret, and what becomes of those who do not belong.

use std::fs::{self, File, Permissions};
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tcpcopy::demo::client::Reuse;
use tcpcopy_io::netns::{Lab, Process, wait_for};
use tcpcopy_tests::book;
use tcpcopy_tests::copy::{Setup, stop};
use tcpcopy_tests::load;

use crate::harness::Bench;
use crate::workloads::{assert_copied, at, plan, web_servers};

const PATIENCE: Duration = Duration::from_secs(60);

/// Files for both programs, in the bench's folder.
struct Files<'a> {
    folder: &'a Path,
}

impl<'a> Files<'a> {
    /// Made as docs/security.md says, with the very commands, for an intercept at `address`; and another secret.
    fn new(folder: &'a Path, address: Ipv4Addr) -> Self {
        let (_, lines) = book::made_by("docs/security.md");
        let commands = lines.join("\n");
        assert!(commands.contains("openssl"), "docs/security.md has no commands");
        let mut shell = Command::new("sh");
        shell.args(["-e", "-c", &commands.replace("10.0.0.3", &address.to_string())]).current_dir(folder);
        let output = shell.stdin(Stdio::null()).output().expect("a shell");
        assert!(output.status.success(), "{commands}\n{}", String::from_utf8_lossy(&output.stderr));
        let another = folder.join("another-secret");
        fs::write(&another, "what somebody else made up\n").expect("a file");
        fs::set_permissions(&another, Permissions::from_mode(0o600)).expect("a file of ours");
        Self { folder }
    }

    /// Options that name files: pairs of option and name.
    fn options(&self, pairs: &[(&str, &str)]) -> Vec<String> {
        let path = |name: &str| -> PathBuf { self.folder.join(name) };
        pairs.iter().flat_map(|(option, name)| [(*option).to_owned(), path(name).display().to_string()]).collect()
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).expect("a log")
}

/// A copy over TLS, each end with a certificate and the secret, is as complete as any other.
pub(crate) fn copy_over_tls(bench: &Bench<'_>) {
    let lab = Lab::new().expect("a lab");
    let [online, target] = web_servers(bench, &lab);
    let files = Files::new(bench.folder, lab.assistant.ipv4);
    let mut setup = Setup::new(bench.programs, bench.folder, &lab);
    let shared = [("--tls-ca", "ca.pem"), ("--secret-file", "link.secret")];
    setup.tcpcopy.extend(files.options(&shared));
    setup.tcpcopy.extend(files.options(&[("--tls-cert", "tcpcopy.pem"), ("--tls-key", "tcpcopy.key")]));
    setup.intercept.extend(files.options(&shared));
    setup.intercept.extend(files.options(&[("--tls-cert", "intercept.pem"), ("--tls-key", "intercept.key")]));
    setup.intercept.extend(["--allow".to_owned(), lab.online.ipv4.to_string()]);
    let mut copy = setup.start(&lab);
    copy.wait_until_copying(&lab, lab.online.ipv4.into(), || target.requests());
    let before = target.requests();

    for (first_id, reuse) in [(0, Reuse::KeepAlive), (10_000, Reuse::Close)] {
        let mut plan = plan(at(lab.online.ipv4), 1_000.0, 2_000, 50, reuse);
        plan.first_id = first_id;
        assert_eq!(load::run(&lab.client, &plan).failures, [], "online did not answer");
    }
    assert_copied(&online, &target, before, 4_000);
    copy.stop();
    let log = read(&setup.intercept_log());
    assert!(log.contains("speak TLS; show a certificate; know the secret"), "{log}");
    assert!(!log.contains("anyone who reaches"), "{log}");
}

/// Starts tcpcopy with further options and returns how it ended and what it said.
fn end_of_tcpcopy(bench: &Bench<'_>, lab: &Lab, further: &[String]) -> (Option<i32>, String) {
    let log = bench.folder.join("refused.log");
    let file = File::create(&log).expect("a log file");
    let map = format!("80-{}:80", lab.target.ipv4);
    let mut command = lab.online.command(&bench.programs.tcpcopy);
    command.args(["-x", &map, "-s", &lab.assistant.ipv4.to_string(), "-c", "10.78.0.x", "-i", "eth0"]);
    command.args(further).stdout(Stdio::null()).stderr(file);
    let mut tcpcopy = Process::start(&mut command).expect("tcpcopy");
    let status = tcpcopy.wait(PATIENCE).expect("the end of tcpcopy");
    (status.code(), read(&log))
}

pub(crate) fn refusals(bench: &Bench<'_>) {
    let lab = Lab::new().expect("a lab");
    let files = Files::new(bench.folder, lab.assistant.ipv4);
    let mut setup = Setup::new(bench.programs, bench.folder, &lab);
    let plain = setup.intercept.clone();

    // What intercept is started with; what tcpcopy is; what tcpcopy says; what intercept counts.
    let secret = files.options(&[("--secret-file", "link.secret")]);
    let another = files.options(&[("--secret-file", "another-secret")]);
    let tls = files.options(&[("--tls-cert", "intercept.pem"), ("--tls-key", "intercept.key")]);
    let over_tls = files.options(&[("--tls-ca", "ca.pem")]);
    let elsewhere = ["--allow".to_owned(), "10.99.0.0/16".to_owned()].to_vec();
    let cases = [
        (&secret, &another, "must be the same", "wrong secret:"),
        (&secret, &vec![], "give tcpcopy a --secret-file", "no secret:"),
        (&vec![], &secret, "give intercept a --secret-file", "no secret:"),
        (&tls, &vec![], "give tcpcopy --tls-ca", "without TLS:"),
        (&vec![], &over_tls, "give it --tls-cert and --tls-key", "rejected as garbage:"),
        (&elsewhere, &vec![], "its --allow does not have this host's address", "not allowed:"),
    ];
    for (of_intercept, of_tcpcopy, said, counted) in cases {
        let _ = fs::remove_file(setup.intercept_log());
        setup.intercept = [&plain[..], of_intercept].concat();
        let mut intercept = setup.start_intercept(&lab.assistant);
        let (code, message) = end_of_tcpcopy(bench, &lab, of_tcpcopy);
        let words = format!("intercept {of_intercept:?}, tcpcopy {of_tcpcopy:?}");
        assert_eq!(code, Some(4), "{words}:\n{message}");
        assert!(message.contains(said), "{words}: nothing of {said:?} in:\n{message}");
        assert!(message.contains(&lab.assistant.ipv4.to_string()), "{words}: which intercept?\n{message}");
        stop("intercept", &mut intercept);
        let log = read(&setup.intercept_log());
        assert!(log.contains(counted), "{words}: nothing of {counted:?} in:\n{log}");
        assert!(log.contains("; more such within"), "{words}: nobody is told in:\n{log}");
        assert!(!log.contains("links up:1"), "{words}: somebody was let in:\n{log}");
    }

    // A secret that everyone can read is none: the program does not start with it.
    fs::set_permissions(bench.folder.join("link.secret"), Permissions::from_mode(0o644)).expect("a file of ours");
    let (code, message) = end_of_tcpcopy(bench, &lab, &secret);
    assert_eq!(code, Some(2), "{message}");
    assert!(message.contains("chmod 600"), "{message}");
}

pub(crate) fn open_intercept(bench: &Bench<'_>) {
    let lab = Lab::new().expect("a lab");
    let setup = Setup::new(bench.programs, bench.folder, &lab);
    let mut intercept = setup.start_intercept(&lab.assistant);
    for _ in 0..2 {
        let before = read(&setup.intercept_log()).matches("connected (link").count();
        let mut tcpcopy = setup.start_tcpcopy(&lab.online);
        let connected = || read(&setup.intercept_log()).matches("connected (link").count() > before;
        wait_for(PATIENCE, || connected().then_some(())).expect("a line about the connection");
        stop("tcpcopy", &mut tcpcopy);
    }
    stop("intercept", &mut intercept);
    let log = read(&setup.intercept_log());
    assert_eq!(log.matches("anyone who reaches port 36524").count(), 1, "{log}");
    assert!(log.contains("--secret-file") && log.contains("--allow"), "{log}");
}
