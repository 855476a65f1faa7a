//! The running program: its main thread, which waits for tcpcopys and signals and, unless there are several workers, for
//! captures.
//!
//! Each turn of the loop first takes what the tcpcopys say, because a route that is known before its responses are read
//! saves keeping them; then reads every capture that has packets, until it is empty; then writes. A response thus
//! leaves as soon as there is nothing more to read, and no timer is involved. With several workers ([`Crew`]) each of them
//! does that with its captures, and the main thread writes.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token, Waker};
use tcpcopy_engine::PeerId;
use tcpcopy_io::capture::{CaptureConfig, CaptureError};
use tcpcopy_io::clock::MonotonicClock;
use tcpcopy_io::control::{BindError, ControlServer, ServerConfig};
use tcpcopy_io::process::{self, Capability, SIGHUP, Signals};
use tcpcopy_wire::Timestamp;
use tcpcopy_wire::control::Payload;
use tcpcopy_wire::link::LinkType;

use super::crew::Total;
use super::examine::{Captured, Examiner};
use super::exposition::Exposition;
use super::hands::{Device, Hands};
use super::live::Steering;
use super::options::Options;
use super::queue::QueueSource;
use super::report;
use super::told::{Rejections, Told, on_peer, tell};
use super::worker::DRAIN_BUDGET;
use crate::exit::{Exit, Failure};
use crate::live::server::Live;
use crate::logging::Log;
use crate::metrics::{Exporter, Scrape};
use crate::protect::identity::{Needs, Present};
use crate::protect::service::Service;

/// Bytes kept of each packet: link header with VLAN tags, IPv6 header with some extensions, longest TCP header.
const SNAPLEN: usize = 192;
/// The same from the moment that a tcpcopy wants payload: merged segments whole.
const WHOLE_SNAPLEN: usize = 262_144;
/// Time until a capture whose device went away is opened again.
const REOPEN_AFTER: Duration = Duration::from_secs(2);
/// Time between counters for the tcpcopys.
const STATS_FOR_PEERS: Duration = Duration::from_secs(10);

// Captures have the tokens between.
const SIGNALS: Token = Token(0);
const WAKER: Token = Token(FIRST_PEER.0 - 2);
const QUEUE: Token = Token(FIRST_PEER.0 - 1);
const FIRST_PEER: Token = Token(1 << 16);

/// Whom counters are due for.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Due {
    peers: bool,
    log: bool,
    questions: bool,
}

/// intercept, ready to run.
pub(super) struct Intercept {
    poll: Poll,
    signals: Signals,
    clock: MonotonicClock,
    devices: Vec<Device>,
    /// Where responses come from in the traditional set-up; there are no devices then.
    queue: Option<QueueSource>,
    server: ControlServer,
    hands: Hands,
    told: Told,
    /// How much of each packet's payload the captures take.
    captured_payload: Payload,
    next_stats: Timestamp,
    next_peer_stats: Timestamp,
    due: Due,
    exporter: Option<Exporter>,
    /// Scrapes that wait for counters.
    scrapes: Vec<Scrape>,
    service: Service,
    steering: Steering,
}

impl Intercept {
    /// Opens everything that can fail.
    ///
    /// # Errors
    /// What cannot be opened, with the exit code that belongs to it.
    pub(super) fn open(options: &Options, present: Present<'_>) -> Result<Self, Failure> {
        let failed = |what: &'static str| move |e: io::Error| Failure::new(Exit::Failure, format!("{what}: {e}"));
        let poll = Poll::new().map_err(failed("cannot wait for events"))?;
        let mut signals = process::signals().map_err(failed("cannot take signals"))?;
        poll.registry().register(&mut signals, SIGNALS, Interest::READABLE).map_err(failed("cannot take signals"))?;
        let clock = MonotonicClock::start();
        let waker = Waker::new(poll.registry(), WAKER).map_err(failed("cannot wait for workers"))?;
        let waker = Arc::new(waker);
        let mut hands = Hands::open(options, clock, poll.registry(), Arc::clone(&waker))
            .map_err(failed("cannot start a worker"))?;
        let mut devices = Vec::new();
        for name in &options.devices {
            let config = CaptureConfig {
                device: name.clone(),
                filter: options.filter.clone(),
                buffer_bytes: options.buffer_bytes,
                snaplen: SNAPLEN,
                immediate: true,
                ..CaptureConfig::default()
            };
            let device = Device { config, reopen_at: None };
            hands.capture(devices.len(), &device, clock.now()).map_err(|e| Failure::new(capture_exit(&e), e))?;
            devices.push(device);
        }
        let config = ServerConfig {
            address: options.bind,
            port: options.port,
            allow: options.allow.clone(),
            secret: options.security.read_secret()?,
            tls: options.security.server()?,
            single: options.single,
            ..ServerConfig::default()
        };
        let server = ControlServer::bind(config, poll.registry(), FIRST_PEER).map_err(bind_failure)?;
        let control_port = server.local_addr().map_or(options.port, |address| address.port());
        let exporter = match options.metrics {
            None => None,
            Some(address) => Some(Exporter::open(address, Arc::clone(&waker))?),
        };
        let live = Live::open("intercept", &options.socket, waker)?;
        let settle = || present.settle(&needs(options, live.as_ref()));
        let queue = if let Some(queue) = &options.queue {
            let events = (poll.registry(), QUEUE);
            Some(QueueSource::open(queue, control_port, SNAPLEN, options.buffer_bytes, events, settle)?)
        } else {
            settle()?;
            None
        };
        if let Ok(address) = server.local_addr() {
            let source = match &options.queue {
                Some(queue) => format!("reading NFQUEUE {}", queue.number),
                None => format!("capturing on {} with the filter `{}`", options.devices.join(", "), options.filter),
            };
            let workers = if options.workers > 1 { format!(", {} workers", options.workers) } else { String::new() };
            log::info!("intercept {}: listening on {address}, {source}{workers}", env!("CARGO_PKG_VERSION"));
        }
        let open_warning = server.config().lets_everyone_in().then(|| ServerConfig::open_warning(options.port));
        if let Some(conditions) = options.conditions() {
            log::info!("tcpcopys must {conditions}");
        }
        let now = clock.now();
        Ok(Self {
            poll,
            signals,
            clock,
            devices,
            queue,
            server,
            hands,
            told: Told { rejections: Rejections::default(), open_warning, examiner: Examiner::new(options) },
            captured_payload: Payload::Headers,
            next_stats: options.stats_interval.map_or(Timestamp::NEVER, |interval| now + interval),
            next_peer_stats: now + STATS_FOR_PEERS,
            due: Due::default(),
            exporter,
            scrapes: Vec::new(),
            service: Service::default(),
            steering: Steering::new(options, live),
        })
    }

    /// Runs until INT or TERM.
    ///
    /// # Errors
    /// When waiting for events fails, or a worker ends by itself.
    pub(super) fn run(mut self, log: &Log) -> Result<(), Failure> {
        let mut events = Events::with_capacity(256);
        let mut more = false;
        self.service = Service::from_environment();
        self.service.ready("waiting for tcpcopy");
        loop {
            let patience = if more { Some(Duration::ZERO) } else { self.patience() };
            if let Err(e) = self.poll.poll(&mut events, patience)
                && e.kind() != io::ErrorKind::Interrupted
            {
                return Err(Failure::new(Exit::Failure, format!("cannot wait for events: {e}")));
            }
            let now = self.clock.now();
            let mut signalled = false;
            for event in &events {
                match event.token() {
                    SIGNALS => signalled = true,
                    // What they tell is looked for in every turn.
                    WAKER => {}
                    QUEUE => {
                        if let Some(queue) = &mut self.queue {
                            queue.readable = true;
                        }
                    }
                    token if self.server.owns(token) => {
                        let Self { server, hands, told, .. } = &mut self;
                        server.handle_event(event, now, &mut |e| on_peer(&e, now, hands, told));
                    }
                    token => {
                        if let Hands::Own(worker) = &mut self.hands {
                            worker.readable(token);
                        }
                    }
                }
            }
            if signalled && self.take_signals(log) {
                self.stop();
                return Ok(());
            }
            if self.hands.wants_payload() > self.captured_payload {
                self.capture_more(now);
            }
            more = self.work(now)?;
            self.on_time(log);
            if let Hands::Own(worker) = &mut self.hands {
                worker.notices().for_each(|notice| tell(&notice));
            }
        }
    }

    /// How long to wait for events.
    fn patience(&self) -> Option<Duration> {
        let (busy, deadline) = match &self.hands {
            Hands::Own(worker) => (worker.has_packets(), worker.next_deadline()),
            Hands::Crew(crew) => (crew.has_messages(), None),
        };
        if busy || self.queue.as_ref().is_some_and(|q| q.readable) {
            return Some(Duration::ZERO);
        }
        let reopen = self.devices.iter().filter_map(|device| device.reopen_at);
        let alive_at =
            self.service.alive_at().map(|at| self.clock.now() + at.saturating_duration_since(Instant::now()));
        // While counters for them are being asked for, a worker wakes this thread.
        let questions = self.told.examiner.next_deadline().filter(|_| !self.due.questions);
        let deadlines = [deadline, self.server.next_deadline(), Some(self.next_stats), questions, alive_at];
        let earliest = deadlines.into_iter().flatten().chain(reopen).min()?;
        (earliest != Timestamp::NEVER).then(|| earliest.since(self.clock.now()))
    }

    /// Brings responses from the captures to the tcpcopys. Whether there is more to do at once.
    ///
    /// # Errors
    /// When a worker has ended by itself.
    fn work(&mut self, now: Timestamp) -> Result<bool, Failure> {
        let Self { hands, queue, server, devices, .. } = self;
        let lost = |device: usize| {
            if devices[device].reopen_at.is_none() {
                log::info!("trying to open {} again every {REOPEN_AFTER:?}", devices[device].config.device);
                devices[device].reopen_at = Some(now + REOPEN_AFTER);
            }
        };
        match hands {
            Hands::Own(worker) => {
                if let Some(queue) = queue.as_mut().filter(|q| q.readable) {
                    queue.drain(DRAIN_BUDGET, |bytes, wire_len| {
                        worker.take(now, LinkType::Raw, bytes, wire_len, server);
                    });
                }
                worker.read(now, server, lost);
                Ok(false)
            }
            Hands::Crew(crew) => {
                crew.pass_on();
                let more = crew.receive(now, server, lost)?;
                if crew.has_answered() {
                    self.use_counters(now);
                }
                Ok(more)
            }
        }
    }

    /// A tcpcopy wants payload, which the captures have cut off so far: opens each once more, with room for it.
    #[cold]
    fn capture_more(&mut self, now: Timestamp) {
        self.captured_payload = match self.hands.wants_payload() {
            // In few steps, whatever is asked for.
            Payload::First(bytes) => Payload::First(bytes.checked_next_power_of_two().unwrap_or(u16::MAX)),
            other => other,
        };
        let snaplen = match self.captured_payload {
            Payload::Headers => SNAPLEN,
            Payload::First(bytes) => SNAPLEN + usize::from(bytes),
            Payload::Full => WHOLE_SNAPLEN,
        };
        log::info!("a tcpcopy wants the payload of responses: capturing up to {snaplen} bytes of a packet from now on");
        if let Some(queue) = &mut self.queue
            && let Err(e) = queue.set_copy_bytes(snaplen)
        {
            log::error!(
                "the queue still gives {SNAPLEN} bytes of a packet: {e}; sessions that need payload wait in vain"
            );
        }
        for (number, device) in self.devices.iter_mut().enumerate() {
            device.config.snaplen = snaplen;
            if device.reopen_at.is_none()
                && let Err(e) = self.hands.capture(number, device, now)
            {
                log::error!("{e}; sessions that need payload wait in vain");
            }
        }
    }

    /// Does what the clock asks for.
    fn on_time(&mut self, log: &Log) {
        let now = self.clock.now();
        let Self { server, hands, told, .. } = self;
        if server.next_deadline().is_some_and(|at| at <= now) {
            server.handle_timeout(now, &mut |e| on_peer(&e, now, hands, told));
        }
        match hands {
            Hands::Own(worker) => {
                worker.on_time(now);
                // Routes that came with the time-out may have released responses.
                worker.flush(now, server);
            }
            Hands::Crew(crew) => crew.pass_on(),
        }
        for (number, device) in self.devices.iter_mut().enumerate() {
            if device.reopen_at.is_some_and(|at| at <= now) {
                match self.hands.capture(number, device, now) {
                    Ok(()) => {
                        log::info!("capturing on {} again", device.config.device);
                        device.reopen_at = None;
                    }
                    Err(_) => device.reopen_at = Some(now + REOPEN_AFTER),
                }
            }
        }
        let before = self.due;
        if now >= self.next_peer_stats {
            self.next_peer_stats = now + STATS_FOR_PEERS;
            self.due.peers = self.server.stats().up > 0;
        }
        let stats_interval = self.steering.stats_interval;
        let asked = self.steering.take_questions(log);
        if self.steering.stats_interval != stats_interval {
            self.next_stats = self.steering.stats_interval.map_or(Timestamp::NEVER, |interval| now + interval);
        }
        if let Some(interval) = self.steering.stats_interval
            && now >= self.next_stats
        {
            self.next_stats = now + interval;
            self.due.log = true;
        }
        self.due.questions |= self.told.examiner.next_deadline().is_some_and(|at| at <= now);
        let waiting = self.scrapes.len();
        self.scrapes.extend(self.exporter.iter().flat_map(Exporter::scrapes));
        self.tell_alive();
        if self.due == before && self.scrapes.len() == waiting && !asked {
            return;
        }
        match &mut self.hands {
            Hands::Own(_) => self.use_counters(now),
            Hands::Crew(crew) => crew.ask(self.server.peers()),
        }
    }

    /// Tells the service manager that all threads work, when it is time to: this one does, and workers do if they have answered
    /// the question before.
    fn tell_alive(&mut self) {
        let now = Instant::now();
        if self.service.alive_at().is_none_or(|at| now < at) {
            return;
        }
        match &mut self.hands {
            Hands::Own(_) => self.service.alive(now, true),
            Hands::Crew(crew) => {
                self.service.alive(now, crew.has_answered());
                crew.ask(self.server.peers());
            }
        }
    }

    /// Does with the counters what was to be done with them, now that they are there.
    fn use_counters(&mut self, now: Timestamp) {
        let due = std::mem::take(&mut self.due);
        if due.peers {
            let kernel_drops = self.total().captures.dropped;
            let peers: Vec<PeerId> = self.server.peers().collect();
            for peer in peers {
                let mut stats = match &mut self.hands {
                    Hands::Own(worker) => worker.link_stats(peer),
                    Hands::Crew(crew) => crew.link_stats(peer),
                };
                stats.kernel_drops = kernel_drops;
                self.server.send_stats(peer, &stats, now);
            }
        }
        if !self.scrapes.is_empty() {
            let total = self.total();
            let server = self.server.stats();
            for scrape in self.scrapes.drain(..) {
                scrape.answer(Exposition { relay: total.relay.clone(), captures: total.captures, server });
            }
        }
        if due.questions {
            let total = self.total();
            let captured = Captured { frames: total.relay.frames, kernel_drops: total.captures.dropped };
            let Self { server, told, .. } = self;
            told.examiner
                .answer(&captured, now, |peer, report, answers| server.send_report(peer, report, answers, now));
        }
        if self.steering.waits() {
            let total = self.total();
            self.steering.answer(&total, self.server.stats());
        }
        if due.log {
            let total = self.total();
            self.service.status(&format!(
                "relaying to {} tcpcopys, {} packets captured",
                self.server.stats().up,
                total.relay.frames
            ));
            if total.relay.frames > 0 || self.server.stats().accepted > 0 {
                self.report(&total);
            }
        }
    }

    fn total(&mut self) -> Total {
        let mut total = match &mut self.hands {
            Hands::Own(worker) => {
                let counters = worker.counters([]);
                Total { relay: counters.relay, captures: counters.captures, workers: Vec::new() }
            }
            Hands::Crew(crew) => crew.total(),
        };
        if let Some(queue) = &mut self.queue {
            total.captures += queue.capture_stats();
        }
        total
    }

    fn report(&mut self, total: &Total) {
        for line in report::lines(total, &self.server.stats()) {
            log::info!("{line}");
        }
        if let Some(queue) = &mut self.queue {
            log::info!("{}", queue.report());
        }
    }

    /// Whether to stop.
    fn take_signals(&mut self, log: &Log) -> bool {
        let mut stop = false;
        for signal in self.signals.pending() {
            if signal == SIGHUP {
                self.service.reloading();
                match log.reopen() {
                    Ok(()) => log::info!("log opened again"),
                    Err(e) => log::error!("{e}"),
                }
                self.service.ready("the log is open again");
            } else {
                stop = true;
            }
        }
        stop
    }

    /// Relays what has been captured, and takes leave.
    fn stop(&mut self) {
        let now = self.clock.now();
        self.service.stopping("relaying what has been captured");
        let Self { hands, queue, server, clock, .. } = self;
        match hands {
            Hands::Own(worker) => {
                if let Some(queue) = queue {
                    queue.close_rules();
                    queue.drain(DRAIN_BUDGET, |bytes, wire_len| {
                        worker.take(now, LinkType::Raw, bytes, wire_len, server);
                    });
                }
                worker.finish(now, server);
            }
            Hands::Crew(crew) => crew.stop(*clock, server),
        }
        let total = self.total();
        self.report(&total);
        if let Err(e) = total.relay.check() {
            log::error!("{e}");
        }
        log::info!("stopped");
    }
}

/// What is needed after the start.
fn needs(options: &Options, live: Option<&Live>) -> Needs {
    let capabilities = match &options.queue {
        // A device that went away is captured on again when it is back, and each may be opened with more room.
        None => vec![Capability::NetRaw],
        // Each verdict is checked for the first. iptables of the older kind reads its tables through a raw socket.
        Some(_) => vec![Capability::NetAdmin, Capability::NetRaw],
    };
    let for_children = options.queue.is_some();
    Needs {
        capabilities,
        for_children,
        files: [&options.log, &options.pid].into_iter().flatten().cloned().collect(),
        sockets: live.map(|live| live.path().to_owned()).into_iter().collect(),
    }
}

fn capture_exit(e: &CaptureError) -> Exit {
    match e {
        CaptureError::NoPermission { .. } => Exit::Permission,
        CaptureError::NoSuchDevice { .. } | CaptureError::BadFilter { .. } | CaptureError::UnsupportedLink { .. } => {
            Exit::Usage
        }
        _ => Exit::Failure,
    }
}

fn bind_failure(e: BindError) -> Failure {
    let exit = match e.source.kind() {
        io::ErrorKind::PermissionDenied => Exit::Permission,
        io::ErrorKind::AddrNotAvailable => Exit::Usage,
        _ => Exit::Failure,
    };
    Failure::new(exit, e)
}
