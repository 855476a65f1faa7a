//! What the documents say holds: every command line is one that the programs take, every block of commands is run or
//! says why not, every link leads somewhere, and the references are those of the code.

mod advice;
mod containers;
mod links;
mod markdown;
mod packages;
mod reference;

use std::fs;
use std::path::{Path, PathBuf};

use self::markdown::{Act, Mark, steps, words};
use crate::config::mend;
use crate::program::{INTERCEPT, TCPCOPY};
use crate::{intercept, tcpcopy};

/// Hosts of the lab that a block may be run on.
const HOSTS: &[&str] = &["client", "online", "target", "assistant", "monitor", "admin", "target2"];

/// A file among the documents, by its name from the root of the repository.
struct Document {
    name: String,
    text: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// All documents. Those of examples are templates, and leave with them.
fn documents() -> Vec<Document> {
    let mut names = vec!["README.md".to_owned(), "CONTRIBUTING.md".to_owned(), "CHANGELOG.md".to_owned()];
    for entry in fs::read_dir(root().join("docs")).expect("the folder of documents") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        names.extend(path.extension().is_some_and(|kind| kind == "md").then(|| format!("docs/{name}")));
    }
    names.sort();
    let read = |name: String| Document { text: fs::read_to_string(root().join(&name)).expect("a document"), name };
    names.into_iter().map(read).collect()
}

/// What is wrong with a command line of ours; `None` for those of other programs.
fn check(line: &str) -> Option<Result<(), String>> {
    check_words(&mend(words(line)))
}

fn check_words(words: &[String]) -> Option<Result<(), String>> {
    let command = |definition: fn() -> clap::Command| {
        definition().try_get_matches_from(&words[1..]).map(drop).map_err(|e| e.to_string())
    };
    let named = |name: &str| words.get(1).is_some_and(|word| word == name);
    match words.first()?.as_str() {
        // In a container: what stands behind the image.
        "docker" => check_words(&words[1 + words.iter().position(|word| word.starts_with("tcpcopy:"))?..]),
        "tcpcopy" => Some(match TCPCOPY.iter().find(|row| named(row.name)) {
            Some(row) => command(row.definition),
            None => tcpcopy::check_words(words),
        }),
        "intercept" => Some(match INTERCEPT.iter().find(|row| named(row.name)) {
            Some(row) => command(row.definition),
            None => intercept::check_words(words),
        }),
        _ => None,
    }
}

#[test]
fn command_lines_in_the_documents_are_taken() {
    let mut checked = 0;
    for document in documents() {
        let steps = steps(&document.text).unwrap_or_else(|e| panic!("{}, {e}", document.name));
        for step in steps {
            let Act::Block(block) = step.act else { continue };
            if matches!(block.mark, Some(Mark::NotChecked(_))) {
                continue;
            }
            for line in &block.commands {
                let Some(result) = check(line) else { continue };
                checked += 1;
                assert_eq!(result, Ok(()), "{}, block at line {}: {line}", document.name, step.line);
            }
        }
    }
    assert!(checked >= 50, "only {checked} command lines were found");
}

#[test]
fn commands_are_run_or_say_why_not() {
    let (mut run, mut not_run) = (0, 0);
    for document in documents() {
        for step in steps(&document.text).unwrap_or_else(|e| panic!("{}, {e}", document.name)) {
            let place = format!("{}, line {}", document.name, step.line);
            let Act::Block(block) = step.act else { continue };
            match block.mark {
                Some(Mark::RunOn(hosts)) => {
                    for host in &hosts {
                        assert!(HOSTS.contains(&host.as_str()), "{place}: the lab has no host `{host}`");
                    }
                    let fits = hosts.len() == 1 || hosts.len() == block.commands.len();
                    assert!(fits, "{place}: {} lines for {} hosts", block.commands.len(), hosts.len());
                    run += 1;
                }
                Some(Mark::NotRun(reason) | Mark::NotChecked(reason)) => {
                    assert!(reason.split_whitespace().count() >= 3, "{place}: `{reason}` is no reason");
                    not_run += 1;
                }
                None => panic!("{place}: mark the block by `<!-- run on HOST -->` or `<!-- not run: … -->`"),
            }
        }
    }
    assert!(run >= 50 && not_run > 0, "{run} blocks are run, {not_run} are not");
}

/// In a block that is not marked as one of commands nobody would look at them.
#[test]
fn commands_stand_in_blocks_of_commands() {
    const PROGRAMS: &[&str] = &["tcpcopy", "intercept", "ip", "sysctl", "iptables", "ethtool", "make", "cargo", "curl"];
    for document in documents() {
        let mut fence = None;
        for (number, line) in document.text.lines().enumerate() {
            if let Some(kind) = line.trim_start().strip_prefix("```") {
                fence = if fence.is_some() { None } else { Some(kind.to_owned()) };
                continue;
            }
            let suspicious =
                fence.as_deref().is_some_and(str::is_empty) || (fence.is_none() && line.starts_with("    "));
            let first = line.split_whitespace().next().unwrap_or_default();
            // A line with arrows is one of a picture.
            let is_command = PROGRAMS.contains(&first) && line.is_ascii();
            assert!(
                !(suspicious && is_command),
                "{}, line {}: put `{}` into a block that begins with ```sh",
                document.name,
                number + 1,
                line.trim()
            );
        }
    }
}

/// What alert rules and dashboard ask for.
#[test]
fn what_the_rules_ask_for_is_there() {
    let text = fs::read_to_string(root().join("docs/metrics.md")).expect("reference");
    for file in ["alerts.yml", "grafana.json"] {
        let content = fs::read_to_string(root().join("docs/monitoring").join(file)).expect(file);
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
fn marks_say_what_is_done_with_a_block() {
    let text = "## One\n<!-- run on online -->\n```sh\nip route \\\n  show\n\nip link\n```\n```\nno commands\n```\n## Two\n\
                <!-- requests arrive 3 times -->\n<!-- stop: tcpcopy, intercept -->\n```sh\ntcpcopy -h\n```\n\
                <!-- with name servers -->\n<!-- queries over TCP arrive at target, target2 -->\n\
                <!-- the log says: > 10.0.0.2: -->\n<!-- start again: tcpcopy -->\n";
    let steps = steps(text).expect("steps");
    let acts: Vec<(&str, usize, Act)> = steps.iter().map(|s| (s.section.as_str(), s.line, s.act.clone())).collect();
    let block = |mark, commands: &[&str]| {
        Act::Block(markdown::Block { mark, commands: commands.iter().map(|&line| line.to_owned()).collect() })
    };
    let wanted = [
        ("One", 3, block(Some(Mark::RunOn(vec!["online".to_owned()])), &["ip route show", "ip link"])),
        ("Two", 13, Act::RequestsArrive(3)),
        ("Two", 14, Act::Stop(vec!["tcpcopy".to_owned(), "intercept".to_owned()])),
        ("Two", 15, block(None, &["tcpcopy -h"])),
        ("Two", 18, Act::With("name servers".to_owned())),
        ("Two", 19, Act::QueriesArrive { over_tcp: true, at: vec!["target".to_owned(), "target2".to_owned()] }),
        ("Two", 20, Act::LogSays("> 10.0.0.2:".to_owned())),
        ("Two", 21, Act::StartAgain("tcpcopy".to_owned())),
    ];
    assert_eq!(acts, wanted);
}

#[test]
fn marks_that_do_nothing_are_mistakes() {
    for (text, told) in [
        ("<!-- run on online -->\nwords\n```sh\nip link\n```\n", "line 1: no block of commands follows"),
        ("<!-- not run: why -->\n", "line 1: no block of commands follows"),
        ("words\n<!-- runs on online -->\n", "line 2: nobody knows"),
        ("words\n```sh\nip link\n", "line 2: this block does not end"),
    ] {
        let error = steps(text).expect_err(text);
        assert!(error.contains(told), "{error}");
    }
}

/// Users come with the manual of the C programs: each of its questions has an answer.
#[test]
fn every_question_of_the_c_manual_is_answered() {
    let text = fs::read_to_string(root().join("docs/troubleshooting.md")).expect("docs/troubleshooting.md");
    let (_, index) = text.split_once("## The C manual's questions").expect("the index");
    // `| 5, 59, 68 nothing across networks | … |`
    let rows = index.lines().filter_map(|line| line.strip_prefix("| ")?.split(" |").next());
    let mut numbers: Vec<u32> = rows
        .flat_map(|row| row.split([' ', ',']).filter(|word| !word.is_empty()).map_while(|word| word.parse().ok()))
        .collect();
    numbers.sort_unstable();
    let wanted: Vec<u32> = (1..=70).chain([100]).collect();
    assert_eq!(numbers, wanted);
}

/// What stands in a configuration file can be read from one.
#[test]
fn configuration_files_in_the_documents_can_be_read() {
    let mut checked = 0;
    for document in documents() {
        for block in document.text.split("```toml\n").skip(1) {
            let block = block.split("```").next().unwrap_or_default();
            let read = toml::from_str::<tcpcopy::arguments::Arguments>(block);
            assert!(read.is_ok(), "{}: {block}\n{read:?}", document.name);
            checked += 1;
        }
    }
    assert!(checked >= 3, "only {checked} were found");
}
