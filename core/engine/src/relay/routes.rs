//! The routes: found by transport protocol and flow for each response, by (peer, id) for each removal.

use std::hash::{BuildHasher, Hasher};
use std::net::IpAddr;

use foldhash::fast::FixedState;
use hashbrown::HashTable;
use tcpcopy_wire::control::{FlowId, Payload};
use tcpcopy_wire::{Endpoint, Flow, Port, Transport};

use super::PeerId;

/// Marks a vacant slot, in the place of its peer.
const VACANT: PeerId = PeerId(u32::MAX);
/// Ends the list of vacant slots.
const NO_SLOT: u64 = u64::MAX;
/// Slots for which room is made at least when there is none.
const GROW_BY_AT_LEAST: usize = 1024;

/// A route, or a vacant slot: then `peer` is [`VACANT`] and `id` the next vacant slot.
struct Route {
    flow: Flow,
    transport: Transport,
    /// How much of the payload of its responses is wanted.
    payload: Payload,
    /// The target has closed: it is kept only for what may still follow.
    closing: bool,
    id: FlowId,
    peer: PeerId,
    /// In the seconds of the caller's clock.
    last_used: u32,
}

const _: () = assert!(size_of::<Route>() == 64, "the memory of an idle session is promised in relay/mod.rs");

/// Whose routes had to go for a new one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Added {
    /// The peer that had a route for the same flow.
    pub(super) replaced_flow: Option<PeerId>,
    /// The peer itself, when it used the same id for another flow.
    pub(super) replaced_id: Option<PeerId>,
}

/// All routes.
pub(super) struct RouteTable {
    slots: Vec<Route>,
    /// First vacant slot.
    vacant: u64,
    by_flow: HashTable<u32>,
    by_id: HashTable<u32>,
    hash: FixedState,
    /// The slot at which the next step of [`sweep`](Self::sweep) begins.
    hand: usize,
}

impl RouteTable {
    pub(super) fn new(capacity: usize, seed: u64) -> Self {
        Self {
            slots: Vec::with_capacity(capacity),
            vacant: NO_SLOT,
            by_flow: HashTable::with_capacity(capacity),
            by_id: HashTable::with_capacity(capacity),
            hash: FixedState::with_seed(seed),
            hand: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.by_flow.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_flow.is_empty()
    }

    pub(super) fn memory(&self) -> usize {
        self.slots.capacity() * size_of::<Route>() + self.by_flow.allocation_size() + self.by_id.allocation_size()
    }

    /// Where responses of a flow go; marks the route as used.
    #[inline]
    pub(super) fn find_and_touch(
        &mut self,
        transport: Transport,
        flow: &Flow,
        now: u32,
    ) -> Option<(PeerId, FlowId, Payload)> {
        let slot = self.slot_of_flow(transport, flow)?;
        let route = &mut self.slots[slot as usize];
        route.last_used = now;
        Some((route.peer, route.id, route.payload))
    }

    /// A number that belongs to a flow.
    pub(super) fn hash_of(&self, transport: Transport, flow: &Flow) -> u64 {
        hash_flow(&self.hash, transport, flow)
    }

    pub(super) fn contains(&self, transport: Transport, flow: &Flow) -> bool {
        self.slot_of_flow(transport, flow).is_some()
    }

    /// The peer that has the route of a flow.
    pub(super) fn owner(&self, transport: Transport, flow: &Flow) -> Option<PeerId> {
        self.slot_of_flow(transport, flow).map(|slot| self.slots[slot as usize].peer)
    }

    #[inline]
    fn slot_of_flow(&self, transport: Transport, flow: &Flow) -> Option<u32> {
        let hash = hash_flow(&self.hash, transport, flow);
        let is_it = |slot: &u32| {
            let route = &self.slots[*slot as usize];
            route.flow == *flow && route.transport == transport
        };
        self.by_flow.find(hash, is_it).copied()
    }

    /// Notes how much of the payload of a route's responses is wanted; whether there is such a route.
    pub(super) fn set_payload(&mut self, peer: PeerId, id: FlowId, payload: Payload) -> bool {
        let slot = self.slot_of_id(peer, id);
        if let Some(slot) = slot {
            self.slots[slot as usize].payload = payload;
        }
        slot.is_some()
    }

    /// Adds a route in the place of those that have its flow or its id.
    pub(super) fn add(&mut self, now: u32, peer: PeerId, id: FlowId, transport: Transport, flow: Flow) -> Added {
        let by_flow = hash_flow(&self.hash, transport, &flow);
        let same_flow = self.slot_of_flow(transport, &flow);
        let replaced_flow = same_flow.map(|slot| self.vacate(slot));
        let same_id = self.slot_of_id(peer, id);
        let replaced_id = same_id.map(|slot| self.vacate(slot));

        let route = Route { flow, transport, payload: Payload::Headers, closing: false, id, peer, last_used: now };
        let slot = if let Some(vacant) = self.slots.get_mut(self.vacant as usize) {
            let slot = self.vacant as u32;
            self.vacant = vacant.id.0;
            *vacant = route;
            slot
        } else {
            if self.slots.len() == self.slots.capacity() {
                // Doubling would leave up to half of the memory unused.
                self.slots.reserve_exact((self.slots.len() / 4).max(GROW_BY_AT_LEAST));
            }
            self.slots.push(route);
            (self.slots.len() - 1) as u32
        };
        let Self { slots, hash, by_flow: flows, by_id: ids, .. } = self;
        flows.insert_unique(by_flow, slot, |s| {
            let r = &slots[*s as usize];
            hash_flow(hash, r.transport, &r.flow)
        });
        ids.insert_unique(hash_id(hash, peer, id), slot, |s| {
            let r = &slots[*s as usize];
            hash_id(hash, r.peer, r.id)
        });
        Added { replaced_flow, replaced_id }
    }

    /// Removes a peer's route; whether there was one.
    pub(super) fn remove(&mut self, peer: PeerId, id: FlowId) -> bool {
        let slot = self.slot_of_id(peer, id);
        if let Some(slot) = slot {
            self.vacate(slot);
        }
        slot.is_some()
    }

    /// Removes all routes of a peer, which has `there` of them; how many there were. Who has none costs no look at a table
    /// that others have filled, however often he comes and goes.
    pub(super) fn remove_peer(&mut self, peer: PeerId, there: u64) -> u64 {
        let mut removed = 0;
        for slot in 0..self.slots.len() {
            if removed == there {
                break;
            }
            if self.slots[slot].peer == peer {
                self.vacate(slot as u32);
                removed += 1;
            }
        }
        removed
    }

    /// Notes that the target has closed the connection of a route.
    pub(super) fn set_closing(&mut self, transport: Transport, flow: &Flow) {
        if let Some(slot) = self.slot_of_flow(transport, flow) {
            self.slots[slot as usize].closing = true;
        }
    }

    /// Shows the next `1 / steps` of all slots to `is_idle`, as peer, time of last use, and whether the target has closed,
    /// and removes those for which it is true.
    pub(super) fn sweep(&mut self, steps: u32, mut is_idle: impl FnMut(PeerId, u32, bool) -> bool) {
        for _ in 0..self.slots.len().div_ceil(steps as usize) {
            if self.hand >= self.slots.len() {
                self.hand = 0;
            }
            let route = &self.slots[self.hand];
            if route.peer != VACANT && is_idle(route.peer, route.last_used, route.closing) {
                self.vacate(self.hand as u32);
            }
            self.hand += 1;
        }
    }

    fn slot_of_id(&self, peer: PeerId, id: FlowId) -> Option<u32> {
        self.by_id
            .find(hash_id(&self.hash, peer, id), |slot| {
                let r = &self.slots[*slot as usize];
                r.peer == peer && r.id == id
            })
            .copied()
    }

    /// Takes a route out of both indices and frees its slot. Returns its peer.
    fn vacate(&mut self, slot: u32) -> PeerId {
        let route = &self.slots[slot as usize];
        let (peer, by_flow, by_id) = (
            route.peer,
            hash_flow(&self.hash, route.transport, &route.flow),
            hash_id(&self.hash, route.peer, route.id),
        );
        if let Ok(entry) = self.by_flow.find_entry(by_flow, |s| *s == slot) {
            entry.remove();
        }
        if let Ok(entry) = self.by_id.find_entry(by_id, |s| *s == slot) {
            entry.remove();
        }
        self.slots[slot as usize] = Route {
            flow: NO_FLOW,
            transport: Transport::Tcp,
            payload: Payload::Headers,
            closing: false,
            id: FlowId(self.vacant),
            peer: VACANT,
            last_used: 0,
        };
        self.vacant = u64::from(slot);
        peer
    }
}

const NO_END: Endpoint = Endpoint::new(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), Port(0));
const NO_FLOW: Flow = Flow { client: NO_END, server: NO_END };

/// Hash of a flow. Written out because the derived one feeds lengths and discriminants byte by byte.
#[inline]
pub(super) fn hash_flow(state: &FixedState, transport: Transport, flow: &Flow) -> u64 {
    let mut h = state.build_hasher();
    match (flow.client.addr, flow.server.addr) {
        (IpAddr::V4(c), IpAddr::V4(s)) => h.write_u64(u64::from(u32::from(c)) << 32 | u64::from(u32::from(s))),
        (c, s) => {
            for addr in [c, s] {
                h.write_u128(match addr {
                    IpAddr::V4(a) => u128::from(a.to_ipv6_mapped()),
                    IpAddr::V6(a) => u128::from(a),
                });
            }
        }
    }
    let ports = u32::from(flow.client.port.0) << 16 | u32::from(flow.server.port.0);
    h.write_u64(u64::from(transport as u8) << 32 | u64::from(ports));
    h.finish()
}

#[inline]
fn hash_id(state: &FixedState, peer: PeerId, id: FlowId) -> u64 {
    let mut h = state.build_hasher();
    h.write_u64(id.0);
    h.write_u32(peer.0);
    h.finish()
}
