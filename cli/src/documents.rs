//! Every command line in the documents is one that the programs take.

use std::fs;
use std::path::Path;

use crate::config::mend;
use crate::{intercept, tcpcopy};

/// The lines of the blocks of shell commands in a document, continued lines joined.
fn commands(document: &str) -> Vec<String> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(document)).expect(document);
    let mut lines = Vec::new();
    let mut in_block = false;
    for line in text.replace("\\\n", " ").lines() {
        if line.starts_with("```") {
            in_block = line == "```sh";
        } else if in_block || line.starts_with("       ") {
            lines.push(line.trim().to_owned());
        }
    }
    lines
}

/// The words of a line, as a shell would find them: quotation marks, and comments.
fn words(line: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    for c in line.chars() {
        match c {
            '\'' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            ' ' if !quoted => words.extend(word.take()),
            '#' if !quoted && word.is_none() => return words,
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    words
}

#[test]
fn command_lines_in_the_documents_are_taken() {
    let mut checked = 0;
    for document in ["README.md", "docs/deploy.md", "docs/mysql.md", "docs/security.md"] {
        for line in commands(document) {
            let words = mend(words(&line));
            let problem = match words.first().map(String::as_str) {
                Some("tcpcopy") if !words.iter().any(|word| word == "modules" || word == "demo" || word == "...") => {
                    tcpcopy::check_words(&words).err()
                }
                Some("intercept") => intercept::check_words(&words).err(),
                _ => continue,
            };
            checked += 1;
            assert_eq!(problem, None, "{document}: {line}");
        }
    }
    assert!(checked >= 25, "only {checked} command lines were found");
}
