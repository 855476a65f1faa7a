//! The references of options, counters and metrics, made from the code.
//!
//! `UPDATE_DOCS=1 cargo test -p tcpcopy documents` writes them; without it these tests compare.

use std::fs;

use clap::{Arg, Command, CommandFactory};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tcpcopy_engine::Ledger;
use tcpcopy_engine::ledger::{ByteDrop, PacketDrop, SessionEnd};
use tcpcopy_engine::relay::{RelayDrop, RelayStats};
use tcpcopy_io::transmit::SendError;

use super::{advice, root};
use crate::{intercept, tcpcopy};

/// Where the part of a document begins that is made here.
const BEGIN: &str = "<!-- generated from here on: UPDATE_DOCS=1 cargo test -p tcpcopy documents -->\n";

/// Compares the end of a document with what it should be, or writes it.
fn compare(name: &str, reference: &str) {
    let path = root().join("docs").join(name);
    let text = fs::read_to_string(&path).expect(name);
    let (kept, present) = text.split_once(BEGIN).unwrap_or_else(|| panic!("{name} has no line {BEGIN}"));
    let wanted = format!("\n{}\n", reference.trim());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(path, format!("{kept}{BEGIN}{wanted}")).expect(name);
        return;
    }
    assert!(present == wanted, "docs/{name} is not up to date: UPDATE_DOCS=1 cargo test -p tcpcopy documents");
}

/// A text for a cell of a table.
fn cell(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

fn sentence(text: &str) -> String {
    let text = cell(text);
    let text = text.strip_suffix("..").map_or(text.clone(), |text| format!("{text}."));
    if text.ends_with('.') || text.ends_with(".)") { text } else { format!("{text}.") }
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or(String::new(), |first| first.to_uppercase().collect::<String>() + chars.as_str())
}

fn table(title: &str, head: &[&str], rows: &[Vec<String>]) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let head: Vec<String> = head.iter().map(|&name| name.to_owned()).collect();
    let body: String = rows.iter().map(|row| line(row)).collect();
    format!("### {title}\n\n{}|{}\n{body}\n", line(&head), "---|".repeat(head.len()))
}

fn option_row(arg: &Arg) -> Vec<String> {
    let mut names: Vec<String> = arg.get_short().map(|short| format!("-{short}")).into_iter().collect();
    names.extend(arg.get_long().map(|long| format!("--{long}")));
    let values = arg.get_value_names().filter(|_| arg.get_action().takes_values());
    let value = values.and_then(<[_]>::first).map(|value| format!(" {value}")).unwrap_or_default();
    let names = format!("`{}`", cell(&format!("{}{value}", names.join(", "))));
    let help = arg.get_long_help().or(arg.get_help()).map(ToString::to_string).unwrap_or_default();
    vec![names, sentence(&help)]
}

/// All options of a program, under the headings of its help.
fn options(program: &str, command: &Command) -> String {
    let mut headings: Vec<&str> = Vec::new();
    for heading in command.get_arguments().filter_map(Arg::get_help_heading) {
        if !headings.contains(&heading) {
            headings.push(heading);
        }
    }
    let mut text = format!("## {program}\n\n");
    for heading in headings {
        let of_heading = command.get_arguments().filter(|arg| arg.get_help_heading() == Some(heading));
        let rows: Vec<_> = of_heading.map(option_row).collect();
        text.push_str(&table(&format!("{program}: {heading}"), &["option", "meaning"], &rows));
    }
    text
}

#[test]
fn the_reference_of_options_is_complete() {
    let programs = [
        options("tcpcopy", &tcpcopy::arguments::Arguments::command()),
        options("intercept", &intercept::arguments::Arguments::command()),
    ];
    for (text, some) in programs.iter().zip(["`-x, --map ", "`-F, --filter "]) {
        assert!(text.contains(some), "{text}");
    }
    compare("options.md", &programs.concat());
}

fn reasons<'a>(title: &str, reasons: impl Iterator<Item = [&'a str; 3]>) -> String {
    let rows: Vec<_> = reasons
        .map(|[text, meaning, advice]| vec![cell(text), sentence(meaning), capital(&sentence(advice))])
        .collect();
    table(title, &["words in log and metrics", "meaning", "what to do"], &rows)
}

#[test]
fn the_reference_of_counters_is_complete() {
    let counters = |title: &str, counters: &mut dyn Iterator<Item = (&'static str, &'static str, u64)>| {
        let rows: Vec<_> = counters.map(|(name, meaning, _)| vec![format!("`{name}`"), sentence(meaning)]).collect();
        table(title, &["counter", "meaning"], &rows)
    };
    let text = [
        "## Reasons\n\n".to_owned(),
        reasons(
            "Why a captured packet was not used",
            PacketDrop::ALL.iter().map(|&r| [r.text(), r.meaning(), advice::packet(r)]),
        ),
        reasons(
            "Why a client's byte was not copied",
            ByteDrop::ALL.iter().map(|&r| [r.text(), r.meaning(), advice::byte(r)]),
        ),
        reasons(
            "Why a session ended early",
            SessionEnd::ALL.iter().map(|&r| [r.text(), r.meaning(), advice::session(r)]),
        ),
        reasons(
            "Why a packet was not sent",
            SendError::ALL.iter().map(|&e| [e.text(), advice::meaning_of_send_error(e), e.advice()]),
        ),
        reasons(
            "Why intercept did not report a captured frame",
            RelayDrop::ALL.iter().map(|&r| [r.text(), r.meaning(), advice::relay(r)]),
        ),
        "## Counters\n\nThe names are those of the metrics, with `tcpcopy_` and `intercept_` in front: \
         [metrics.md](metrics.md).\n\n"
            .to_owned(),
        counters("Counters of tcpcopy", &mut Ledger::default().counters()),
        counters("Counters of intercept", &mut RelayStats::default().counters()),
    ];
    compare("counters.md", &text.concat());
}

/// The rows of a reference of metrics: name, type and meaning, from what is served.
fn metrics(metrics: impl Collector) -> Vec<Vec<String>> {
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
        rows.push(vec![format!("`{name}`"), kind.to_owned(), sentence(help)]);
    }
    rows
}

#[test]
fn the_reference_of_metrics_is_complete() {
    let head = ["metric", "type", "meaning"];
    let tcpcopy = metrics(tcpcopy::exposition::Exposition::default());
    let intercept = metrics(intercept::Exposition::default());
    compare("metrics.md", &[table("tcpcopy", &head, &tcpcopy), table("intercept", &head, &intercept)].concat());
}
