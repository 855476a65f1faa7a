//! What came of a run.

use std::net::SocketAddr;

use tcpcopy_engine::ledger::SessionEnd;
use tcpcopy_engine::outbox::Notice;
use tcpcopy_engine::{Ledger, ModuleCounters};
use tcpcopy_wire::Timestamp;

/// What came of a run of a [`ModuleNetwork`](crate::ModuleNetwork).
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The clients, in the order in which they were given.
    pub clients: Vec<ClientOutcome>,
    /// The target's connections, in the order in which they were made.
    pub connections: Vec<TargetConnection>,
    /// The engine's counters.
    pub ledger: Ledger,
    /// The module's own counters.
    pub counters: ModuleCounters,
    /// What the engine had to say, and when.
    pub notices: Vec<(Timestamp, Notice)>,
    /// How long the run took.
    pub took: Timestamp,
}

/// What came of a client.
#[derive(Clone, Debug)]
pub struct ClientOutcome {
    /// Its address, which its replica has, too.
    pub address: SocketAddr,
    /// What it received from online.
    pub received: Vec<u8>,
    /// How its session ended.
    pub end: End,
    /// Why the module gave the session up, if it did; or how it panicked.
    pub aborted: Option<String>,
}

/// How a client's session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It was copied to its end.
    Completed,
    /// It ended before. It is [`SessionEnd::Stopped`] when the session was alive at the end of the run.
    Early(SessionEnd),
    /// There was no session.
    NotCopied,
}

/// A connection of the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetConnection {
    /// The client whose replica made it.
    pub client: usize,
    /// The replica's address.
    pub replica: SocketAddr,
    /// When it was made.
    pub opened: Timestamp,
    /// All bytes that the server read, in order, those behind its last message included.
    pub received: Vec<u8>,
    /// When bytes arrived, and how many.
    pub arrivals: Vec<(Timestamp, usize)>,
    /// Lengths of the messages that the server took.
    pub(super) messages: Vec<usize>,
}

impl TargetConnection {
    /// The messages that the server took, in order.
    pub fn messages(&self) -> Vec<&[u8]> {
        let mut rest = &self.received[..];
        self.messages.iter().map(|len| rest.split_off(..*len).expect("the server took what had arrived")).collect()
    }

    /// When the byte at this place of [`received`](Self::received) arrived.
    pub fn arrived_at(&self, byte: usize) -> Option<Timestamp> {
        let mut end = 0;
        self.arrivals.iter().find_map(|(at, len)| {
            end += len;
            (byte < end).then_some(*at)
        })
    }
}

impl Outcome {
    /// The connections of a client's replica, in order.
    pub fn connections_of(&self, client: usize) -> impl Iterator<Item = &TargetConnection> {
        self.connections.iter().filter(move |connection| connection.client == client)
    }

    /// All bytes that the target read of a client's replica, over all its connections.
    pub fn received_of(&self, client: usize) -> Vec<u8> {
        self.connections_of(client).flat_map(|connection| connection.received.iter().copied()).collect()
    }

    /// All messages that the target took of a client's replica, over all its connections.
    pub fn messages_of(&self, client: usize) -> Vec<&[u8]> {
        self.connections_of(client).flat_map(TargetConnection::messages).collect()
    }

    /// What the module has counted under a name.
    pub fn counted(&self, name: &str) -> u64 {
        self.counters.iter().filter(|counter| &*counter.name == name).map(|counter| counter.count).sum()
    }

    /// Bytes of clients that the module has dropped for a reason.
    pub fn dropped(&self, reason: &str) -> u64 {
        self.counters.iter().filter(|counter| &*counter.name == reason).map(|counter| counter.bytes).sum()
    }

    /// What the module has written to the log, in order.
    pub fn logged(&self) -> Vec<&str> {
        let lines = self.notices.iter().filter_map(|(_, notice)| match notice {
            Notice::ModuleLog { text, .. } => Some(text.as_str()),
            _ => None,
        });
        lines.collect()
    }

    /// Panics unless all clients' sessions were copied to their end.
    #[track_caller]
    pub fn assert_all_completed(&self) {
        for (client, outcome) in self.clients.iter().enumerate() {
            assert_eq!(outcome.end, End::Completed, "client {client}, {:?}", outcome.aborted);
        }
    }
}
