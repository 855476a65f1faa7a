//! What the kernel of a lab's host counts.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use tcpcopy_io::netns::{Host, Process, REPLICAS_V4, REPLICAS_V6, wait_for};

/// With `TCPCOPY_LAB_CAPTURE` in the environment: everything that a host sends and receives, in `<host>.pcap` in `folder`,
/// for whoever has a failed test to understand. Needs the program `tcpdump`.
pub fn capture_if_wanted(host: &Host, folder: &Path) -> Option<Process> {
    std::env::var_os("TCPCOPY_LAB_CAPTURE")?;
    Some(capture(host, &folder.join(format!("{}.pcap", host.name)), &["-s", "120"]))
}

/// Starts `tcpdump` on a host's device; what it captures from now on goes to `file`.
pub fn capture(host: &Host, file: &Path, arguments: &[&str]) -> Process {
    let mut command = host.command("tcpdump");
    // It would change to a user of its own, which a user namespace does not have.
    command.args(["-Z", "root", "-i", "eth0", "-B", "32768", "-U", "-w"]).arg(file).args(arguments);
    command.stderr(std::process::Stdio::null());
    let mut tcpdump = Process::start(&mut command).expect("tcpdump (package tcpdump)");
    // The file is there a moment before the capture is.
    let begun = wait_for(Duration::from_secs(10), || {
        assert_eq!(tcpdump.try_wait(), None, "tcpdump ended");
        (file.exists() && tcpdump.captures() > 0).then_some(())
    });
    assert!(begun.is_some(), "tcpdump captures nothing");
    tcpdump
}

/// Counts the RST packets that reach a host, from the start of the watch.
pub struct ResetWatch<'a> {
    host: &'a Host,
    /// The network whose RSTs count; all when `None`.
    from: Option<String>,
    iptables: &'static str,
}

impl<'a> ResetWatch<'a> {
    /// RSTs with the address of an IPv4 replica.
    pub fn from_replicas(host: &'a Host) -> Self {
        Self::start(host, Some(format!("{}/{}", REPLICAS_V4.0, REPLICAS_V4.1)), "iptables")
    }

    /// RSTs with the address of an IPv6 replica.
    pub fn from_replicas_v6(host: &'a Host) -> Self {
        Self::start(host, Some(format!("{}/{}", REPLICAS_V6.0, REPLICAS_V6.1)), "ip6tables")
    }

    /// RSTs from anywhere, over IPv4.
    pub fn from_all(host: &'a Host) -> Self {
        Self::start(host, None, "iptables")
    }

    fn start(host: &'a Host, from: Option<String>, iptables: &'static str) -> Self {
        let watch = Self { host, from, iptables };
        // In front of rules that drop: what tcpcopy sends counts, also when it gets lost.
        watch.rule("-I");
        watch
    }

    fn rule(&self, action: &str) {
        let mut arguments = vec![action, "INPUT", "-p", "tcp", "--tcp-flags", "RST", "RST"];
        if let Some(network) = &self.from {
            arguments.extend(["-s", network]);
        }
        self.host.output(self.iptables, &arguments).expect("iptables (package iptables)");
    }

    /// The number so far.
    pub fn count(&self) -> u64 {
        let rules = self.host.output(self.iptables, &["-v", "-S", "INPUT"]).expect("the rules of iptables");
        let rule = rules.lines().find(|line| {
            line.contains("--tcp-flags RST RST")
                && self.from.as_ref().is_none_or(|network| line.contains(network.as_str()))
        });
        // -A INPUT … -c <packets> <bytes>
        let counted = rule.and_then(|rule| rule.split(" -c ").nth(1)?.split_whitespace().next()?.parse().ok());
        counted.unwrap_or_else(|| panic!("no counter in the rules of iptables:\n{rules}"))
    }
}

/// RSTs that the TCP of a host has sent since the host was made (RFC 4022, tcpOutRsts), over IPv4 and IPv6.
pub fn resets_sent(host: &Host) -> u64 {
    let table = host.run(|| fs::read_to_string("/proc/thread-self/net/snmp")).expect("a thread").expect("the counters");
    // A line of names, then one of numbers.
    let mut lines = table.lines().filter_map(|line| line.strip_prefix("Tcp:"));
    let (names, numbers) = (lines.next().expect("names"), lines.next().expect("numbers"));
    let at = names.split_whitespace().position(|name| name == "OutRsts").expect("OutRsts");
    numbers.split_whitespace().nth(at).and_then(|number| number.parse().ok()).expect("a number")
}

/// Counts the packets of one protocol that reach a host from one address, from the start of the watch.
pub struct PacketWatch<'a> {
    host: &'a Host,
    from: IpAddr,
}

impl<'a> PacketWatch<'a> {
    /// Packets of `protocol` (`tcp`, `udp`) from this address.
    pub fn from(host: &'a Host, protocol: &str, from: IpAddr) -> Self {
        let watch = Self { host, from };
        let arguments = ["-I", "INPUT", "-p", protocol, "-s", &from.to_string()];
        watch.host.output(watch.program(), &arguments).expect("iptables (package iptables)");
        watch
    }

    fn program(&self) -> &'static str {
        if self.from.is_ipv4() { "iptables" } else { "ip6tables" }
    }

    /// The number so far.
    pub fn count(&self) -> u64 {
        let rules = self.host.output(self.program(), &["-v", "-S", "INPUT"]).expect("the rules of iptables");
        let rule = rules.lines().find(|line| line.contains(&format!("-s {}/", self.from)));
        let counted = rule.and_then(|rule| rule.split(" -c ").nth(1)?.split_whitespace().next()?.parse().ok());
        counted.unwrap_or_else(|| panic!("no counter in the rules of iptables:\n{rules}"))
    }
}
