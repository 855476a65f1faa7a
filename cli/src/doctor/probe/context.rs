//! What a probe's verdict must know of the options.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use tcpcopy_wire::Endpoint;

/// Of addresses further apart than this, in bits of their common prefix, no common network is named.
const WIDEST_V4: u8 = 16;
const WIDEST_V6: u8 = 48;

/// What is probed, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Context {
    /// The target.
    pub(super) target: Endpoint,
    /// The probe's address.
    pub(super) source: IpAddr,
    /// The network of `-c`, or a part of it: `10.78.0.0/24`.
    pub(super) network: String,
    /// The intercepts.
    pub(super) intercepts: Vec<SocketAddr>,
    /// One of them runs on the target itself.
    pub(super) on_target: bool,
    /// The target's responses are captured on this host.
    pub(super) local: bool,
    /// There is no `-c`; the probe's address belongs to nobody.
    pub(super) is_borrowed: bool,
    /// This host's address towards the target.
    pub(super) own: Option<IpAddr>,
}

/// This host's address towards another one, by its routes. Nothing is sent.
pub(super) fn own_address(target: Endpoint) -> Option<IpAddr> {
    let any: IpAddr = if target.addr.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(SocketAddr::from(target)).ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}

/// The smallest network with all addresses of the family of `target`; of addresses far apart, the network around the first.
pub(in crate::doctor) fn network_of(addresses: impl Iterator<Item = IpAddr>, target: IpAddr) -> Option<String> {
    let bits = |address: IpAddr| match address {
        IpAddr::V4(a) => u128::from(u32::from(a)) << 96,
        IpAddr::V6(a) => u128::from(a),
    };
    let mut addresses = addresses.filter(|address| address.is_ipv4() == target.is_ipv4());
    let first = addresses.next()?;
    let (longest, widest, usual) = if first.is_ipv4() { (32, WIDEST_V4, 24) } else { (128, WIDEST_V6, 64) };
    let common = addresses.map(|a| (bits(a) ^ bits(first)).leading_zeros()).min().map_or(longest, |n| n as u8);
    let prefix = if common < widest { usual } else { common.min(longest) };
    ipnet::IpNet::new(first, prefix).ok().map(|network| network.trunc().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(addresses: &[&str]) -> Option<String> {
        let target = addresses[0].parse().unwrap();
        network_of(addresses.iter().map(|a| a.parse().unwrap()), target)
    }

    #[test]
    fn the_own_address_is_of_the_targets_family() {
        let target = Endpoint::from(SocketAddr::from(([127, 0, 0, 9], 80)));
        assert_eq!(own_address(target), Some(Ipv4Addr::LOCALHOST.into()));
    }

    #[test]
    fn the_network_holds_all_addresses() {
        let all: Vec<String> = (1..=254).map(|n| format!("10.78.0.{n}")).collect();
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        assert_eq!(network(&all).as_deref(), Some("10.78.0.0/24"));
        assert_eq!(network(&["10.78.0.5"]).as_deref(), Some("10.78.0.5/32"));
        assert_eq!(network(&["10.78.0.1", "10.78.3.1"]).as_deref(), Some("10.78.0.0/22"));
        assert_eq!(network(&["10.78.0.1", "62.1.1.1"]).as_deref(), Some("10.78.0.0/24"), "far apart");
        assert_eq!(network(&["fd78::1", "fd78::40", "10.0.0.1"]).as_deref(), Some("fd78::/121"));
        assert_eq!(network_of(["10.0.0.1".parse().unwrap()].into_iter(), "fd00::1".parse().unwrap()), None);
    }
}
