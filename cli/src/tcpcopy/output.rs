//! What `-o` and the MAC addresses in `-x` say: how packets leave this host at the link layer.

use std::path::Path;

use tcpcopy_io::transmit::link::LinkTarget;

use super::grammar::{self, WrittenMap};
use crate::exit::Failure;

const OPTION: &str = "-o (--output-device)";

/// Sending at the link layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// The devices.
    pub devices: Vec<String>,
    /// The targets, each once.
    pub targets: Vec<LinkTarget>,
}

/// How packets are sent: at the link layer, or (`None`) by this host's routes.
///
/// # Errors
/// Wrong usage: MAC addresses without a device, a device that can be none, targets of this host, two ways to one target.
pub fn output(given: &[String], maps: &[WrittenMap<'_>]) -> Result<Option<Output>, Failure> {
    let mut devices: Vec<String> = Vec::new();
    for name in given.iter().flat_map(|list| list.split(',')).map(str::trim).filter(|name| !name.is_empty()) {
        if name == "any" || name.contains('/') || Path::new(name).is_file() {
            return Err(Failure::usage(format!("in {OPTION}: `{name}` is not a device to send on; name one as eth0")));
        }
        if !devices.iter().any(|device| device == name) {
            devices.push(name.to_owned());
        }
    }
    if devices.is_empty() {
        if maps.iter().any(|map| map.source_mac.or(map.next_hop_mac).is_some()) {
            return Err(Failure::usage(format!(
                "in {}: MAC addresses are for sending at the link layer; give the device with {OPTION}, or leave them out",
                grammar::MAP.name
            )));
        }
        return Ok(None);
    }
    let mut targets: Vec<LinkTarget> = Vec::new();
    for map in maps {
        let target = LinkTarget { addr: map.target.addr, source: map.source_mac, next_hop: map.next_hop_mac };
        if target.addr.is_loopback() {
            return Err(Failure::usage(format!(
                "in {OPTION}: the target {} is on this host, to which no device leads; leave the option out",
                map.target
            )));
        }
        let Some(known) = targets.iter_mut().find(|known| known.addr == target.addr) else {
            targets.push(target);
            continue;
        };
        let contradict = |a, b| matches!((a, b), (Some(a), Some(b)) if a != b);
        if contradict(known.source, target.source) || contradict(known.next_hop, target.next_hop) {
            return Err(Failure::usage(format!(
                "in {}: two maps to {} have different MAC addresses; all packets to one host go the same way",
                grammar::MAP.name,
                target.addr
            )));
        }
        known.source = known.source.or(target.source);
        known.next_hop = known.next_hop.or(target.next_hop);
    }
    Ok(Some(Output { devices, targets }))
}
