//! Several workers, each on a thread of its own, seen from the main thread.
//!
//! # How it runs
//!
//! The main thread keeps the tcpcopys' connections, the signals and the clock's business. Each worker has its own captures,
//! which share the packets of each device by flow, and its own relay, which knows all routes.
//!
//! ```text
//!                       peers, routes, captures, orders
//!   ControlServer ──▶ main thread ─────────────────────────▶ each worker ──▶ its relay
//!                          ▲                                     │              ▲
//!   tcpcopys ◀── write ────┤     responses, a turn at a time     │              │
//!                          └─────────────────────────────────────┘     its captures
//! ```
//!
//! **A route**: what the connections bring in one turn of the main thread goes to all workers as one message. **A response**:
//! its worker finds the route in its own relay; at the end of the worker's turn all that it has for the tcpcopys is one
//! message, which the main thread writes.
//!
//! **Numbers used again.** A connection's number is given to another one when it is closed. Main thread and workers count
//! the connections that went, in the same order; a worker sends its count with its responses. Those whose count does not
//! have the end of their connection in it are older than that, and are dropped.
//!
//! **Room.** Channels have room for a number of messages. A worker that finds its channel full waits, and the kernel counts
//! what its captures cannot take. The main thread that finds one full takes what the workers send while it waits.
//!
//! **Counters.** What the main thread could not write was counted as relayed by a worker. It is not told so: the main
//! thread corrects the sums.

mod thread;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mio::Waker;
use tcpcopy_engine::relay::{RelayDrop, RelayStats};
use tcpcopy_engine::{PeerId, RelayConfig, RelayInput};
use tcpcopy_io::capture::{Capture, CaptureStats};
use tcpcopy_io::clock::MonotonicClock;
use tcpcopy_wire::Timestamp;
use tcpcopy_wire::control::{LinkStats, Payload};

use thread::MainThread;

use super::worker::{Counters, Deliver};
use crate::exit::{Exit, Failure, failure_of_worker};

/// Messages for which the channel to the main thread has room; most are of some kilobytes.
const FROM_WORKERS: usize = 256;
/// Messages for which the channel to a worker has room; those of a burst of new routes are large.
const TO_WORKER: usize = 32;
/// Pause between attempts to send to a worker whose channel is full.
const FULL_PAUSE: Duration = Duration::from_millis(1);
/// Workers that are told to stop have this long.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// What a worker is told.
enum ToWorker {
    /// What happened at the connections, in its order.
    Peers(Arc<[RelayInput<'static>]>),
    /// A capture of the device of this number, in the place of the one before.
    Capture(usize, Box<Capture>),
    /// Send the counters, also for these peers.
    Report(Arc<[PeerId]>),
    /// Read what has been captured, send the counters, end.
    Stop,
}

/// What a worker says.
enum FromWorker {
    Responses(Responses),
    /// A device's capture ended by itself.
    Lost(usize),
    /// As much of each packet must be captured.
    Wants(Payload),
    /// The counters, as asked for, and how many connections had gone by then.
    Report(usize, Box<Counters>, u64),
    /// The thread ends.
    Ended(usize),
}

/// What a worker has for the tcpcopys at the end of a turn.
#[derive(Debug, Default, PartialEq, Eq)]
struct Responses {
    /// Frames, one peer's behind the other's.
    bytes: Vec<u8>,
    /// For each peer, how many of the bytes, and how many responses are in them.
    parts: Vec<(PeerId, usize, u64)>,
    /// Connections that had gone, as far as the worker knew.
    gone: u64,
}

/// Wakes a thread that sleeps, and costs little when it is awake.
struct Bell {
    waker: Arc<Waker>,
    rung: AtomicBool,
}

impl Bell {
    fn new(waker: Arc<Waker>) -> Self {
        Self { waker, rung: AtomicBool::new(false) }
    }

    /// To be called when there is something in the channel.
    fn ring(&self) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            let _ = self.waker.wake();
        }
    }

    /// To be called before the channel is looked at: whatever is put into it later rings again.
    fn answer(&self) {
        self.rung.swap(false, Ordering::AcqRel);
    }
}

/// A worker, from outside.
struct Member {
    inbox: SyncSender<ToWorker>,
    bell: Arc<Bell>,
    thread: Option<JoinHandle<io::Result<()>>>,
    counters: Counters,
    /// Connections that had gone when it counted.
    counted_at: u64,
}

/// All workers.
pub(super) struct Crew {
    members: Vec<Member>,
    inbox: Receiver<FromWorker>,
    bell: Arc<Bell>,
    /// What came in while a worker's channel was full.
    set_aside: VecDeque<FromWorker>,
    /// For all workers, at the end of the turn.
    pending: Vec<RelayInput<'static>>,
    books: Books,
    wanted: Payload,
    /// Workers that have not reported since they were asked to.
    awaited: usize,
    failure: Option<Failure>,
    stopping: bool,
}

/// What the main thread knows of connections and of responses that could not be written.
#[derive(Debug, Default)]
struct Books {
    /// Connections that went.
    gone: u64,
    /// For each number, how many had gone when a connection of this number had last gone.
    gone_at: Vec<u64>,
    undelivered: [u64; RelayDrop::ALL.len()],
    /// For each connection.
    undelivered_to: Vec<u64>,
}

/// Counters of all workers together.
pub(super) struct Total {
    pub(super) relay: RelayStats,
    pub(super) captures: CaptureStats,
    /// Each worker's own.
    pub(super) workers: Vec<Counters>,
}

impl Crew {
    /// Starts as many threads. `waker`: the main thread's, for when there are messages.
    ///
    /// # Errors
    /// When the system has no more threads or descriptors.
    pub(super) fn start(
        workers: u16,
        clock: MonotonicClock,
        configs: impl Fn() -> RelayConfig,
        responses_per_write: Option<u64>,
        waker: Arc<Waker>,
    ) -> io::Result<Self> {
        let bell = Arc::new(Bell::new(waker));
        let (to_main, inbox) = mpsc::sync_channel(FROM_WORKERS);
        let mut members = Vec::new();
        for number in 0..usize::from(workers) {
            let (sender, receiver) = mpsc::sync_channel(TO_WORKER);
            let main = MainThread { inbox: to_main.clone(), bell: Arc::clone(&bell) };
            let (thread, bell) = thread::start(number, receiver, main, clock, configs(), responses_per_write)?;
            members.push(Member {
                inbox: sender,
                bell,
                thread: Some(thread),
                counters: Counters::default(),
                counted_at: 0,
            });
        }
        Ok(Self {
            members,
            inbox,
            bell,
            set_aside: VecDeque::new(),
            pending: Vec::new(),
            books: Books::default(),
            wanted: Payload::Headers,
            awaited: 0,
            failure: None,
            stopping: false,
        })
    }

    /// How many they are.
    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    /// Gives each worker its capture of a device.
    pub(super) fn give(&mut self, device: usize, captures: Vec<Capture>) {
        for (number, capture) in captures.into_iter().enumerate() {
            self.send(number, ToWorker::Capture(device, Box::new(capture)));
        }
    }

    /// Notes what concerns peers and routes, for all workers, at the end of the turn.
    pub(super) fn tell(&mut self, input: RelayInput<'static>) {
        match input {
            RelayInput::Undelivered { peer, responses, reason } => self.books.not_delivered(peer, responses, reason),
            RelayInput::PeerGone { peer } => {
                self.books.has_gone(peer);
                self.pending.push(input);
            }
            _ => self.pending.push(input),
        }
    }

    /// Passes on what was noted.
    pub(super) fn pass_on(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let all: Arc<[RelayInput<'static>]> = self.pending.drain(..).collect();
        for number in 0..self.members.len() {
            self.send(number, ToWorker::Peers(Arc::clone(&all)));
        }
    }

    /// Takes what the workers have sent, and delivers their responses; `lost` is told the numbers of devices that went
    /// away. Whether there may be more.
    ///
    /// # Errors
    /// When a worker has ended by itself.
    pub(super) fn receive(
        &mut self,
        now: Timestamp,
        to: &mut impl Deliver,
        mut lost: impl FnMut(usize),
    ) -> Result<bool, Failure> {
        self.bell.answer();
        // A full channel and then the rest of the main thread's business.
        for _ in 0..=FROM_WORKERS {
            let Some(message) = self.set_aside.pop_front().or_else(|| self.inbox.try_recv().ok()) else {
                return self.failure.take().map_or(Ok(false), Err);
            };
            self.take(message, now, to, &mut lost);
        }
        Ok(true)
    }

    /// Whether there is something to [`receive`](Self::receive) that no event tells of.
    pub(super) fn has_messages(&self) -> bool {
        !self.set_aside.is_empty()
    }

    /// How much payload the captures have to take.
    pub(super) fn wants_payload(&self) -> Payload {
        self.wanted
    }

    /// Asks for the counters, also for these peers.
    pub(super) fn ask(&mut self, peers: impl IntoIterator<Item = PeerId>) {
        let peers: Arc<[PeerId]> = peers.into_iter().collect();
        self.awaited = self.members.len();
        for number in 0..self.members.len() {
            self.send(number, ToWorker::Report(Arc::clone(&peers)));
        }
    }

    /// Whether all that was asked for is there.
    pub(super) fn has_answered(&self) -> bool {
        self.awaited == 0
    }

    /// What the workers last reported, added up.
    pub(super) fn total(&self) -> Total {
        let workers: Vec<Counters> = self.members.iter().map(|member| member.counters.clone()).collect();
        let mut relay = RelayStats::of_workers(workers.iter().map(|counters| &counters.relay));
        for (reason, responses) in RelayDrop::ALL.iter().zip(self.books.undelivered) {
            relay.count_undelivered(*reason, responses);
        }
        let mut captures = CaptureStats::default();
        for counters in &workers {
            captures += counters.captures;
        }
        Total { relay, captures, workers }
    }

    /// What a peer may want to know, by the last reports.
    pub(super) fn link_stats(&self, peer: PeerId) -> LinkStats {
        let of_peer = self.members.iter().filter(|member| self.books.is_current(peer, member.counted_at));
        let stats = of_peer.flat_map(|member| &member.counters.links).filter(|(of, _)| *of == peer);
        self.books.link_stats(peer, stats.map(|(_, stats)| stats))
    }

    /// Has the workers read what was captured until now and end, and delivers it. Those that do not end in time are left.
    pub(super) fn stop(&mut self, clock: MonotonicClock, to: &mut impl Deliver) {
        self.stopping = true;
        self.pass_on();
        for number in 0..self.members.len() {
            self.send(number, ToWorker::Stop);
        }
        let give_up = Instant::now() + STOP_LIMIT;
        while self.members.iter().any(|member| member.thread.is_some()) {
            let left = give_up.saturating_duration_since(Instant::now());
            let next = self.set_aside.pop_front().map_or_else(|| self.inbox.recv_timeout(left), Ok);
            let Ok(message) = next else {
                log::warn!("not all workers have ended; their last counters are used");
                return;
            };
            self.take(message, clock.now(), to, &mut |_| {});
        }
    }

    fn take(&mut self, message: FromWorker, now: Timestamp, to: &mut impl Deliver, lost: &mut dyn FnMut(usize)) {
        match message {
            FromWorker::Responses(responses) => self.books.deliver(&responses, now, to),
            FromWorker::Lost(device) => lost(device),
            FromWorker::Wants(payload) => self.wanted = self.wanted.max(payload),
            FromWorker::Report(number, counters, counted_at) => {
                self.awaited = self.awaited.saturating_sub(1);
                let member = &mut self.members[number];
                (member.counters, member.counted_at) = (*counters, counted_at);
            }
            FromWorker::Ended(number) => {
                let Some(thread) = self.members[number].thread.take() else { return };
                let reason = failure_of_worker(thread.join());
                if reason.is_some() || !self.stopping {
                    let reason = reason.as_deref().unwrap_or("a worker ended");
                    self.failure = Some(Failure::new(Exit::Failure, reason));
                }
            }
        }
    }

    /// Sends to a worker, and meanwhile takes what workers send, so that none of them waits for the main thread.
    fn send(&mut self, number: usize, mut message: ToWorker) {
        let member = &self.members[number];
        loop {
            match member.inbox.try_send(message) {
                Ok(()) => return member.bell.ring(),
                // It says so itself.
                Err(TrySendError::Disconnected(_)) => return,
                Err(TrySendError::Full(same)) => message = same,
            }
            member.bell.ring();
            if let Ok(other) = self.inbox.recv_timeout(FULL_PAUSE) {
                self.set_aside.push_back(other);
            }
        }
    }
}

impl Drop for Crew {
    /// Threads that still run find that there is nobody to work for.
    fn drop(&mut self) {
        for Member { inbox, bell, .. } in self.members.drain(..) {
            drop(inbox);
            bell.ring();
        }
    }
}

impl Books {
    /// Writes responses, except those for connections that went in the meantime.
    fn deliver(&mut self, responses: &Responses, now: Timestamp, to: &mut impl Deliver) {
        let mut rest = &responses.bytes[..];
        for &(peer, bytes, count) in &responses.parts {
            let frames;
            (frames, rest) = rest.split_at(bytes);
            if !self.is_current(peer, responses.gone) {
                self.undelivered[RelayDrop::LinkClosed as usize] += count;
            } else if to.deliver(peer, frames, count, now).is_err() {
                self.not_delivered(peer, count, RelayDrop::LinkFull);
            }
        }
    }

    /// Whether the connection that has this number now is the one that a worker means who knows of so many that went.
    fn is_current(&self, peer: PeerId, gone: u64) -> bool {
        self.gone_at.get(peer.0 as usize).is_none_or(|at| *at <= gone)
    }

    fn has_gone(&mut self, peer: PeerId) {
        self.gone += 1;
        *slot(&mut self.gone_at, peer) = self.gone;
        *slot(&mut self.undelivered_to, peer) = 0;
    }

    fn not_delivered(&mut self, peer: PeerId, responses: u64, reason: RelayDrop) {
        self.undelivered[reason as usize] += responses;
        *slot(&mut self.undelivered_to, peer) += responses;
    }

    /// Adds up what workers say of a peer: each has a part of the responses, and all of the routes.
    fn link_stats<'a>(&self, peer: PeerId, workers: impl Iterator<Item = &'a LinkStats>) -> LinkStats {
        let mut total = LinkStats::default();
        for stats in workers {
            total.frames_captured += stats.frames_captured;
            total.unrouted += stats.unrouted;
            total.relayed += stats.relayed;
            total.overflowed += stats.overflowed;
            total.routes_alive = total.routes_alive.max(stats.routes_alive);
        }
        let undelivered = self.undelivered_to.get(peer.0 as usize).copied().unwrap_or(0).min(total.relayed);
        total.relayed -= undelivered;
        total.overflowed += undelivered;
        total
    }
}

/// A peer's entry, made if need be.
fn slot(entries: &mut Vec<u64>, peer: PeerId) -> &mut u64 {
    let at = peer.0 as usize;
    if entries.len() <= at {
        entries.resize(at + 1, 0);
    }
    &mut entries[at]
}

#[cfg(test)]
mod tests;
