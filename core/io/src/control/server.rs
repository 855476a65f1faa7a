//! intercept's end: a listener and the tcpcopys that have connected to it.

mod listen;
pub(super) mod single;
mod stats;

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use mio::event::Event;
use mio::net::TcpListener;
use mio::{Interest, Registry, Token};
use tcpcopy_engine::PeerId;
use tcpcopy_wire::Timestamp;
use tcpcopy_wire::control::{
    Answer, FEATURE_CHECKS, FEATURE_PAYLOAD, FEATURE_UDP, FlowId, Hello, HostReport, LinkStats, Message, Question,
    Role, RouteChange, Secret, encode_host_report, encode_stats,
};

use super::links::legacy::keep_alive;
use super::stream::{READ_SIZE, Received, Stream};
use super::tls::TlsServer;
use super::transport::Transport;
use super::{CloseReason, HELLO_TIMEOUT};
pub use listen::BindError;
use listen::listen;
use single::{Group, Single};
pub use stats::ServerStats;

/// What a [`ControlServer`] is told at its start.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Where to listen; `None`: on every address, IPv6 and IPv4 alike.
    pub address: Option<IpAddr>,
    /// Port; 0 lets the system choose.
    pub port: u16,
    /// What to say in a hello.
    pub hello: Hello,
    /// Connections at most.
    pub max_peers: usize,
    /// Connections from one address at most, so that no host takes the place of all others.
    pub max_per_address: usize,
    /// Where connections may come from; empty: from anywhere.
    pub allow: Vec<IpNet>,
    /// What a peer must know.
    pub secret: Option<Secret>,
    /// Serve TLS, and nothing else.
    pub tls: Option<TlsServer>,
    /// tcpcopys of the C programs register no routes, and one of them is served at a time.
    pub single: Option<Single>,
    /// Bytes that may wait for one peer.
    pub out_limit: usize,
    /// A peer that sends nothing for this long is closed.
    pub silence_timeout: Duration,
    /// A peer that takes nothing for this long is closed.
    pub stall_timeout: Duration,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            address: None,
            port: super::DEFAULT_PORT,
            hello: Hello { features: FEATURE_PAYLOAD | FEATURE_UDP | FEATURE_CHECKS, ..Hello::default() },
            max_peers: 256,
            max_per_address: 128,
            allow: Vec::new(),
            secret: None,
            tls: None,
            single: None,
            out_limit: 8 << 20,
            silence_timeout: Duration::from_secs(30),
            stall_timeout: Duration::from_secs(10),
        }
    }
}

/// What happens at the listener and its peers.
#[derive(Debug)]
pub enum PeerEvent<'a> {
    /// A tcpcopy has connected and said hello.
    Up {
        /// The connection.
        peer: PeerId,
        /// Where it comes from.
        from: SocketAddr,
        /// What it said.
        hello: Hello,
    },
    /// A tcpcopy of the C programs has connected and said its version, which is the one that is served.
    LegacyUp {
        /// The connection.
        peer: PeerId,
        /// Where it comes from.
        from: SocketAddr,
    },
    /// A tcpcopy changes a route.
    Route {
        /// The connection it came on.
        peer: PeerId,
        /// The change.
        change: RouteChange,
    },
    /// A tcpcopy asks what would become of packets; [`ControlServer::send_report`] answers.
    Questions {
        /// The connection.
        peer: PeerId,
        /// Where it comes from.
        from: SocketAddr,
        /// What it asks, 16 questions at most.
        questions: Vec<Question>,
    },
    /// A connection that was up is lost. Its number may be used again.
    Gone {
        /// The connection.
        peer: PeerId,
        /// Where it came from.
        from: SocketAddr,
        /// Why.
        reason: &'a CloseReason,
        /// Responses accepted by [`ControlServer::send`] that were not written wholly.
        undelivered: u64,
    },
    /// A connection was closed before it was up.
    Rejected {
        /// Where it came from.
        from: SocketAddr,
        /// Why.
        reason: &'a CloseReason,
    },
}

/// The peer's buffer has no room: the responses were not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkFull;

#[derive(Debug)]
struct Peer {
    stream: Stream,
    from: SocketAddr,
    up: bool,
    /// A tcpcopy of the C programs, with the number of routes that it has added.
    legacy: Option<u64>,
    /// Reading stopped at its budget.
    unread: bool,
    /// A write failed; to be closed at the next opportunity to tell.
    broken: Option<CloseReason>,
}

/// The listener with its peers. Uses the tokens from `first_token` to `first_token + max_peers`.
#[derive(Debug)]
pub struct ControlServer {
    config: ServerConfig,
    listener: TcpListener,
    registry: Registry,
    first_token: usize,
    peers: Vec<Option<Peer>>,
    stats: ServerStats,
    scratch: Vec<u8>,
    deadline: Option<Timestamp>,
    /// The listener could not accept, for want of file descriptors for instance, and no event will tell of it again.
    accept_again_at: Option<Timestamp>,
    single: Group,
}

/// Connections accepted before those that are there get their turn.
const ACCEPT_BUDGET: usize = 256;
/// Time after which a failed accept is tried again.
const ACCEPT_RETRY: Duration = Duration::from_millis(200);

impl ControlServer {
    /// Listens, and registers with `registry`.
    ///
    /// # Errors
    /// The address, and why it cannot be had.
    pub fn bind(config: ServerConfig, registry: &Registry, first_token: Token) -> Result<Self, BindError> {
        let (mut listener, address) = listen(config.address, config.port)?;
        let registered =
            registry.register(&mut listener, first_token, Interest::READABLE).and_then(|()| registry.try_clone());
        let registry = registered.map_err(|source| BindError { address, source })?;
        Ok(Self {
            config,
            listener,
            registry,
            first_token: first_token.0,
            peers: Vec::new(),
            stats: ServerStats::default(),
            scratch: vec![0; READ_SIZE],
            deadline: None,
            accept_again_at: None,
            single: Group::default(),
        })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// What the system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// From now on, whoever connects is asked for this; peers that are there stay.
    pub fn renew(&mut self, secret: Option<Secret>, tls: Option<TlsServer>) {
        (self.config.secret, self.config.tls) = (secret, tls);
    }

    /// What it was told at its start, or last.
    pub fn config(&self) -> &ServerConfig {
        &self.config
    }

    /// The counters.
    pub fn stats(&self) -> ServerStats {
        self.stats
    }

    /// The peers that are up.
    pub fn peers(&self) -> impl Iterator<Item = PeerId> {
        self.peers.iter().enumerate().filter(|(_, p)| p.as_ref().is_some_and(|p| p.up)).map(|(i, _)| PeerId(i as u32))
    }

    /// Whether events of this token are for [`handle_event`](Self::handle_event).
    pub fn owns(&self, token: Token) -> bool {
        (self.first_token..=self.first_token + self.config.max_peers).contains(&token.0)
    }

    /// Takes an event of one of its tokens.
    pub fn handle_event(&mut self, event: &Event, now: Timestamp, sink: &mut dyn FnMut(PeerEvent<'_>)) {
        match event.token().0 - self.first_token {
            0 => self.accept(now, sink),
            n => {
                if event.is_writable() {
                    self.write(n - 1, now, sink);
                }
                if let Some(Some(peer)) = self.peers.get_mut(n - 1) {
                    peer.stream.hung_up |= event.is_read_closed() || event.is_error();
                }
                if event.is_readable() || event.is_read_closed() || event.is_error() {
                    self.read(n - 1, now, sink);
                }
            }
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        self.deadline
    }

    /// Closes peers that are late, and goes on with what was set aside.
    pub fn handle_timeout(&mut self, now: Timestamp, sink: &mut dyn FnMut(PeerEvent<'_>)) {
        if self.accept_again_at.is_some_and(|at| at <= now) {
            self.accept_again_at = None;
            self.accept(now, sink);
        }
        for slot in 0..self.peers.len() {
            if self.peers[slot].as_ref().is_some_and(|p| p.unread) {
                self.read(slot, now, sink);
            }
            let Some(peer) = &mut self.peers[slot] else { continue };
            let reason = peer.broken.take().or_else(|| self.config.lateness(peer, now));
            if let Some(reason) = reason {
                self.close(slot, &reason, sink);
            }
        }
        self.deadline = self.accept_again_at;
        let due = self.peers.iter().flatten().map(|p| self.config.due(p)).min().filter(|at| *at != Timestamp::NEVER);
        self.lower_deadline(due);
    }

    /// Sends frames with `responses` responses to a peer, or keeps what its socket does not take now.
    ///
    /// # Errors
    /// [`LinkFull`] when too much is waiting already, or the peer is not up: nothing was taken.
    pub fn send(&mut self, peer: PeerId, frames: &[u8], responses: u64, now: Timestamp) -> Result<(), LinkFull> {
        let Some(Some(p)) = self.peers.get_mut(peer.0 as usize) else { return Err(LinkFull) };
        if !p.up || p.broken.is_some() || p.stream.out.len() + frames.len() > self.config.out_limit {
            return Err(LinkFull);
        }
        let sent = p.stream.out.send(&mut p.stream.socket, now, frames, responses);
        let blocked = p.stream.out.blocked_since.is_some();
        match sent {
            Ok(()) => {
                self.stats.writes += 1;
                if blocked {
                    self.lower_deadline(Some(now + self.config.stall_timeout));
                }
                Ok(())
            }
            Err(e) => {
                p.broken = Some(CloseReason::io(&e));
                self.lower_deadline(Some(now));
                Err(LinkFull)
            }
        }
    }

    /// Sends counters to a peer, unless its buffer is full, or its protocol has none.
    pub fn send_stats(&mut self, peer: PeerId, stats: &LinkStats, now: Timestamp) {
        if let Some(Some(Peer { legacy: Some(_), .. })) = self.peers.get(peer.0 as usize) {
            return;
        }
        let mut frame = Vec::new();
        encode_stats(stats, &mut frame);
        // Statistics that do not fit are stale by the time there is room.
        let _ = self.send(peer, &frame, 0, now);
    }

    /// Answers questions of a peer, unless its buffer is full.
    pub fn send_report(&mut self, peer: PeerId, report: &HostReport<'_>, answers: &[Answer], now: Timestamp) {
        let mut frame = Vec::new();
        encode_host_report(report, answers, &mut frame);
        // Who does not read what has been sent does not wait for this either.
        let _ = self.send(peer, &frame, 0, now);
    }

    fn accept(&mut self, now: Timestamp, sink: &mut dyn FnMut(PeerEvent<'_>)) {
        for _ in 0..ACCEPT_BUDGET {
            match self.listener.accept() {
                Ok((socket, from)) => {
                    let from = SocketAddr::new(from.ip().to_canonical(), from.port());
                    self.stats.accepted += 1;
                    self.admit(socket, from, now, sink);
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(e) if matches!(e.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted) => {}
                Err(e) => {
                    log::warn!("cannot accept a connection: {e}; trying again");
                    self.accept_again_at = Some(now + ACCEPT_RETRY);
                    self.lower_deadline(self.accept_again_at);
                    return;
                }
            }
        }
        // No event will tell of those that are left.
        self.accept_again_at = Some(now);
        self.lower_deadline(self.accept_again_at);
    }

    fn admit(
        &mut self,
        mut socket: mio::net::TcpStream,
        from: SocketAddr,
        now: Timestamp,
        sink: &mut dyn FnMut(PeerEvent<'_>),
    ) {
        let mut reject = |reason: &CloseReason| {
            self.stats.count_rejected(reason);
            sink(PeerEvent::Rejected { from, reason });
        };
        let there = self.peers.iter().flatten().map(|peer| peer.from.ip());
        if let Some(reason) = self.config.refusal(from.ip(), there) {
            return reject(&reason);
        }
        let vacant = self.peers.iter().position(Option::is_none).unwrap_or(self.peers.len());
        let token = Token(self.first_token + 1 + vacant);
        let ready = socket
            .set_nodelay(true)
            .and_then(|()| self.registry.register(&mut socket, token, Interest::READABLE | Interest::WRITABLE));
        if let Err(e) = ready {
            return reject(&CloseReason::io(&e));
        }
        let transport = match &self.config.tls {
            None => Transport::plain(socket),
            Some(tls) => match tls.accept(socket) {
                Ok(transport) => transport,
                Err(fault) => return reject(&CloseReason::Tls(fault)),
            },
        };
        let secret = self.config.secret.as_ref();
        let stream = match Stream::new(transport, Role::Intercept, &self.config.hello, secret, now) {
            Ok(stream) => stream,
            Err(e) => return reject(&CloseReason::io(&e)),
        };
        let peer = Peer { stream, from, up: false, legacy: None, unread: false, broken: None };
        self.lower_deadline(Some(self.config.due(&peer)));
        if vacant == self.peers.len() {
            self.peers.push(Some(peer));
        } else {
            self.peers[vacant] = Some(peer);
        }
    }

    fn read(&mut self, slot: usize, now: Timestamp, sink: &mut dyn FnMut(PeerEvent<'_>)) {
        let Some(Some(peer)) = self.peers.get_mut(slot) else { return };
        let Peer { stream, from, up, legacy, .. } = peer;
        let (id, from) = (PeerId(slot as u32), *from);
        let (stats, config, group) = (&mut self.stats, &self.config, &mut self.single);
        let (was_up, mut replaced, mut refused) = (*up, Vec::new(), None);
        let received = stream.receive(now, &mut self.scratch, &mut |message, _| match message {
            Message::Hello(hello) => {
                *up = true;
                stats.up += 1;
                sink(PeerEvent::Up { peer: id, from, hello });
            }
            Message::RouteAdds(adds) => {
                for (flow_id, transport, flow) in adds {
                    sink(PeerEvent::Route { peer: id, change: RouteChange::Add { id: flow_id, transport, flow } });
                }
            }
            Message::RoutePayloads(wishes) => {
                for (flow_id, payload) in wishes {
                    sink(PeerEvent::Route { peer: id, change: RouteChange::Payload { id: flow_id, payload } });
                }
            }
            Message::RouteRemoves(ids) => {
                for flow_id in ids {
                    let flow_id: FlowId = flow_id;
                    sink(PeerEvent::Route { peer: id, change: RouteChange::Remove { id: flow_id } });
                }
            }
            Message::Questions(questions) => {
                sink(PeerEvent::Questions { peer: id, from, questions: questions.collect() });
            }
            Message::LegacyHello => match config.admit_legacy(group, slot, now) {
                Ok(others) => {
                    replaced = others;
                    (*up, *legacy) = (true, Some(0));
                    stats.up += 1;
                    sink(PeerEvent::LegacyUp { peer: id, from });
                }
                Err(reason) => refused = Some(reason),
            },
            Message::LegacyRoute(flow) => {
                if let Some(routes) = legacy {
                    // Ids of which only the relay hears.
                    *routes += 1;
                    let change =
                        RouteChange::Add { id: FlowId(*routes), transport: tcpcopy_wire::Transport::Tcp, flow };
                    sink(PeerEvent::Route { peer: id, change });
                }
            }
            // Pings and errors are handled by the stream; the rest asks for nothing.
            _ => {}
        });
        if !was_up && legacy.is_some() {
            keep_alive(&stream.socket.socket);
        }
        for other in replaced {
            self.close(other, &CloseReason::Replaced, sink);
        }
        let Some(Some(peer)) = self.peers.get_mut(slot) else { return };
        match refused.map_or(received, Err) {
            Ok(more) => {
                peer.unread = more == Received::Budget;
                if peer.unread {
                    self.lower_deadline(Some(now));
                }
                self.write(slot, now, sink);
            }
            Err(reason) => self.close(slot, &reason, sink),
        }
    }

    fn write(&mut self, slot: usize, now: Timestamp, sink: &mut dyn FnMut(PeerEvent<'_>)) {
        let Some(Some(peer)) = self.peers.get_mut(slot) else { return };
        let out_limit = self.config.out_limit;
        let flushed = peer.stream.out.flush(&mut peer.stream.socket, now);
        let due = peer.stream.out.blocked_since.map(|at| at + self.config.stall_timeout);
        let full = peer.stream.out.len() > out_limit + READ_SIZE;
        self.lower_deadline(due);
        match flushed {
            Err(e) => self.close(slot, &CloseReason::io(&e), sink),
            // Only pongs come here without asking for room: somebody pings without reading.
            Ok(()) if full => self.close(slot, &CloseReason::Overflow { limit: out_limit }, sink),
            Ok(()) => {}
        }
    }

    fn close(&mut self, slot: usize, reason: &CloseReason, sink: &mut dyn FnMut(PeerEvent<'_>)) {
        let Some(mut peer) = self.peers[slot].take() else { return };
        self.single.leave(slot);
        self.config.say_goodbye(&mut peer.stream, peer.up && peer.legacy.is_none(), reason);
        // Closing the socket deregisters it; a failure here changes nothing.
        let _ = self.registry.deregister(&mut peer.stream.socket.socket);
        if peer.up {
            self.stats.up -= 1;
            let undelivered = peer.stream.out.undelivered();
            sink(PeerEvent::Gone { peer: PeerId(slot as u32), from: peer.from, reason, undelivered });
        } else {
            self.stats.count_rejected(reason);
            sink(PeerEvent::Rejected { from: peer.from, reason });
        }
    }

    fn lower_deadline(&mut self, to: Option<Timestamp>) {
        self.deadline = match (self.deadline, to) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }
}

impl ServerConfig {
    /// When something has to be done about a peer.
    fn due(&self, peer: &Peer) -> Timestamp {
        if peer.unread || peer.broken.is_some() {
            return Timestamp::ZERO;
        }
        let silent = match peer.legacy {
            Some(_) => Timestamp::NEVER,
            None if peer.up => peer.stream.last_received + self.silence_timeout,
            None => peer.stream.since + HELLO_TIMEOUT,
        };
        peer.stream.out.blocked_since.map_or(silent, |at| silent.min(at + self.stall_timeout))
    }

    /// Why a peer has to be closed now, if it has.
    fn lateness(&self, peer: &Peer, now: Timestamp) -> Option<CloseReason> {
        if !peer.up {
            return (peer.stream.since + HELLO_TIMEOUT <= now).then_some(CloseReason::NoHello(HELLO_TIMEOUT));
        }
        if peer.legacy.is_none() && peer.stream.last_received + self.silence_timeout <= now {
            return Some(CloseReason::Silent(self.silence_timeout));
        }
        let stalled = peer.stream.out.blocked_since.is_some_and(|at| at + self.stall_timeout <= now);
        stalled.then_some(CloseReason::Stalled(self.stall_timeout))
    }
}
