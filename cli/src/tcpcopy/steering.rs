//! What can be changed while a copy runs: whether it is paused, and some options.

use std::collections::BTreeMap;
use std::time::Instant;

use tcpcopy_engine::{Input, Rate};
use tcpcopy_io::local::Peer;

use super::grammar;
use super::options::{self, Options};
use super::status;
use super::supervise::Running;
use super::worker::Order;
use crate::live::protocol::{Answer, Command, InForce, Refusal, RefusalKind};
use crate::live::settings::{LogChange, LogSettings, log_changes};
use crate::logging::Log;

/// An order that concerns a worker's engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steer {
    /// See [`Input::Pause`].
    Pause,
    /// See [`Input::Resume`].
    Resume,
    /// See [`Input::Sample`].
    Sample(u8),
    /// See [`Input::MaxRate`]; a worker's part of it.
    MaxRate(Option<Rate>),
}

impl From<Steer> for Input<'_> {
    fn from(steer: Steer) -> Self {
        match steer {
            Steer::Pause => Self::Pause,
            Steer::Resume => Self::Resume,
            Steer::Sample(percentage) => Self::Sample(percentage),
            Steer::MaxRate(rate) => Self::MaxRate(rate),
        }
    }
}

/// What is in force now.
#[derive(Clone, Debug)]
pub(super) struct Steering {
    started: Instant,
    paused: bool,
    percentage: u8,
    max_rate: Option<Rate>,
    pub(super) log: LogSettings,
}

/// One thing to change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Percentage(u8),
    MaxRate(Option<Rate>),
    Log(LogChange),
}

/// What `set` takes, and what it looks like.
const KEYS: [(&str, &str); 4] = [
    ("rate", "20% (of the connections that begin from now on; 1% to 100%)"),
    ("max-rate", "1000 or 50MB (a second), or none"),
    LogSettings::KEYS[0],
    LogSettings::KEYS[1],
];

impl Steering {
    /// What the options say.
    pub(super) fn new(options: &Options) -> Self {
        Self {
            started: Instant::now(),
            paused: false,
            percentage: options.traffic.percentage,
            max_rate: options.max_rate,
            log: LogSettings { level: options.log_level, stats_interval: options.stats_interval },
        }
    }

    /// In the words that `set` takes.
    fn in_force(&self) -> InForce {
        let of_copy = [("rate", format!("{}%", self.percentage)), ("max-rate", rate_in_words(self.max_rate))];
        let settings = of_copy.into_iter().chain(self.log.in_words());
        InForce { paused: self.paused, settings: settings.map(|(key, value)| (key.to_owned(), value)).collect() }
    }
}

fn rate_in_words(rate: Option<Rate>) -> String {
    match rate {
        None => "none".to_owned(),
        Some(Rate::Count(n)) => n.to_string(),
        Some(Rate::Bytes(n)) => format!("{n}B"),
    }
}

/// What settings mean; all of them, or what is wrong with the first that is.
fn changes(settings: &BTreeMap<String, String>) -> Result<Vec<Change>, String> {
    settings.iter().map(|(key, value)| change(key, value)).collect()
}

fn change(key: &str, value: &str) -> Result<Change, String> {
    match key {
        "rate" => {
            let number = value.strip_suffix('%').unwrap_or(value).trim();
            match number.parse() {
                Ok(percentage @ 1..=100) => Ok(Change::Percentage(percentage)),
                Ok(0) => Err("rate: to copy nothing, pause".to_owned()),
                _ => Err(format!("rate: `{value}` is no whole percentage from 1% to 100%")),
            }
        }
        "max-rate" if value == "none" => Ok(Change::MaxRate(None)),
        "max-rate" => grammar::rate(value).map(|rate| Change::MaxRate(Some(rate))).map_err(|e| e.to_string()),
        _ => LogChange::parse(key, value, &KEYS).map(Change::Log),
    }
}

impl Running {
    /// Answers what is asked on the socket.
    pub(super) fn answer_questions(&mut self, options: &Options, log: &Log) {
        let questions: Vec<_> = self.live.iter().flat_map(crate::live::server::Live::questions).collect();
        for question in questions {
            let (command, from) = &question.words;
            let answer = match command {
                Command::Status => self.status(options),
                Command::Pause => self.pause(true, *from),
                Command::Resume => self.pause(false, *from),
                Command::Set { settings } => match changes(settings) {
                    Ok(changes) => self.set(&changes, options, log, *from),
                    Err(message) => Answer::Refused(Refusal { kind: RefusalKind::Usage, message }),
                },
            };
            question.answer(answer);
        }
    }

    fn status(&mut self, options: &Options) -> Answer {
        self.collect(&Order::Report);
        let mut status = status::status(options, &self.counters, &self.total(), self.steering.in_force());
        status.uptime_seconds = self.steering.started.elapsed().as_secs_f64();
        Answer::Status(Box::new(status))
    }

    fn pause(&mut self, pause: bool, from: Peer) -> Answer {
        if self.steering.paused != pause {
            self.steering.paused = pause;
            if pause {
                log::warn!("paused by {from}: the sessions are closed towards the target");
                self.collect(&Order::Steer(Steer::Pause));
            } else {
                self.collect(&Order::Steer(Steer::Resume));
                log::warn!("resumed by {from}");
            }
        }
        Answer::InForce(self.steering.in_force())
    }

    fn set(&mut self, changes: &[Change], options: &Options, log: &Log, from: Peer) -> Answer {
        let before = self.steering.in_force();
        for change in changes {
            match *change {
                Change::Percentage(percentage) => {
                    self.steering.percentage = percentage;
                    self.collect(&Order::Steer(Steer::Sample(percentage)));
                }
                Change::MaxRate(rate) => {
                    self.steering.max_rate = rate;
                    let part = rate.map(|rate| options::part_of_rate(rate, options.workers));
                    self.collect(&Order::Steer(Steer::MaxRate(part)));
                }
                Change::Log(change) => self.steering.log.set(change, log),
            }
        }
        let in_force = self.steering.in_force();
        log_changes(&before, &in_force, from);
        Answer::InForce(in_force)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use log::LevelFilter;

    use super::*;

    #[test]
    fn settings_are_read_as_the_options_are() {
        assert_eq!(change("rate", "20%"), Ok(Change::Percentage(20)));
        assert_eq!(change("rate", "100"), Ok(Change::Percentage(100)));
        assert_eq!(change("max-rate", "none"), Ok(Change::MaxRate(None)));
        assert_eq!(change("max-rate", "50MB"), Ok(Change::MaxRate(Some(Rate::Bytes(50_000_000)))));
        assert_eq!(change("log-level", "debug"), Ok(Change::Log(LogChange::Level(LevelFilter::Debug))));
        assert_eq!(change("stats-interval", "0"), Ok(Change::Log(LogChange::StatsInterval(None))));
        for (key, value, word) in [
            ("rate", "0", "pause"),
            ("rate", "101%", "1% to 100%"),
            ("rate", "2.5%", "whole"),
            ("max-rate", "0", "nothing"),
            ("max-rate", "5TB", "unit"),
            ("log-level", "loud", "error, warn, info, debug"),
            ("stats-interval", "soon", "seconds"),
            ("workers", "2", "stats-interval="),
        ] {
            let message = change(key, value).unwrap_err();
            assert!(message.contains(word), "{key}={value}: {message}");
        }
    }

    #[test]
    fn one_wrong_setting_changes_nothing() {
        let settings = [("rate", "20%"), ("max-rate", "fast")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert!(changes(&settings.into()).is_err());
    }

    #[test]
    fn what_is_in_force_can_be_set_again() {
        let steering = Steering {
            started: Instant::now(),
            paused: false,
            percentage: 37,
            max_rate: Some(Rate::Bytes(5_000_000)),
            log: LogSettings { level: LevelFilter::Warn, stats_interval: Some(Duration::from_secs(90)) },
        };
        let settings = steering.in_force().settings;
        assert!(settings.keys().map(String::as_str).all(|key| KEYS.iter().any(|(known, _)| *known == key)));
        assert_eq!(settings.len(), KEYS.len());
        let mut read = changes(&settings).unwrap();
        read.sort_by_key(|change| format!("{change:?}"));
        assert_eq!(
            read,
            [
                Change::Log(LogChange::Level(LevelFilter::Warn)),
                Change::Log(LogChange::StatsInterval(Some(Duration::from_secs(90)))),
                Change::MaxRate(Some(Rate::Bytes(5_000_000))),
                Change::Percentage(37),
            ]
        );
    }
}
