//! Responses that came before their route.

use std::collections::VecDeque;

use foldhash::fast::FixedState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use tcpcopy_wire::control::{FlowId, ResponseHeader};
use tcpcopy_wire::tcp::{Flags, MAX_OPTIONS_LEN};
use tcpcopy_wire::{Flow, SeqNumber, Timestamp, Transport};

use super::routes::hash_flow;

/// Bytes of payload that are kept at most; what comes beyond that is kept without.
const PAYLOAD_LIMIT: usize = 4 << 20;
/// Ends the chain of a flow's responses.
const NO_NEXT: u64 = u64::MAX;

struct Response {
    flow: Flow,
    transport: Transport,
    payload: Box<[u8]>,
    came: Timestamp,
    /// The next one of the same flow.
    next: u64,
    /// Relayed meanwhile: the place is free as soon as it is the oldest.
    released: bool,
    seq: SeqNumber,
    ack: SeqNumber,
    payload_len: u32,
    window: u16,
    flags: Flags,
    options_len: u8,
    options: [u8; MAX_OPTIONS_LEN],
}

/// The responses of one flow, as numbers of the first and the last.
struct Chain {
    first: u64,
    last: u64,
}

/// A bounded queue of responses in the order in which they came, with a chain through those of each flow. The front always
/// waits; behind it there may be places of responses that have been released, at most as many as may wait.
///
/// Each response has a number, counted from the start of the program; `first_number` is that of the oldest in the queue.
pub(super) struct EarlyQueue {
    queue: VecDeque<Response>,
    first_number: u64,
    chains: HashTable<Chain>,
    limit: usize,
    waiting: usize,
    /// Bytes of payload of those that wait.
    payload_bytes: usize,
    hash: FixedState,
}

impl EarlyQueue {
    pub(super) fn new(limit: usize, seed: u64) -> Self {
        Self {
            queue: VecDeque::new(),
            first_number: 0,
            chains: HashTable::new(),
            limit: limit.max(1),
            waiting: 0,
            payload_bytes: 0,
            hash: FixedState::with_seed(seed),
        }
    }

    /// Responses that wait for their route.
    pub(super) fn len(&self) -> usize {
        self.waiting
    }

    /// When the oldest one came.
    #[inline]
    pub(super) fn oldest(&self) -> Option<Timestamp> {
        self.queue.front().map(|r| r.came)
    }

    /// Keeps a response. Returns protocol and flow of the one that had to make room, if any had.
    pub(super) fn keep(
        &mut self,
        now: Timestamp,
        transport: Transport,
        flow: &Flow,
        response: &ResponseHeader<'_>,
    ) -> Option<(Transport, Flow)> {
        let full = self.waiting == self.limit || self.queue.len() == 2 * self.limit;
        let pushed_out = if full { self.drop_oldest() } else { None };
        let mut options = [0; MAX_OPTIONS_LEN];
        let options_len = response.options.len().min(MAX_OPTIONS_LEN);
        options[..options_len].copy_from_slice(&response.options[..options_len]);
        let number = self.first_number + self.queue.len() as u64;
        let room = PAYLOAD_LIMIT - self.payload_bytes;
        let payload = if response.payload.len() <= room { response.payload } else { &[] };
        self.payload_bytes += payload.len();
        self.queue.push_back(Response {
            flow: *flow,
            transport,
            payload: payload.into(),
            came: now,
            next: NO_NEXT,
            released: false,
            seq: response.seq,
            ack: response.ack,
            payload_len: response.payload_len,
            window: response.window,
            flags: response.flags,
            options_len: options_len as u8,
            options,
        });
        self.waiting += 1;
        let Self { queue, first_number, chains, hash, .. } = self;
        let first_of = |c: &Chain| &queue[(c.first - *first_number) as usize];
        let is_it = |c: &Chain| first_of(c).flow == *flow && first_of(c).transport == transport;
        let rehash = |c: &Chain| hash_flow(hash, first_of(c).transport, &first_of(c).flow);
        match chains.entry(hash_flow(hash, transport, flow), is_it, rehash) {
            Entry::Vacant(entry) => {
                entry.insert(Chain { first: number, last: number });
            }
            Entry::Occupied(mut entry) => {
                let last = std::mem::replace(&mut entry.get_mut().last, number);
                queue[(last - *first_number) as usize].next = number;
            }
        }
        pushed_out
    }

    /// Takes the oldest response out of the queue. Returns its protocol and flow.
    pub(super) fn drop_oldest(&mut self) -> Option<(Transport, Flow)> {
        let oldest = self.queue.front()?;
        let (flow, transport, next) = (oldest.flow, oldest.transport, oldest.next);
        let number = self.first_number;
        self.payload_bytes -= oldest.payload.len();
        // The oldest of all is the first of its chain.
        if let Ok(mut entry) = self.chains.find_entry(hash_flow(&self.hash, transport, &flow), |c| c.first == number) {
            if next == NO_NEXT {
                entry.remove();
            } else {
                entry.get_mut().first = next;
            }
        }
        self.waiting -= 1;
        self.queue.pop_front();
        self.first_number += 1;
        self.free_front();
        Some((transport, flow))
    }

    /// Forgets places at the front whose responses have been released.
    fn free_front(&mut self) {
        while self.queue.front().is_some_and(|r| r.released) {
            self.queue.pop_front();
            self.first_number += 1;
        }
    }

    /// Hands the responses of a flow to `relay`, in order, and forgets them. Their id is left zero.
    pub(super) fn release(&mut self, transport: Transport, flow: &Flow, mut relay: impl FnMut(&ResponseHeader<'_>)) {
        let Self { queue, first_number, chains, hash, .. } = self;
        let is_it = |c: &Chain| {
            let first = &queue[(c.first - *first_number) as usize];
            first.flow == *flow && first.transport == transport
        };
        let Ok(entry) = chains.find_entry(hash_flow(hash, transport, flow), is_it) else { return };
        let (Chain { first: mut number, .. }, _) = entry.remove();
        while number != NO_NEXT {
            let r = &mut queue[(number - *first_number) as usize];
            r.released = true;
            self.waiting -= 1;
            let payload = std::mem::take(&mut r.payload);
            self.payload_bytes -= payload.len();
            relay(&ResponseHeader {
                payload: &payload,
                id: FlowId(0),
                seq: r.seq,
                ack: r.ack,
                flags: r.flags,
                window: r.window,
                payload_len: r.payload_len,
                options: &r.options[..usize::from(r.options_len)],
            });
            number = r.next;
        }
        self.free_front();
    }
}
