//! IP fragments of datagrams and segments, put together (RFC 791, section 3.2; RFC 8200, section 4.5).
//!
//! A fragment that contradicts another tells of an attack or a broken sender, and no choice between the two would be
//! right: the whole datagram is given up, and so are those of its fragments that are still to come (RFC 5722, which IPv6
//! requires, for both families). An exact repetition is a duplicate. Memory is bounded: the oldest incomplete datagram
//! makes room.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use foldhash::fast::FixedState;
use tcpcopy_wire::Timestamp;
use tcpcopy_wire::ip::IpFragment;

/// How long the rest of a datagram is waited for, and how long one that was refused is remembered.
const PATIENCE: Duration = Duration::from_secs(30);
/// Incomplete datagrams at most.
const MAX_DATAGRAMS: usize = 1024;
/// Bytes of fragments at most.
const MAX_BYTES: usize = 16 << 20;
/// Fragments of one datagram at most: as many as 64 KB make at the smallest MTU of IPv4, with room to spare.
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
    /// Bytes in them.
    here: usize,
    len: Option<usize>,
    /// Bytes of payload in them.
    payload: u64,
    /// Its fragments contradicted each other: what comes after is not believed either.
    refused: bool,
}

/// What became of a fragment.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It waits for others.
    Kept,
    /// It was here before.
    Duplicate,
    /// It cannot be used.
    Refused {
        /// Bytes of payload that had been kept of its datagram, when that was given up with it.
        given_up: Option<u64>,
    },
    /// The datagram is whole: its header and payload. The buffer should be [given back](Reassembler::give_back).
    Whole(Vec<u8>),
}

/// See the [module's documentation](self).
#[derive(Debug)]
pub(crate) struct Reassembler {
    incomplete: HashMap<Key, Incomplete, FixedState>,
    /// In the order of their first fragments; some are complete by now.
    order: VecDeque<(Timestamp, u64, Key)>,
    bytes: usize,
    serial: u64,
    /// Buffers of a datagram that is through, for the next one.
    spare: Incomplete,
    /// Bytes of the transport protocol's header, which are not payload.
    header_len: usize,
}

impl Reassembler {
    /// Of a transport protocol with a header of so many bytes.
    pub(crate) fn new(seed: u64, header_len: usize) -> Self {
        Self {
            incomplete: HashMap::with_hasher(FixedState::with_seed(seed)),
            order: VecDeque::new(),
            bytes: 0,
            serial: 0,
            spare: Incomplete::default(),
            header_len,
        }
    }

    /// Bytes of payload in a fragment: all but the header.
    pub(crate) fn payload_of(&self, f: &IpFragment<'_>) -> u64 {
        (f.len - self.header_len.saturating_sub(f.offset).min(f.len)) as u64
    }

    /// Whether other fragments of this one's packet are here.
    pub(crate) fn knows(&self, f: &IpFragment<'_>) -> bool {
        self.incomplete.contains_key(&Key { src: f.src, dst: f.dst, id: f.id })
    }

    /// Takes a fragment, all bytes of which were captured. `lost` hears of the payload that had to make room.
    pub(crate) fn take(&mut self, now: Timestamp, f: &IpFragment<'_>, lost: impl FnMut(u64)) -> Fate {
        let key = Key { src: f.src, dst: f.dst, id: f.id };
        let (start, end) = (f.offset, f.offset + f.len);
        self.make_room(&key, end, lost);
        let payload = self.payload_of(f);
        let Self { incomplete, order, bytes, serial, spare, .. } = self;
        let entry = incomplete.entry(key).or_insert_with(|| {
            *serial += 1;
            order.push_back((now, *serial, key));
            Incomplete { serial: *serial, ..std::mem::take(spare) }
        });
        if entry.refused {
            return Fate::Refused { given_up: None };
        }
        let at = entry.parts.partition_point(|part| part.1 <= start);
        if entry.parts.get(at) == Some(&(start, end)) && entry.bytes[start..end] == *f.data {
            return Fate::Duplicate;
        }
        let overlaps = entry.parts.get(at).is_some_and(|part| part.0 < end);
        let beyond = entry.len.is_some_and(|len| end > len || (!f.more && end != len));
        let short = !f.more && entry.parts.last().is_some_and(|part| part.1 > end);
        if overlaps || beyond || short || entry.parts.len() >= MAX_PARTS {
            *bytes -= entry.bytes.len();
            let given_up = Some(entry.payload);
            *entry = Incomplete { serial: entry.serial, refused: true, ..Incomplete::default() };
            return Fate::Refused { given_up };
        }
        if entry.bytes.len() < end {
            *bytes += end - entry.bytes.len();
            entry.bytes.resize(end, 0);
        }
        entry.bytes[start..end].copy_from_slice(f.data);
        entry.parts.insert(at, (start, end));
        entry.here += f.len;
        entry.payload += payload;
        if !f.more {
            entry.len = Some(end);
        }
        // Disjoint parts, none beyond the end: when they are as long as the whole they are the whole.
        if entry.len != Some(entry.here) {
            return Fate::Kept;
        }
        let Incomplete { bytes: whole, mut parts, .. } = incomplete.remove(&key).unwrap_or_default();
        *bytes -= whole.len();
        parts.clear();
        spare.parts = parts;
        self.tidy();
        Fate::Whole(whole)
    }

    /// Takes the buffer of a whole datagram back, to use it again.
    pub(crate) fn give_back(&mut self, mut buffer: Vec<u8>) {
        buffer.clear();
        self.spare.bytes = buffer;
    }

    /// Gives the oldest up until there is room for a fragment that ends at `end`.
    fn make_room(&mut self, key: &Key, end: usize, mut lost: impl FnMut(u64)) {
        let known = self.incomplete.get(key);
        let grows = end.saturating_sub(known.map_or(0, |entry| entry.bytes.len()));
        let most = if known.is_some() { MAX_DATAGRAMS } else { MAX_DATAGRAMS - 1 };
        while self.bytes + grows > MAX_BYTES || self.incomplete.len() > most {
            let Some((_, serial, key)) = self.order.pop_front() else { return };
            if let Some(payload) = self.forget(key, serial) {
                lost(payload);
            }
        }
    }

    /// Forgets, in the queue of times, what is complete: at its front at once, elsewhere when it has become much.
    fn tidy(&mut self) {
        let Self { incomplete, order, .. } = self;
        let waits = |serial: u64, key: &Key| incomplete.get(key).is_some_and(|entry| entry.serial == serial);
        while order.front().is_some_and(|(_, serial, key)| !waits(*serial, key)) {
            order.pop_front();
        }
        if order.len() > 2 * MAX_DATAGRAMS {
            order.retain(|(_, serial, key)| waits(*serial, key));
        }
    }

    /// Forgets an incomplete datagram. Returns the payload that was kept of it, unless it had been given up before.
    fn forget(&mut self, key: Key, serial: u64) -> Option<u64> {
        if self.incomplete.get(&key)?.serial != serial {
            return None;
        }
        let entry = self.incomplete.remove(&key)?;
        self.bytes -= entry.bytes.len();
        (!entry.refused).then_some(entry.payload)
    }

    /// When the oldest incomplete datagram is given up.
    pub(crate) fn next_deadline(&self) -> Option<Timestamp> {
        self.order.front().map(|(at, ..)| *at + PATIENCE)
    }

    /// Gives up what has waited for too long, or all of it; `lost` hears of its payload.
    pub(crate) fn expire(&mut self, now: Option<Timestamp>, mut lost: impl FnMut(u64)) {
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

    /// Bytes of memory in use, near enough.
    pub(crate) fn memory(&self) -> usize {
        self.bytes + self.incomplete.len() * (2 * size_of::<Key>() + size_of::<Incomplete>() + 64)
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
            let mut r = Reassembler::new(1, 8);
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
        let mut r = Reassembler::new(1, 8);
        assert_eq!(r.take(Timestamp::ZERO, &fragment(1, 0, &[0; 16], true), |_| {}), Fate::Kept);
        let overlap = fragment(1, 8, &[1; 16], true);
        assert_eq!(r.take(Timestamp::ZERO, &overlap, |_| {}), Fate::Refused { given_up: Some(8) });
        // What comes later is not believed either, whatever it is, until it can be of another datagram.
        for (offset, more) in [(0, true), (16, false)] {
            let later = fragment(1, offset, &[0; 16], more);
            assert_eq!(r.take(Timestamp::ZERO, &later, |_| {}), Fate::Refused { given_up: None });
        }
        r.expire(Some(Timestamp::from_millis(30_000)), |_| panic!("it was given up before"));
        assert_eq!((r.memory(), r.next_deadline()), (0, None));
        // An end before the end.
        assert_eq!(r.take(Timestamp::ZERO, &fragment(2, 16, &[0; 8], true), |_| {}), Fate::Kept);
        assert_eq!(
            r.take(Timestamp::ZERO, &fragment(2, 8, &[0; 8], false), |_| {}),
            Fate::Refused { given_up: Some(8) }
        );
    }

    #[test]
    fn what_stays_incomplete_is_given_up() {
        let mut r = Reassembler::new(1, 8);
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
        let mut r = Reassembler::new(1, 8);
        let mut lost = 0;
        for id in 0..2_000 {
            r.take(Timestamp::from_millis(id), &fragment(id as u32, 8, &[0; 1_480], true), |_| lost += 1);
        }
        assert_eq!(lost, 2_000 - MAX_DATAGRAMS);
        // Fragments at the end of 64 KB take as much as all before them would.
        for id in 2_000..4_000 {
            r.take(Timestamp::from_millis(id), &fragment(id as u32, 64_000, &[0; 1_480], true), |_| {});
            assert!(r.bytes <= MAX_BYTES);
        }
        assert_eq!(r.incomplete.len(), r.order.len());
    }

    #[test]
    fn what_is_complete_leaves_nothing_behind() {
        let mut r = Reassembler::new(1, 8);
        r.take(Timestamp::ZERO, &fragment(0, 0, &[0; 8], true), |_| {});
        for id in 1..20_000 {
            r.take(Timestamp::ZERO, &fragment(id, 0, &[1; 8], true), |_| {});
            let Fate::Whole(whole) = r.take(Timestamp::ZERO, &fragment(id, 8, &[1; 8], false), |_| {}) else {
                panic!("it is whole");
            };
            r.give_back(whole);
            assert!(r.order.len() <= 2 * MAX_DATAGRAMS && r.incomplete.len() == 1);
        }
    }
}
