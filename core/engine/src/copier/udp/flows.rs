//! Who sends datagrams to whom, and as whom we send them on.
//!
//! A flow is one client endpoint towards one online server, one target and one copy. Flows stand in a slab, are found by
//! what they copy and by the replica's addresses, and form a list from the one that was used longest ago to the newest.

use std::collections::VecDeque;
use std::hash::{BuildHasher, Hasher};
use std::net::IpAddr;
use std::time::Duration;

use foldhash::fast::FixedState;
use hashbrown::HashTable;
use tcpcopy_wire::control::FlowId;
use tcpcopy_wire::{Endpoint, Flow, Timestamp};

use crate::session::watch::Watch;

/// No flow, where one is named by its slot.
const NOBODY: u32 = u32::MAX;
/// In ids of UDP flows; those of TCP sessions never have it, as their generations would have to wrap first.
pub(super) const UDP_BIT: u64 = 1 << 63;
/// Datagrams of which it is known when they were sent, for one flow.
const MAX_TIMES: usize = 64;
/// What is not answered within this time is not waited for any more.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a flow copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) online: Flow,
    pub(super) map: u16,
    pub(super) copy: u32,
}

/// See the [module's documentation](self).
#[derive(Debug)]
pub(super) struct UdpFlow {
    pub(super) key: Key,
    /// The replica, and the target.
    pub(super) replica: Flow,
    pub(super) watch: Option<Box<Watch>>,
    /// The module gave it up.
    pub(super) given_up: bool,
    /// Datagrams sent that the target has not answered.
    pub(super) to_target: Unanswered,
    /// Datagrams captured that online has not answered, where that is measured.
    by_online: Option<Box<Unanswered>>,
    pub(super) last_used: Timestamp,
    older: u32,
    newer: u32,
}

/// Datagrams that were not answered, as far as can be told.
#[derive(Debug, Default)]
pub(super) struct Unanswered {
    pub(super) count: u64,
    /// When the newest of them were sent, the oldest first.
    sent_at: VecDeque<Timestamp>,
    /// Those before them that may still be answered, and when the newest of those was sent.
    untimed: u64,
    untimed_until: Timestamp,
}

/// What a datagram of a server answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Nothing that was sent.
    ToNothing,
    /// One of so many that it is not known how long this one took.
    Untimed,
    /// One that was sent this long ago.
    After(Duration),
}

impl Unanswered {
    fn sent(&mut self, now: Timestamp) {
        self.count += 1;
        if self.sent_at.len() == MAX_TIMES
            && let Some(oldest) = self.sent_at.pop_front()
        {
            self.untimed += 1;
            self.untimed_until = oldest;
        }
        self.sent_at.push_back(now);
    }

    /// A datagram came.
    pub(super) fn answered(&mut self, now: Timestamp) -> Answer {
        if self.untimed_until + PATIENCE <= now {
            self.untimed = 0;
        }
        while self.sent_at.front().is_some_and(|at| *at + PATIENCE <= now) {
            self.sent_at.pop_front();
        }
        let answer = if self.untimed > 0 {
            self.untimed -= 1;
            Answer::Untimed
        } else if let Some(at) = self.sent_at.pop_front() {
            Answer::After(now.since(at))
        } else {
            return Answer::ToNothing;
        };
        self.count -= 1;
        answer
    }
}

#[derive(Debug, Default)]
struct Slot {
    flow: Option<UdpFlow>,
    generation: u32,
}

/// See the [module's documentation](self).
#[derive(Debug)]
pub(super) struct FlowTable {
    slots: Vec<Slot>,
    free: Vec<u32>,
    by_key: HashTable<u32>,
    by_replica: HashTable<u32>,
    hash: FixedState,
    oldest: u32,
    newest: u32,
    /// Datagrams of which it is remembered when they were sent, at most, of all flows together.
    times: usize,
}

impl FlowTable {
    /// Bytes that a flow takes, near enough: its slot, and two index entries.
    const FLOW_BYTES: usize = size_of::<Slot>() + 2 * 10 + 4;

    pub(super) fn new(seed: u64) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            by_key: HashTable::new(),
            by_replica: HashTable::new(),
            hash: FixedState::with_seed(seed),
            oldest: NOBODY,
            newest: NOBODY,
            times: 0,
        }
    }

    /// Bytes of memory in use, near enough.
    pub(super) fn memory(&self) -> usize {
        self.len() * Self::FLOW_BYTES + self.times * size_of::<Timestamp>()
    }

    pub(super) fn len(&self) -> usize {
        self.by_key.len()
    }

    pub(super) fn find(&self, key: &Key) -> Option<u32> {
        self.by_key.find(hash_key(&self.hash, key), |&slot| self.get(slot).key == *key).copied()
    }

    /// Whether a replica's flow is taken.
    pub(super) fn is_taken(&self, replica: &Flow) -> bool {
        self.by_replica(replica).is_some()
    }

    /// The slot of the flow that has these addresses towards its target.
    pub(super) fn by_replica(&self, replica: &Flow) -> Option<u32> {
        let hash = hash_flow(&self.hash, replica, 0);
        self.by_replica.find(hash, |&slot| self.get(slot).replica == *replica).copied()
    }

    /// The flow in a slot that is in use.
    #[inline]
    pub(super) fn get(&self, slot: u32) -> &UdpFlow {
        self.slots[slot as usize].flow.as_ref().expect("only slots in use are named")
    }

    /// The flow in a slot that is in use.
    #[inline]
    pub(super) fn get_mut(&mut self, slot: u32) -> &mut UdpFlow {
        self.slots[slot as usize].flow.as_mut().expect("only slots in use are named")
    }

    /// The id of the flow in a slot.
    pub(super) fn id(&self, slot: u32) -> FlowId {
        let generation = u64::from(self.slots[slot as usize].generation & 0x7fff_ffff);
        FlowId(UDP_BIT | generation << 32 | u64::from(slot))
    }

    /// The slot of the flow with an id, if it still lives.
    #[inline]
    pub(super) fn by_id(&self, id: FlowId) -> Option<u32> {
        let slot = id.0 as u32;
        self.slots.get(slot as usize).filter(|s| s.flow.is_some() && self.id(slot) == id).map(|_| slot)
    }

    pub(super) fn insert(&mut self, now: Timestamp, key: Key, replica: Flow, watch: Option<Box<Watch>>) -> u32 {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            (self.slots.len() - 1) as u32
        });
        let flow = UdpFlow {
            key,
            replica,
            watch,
            given_up: false,
            to_target: Unanswered::default(),
            by_online: None,
            last_used: now,
            older: NOBODY,
            newer: NOBODY,
        };
        self.slots[slot as usize].flow = Some(flow);
        let Self { slots, hash, by_key, by_replica, .. } = self;
        let flow_of = |slot: u32| slots[slot as usize].flow.as_ref().expect("only slots in use are indexed");
        by_key.insert_unique(hash_key(hash, &key), slot, |&s| hash_key(hash, &flow_of(s).key));
        by_replica.insert_unique(hash_flow(hash, &replica, 0), slot, |&s| hash_flow(hash, &flow_of(s).replica, 0));
        self.link_newest(slot);
        slot
    }

    /// The flow was used: it is the newest now.
    #[inline]
    pub(super) fn touch(&mut self, slot: u32, now: Timestamp) {
        self.get_mut(slot).last_used = now;
        if self.newest != slot {
            self.unlink(slot);
            self.link_newest(slot);
        }
    }

    /// A datagram of the flow was sent, and may be answered.
    #[inline]
    pub(super) fn sent(&mut self, slot: u32, now: Timestamp) {
        let unanswered = &mut self.get_mut(slot).to_target;
        let before = unanswered.sent_at.capacity();
        unanswered.sent(now);
        let grown = unanswered.sent_at.capacity() - before;
        self.times += grown;
    }

    /// A datagram of the flow was captured, and online may answer it.
    pub(super) fn asked_online(&mut self, slot: u32, captured_at: Timestamp) {
        let unanswered = self.get_mut(slot).by_online.get_or_insert_default();
        let before = unanswered.sent_at.capacity();
        unanswered.sent(captured_at);
        let grown = unanswered.sent_at.capacity() - before;
        self.times += grown;
    }

    /// Online sent a datagram to the client of a flow that is measured; what it answers.
    pub(super) fn online_answered(&mut self, slot: u32, captured_at: Timestamp) -> Option<Answer> {
        self.get_mut(slot).by_online.as_mut().map(|unanswered| unanswered.answered(captured_at))
    }

    pub(super) fn remove(&mut self, slot: u32) -> UdpFlow {
        let UdpFlow { to_target, by_online, .. } = self.get(slot);
        let by_online = by_online.as_ref().map_or(0, |unanswered| unanswered.sent_at.capacity());
        self.times -= to_target.sent_at.capacity() + by_online;
        self.unlink(slot);
        let (key, replica) = (self.get(slot).key, self.get(slot).replica);
        if let Ok(entry) = self.by_key.find_entry(hash_key(&self.hash, &key), |&s| s == slot) {
            entry.remove();
        }
        if let Ok(entry) = self.by_replica.find_entry(hash_flow(&self.hash, &replica, 0), |&s| s == slot) {
            entry.remove();
        }
        let entry = &mut self.slots[slot as usize];
        entry.generation = entry.generation.wrapping_add(1);
        self.free.push(slot);
        entry.flow.take().expect("only slots in use are removed")
    }

    /// The flow that was used longest ago.
    pub(super) fn oldest(&self) -> Option<u32> {
        (self.oldest != NOBODY).then_some(self.oldest)
    }

    /// The slots in use.
    pub(super) fn slots(&self) -> Vec<u32> {
        (0..self.slots.len() as u32).filter(|slot| self.slots[*slot as usize].flow.is_some()).collect()
    }

    fn link_newest(&mut self, slot: u32) {
        let newest = self.newest;
        (self.get_mut(slot).older, self.get_mut(slot).newer) = (newest, NOBODY);
        match newest {
            NOBODY => self.oldest = slot,
            _ => self.get_mut(newest).newer = slot,
        }
        self.newest = slot;
    }

    fn unlink(&mut self, slot: u32) {
        let (older, newer) = (self.get(slot).older, self.get(slot).newer);
        match older {
            NOBODY => self.oldest = newer,
            _ => self.get_mut(older).newer = newer,
        }
        match newer {
            NOBODY => self.newest = older,
            _ => self.get_mut(newer).older = older,
        }
    }
}

fn hash_key(state: &FixedState, key: &Key) -> u64 {
    hash_flow(state, &key.online, u32::from(key.map).rotate_left(16) ^ key.copy)
}

#[inline]
fn hash_flow(state: &FixedState, flow: &Flow, extra: u32) -> u64 {
    let mut h = state.build_hasher();
    hash_endpoint(&mut h, &flow.client);
    hash_endpoint(&mut h, &flow.server);
    h.write_u32(extra);
    h.finish()
}

fn hash_endpoint(h: &mut impl Hasher, endpoint: &Endpoint) {
    match endpoint.addr {
        IpAddr::V4(a) => h.write_u64(u64::from(u32::from(a)) << 16 | u64::from(endpoint.port.0)),
        IpAddr::V6(a) => {
            h.write_u128(a.into());
            h.write_u16(endpoint.port.0);
        }
    }
}
