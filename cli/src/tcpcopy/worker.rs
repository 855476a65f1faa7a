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

mod delivery;
mod device;

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::time::Duration;

use mio::{Events, Poll, Token, Waker};
use tcpcopy_engine::{Copier, CopierConfig, Input, LinkId, Outbox};
use tcpcopy_io::capture::backlog::Backlog;
use tcpcopy_io::capture::{CaptureGroup, CaptureStats};
use tcpcopy_io::clock::MonotonicClock;
use tcpcopy_io::control::{ControlLinks, LinkEvent, LinksConfig, TlsClient};
use tcpcopy_io::transmit::Transmitter;
use tcpcopy_wire::Timestamp;
use tcpcopy_wire::control::{LinkStats, Secret};
use tcpcopy_wire::link::LinkType;

use self::delivery::{Delivery, ModuleLines};
pub use self::device::Side;
use self::device::{BACKLOG_LIMIT, Device};
use super::replay::{Plan, Replay};
use super::report::Snapshot;
use super::steering::Steer;
use crate::protect::cpu::Throttle;

/// Sessions have this long to close towards the target after the order to stop.
const STOP_LIMIT: Duration = Duration::from_secs(3);
/// Attempts to reach each intercept at the start.
const START_ATTEMPTS: u32 = 3;
/// Pause between looks at the signals while the links are being connected.
const START_TICK: Duration = Duration::from_millis(100);
const WAKER: Token = Token(0);
const FIRST_CAPTURE: usize = 1;

/// What the main thread wants of a worker.
#[derive(Clone, Debug)]
pub enum Order {
    /// Send the counters.
    Report,
    /// Copy less, or more again.
    Throttle(Throttle),
    /// Do this, and send the counters.
    Steer(Steer),
    /// Make links with this from now on.
    Renew(Option<Secret>, Option<TlsClient>),
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
    /// How many orders it has carried out, or begun to in the case of [`Order::Stop`].
    pub orders_taken: u64,
    /// It ends now.
    pub last: bool,
}

/// The main thread's end of a worker.
pub struct Handle {
    worker: usize,
    orders: Sender<Order>,
    waker: Arc<Waker>,
    given: u64,
    taken: u64,
    has_ended: bool,
}

impl Handle {
    /// Gives an order; a worker that has ended ignores it.
    pub fn order(&mut self, order: Order) {
        self.given += 1;
        let _ = self.orders.send(order);
        let _ = self.waker.wake();
    }

    /// Takes note of a report, if it is of this worker.
    pub fn hear(&mut self, report: &Report) {
        if report.worker == self.worker {
            self.taken = report.orders_taken;
            self.has_ended |= report.last;
        }
    }

    /// Whether the worker has reported since it carried out `order`, the last one given. A report that comes late is the
    /// answer to an order before it: so reports are not what is counted.
    pub fn has_carried_out(&self, order: &Order) -> bool {
        self.has_ended || (!matches!(order, Order::Stop) && self.taken == self.given)
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

/// A worker, before and while it runs.
pub struct Worker {
    number: usize,
    poll: Poll,
    events: Events,
    clock: MonotonicClock,
    orders: Receiver<Order>,
    orders_taken: u64,
    devices: Vec<Device>,
    links: ControlLinks,
    io: Delivery,
    engine: Copier,
    replay: Option<Replay>,
    waker: Arc<Waker>,
    measures_online: bool,
    stop_at: Option<Timestamp>,
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
            orders_taken: 0,
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
            measures_online: engine.measure_online,
            engine: Copier::new(engine),
            replay: None,
            waker: Arc::clone(&waker),
            stop_at: None,
        };
        Ok((worker, Handle { worker: number, orders: sender, waker, given: 0, taken: 0, has_ended: false }))
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
            measures_online: self.measures_online,
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
        self.replay = Some(Replay::start(plan, self.measures_online, Arc::clone(&self.waker))?);
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
                let order = self.orders.try_recv();
                self.orders_taken += u64::from(order.is_ok());
                match order {
                    Ok(Order::Report) => self.report(reports, wake_main, false),
                    Ok(Order::Throttle(throttle)) => self.throttle(now, throttle),
                    Ok(Order::Steer(steer)) => {
                        self.steer(now, steer);
                        self.report(reports, wake_main, false);
                    }
                    Ok(Order::Renew(secret, tls)) => self.links.renew(secret, tls),
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

    fn throttle(&mut self, now: Timestamp, throttle: Throttle) {
        self.engine.handle(now, Input::Share(throttle.share), &mut self.io.outbox);
        if throttle.close_percent > 0 {
            self.engine.handle(now, Input::CloseNewest(throttle.close_percent), &mut self.io.outbox);
        }
        self.io.deliver(now, &mut self.links);
        self.links.flush(now);
    }

    fn steer(&mut self, now: Timestamp, steer: Steer) {
        if let Some(replay) = &mut self.replay {
            match steer {
                Steer::Pause => replay.pause(now),
                Steer::Resume => replay.resume(now),
                Steer::Sample(_) | Steer::MaxRate(_) => {}
            }
        }
        self.engine.handle(now, steer.into(), &mut self.io.outbox);
        self.io.deliver(now, &mut self.links);
        self.links.flush(now);
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
            links_state: self.link_ids().map(|id| self.links.is_up(id)).collect(),
            relays: self.io.relays.clone(),
            replay: self.replay.as_ref().map(|replay| replay.progress().clone()),
        };
        // A main thread that has gone does not listen; the worker ends at its next look at the orders.
        let _ = reports.send(Report { worker: self.number, counters, orders_taken: self.orders_taken, last });
        let _ = wake_main.wake();
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
        // Nothing is asked here.
        LinkEvent::Failed { .. } | LinkEvent::Report { .. } => {}
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

#[cfg(test)]
mod tests {
    use super::*;

    fn report(worker: usize, orders_taken: u64, last: bool) -> Report {
        Report { worker, counters: Snapshot::default(), orders_taken, last }
    }

    #[test]
    fn a_late_report_is_no_answer_to_a_later_order() {
        let poll = Poll::new().unwrap();
        let waker = Arc::new(Waker::new(poll.registry(), WAKER).unwrap());
        let (orders, worker) = mpsc::channel();
        let mut handle = Handle { worker: 1, orders, waker, given: 0, taken: 0, has_ended: false };
        handle.order(Order::Report);
        assert!(!handle.has_carried_out(&Order::Report));
        // It took too long; the next order is given before the answer to this one comes.
        handle.order(Order::Steer(Steer::Pause));
        handle.hear(&report(1, 1, false));
        assert!(!handle.has_carried_out(&Order::Steer(Steer::Pause)));
        handle.hear(&report(0, 2, false));
        assert!(!handle.has_carried_out(&Order::Steer(Steer::Pause)), "another worker's");
        handle.hear(&report(1, 2, false));
        assert!(handle.has_carried_out(&Order::Steer(Steer::Pause)));
        // No report follows a throttle of its own; the next one tells of it.
        handle.order(Order::Throttle(Throttle { share: 5_000, close_percent: 0 }));
        handle.order(Order::Report);
        handle.hear(&report(1, 4, false));
        assert!(handle.has_carried_out(&Order::Report));
        // A stop is carried out when the worker ends, and not before.
        handle.order(Order::Stop);
        handle.hear(&report(1, 5, false));
        assert!(!handle.has_carried_out(&Order::Stop));
        handle.hear(&report(1, 5, true));
        assert!(handle.has_carried_out(&Order::Stop));
        handle.order(Order::Report);
        assert!(handle.has_carried_out(&Order::Report), "nobody is there to carry it out");
        assert_eq!(worker.try_iter().count(), 6);
    }
}
