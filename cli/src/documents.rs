//! Every command line in the documents is one that the programs take.

use std::fs;
use std::path::Path;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

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

/// The rows of a reference of metrics: name, type and meaning, from what is served.
fn rows(metrics: impl Collector) -> Vec<String> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(metrics));
    let mut text = String::new();
    encode(&mut text, &registry).expect("metrics");
    let mut rows = Vec::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) else { continue };
        let kind = lines.next().and_then(|line| line.rsplit(' ').next()).expect("a type behind each meaning");
        // The encoder ends each meaning with a full stop of its own.
        rows.push(format!("| `{name}` | {kind} | {}. |", help.trim_end_matches('.')));
    }
    rows
}

#[test]
fn the_reference_of_metrics_is_complete() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let text = fs::read_to_string(&path).expect("docs/metrics.md");
    let table = |title: &str, metrics: Vec<String>| {
        format!("### {title}\n\n| metric | type | meaning |\n|---|---|---|\n{}\n", metrics.join("\n"))
    };
    let reference = [
        table("tcpcopy", rows(tcpcopy::exposition::Exposition(tcpcopy::report::Snapshot::default()))),
        table("intercept", rows(intercept::Exposition::default())),
    ]
    .join("\n");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        let kept = &text[..text.find("### tcpcopy").unwrap_or(text.len())];
        fs::write(path, format!("{kept}{reference}")).expect("docs/metrics.md");
        return;
    }
    assert!(
        text.ends_with(&reference),
        "docs/metrics.md is not up to date: UPDATE_DOCS=1 cargo test -p tcpcopy metrics"
    );
}

/// What alert rules and dashboard ask for.
#[test]
fn what_the_rules_ask_for_is_there() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md")).expect("reference");
    for file in ["alerts.yml", "grafana.json"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/monitoring").join(file);
        let content = fs::read_to_string(path).expect(file);
        let words = content.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        let names = words.filter(|word| word.starts_with("tcpcopy_") || word.starts_with("intercept_"));
        let mut asked = 0;
        for name in names {
            let plain = name.trim_end_matches("_total").trim_end_matches("_bucket");
            assert!(text.contains(&format!("| `{plain}` |")), "{file}: there is no {name}");
            asked += 1;
        }
        assert!(asked > 5, "{file} asks for {asked} metrics only");
    }
}

#[test]
fn command_lines_in_the_documents_are_taken() {
    let mut checked = 0;
    for document in
        ["README.md", "docs/deploy.md", "docs/mysql.md", "docs/security.md", "docs/metrics.md", "docs/report.md"]
    {
        for line in commands(document) {
            let words = mend(words(&line));
            let problem = match words.first().map(String::as_str) {
                Some("tcpcopy")
                    if !words
                        .iter()
                        .any(|word| word == "modules" || word == "demo" || word == "report" || word == "...") =>
                {
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
