//! A worker's thread.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use mio::{Events, Poll, Token, Waker};
use tcpcopy_engine::{PeerId, RelayConfig, RelayInput};
use tcpcopy_io::clock::MonotonicClock;
use tcpcopy_io::control::LinkFull;
use tcpcopy_io::privileges;
use tcpcopy_wire::Timestamp;
use tcpcopy_wire::control::Payload;

use super::super::told::tell;
use super::super::worker::{Deliver, Worker};
use super::{Bell, FromWorker, Responses, ToWorker};

/// Captures have the tokens above.
const BELL: Token = Token(0);

/// The way to the main thread.
#[derive(Clone)]
pub(super) struct MainThread {
    pub(super) inbox: SyncSender<FromWorker>,
    pub(super) bell: Arc<Bell>,
}

impl MainThread {
    fn send(&self, message: FromWorker) {
        // A main thread that has gone is noticed at the next look for what it says.
        let _ = self.inbox.send(message);
        self.bell.ring();
    }
}

/// Starts a worker. Returns its bell, too.
pub(super) fn start(
    number: usize,
    inbox: Receiver<ToWorker>,
    main: MainThread,
    clock: MonotonicClock,
    config: RelayConfig,
    responses_per_write: Option<u64>,
) -> io::Result<(JoinHandle<io::Result<()>>, Arc<Bell>)> {
    let poll = Poll::new()?;
    let bell = Arc::new(Bell::new(Arc::new(Waker::new(poll.registry(), BELL)?)));
    let worker = Worker::new(poll.registry().try_clone()?, config, responses_per_write);
    let farewell = Farewell { number, main: main.clone() };
    let own_bell = Arc::clone(&bell);
    let thread = thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
        // Also when the worker panics, the main thread must hear of it.
        let _farewell = farewell;
        // The main thread opens the captures.
        privileges::renounce();
        let delivery = Delivery { main, responses: Responses::default() };
        let told_payload = Payload::Headers;
        Running { number, inbox, poll, bell: own_bell, clock, worker, delivery, told_payload }.run()
    })?;
    Ok((thread, bell))
}

/// Tells the main thread that the worker ends, however it ends.
struct Farewell {
    number: usize,
    main: MainThread,
}

impl Drop for Farewell {
    fn drop(&mut self) {
        self.main.send(FromWorker::Ended(self.number));
    }
}

/// Sends responses to the main thread, a turn's in one message.
struct Delivery {
    main: MainThread,
    responses: Responses,
}

impl Deliver for Delivery {
    #[inline]
    fn deliver(&mut self, peer: PeerId, frames: &[u8], responses: u64, _now: Timestamp) -> Result<(), LinkFull> {
        self.responses.bytes.extend_from_slice(frames);
        self.responses.parts.push((peer, frames.len(), responses));
        Ok(())
    }

    fn end(&mut self) {
        let next = Responses { gone: self.responses.gone, ..Responses::default() };
        self.main.send(FromWorker::Responses(std::mem::replace(&mut self.responses, next)));
    }
}

struct Running {
    number: usize,
    inbox: Receiver<ToWorker>,
    poll: Poll,
    bell: Arc<Bell>,
    clock: MonotonicClock,
    worker: Worker,
    delivery: Delivery,
    /// How much payload the main thread knows to be wanted.
    told_payload: Payload,
}

/// What the main thread has said.
#[derive(PartialEq, Eq)]
enum Order {
    GoOn,
    Stop,
}

impl Running {
    fn run(mut self) -> io::Result<()> {
        let (mut events, mut lost) = (Events::with_capacity(64), Vec::new());
        loop {
            match self.poll.poll(&mut events, self.patience()) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => events.clear(),
                other => other?,
            }
            for event in events.iter().filter(|event| event.token() != BELL) {
                self.worker.readable(event.token());
            }
            let now = self.clock.now();
            // First, because a route that is known before its responses are read saves keeping them.
            let order = self.obey(now);
            let Self { number, worker, delivery, told_payload, .. } = &mut self;
            lost.clear();
            worker.read(now, delivery, |device| lost.push(device));
            worker.on_time(now);
            worker.flush(now, delivery);
            let main = &delivery.main;
            for device in &lost {
                main.send(FromWorker::Lost(*device));
            }
            if worker.wants_payload() > *told_payload {
                *told_payload = worker.wants_payload();
                main.send(FromWorker::Wants(*told_payload));
            }
            // What there is to say of routes would be said by each.
            for notice in worker.notices().filter(|notice| *number == 0 || !notice.is_of_routes()) {
                tell(&notice);
            }
            if order == Order::Stop {
                worker.finish(now, delivery);
                let counters = Box::new(worker.counters([]));
                delivery.main.send(FromWorker::Report(*number, counters, delivery.responses.gone));
                return Ok(());
            }
        }
    }

    /// How long to wait for events.
    fn patience(&self) -> Option<Duration> {
        if self.worker.has_packets() {
            return Some(Duration::ZERO);
        }
        self.worker.next_deadline().map(|at| at.since(self.clock.now()))
    }

    /// Takes what the main thread has sent.
    fn obey(&mut self, now: Timestamp) -> Order {
        let Self { worker, delivery: Delivery { main, responses }, .. } = self;
        self.bell.answer();
        loop {
            match self.inbox.try_recv() {
                Ok(ToWorker::Peers(inputs)) => {
                    for input in &*inputs {
                        responses.gone += u64::from(matches!(input, RelayInput::PeerGone { .. }));
                        worker.tell(now, *input);
                    }
                }
                Ok(ToWorker::Capture(device, capture)) => worker.give(device, *capture, now),
                Ok(ToWorker::Report(peers)) => {
                    let counters = Box::new(worker.counters(peers.iter().copied()));
                    main.send(FromWorker::Report(self.number, counters, responses.gone));
                }
                // Without a main thread there is nobody to work for.
                Ok(ToWorker::Stop) | Err(TryRecvError::Disconnected) => return Order::Stop,
                Err(TryRecvError::Empty) => return Order::GoOn,
            }
        }
    }
}
