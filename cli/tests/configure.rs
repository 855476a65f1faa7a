//! `./configure`, as people know it from the C programs. It runs on a copy of its own: it writes beside itself.

mod scratch;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use scratch::copy_program;

/// A copy of configure and the Makefile, removed at the end.
struct Tree(PathBuf);

impl Tree {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("tcpcopy-configure-{name}-{}", std::process::id()));
        fs::create_dir_all(folder.join("my module")).expect("a directory for the test");
        fs::write(folder.join("my module/Cargo.toml"), "[package]\nname = 'mine'\n").expect("a file");
        for file in ["configure", "Makefile"] {
            copy_program(&Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file), &folder.join(file));
        }
        Self(folder.canonicalize().expect("it is there"))
    }

    fn run(&self, program: &str, arguments: &[&str]) -> (Option<i32>, String, String) {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .current_dir(&self.0)
            .stdin(Stdio::null())
            .env_remove("MAKEFLAGS")
            .env_remove("MAKELEVEL")
            .env_remove("MODULE");
        let output = command.output().unwrap_or_else(|e| panic!("{program}: {e}"));
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("the output is UTF-8");
        (output.status.code(), text(output.stdout), text(output.stderr))
    }

    fn configure(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        self.run("./configure", arguments)
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn its_choices_reach_make() {
    if Command::new("make").arg("--version").output().is_err() {
        eprintln!("SKIPPED: needs the program make");
        return;
    }
    let tree = Tree::new("make");
    let (code, _, err) = tree.configure(&["--set-protocol-module=my module", "--prefix=/opt/t"]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    let module = tree.0.join("my module");
    let (code, out, err) = tree.run("make", &["-n"]);
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("cargo build --release --package tcpcopy --bin intercept\n"), "make alone builds now: {out}");
    assert!(out.contains(&format!("scripts/build-with-module.sh \"{}\" --release", module.display())), "{out}");
    let (_, out, _) = tree.run("make", &["-n", "install"]);
    assert!(out.contains("PREFIX=\"/opt/t\""), "{out}");

    let (code, _, _) = tree.configure(&[]);
    assert_eq!(code, Some(0));
    let (_, out, _) = tree.run("make", &["-n"]);
    assert!(out.contains("--bins\n") && !out.contains("build-with-module"), "{out}");
    let (_, out, _) = tree.run("make", &["-n", "build", "MODULE=elsewhere"]);
    assert!(out.contains("scripts/build-with-module.sh \"elsewhere\" --release"), "{out}");
}

#[test]
fn options_of_the_c_programs_are_named_with_what_takes_their_place() {
    let tree = Tree::new("ignored");
    for (option, word) in [
        ("--udp", "-x udp:53"),
        ("--pcap-capture", "libpcap"),
        ("--with-debug", "--log-level debug"),
        ("--pid-path=/run/a.pid", "-P FILE"),
        ("--with-pfring=/opt/pfring", "--workers"),
        ("--offline", "-i FILE"),
        ("--with-resp-payload", "at run time"),
        ("--enable-mysql", "--proto mysql"),
        ("--with-nfqueue=/opt/nfqueue", "--nfqueue 0"),
    ] {
        let (code, _, err) = tree.configure(&[option]);
        assert_eq!(code, Some(0), "{option}: {err}");
        let name = option.split('=').next().unwrap();
        assert!(err.contains(&format!("warning: {name} is ignored: ")) && err.contains(word), "{option}: {err}");
    }
}

#[test]
fn what_it_does_not_know_or_cannot_use_is_refused() {
    let tree = Tree::new("refused");
    for (arguments, word) in [
        (&["--bogus"][..], "unknown option --bogus"),
        (&["stray"], "unknown option stray"),
        (&["--prefix"], "--prefix needs a value"),
        (&["--prefix=/opt/$HOME"], "cannot be used"),
        (&["--set-protocol-module="], "needs a value"),
        (&["--set-protocol-module=gone"], "there is no folder gone"),
        (&["--set-protocol-module=."], "has no Cargo.toml"),
        (&["--set-protocol-module=my module", "--set-protocol-module=my module"], "given twice"),
    ] {
        let (code, out, err) = tree.configure(arguments);
        assert_eq!((code, out.as_str()), (Some(2), ""), "{arguments:?}");
        assert!(err.contains(word), "{arguments:?}: {err}");
        assert!(!tree.0.join("config.mk").exists(), "{arguments:?} wrote something");
    }
    let (code, out, _) = tree.configure(&["--help"]);
    assert_eq!(code, Some(0));
    assert!(out.contains("--set-protocol-module=FOLDER") && out.contains("--prefix=DIR"), "{out}");
}
