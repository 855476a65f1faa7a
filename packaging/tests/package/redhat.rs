//! The package for Fedora and its relatives.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::built::{Built, expect_all, files, has, said};

#[test]
fn it_has_everything_and_can_be_installed() {
    if !has("make") || !has("rpm") {
        return;
    }
    if !Path::new("/usr/lib/rpm/find-requires").is_file() {
        println!("SKIPPED: needs rpm's find-requires");
        return;
    }
    let built = Built::new();
    // Packed as it is: the packing takes longer than all the rest.
    let out = built.make(&["rpm", "PACKAGE_OPTIONS=--payload-compress none"]);
    let rpm = out.lines().rev().find(|line| line.starts_with('/')).unwrap_or_else(|| panic!("no package: {out}"));
    let query = |what: &[&str]| said(Command::new("rpm").arg("-qp").args(what).arg(rpm));
    assert_eq!(
        query(&["--qf", "%{name} %{version} %{license}"]),
        concat!("tcpcopy ", env!("CARGO_PKG_VERSION"), " BSD-3-Clause")
    );
    assert_eq!(query(&["--configfiles"]), "/etc/tcpcopy/intercept.toml\n/etc/tcpcopy/tcpcopy.toml\n");
    // Bit 4: not replaced where it was changed.
    assert_eq!(query(&["--qf", "[%{filenames} %{fileflags:fflags}\n]"]).matches(".toml cn").count(), 2);
    let requires = query(&["--requires"]);
    assert!(requires.lines().any(|line| line.starts_with("libpcap.so.")), "{requires}");
    assert!(!requires.contains("dbus"), "what libpcap itself links is not ours: {requires}");

    let root = TempDir::new().expect("a folder");
    let place = |words: &[&str]| said(Command::new("rpm").arg("--root").arg(root.path()).args(words));
    // Of the packages of this system rpm knows nothing.
    if !said(Command::new("id").arg("-u")).starts_with("0\n") {
        println!("SKIPPED: rpm installs as root only");
        return;
    }
    place(&["--install", "--nodeps", "--noscripts", rpm]);
    expect_all(root.path(), "/usr");
    place(&["--erase", "--noscripts", "tcpcopy"]);
    let left: Vec<String> = files(root.path()).into_iter().filter(|file| !file.contains("rpmdb")).collect();
    assert!(left.is_empty(), "{left:?}");
}
