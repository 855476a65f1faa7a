//! tcpcopy's end: connections to every intercept, kept up.

pub(super) mod legacy;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use mio::event::Event;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use tcpcopy_engine::LinkId;
use tcpcopy_wire::control::{
    BatchEncoder, DatagramResponse, FEATURE_CHECKS, FEATURE_PAYLOAD, FEATURE_UDP, Hello, HostReport, LinkStats,
    Message, Question, ResponseHeader, Role, RouteChange, Secret, encode_ping, encode_questions, encode_version,
};
use tcpcopy_wire::{Timestamp, Transport};

use super::stream::{READ_SIZE, Received, Stream};
use super::tls::TlsClient;
use super::transport::Transport as LinkTransport;
use super::{CloseReason, HELLO_TIMEOUT, PING_INTERVAL};
use legacy::{Protocol, Sessions, keep_alive};

/// What [`ControlLinks`] are told at their start.
#[derive(Clone, Debug)]
pub struct LinksConfig {
    /// The intercepts, in the order of `-s`.
    pub intercepts: Vec<SocketAddr>,
    /// Connections to each (`-C`).
    pub links_per_intercept: u16,
    /// What to say in a hello.
    pub hello: Hello,
    /// Pause before the first attempt to connect again; each further one is twice as long.
    pub first_retry: Duration,
    /// Longest such pause.
    pub longest_retry: Duration,
    /// Time between two pings; a link on which nothing comes for three of them is given up.
    pub ping_interval: Duration,
    /// Bytes of route changes that may wait for one link.
    pub out_limit: usize,
    /// What each intercept must know.
    pub secret: Option<Secret>,
    /// Speak TLS.
    pub tls: Option<TlsClient>,
    /// What to speak.
    pub protocol: Protocol,
}

impl LinksConfig {
    /// The usual settings, for these intercepts.
    pub fn new(intercepts: Vec<SocketAddr>, links_per_intercept: u16, hello: Hello) -> Self {
        Self {
            intercepts,
            links_per_intercept,
            hello,
            first_retry: Duration::from_millis(200),
            longest_retry: Duration::from_secs(5),
            ping_interval: PING_INTERVAL,
            out_limit: 16 << 20,
            secret: None,
            tls: None,
            protocol: Protocol::default(),
        }
    }
}

/// What happens on the links.
#[derive(Debug)]
pub enum LinkEvent<'a> {
    /// The link works (again): all live routes must be added.
    Up {
        /// Which.
        link: LinkId,
        /// What the intercept said.
        hello: Hello,
    },
    /// A link that worked is lost. It is being connected again.
    Down {
        /// Which.
        link: LinkId,
        /// Why.
        reason: &'a CloseReason,
    },
    /// An attempt to connect has failed. There will be another.
    Failed {
        /// Which link.
        link: LinkId,
        /// Attempts since the link was last up.
        attempts: u32,
        /// Why.
        reason: &'a CloseReason,
    },
    /// An intercept reports a packet of a target.
    Response {
        /// The link it came on.
        link: LinkId,
        /// The packet.
        header: ResponseHeader<'a>,
    },
    /// An intercept reports a datagram of a target.
    Datagram {
        /// The link it came on.
        link: LinkId,
        /// The datagram.
        datagram: DatagramResponse<'a>,
    },
    /// What an intercept answers to [`ControlLinks::ask`].
    Report {
        /// The link it came on.
        link: LinkId,
        /// The report.
        report: HostReport<'a>,
    },
    /// Counters of an intercept.
    Stats {
        /// The link they came on.
        link: LinkId,
        /// The counters.
        stats: LinkStats,
    },
}

/// Why a route change was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendError {
    /// The link is down. When it comes up all routes are added anyway.
    Down,
    /// Too much is waiting; the link is given up and connected again, which brings both ends to the same state.
    Full,
    /// The intercept is of a release that does not know what the change asks for.
    NotSupported,
}

#[derive(Debug)]
enum State {
    /// Waits for the next attempt.
    Waiting { until: Timestamp },
    /// A connection, from the attempt on. `established`: TCP's handshake is over. `up`: so is the hello.
    Open { stream: Box<Stream>, established: bool, up: bool },
}

#[derive(Debug)]
struct Link {
    address: SocketAddr,
    state: State,
    encoder: BatchEncoder,
    attempts: u32,
    next_ping: Timestamp,
    rtt: Option<Duration>,
    unread: bool,
    broken: Option<CloseReason>,
    /// What the intercept can do beyond the link's version.
    features: u32,
}

impl Link {
    fn is_up(&self) -> bool {
        matches!(self.state, State::Open { up: true, .. })
    }
}

/// All links of one tcpcopy worker. Uses the tokens from `first_token`, one for each link.
#[derive(Debug)]
pub struct ControlLinks {
    config: LinksConfig,
    registry: Registry,
    first_token: usize,
    links: Vec<Link>,
    /// Links with route changes that have not been written.
    unflushed: Vec<u16>,
    scratch: Vec<u8>,
    deadline: Option<Timestamp>,
    /// For intercepts of the C programs.
    sessions: Sessions,
}

impl ControlLinks {
    /// Links that are all down. The first attempts are made by [`handle_timeout`](Self::handle_timeout), which is due
    /// at once.
    ///
    /// # Errors
    /// When the registry cannot be cloned.
    pub fn new(config: LinksConfig, registry: &Registry, first_token: Token) -> io::Result<Self> {
        let per_intercept = usize::from(config.links_per_intercept.max(1));
        let addresses = config.intercepts.iter().flat_map(|a| std::iter::repeat_n(*a, per_intercept));
        let links = addresses
            .map(|address| Link {
                address,
                state: State::Waiting { until: Timestamp::ZERO },
                encoder: BatchEncoder::default(),
                attempts: 0,
                next_ping: Timestamp::NEVER,
                rtt: None,
                unread: false,
                broken: None,
                features: 0,
            })
            .collect();
        Ok(Self {
            config,
            registry: registry.try_clone()?,
            first_token: first_token.0,
            links,
            unflushed: Vec::new(),
            scratch: vec![0; READ_SIZE],
            deadline: Some(Timestamp::ZERO),
            sessions: Sessions::default(),
        })
    }

    /// Number of links; their [`LinkId`]s count from 0.
    pub fn len(&self) -> usize {
        self.links.len()
    }

    /// Whether there is no link.
    pub fn is_empty(&self) -> bool {
        self.links.is_empty()
    }

    /// Where a link leads.
    pub fn address(&self, link: LinkId) -> Option<SocketAddr> {
        self.links.get(usize::from(link.0)).map(|l| l.address)
    }

    /// Whether a link works.
    pub fn is_up(&self, link: LinkId) -> bool {
        self.links.get(usize::from(link.0)).is_some_and(Link::is_up)
    }

    /// Links that work.
    pub fn up_count(&self) -> usize {
        self.links.iter().filter(|l| l.is_up()).count()
    }

    /// A link's round trip, from its last ping.
    pub fn rtt(&self, link: LinkId) -> Option<Duration> {
        self.links.get(usize::from(link.0)).and_then(|l| l.rtt)
    }

    /// Whether events of this token are for [`handle_event`](Self::handle_event).
    pub fn owns(&self, token: Token) -> bool {
        (self.first_token..self.first_token + self.links.len()).contains(&token.0)
    }

    /// Takes an event of one of its tokens.
    pub fn handle_event(&mut self, event: &Event, now: Timestamp, sink: &mut dyn FnMut(LinkEvent<'_>)) {
        let index = event.token().0 - self.first_token;
        if let State::Open { stream, .. } = &mut self.links[index].state {
            stream.hung_up |= event.is_read_closed() || event.is_error();
        }
        self.progress(index, now, sink);
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        self.deadline
    }

    /// Connects, pings, gives up links that are silent, and goes on with what was set aside.
    pub fn handle_timeout(&mut self, now: Timestamp, sink: &mut dyn FnMut(LinkEvent<'_>)) {
        for index in 0..self.links.len() {
            if let State::Waiting { until } = self.links[index].state
                && until <= now
            {
                self.connect(index, now, sink);
            }
            if self.links[index].unread {
                self.progress(index, now, sink);
            }
            if let Some(reason) = self.lateness(index, now) {
                self.close(index, &reason, now, sink);
            }
            self.ping(index, now, sink);
        }
        self.deadline = (0..self.links.len()).map(|i| self.due(i)).min().filter(|at| *at != Timestamp::NEVER);
    }

    /// Puts a route change into a link's buffer; [`flush`](Self::flush) sends it.
    ///
    /// # Errors
    /// See [`SendError`].
    pub fn send(&mut self, link: LinkId, change: &RouteChange) -> Result<(), SendError> {
        if self.is_legacy() {
            return self.send_legacy(link, change);
        }
        let needed = match change {
            RouteChange::Add { transport: Transport::Udp, .. } => FEATURE_UDP,
            RouteChange::Payload { .. } => FEATURE_PAYLOAD,
            _ => 0,
        };
        if self.listening(link)?.features & needed != needed {
            return Err(SendError::NotSupported);
        }
        self.append(link, |encoder, bytes| encoder.route(change, bytes))
    }

    /// The link, if it takes route changes now.
    fn listening(&self, link: LinkId) -> Result<&Link, SendError> {
        let link = self.links.get(usize::from(link.0)).filter(|link| link.is_up()).ok_or(SendError::Down)?;
        if link.broken.is_some() { Err(SendError::Full) } else { Ok(link) }
    }

    /// Puts bytes into the buffer of a link that is up, or gives the link up when too many wait there.
    fn append(&mut self, link: LinkId, write: impl FnOnce(&mut BatchEncoder, &mut Vec<u8>)) -> Result<(), SendError> {
        let limit = self.config.out_limit;
        let Link { state, encoder, broken, .. } = &mut self.links[usize::from(link.0)];
        let State::Open { stream, up: true, .. } = state else { return Err(SendError::Down) };
        if stream.out.len() >= limit {
            *broken = Some(CloseReason::Overflow { limit });
            self.deadline = Some(Timestamp::ZERO);
            return Err(SendError::Full);
        }
        if stream.out.is_empty() {
            self.unflushed.push(link.0);
        }
        stream.out.append(|bytes| write(encoder, bytes));
        Ok(())
    }

    /// Asks an intercept what would become of packets; [`LinkEvent::Report`] brings the answer.
    ///
    /// # Errors
    /// See [`SendError`].
    pub fn ask(&mut self, link: LinkId, questions: &[Question], now: Timestamp) -> Result<(), SendError> {
        let Some(l) = self.links.get_mut(usize::from(link.0)) else { return Err(SendError::Down) };
        let State::Open { stream, up: true, .. } = &mut l.state else { return Err(SendError::Down) };
        if self.config.protocol != Protocol::Current || l.features & FEATURE_CHECKS == 0 {
            return Err(SendError::NotSupported);
        }
        l.encoder.seal();
        stream.out.append(|bytes| encode_questions(questions, bytes));
        if let Err(e) = stream.out.flush(&mut stream.socket, now) {
            l.broken = Some(CloseReason::io(&e));
            self.deadline = Some(Timestamp::ZERO);
        }
        Ok(())
    }

    /// From now on, connections are made with this; links that are up stay.
    pub fn renew(&mut self, secret: Option<Secret>, tls: Option<TlsClient>) {
        (self.config.secret, self.config.tls) = (secret, tls);
    }

    /// Writes what [`send`](Self::send) has collected, as far as the sockets take it. The rest follows by itself.
    pub fn flush(&mut self, now: Timestamp) {
        for link in self.unflushed.drain(..) {
            let l = &mut self.links[usize::from(link)];
            let State::Open { stream, .. } = &mut l.state else { continue };
            l.encoder.seal();
            if let Err(e) = stream.out.flush(&mut stream.socket, now) {
                l.broken = Some(CloseReason::io(&e));
                self.deadline = Some(Timestamp::ZERO);
            }
        }
    }

    fn connect(&mut self, index: usize, now: Timestamp, sink: &mut dyn FnMut(LinkEvent<'_>)) {
        let link = &mut self.links[index];
        link.attempts += 1;
        let token = Token(self.first_token + index);
        let connected = TcpStream::connect(link.address).and_then(|mut socket| {
            self.registry.register(&mut socket, token, Interest::READABLE | Interest::WRITABLE)?;
            Ok(socket)
        });
        let config = &self.config;
        let begun = connected.map_err(|e| CloseReason::io(&e)).and_then(|socket| {
            let transport = match &config.tls {
                None => LinkTransport::plain(socket),
                Some(tls) => tls.connect(socket, link.address.ip()).map_err(CloseReason::Tls)?,
            };
            match config.protocol {
                Protocol::Legacy { records, .. } => Ok(Stream::legacy(transport, records, now)),
                Protocol::Current => Stream::new(transport, Role::Tcpcopy, &config.hello, config.secret.as_ref(), now)
                    .map_err(|e| CloseReason::io(&e)),
            }
        });
        match begun {
            Ok(stream) => link.state = State::Open { stream: Box::new(stream), established: false, up: false },
            Err(reason) => self.close(index, &reason, now, sink),
        }
    }

    /// Does whatever a link's socket is ready for.
    fn progress(&mut self, index: usize, now: Timestamp, sink: &mut dyn FnMut(LinkEvent<'_>)) {
        if let Err(mut reason) = self.try_progress(index, now, sink) {
            if let State::Open { established: true, up: false, .. } = &self.links[index].state
                && let CloseReason::Unused | CloseReason::Io(io::ErrorKind::ConnectionReset, _) = reason
            {
                reason = CloseReason::TurnedAway;
            }
            self.close(index, &reason, now, sink);
        }
    }

    fn try_progress(
        &mut self,
        index: usize,
        now: Timestamp,
        sink: &mut dyn FnMut(LinkEvent<'_>),
    ) -> Result<(), CloseReason> {
        let (id, interval) = (LinkId(index as u16), self.config.ping_interval);
        let Link { state, encoder, attempts, next_ping, rtt, unread, features, .. } = &mut self.links[index];
        let State::Open { stream, established, up } = state else { return Ok(()) };
        if !*established {
            if !is_connected(&stream.socket.socket).map_err(|e| CloseReason::io(&e))? {
                return Ok(());
            }
            *established = true;
            // Without it route changes would wait for acknowledgements; not worth failing for.
            let _ = stream.socket.socket.set_nodelay(true);
            if self.config.protocol == Protocol::Current {
                stream.begin();
            } else {
                keep_alive(&stream.socket.socket);
                stream.out.append(encode_version);
                *up = true;
                sink(LinkEvent::Up { link: id, hello: Hello::default() });
            }
        }
        let sessions = &self.sessions;
        let received = stream.receive(now, &mut self.scratch, &mut |message, _| match message {
            Message::Hello(hello) => {
                *up = true;
                *features = hello.features;
                *attempts = 0;
                *next_ping = now;
                *encoder = BatchEncoder::new(hello.max_batch);
                sink(LinkEvent::Up { link: id, hello });
            }
            Message::Responses(responses) => {
                for header in responses {
                    sink(LinkEvent::Response { link: id, header });
                }
            }
            Message::LegacyRecords(records) => {
                *attempts = 0;
                for (flow, header) in records {
                    sink(LinkEvent::Response { link: id, header: ResponseHeader { id: sessions.of(&flow), ..header } });
                }
            }
            Message::Datagrams(datagrams) => {
                for datagram in datagrams {
                    sink(LinkEvent::Datagram { link: id, datagram });
                }
            }
            Message::HostReport(report) => sink(LinkEvent::Report { link: id, report }),
            Message::Stats(stats) => sink(LinkEvent::Stats { link: id, stats }),
            Message::Pong(stamp) => *rtt = Some(now.since(Timestamp::from_nanos(stamp))),
            // Pings and errors are handled by the stream; the rest asks for nothing.
            _ => {}
        })?;
        *unread = received == Received::Budget;
        encoder.seal();
        stream.out.flush(&mut stream.socket, now).map_err(|e| CloseReason::io(&e))?;
        let due = if *unread { Timestamp::ZERO } else { (*next_ping).min(now + interval) };
        self.deadline = Some(self.deadline.map_or(due, |d| d.min(due)));
        Ok(())
    }

    fn ping(&mut self, index: usize, now: Timestamp, sink: &mut dyn FnMut(LinkEvent<'_>)) {
        let interval = self.config.ping_interval;
        let link = &mut self.links[index];
        let State::Open { stream, up: true, .. } = &mut link.state else { return };
        if link.next_ping > now {
            return;
        }
        link.next_ping = now + interval;
        link.encoder.seal();
        stream.out.append(|bytes| encode_ping(now.as_nanos(), bytes));
        if let Err(e) = stream.out.flush(&mut stream.socket, now) {
            self.close(index, &CloseReason::io(&e), now, sink);
        }
    }

    fn lateness(&mut self, index: usize, now: Timestamp) -> Option<CloseReason> {
        let dead_after = if self.is_legacy() { Duration::MAX } else { self.config.ping_interval * 3 };
        let link = &mut self.links[index];
        let State::Open { stream, up, .. } = &link.state else { return None };
        if link.broken.is_some() {
            return link.broken.take();
        }
        if *up {
            (stream.last_received + dead_after <= now).then_some(CloseReason::Silent(dead_after))
        } else {
            (stream.since + HELLO_TIMEOUT <= now).then(|| match is_connected(&stream.socket.socket) {
                Ok(false) => CloseReason::Io(
                    io::ErrorKind::TimedOut,
                    format!(
                        "no answer within {HELLO_TIMEOUT:?}: the host is down, or a firewall on the way drops this"
                    ),
                ),
                Ok(true) | Err(_) => CloseReason::NoHello(HELLO_TIMEOUT),
            })
        }
    }

    fn due(&self, index: usize) -> Timestamp {
        let link = &self.links[index];
        match &link.state {
            State::Waiting { until } => *until,
            State::Open { .. } if link.unread || link.broken.is_some() => Timestamp::ZERO,
            State::Open { up: true, .. } if self.is_legacy() => Timestamp::NEVER,
            State::Open { stream, up: true, .. } => {
                link.next_ping.min(stream.last_received + self.config.ping_interval * 3)
            }
            State::Open { stream, .. } => stream.since + HELLO_TIMEOUT,
        }
    }

    /// Ends a connection, or an attempt at one, and decides when to try again.
    fn close(&mut self, index: usize, reason: &CloseReason, now: Timestamp, sink: &mut dyn FnMut(LinkEvent<'_>)) {
        let link = &mut self.links[index];
        let pause = self.config.first_retry * 2u32.saturating_pow(link.attempts.saturating_sub(1).min(16));
        let until = now + pause.min(self.config.longest_retry);
        let before = std::mem::replace(&mut link.state, State::Waiting { until });
        link.unread = false;
        link.broken = None;
        link.rtt = None;
        link.next_ping = Timestamp::NEVER;
        link.encoder.seal();
        self.deadline = Some(self.deadline.map_or(until, |d| d.min(until)));
        let id = LinkId(index as u16);
        if let State::Open { mut stream, up, .. } = before {
            stream.socket.say_end();
            // Closing the socket deregisters it; a failure here changes nothing.
            let _ = self.registry.deregister(&mut stream.socket.socket);
            if up {
                return sink(LinkEvent::Down { link: id, reason });
            }
        }
        sink(LinkEvent::Failed { link: id, attempts: link.attempts, reason });
    }
}

/// Whether TCP's handshake is over.
fn is_connected(socket: &TcpStream) -> io::Result<bool> {
    if let Some(e) = socket.take_error()? {
        return Err(e);
    }
    match socket.peer_addr() {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotConnected => Ok(false),
        Err(e) => Err(e),
    }
}
