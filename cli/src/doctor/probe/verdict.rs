//! What the evidence of a probe means: the hop where it stopped, and what to do about it. A pure function.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tcpcopy_engine::probe::Ending;
use tcpcopy_io::transmit::SendError;
use tcpcopy_wire::icmp::{IcmpCause, IcmpError};
use tcpcopy_wire::tcp::Flags;

use super::context::Context;
use super::loops::{Direct, Evidence, any_of};
use super::{failure, finding};
use crate::doctor::answers::cable;
use crate::doctor::finding::{Finding, Outcome};

/// Names the hop where the probe stopped. What is more certain comes first.
pub(super) fn verdict(evidence: &Evidence, context: &Context) -> Finding {
    let words = Words { evidence, context };
    let found = match evidence.course.ending {
        Some(Ending::Closed | Ending::ClosedByReset) => return words.through(),
        None | Some(Ending::Stopped) => {
            return finding(Outcome::Warning, format!("{}: interrupted", words.session()), None);
        }
        Some(Ending::Refused) => words.refused(),
        Some(Ending::ResetByOther) => words.reset_by_other(),
        Some(Ending::ResetByTarget) => words.reset_by_target(),
        Some(Ending::NotAcknowledged) => words.not_acknowledged(),
        Some(Ending::NoAnswer) => words
            .not_sent()
            .or_else(|| words.not_reported())
            .or_else(|| words.forbidden_on_the_way())
            .or_else(|| words.not_seen())
            .or_else(|| words.answered_here())
            .unwrap_or_else(|| words.silent()),
    };
    if !context.is_borrowed {
        return found;
    }
    // The target may treat such an address in its own way.
    Finding {
        text: format!("{} (without -c the probe came from {}, which belongs to nobody)", found.text, context.source),
        ..found
    }
}

struct Words<'a> {
    evidence: &'a Evidence,
    context: &'a Context,
}

impl Words<'_> {
    /// `10.78.0.1 -> 10.0.0.2:8080`.
    fn session(&self) -> String {
        format!("{} -> {}", self.context.source, self.context.target)
    }

    /// `SYN left eth0`, as far as that was seen.
    fn left(&self) -> String {
        match &self.evidence.seen.syn_on[..] {
            [] => "SYN sent".to_owned(),
            devices => format!("SYN left {}", devices.join(" and ")),
        }
    }

    /// Where responses are reported.
    fn reporter(&self) -> String {
        if self.context.local {
            return "the capture of responses".to_owned();
        }
        match self.evidence.reporter {
            Some(address) => format!("intercept {address}"),
            None => format!("intercept {}", any_of(&self.context.intercepts)),
        }
    }

    /// Where the target's answers to `-c` should be routed, without a port.
    fn way_back(&self) -> String {
        let Context { target, intercepts, own, .. } = self.context;
        let fits = |address: &IpAddr| address.is_ipv4() == target.addr.is_ipv4() && !address.is_loopback();
        let host = intercepts.iter().map(SocketAddr::ip).find(fits).filter(|_| !self.evidence.intercept_is_here);
        let here = if self.context.local || self.evidence.intercept_is_here { *own } else { None };
        host.or(here).map_or_else(|| "ADDRESS-OF-INTERCEPT".to_owned(), |address| address.to_string())
    }

    /// The target is this host itself.
    fn target_is_here(&self) -> bool {
        self.context.own == Some(self.context.target.addr)
    }

    /// The command that gives the target its route.
    fn route(&self, verb: &str) -> String {
        let ip = if self.context.target.addr.is_ipv4() { "ip" } else { "ip -6" };
        format!("{ip} route {verb} {} via {}", self.context.network, self.way_back())
    }

    fn at_target(&self) -> String {
        format!("on {}", self.context.target.addr)
    }

    fn iptables(&self) -> &'static str {
        if self.context.target.addr.is_ipv4() { "iptables" } else { "ip6tables" }
    }

    fn through(&self) -> Finding {
        let course = &self.evidence.course;
        let after = course.accepted_after.unwrap_or_default();
        let again = if course.syns > 1 { format!(" to SYN number {}", course.syns) } else { String::new() };
        let end = match course.ending {
            Some(Ending::ClosedByReset) => "closed here; the target did not close its side, which was reset",
            _ => "closed by both sides",
        };
        let text = format!(
            "{}: {}, SYN-ACK{again} reported by {} after {}, {end}",
            self.session(),
            self.left(),
            self.reporter(),
            milliseconds(after)
        );
        if course.syns > 1 {
            let remedy = "packets are lost on the way: look at the counters of `ip -s link` on each host".to_owned();
            return finding(Outcome::Warning, text, Some(remedy));
        }
        finding(Outcome::Ok, text, None)
    }

    fn refused(&self) -> Finding {
        let (target, port) = (self.context.target, self.context.target.port);
        if self.evidence.direct == Some(Direct::Accepted) {
            return failure(
                format!(
                    "{}: {}; {target} answered with RST, though it accepts connections from this host's own address: a rule \
                     there rejects {}",
                    self.session(),
                    self.left(),
                    self.context.network
                ),
                format!(
                    "{}: {} -S INPUT; nft list ruleset; let {} in",
                    self.at_target(),
                    self.iptables(),
                    self.context.network
                ),
            );
        }
        failure(
            format!("{}: {}; {target} answered with RST: nothing listens there", self.session(), self.left()),
            format!(
                "{}: ss -ltn 'sport = :{port}' shows whether a server listens, and on which address; or give another port \
                 in -x",
                self.at_target()
            ),
        )
    }

    fn reset_by_other(&self) -> Finding {
        let source = self.context.source;
        let (there, sysctl) = match (self.context.local, self.context.on_target) {
            (true, _) => ("this host".to_owned(), "here".to_owned()),
            (_, true) => (self.at_target(), self.at_target()),
            _ => (format!("the host of {}", self.reporter()), format!("on {}", self.way_back())),
        };
        let forwarding = if self.context.target.addr.is_ipv4() {
            "sysctl -w net.ipv4.ip_forward=0"
        } else {
            "sysctl -w net.ipv6.conf.all.forwarding=0"
        };
        failure(
            format!(
                "{}: {}, SYN-ACK reported by {}, but then {} knew nothing of the session: somebody has {source} and was \
                 given the SYN-ACK, to which a RST came; {there} forwards packets (ip_forward is on), or has that address \
                 itself",
                self.session(),
                self.left(),
                self.reporter(),
                self.context.target
            ),
            format!("{sysctl}: {forwarding}; and give -c a network in which no host is"),
        )
    }

    fn reset_by_target(&self) -> Finding {
        finding(
            Outcome::Warning,
            format!(
                "{}: {}, SYN-ACK reported by {}, and then the server at {} itself reset the session: the loop works, but it \
                 may not want clients from {}",
                self.session(),
                self.left(),
                self.reporter(),
                self.context.target,
                self.context.network
            ),
            Some(format!("{}: look at the server's log, and at its lists of clients", self.at_target())),
        )
    }

    fn not_acknowledged(&self) -> Finding {
        let seen = &self.evidence.seen;
        let (session, left, reporter) = (self.session(), self.left(), self.reporter());
        let target = self.context.target;
        if let Some(SendError::Forbidden) = self.evidence.not_sent {
            return self.invalid_here("a rule of this host's firewall forbids them");
        }
        if seen.everywhere && !seen.fin {
            return self.invalid_here("they did not leave this host");
        }
        failure(
            format!(
                "{session}: {left}, SYN-ACK reported by {reporter}, but {target} acknowledged nothing that came after: a \
                 firewall between this host and {target} lets SYNs pass, and drops the rest, since it never sees the SYN-ACK"
            ),
            format!(
                "on that firewall: let packets from {} to {target} pass whatever their state (no conntrack, or `-j NOTRACK`)",
                self.context.network
            ),
        )
    }

    /// Only SYNs may leave: the classic of a rule for packets of state INVALID.
    fn invalid_here(&self, how: &str) -> Finding {
        failure(
            format!(
                "{}: {}, SYN-ACK reported by {}, but ACK and FIN do not get to {}: {how}; conntrack never sees the SYN-ACK, \
                 and so takes them for invalid",
                self.session(),
                self.left(),
                self.reporter(),
                self.context.target
            ),
            format!(
                "here: {} -t raw -I OUTPUT -s {} -p tcp --dport {} -j NOTRACK",
                self.iptables(),
                self.context.network,
                self.context.target.port
            ),
        )
    }

    fn not_sent(&self) -> Option<Finding> {
        let (cause, target) = (self.evidence.not_sent?, self.context.target);
        let (why, remedy) = match cause {
            SendError::Forbidden => (
                "a firewall rule of this host drops it",
                format!(
                    "here: {0} -S OUTPUT; {0} -t mangle -S; nft list ruleset; let packets from {1} to {target} pass",
                    self.iptables(),
                    self.context.network
                ),
            ),
            SendError::NoRoute => (
                "this host has no route to the target",
                format!("here: ip route get {0}; ip route add {0} via ROUTER", target.addr),
            ),
            SendError::NoNeighbour => (
                "no neighbour answers for the target on the device of -o",
                "here: ip neigh; or give the MAC address of the next hop in -x".to_owned(),
            ),
            SendError::TooLarge => {
                ("the device does not take even a SYN", "here: ip link shows the device's MTU".to_owned())
            }
            SendError::QueueFull => {
                ("the device's queue is full", "here: tc -s qdisc shows what is waiting, and for what".to_owned())
            }
            SendError::NoSocket | SendError::Other => ("the system refuses it", "here: dmesg | tail".to_owned()),
        };
        Some(failure(format!("{}: the SYN did not leave this host: {why}", self.session()), remedy))
    }

    fn not_reported(&self) -> Option<Finding> {
        let said = self.evidence.links_lost.as_ref()?;
        Some(failure(
            format!("{}: {}, and then the link to {} was lost: {said}", self.session(), self.left(), self.reporter()),
            format!("on {}: look at the log of intercept; then probe again", self.way_back()),
        ))
    }

    /// ICMP errors that came back, or that this host sent to itself.
    fn forbidden_on_the_way(&self) -> Option<Finding> {
        let IcmpError { from, cause, .. } = *self.evidence.seen.errors.first()?;
        let target = self.context.target;
        let (said, remedy) = match cause {
            IcmpCause::NetUnreachable => ("network unreachable", format!("on {from}: ip route get {}", target.addr)),
            IcmpCause::HostUnreachable => {
                ("host unreachable", format!("is {} up, and its address right? on {from}: ip neigh", target.addr))
            }
            IcmpCause::PortUnreachable => {
                ("port unreachable", format!("on {from}: a rule rejects it: {0} -S; nft list ruleset", self.iptables()))
            }
            IcmpCause::Prohibited => (
                "prohibited by a rule",
                format!(
                    "on {from}: {} -S; nft list ruleset; let packets from {} to {target} pass",
                    self.iptables(),
                    self.context.network
                ),
            ),
            IcmpCause::TooBig(_) => ("too big for the next network", "give a smaller -M (--mtu)".to_owned()),
            IcmpCause::TimeExceeded => ("too many hops: a loop of routes", format!("here: tracepath {}", target.addr)),
            IcmpCause::Other(..) => ("not deliverable", format!("on {from}: ip route get {}", target.addr)),
        };
        Some(failure(
            format!("{}: {}; {from} sent it back with an ICMP error: {said}", self.session(), self.left()),
            remedy,
        ))
    }

    fn not_seen(&self) -> Option<Finding> {
        let (seen, target) = (&self.evidence.seen, self.context.target);
        if !seen.everywhere || !seen.syn_on.is_empty() {
            return None;
        }
        if let Some(Direct::Unreachable(said)) = &self.evidence.direct {
            return Some(self.unreachable(said));
        }
        Some(failure(
            format!(
                "{}: the SYN did not leave this host, though the system took it: the next hop to {target} does not answer, or \
                 traffic control drops it, or address translation (a rule of table nat) gave it another source",
                self.session()
            ),
            format!(
                "here: ip route get {}; ip neigh; tc -s qdisc; {} -t nat -S; nft list ruleset",
                target.addr,
                self.iptables()
            ),
        ))
    }

    fn unreachable(&self, said: &str) -> Finding {
        let address = self.context.target.addr;
        failure(
            format!("{}: {address} cannot be reached from this host at all: {said}", self.session()),
            format!("is {address} up, and its address right? here: ip route get {address}; ip neigh show {address}"),
        )
    }

    /// The target's answer came to this host, where it should not be, or where it is not captured.
    fn answered_here(&self) -> Option<Finding> {
        let (device, flags) = self.evidence.seen.answer.as_ref()?;
        if self.target_is_here() && !self.context.local && !self.evidence.intercept_is_here {
            // It was seen on its way out.
            return None;
        }
        let what = if flags.contains(Flags::RST) { "RST" } else { "SYN-ACK" };
        if self.context.local {
            return Some(failure(
                format!(
                    "{}: {}; the target's {what} came on {device}, where --response-device and --response-filter do not look",
                    self.session(),
                    self.left()
                ),
                format!("give --response-device {device}, and leave --response-filter out"),
            ));
        }
        if self.evidence.intercept_is_here {
            return Some(failure(
                format!(
                    "{}: {}; the target's {what} came to this host on {device}, but intercept did not report it: its -i or -F \
                     does not take it",
                    self.session(),
                    self.left()
                ),
                format!("here: intercept -i {device} -F 'tcp and src port {}'", self.context.target.port),
            ));
        }
        Some(failure(
            format!(
                "{}: {}; the target's {what} came back to this host on {device}, and not to {}: its route for {} leads here",
                self.session(),
                self.left(),
                self.reporter(),
                self.context.network
            ),
            format!("{}: {}", self.at_target(), self.route("replace")),
        ))
    }

    /// Nothing was heard of the SYN.
    fn silent(&self) -> Finding {
        let (target, port) = (self.context.target, self.context.target.port);
        let nothing = format!("{}: {}; no SYN-ACK reached {}", self.session(), self.left(), self.reporter());
        match (&self.evidence.direct, self.evidence.from_intercept) {
            (Some(Direct::Unreachable(said)), _) => self.unreachable(said),
            (Some(Direct::Refused), _) => failure(
                format!("{nothing}; {target} refuses connections from this host's own address: nothing listens there"),
                format!(
                    "{}: ss -ltn 'sport = :{port}'; or give another port in -x. Then probe again: its RST should have come \
                     to {}, too",
                    self.at_target(),
                    self.way_back()
                ),
            ),
            (Some(Direct::NoAnswer), _) => self.does_not_answer(&nothing),
            (Some(Direct::Accepted), Some(true)) => failure(
                format!(
                    "{nothing}, though {target} is there and answers to {} itself: the target has no route for {} via {}, or it, \
                     or a firewall on the way, drops what comes from there (rp_filter, rules)",
                    self.way_back(),
                    self.context.network,
                    self.way_back()
                ),
                self.route_or_rp_filter(),
            ),
            (Some(Direct::Accepted), Some(false)) => failure(
                format!(
                    "{nothing}, and none for a SYN from {} either, though {target} accepts connections from this host: \
                     intercept does not see the target's answers (its -i or -F does not take them), or the network drops \
                     packets with foreign source addresses",
                    self.way_back()
                ),
                format!("on {}: intercept -i DEVICE -F 'tcp and src port {port}'", self.way_back()),
            ),
            (Some(Direct::Accepted), None) if self.context.local && self.target_is_here() => failure(
                format!(
                    "{nothing}, though {target} accepts connections from this host's own address: no route of this host leads \
                     its answers to {} to a device on which they are captured, or it drops what comes from there (rp_filter, \
                     rules)",
                    self.context.network
                ),
                format!(
                    "{}; when that is there: {} -S; nft list ruleset",
                    cable(&self.context.network),
                    self.iptables()
                ),
            ),
            (Some(Direct::Accepted), None) => failure(
                format!(
                    "{nothing}, though {target} accepts connections from this host's own address: the target has no route for \
                     {} via {}, drops what comes from there (rp_filter, rules), or its answers are not captured",
                    self.context.network,
                    self.way_back()
                ),
                self.route_or_rp_filter(),
            ),
            (None, _) => self.silent_on_target(&nothing),
        }
    }

    fn route_or_rp_filter(&self) -> String {
        let filter = if self.context.target.addr.is_ipv4() { "sysctl -w net.ipv4.conf.all.rp_filter=2; " } else { "" };
        let (there, route, iptables) = (self.at_target(), self.route("add"), self.iptables());
        format!("{there}: {route}; when that route is there: {filter}{iptables} -S; nft list ruleset")
    }

    /// The target does not answer us either, by our own address.
    fn does_not_answer(&self, nothing: &str) -> Finding {
        let (target, port) = (self.context.target, self.context.target.port);
        if self.evidence.echo == Some(true) {
            return failure(
                format!(
                    "{nothing}, and {target} does not answer connections from this host's own address either, though {} \
                     answers to ping: a firewall there, or on the way, drops packets to port {port} (INPUT) or from it \
                     (OUTPUT)",
                    target.addr
                ),
                format!(
                    "{}: {} -S; nft list ruleset; let packets to and from port {port} pass",
                    self.at_target(),
                    self.iptables()
                ),
            );
        }
        failure(
            format!(
                "{nothing}, and {} answers this host neither on port {port} nor to ping: it is down, or a firewall drops \
                 everything, or no route leads there",
                target.addr
            ),
            format!("is {0} up, and its address right? here: ip route get {0}; tracepath {0}", target.addr),
        )
    }

    /// As in the traditional set-up: intercept takes all answers from the port, so that the target cannot be asked directly.
    fn silent_on_target(&self, nothing: &str) -> Finding {
        let (target, port) = (self.context.target, self.context.target.port);
        if self.evidence.echo == Some(false) {
            return failure(
                format!("{nothing}, and {} does not answer to ping either: it may be down", target.addr),
                format!("is {0} up, and its address right? here: ip route get {0}", target.addr),
            );
        }
        failure(
            format!(
                "{nothing}, which runs on the target itself: the SYN is dropped there (firewall, rp_filter), the target has no \
                 route back to {} and so sends none, or its answers do not get into intercept's queue",
                self.context.source
            ),
            format!(
                "{}: intercept --nfqueue 0 --setup {port}; ip route get {}; sysctl -w net.ipv4.conf.all.rp_filter=2",
                self.at_target(),
                self.context.source
            ),
        )
    }
}

fn milliseconds(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests;
