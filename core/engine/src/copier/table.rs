//! Where sessions live and how they are found: by the client's flow, by the replica's flow, by id.
//!
//! Sessions stand in a slab of slots. The two indices are hash tables of slot numbers alone, five bytes an entry: the keys
//! are in the sessions. Hashing is seeded, because clients choose the keys.

use std::hash::{BuildHasher, Hasher};
use std::net::IpAddr;

use foldhash::fast::FixedState;
use hashbrown::HashTable;
use tcpcopy_wire::Flow;
use tcpcopy_wire::control::FlowId;

use super::config::CopierConfig;
use crate::chunked::Chunked;
use crate::session::{NOBODY, Session};

#[derive(Debug)]
struct Slot {
    session: Option<Session>,
    /// Grows with every session that the slot has held, so that ids do not repeat.
    generation: u32,
    next_free: u32,
}

impl Default for Slot {
    fn default() -> Self {
        Self { session: None, generation: 0, next_free: NOBODY }
    }
}

/// See the [module's documentation](self).
#[derive(Debug)]
pub(crate) struct SessionTable {
    slots: Chunked<Slot>,
    first_free: u32,
    /// Slots that hold a session.
    occupied: usize,
    by_client: HashTable<u32>,
    by_replica: HashTable<u32>,
    hasher: FixedState,
}

impl SessionTable {
    /// Bytes that a session takes while it is idle: its slot, two index entries, its timer.
    pub(crate) const SESSION_BYTES: usize = size_of::<Slot>() + 2 * 10 + 24;

    pub(crate) fn new(seed: u64) -> Self {
        const { assert!(Self::SESSION_BYTES <= 512, "an idle session must stay small") };
        Self {
            slots: Chunked::new(),
            first_free: NOBODY,
            occupied: 0,
            by_client: HashTable::new(),
            by_replica: HashTable::new(),
            hasher: FixedState::with_seed(seed),
        }
    }

    /// Sessions, those included that are over and not forgotten yet.
    pub(crate) fn len(&self) -> usize {
        self.occupied
    }

    #[inline]
    fn hash(&self, flow: &Flow) -> u64 {
        hash_flow(&self.hasher, flow, 0)
    }

    /// The slot that the next session will get, and its id.
    pub(crate) fn next_id(&mut self) -> (u32, FlowId) {
        if self.first_free == NOBODY {
            let first = self.slots.len();
            self.slots.grow_to(first);
            for slot in (first..self.slots.len()).rev() {
                self.slots[slot].next_free = self.first_free;
                self.first_free = slot as u32;
            }
        }
        let slot = self.first_free;
        (slot, FlowId(u64::from(self.slots[slot as usize].generation) << 32 | u64::from(slot)))
    }

    /// Adds a session, made with [`next_id`](Self::next_id), as the newest of its client's flow and copy.
    pub(crate) fn insert(&mut self, session: Session) -> u32 {
        let id = self.first_free;
        let client = (session.flow, session.copy);
        let hash = hash_client(&self.hasher, &client);
        let slot = &mut self.slots[id as usize];
        self.first_free = slot.next_free;
        slot.session = Some(session);
        self.occupied += 1;
        let Self { slots, by_client, hasher, .. } = self;
        match by_client.find_mut(hash, |&other| client_of(slots, other) == client) {
            Some(newest) => *newest = id,
            None => {
                by_client.insert_unique(hash, id, |&other| hash_client(hasher, &client_of(slots, other)));
            }
        }
        id
    }

    /// Marks the replica's flow of a session as taken.
    pub(crate) fn occupy_replica(&mut self, id: u32, config: &CopierConfig) {
        let flow = self[id].target_flow(config);
        let hash = self.hash(&flow);
        let Self { slots, by_replica, hasher, .. } = self;
        by_replica.insert_unique(hash, id, |&other| hash_flow(hasher, &replica_flow(slots, other, config), 0));
    }

    /// Whether a replica's flow is taken.
    pub(crate) fn is_replica_taken(&self, flow: &Flow, config: &CopierConfig) -> bool {
        self.by_replica(flow, config).is_some()
    }

    /// The session whose replica has this flow towards its target.
    pub(crate) fn by_replica(&self, flow: &Flow, config: &CopierConfig) -> Option<u32> {
        self.by_replica.find(self.hash(flow), |&id| replica_flow(&self.slots, id, config) == *flow).copied()
    }

    /// Removes a session.
    pub(crate) fn remove(&mut self, id: u32, config: &CopierConfig) -> Session {
        let client = client_of(&self.slots, id);
        if let Ok(entry) = self.by_client.find_entry(hash_client(&self.hasher, &client), |&other| other == id) {
            entry.remove();
        }
        let replica = self[id].target_flow(config);
        if let Ok(entry) = self.by_replica.find_entry(hash_flow(&self.hasher, &replica, 0), |&other| other == id) {
            entry.remove();
        }
        let slot = &mut self.slots[id as usize];
        slot.generation = slot.generation.wrapping_add(1);
        slot.next_free = self.first_free;
        self.first_free = id;
        self.occupied -= 1;
        slot.session.take().expect("only live slots are removed")
    }

    /// The newest session of a copy of a client's flow.
    #[inline]
    pub(crate) fn by_client(&self, flow: &Flow, copy: u32) -> Option<u32> {
        let is_it = |id: &u32| {
            let session = session(&self.slots, *id);
            session.flow == *flow && session.copy == copy
        };
        self.by_client.find(hash_flow(&self.hasher, flow, copy), is_it).copied()
    }

    /// The session with an id, if it still lives.
    #[inline]
    pub(crate) fn by_id(&mut self, id: FlowId) -> Option<(u32, &mut Session)> {
        let slot = id.0 as u32;
        let entry = self.slots.get_mut(slot as usize)?;
        if entry.generation != (id.0 >> 32) as u32 {
            return None;
        }
        entry.session.as_mut().map(|s| (slot, s))
    }

    /// The session that took over the slot of one that lived until a moment ago.
    pub(crate) fn by_former_id(&mut self, id: FlowId) -> Option<(u32, &mut Session)> {
        let slot = id.0 as u32;
        let entry = self.slots.get_mut(slot as usize)?;
        if entry.generation != ((id.0 >> 32) as u32).wrapping_add(1) {
            return None;
        }
        entry.session.as_mut().map(|s| (slot, s))
    }

    /// The session in a slot.
    #[inline]
    pub(crate) fn get_mut(&mut self, id: u32) -> Option<&mut Session> {
        self.slots.get_mut(id as usize)?.session.as_mut()
    }

    /// The slots that hold a session.
    pub(crate) fn ids(&self) -> Vec<u32> {
        (0..self.slots.len()).filter(|&i| self.slots[i].session.is_some()).map(|i| i as u32).collect()
    }
}

impl std::ops::Index<u32> for SessionTable {
    type Output = Session;
    fn index(&self, id: u32) -> &Session {
        session(&self.slots, id)
    }
}

impl std::ops::IndexMut<u32> for SessionTable {
    fn index_mut(&mut self, id: u32) -> &mut Session {
        self.slots[id as usize].session.as_mut().expect("only live slots are indexed")
    }
}

#[inline]
fn session(slots: &Chunked<Slot>, id: u32) -> &Session {
    slots[id as usize].session.as_ref().expect("only live slots are indexed")
}

#[inline]
fn client_of(slots: &Chunked<Slot>, id: u32) -> (Flow, u32) {
    let session = session(slots, id);
    (session.flow, session.copy)
}

#[inline]
fn replica_flow(slots: &Chunked<Slot>, id: u32, config: &CopierConfig) -> Flow {
    session(slots, id).target_flow(config)
}

#[inline]
fn hash_client(hasher: &FixedState, (flow, copy): &(Flow, u32)) -> u64 {
    hash_flow(hasher, flow, *copy)
}

#[inline]
fn hash_flow(hasher: &FixedState, flow: &Flow, copy: u32) -> u64 {
    let mut h = hasher.build_hasher();
    match (&flow.client.addr, &flow.server.addr) {
        (IpAddr::V4(a), IpAddr::V4(b)) => h.write_u64(u64::from(u32::from(*a)) << 32 | u64::from(u32::from(*b))),
        (a, b) => {
            for addr in [a, b] {
                match addr {
                    IpAddr::V4(a) => h.write_u32((*a).into()),
                    IpAddr::V6(a) => h.write_u128((*a).into()),
                }
            }
        }
    }
    let ports = u32::from(flow.client.port.0) << 16 | u32::from(flow.server.port.0);
    h.write_u64(u64::from(copy) << 32 | u64::from(ports));
    h.finish()
}
