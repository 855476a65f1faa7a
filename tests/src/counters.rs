//! What the kernel of a lab's host counts.

use tcpcopy_io::netns::{Host, REPLICAS_V4, REPLICAS_V6};

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
