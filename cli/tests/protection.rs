//! What both programs do to be good guests on their host, from outside: rights, niceness, conditions to end, word to the
//! service manager, lines for the journal. What needs privileges says so when it has none.

mod scratch;
mod waiting;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use scratch::{Running, Scratch, copy_program, signal};
use waiting::{may_run, until, until_file_has};

/// A copy on `lo` that has nothing to do, and no intercept.
const TCPCOPY: &[&str] =
    &[env!("CARGO_BIN_EXE_tcpcopy"), "-x", "9-127.0.0.1:10", "-s", "127.0.0.1:1", "-c", "127.1.2.3", "-i", "lo", "-L"];
/// An intercept that hears nothing.
const INTERCEPT: &[&str] =
    &[env!("CARGO_BIN_EXE_intercept"), "-F", "tcp and src port 10", "-i", "lo", "-p", "0", "-b", "127.0.0.1"];
const NOBODY: u32 = 65_534;

fn command(words: &[&str], more: &[&str]) -> Command {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).args(more).stdin(Stdio::null()).stdout(Stdio::null());
    command.env_remove("NOTIFY_SOCKET").env_remove("WATCHDOG_USEC").env_remove("JOURNAL_STREAM");
    command
}

/// Whether this process is root, and may become others.
fn is_root() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let all = map.split_whitespace().eq(["0", "0", "4294967295"]);
    let root = fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0);
    if !all || !root {
        eprintln!("SKIPPED: only root becomes somebody else");
    }
    all && root && may_run()
}

/// Everything that a program tells its manager.
struct Manager(UnixDatagram);

impl Manager {
    fn heard(&self) -> Option<String> {
        let mut bytes = [0; 4096];
        let n = self.0.recv(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes[..n]).into_owned())
    }

    /// Waits for a message that begins like this; what comes before it is forgotten.
    fn hears(&self, beginning: &str) -> String {
        until(beginning, || self.heard().filter(|text| text.starts_with(beginning)))
    }
}

/// From the start to the end, to a manager at this address.
fn tells_its_manager(program: &[&str], address: &str, manager: &Manager) {
    manager.0.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let mut command = command(program, &["--stats-interval", "1"]);
    command.env("NOTIFY_SOCKET", address).env("WATCHDOG_USEC", "400000").stderr(Stdio::null());
    let mut child = Running(command.spawn().expect("the program starts"));
    assert!(manager.hears("READY=1\nSTATUS=").len() > 15);
    for _ in 0..3 {
        manager.hears("WATCHDOG=1");
    }
    manager.hears("STATUS=");
    signal(child.0.id(), "HUP");
    manager.hears("RELOADING=1\nMONOTONIC_USEC=");
    manager.hears("READY=1");
    manager.hears("WATCHDOG=1");
    signal(child.0.id(), "TERM");
    manager.hears("STOPPING=1\nSTATUS=");
    assert_eq!(child.0.wait().unwrap().code(), Some(0));
}

#[test]
fn a_service_manager_hears_of_start_life_reload_and_end() {
    if !may_run() {
        return;
    }
    let scratch = Scratch::new("notify");
    let path = scratch.file("notify");
    let at_path = Manager(UnixDatagram::bind(&path).unwrap());
    tells_its_manager(TCPCOPY, path.to_str().unwrap(), &at_path);
    tells_its_manager(INTERCEPT, path.to_str().unwrap(), &at_path);
    let name = format!("tcpcopy-manager-{}", std::process::id());
    let abstract_name = SocketAddr::from_abstract_name(name.as_bytes()).unwrap();
    let at_name = Manager(UnixDatagram::bind_addr(&abstract_name).unwrap());
    tells_its_manager(&[INTERCEPT, &["--workers", "2"]].concat(), &format!("@{name}"), &at_name);
    tells_its_manager(&[TCPCOPY, &["--workers", "2", "-c", "127.1.2.4"]].concat(), &format!("@{name}"), &at_name);
}

#[test]
fn a_watchdog_that_is_meant_for_another_process_is_not_fed() {
    if !may_run() {
        return;
    }
    let scratch = Scratch::new("watchdog");
    let path = scratch.file("notify");
    let manager = Manager(UnixDatagram::bind(&path).unwrap());
    manager.0.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let mut command = command(TCPCOPY, &["--stats-interval", "1"]);
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "400000").env("WATCHDOG_PID", "1").stderr(Stdio::null());
    let _child = Running(command.spawn().expect("the program starts"));
    manager.hears("READY=1");
    // Two seconds, of which the watchdog's limit is a part.
    for _ in 0..2 {
        let told = until("a message", || manager.heard());
        assert!(told.starts_with("STATUS="), "{told}");
    }
}

#[test]
fn for_the_journal_lines_have_a_priority_and_no_time() {
    if !may_run() {
        return;
    }
    let lines_of = |program: &[&str], named: bool| {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let theirs = OwnedFd::from(theirs);
        let socket = fs::metadata(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&theirs))).unwrap();
        let mut command = command(program, &[]);
        let inode = socket.ino() + u64::from(!named);
        command.env("JOURNAL_STREAM", format!("{}:{inode}", socket.dev())).stderr(theirs);
        let _child = Running(command.spawn().expect("the program starts"));
        drop(command);
        let mut lines = BufReader::new(ours).lines();
        [lines.next(), lines.next()].map(|line| line.expect("a line").expect("a line"))
    };
    for program in [TCPCOPY, INTERCEPT] {
        for line in lines_of(program, true) {
            let plain = line.strip_prefix("<6>").or_else(|| line.strip_prefix("<4>"));
            assert!(plain.is_some_and(|text| !text.contains("[info]") && !text.starts_with("20")), "{line}");
        }
        for line in lines_of(program, false) {
            assert!(line.contains(" [info] ") || line.contains(" [warn] "), "stderr is something else: {line}");
        }
    }
}

/// A field of each thread's status; a thread that ends meanwhile has none.
fn of_threads(child: &Child, field: &str) -> Vec<String> {
    let threads = fs::read_dir(format!("/proc/{}/task", child.id())).expect("threads");
    let status = |thread: PathBuf| fs::read_to_string(thread.join("status")).ok();
    let value = |status: String| {
        status.lines().find_map(|line| Some(line.strip_prefix(field)?.strip_prefix(':')?.trim().to_owned()))
    };
    threads.filter_map(|thread| status(thread.ok()?.path())).filter_map(value).collect()
}

fn sets(child: &Child, field: &str) -> Vec<u64> {
    of_threads(child, field).iter().map(|set| u64::from_str_radix(set, 16).expect("a set")).collect()
}

const NET_RAW: u64 = 1 << 13;

#[test]
fn without_another_user_what_is_not_needed_is_dropped_and_what_is_kept_is_said() {
    if !may_run() {
        return;
    }
    let scratch = Scratch::new("dropped");
    for (name, program) in [("tcpcopy", TCPCOPY), ("intercept", INTERCEPT)] {
        let log = scratch.file(name);
        let more = ["-l", log.to_str().unwrap(), "--metrics", "0", "--nice", "7"];
        let mut command = command(program, &more);
        let child = Running(command.spawn().expect("the program starts"));
        until_file_has(&log, "running with CAP_NET_RAW; all others are dropped");
        let is_started = || (of_threads(&child.0, "NoNewPrivs").iter().all(|on| on == "1")).then_some(());
        until("all threads", is_started);
        for field in ["CapEff", "CapPrm", "CapInh", "CapAmb"] {
            assert!(
                sets(&child.0, field).iter().all(|set| set & !NET_RAW == 0),
                "{field}: {:x?}",
                sets(&child.0, field)
            );
        }
        assert!(sets(&child.0, "CapEff").contains(&0), "who serves metrics needs nothing");
        let stat = |thread: PathBuf| fs::read_to_string(thread.join("stat")).ok();
        let threads = fs::read_dir(format!("/proc/{}/task", child.0.id())).unwrap();
        for stat in threads.filter_map(|thread| stat(thread.unwrap().path())) {
            // proc(5): nice is field 19.
            assert_eq!(stat.rsplit_once(") ").unwrap().1.split(' ').nth(16), Some("7"), "{stat}");
        }
    }
}

#[test]
fn as_another_user_the_pid_file_names_nobody_at_the_end() {
    if !is_root() {
        return;
    }
    let scratch = Scratch::new("as-nobody");
    fs::set_permissions(scratch.folder(), fs::Permissions::from_mode(0o755)).unwrap();
    let own = scratch.file("own");
    fs::create_dir(&own).unwrap();
    chown(&own, Some(NOBODY), Some(NOBODY)).unwrap();
    for program in [TCPCOPY, INTERCEPT] {
        for folder in [own.as_path(), scratch.folder()] {
            let (pid, log) = (folder.join("pid"), folder.join("log"));
            let files = ["--user", "nobody", "-P", pid.to_str().unwrap(), "-l", log.to_str().unwrap()];
            let mut child = Running(command(program, &files).spawn().unwrap());
            let text = until_file_has(&log, "running as user nobody with CAP_NET_RAW");
            let id = child.0.id().to_string();
            assert_eq!(fs::read_to_string(&pid).unwrap().trim(), id);
            until("nobody", || {
                of_threads(&child.0, "Uid").iter().all(|ids| ids.starts_with("65534\t65534")).then_some(())
            });
            let is_own = folder == own;
            assert_eq!(text.contains("may not write to the folder of"), !is_own, "{text}");
            // Ready, so that signals are taken.
            until_file_has(&log, if program == TCPCOPY { "capturing on lo" } else { "listening on" });
            signal(child.0.id(), "TERM");
            assert_eq!(child.0.wait().unwrap().code(), Some(0));
            if is_own {
                assert!(!pid.exists());
            } else {
                assert_eq!(fs::read_to_string(&pid).unwrap(), "", "it cannot be removed");
            }
            fs::remove_file(log).unwrap();
        }
    }
}

/// The usual case of `--user`: files in folders of root's.
#[test]
fn as_another_user_statistics_and_report_are_written_in_a_folder_of_root() {
    if !is_root() {
        return;
    }
    let scratch = Scratch::new("report-as-nobody");
    fs::set_permissions(scratch.folder(), fs::Permissions::from_mode(0o755)).unwrap();
    let (log, statistics, page) = (scratch.file("log"), scratch.file("statistics"), scratch.file("page.html"));
    let word = |path: &Path| path.to_str().unwrap().to_owned();
    let files = ["--user", "nobody", "-l", &word(&log), "--stats-file", &word(&statistics), "--report", &word(&page)];
    let mut child = Running(command(TCPCOPY, &files).spawn().unwrap());
    until_file_has(&statistics, "\"kind\":\"begin\"");
    until_file_has(&log, "capturing on lo");
    signal(child.0.id(), "TERM");
    assert_eq!(child.0.wait().unwrap().code(), Some(0), "{}", fs::read_to_string(&log).unwrap());
    assert!(fs::read_to_string(&statistics).unwrap().contains("\"kind\":\"end\""));
    let text = fs::read_to_string(&page).unwrap();
    assert!(text.starts_with("<!DOCTYPE html>") && text.trim_end().ends_with("</html>"), "{text}");
    assert_eq!(fs::metadata(&page).unwrap().uid(), NOBODY);
}

#[test]
fn another_secret_is_read_on_a_hangup() {
    if !may_run() {
        return;
    }
    for (name, program) in [("tcpcopy", TCPCOPY), ("intercept", INTERCEPT)] {
        let scratch = Scratch::new(&format!("renew-{name}"));
        let (secret, log) = (scratch.file("secret"), scratch.file("log"));
        let write = |text: &str, mode| {
            fs::write(&secret, text).unwrap();
            fs::set_permissions(&secret, fs::Permissions::from_mode(mode)).unwrap();
        };
        write("sixteen bytes or more", 0o600);
        let options = ["--secret-file", secret.to_str().unwrap(), "--socket", "none", "-l", log.to_str().unwrap()];
        let mut child = Running(command(program, &options).spawn().unwrap());
        until_file_has(&log, if name == "tcpcopy" { "capturing on lo" } else { "listening on" });
        write("sixteen other bytes or more", 0o600);
        signal(child.0.id(), "HUP");
        until_file_has(&log, "secret and certificates read again");
        write("everybody can read these", 0o644);
        signal(child.0.id(), "HUP");
        let said = until_file_has(&log, "what was read before stays in use");
        assert!(said.contains("in --secret-file"), "{said}");
        signal(child.0.id(), "TERM");
        assert_eq!(child.0.wait().unwrap().code(), Some(0));
    }
}

#[test]
fn with_capabilities_only_no_root_is_needed() {
    if !is_root() {
        return;
    }
    // What systemd does by User= and AmbientCapabilities=.
    let scratch = Scratch::new("ambient");
    fs::set_permissions(scratch.folder(), fs::Permissions::from_mode(0o755)).unwrap();
    let own = scratch.file("own");
    fs::create_dir(&own).unwrap();
    chown(&own, Some(NOBODY), Some(NOBODY)).unwrap();
    for (name, program) in [("tcpcopy", TCPCOPY), ("intercept", INTERCEPT)] {
        let log = own.join(name);
        // A copy that another user may run, whatever folder this one was built in.
        let copy = own.join(format!("{name}-program"));
        copy_program(Path::new(program[0]), &copy);
        let mut setpriv = Command::new("setpriv");
        setpriv.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--no-new-privs"]);
        setpriv.args(["--inh-caps", "+net_raw,+net_admin", "--ambient-caps", "+net_raw,+net_admin"]);
        setpriv.args(["--bounding-set", "-all,+net_raw,+net_admin"]).arg(&copy).args(&program[1..]);
        setpriv.args(["-l", log.to_str().unwrap()]).stdout(Stdio::null());
        let Ok(child) = setpriv.spawn() else {
            eprintln!("SKIPPED: needs the program setpriv");
            return;
        };
        let mut child = Running(child);
        until_file_has(&log, "running with CAP_NET_RAW; all others are dropped");
        until("only CAP_NET_RAW", || sets(&child.0, "CapEff").iter().all(|set| set & !NET_RAW == 0).then_some(()));
        until_file_has(&log, if name == "tcpcopy" { "capturing on lo" } else { "listening on" });
        signal(child.0.id(), "TERM");
        assert_eq!(child.0.wait().unwrap().code(), Some(0));
    }
}

#[test]
fn who_is_nobody_and_what_is_no_condition_is_said() {
    for (program, options, said) in [
        (TCPCOPY, ["--user", "no-such-user-here"], "useradd --system"),
        (INTERCEPT, ["--user", "no-such-user-here"], "useradd --system"),
        (TCPCOPY, ["--user", ":"], "--user tcpcopy"),
        (TCPCOPY, ["--nice", "20"], "-20 to 19"),
        (TCPCOPY, ["--cpu-limit", "lots"], "--cpu-limit 50"),
        (TCPCOPY, ["--max-sessions", "0"], "--max-sessions"),
        (TCPCOPY, ["--stop-if", "errors>5"], "--stop-if 'errors>5%'"),
    ] {
        let output = command(program, &options).stderr(Stdio::piped()).output().expect("the program starts");
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{options:?}: {err}");
        assert!(err.contains(said), "{err}");
    }
}

#[test]
fn a_condition_ends_the_copy_with_5_the_figures_and_the_table() {
    if !may_run() {
        return;
    }
    let options = ["--stop-if", "errors>50%", "--stop-if", "memory>1K for 1s"];
    let mut command = command(TCPCOPY, &options);
    let output = command.stdout(Stdio::piped()).stderr(Stdio::piped()).output().expect("the program starts");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(5), "{err}");
    assert!(err.contains("stopping, because of --stop-if 'memory>1K for 1s': this process took "), "{err}");
    assert!(out.contains("sessions   seen"), "{out}");
}
