//! IP fragments of UDP datagrams, put together (RFC 791, section 3.2; RFC 8200, section 4.5).
//!
//! A fragment that overlaps another tells of an attack or a broken sender, and no choice between the two would be right:
//! the whole datagram is given up (RFC 5722, which IPv6 requires, for both families). An exact repetition is a
//! duplicate. Memory is bounded: the oldest incomplete datagram makes room.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use foldhash::fast::FixedState;
use tcpcopy_wire::Timestamp;
use tcpcopy_wire::ip::IpFragment;
use tcpcopy_wire::udp::UDP_HEADER_LEN;

/// How long the rest of a datagram is waited for.
const PATIENCE: Duration = Duration::from_secs(30);
/// Incomplete datagrams at most.
const MAX_DATAGRAMS: usize = 1024;
/// Bytes of fragments at most.
const MAX_BYTES: usize = 16 << 20;
/// Fragments of one datagram at most: as many as 64 KB make at the smallest MTU of IPv4, twice over.
const MAX_PARTS: usize = 2048;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    src: IpAddr,
    dst: IpAddr,
    id: u32,
}

#[derive(Debug, Default)]
struct Incomplete {
    /// Numbers entries, so that the queue of times can tell an old one from its successor.
    serial: u64,
    bytes: Vec<u8>,
    /// Disjoint parts that are here, in order: start and end.
    parts: Vec<(usize, usize)>,
    len: Option<usize>,
    /// Bytes of UDP payload that were counted as captured.
    payload: u64,
}

/// What became of a fragment. `payload` are bytes of UDP payload.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It waits for others.
    Kept,
    /// It was here before.
    Duplicate,
    /// It cannot be used, and what had been kept of its datagram was given up with it.
    Refused {
        /// What had been kept.
        payload: u64,
    },
    /// The datagram is whole: its header and payload.
    Whole(Vec<u8>),
}

/// See the [module's documentation](self).
#[derive(Debug)]
pub(super) struct Reassembler {
    incomplete: HashMap<Key, Incomplete, FixedState>,
    /// In the order of their first fragments; some are complete by now.
    order: VecDeque<(Timestamp, u64, Key)>,
    bytes: usize,
    serial: u64,
}

/// Bytes of UDP payload in a fragment: all but the header.
pub(super) fn payload_of(f: &IpFragment<'_>) -> u64 {
    (f.len - UDP_HEADER_LEN.saturating_sub(f.offset).min(f.len)) as u64
}

impl Reassembler {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            incomplete: HashMap::with_hasher(FixedState::with_seed(seed)),
            order: VecDeque::new(),
            bytes: 0,
            serial: 0,
        }
    }

    /// Takes a fragment, all bytes of which were captured. `lost` hears of the payload that had to make room.
    pub(super) fn take(&mut self, now: Timestamp, f: &IpFragment<'_>, mut lost: impl FnMut(u64)) -> Fate {
        while self.bytes + f.len > MAX_BYTES || self.incomplete.len() >= MAX_DATAGRAMS {
            let Some((_, serial, key)) = self.order.pop_front() else { break };
            if let Some(payload) = self.forget(key, serial) {
                lost(payload);
            }
        }
        let key = Key { src: f.src, dst: f.dst, id: f.id };
        let Self { incomplete, order, bytes, serial } = self;
        let entry = incomplete.entry(key).or_insert_with(|| {
            *serial += 1;
            order.push_back((now, *serial, key));
            Incomplete { serial: *serial, ..Incomplete::default() }
        });
        let (start, end) = (f.offset, f.offset + f.len);
        let at = entry.parts.partition_point(|part| part.1 <= start);
        if entry.parts.get(at) == Some(&(start, end)) && entry.bytes[start..end] == *f.data {
            return Fate::Duplicate;
        }
        let overlaps = entry.parts.get(at).is_some_and(|part| part.0 < end);
        let beyond = entry.len.is_some_and(|len| end > len || (!f.more && end != len));
        let short = !f.more && entry.parts.last().is_some_and(|part| part.1 > end);
        if overlaps || beyond || short || entry.parts.len() >= MAX_PARTS {
            let serial = entry.serial;
            return Fate::Refused { payload: self.forget(key, serial).unwrap_or(0) };
        }
        if entry.bytes.len() < end {
            *bytes += end - entry.bytes.len();
            entry.bytes.resize(end, 0);
        }
        entry.bytes[start..end].copy_from_slice(f.data);
        entry.parts.insert(at, (start, end));
        entry.payload += payload_of(f);
        if !f.more {
            entry.len = Some(end);
        }
        let mut reached = 0;
        for part in &entry.parts {
            if part.0 != reached {
                return Fate::Kept;
            }
            reached = part.1;
        }
        if entry.len != Some(reached) {
            return Fate::Kept;
        }
        let whole = incomplete.remove(&key).unwrap_or_default().bytes;
        *bytes -= whole.len();
        Fate::Whole(whole)
    }

    fn forget(&mut self, key: Key, serial: u64) -> Option<u64> {
        if self.incomplete.get(&key)?.serial != serial {
            return None;
        }
        let entry = self.incomplete.remove(&key)?;
        self.bytes -= entry.bytes.len();
        Some(entry.payload)
    }

    /// When the oldest incomplete datagram is given up.
    pub(super) fn next_deadline(&self) -> Option<Timestamp> {
        self.order.front().map(|(at, ..)| *at + PATIENCE)
    }

    /// Gives up what has waited for too long, or all of it; `lost` hears of its payload.
    pub(super) fn expire(&mut self, now: Option<Timestamp>, mut lost: impl FnMut(u64)) {
        while let Some(&(at, serial, key)) = self.order.front() {
            if now.is_some_and(|now| at + PATIENCE > now) {
                return;
            }
            self.order.pop_front();
            if let Some(payload) = self.forget(key, serial) {
                lost(payload);
            }
        }
    }

    /// Bytes of memory in use.
    pub(super) fn memory(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fragment(id: u32, offset: usize, data: &[u8], more: bool) -> IpFragment<'_> {
        let addr = |n: u8| IpAddr::from([10, 0, 0, n]);
        IpFragment { src: addr(1), dst: addr(2), protocol: 17, id, offset, more, data, len: data.len() }
    }

    proptest! {
        /// In whatever order the fragments come, doubled or not, the datagram comes out once, unaltered.
        #[test]
        fn restores_datagrams(len in 9usize..4_000, unit in 1usize..40, order in prop::collection::vec(any::<prop::sample::Index>(), 0..300)) {
            let datagram: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
            let mut parts: Vec<usize> = (0..len.div_ceil(unit * 8)).collect();
            for (i, at) in order.iter().enumerate() {
                let n = parts.len();
                parts.swap(i % n, at.index(n));
            }
            let (first_ones, again) = parts.split_at(parts.len() / 2);
            let sequence: Vec<usize> = first_ones.iter().chain(first_ones).chain(again).copied().collect();
            let mut r = Reassembler::new(1);
            let mut whole = None;
            for part in sequence {
                let (start, end) = (part * unit * 8, ((part + 1) * unit * 8).min(len));
                match r.take(Timestamp::ZERO, &fragment(7, start, &datagram[start..end], end < len), |_| panic!("full")) {
                    Fate::Whole(bytes) => {
                        prop_assert!(whole.is_none());
                        whole = Some(bytes);
                    }
                    Fate::Kept | Fate::Duplicate => {}
                    Fate::Refused { .. } => prop_assert!(false, "refused"),
                }
            }
            prop_assert_eq!(whole, Some(datagram));
            prop_assert_eq!(r.memory(), 0);
        }
    }

    #[test]
    fn an_overlap_gives_the_datagram_up() {
        let mut r = Reassembler::new(1);
        assert_eq!(r.take(Timestamp::ZERO, &fragment(1, 0, &[0; 16], true), |_| {}), Fate::Kept);
        let overlap = fragment(1, 8, &[1; 16], true);
        assert_eq!(r.take(Timestamp::ZERO, &overlap, |_| {}), Fate::Refused { payload: 8 });
        assert_eq!(r.memory(), 0);
        // An end before the end.
        assert_eq!(r.take(Timestamp::ZERO, &fragment(2, 16, &[0; 8], true), |_| {}), Fate::Kept);
        assert_eq!(r.take(Timestamp::ZERO, &fragment(2, 8, &[0; 8], false), |_| {}), Fate::Refused { payload: 8 });
    }

    #[test]
    fn what_stays_incomplete_is_given_up() {
        let mut r = Reassembler::new(1);
        let at = Timestamp::from_millis;
        r.take(at(0), &fragment(1, 0, &[0; 24], true), |_| {});
        r.take(at(10_000), &fragment(2, 0, &[0; 32], true), |_| {});
        assert_eq!(r.next_deadline(), Some(at(30_000)));
        let mut lost = Vec::new();
        r.expire(Some(at(30_000)), |payload| lost.push(payload));
        assert_eq!(lost, [16]);
        r.expire(None, |payload| lost.push(payload));
        assert_eq!((lost, r.memory(), r.next_deadline()), (vec![16, 24], 0, None));
    }

    #[test]
    fn the_oldest_makes_room() {
        let mut r = Reassembler::new(1);
        let mut lost = 0;
        for id in 0..2_000 {
            r.take(Timestamp::from_millis(id), &fragment(id as u32, 8, &[0; 1_480], true), |_| lost += 1);
        }
        assert_eq!(lost, 2_000 - MAX_DATAGRAMS);
        assert!(r.memory() <= MAX_BYTES);
    }
}
