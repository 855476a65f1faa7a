//! The package for Debian: dpkg installs it into a root of its own, upgrades and removes it there.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::built::{Built, copy_program, expect_all, files, has, repository, said};

/// A root with a shell for maintainer scripts, the libraries that programs link, and a dpkg database that knows the
/// packages of this system that ours depends on. dpkg runs scripts in it by chroot, so that they reach nothing else.
struct Root(TempDir);

impl Root {
    fn new(programs: &Path) -> Self {
        let folder = TempDir::new().expect("a folder");
        let root = folder.path();
        let sh = Path::new("/bin/sh").canonicalize().expect("a shell");
        copy_into(root, &sh, Path::new("/bin/sh"));
        for program in [sh, programs.join("tcpcopy"), programs.join("intercept")] {
            for library in libraries(&program) {
                copy_into(root, &library, &library);
            }
        }
        let database = root.join("var/lib/dpkg");
        for folder in ["info", "updates", "triggers"] {
            fs::create_dir_all(database.join(folder)).expect("a folder");
        }
        // Dependencies are checked in earnest.
        fs::write(database.join("status"), said(Command::new("dpkg-query").args(["--status", "libc6", "libpcap0.8"])))
            .expect("a file");
        Self(folder)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn dpkg(&self, words: &[&str]) -> String {
        let mut command = Command::new("dpkg");
        command.arg(format!("--root={}", self.path().display())).args(words).env("DEBIAN_FRONTEND", "noninteractive");
        // Where a root shell's PATH may have none of it.
        command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        said(&mut command)
    }

    /// What is there beside what dpkg itself keeps.
    fn files(&self) -> BTreeSet<String> {
        files(self.path()).into_iter().filter(|file| !file.starts_with("/var/")).collect()
    }

    fn status(&self) -> String {
        let status = fs::read_to_string(self.path().join("var/lib/dpkg/status")).expect("the database");
        let own = status.split("\n\n").find(|package| package.starts_with("Package: tcpcopy\n"));
        let line = own.and_then(|package| package.lines().find_map(|line| line.strip_prefix("Status: ")));
        line.unwrap_or("not there").to_owned()
    }
}

fn copy_into(root: &Path, from: &Path, to: &Path) {
    let to = root.join(to.strip_prefix("/").expect("an absolute path"));
    fs::create_dir_all(to.parent().expect("a folder")).expect("its folder");
    copy_program(from, &to);
}

/// The shared libraries that a program loads, and the loader.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let list = said(Command::new("ldd").arg(program));
    list.split_whitespace()
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from)
        .filter(|path| path.is_file())
        .collect()
}

fn package(built: &Built) -> PathBuf {
    let out = built.make(&["deb"]);
    let path = out.lines().rev().find(|line| line.starts_with('/')).unwrap_or_else(|| panic!("no package: {out}"));
    PathBuf::from(path)
}

#[test]
fn it_is_installed_upgraded_removed_and_purged() {
    if !has("make") || !has("dpkg-deb") || !has("dpkg-shlibdeps") {
        return;
    }
    let built = Built::new();
    let deb = package(&built);
    let deb = deb.to_str().expect("a name");
    let fields = said(Command::new("dpkg-deb").args(["--field", deb]));
    let field = |name: &str| {
        let line = fields.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
        line.unwrap_or_else(|| panic!("no {name} in {fields}"))
    };
    assert_eq!((field("Package"), field("Version")), ("tcpcopy", concat!(env!("CARGO_PKG_VERSION"), "-1")));
    let depends = field("Depends");
    let names: Vec<&str> = depends.split(", ").filter_map(|word| word.split(' ').next()).collect();
    assert!(names.contains(&"libc6") && names.iter().any(|name| name.starts_with("libpcap0.8")), "{depends}");
    assert!(names.iter().all(|name| name.starts_with("lib") && !name.contains("dbus")), "too much: {depends}");

    let unpacked = TempDir::new().expect("a folder");
    said(Command::new("dpkg-deb").args(["--extract", deb]).arg(unpacked.path()));
    expect_all(unpacked.path(), "/usr");
    let page = unpacked.path().join("usr/share/man");
    if has("man") {
        let page = said(Command::new("man").arg("-M").arg(page).args(["-w", "intercept"]));
        assert!(page.trim_end().ends_with("/man8/intercept.8.gz"), "{page}");
    }

    if !said(Command::new("id").arg("-u")).starts_with("0\n") {
        println!("SKIPPED: dpkg installs as root only");
        return;
    }
    let root = Root::new(&built.path().join("release"));
    let before = root.files();
    root.dpkg(&["--install", deb]);
    assert_eq!(root.status(), "install ok installed");
    expect_all(root.path(), "/usr");
    let modules = said(Command::new("chroot").arg(root.path()).args(["/usr/sbin/tcpcopy", "modules"]));
    assert!(modules.contains("mysql"), "it runs there, with nothing else around: {modules}");

    // An upgrade leaves what a person wrote.
    let configuration = root.path().join("etc/tcpcopy/tcpcopy.toml");
    fs::write(&configuration, "map = [\"80-10.0.0.2:8080\"]\n").expect("a change");
    root.dpkg(&["--install", deb]);
    assert!(fs::read_to_string(&configuration).expect("it is there").starts_with("map"), "the change is there");

    root.dpkg(&["--remove", "tcpcopy"]);
    assert_eq!(root.status(), "deinstall ok config-files");
    let left: Vec<String> = root.files().difference(&before).cloned().collect();
    assert_eq!(
        left,
        ["/etc/tcpcopy/intercept.toml", "/etc/tcpcopy/tcpcopy.toml"],
        "the configuration, and nothing else"
    );

    root.dpkg(&["--purge", "tcpcopy"]);
    assert_eq!(root.files(), before, "nothing is left");
    assert!(!root.path().join("etc/tcpcopy").exists());
}

#[test]
fn the_changelog_names_the_version() {
    let changelog = fs::read_to_string(repository().join("packaging/debian/changelog")).expect("the changelog");
    let version = concat!("tcpcopy (", env!("CARGO_PKG_VERSION"), "-1) ");
    assert!(changelog.starts_with(version), "packaging/debian/changelog begins with another version than {version}");
}
