//! One control connection: its socket, its decoder, and its two buffers.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};

use tcpcopy_wire::Timestamp;
use tcpcopy_wire::control::{Decoder, Greeting, Hello, Message, NONCE_LEN, RecordKind, Role, Secret, encode_pong};

use super::CloseReason;
use super::transport::{TlsFault, Transport};

/// Bytes read at once.
pub(super) const READ_SIZE: usize = 64 << 10;
/// Bytes read from one connection before the others get their turn.
const READ_BUDGET: usize = 16 * READ_SIZE;
/// Room that an empty buffer keeps.
const KEPT_CAPACITY: usize = 256 << 10;

/// How reading ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// The socket is empty: an event will tell of more.
    Everything,
    /// There may be more, of which no event will tell.
    Budget,
}

/// Bytes on their way out.
#[derive(Debug, Default)]
pub(super) struct OutBuffer {
    pub(super) bytes: Vec<u8>,
    written: usize,
    /// Bytes ever put in, and ever written.
    total_in: u64,
    total_written: u64,
    /// Position behind each batch that is not wholly written, and the responses in it.
    batches: VecDeque<(u64, u64)>,
    /// Since when the socket has taken nothing.
    pub(super) blocked_since: Option<Timestamp>,
}

impl OutBuffer {
    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.written
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Responses in batches that are not wholly written.
    pub(super) fn undelivered(&self) -> u64 {
        self.batches.iter().map(|(_, responses)| responses).sum()
    }

    /// Sends a batch of responses, as far as the socket takes it at once; keeps the rest.
    pub(super) fn send(
        &mut self,
        socket: &mut Transport,
        now: Timestamp,
        batch: &[u8],
        responses: u64,
    ) -> io::Result<()> {
        let mut rest = batch;
        if self.is_empty() {
            let written = write_some(socket, batch)?;
            rest = &batch[written..];
            self.total_in += written as u64;
            self.total_written += written as u64;
            if rest.is_empty() {
                if socket.holds_bytes() {
                    self.blocked_since.get_or_insert(now);
                }
                return Ok(());
            }
            self.blocked_since = Some(now);
        }
        self.bytes.extend_from_slice(rest);
        self.total_in += rest.len() as u64;
        self.batches.push_back((self.total_in, responses));
        Ok(())
    }

    /// Writes as much as the socket takes. Bytes may move within the buffer.
    pub(super) fn flush(&mut self, socket: &mut Transport, now: Timestamp) -> io::Result<()> {
        if self.is_empty() && !socket.holds_bytes() {
            self.blocked_since = None;
            return Ok(());
        }
        let sent = socket.sent();
        let written = write_some(socket, &self.bytes[self.written..])?;
        self.written += written;
        self.total_written += written as u64;
        while self.batches.front().is_some_and(|(end, _)| *end <= self.total_written) {
            self.batches.pop_front();
        }
        if self.is_empty() {
            self.bytes.clear();
            self.bytes.shrink_to(KEPT_CAPACITY);
            self.written = 0;
            if !socket.holds_bytes() {
                self.blocked_since = None;
                return Ok(());
            }
        }
        // What TLS has taken over is not on its way yet: what counts is what the socket takes.
        if socket.sent() > sent || self.blocked_since.is_none() {
            self.blocked_since = Some(now);
        }
        if self.written > self.bytes.len() / 2 {
            self.bytes.drain(..self.written);
            self.written = 0;
        }
        Ok(())
    }

    /// Takes everything out that waits.
    pub(super) fn take(&mut self) -> Vec<u8> {
        let bytes = self.bytes.split_off(self.written);
        self.bytes.clear();
        self.written = 0;
        bytes
    }

    /// Lets `append` add bytes that belong to no batch of responses.
    pub(super) fn append(&mut self, append: impl FnOnce(&mut Vec<u8>)) {
        let before = self.bytes.len();
        append(&mut self.bytes);
        self.total_in += (self.bytes.len() - before) as u64;
    }
}

/// Writes until everything is written or the socket is full.
fn write_some(socket: &mut Transport, bytes: &[u8]) -> io::Result<usize> {
    let mut at = 0;
    socket.flush()?;
    while at < bytes.len() {
        match socket.write(&bytes[at..]) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(n) => at += n,
            Err(e) if e.kind() == ErrorKind::WouldBlock => break,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(at)
}

/// A connection.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) socket: Transport,
    decoder: Decoder,
    /// Until the other end has said hello and, where there is a secret, proved itself.
    greeting: Option<Box<Greeting>>,
    /// A message that has arrived in part.
    inbound: Vec<u8>,
    pub(super) out: OutBuffer,
    /// When the connection began.
    pub(super) since: Timestamp,
    pub(super) last_received: Timestamp,
    pub(super) received_anything: bool,
    /// The other side has closed: behind what is left to read stands the end, of which no event will tell again.
    pub(super) hung_up: bool,
}

impl Stream {
    /// A connection that begins; `hello` is what this end says.
    ///
    /// # Errors
    /// When the system has no random numbers to give.
    pub(super) fn new(
        socket: Transport,
        role: Role,
        hello: &Hello,
        secret: Option<&Secret>,
        now: Timestamp,
    ) -> io::Result<Self> {
        let secret = match secret {
            None => None,
            Some(secret) => {
                let mut nonce = [0; NONCE_LEN];
                getrandom::fill(&mut nonce)?;
                Some((secret.clone(), nonce))
            }
        };
        let greeting = Greeting::new(role, hello, secret);
        let mut decoder = Decoder::new(role);
        decoder.take_proof_only(greeting.demands_proof());
        Ok(Self::reading(socket, decoder, Some(Box::new(greeting)), now))
    }

    /// A connection to an intercept of the C programs, on which there is no hello.
    pub(super) fn legacy(socket: Transport, records: RecordKind, now: Timestamp) -> Self {
        Self::reading(socket, Decoder::legacy(records), None, now)
    }

    fn reading(socket: Transport, decoder: Decoder, greeting: Option<Box<Greeting>>, now: Timestamp) -> Self {
        Self {
            socket,
            decoder,
            greeting,
            inbound: Vec::new(),
            out: OutBuffer::default(),
            since: now,
            last_received: now,
            received_anything: false,
            hung_up: false,
        }
    }

    /// Puts what this end says first into the buffer: tcpcopy's hello. intercept waits for that.
    pub(super) fn begin(&mut self) {
        if let Some(greeting) = &self.greeting {
            self.out.append(|bytes| greeting.begin(bytes));
        }
    }

    /// Appends this end's hello, for an other end that has to see it before the connection ends.
    pub(super) fn own_hello(&self, bytes: &mut Vec<u8>) {
        if let Some(greeting) = &self.greeting {
            bytes.extend_from_slice(greeting.own_hello());
        }
    }

    /// Reads what has come and hands each message to `on_message`, with the buffer for answers. The first is the other end's hello, once that has shown
    /// that it is who it should be. Pings are answered here.
    ///
    /// # Errors
    /// Why the connection cannot go on.
    pub(super) fn receive(
        &mut self,
        now: Timestamp,
        scratch: &mut [u8],
        on_message: &mut dyn FnMut(Message<'_>, &mut OutBuffer),
    ) -> Result<Received, CloseReason> {
        let mut budget = READ_BUDGET;
        loop {
            let came = match self.socket.read(scratch) {
                Ok(0) if self.received_anything => return Err(CloseReason::Closed),
                Ok(0) => return Err(CloseReason::Unused),
                Ok(n) => n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(Received::Everything),
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => return Err(close_reason(&e)),
            };
            self.last_received = now;
            if let (false, Some(greeting)) = (self.received_anything, &mut self.greeting)
                && let Some(channel) = self.socket.binding()
            {
                greeting.bind(&channel);
            }
            self.received_anything = true;
            let fresh = &scratch[..came];
            if self.inbound.is_empty() {
                let used = read_messages(&mut self.decoder, &mut self.greeting, fresh, &mut self.out, on_message)?;
                self.inbound.extend_from_slice(&fresh[used..]);
            } else {
                // At most one frame is waiting in part, so this stays below a frame and a read.
                self.inbound.extend_from_slice(fresh);
                let inbound = &self.inbound;
                let used = read_messages(&mut self.decoder, &mut self.greeting, inbound, &mut self.out, on_message)?;
                self.inbound.drain(..used);
            }
            // A short read has emptied the socket (epoll(7)); asking again would only cost a system call.
            if came < scratch.len() && !self.hung_up && self.socket.short_read_is_last() {
                return Ok(Received::Everything);
            }
            budget = budget.saturating_sub(came);
            if budget == 0 {
                return Ok(Received::Budget);
            }
        }
    }
}

/// A text that goes into a log: whoever sent it does not begin lines there, nor control a terminal.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn close_reason(e: &io::Error) -> CloseReason {
    match e.get_ref().and_then(|inner| inner.downcast_ref::<TlsFault>()) {
        Some(fault) => CloseReason::Tls(fault.clone()),
        None => CloseReason::io(e),
    }
}

fn read_messages(
    decoder: &mut Decoder,
    greeting: &mut Option<Box<Greeting>>,
    bytes: &[u8],
    out: &mut OutBuffer,
    on_message: &mut dyn FnMut(Message<'_>, &mut OutBuffer),
) -> Result<usize, CloseReason> {
    let mut at = 0;
    while let Some((message, len)) = decoder.next(&bytes[at..]).map_err(CloseReason::Protocol)? {
        match message {
            Message::Ping(stamp) => out.append(|bytes| encode_pong(stamp, bytes)),
            Message::Error(text) => return Err(CloseReason::Refused(one_line(text))),
            // Whether one that cannot prove anything is served is the server's to decide.
            Message::LegacyHello => {
                *greeting = None;
                on_message(message, out);
            }
            message => match greeting {
                None => on_message(message, out),
                Some(beginning) => {
                    let mut hello = Ok(None);
                    out.append(|answer| hello = beginning.take(&message, &bytes[at..at + len], answer));
                    if let Some(hello) = hello.map_err(CloseReason::Greeting)? {
                        *greeting = None;
                        decoder.take_proof_only(false);
                        on_message(Message::Hello(hello), out);
                    }
                }
            },
        }
        at += len;
    }
    Ok(at)
}
