//! The probe: one session of our own through the whole loop, with the options of the real run, and the name of the hop
//! where it stopped.
//!
//! The session goes the way of copies: out of the same socket, from an address of `-c`, with a route at the same
//! intercepts (`tcpcopy_engine::probe`). Meanwhile this host's devices are watched for it (`watch`). When it does not get
//! through, a few more questions are asked (`loops`), and what all that says together is put into words (`verdict`).
//!
//! **Beside a running copy.** Copies keep their clients' ports, or take others from 1024 on; the probe's ports are below.
//! So its route never takes the place of a copy's.
//!
//! **Without `-c`** copies have their clients' addresses, of which none may be used for a probe: its answers would reach a
//! stranger. Where intercept runs on the target itself it takes all answers whoever they are for, so an address does that
//! belongs to nobody (RFC 5737, RFC 3849). Otherwise the loop is not probed.

mod context;
mod loops;
mod verdict;
mod watch;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tcpcopy_engine::copier::source::SourcePool;
use tcpcopy_wire::{Endpoint, Transport};

pub(super) use self::context::network_of;
use self::context::{Context, own_address};
use self::loops::Loop;
use super::finding::{Finding, Outcome};
use crate::tcpcopy::options::Options;

/// What all findings of the probe are called.
const CHECK: &str = "probe";
/// Addresses that belong to nobody.
const NOBODY: (Ipv4Addr, Ipv6Addr) = (Ipv4Addr::new(192, 0, 2, 1), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));

/// Probes the loop to each target. Takes about a second for each that answers, and up to a quarter of a minute for one that
/// does not. Leaves no route and no connection behind.
pub(super) fn run(options: &Options) -> Vec<Finding> {
    let mut findings = Vec::new();
    let (mut targets, mut datagrams): (Vec<Endpoint>, Vec<Endpoint>) = (Vec::new(), Vec::new());
    for map in &options.maps {
        let list = if map.transport == Transport::Tcp { &mut targets } else { &mut datagrams };
        if !list.contains(&map.target) {
            list.push(map.target);
        }
    }
    for target in datagrams {
        findings.push(finding(
            Outcome::Warning,
            format!("{target} over UDP is not probed: what it would answer depends on its protocol"),
            Some("start the copy; the line `udp responses` of its log counts what is answered".to_owned()),
        ));
    }
    if targets.is_empty() {
        return findings;
    }
    let mut way = match Loop::open(options) {
        Ok(way) => way,
        Err(finding) => {
            findings.push(*finding);
            return findings;
        }
    };
    findings.extend(way.connect());
    if way.is_cut() {
        return findings;
    }
    for target in targets {
        let network = network_of(options.sources.iter().flat_map(SourcePool::addresses), target.addr);
        let on_target = options.intercepts.iter().any(|intercept| intercept.ip() == target.addr);
        let Some(source) = source(options, target.addr, on_target) else {
            findings.push(finding(
                Outcome::Warning,
                format!(
                    "{target} is not probed: without -c copies have their clients' addresses, and the answers to a probe \
                     from one of these would reach that client"
                ),
                Some("give -c a network that is used for nothing else, and route it to intercept on the target".to_owned()),
            ));
            continue;
        };
        let context = Context {
            target,
            source,
            network: network.unwrap_or_else(|| source.to_string()),
            intercepts: options.intercepts.clone(),
            on_target,
            local: options.responses.is_some(),
            is_borrowed: network_is_missing(options),
            own: own_address(target),
        };
        let evidence = way.probe(&context);
        findings.push(verdict::verdict(&evidence, &context));
        if way.is_stopped() {
            break;
        }
    }
    findings
}

/// An address for the probe, of the target's family.
fn source(options: &Options, target: IpAddr, on_target: bool) -> Option<IpAddr> {
    let given = options.sources.iter().flat_map(SourcePool::addresses).find(|a| a.is_ipv4() == target.is_ipv4());
    let nobody = if target.is_ipv4() { NOBODY.0.into() } else { NOBODY.1.into() };
    given.or((network_is_missing(options) && on_target).then_some(nobody))
}

/// Whether copies have their clients' addresses.
fn network_is_missing(options: &Options) -> bool {
    options.sources.iter().all(SourcePool::is_empty)
}

fn finding(outcome: Outcome, text: String, remedy: Option<String>) -> Finding {
    Finding { check: CHECK, outcome, text, remedy }
}

fn failure(text: impl Into<String>, remedy: impl Into<String>) -> Finding {
    finding(Outcome::Failure, text.into(), Some(remedy.into()))
}

/// Addresses as a list.
fn names(intercepts: &[SocketAddr]) -> String {
    let list: Vec<String> = intercepts.iter().map(ToString::to_string).collect();
    list.join(", ")
}
