//! The running program: its main thread, which waits for tcpcopys and signals and, unless there are several workers, for
//! captures.
//!
//! Each turn of the loop first takes what the tcpcopys say, because a route that is known before its responses are read
//! saves keeping them; then reads every capture that has packets, until it is empty; then writes. A response thus
//! leaves as soon as there is nothing more to read, and no timer is involved. With several workers ([`Crew`]) each of them
//! does that with its captures, and the main thread writes.

use std::io;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};
use tcpcopy_engine::PeerId;
use tcpcopy_io::clock::MonotonicClock;
use tcpcopy_io::control::ControlServer;
use tcpcopy_io::process::{SIGHUP, Signals};
use tcpcopy_wire::Timestamp;
use tcpcopy_wire::control::Payload;
use tcpcopy_wire::link::LinkType;

use super::crew::Total;
use super::examine::Captured;
use super::exposition::Exposition;
use super::hands::{Device, Hands};
use super::queue::QueueSource;
use super::report;
use super::steering::Steering;
use super::told::{Told, on_peer, tell};
use super::worker::DRAIN_BUDGET;
use crate::exit::Failure;
use crate::logging::Log;
use crate::metrics::{Exporter, Scrape};
use crate::protect::service::Service;
use crate::security::SecurityFiles;

/// Bytes kept of each packet: link header with VLAN tags, IPv6 header with some extensions, longest TCP header.
pub(super) const SNAPLEN: usize = 192;
/// The same from the moment that a tcpcopy wants payload: merged segments whole.
const WHOLE_SNAPLEN: usize = 262_144;
/// Time until a capture whose device went away is opened again.
const REOPEN_AFTER: Duration = Duration::from_secs(2);
/// Time between counters for the tcpcopys.
pub(super) const STATS_FOR_PEERS: Duration = Duration::from_secs(10);

// Captures have the tokens between.
pub(super) const SIGNALS: Token = Token(0);
pub(super) const WAKER: Token = Token(FIRST_PEER.0 - 2);
pub(super) const QUEUE: Token = Token(FIRST_PEER.0 - 1);
pub(super) const FIRST_PEER: Token = Token(1 << 16);

/// Whom counters are due for.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Due {
    peers: bool,
    log: bool,
    questions: bool,
}

/// intercept, ready to run. `start` makes it.
pub(super) struct Intercept {
    pub(super) poll: Poll,
    pub(super) signals: Signals,
    pub(super) clock: MonotonicClock,
    pub(super) devices: Vec<Device>,
    /// Where responses come from in the traditional set-up; there are no devices then.
    pub(super) queue: Option<QueueSource>,
    pub(super) server: ControlServer,
    /// What the server asks of peers was read from these.
    pub(super) security: SecurityFiles,
    pub(super) hands: Hands,
    pub(super) told: Told,
    /// How much of each packet's payload the captures take.
    pub(super) captured_payload: Payload,
    pub(super) next_stats: Timestamp,
    pub(super) next_peer_stats: Timestamp,
    pub(super) due: Due,
    pub(super) exporter: Option<Exporter>,
    /// Scrapes that wait for counters.
    pub(super) scrapes: Vec<Scrape>,
    pub(super) service: Service,
    pub(super) steering: Steering,
}

impl Intercept {
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
                return Err(Failure::cannot("wait for events")(e));
            }
            let now = self.clock.now();
            let signalled = self.take_events(&events, now);
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

    /// Does what the tcpcopys ask for, and notes where there is something to read. Whether there are signals.
    fn take_events(&mut self, events: &Events, now: Timestamp) -> bool {
        let Self { queue, server, hands, told, .. } = self;
        let mut signalled = false;
        for event in events {
            match event.token() {
                SIGNALS => signalled = true,
                // What they tell is looked for in every turn.
                WAKER => {}
                QUEUE => queue.iter_mut().for_each(|queue| queue.readable = true),
                token if server.owns(token) => server.handle_event(event, now, &mut |e| on_peer(&e, now, hands, told)),
                token => {
                    if let Hands::Own(worker) = hands {
                        worker.readable(token);
                    }
                }
            }
        }
        signalled
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
        self.reopen_captures(now);
        let before = self.due;
        if now >= self.next_peer_stats {
            self.next_peer_stats = now + STATS_FOR_PEERS;
            self.due.peers = self.server.stats().up > 0;
        }
        let stats_interval = self.steering.log.stats_interval;
        let asked = self.steering.take_questions(log);
        if self.steering.log.stats_interval != stats_interval {
            self.next_stats = self.steering.log.stats_interval.map_or(Timestamp::NEVER, |interval| now + interval);
        }
        if let Some(interval) = self.steering.log.stats_interval
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

    /// Captures again on devices that were away.
    fn reopen_captures(&mut self, now: Timestamp) {
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
                log.reopen();
                if let Some((secret, tls)) = self.security.read_again(SecurityFiles::server) {
                    self.server.renew(secret, tls);
                }
                self.service.ready("log and certificates are read anew");
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
