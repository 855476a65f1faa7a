//! The running program: one thread that waits for captures, tcpcopys and signals, and hands all of it to the relay.
//!
//! Each turn of the loop first takes what the tcpcopys say, because a route that is known before its responses are read
//! saves keeping them; then reads every capture that has packets, until it is empty; then writes. A response thus
//! leaves as soon as there is nothing more to read, and no timer is involved.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use tcpcopy_engine::relay::RelayDrop;
use tcpcopy_engine::{PeerId, Relay, RelayConfig, RelayInput, RelayNotice, RelayOutbox};
use tcpcopy_io::capture::{Capture, CaptureConfig, CaptureError, CaptureStats};
use tcpcopy_io::clock::MonotonicClock;
use tcpcopy_io::control::{BindError, ControlServer, PeerEvent, ServerConfig};
use tcpcopy_io::process::{self, SIGHUP, Signals};
use tcpcopy_wire::Timestamp;
use tcpcopy_wire::control::{Hello, Payload};
use tcpcopy_wire::link::LinkType;

use super::options::Options;
use super::queue::QueueSource;
use super::report;
use crate::exit::{Exit, Failure};
use crate::logging::Log;

/// Bytes kept of each packet: link header with VLAN tags, IPv6 header with some extensions, longest TCP header.
const SNAPLEN: usize = 192;
/// The same from the moment that a tcpcopy wants payload: merged segments whole.
const WHOLE_SNAPLEN: usize = 262_144;
/// Packets that a ring can hold, by far.
const LEFT_IN_RING: usize = 1 << 20;
/// Packets read from one capture before the tcpcopys get their turn.
const DRAIN_BUDGET: usize = 2048;
/// Bytes of responses that are collected before they are written, when the capture does not run empty.
const FLUSH_BYTES: usize = 16 << 10;
/// Time until a capture whose device went away is opened again.
const REOPEN_AFTER: Duration = Duration::from_secs(2);
/// Time between counters for the tcpcopys.
const STATS_FOR_PEERS: Duration = Duration::from_secs(10);

/// Shortest time between two lines about connections that were turned away: a scan must not fill the log.
const REJECTION_TOLD_EVERY: Duration = Duration::from_secs(10);

const SIGNALS: Token = Token(0);
/// Captures have the tokens from here; there are far fewer devices than that.
const FIRST_CAPTURE: usize = 1;
const QUEUE: Token = Token(FIRST_PEER.0 - 1);
const FIRST_PEER: Token = Token(1 << 16);

/// One device.
struct Source {
    config: CaptureConfig,
    /// `None` while the device is away.
    capture: Option<Capture>,
    readable: bool,
    reopen_at: Option<Timestamp>,
    /// What the captures before the present one counted.
    before: CaptureStats,
}

/// The relay with its connections: all that a captured frame concerns.
struct Desk {
    relay: Relay,
    outbox: RelayOutbox,
    server: ControlServer,
    responses_per_write: Option<u64>,
    undelivered: Vec<(PeerId, u64)>,
    told: Told,
}

/// What is not to be repeated in the log.
struct Told {
    next_rejection: Timestamp,
    /// Due when the first tcpcopy comes from another host.
    open_warning: Option<String>,
}

/// intercept, ready to run.
pub(super) struct Intercept {
    poll: Poll,
    signals: Signals,
    clock: MonotonicClock,
    sources: Vec<Source>,
    /// Where responses come from in the traditional set-up; there are no sources then.
    queue: Option<QueueSource>,
    desk: Desk,
    /// How much of each packet's payload the captures take.
    captured_payload: Payload,
    stats_interval: Option<Duration>,
    next_stats: Timestamp,
    next_peer_stats: Timestamp,
}

impl Intercept {
    /// Opens everything that can fail.
    ///
    /// # Errors
    /// What cannot be opened, with the exit code that belongs to it.
    pub(super) fn open(options: &Options) -> Result<Self, Failure> {
        let failed = |what: &'static str| move |e: io::Error| Failure::new(Exit::Failure, format!("{what}: {e}"));
        let poll = Poll::new().map_err(failed("cannot wait for events"))?;
        let mut signals = process::signals().map_err(failed("cannot take signals"))?;
        poll.registry().register(&mut signals, SIGNALS, Interest::READABLE).map_err(failed("cannot take signals"))?;
        let clock = MonotonicClock::start();
        let mut sources = Vec::new();
        for device in &options.devices {
            let mut source = Source {
                config: CaptureConfig {
                    device: device.clone(),
                    filter: options.filter.clone(),
                    buffer_bytes: options.buffer_bytes,
                    snaplen: SNAPLEN,
                    immediate: true,
                    ..CaptureConfig::default()
                },
                capture: None,
                readable: false,
                reopen_at: None,
                before: CaptureStats::default(),
            };
            let token = Token(FIRST_CAPTURE + sources.len());
            source.open(&poll, token).map_err(|e| Failure::new(capture_exit(&e), e))?;
            sources.push(source);
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
        let queue = match &options.queue {
            Some(queue) => {
                Some(QueueSource::open(queue, control_port, SNAPLEN, options.buffer_bytes, poll.registry(), QUEUE)?)
            }
            None => None,
        };
        let relay = Relay::new(RelayConfig {
            initial_routes: options.initial_routes,
            seed: RandomState::new().hash_one(std::process::id()),
            legacy: options.legacy,
            ..RelayConfig::default()
        });
        if let Ok(address) = server.local_addr() {
            let source = match &options.queue {
                Some(queue) => format!("reading NFQUEUE {}", queue.number),
                None => format!("capturing on {} with the filter `{}`", options.devices.join(", "), options.filter),
            };
            log::info!("intercept {}: listening on {address}, {source}", env!("CARGO_PKG_VERSION"));
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
            sources,
            queue,
            desk: Desk {
                relay,
                outbox: RelayOutbox::new(),
                server,
                responses_per_write: options.responses_per_write,
                undelivered: Vec::new(),
                told: Told { next_rejection: now, open_warning },
            },
            captured_payload: Payload::Headers,
            stats_interval: options.stats_interval,
            next_stats: options.stats_interval.map_or(Timestamp::NEVER, |interval| now + interval),
            next_peer_stats: now + STATS_FOR_PEERS,
        })
    }

    /// Runs until INT or TERM.
    ///
    /// # Errors
    /// When waiting for events fails.
    pub(super) fn run(mut self, log: &Log) -> Result<(), Failure> {
        let mut events = Events::with_capacity(256);
        loop {
            if let Err(e) = self.poll.poll(&mut events, self.patience())
                && e.kind() != io::ErrorKind::Interrupted
            {
                return Err(Failure::new(Exit::Failure, format!("cannot wait for events: {e}")));
            }
            let now = self.clock.now();
            let mut signalled = false;
            for event in &events {
                match event.token() {
                    SIGNALS => signalled = true,
                    QUEUE => {
                        if let Some(queue) = &mut self.queue {
                            queue.readable = true;
                        }
                    }
                    token if self.desk.server.owns(token) => {
                        let Desk { relay, outbox, server, told, .. } = &mut self.desk;
                        server.handle_event(event, now, &mut |e| on_peer(&e, now, relay, outbox, told));
                    }
                    token => {
                        if let Some(source) = self.sources.get_mut(token.0 - FIRST_CAPTURE) {
                            source.readable = true;
                        }
                    }
                }
            }
            if signalled && self.take_signals(log) {
                self.stop();
                return Ok(());
            }
            if self.desk.relay.wants_payload() > self.captured_payload {
                self.capture_more(now);
            }
            self.read_captures(now);
            self.desk.flush(now);
            self.on_time();
            for notice in self.desk.outbox.notices.drain(..) {
                tell(&notice);
            }
        }
    }

    /// How long to wait for events.
    fn patience(&self) -> Option<Duration> {
        if self.sources.iter().any(|s| s.readable) || self.queue.as_ref().is_some_and(|q| q.readable) {
            return Some(Duration::ZERO);
        }
        let reopen = self.sources.iter().filter_map(|s| s.reopen_at);
        let deadlines = [self.desk.relay.next_deadline(), self.desk.server.next_deadline(), Some(self.next_stats)];
        let earliest = deadlines.into_iter().flatten().chain(reopen).min()?;
        (earliest != Timestamp::NEVER).then(|| earliest.since(self.clock.now()))
    }

    fn read_captures(&mut self, now: Timestamp) {
        if let Some(queue) = self.queue.as_mut().filter(|q| q.readable) {
            let desk = &mut self.desk;
            queue.drain(DRAIN_BUDGET, |bytes, wire_len| desk.take(now, LinkType::Raw, bytes, wire_len));
        }
        for source in self.sources.iter_mut().filter(|s| s.readable) {
            let Some(capture) = &mut source.capture else {
                source.readable = false;
                continue;
            };
            let (link, desk) = (capture.link_type(), &mut self.desk);
            let drained = capture.drain(DRAIN_BUDGET, |bytes, wire_len| desk.take(now, link, bytes, wire_len));
            match drained {
                Ok(drained) => source.readable = drained.more,
                Err(e) => {
                    log::error!("{e}; trying to open it again every {REOPEN_AFTER:?}");
                    source.lose(now);
                }
            }
        }
    }

    /// A tcpcopy wants payload, which the captures have cut off so far: opens each once more, with room for it. What the
    /// old one still holds is read from it; a few packets may come from both, which costs an acknowledgement each.
    #[cold]
    fn capture_more(&mut self, now: Timestamp) {
        self.captured_payload = match self.desk.relay.wants_payload() {
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
        for (index, source) in self.sources.iter_mut().enumerate() {
            source.config.snaplen = snaplen;
            let Some(mut old) = source.capture.take() else { continue };
            let before = source.before;
            if let Err(e) = source.open(&self.poll, Token(FIRST_CAPTURE + index)) {
                log::error!("{e}; sessions that need payload wait in vain");
                source.capture = Some(old);
                continue;
            }
            let (link, desk) = (old.link_type(), &mut self.desk);
            let _ = old.drain(LEFT_IN_RING, |bytes, wire_len| {
                desk.relay.handle(now, RelayInput::Frame { link, bytes, wire_len }, &mut desk.outbox);
            });
            source.before = before;
            source.before += old.stats();
        }
    }

    /// Does what the clock asks for.
    fn on_time(&mut self) {
        let now = self.clock.now();
        let Desk { relay, outbox, server, told, .. } = &mut self.desk;
        if server.next_deadline().is_some_and(|at| at <= now) {
            server.handle_timeout(now, &mut |e| on_peer(&e, now, relay, outbox, told));
        }
        if relay.next_deadline().is_some_and(|at| at <= now) {
            relay.handle(now, RelayInput::Timeout, outbox);
        }
        // Routes that came with the time-out may have released responses.
        self.desk.flush(now);
        for (index, source) in self.sources.iter_mut().enumerate() {
            if source.reopen_at.is_some_and(|at| at <= now) {
                match source.open(&self.poll, Token(FIRST_CAPTURE + index)) {
                    Ok(()) => log::info!("capturing on {} again", source.config.device),
                    Err(_) => source.reopen_at = Some(now + REOPEN_AFTER),
                }
            }
        }
        if now >= self.next_peer_stats {
            self.next_peer_stats = now + STATS_FOR_PEERS;
            self.send_stats(now);
        }
        if let Some(interval) = self.stats_interval
            && now >= self.next_stats
        {
            self.next_stats = now + interval;
            if self.desk.relay.stats().frames > 0 || self.desk.server.stats().accepted > 0 {
                self.report();
            }
        }
    }

    fn send_stats(&mut self, now: Timestamp) {
        if self.desk.server.stats().up == 0 {
            return;
        }
        let kernel_drops = self.capture_stats().dropped;
        let peers: Vec<PeerId> = self.desk.server.peers().collect();
        for peer in peers {
            let mut stats = self.desk.relay.link_stats(peer);
            stats.kernel_drops = kernel_drops;
            self.desk.server.send_stats(peer, &stats, now);
        }
    }

    fn capture_stats(&mut self) -> CaptureStats {
        let mut total = CaptureStats::default();
        for source in &mut self.sources {
            total += source.stats();
        }
        if let Some(queue) = &mut self.queue {
            total += queue.capture_stats();
        }
        total
    }

    fn report(&mut self) {
        let captures = self.capture_stats();
        for line in report::lines(self.desk.relay.stats(), &self.desk.server.stats(), &captures) {
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
                match log.reopen() {
                    Ok(()) => log::info!("log opened again"),
                    Err(e) => log::error!("{e}"),
                }
            } else {
                stop = true;
            }
        }
        stop
    }

    /// Relays what has been captured, and takes leave.
    fn stop(&mut self) {
        let now = self.clock.now();
        if let Some(queue) = &mut self.queue {
            queue.close_rules();
            queue.readable = true;
        }
        for source in &mut self.sources {
            source.readable = true;
        }
        self.read_captures(now);
        self.desk.flush(now);
        self.report();
        if let Err(e) = self.desk.relay.stats().check() {
            log::error!("{e}");
        }
        log::info!("stopped");
    }
}

impl Source {
    fn open(&mut self, poll: &Poll, token: Token) -> Result<(), CaptureError> {
        let capture = Capture::open(&self.config)?;
        poll.registry().register(&mut SourceFd(&capture.as_raw_fd()), token, Interest::READABLE).map_err(|e| {
            CaptureError::Open { device: self.config.device.clone(), reason: format!("cannot wait for it: {e}") }
        })?;
        self.capture = Some(capture);
        self.reopen_at = None;
        // Packets may have come before the registration.
        self.readable = true;
        Ok(())
    }

    /// Closes the capture, which also ends its registration.
    fn lose(&mut self, now: Timestamp) {
        self.before = self.stats();
        self.capture = None;
        self.readable = false;
        self.reopen_at = Some(now + REOPEN_AFTER);
    }

    fn stats(&mut self) -> CaptureStats {
        let mut total = self.before;
        if let Some(capture) = &mut self.capture {
            total += capture.stats();
        }
        total
    }
}

impl Desk {
    /// Hands a frame to the relay, and writes when enough has come together.
    #[inline]
    fn take(&mut self, now: Timestamp, link: LinkType, bytes: &[u8], wire_len: usize) {
        self.relay.handle(now, RelayInput::Frame { link, bytes, wire_len }, &mut self.outbox);
        let responses = self.outbox.responses();
        if self.responses_per_write.is_some_and(|most| responses >= most) || self.outbox.bytes() >= FLUSH_BYTES {
            self.flush(now);
        }
    }

    /// Sends what the relay has for its peers.
    #[inline]
    fn flush(&mut self, now: Timestamp) {
        if self.outbox.responses() == 0 {
            return;
        }
        for (peer, frames, responses) in self.outbox.batches() {
            if self.server.send(peer, frames, responses, now).is_err() {
                self.undelivered.push((peer, responses));
            }
        }
        self.outbox.clear_batches();
        for (peer, responses) in self.undelivered.drain(..) {
            let reason = RelayDrop::LinkFull;
            self.relay.handle(now, RelayInput::Undelivered { peer, responses, reason }, &mut self.outbox);
        }
    }
}

impl Told {
    /// Says once that anyone is let in, when somebody from elsewhere is.
    fn warn_if_open(&mut self, from: SocketAddr) {
        if !from.ip().is_loopback()
            && let Some(warning) = self.open_warning.take()
        {
            log::warn!("{warning}");
        }
    }
}

fn on_peer(event: &PeerEvent<'_>, now: Timestamp, relay: &mut Relay, outbox: &mut RelayOutbox, told: &mut Told) {
    match *event {
        PeerEvent::Route { peer, change } => relay.handle(now, RelayInput::Route { peer, change }, outbox),
        PeerEvent::Up { peer, from, hello } => {
            log::info!("tcpcopy at {from} connected (link {})", peer.0);
            told.warn_if_open(from);
            let Hello { route_ttl, max_batch, features } = hello;
            relay.handle(now, RelayInput::PeerUp { peer, route_ttl, max_batch, features }, outbox);
        }
        PeerEvent::LegacyUp { peer, from } => {
            log::info!("tcpcopy of the C programs at {from} connected (link {})", peer.0);
            told.warn_if_open(from);
            relay.handle(now, RelayInput::LegacyPeerUp { peer }, outbox);
        }
        PeerEvent::Gone { peer, from, reason, undelivered } => {
            log::warn!("tcpcopy at {from} is gone (link {}): {reason}", peer.0);
            let reason = RelayDrop::LinkClosed;
            relay.handle(now, RelayInput::Undelivered { peer, responses: undelivered, reason }, outbox);
            relay.handle(now, RelayInput::PeerGone { peer }, outbox);
        }
        PeerEvent::Rejected { from, reason } if now >= told.next_rejection => {
            told.next_rejection = now + REJECTION_TOLD_EVERY;
            log::warn!(
                "connection from {from} closed: {reason}; more such within {REJECTION_TOLD_EVERY:?} are only counted"
            );
        }
        PeerEvent::Rejected { from, reason } => log::debug!("connection from {from} closed: {reason}"),
    }
}

fn tell(notice: &RelayNotice) {
    match notice {
        RelayNotice::Unrouted { transport, flow, responses } => log::debug!(
            "{responses} responses belong to no tcpcopy, the last one on {transport} {flow}; some after the end of a connection are \
             normal, many mean that -F takes more than the copies' answers"
        ),
        RelayNotice::RoutesOrphaned { peer, routes } => log::info!("{routes} routes of link {} removed", peer.0),
        RelayNotice::PeerRoutesFull { peer, limit } => {
            log::error!("link {} has {limit} routes, which is all that one may have; more are refused", peer.0);
        }
        RelayNotice::RouteTableFull { limit } => {
            log::error!("there are {limit} routes; more are refused until some are gone");
        }
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
