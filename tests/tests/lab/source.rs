//! What holds of the source itself.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Which of our crates each of our crates may depend on. `tcpcopy` and the tests stand on top and may use all.
const ARROWS: [(&str, &[&str]); 10] = [
    ("tcpcopy-wire", &[]),
    ("tcpcopy-module-api", &["tcpcopy-wire"]),
    ("tcpcopy-module-tcp", &["tcpcopy-wire", "tcpcopy-module-api"]),
    ("tcpcopy-module-udp", &["tcpcopy-wire", "tcpcopy-module-api"]),
    ("tcpcopy-module-mysql", &["tcpcopy-wire", "tcpcopy-module-api"]),
    ("tcpcopy-test-module", &["tcpcopy-wire", "tcpcopy-module-api"]),
    ("tcpcopy-engine", &["tcpcopy-wire", "tcpcopy-module-api"]),
    ("tcpcopy-netsim", &["tcpcopy-wire", "tcpcopy-module-api", "tcpcopy-engine"]),
    ("tcpcopy-io", &["tcpcopy-wire", "tcpcopy-module-api", "tcpcopy-engine"]),
    ("tcpcopy-packaging", &["tcpcopy"]),
];

/// Where `unsafe` may be allowed: what talks to the kernel and to C, and a test's allocator, which no test of allocations
/// can do without.
const UNSAFE_ALLOWED: [&str; 3] = ["core/io", "plugins/api", "core/engine/tests/allocation.rs"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

fn manifest(path: &Path) -> toml::Table {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.parse().unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every package of the workspace, by name, with its folder and manifest.
fn packages() -> BTreeMap<String, (PathBuf, toml::Table)> {
    let members = manifest(&root().join("Cargo.toml"))["workspace"]["members"].clone();
    let members = members.as_array().expect("a list of members").iter().map(|member| member.as_str().expect("a path"));
    members
        .map(|member| {
            let folder = root().join(member);
            let manifest = manifest(&folder.join("Cargo.toml"));
            (manifest["package"]["name"].as_str().expect("a name").to_owned(), (folder, manifest))
        })
        .collect()
}

pub(crate) fn arrows_hold() {
    let packages = packages();
    for (name, allowed) in ARROWS {
        let (_, manifest) = packages.get(name).unwrap_or_else(|| panic!("{name} is not in the workspace"));
        for section in ["dependencies", "build-dependencies"] {
            let Some(dependencies) = manifest.get(section).and_then(toml::Value::as_table) else { continue };
            for dependency in dependencies.keys().filter(|name| packages.contains_key(*name)) {
                assert!(allowed.contains(&dependency.as_str()), "{name} must not depend on {dependency}");
            }
        }
    }
    for example in ["memcached-reads", "template"] {
        let manifest = manifest(&root().join("docs/examples").join(example).join("Cargo.toml"));
        let dependencies = manifest["dependencies"].as_table().expect("what it depends on");
        assert!(dependencies.keys().eq(["tcpcopy-module-api"]), "a module needs nothing but the API: {example}");
    }
    for name in packages.keys() {
        let known =
            ARROWS.iter().any(|(known, _)| known == name) || ["tcpcopy", "tcpcopy-tests"].contains(&name.as_str());
        assert!(known, "{name} is new: say in this test what it may depend on");
    }
}

pub(crate) fn unsafe_code_is_confined() {
    // `unsafe_code = "deny"` in the workspace's lints makes the compiler find every use; what is left to see is that
    // every crate takes those lints, and that nobody allows it elsewhere.
    let lints = &manifest(&root().join("Cargo.toml"))["workspace"]["lints"]["rust"]["unsafe_code"];
    assert_eq!(lints.as_str(), Some("deny"), "the workspace's lint unsafe_code");
    for (name, (folder, manifest)) in packages() {
        let inherits = manifest.get("lints").and_then(|lints| lints.get("workspace")).and_then(toml::Value::as_bool);
        assert_eq!(inherits, Some(true), "{name} must take the workspace's lints");
        for file in rust_files(&folder) {
            let allowed = UNSAFE_ALLOWED.iter().any(|path| file.starts_with(root().join(path)));
            let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            // Put together, so that this file does not find itself.
            let permits = ["allow", "expect", "warn"].map(|level| format!("{level}({}", "unsafe_code"));
            let permitted = permits.iter().any(|permit| text.contains(permit));
            assert!(allowed || !permitted, "{} allows unsafe code", file.display());
        }
    }
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.expect("a folder's entry").path();
            // A build folder holds the sources of others.
            if path.is_dir() && !path.join("CACHEDIR.TAG").exists() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files
}
