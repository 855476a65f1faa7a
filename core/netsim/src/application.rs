//! What runs on top of the hosts' TCPs.

use std::net::SocketAddr;
use std::time::Duration;

use smoltcp::socket::tcp::Socket;
use tcpcopy_wire::Timestamp;

/// What runs on one end of one connection, a client's or a server's.
pub trait Application {
    /// Reads, writes and closes what is due. It is called whenever something may have happened to the socket, and returns
    /// when it wants to be called at the latest, if nothing happens before.
    fn step(&mut self, now: Timestamp, socket: &mut Socket<'_>) -> Option<Timestamp>;

    /// Of a client: whether the capture sees what passes now. One that does not see a connection's first packets makes
    /// tcpcopy join it mid-stream.
    fn is_captured(&self) -> bool {
        true
    }

    /// Of a server: how many bytes it had read when it closed the connection for good. Data behind them are answered with
    /// RST, as an operating system does after close(2). `None`: it reads on.
    fn closed_behind(&self) -> Option<usize> {
        None
    }
}

/// A server: what makes an application for each connection.
pub trait Service {
    /// What runs on a connection.
    type Connection: Application;

    /// A connection is established.
    fn accept(&mut self, now: Timestamp, remote: SocketAddr) -> Self::Connection;
}

/// A server's host.
#[derive(Clone, Copy, Debug)]
pub struct Listener {
    /// Bytes of each connection's receive buffer, and so the largest window.
    pub window: usize,
    /// It agrees to timestamps.
    pub timestamps: bool,
    /// It answers SYNs with RST.
    pub refuses: bool,
}

impl Default for Listener {
    fn default() -> Self {
        Self { window: 65_535, timestamps: false, refuses: false }
    }
}

/// When a client connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// At this time.
    At(Duration),
    /// As soon as the connection of the client with this number is over. Both may have one port.
    After(usize),
}

/// A client, which makes one connection to online.
#[derive(Debug)]
pub struct Client<C> {
    /// Its port.
    pub port: u16,
    /// When it connects.
    pub begin: Begin,
    /// It offers timestamps.
    pub timestamps: bool,
    /// What it does.
    pub application: C,
}
