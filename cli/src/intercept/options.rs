//! The options of intercept, checked.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use log::LevelFilter;
use tcpcopy_engine::relay::{LegacyConfig, Translation};
use tcpcopy_io::capture::check_filter;
use tcpcopy_io::control::{DEFAULT_PORT, Single};

use super::arguments::Arguments;
use super::legacy;
use super::queue::QueueOptions;
use super::translation;
use crate::config::Text;
use crate::exit::Failure;
use crate::grammar::{OptionName, Part, SyntaxError};
use crate::live::{self, Socket};
use crate::logging::LogFormat;
use crate::metrics;
use crate::protect::identity::Identity;
use crate::security::{self, SecurityFiles};
use crate::values::{self, Workers, absolute, devices, in_range, log_level, stats_interval};

const MB: usize = 1 << 20;
/// The form of a filter, for messages.
const FILTER_EXAMPLE: &str = "-F 'tcp and src host 10.0.0.2 and src port 8080'";

const TARGET: OptionName = OptionName { name: "-o (--target)", example: "-o 8080 or -o 10.0.0.2:8080,[fd00::2]:8080" };

/// Checked options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The queue to read, where intercept runs on the test server itself; nothing is captured then.
    pub queue: Option<QueueOptions>,
    /// The capture filter.
    pub filter: String,
    /// Devices to capture on; none with a queue.
    pub devices: Vec<String>,
    /// Size of each capture's ring or of the queue's buffer, in bytes.
    pub buffer_bytes: usize,
    /// Address to listen on; `None`: every one.
    pub bind: Option<IpAddr>,
    /// Port to listen on; 0 lets the system choose.
    pub port: u16,
    /// Where tcpcopys may connect from; empty: from everywhere.
    pub allow: Vec<IpNet>,
    /// What they must show.
    pub security: SecurityFiles,
    /// How tcpcopys of the C programs are served.
    pub legacy: LegacyConfig,
    /// Which of them, when they register no routes.
    pub single: Option<Single>,
    /// Addresses that were changed on the way.
    pub translation: Translation,
    /// Routes for which there is room at once.
    pub initial_routes: usize,
    /// Threads that capture and look routes up; 1: the only one there is.
    pub workers: u16,
    /// Responses in one write at most; `None`: whatever is there.
    pub responses_per_write: Option<u64>,
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
    /// Where running commands are answered.
    pub socket: Socket,
    /// The pid file. Absolute.
    pub pid: Option<PathBuf>,
    /// Run in the background.
    pub daemon: bool,
}

impl Options {
    /// What is demanded of a tcpcopy, in words, if anything is.
    pub fn conditions(&self) -> Option<String> {
        let SecurityFiles { secret, identity, authority, .. } = &self.security;
        let allowed: Vec<String> = self.allow.iter().map(ToString::to_string).collect();
        let conditions = [
            (!allowed.is_empty()).then(|| format!("come from {}", allowed.join(", "))),
            identity.as_ref().map(|_| "speak TLS".to_owned()),
            authority.as_ref().map(|_| "show a certificate".to_owned()),
            secret.as_ref().map(|_| "know the secret".to_owned()),
        ];
        let conditions: Vec<String> = conditions.into_iter().flatten().collect();
        (!conditions.is_empty()).then(|| conditions.join("; "))
    }

    /// Checks arguments.
    ///
    /// # Errors
    /// The first thing that cannot be; all are wrong usage.
    pub fn check(arguments: Arguments) -> Result<Self, Failure> {
        let port = arguments.port.unwrap_or(DEFAULT_PORT);
        let queue = QueueOptions::check(&arguments, port)?;
        let queue_number = queue.as_ref().map(|queue| queue.number);
        let (filter, devices) = match queue {
            Some(_) => (String::new(), Vec::new()),
            None => (
                filter(arguments.filter.clone(), &arguments.target.join(","))?,
                devices("-i (--device)", &arguments.device)?,
            ),
        };
        let buffer = arguments.buffer.unwrap_or(if queue.is_some() { 32 } else { 6 });
        let bind = match arguments.bind.as_deref().map(str::trim) {
            None => None,
            Some(text) => Some(text.trim_start_matches('[').trim_end_matches(']').parse().map_err(|_| {
                Failure::usage(format!(
                    "in -b (--bind): `{text}` is no address\nit is written like this: -b 10.0.0.3, or -b fd00::3"
                ))
            })?),
        };
        let hash_size = in_range("-s (--hash-size)", arguments.hash_size.unwrap_or(65_536), 1..=1 << 22)?;
        let combined = in_range("-n (--combined)", arguments.combined.unwrap_or(0), 0..=15)?;
        let (single, legacy) = legacy::config(&arguments, combined)?;
        let translation = translation::config(&arguments)?;
        let (certificate, key, authority) = (arguments.tls_cert, arguments.tls_key, arguments.tls_ca);
        let security =
            SecurityFiles::check(arguments.secret_file, certificate, key, authority, None)?.check_for_server()?;
        let default_log = arguments.daemon.then(|| PathBuf::from("error_intercept.log"));
        Ok(Self {
            queue,
            filter,
            devices,
            buffer_bytes: in_range("-B (--buffer)", buffer, 1..=2047)? as usize * MB,
            bind,
            allow: security::allow(&arguments.allow.join(",")).map_err(Failure::usage)?,
            security,
            legacy,
            single,
            translation,
            port,
            initial_routes: hash_size as usize,
            workers: workers(arguments.workers.as_ref(), queue_number)?,
            responses_per_write: (combined > 0).then_some(u64::from(combined)),
            log: arguments.log.or(default_log).map(|path| absolute("-l (--log)", &path)).transpose()?,
            log_level: log_level(arguments.log_level.as_deref())?,
            log_format: LogFormat::parse(arguments.log_format.as_deref()).map_err(Failure::usage)?,
            stats_interval: stats_interval(arguments.stats_interval.unwrap_or(30))?,
            metrics: metrics::option(arguments.metrics.as_ref())?,
            identity: Identity::check(arguments.user, arguments.nice)?,
            socket: live::socket(arguments.socket.as_deref())?,
            pid: arguments.pid.map(|path| absolute("-P (--pid)", &path)).transpose()?,
            daemon: arguments.daemon,
        })
    }
}

/// How many threads there are to be. `queue`: the queue that is read, if one is.
fn workers(given: Option<&Text>, queue: Option<u16>) -> Result<u16, Failure> {
    match (values::workers(given)?, queue) {
        (Some(Workers::Number(number)), Some(queue)) if number > 1 => Err(Failure::usage(format!(
            "--workers {number} is for captures, and there is none: responses come through NFQUEUE {queue}, and a queue has \
             one reader; to share the work, have the rules spread it over several queues (--queue-balance) and run one \
             intercept for each of them"
        ))),
        (_, Some(_)) | (None, None) => Ok(1),
        (Some(Workers::Number(number)), None) => Ok(number),
        (Some(Workers::OneForEachProcessor(processors)), None) => Ok(processors),
    }
}

/// The capture filter, as it is given or made from targets.
fn filter(given: Option<String>, targets: &str) -> Result<String, Failure> {
    let filter = given.unwrap_or_default();
    match (filter.trim().is_empty(), targets.is_empty()) {
        (false, false) => Err(Failure::usage(
            "-F (--filter) and -o (--target) both say which packets are the test server's: leave one out",
        )),
        (true, true) => Err(Failure::usage(format!(
            "-F (--filter) is missing: it says which packets are the test server's\nit is written like this: \
             {FILTER_EXAMPLE}\non the test server itself, without -i, intercept reads NFQUEUE and needs none\nall options: \
             intercept -h"
        ))),
        (true, false) => target_filter(targets).map_err(Failure::usage),
        (false, true) => {
            check_filter(&filter).map_err(|e| {
                Failure::usage(format!("in -F (--filter): {e}\nit is written like this: {FILTER_EXAMPLE}"))
            })?;
            Ok(filter)
        }
    }
}

/// What comes over TCP from `[address:]port`, separated by commas.
fn target_filter(targets: &str) -> Result<String, SyntaxError> {
    let mut alternatives = Vec::new();
    for part in Part::whole(TARGET, targets).list()? {
        alternatives.push(match part.address_and_port()? {
            (Some(address), port) => format!("src host {address} and src port {port}"),
            (None, port) => format!("src port {port}"),
        });
    }
    Ok(match &alternatives[..] {
        [one] => format!("tcp and {one}"),
        many => format!("tcp and (({}))", many.join(") or (")),
    })
}
