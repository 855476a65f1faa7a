//! What an engine wants done: packets to send, route changes to pass on, things worth telling a person.

use std::net::IpAddr;
use std::ops::Range;

use tcpcopy_wire::control::RouteChange;
use tcpcopy_wire::{Endpoint, Flow};

/// One connection of tcpcopy to an intercept. Intercept `i` (its place in `-s`, from 0) with `C` connections each has
/// the links `i * C .. (i + 1) * C`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkId(pub u16);

/// Filled by [`Copier::handle`](crate::Copier::handle), emptied by the caller. The caller keeps one and uses it again:
/// its buffers grow to the largest burst and then stay.
#[derive(Debug, Default)]
pub struct Outbox {
    bytes: Vec<u8>,
    packets: Vec<(IpAddr, Range<usize>)>,
    /// Route changes, each for one link, in the order in which they must be sent. A session's `Add` comes before its first
    /// packet: send these before the packets.
    pub routes: Vec<(LinkId, RouteChange)>,
    /// What a person should know.
    pub notices: Vec<Notice>,
}

impl Outbox {
    /// An empty outbox.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whole IP packets to transmit, in order, with the address to send each to.
    pub fn packets(&self) -> impl ExactSizeIterator<Item = (IpAddr, &[u8])> {
        self.packets.iter().map(|(dst, range)| (*dst, &self.bytes[range.clone()]))
    }

    /// Number of packets waiting.
    pub fn packet_count(&self) -> usize {
        self.packets.len()
    }

    /// Bytes of packets waiting.
    pub fn packet_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty() && self.routes.is_empty() && self.notices.is_empty()
    }

    /// Forgets the packets, after they were sent; keeps the memory.
    pub fn clear_packets(&mut self) {
        self.bytes.clear();
        self.packets.clear();
    }

    /// Forgets everything; keeps the memory.
    pub fn clear(&mut self) {
        self.clear_packets();
        self.routes.clear();
        self.notices.clear();
    }

    /// Adds one IP packet to `dst`, which `write` appends to the buffer.
    pub(crate) fn push_packet(&mut self, dst: IpAddr, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.bytes.len();
        write(&mut self.bytes);
        self.packets.push((dst, start..self.bytes.len()));
    }
}

/// Something for the log. The engine reports; how often a kind of notice is printed is the caller's affair, except that
/// the engine itself reports what concerns single sessions at most once each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A session ended early; its flow on the online side and why.
    SessionEnded {
        /// The client's connection to online.
        flow: Flow,
        /// Why it could not be copied to its end.
        reason: crate::ledger::SessionEnd,
    },
    /// The module gave a session up.
    ModuleAborted {
        /// The module.
        module: &'static str,
        /// The client's connection to online.
        flow: Flow,
        /// The module's own words.
        reason: String,
    },
    /// A hook of the module panicked; its session was given up.
    ModulePanicked {
        /// The module.
        module: &'static str,
        /// The client's connection to online.
        flow: Flow,
        /// What the panic said.
        message: String,
    },
    /// The module says something.
    ModuleLog {
        /// The module.
        module: &'static str,
        /// The client's connection to online.
        flow: Flow,
        /// How much it matters.
        level: tcpcopy_module_api::LogLevel,
        /// Its words.
        text: String,
    },
    /// No source address and port is free for a client's session.
    NoFreeSource {
        /// The client.
        client: Endpoint,
        /// The target it was meant for.
        target: Endpoint,
    },
    /// The memory or session cap was reached; new sessions are shed until there is room.
    Shedding {
        /// It is the number of sessions, not their memory.
        by_count: bool,
        /// Sessions alive.
        sessions: usize,
        /// Bytes in use by sessions and their queues.
        bytes: usize,
    },
}
