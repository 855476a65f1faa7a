//! Judgements about this host: from what was found to what it means for a copy. No judgement looks at anything by itself.

use std::net::IpAddr;

use tcpcopy_io::host::path::PathSize;
use tcpcopy_io::host::route::{NextHop, Way};
use tcpcopy_io::host::{Conntrack, Device, DeviceKind};
use tcpcopy_io::privileges::{Account, PrivilegeError};
use tcpcopy_wire::{Endpoint, Transport};

use super::checks::Check;
use super::finding::Finding;

/// Of a table's places, those in use from which on it is about to be full, in percent.
const NEARLY_FULL: u64 = 80;

/// What the programs may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Privileges {
    pub(super) net_raw: bool,
    pub(super) net_admin: bool,
}

/// `found`: who the user of `--user` is, where there is to be another. `None`: nothing is wrong with it.
pub(super) fn user(found: Option<Result<Account, PrivilegeError>>) -> Option<Finding> {
    let error = found?.err()?;
    let (what, remedy) = match &error {
        PrivilegeError::NoUser(name) => {
            (format!("there is no user `{name}`"), format!("useradd --system --shell /usr/sbin/nologin {name}"))
        }
        PrivilegeError::NoGroup(name) => (format!("there is no group `{name}`"), format!("groupadd --system {name}")),
        other => return Some(Check::Options.failure(format!("in --user: {other}"), "leave --user out")),
    };
    Some(Check::Options.failure(format!("in --user: {what}"), remedy))
}

/// `setcap`: the command that grants what is missing. `needs_admin`: what, without CAP_NET_ADMIN, does not work at all.
pub(super) fn capabilities(have: Privileges, setcap: &str, needs_admin: Option<&str>) -> Finding {
    let remedy = format!("run it as root, or once: {setcap}");
    match (have.net_raw, have.net_admin, needs_admin) {
        (true, true, _) => Check::Capabilities.ok("CAP_NET_RAW and CAP_NET_ADMIN"),
        (false, true, Some(_)) => Check::Capabilities.ok("CAP_NET_ADMIN; CAP_NET_RAW is not needed for a queue"),
        (false, _, None) => Check::Capabilities.failure(
            "CAP_NET_RAW is missing: packets can neither be captured nor sent with other source addresses",
            remedy,
        ),
        (_, false, Some(what)) => {
            Check::Capabilities.failure(format!("CAP_NET_ADMIN is missing, without which {what}"), remedy)
        }
        (true, false, None) => Check::Capabilities.warning(
            "CAP_NET_RAW; without CAP_NET_ADMIN socket buffers are no larger than net.core.rmem_max and wmem_max let \
             them be, and the firewall's rules cannot be looked at",
            remedy,
        ),
    }
}

/// A device to capture on, by its name. `sees_vlan_of_others`: it is to take packets that are addressed to others.
pub(super) fn device(name: &str, devices: &[Device], promiscuous: bool) -> Finding {
    if name == "any" {
        let up: Vec<&str> = devices.iter().filter(|device| device.is_up).map(|device| device.name.as_str()).collect();
        return if promiscuous {
            Check::Device.warning(
                "`any` never takes packets that are addressed to other hosts",
                "name the device that receives the mirrored traffic: -i eth1",
            )
        } else {
            Check::Device.ok(format!("`any`: all of {}", up.join(", ")))
        };
    }
    let Some(device) = devices.iter().find(|device| device.name == name) else {
        let names: Vec<&str> = devices.iter().map(|device| device.name.as_str()).collect();
        return Check::Device.failure(
            format!("there is no device `{name}`; this host has {}", names.join(", ")),
            "name one of them with -i, or leave -i out for all of them",
        );
    };
    if !device.is_up {
        return Check::Device.failure(format!("`{name}` is down"), format!("ip link set {name} up"));
    }
    if !device.has_carrier {
        return Check::Device.failure(
            format!("`{name}` has no carrier: no cable, or nobody at the other end of it"),
            format!("look at `ip link show {name}`, and at the switch; or name another device with -i"),
        );
    }
    let kind = match device.kind {
        DeviceKind::Ethernet => "Ethernet",
        DeviceKind::Loopback => "loopback",
        DeviceKind::Other => "no Ethernet",
    };
    Check::Device.ok(format!("`{name}` is up, {kind}, MTU {}, {}", device.mtu, offloads(device)))
}

/// What the device merges. Segments of 64 KB that a capture shows for it are cut to size again, so nothing is wrong with it.
fn offloads(device: &Device) -> String {
    let given = [("GRO", device.offloads.gro), ("LRO", device.offloads.lro)];
    let on: Vec<&str> = given.iter().filter(|(_, on)| *on == Some(true)).map(|(name, _)| *name).collect();
    if on.is_empty() {
        return "merges no segments".to_owned();
    }
    format!("merges segments ({}), which are cut to size again", on.join(", "))
}

/// Rings and limits, against the memory that is there. All in bytes.
pub(super) fn memory(rings: u64, limit: u64, available: Option<u64>) -> Finding {
    let mb = |bytes: u64| bytes >> 20;
    let uses = if limit > 0 {
        format!("{} MB for captures, up to {} MB for connections (-m)", mb(rings), mb(limit))
    } else {
        format!("{} MB for captures", mb(rings))
    };
    match available {
        None => Check::Memory.ok(format!("{uses}; how much this host has is not known")),
        Some(available) if rings > available => Check::Memory.failure(
            format!("{uses}; this host has {} MB left", mb(available)),
            "smaller captures: -B 8, or fewer --workers",
        ),
        Some(available) if rings + limit > available => Check::Memory.warning(
            format!("{uses}; this host has {} MB left, and the production server may need them", mb(available)),
            format!(
                "a lower limit, from which on new connections are not copied: -m {}",
                (mb(available - rings) / 2).max(1)
            ),
        ),
        Some(available) => Check::Memory.ok(format!("{uses}, of {} MB that are left", mb(available))),
    }
}

/// The way to a target on another host, or the system's words for that there is none.
pub(super) fn route(target: IpAddr, way: Result<&Way, &str>) -> Finding {
    match way {
        Err(e) => Check::Route.failure(
            format!("this host has no route to {target}: {e}"),
            format!("ip route add {target} via ROUTER (`ip route` shows what there is)"),
        ),
        Ok(way) => {
            let via = way.gateway.map_or_else(|| "directly".to_owned(), |gateway| format!("via {gateway}"));
            let source = way.source.map(|source| format!(", from {source} as itself")).unwrap_or_default();
            Check::Route.ok(format!("{target} is reached {via} on `{}`{source}", way.device))
        }
    }
}

/// The next hop to a target, after something was sent to it. `pinged`: the target itself has answered.
pub(super) fn next_hop(target: IpAddr, way: &Way, pinged: bool) -> Option<Finding> {
    if way.is_local {
        return None;
    }
    let next = way.gateway.unwrap_or(target);
    let device = &way.device;
    let who =
        if way.gateway.is_some() { format!("the router {next} to {target}") } else { format!("the target {next}") };
    Some(match way.next_hop {
        NextHop::Failed | NextHop::Asked if !pinged => Check::NextHop.failure(
            format!("{who} does not answer on `{device}`: it is down, or not in this network"),
            format!("look at `ip neigh show {next}` and at `ip route get {target}`; is the address right?"),
        ),
        _ if pinged => Check::NextHop.ok(format!("{target} answers pings")),
        NextHop::Known => Check::NextHop.ok(format!("{who} is there, on `{device}`; {target} does not answer pings")),
        _ => Check::NextHop.ok(format!("{target} does not answer pings on `{device}`, which may be forbidden there")),
    })
}

/// What fits through to a target. `wanted` is -M; `device` the device of its way.
pub(super) fn mtu(target: IpAddr, wanted: u32, device: Option<&Device>, way: &Way, seen: Option<PathSize>) -> Finding {
    let failure = |text: String, fits: u32| Check::Mtu.failure(text, format!("give tcpcopy -M {fits}"));
    if let Some(device) = device.filter(|device| device.mtu < wanted) {
        let mtu = device.mtu;
        return failure(
            format!("packets of up to {wanted} bytes (-M) do not fit `{}`, whose MTU is {mtu}", device.name),
            mtu,
        );
    }
    if let Some(mtu) = way.mtu.filter(|mtu| *mtu < wanted) {
        return failure(
            format!("packets of up to {wanted} bytes (-M) do not fit the way to {target}, whose MTU is {mtu}"),
            mtu,
        );
    }
    match seen {
        Some(PathSize::Reported(mtu)) if mtu < wanted => failure(
            format!("packets of up to {wanted} bytes (-M) do not fit the way to {target}: a router takes {mtu}"),
            mtu,
        ),
        Some(PathSize::LostAbove(mtu)) => Check::Mtu.warning(
            format!(
                "pings of {mtu} bytes to {target} are answered, those of {wanted} (-M) are not, and nobody says why: the way \
                 may have a smaller MTU"
            ),
            format!("give tcpcopy -M {mtu}"),
        ),
        Some(PathSize::Whole) => Check::Mtu.ok(format!("packets of {wanted} bytes (-M) reach {target} whole")),
        _ => Check::Mtu.ok(format!(
            "packets of {wanted} bytes (-M) fit this host's side of the way to {target}; the rest of it is not known"
        )),
    }
}

/// Whether the kernel tracks the copies as connections. `used`: it does track; `exempt`: not those to this target.
pub(super) fn conntrack(
    table: Option<Conntrack>,
    used: bool,
    exempt: bool,
    target: Endpoint,
    over: Transport,
) -> Finding {
    let protocol = over.to_string().to_lowercase();
    let program = if target.addr.is_ipv4() { "iptables" } else { "ip6tables" };
    let remedy =
        format!("{program} -t raw -A OUTPUT -d {} -p {protocol} --dport {} -j NOTRACK", target.addr, target.port);
    let Some(Conntrack { count, max }) = table else {
        return Check::Conntrack.ok("this kernel tracks no connections");
    };
    if exempt {
        return Check::Conntrack.ok(format!("copies to {target} are exempt from it"));
    }
    if max > 0 && count >= max {
        return Check::Conntrack.failure(
            format!(
                "the table of tracked connections is full ({count} of {max}): new ones are dropped, also of clients"
            ),
            format!("sysctl net.netfilter.nf_conntrack_max={}; and exempt the copies: {remedy}", max * 2),
        );
    }
    if max > 0 && count * 100 >= max * NEARLY_FULL {
        return Check::Conntrack.warning(
            format!("the table of tracked connections is nearly full ({count} of {max}), and each copy takes a place"),
            format!("sysctl net.netfilter.nf_conntrack_max={}; and exempt the copies: {remedy}", max * 2),
        );
    }
    if used || count > 0 {
        return Check::Conntrack.warning(
            format!(
                "connections are tracked here ({count} of {max}): each copy to {target} takes a place for minutes, as its \
                 answers do not pass this host"
            ),
            format!("exempt the copies: {remedy}"),
        );
    }
    Check::Conntrack.ok("no connection is tracked here")
}

/// Settings of the kernel that matter where intercept captures: it must neither forward the answers nor take them itself.
pub(super) fn forwarding(ipv4: Option<bool>, ipv6: Option<bool>, uses_ipv6: bool) -> Finding {
    let mut on = Vec::new();
    let mut remedies = Vec::new();
    if ipv4 == Some(true) {
        on.push("net.ipv4.ip_forward=1");
        remedies.push("sysctl net.ipv4.ip_forward=0");
    }
    if ipv6 == Some(true) && uses_ipv6 {
        on.push("net.ipv6.conf.all.forwarding=1");
        remedies.push("sysctl net.ipv6.conf.all.forwarding=0");
    }
    if on.is_empty() {
        return Check::Kernel.ok("this host forwards nothing: the target's answers to the copies end here");
    }
    Check::Kernel.failure(
        format!(
            "this host forwards packets ({}): the target's answers to the copies would go on to whoever has their addresses, or \
             be answered as undeliverable, which breaks the connection at the target",
            on.join(", ")
        ),
        format!(
            "{}; a host that must forward others' packets: ip route add blackhole NETWORK, for the network of tcpcopy's -c",
            remedies.join("; ")
        ),
    )
}

#[cfg(test)]
mod tests;
