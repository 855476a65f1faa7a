//! Judgements about the addresses that copies come from.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use tcpcopy_io::host::Machine;

use super::checks::Check;
use super::finding::Finding;

/// Addresses that are named in one message at most.
const NAMED: usize = 3;

/// What is known of a target and of the network that it is in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Surroundings<'a> {
    /// This host's addresses.
    pub(super) local: &'a [IpAddr],
    /// The target.
    pub(super) target: IpAddr,
    /// The network that the target is on, where this host is on it, too.
    pub(super) shared: Option<IpNet>,
    /// Where intercept is; `None`: on the target, or here.
    pub(super) intercept: Option<IpAddr>,
}

/// The addresses of copies to one target. `sources`: those of its family.
pub(super) fn sources(sources: &[IpAddr], around: Surroundings<'_>) -> Vec<Finding> {
    if sources.is_empty() {
        return Vec::new();
    }
    let mut findings = Vec::new();
    let mut refuse = |what: &str, remedy: &str, is_so: &dyn Fn(&IpAddr) -> bool| {
        let such: Vec<IpAddr> = sources.iter().copied().filter(is_so).collect();
        if !such.is_empty() {
            findings.push(Check::Sources.failure(format!("{} {what}", list(&such)), remedy));
        }
    };
    refuse(
        "in -c: no host answers to that, or takes packets from there",
        "give addresses with -c that a client could have",
        &|a| a.is_loopback() || a.is_multicast() || a.is_unspecified() || *a == IpAddr::V4(Ipv4Addr::BROADCAST),
    );
    refuse(
        "in -c belongs to this host: the target's answers come here, and this host's kernel resets the connections",
        "give addresses with -c that no host has",
        &|a| around.local.contains(a) && !a.is_loopback(),
    );
    refuse(
        "in -c is the target itself, which takes no packets from its own address",
        "give addresses with -c that no host has",
        &|a| *a == around.target,
    );
    refuse(
        "in -c is intercept's own address: its kernel resets the connections",
        "give addresses with -c that no host has",
        &|a| Some(*a) == around.intercept,
    );
    if let Some(IpNet::V4(net)) = around.shared.filter(|net| net.prefix_len() < 31) {
        refuse(
            "in -c is the network's own or its broadcast address, from which the target takes nothing",
            "leave it out of -c",
            &|a| *a == IpAddr::V4(net.network()) || *a == IpAddr::V4(net.broadcast()),
        );
    }
    let network = network_of(sources);
    let within: Vec<IpAddr> =
        sources.iter().copied().filter(|a| around.shared.is_some_and(|net| net.contains(a))).collect();
    if let (Some(shared), Some(intercept), false) = (around.shared, around.intercept, within.is_empty()) {
        findings.push(Check::Sources.warning(
            format!(
                "{} in -c: within the target's own network {shared}, in which the target asks for each address (ARP) instead \
                 of sending answers to intercept, unless it has a route for them that is more specific",
                list(&within)
            ),
            format!("on the target: ip route add {} via {intercept}; or addresses of another network with -c", network_of(&within)),
        ));
    }
    if findings.is_empty() {
        let route = around
            .intercept
            .map(|intercept| format!("; the target needs a route: ip route add {network} via {intercept}"))
            .unwrap_or_default();
        findings.push(Check::Sources.ok(format!("{}: could be clients{route}", list(sources))));
    }
    findings
}

/// The first addresses, and how many others there are.
fn list(addresses: &[IpAddr]) -> String {
    let named: Vec<String> = addresses.iter().take(NAMED).map(ToString::to_string).collect();
    match addresses.len().saturating_sub(NAMED) {
        0 => named.join(", "),
        others => format!("{} and {others} others", named.join(", ")),
    }
}

/// The smallest network that has all of these addresses, which are of one family.
pub(super) fn network_of(addresses: &[IpAddr]) -> IpNet {
    let of = |address: &IpAddr| match address {
        IpAddr::V4(a) => (u128::from(u32::from(*a)) << 96, true),
        IpAddr::V6(a) => (u128::from(*a), false),
    };
    let mut bits = addresses.iter().map(of);
    let Some((first, is_ipv4)) = bits.next() else { return IpNet::from(Ipv4Net::default()) };
    let len = bits.map(|(other, _)| (first ^ other).leading_zeros() as u8).min().unwrap_or(128);
    let net = if is_ipv4 {
        Ipv4Net::new(Ipv4Addr::from((first >> 96) as u32), len.min(32)).map(IpNet::from)
    } else {
        Ipv6Net::new(first.into(), len).map(IpNet::from)
    };
    net.map_or_else(|_| IpNet::from(Ipv4Net::default()), |net| net.trunc())
}

/// Where a machine runs, if that is a cloud whose network drops packets with addresses that it did not give out.
fn cloud_of(machine: &Machine) -> Option<(&'static str, &'static str)> {
    let has = |text: &str, words: &[&str]| words.iter().any(|word| text.contains(word));
    let Machine { vendor, product, bios, asset_tag } = machine;
    let all = format!("{vendor} {product} {bios}");
    Some(if has(&all, &["Amazon EC2", "amazon"]) {
        (
            "Amazon EC2",
            "aws ec2 modify-instance-attribute --no-source-dest-check, for the instances of tcpcopy, of the target and of \
             intercept; and security groups that let the addresses of -c in and out",
        )
    } else if has(&all, &["Google"]) {
        (
            "Google Cloud",
            "instances with --can-ip-forward, and a route of the network for the addresses of -c to intercept",
        )
    } else if has(asset_tag, &["7783-7084-3265-9085-8269-3286-77"]) {
        (
            "Azure",
            "Azure's network drops packets with addresses that are none of its own, also with IP forwarding on: give \
             the interface the addresses of -c as secondary ones, or connect the hosts by a tunnel (VXLAN, GRE)",
        )
    } else if has(&all, &["OpenStack", "RDO"]) {
        (
            "OpenStack",
            "openstack port set --allowed-address ip-address=NETWORK PORT, for the ports of tcpcopy, target and intercept; or \
             openstack port set --no-security-group --disable-port-security PORT",
        )
    } else if has(&all, &["Alibaba"]) {
        ("Alibaba Cloud", "connect the hosts by a tunnel (VXLAN, GRE): its network drops packets with other addresses")
    } else if has(&all, &["VMware"]) {
        (
            "VMware",
            "the port group's security policy: accept forged transmits (and, for mirrored traffic, promiscuous mode)",
        )
    } else {
        return None;
    })
}

/// Whether the network around this machine lets the copies pass. `own_addresses`: they have other addresses than the machine.
pub(super) fn cloud(machine: &Machine) -> Finding {
    match cloud_of(machine) {
        Some((name, remedy)) => Check::Cloud.warning(
            format!(
                "this machine is of {name}, whose network by itself drops packets with source addresses that it did not give \
                 out, as the copies have"
            ),
            remedy,
        ),
        None => Check::Cloud.ok("no cloud that is known to drop packets with other source addresses"),
    }
}

#[cfg(test)]
mod tests;
