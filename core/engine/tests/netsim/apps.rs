//! The applications: a server that answers by count of bytes, and the clients that ask it.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tcpcopy_netsim::{Application, Chance, Service, Socket, State};
use tcpcopy_wire::Timestamp;

use crate::case::{Case, ClientEnd, Fault, Server, Turn};

/// The bytes that a client sends on its connection number `session`. The first byte tells the number.
pub(crate) fn client_stream(session: usize, len: usize) -> Vec<u8> {
    let mut chance = Chance::new(session as u64 ^ 0x5e55_1011);
    let mut stream: Vec<u8> = Vec::with_capacity(len + 8);
    while stream.len() < len {
        stream.extend(chance.next().to_le_bytes());
    }
    stream.truncate(len);
    if let Some(first) = stream.first_mut() {
        *first = session as u8;
    }
    stream
}

/// Order of events over the whole run, finer than time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ordinal(Rc<Cell<u64>>);

impl Ordinal {
    fn next(&self) -> u64 {
        self.0.set(self.0.get() + 1);
        self.0.get()
    }
}

/// What online or the target does with each connection.
pub(crate) struct Answers {
    behaviour: Server,
    turns: Vec<Turn>,
    ordinal: Ordinal,
}

impl Answers {
    pub(crate) fn new(behaviour: Server, case: &Case, ordinal: &Ordinal) -> Self {
        Self { behaviour, turns: case.turns.clone(), ordinal: ordinal.clone() }
    }
}

impl Service for Answers {
    type Connection = ServerApp;

    fn accept(&mut self, _: Timestamp, remote: SocketAddr) -> ServerApp {
        ServerApp::new(self.behaviour, &self.turns, self.ordinal.clone(), remote)
    }
}

/// A part of a response that is to be written.
#[derive(Debug)]
struct Part {
    due: Timestamp,
    bytes: usize,
    ends_turn: bool,
}

/// One connection of a server.
#[derive(Debug)]
pub(crate) struct ServerApp {
    behaviour: Server,
    turns: Vec<Turn>,
    ordinal: Ordinal,
    pub(crate) remote: SocketAddr,
    pub(crate) received: Vec<u8>,
    /// When the first byte of each request was read.
    pub(crate) request_begun: Vec<u64>,
    /// When the last byte of each response was written.
    pub(crate) response_done: Vec<u64>,
    asked: usize,
    parts: std::collections::VecDeque<Part>,
    last_due: Timestamp,
    deaf_until: Option<Timestamp>,
    closed: bool,
}

impl ServerApp {
    fn new(behaviour: Server, turns: &[Turn], ordinal: Ordinal, remote: SocketAddr) -> Self {
        Self {
            behaviour,
            turns: turns.to_vec(),
            ordinal,
            remote,
            received: Vec::new(),
            request_begun: Vec::new(),
            response_done: Vec::new(),
            asked: 0,
            parts: std::collections::VecDeque::new(),
            last_due: Timestamp::ZERO,
            deaf_until: None,
            closed: false,
        }
    }

    fn read(&mut self, now: Timestamp, socket: &mut Socket<'_>) -> Option<Timestamp> {
        if let Fault::DeafFor(duration) = self.behaviour.fault {
            if !socket.can_recv() {
                return None;
            }
            let until = *self.deaf_until.get_or_insert(now + duration);
            if now < until {
                return Some(until);
            }
        }
        while socket.can_recv() {
            let received = &mut self.received;
            let Ok(()) = socket.recv(|bytes| {
                received.extend_from_slice(bytes);
                (bytes.len(), ())
            }) else {
                break;
            };
        }
        None
    }

    /// Plans a response for each request that has arrived whole.
    fn count_requests(&mut self, now: Timestamp, socket: &mut Socket<'_>) {
        let mut begins = 0;
        for (k, turn) in self.turns.iter().enumerate() {
            if self.received.len() > begins && self.request_begun.len() == k {
                self.request_begun.push(self.ordinal.next());
            }
            begins += turn.request;
            if self.received.len() < begins {
                break;
            }
            if k < self.asked {
                continue;
            }
            self.asked += 1;
            match self.behaviour.fault {
                Fault::ResetOnRequest(n) if n == k => {
                    socket.abort();
                    self.closed = true;
                    return;
                }
                Fault::Silent => continue,
                _ => {}
            }
            let total = self.behaviour.response.unwrap_or(turn.response);
            let bursts = self.behaviour.bursts.clamp(1, total.max(1));
            let mut due = (now + self.behaviour.think).max(self.last_due);
            for burst in 0..bursts {
                let bytes = total * (burst + 1) / bursts - total * burst / bursts;
                self.parts.push_back(Part { due, bytes, ends_turn: burst + 1 == bursts });
                self.last_due = due;
                due = due + self.behaviour.gap;
            }
        }
    }

    fn write(&mut self, now: Timestamp, socket: &mut Socket<'_>) -> Option<Timestamp> {
        while let Some(part) = self.parts.front_mut() {
            if self.closed || !socket.may_send() {
                self.parts.clear();
                return None;
            }
            if part.due > now {
                return Some(part.due);
            }
            while part.bytes > 0 {
                let chunk = [b'r'; 4096];
                match socket.send_slice(&chunk[..part.bytes.min(chunk.len())]) {
                    Ok(n) if n > 0 => part.bytes -= n,
                    _ => return None, // the send buffer is full: the TCP runs us again when there is room
                }
            }
            let ends_turn = part.ends_turn;
            self.parts.pop_front();
            if ends_turn {
                self.response_done.push(self.ordinal.next());
                match self.behaviour.fault {
                    Fault::CloseAfter(n) if n == self.response_done.len() => {
                        socket.close();
                        self.closed = true;
                    }
                    Fault::ResetAfter(n) if n == self.response_done.len() => {
                        socket.abort();
                        self.closed = true;
                    }
                    _ => {}
                }
            }
        }
        None
    }
}

impl Application for ServerApp {
    fn step(&mut self, now: Timestamp, socket: &mut Socket<'_>) -> Option<Timestamp> {
        let mut wake: Option<Timestamp> = None;
        if let Some(until) = self.read(now, socket) {
            wake = Some(until);
        }
        self.count_requests(now, socket);
        if let Some(due) = self.write(now, socket) {
            wake = Some(wake.map_or(due, |w| w.min(due)));
        }
        let client_is_done = !socket.may_recv() && socket.state() == State::CloseWait;
        if client_is_done && self.parts.is_empty() && !self.closed {
            self.closed = true;
            socket.close();
        }
        wake
    }
}

/// One connection of a client.
#[derive(Debug)]
pub(crate) struct ClientApp {
    turns: Vec<Turn>,
    /// Length of all of online's responses, if they do not have their turn's.
    response: Option<usize>,
    end: ClientEnd,
    pipelined: bool,
    think: Duration,
    pub(crate) stream: Vec<u8>,
    written: usize,
    received: usize,
    may_write_from: Timestamp,
    turns_answered: usize,
    closed: bool,
}

impl ClientApp {
    pub(crate) fn new(session: usize, case: &Case) -> Self {
        let total = case.turns.iter().map(|t| t.request).sum();
        Self {
            turns: case.turns.clone(),
            response: case.online.response,
            end: case.client_end,
            pipelined: case.pipelined,
            think: case.client_think,
            stream: client_stream(session, total),
            written: 0,
            received: 0,
            may_write_from: Timestamp::ZERO,
            turns_answered: 0,
            closed: false,
        }
    }

    fn end_if_due(&mut self, socket: &mut Socket<'_>) {
        if self.closed {
            return;
        }
        let answered = self.turns_answered == self.turns.len();
        let server_closed = socket.state() == State::CloseWait && !socket.can_recv();
        match self.end {
            ClientEnd::Reset if answered => socket.abort(),
            ClientEnd::ResetAfter(n) if self.written >= n && socket.send_queue() == 0 => socket.abort(),
            ClientEnd::HalfClose if self.written == self.stream.len() => socket.close(),
            ClientEnd::Close if answered => socket.close(),
            _ if server_closed && self.end != ClientEnd::StayOpen => socket.close(),
            _ => return,
        }
        self.closed = true;
    }
}

impl Application for ClientApp {
    fn step(&mut self, now: Timestamp, socket: &mut Socket<'_>) -> Option<Timestamp> {
        if socket.state() == State::SynSent || self.closed && !socket.can_recv() {
            return None;
        }
        while socket.can_recv() {
            let received = &mut self.received;
            let Ok(()) = socket.recv(|bytes| {
                *received += bytes.len();
                (bytes.len(), ())
            }) else {
                break;
            };
        }
        // How many responses have come in whole.
        let response = |turn: &Turn| self.response.unwrap_or(turn.response);
        let mut whole = 0;
        let mut sum = 0;
        for turn in &self.turns {
            sum += response(turn);
            if self.received < sum {
                break;
            }
            whole += 1;
        }
        if whole > self.turns_answered {
            self.turns_answered = whole;
            self.may_write_from = now + self.think;
        }
        let allowed = if self.pipelined { self.turns.len() } else { (self.turns_answered + 1).min(self.turns.len()) };
        let allowed: usize = self.turns[..allowed].iter().map(|t| t.request).sum();
        let mut wake = None;
        if self.written < allowed && socket.may_send() && !self.closed {
            if now < self.may_write_from {
                wake = Some(self.may_write_from);
            } else {
                let upto = match self.end {
                    ClientEnd::ResetAfter(n) => allowed.min(n),
                    _ => allowed,
                };
                while self.written < upto {
                    match socket.send_slice(&self.stream[self.written..upto]) {
                        Ok(n) if n > 0 => self.written += n,
                        _ => break,
                    }
                }
            }
        }
        self.end_if_due(socket);
        wake
    }
}
