//! The network itself: hosts, links, a capture, an intercept and the engine under test, on one clock.

use std::collections::{HashMap, VecDeque};
use std::io::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::{Socket, State};
use tcpcopy_engine::outbox::Notice;
use tcpcopy_engine::{Copier, CopierConfig, Input, LinkId, Outbox};
use tcpcopy_wire::control::{Decoder, FlowId, Message, Role, RouteChange};
use tcpcopy_wire::link::LinkType;
use tcpcopy_wire::tcp::Flags;
use tcpcopy_wire::{Flow, TcpSegment, Timestamp};

use crate::Failure;
use crate::application::{Application, Begin, Client, Service};
use crate::chance::{Chance, Link};
use crate::conditions::{Conditions, ONLINE_PORT, Place, TARGET_PORT};
use crate::events::{Event, Events};
use crate::host::{Host, smol, timestamp_clock};
use crate::intercept::{Intercept, encoded, greeted};
use crate::merging::Merger;
use crate::packets::{self, Trace};
use crate::server_host::ServerHost;

/// Control connections to intercept.
const LINKS: u16 = 2;
/// How long segments may wait to be merged.
const MERGE_WAIT: Duration = Duration::from_micros(50);
/// MTU of all hosts. The engine has its own in its configuration.
const HOST_MTU: usize = 1500;

/// A client with its socket, while it has one.
struct ClientConnection<C> {
    client: Client<C>,
    handle: Option<SocketHandle>,
    over: bool,
}

/// What passed on the network, for a judge.
#[derive(Debug, Default)]
pub struct Record {
    /// What the engine had to say, and when.
    pub notices: Vec<(Timestamp, Notice)>,
    /// RSTs that the capture showed, by the client's address.
    pub resets_captured: HashMap<SocketAddr, usize>,
    /// RSTs that the engine sent, by the replica's address.
    pub resets_sent: HashMap<SocketAddr, usize>,
    /// The replicas' flows, as their routes were announced.
    pub announced: HashMap<FlowId, Flow>,
}

/// The virtual network. `C` runs on clients, `S` on online and on the target.
///
/// It is made whole, runs to its end in [`run`](Self::run) and is then asked what happened. On its way it checks, after
/// each call of the engine, the ledger's equations, and of each packet that the engine sends that it is well formed and
/// goes where it should.
pub struct Network<C, S: Service> {
    conditions: Conditions,
    mtu: u16,
    now: Timestamp,
    events: Events,
    chance: Chance,
    clients_host: Host,
    clients_wake: Timestamp,
    clients: Vec<ClientConnection<C>>,
    online: ServerHost<S>,
    target: ServerHost<S>,
    client_to_online: Link,
    online_to_client: Link,
    to_target: Link,
    from_target: Link,
    merger: Merger,
    copier: Copier,
    outbox: Outbox,
    engine_wake: Timestamp,
    undrained: bool,
    timeouts_at_once: u32,
    intercept: Option<Intercept>,
    intercept_wake: Timestamp,
    /// Decoders at tcpcopy's end of the control connections.
    decoders: Vec<Decoder>,
    /// How often the control connections were lost.
    control_losses: u32,
    record: Record,
    trace: VecDeque<Trace>,
}

impl<C: Application, S: Service> Network<C, S> {
    /// A network at time zero. Of `config`, the seed and the number of control connections are set here.
    pub fn new(conditions: Conditions, config: CopierConfig, clients: Vec<Client<C>>, online: S, target: S) -> Self {
        let mut chance = Chance::new(conditions.seed);
        let config = CopierConfig { links_per_intercept: LINKS, intercepts: 1, seed: chance.next(), ..config };
        let mut network = Self {
            mtu: config.mtu,
            now: Timestamp::ZERO,
            events: Events::default(),
            clients_host: Host::new(Place::Clients.v4(), Place::Clients.v6(), HOST_MTU, chance.next()),
            clients_wake: Timestamp::NEVER,
            clients: clients.into_iter().map(|client| ClientConnection { client, handle: None, over: false }).collect(),
            online: ServerHost::new(Place::Online, online, conditions.online, ONLINE_PORT, HOST_MTU, chance.next()),
            target: ServerHost::new(Place::Target, target, conditions.target, TARGET_PORT, HOST_MTU, chance.next()),
            client_to_online: Link::new(conditions.client_path),
            online_to_client: Link::new(conditions.client_path),
            to_target: Link::new(conditions.to_target),
            from_target: Link::new(conditions.from_target),
            merger: Merger::default(),
            copier: Copier::new(config),
            outbox: Outbox::new(),
            engine_wake: Timestamp::NEVER,
            undrained: false,
            timeouts_at_once: 0,
            intercept: Some(Intercept::new(Timestamp::ZERO, LINKS, conditions.seed)),
            intercept_wake: Timestamp::NEVER,
            decoders: (0..LINKS).map(|_| greeted(Role::Tcpcopy)).collect(),
            control_losses: 0,
            record: Record::default(),
            trace: VecDeque::new(),
            chance,
            conditions,
        };
        for client in 0..network.clients.len() {
            if let Begin::At(at) = network.clients[client].client.begin {
                network.events.add(Timestamp::ZERO + at, Event::Connect(client));
            }
        }
        if let Some((at, down_for)) = network.conditions.intercept_restarts {
            network.events.add(Timestamp::ZERO + at, Event::InterceptGone);
            network.events.add(Timestamp::ZERO + at + down_for, Event::InterceptBack);
        }
        if let Some((at, down_for)) = network.conditions.target_restarts {
            network.events.add(Timestamp::ZERO + at, Event::TargetGone);
            network.events.add(Timestamp::ZERO + at + down_for, Event::TargetBack);
        }
        network.online.run(Timestamp::ZERO);
        network.target.run(Timestamp::ZERO);
        network
    }

    /// What the network is like.
    pub fn conditions(&self) -> &Conditions {
        &self.conditions
    }

    /// The engine.
    pub fn copier(&self) -> &Copier {
        &self.copier
    }

    /// How long the network has run.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// What passed.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// What runs on a client.
    pub fn client(&self, client: usize) -> &C {
        &self.clients[client].client.application
    }

    /// Whether a client's connection was made and is over.
    pub fn is_client_over(&self, client: usize) -> bool {
        self.clients[client].over
    }

    /// What ran on all connections that the target had: first those that are over, in the order in which they ended.
    pub fn target_connections(&self) -> impl Iterator<Item = &S::Connection> {
        self.target.connections()
    }

    /// The last packets, for a report.
    pub fn recent_packets(&self) -> String {
        self.trace.iter().fold(String::new(), |text, line| text + &line.to_string() + "\n")
    }

    fn note(&mut self, what: &'static str, packet: &[u8]) {
        let line = Trace::new(self.now, what, packet);
        if self.conditions.trace {
            let _ = writeln!(std::io::stderr(), "{line}");
        }
        if self.trace.len() == 40 {
            self.trace.pop_front();
        }
        self.trace.push_back(line);
    }

    /// Runs until nothing is left that could change anything, or until the end of [`Conditions::run_for`].
    ///
    /// # Errors
    /// What the engine did that it must never do.
    pub fn run(&mut self) -> Result<(), Failure> {
        let end = Timestamp::ZERO + self.conditions.run_for;
        while let Some(at) = self.events.next_at() {
            if at > self.now && self.undrained {
                self.undrained = false;
                self.tell(Input::Drained)?;
                continue;
            }
            if at > end || self.is_over() {
                break;
            }
            if at > self.now {
                self.now = at;
                self.timeouts_at_once = 0;
            }
            let Some(event) = self.events.take() else { break };
            self.on_event(event)?;
        }
        self.copier.ledger().check()
    }

    /// Nothing is left that could change anything: all clients are done, and so is the engine.
    fn is_over(&self) -> bool {
        self.copier.ledger().sessions_alive == 0
            && self.copier.ledger().sessions_seen > 0
            && self.clients.iter().all(|client| client.over)
            && self.events.only_wakes()
    }

    /// Orders the engine to stop, which it must do in finite time whatever the state of its sessions. What it sends
    /// meanwhile is checked, and goes nowhere.
    ///
    /// # Errors
    /// What the engine did that it must never do, staying alive included.
    pub fn stop(&mut self) -> Result<(), Failure> {
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
                self.clients_host.card.received.push_back(packet);
                self.run_clients();
            }
            Event::Arrival(Place::Online, packet) => {
                self.note("client -> online", &packet);
                if self.is_captured(&packet) {
                    self.capture(&packet);
                }
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
                self.intercept = Some(Intercept::new(self.now, LINKS, self.conditions.seed + 1));
                self.decoders = (0..LINKS).map(|_| greeted(Role::Tcpcopy)).collect();
                for link in 0..LINKS {
                    self.tell(Input::LinkUp(LinkId(link)))?;
                }
            }
            Event::TargetGone => {
                self.target.kill(self.now);
                self.run_server(Place::Target);
            }
            Event::TargetBack => {
                self.target.start();
                self.run_server(Place::Target);
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

    fn connect(&mut self, client: usize) {
        let server = smoltcp::wire::IpEndpoint::new(smol(Place::Online.address(self.conditions.ipv6)), ONLINE_PORT);
        let handle = self.clients_host.add_socket(1 << 18, 1 << 18);
        let connection = &mut self.clients[client];
        let socket = self.clients_host.sockets.get_mut::<Socket<'_>>(handle);
        if connection.client.timestamps {
            socket.set_tsval_generator(Some(timestamp_clock));
        }
        socket.connect(self.clients_host.interface.context(), server, connection.client.port).unwrap();
        connection.handle = Some(handle);
    }

    fn run_clients(&mut self) {
        self.clients_host.poll(self.now);
        let mut wake = Timestamp::NEVER;
        let mut ended = Vec::new();
        for (i, connection) in self.clients.iter_mut().enumerate() {
            let Some(handle) = connection.handle else { continue };
            let socket = self.clients_host.sockets.get_mut::<Socket<'_>>(handle);
            if let Some(at) = connection.client.application.step(self.now, socket) {
                wake = wake.min(at);
            }
            if matches!(socket.state(), State::Closed | State::TimeWait) {
                // A RST or the last ACK that waits to be sent goes first.
                self.clients_host.poll(self.now);
                self.clients_host.sockets.remove(handle);
                connection.handle = None;
                connection.over = true;
                ended.push(i);
            }
        }
        for client in 0..if ended.is_empty() { 0 } else { self.clients.len() } {
            if matches!(self.clients[client].client.begin, Begin::After(other) if ended.contains(&other)) {
                self.connect(client);
            }
        }
        self.clients_host.poll(self.now);
        if let Some(at) = self.clients_host.wakes_at(self.now) {
            wake = wake.min(at);
        }
        self.clients_wake = wake;
        if wake != Timestamp::NEVER {
            self.events.add(wake, Event::Wake(Place::Clients));
        }
        while let Some(packet) = self.clients_host.card.sent.pop_front() {
            for at in self.client_to_online.arrivals(self.now, &mut self.chance) {
                self.events.add(at, Event::Arrival(Place::Online, packet.clone()));
            }
        }
    }

    fn run_server(&mut self, place: Place) {
        let server = if place == Place::Online { &mut self.online } else { &mut self.target };
        server.run(self.now);
        let wake = server.wake;
        let sent = std::mem::take(&mut server.host.card.sent);
        let place = server.place;
        if wake != Timestamp::NEVER {
            self.events.add(wake, Event::Wake(place));
        }
        for packet in sent {
            if place == Place::Online && self.conditions.capture.both_directions && self.is_captured(&packet) {
                self.capture(&packet);
            }
            let link = if place == Place::Online { &mut self.online_to_client } else { &mut self.from_target };
            for at in link.arrivals(self.now, &mut self.chance) {
                let event = match place {
                    Place::Online => Event::Arrival(Place::Clients, packet.clone()),
                    _ => Event::AtIntercept(packet.clone()),
                };
                self.events.add(at, event);
            }
        }
    }

    // ---- capture

    /// Whether the capture sees the connection that a packet between a client and online belongs to.
    fn is_captured(&self, packet: &[u8]) -> bool {
        let Ok(segment) = TcpSegment::from_ip_packet(packet, packet.len()) else { return true };
        let port = if segment.dst.port.0 == ONLINE_PORT { segment.src.port } else { segment.dst.port };
        self.clients
            .iter()
            .rfind(|connection| connection.client.port == port.0 && (connection.handle.is_some() || connection.over))
            .is_none_or(|connection| connection.client.application.is_captured())
    }

    fn capture(&mut self, packet: &[u8]) {
        let capture = self.conditions.capture;
        if self.now < Timestamp::ZERO + capture.begins || self.chance.hits(capture.loss) {
            return;
        }
        let mut at = self.now;
        if self.chance.hits(capture.reordering) {
            at = at + Duration::from_micros(self.chance.below(3_000));
        }
        if self.chance.hits(capture.duplication) {
            self.events.add(at + Duration::from_micros(5), Event::Captured(packet.to_vec()));
        }
        if capture.merging {
            for ready in self.merger.offer(packet) {
                self.events.add(at, Event::Captured(ready));
            }
            self.events.add(at + MERGE_WAIT, Event::MergeEnds);
        } else {
            self.events.add(at, Event::Captured(packet.to_vec()));
        }
    }

    fn frame(&mut self, packet: &[u8]) -> Result<(), Failure> {
        self.note("captured", packet);
        if let Ok(segment) = TcpSegment::from_ip_packet(packet, packet.len())
            && segment.tcp.flags().contains(Flags::RST)
        {
            *self.record.resets_captured.entry(segment.src.into()).or_default() += 1;
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
                self.events.add(at, Event::EngineDeadline);
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
                self.record.announced.insert(id, flow);
            }
            let event = Event::ControlToIntercept(self.control_losses, link, encoded(&change));
            self.events.add(self.now + self.conditions.control_delay, event);
        }
        for notice in outbox.notices.drain(..) {
            if self.conditions.trace {
                let _ = writeln!(std::io::stderr(), "{:?} {notice:?}", self.now);
            }
            self.record.notices.push((self.now, notice));
        }
        for (to, packet) in outbox.packets() {
            self.note("copier -> target", packet);
            packets::check(packet, self.mtu)?;
            let segment = TcpSegment::from_ip_packet(packet, packet.len()).map_err(|e| e.to_string())?;
            if segment.dst != self.conditions.target_endpoint() || to != segment.dst.addr {
                return Err(format!("sent to {to}, where nothing should go: {segment:?}"));
            }
            if !self.record.announced.values().any(|flow| *flow == segment.flow_from_client()) {
                return Err(format!("sent before its route was announced: {segment:?}"));
            }
            if segment.tcp.flags().contains(Flags::RST) {
                *self.record.resets_sent.entry(segment.src.into()).or_default() += 1;
            }
            for at in self.to_target.arrivals(self.now, &mut self.chance) {
                self.events.add(at, Event::Arrival(Place::Target, packet.to_vec()));
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
            self.events.add(self.now + self.conditions.control_delay, event);
        }
        if let Some(at) = wake.map(|at| at.max(self.now)).filter(|at| *at != self.intercept_wake) {
            self.intercept_wake = at;
            self.events.add(at, Event::InterceptDeadline);
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
}

fn input_is_timeout(input: &Input<'_>) -> bool {
    matches!(input, Input::Timeout)
}
