//! What the network is like.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tcpcopy_engine::Map;
use tcpcopy_wire::{Endpoint, Port};

use crate::application::Listener;
use crate::chance::Quality;

/// Online's port.
pub const ONLINE_PORT: u16 = 80;
/// The target's port.
pub const TARGET_PORT: u16 = 8080;

/// The hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The host of all clients.
    Clients,
    /// The production server.
    Online,
    /// The test server.
    Target,
}

impl Place {
    pub(crate) fn v4(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, 0, self as u8 + 1)
    }

    pub(crate) fn v6(self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, self as u16 + 1)
    }

    /// The host's address.
    pub fn address(self, ipv6: bool) -> IpAddr {
        if ipv6 { self.v6().into() } else { self.v4().into() }
    }
}

/// What the capture does to the packets that it sees. Shares are per mille.
#[derive(Clone, Copy, Debug, Default)]
pub struct Capture {
    /// Packets that it misses.
    pub loss: u32,
    /// Packets that it shows twice.
    pub duplication: u32,
    /// Packets that it shows late.
    pub reordering: u32,
    /// It sees segments merged up to 64 KB, as behind GRO.
    pub merging: bool,
    /// It begins so late.
    pub begins: Duration,
    /// It sees what online sends, too.
    pub both_directions: bool,
}

/// What the network is like.
#[derive(Clone, Debug)]
pub struct Conditions {
    /// Start value of all that is left to chance.
    pub seed: u64,
    /// IPv6 instead of IPv4, everywhere.
    pub ipv6: bool,
    /// Between clients and online, both ways.
    pub client_path: Quality,
    /// From tcpcopy to the target.
    pub to_target: Quality,
    /// From the target to intercept.
    pub from_target: Quality,
    /// Between tcpcopy and intercept, both ways.
    pub control_delay: Duration,
    /// When intercept is killed, and how long it takes until it is there again.
    pub intercept_restarts: Option<(Duration, Duration)>,
    /// When the target's server is killed, and how long it takes until it is there again: its connections are reset, and
    /// new ones refused meanwhile.
    pub target_restarts: Option<(Duration, Duration)>,
    /// What the capture sees.
    pub capture: Capture,
    /// Online's host.
    pub online: Listener,
    /// The target's host.
    pub target: Listener,
    /// When the run is cut off.
    pub run_for: Duration,
    /// Every packet is written to standard error.
    pub trace: bool,
}

impl Default for Conditions {
    /// Paths of 200 microseconds on which nothing goes wrong.
    fn default() -> Self {
        let hop = Quality::delayed(Duration::from_micros(200));
        Self {
            seed: 1,
            ipv6: false,
            client_path: hop,
            to_target: hop,
            from_target: hop,
            control_delay: Duration::from_micros(100),
            intercept_restarts: None,
            target_restarts: None,
            capture: Capture::default(),
            online: Listener::default(),
            target: Listener::default(),
            run_for: Duration::from_secs(900),
            trace: false,
        }
    }
}

impl Conditions {
    /// Where the copy goes.
    pub fn target_endpoint(&self) -> Endpoint {
        Endpoint::new(Place::Target.address(self.ipv6), Port(TARGET_PORT))
    }

    /// From online to the target, with the first module.
    pub fn map(&self) -> Map {
        Map::tcp(Some(Place::Online.address(self.ipv6)), Port(ONLINE_PORT), self.target_endpoint())
    }

    /// The address of a client with this port.
    pub fn client_address(&self, port: u16) -> SocketAddr {
        SocketAddr::new(Place::Clients.address(self.ipv6), port)
    }
}
