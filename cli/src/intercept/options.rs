//! The options of intercept, checked.

use std::fmt::Display;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use log::LevelFilter;
use tcpcopy_io::capture::check_filter;
use tcpcopy_io::control::DEFAULT_PORT;

use super::arguments::Arguments;
use crate::exit::Failure;

const MB: usize = 1 << 20;
/// A year: longer waits are mistakes.
const MAX_SECONDS: u32 = 365 * 86_400;
/// The form of a filter, for messages.
const FILTER_EXAMPLE: &str = "-F 'tcp and src host 10.0.0.2 and src port 8080'";

/// Checked options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The capture filter.
    pub filter: String,
    /// Devices to capture on.
    pub devices: Vec<String>,
    /// Size of each capture's ring, in bytes.
    pub buffer_bytes: usize,
    /// Address to listen on; `None`: every one.
    pub bind: Option<IpAddr>,
    /// Port to listen on; 0 lets the system choose.
    pub port: u16,
    /// Routes for which there is room at once.
    pub initial_routes: usize,
    /// Responses in one write at most; `None`: whatever is there.
    pub responses_per_write: Option<u64>,
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
}

impl Options {
    /// Checks arguments.
    ///
    /// # Errors
    /// The first thing that cannot be; all are wrong usage.
    pub fn check(arguments: Arguments) -> Result<Self, Failure> {
        let filter = arguments.filter.unwrap_or_default();
        if filter.trim().is_empty() {
            return Err(Failure::usage(format!(
                "-F (--filter) is missing: it says which packets are the test server's\nit is written like this: \
                 {FILTER_EXAMPLE}\nall options: intercept -h"
            )));
        }
        check_filter(&filter)
            .map_err(|e| Failure::usage(format!("in -F (--filter): {e}\nit is written like this: {FILTER_EXAMPLE}")))?;
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
        let stats_interval = in_range("--stats-interval", arguments.stats_interval.unwrap_or(30), 0..=MAX_SECONDS)?;
        let default_log = arguments.daemon.then(|| PathBuf::from("error_intercept.log"));
        Ok(Self {
            filter,
            devices: devices(&arguments.device)?,
            buffer_bytes: in_range("-B (--buffer)", arguments.buffer.unwrap_or(8), 1..=2047)? as usize * MB,
            bind,
            port: arguments.port.unwrap_or(DEFAULT_PORT),
            initial_routes: hash_size as usize,
            responses_per_write: (combined > 0).then_some(u64::from(combined)),
            log: arguments.log.or(default_log).map(|path| absolute("-l (--log)", &path)).transpose()?,
            log_level: log_level(arguments.log_level.as_deref())?,
            stats_interval: (stats_interval > 0).then(|| Duration::from_secs(stats_interval.into())),
            pid: arguments.pid.map(|path| absolute("-P (--pid)", &path)).transpose()?,
            daemon: arguments.daemon,
        })
    }
}

fn in_range<T: PartialOrd + Display>(option: &str, value: T, range: RangeInclusive<T>) -> Result<T, Failure> {
    if range.contains(&value) {
        return Ok(value);
    }
    Err(Failure::usage(format!("in {option}: {value} is not within {} to {}", range.start(), range.end())))
}

fn devices(given: &[String]) -> Result<Vec<String>, Failure> {
    let mut devices: Vec<String> = Vec::new();
    for name in given.iter().flat_map(|list| list.split(',')).map(str::trim).filter(|name| !name.is_empty()) {
        if !devices.iter().any(|device| device == name) {
            devices.push(name.to_owned());
        }
    }
    if devices.is_empty() {
        devices.push("any".to_owned());
    }
    if devices.len() > 1 && devices.iter().any(|device| device == "any") {
        return Err(Failure::usage("in -i (--device): `any` has all the other devices in it; give it alone"));
    }
    Ok(devices)
}

fn log_level(text: Option<&str>) -> Result<LevelFilter, Failure> {
    let text = text.unwrap_or("info");
    text.parse().map_err(|_| Failure::usage(format!("in --log-level: `{text}` is none of error, warn, info, debug")))
}

/// A daemon changes its directory, so file names are made absolute before.
fn absolute(option: &str, path: &Path) -> Result<PathBuf, Failure> {
    if path.as_os_str().is_empty() || path.is_dir() {
        return Err(Failure::usage(format!("in {option}: `{}` is not the name of a file", path.display())));
    }
    std::path::absolute(path).map_err(|e| Failure::usage(format!("in {option}: {}: {e}", path.display())))
}
