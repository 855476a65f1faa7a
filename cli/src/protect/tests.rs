use std::fs;
use std::path::Path;
use std::time::Duration;

use clap::Parser;

use super::identity::Identity;
use crate::intercept;
use crate::tcpcopy::arguments::Arguments;
use crate::tcpcopy::modules::{BuiltIn, Catalogue};
use crate::tcpcopy::options::Options;

fn options(arguments: Arguments) -> Options {
    let catalogue = Catalogue::new::<&str>(BuiltIn::shipped(), &[]).unwrap();
    Options::check(arguments, &catalogue, &[]).unwrap_or_else(|e| panic!("{e}"))
}

/// The guide shows a command line and the same as a file; both are read, and mean the same.
#[test]
fn the_guides_file_says_what_its_command_line_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operations.md");
    let guide = fs::read_to_string(path).expect("docs/operations.md");
    let block = |kind: &str| {
        let begin = guide.find(&format!("```{kind}\n")).expect("a block") + kind.len() + 4;
        guide[begin..].split("```").next().expect("its end").to_owned()
    };
    let line = block("sh");
    // Quotation marks, as a shell takes them.
    let words: Vec<String> = line.split('\'').enumerate().fold(Vec::new(), |mut words, (n, part)| {
        match n % 2 {
            0 => words.extend(part.split_whitespace().map(str::to_owned)),
            _ => words.push(part.to_owned()),
        }
        words
    });
    let from_line = options(Arguments::try_parse_from(words).unwrap_or_else(|e| panic!("{e}")));
    let from_file = options(toml::from_str(&block("toml")).unwrap_or_else(|e| panic!("{e}")));
    assert_eq!(from_line, from_file);
    assert_eq!(from_file.identity, Identity { user: Some("tcpcopy".into()), niceness: Some(10) });
    assert_eq!(from_file.cpu_limit.map(|limit| (limit.limit() * 100.0).round() as u32), Some(50));
    assert_eq!((from_file.max_sessions, from_file.memory_limit), (20_000, 512 << 20));
    let conditions: Vec<String> = from_file.stop_if.iter().map(ToString::to_string).collect();
    assert_eq!(conditions, ["errors>20%", "cpu>85% for 30s"]);
}

#[test]
fn intercepts_options_are_taken_from_its_file() {
    let file: intercept::arguments::Arguments = toml::from_str("filter = 'tcp'\nuser = 'nobody'\nnice = -3").unwrap();
    let options = intercept::options::Options::check(file).unwrap();
    assert_eq!(options.identity, Identity { user: Some("nobody".into()), niceness: Some(-3) });
}

#[test]
fn without_options_nothing_is_limited() {
    let words = ["tcpcopy", "-x", "80-10.0.0.2:80", "-s", "10.0.0.3", "-c", "10.78.0.x"];
    let options = options(Arguments::try_parse_from(words).unwrap());
    assert_eq!(options.identity, Identity::default());
    assert_eq!((options.cpu_limit, options.max_sessions, options.stop_if), (None, 1 << 22, vec![]));
    // What the guide calls usual.
    assert_eq!(options.stats_interval, Some(Duration::from_secs(30)));
}
