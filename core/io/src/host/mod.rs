//! Facts about this host that decide whether a copy works: devices, routes, kernel settings, firewall, what it runs on.
//! Gathered here, judged elsewhere. Nothing is changed; packets are sent by [`path`] alone.

pub mod path;
pub mod route;

use std::fs;
use std::process::{Command, Stdio};

use ipnet::IpNet;

use crate::capture::device_names;
use crate::device::{self, Hardware};
use crate::netns::search_path;
use crate::usage::memory_field;

/// Of a kernel setting such as `net/ipv4/ip_forward`, what it is in the calling thread's network namespace.
pub fn sysctl(name: &str) -> Option<String> {
    fs::read_to_string(format!("/proc/sys/{name}")).ok().map(|text| text.trim().to_owned())
}

/// The same, of one that is a number.
pub fn sysctl_number(name: &str) -> Option<u64> {
    sysctl(name)?.parse().ok()
}

/// What a device's frames are, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// Ethernet.
    Ethernet,
    /// The loopback device.
    Loopback,
    /// Something else: a tunnel, PPP, …
    Other,
}

/// What a device merges or leaves to the hardware; `None` where the driver does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// Generic receive offload: the kernel merges segments.
    pub gro: Option<bool>,
    /// Large receive offload: the card merges segments.
    pub lro: Option<bool>,
    /// Segmentation is left to the card.
    pub tso: Option<bool>,
    /// Segmentation is left until the device.
    pub gso: Option<bool>,
}

/// A network device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// It is up.
    pub is_up: bool,
    /// It has a carrier.
    pub has_carrier: bool,
    /// Largest packet, in bytes.
    pub mtu: u32,
    /// What its frames are.
    pub kind: DeviceKind,
    /// Its addresses, with their networks.
    pub addresses: Vec<IpNet>,
    /// What it merges.
    pub offloads: Offloads,
}

/// `ETHTOOL_GTSO`, `ETHTOOL_GGSO`, `ETHTOOL_GFLAGS`, `ETHTOOL_GGRO` of `linux/ethtool.h`.
const GET_TSO: u32 = 0x1e;
const GET_GSO: u32 = 0x23;
const GET_FLAGS: u32 = 0x25;
const GET_GRO: u32 = 0x2b;
/// `ETH_FLAG_LRO`.
const FLAG_LRO: u32 = 1 << 15;

/// The devices of the calling thread's network namespace.
pub fn devices() -> Vec<Device> {
    let listed = pcap::Device::list().unwrap_or_default();
    let addresses = |name: &str| {
        let of_name = listed.iter().filter(|device| device.name == name).flat_map(|device| &device.addresses);
        of_name.filter_map(|address| IpNet::with_netmask(address.addr, address.netmask?).ok()).collect()
    };
    let names = device_names();
    names.iter().filter_map(|name| device_of(name, addresses(name))).collect()
}

/// One device; `None` when there is none of this name.
fn device_of(name: &str, addresses: Vec<IpNet>) -> Option<Device> {
    let (is_up, has_carrier) = device::is_up(name).ok()?;
    let kind = match device::hardware(name).ok()? {
        Hardware::Ethernet(_) => DeviceKind::Ethernet,
        Hardware::Loopback => DeviceKind::Loopback,
        Hardware::Other => DeviceKind::Other,
    };
    let value = |command| device::ethtool_value(name, command).ok();
    let is_on = |command| value(command).map(|value| value != 0);
    Some(Device {
        name: name.to_owned(),
        is_up,
        has_carrier,
        mtu: device::mtu(name).ok()?,
        kind,
        addresses,
        offloads: Offloads {
            gro: is_on(GET_GRO),
            lro: value(GET_FLAGS).map(|flags| flags & FLAG_LRO != 0),
            tso: is_on(GET_TSO),
            gso: is_on(GET_GSO),
        },
    })
}

/// The table of tracked connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conntrack {
    /// Connections in it, of the calling thread's network namespace.
    pub count: u64,
    /// Connections that it takes.
    pub max: u64,
}

/// The table of tracked connections, where the kernel tracks any.
pub fn conntrack() -> Option<Conntrack> {
    let number = |name: &str| sysctl_number(&format!("net/netfilter/{name}"));
    Some(Conntrack { count: number("nf_conntrack_count")?, max: number("nf_conntrack_max")? })
}

/// The firewall's rules, in the words of the programs that list them; `None`: the program is not there, or may not look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rulesets {
    /// `iptables-save`.
    pub iptables: Option<String>,
    /// `ip6tables-save`.
    pub ip6tables: Option<String>,
    /// `nft -j list ruleset`.
    pub nft: Option<String>,
}

impl Rulesets {
    /// The rules of the calling thread's network namespace.
    pub fn read() -> Self {
        Self {
            iptables: output("iptables-save", &[]),
            ip6tables: output("ip6tables-save", &[]),
            nft: output("nft", &["-j", "list", "ruleset"]),
        }
    }

    /// Nothing could be looked at.
    pub fn is_unknown(&self) -> bool {
        self.iptables.is_none() && self.ip6tables.is_none() && self.nft.is_none()
    }
}

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new(program);
    command.args(arguments).env("PATH", search_path()).stdin(Stdio::null()).stderr(Stdio::null());
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What the machine says it is (DMI); empty where it does not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// `sys_vendor`.
    pub vendor: String,
    /// `product_name`.
    pub product: String,
    /// `bios_vendor`.
    pub bios: String,
    /// `chassis_asset_tag`.
    pub asset_tag: String,
}

impl Machine {
    /// This machine.
    pub fn read() -> Self {
        let field = |name: &str| {
            let text = fs::read_to_string(format!("/sys/class/dmi/id/{name}")).unwrap_or_default();
            text.trim().to_owned()
        };
        Self {
            vendor: field("sys_vendor"),
            product: field("product_name"),
            bios: field("bios_vendor"),
            asset_tag: field("chassis_asset_tag"),
        }
    }
}

/// Memory that programs can still get, in bytes.
pub fn available_memory() -> Option<u64> {
    let table = fs::read_to_string("/proc/meminfo").ok()?;
    memory_field(&table, "MemAvailable:")
}

/// Whether NFQUEUE can be used: the kernel shows its table of queues.
pub fn has_nfqueue() -> bool {
    fs::metadata("/proc/thread-self/net/netfilter/nfnetlink_queue").is_ok()
}

#[cfg(test)]
mod tests;
