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
