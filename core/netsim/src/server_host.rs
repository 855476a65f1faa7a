//! A host that listens: online, or the target.

use std::collections::HashMap;
use std::net::SocketAddr;

use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::{Socket, State};
use smoltcp::wire::IpListenEndpoint;
use tcpcopy_wire::tcp::Flags;
use tcpcopy_wire::{SeqNumber, TcpSegment, Timestamp};

use crate::application::{Application, Listener, Service};
use crate::conditions::Place;
use crate::host::{Host, timestamp_clock};
use crate::probe::reset_for;

/// A connection of the server.
struct Connection<A> {
    handle: SocketHandle,
    remote: SocketAddr,
    application: A,
}

/// A server with its connections, those that are over included.
pub(crate) struct ServerHost<S: Service> {
    pub(crate) place: Place,
    pub(crate) host: Host,
    service: S,
    settings: Listener,
    port: u16,
    listener: Option<SocketHandle>,
    /// Sequence numbers of the last SYNs, by sender.
    syns: HashMap<SocketAddr, SeqNumber>,
    live: Vec<Connection<S::Connection>>,
    over: Vec<S::Connection>,
    /// When it wants to be run again.
    pub(crate) wake: Timestamp,
}

impl<S: Service> ServerHost<S> {
    pub(crate) fn new(place: Place, service: S, settings: Listener, port: u16, mtu: usize, seed: u64) -> Self {
        Self {
            place,
            host: Host::new(place.v4(), place.v6(), mtu, seed),
            service,
            settings,
            port,
            listener: None,
            syns: HashMap::new(),
            live: Vec::new(),
            over: Vec::new(),
            wake: Timestamp::NEVER,
        }
    }

    /// A packet reaches the host's card.
    pub(crate) fn receive(&mut self, now: Timestamp, packet: Vec<u8>) {
        let Ok(segment) = TcpSegment::from_ip_packet(&packet, packet.len()) else { return };
        let remote = SocketAddr::from(segment.src);
        let connection = self.live.iter().position(|connection| connection.remote == remote);
        let is_syn = segment.tcp.flags().contains(Flags::SYN);
        if is_syn {
            self.syns.insert(remote, segment.tcp.seq());
        } else if let Some(i) = connection
            && self.has_closed_before(i, &segment)
        {
            self.host.card.sent.push_back(reset_for(&segment));
            return self.remove(i);
        }
        let known = connection.filter(|_| is_syn);
        self.host.card.received.push_back(packet);
        let Some(i) = known else { return };
        if self.host.socket(self.live[i].handle).state() == State::TimeWait {
            // TIME-WAIT makes room for a new SYN on its ports, as it does on every system in use.
            self.remove(i);
        } else if let Some(listener) = self.listener.take() {
            // The SYN belongs to the connection; smoltcp would give it to whichever socket has the lower index.
            self.host.sockets.remove(listener);
            self.host.poll(now);
        }
    }

    /// Whether the connection was closed by its application, which will not read what this segment brings.
    fn has_closed_before(&self, i: usize, segment: &TcpSegment<'_>) -> bool {
        let connection = &self.live[i];
        let (Some(read), Some(isn)) = (connection.application.closed_behind(), self.syns.get(&connection.remote))
        else {
            return false;
        };
        let end = segment.tcp.seq() + segment.payload_len;
        segment.payload_len > 0 && end.is_after(*isn + 1 + read as u32)
    }

    fn remove(&mut self, i: usize) {
        let connection = self.live.remove(i);
        self.host.sockets.remove(connection.handle);
        self.over.push(connection.application);
    }

    /// The server is killed: its connections are reset, and new ones refused until [`start`](Self::start).
    pub(crate) fn kill(&mut self, now: Timestamp) {
        self.settings.refuses = true;
        if let Some(listener) = self.listener.take() {
            self.host.sockets.remove(listener);
        }
        for connection in &self.live {
            self.host.sockets.get_mut::<Socket<'_>>(connection.handle).abort();
        }
        self.host.poll(now);
        while !self.live.is_empty() {
            self.remove(0);
        }
    }

    /// The server is there again.
    pub(crate) fn start(&mut self) {
        self.settings.refuses = false;
    }

    /// Runs the TCP and the applications.
    pub(crate) fn run(&mut self, now: Timestamp) {
        loop {
            if self.listener.is_none() && !self.settings.refuses {
                let handle = self.host.add_socket(self.settings.window, 1 << 18);
                let socket = self.host.socket(handle);
                if self.settings.timestamps {
                    socket.set_tsval_generator(Some(timestamp_clock));
                }
                socket.listen(IpListenEndpoint { addr: None, port: self.port }).unwrap();
                self.listener = Some(handle);
            }
            self.host.poll(now);
            if let Some(handle) = self.listener
                && let Some(remote) = self.host.socket(handle).remote_endpoint()
            {
                let remote = SocketAddr::new(remote.addr.into(), remote.port);
                self.live.push(Connection { handle, remote, application: self.service.accept(now, remote) });
                self.listener = None;
                continue;
            }
            break;
        }
        self.wake = Timestamp::NEVER;
        let mut i = 0;
        while i < self.live.len() {
            let connection = &mut self.live[i];
            let socket = self.host.sockets.get_mut::<Socket<'_>>(connection.handle);
            if let Some(at) = connection.application.step(now, socket) {
                self.wake = self.wake.min(at);
            }
            if socket.state() == State::Closed && !socket.can_recv() {
                // A RST that waits to be sent goes first.
                self.host.poll(now);
                self.remove(i);
            } else if socket.state() == State::Listen {
                // A handshake that was reset: the socket listens again, for nobody.
                let connection = self.live.remove(i);
                self.host.sockets.remove(connection.handle);
            } else {
                i += 1;
            }
        }
        self.host.poll(now);
        if let Some(at) = self.host.wakes_at(now) {
            self.wake = self.wake.min(at);
        }
    }

    /// How many connections there are now, half of one included.
    pub(crate) fn live_count(&self) -> usize {
        self.live.len()
    }

    /// All connections there were.
    pub(crate) fn connections(&self) -> impl Iterator<Item = &S::Connection> {
        self.over.iter().chain(self.live.iter().map(|connection| &connection.application))
    }
}
