//! What intercept tells of itself on its socket, and what can be changed while it runs.

use std::collections::BTreeMap;
use std::time::Instant;

use serde_json::{Map, Value};
use tcpcopy_engine::relay::{RelayDrop, RelayStats};
use tcpcopy_io::capture::CaptureStats;
use tcpcopy_io::control::ServerStats;
use tcpcopy_io::local::Peer;

use super::crew::Total;
use super::options::Options;
use crate::live::protocol::{Answer, Command, InForce, Kernel, Numbers, Refusal, RefusalKind, Status};
use crate::live::server::{Live, Question};
use crate::live::settings::{LogChange, LogSettings, log_changes};
use crate::logging::Log;

/// The socket, who waits for an answer there, and what is in force.
pub(super) struct Steering {
    live: Option<Live>,
    /// Questions that wait for counters.
    waiting: Vec<Question>,
    started: Instant,
    /// The options that say what it takes, and where it listens.
    options: Map<String, Value>,
    pub(super) log: LogSettings,
}

impl Steering {
    pub(super) fn new(options: &Options, live: Option<Live>) -> Self {
        Self {
            live,
            waiting: Vec::new(),
            started: Instant::now(),
            options: in_use(options),
            log: LogSettings { level: options.log_level, stats_interval: options.stats_interval },
        }
    }

    /// Takes what is asked: orders are carried out, and the rest waits for counters. Whether something does that began to.
    pub(super) fn take_questions(&mut self, log: &Log) -> bool {
        let questions: Vec<Question> = self.live.iter().flat_map(Live::questions).collect();
        let before = self.waiting.len();
        for question in questions {
            let (command, from) = &question.words;
            let answer = match command {
                Command::Status => {
                    self.waiting.push(question);
                    continue;
                }
                Command::Set { settings } => self.set(settings, *from, log).unwrap_or_else(refused),
                Command::Pause | Command::Resume => {
                    refused("intercept has no copy to pause: ask the tcpcopy that makes it".to_owned())
                }
            };
            question.answer(answer);
        }
        self.waiting.len() > before
    }

    /// Answers with the counters.
    pub(super) fn answer(&mut self, total: &Total, server: ServerStats) {
        let waiting = std::mem::take(&mut self.waiting);
        for question in waiting {
            question.answer(Answer::Status(Box::new(self.status(total, server))));
        }
    }

    /// Whether somebody waits for counters.
    pub(super) fn waits(&self) -> bool {
        !self.waiting.is_empty()
    }

    fn set(&mut self, settings: &BTreeMap<String, String>, from: Peer, log: &Log) -> Result<Answer, String> {
        let changes = settings.iter().map(|(key, value)| LogChange::parse(key, value, &LogSettings::KEYS));
        let changes: Vec<LogChange> = changes.collect::<Result<_, _>>()?;
        let before = self.in_force();
        for change in changes {
            self.log.set(change, log);
        }
        let in_force = self.in_force();
        log_changes(&before, &in_force, from);
        Ok(Answer::InForce(in_force))
    }

    fn in_force(&self) -> InForce {
        InForce { paused: false, settings: self.log.in_words().map(|(key, value)| (key.to_owned(), value)).into() }
    }

    fn status(&self, total: &Total, server: ServerStats) -> Status {
        let workers = total.workers.iter().map(|worker| numbers(&worker.relay, worker.captures)).collect();
        let mut all = numbers(&total.relay, total.captures);
        (all.links_up, all.links) = (server.up, server.up);
        all.counters.insert("connections_accepted".to_owned(), server.accepted);
        all.counters.insert("writes".to_owned(), server.writes);
        Status {
            program: "intercept".to_owned(),
            release: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_seconds: self.started.elapsed().as_secs_f64(),
            in_force: self.in_force(),
            options: self.options.clone(),
            total: all,
            workers,
            ..Status::default()
        }
    }
}

/// What it takes and where it listens, by the long names of the options.
fn in_use(options: &Options) -> Map<String, Value> {
    let mut used = Map::new();
    let mut put = |name: &str, value: Value| _ = used.insert(name.to_owned(), value);
    if let Some(queue) = &options.queue {
        put("nfqueue", queue.number.into());
    } else {
        put("filter", options.filter.as_str().into());
        put("device", options.devices.join(",").into());
    }
    if let Some(address) = options.bind {
        put("bind", address.to_string().into());
    }
    put("port", options.port.into());
    put("workers", options.workers.into());
    used
}

fn refused(message: String) -> Answer {
    Answer::Refused(Refusal { kind: RefusalKind::Usage, message })
}

fn numbers(relay: &RelayStats, captures: CaptureStats) -> Numbers {
    let dropped = RelayDrop::ALL.iter().map(|reason| reason.text().to_owned()).zip(relay.dropped);
    Numbers {
        counters: relay.counters().map(|(name, _, count)| (name.to_owned(), count)).collect(),
        packets_dropped: dropped.collect(),
        kernel: Kernel {
            received: captures.received,
            dropped: captures.dropped,
            dropped_by_device: captures.interface_dropped,
            captures_lost: 0,
        },
        ..Numbers::default()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::intercept::arguments::Arguments;

    #[test]
    fn counters_and_drops_are_told_by_name() {
        let mut total = Total { relay: RelayStats::default(), captures: CaptureStats::default(), workers: Vec::new() };
        total.relay.frames = 9;
        let words = ["intercept", "-F", "tcp and src port 80", "-i", "lo", "--stats-interval", "0"];
        let options = Options::check(Arguments::try_parse_from(words).unwrap()).unwrap();
        let steering = Steering::new(&options, None);
        let status = steering.status(&total, ServerStats::default());
        assert_eq!(status.total.counter("frames"), 9);
        assert_eq!(status.total.packets_dropped.len(), RelayDrop::ALL.len());
        assert_eq!(status.in_force.settings["stats-interval"], "0");
        assert_eq!(status.options["filter"], "tcp and src port 80");
        assert_eq!((&status.options["device"], &status.options["port"]), (&"lo".into(), &36_524.into()));
    }
}
