//! The program `tcpcopy`: from its arguments to its exit code.

pub mod arguments;
pub mod decap;
pub mod filter;
pub mod grammar;
mod legacy;
pub mod modules;
pub mod options;
pub mod output;
pub mod progress;
pub mod replay;
pub mod report;
pub mod worker;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Parser;
use clap::error::ErrorKind;
use mio::{Events, Interest, Poll, Token, Waker};
use tcpcopy_engine::{CopierConfig, Gate};
use tcpcopy_io::capture::file::FileError;
use tcpcopy_io::capture::{self, CaptureConfig, CaptureError, CaptureGroup};
use tcpcopy_io::clock::MonotonicClock;
use tcpcopy_io::control::LinksConfig;
use tcpcopy_io::process::{self, Daemonized, PidFile, Readiness, SIGHUP, Signals, StartReport};
use tcpcopy_io::transmit::link::LinkPaths;
use tcpcopy_io::transmit::{TransmitError, Transmitter};
use tcpcopy_module_api::ModuleHandle;
use tcpcopy_wire::control::{FEATURE_PAYLOAD, FEATURE_UDP, Hello};

use crate::config;
use crate::exit::{self, Exit, Failure};
use crate::logging::Log;
use arguments::Arguments;
use modules::{BuiltIn, Catalogue};
use options::{Options, Responses};
use progress::ProgressDisplay;
use report::Snapshot;
use worker::{Handle, Order, Report, Side, StartError, Worker};

/// Send buffer of each raw socket, in bytes.
const SEND_BUFFER: usize = 8 << 20;
/// Bytes kept of each captured packet: all of it, merged segments included.
const SNAPLEN: usize = 262_144;
/// Counters are fetched at least this often: libpcap's wrap.
const LONGEST_TICK: Duration = Duration::from_secs(60);
/// A worker that is asked for its counters or told to stop has this long, its own limit included.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

const SIGNALS: Token = Token(0);
const WAKER: Token = Token(1);

/// Runs a copy. `arguments` begin with the program's name; `built_in` are the modules that it has.
pub fn main(arguments: impl IntoIterator<Item = String>, built_in: BuiltIn) -> ExitCode {
    let options = match read_options(arguments, built_in) {
        Ok(options) => options,
        Err(Early::Clap(e)) => {
            let _ = e.print();
            return if e.use_stderr() { Exit::Usage.into() } else { Exit::Done.into() };
        }
        Err(Early::Failure(e)) => return complain(&e),
    };
    if !options.daemon {
        return match run(&options, Readiness::foreground()) {
            Ok(()) => Exit::Done.into(),
            Err(e) => ExitCode::from(e.exit as u8),
        };
    }
    match process::daemonize() {
        Err(e) => complain(&Failure::new(Exit::Failure, format!("cannot become a daemon: {e}"))),
        Ok(Daemonized::Parent(StartReport::Ready)) => Exit::Done.into(),
        Ok(Daemonized::Parent(StartReport::Failed { code, message })) => {
            exit::say(&message);
            ExitCode::from(code)
        }
        Ok(Daemonized::Parent(StartReport::Died)) => {
            complain(&Failure::new(Exit::Failure, "the daemon ended before it was ready; its log may say why"))
        }
        Ok(Daemonized::Child(readiness)) => match run(&options, readiness) {
            Ok(()) => Exit::Done.into(),
            Err(e) => ExitCode::from(e.exit as u8),
        },
    }
}

fn complain(failure: &Failure) -> ExitCode {
    exit::say(&format!("tcpcopy: {failure}"));
    failure.exit.into()
}

/// Why the program ends before it has begun.
enum Early {
    /// Help, version, or what clap finds wrong.
    Clap(clap::Error),
    /// What we find wrong.
    Failure(Failure),
}

impl From<Failure> for Early {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

/// Arguments, configuration file and this host's addresses, made into checked options.
fn read_options(arguments: impl IntoIterator<Item = String>, built_in: BuiltIn) -> Result<Options, Early> {
    let arguments = parse(arguments)?;
    let arguments = match &arguments.config {
        None => arguments,
        Some(path) => {
            let file = config::read::<Arguments>(path).map_err(Failure::usage)?;
            let mut merged = config::merge(&arguments, &file);
            // Of options of modules the command line's win one by one, not all at once: the last one counts.
            merged.proto_opt = [file.proto_opt, arguments.proto_opt].concat();
            merged
        }
    };
    let catalogue = Catalogue::new(built_in, &arguments.module_dir)?;
    Ok(Options::check(arguments, &catalogue, &capture::local_addresses())?)
}

/// The arguments as they are written.
fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Arguments, Early> {
    let arguments = config::mend(arguments);
    Arguments::try_parse_from(&arguments).map_err(|e| match e.kind() {
        ErrorKind::MissingRequiredArgument => Failure::usage(e.render()).into(),
        _ => Early::Clap(e),
    })
}

/// Everything from the first system call to the last. A failure has been told to whoever waits when this returns.
fn run(options: &Options, readiness: Readiness) -> Result<(), Failure> {
    let log = match Log::start(options.log.as_deref(), options.log_level) {
        Ok(log) => log,
        Err(e) => {
            let failure = Failure::new(Exit::Failure, e);
            readiness.failed(failure.exit as u8, &format!("tcpcopy: {failure}"));
            return Err(failure);
        }
    };
    let started = match start(options) {
        Ok(started) => started,
        Err(failure) => {
            if options.log.is_some() {
                log::error!("{failure}");
            }
            readiness.failed(failure.exit as u8, &format!("tcpcopy: {failure}"));
            return Err(failure);
        }
    };
    let Some(running) = started else { return Ok(()) };
    if let Err(e) = readiness.ready() {
        log::warn!("cannot let go of the terminal: {e}");
    }
    let result = running.supervise(options, &log);
    if let Err(failure) = &result {
        log::error!("{failure}");
    }
    result
}

/// The running program, seen from its main thread.
struct Running {
    poll: Poll,
    signals: Signals,
    workers: Vec<(Handle, JoinHandle<io::Result<()>>)>,
    reports: Receiver<Report>,
    counters: Vec<Snapshot>,
    /// The worker that replays has nothing more to do.
    replay_is_over: bool,
    _pid_file: Option<PidFile>,
}

/// Opens everything and starts the workers. `None`: a signal ended the start.
fn start(options: &Options) -> Result<Option<Running>, Failure> {
    let failed = |what: &str| {
        let what = what.to_owned();
        move |e: io::Error| Failure::new(Exit::Failure, format!("cannot {what}: {e}"))
    };
    let pid_file =
        options.pid.as_deref().map(PidFile::create).transpose().map_err(|e| Failure::new(Exit::Failure, e))?;
    if let Some(plan) = &options.replay {
        plan.check().map_err(|e| {
            let usage =
                matches!(e, FileError::Open { .. } | FileError::NotACapture { .. } | FileError::BadFilter { .. });
            Failure::new(if usage { Exit::Usage } else { Exit::Failure }, format!("in -i (--device): {e}"))
        })?;
    }
    let poll = Poll::new().map_err(failed("wait for events"))?;
    let mut signals = process::signals().map_err(failed("handle signals"))?;
    poll.registry().register(&mut signals, SIGNALS, Interest::READABLE).map_err(failed("wait for signals"))?;
    let waker = Arc::new(Waker::new(poll.registry(), WAKER).map_err(failed("wait for workers"))?);

    for warning in &options.warnings {
        log::warn!("{warning}");
    }
    let (secret, tls) = (options.security.read_secret()?, options.security.client()?);
    let clock = MonotonicClock::start();
    let mut workers = Vec::new();
    let paths = options
        .output
        .as_ref()
        .map(|output| LinkPaths::find(&output.devices, &output.targets))
        .transpose()
        .map_err(transmit_failure)?;
    for number in 0..usize::from(options.workers) {
        let ipv6 = |map: &tcpcopy_engine::Map| map.target.addr.is_ipv6();
        let transmitter = match &paths {
            Some(paths) => Transmitter::open_link(paths, SEND_BUFFER),
            None => Transmitter::open(!options.maps.iter().all(ipv6), options.maps.iter().any(ipv6), SEND_BUFFER),
        };
        let transmitter = transmitter.map_err(transmit_failure)?;
        let features = FEATURE_PAYLOAD | FEATURE_UDP;
        let hello = Hello { features, route_ttl: options.idle_timeout, ..Hello::default() };
        let mut links = LinksConfig::new(options.intercepts.clone(), options.links_per_intercept, hello);
        (links.secret, links.tls) = (secret.clone(), tls.clone());
        links.protocol = options.intercept_protocol;
        let engine = engine_config(options, number);
        let captures =
            options.devices.len() + options.responses.as_ref().map_or(0, |responses| responses.devices.len());
        let made = Worker::new(number, clock, engine, links, transmitter, captures).map_err(failed("make a worker"))?;
        workers.push(made);
    }
    if !options.keep_trying {
        for (worker, _) in &mut workers {
            let interrupted = || signals.pending().any(|signal| signal != SIGHUP);
            match worker.connect(interrupted) {
                Ok(()) => {}
                Err(StartError::Interrupted) => return Ok(None),
                Err(StartError::Refused { intercept, reason }) => {
                    return Err(Failure::new(
                        Exit::Unreachable,
                        format!("no link to intercept at {intercept}: {reason}"),
                    ));
                }
                Err(StartError::Unreachable { intercept, attempts, reason }) => {
                    return Err(Failure::new(
                        Exit::Unreachable,
                        format!(
                            "intercept at {intercept} cannot be reached: {reason} (attempt {attempts}); start it first, \
                             or let tcpcopy keep trying with -L"
                        ),
                    ));
                }
                Err(StartError::Io(e)) => return Err(failed("wait for the links")(e)),
            }
        }
    }
    open_captures(options, &mut workers)?;
    if let Some(plan) = &options.replay {
        for (worker, _) in &mut workers {
            worker.add_replay(plan).map_err(failed("start a thread"))?;
        }
    }

    let (sender, reports) = mpsc::channel();
    let mut threads = Vec::new();
    for (number, (worker, handle)) in workers.into_iter().enumerate() {
        let (sender, waker) = (sender.clone(), Arc::clone(&waker));
        let thread = thread::Builder::new()
            .name(format!("worker-{number}"))
            .spawn(move || {
                // Also when the worker panics, the main thread must look at it.
                let _wake = WakeAtEnd(&waker);
                worker.run(&sender, &waker)
            })
            .map_err(failed("start a thread"))?;
        threads.push((handle, thread));
    }
    log_start(options);
    let counters = vec![Snapshot::default(); threads.len()];
    Ok(Some(Running { poll, signals, workers: threads, reports, counters, replay_is_over: false, _pid_file: pid_file }))
}

fn transmit_failure(e: TransmitError) -> Failure {
    let exit = match e {
        TransmitError::NoPermission => Exit::Permission,
        TransmitError::Device { .. } => Exit::Usage,
        TransmitError::NoPath { .. } => Exit::Unreachable,
        TransmitError::Open { .. } => Exit::Failure,
    };
    Failure::new(exit, e)
}

/// Wakes the main thread when its worker ends, however it ends.
struct WakeAtEnd<'a>(&'a Waker);

impl Drop for WakeAtEnd<'_> {
    fn drop(&mut self) {
        let _ = self.0.wake();
    }
}

fn engine_config(options: &Options, worker: usize) -> CopierConfig {
    let module: ModuleHandle = options.modules[0].handle.clone();
    CopierConfig {
        sources: options.sources[worker].clone(),
        mtu: options.mtu,
        mss: options.mss,
        only_whole_sessions: options.only_whole_sessions,
        gate: if options.no_wait { Gate::Off } else { Gate::Turns },
        response_timeout: options.response_timeout,
        idle_timeout: options.idle_timeout,
        memory_limit: options.memory_limit / usize::from(options.workers),
        intercepts: options.intercepts.len() as u16,
        sees_responses: options.responses.is_some(),
        preserve_rtt: options.preserve_rtt,
        links_per_intercept: options.links_per_intercept,
        timestamp_base: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u32),
        // The standard library's hash keys come from the system's random numbers.
        seed: RandomState::new().build_hasher().finish(),
        modules: options.modules.iter().map(|module| module.handle.clone()).collect(),
        traffic: options.traffic.clone(),
        decapsulation: options.decapsulation.clone(),
        ..CopierConfig::new(options.maps.clone(), module)
    }
}

/// Opens each device once for every worker. Several workers share clients' packets by flow; of the target's packets, whose
/// flows are others, each looks for its own.
fn open_captures(options: &Options, workers: &mut [(Worker, Handle)]) -> Result<(), Failure> {
    let of_clients = options.devices.iter().map(|device| (device, Side::Clients, &options.filter));
    let responses = options.responses.iter();
    let of_target = responses.flat_map(|r| r.devices.iter().map(move |device| (device, Side::Target, &r.filter)));
    for (device, side, filter) in of_clients.chain(of_target) {
        let config = CaptureConfig {
            device: device.clone(),
            filter: filter.clone(),
            buffer_bytes: options.buffer_bytes,
            snaplen: SNAPLEN,
            immediate: false,
            // Where the target is on this host, what it sends may only go out.
            inbound_only: side == Side::Clients && !options.both_directions,
            promiscuous: side == Side::Clients && options.promiscuous,
            behind_tags: side == Side::Clients && options.filter_behind_tags,
            fanout: None,
            method: options.capture_method,
        };
        let failure = |e: CaptureError| {
            let exit = match e {
                CaptureError::NoSuchDevice { .. } | CaptureError::BadFilter { .. } => Exit::Usage,
                CaptureError::NoPermission { .. } => Exit::Permission,
                _ => Exit::Failure,
            };
            Failure::new(exit, e)
        };
        let not_waiting =
            |e: io::Error| Failure::new(Exit::Failure, format!("cannot wait for packets on `{device}`: {e}"));
        if side == Side::Target {
            for (worker, _) in workers.iter_mut() {
                let alone = CaptureGroup::open(config.clone(), 1).map_err(failure)?;
                worker.add_capture(Arc::new(alone), 0, side).map_err(not_waiting)?;
            }
            continue;
        }
        let group = Arc::new(CaptureGroup::open(config, workers.len()).map_err(failure)?);
        for (member, (worker, _)) in workers.iter_mut().enumerate() {
            worker.add_capture(Arc::clone(&group), member, side).map_err(not_waiting)?;
        }
    }
    Ok(())
}

fn log_start(options: &Options) {
    for map in &options.maps {
        let online = map.online_addr.map_or_else(
            || format!("port {}", map.online_port),
            |addr| tcpcopy_wire::Endpoint::new(addr, map.online_port).to_string(),
        );
        let module = &options.modules[usize::from(map.module)];
        let about = module.handle.about;
        log::info!(
            "copying {online} to {} over {}, by module {} {} ({})",
            map.target,
            map.transport,
            about.name,
            about.version,
            module.origin
        );
    }
    if let Some(output) = &options.output {
        log::info!("sending at the link layer of {}", output.devices.join(", "));
    }
    match &options.replay {
        Some(plan) => {
            let files: Vec<String> = plan.files.iter().map(|path| path.display().to_string()).collect();
            log::info!("replaying {}", files.join(", "));
        }
        None => log::info!("capturing on {} with the filter: {}", options.devices.join(", "), options.filter),
    }
    if let Some(Responses { devices, filter }) = &options.responses {
        log::info!("capturing the target's responses on {} with the filter: {filter}", devices.join(", "));
    }
}

impl Running {
    /// Waits for signals and workers, and writes statistics, until a signal ends the program.
    fn supervise(mut self, options: &Options, log: &Log) -> Result<(), Failure> {
        let mut events = Events::with_capacity(16);
        let mut progress = options.replay.is_some().then(|| ProgressDisplay::new(options.daemon));
        let tick = options.stats_interval.map_or(LONGEST_TICK, |interval| interval.min(LONGEST_TICK));
        let tick = if progress.is_some() { tick.min(ProgressDisplay::every()) } else { tick };
        let mut next_tick = Instant::now() + tick;
        let mut next_statistics = options.stats_interval.map(|interval| Instant::now() + interval);
        let mut before = Snapshot::default();
        loop {
            let timeout = next_tick.saturating_duration_since(Instant::now());
            match self.poll.poll(&mut events, Some(timeout)) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => events.clear(),
                Err(e) => return Err(Failure::new(Exit::Failure, format!("cannot wait for events: {e}"))),
                Ok(()) => {}
            }
            let signals: Vec<i32> = self.signals.pending().collect();
            if signals.contains(&SIGHUP) {
                match log.reopen() {
                    Ok(()) => log::info!("log opened again"),
                    Err(e) => log::error!("{e}"),
                }
            }
            if signals.iter().any(|signal| *signal != SIGHUP) {
                break;
            }
            while let Ok(report) = self.reports.try_recv() {
                self.take(report);
            }
            if self.replay_is_over {
                drop(progress);
                self.print_summary(options);
                return Ok(());
            }
            if self.workers.iter().any(|(_, thread)| thread.is_finished()) {
                return Err(self.worker_failure(options));
            }
            let now = Instant::now();
            if now >= next_tick {
                next_tick = now + tick;
                self.collect(Order::Report);
                if let (Some(display), Some(replay)) = (&mut progress, &self.total().replay) {
                    display.show(replay);
                }
                if let Some(due) = next_statistics.filter(|due| now >= *due) {
                    let interval = options.stats_interval.unwrap_or(tick);
                    // A late tick (a suspended host) does not make the next ones come in a row.
                    next_statistics = Some((due + interval).max(now + interval / 2));
                    let total = self.total();
                    for line in report::statistics(&total) {
                        log::info!("{line}");
                    }
                    for warning in report::warnings(&before, &total) {
                        log::warn!("{warning}");
                    }
                    before = total;
                }
            }
        }
        drop(progress);
        log::info!("stopping: the sessions are closed towards the target");
        self.collect(Order::Stop);
        self.print_summary(options);
        Ok(())
    }

    /// Takes a worker's report.
    fn take(&mut self, report: Report) {
        self.replay_is_over |= report.last && report.counters.replay.is_some();
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

    /// Gives all workers an order and waits for their reports, for a limited time, or for a second signal to stop.
    fn collect(&mut self, order: Order) {
        for (handle, _) in &self.workers {
            handle.order(order);
        }
        let give_up = Instant::now() + ANSWER_LIMIT;
        let mut missing = self.workers.len();
        while missing > 0 {
            match self.reports.recv_timeout(Duration::from_millis(100)) {
                Ok(report) => {
                    self.take(report);
                    missing -= 1;
                }
                Err(_) if Instant::now() >= give_up => {
                    log::warn!("{missing} workers do not answer; their last counters are used");
                    return;
                }
                Err(_) if order == Order::Stop && self.signals.pending().any(|signal| signal != SIGHUP) => return,
                Err(_) => {}
            }
        }
    }

    fn total(&self) -> Snapshot {
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
            reason = match thread.join() {
                Ok(Err(e)) => format!("a worker cannot wait for events: {e}"),
                Ok(Ok(())) => continue,
                Err(panic) => {
                    let text = panic.downcast_ref::<String>().map(String::as_str);
                    let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
                    format!("a worker failed by a mistake in the program: {text}")
                }
            };
        }
        self.collect(Order::Stop);
        self.print_table(options);
        Failure::new(Exit::Failure, reason)
    }
}

/// Whether a command line is taken; otherwise why not.
#[cfg(test)]
pub(crate) fn check_words(words: &[String]) -> Result<(), String> {
    let to_text = |early| match early {
        Early::Clap(e) => e.to_string(),
        Early::Failure(failure) => failure.message,
    };
    let arguments = parse(words.iter().cloned()).map_err(to_text)?;
    let catalogue = Catalogue::new::<&str>(BuiltIn::shipped(), &[]).map_err(|failure| failure.message)?;
    Options::check(arguments, &catalogue, &[]).map(drop).map_err(|failure| failure.message)
}

#[cfg(test)]
mod tests;
