//! Options of how much is copied, and from which addresses.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use tcpcopy_engine::copier::source::SourcePool;
use tcpcopy_engine::{Map, Rate, SampleBy, Traffic};

use crate::exit::Failure;
use crate::tcpcopy::arguments::Arguments;
use crate::tcpcopy::grammar;
use crate::values::in_range;

/// Time in which `-g` grows to everything.
const RAMP_OF_C: Duration = Duration::from_secs(100);

/// How much is copied, and how many times over.
pub(super) fn traffic(
    arguments: &Arguments,
    maps: &[Map],
    workers: u16,
    warnings: &mut Vec<String>,
) -> Result<Traffic, Failure> {
    let max_rate =
        arguments.max_rate.as_ref().map(|text| grammar::rate(&text.0)).transpose().map_err(Failure::usage)?;
    let max_rate = max_rate.map(|rate| part_of_rate(rate, workers));
    if let Some(source) = arguments.loopback_source {
        let option = "-H (--loopback-source)";
        if source.is_unspecified() || source.is_multicast() || source == IpAddr::V4(Ipv4Addr::BROADCAST) {
            return Err(Failure::usage(format!("in {option}: {source} cannot be the address of a client")));
        }
        if !maps.iter().any(|map| map.target.addr.is_ipv4() == source.is_ipv4()) {
            return Err(Failure::usage(format!("in {option}: {source} is of another family than the targets")));
        }
        if !arguments.source.is_empty() {
            warnings.push("-H is of no use: -c replaces the addresses of all clients".to_owned());
        }
    }
    let sample_by = match arguments.sample_by.as_deref() {
        None | Some("session") => SampleBy::Session,
        Some("client") => SampleBy::Client,
        Some(other) => {
            return Err(Failure::usage(format!("in --sample-by: `{other}` is neither session nor client")));
        }
    };
    if arguments.grow && arguments.ramp.is_some() {
        return Err(Failure::usage(
            "-g is the same as --ramp 100s, and --ramp says another time: leave one of the two out",
        ));
    }
    let ramp = match &arguments.ramp {
        Some(text) => Some(grammar::duration(&grammar::RAMP, &text.0).map_err(Failure::usage)?),
        None => arguments.grow.then_some(RAMP_OF_C),
    };
    let percentage = match arguments.percentage.unwrap_or(100) {
        part @ 1..=100 => part as u8,
        all => {
            warnings.push(format!("-r {all} copies all, as 100 does"));
            100
        }
    };
    if arguments.copies == Some(0) {
        warnings.push("-n 0 copies once, as 1 does".to_owned());
    }
    let copies = in_range("-n (--copies)", arguments.copies.unwrap_or(1).max(1), 1..=1023)?;
    Ok(Traffic {
        copies,
        instance: in_range("-f (--instance)", arguments.instance.unwrap_or(0), 0..=31)?,
        loopback_source: arguments.loopback_source,
        percentage,
        sample_by,
        ramp,
        max_rate,
    })
}

/// A worker's part of a limit.
pub(in crate::tcpcopy) fn part_of_rate(rate: Rate, workers: u16) -> Rate {
    match rate {
        Rate::Count(n) => Rate::Count(n.div_ceil(workers.into())),
        Rate::Bytes(n) => Rate::Bytes(n.div_ceil(workers.into())),
    }
}

pub(super) fn no_source_warning(on_target: bool) -> String {
    let who = if on_target {
        "On the target intercept must take all answers from its port (intercept --setup PORT)"
    } else {
        "The target must route all of these to intercept"
    };
    format!(
        "no -c: copies have their clients' addresses. {who}, and nothing on the way may deliver its answers to the real \
         clients"
    )
}

/// The source addresses, dealt out to the workers.
pub(super) fn sources(
    text: &str,
    maps: &[Map],
    workers: u16,
    local: &[IpAddr],
    warnings: &mut Vec<String>,
) -> Result<Vec<SourcePool>, Failure> {
    let mut addresses = grammar::sources(text).map_err(Failure::usage)?;
    let is_target = |address: &IpAddr| maps.iter().any(|map| map.target.addr == *address);
    if addresses.iter().any(is_target) {
        addresses.retain(|address| !is_target(address));
        warnings.push("-c: the targets' own addresses are left out".to_owned());
    }
    if let Some(own) = addresses.iter().find(|address| local.contains(address)) {
        warnings.push(format!(
            "-c: {own} is an address of this host; unless intercept stops the target's answers on their way, this host \
             resets the copies"
        ));
    }
    let mut pools = vec![Vec::new(); workers.into()];
    for ipv6 in [false, true] {
        let family = if ipv6 { "IPv6" } else { "IPv4" };
        let of_family: Vec<IpAddr> = addresses.iter().copied().filter(|a| a.is_ipv6() == ipv6).collect();
        if !maps.iter().any(|map| map.target.addr.is_ipv6() == ipv6) {
            if !of_family.is_empty() {
                warnings
                    .push(format!("-c: {} {family} addresses are of no use: no target is {family}", of_family.len()));
            }
            continue;
        }
        if of_family.len() < pools.len() {
            return Err(Failure::usage(format!(
                "in {}: {} {family} addresses for {workers} workers; each needs one of its own for its {family} \
                 targets; give more of them",
                grammar::SOURCE.name,
                of_family.len()
            )));
        }
        for (i, address) in of_family.into_iter().enumerate() {
            pools[i % usize::from(workers)].push(address);
        }
    }
    Ok(pools.into_iter().map(SourcePool::new).collect())
}
