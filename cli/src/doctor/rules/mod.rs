//! What a host's firewall does with certain packets: the rules of iptables and nftables, walked through as the kernel does.
//!
//! Conditions that are not understood, or about things that a packet to come does not have yet, are neither met nor not met:
//! what such a rule would do is reported as possible.

mod iptables;
mod nft;

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use tcpcopy_io::host::Rulesets;
use tcpcopy_wire::Transport;

/// Chains that call each other deeper than the kernel lets them.
const MAX_DEPTH: usize = 16;

/// Where in the kernel a chain is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Hook {
    Input,
    Output,
    Postrouting,
}

/// What conntrack says of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    New,
    Invalid,
    Untracked,
}

impl State {
    fn is_named(self, name: &str) -> bool {
        match self {
            Self::New => name.eq_ignore_ascii_case("new"),
            Self::Invalid => name.eq_ignore_ascii_case("invalid"),
            Self::Untracked => name.eq_ignore_ascii_case("untracked"),
        }
    }
}

/// A packet that will be sent, or come in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) transport: Transport,
    /// `None`: any.
    pub(super) from: Option<IpAddr>,
    pub(super) to: IpAddr,
    pub(super) to_port: u16,
    /// The device that it leaves or enters by.
    pub(super) device: Option<String>,
    /// It begins a connection (SYN).
    pub(super) is_first: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Truth {
    Yes,
    No,
    Maybe,
}

impl Truth {
    fn of(known: bool) -> Self {
        if known { Self::Yes } else { Self::No }
    }

    fn not(self) -> Self {
        match self {
            Self::Yes => Self::No,
            Self::No => Self::Yes,
            Self::Maybe => Self::Maybe,
        }
    }
}

/// A range of ports, both ends included.
type Ports = (u16, u16);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Condition {
    From(Vec<IpNet>),
    To(Vec<IpNet>),
    Transport(Vec<Transport>),
    ToPort(Vec<Ports>),
    InDevice(Vec<String>),
    OutDevice(Vec<String>),
    State(Vec<String>),
    First,
    Ipv4,
    Ipv6,
    /// It says nothing about which packets.
    Always,
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Action {
    /// Counting, logging, marking.
    Nothing,
    Accept,
    /// In the words of the rule: dropped, rejected, queued.
    Drop(String),
    Return,
    Jump(String),
    Goto(String),
    /// Source or destination become others.
    Rewrite(String),
    Untrack,
    Unknown(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    /// Each with whether it is meant the other way round.
    conditions: Vec<(bool, Condition)>,
    action: Action,
    /// The rule as its program writes it.
    text: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Chain {
    /// Where it is asked, in which order, and what becomes of a packet that passes all rules.
    base: Option<Base>,
    rules: Vec<Rule>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Base {
    hook: Hook,
    priority: i64,
    drops: bool,
    text: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Table {
    /// It is asked for packets of these families.
    ipv4: bool,
    ipv6: bool,
    chains: BTreeMap<String, Chain>,
}

/// All rules of a host.
#[derive(Clone, Debug, Default)]
pub(super) struct Rules {
    tables: Vec<Table>,
    /// Nothing could be looked at.
    pub(super) is_unknown: bool,
}

/// What becomes of a packet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Passage {
    /// The rule that ends its way.
    pub(super) dropped: Option<String>,
    /// The rule that changes its addresses.
    pub(super) rewritten: Option<String>,
    /// Rules that may do one or the other.
    pub(super) possible: Vec<String>,
    /// A rule exempts it from connection tracking.
    pub(super) untracked: bool,
    /// A rule may let it pass in front of those that follow.
    may_have_passed: bool,
}

impl Passage {
    /// A rule, or a chain, ends the packet's way, unless one before it let it pass.
    fn end(&mut self, text: String) {
        if self.may_have_passed { self.possible.push(text) } else { self.dropped = Some(text) }
    }
}

impl Rules {
    /// Reads what the programs have listed.
    pub(super) fn read(listed: &Rulesets) -> Self {
        let mut tables = Vec::new();
        for (text, is_ipv4) in [(&listed.iptables, true), (&listed.ip6tables, false)] {
            tables.extend(text.iter().flat_map(|text| iptables::tables(text, is_ipv4)));
        }
        if let Some(text) = &listed.nft {
            tables.extend(nft::tables(text, listed.iptables.is_some(), listed.ip6tables.is_some()));
        }
        Self { tables, is_unknown: listed.is_unknown() }
    }

    /// Whether there is any rule, or chain that drops by itself.
    pub(super) fn is_empty(&self) -> bool {
        let is_plain = |chain: &Chain| chain.rules.is_empty() && chain.base.as_ref().is_none_or(|base| !base.drops);
        self.tables.iter().flat_map(|table| table.chains.values()).all(is_plain)
    }

    /// Whether a rule makes the kernel track connections: one that asks for their state, or changes addresses.
    pub(super) fn track_connections(&self) -> bool {
        let rules = self.tables.iter().flat_map(|table| table.chains.values()).flat_map(|chain| &chain.rules);
        rules.into_iter().any(|rule| {
            matches!(rule.action, Action::Rewrite(_))
                || rule.conditions.iter().any(|(_, condition)| matches!(condition, Condition::State(_)))
        })
    }

    /// Follows a packet through hooks, in their order.
    pub(super) fn follow(&self, packet: &Packet, hooks: &[Hook]) -> Passage {
        let mut passage = Passage::default();
        for hook in hooks {
            let mut asked: Vec<(&Table, &Base, &Chain)> = Vec::new();
            for table in &self.tables {
                if if packet.to.is_ipv4() { table.ipv4 } else { table.ipv6 } {
                    let bases = table.chains.values().filter_map(|chain| Some((table, chain.base.as_ref()?, chain)));
                    asked.extend(bases.filter(|(_, base, _)| base.hook == *hook));
                }
            }
            asked.sort_by_key(|(_, base, _)| base.priority);
            for (table, base, chain) in asked {
                passage.may_have_passed = false;
                let end = walk(table, chain, packet, &mut passage, 0);
                if end == End::Passed && base.drops {
                    passage.end(base.text.clone());
                }
                if passage.dropped.is_some() {
                    return passage;
                }
            }
        }
        passage
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// No rule has decided.
    Passed,
    /// One has.
    Decided,
}

fn walk(table: &Table, chain: &Chain, packet: &Packet, passage: &mut Passage, depth: usize) -> End {
    for rule in &chain.rules {
        let applies = applies(rule, packet, passage.untracked);
        if applies == Truth::No {
            continue;
        }
        let mut note = |what: &str| passage.possible.push(format!("{} ({what})", rule.text));
        match (&rule.action, applies) {
            // What may be exempt from tracking is tracked, as far as is certain.
            (Action::Nothing, _) | (Action::Untrack, Truth::Maybe | Truth::No) => {}
            (Action::Drop(what), Truth::Yes) => {
                passage.end(format!("{} ({what})", rule.text));
                return End::Decided;
            }
            // Addresses of what is not tracked stay as they are.
            (Action::Rewrite(_), _) if passage.untracked => {}
            (Action::Rewrite(what), Truth::Yes) => {
                passage.rewritten = Some(format!("{} ({what})", rule.text));
                return End::Decided;
            }
            (Action::Accept, Truth::Yes) => return End::Decided,
            (Action::Return, Truth::Yes) => return End::Passed,
            (Action::Untrack, Truth::Yes) => passage.untracked = true,
            (Action::Drop(what) | Action::Rewrite(what) | Action::Unknown(what), _) => note(what),
            (Action::Jump(name) | Action::Goto(name), _) => {
                let Some(called) = table.chains.get(name).filter(|_| depth < MAX_DEPTH) else { continue };
                let (untracked, may_have_passed) = (passage.untracked, passage.may_have_passed);
                let mut inside = Passage { untracked, may_have_passed, ..Passage::default() };
                let end = walk(table, called, packet, &mut inside, depth + 1);
                passage.possible.append(&mut inside.possible);
                if applies == Truth::Yes {
                    (passage.untracked, passage.may_have_passed) = (inside.untracked, inside.may_have_passed);
                    passage.rewritten = passage.rewritten.take().or(inside.rewritten);
                    passage.dropped = inside.dropped;
                    if end == End::Decided {
                        return End::Decided;
                    }
                    if matches!(rule.action, Action::Goto(_)) {
                        return End::Passed;
                    }
                } else {
                    passage.may_have_passed |= end == End::Decided && inside.dropped.is_none();
                    passage.possible.extend(inside.dropped.into_iter().chain(inside.rewritten));
                }
            }
            (Action::Accept | Action::Return, _) => passage.may_have_passed = true,
        }
    }
    End::Passed
}

/// Whether a rule is about a packet.
fn applies(rule: &Rule, packet: &Packet, untracked: bool) -> Truth {
    let mut result = Truth::Yes;
    for (negated, condition) in &rule.conditions {
        let met = is_met(condition, packet, untracked);
        match if *negated { met.not() } else { met } {
            Truth::No => return Truth::No,
            Truth::Maybe => result = Truth::Maybe,
            Truth::Yes => {}
        }
    }
    result
}

fn is_met(condition: &Condition, packet: &Packet, untracked: bool) -> Truth {
    let within = |address: Option<IpAddr>, nets: &[IpNet]| match address {
        Some(address) => Truth::of(nets.iter().any(|net| net.contains(&address))),
        None if nets.iter().any(|net| net.prefix_len() == 0) => Truth::Yes,
        None => Truth::Maybe,
    };
    let through = |names: &[String]| match &packet.device {
        Some(device) => Truth::of(names.iter().any(|name| match name.strip_suffix(['+', '*']) {
            Some(beginning) => device.starts_with(beginning),
            None => name == device,
        })),
        None => Truth::Maybe,
    };
    match condition {
        Condition::From(nets) => within(packet.from, nets),
        Condition::To(nets) => within(Some(packet.to), nets),
        Condition::Transport(transports) => Truth::of(transports.contains(&packet.transport)),
        Condition::ToPort(ports) => {
            Truth::of(ports.iter().any(|(first, last)| (*first..=*last).contains(&packet.to_port)))
        }
        Condition::InDevice(names) | Condition::OutDevice(names) => through(names),
        Condition::State(names) => {
            let state = match (untracked, packet.is_first || packet.transport == Transport::Udp) {
                (true, _) => State::Untracked,
                (false, true) => State::New,
                // No answer passes this host, so that the kernel never sees a connection come about.
                (false, false) => State::Invalid,
            };
            Truth::of(names.iter().any(|name| state.is_named(name)))
        }
        Condition::First => Truth::of(packet.is_first),
        Condition::Ipv4 => Truth::of(packet.to.is_ipv4()),
        Condition::Ipv6 => Truth::of(packet.to.is_ipv6()),
        Condition::Always => Truth::Yes,
        Condition::Unknown => Truth::Maybe,
    }
}

#[cfg(test)]
mod tests;
