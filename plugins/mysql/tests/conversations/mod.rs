//! The recorded conversations of this folder; README.md says what they are.

use std::path::Path;

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Server,
}

/// What was said on one connection.
pub(crate) struct Conversation {
    /// In order: who, and their bytes up to where the other began.
    pub(crate) turns: Vec<(Side, Vec<u8>)>,
}

impl Conversation {
    pub(crate) fn load(name: &str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conversations");
        let file = std::fs::read(folder.join(format!("{name}.conversation"))).expect(name);
        let mut turns = Vec::new();
        let mut rest = &file[..];
        while let Some((&side, after)) = rest.split_first() {
            let side = if side == b'C' { Side::Client } else { Side::Server };
            let (len, after) = after.split_first_chunk::<4>().expect("a length");
            let (bytes, after) = after.split_at(u32::from_le_bytes(*len) as usize);
            turns.push((side, bytes.to_vec()));
            rest = after;
        }
        Self { turns }
    }

    /// The names of all conversations, sorted.
    pub(crate) fn names() -> Vec<String> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conversations");
        let files = std::fs::read_dir(folder).expect("the folder").map(|file| file.expect("a file").file_name());
        let mut names: Vec<String> = files
            .filter_map(|file| Some(file.to_str()?.strip_suffix(".conversation")?.to_owned()))
            .collect();
        names.sort();
        names
    }

    /// All that one side said.
    pub(crate) fn said(&self, wanted: Side) -> Vec<u8> {
        self.turns.iter().filter(|(side, _)| *side == wanted).flat_map(|(_, bytes)| bytes.iter().copied()).collect()
    }
}
