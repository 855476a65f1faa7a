//! The options of tcpcopy, checked: what the arguments mean, in the engine's types.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use log::LevelFilter;
use tcpcopy_engine::copier::source::SourcePool;
use tcpcopy_engine::{Map, Rate, SampleBy, Traffic};
use tcpcopy_io::capture::{Method, check_filter, device_names, file::STDIN};
use tcpcopy_io::control::Protocol;
use tcpcopy_wire::Transport;
use tcpcopy_wire::decap::Decapsulation;

use super::arguments::Arguments;
use super::modules::{self, Catalogue, Chosen, Wishes};
use super::output::{Output, output};
use super::replay::Plan;
use super::{decap, filter, grammar, legacy};
use crate::exit::Failure;
use crate::security::SecurityFiles;
use crate::values::{absolute, devices, in_range, log_level};

/// Workers at most; more than a host has cores help nobody.
const MAX_WORKERS: u16 = 64;

/// Where the target's responses are captured, if tcpcopy does that itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Responses {
    /// Devices to capture on.
    pub devices: Vec<String>,
    /// The capture filter.
    pub filter: String,
}

/// Checked options.
#[derive(Clone, Debug, PartialEq)]
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
    /// Keep clients' round-trip times.
    pub preserve_rtt: bool,
    /// The intercepts.
    pub intercepts: Vec<SocketAddr>,
    /// Where the target's responses are captured on this host, instead.
    pub responses: Option<Responses>,
    /// What is spoken with them.
    pub intercept_protocol: Protocol,
    /// Connections to each.
    pub links_per_intercept: u16,
    /// Who may be at the other end of these connections.
    pub security: SecurityFiles,
    /// Run without intercepts that can be reached.
    pub keep_trying: bool,
    /// Devices to capture on; none where files are replayed.
    pub devices: Vec<String>,
    /// The files to replay.
    pub replay: Option<Plan>,
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
        let responses = responses(&arguments, &maps)?;
        let intercepts = match responses {
            Some(_) => Vec::new(),
            None => intercepts(&arguments.intercept.join(","), port, &maps, &mut warnings)?,
        };
        let (devices, replay) = capture_from(&arguments)?;
        let source_text = arguments.source.join(",");
        let workers = workers(&arguments, replay.is_some(), &source_text, &mut warnings)?;
        let sources = if source_text.is_empty() {
            warnings.push(no_source_warning(arguments.intercept.is_empty()));
            vec![SourcePool::default(); workers.into()]
        } else {
            sources(&source_text, &maps, workers, local, &mut warnings)?
        };
        refuse_loops(&maps, if replay.is_some() { &[] } else { local })?;
        warn_of_no_effect(&arguments, &mut warnings);
        check_families(&maps, !arguments.source.is_empty())?;
        warn_of_shadowed_maps(&maps, &mut warnings);
        let traffic = traffic(&arguments, &maps, workers, &mut warnings)?;

        let sees_online = |map: &Map| modules[usize::from(map.module)].handle.about.sees_online;
        let both_directions = maps.iter().any(sees_online);
        let mirror = decap::mirror(&arguments, &devices, workers, replay.is_some(), &mut warnings)?;
        let capture_method = capture_method(arguments.capture.as_deref(), replay.is_some())?;
        if let Some(map) = maps.iter().find(|map| sees_online(map) && mirror.tunnels.is_on() && workers > 1) {
            return Err(Failure::usage(format!(
                "in --workers: module `{}` needs both directions of a session in one worker, and tunnels (--decap) may lead \
                 them to different ones; give --workers 1",
                modules[usize::from(map.module)].handle.about.name
            )));
        }
        let filter_behind_tags = arguments.filter.is_none();
        let filter = match arguments.filter.clone() {
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
            // The engine looks at every packet of a file itself, and counts what it does not want.
            None if replay.is_some() => String::new(),
            None => {
                let of_maps = filter::from_maps(maps.iter().map(|map| (map, sees_online(map))));
                decap::with_tunnels(&of_maps, &mirror.tunnels)
            }
        };
        let replay = replay.map(|plan| Plan { filter: filter.clone(), ..plan });
        check_filter(&filter).map_err(|e| {
            Failure::usage(format!("in -F (--filter): {e}\nit is written like this: -F 'tcp and dst port 80'"))
        })?;

        let intercept_protocol = legacy::protocol(&arguments, &maps, &modules, &intercepts, workers, &mut warnings)?;
        let (certificate, key) = (arguments.tls_cert, arguments.tls_key);
        let security =
            SecurityFiles::check(arguments.secret_file, certificate, key, arguments.tls_ca, arguments.tls_name)?
                .check_for_client(!intercepts.is_empty())?;
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
            preserve_rtt: arguments.preserve_rtt,
            intercepts,
            intercept_protocol,
            responses,
            links_per_intercept: in_range("-C (--connections)", arguments.connections.unwrap_or(1), 1..=16)?,
            security,
            keep_trying: arguments.keep_trying,
            devices,
            replay,
            filter,
            both_directions,
            capture_method,
            filter_behind_tags,
            promiscuous: mirror.promiscuous,
            decapsulation: mirror.tunnels,
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

/// The intercepts. Over TCP each target has one of its own unless others are named, as in the traditional set-up; over UDP
/// there need not be one: nothing waits for a response.
fn intercepts(text: &str, port: u16, maps: &[Map], warnings: &mut Vec<String>) -> Result<Vec<SocketAddr>, Failure> {
    if !text.is_empty() {
        return grammar::intercepts(text, port).map_err(Failure::usage);
    }
    let mut on_targets: Vec<SocketAddr> = Vec::new();
    for map in maps.iter().filter(|map| map.transport == Transport::Tcp) {
        let address = SocketAddr::new(map.target.addr, port);
        if !on_targets.contains(&address) {
            on_targets.push(address);
        }
    }
    if on_targets.is_empty() {
        warnings.push("no -s: the target's responses are not counted".to_owned());
    } else {
        let list: Vec<String> = on_targets.iter().map(ToString::to_string).collect();
        warnings.push(format!(
            "no -s: intercept is taken to run on the target itself ({}), as `intercept --nfqueue 0 --setup PORT`; where the \
             target's answers are routed to another host, name that one with -s",
            list.join(", ")
        ));
    }
    Ok(on_targets)
}

/// By what means devices are captured on.
fn capture_method(text: Option<&str>, replays: bool) -> Result<Method, Failure> {
    match text {
        Some(_) if replays => Err(Failure::usage("--capture is for devices; -i names a file: leave --capture out")),
        None | Some("pcap") => Ok(Method::Pcap),
        Some("raw") => Ok(Method::Raw),
        Some(other) => Err(Failure::usage(format!("in --capture: `{other}` is neither pcap nor raw"))),
    }
}

/// Time in which `-g` grows to everything.
const RAMP_OF_C: Duration = Duration::from_secs(100);

/// What `-s local` captures.
fn responses(arguments: &Arguments, maps: &[Map]) -> Result<Option<Responses>, Failure> {
    let mut named = arguments.intercept.iter().flat_map(|list| list.split(',')).map(str::trim);
    let is_local = named.clone().any(|text| text == "local");
    if !is_local {
        let given = [
            ("--response-device", !arguments.response_device.is_empty()),
            ("--response-filter", arguments.response_filter.is_some()),
        ];
        return match given.iter().find(|(_, given)| *given) {
            Some((option, _)) => Err(Failure::usage(format!("{option} is for -s local, where no intercept runs"))),
            None => Ok(None),
        };
    }
    if named.any(|text| text != "local") {
        return Err(Failure::usage("in -s (--intercept): `local` stands alone: responses come here, or to intercepts"));
    }
    let filter = match &arguments.response_filter {
        Some(filter) => filter.clone(),
        None => filter::of_targets(maps),
    };
    check_filter(&filter).map_err(|e| {
        Failure::usage(format!(
            "in --response-filter: {e}\nit is written like this: --response-filter 'tcp and src host 10.0.0.2'"
        ))
    })?;
    Ok(Some(Responses { devices: devices("--response-device", &arguments.response_device)?, filter }))
}

/// What `-i` names: devices, or files.
fn capture_from(arguments: &Arguments) -> Result<(Vec<String>, Option<Plan>), Failure> {
    let option = "-i (--device)";
    let names: Vec<&str> = arguments
        .device
        .iter()
        .flat_map(|list| list.split(','))
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .collect();
    let is_file = |name: &str| {
        let is_device = || device_names().iter().any(|device| device == name);
        name == STDIN || name.contains('/') || (Path::new(name).exists() && !is_device()) || {
            let ending = Path::new(name).extension().and_then(|ending| ending.to_str());
            ending.is_some_and(|e| ["pcap", "pcapng", "cap", "gz", "zst"].contains(&e)) && !is_device()
        }
    };
    let (files, others): (Vec<&str>, Vec<&str>) = names.iter().partition(|name| is_file(name));
    if files.is_empty() {
        let given = [
            ("-a (--speed)", arguments.speed.is_some()),
            ("-I (--cut-gaps)", arguments.cut_gaps.is_some()),
            ("-T (--passes)", arguments.passes.is_some()),
            ("--as-fast-as-possible", arguments.as_fast_as_possible),
        ];
        if let Some((option, _)) = given.iter().find(|(_, given)| *given) {
            return Err(Failure::usage(format!(
                "{option} is for the replay of a file: give the file with -i, or leave {option} out"
            )));
        }
        return Ok((devices(option, &arguments.device)?, None));
    }
    if let Some(device) = others.first() {
        return Err(Failure::usage(format!(
            "in {option}: `{}` is a file and `{device}` is none: either files are replayed, or devices are captured on",
            files[0]
        )));
    }
    let speed = match &arguments.speed {
        None => 1.0,
        Some(text) => {
            text.0.trim().parse::<f64>().ok().filter(|n| (0.001..=1_000_000.0).contains(n)).ok_or_else(|| {
                Failure::usage(format!("in -a (--speed): `{}` is no number from 0.001 to 1000000", text.0))
            })?
        }
    };
    let passes = in_range("-T (--passes)", arguments.passes.unwrap_or(1), 1..=1_000_000)?;
    if arguments.daemon && files.contains(&STDIN) {
        return Err(Failure::usage("in -i (--device): a daemon (-d) has no standard input; leave -d out"));
    }
    if passes > 1 && files.contains(&STDIN) {
        return Err(Failure::usage("in -T (--passes): standard input can be read but once"));
    }
    if arguments.as_fast_as_possible && (arguments.speed.is_some() || arguments.cut_gaps.is_some()) {
        return Err(Failure::usage("--as-fast-as-possible has no use for the file's times: leave -a and -I out"));
    }
    let files = files
        .into_iter()
        .map(|name| if name == STDIN { Ok(PathBuf::from(name)) } else { absolute(option, Path::new(name)) });
    Ok((
        Vec::new(),
        Some(Plan {
            files: files.collect::<Result<_, _>>()?,
            speed,
            cut_gaps: arguments.cut_gaps.map(Duration::from_millis),
            passes,
            as_fast_as_possible: arguments.as_fast_as_possible,
            filter: String::new(),
        }),
    ))
}

/// How many threads there are to be.
fn workers(arguments: &Arguments, replays: bool, sources: &str, warnings: &mut Vec<String>) -> Result<u16, Failure> {
    let text = arguments.workers.as_ref().map(|text| text.0.trim());
    let number = match text {
        None => 1,
        Some("auto") => {
            let processors = std::thread::available_parallelism().map_or(1, usize::from);
            // Each worker needs an address of its own.
            let addresses =
                if sources.is_empty() { usize::MAX } else { grammar::sources(sources).map_or(1, |s| s.len()) };
            processors.min(addresses).clamp(1, MAX_WORKERS.into()) as u16
        }
        Some(text) => text
            .parse()
            .map_err(|_| Failure::usage(format!("in --workers: `{text}` is neither a number nor `auto`")))?,
    };
    let number = in_range("--workers", number, 1..=MAX_WORKERS)?;
    if replays && number > 1 {
        warnings.push("--workers: a file is replayed by one worker".to_owned());
        return Ok(1);
    }
    Ok(number)
}

/// Options of the C programs that mean nothing here.
fn warn_of_no_effect(arguments: &Arguments, warnings: &mut Vec<String>) {
    for (option, given, why) in [
        ("-R", arguments.c_rtt.is_some(), "round-trip times are measured; --preserve-rtt keeps those of clients"),
        ("-U", arguments.c_pool.is_some(), "connections have no memory pool of a fixed size"),
        ("-S", arguments.c_snaplen.is_some(), "packets are captured whole; the largest segment is set by -D"),
    ] {
        if given {
            warnings.push(format!("{option} has no effect: {why}"));
        }
    }
}

/// How much is copied, and how many times over.
fn traffic(arguments: &Arguments, maps: &[Map], workers: u16, warnings: &mut Vec<String>) -> Result<Traffic, Failure> {
    let max_rate =
        arguments.max_rate.as_ref().map(|text| grammar::rate(&text.0)).transpose().map_err(Failure::usage)?;
    let part = |n: u64| n.div_ceil(workers.into());
    let max_rate = max_rate.map(|rate| match rate {
        Rate::Count(n) => Rate::Count(part(n)),
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
    let sample_by = match arguments.sample_by.as_deref() {
        None | Some("session") => SampleBy::Session,
        Some("client") => SampleBy::Client,
        Some(other) => {
            return Err(Failure::usage(format!("in --sample-by: `{other}` is neither session nor client")));
        }
    };
    let ramp = match &arguments.ramp {
        Some(text) => Some(grammar::duration(&grammar::RAMP, &text.0).map_err(Failure::usage)?),
        None => arguments.grow.then_some(RAMP_OF_C),
    };
    let percentage = in_range("-r (--percentage)", arguments.percentage.unwrap_or(100), 0..=100)?;
    if arguments.percentage == Some(0) {
        warnings.push("-r 0 copies all, as 100 does".to_owned());
    }
    Ok(Traffic {
        copies: in_range("-n (--copies)", arguments.copies.unwrap_or(1), 1..=1023)?,
        instance: in_range("-f (--instance)", arguments.instance.unwrap_or(0), 0..=31)?,
        loopback_source: arguments.loopback_source,
        percentage: if percentage == 0 { 100 } else { percentage },
        sample_by,
        ramp,
        max_rate,
    })
}

fn no_source_warning(on_target: bool) -> String {
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
fn sources(
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
