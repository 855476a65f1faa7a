//! One control connection: its socket, its decoder, and its two buffers.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};

use mio::net::TcpStream;
use tcpcopy_wire::Timestamp;
use tcpcopy_wire::control::{Decoder, Message, Role, encode_pong};

use super::CloseReason;

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
        socket: &mut TcpStream,
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
    pub(super) fn flush(&mut self, socket: &mut TcpStream, now: Timestamp) -> io::Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        let written = write_some(socket, &self.bytes[self.written..])?;
        self.written += written;
        self.total_written += written as u64;
        while self.batches.front().is_some_and(|(end, _)| *end <= self.total_written) {
            self.batches.pop_front();
        }
        if self.is_empty() {
            self.blocked_since = None;
            self.bytes.clear();
            self.bytes.shrink_to(KEPT_CAPACITY);
            self.written = 0;
            return Ok(());
        }
        if written > 0 || self.blocked_since.is_none() {
            self.blocked_since = Some(now);
        }
        if self.written > self.bytes.len() / 2 {
            self.bytes.drain(..self.written);
            self.written = 0;
        }
        Ok(())
    }

    /// Lets `append` add bytes that belong to no batch of responses.
    pub(super) fn append(&mut self, append: impl FnOnce(&mut Vec<u8>)) {
        let before = self.bytes.len();
        append(&mut self.bytes);
        self.total_in += (self.bytes.len() - before) as u64;
    }
}

/// Writes until everything is written or the socket is full.
fn write_some(socket: &mut TcpStream, bytes: &[u8]) -> io::Result<usize> {
    let mut at = 0;
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
    pub(super) socket: TcpStream,
    pub(super) decoder: Decoder,
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
    pub(super) fn new(socket: TcpStream, role: Role, now: Timestamp) -> Self {
        Self {
            socket,
            decoder: Decoder::new(role),
            inbound: Vec::new(),
            out: OutBuffer::default(),
            since: now,
            last_received: now,
            received_anything: false,
            hung_up: false,
        }
    }

    /// Reads what has come and hands each message to `on_message`, with the buffer for answers. Pings are answered here.
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
                Err(e) => return Err(CloseReason::io(&e)),
            };
            self.last_received = now;
            self.received_anything = true;
            let fresh = &scratch[..came];
            if self.inbound.is_empty() {
                let used = read_messages(&mut self.decoder, fresh, &mut self.out, on_message)?;
                self.inbound.extend_from_slice(&fresh[used..]);
            } else {
                // At most one frame is waiting in part, so this stays below a frame and a read.
                self.inbound.extend_from_slice(fresh);
                let used = read_messages(&mut self.decoder, &self.inbound, &mut self.out, on_message)?;
                self.inbound.drain(..used);
            }
            // A short read has emptied the socket (epoll(7)); asking again would only cost a system call.
            if came < scratch.len() && !self.hung_up {
                return Ok(Received::Everything);
            }
            budget = budget.saturating_sub(came);
            if budget == 0 {
                return Ok(Received::Budget);
            }
        }
    }
}

fn read_messages(
    decoder: &mut Decoder,
    bytes: &[u8],
    out: &mut OutBuffer,
    on_message: &mut dyn FnMut(Message<'_>, &mut OutBuffer),
) -> Result<usize, CloseReason> {
    let mut at = 0;
    while let Some((message, len)) = decoder.next(&bytes[at..]).map_err(CloseReason::Protocol)? {
        match message {
            Message::Ping(stamp) => out.append(|bytes| encode_pong(stamp, bytes)),
            Message::Error(text) => return Err(CloseReason::Refused(text.to_owned())),
            message => on_message(message, out),
        }
        at += len;
    }
    Ok(at)
}
