//! What a [`Copier`](super::Copier) is told at its start.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tcpcopy_module_api::Module;
use tcpcopy_wire::{Endpoint, Port};

use super::source::SourcePool;

/// One `-x` map: which connections are copied, and where to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Map {
    /// Address of the online server; `None` takes any.
    pub online_addr: Option<IpAddr>,
    /// Port of the online server.
    pub online_port: Port,
    /// Where the copy goes.
    pub target: Endpoint,
}

/// What holds a client's data back until the target is ready for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// Data that the client sent after it had received a response waits until the target has responded too.
    Turns,
    /// Nothing waits (`-W`).
    Off,
}

/// Everything that a [`Copier`](super::Copier) needs to know.
#[derive(Clone)]
pub struct CopierConfig {
    /// The `-x` maps; the first that matches wins.
    pub maps: Vec<Map>,
    /// The `-c` addresses; empty: replicas keep their client's address.
    pub sources: SourcePool,
    /// The protocol module.
    pub module: Arc<dyn Module>,
    /// Largest IP packet sent, in bytes (`-M`).
    pub mtu: u16,
    /// Largest MSS that a SYN announces, in bytes of payload (`-D`).
    pub mss: u16,
    /// Copy only sessions whose SYN was captured (`-O`).
    pub only_whole_sessions: bool,
    /// When data is held back.
    pub gate: Gate,
    /// A session is given up when data waits and the target has sent nothing for this long (`-t`).
    pub response_timeout: Duration,
    /// A session is given up when nothing at all has happened for this long (`-k`).
    pub idle_timeout: Duration,
    /// A gap in a client's stream that is not filled for this long ends the session.
    pub hole_timeout: Duration,
    /// New sessions are shed while sessions and their queues use more than this, in bytes (`-m`).
    pub memory_limit: usize,
    /// New sessions are shed while this many are alive.
    pub session_limit: usize,
    /// Number of intercepts (`-s`).
    pub intercepts: u16,
    /// Connections to each (`-C`).
    pub links_per_intercept: u16,
    /// What TCP timestamps towards the target count from, in milliseconds. Best taken from a clock that goes on between
    /// runs, so that a target which remembers connections of an earlier run lets new ones on the same ports pass.
    pub timestamp_base: u32,
    /// Start value of everything that needs chance: hash keys and the sequence numbers of joined sessions.
    pub seed: u64,
}

impl CopierConfig {
    /// A configuration with the defaults of the command line.
    pub fn new(maps: Vec<Map>, module: Arc<dyn Module>) -> Self {
        Self {
            maps,
            sources: SourcePool::default(),
            module,
            mtu: 1500,
            mss: 1460,
            only_whole_sessions: false,
            gate: Gate::Turns,
            response_timeout: Duration::from_secs(600),
            idle_timeout: Duration::from_secs(720),
            hole_timeout: Duration::from_secs(30),
            memory_limit: 2048 << 20,
            session_limit: 1 << 22,
            intercepts: 1,
            links_per_intercept: 1,
            timestamp_base: 0,
            seed: 0,
        }
    }
}
