//! What the target sent, kept until it can be shown to the module in order.
//!
//! Pieces stand in the order of their sequence numbers and may overlap: a sender that sends again may cut differently. A
//! piece may show only its first bytes, where no more was asked for; the rest of it is hidden, but has its place.

use std::collections::VecDeque;

use tcpcopy_wire::SeqNumber;

/// Bytes that are kept for one session at most. What does not fit counts as lost, and the target sends it again.
const BYTE_LIMIT: usize = 4 << 20;
/// Pieces at most.
const PIECE_LIMIT: usize = 4096;

#[derive(Debug)]
struct Piece {
    seq: SeqNumber,
    len: u32,
    /// The first bytes of the piece; all of them, or as many as were asked for.
    bytes: Vec<u8>,
}

/// See the [module's documentation](self).
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    pieces: VecDeque<Piece>,
    bytes: usize,
}

impl Arrivals {
    /// Keeps a piece. Returns whether there was room for it.
    pub(super) fn keep(&mut self, seq: SeqNumber, len: u32, bytes: &[u8]) -> bool {
        if self.bytes + bytes.len() > BYTE_LIMIT || self.pieces.len() >= PIECE_LIMIT {
            return false;
        }
        let at = self.pieces.partition_point(|p| p.seq.is_before(seq));
        if self.pieces.get(at).is_some_and(|p| p.seq == seq && p.len >= len) {
            return true;
        }
        self.bytes += bytes.len();
        self.pieces.insert(at, Piece { seq, len, bytes: bytes.to_vec() });
        true
    }

    /// The bytes at `next`, and how many hidden ones follow them, if a piece covers it. Forgets what lies before.
    pub(super) fn take_at(&mut self, next: SeqNumber) -> Option<(Vec<u8>, u32)> {
        while let Some(first) = self.pieces.front() {
            let old = next.distance_from(first.seq);
            if old < 0 {
                return None;
            }
            let Piece { len, mut bytes, .. } = self.pieces.pop_front()?;
            self.bytes -= bytes.len();
            if old as u32 >= len {
                continue;
            }
            bytes.drain(..(old as usize).min(bytes.len()));
            let hidden = len - old as u32 - bytes.len() as u32;
            return Some((bytes, hidden));
        }
        None
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// However a stream is cut, doubled and shuffled, what comes out is the stream up to the first gap.
        #[test]
        fn restores_the_stream(cuts in prop::collection::vec((1u32..300, 1u32..80), 1..80), origin in any::<u32>(), shown in 0usize..90) {
            let stream: Vec<u8> = (0..400u32).map(|i| (i % 251) as u8).collect();
            let base = SeqNumber(origin);
            let mut arrivals = Arrivals::default();
            let mut covered = vec![false; stream.len()];
            covered[0] = true;
            for (start, len) in cuts {
                let all = &stream[start as usize..(start + len) as usize];
                prop_assert!(arrivals.keep(base + start, len, &all[..all.len().min(shown)]));
                covered[start as usize..(start + len) as usize].fill(true);
            }
            let end = covered.iter().take_while(|c| **c).count() as u32;
            let mut next = 1;
            while let Some((bytes, hidden)) = arrivals.take_at(base + next) {
                prop_assert_eq!(&stream[next as usize..][..bytes.len()], &bytes[..]);
                // Everything was shown of pieces that were no longer than that.
                prop_assert!(hidden == 0 || shown < 80);
                next += bytes.len() as u32 + hidden;
            }
            prop_assert_eq!(next, end);
        }
    }

    #[test]
    fn what_does_not_fit_is_not_kept() {
        let mut arrivals = Arrivals::default();
        let megabyte = vec![0; 1 << 20];
        for i in 0..4u32 {
            assert!(arrivals.keep(SeqNumber(i << 20), 1 << 20, &megabyte));
        }
        assert!(!arrivals.keep(SeqNumber(4 << 20), 1, b"x"));
        assert!(arrivals.take_at(SeqNumber(0)).is_some());
        assert!(arrivals.keep(SeqNumber(4 << 20), 1, b"x"));
    }
}
