//! Documents, read by the tests that run their commands.

use std::path::Path;

#[path = "../../cli/src/documents/markdown.rs"]
mod markdown;

pub use markdown::{Act, Block, Mark, Step, words};

/// Everything in a document that tests look at. `name`: from the root of the repository.
pub fn read(name: &str) -> Vec<Step> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
    markdown::steps(&text).unwrap_or_else(|error| panic!("{name}, {error}"))
}

/// The host and the lines that make a document's files: in each of its sections what is run before anything else is set up.
pub fn made_by(document: &str) -> (String, Vec<String>) {
    let steps = read(document);
    let (mut host, mut lines) = (String::new(), Vec::new());
    for section in steps.chunk_by(|a, b| a.section == b.section) {
        for step in section.iter().take_while(|step| !matches!(step.act, Act::With(_))) {
            if let Act::Block(Block { mark: Some(Mark::RunOn(hosts)), commands }) = &step.act {
                host.clone_from(&hosts[0]);
                lines.extend(commands.iter().cloned());
            }
        }
    }
    (host, lines)
}
