//! The four hosts of a copy on one switch.

use std::fs;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Deref;
use std::process::Stdio;

use super::{Namespace, NetnsError};

/// The IPv4 network of the replicas' addresses, as (network, prefix length). The target routes it to the assistant.
pub const REPLICAS_V4: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 78, 0, 0), 16);
/// The IPv6 network of the replicas' addresses.
pub const REPLICAS_V6: (Ipv6Addr, u8) = (Ipv6Addr::new(0xfd78, 0, 0, 0, 0, 0, 0, 0), 64);

/// One host: a namespace with a device `eth0` on the switch.
#[derive(Debug)]
pub struct Host {
    /// What it is in the lab.
    pub name: &'static str,
    /// Its IPv4 address.
    pub ipv4: Ipv4Addr,
    /// Its IPv6 address.
    pub ipv6: Ipv6Addr,
    namespace: Namespace,
}

impl Host {
    fn new(name: &'static str, number: u8) -> Result<Self, NetnsError> {
        Ok(Self {
            name,
            ipv4: Ipv4Addr::new(10, 77, 0, number),
            ipv6: Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, u16::from(number)),
            namespace: Namespace::new()?,
        })
    }

    /// Gives it one more address, on its device.
    ///
    /// # Errors
    /// When `ip` refuses it.
    pub fn add_address(&self, address: IpAddr) -> Result<(), NetnsError> {
        batch(self, &[address_line(address)])
    }

    /// Runs `ip` (iproute2) with these arguments.
    ///
    /// # Errors
    /// When it fails.
    pub fn ip(&self, arguments: &str) -> Result<String, NetnsError> {
        let arguments: Vec<&str> = arguments.split_whitespace().collect();
        self.output("ip", &arguments)
    }

    /// Runs `iptables` (for IPv6, `ip6tables`) with these arguments.
    ///
    /// # Errors
    /// When it fails.
    pub fn iptables(&self, arguments: &str) -> Result<String, NetnsError> {
        let arguments: Vec<&str> = arguments.split_whitespace().collect();
        self.output("iptables", &arguments)
    }
}

impl Deref for Host {
    type Target = Namespace;

    fn deref(&self) -> &Namespace {
        &self.namespace
    }
}

/// Client, online, target and assistant on one switch. The target's route to [`REPLICAS_V4`] and [`REPLICAS_V6`] leads
/// over the assistant, which forwards nothing, as in a real deployment. The devices keep their offloads, so captures
/// see segments of up to 64 KB. Any number of labs can exist at a time: each has a switch of its own.
#[derive(Debug)]
pub struct Lab {
    /// Where clients connect from.
    pub client: Host,
    /// The production server; tcpcopy runs here.
    pub online: Host,
    /// The test server.
    pub target: Host,
    /// Where intercept runs.
    pub assistant: Host,
    /// Others, on the same switch. They have no routes of their own.
    pub more: Vec<Host>,
    switch: Namespace,
}

impl Lab {
    /// Builds the hosts. Needs the program `ip` (package iproute2), and [`prepare`](super::prepare) before.
    ///
    /// # Errors
    /// Which step failed, and why.
    pub fn new() -> Result<Self, NetnsError> {
        Self::with(&[])
    }

    /// Builds the hosts, and others with these names.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with(more: &[&'static str]) -> Result<Self, NetnsError> {
        let switch = Namespace::new()?;
        let more = more.iter().zip(5..).map(|(name, number)| Host::new(name, number));
        let lab = Self {
            client: Host::new("client", 1)?,
            online: Host::new("online", 2)?,
            target: Host::new("target", 3)?,
            assistant: Host::new("assistant", 4)?,
            more: more.collect::<Result<_, _>>()?,
            switch,
        };
        let mut lines = vec!["link add br0 type bridge stp_state 0 forward_delay 0".to_owned()];
        for host in lab.hosts() {
            // The peer is born in the host's namespace, so no name is ever taken anywhere else.
            lines.push(format!("link add {0} type veth peer name eth0 netns {1}", host.name, host.path()));
            lines.push(format!("link set {} master br0 up", host.name));
        }
        lines.push("link set br0 up".to_owned());
        batch(&lab.switch, &lines)?;

        for host in lab.hosts() {
            host.set_sysctl("net/ipv4/ip_forward", "0")?;
            let mut lines = vec!["link set lo up".to_owned(), "link set eth0 up".to_owned()];
            lines.push(address_line(host.ipv4.into()));
            lines.push(address_line(host.ipv6.into()));
            batch(host, &lines)?;
        }
        batch(
            &lab.target,
            &[
                format!("route add {}/{} via {}", REPLICAS_V4.0, REPLICAS_V4.1, lab.assistant.ipv4),
                format!("route add {}/{} via {}", REPLICAS_V6.0, REPLICAS_V6.1, lab.assistant.ipv6),
            ],
        )?;
        Ok(lab)
    }

    /// A cable between two hosts, past the switch: a device of this name, without addresses, on both.
    ///
    /// # Errors
    /// Which step failed, and why.
    pub fn cable(&self, from: &Host, to: &Host, device: &str) -> Result<(), NetnsError> {
        let up = format!("link set {device} up");
        batch(from, &[format!("link add {device} type veth peer name {device} netns {}", to.path()), up.clone()])?;
        batch(to, &[up])
    }

    /// All hosts.
    pub fn hosts(&self) -> impl Iterator<Item = &Host> {
        [&self.client, &self.online, &self.target, &self.assistant].into_iter().chain(&self.more)
    }

    /// Packets that the devices of all hosts and of the switch have dropped since it was built: where programs are slower
    /// than what is sent to them, some are.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn device_drops(&self) -> Result<u64, NetnsError> {
        let mut drops = device_drops(&self.switch)?;
        for host in self.hosts() {
            drops += device_drops(host)?;
        }
        Ok(drops)
    }

    /// Drops packets at random between tcpcopy and the target, in both directions. `probability` is from 0 to 1. Needs
    /// the program `iptables`.
    ///
    /// # Errors
    /// When the rules cannot be added.
    pub fn lose_packets(&self, probability: f64) -> Result<(), NetnsError> {
        let (network, length) = REPLICAS_V4;
        for (chain, side) in [("INPUT", "-s"), ("OUTPUT", "-d")] {
            self.target.iptables(&format!(
                "-A {chain} {side} {network}/{length} -m statistic --mode random --probability {probability} -j DROP"
            ))?;
        }
        Ok(())
    }
}

/// Packets that the devices of a namespace have dropped, in either direction.
fn device_drops(namespace: &Namespace) -> Result<u64, NetnsError> {
    // /proc/thread-self/net shows the namespace of the thread that opens it.
    let table = namespace
        .run(|| fs::read_to_string("/proc/thread-self/net/dev"))
        .and_then(|table| table)
        .map_err(|source| NetnsError::step("read the counters of devices", source))?;
    // `device: received: bytes packets errs drop fifo frame compressed multicast, transmitted: bytes packets errs drop …`
    let drops = |line: &str| {
        let fields: Vec<u64> = line.split_once(':')?.1.split_whitespace().map_while(|n| n.parse().ok()).collect();
        Some(fields.get(3)? + fields.get(11)?)
    };
    Ok(table.lines().filter_map(drops).sum())
}

fn address_line(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => format!("address add {address}/16 dev eth0"),
        // Without nodad the address could not be used for its first second.
        IpAddr::V6(address) => format!("address add {address}/64 dev eth0 nodad"),
    }
}

/// Runs a series of `ip` commands in a namespace.
fn batch(namespace: &Namespace, lines: &[String]) -> Result<(), NetnsError> {
    let no_ip = |source| NetnsError::step("run `ip` (package iproute2)", source);
    let mut child = namespace
        .command("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(no_ip)?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all((lines.join("\n") + "\n").as_bytes()).map_err(no_ip)?;
    }
    let output = child.wait_with_output().map_err(no_ip)?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(NetnsError::Command { line: format!("ip -batch: {}", lines.join("; ")), message })
}
