//! Sets of sequence ranges: what arrived ahead of its turn.

use tcpcopy_wire::SeqNumber;

/// Disjoint, non-adjacent ranges `[left, right)` in order. All lie within 2^31 of each other, as everything within a TCP
/// window does.
#[derive(Clone, Debug, Default)]
pub(crate) struct RangeSet(Vec<(SeqNumber, SeqNumber)>);

impl RangeSet {
    /// Adds a range, joining those it touches.
    pub(crate) fn insert(&mut self, mut left: SeqNumber, mut right: SeqNumber) {
        if !left.is_before(right) {
            return;
        }
        let first = self.0.partition_point(|&(_, r)| r.is_before(left));
        let mut last = first;
        while let Some(&(l, r)) = self.0.get(last) {
            if l.is_after(right) {
                break;
            }
            left = left.earlier(l);
            right = right.later(r);
            last += 1;
        }
        self.0.splice(first..last, [(left, right)]);
    }

    /// Forgets what lies before `seq`.
    pub(crate) fn remove_before(&mut self, seq: SeqNumber) {
        self.0.retain(|&(_, r)| r.is_after(seq));
        if let Some(first) = self.0.first_mut() {
            first.0 = first.0.later(seq);
        }
    }

    /// If a range begins at or before `seq` and reaches beyond it, takes it out and returns its end.
    pub(crate) fn take_at(&mut self, seq: SeqNumber) -> Option<SeqNumber> {
        self.0.retain(|&(_, r)| r.is_after(seq));
        match self.0.first() {
            Some(&(l, r)) if l.is_at_or_before(seq) => {
                self.0.remove(0);
                Some(r)
            }
            _ => None,
        }
    }

    /// The range around `seq`, if any covers it.
    pub(crate) fn covering(&self, seq: SeqNumber) -> Option<(SeqNumber, SeqNumber)> {
        self.0.iter().copied().find(|&(l, r)| l.is_at_or_before(seq) && r.is_after(seq))
    }

    /// The start of the first range after `seq`.
    pub(crate) fn next_start(&self, seq: SeqNumber) -> Option<SeqNumber> {
        self.0.iter().map(|&(l, _)| l).find(|l| l.is_after(seq))
    }

    /// The end of the last range.
    pub(crate) fn end(&self) -> Option<SeqNumber> {
        self.0.last().map(|&(_, r)| r)
    }

    /// Bytes in all ranges.
    pub(crate) fn total(&self) -> u32 {
        self.0.iter().map(|&(l, r)| r.distance_from(l) as u32).sum()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (SeqNumber, SeqNumber)> {
        self.0.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against a bitmap, with the origin near the wrap of sequence numbers.
        #[test]
        fn holds_what_was_inserted(ranges in prop::collection::vec((0u32..200, 1u32..40), 0..30), cut in 0u32..250) {
            let base = SeqNumber(u32::MAX - 100);
            let mut set = RangeSet::default();
            let mut bits = [false; 256];
            for (start, len) in ranges {
                set.insert(base + start, base + (start + len));
                bits[start as usize..(start + len) as usize].fill(true);
            }
            set.remove_before(base + cut);
            bits[..cut as usize].fill(false);
            for (i, &bit) in bits.iter().enumerate() {
                prop_assert_eq!(set.covering(base + i as u32).is_some(), bit);
            }
            prop_assert_eq!(set.total() as usize, bits.iter().filter(|b| **b).count());
            for pair in set.0.windows(2) {
                prop_assert!(pair[0].1.is_before(pair[1].0));
            }
        }
    }
}
