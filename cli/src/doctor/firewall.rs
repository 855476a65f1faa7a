//! Judgements about the firewall: what it does with packets that a copy depends on.

use std::net::IpAddr;

use tcpcopy_wire::{Endpoint, Transport};

use super::checks::Check;
use super::finding::Finding;
use super::rules::{Hook, Packet, Passage, Rules};

/// Rules that are shown in one message at most.
const SHOWN: usize = 3;

/// What becomes of copies to a target, which leave by a device.
pub(super) fn copies(rules: &Rules, from: Option<IpAddr>, target: Endpoint, over: Transport, device: &str) -> Finding {
    if rules.is_unknown {
        return unknown();
    }
    let protocol = over.to_string().to_lowercase();
    let program = if target.addr.is_ipv4() { "iptables" } else { "ip6tables" };
    let packets = format!("-d {} -p {protocol} --dport {}", target.addr, target.port);
    let family = if target.addr.is_ipv4() { "ip" } else { "ip6" };
    let in_nft = format!("{family} daddr {}", target.addr);
    let pass = |rule: &str| {
        let (table, chain) = place(rule);
        format!("{program} -t {table} -I {chain} {packets} -j ACCEPT")
    };
    let passages = both(rules, from, target, over, device, &[Hook::Output, Hook::Postrouting]);
    if let Some(rule) = passages.iter().find_map(|passage| passage.dropped.as_ref()) {
        let remedy = remedy(rule, &pass(rule), &in_nft);
        return Check::Firewall
            .failure(format!("this host's firewall ends the way of copies to {target}: {rule}"), remedy);
    }
    if let Some(rule) = passages.iter().find_map(|passage| passage.rewritten.as_ref()) {
        let remedy = remedy(rule, &pass(rule), &in_nft);
        return Check::Firewall
            .failure(format!("this host's firewall changes the addresses of copies to {target}: {rule}"), remedy);
    }
    let mut possible: Vec<&String> = Vec::new();
    for rule in passages.iter().flat_map(|passage| &passage.possible) {
        if !possible.contains(&rule) {
            possible.push(rule);
        }
    }
    if possible.is_empty() {
        let text = if rules.is_empty() { "there are no rules" } else { "no rule ends or changes them" };
        return Check::Firewall.ok(format!("copies to {target} leave this host: {text}"));
    }
    Check::Firewall.warning(
        format!(
            "rules that may end or change copies to {target}, by what cannot be told from here: {}",
            shown(&possible)
        ),
        format!("if copies get lost: {}", pass(possible[0])),
    )
}

/// Whether copies to a target are exempt from connection tracking.
pub(super) fn is_untracked(
    rules: &Rules,
    from: Option<IpAddr>,
    target: Endpoint,
    over: Transport,
    device: &str,
) -> bool {
    both(rules, from, target, over, device, &[Hook::Output]).iter().all(|passage| passage.untracked)
}

/// Whether tcpcopys get through to intercept's port.
pub(super) fn control_port(rules: &Rules, port: u16) -> Finding {
    if rules.is_unknown {
        return unknown();
    }
    let to = Endpoint::from(std::net::SocketAddr::new(IpAddr::from([127, 0, 0, 1]), port));
    let packet =
        Packet { transport: Transport::Tcp, from: None, to: to.addr, to_port: port, device: None, is_first: true };
    let passage = rules.follow(&packet, &[Hook::Input]);
    let pass = format!("iptables -I INPUT -p tcp --dport {port} -s ADDRESS-OF-TCPCOPY -j ACCEPT");
    if let Some(rule) = &passage.dropped {
        return Check::Firewall.failure(
            format!("this host's firewall lets no tcpcopy through to port {port}: {rule}"),
            remedy(rule, &pass, &format!("tcp dport {port}")),
        );
    }
    if passage.possible.is_empty() {
        return Check::Firewall.ok(format!("tcpcopys get through to port {port}"));
    }
    Check::Firewall.warning(
        format!(
            "rules that may keep tcpcopys from port {port}: {}",
            shown(&passage.possible.iter().collect::<Vec<_>>())
        ),
        pass,
    )
}

fn unknown() -> Finding {
    Check::Firewall.warning(
        "its rules cannot be looked at: iptables-save and nft are not installed, or this is not root",
        "as root: iptables-save; nft list ruleset",
    )
}

/// The first packet of a connection, and a later one: the kernel may think differently of them.
fn both(
    rules: &Rules,
    from: Option<IpAddr>,
    target: Endpoint,
    over: Transport,
    device: &str,
    hooks: &[Hook],
) -> [Passage; 2] {
    [true, false].map(|is_first| {
        let device = Some(device.to_owned());
        let packet = Packet { transport: over, from, to: target.addr, to_port: target.port.0, device, is_first };
        rules.follow(&packet, hooks)
    })
}

/// The table of iptables that a rule is in, and the chain to which the exception belongs that is asked before it.
fn place(rule: &str) -> (&str, &str) {
    let behind = |name: &str| rule.split_whitespace().skip_while(|word| *word != name).nth(1);
    let table = behind("-t").unwrap_or("filter");
    let chain = behind("-A").or(behind("-P")).filter(|chain| *chain == "POSTROUTING");
    // A chain of its own is called by one of the kernel's. Sources are changed behind routing, everything else before it.
    let called_from = if rule.contains("source address") { "POSTROUTING" } else { "OUTPUT" };
    (table, chain.unwrap_or(called_from))
}

/// The command in front of the rule; one of nft is changed where it is. `in_nft`: the packets, in nft's words.
fn remedy(rule: &str, pass: &str, in_nft: &str) -> String {
    let mut words = rule.split_whitespace();
    if words.next() != Some("nft") {
        return pass.to_owned();
    }
    let place: Vec<&str> = words.skip(1).take(3).collect();
    format!("nft insert rule {} {in_nft} accept", place.join(" "))
}

fn shown(rules: &[&String]) -> String {
    let shown: Vec<&str> = rules.iter().take(SHOWN).map(|rule| rule.as_str()).collect();
    let others = if rules.len() > SHOWN { format!(" and {} others", rules.len() - SHOWN) } else { String::new() };
    format!("{}{others}", shown.join("; "))
}

#[cfg(test)]
mod tests;
