//! A client that sends requests at an even rate over many connections.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use super::request;

/// What a client does with a connection after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    /// It sends the next request on it.
    KeepAlive,
    /// It closes it, and opens a new one for the next request.
    Close,
}

/// What a client is to send.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The server.
    pub server: SocketAddr,
    /// Connections open at a time, at most.
    pub connections: usize,
    /// Requests a second, all connections together; `None` sends as fast as the server answers.
    pub rate: Option<f64>,
    /// Number of requests.
    pub requests: u64,
    /// What happens to a connection after an answer.
    pub reuse: Reuse,
    /// Number of the first request; the others count up from it.
    pub first_id: u64,
    /// Length of the body of the request with this number, in bytes.
    pub body_len: fn(u64) -> usize,
    /// Keep the connections open at the end for as long as this; an idle client.
    pub linger: Duration,
}

impl Plan {
    /// `requests` GET requests over one keepalive connection, as fast as the server answers.
    pub fn new(server: SocketAddr, requests: u64) -> Self {
        Self {
            server,
            connections: 1,
            rate: None,
            requests,
            reuse: Reuse::KeepAlive,
            first_id: 0,
            body_len: |_| 0,
            linger: Duration::ZERO,
        }
    }
}

/// One request that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Its number.
    pub id: u64,
    /// [`fingerprint`](request::fingerprint) of all its bytes.
    pub fingerprint: u64,
    /// Which of the client's connections carried it. A connection that is opened anew counts as the next one.
    pub connection: u64,
}

/// How far a client is, to be watched by others; also its brake.
#[derive(Debug, Default)]
pub struct Progress {
    /// Requests written.
    pub sent: AtomicU64,
    /// Answers received in full.
    pub answered: AtomicU64,
    /// Set to true, it makes the client stop sending, wait for the answers that are due, and close.
    pub stop: AtomicBool,
}

/// What a client did.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// The requests, in the order in which they were begun.
    pub sent: Vec<Sent>,
    /// Number of answers received in full.
    pub answered: u64,
    /// What went wrong on a connection, each with the request's number.
    pub failures: Vec<(u64, String)>,
    /// Time from the first request to the last answer.
    pub elapsed: Duration,
}

/// How long a client waits for answers after its last request.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs a client on the calling thread, in whatever network namespace that is in, to its end.
///
/// # Errors
/// When the system is out of descriptors. Connections that fail are part of the outcome.
pub fn run(plan: &Plan, progress: &Arc<Progress>) -> io::Result<Outcome> {
    let mut client = Client {
        plan,
        progress,
        poll: Poll::new()?,
        slots: (0..plan.connections).map(|_| Slot::default()).collect(),
        idle: (0..plan.connections).collect(),
        begun: 0,
        opened: 0,
        outcome: Outcome::default(),
        buffer: vec![0; 64 << 10],
    };
    client.run()?;
    Ok(client.outcome)
}

#[derive(Default)]
struct Slot {
    stream: Option<TcpStream>,
    connection: u64,
    /// The request under way.
    request: Option<u64>,
    outbox: Vec<u8>,
    written: usize,
    inbox: Vec<u8>,
}

struct Client<'a> {
    plan: &'a Plan,
    progress: &'a Arc<Progress>,
    poll: Poll,
    slots: Vec<Slot>,
    idle: VecDeque<usize>,
    /// Requests begun.
    begun: u64,
    /// Connections opened.
    opened: u64,
    outcome: Outcome,
    buffer: Vec<u8>,
}

impl Client<'_> {
    fn run(&mut self) -> io::Result<()> {
        let start = Instant::now();
        let mut events = Events::with_capacity(256);
        let mut last_progress = start;
        loop {
            let stopped = self.progress.stop.load(Ordering::Relaxed);
            let now = Instant::now();
            let mut timeout = Duration::from_millis(100);
            while self.begun < self.plan.requests && !stopped {
                let wait = self.due(start).saturating_duration_since(now);
                if !wait.is_zero() {
                    timeout = timeout.min(wait);
                    break;
                }
                let Some(slot) = self.idle.pop_front() else { break };
                self.begin(slot);
                last_progress = now;
            }
            let all_begun = self.begun == self.plan.requests || stopped;
            if all_begun && self.idle.len() == self.slots.len() {
                break;
            }
            if self.idle.len() < self.slots.len() && now.duration_since(last_progress) > PATIENCE {
                self.give_up();
                break;
            }
            match self.poll.poll(&mut events, Some(timeout)) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            for event in &events {
                last_progress = Instant::now();
                self.on_event(event);
            }
        }
        self.outcome.elapsed = start.elapsed();
        let end = Instant::now() + self.plan.linger;
        while Instant::now() < end && !self.progress.stop.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// When the next request is due.
    fn due(&self, start: Instant) -> Instant {
        match self.plan.rate {
            Some(rate) => start + Duration::from_secs_f64(self.begun as f64 / rate),
            None => start,
        }
    }

    fn begin(&mut self, key: usize) {
        let id = self.plan.first_id + self.begun;
        self.begun += 1;
        let bytes = request::build(id, (self.plan.body_len)(id), self.plan.reuse == Reuse::Close);
        let slot = &mut self.slots[key];
        if slot.stream.is_none() {
            let stream = TcpStream::connect(self.plan.server).and_then(|mut stream| {
                stream.set_nodelay(true)?;
                self.poll.registry().register(&mut stream, Token(key), Interest::READABLE | Interest::WRITABLE)?;
                Ok(stream)
            });
            match stream {
                Ok(stream) => slot.stream = Some(stream),
                Err(error) => {
                    self.outcome.failures.push((id, format!("connect: {error}")));
                    self.idle.push_back(key);
                    return;
                }
            }
            slot.connection = self.opened;
            self.opened += 1;
        }
        slot.request = Some(id);
        slot.written = 0;
        self.outcome.sent.push(Sent { id, fingerprint: request::fingerprint(&bytes), connection: slot.connection });
        slot.outbox = bytes;
        self.write(key);
    }

    fn on_event(&mut self, event: &Event) {
        let Token(key) = event.token();
        if event.is_writable() && self.slots[key].written < self.slots[key].outbox.len() {
            self.write(key);
        }
        if event.is_readable() || event.is_error() || event.is_read_closed() {
            self.read(key);
        }
    }

    fn write(&mut self, key: usize) {
        let slot = &mut self.slots[key];
        let Some(stream) = &mut slot.stream else { return };
        while slot.written < slot.outbox.len() {
            match stream.write(&slot.outbox[slot.written..]) {
                Ok(n) => {
                    slot.written += n;
                    if slot.written == slot.outbox.len() {
                        self.progress.sent.fetch_add(1, Ordering::Relaxed);
                    }
                }
                // NotConnected: the handshake is under way.
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected) => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return self.fail(key, &format!("write: {error}")),
            }
        }
    }

    fn read(&mut self, key: usize) {
        loop {
            let slot = &mut self.slots[key];
            let Some(stream) = &mut slot.stream else { return };
            match stream.read(&mut self.buffer) {
                Ok(0) => return self.on_close(key),
                Ok(n) => {
                    slot.inbox.extend_from_slice(&self.buffer[..n]);
                    if self.plan.reuse == Reuse::KeepAlive {
                        self.on_data(key);
                    }
                }
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected) => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return self.fail(key, &format!("read: {error}")),
            }
        }
    }

    fn on_data(&mut self, key: usize) {
        let slot = &mut self.slots[key];
        match request::answer_len(&slot.inbox) {
            Ok(Some(len)) if slot.inbox.len() >= len => {
                slot.inbox.drain(..len);
                self.answered(key);
            }
            Ok(_) => {}
            Err(request::NotAnAnswer) => self.fail(key, "not an HTTP answer"),
        }
    }

    /// The server closed: the end of an answer for [`Reuse::Close`], and nothing bad between two requests.
    fn on_close(&mut self, key: usize) {
        let slot = &mut self.slots[key];
        let complete = matches!(request::answer_len(&slot.inbox), Ok(Some(len)) if slot.inbox.len() == len);
        if slot.request.is_none() {
            slot.stream = None;
        } else if self.plan.reuse == Reuse::Close && complete {
            slot.stream = None;
            slot.inbox.clear();
            self.answered(key);
        } else {
            self.fail(key, "closed before the answer was complete");
        }
    }

    fn answered(&mut self, key: usize) {
        self.slots[key].request = None;
        self.outcome.answered += 1;
        self.progress.answered.fetch_add(1, Ordering::Relaxed);
        self.idle.push_back(key);
    }

    fn fail(&mut self, key: usize, what: &str) {
        let slot = &mut self.slots[key];
        slot.stream = None;
        slot.inbox.clear();
        slot.written = slot.outbox.len();
        if let Some(id) = slot.request.take() {
            self.outcome.failures.push((id, what.to_owned()));
            self.idle.push_back(key);
        }
    }

    fn give_up(&mut self) {
        for key in 0..self.slots.len() {
            if self.slots[key].request.is_some() {
                self.fail(key, &format!("no answer within {} s", PATIENCE.as_secs()));
            }
        }
    }
}
