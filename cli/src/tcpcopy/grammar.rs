//! What `-x`, `-c`, `-s` and `--max-rate` say.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tcpcopy_engine::Rate;
use tcpcopy_wire::link::MacAddress;
use tcpcopy_wire::{Endpoint, Port};

use crate::grammar::{OptionName, Part, SyntaxError, address_with_default_port};

/// The option of the maps.
pub const MAP: OptionName = OptionName {
    name: "-x (--map)",
    example: "-x 80-10.0.0.2:8080 or -x 'udp:53-10.0.0.2:53,[fd00::1]:80-[fd00::2]:8080'",
};
/// The option of the source addresses.
pub const SOURCE: OptionName =
    OptionName { name: "-c (--source)", example: "-c 10.1.1.x or -c 10.1.1.7,10.2.0.0/20,fd00::10-fd00::1f" };
/// The option of the intercepts.
pub const INTERCEPT: OptionName =
    OptionName { name: "-s (--intercept)", example: "-s 10.0.0.3 or -s 10.0.0.3:36524,[fd00::3]:36524" };

/// The option of the rate limit.
pub const MAX_RATE: OptionName = OptionName {
    name: "--max-rate",
    example: "--max-rate 5000 (connections or datagrams a second) or --max-rate 8MB (bytes a second)",
};

/// The option of the growing sample.
pub const RAMP: OptionName = OptionName { name: "--ramp", example: "--ramp 90s or --ramp 10m" };

/// Source addresses at most: each costs a little in every worker, and more do not make copies more real.
pub const MAX_SOURCES: usize = 65_536;

/// Characters of a MAC address: six pairs of digits, with the same character, whichever, between them.
const MAC_LEN: usize = 17;

/// A map as it is written.
#[derive(Clone, Copy, Debug)]
pub struct WrittenMap<'a> {
    /// Address of the online server; `None` takes any.
    pub online_addr: Option<IpAddr>,
    /// Port of the online server.
    pub online_port: Port,
    /// Where the copy goes.
    pub target: Endpoint,
    /// The name or file of its module, if it names one.
    pub module: Option<Part<'a>>,
    /// Whom frames come from, when they are sent at the link layer; `None`: from the device.
    pub source_mac: Option<MacAddress>,
    /// Whom frames go to then; `None`: to the next hop.
    pub next_hop_mac: Option<MacAddress>,
}

/// Reads maps: `[module:][address:]port[@mac]-address:port[@mac]`, separated by commas.
///
/// # Errors
/// The first mistake.
pub fn maps(text: &str) -> Result<Vec<WrittenMap<'_>>, SyntaxError> {
    Part::whole(MAP, text).list()?.into_iter().map(map).collect()
}

fn map(whole: Part<'_>) -> Result<WrittenMap<'_>, SyntaxError> {
    let (module, part) = match module_prefix(whole)? {
        Some((module, rest)) => (Some(module), rest.trimmed()),
        None => (None, whole),
    };
    let (online, source_mac, target) = match part.text().find(['-', '@']) {
        Some(at) if part.text()[at..].starts_with('@') => {
            let (mac, rest) = mac_before_target(part.slice(at + 1..part.text().len()))?;
            (part.slice(0..at), Some(mac), rest)
        }
        _ => match part.split_once('-') {
            Some((online, target)) => (online, None, target),
            None => return Err(part.error("a map has two sides with a `-` between them: online and target")),
        },
    };
    let (target, next_hop_mac) = match target.split_once('@') {
        Some((target, mac)) => (target, Some(mac_address(mac.trimmed())?)),
        None => (target, None),
    };
    let (online, target) = (online.trimmed(), target.trimmed());
    if online.text().is_empty() {
        return Err(part.error("the port of the online server is missing before the `-`"));
    }
    let (online_addr, online_port) = online.address_and_port()?;
    let target_side = target.address_and_port()?;
    let (Some(target_addr), target_port) = target_side else {
        return Err(target.error("the address of the target is missing before its port"));
    };
    if target_addr.is_unspecified() || target_addr.is_multicast() || target_addr == IpAddr::V4(Ipv4Addr::BROADCAST) {
        return Err(target.error(format!("{target_addr} is not the address of one host")));
    }
    let target = Endpoint::new(target_addr, target_port);
    Ok(WrittenMap { online_addr, online_port, target, module, source_mac, next_hop_mac })
}

/// The module that a map names before its first `:`, and the rest of the map. A name begins with a letter and a file has
/// a `/`, so that neither can be taken for a port, for an IPv4 address or for one in brackets.
fn module_prefix(part: Part<'_>) -> Result<Option<(Part<'_>, Part<'_>)>, SyntaxError> {
    let text = part.text();
    if !text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_' || c == '.' || c == '/') {
        return Ok(None);
    }
    // A file's name ends at the first `:` behind its last `/`; nothing else in a map has a `/`.
    let folders = text.rfind('/').map_or(0, |at| at + 1);
    let Some(end) = text[folders..].find(':').map(|at| folders + at) else {
        if folders == 0 {
            return Ok(None);
        }
        return Err(part.error("a `:` and a map are expected behind the file of a module"));
    };
    let (prefix, rest) = (part.slice(0..end), part.slice(end + 1..text.len()));
    // `fd00::1:80` is an address without its brackets, and `test.example:80` is a host.
    let is_module = folders > 0 || !prefix.text().contains('.') && !rest.text().starts_with(':');
    if !is_module {
        return Ok(None);
    }
    if folders == 0 && !is_module_name(prefix.text()) {
        return Err(prefix.error(format!(
            "`{}` is not the name of a module (small letters, digits, `-` and `_`, a letter first), and names of hosts are \
             not looked up",
            prefix.text()
        )));
    }
    Ok(Some((prefix, rest)))
}

/// Whether a text can be the name of a module.
pub fn is_module_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_')
}

/// A MAC address, and what is behind it and the `-` after it. The address is taken by its length, since a `-` may stand in
/// it, too.
fn mac_before_target(part: Part<'_>) -> Result<(MacAddress, Part<'_>), SyntaxError> {
    let text = part.text();
    let end = text.char_indices().nth(MAC_LEN).map_or(text.len(), |(at, _)| at);
    let mac = mac_address(part.slice(0..end))?;
    let rest = part.slice(end..text.len()).trimmed();
    match rest.split_once('-') {
        Some((nothing, target)) if nothing.text().is_empty() => Ok((mac, target)),
        _ => Err(rest.error("a `-` and the target are expected behind the MAC address")),
    }
}

fn mac_address(part: Part<'_>) -> Result<MacAddress, SyntaxError> {
    let characters: Vec<char> = part.text().chars().collect();
    let digit = |at: usize| characters.get(at).and_then(|c| c.to_digit(16));
    let pair = |i: usize| Some((digit(i * 3)? * 16 + digit(i * 3 + 1)?) as u8);
    let bytes: Option<Vec<u8>> = (0..6).map(pair).collect();
    let alike = || characters.chunks(3).filter_map(|three| three.get(2)).all(|c| *c == characters[2]);
    let is_whole = |_: &Vec<u8>| characters.len() == MAC_LEN && alike();
    let bytes: Option<[u8; 6]> = bytes.filter(is_whole).and_then(|b| b.try_into().ok());
    let Some(mac) = bytes.map(MacAddress) else {
        return Err(part.error(format!(
            "`{}` is not a MAC address, which has six pairs of digits as in 02:00:00:00:00:01",
            part.text()
        )));
    };
    if !mac.is_of_one_interface() {
        return Err(part.error(format!("{mac} is not the MAC address of one interface")));
    }
    Ok(mac)
}

/// Reads source addresses: single ones, `a.b.c.x` (1 to 254), networks and ranges, separated by commas. The hosts of a
/// network are taken, without its own and its broadcast address. Each address is taken once.
///
/// # Errors
/// The first mistake.
pub fn sources(text: &str) -> Result<Vec<IpAddr>, SyntaxError> {
    let mut seen = HashSet::new();
    let mut addresses = Vec::new();
    for part in Part::whole(SOURCE, text).list()? {
        let (first, last) = source_range(part)?;
        if last.number() < first.number() {
            return Err(part.error("the last address is before the first"));
        }
        // One below the true count, which for the whole of IPv6 would not fit.
        let more = last.number() - first.number();
        if more >= (MAX_SOURCES - addresses.len()) as u128 {
            return Err(part.error(format!(
                "more than {MAX_SOURCES} addresses; a /16 of IPv4 or a /112 of IPv6 is as many as are taken"
            )));
        }
        for number in first.number()..=last.number() {
            let address = first.with_number(number);
            if address.is_unspecified() || address.is_multicast() || address == IpAddr::V4(Ipv4Addr::BROADCAST) {
                return Err(part.error(format!("{address} cannot be the address of a client")));
            }
            if seen.insert(address) {
                addresses.push(address);
            }
        }
    }
    Ok(addresses)
}

fn source_range(part: Part<'_>) -> Result<(IpAddr, IpAddr), SyntaxError> {
    let text = part.text();
    if text.contains('*') {
        let at = text.find('*').unwrap_or(0);
        return Err(part.slice(at..at + 1).error("`*` is not taken here; write `x` in the last place, or a network"));
    }
    if let Some(prefix) = text.strip_suffix(['x', 'X'])
        && prefix.ends_with('.')
    {
        let Ok(first) = format!("{prefix}1").parse::<Ipv4Addr>() else {
            return Err(part.error("`x` stands in the last place of an IPv4 address, with three numbers before it"));
        };
        let [a, b, c, _] = first.octets();
        return Ok((first.into(), Ipv4Addr::new(a, b, c, 254).into()));
    }
    if let Some((network, length)) = part.split_once('/') {
        return hosts(network.address()?, length);
    }
    if let Some((first, last)) = part.split_once('-') {
        let (first, last_part) = (first.trimmed().address()?, last.trimmed());
        let last = last_part.address()?;
        if first.is_ipv4() != last.is_ipv4() {
            return Err(last_part.error("both ends of a range are of one family"));
        }
        return Ok((first, last));
    }
    let single = part.address()?;
    Ok((single, single))
}

/// First and last host of a network.
fn hosts(network: IpAddr, length: Part<'_>) -> Result<(IpAddr, IpAddr), SyntaxError> {
    let bits = if network.is_ipv4() { 32 } else { 128 };
    let Some(length) = length.text().parse::<u32>().ok().filter(|n| *n <= bits) else {
        return Err(length.error(format!("the length of a network is a number from 0 to {bits}")));
    };
    let host_mask = if length == 0 && bits == 128 { u128::MAX } else { (1u128 << (bits - length)) - 1 };
    let first = network.number() & !host_mask;
    let last = network.number() | host_mask;
    // The network's own address and the broadcast address are no hosts; networks of one or two addresses have none.
    let (first, last) = match (bits - length, network) {
        (0 | 1, _) => (first, last),
        (_, IpAddr::V4(_)) => (first + 1, last - 1),
        (_, IpAddr::V6(_)) => (first + 1, last),
    };
    Ok((network.with_number(first), network.with_number(last)))
}

/// Addresses as numbers, to count through them.
trait Number {
    fn number(self) -> u128;
    fn with_number(self, number: u128) -> IpAddr;
}

impl Number for IpAddr {
    fn number(self) -> u128 {
        match self {
            Self::V4(ip) => u128::from(u32::from(ip)),
            Self::V6(ip) => u128::from(ip),
        }
    }

    /// An address of the same family.
    fn with_number(self, number: u128) -> IpAddr {
        match self {
            Self::V4(_) => Ipv4Addr::from(number as u32).into(),
            Self::V6(_) => Ipv6Addr::from(number).into(),
        }
    }
}

/// Intercepts at most: each is told of every connection.
const MAX_INTERCEPTS: usize = 256;

/// Reads intercepts: `address[:port]`, separated by commas.
///
/// # Errors
/// The first mistake.
pub fn intercepts(text: &str, default_port: u16) -> Result<Vec<SocketAddr>, SyntaxError> {
    let mut intercepts = Vec::new();
    for part in Part::whole(INTERCEPT, text).list()? {
        let address = address_with_default_port(part, default_port)?;
        if address.ip().is_multicast() || address.ip().is_unspecified() {
            return Err(part.error(format!("{} is not the address of one host", address.ip())));
        }
        if intercepts.contains(&address) {
            return Err(part.error("this intercept is in the list already"));
        }
        if intercepts.len() == MAX_INTERCEPTS {
            return Err(part.error(format!("more than {MAX_INTERCEPTS} intercepts")));
        }
        intercepts.push(address);
    }
    Ok(intercepts)
}

/// Reads a limit: so many connections or datagrams, or with a unit so many bytes, a second. `/s` may stand behind it.
///
/// # Errors
/// When it is none.
pub fn rate(text: &str) -> Result<Rate, SyntaxError> {
    let whole = Part::whole(MAX_RATE, text).trimmed();
    let text = whole.text();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = (whole.slice(0..digits), whole.slice(digits..text.len()).trimmed());
    if number.text().is_empty() {
        return Err(whole.error("a number is expected here"));
    }
    let unit_text = unit.text().strip_suffix("/s").unwrap_or(unit.text()).trim_end();
    let factor = match unit_text {
        "" | "B" => 1,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        _ => {
            return Err(unit.error(
                "the unit is one of B, kB, MB and GB (bytes a second), or none (connections, or datagrams, a second)",
            ));
        }
    };
    match number.text().parse::<u64>().ok().and_then(|n| n.checked_mul(factor)) {
        None => Err(number.error("this is more than can be counted")),
        Some(0) => Err(number.error("a limit of nothing copies nothing; give at least 1")),
        Some(n) if unit_text.is_empty() => Ok(Rate::Count(n)),
        Some(n) => Ok(Rate::Bytes(n)),
    }
}

/// Reads a duration: a number, and `ms`, `s`, `m` or `h`; without a unit, seconds.
///
/// # Errors
/// When it is none, or nothing.
pub fn duration(option: &OptionName, text: &str) -> Result<Duration, SyntaxError> {
    let whole = Part::whole(*option, text).trimmed();
    let text = whole.text();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let unit = whole.slice(digits..text.len()).trimmed();
    let factor = match unit.text() {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        _ => return Err(unit.error("the unit is one of ms, s, m and h")),
    };
    match text[..digits].parse::<u64>().ok().and_then(|n| n.checked_mul(factor)) {
        Some(n @ 1..) => Ok(Duration::from_millis(n)),
        _ => Err(whole.error("a number above zero is expected, and a unit")),
    }
}

#[cfg(test)]
mod tests;
