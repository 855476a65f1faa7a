//! What a build leaves, without a release build: the programs of this test's own profile stand in for it.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// The repository.
pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the repository")
}

/// A target folder with a build in it, as `make build` makes it; cargo itself is not asked again.
pub(crate) struct Built(TempDir);

impl Built {
    pub(crate) fn new() -> Self {
        let folder = TempDir::new().expect("a folder");
        let pages = Path::new(env!("CARGO_BIN_EXE_pages"));
        let profile = if cfg!(debug_assertions) { "dev" } else { "release" };
        // Cargo builds no programs of other packages for a test. Nothing happens when they are up to date.
        let status = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--package", "tcpcopy", "--bins", "--profile", profile])
            .current_dir(repository())
            .status();
        assert!(status.is_ok_and(|status| status.success()), "tcpcopy and intercept cannot be built");
        let release = folder.path().join("release");
        fs::create_dir(&release).expect("a folder");
        for program in ["tcpcopy", "intercept", "pages"] {
            copy_program(&pages.with_file_name(program), &release.join(program));
        }
        let built = Self(folder);
        // `build` without cargo: what is left of it are the pages.
        built.make(&["build"]);
        built
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Runs make with these words; it must succeed.
    pub(crate) fn make(&self, words: &[&str]) -> String {
        let mut command = Command::new("make");
        command.args(words).arg("CARGO=true").arg(format!("CARGO_TARGET_DIR={}", self.path().display()));
        command.current_dir(repository()).env_remove("MAKEFLAGS").env_remove("MAKELEVEL");
        said(&mut command)
    }
}

/// Not by [`fs::copy`]: a child of another test, forked meanwhile, would hold the copy open for writing, and who executes
/// it would hear "text file busy".
pub(crate) fn copy_program(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("--dereference").arg(from).arg(to).status();
    assert!(copied.is_ok_and(|status| status.success()), "a copy of {}", from.display());
}

/// What a command says; it must succeed.
pub(crate) fn said(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {}\n{}", output.status, text(&output));
    text(&output)
}

pub(crate) fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Whether the system has a program; says so if not.
pub(crate) fn has(program: &str) -> bool {
    let found = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !found {
        println!("SKIPPED: needs the program {program}");
    }
    found
}

/// Files below a folder, with their paths from there on, `/` first.
pub(crate) fn files(root: &Path) -> BTreeSet<String> {
    let mut files = BTreeSet::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() && !path.is_symlink() {
                folders.push(path);
            } else {
                let below = path.strip_prefix(root).expect("below the root");
                files.insert(format!("/{}", below.display()));
            }
        }
    }
    files
}

/// What every way to install brings, with the folder above `sbin`.
pub(crate) fn expect_all(root: &Path, prefix: &str) {
    let found = files(root);
    let at = |path: &str| Path::new(&format!("{}{prefix}{path}", root.display())).to_owned();
    for program in ["tcpcopy", "intercept"] {
        let path = at(&format!("/sbin/{program}"));
        let mode = fs::metadata(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).permissions().mode();
        assert_eq!(mode & 0o777, 0o755, "{}", path.display());
        let version = said(Command::new(&path).arg("-v"));
        assert!(version.contains(env!("CARGO_PKG_VERSION")), "{version}");
        assert!(said(Command::new(&path).arg("-h")).contains("Usage: "), "{program} -h");
        let configuration = root.join(format!("etc/tcpcopy/{program}.toml"));
        let kept = repository().join(format!("packaging/{program}.toml"));
        assert_eq!(fs::read(configuration).expect("a file"), fs::read(kept).expect("a file"), "{program}.toml");
    }
    let pages = ["tcpcopy", "tcpcopy-demo", "tcpcopy-modules", "intercept"];
    for page in pages.map(|name| format!("{prefix}/share/man/man8/{name}.8")) {
        assert!(found.contains(&page) || found.contains(&format!("{page}.gz")), "{page} is not among {found:?}");
    }
    for file in ["/share/bash-completion/completions/tcpcopy", "/share/fish/vendor_completions.d/intercept.fish"] {
        assert!(found.contains(&format!("{prefix}{file}")), "{file} is not among {found:?}");
    }
    for document in [
        "README.md",
        "docs/README.md",
        "docs/install.md",
        "docs/monitoring/alerts.yml",
        "packaging/kubernetes/daemonset.yaml",
    ] {
        assert!(found.contains(&format!("{prefix}/share/doc/tcpcopy/{document}")), "{document} is not among {found:?}");
    }
    assert!(root.join(format!(".{prefix}/lib/tcpcopy")).is_dir(), "the folder that modules are found in");
    expect_units(root, prefix);
}

/// The units of the repository, each with programs and files that are there.
fn expect_units(root: &Path, prefix: &str) {
    let folder = repository().join("packaging/systemd");
    let names: Vec<_> = fs::read_dir(folder).expect("units").map(|unit| unit.expect("a unit").file_name()).collect();
    let units: Vec<&str> =
        names.iter().filter_map(|name| name.to_str()).filter(|name| name.ends_with(".service")).collect();
    assert!(!units.is_empty(), "there are no units");
    for unit in units {
        let path = format!("{}{prefix}/lib/systemd/system/{unit}", root.display());
        let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
        let starts: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("ExecStart=")).collect();
        assert!(!starts.is_empty(), "{unit} starts nothing");
        for start in starts {
            let program = start.split_whitespace().next().unwrap_or_default();
            let from_here = format!("{}{program}", root.display());
            assert!(
                program.starts_with(&format!("{prefix}/sbin/")) && Path::new(&from_here).is_file(),
                "{unit}: {start}"
            );
            let named = start.split_whitespace().filter(|word| word.starts_with("/etc/") && !word.contains(['%', '$']));
            for file in named {
                assert!(Path::new(&format!("{}{file}", root.display())).is_file(), "{unit}: there is no {file}");
            }
        }
    }
}
