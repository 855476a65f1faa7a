//! `--stop-if`: conditions under which tcpcopy ends by itself.
//!
//! A condition compares a figure with a limit over a time, ten seconds if nothing is said:
//!
//! | figure | what it is |
//! |---|---|
//! | `errors` | of the sessions that ended in that time, the percentage that the target refused, reset or never answered |
//! | `lag` | 99 of 100 requests in that time were let through to the target within this |
//! | `cpu` | percentage of all processors of the host that worked in that time |
//! | `load` | the host's load, at every look in that time |
//! | `memory` | memory of this process, at every look in that time |

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use tcpcopy_engine::ledger::SessionEnd;
use tcpcopy_engine::{Latency, Ledger};
use tcpcopy_io::usage::HostTime;

use crate::grammar::{OptionName, Part, SyntaxError};
use crate::live::durations::time_in_words;

/// Time between looks.
pub const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The time that a condition is about, where nothing is said.
const USUAL_TIME: Duration = Duration::from_secs(10);
/// The longest: what happened is remembered for so long.
const LONGEST_TIME: Duration = Duration::from_secs(3600);
/// Fewer sessions say nothing about a percentage, and fewer requests nothing about the slowest of a hundred.
const FEWEST: u64 = 20;

/// How the option is written.
pub const STOP_IF: OptionName = OptionName {
    name: "--stop-if",
    example: "--stop-if 'errors>5%', --stop-if 'lag>2s for 30s', 'cpu>85%', 'load>8' or 'memory>512M'",
};

/// What is compared, with its limit.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Figure {
    /// Percent.
    Errors(f64),
    Lag(Duration),
    /// Percent.
    Cpu(f64),
    Load(f64),
    /// Bytes.
    Memory(u64),
}

/// A condition.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    figure: Figure,
    time: Duration,
    /// As it was written.
    text: String,
}

impl Condition {
    /// Reads a condition.
    ///
    /// # Errors
    /// What is wrong with it, and how it is written.
    pub fn parse(text: &str) -> Result<Self, SyntaxError> {
        let whole = Part::whole(STOP_IF, text).trimmed();
        let Some((name, rest)) = whole.split_once('>') else {
            return Err(whole.error("a figure, `>` and a limit are expected"));
        };
        let (limit, time) = match rest.text().find(" for ") {
            None => (rest.trimmed(), USUAL_TIME),
            Some(at) => {
                let time = rest.slice(at + 5..rest.text().len()).trimmed();
                (rest.slice(0..at).trimmed(), duration(time)?)
            }
        };
        let figure = match name.trimmed().text() {
            "errors" => Figure::Errors(percent(limit)?),
            "lag" => Figure::Lag(duration(limit)?),
            "cpu" => Figure::Cpu(percent(limit)?),
            "load" => Figure::Load(number(limit, limit.text())?),
            "memory" => Figure::Memory(bytes(limit)?),
            _ => return Err(name.trimmed().error("this is none of errors, lag, cpu, load and memory")),
        };
        if time > LONGEST_TIME {
            return Err(rest.error("the longest time is 1h"));
        }
        Ok(Self { figure, time, text: whole.text().to_owned() })
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn number(part: Part<'_>, text: &str) -> Result<f64, SyntaxError> {
    // Neither signs nor exponents nor infinity: `parse` alone takes them all.
    let plain = text.chars().all(|c| c.is_ascii_digit() || c == '.');
    text.parse().ok().filter(|_| plain).ok_or_else(|| part.error("a number is expected here"))
}

fn percent(part: Part<'_>) -> Result<f64, SyntaxError> {
    let Some(text) = part.text().strip_suffix('%') else {
        return Err(part.error("a percentage is expected here, with `%` behind it"));
    };
    let percent = number(part, text.trim_end())?;
    if percent < 100.0 { Ok(percent) } else { Err(part.error("nothing is above 100%")) }
}

fn duration(part: Part<'_>) -> Result<Duration, SyntaxError> {
    let text = part.text();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let factor = match text[digits..].trim() {
        "ms" => 1,
        "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        _ => return Err(part.error("a time is expected here, with the unit ms, s, m or h")),
    };
    match text[..digits].parse::<u64>().ok().and_then(|n| n.checked_mul(factor)) {
        Some(n @ 1..) => Ok(Duration::from_millis(n)),
        _ => Err(part.error("a time above zero is expected here")),
    }
}

fn bytes(part: Part<'_>) -> Result<u64, SyntaxError> {
    let text = part.text();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let shift = match text[digits..].trim() {
        "K" | "KB" | "kB" => 10,
        "M" | "MB" => 20,
        "G" | "GB" => 30,
        _ => return Err(part.error("a size is expected here, with the unit K, M or G")),
    };
    match text[..digits].parse::<u64>().ok().and_then(|n| n.checked_mul(1 << shift)) {
        Some(n @ 1..) => Ok(n),
        _ => Err(part.error("a size above zero is expected here")),
    }
}

/// What is looked at, at one moment.
#[derive(Clone, Debug, Default)]
pub struct Look {
    /// When, from any beginning.
    pub at: Duration,
    /// Sessions that have ended, copied to their end or not; those that tcpcopy left out by itself not among them.
    pub ended: u64,
    /// Those of them that the target refused, reset or never answered.
    pub failed: u64,
    /// How late requests were let through, so far.
    pub lag: Latency,
    /// What the host's processors have done.
    pub host: HostTime,
    /// The host's load.
    pub load: f64,
    /// Memory of this process, in bytes.
    pub memory: u64,
}

impl Look {
    /// Takes what concerns sessions out of the counters.
    #[must_use]
    pub fn with_ledger(mut self, ledger: &Ledger) -> Self {
        let of =
            |reasons: &[SessionEnd]| reasons.iter().map(|reason| ledger.sessions_ended[*reason as usize]).sum::<u64>();
        self.failed = of(&[
            SessionEnd::TargetRefused,
            SessionEnd::TargetUnreachable,
            SessionEnd::TargetReset,
            SessionEnd::GaveUp,
            SessionEnd::TargetSilent,
        ]);
        let own_doing = of(&[SessionEnd::OverRate, SessionEnd::Throttled, SessionEnd::Stopped]);
        self.ended = ledger.sessions_completed + ledger.sessions_ended.iter().sum::<u64>() - own_doing;
        self.lag = ledger.lag.clone();
        self
    }
}

/// The conditions, and what has been seen.
#[derive(Clone, Debug)]
pub struct Watch {
    conditions: Vec<Condition>,
    /// The oldest first; as far back as the longest time needs.
    looks: VecDeque<Look>,
}

impl Watch {
    /// Watches for these conditions.
    pub fn new(conditions: Vec<Condition>) -> Self {
        Self { conditions, looks: VecDeque::new() }
    }

    /// Takes one more look; returns the first condition that holds, with its figures, in words.
    pub fn look(&mut self, look: Look) -> Option<String> {
        let longest = self.conditions.iter().map(|condition| condition.time).max()?;
        let now = look.at;
        self.looks.push_back(look);
        // One look at least is as old as the longest time, as soon as there can be.
        while self.looks.get(1).is_some_and(|second| now.saturating_sub(second.at) >= longest) {
            self.looks.pop_front();
        }
        self.conditions.iter().find_map(|condition| {
            let figures = self.holds(condition, now)?;
            Some(format!("--stop-if '{condition}': {figures}, over the last {:?}", condition.time))
        })
    }

    /// The figures, if the condition holds.
    fn holds(&self, condition: &Condition, now: Duration) -> Option<String> {
        let first = self.looks.iter().rposition(|look| now.saturating_sub(look.at) >= condition.time)?;
        let (then, last) = (self.looks.get(first)?, self.looks.back()?);
        let since = || self.looks.iter().skip(first);
        match condition.figure {
            Figure::Errors(limit) => {
                let (ended, failed) = (last.ended.saturating_sub(then.ended), last.failed.saturating_sub(then.failed));
                let percent = failed as f64 * 100.0 / ended.max(1) as f64;
                (ended >= FEWEST && percent > limit).then(|| {
                    format!("{failed} of {ended} sessions ({percent:.1} %) were refused, reset or not answered by the target")
                })
            }
            Figure::Lag(limit) => {
                let lag = last.lag.since(&then.lag);
                let slowest = lag.quantile(0.99).filter(|_| lag.count() >= FEWEST)?;
                (slowest > limit).then(|| {
                    let late = time_in_words(Some(slowest.as_micros() as u64));
                    format!("1 of 100 of {} requests was late by {late} or more", lag.count())
                })
            }
            Figure::Cpu(limit) => {
                let total = last.host.total.saturating_sub(then.host.total);
                let busy = last.host.busy.saturating_sub(then.host.busy);
                let percent = busy as f64 * 100.0 / total.max(1) as f64;
                (total > 0 && percent > limit)
                    .then(|| format!("the host's processors worked {percent:.1} % of the time"))
            }
            Figure::Load(limit) => {
                let lowest = since().map(|look| look.load).fold(f64::INFINITY, f64::min);
                (lowest > limit).then(|| format!("the host's load was {lowest:.2} or more"))
            }
            Figure::Memory(limit) => {
                let lowest = since().map(|look| look.memory).min()?;
                (lowest > limit).then(|| format!("this process took {} MB or more", lowest >> 20))
            }
        }
    }
}

#[cfg(test)]
mod tests;
