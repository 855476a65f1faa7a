//! Options of where packets come from, and of who works on them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tcpcopy_engine::Map;
use tcpcopy_io::capture::file::STDIN;
use tcpcopy_io::capture::{Method, check_filter, device_names};

use super::Responses;
use crate::exit::Failure;
use crate::tcpcopy::arguments::Arguments;
use crate::tcpcopy::replay::Plan;
use crate::tcpcopy::{filter, grammar};
use crate::values::{self, Workers, absolute, devices, in_range};

/// By what means devices are captured on.
pub(super) fn capture_method(text: Option<&str>, replays: bool) -> Result<Method, Failure> {
    match text {
        Some(_) if replays => Err(Failure::usage("--capture is for devices; -i names a file: leave --capture out")),
        None | Some("pcap") => Ok(Method::Pcap),
        Some("raw") => Ok(Method::Raw),
        Some(other) => Err(Failure::usage(format!("in --capture: `{other}` is neither pcap nor raw"))),
    }
}

/// What `-s local` captures.
pub(super) fn responses(arguments: &Arguments, maps: &[Map]) -> Result<Option<Responses>, Failure> {
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
pub(super) fn capture_from(arguments: &Arguments) -> Result<(Vec<String>, Option<Plan>), Failure> {
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
pub(super) fn workers(
    arguments: &Arguments,
    replays: bool,
    sources: &str,
    warnings: &mut Vec<String>,
) -> Result<u16, Failure> {
    let number = match values::workers(arguments.workers.as_ref())? {
        None => 1,
        Some(Workers::Number(number)) => number,
        Some(Workers::OneForEachProcessor(processors)) => {
            // Each worker needs an address of its own.
            let addresses =
                if sources.is_empty() { usize::MAX } else { grammar::sources(sources).map_or(1, |s| s.len()) };
            usize::from(processors).min(addresses).max(1) as u16
        }
    };
    if replays && number > 1 {
        warnings.push("--workers: a file is replayed by one worker".to_owned());
        return Ok(1);
    }
    Ok(number)
}
