//! The options of tcpcopy, checked: what the arguments mean, in the engine's types.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use log::LevelFilter;
use tcpcopy_engine::copier::source::SourcePool;
use tcpcopy_engine::{Map, Rate, Traffic};
use tcpcopy_io::capture::{Method, check_filter};
use tcpcopy_wire::Transport;
use tcpcopy_wire::decap::Decapsulation;

use super::arguments::Arguments;
use super::modules::{self, Catalogue, Chosen, Wishes};
use super::output::{Output, output};
use super::{decap, filter, grammar};
use crate::exit::Failure;
use crate::values::{absolute, devices, in_range, log_level};

/// Workers at most; more than a host has cores help nobody.
const MAX_WORKERS: u16 = 64;

/// Checked options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// What is copied, and where to.
    pub maps: Vec<Map>,
    /// The protocol modules that the maps name.
    pub modules: Vec<Chosen>,
    /// How much is copied, by each worker.
    pub traffic: Traffic,
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
    /// Capture what this host sends, too: some module sees what online answers.
    pub both_directions: bool,
    /// By what means.
    pub capture_method: Method,
    /// The filter is made from the maps, and finds the same packets behind VLAN tags.
    pub filter_behind_tags: bool,
    /// Capture what is addressed to other hosts, too.
    pub promiscuous: bool,
    /// Tunnels out of which packets are taken.
    pub decapsulation: Decapsulation,
    /// Size of each capture's ring, in bytes.
    pub buffer_bytes: usize,
    /// Sending at the link layer, instead of by this host's routes.
    pub output: Option<Output>,
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
    /// Checks arguments, and makes the modules that they name. `local` are the addresses of this host.
    ///
    /// # Errors
    /// The first thing that cannot be, or must not be; all are wrong usage.
    pub fn check(arguments: Arguments, catalogue: &Catalogue, local: &[IpAddr]) -> Result<Self, Failure> {
        if arguments.map.is_empty() {
            return Err(missing("what to copy", &grammar::MAP));
        }
        let mut warnings = Vec::new();
        let map_text = arguments.map.join(",");
        let written = grammar::maps(&map_text).map_err(Failure::usage)?;
        let output = output(&arguments.output_device, &written)?;
        let of_mysql = arguments.mysql_options();
        let mut options: Vec<String> = of_mysql.iter().map(|(key, value, _)| format!("mysql.{key}={value}")).collect();
        options.extend(arguments.proto_opt.iter().cloned());
        let mut proto = arguments.proto.as_deref();
        if let Some((_, _, name)) = of_mysql.first() {
            let named = written.iter().any(|map| map.module.is_some_and(|module| module.text() == "mysql"));
            if !named && proto.is_some_and(|proto| proto != "mysql") {
                return Err(Failure::usage(format!(
                    "{name} is for module `mysql`, which no map uses: give --proto mysql, or -x mysql:3306-..."
                )));
            }
            // As the C programs that were built for MySQL.
            proto = proto.or((!named).then_some("mysql"));
        }
        let wishes = Wishes { proto, options: &options, tables: &arguments.module };
        let (modules, maps) = modules::choose(catalogue, &wishes, &written, &mut warnings)?;
        let port = in_range("-p (--port)", arguments.port.unwrap_or(36_524), 1..=u16::MAX)?;
        let intercepts = intercepts(&arguments.intercept.join(","), port, &maps, &mut warnings)?;
        let workers = in_range("--workers", arguments.workers.unwrap_or(1), 1..=MAX_WORKERS)?;
        let sources = sources(&arguments.source.join(","), &maps, workers, local, &mut warnings)?;
        refuse_loops(&maps, local)?;
        check_families(&maps, !arguments.source.is_empty())?;
        warn_of_shadowed_maps(&maps, &mut warnings);
        let traffic = traffic(&arguments, &maps, workers, &mut warnings)?;

        let sees_online = |map: &Map| modules[usize::from(map.module)].handle.about.sees_online;
        let both_directions = maps.iter().any(sees_online);
        let devices = devices(&arguments.device)?;
        let (decapsulation, promiscuous) = mirror(&arguments, &devices, workers, &mut warnings)?;
        let filter_behind_tags = arguments.filter.is_none();
        let filter = match arguments.filter {
            Some(filter) if filter.trim().is_empty() => {
                return Err(Failure::usage(
                    "in -F (--filter): the filter is empty; leave -F out to have it made from -x",
                ));
            }
            Some(filter) => {
                if let Some(module) = modules.iter().find(|module| module.handle.about.sees_online) {
                    warnings.push(format!(
                        "-F: module `{}` also needs what online answers; the filter must let that pass",
                        module.handle.about.name
                    ));
                }
                filter
            }
            None => {
                let of_maps = filter::from_maps(maps.iter().map(|map| (map, sees_online(map))));
                decap::with_tunnels(&of_maps, &decapsulation)
            }
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
            modules,
            traffic,
            sources,
            only_whole_sessions: arguments.only_whole_sessions,
            no_wait: arguments.no_wait,
            intercepts,
            links_per_intercept: in_range("-C (--connections)", arguments.connections.unwrap_or(1), 1..=16)?,
            keep_trying: arguments.keep_trying,
            devices,
            filter,
            both_directions,
            capture_method: capture_method(arguments.capture.as_deref())?,
            filter_behind_tags,
            promiscuous,
            decapsulation,
            output,
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

/// The intercepts. Over UDP there need not be one: nothing waits for a response.
fn intercepts(text: &str, port: u16, maps: &[Map], warnings: &mut Vec<String>) -> Result<Vec<SocketAddr>, Failure> {
    if !text.is_empty() {
        return grammar::intercepts(text, port).map_err(Failure::usage);
    }
    if maps.iter().any(|map| map.transport == Transport::Tcp) {
        return Err(missing("where intercept runs", &grammar::INTERCEPT));
    }
    warnings.push("no -s: the target's responses are not counted".to_owned());
    Ok(Vec::new())
}

fn capture_method(text: Option<&str>) -> Result<Method, Failure> {
    match text {
        None | Some("pcap") => Ok(Method::Pcap),
        Some("raw") => Ok(Method::Raw),
        Some(other) => Err(Failure::usage(format!("in --capture: `{other}` is neither pcap nor raw"))),
    }
}

/// What is said of mirrored traffic: its tunnels, and whether the devices are to show what is addressed to other hosts.
fn mirror(
    arguments: &Arguments,
    devices: &[String],
    workers: u16,
    warnings: &mut Vec<String>,
) -> Result<(Decapsulation, bool), Failure> {
    let text = arguments.decap.join(",");
    let decapsulation =
        if text.is_empty() { Decapsulation::default() } else { decap::tunnels(&text).map_err(Failure::usage)? };
    let promiscuous = arguments.promiscuous || !text.is_empty();
    // A tunnel mostly ends at an address of this host; a plain mirror does not.
    if promiscuous && !decapsulation.is_on() && devices.iter().any(|device| device == "any") {
        warnings.push(
            "-i: `any` cannot show what is addressed to other hosts; name the device that receives the mirror"
                .to_owned(),
        );
    }
    if decapsulation.is_on() && workers > 1 {
        warnings.push(
            "--decap with --workers: packets are dealt out by their outer addresses and ports; what always comes from the \
             same port, as ERSPAN does, keeps one worker busy only"
                .to_owned(),
        );
    }
    if let (true, Some(filter)) = (decapsulation.is_on(), &arguments.filter) {
        warnings.push(format!("-F: the tunnels of --decap are copied as far as the filter lets them pass: {filter}"));
    }
    Ok((decapsulation, promiscuous))
}

/// How much is copied, and how many times over.
fn traffic(arguments: &Arguments, maps: &[Map], workers: u16, warnings: &mut Vec<String>) -> Result<Traffic, Failure> {
    let given = [
        ("-n (--copies)", "copying several times over", arguments.copies.is_some()),
        ("--max-rate", "limiting the rate", arguments.max_rate.is_some()),
    ];
    let over_tcp = maps.iter().find(|map| map.transport == Transport::Tcp);
    if let (Some((option, what, _)), Some(map)) = (given.iter().find(|(_, _, given)| *given), over_tcp) {
        return Err(Failure::usage(format!(
            "{option} ({what}) exists for UDP only, so far, and the map to {} in -x is over TCP; leave the option out, or \
             copy TCP with a tcpcopy of its own",
            map.target
        )));
    }
    let max_rate =
        arguments.max_rate.as_ref().map(|text| grammar::rate(&text.0)).transpose().map_err(Failure::usage)?;
    let part = |n: u64| n.div_ceil(workers.into());
    let max_rate = max_rate.map(|rate| match rate {
        Rate::Datagrams(n) => Rate::Datagrams(part(n)),
        Rate::Bytes(n) => Rate::Bytes(part(n)),
    });
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
    let percentage = in_range("-r (--percentage)", arguments.percentage.unwrap_or(100), 0..=100)?;
    if arguments.percentage == Some(0) {
        warnings.push("-r 0 copies all, as 100 does".to_owned());
    }
    Ok(Traffic {
        copies: in_range("-n (--copies)", arguments.copies.unwrap_or(1), 1..=1023)?,
        instance: in_range("-f (--instance)", arguments.instance.unwrap_or(0), 0..=31)?,
        loopback_source: arguments.loopback_source,
        percentage: if percentage == 0 { 100 } else { percentage },
        max_rate,
    })
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
            online.transport == map.transport
                && online.online_port == map.target.port
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
        let takes_all_of_it = |earlier: &&Map| {
            earlier.transport == map.transport
                && earlier.online_port == map.online_port
                && (earlier.online_addr.is_none() || earlier.online_addr == map.online_addr)
        };
        let mut earlier = maps[..i].iter().filter(takes_all_of_it);
        match map.transport {
            Transport::Tcp => {
                if let Some(earlier) = earlier.next() {
                    warnings.push(format!(
                        "-x: the map to {} is never used: the map to {} before it takes the same packets",
                        map.target, earlier.target
                    ));
                }
            }
            // Each target gets a copy.
            Transport::Udp => {
                if earlier.any(|earlier| earlier.target == map.target) {
                    warnings
                        .push(format!("-x: two maps to {} take the same datagrams: it gets each twice", map.target));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
