//! The virtual network: hosts, links, a capture, an intercept and the engine under test, on one clock.
//!
//! ```text
//!   clients ---- client path ---- online
//!                            |
//!                         capture (loss, duplicates, merging)
//!                            v
//!                         Copier ---- lossy path ----> target
//!                            ^                            |
//!                            +--- intercept <--- lossy path
//! ```

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::State;
use tcpcopy_engine::copier::source::SourcePool;
use tcpcopy_engine::outbox::Notice;
use tcpcopy_engine::{Copier, CopierConfig, Input, LinkId, Map, Outbox};
use tcpcopy_module_api::ModuleHandle;
use tcpcopy_module_tcp::PlainTcp;
use tcpcopy_wire::control::{Decoder, FlowId, Message, Role, RouteChange};
use tcpcopy_wire::link::LinkType;
use tcpcopy_wire::tcp::Flags;
use tcpcopy_wire::{Endpoint, Flow, Port, TcpSegment, Timestamp};

use crate::apps::{ClientApp, Ordinal};
use crate::case::Case;
use crate::chance::{Chance, Link};
use crate::host::Host;
use crate::intercept::{Intercept, encoded, greeted};
use crate::merging::Merger;
use crate::outcome;
use crate::server::{Place, ServerHost, address, v4_of, v6_of};

const ONLINE_PORT: u16 = 80;
const TARGET_PORT: u16 = 8080;
const FIRST_CLIENT_PORT: u16 = 40_000;
/// Control connections to intercept.
const LINKS: u16 = 2;
/// How long segments may wait to be merged.
const MERGE_WAIT: Duration = Duration::from_micros(50);

enum Event {
    /// A packet reaches a host.
    Arrival(Place, Vec<u8>),
    /// A host's TCP or an application wanted to be woken.
    Wake(Place),
    /// A client's first connection from its port is due.
    Connect(usize),
    /// A packet passes the capture.
    Captured(Vec<u8>),
    /// Merged segments have waited long enough.
    MergeEnds,
    /// A packet of the target reaches intercept.
    AtIntercept(Vec<u8>),
    /// Bytes of a control connection reach intercept. They die with the connections of their time.
    ControlToIntercept(u32, LinkId, Vec<u8>),
    /// Bytes of a control connection reach tcpcopy.
    ControlToCopier(u32, LinkId, Vec<u8>),
    /// Intercept's deadline.
    InterceptDeadline,
    /// Intercept is killed.
    InterceptGone,
    /// Intercept is there again, and tcpcopy has connected to it.
    InterceptBack,
    /// The engine's deadline.
    EngineDeadline,
}

/// A line of the packet trace, formatted only when it is read.
struct Trace {
    at: Timestamp,
    what: &'static str,
    packet: Vec<u8>,
    len: usize,
}

/// What the clients sent on one connection, as the capture saw it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) resets: usize,
}

pub(crate) struct Network<'a> {
    pub(crate) case: &'a Case,
    now: Timestamp,
    events: BinaryHeap<Reverse<(Timestamp, u64)>>,
    bodies: HashMap<u64, Event>,
    event_count: u64,
    chance: Chance,
    ordinal: Ordinal,
    clients: Host,
    clients_wake: Timestamp,
    pub(crate) client_apps: Vec<(Option<SocketHandle>, ClientApp)>,
    online: ServerHost,
    pub(crate) target: ServerHost,
    client_to_online: Link,
    online_to_client: Link,
    to_target: Link,
    from_target: Link,
    merger: Merger,
    pub(crate) copier: Copier,
    outbox: Outbox,
    engine_wake: Timestamp,
    undrained: bool,
    timeouts_at_once: u32,
    announced: HashMap<FlowId, Flow>,
    intercept: Option<Intercept>,
    intercept_wake: Timestamp,
    /// Decoders at tcpcopy's end of the control connections.
    decoders: Vec<Decoder>,
    /// How often the control connections were lost.
    control_losses: u32,
    pub(crate) ended: Vec<(Flow, tcpcopy_engine::ledger::SessionEnd)>,
    pub(crate) seen: HashMap<SocketAddr, Seen>,
    /// RSTs that the engine sent, by the replica's address.
    pub(crate) resets_sent: HashMap<SocketAddr, usize>,
    trace: VecDeque<Trace>,
    live_trace: bool,
}

pub(crate) type Failure = String;

impl<'a> Network<'a> {
    pub(crate) fn new(case: &'a Case, live_trace: bool) -> Self {
        let mut chance = Chance::new(case.seed);
        let target = Endpoint::new(address(Place::Target, case.ipv6), Port(TARGET_PORT));
        let online_addr = Some(address(Place::Online, case.ipv6));
        let map = Map::tcp(online_addr, Port(ONLINE_PORT), target);
        let config = CopierConfig {
            sources: SourcePool::new(case.sources.clone()),
            mtu: case.mtu,
            only_whole_sessions: case.only_whole_sessions,
            gate: case.gate,
            hole_timeout: case.hole_timeout,
            response_timeout: case.response_timeout,
            idle_timeout: case.idle_timeout,
            links_per_intercept: LINKS,
            seed: chance.next(),
            ..CopierConfig::new(vec![map], ModuleHandle::new(PlainTcp))
        };
        let mtu = 1500;
        let mut network = Self {
            case,
            now: Timestamp::ZERO,
            events: BinaryHeap::new(),
            bodies: HashMap::new(),
            event_count: 0,
            ordinal: 0,
            clients: Host::new(v4_of(Place::Clients), v6_of(Place::Clients), mtu, chance.next()),
            clients_wake: Timestamp::NEVER,
            client_apps: (0..case.sessions()).map(|session| (None, ClientApp::new(session, case))).collect(),
            online: ServerHost::new(Place::Online, case.online, ONLINE_PORT, mtu, chance.next()),
            target: ServerHost::new(Place::Target, case.target, TARGET_PORT, mtu, chance.next()),
            client_to_online: Link::new(case.client_path),
            online_to_client: Link::new(case.client_path),
            to_target: Link::new(case.to_target),
            from_target: Link::new(case.from_target),
            merger: Merger::default(),
            copier: Copier::new(config),
            outbox: Outbox::new(),
            engine_wake: Timestamp::NEVER,
            undrained: false,
            timeouts_at_once: 0,
            announced: HashMap::new(),
            intercept: Some(Intercept::new(Timestamp::ZERO, LINKS, case.seed)),
            intercept_wake: Timestamp::NEVER,
            decoders: (0..LINKS).map(|_| greeted(Role::Tcpcopy)).collect(),
            control_losses: 0,
            ended: Vec::new(),
            seen: HashMap::new(),
            resets_sent: HashMap::new(),
            trace: VecDeque::new(),
            live_trace,
            chance,
        };
        for port in 0..case.ports {
            let at = Timestamp::from_millis(1) + case.start_gap * port as u32;
            network.schedule(at, Event::Connect(port * case.connections_per_port));
        }
        if let Some((at, down_for)) = case.intercept_restarts {
            network.schedule(Timestamp::ZERO + at, Event::InterceptGone);
            network.schedule(Timestamp::ZERO + at + down_for, Event::InterceptBack);
        }
        network.online.run(Timestamp::ZERO, case, &mut network.ordinal);
        network.target.run(Timestamp::ZERO, case, &mut network.ordinal);
        network
    }

    fn schedule(&mut self, at: Timestamp, event: Event) {
        self.event_count += 1;
        self.events.push(Reverse((at, self.event_count)));
        self.bodies.insert(self.event_count, event);
    }

    fn note(&mut self, what: &'static str, packet: &[u8]) {
        let kept = packet[..packet.len().min(120)].to_vec();
        let line = Trace { at: self.now, what, packet: kept, len: packet.len() };
        if self.live_trace {
            let _ = writeln!(std::io::stderr(), "{}", format_trace(&line));
        }
        if self.trace.len() == 40 {
            self.trace.pop_front();
        }
        self.trace.push_back(line);
    }

    /// The last packets, for a report.
    pub(crate) fn recent_packets(&self) -> String {
        self.trace.iter().map(|line| format_trace(line) + "\n").collect()
    }

    /// Runs to the end of the case and judges it.
    pub(crate) fn run(&mut self) -> Result<(), Failure> {
        let end = Timestamp::ZERO + self.case.run_for;
        while let Some(&Reverse((at, id))) = self.events.peek() {
            if at > self.now && self.undrained {
                self.undrained = false;
                self.tell(Input::Drained)?;
                continue;
            }
            if at > end || self.is_over() {
                break;
            }
            self.events.pop();
            if at > self.now {
                self.now = at;
                self.timeouts_at_once = 0;
            }
            let Some(event) = self.bodies.remove(&id) else { continue };
            self.on_event(event)?;
        }
        outcome::judge(self)?;
        self.stop()
    }

    /// Nothing is left that could change anything: all clients are done, and so is the engine.
    fn is_over(&self) -> bool {
        self.copier.ledger().sessions_alive == 0
            && self.copier.ledger().sessions_seen > 0
            && self.client_apps.iter().all(|(handle, app)| app.closed && handle.is_none())
            && self
                .bodies
                .values()
                .all(|event| matches!(event, Event::Wake(_) | Event::EngineDeadline | Event::InterceptDeadline))
    }

    /// Orders the engine to stop, which it must do in finite time whatever the state of its sessions.
    fn stop(&mut self) -> Result<(), Failure> {
        self.tell(Input::Stop)?;
        for _ in 0..100_000 {
            if self.copier.is_finished() {
                return self.copier.ledger().check();
            }
            let Some(at) = self.copier.next_deadline() else { break };
            self.now = self.now.max(at);
            self.timeouts_at_once = 0;
            self.tell(Input::Timeout)?;
        }
        Err(format!("after Stop, {} sessions stay alive", self.copier.ledger().sessions_alive))
    }

    fn on_event(&mut self, event: Event) -> Result<(), Failure> {
        match event {
            Event::Arrival(Place::Clients, packet) => {
                self.note("online -> client", &packet);
                self.clients.card.received.push_back(packet);
                self.run_clients();
            }
            Event::Arrival(Place::Online, packet) => {
                self.note("client -> online", &packet);
                self.capture(&packet);
                self.online.receive(self.now, packet);
                self.run_server(Place::Online);
            }
            Event::Arrival(Place::Target, packet) => {
                self.target.receive(self.now, packet);
                self.run_server(Place::Target);
            }
            Event::Wake(Place::Clients) if self.clients_wake <= self.now => self.run_clients(),
            Event::Wake(place @ Place::Online) if self.online.wake <= self.now => self.run_server(place),
            Event::Wake(place @ Place::Target) if self.target.wake <= self.now => self.run_server(place),
            Event::Connect(session) => {
                self.connect(session);
                self.run_clients();
            }
            Event::Captured(packet) => self.frame(&packet)?,
            Event::MergeEnds => {
                while let Some(packet) = self.merger.flush() {
                    self.frame(&packet)?;
                }
            }
            Event::AtIntercept(packet) => {
                self.note("at intercept", &packet);
                if let Some(intercept) = &mut self.intercept {
                    intercept.on_packet(self.now, &packet)?;
                }
                self.empty_intercept();
            }
            Event::ControlToIntercept(losses, link, bytes) if losses == self.control_losses => {
                if let Some(intercept) = &mut self.intercept {
                    intercept.on_bytes(self.now, link, &bytes)?;
                }
                self.empty_intercept();
            }
            Event::ControlToCopier(losses, link, bytes) if losses == self.control_losses => {
                self.on_responses(link, &bytes)?;
            }
            // Superseded by a later wake, or on a connection that is lost.
            Event::Wake(_) | Event::ControlToIntercept(..) | Event::ControlToCopier(..) => {}
            Event::InterceptDeadline => {
                if let Some(intercept) = &mut self.intercept
                    && intercept.next_deadline().is_some_and(|at| at <= self.now)
                {
                    intercept.on_timeout(self.now)?;
                }
                self.empty_intercept();
            }
            Event::InterceptGone => {
                self.intercept = None;
                self.control_losses += 1;
                for link in 0..LINKS {
                    self.tell(Input::LinkDown(LinkId(link)))?;
                }
            }
            Event::InterceptBack => {
                self.intercept = Some(Intercept::new(self.now, LINKS, self.case.seed + 1));
                self.decoders = (0..LINKS).map(|_| greeted(Role::Tcpcopy)).collect();
                for link in 0..LINKS {
                    self.tell(Input::LinkUp(LinkId(link)))?;
                }
            }
            Event::EngineDeadline => {
                if self.copier.next_deadline().is_some_and(|at| at <= self.now) {
                    self.tell(Input::Timeout)?;
                }
            }
        }
        Ok(())
    }

    // ---- clients and servers

    fn connect(&mut self, session: usize) {
        let server =
            smoltcp::wire::IpEndpoint::new(crate::host::smol(address(Place::Online, self.case.ipv6)), ONLINE_PORT);
        let port = FIRST_CLIENT_PORT + (session / self.case.connections_per_port) as u16;
        let handle = self.clients.add_socket(1 << 18, 1 << 18);
        let socket = self.clients.sockets.get_mut::<smoltcp::socket::tcp::Socket<'_>>(handle);
        if self.case.client_timestamps {
            socket.set_tsval_generator(Some(crate::host::timestamp_clock));
        }
        socket.connect(self.clients.interface.context(), server, port).unwrap();
        self.client_apps[session].0 = Some(handle);
    }

    /// The online side address of a client's connection.
    pub(crate) fn client_address(&self, session: usize) -> SocketAddr {
        let port = FIRST_CLIENT_PORT + (session / self.case.connections_per_port) as u16;
        SocketAddr::new(address(Place::Clients, self.case.ipv6), port)
    }

    fn run_clients(&mut self) {
        self.clients.poll(self.now);
        let mut wake = Timestamp::NEVER;
        let mut next = Vec::new();
        for session in 0..self.client_apps.len() {
            let (Some(handle), app) = &mut self.client_apps[session] else { continue };
            let socket = self.clients.sockets.get_mut::<smoltcp::socket::tcp::Socket<'_>>(*handle);
            if let Some(at) = app.step(self.now, &self.case.online, socket) {
                wake = wake.min(at);
            }
            if matches!(socket.state(), State::Closed | State::TimeWait) {
                // A RST or the last ACK that waits to be sent goes first.
                self.clients.poll(self.now);
                self.clients.sockets.remove(*handle);
                app.closed = true;
                self.client_apps[session].0 = None;
                if (session + 1) % self.case.connections_per_port != 0 {
                    next.push(session + 1);
                }
            }
        }
        for session in next {
            self.connect(session);
        }
        self.clients.poll(self.now);
        if let Some(at) = self.clients.wakes_at(self.now) {
            wake = wake.min(at);
        }
        self.clients_wake = wake;
        if wake != Timestamp::NEVER {
            self.schedule(wake, Event::Wake(Place::Clients));
        }
        while let Some(packet) = self.clients.card.sent.pop_front() {
            for at in self.client_to_online.arrivals(self.now, &mut self.chance) {
                self.schedule(at, Event::Arrival(Place::Online, packet.clone()));
            }
        }
    }

    fn run_server(&mut self, place: Place) {
        let server = if place == Place::Online { &mut self.online } else { &mut self.target };
        server.run(self.now, self.case, &mut self.ordinal);
        let wake = server.wake;
        let sent = std::mem::take(&mut server.host.card.sent);
        let place = server.place;
        if wake != Timestamp::NEVER {
            self.schedule(wake, Event::Wake(place));
        }
        for packet in sent {
            let link = if place == Place::Online { &mut self.online_to_client } else { &mut self.from_target };
            for at in link.arrivals(self.now, &mut self.chance) {
                let event = match place {
                    Place::Online => Event::Arrival(Place::Clients, packet.clone()),
                    _ => Event::AtIntercept(packet.clone()),
                };
                self.schedule(at, event);
            }
        }
    }

    // ---- capture

    fn capture(&mut self, packet: &[u8]) {
        let capture = self.case.capture;
        if self.now < Timestamp::ZERO + capture.begins || self.chance.hits(capture.loss) {
            return;
        }
        let mut at = self.now;
        if self.chance.hits(capture.reordering) {
            at = at + Duration::from_micros(self.chance.below(3_000));
        }
        if self.chance.hits(capture.duplication) {
            self.schedule(at + Duration::from_micros(5), Event::Captured(packet.to_vec()));
        }
        if capture.merging {
            for ready in self.merger.offer(packet) {
                self.schedule(at, Event::Captured(ready));
            }
            self.schedule(at + MERGE_WAIT, Event::MergeEnds);
        } else {
            self.schedule(at, Event::Captured(packet.to_vec()));
        }
    }

    fn frame(&mut self, packet: &[u8]) -> Result<(), Failure> {
        self.note("captured", packet);
        if let Ok(segment) = TcpSegment::from_ip_packet(packet, packet.len())
            && segment.tcp.flags().contains(Flags::RST)
        {
            self.seen.entry(segment.src.into()).or_default().resets += 1;
        }
        self.tell(Input::Frame { link: LinkType::Raw, bytes: packet, wire_len: packet.len() })
    }

    // ---- the engine

    fn tell(&mut self, input: Input<'_>) -> Result<(), Failure> {
        match input {
            Input::Timeout => {
                self.timeouts_at_once += 1;
                if self.timeouts_at_once > 200 {
                    return Err(format!("the deadline {:?} stays due", self.copier.next_deadline()));
                }
            }
            Input::Drained => {}
            _ => self.undrained = true,
        }
        self.copier.handle(self.now, input, &mut self.outbox);
        self.copier.ledger().check()?;
        self.empty_outbox()?;
        if let Some(at) = self.copier.next_deadline() {
            let at = at.max(self.now);
            if at != self.engine_wake || input_is_timeout(&input) {
                self.engine_wake = at;
                self.schedule(at, Event::EngineDeadline);
            }
        }
        Ok(())
    }

    fn empty_outbox(&mut self) -> Result<(), Failure> {
        if self.outbox.is_empty() {
            return Ok(());
        }
        let mut outbox = std::mem::take(&mut self.outbox);
        for (link, change) in outbox.routes.drain(..) {
            if let RouteChange::Add { id, flow, .. } = change {
                self.announced.insert(id, flow);
            }
            let event = Event::ControlToIntercept(self.control_losses, link, encoded(&change));
            self.schedule(self.now + self.case.control_delay, event);
        }
        for notice in outbox.notices.drain(..) {
            if let Notice::SessionEnded { flow, reason } = notice {
                if self.live_trace {
                    let _ = writeln!(std::io::stderr(), "{:?} {flow} ended: {reason}", self.now);
                }
                self.ended.push((flow, reason));
            }
        }
        for (to, packet) in outbox.packets() {
            self.note("copier -> target", packet);
            outcome::check_packet(packet, self.case.mtu)?;
            let segment = TcpSegment::from_ip_packet(packet, packet.len()).map_err(|e| e.to_string())?;
            if segment.dst != Endpoint::new(address(Place::Target, self.case.ipv6), Port(TARGET_PORT))
                || to != segment.dst.addr
            {
                return Err(format!("sent to {to}, where nothing should go: {segment:?}"));
            }
            if !self.announced.values().any(|flow| *flow == segment.flow_from_client()) {
                return Err(format!("sent before its route was announced: {segment:?}"));
            }
            if segment.tcp.flags().contains(Flags::RST) {
                *self.resets_sent.entry(segment.src.into()).or_default() += 1;
            }
            for at in self.to_target.arrivals(self.now, &mut self.chance) {
                self.schedule(at, Event::Arrival(Place::Target, packet.to_vec()));
            }
        }
        outbox.clear();
        self.outbox = outbox;
        Ok(())
    }

    // ---- intercept

    fn empty_intercept(&mut self) {
        let Some(intercept) = &mut self.intercept else { return };
        let wake = intercept.next_deadline();
        for (link, bytes) in intercept.take() {
            let event = Event::ControlToCopier(self.control_losses, link, bytes);
            self.schedule(self.now + self.case.control_delay, event);
        }
        if let Some(at) = wake.map(|at| at.max(self.now)).filter(|at| *at != self.intercept_wake) {
            self.intercept_wake = at;
            self.schedule(at, Event::InterceptDeadline);
        }
    }

    fn on_responses(&mut self, link: LinkId, mut bytes: &[u8]) -> Result<(), Failure> {
        while !bytes.is_empty() {
            let decoded = self.decoders[usize::from(link.0)].next(bytes).map_err(|e| e.to_string())?;
            let Some((Message::Responses(responses), len)) = decoded else {
                return Err(format!("tcpcopy was sent {decoded:?}"));
            };
            bytes = &bytes[len..];
            for response in responses {
                self.tell(Input::Response(response))?;
            }
        }
        Ok(())
    }

    /// How long the network has run.
    pub(crate) fn now(&self) -> Timestamp {
        self.now
    }
}

fn input_is_timeout(input: &Input<'_>) -> bool {
    matches!(input, Input::Timeout)
}

fn format_trace(line: &Trace) -> String {
    match TcpSegment::from_ip_packet(&line.packet, line.len) {
        Ok(segment) => {
            let options = segment.tcp.options();
            let mut text = format!("{:?} {:<16} {segment:?}", line.at, line.what);
            for (left, right) in options.sack_blocks() {
                let _ = write!(text, " sack {left}..{right}");
            }
            if let Some((value, echo)) = options.timestamps {
                let _ = write!(text, " ts {value}/{echo}");
            }
            text
        }
        Err(error) => format!("{:?} {:<17} {error}", line.at, line.what),
    }
}
