//! Where `tcpcopy` and `intercept` are.

use std::path::PathBuf;
use std::process::Command;

use tcpcopy::demo::copy::Programs;

/// The programs of the same build profile as the running one. Cargo builds no programs of other packages for a test, so
/// this has it build them; nothing happens when they are up to date.
pub fn build() -> Programs {
    let profile = if cfg!(debug_assertions) { "dev" } else { "release" };
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| env!("CARGO").into()));
    cargo.args(["build", "--quiet", "--package", "tcpcopy", "--bins", "--profile", profile]);
    cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
    match cargo.status() {
        Ok(status) if status.success() => {}
        outcome => panic!("cannot build tcpcopy and intercept: {outcome:?}"),
    }
    find()
}

/// The programs beside the running one, which is in `target/<profile>` or `target/<profile>/deps`.
pub fn find() -> Programs {
    let mut folder: PathBuf = std::env::current_exe().expect("the path of the running program");
    folder.pop();
    if folder.ends_with("deps") {
        folder.pop();
    }
    let programs = Programs { tcpcopy: folder.join("tcpcopy"), intercept: folder.join("intercept") };
    for path in [&programs.tcpcopy, &programs.intercept] {
        assert!(path.is_file(), "{} is missing: cargo build --package tcpcopy --bins", path.display());
    }
    programs
}
