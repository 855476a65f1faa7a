//! The units of systemd: that systemd takes them, how much they expose, and that they agree with the programs and with each
//! other.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// What `systemd-analyze security` may find, of 100; the network and the capabilities to use it are a part that stays.
const EXPOSURE: &str = "25";
/// Each unit, and the name under which it is looked at.
const UNITS: [(&str, &str); 4] = [
    ("tcpcopy.service", "tcpcopy.service"),
    ("tcpcopy@.service", "tcpcopy@shop.service"),
    ("intercept.service", "intercept.service"),
    ("intercept@.service", "intercept@shop.service"),
];

fn unit(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd").join(name);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The settings of a unit. Each line is one; several of one name are all there.
fn settings(name: &str) -> BTreeMap<String, Vec<String>> {
    let mut settings: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in unit(name).lines().filter(|line| !line.is_empty() && !line.starts_with(['#', '['])) {
        let (key, value) = line.split_once('=').unwrap_or_else(|| panic!("{name}: no setting: {line}"));
        settings.entry(key.to_owned()).or_default().push(value.to_owned());
    }
    settings
}

/// A folder with the units, which start a program that is there.
fn startable() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, _) in UNITS {
        let text = unit(name).replace("/usr/sbin/tcpcopy", "/bin/true").replace("/usr/sbin/intercept", "/bin/true");
        fs::write(folder.path().join(name), text).expect("a unit");
    }
    folder
}

/// `systemd-analyze` with these arguments; `None` where it is not installed.
fn analyze(arguments: &[&str], unit: &Path) -> Option<Output> {
    let output = Command::new("systemd-analyze").args(arguments).arg(unit).env("SYSTEMD_PAGER", "").output();
    if output.is_err() {
        eprintln!("SKIPPED: needs systemd-analyze (package systemd)");
    }
    output.ok()
}

fn words(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat()
}

#[test]
fn systemd_takes_them_without_a_word() {
    let folder = startable();
    for (_, name) in UNITS {
        let Some(output) = analyze(&["verify", "--man=no"], &folder.path().join(name)) else { return };
        // It ends with 0 also after it has ignored what it does not know.
        assert!(output.status.success() && words(&output).trim().is_empty(), "{name}:\n{}", words(&output));
    }
}

#[test]
fn they_expose_little() {
    let folder = startable();
    for (_, name) in UNITS {
        let arguments = ["security", "--offline=true", "--no-pager", &format!("--threshold={EXPOSURE}")];
        let Some(output) = analyze(&arguments, &folder.path().join(name)) else { return };
        assert!(output.status.success(), "{name}:\n{}", words(&output));
    }
}

#[test]
fn they_say_what_the_programs_need() {
    for (name, _) in UNITS {
        let settings = settings(name);
        let is = |key: &str, value: &str| {
            assert_eq!(settings.get(key).map(Vec::as_slice), Some(&[value.to_owned()][..]), "{name}: {key}");
        };
        is("Type", "notify");
        is("NotifyAccess", "main");
        is("AmbientCapabilities", "CAP_NET_RAW CAP_NET_ADMIN");
        is("CapabilityBoundingSet", "CAP_NET_RAW CAP_NET_ADMIN");
        is("NoNewPrivileges", "yes");
        is("RestrictAddressFamilies", "AF_PACKET AF_INET AF_INET6 AF_NETLINK AF_UNIX");
        is("ProtectSystem", "strict");
        assert!(settings.contains_key("WatchdogSec") && settings.contains_key("ExecReload"), "{name}");
        // Exit codes after which another start would end in the same way.
        let program = name.split(['.', '@']).next().unwrap_or_default();
        is("RestartPreventExitStatus", if program == "tcpcopy" { "2 3 5" } else { "2 3" });
        let start = &settings["ExecStart"][0];
        let file = if name.contains('@') { format!("{program}-%i") } else { program.to_owned() };
        assert_eq!(*start, format!("/usr/sbin/{program} --config /etc/tcpcopy/{file}.toml"));
        assert!(!start.contains(" -d"), "{name}: what goes into the background is lost to the manager");
    }
}

#[test]
fn templates_differ_from_the_others_in_names_only() {
    for program in ["tcpcopy", "intercept"] {
        let (plain, template) = (settings(&format!("{program}.service")), settings(&format!("{program}@.service")));
        let different: Vec<&String> = plain.keys().filter(|key| plain.get(*key) != template.get(*key)).collect();
        assert_eq!(different, ["Description", "ExecStart"], "{program}");
        assert_eq!(plain.len(), template.len());
    }
}

#[test]
fn the_guide_names_every_unit() {
    let guide: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operations.md");
    let guide = fs::read_to_string(guide).expect("docs/operations.md");
    for (name, _) in UNITS {
        assert!(guide.contains(name), "docs/operations.md does not name {name}");
    }
}
