//! The applications: a server that answers by count of bytes, and the clients that ask it.

use std::net::SocketAddr;
use std::time::Duration;

use smoltcp::socket::tcp::{Socket, State};
use tcpcopy_wire::Timestamp;

use crate::case::{Case, ClientEnd, Fault, Server, Turn};
use crate::chance::Chance;

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
pub(crate) type Ordinal = u64;

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
    pub(crate) remote: SocketAddr,
    pub(crate) received: Vec<u8>,
    /// When the first byte of each request was read.
    pub(crate) request_begun: Vec<Ordinal>,
    /// When the last byte of each response was written.
    pub(crate) response_done: Vec<Ordinal>,
    asked: usize,
    parts: std::collections::VecDeque<Part>,
    last_due: Timestamp,
    deaf_until: Option<Timestamp>,
    closed: bool,
}

impl ServerApp {
    pub(crate) fn new(behaviour: Server, turns: &[Turn], remote: SocketAddr) -> Self {
        Self {
            behaviour,
            turns: turns.to_vec(),
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

    /// Reads, writes and closes what is due. Returns when it wants to run again, if nothing happens before.
    pub(crate) fn step(&mut self, now: Timestamp, ordinal: &mut Ordinal, socket: &mut Socket<'_>) -> Option<Timestamp> {
        let mut wake: Option<Timestamp> = None;
        if let Some(until) = self.read(now, socket) {
            wake = Some(until);
        }
        self.count_requests(now, ordinal, socket);
        if let Some(due) = self.write(now, ordinal, socket) {
            wake = Some(wake.map_or(due, |w| w.min(due)));
        }
        let client_is_done = !socket.may_recv() && socket.state() == State::CloseWait;
        if client_is_done && self.parts.is_empty() && !self.closed {
            self.closed = true;
            socket.close();
        }
        wake
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
    fn count_requests(&mut self, now: Timestamp, ordinal: &mut Ordinal, socket: &mut Socket<'_>) {
        let mut begins = 0;
        for (k, turn) in self.turns.iter().enumerate() {
            if self.received.len() > begins && self.request_begun.len() == k {
                *ordinal += 1;
                self.request_begun.push(*ordinal);
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

    fn write(&mut self, now: Timestamp, ordinal: &mut Ordinal, socket: &mut Socket<'_>) -> Option<Timestamp> {
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
                *ordinal += 1;
                self.response_done.push(*ordinal);
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

/// One connection of a client.
#[derive(Debug)]
pub(crate) struct ClientApp {
    turns: Vec<Turn>,
    end: ClientEnd,
    pipelined: bool,
    think: Duration,
    pub(crate) stream: Vec<u8>,
    written: usize,
    received: usize,
    may_write_from: Timestamp,
    turns_answered: usize,
    pub(crate) closed: bool,
}

impl ClientApp {
    pub(crate) fn new(session: usize, case: &Case) -> Self {
        let total = case.turns.iter().map(|t| t.request).sum();
        Self {
            turns: case.turns.clone(),
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

    pub(crate) fn step(&mut self, now: Timestamp, online: &Server, socket: &mut Socket<'_>) -> Option<Timestamp> {
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
        let response = |turn: &Turn| online.response.unwrap_or(turn.response);
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
