//! The recorded conversations of this folder; README.md says what they are.

// Each test program uses what it needs.
#![allow(dead_code)]

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
        let mut names: Vec<String> =
            files.filter_map(|file| Some(file.to_str()?.strip_suffix(".conversation")?.to_owned())).collect();
        names.sort();
        names
    }

    /// All that one side said.
    pub(crate) fn said(&self, wanted: Side) -> Vec<u8> {
        self.turns.iter().filter(|(side, _)| *side == wanted).flat_map(|(_, bytes)| bytes.iter().copied()).collect()
    }
}

/// A text row of one value, `length` (65,536 or more) letters `x`, in packets that begin with sequence number `first`;
/// `record.py` checks that servers send it so. The value's own length takes 4 bytes, or 9 from 16 MB on; a row that fills
/// its last packet is followed by an empty one.
pub(crate) fn row_in_packets(first: u8, length: usize) -> Vec<u8> {
    const MAX_PAYLOAD: usize = 0xff_ffff;
    let mut row = if length <= MAX_PAYLOAD { vec![0xfd] } else { vec![0xfe] };
    let length_bytes = if length <= MAX_PAYLOAD { 3 } else { 8 };
    row.extend_from_slice(&length.to_le_bytes()[..length_bytes]);
    row.resize(row.len() + length, b'x');
    let mut packets = Vec::with_capacity(row.len() + 16);
    for (n, at) in (0..=row.len()).step_by(MAX_PAYLOAD).enumerate() {
        let piece = &row[at..row.len().min(at + MAX_PAYLOAD)];
        packets.extend_from_slice(&piece.len().to_le_bytes()[..3]);
        packets.push(first.wrapping_add(n as u8));
        packets.extend_from_slice(piece);
    }
    packets
}
