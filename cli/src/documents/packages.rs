//! What is said of packages, and in their man pages.

use std::fs;

use super::{check, root};

/// The examples of a man page, without what man(7) wants of them.
fn examples(page: &str) -> Vec<String> {
    let text = fs::read_to_string(root().join("packaging/man").join(page)).expect(page);
    let mut lines = Vec::new();
    let mut in_example = false;
    for line in text.lines() {
        in_example = line == ".EX" || in_example && line != ".EE";
        if in_example && !line.starts_with('.') {
            lines.push(line.trim().replace("\\-", "-").replace("\\(aq", "'"));
        }
    }
    lines
}

#[test]
fn examples_of_the_man_pages_are_taken() {
    for (page, least) in [("tcpcopy.8.in", 5), ("intercept.8.in", 3)] {
        let mut checked = 0;
        for line in examples(page) {
            let Some(result) = check(&line) else { continue };
            assert_eq!(result, Ok(()), "{page}: {line}");
            checked += 1;
        }
        assert!(checked >= least, "{page}: only {checked} examples were found");
    }
}

#[test]
fn what_is_installed_is_of_this_version() {
    let text = fs::read_to_string(root().join("docs/install.md")).expect("docs/install.md");
    let version = env!("CARGO_PKG_VERSION");
    let files = [
        format!("tcpcopy_{version}-1_amd64.deb"),
        format!("tcpcopy-{version}-1.x86_64.rpm"),
        format!("tcpcopy:{version}"),
    ];
    for file in files {
        assert!(text.contains(&file), "docs/install.md does not name {file}");
    }
}
