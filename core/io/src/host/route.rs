//! Ways to other hosts, and what this host does with packets that come in.

use std::io;
use std::net::IpAddr;

use tcpcopy_wire::control::Fate;

use super::sysctl_number;
use crate::device::{device_index, device_name};
use crate::transmit::netlink::{Netlink, State};

/// What the kernel knows of the next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextHop {
    /// Its address at the link layer.
    Known,
    /// It is being asked for, and has not answered.
    Asked,
    /// It did not answer.
    Failed,
    /// Nothing: nobody has sent anything to it, or the device needs no such address.
    Unknown,
}

/// The way to an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// The device that it leads out of.
    pub device: String,
    /// The router; `None`: the address itself is on the link.
    pub gateway: Option<IpAddr>,
    /// The address is one of this host's own.
    pub is_local: bool,
    /// The address that this host uses as its own on this way.
    pub source: Option<IpAddr>,
    /// Largest packet on this way, where the kernel knows one that is less than the device's; in bytes.
    pub mtu: Option<u32>,
    /// The next hop.
    pub next_hop: NextHop,
}

/// The way to an address, by this host's routes.
///
/// # Errors
/// `ENETUNREACH` and its like: there is none.
pub fn way_to(to: IpAddr) -> io::Result<Way> {
    let mut netlink = Netlink::open()?;
    let route = netlink.route(to, None)?;
    let next = route.gateway.unwrap_or(to);
    let neighbours = netlink.neighbours(next.is_ipv6())?;
    let neighbour = neighbours.iter().find(|neighbour| neighbour.device == route.device && neighbour.addr == next);
    Ok(Way {
        device: device_name(route.device).unwrap_or_else(|| format!("number {}", route.device)),
        gateway: route.gateway,
        is_local: route.is_local,
        source: route.source,
        mtu: route.mtu.filter(|mtu| *mtu > 0),
        next_hop: match neighbour.map(|neighbour| neighbour.state) {
            Some(State::Sure(_) | State::Stale(_)) => NextHop::Known,
            Some(State::Asked) => NextHop::Asked,
            Some(State::Failed) => NextHop::Failed,
            None => NextHop::Unknown,
        },
    })
}

/// What this host does with a packet that comes in by a device.
pub fn fate(from: IpAddr, to: IpAddr, device: &str) -> Fate {
    let Some(index) = device_index(device).filter(|index| *index != 0) else { return Fate::Unknown };
    let Ok(mut netlink) = Netlink::open() else { return Fate::Unknown };
    match netlink.way_on(from, to, index) {
        Ok(route) if route.is_local => Fate::Delivered,
        Ok(_) => Fate::Forwarded,
        Err(e) => match e.raw_os_error() {
            Some(libc::EXDEV) => Fate::ReversePath,
            // Newer kernels have one error for all that they drop.
            Some(libc::EINVAL) if fails_reverse_path(&mut netlink, from, index, device) => Fate::ReversePath,
            // Not for this host, and it does not forward; or a route says that it goes nowhere.
            Some(libc::EHOSTUNREACH | libc::EINVAL) => Fate::Dropped,
            Some(libc::ENETUNREACH | libc::EACCES) => Fate::NoRoute,
            _ => Fate::Unknown,
        },
    }
}

/// How strictly source addresses are checked on a device: 0 not at all, 1 the way back must lead out of it, 2 there must be a
/// way back. Of the device's setting and that for all the greater one counts (ip-sysctl).
pub fn reverse_path_filter(device: &str) -> Option<u64> {
    let of = |name: &str| sysctl_number(&format!("net/ipv4/conf/{name}/rp_filter"));
    of("all").max(of(device))
}

/// Whether the reverse path filter of a device drops what comes from an address.
fn fails_reverse_path(netlink: &mut Netlink, from: IpAddr, index: u32, device: &str) -> bool {
    if from.is_ipv6() {
        return false;
    }
    let back = netlink.route(from, None);
    match reverse_path_filter(device) {
        Some(1) => !back.is_ok_and(|route| route.device == index),
        Some(2) => back.is_err(),
        _ => false,
    }
}
