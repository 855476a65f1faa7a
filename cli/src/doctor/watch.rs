//! Whether the filter finds anything to copy: a few seconds of the real capture, and where that shows nothing, of what is
//! there besides.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use tcpcopy_engine::Map;
use tcpcopy_io::capture::{Capture, CaptureConfig, CaptureError};
use tcpcopy_io::host::Device;
use tcpcopy_wire::decap::{Decapsulation, Frame};
use tcpcopy_wire::tcp::Flags;
use tcpcopy_wire::{Endpoint, Packet, Transport};

use super::checks::Check;
use super::finding::Finding;
use crate::tcpcopy::options::Options;
use crate::tcpcopy::start::capture_config;
use crate::tcpcopy::worker::Side;

/// Pause between two looks at the rings.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Packets that are enough to judge by.
const ENOUGH: u64 = 20_000;
/// Packets that are taken from a ring at once.
const AT_ONCE: usize = 4096;
/// Clients that are told apart at most.
const CLIENTS: usize = 100_000;
/// Destinations that are told apart at most.
const DESTINATIONS: usize = 10_000;
/// Destinations that are named.
const NAMED: usize = 3;
/// Other devices that are looked at at most.
const OTHER_DEVICES: usize = 16;
/// Bytes of the rings for what is not to be copied: it is counted, not kept.
const SMALL_RING: usize = 2 << 20;
/// Bytes of each packet that tell where it goes.
const HEADERS: usize = 256;

/// What a capture has shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) packets: u64,
    /// To an online server of `-x`.
    pub(super) of_maps: u64,
    /// Of these, beginnings of connections.
    pub(super) begun: u64,
    pub(super) clients: HashSet<IpAddr>,
    /// Where packets went that no map is about.
    pub(super) elsewhere: BTreeMap<(String, u16), u64>,
}

impl Seen {
    fn count(&mut self, maps: &[Map], tunnels: &Decapsulation, frame: Frame<'_>) {
        self.packets += 1;
        let inner = if tunnels.is_on() { tunnels.innermost(frame).ok().flatten() } else { None };
        let Frame { link, bytes, wire_len } = inner.unwrap_or(frame);
        let (transport, from, to, begins) = match Packet::from_frame(link, bytes, wire_len) {
            Ok(Packet::Tcp(segment)) => {
                let flags = segment.tcp.flags();
                let begins = flags.contains(Flags::SYN) && !flags.contains(Flags::ACK);
                (Transport::Tcp, segment.src, segment.dst, begins)
            }
            Ok(Packet::Udp(datagram)) => (Transport::Udp, datagram.src, datagram.dst, false),
            // Of a fragment the ports are not known; the rest nobody copies.
            Ok(Packet::Fragment(_)) | Err(_) => return,
        };
        let is_for = |map: &Map, end: Endpoint| {
            map.transport == transport
                && map.online_port == end.port
                && map.online_addr.is_none_or(|addr| addr == end.addr)
        };
        if maps.iter().any(|map| is_for(map, to)) {
            self.of_maps += 1;
            self.begun += u64::from(begins);
            if self.clients.len() < CLIENTS {
                self.clients.insert(from.addr);
            }
        } else if !maps.iter().any(|map| is_for(map, from)) {
            let place = (transport.to_string(), to.port.0);
            if self.elsewhere.contains_key(&place) || self.elsewhere.len() < DESTINATIONS {
                *self.elsewhere.entry(place).or_default() += 1;
            }
        }
    }

    /// Where most of the other packets went.
    fn busiest(&self) -> String {
        let mut places: Vec<(&(String, u16), &u64)> = self.elsewhere.iter().collect();
        places.sort_by_key(|(_, packets)| std::cmp::Reverse(**packets));
        let named = places.iter().take(NAMED).map(|((transport, port), n)| format!("{n} to {transport} port {port}"));
        named.collect::<Vec<_>>().join(", ")
    }
}

/// What there was besides, when the filter found nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Beside {
    /// On the same devices without the filter.
    pub(super) unfiltered: Seen,
    /// On other devices with it: their names and the packets.
    pub(super) other_devices: Vec<(String, u64)>,
}

/// What was looked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    pub(super) filter: &'a str,
    /// By `-F`, not made from the maps.
    pub(super) filter_is_given: bool,
    pub(super) devices: &'a [String],
    pub(super) maps: &'a [Map],
    pub(super) duration: Duration,
}

/// Watches the devices of a copy.
///
/// # Errors
/// When one of them cannot be captured on.
pub(super) fn watch(
    options: &Options,
    devices: &[Device],
    duration: Duration,
) -> Result<(Seen, Option<Beside>), CaptureError> {
    let capture = |device: &str| capture_config(options, device, Side::Clients, &options.filter);
    let captures: Vec<CaptureConfig> = options.devices.iter().map(|device| capture(device)).collect();
    let seen = look(options, &captures, &[], duration)?.remove(0);
    if seen.of_maps > 0 {
        return Ok((seen, None));
    }
    let small = |config: CaptureConfig| CaptureConfig { buffer_bytes: SMALL_RING, snaplen: HEADERS, ..config };
    let unfiltered =
        |config: &CaptureConfig| CaptureConfig { filter: String::new(), behind_tags: false, ..small(config.clone()) };
    let own: Vec<CaptureConfig> = captures.iter().map(unfiltered).collect();
    let is_used = |device: &Device| options.devices.iter().any(|used| *used == device.name || used == "any");
    let others: Vec<&Device> =
        devices.iter().filter(|device| device.is_up && !is_used(device)).take(OTHER_DEVICES).collect();
    let of_others: Vec<CaptureConfig> = others.iter().map(|device| small(capture(&device.name))).collect();
    let mut unfiltered = None;
    let mut other_devices = Vec::new();
    // A device that is in the way here was none of the options'.
    if let Ok(mut all) = look(options, &own, &of_others, duration) {
        let rest = all.split_off(1);
        unfiltered = all.pop();
        let with_names = others.iter().zip(rest).filter(|(_, seen)| seen.of_maps > 0);
        other_devices = with_names.map(|(device, seen)| (device.name.clone(), seen.of_maps)).collect();
    }
    Ok((seen, Some(Beside { unfiltered: unfiltered.unwrap_or_default(), other_devices })))
}

/// Watches captures that are counted together, and others of which each is counted by itself; the former come first.
fn look(
    options: &Options,
    together: &[CaptureConfig],
    apart: &[CaptureConfig],
    duration: Duration,
) -> Result<Vec<Seen>, CaptureError> {
    let mut captures = Vec::new();
    for config in together {
        captures.push((Capture::open(config)?, 0));
    }
    for (number, config) in apart.iter().enumerate() {
        // One that cannot be looked at shows nothing.
        captures.extend(Capture::open(config).ok().map(|capture| (capture, number + 1)));
    }
    let mut seen = vec![Seen::default(); apart.len() + 1];
    let end = Instant::now() + duration;
    while Instant::now() < end && seen[0].packets < ENOUGH {
        thread::sleep(LOOK_EVERY);
        for (capture, number) in &mut captures {
            let link = capture.link_type();
            let seen = &mut seen[*number];
            capture.drain(AT_ONCE, |bytes, wire_len| {
                seen.count(&options.maps, &options.decapsulation, Frame { link, bytes, wire_len });
            })?;
        }
    }
    Ok(seen)
}

/// What the capture has shown means.
pub(super) fn judge(wanted: Wanted<'_>, seen: &Seen, beside: Option<&Beside>) -> Finding {
    let Wanted { filter, filter_is_given, devices, maps, duration } = wanted;
    let names = devices.join(", ");
    let seconds = duration.as_secs_f32();
    let ports: Vec<String> = maps.iter().map(|map| format!("{} port {}", map.transport, map.online_port)).collect();
    let ports = ports.join(", ");
    if seen.of_maps > 0 {
        let clients = seen.clients.len();
        let text = format!(
            "{} packets of {clients} client{} on {names} within {seconds} s, {} of them beginnings of connections",
            seen.of_maps,
            if clients == 1 { "" } else { "s" },
            seen.begun
        );
        return Check::Traffic.ok(text);
    }
    let nothing = format!("no packet to {ports} on {names} within {seconds} s");
    if seen.packets > 0 {
        return Check::Traffic.failure(
            format!("{nothing}; the filter took {} others, most of them {}: {filter}", seen.packets, seen.busiest()),
            "give the port and address of the online server in -x; leave -F out to have the filter made from it",
        );
    }
    let none = Beside::default();
    let Beside { unfiltered, other_devices } = beside.unwrap_or(&none);
    if unfiltered.of_maps > 0 {
        let remedy = if filter_is_given {
            "leave -F out to have the filter made from -x, or have -F take what clients send to these ports"
        } else {
            "is what the capture shows in a tunnel (--decap), or the address in -x another one than the clients use?"
        };
        return Check::Traffic
            .failure(format!("{nothing} with the filter `{filter}`, and {} without it", unfiltered.of_maps), remedy);
    }
    if !other_devices.is_empty() {
        let found: Vec<String> = other_devices.iter().map(|(name, n)| format!("{n} on `{name}`")).collect();
        let names: Vec<&str> = other_devices.iter().map(|(name, _)| name.as_str()).collect();
        return Check::Traffic.failure(
            format!("{nothing}, but {}", found.join(", ")),
            format!("-i {}, or leave -i out for all devices", names.join(",")),
        );
    }
    if unfiltered.elsewhere.is_empty() {
        return Check::Traffic.warning(
            format!("{nothing}, nor any other packet of TCP or UDP"),
            "are there clients just now? If so, they come in by another device (-i), or this host sees none of their packets",
        );
    }
    Check::Traffic.warning(
        format!("{nothing}; without the filter {} packets were seen, {}", unfiltered.packets, unfiltered.busiest()),
        "are there clients just now? If one of these is the online server's port, give that in -x",
    )
}

#[cfg(test)]
mod tests;
