//! Sending at the link layer: which device a target is reached by, and the MAC address of the next hop on the way.
//!
//! # How the next hop is found
//!
//! 1. The kernel is asked for its route to the target out of the device: the next hop is the router, or the target itself.
//! 2. The kernel's neighbour table says which MAC address that has.
//! 3. Where it says nothing, or nothing recent, an empty datagram to the next hop's discard port (RFC 863) makes the kernel
//!    ask: our frames go past the kernel, so that nothing else may.
//!
//! All that is repeated whenever the kernel tells of a change, and every few seconds, by a thread that all transmitters
//! share. They look at a counter before each batch and take over what has changed. While a next hop is not known, packets to
//! it are counted as not sent, which costs TCP a retransmission.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};
use std::{io, thread};

use socket2::SockRef;
use tcpcopy_wire::link::{ETHERNET_HEADER_LEN, MacAddress, ethernet_header};

use super::TransmitError;
use super::netlink::{Neighbour, Netlink, State};
use crate::device::{Hardware, device_index, hardware};
use crate::privileges;

/// How long next hops are waited for at the start.
const START_PATIENCE: Duration = Duration::from_secs(3);
/// Pause between looks at the start.
const START_PAUSE: Duration = Duration::from_millis(20);
/// Pause between looks while nothing is heard of changes.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Changes that come together are looked at together.
const CHANGES_TOGETHER: Duration = Duration::from_millis(100);
/// Pause between attempts to make the kernel ask for a neighbour that is not known.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// The same for one whose address was known to be right a while ago.
const CONFIRM_EVERY: Duration = Duration::from_secs(5);
const DISCARD_PORT: u16 = 9;

/// A target, and what is given of the way to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkTarget {
    /// The target's address.
    pub addr: IpAddr,
    /// Whom frames come from; `None`: from the device.
    pub source: Option<MacAddress>,
    /// Whom they go to; `None`: to the next hop, which is looked for.
    pub next_hop: Option<MacAddress>,
}

/// The ways to all targets at the link layer, kept up to date as long as this lives.
pub struct LinkPaths {
    hops: Mutex<Vec<(IpAddr, Option<Hop>)>>,
    /// Grows with each change of `hops`.
    generation: AtomicU64,
}

/// What a frame to a target begins with, and the device that it leaves by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hop {
    /// The Ethernet header of IPv4.
    pub(super) ipv4: [u8; ETHERNET_HEADER_LEN],
    /// The Ethernet header of IPv6.
    pub(super) ipv6: [u8; ETHERNET_HEADER_LEN],
    /// The system's number for the device.
    pub(super) device: i32,
    to: MacAddress,
}

impl LinkPaths {
    /// Finds the ways to all targets by these devices. Of several devices a target takes the one whose MAC address is its
    /// `source`, or the one that this host's routes say. A next hop that does not answer within a few seconds is looked
    /// for further.
    ///
    /// # Errors
    /// When a device has no Ethernet frames, or a target is reached by none of them.
    pub fn find(devices: &[String], targets: &[LinkTarget]) -> Result<Arc<Self>, TransmitError> {
        let mut search = Search::new(devices, targets)?;
        let give_up = Instant::now() + START_PATIENCE;
        while !search.look() && Instant::now() < give_up {
            thread::sleep(START_PAUSE);
        }
        for path in search.paths.iter().filter(|path| path.hop.is_none()) {
            log::warn!(
                "no neighbour answers for {} on `{}`; frames to it are sent once one does. `ip neigh` shows neighbours; \
                 -x takes the MAC address of the next hop, as in 80-10.0.0.2:80@02:00:00:00:00:02",
                path.target.addr,
                path.device
            );
        }
        let found = Arc::new(Self { hops: Mutex::new(search.hops()), generation: AtomicU64::new(1) });
        let shared = Arc::downgrade(&found);
        let failed = |source| TransmitError::Open { family: "netlink", source };
        // Before the thread begins, so that no change is missed.
        let changes = Netlink::open_for_changes().map_err(failed)?;
        thread::Builder::new()
            .name("next-hops".to_owned())
            .spawn(move || {
                privileges::renounce();
                follow(search, changes, &shared);
            })
            .map_err(failed)?;
        Ok(found)
    }
}

/// Keeps the paths up to date until nobody uses them any more.
fn follow(mut search: Search, mut changes: Netlink, shared: &Weak<LinkPaths>) {
    loop {
        changes.wait_for_change(LOOK_EVERY);
        thread::sleep(CHANGES_TOGETHER);
        changes.skip_changes();
        let Some(paths) = shared.upgrade() else { return };
        search.look();
        let hops = search.hops();
        let mut known = paths.hops.lock().unwrap_or_else(PoisonError::into_inner);
        if *known != hops {
            *known = hops;
            paths.generation.fetch_add(1, Ordering::Release);
        }
    }
}

/// A transmitter's own copy of the paths.
pub(super) struct Routed {
    paths: Arc<LinkPaths>,
    generation: u64,
    hops: Vec<(IpAddr, Option<Hop>)>,
}

impl Routed {
    pub(super) fn new(paths: Arc<LinkPaths>) -> Self {
        Self { paths, generation: 0, hops: Vec::new() }
    }

    /// Takes over what has changed.
    #[inline]
    pub(super) fn renew(&mut self) {
        let generation = self.paths.generation.load(Ordering::Acquire);
        if generation != self.generation {
            self.generation = generation;
            self.hops.clone_from(&self.paths.hops.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// The next hop to a target.
    #[inline]
    pub(super) fn hop(&self, to: IpAddr) -> Option<&Hop> {
        self.hops.iter().find(|(target, _)| *target == to)?.1.as_ref()
    }
}

/// The search for next hops.
struct Search {
    netlink: Netlink,
    paths: Vec<Path>,
}

/// The way to one target, as far as it is known.
struct Path {
    target: LinkTarget,
    device: String,
    /// The router, or the target itself.
    next: Option<IpAddr>,
    hop: Option<Hop>,
    asked_at: Option<Instant>,
}

impl Search {
    fn new(devices: &[String], targets: &[LinkTarget]) -> Result<Self, TransmitError> {
        let addresses = devices.iter().map(|device| own_address(device)).collect::<Result<Vec<_>, _>>()?;
        let mut netlink = Netlink::open().map_err(|source| TransmitError::Open { family: "netlink", source })?;
        let mut paths: Vec<Path> = Vec::new();
        for target in targets {
            let no_path =
                |reason: String| TransmitError::NoPath { target: target.addr, devices: devices.to_vec(), reason };
            if paths.iter().any(|path| path.target.addr == target.addr) {
                continue;
            }
            let route = netlink.route(target.addr, None);
            if route.as_ref().is_ok_and(|route| route.is_local) {
                return Err(no_path("it is an address of this host; leave -o out".to_owned()));
            }
            let by_address = || addresses.iter().position(|address| target.source == Some(*address));
            let by_route = || {
                let index = route.as_ref().ok()?.device;
                devices.iter().position(|device| device_index(device) == Some(index))
            };
            let only = (devices.len() == 1).then_some(0);
            let Some(device) = only.or_else(by_address).or_else(by_route) else {
                let reason = match &route {
                    Ok(_) => "its route leads elsewhere".to_owned(),
                    Err(e) => format!("it has no route ({e})"),
                };
                return Err(no_path(format!(
                    "{reason}; add a route, or give the MAC address of the device in -x, as in \
                     80@02:00:00:00:00:01-10.0.0.2:80"
                )));
            };
            let device = devices[device].clone();
            paths.push(Path { target: *target, device, next: None, hop: None, asked_at: None });
        }
        Ok(Self { netlink, paths })
    }

    fn hops(&self) -> Vec<(IpAddr, Option<Hop>)> {
        self.paths.iter().map(|path| (path.target.addr, path.hop)).collect()
    }

    /// Looks for every next hop; tells whether all are known.
    fn look(&mut self) -> bool {
        let mut tables: [Option<Vec<Neighbour>>; 2] = [None, None];
        for path in &mut self.paths {
            let hop = look_for(path, &mut self.netlink, &mut tables);
            path.change(hop);
        }
        self.paths.iter().all(|path| path.hop.is_some())
    }
}

/// The hop of a path as it is now. `tables` are the neighbours by address family, as soon as one has been asked for them.
fn look_for(path: &mut Path, netlink: &mut Netlink, tables: &mut [Option<Vec<Neighbour>>; 2]) -> Option<Hop> {
    let index = device_index(&path.device)?;
    let Ok(Hardware::Ethernet(own)) = hardware(&path.device) else { return None };
    let given = path.target.next_hop;
    let to = given.or_else(|| neighbour(path, index, netlink, tables))?;
    let from = path.target.source.unwrap_or(own);
    Some(Hop {
        ipv4: ethernet_header(to, from, false),
        ipv6: ethernet_header(to, from, true),
        device: index.cast_signed(),
        to,
    })
}

/// The MAC address of the next hop, out of the kernel's tables.
fn neighbour(
    path: &mut Path,
    index: u32,
    netlink: &mut Netlink,
    tables: &mut [Option<Vec<Neighbour>>; 2],
) -> Option<MacAddress> {
    let route = netlink.route(path.target.addr, Some(index)).ok()?;
    let next = route.gateway.unwrap_or(path.target.addr);
    let is_same = path.next.replace(next) == Some(next);
    let before = path.hop.filter(|_| is_same).map(|hop| hop.to);
    let table = tables[usize::from(next.is_ipv6())]
        .get_or_insert_with(|| netlink.neighbours(next.is_ipv6()).unwrap_or_default());
    let entry = table.iter().find(|neighbour| neighbour.device == index && neighbour.addr == next);
    match entry.map(|neighbour| neighbour.state) {
        Some(State::Sure(address)) => Some(address),
        Some(State::Stale(address)) => {
            path.ask(next, index, CONFIRM_EVERY);
            Some(address)
        }
        // What was right until now is better than nothing.
        Some(State::Asked) => before,
        None => {
            path.ask(next, index, ASK_EVERY);
            before
        }
        Some(State::Failed) => {
            path.ask(next, index, ASK_EVERY);
            None
        }
    }
}

impl Path {
    fn change(&mut self, hop: Option<Hop>) {
        if self.hop == hop {
            return;
        }
        let (target, device) = (self.target.addr, &self.device);
        match (hop, self.next) {
            (Some(hop), Some(next)) if next != target => {
                log::info!("sending to {target} on `{device}` through {next}, which is at {}", hop.to);
            }
            (Some(hop), _) => log::info!("sending to {target} on `{device}`, to {}", hop.to),
            (None, _) => log::warn!("the next hop to {target} on `{device}` is lost; packets to it are counted"),
        }
        self.hop = hop;
    }

    /// Makes the kernel ask who has the next hop's address, unless it was made to a moment ago.
    fn ask(&mut self, next: IpAddr, index: u32, every: Duration) {
        let now = Instant::now();
        if self.asked_at.is_some_and(|at| now < at + every) {
            return;
        }
        self.asked_at = Some(now);
        // What goes wrong here shows in the neighbour table, and in the count of what could not be sent.
        if let Err(e) = send_nothing(&self.device, next, index) {
            log::debug!("cannot ask for {next} on `{}`: {e}", self.device);
        }
    }
}

/// An empty datagram to a neighbour, which makes the kernel look for its MAC address.
fn send_nothing(device: &str, to: IpAddr, index: u32) -> io::Result<()> {
    let (any, to): (IpAddr, SocketAddr) = match to {
        IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED.into(), SocketAddr::new(to, DISCARD_PORT)),
        // Addresses that are valid on a link only need its number.
        IpAddr::V6(to) => (Ipv6Addr::UNSPECIFIED.into(), SocketAddrV6::new(to, DISCARD_PORT, 0, index).into()),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_nonblocking(true)?;
    SockRef::from(&socket.as_fd()).bind_device(Some(device.as_bytes()))?;
    socket.send_to(&[], to)?;
    Ok(())
}

/// The MAC address of a device that sends frames of Ethernet.
fn own_address(device: &str) -> Result<MacAddress, TransmitError> {
    let error = |reason: &str| TransmitError::Device { device: device.to_owned(), reason: reason.to_owned() };
    if device_index(device).is_none_or(|index| index == 0) {
        return Err(error("there is no such network device"));
    }
    match hardware(device) {
        Ok(Hardware::Ethernet(address)) => Ok(address),
        Ok(Hardware::Loopback) => Err(error("it is the loopback device, from which nothing leaves; leave -o out")),
        Ok(Hardware::Other) => Err(error("its frames are not Ethernet's; leave -o out")),
        Err(e) => Err(error(&e.to_string())),
    }
}

#[cfg(test)]
mod tests;
