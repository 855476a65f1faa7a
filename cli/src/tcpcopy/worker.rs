//! One worker: an engine with its captures, its transmitter and its links, on one thread.
//!
//! # How it runs
//!
//! The thread sleeps until a capture, a link, an order or a deadline has something for it, and then works in rounds:
//!
//! 1. What the links have received goes into the engine first: responses open gates, and what they release is sent at
//!    once.
//! 2. Each capture hands over one batch of frames. What its ring holds beyond that is moved into a queue in memory, since
//!    the ring has room for a moment only: see [`Backlog`].
//! 3. When all captures are empty the thread sleeps again; otherwise the next round begins with a look at the links that
//!    does not sleep.
//!
//! After each step the outbox is emptied: route changes before packets, since intercept must know a route before the
//! target can answer. The clock is read once a round.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Registry, Token, Waker};
use tcpcopy_engine::ledger::SessionEnd;
use tcpcopy_engine::{Copier, CopierConfig, Input, LinkId, Notice, Outbox};
use tcpcopy_io::capture::backlog::Backlog;
use tcpcopy_io::capture::{Capture, CaptureError, CaptureGroup, CaptureStats};
use tcpcopy_io::clock::MonotonicClock;
use tcpcopy_io::control::{ControlLinks, LinkEvent, LinksConfig, SendError};
use tcpcopy_io::transmit::Transmitter;
use tcpcopy_module_api::LogLevel;
use tcpcopy_wire::Timestamp;
use tcpcopy_wire::control::{LinkStats, RouteChange};
use tcpcopy_wire::link::LinkType;

use super::replay::{Plan, Replay};
use super::report::{Snapshot, one_line};

/// Frames that one capture hands over before the links and the ring are looked at again.
const BATCH: usize = 64;
/// The same in bytes: a frame of 64 KB is 45 packets to send, and while they are sent the ring fills.
const BATCH_BYTES: usize = 256 << 10;
/// Frames taken directly from the ring, where their size is not known before.
const DIRECT: usize = 16;
/// Frames moved from a ring to its queue in one round; copying them takes a small part of a millisecond.
const MOVE: usize = 1024;
/// Bytes of frames that wait in memory for one capture, at most. Beyond that the ring fills, and the kernel counts what
/// it drops.
const BACKLOG_LIMIT: usize = 64 << 20;
/// Pause before a device that has gone away is tried again.
const REOPEN_EVERY: Duration = Duration::from_secs(2);
/// Pause between looks whether the devices are still there.
const CHECK_EVERY: Duration = Duration::from_secs(2);
/// Sessions have this long to close towards the target after the order to stop.
const STOP_LIMIT: Duration = Duration::from_secs(3);
/// Attempts to reach each intercept at the start.
const START_ATTEMPTS: u32 = 3;
/// Pause between looks at the signals while the links are being connected.
const START_TICK: Duration = Duration::from_millis(100);
/// A notice that concerns no single session is repeated no sooner than this.
const NOTICE_EVERY: Duration = Duration::from_secs(30);

const WAKER: Token = Token(0);
const FIRST_CAPTURE: usize = 1;

/// What the main thread wants of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Send the counters.
    Report,
    /// Close the sessions, send the counters, end.
    Stop,
}

/// What a worker tells the main thread.
#[derive(Debug)]
pub struct Report {
    /// Which worker, from 0.
    pub worker: usize,
    /// Its counters.
    pub counters: Snapshot,
    /// It ends now.
    pub last: bool,
}

/// The main thread's end of a worker.
pub struct Handle {
    orders: Sender<Order>,
    waker: Arc<Waker>,
}

impl Handle {
    /// Gives an order; a worker that has ended ignores it.
    pub fn order(&self, order: Order) {
        let _ = self.orders.send(order);
        let _ = self.waker.wake();
    }
}

/// Why the links did not come up at the start.
#[derive(Debug)]
pub enum StartError {
    /// An intercept cannot be reached.
    Unreachable {
        /// Which.
        intercept: SocketAddr,
        /// After this many attempts.
        attempts: u32,
        /// What the last one said.
        reason: String,
    },
    /// An intercept is there, but one of the two does not want the other.
    Refused {
        /// Which.
        intercept: SocketAddr,
        /// Why.
        reason: String,
    },
    /// A signal came.
    Interrupted,
    /// Waiting failed.
    Io(io::Error),
}

/// Whose packets a capture shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Clients', and maybe online's.
    Clients,
    /// The target's (`-s local`).
    Target,
}

/// A device, and its capture while there is one.
struct Device {
    token: Token,
    side: Side,
    /// Where captures come from, and which one of them is ours.
    group: Arc<CaptureGroup>,
    member: usize,
    /// The number of the opening of the capture that there is or was.
    opened: u64,
    capture: Option<Capture>,
    /// How its frames begin.
    link: LinkType,
    /// The ring may hold frames.
    ready: bool,
    /// Frames taken out of the ring that could not be handled yet.
    backlog: Backlog,
    /// When to look whether the device is still there or, after it was lost, there again.
    check_at: Timestamp,
    /// Counters of former captures.
    before: CaptureStats,
    /// How often it was lost.
    losses: u64,
}

/// A worker, before and while it runs.
pub struct Worker {
    number: usize,
    poll: Poll,
    events: Events,
    clock: MonotonicClock,
    orders: Receiver<Order>,
    devices: Vec<Device>,
    links: ControlLinks,
    io: Delivery,
    engine: Copier,
    replay: Option<Replay>,
    waker: Arc<Waker>,
    stop_at: Option<Timestamp>,
}

/// Where the engine's wishes go.
struct Delivery {
    outbox: Outbox,
    transmitter: Transmitter,
    routes_unsent: u64,
    /// The intercept of each link, and what it last said of itself.
    relays: Vec<(SocketAddr, LinkStats)>,
    named_ends: HashSet<(SessionEnd, &'static str)>,
    next_source_notice: Timestamp,
    module_lines: ModuleLines,
    told_not_supported: bool,
}

impl Worker {
    /// A worker with all its links down and no capture.
    ///
    /// # Errors
    /// When the system has no poll or waker to give.
    pub fn new(
        number: usize,
        clock: MonotonicClock,
        engine: CopierConfig,
        links: LinksConfig,
        transmitter: Transmitter,
        devices: usize,
    ) -> io::Result<(Self, Handle)> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let (sender, orders) = mpsc::channel();
        let links = ControlLinks::new(links, poll.registry(), Token(FIRST_CAPTURE + devices))?;
        let relays =
            (0..links.len() as u16).filter_map(|id| Some((links.address(LinkId(id))?, LinkStats::default()))).collect();
        let worker = Self {
            number,
            poll,
            events: Events::with_capacity(256),
            clock,
            orders,
            devices: Vec::with_capacity(devices),
            links,
            io: Delivery {
                outbox: Outbox::new(),
                transmitter,
                routes_unsent: 0,
                relays,
                named_ends: HashSet::new(),
                next_source_notice: Timestamp::ZERO,
                module_lines: ModuleLines::default(),
                told_not_supported: false,
            },
            engine: Copier::new(engine),
            replay: None,
            waker: Arc::clone(&waker),
            stop_at: None,
        };
        Ok((worker, Handle { orders: sender, waker }))
    }

    /// Waits until each intercept has a link that works.
    ///
    /// # Errors
    /// When one cannot be reached, or `interrupted` says so.
    pub fn connect(&mut self, mut interrupted: impl FnMut() -> bool) -> Result<(), StartError> {
        let intercepts: HashSet<SocketAddr> = self.link_ids().filter_map(|id| self.links.address(id)).collect();
        let mut failure = None;
        loop {
            let now = self.clock.now();
            let Self { links, engine, io, events, .. } = &mut *self;
            let mut sink = |event: LinkEvent<'_>| {
                if let LinkEvent::Failed { link, attempts, reason } = &event
                    && *attempts >= START_ATTEMPTS
                {
                    failure = Some((*link, *attempts, (*reason).clone()));
                }
                on_link_event(now, &event, engine, io);
            };
            for event in &*events {
                if links.owns(event.token()) {
                    links.handle_event(event, now, &mut sink);
                }
            }
            links.handle_timeout(now, &mut sink);
            let up: HashSet<SocketAddr> =
                self.link_ids().filter(|id| self.links.is_up(*id)).filter_map(|id| self.links.address(id)).collect();
            if up == intercepts {
                return Ok(());
            }
            if let Some((link, attempts, reason)) = failure.take()
                && let Some(intercept) = self.links.address(link)
                && !up.contains(&intercept)
            {
                let (refused, reason) = (reason.is_refusal(), reason.to_string());
                return Err(if refused {
                    StartError::Refused { intercept, reason }
                } else {
                    StartError::Unreachable { intercept, attempts, reason }
                });
            }
            if interrupted() {
                return Err(StartError::Interrupted);
            }
            let due = self.links.next_deadline().map_or(START_TICK, |at| at.since(self.clock.now()));
            wait(&mut self.poll, &mut self.events, Some(due.min(START_TICK))).map_err(StartError::Io)?;
        }
    }

    /// Gives the worker a capture, the one of this member of the group; packets are copied from now on. Should it be lost, the
    /// group has another one.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn add_capture(&mut self, group: Arc<CaptureGroup>, member: usize, side: Side) -> io::Result<()> {
        let token = Token(FIRST_CAPTURE + self.devices.len());
        let mut device = Device {
            token,
            side,
            group,
            member,
            opened: 0,
            link: LinkType::Raw,
            capture: None,
            ready: false,
            backlog: Backlog::new(BACKLOG_LIMIT),
            check_at: Timestamp::ZERO,
            before: CaptureStats::default(),
            losses: 0,
        };
        if let Some((opened, capture)) = device.group.newer(member) {
            device.use_capture(opened, capture, self.poll.registry())?;
        }
        self.devices.push(device);
        Ok(())
    }

    /// Gives the worker files to replay, which are read from now on. When all is replayed, the worker ends.
    ///
    /// # Errors
    /// When there is no thread to read them.
    pub fn add_replay(&mut self, plan: &Plan) -> io::Result<()> {
        self.replay = Some(Replay::start(plan, Arc::clone(&self.waker))?);
        Ok(())
    }

    /// Runs until the order to stop is carried out. Sends a report for each order.
    ///
    /// # Errors
    /// When waiting fails; nothing else ends a worker.
    pub fn run(mut self, reports: &Sender<Report>, wake_main: &Waker) -> io::Result<()> {
        loop {
            let timeout = self.timeout();
            wait(&mut self.poll, &mut self.events, timeout)?;
            let now = self.clock.now();
            self.round(now);
            loop {
                match self.orders.try_recv() {
                    Ok(Order::Report) => self.report(reports, wake_main, false),
                    Ok(Order::Stop) => self.stop(now),
                    Err(TryRecvError::Empty) => break,
                    // The main thread is gone: so is the reason to live.
                    Err(TryRecvError::Disconnected) => {
                        self.stop(now);
                        break;
                    }
                }
            }
            if self.replay.as_ref().is_some_and(Replay::is_over) {
                self.stop(now);
            }
            if self.stop_at.is_some_and(|at| self.engine.is_finished() || at <= now) {
                self.links.flush(now);
                self.report(reports, wake_main, true);
                return Ok(());
            }
        }
    }

    fn link_ids(&self) -> impl Iterator<Item = LinkId> + use<> {
        (0..self.links.len() as u16).map(LinkId)
    }

    /// How long to sleep; `None`: until something happens.
    fn timeout(&self) -> Option<Duration> {
        if self.devices.iter().any(Device::has_frames) {
            return Some(Duration::ZERO);
        }
        let check = self.devices.iter().map(|device| device.check_at).min();
        let now = self.clock.now();
        let replay = self.replay.as_ref().filter(|_| self.stop_at.is_none()).and_then(|replay| replay.next_due(now));
        [self.engine.next_deadline(), self.links.next_deadline(), check, replay, self.stop_at]
            .into_iter()
            .flatten()
            .min()
            .map(|at| at.since(now))
    }

    /// Works off what has come, one batch of each capture at most.
    fn round(&mut self, now: Timestamp) {
        let Self { links, engine, io, events, devices, poll, replay, stop_at, .. } = self;
        for event in &*events {
            if links.owns(event.token()) {
                links.handle_event(event, now, &mut |event| on_link_event(now, &event, engine, io));
            } else if let Some(device) = event.token().0.checked_sub(FIRST_CAPTURE).and_then(|i| devices.get_mut(i)) {
                device.ready = true;
            }
        }
        if links.next_deadline().is_some_and(|at| at <= now) {
            links.handle_timeout(now, &mut |event| on_link_event(now, &event, engine, io));
        }
        for side in [Side::Target, Side::Clients] {
            for device in devices.iter_mut().filter(|device| device.side == side) {
                if device.check_at <= now {
                    device.check(now, poll.registry());
                }
                if let Err(e) = device.hand_over(now, engine, &mut io.outbox) {
                    device.lose(&e, now, poll.registry());
                }
                io.deliver(now, links);
            }
            if side == Side::Target && !devices.iter().any(|device| device.side == side && device.has_frames()) {
                // Bursts of responses end where there is nothing more to read.
                engine.handle(now, Input::Drained, &mut io.outbox);
                io.deliver(now, links);
            }
        }
        if let Some(replay) = replay.as_mut().filter(|_| stop_at.is_none()) {
            replay.hand_over(now, engine, &mut io.outbox);
            io.deliver(now, links);
        }
        if engine.next_deadline().is_some_and(|at| at <= now) {
            engine.handle(now, Input::Timeout, &mut io.outbox);
        }
        io.deliver(now, links);
        links.flush(now);
    }

    fn stop(&mut self, now: Timestamp) {
        if self.stop_at.is_none() {
            self.stop_at = Some(now + STOP_LIMIT);
            self.engine.handle(now, Input::Stop, &mut self.io.outbox);
            self.io.deliver(now, &mut self.links);
            self.links.flush(now);
        }
    }

    fn report(&mut self, reports: &Sender<Report>, wake_main: &Waker, last: bool) {
        let mut capture = CaptureStats::default();
        for device in &mut self.devices {
            capture += device.before;
            if let Some(open) = &mut device.capture {
                capture += open.stats();
            }
        }
        let counters = Snapshot {
            ledger: self.engine.ledger().clone(),
            udp_latency: self.engine.udp_latency().clone(),
            modules: self.engine.module_counters().clone(),
            capture,
            captures_lost: self.devices.iter().map(|device| device.losses).sum(),
            transmit: self.io.transmitter.stats(),
            routes_unsent: self.io.routes_unsent,
            links_up: self.links.up_count() as u64,
            links: self.links.len() as u64,
            relays: self.io.relays.clone(),
            replay: self.replay.as_ref().map(|replay| replay.progress().clone()),
        };
        // A main thread that has gone does not listen; the worker ends at its next look at the orders.
        let _ = reports.send(Report { worker: self.number, counters, last });
        let _ = wake_main.wake();
    }
}

impl Device {
    /// Whether there may be something to do without waiting.
    fn has_frames(&self) -> bool {
        self.ready || !self.backlog.is_empty()
    }

    /// Gives the engine one batch of frames, the oldest first, and empties the ring as far as the queue has room.
    #[inline]
    fn hand_over(&mut self, now: Timestamp, engine: &mut Copier, outbox: &mut Outbox) -> Result<(), CaptureError> {
        let (link, side) = (self.link, self.side);
        let mut handle = |bytes: &[u8], wire_len| {
            let input = match side {
                Side::Clients => Input::Frame { link, bytes, wire_len },
                Side::Target => Input::TargetFrame { link, bytes, wire_len },
            };
            engine.handle(now, input, outbox);
        };
        self.backlog.drain(BATCH, BATCH_BYTES, &mut handle);
        let Some(capture) = &mut self.capture else {
            return Ok(());
        };
        if self.ready && self.backlog.is_empty() {
            self.ready = capture.drain(DIRECT, &mut handle)?.more;
        }
        if self.ready && !self.backlog.is_full() {
            self.ready = capture.drain(MOVE, |bytes, wire_len| self.backlog.push(bytes, wire_len))?.more;
        }
        Ok(())
    }

    /// The capture has ended by itself: tries again later.
    #[cold]
    fn lose(&mut self, e: &CaptureError, now: Timestamp, registry: &Registry) {
        log::warn!("{e}; it is opened again when the device is back");
        if let Some(mut capture) = self.capture.take() {
            // The descriptor is closed with the capture; this only tidies up before.
            let _ = registry.deregister(&mut SourceFd(&capture.as_raw_fd()));
            self.before += capture.stats();
        }
        self.losses += 1;
        self.ready = false;
        self.check_at = now + REOPEN_EVERY;
    }

    #[cold]
    fn check(&mut self, now: Timestamp, registry: &Registry) {
        self.check_at = now + CHECK_EVERY;
        match self.capture.as_ref().map(Capture::check_device) {
            Some(Ok(())) => {}
            Some(Err(e)) => self.lose(&e, now, registry),
            None => self.reopen(now, registry),
        }
    }

    fn reopen(&mut self, now: Timestamp, registry: &Registry) {
        let opened = match self.group.again(self.member, self.opened) {
            Ok(Some((opened, capture))) => self.use_capture(opened, capture, registry).map_err(|e| e.to_string()),
            Ok(None) => Err(format!("no capture is left of `{}`", self.group.device())),
            Err(e) => Err(e.to_string()),
        };
        match opened {
            Ok(()) => log::info!("capturing on `{}` again", self.group.device()),
            Err(e) => {
                log::debug!("{e}");
                self.check_at = now + REOPEN_EVERY;
            }
        }
    }

    fn use_capture(&mut self, opened: u64, capture: Capture, registry: &Registry) -> io::Result<()> {
        self.opened = opened;
        registry.register(&mut SourceFd(&capture.as_raw_fd()), self.token, Interest::READABLE)?;
        self.link = capture.link_type();
        self.capture = Some(capture);
        // What came between opening and registering made no event.
        self.ready = true;
        Ok(())
    }
}

/// Lines of modules in the log, so many in a second at most: a module speaks for each session if it likes.
#[derive(Default)]
struct ModuleLines {
    second: u64,
    written: u32,
    left_out: u64,
}

impl ModuleLines {
    /// Lines in a second.
    const LIMIT: u32 = 20;

    fn log(&mut self, now: Timestamp, level: LogLevel, text: std::fmt::Arguments<'_>) {
        let level = match level {
            LogLevel::Error => log::Level::Error,
            LogLevel::Warn => log::Level::Warn,
            LogLevel::Info => log::Level::Info,
            LogLevel::Debug => log::Level::Debug,
        };
        if !log::log_enabled!(level) {
            return;
        }
        let second = now.as_millis() / 1000;
        if second != self.second {
            if self.left_out > 0 {
                log::warn!("{} lines of modules were left out: more than {} in a second", self.left_out, Self::LIMIT);
            }
            *self = Self { second, ..Self::default() };
        }
        if self.written == Self::LIMIT {
            self.left_out += 1;
            return;
        }
        self.written += 1;
        log::log!(level, "{}", one_line(&text.to_string()));
    }
}

impl Delivery {
    /// Where a link leads.
    fn address(&self, link: LinkId) -> SocketAddr {
        self.relays[usize::from(link.0)].0
    }

    /// Carries out what the engine wants: routes first, then packets.
    #[inline]
    fn deliver(&mut self, now: Timestamp, links: &mut ControlLinks) {
        if self.outbox.is_empty() {
            return;
        }
        let mut has_new_route = false;
        for (link, change) in self.outbox.routes.drain(..) {
            has_new_route |= matches!(change, RouteChange::Add { .. });
            match links.send(link, &change) {
                Ok(()) => {}
                // All live routes are added when the link is up again.
                Err(SendError::Down | SendError::Full) => self.routes_unsent += 1,
                Err(SendError::NotSupported) => {
                    self.routes_unsent += 1;
                    if std::mem::replace(&mut self.told_not_supported, true) {
                        continue;
                    }
                    let address = self.relays[usize::from(link.0)].0;
                    log::error!(
                        "intercept {address} is of a release that reports neither the target's payload, which a module \
                         wants, nor UDP: sessions that need it wait in vain; use one of this release, and without \
                         --intercept-protocol"
                    );
                }
            }
        }
        // The end of a route can wait for the end of the round; its beginning must be there before the packets.
        if has_new_route {
            links.flush(now);
        }
        if self.outbox.packet_count() > 0 {
            self.transmitter.send(self.outbox.packets());
        }
        if !self.outbox.notices.is_empty() {
            self.log_notices(now);
        }
        self.outbox.clear();
    }

    #[cold]
    fn log_notices(&mut self, now: Timestamp) {
        for notice in &self.outbox.notices {
            match notice {
                Notice::SessionEnded { flow, reason } => {
                    let expected = matches!(reason, SessionEnd::Idle | SessionEnd::Stopped);
                    if !expected && self.named_ends.insert((*reason, "")) {
                        log::warn!("session {flow} ended early: {reason}; further ones are counted in the statistics");
                    } else {
                        log::debug!("session {flow} ended early: {reason}");
                    }
                }
                Notice::ModuleAborted { module, flow, reason } => {
                    if self.named_ends.insert((SessionEnd::Module, module)) {
                        log::warn!(
                            "session {flow} was given up by module `{module}`: {}; further ones are counted",
                            one_line(reason)
                        );
                    } else {
                        log::debug!("session {flow} was given up by module `{module}`: {}", one_line(reason));
                    }
                }
                Notice::ModulePanicked { module, flow, message } => {
                    if self.named_ends.insert((SessionEnd::ModulePanicked, module)) {
                        log::error!(
                            "module `{module}` failed by a mistake in it ({}); session {flow} is given up, and so is \
                             each one that this happens to: further ones are counted",
                            one_line(message)
                        );
                    } else {
                        log::debug!("module `{module}` panicked in session {flow}: {}", one_line(message));
                    }
                }
                Notice::ModuleLog { module, flow, level, text } => {
                    self.module_lines.log(now, *level, format_args!("{module}: session {flow}: {text}"));
                }
                Notice::NoFreeSource { client, target } => {
                    if self.next_source_notice <= now {
                        self.next_source_notice = now + NOTICE_EVERY;
                        log::warn!(
                            "no source address and port is free towards {target} for client {client}: sessions are \
                             left out; give more addresses with -c"
                        );
                    }
                }
                Notice::Shedding { sessions, bytes } => log::warn!(
                    "new sessions are left out: {sessions} sessions take {} MB, which is the limit (-m)",
                    bytes >> 20
                ),
            }
        }
    }
}

/// Passes an event of a link to the engine and to the log.
#[inline]
fn on_link_event(now: Timestamp, event: &LinkEvent<'_>, engine: &mut Copier, io: &mut Delivery) {
    match *event {
        LinkEvent::Response { header, .. } => engine.handle(now, Input::Response(header), &mut io.outbox),
        LinkEvent::Datagram { datagram, .. } => engine.handle(now, Input::Datagram(datagram), &mut io.outbox),
        LinkEvent::Up { link, .. } => {
            log::info!("link {} to intercept {} is up", link.0, io.address(link));
            engine.handle(now, Input::LinkUp(link), &mut io.outbox);
        }
        LinkEvent::Down { link, reason } => {
            log::warn!("link {} to intercept {} is lost: {reason}; connecting again", link.0, io.address(link));
            engine.handle(now, Input::LinkDown(link), &mut io.outbox);
        }
        // Said less and less often.
        LinkEvent::Failed { link, attempts, reason } if attempts.is_power_of_two() => {
            log::warn!(
                "link {} to intercept {} cannot be connected (attempt {attempts}): {reason}",
                link.0,
                io.address(link)
            );
        }
        LinkEvent::Failed { .. } => {}
        LinkEvent::Stats { link, stats } => io.relays[usize::from(link.0)].1 = stats,
    }
}

/// Waits for events; a signal that interrupts the wait ends it without events.
fn wait(poll: &mut Poll, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
    match poll.poll(events, timeout) {
        Err(e) if e.kind() == io::ErrorKind::Interrupted => {
            events.clear();
            Ok(())
        }
        other => other,
    }
}
