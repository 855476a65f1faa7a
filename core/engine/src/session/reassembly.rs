//! The client's segments that were captured ahead of their turn.

use tcpcopy_wire::SeqNumber;

/// Bytes kept for one session at most; a hole that is not filled by then will not be.
pub(crate) const LIMIT: usize = 8 << 20;

/// One piece of the client's stream, waiting for what comes before it.
#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) seq: SeqNumber,
    pub(crate) data: Vec<u8>,
    /// The acknowledgement number of the segment it came in, if that had one.
    pub(crate) ack: Option<SeqNumber>,
    pub(crate) push: bool,
}

impl Piece {
    fn end(&self) -> SeqNumber {
        self.seq + self.data.len() as u32
    }
}

/// Disjoint pieces in order, all ahead of what the client half expects next.
#[derive(Debug, Default)]
pub(crate) struct Reassembly {
    pieces: Vec<Piece>,
    bytes: usize,
}

impl Reassembly {
    /// Keeps what of a segment is not here yet; returns how many bytes that was.
    pub(crate) fn insert(&mut self, mut seq: SeqNumber, mut data: &[u8], ack: Option<SeqNumber>, push: bool) -> usize {
        let before = self.bytes;
        let mut at = self.pieces.partition_point(|p| p.end().is_at_or_before(seq));
        while !data.is_empty() {
            let gap = match self.pieces.get(at) {
                Some(p) if p.seq.is_at_or_before(seq) => {
                    // Covered up to the end of this piece: go on behind it.
                    let covered = (p.end().distance_from(seq) as usize).min(data.len());
                    data = &data[covered..];
                    seq += covered as u32;
                    at += 1;
                    continue;
                }
                Some(p) => (p.seq.distance_from(seq) as usize).min(data.len()),
                None => data.len(),
            };
            let (new, rest) = data.split_at(gap);
            self.bytes += gap;
            self.pieces.insert(at, Piece { seq, data: new.to_vec(), ack, push: push && rest.is_empty() });
            at += 1;
            data = rest;
            seq += gap as u32;
        }
        self.bytes - before
    }

    /// The first piece, if it begins at `next`.
    pub(crate) fn take_at(&mut self, next: SeqNumber) -> Option<Piece> {
        if self.pieces.first()?.seq != next {
            return None;
        }
        let piece = self.pieces.remove(0);
        self.bytes -= piece.data.len();
        Some(piece)
    }

    /// Removes what lies before `next`, which arrived by another way; returns the number of bytes.
    pub(crate) fn trim(&mut self, next: SeqNumber) -> usize {
        let before = self.bytes;
        while let Some(first) = self.pieces.first_mut() {
            let over = next.distance_from(first.seq);
            if over <= 0 {
                break;
            }
            let over = over as usize;
            if over < first.data.len() {
                first.data.drain(..over);
                first.seq = next;
                self.bytes -= over;
                break;
            }
            self.bytes -= first.data.len();
            self.pieces.remove(0);
        }
        before - self.bytes
    }

    /// Where the first piece begins.
    pub(crate) fn first_seq(&self) -> Option<SeqNumber> {
        self.pieces.first().map(|p| p.seq)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// However a stream is cut, doubled and shuffled, what comes out is the stream, and every byte is accounted for.
        #[test]
        fn restores_the_stream(cuts in prop::collection::vec((0usize..300, 1usize..80), 1..80), origin in any::<u32>()) {
            let stream: Vec<u8> = (0..400u32).map(|i| (i % 251) as u8).collect();
            let base = SeqNumber(origin);
            let mut r = Reassembly::default();
            let mut covered = vec![false; stream.len()];
            // The first byte never arrives ahead of its turn; it opens the hole at the end.
            for (start, len) in cuts {
                let (start, end) = (start + 1, (start + 1 + len).min(stream.len()));
                let new = covered[start..end].iter().filter(|c| !**c).count();
                prop_assert_eq!(r.insert(base + start as u32, &stream[start..end], None, false), new);
                covered[start..end].fill(true);
            }
            prop_assert_eq!(r.bytes(), covered.iter().filter(|c| **c).count());
            let mut next = 1;
            while let Some(piece) = r.take_at(base + next as u32) {
                prop_assert_eq!(&stream[next..next + piece.data.len()], &piece.data[..]);
                next += piece.data.len();
            }
            prop_assert_eq!(next, 1 + covered[1..].iter().take_while(|c| **c).count());
            let left = r.bytes();
            prop_assert_eq!(r.trim(base + 1000), left);
            prop_assert!(r.is_empty());
        }
    }
}
