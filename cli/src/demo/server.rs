//! A small HTTP/1.1 server that remembers what it was asked: the online and the target of the demo.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token, Waker};
use slab::Slab;
use tcpcopy_io::netns::Namespace;

use super::request::{self, Parsed};

/// One request that a [`Server`] has received in full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// The number in its path; `None` when there is none.
    pub id: Option<u64>,
    /// [`fingerprint`](request::fingerprint) of all its bytes.
    pub fingerprint: u64,
    /// Number of the connection it came on, counted from 0 in the order of acceptance.
    pub connection: u64,
    /// Time from the server's origin to the arrival of its last byte.
    pub at: Duration,
}

#[derive(Debug, Default)]
struct Shared {
    received: Mutex<Vec<Received>>,
    requests: AtomicU64,
    answers: AtomicU64,
    connections: AtomicU64,
    garbage: AtomicU64,
}

/// A running server; it ends when dropped.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

/// The body of every answer: 21 bytes.
const BODY: &str = "the answer is always\n";
const LISTENER: Token = Token(usize::MAX);
const WAKER: Token = Token(usize::MAX - 1);

impl Server {
    /// Starts a server in `namespace`. Its requests are dated from `origin`.
    ///
    /// # Errors
    /// When the address cannot be bound or the system is out of threads or descriptors.
    pub fn start(namespace: &Namespace, address: SocketAddr, origin: Instant) -> io::Result<Self> {
        // A socket stays in the namespace where it was made, and so do the connections it accepts.
        let mut listener = namespace.run(|| TcpListener::bind(address))??;
        let poll = Poll::new()?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        let waker = Waker::new(poll.registry(), WAKER)?;
        let shared = Arc::new(Shared::default());
        let mut serving = Serving { poll, listener, connections: Slab::new(), shared: Arc::clone(&shared), origin };
        let thread = std::thread::Builder::new().name("http-server".into()).spawn(move || serving.run())?;
        Ok(Self { shared, waker, thread: Some(thread) })
    }

    /// Number of requests received so far.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }

    /// Number of answers handed to the kernel so far.
    pub fn answers(&self) -> u64 {
        self.shared.answers.load(Ordering::Relaxed)
    }

    /// Number of connections accepted so far.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Number of connections that carried something else than HTTP, or ended within a request.
    pub fn garbage(&self) -> u64 {
        self.shared.garbage.load(Ordering::Relaxed)
    }

    /// All requests received so far, in the order of their arrival.
    pub fn received(&self) -> Vec<Received> {
        self.shared.received.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.waker.wake().is_ok()
            && let Some(thread) = self.thread.take()
        {
            // A panic there has been printed already.
            let _ = thread.join();
        }
    }
}

struct Connection {
    stream: TcpStream,
    number: u64,
    inbox: Vec<u8>,
    /// The head at the front of `inbox`, once it is complete.
    head: Option<request::Head>,
    outbox: Vec<u8>,
    /// Answers in the outbox.
    answers: u64,
    /// No request is taken any more: an answer announced the close.
    closing: bool,
    /// The client has closed its side.
    client_closed: bool,
}

struct Serving {
    poll: Poll,
    listener: TcpListener,
    connections: Slab<Connection>,
    shared: Arc<Shared>,
    origin: Instant,
}

impl Serving {
    fn run(&mut self) {
        let mut events = Events::with_capacity(256);
        let mut buffer = vec![0; 256 << 10];
        loop {
            match self.poll.poll(&mut events, None) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return,
            }
            for event in &events {
                match event.token() {
                    WAKER => return,
                    LISTENER => self.accept(),
                    Token(key) => {
                        let Some(connection) = self.connections.get_mut(key) else { continue };
                        if connection.serve(&mut buffer, &self.shared, self.origin) == Then::Close {
                            self.connections.remove(key);
                        }
                    }
                }
            }
        }
    }

    fn accept(&mut self) {
        // Until WouldBlock; errors such as a connection reset in the queue concern that connection alone.
        loop {
            match self.listener.accept() {
                Ok((mut stream, _)) => {
                    let entry = self.connections.vacant_entry();
                    let interest = Interest::READABLE | Interest::WRITABLE;
                    let _ = stream.set_nodelay(true);
                    if self.poll.registry().register(&mut stream, Token(entry.key()), interest).is_ok() {
                        let number = self.shared.connections.fetch_add(1, Ordering::Relaxed);
                        entry.insert(Connection {
                            stream,
                            number,
                            inbox: Vec::new(),
                            head: None,
                            outbox: Vec::new(),
                            answers: 0,
                            closing: false,
                            client_closed: false,
                        });
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                // Out of descriptors: those in the queue wait for the next event.
                Err(_) => return,
            }
        }
    }
}

#[derive(PartialEq, Eq)]
enum Then {
    Wait,
    Close,
}

impl Connection {
    fn serve(&mut self, buffer: &mut [u8], shared: &Shared, origin: Instant) -> Then {
        loop {
            match self.stream.read(buffer) {
                Ok(0) => {
                    if !self.client_closed && !self.inbox.is_empty() {
                        shared.garbage.fetch_add(1, Ordering::Relaxed);
                    }
                    self.client_closed = true;
                    break;
                }
                // Read, so that nothing unread turns the close into a RST, but not answered.
                Ok(_) if self.closing => {}
                Ok(n) => {
                    self.inbox.extend_from_slice(&buffer[..n]);
                    if !self.take_requests(shared, origin) {
                        shared.garbage.fetch_add(1, Ordering::Relaxed);
                        return Then::Close;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Then::Close,
            }
        }
        while !self.outbox.is_empty() {
            match self.stream.write(&self.outbox) {
                Ok(n) => drop(self.outbox.drain(..n)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Then::Wait,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Then::Close,
            }
        }
        shared.answers.fetch_add(std::mem::take(&mut self.answers), Ordering::Relaxed);
        if self.client_closed {
            return Then::Close;
        }
        if self.closing {
            // The client's own close ends the connection.
            let _ = self.stream.shutdown(Shutdown::Write);
        }
        Then::Wait
    }

    /// Answers the complete requests at the front of the inbox; false when there is something else.
    fn take_requests(&mut self, shared: &Shared, origin: Instant) -> bool {
        let mut at = 0;
        while at < self.inbox.len() && !self.closing {
            let head = match self.head {
                Some(head) => head,
                None => match request::parse_head(&self.inbox[at..]) {
                    Parsed::Partial => break,
                    Parsed::Garbage => return false,
                    Parsed::Complete(head) => *self.head.insert(head),
                },
            };
            let Some(bytes) = self.inbox.get(at..at + head.total) else { break };
            let received = Received {
                id: head.id,
                fingerprint: request::fingerprint(bytes),
                connection: self.number,
                at: origin.elapsed(),
            };
            shared.received.lock().unwrap_or_else(PoisonError::into_inner).push(received);
            shared.requests.fetch_add(1, Ordering::Relaxed);
            let connection = if head.close { "close" } else { "keep-alive" };
            let answer =
                format!("HTTP/1.1 200 OK\r\nConnection: {connection}\r\nContent-Length: {}\r\n\r\n{BODY}", BODY.len());
            self.outbox.extend_from_slice(answer.as_bytes());
            self.answers += 1;
            self.closing = head.close;
            self.head = None;
            at += head.total;
        }
        self.inbox.drain(..at);
        if self.inbox.is_empty() && self.inbox.capacity() > 64 << 10 {
            self.inbox = Vec::new();
        }
        true
    }
}
