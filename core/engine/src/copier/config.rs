//! What a [`Copier`](super::Copier) is told at its start.

use std::hash::{BuildHasher, Hasher};
use std::net::IpAddr;
use std::time::Duration;

use foldhash::fast::FixedState;
use tcpcopy_module_api::{About, Module, ModuleHandle};
use tcpcopy_wire::decap::Decapsulation;
use tcpcopy_wire::{Endpoint, Port, Transport};

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
    /// The protocol.
    pub transport: Transport,
    /// Its module: a place in [`CopierConfig::modules`].
    pub module: u16,
}

impl Map {
    /// Whether what `src` sends to `dst` is copied by this map, going by the addresses.
    #[inline]
    pub(crate) fn takes(&self, src: Endpoint, dst: Endpoint) -> bool {
        // A copy to this host itself can be answered only if it comes from this host.
        let reachable = !self.target.addr.is_loopback() || src.addr.is_loopback();
        self.online_port == dst.port && self.online_addr.is_none_or(|addr| addr == dst.addr) && reachable
    }

    /// A map of the first module, over TCP.
    pub const fn tcp(online_addr: Option<IpAddr>, online_port: Port, target: Endpoint) -> Self {
        Self { online_addr, online_port, target, transport: Transport::Tcp, module: 0 }
    }
}

/// What holds a client's data back until the target is ready for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// Data that the client sent after it had received a response waits until the target has responded too.
    Turns,
    /// Nothing waits (`-W`).
    Off,
}

/// How far apart the ports of several copies of one client are.
const PORTS_BETWEEN_COPIES: u32 = 64;
/// After so many copies their ports come round to the first one's neighbours.
const PORT_SHIFTS: u32 = (65_536 - FIRST_PORT) / PORTS_BETWEEN_COPIES;
/// How far apart the ports of several instances of tcpcopy are.
const PORTS_BETWEEN_INSTANCES: u32 = 2048;
/// Ports below this are left to services.
const FIRST_PORT: u32 = 1024;

/// How much of the traffic is copied, and how many times over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traffic {
    /// Copies of each connection and each datagram, each with a source of its own (`-n`).
    pub copies: u16,
    /// Which of several tcpcopys with the same sources this is: shifts the source ports (`-f`).
    pub instance: u8,
    /// Source address in the place of a client's loopback address (`-H`).
    pub loopback_source: Option<IpAddr>,
    /// Connections of a hundred that are copied (`-r`), or clients, always the same ones.
    pub percentage: u8,
    /// What the choice goes by (`--sample-by`).
    pub sample_by: SampleBy,
    /// The percentage grows from nothing to its value in this time from the first packet on (`--ramp`).
    pub ramp: Option<Duration>,
    /// What is captured beyond this is not copied (`--max-rate`).
    pub max_rate: Option<Rate>,
}

/// What a sample is of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SampleBy {
    /// Of connections: by the client's address and port.
    #[default]
    Session,
    /// Of clients: by their address. All or none of a client's connections are copied.
    Client,
}

impl Traffic {
    /// Whether a client is in the sample, `running` after the first packet: the same ones in every run, and of a sample
    /// that grows those first that are in a smaller one.
    pub(crate) fn samples(&self, client: Endpoint, running: Duration) -> bool {
        /// Parts into which clients fall; as many as make a growing sample grow smoothly.
        const PARTS: u64 = Traffic::WHOLE as u64;
        let full = u64::from(self.percentage.min(100)) * (PARTS / 100);
        let parts = match self.ramp {
            Some(ramp) if running < ramp => (full as f64 * running.as_secs_f64() / ramp.as_secs_f64()) as u64,
            _ => full,
        };
        if parts == PARTS {
            return true;
        }
        let port = (self.sample_by == SampleBy::Session).then_some(client.port);
        place(client.addr, port) % PARTS < parts
    }

    /// All connections, as a [share](super::Input::Share).
    pub const WHOLE: u16 = 10_000;

    /// Whether a connection is in a share of all; independent of the sample, which is by the lower digits of the same
    /// number.
    #[inline]
    pub(crate) fn is_in_share(client: Endpoint, share: u16) -> bool {
        share >= Self::WHOLE
            || place(client.addr, Some(client.port)) / u64::from(Self::WHOLE) % u64::from(Self::WHOLE)
                < u64::from(share)
    }

    /// How many times over a client is copied.
    #[inline]
    pub(crate) fn copies(&self) -> u32 {
        u32::from(self.copies.max(1))
    }

    /// Which copies there are in a pass: numbers that no other pass has.
    #[inline]
    pub(crate) fn copies_in(&self, pass: u32) -> std::ops::Range<u32> {
        let first = pass.wrapping_mul(self.copies());
        first..first.wrapping_add(self.copies())
    }

    /// The source that a copy has if it is free, as far as the client's address is kept: the client's own, but for what
    /// keeps copies, instances, and clients of this host apart.
    pub(crate) fn wanted_source(&self, client: Endpoint, target: Endpoint, copy: u32) -> Endpoint {
        let addr = match self.loopback_source {
            Some(addr) if client.addr.is_loopback() && !target.addr.is_loopback() => addr,
            _ => client.addr,
        };
        let shift = (copy % PORT_SHIFTS) * PORTS_BETWEEN_COPIES + u32::from(self.instance) * PORTS_BETWEEN_INSTANCES;
        let shifted = u32::from(client.port.0) + shift;
        let around = || (FIRST_PORT + (shifted - FIRST_PORT) % (u32::from(u16::MAX) + 1 - FIRST_PORT)) as u16;
        Endpoint::new(addr, Port(u16::try_from(shifted).unwrap_or_else(|_| around())))
    }
}

/// Where a client stands among all, by chance but in every run at the same place.
fn place(addr: IpAddr, port: Option<Port>) -> u64 {
    let mut h = FixedState::with_seed(0).build_hasher();
    match addr {
        IpAddr::V4(a) => h.write_u32(a.into()),
        IpAddr::V6(a) => h.write_u128(a.into()),
    }
    if let Some(port) = port {
        h.write_u16(port.0);
    }
    h.finish()
}

/// A limit on what is copied in a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rate {
    /// Connections that are begun, and datagrams.
    Count(u64),
    /// Bytes of payload. Of TCP a connection is copied whole or not at all: new ones are left out while those that are
    /// copied have more than this.
    Bytes(u64),
}

impl Default for Traffic {
    fn default() -> Self {
        Self {
            copies: 1,
            instance: 0,
            loopback_source: None,
            percentage: 100,
            sample_by: SampleBy::default(),
            ramp: None,
            max_rate: None,
        }
    }
}

/// Everything that a [`Copier`](super::Copier) needs to know.
#[derive(Clone)]
pub struct CopierConfig {
    /// The `-x` maps. Of TCP the first that matches wins; a UDP datagram goes to the targets of all that match.
    pub maps: Vec<Map>,
    /// The `-c` addresses; empty: replicas keep their client's address.
    pub sources: SourcePool,
    /// The protocol modules that the maps name.
    pub modules: Vec<ModuleHandle>,
    /// How much is copied, and how many times over.
    pub traffic: Traffic,
    /// Tunnels out of which captured packets are taken (`--decap`).
    pub decapsulation: Decapsulation,
    /// Largest IP packet sent, in bytes (`-M`).
    pub mtu: u16,
    /// Largest MSS that a SYN announces, in bytes of payload (`-D`).
    pub mss: u16,
    /// Copy only sessions whose SYN was captured (`-O`).
    pub only_whole_sessions: bool,
    /// When data is held back.
    pub gate: Gate,
    /// Measure how long online takes to begin its answers. What online sends must be captured, too.
    pub measure_online: bool,
    /// Keep each client's round-trip time towards online: what the target sends is taken up only that much later.
    pub preserve_rtt: bool,
    /// A session is given up when data waits and the target has sent nothing for this long (`-t`).
    pub response_timeout: Duration,
    /// A session is given up when nothing at all has happened for this long (`-k`).
    pub idle_timeout: Duration,
    /// A UDP client that has sent nothing for this long is forgotten.
    pub udp_idle_timeout: Duration,
    /// A gap in a client's stream that is not filled for this long ends the session.
    pub hole_timeout: Duration,
    /// New sessions are shed while sessions and their queues use more than this, in bytes (`-m`).
    pub memory_limit: usize,
    /// New sessions are shed while this many are alive.
    pub session_limit: usize,
    /// Number of intercepts (`-s`).
    pub intercepts: u16,
    /// What the target sends is captured here and given to the engine as
    /// [`Input::TargetFrame`](super::Input::TargetFrame) (`-s local`).
    pub sees_responses: bool,
    /// Connections to each (`-C`).
    pub links_per_intercept: u16,
    /// What TCP timestamps towards the target count from, in milliseconds. Best taken from a clock that goes on between
    /// runs, so that a target which remembers connections of an earlier run lets new ones on the same ports pass.
    pub timestamp_base: u32,
    /// Start value of everything that needs chance: hash keys and the sequence numbers of joined sessions.
    pub seed: u64,
}

impl CopierConfig {
    /// Bytes that may wait in the sessions under way. New ones are shed long before.
    #[inline]
    pub(crate) fn most_waiting(&self) -> u64 {
        self.memory_limit as u64 + self.memory_limit as u64 / 4
    }

    /// What users see of the module of a map.
    #[inline]
    pub(crate) fn about(&self, map: u16) -> &About {
        &self.modules[usize::from(self.maps[usize::from(map)].module)].about
    }

    /// The module of a map.
    #[inline]
    pub(crate) fn module(&self, map: u16) -> &dyn Module {
        &*self.modules[usize::from(self.maps[usize::from(map)].module)].module
    }

    /// Address and port that a copy of a client comes from; `None` when none is free.
    pub(crate) fn choose_source(
        &self,
        client: Endpoint,
        target: Endpoint,
        copy: u32,
        is_taken: impl Fn(Endpoint) -> bool,
    ) -> Option<Endpoint> {
        // While each copy has an address of its own they all keep the client's port.
        let addresses = self.sources.len_for(target.addr) as u32;
        let shifts = if addresses >= self.traffic.copies() { copy / addresses } else { copy };
        let wanted = self.traffic.wanted_source(client, target, shifts);
        self.sources.choose_from(copy as usize, wanted, target, is_taken)
    }

    /// A configuration with the defaults of the command line.
    pub fn new(maps: Vec<Map>, module: ModuleHandle) -> Self {
        Self {
            maps,
            sources: SourcePool::default(),
            modules: vec![module],
            traffic: Traffic::default(),
            decapsulation: Decapsulation::default(),
            mtu: 1500,
            mss: 1460,
            only_whole_sessions: false,
            gate: Gate::Turns,
            measure_online: false,
            preserve_rtt: false,
            response_timeout: Duration::from_secs(600),
            idle_timeout: Duration::from_secs(720),
            udp_idle_timeout: Duration::from_secs(30),
            hole_timeout: Duration::from_secs(30),
            memory_limit: 2048 << 20,
            session_limit: 1 << 22,
            intercepts: 1,
            sees_responses: false,
            links_per_intercept: 1,
            timestamp_base: 0,
            seed: 0,
        }
    }
}
