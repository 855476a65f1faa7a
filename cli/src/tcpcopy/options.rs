//! The options of tcpcopy, checked: what the arguments mean, in the engine's types.

mod capture;
mod copies;
mod maps;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use log::LevelFilter;
use tcpcopy_engine::copier::source::SourcePool;
use tcpcopy_engine::{Map, Rate, Traffic};
use tcpcopy_io::capture::{Method, check_filter};
use tcpcopy_io::control::Protocol;
use tcpcopy_wire::Transport;
use tcpcopy_wire::decap::Decapsulation;

use self::capture::{capture_from, capture_method, responses, workers};
pub(super) use self::copies::part_of_rate;
use self::copies::{no_source_warning, sources, traffic};
use self::maps::{check_families, refuse_loops, warn_of_shadowed_maps};
use super::arguments::Arguments;
use super::given::Given;
use super::modules::{self, Catalogue, Chosen, Wishes};
use super::output::{Output, output};
use super::replay::Plan;
use super::{decap, filter, grammar, legacy};
use crate::exit::Failure;
use crate::live::{self, Socket};
use crate::logging::LogFormat;
use crate::metrics;
use crate::protect::cpu::CpuLimit;
use crate::protect::identity::Identity;
use crate::protect::stop_if::Condition;
use crate::security::SecurityFiles;
use crate::values::{MAX_SECONDS, absolute, in_range, log_level, stats_interval};

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
    /// How lines of the log look.
    pub log_format: LogFormat,
    /// Time between statistics.
    pub stats_interval: Option<Duration>,
    /// Where metrics are served.
    pub metrics: Option<SocketAddr>,
    /// As whom it runs, and how nicely.
    pub identity: Identity,
    /// See `--cpu-limit`.
    pub cpu_limit: Option<CpuLimit>,
    /// See `--max-sessions`; for all workers together.
    pub max_sessions: usize,
    /// See `--stop-if`.
    pub stop_if: Vec<Condition>,
    /// The report at the end. Absolute.
    pub report: Option<PathBuf>,
    /// The file for statistics. Absolute.
    pub stats_file: Option<PathBuf>,
    /// Online's response times are wanted.
    pub measure_online: bool,
    /// Where running commands are answered.
    pub socket: Socket,
    /// The limit on what is copied, of all workers together.
    pub max_rate: Option<Rate>,
    /// The options as they were given, without secrets.
    pub given: Given,
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
        let given = Given::of(&arguments);
        let map_text = arguments.map.join(",");
        let written = grammar::maps(&map_text).map_err(Failure::usage)?;
        let output = output(&arguments.output_device, &written)?;
        let (modules, maps) = choose_modules(&arguments, catalogue, &written, &mut warnings)?;
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

        let module_sees_online = |map: &Map| modules[usize::from(map.module)].handle.about.sees_online;
        let sees_online = |map: &Map| arguments.measure_online || module_sees_online(map);
        let both_directions = maps.iter().any(sees_online);
        let mirror = decap::mirror(&arguments, &devices, workers, replay.is_some(), &mut warnings)?;
        let capture_method = capture_method(arguments.capture.as_deref(), replay.is_some())?;
        if let Some(map) = maps.iter().find(|map| sees_online(map) && mirror.tunnels.is_on() && workers > 1) {
            let who = if module_sees_online(map) {
                format!("module `{}`", modules[usize::from(map.module)].handle.about.name)
            } else {
                "--measure-online".to_owned()
            };
            return Err(Failure::usage(format!(
                "in --workers: {who} needs both directions of a session in one worker, and tunnels (--decap) may lead them \
                 to different ones; give --workers 1"
            )));
        }
        let filter_behind_tags = arguments.filter.is_none();
        let filter = match arguments.filter.clone() {
            Some(filter) => {
                check_given_filter(&filter, &modules, arguments.measure_online, &mut warnings)?;
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
            links_per_intercept: links_per_intercept(arguments.connections, &mut warnings),
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
            log_format: LogFormat::parse(arguments.log_format.as_deref()).map_err(Failure::usage)?,
            stats_interval: stats_interval(arguments.stats_interval.unwrap_or(30))?,
            metrics: metrics::option(arguments.metrics.as_ref())?,
            identity: Identity::check(arguments.user, arguments.nice)?,
            cpu_limit: arguments.cpu_limit.as_ref().map(|text| CpuLimit::parse(&text.0)).transpose()?,
            max_sessions: in_range("--max-sessions", arguments.max_sessions.unwrap_or(1 << 22), 1..=1 << 22)? as usize,
            stop_if: arguments
                .stop_if
                .iter()
                .map(|text| Condition::parse(text))
                .collect::<Result<_, _>>()
                .map_err(Failure::usage)?,
            report: arguments.report.map(|path| absolute("--report", &path)).transpose()?,
            stats_file: arguments.stats_file.map(|path| absolute("--stats-file", &path)).transpose()?,
            measure_online: arguments.measure_online,
            socket: live::socket(arguments.socket.as_deref())?,
            max_rate: arguments
                .max_rate
                .as_ref()
                .map(|text| grammar::rate(&text.0))
                .transpose()
                .map_err(Failure::usage)?,
            given,
            pid: arguments.pid.map(|path| absolute("-P (--pid)", &path)).transpose()?,
            daemon: arguments.daemon,
            warnings,
        })
    }
}

const MB: usize = 1 << 20;
const MAX_LINKS_PER_INTERCEPT: u16 = 16;

/// The modules that the maps name, those of MySQL's own options among them; and the maps with them.
fn choose_modules(
    arguments: &Arguments,
    catalogue: &Catalogue,
    written: &[grammar::WrittenMap<'_>],
    warnings: &mut Vec<String>,
) -> Result<(Vec<Chosen>, Vec<Map>), Failure> {
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
    modules::choose(catalogue, &wishes, written, warnings).map_err(|failure| name_option_of_mysql(failure, &of_mysql))
}

/// What a filter of the user's own must not be, and what it has to let pass.
fn check_given_filter(
    filter: &str,
    modules: &[Chosen],
    measure_online: bool,
    warnings: &mut Vec<String>,
) -> Result<(), Failure> {
    if filter.trim().is_empty() {
        return Err(Failure::usage("in -F (--filter): the filter is empty; leave -F out to have it made from -x"));
    }
    if let Some(module) = modules.iter().find(|module| module.handle.about.sees_online) {
        let name = module.handle.about.name;
        warnings.push(format!("-F: module `{name}` also needs what online answers; the filter must let that pass"));
    }
    if measure_online {
        warnings.push("-F: --measure-online needs what online answers; the filter must let that pass".into());
    }
    Ok(())
}

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

/// What module `mysql` says of one of its options, by the option's name on the command line.
fn name_option_of_mysql(failure: Failure, of_mysql: &[(&str, String, &str)]) -> Failure {
    let said = failure.message.strip_prefix("module `mysql` ").and_then(|said| {
        of_mysql.iter().find_map(|(key, _, name)| {
            let (_, reason) = said.split_once(&format!(": option `{key}`: "))?;
            Some(format!("in {name}: {reason}"))
        })
    });
    match said {
        Some(message) => Failure { message, ..failure },
        None => failure,
    }
}

/// Connections to each intercept; as in the C programs, of any number the nearest that there may be.
fn links_per_intercept(given: Option<u16>, warnings: &mut Vec<String>) -> u16 {
    let wanted = given.unwrap_or(1);
    let taken = wanted.clamp(1, MAX_LINKS_PER_INTERCEPT);
    if taken != wanted {
        warnings.push(format!("-C {wanted}: there are 1 to {MAX_LINKS_PER_INTERCEPT} connections; {taken} is taken"));
    }
    taken
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

#[cfg(test)]
mod tests;
