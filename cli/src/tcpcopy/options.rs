//! The options of tcpcopy, checked: what the arguments mean, in the engine's types.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use log::LevelFilter;
use tcpcopy_engine::Map;
use tcpcopy_engine::copier::source::SourcePool;
use tcpcopy_io::capture::check_filter;

use super::arguments::Arguments;
use super::{filter, grammar};
use crate::exit::Failure;
use crate::values::{absolute, devices, in_range, log_level};

/// Workers at most; more than a host has cores help nobody.
const MAX_WORKERS: u16 = 64;

/// Checked options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// What is copied, and where to.
    pub maps: Vec<Map>,
    /// The addresses of copies, by worker: a source address belongs to one worker, so that no two choose the same
    /// address and port. Empty pools: copies keep their clients' addresses.
    pub sources: Vec<SourcePool>,
    /// Copy only sessions seen from their beginning.
    pub only_whole_sessions: bool,
    /// Hold nothing back.
    pub no_wait: bool,
    /// The intercepts.
    pub intercepts: Vec<SocketAddr>,
    /// Connections to each.
    pub links_per_intercept: u16,
    /// Run without intercepts that can be reached.
    pub keep_trying: bool,
    /// Devices to capture on.
    pub devices: Vec<String>,
    /// The capture filter.
    pub filter: String,
    /// Size of each capture's ring, in bytes.
    pub buffer_bytes: usize,
    /// Largest packet sent, in bytes.
    pub mtu: u16,
    /// Largest segment announced, in bytes.
    pub mss: u16,
    /// See `-t`.
    pub response_timeout: Duration,
    /// See `-k`.
    pub idle_timeout: Duration,
    /// See `-m`; in bytes, for all workers together.
    pub memory_limit: usize,
    /// Threads.
    pub workers: u16,
    /// The log file; `None`: stderr. Absolute.
    pub log: Option<PathBuf>,
    /// What is logged.
    pub log_level: LevelFilter,
    /// Time between statistics.
    pub stats_interval: Option<Duration>,
    /// The pid file. Absolute.
    pub pid: Option<PathBuf>,
    /// Run in the background.
    pub daemon: bool,
    /// What a person should know, but may have wanted.
    pub warnings: Vec<String>,
}

impl Options {
    /// Checks arguments. `local` are the addresses of this host.
    ///
    /// # Errors
    /// The first thing that cannot be, or must not be; all are wrong usage.
    pub fn check(arguments: Arguments, local: &[IpAddr]) -> Result<Self, Failure> {
        if arguments.map.is_empty() {
            return Err(missing("what to copy", &grammar::MAP));
        }
        if arguments.intercept.is_empty() {
            return Err(missing("where intercept runs", &grammar::INTERCEPT));
        }
        let maps = grammar::maps(&arguments.map.join(",")).map_err(Failure::usage)?;
        let port = in_range("-p (--port)", arguments.port.unwrap_or(36_524), 1..=u16::MAX)?;
        let intercepts = grammar::intercepts(&arguments.intercept.join(","), port).map_err(Failure::usage)?;
        let mut warnings = Vec::new();
        let workers = in_range("--workers", arguments.workers.unwrap_or(1), 1..=MAX_WORKERS)?;
        let sources = sources(&arguments.source.join(","), &maps, workers, local, &mut warnings)?;
        refuse_loops(&maps, local)?;
        check_families(&maps, !arguments.source.is_empty())?;
        warn_of_shadowed_maps(&maps, &mut warnings);

        let devices = devices(&arguments.device)?;
        let filter = match arguments.filter {
            Some(filter) if filter.trim().is_empty() => {
                return Err(Failure::usage(
                    "in -F (--filter): the filter is empty; leave -F out to have it made from -x",
                ));
            }
            Some(filter) => filter,
            None => filter::from_maps(&maps),
        };
        check_filter(&filter).map_err(|e| {
            Failure::usage(format!("in -F (--filter): {e}\nit is written like this: -F 'tcp and dst port 80'"))
        })?;

        let mtu = in_range("-M (--mtu)", arguments.mtu.unwrap_or(1500), 576..=u16::MAX)?;
        if mtu < 1280 && maps.iter().any(|map| map.target.addr.is_ipv6()) {
            return Err(Failure::usage(format!("in -M (--mtu): {mtu} is too small for IPv6, which needs 1280")));
        }
        let response_timeout =
            in_range("-t (--response-timeout)", arguments.response_timeout.unwrap_or(600), 1..=MAX_SECONDS)?;
        let idle_timeout = arguments.idle_timeout.unwrap_or(response_timeout + 120);
        let idle_timeout = in_range("-k (--idle-timeout)", idle_timeout, 1..=MAX_SECONDS + 120)?;
        let stats_interval = in_range("--stats-interval", arguments.stats_interval.unwrap_or(30), 0..=MAX_SECONDS)?;
        let default_log = arguments.daemon.then(|| PathBuf::from("error_tcpcopy.log"));
        Ok(Self {
            maps,
            sources,
            only_whole_sessions: arguments.only_whole_sessions,
            no_wait: arguments.no_wait,
            intercepts,
            links_per_intercept: in_range("-C (--connections)", arguments.connections.unwrap_or(1), 1..=16)?,
            keep_trying: arguments.keep_trying,
            devices,
            filter,
            buffer_bytes: in_range("-B (--buffer)", arguments.buffer.unwrap_or(32), 1..=2047)? as usize * MB,
            mtu,
            mss: in_range("-D (--mss)", arguments.mss.unwrap_or(1460), 88..=65_495)?,
            response_timeout: Duration::from_secs(response_timeout.into()),
            idle_timeout: Duration::from_secs(idle_timeout.into()),
            memory_limit: in_range("-m (--memory)", arguments.memory.unwrap_or(2048), 1..=u32::MAX)? as usize * MB,
            workers,
            log: arguments.log.or(default_log).map(|path| absolute("-l (--log)", &path)).transpose()?,
            log_level: log_level(arguments.log_level.as_deref())?,
            stats_interval: (stats_interval > 0).then(|| Duration::from_secs(stats_interval.into())),
            pid: arguments.pid.map(|path| absolute("-P (--pid)", &path)).transpose()?,
            daemon: arguments.daemon,
            warnings,
        })
    }
}

const MB: usize = 1 << 20;

/// A year: longer waits are mistakes.
const MAX_SECONDS: u32 = 365 * 86_400;

fn missing(what: &str, option: &crate::grammar::OptionName) -> Failure {
    Failure::usage(format!(
        "{} is missing: it says {what}\nit is written like this: {}\nall options: tcpcopy -h",
        option.name, option.example
    ))
}

/// The source addresses, dealt out to the workers.
fn sources(
    text: &str,
    maps: &[Map],
    workers: u16,
    local: &[IpAddr],
    warnings: &mut Vec<String>,
) -> Result<Vec<SourcePool>, Failure> {
    if text.is_empty() {
        warnings.push(
            "no -c: copies have their clients' addresses. The target must route all of these to intercept, and \
             nothing on the way may deliver its answers to the real clients"
                .to_owned(),
        );
        return Ok(vec![SourcePool::default(); workers.into()]);
    }
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
                "in {}: {} {family} addresses for {workers} workers; each needs one of its own for its {family} targets",
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

/// Refuses maps whose copies would be captured and copied again, or would reach the online server.
fn refuse_loops(maps: &[Map], local: &[IpAddr]) -> Result<(), Failure> {
    let is_local = |address: IpAddr| address.is_loopback() || local.contains(&address);
    for map in maps {
        let online = maps.iter().find(|online| {
            online.online_port == map.target.port
                && match online.online_addr {
                    Some(address) => address == map.target.addr,
                    None => is_local(map.target.addr),
                }
        });
        if let Some(online) = online {
            let which = online.online_addr.map_or_else(
                || format!("port {} of this host", online.online_port),
                |address| format!("{}", tcpcopy_wire::Endpoint::new(address, online.online_port)),
            );
            return Err(Failure::usage(format!(
                "in {}: the target {} is an online server itself ({which} is copied): it would get every request \
                 twice, and the copies would be copied again; give the address and port of a test server",
                grammar::MAP.name,
                map.target
            )));
        }
    }
    Ok(())
}

fn check_families(maps: &[Map], has_sources: bool) -> Result<(), Failure> {
    for map in maps {
        if let Some(online) = map.online_addr
            && online.is_ipv4() != map.target.addr.is_ipv4()
            && !has_sources
        {
            return Err(Failure::usage(format!(
                "in {}: online {online} and target {} are of different families: copies need addresses of the target's \
                 family, given with -c",
                grammar::MAP.name,
                map.target
            )));
        }
    }
    Ok(())
}

fn warn_of_shadowed_maps(maps: &[Map], warnings: &mut Vec<String>) {
    for (i, map) in maps.iter().enumerate() {
        let earlier = maps[..i].iter().find(|earlier| {
            earlier.online_port == map.online_port
                && (earlier.online_addr.is_none() || earlier.online_addr == map.online_addr)
        });
        if let Some(earlier) = earlier {
            warnings.push(format!(
                "-x: the map to {} is never used: the map to {} before it takes the same packets",
                map.target, earlier.target
            ));
        }
    }
}

#[cfg(test)]
mod tests;
