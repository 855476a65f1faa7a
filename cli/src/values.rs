//! Values that options of both programs have in common, checked.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use log::LevelFilter;

use crate::config::Text;
use crate::exit::Failure;

/// Workers at most; more than a host has processors help nobody.
pub(crate) const MAX_WORKERS: u16 = 64;
/// A year: longer waits are mistakes.
pub(crate) const MAX_SECONDS: u32 = 365 * 86_400;

/// What `--workers` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Workers {
    /// So many.
    Number(u16),
    /// `auto`, on a host with so many processors for us.
    OneForEachProcessor(u16),
}

/// How many threads are wanted; `None` when nothing is said.
///
/// # Errors
/// Wrong usage, with what is possible.
pub(crate) fn workers(given: Option<&Text>) -> Result<Option<Workers>, Failure> {
    let Some(text) = given.map(|text| text.0.trim()) else { return Ok(None) };
    if text == "auto" {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        return Ok(Some(Workers::OneForEachProcessor(processors.clamp(1, MAX_WORKERS.into()) as u16)));
    }
    let number =
        text.parse().map_err(|_| Failure::usage(format!("in --workers: `{text}` is neither a number nor `auto`")))?;
    in_range("--workers", number, 1..=MAX_WORKERS).map(|number| Some(Workers::Number(number)))
}

/// A number within a range, both ends included.
///
/// # Errors
/// Wrong usage, with the range. So for all checks here.
pub(crate) fn in_range<T: PartialOrd + Display>(
    option: &str,
    value: T,
    range: RangeInclusive<T>,
) -> Result<T, Failure> {
    if range.contains(&value) {
        return Ok(value);
    }
    Err(Failure::usage(format!("in {option}: {value} is not within {} to {}", range.start(), range.end())))
}

/// A file's name, made absolute: a daemon changes its directory.
///
/// # Errors
/// Wrong usage, when it can be no file.
pub(crate) fn absolute(option: &str, path: &Path) -> Result<PathBuf, Failure> {
    if path.as_os_str().is_empty() || path.is_dir() {
        return Err(Failure::usage(format!("in {option}: `{}` is not the name of a file", path.display())));
    }
    std::path::absolute(path).map_err(|e| Failure::usage(format!("in {option}: {}: {e}", path.display())))
}

/// What is logged; `info` unless something else is wanted.
///
/// # Errors
/// Wrong usage, with the levels there are.
pub(crate) fn log_level(text: Option<&str>) -> Result<LevelFilter, Failure> {
    let text = text.unwrap_or("info");
    text.parse().map_err(|_| Failure::usage(format!("in --log-level: `{text}` is none of error, warn, info, debug")))
}

/// The time between statistics, of so many seconds; nothing of none.
///
/// # Errors
/// Wrong usage, when it is too long.
pub(crate) fn stats_interval(seconds: u32) -> Result<Option<Duration>, Failure> {
    let seconds = in_range("--stats-interval", seconds, 0..=MAX_SECONDS)?;
    Ok((seconds > 0).then(|| Duration::from_secs(seconds.into())))
}

/// Devices to capture on, out of comma-separated lists; `any` when none is given.
///
/// # Errors
/// Wrong usage, when a file is given, or `any` among others.
pub(crate) fn devices(option: &str, given: &[String]) -> Result<Vec<String>, Failure> {
    let mut devices: Vec<String> = Vec::new();
    for name in given.iter().flat_map(|list| list.split(',')).map(str::trim).filter(|name| !name.is_empty()) {
        if name.contains('/') || Path::new(name).is_file() {
            return Err(Failure::usage(format!(
                "in {option}: `{name}` is a file, and not the name of a device, such as eth0, or any"
            )));
        }
        if !devices.iter().any(|device| device == name) {
            devices.push(name.to_owned());
        }
    }
    if devices.is_empty() {
        devices.push("any".to_owned());
    }
    if devices.len() > 1 && devices.iter().any(|device| device == "any") {
        return Err(Failure::usage(format!("in {option}: `any` has all the other devices in it; give it alone")));
    }
    Ok(devices)
}
