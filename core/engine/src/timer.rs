//! A hierarchical timer wheel with one deadline per session.
//!
//! Six levels of 64 slots; a slot of level `n` spans `64^n` ticks of about a millisecond. A deadline stands in the level
//! where it first differs from the present tick, and moves down as the present comes near. Setting, moving and removing
//! a deadline take constant time and no allocation; the next deadline is read off six bitmaps.

use tcpcopy_wire::Timestamp;

use crate::chunked::Chunked;

/// One tick is 2^20 ns, 1.05 ms.
const TICK_SHIFT: u32 = 20;
const LEVELS: usize = 6;
const SLOTS: usize = 64;
const NONE: u32 = u32::MAX;
const UNARMED: u16 = u16::MAX;

#[derive(Debug)]
struct Node {
    tick: u64,
    prev: u32,
    next: u32,
    bucket: u16,
}

impl Default for Node {
    fn default() -> Self {
        Self { tick: 0, prev: NONE, next: NONE, bucket: UNARMED }
    }
}

/// The wheel. Timers are named by small integers.
#[derive(Debug)]
pub(crate) struct TimerWheel {
    now: u64,
    nodes: Chunked<Node>,
    heads: [u32; LEVELS * SLOTS],
    occupied: [u64; LEVELS],
}

/// The first tick at or after `at`.
#[inline]
fn tick_of(at: Timestamp) -> u64 {
    at.after_nanos((1 << TICK_SHIFT) - 1).as_nanos() >> TICK_SHIFT
}

impl TimerWheel {
    pub(crate) fn new() -> Self {
        Self { now: 0, nodes: Chunked::new(), heads: [NONE; LEVELS * SLOTS], occupied: [0; LEVELS] }
    }

    /// Makes sure that `id` fires at `at` or earlier. A deadline that is already set and earlier stays: the owner, when
    /// woken too early, arms again. So a deadline that keeps moving away, as an idle timeout does, costs nothing.
    #[inline]
    pub(crate) fn arm(&mut self, id: u32, at: Timestamp) {
        let tick = tick_of(at).max(self.now + 1);
        match self.nodes.get_mut(id as usize) {
            Some(node) if node.bucket != UNARMED && node.tick <= tick => {}
            Some(_) => self.relink(id, tick),
            None => {
                self.nodes.grow_to(id as usize);
                self.link(id, tick);
            }
        }
    }

    /// To a deadline that is earlier than the one it has, or the first.
    fn relink(&mut self, id: u32, tick: u64) {
        self.disarm(id);
        self.link(id, tick);
    }

    /// Forgets `id`'s deadline, if it has one.
    pub(crate) fn disarm(&mut self, id: u32) {
        if self.nodes.get_mut(id as usize).is_some_and(|n| n.bucket != UNARMED) {
            self.unlink(id);
        }
    }

    /// When [`expire`](Self::expire) should be called next: never later than the earliest deadline's tick.
    pub(crate) fn next_deadline(&self) -> Option<Timestamp> {
        self.next_slot().map(|(_, _, tick)| Timestamp::from_nanos(tick << TICK_SHIFT))
    }

    /// Takes the timers that are due out of the wheel and adds them to `due`.
    pub(crate) fn expire(&mut self, now: Timestamp, due: &mut Vec<u32>) {
        let target = now.as_nanos() >> TICK_SHIFT;
        while let Some((level, slot, tick)) = self.next_slot() {
            if tick > target {
                break;
            }
            self.now = self.now.max(tick);
            let bucket = level * SLOTS + slot;
            let mut id = self.heads[bucket];
            self.heads[bucket] = NONE;
            self.occupied[level] &= !(1 << slot);
            while id != NONE {
                let node = &mut self.nodes[id as usize];
                let (next, due_tick) = (node.next, node.tick);
                node.bucket = UNARMED;
                if due_tick <= tick {
                    due.push(id);
                } else {
                    self.link(id, due_tick);
                }
                id = next;
            }
        }
        self.now = self.now.max(target);
    }

    /// The earliest occupied slot: level, slot, first tick.
    fn next_slot(&self) -> Option<(usize, usize, u64)> {
        // What stands in a lower level is due before anything in a higher one.
        let level = self.occupied.iter().position(|&bits| bits != 0)?;
        let slot = self.occupied[level].trailing_zeros() as usize;
        let shift = 6 * level as u32;
        let above = (self.now >> shift >> 6) << 6;
        Some((level, slot, (above | slot as u64) << shift))
    }

    fn link(&mut self, id: u32, tick: u64) {
        let differing = (self.now ^ tick) | (SLOTS as u64 - 1);
        let level = (differing.ilog2() / 6) as usize;
        // 64^6 ticks are over two years; what is further off waits at the end of the last level.
        let (level, tick) =
            if level < LEVELS { (level, tick) } else { (LEVELS - 1, self.now | ((1 << (6 * LEVELS)) - 1)) };
        let slot = ((tick >> (6 * level)) & (SLOTS as u64 - 1)) as usize;
        let bucket = level * SLOTS + slot;
        let head = self.heads[bucket];
        let node = &mut self.nodes[id as usize];
        node.tick = tick;
        node.bucket = bucket as u16;
        node.prev = NONE;
        node.next = head;
        if head != NONE {
            self.nodes[head as usize].prev = id;
        }
        self.heads[bucket] = id;
        self.occupied[level] |= 1 << slot;
    }

    fn unlink(&mut self, id: u32) {
        let node = &mut self.nodes[id as usize];
        let (prev, next, bucket) = (node.prev, node.next, usize::from(node.bucket));
        node.bucket = UNARMED;
        if prev == NONE {
            self.heads[bucket] = next;
            if next == NONE {
                self.occupied[bucket / SLOTS] &= !(1 << (bucket % SLOTS));
            }
        } else {
            self.nodes[prev as usize].next = next;
        }
        if next != NONE {
            self.nodes[next as usize].prev = prev;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        /// Against a sorted map: every timer fires, not before its deadline, and at the first call after its tick.
        #[test]
        fn fires_like_a_sorted_map(ops in prop::collection::vec((0u32..40, 0u64..400_000, 0u8..4), 1..300)) {
            let mut wheel = TimerWheel::new();
            let mut model: BTreeMap<u32, u64> = BTreeMap::new();
            let mut now = 0u64;
            for (id, millis, op) in ops {
                match op {
                    0 => {
                        wheel.disarm(id);
                        model.remove(&id);
                    }
                    1 => {
                        now += millis / 8;
                        let mut due = Vec::new();
                        wheel.expire(Timestamp::from_millis(now), &mut due);
                        let tick = Timestamp::from_millis(now).as_nanos() >> TICK_SHIFT;
                        let mut expected: Vec<u32> =
                            model.iter().filter(|(_, at)| **at <= tick).map(|(id, _)| *id).collect();
                        due.sort_unstable();
                        expected.sort_unstable();
                        prop_assert_eq!(&due, &expected);
                        model.retain(|_, at| *at > tick);
                    }
                    _ => {
                        let at = Timestamp::from_millis(now + millis);
                        wheel.arm(id, at);
                        let tick = tick_of(at).max(wheel.now + 1);
                        let entry = model.entry(id).or_insert(tick);
                        *entry = (*entry).min(tick);
                    }
                }
                let first = model.values().min().map(|t| t << TICK_SHIFT);
                match (wheel.next_deadline(), first) {
                    (None, None) => {}
                    (Some(wake), Some(first)) => prop_assert!(wake.as_nanos() <= first),
                    other => prop_assert!(false, "{:?}", other),
                }
            }
        }
    }
}
