//! What one run of the virtual network is made of.

use std::net::IpAddr;
use std::time::Duration;

use tcpcopy_engine::Gate;
use tcpcopy_engine::ledger::SessionEnd;
use tcpcopy_netsim::{Capture, Quality};

/// A request and the response to it, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn {
    pub(crate) request: usize,
    pub(crate) response: usize,
}

/// How a client's connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClientEnd {
    /// It closes when it has all responses.
    Close,
    /// It closes its sending side right behind its last request, and reads on.
    HalfClose,
    /// It waits for the server to close.
    WaitForServer,
    /// It resets the connection when it has all responses.
    Reset,
    /// It resets the connection once it has written this many bytes.
    ResetAfter(usize),
    /// It says nothing more.
    StayOpen,
}

/// What goes wrong with a server, besides its times and buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// It closes behind this many responses, and reads on.
    CloseAfter(usize),
    /// It resets behind this many responses.
    ResetAfter(usize),
    /// It resets when a request with this number has arrived whole, the first being 0.
    ResetOnRequest(usize),
    /// It reads, and never responds.
    Silent,
    /// It reads nothing for this long from the first data on, so that its window closes.
    DeafFor(Duration),
    /// Nothing listens.
    Refuse,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Server {
    /// Time from a request to the response.
    pub(crate) think: Duration,
    /// A response comes in this many parts…
    pub(crate) bursts: usize,
    /// …so far apart.
    pub(crate) gap: Duration,
    /// Bytes of receive buffer.
    pub(crate) window: usize,
    /// Every response has this length instead of the turn's.
    pub(crate) response: Option<usize>,
    /// It agrees to timestamps.
    pub(crate) timestamps: bool,
    pub(crate) fault: Fault,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            think: Duration::from_micros(100),
            bursts: 1,
            gap: Duration::ZERO,
            window: 65_535,
            response: None,
            timestamps: false,
            fault: Fault::None,
        }
    }
}

/// What must have come of the sessions at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    /// All are completed, whole.
    Completed,
    /// Each is completed, whole; or ended for a reason, with what had arrived of it in order.
    Accounted,
    /// All ended for this reason.
    Ended(SessionEnd),
    /// All live still, with everything delivered.
    Alive,
}

#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) seed: u64,
    pub(crate) ipv6: bool,
    /// Client ports in use…
    pub(crate) ports: usize,
    /// …and connections made from each, one behind the other.
    pub(crate) connections_per_port: usize,
    /// Time between the first connections of two ports.
    pub(crate) start_gap: Duration,
    pub(crate) turns: Vec<Turn>,
    /// The client writes all requests at once.
    pub(crate) pipelined: bool,
    /// Time that the client takes before the next request.
    pub(crate) client_think: Duration,
    pub(crate) client_end: ClientEnd,
    pub(crate) client_timestamps: bool,
    pub(crate) online: Server,
    pub(crate) target: Server,
    /// Between client and online, both ways.
    pub(crate) client_path: Quality,
    pub(crate) to_target: Quality,
    pub(crate) from_target: Quality,
    /// Between tcpcopy and intercept, both ways.
    pub(crate) control_delay: Duration,
    /// When intercept is killed, and how long it takes until it is there again.
    pub(crate) intercept_restarts: Option<(Duration, Duration)>,
    pub(crate) capture: Capture,
    pub(crate) gate: Gate,
    pub(crate) only_whole_sessions: bool,
    pub(crate) sources: Vec<IpAddr>,
    pub(crate) mtu: u16,
    pub(crate) hole_timeout: Duration,
    pub(crate) response_timeout: Duration,
    pub(crate) idle_timeout: Duration,
    /// When the run is cut off.
    pub(crate) run_for: Duration,
    pub(crate) expect: Expect,
}

impl Case {
    /// One client that asks three times, on a perfect network.
    pub(crate) fn new(name: impl Into<String>) -> Self {
        let hop = Quality::delayed(Duration::from_micros(200));
        Self {
            name: name.into(),
            seed: 1,
            ipv6: false,
            ports: 1,
            connections_per_port: 1,
            start_gap: Duration::from_millis(1),
            turns: vec![Turn { request: 100, response: 200 }; 3],
            pipelined: false,
            client_think: Duration::from_micros(50),
            client_end: ClientEnd::Close,
            client_timestamps: false,
            online: Server::default(),
            target: Server::default(),
            client_path: hop,
            to_target: hop,
            from_target: hop,
            control_delay: Duration::from_micros(100),
            intercept_restarts: None,
            capture: Capture::default(),
            gate: Gate::Turns,
            only_whole_sessions: false,
            sources: Vec::new(),
            mtu: 1500,
            hole_timeout: Duration::from_secs(5),
            response_timeout: Duration::from_secs(600),
            idle_timeout: Duration::from_secs(720),
            run_for: Duration::from_secs(900),
            expect: Expect::Completed,
        }
    }

    /// Requests and responses of these lengths, `count` times.
    pub(crate) fn asking(mut self, count: usize, request: usize, response: usize) -> Self {
        self.turns = vec![Turn { request, response }; count];
        self
    }

    pub(crate) fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    pub(crate) fn expecting(mut self, expect: Expect) -> Self {
        self.expect = expect;
        self
    }

    pub(crate) fn sessions(&self) -> usize {
        self.ports * self.connections_per_port
    }
}
