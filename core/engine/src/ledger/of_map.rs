//! What became of the sessions of one map.

use std::ops::AddAssign;

use super::SessionEnd;
use crate::latency::Latency;

/// Counters of one `-x` map, of one engine. All only grow, except `sessions_alive`. Over UDP a session is a client's flow
/// and a request a datagram.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MapLedger {
    /// Sessions begun.
    pub sessions: u64,
    /// Sessions that live now.
    pub sessions_alive: u64,
    /// Requests of clients.
    pub requests: u64,
    /// Those of them that were let through to the target.
    pub requests_copied: u64,
    /// Bytes that the target acknowledged, and those of datagrams sent.
    pub bytes_copied: u64,
    /// Segments sent again.
    pub retransmits: u64,
    /// Connections that the target accepted.
    pub connections: u64,
    /// Sessions ended early, by [`SessionEnd`]: what the target refused, reset or left without an answer is here.
    pub sessions_ended: [u64; SessionEnd::ALL.len()],
    /// Of each request that the target answered, the time until it began to.
    pub response_time: Latency,
}

impl MapLedger {
    /// Sessions that ended early for this reason.
    pub fn ended(&self, reason: SessionEnd) -> u64 {
        self.sessions_ended[reason as usize]
    }
}

impl AddAssign<&Self> for MapLedger {
    fn add_assign(&mut self, other: &Self) {
        self.sessions += other.sessions;
        self.sessions_alive += other.sessions_alive;
        self.requests += other.requests;
        self.requests_copied += other.requests_copied;
        self.bytes_copied += other.bytes_copied;
        self.retransmits += other.retransmits;
        self.connections += other.connections;
        for (a, b) in self.sessions_ended.iter_mut().zip(&other.sessions_ended) {
            *a += b;
        }
        self.response_time.merge(&other.response_time);
    }
}
