//! `make install` and `make uninstall`.

use std::fs;
use std::process::Command;

use tempfile::TempDir;

use crate::built::{Built, expect_all, files, has, said};

#[test]
fn a_tree_gets_everything_and_keeps_what_a_person_wrote() {
    if !has("make") {
        return;
    }
    let built = Built::new();
    let tree = TempDir::new().expect("a folder");
    let root = tree.path();
    let place = |what: &str| {
        let arguments = [format!("DESTDIR={}", root.display()), "PREFIX=/opt/copy".to_owned()];
        built.make(&[what, &arguments[0], &arguments[1]])
    };
    place("install");
    expect_all(root, "/opt/copy");
    if has("man") {
        let page =
            said(Command::new("man").args(["-M", &format!("{}/opt/copy/share/man", root.display()), "-w", "tcpcopy"]));
        assert!(page.trim_end().ends_with("/man8/tcpcopy.8"), "{page}");
    }

    let configuration = root.join("etc/tcpcopy/tcpcopy.toml");
    fs::write(&configuration, "map = [\"80-10.0.0.2:8080\"]\n").expect("a change");
    let said = place("install");
    assert!(said.contains("tcpcopy.toml is there already and stays as it is"), "{said}");
    assert!(fs::read_to_string(&configuration).expect("it is there").starts_with("map"), "the change is there");

    let own = root.join("opt/copy/lib/tcpcopy/libtcpcopy_own.so");
    fs::write(&own, "").expect("a module of a person's own");
    place("uninstall");
    let left: Vec<String> = files(root).into_iter().collect();
    assert_eq!(
        left,
        ["/etc/tcpcopy/intercept.toml", "/etc/tcpcopy/tcpcopy.toml", "/opt/copy/lib/tcpcopy/libtcpcopy_own.so"]
    );
    assert!(!root.join("opt/copy/share/doc/tcpcopy").exists(), "an empty folder of ours is left");
}

#[test]
fn nothing_is_installed_before_it_is_built() {
    if !has("make") {
        return;
    }
    let tree = TempDir::new().expect("a folder");
    let output = Command::new("make")
        .args(["install", &format!("DESTDIR={}", tree.path().display()), "CARGO_TARGET_DIR=/nonexistent"])
        .current_dir(crate::built::repository())
        .env_remove("MAKEFLAGS")
        .env_remove("MAKELEVEL")
        .output()
        .expect("make");
    assert!(!output.status.success());
    assert!(crate::built::text(&output).contains("run make build first"), "{}", crate::built::text(&output));
    assert!(files(tree.path()).is_empty());
}
