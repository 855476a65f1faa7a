//! Servers: what online and the target say to a client.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use tcpcopy_wire::Timestamp;

use crate::application::{Application, Service};
use crate::{Socket, State};

/// What a server does on one connection.
///
/// ```
/// use tcpcopy_netsim::{Reply, Server};
///
/// /// Greets, and answers each pair of bytes.
/// struct Pairs;
///
/// impl Server for Pairs {
///     fn on_connect(&mut self, reply: &mut Reply) {
///         reply.send("hello");
///     }
///
///     fn on_data(&mut self, data: &[u8], reply: &mut Reply) -> usize {
///         if data.len() < 2 {
///             return 0;
///         }
///         reply.send([data[1], data[0]]);
///         2
///     }
/// }
/// ```
pub trait Server {
    /// The client has connected.
    fn on_connect(&mut self, reply: &mut Reply) {
        let _ = reply;
    }

    /// `data` is what has arrived and was not taken before. Returns how many bytes of it make a message and are taken:
    /// with something taken and something left it is called again, with nothing taken when more has arrived.
    fn on_data(&mut self, data: &[u8], reply: &mut Reply) -> usize;

    /// The client has closed its sending side. The default closes, too.
    fn on_client_close(&mut self, reply: &mut Reply) {
        reply.close();
    }

    /// The same, but it closes behind its answer to the message with this number, the first being 1; never with `None`.
    fn closing_after(self, message: impl Into<Option<usize>>) -> Faulty<Self>
    where
        Self: Sized,
    {
        Faulty { server: self, message: message.into(), fault: Fault::CloseAfter, taken: 0 }
    }

    /// The same, but it resets the connection behind its answer to the message with this number, the first being 1.
    fn resetting_after(self, message: impl Into<Option<usize>>) -> Faulty<Self>
    where
        Self: Sized,
    {
        Faulty { server: self, message: message.into(), fault: Fault::ResetAfter, taken: 0 }
    }

    /// The same, but it resets the connection instead of answering the message with this number, the first being 1.
    fn resetting_on(self, message: impl Into<Option<usize>>) -> Faulty<Self>
    where
        Self: Sized,
    {
        Faulty { server: self, message: message.into(), fault: Fault::ResetOn, taken: 0 }
    }
}

impl<S: Server + ?Sized> Server for Box<S> {
    fn on_connect(&mut self, reply: &mut Reply) {
        (**self).on_connect(reply);
    }

    fn on_data(&mut self, data: &[u8], reply: &mut Reply) -> usize {
        (**self).on_data(data, reply)
    }

    fn on_client_close(&mut self, reply: &mut Reply) {
        (**self).on_client_close(reply);
    }
}

/// What a server wants done, in its order.
#[derive(Debug, Default)]
pub struct Reply {
    actions: Vec<Action>,
}

#[derive(Debug)]
enum Action {
    Send(Vec<u8>),
    Pause(Duration),
    Close,
    Reset,
}

impl Reply {
    /// Sends bytes, in segments of their own.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.actions.push(Action::Send(bytes.as_ref().to_vec()));
    }

    /// Waits before it does what comes next.
    pub fn pause(&mut self, duration: Duration) {
        self.actions.push(Action::Pause(duration));
    }

    /// Closes the connection. Data that arrive afterwards are answered with RST.
    pub fn close(&mut self) {
        self.actions.push(Action::Close);
    }

    /// Resets the connection, once all that was sent is acknowledged.
    pub fn reset(&mut self) {
        self.actions.push(Action::Reset);
    }

    fn ends(&self) -> bool {
        self.actions.iter().any(|action| matches!(action, Action::Close | Action::Reset))
    }
}

/// Sends back whatever it gets.
#[derive(Clone, Copy, Debug, Default)]
pub struct Echo;

impl Server for Echo {
    fn on_data(&mut self, data: &[u8], reply: &mut Reply) -> usize {
        reply.send(data);
        data.len()
    }
}

/// See [`serve`].
#[derive(Clone, Debug)]
pub struct FromFn<F>(F);

/// A server whose [`Server::on_data`] is a closure.
pub fn serve<F: FnMut(&[u8], &mut Reply) -> usize>(on_data: F) -> FromFn<F> {
    FromFn(on_data)
}

impl<F: FnMut(&[u8], &mut Reply) -> usize> Server for FromFn<F> {
    fn on_data(&mut self, data: &[u8], reply: &mut Reply) -> usize {
        (self.0)(data, reply)
    }
}

/// See [`lines`].
#[derive(Clone, Debug)]
pub struct Lines<F>(F);

/// A server that answers lines: it is given each without its `\n`, and what it returns is sent as it is.
pub fn lines<A: AsRef<[u8]>, F: FnMut(&[u8]) -> A>(answer: F) -> Lines<F> {
    Lines(answer)
}

impl<A: AsRef<[u8]>, F: FnMut(&[u8]) -> A> Server for Lines<F> {
    fn on_data(&mut self, data: &[u8], reply: &mut Reply) -> usize {
        let Some(end) = data.iter().position(|byte| *byte == b'\n') else { return 0 };
        reply.send((self.0)(&data[..end]));
        end + 1
    }
}

/// A server that fails at a message. Made by [`Server::closing_after`] and the like.
#[derive(Clone, Debug)]
pub struct Faulty<S> {
    server: S,
    message: Option<usize>,
    fault: Fault,
    taken: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    CloseAfter,
    ResetAfter,
    ResetOn,
}

impl<S: Server> Server for Faulty<S> {
    fn on_connect(&mut self, reply: &mut Reply) {
        self.server.on_connect(reply);
    }

    fn on_data(&mut self, data: &[u8], reply: &mut Reply) -> usize {
        let mut answer = Reply::default();
        let taken = self.server.on_data(data, &mut answer);
        self.taken += usize::from(taken > 0);
        let due = taken > 0 && self.message == Some(self.taken);
        if !due || self.fault != Fault::ResetOn {
            reply.actions.append(&mut answer.actions);
        }
        match self.fault {
            _ if !due => {}
            Fault::CloseAfter => reply.close(),
            Fault::ResetAfter | Fault::ResetOn => reply.reset(),
        }
        taken
    }

    fn on_client_close(&mut self, reply: &mut Reply) {
        self.server.on_client_close(reply);
    }
}

/// Makes a server for the connection with this number, the first being 0.
type MakeServer = Box<dyn FnMut(usize) -> Box<dyn Server>>;

/// Online, or the target.
pub(super) struct Servers {
    make: MakeServer,
    connections: usize,
}

impl Servers {
    pub(super) fn new<S: Server + 'static>(mut make: impl FnMut(usize) -> S + 'static) -> Self {
        Self { make: Box::new(move |number| Box::new(make(number))), connections: 0 }
    }
}

impl Service for Servers {
    type Connection = Served;

    fn accept(&mut self, now: Timestamp, remote: SocketAddr) -> Served {
        let number = self.connections;
        self.connections += 1;
        Served {
            number,
            remote,
            opened: now,
            server: (self.make)(number),
            greeted: false,
            closed_by_client: false,
            closing: false,
            closed: false,
            received: Vec::new(),
            arrivals: Vec::new(),
            messages: Vec::new(),
            taken: 0,
            shown: 0,
            actions: VecDeque::new(),
            paused_until: None,
        }
    }
}

/// One connection of a server.
pub(super) struct Served {
    pub(super) number: usize,
    pub(super) remote: SocketAddr,
    pub(super) opened: Timestamp,
    pub(super) received: Vec<u8>,
    pub(super) arrivals: Vec<(Timestamp, usize)>,
    pub(super) messages: Vec<usize>,
    server: Box<dyn Server>,
    greeted: bool,
    closed_by_client: bool,
    /// It has decided to close, and takes nothing more.
    closing: bool,
    closed: bool,
    taken: usize,
    /// How much the server has been shown, taken or not.
    shown: usize,
    actions: VecDeque<Action>,
    paused_until: Option<Timestamp>,
}

impl Served {
    fn read(&mut self, now: Timestamp, socket: &mut Socket<'_>) {
        while socket.can_recv() {
            let received = &mut self.received;
            let Ok(n) = socket.recv(|bytes| {
                received.extend_from_slice(bytes);
                (bytes.len(), bytes.len())
            }) else {
                break;
            };
            self.arrivals.push((now, n));
        }
    }

    fn ask(&mut self, socket: &Socket<'_>) {
        let mut reply = Reply::default();
        if !self.greeted {
            self.greeted = true;
            self.server.on_connect(&mut reply);
        }
        while !self.closing && !reply.ends() && self.received.len() > self.shown {
            let data = &self.received[self.taken..];
            let taken = self.server.on_data(data, &mut reply).min(data.len());
            self.shown = if taken == 0 { self.received.len() } else { self.taken + taken };
            self.taken += taken;
            if taken > 0 {
                self.messages.push(taken);
            }
        }
        if socket.state() == State::CloseWait && !self.closed_by_client && !self.closing {
            self.closed_by_client = true;
            self.server.on_client_close(&mut reply);
        }
        self.closing |= reply.ends();
        self.actions.extend(reply.actions);
    }

    fn act(&mut self, now: Timestamp, socket: &mut Socket<'_>) -> Option<Timestamp> {
        let soon = Some(now + Duration::from_micros(1));
        while let Some(action) = self.actions.front_mut() {
            match action {
                _ if self.closed || !socket.may_send() => {
                    self.actions.clear();
                    return None;
                }
                Action::Send(bytes) => {
                    let sent = socket.send_slice(bytes).unwrap_or(0);
                    bytes.drain(..sent);
                    if !bytes.is_empty() {
                        return None; // the TCP runs us again when there is room
                    }
                    self.actions.pop_front();
                    return soon; // what is sent next is a segment of its own
                }
                Action::Pause(duration) => {
                    let until = *self.paused_until.get_or_insert(now + *duration);
                    if now < until {
                        return Some(until);
                    }
                    self.paused_until = None;
                }
                Action::Close => {
                    socket.close();
                    self.closed = true;
                }
                Action::Reset if socket.send_queue() > 0 => return None,
                Action::Reset => {
                    socket.abort();
                    self.closed = true;
                }
            }
            self.actions.pop_front();
        }
        None
    }
}

impl Application for Served {
    fn step(&mut self, now: Timestamp, socket: &mut Socket<'_>) -> Option<Timestamp> {
        if matches!(socket.state(), State::Listen | State::SynReceived) {
            return None;
        }
        self.read(now, socket);
        self.ask(socket);
        self.act(now, socket)
    }

    fn closed_behind(&self) -> Option<usize> {
        self.closed.then_some(self.received.len())
    }
}
