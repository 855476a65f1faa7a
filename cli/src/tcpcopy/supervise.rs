//! The running copy, seen from its main thread: signals, workers, statistics.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token, Waker};
use tcpcopy_io::capture::file::FileError;
use tcpcopy_io::process::{PidFile, SIGHUP, Signals};

use super::exposition::{self, Exposition};
use super::guard::{self, Guard};
use super::looks::Looks;
use super::options::Options;
use super::recording::{Ended, Recorder};
use super::report::{self, Snapshot};
use super::steering::Steering;
use super::worker::{Handle, Order, Report};
use crate::exit::{Exit, Failure, failure_of_worker};
use crate::live::server::Live;
use crate::logging::Log;
use crate::metrics::{Exporter, Scrape};
use crate::security::SecurityFiles;

/// A worker that is asked for its counters or told to stop has this long, its own limit included.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

pub(super) const SIGNALS: Token = Token(0);
pub(super) const WAKER: Token = Token(1);

/// A worker and its thread.
pub(super) type RunningWorker = (Handle, JoinHandle<io::Result<()>>);

/// The running program, seen from its main thread.
pub(super) struct Running {
    pub(super) poll: Poll,
    pub(super) signals: Signals,
    pub(super) workers: Vec<RunningWorker>,
    pub(super) reports: Receiver<Report>,
    /// Kept open: with the last worker's end its last copy would be closed, and a wake-up that has not been seen yet be lost.
    pub(super) _waker: Arc<Waker>,
    pub(super) counters: Vec<Snapshot>,
    /// The worker that replays has nothing more to do.
    pub(super) replay_is_over: bool,
    pub(super) exporter: Option<Exporter>,
    pub(super) recorder: Option<Recorder>,
    pub(super) live: Option<Live>,
    pub(super) steering: Steering,
    pub(super) _pid_file: Option<PidFile>,
}

impl Running {
    /// Waits for signals and workers, and writes statistics, until a signal ends the program. However it ends, what was
    /// recorded is made a report of.
    pub(super) fn supervise(mut self, options: &Options, log: &Log) -> Result<(), Failure> {
        let result = self.watch(options, log);
        match self.recorder.take() {
            None => result,
            Some(recorder) => {
                let how = match &result {
                    Ok(()) if self.replay_is_over => Ended::ReplayOver,
                    Ok(()) => Ended::Stopped,
                    Err(failure) => Ended::Failed(failure.message.clone()),
                };
                let written = recorder.finish(&self.total(), how);
                result.and(written)
            }
        }
    }

    fn watch(&mut self, options: &Options, log: &Log) -> Result<(), Failure> {
        let mut events = Events::with_capacity(16);
        let mut looks = Looks::new(options, self.steering.log.stats_interval);
        let mut guard = Guard::new(options);
        guard.service.ready(&guard::status(&self.total().ledger));
        let reason = loop {
            let others = [guard.next_due(), self.recorder.as_ref().map(Recorder::next_due)];
            let next = others.into_iter().flatten().fold(looks.next_due(), Instant::min);
            match self.poll.poll(&mut events, Some(next.saturating_duration_since(Instant::now()))) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => events.clear(),
                Err(e) => return Err(Failure::cannot("wait for events")(e)),
                Ok(()) => {}
            }
            let signals: Vec<i32> = self.signals.pending().collect();
            if signals.contains(&SIGHUP) {
                guard.service.reloading();
                log.reopen();
                if let Some((secret, tls)) = options.security.read_again(SecurityFiles::client) {
                    self.order(&Order::Renew(secret, tls));
                }
                guard.service.ready(&guard::status(&self.total().ledger));
            }
            if signals.iter().any(|signal| *signal != SIGHUP) {
                break None;
            }
            // Before the reports are read: the last word of a worker that has ended is among them.
            let one_has_ended = self.workers.iter().any(|(_, thread)| thread.is_finished());
            while let Ok(report) = self.reports.try_recv() {
                self.take(report);
            }
            if self.replay_is_over {
                drop(looks);
                self.print_summary(options);
                return self.unread_file().map_or(Ok(()), |e| Err(Failure::new(Exit::Failure, e)));
            }
            if one_has_ended {
                return Err(self.worker_failure(options));
            }
            self.answer_scrapes(options);
            let reason = guard.on_time(self);
            if reason.is_some() {
                break reason;
            }
            self.answer_questions(options, log);
            let now = Instant::now();
            self.record(now);
            looks.set_interval(now, self.steering.log.stats_interval);
            if now >= looks.next_due() {
                self.collect(&Order::Report);
                let total = self.total();
                let line = guard::status(&total.ledger);
                if looks.look(now, total) {
                    guard.service.status(&line);
                }
            }
        };
        drop(looks);
        guard.service.stopping(reason.as_deref().unwrap_or("closing the sessions"));
        match &reason {
            Some(reason) => log::warn!("stopping, because of {reason}: the sessions are closed towards the target"),
            None => log::info!("stopping: the sessions are closed towards the target"),
        }
        self.collect(&Order::Stop);
        self.print_summary(options);
        reason.map_or(Ok(()), |reason| Err(Failure::new(Exit::Condition, format!("ended because of {reason}"))))
    }

    /// Answers the scrapes that wait, all with the same numbers.
    fn answer_scrapes(&mut self, options: &Options) {
        let scrapes: Vec<Scrape> = self.exporter.iter().flat_map(Exporter::scrapes).collect();
        if scrapes.is_empty() {
            return;
        }
        self.collect(&Order::Report);
        for scrape in scrapes {
            scrape.answer(Exposition { counters: self.total(), maps: exposition::names(options) });
        }
    }

    /// Takes a sample for the statistics file and the report, when it is due.
    fn record(&mut self, now: Instant) {
        if self.recorder.as_ref().is_some_and(|recorder| now >= recorder.next_due()) {
            self.collect(&Order::Report);
            let total = self.total();
            if let Some(recorder) = &mut self.recorder {
                recorder.sample(&total);
            }
        }
    }

    /// Takes a worker's report.
    fn take(&mut self, report: Report) {
        self.replay_is_over |= report.last && report.counters.replay.is_some();
        for (handle, _) in &mut self.workers {
            handle.hear(&report);
        }
        self.counters[report.worker] = report.counters;
    }

    /// The table; of a replay, also what was found and what became of it.
    fn print_summary(&self, options: &Options) {
        self.print_table(options);
        let total = self.total();
        for line in report::replay_summary(&total) {
            if !options.daemon {
                // A terminal that has gone is no reason to fail at the end.
                let _ = writeln!(io::stdout(), "{line}");
            }
            if options.daemon || options.log.is_some() {
                log::info!("{line}");
            }
        }
    }

    /// A file of which nothing could be read: a pipe, or one that was exchanged. Others are looked at before the start.
    fn unread_file(&self) -> Option<FileError> {
        let damages = self.total().replay?.damages;
        damages.into_iter().find(|damage| !matches!(damage, FileError::Damaged { .. }))
    }

    /// Gives all workers an order.
    pub(super) fn order(&mut self, order: &Order) {
        for (handle, _) in &mut self.workers {
            handle.order(order.clone());
        }
    }

    /// Gives all workers an order and waits for their reports, for a limited time, or for a second signal to stop. Whether all
    /// have carried it out.
    pub(super) fn collect(&mut self, order: &Order) -> bool {
        self.order(order);
        let give_up = Instant::now() + ANSWER_LIMIT;
        loop {
            let missing = self.workers.iter().filter(|(handle, _)| !handle.has_carried_out(order)).count();
            if missing == 0 {
                return true;
            }
            match self.reports.recv_timeout(Duration::from_millis(100)) {
                Ok(report) => self.take(report),
                Err(_) if Instant::now() >= give_up => {
                    log::warn!("{missing} workers do not answer; their last counters are used");
                    return false;
                }
                Err(_) if matches!(order, Order::Stop) && self.signals.pending().any(|signal| signal != SIGHUP) => {
                    return false;
                }
                Err(_) => {}
            }
        }
    }

    pub(super) fn total(&self) -> Snapshot {
        let mut total = Snapshot::default();
        for counters in &self.counters {
            total += counters;
        }
        total
    }

    /// To the terminal, if there is one to print to, and to the log file, if there is one.
    fn print_table(&self, options: &Options) {
        let table = report::table(&self.total()) + &report::worker_rows(&self.counters);
        if !options.daemon {
            // A terminal that has gone is no reason to fail at the end.
            let _ = io::stdout().write_all(table.as_bytes());
        }
        if options.log.is_some() {
            table.lines().for_each(|line| log::info!("{line}"));
        }
    }

    /// A worker has ended though nobody told it to: stops the others.
    fn worker_failure(&mut self, options: &Options) -> Failure {
        let mut reason = "a worker ended".to_owned();
        let (ended, rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.workers).into_iter().partition(|(_, thread)| thread.is_finished());
        self.workers = rest;
        for (_, thread) in ended {
            if let Some(failure) = failure_of_worker(thread.join()) {
                reason = failure;
            }
        }
        self.collect(&Order::Stop);
        self.print_table(options);
        Failure::new(Exit::Failure, reason)
    }
}
