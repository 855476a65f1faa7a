//! Settings that change while a program runs, as far as tcpcopy and intercept have them in common.

use std::time::Duration;

use log::LevelFilter;
use tcpcopy_io::local::Peer;

use super::protocol::InForce;
use crate::logging::{Log, one_line};
use crate::values;

/// What is logged, and how often statistics are.
#[derive(Clone, Debug)]
pub(crate) struct LogSettings {
    pub(crate) level: LevelFilter,
    /// Time between statistics in the log.
    pub(crate) stats_interval: Option<Duration>,
}

/// One of them, to be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogChange {
    Level(LevelFilter),
    StatsInterval(Option<Duration>),
}

impl LogSettings {
    /// What `set` takes, and what it looks like.
    pub(crate) const KEYS: [(&str, &str); 2] = [
        ("log-level", "error, warn, info or debug"),
        ("stats-interval", "seconds between statistics in the log, 0 for none"),
    ];

    pub(crate) fn set(&mut self, change: LogChange, log: &Log) {
        match change {
            LogChange::Level(level) => {
                self.level = level;
                log.set_level(level);
            }
            LogChange::StatsInterval(interval) => self.stats_interval = interval,
        }
    }

    /// In the words that `set` takes.
    pub(crate) fn in_words(&self) -> [(&'static str, String); 2] {
        let seconds = self.stats_interval.map_or(0, |interval| interval.as_secs());
        [("log-level", self.level.to_string().to_lowercase()), ("stats-interval", seconds.to_string())]
    }
}

impl LogChange {
    /// What a setting means, or what is wrong with it. `keys` are all that the program has.
    pub(crate) fn parse(key: &str, value: &str, keys: &[(&str, &str)]) -> Result<Self, String> {
        match key {
            "log-level" => values::log_level(Some(value)).map(Self::Level).map_err(|failure| failure.message),
            "stats-interval" => {
                let seconds =
                    value.parse().map_err(|_| format!("stats-interval: `{value}` is no number of seconds"))?;
                values::stats_interval(seconds).map(Self::StatsInterval).map_err(|failure| failure.message)
            }
            _ => {
                let keys: Vec<String> = keys.iter().map(|(key, form)| format!("  {key}={form}")).collect();
                Err(format!("`{key}` cannot be set while the program runs; these can:\n{}", keys.join("\n")))
            }
        }
    }
}

/// Tells the log what is other than before, and who wanted that.
pub(crate) fn log_changes(before: &InForce, now: &InForce, by: Peer) {
    for (key, value) in &now.settings {
        if let Some(old) = before.settings.get(key).filter(|old| *old != value) {
            log::warn!("{key} was {old}, and is {} from now on, by {by}", one_line(value));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_set_is_refused_with_what_can() {
        let parse = |key, value| LogChange::parse(key, value, &LogSettings::KEYS);
        assert_eq!(parse("log-level", "debug"), Ok(LogChange::Level(LevelFilter::Debug)));
        assert_eq!(parse("stats-interval", "7"), Ok(LogChange::StatsInterval(Some(Duration::from_secs(7)))));
        assert!(parse("rate", "20%").unwrap_err().contains("log-level="));
        assert!(parse("stats-interval", "x").is_err());
    }
}
