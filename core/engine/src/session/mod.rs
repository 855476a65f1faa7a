//! A session: one client connection and its replica.
//!
//! # Theory of operation
//!
//! ```text
//!  client's segments                                                       target's packets
//!        |                                                                        |
//!        v            bytes in order          marks released        heard         v
//!   [client half] -> [module's session] -> [queue] -> [gate] <------------- [target half] -> packets
//!        |                                    |                                   ^
//!        +-- acknowledgement numbers ---------+------- transmit ------------------+
//! ```
//!
//! What the module decides takes effect in `module`. Everything a session does ends in [`pump`](Session::pump): the gate
//! looks at what the queue holds back, the target half sends what the queue has released. Phases:
//!
//! ```text
//!  Waiting ---> Live ---> Lingering ---> (removed)
//!     |           |
//!     +-----------+-----> Ended -------> (removed)
//! ```
//!
//! - *Waiting*: the client has used its port again while the session before it still closes. Bytes are collected.
//! - *Live*: connected to the target, or connecting, or (the target closed, the module wants to go on) about to connect
//!   again with the client's next data.
//! - *Lingering*: copied to its end; kept for the last packets of both sides (RFC 9293, TIME-WAIT, but shorter: the port
//!   is the client's, and free again when the client says so with a SYN).
//! - *Ended*: given up, counted under a reason. What the client still sends is not copied. After a while the session is
//!   forgotten, and the client's next data may join mid-stream.
//!
//! [`Session::enter`] is the only place where the phase changes.

pub(crate) mod client;
pub(crate) mod deadlines;
pub(crate) mod delay;
mod ending;
pub(crate) mod gate;
mod held;
mod module;
pub(crate) mod online;
mod online_time;
pub(crate) mod queue;
pub(crate) mod reassembly;
pub(crate) mod watch;

use std::time::Duration;

use tcpcopy_module_api::{Payload, SessionInfo};
use tcpcopy_wire::Transport;
use tcpcopy_wire::control::{FlowId, ResponseHeader, RouteChange};
use tcpcopy_wire::tcp::Flags;
use tcpcopy_wire::{Endpoint, Flow, SeqNumber, TcpSegment, Timestamp};

use crate::copier::config::{CopierConfig, Gate};
use crate::counters::ModuleCounters;
use crate::ledger::{ByteDrop, Ledger, PacketDrop, SessionEnd};
use crate::outbox::{LinkId, Outbox};
use crate::target::{Offer, State, TargetHalf, Wire};
use client::{ClientEnd, ClientHalf};
use delay::DelayLine;
use gate::GateState;
use online::Online;
use queue::{Mark, MarkKind, QueuePool, StreamQueue};
use watch::Watch;

/// A finished session stays this long for the last packets of both sides.
const LINGER: Duration = Duration::from_secs(2);
/// After a session was given up, its client's next data may begin a new one no sooner than this.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What a session needs from the engine around it.
pub(crate) struct Context<'a> {
    pub(crate) now: Timestamp,
    /// When the present frame was captured, by the capture's clock.
    pub(crate) captured_at: Timestamp,
    pub(crate) config: &'a CopierConfig,
    pub(crate) ledger: &'a mut Ledger,
    pub(crate) counters: &'a mut ModuleCounters,
    pub(crate) out: &'a mut Outbox,
    pub(crate) pool: &'a mut QueuePool,
    pub(crate) ip_id: &'a mut u16,
}

/// See the [module's documentation](self).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Waiting,
    Live,
    Lingering,
    Ended,
}

/// No session, where one is named by its slot.
pub(crate) const NOBODY: u32 = u32::MAX;

/// See the [module's documentation](self).
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) id: FlowId,
    /// The client's connection to online.
    pub(crate) flow: Flow,
    /// The replica's end of the connection to the target.
    pub(crate) source: Endpoint,
    /// The session that waits for the end of this one.
    pub(crate) successor: u32,
    /// The map it was opened by.
    pub(crate) map: u16,
    /// Which copy of its client's connection it is.
    pub(crate) copy: u32,
    /// In milliseconds, of which a count goes around in 49 days: it only tells which of two sessions is newer.
    begun_at: u32,
    pub(crate) phase: Phase,
    /// On the engine's list of sessions that want to know when all responses are read.
    pub(crate) in_burst: bool,
    /// Behind an older session on its ports, which starts this one when it is over.
    pub(crate) queued: bool,
    /// It is being closed by an order, and counted under this reason when that is done.
    closing_for: Option<SessionEnd>,
    /// The client's initial sequence number; made up if the session was joined.
    isn: SeqNumber,
    offer: Offer,
    client: ClientHalf,
    target: TargetHalf,
    gate: GateState,
    queue: Option<Box<StreamQueue>>,
    watch: Option<Box<Watch>>,
    online: Option<Box<Online>>,
    delay: Option<Box<DelayLine>>,
    last_activity: Timestamp,
    /// When the queue last became non-empty.
    stalled_since: Timestamp,
    forget_at: Timestamp,
}

/// How a session begins.
#[derive(Clone, Copy)]
pub(crate) struct Beginning {
    pub(crate) id: FlowId,
    pub(crate) flow: Flow,
    pub(crate) source: Endpoint,
    pub(crate) map: u16,
    pub(crate) copy: u32,
    /// Initial sequence number towards the target; the stream begins with the number after it.
    pub(crate) isn: SeqNumber,
    pub(crate) joined: bool,
    /// It must wait for an older session.
    pub(crate) queued: bool,
    pub(crate) offer: Offer,
}

impl Session {
    /// A session that waits for its [`start`](Self::start).
    pub(crate) fn new(cx: &mut Context<'_>, beginning: Beginning) -> Self {
        let Beginning { id, flow, source, map, copy, isn, joined, queued, offer } = beginning;
        cx.ledger.sessions_seen += 1;
        cx.ledger.sessions_alive += 1;
        cx.ledger.of_map(map, |of_map| {
            of_map.sessions += 1;
            of_map.sessions_alive += 1;
        });
        cx.ledger.joined += u64::from(joined);
        let target = Flow { client: source, server: cx.config.maps[usize::from(map)].target };
        let info = SessionInfo { online: flow, target, joined };
        let watch = Watch::open(cx.config.module(map), info);
        let sees_online = watch.is_some() && cx.config.about(map).sees_online;
        Self {
            id,
            flow,
            source,
            successor: NOBODY,
            map,
            copy,
            phase: Phase::Waiting,
            in_burst: false,
            queued,
            closing_for: None,
            isn,
            offer,
            client: ClientHalf::new(isn + 1),
            target: TargetHalf::new(),
            gate: GateState::new(),
            queue: None,
            watch,
            // Online's answer to all copies of a connection is one.
            online: Online::new(
                sees_online,
                cx.config.measure_online && copy.is_multiple_of(cx.config.traffic.copies()),
            ),
            // Whoever joins has not seen the handshake, which tells the time.
            delay: (cx.config.preserve_rtt && !joined).then(|| Box::new(DelayLine::new(cx.now))),
            begun_at: cx.now.as_millis() as u32,
            last_activity: cx.now,
            stalled_since: cx.now,
            forget_at: Timestamp::NEVER,
        }
    }

    /// The only place where the phase changes.
    fn enter(&mut self, phase: Phase) {
        debug_assert!(
            matches!(
                (self.phase, phase),
                (Phase::Waiting, Phase::Live | Phase::Ended) | (Phase::Live, Phase::Lingering | Phase::Ended)
            ),
            "{}: {:?} -> {phase:?}",
            self.flow,
            self.phase
        );
        self.phase = phase;
    }

    /// The replica's connection.
    pub(crate) fn target_flow(&self, config: &CopierConfig) -> Flow {
        Flow { client: self.source, server: config.maps[usize::from(self.map)].target }
    }

    /// Whether `syn` is the SYN that this session began with, once more; or, captured out of turn, the one before the data
    /// that it was joined at.
    pub(crate) fn began_with(&self, syn: SeqNumber) -> bool {
        self.isn == syn
    }

    /// How long ago it began, in milliseconds.
    pub(crate) fn age(&self, now: Timestamp) -> u32 {
        (now.as_millis() as u32).wrapping_sub(self.begun_at)
    }

    /// Whether the session is over, and its ports are free.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Lingering | Phase::Ended)
    }

    /// Whether the session was given up.
    pub(crate) fn has_ended_early(&self) -> bool {
        self.phase == Phase::Ended
    }

    /// Whether bytes of the client wait in it.
    pub(crate) fn keeps_bytes(&self) -> bool {
        self.queue.as_deref().is_some_and(|queue| queue.byte_count() > 0)
            || self.watch.as_ref().is_some_and(|watch| watch.waiting() > 0)
            || self.client.hole_since != Timestamp::NEVER
    }

    /// Whether it has a route: it is connected to the target, or connecting, or was until a moment ago.
    pub(crate) fn is_connected(&self) -> bool {
        !matches!(self.target.state, State::Unopened | State::Closed)
    }

    /// Whether a SYN-ACK with this acknowledgement number is the one it waits for.
    pub(crate) fn expects_syn_ack(&self, ack: SeqNumber) -> bool {
        self.target.expects_syn_ack(ack)
    }

    /// Whether the engine should [`pump`](Self::pump) this when all responses are read.
    #[inline]
    pub(crate) fn waits_for_drain(&self) -> bool {
        self.phase == Phase::Live && self.gate.waits_for_drain()
    }

    /// The links that carry this session's routes: one of each intercept's.
    fn links(&self, config: &CopierConfig) -> impl Iterator<Item = LinkId> + use<> {
        let per = config.links_per_intercept.max(1);
        let own = (self.id.0 as u32 % u32::from(per)) as u16;
        (0..config.intercepts).map(move |i| LinkId(i * per + own))
    }

    /// Announces the route on every link that carries it, or only on `link`.
    pub(crate) fn announce(&self, config: &CopierConfig, link: Option<LinkId>, out: &mut Outbox) {
        let add = RouteChange::Add { id: self.id, transport: Transport::Tcp, flow: self.target_flow(config) };
        let payload = self.watch.as_ref().map_or(Payload::Headers, |watch| watch.payload());
        for to in self.links(config).filter(|l| link.is_none_or(|only| only == *l)) {
            out.routes.push((to, add));
            if payload != Payload::Headers {
                out.routes.push((to, RouteChange::Payload { id: self.id, payload }));
            }
        }
    }

    /// Takes the route back.
    pub(crate) fn withdraw(&self, config: &CopierConfig, out: &mut Outbox) {
        if self.target.state != State::Unopened {
            out.routes.extend(self.links(config).map(|l| (l, RouteChange::Remove { id: self.id })));
        }
    }

    fn halves<'a>(
        &'a mut self,
        cx: &'a mut Context<'_>,
    ) -> (&'a mut TargetHalf, Option<&'a mut StreamQueue>, Wire<'a>) {
        let wire = Wire {
            now: cx.now,
            ledger: cx.ledger,
            out: cx.out,
            ip_id: cx.ip_id,
            source: &self.source,
            target: &cx.config.maps[usize::from(self.map)].target,
            map: self.map,
            config: cx.config,
        };
        (&mut self.target, self.queue.as_deref_mut(), wire)
    }

    /// Connects to the target.
    pub(crate) fn start(&mut self, cx: &mut Context<'_>) {
        self.enter(Phase::Live);
        self.announce(cx.config, None, cx.out);
        let (isn, offer) = (self.isn, self.offer);
        let (target, _, mut wire) = self.halves(cx);
        target.open(&mut wire, isn, offer);
    }

    /// A captured segment of the client; a SYN only if it has data.
    #[inline]
    pub(crate) fn on_client_segment(&mut self, cx: &mut Context<'_>, segment: &TcpSegment<'_>) {
        if self.phase == Phase::Ended {
            cx.ledger.drop_packet(PacketDrop::SessionEnded);
            cx.ledger.drop_bytes(ByteDrop::PacketDropped, u64::from(segment.payload_len));
            if segment.tcp.flags().0 & (Flags::FIN.0 | Flags::RST.0) != 0 {
                // Nothing will come that it has to be known for.
                self.forget_at = self.forget_at.min(cx.now + LINGER);
            }
            return;
        }
        if segment.is_cut() {
            cx.ledger.drop_packet(PacketDrop::Truncated);
            cx.ledger.drop_bytes(ByteDrop::PacketDropped, u64::from(segment.payload_len));
            if self.phase != Phase::Lingering {
                self.end_early(cx, SessionEnd::CaptureCut);
            }
            return;
        }
        self.last_activity = cx.now;
        let intake = self.client.on_segment(cx.now, segment);
        cx.ledger.drop_bytes(ByteDrop::Duplicate, u64::from(intake.duplicate));
        if intake.out_of_window {
            cx.ledger.drop_packet(PacketDrop::OutOfWindow);
            cx.ledger.drop_bytes(ByteDrop::PacketDropped, segment.payload.len() as u64);
            return;
        }
        let flags = segment.tcp.flags();
        if flags.contains(Flags::RST) {
            // What a RST carries is a word to people, not part of the stream (RFC 9293, section 3.5.3).
            cx.ledger.drop_bytes(ByteDrop::PacketDropped, segment.payload.len() as u64);
        }
        if intake.is_new {
            cx.ledger.packets_used += 1;
        } else {
            cx.ledger.drop_packet(PacketDrop::Duplicate);
        }
        if self.phase == Phase::Lingering {
            // Nothing of a stream can come after its end; if a client sends it all the same, it is not copied.
            cx.ledger.drop_bytes(ByteDrop::SessionEnded, intake.in_order.len() as u64 + u64::from(intake.kept));
            return;
        }
        cx.ledger.pending_bytes += intake.in_order.len() as u64 + u64::from(intake.kept);
        if flags.contains(Flags::ACK)
            && let Some(delay) = &mut self.delay
        {
            delay.on_client_ack(cx.now);
            self.take_delayed_responses(cx);
            if self.is_over() {
                // By what the target had answered. What was kept for later has been forgotten with the rest.
                let bytes = intake.in_order.len() as u64;
                cx.ledger.pending_bytes -= bytes;
                return cx.ledger.drop_bytes(ByteDrop::SessionEnded, bytes);
            }
        }
        if self.online.is_some() {
            self.show_waiting_online_data(cx);
        }
        let ack = flags.contains(Flags::ACK).then(|| segment.tcp.ack());
        let mut news = false;
        if !intake.in_order.is_empty() {
            let need = self.client.turn(ack);
            self.client.advance(intake.in_order.len());
            self.accept(cx, intake.in_order, need, flags.contains(Flags::PSH));
            if self.client.waits() {
                self.take_waiting(cx);
            }
            news = true;
        }
        if let Some(end) = self.client.take_end(cx.now) {
            let need = self.client.turn(ack);
            self.push_end(cx, end, need);
            news = true;
        }
        if self.phase == Phase::Ended {
            return;
        }
        if intake.overflow {
            self.end_early(cx, SessionEnd::CaptureHole);
        } else if news {
            self.pump(cx, false);
        }
    }

    /// Hands on what had waited for the bytes that have just come.
    fn take_waiting(&mut self, cx: &mut Context<'_>) {
        loop {
            let (piece, duplicates) = self.client.take_piece();
            cx.ledger.drop_bytes(ByteDrop::Duplicate, duplicates as u64);
            cx.ledger.pending_bytes -= duplicates as u64;
            let Some(piece) = piece else { return };
            let need = self.client.turn(piece.ack);
            self.client.advance(piece.data.len());
            self.accept(cx, &piece.data, need, piece.push);
        }
    }

    /// Bytes of the client, in order: past the module, into the queue.
    #[inline]
    fn accept(&mut self, cx: &mut Context<'_>, data: &[u8], need: u32, push: bool) {
        let begins = need > 0 || self.client.handed_on_since(self.isn + 1) == data.len() as u32;
        if begins {
            cx.ledger.requests += 1;
            cx.ledger.of_map(self.map, |of_map| of_map.requests += 1);
            if let Some(time) = self.online.as_mut().and_then(|online| online.time.as_mut()) {
                time.on_request(cx.captured_at);
            }
        }
        if self.phase == Phase::Ended {
            // The module gave up on an earlier piece of the same segment.
            cx.ledger.pending_bytes -= data.len() as u64;
            cx.ledger.drop_bytes(ByteDrop::SessionEnded, data.len() as u64);
        } else if self.watch.is_some() {
            self.show_client_data(cx, data, need, push);
        } else {
            let need = if cx.config.gate == Gate::Off { 0 } else { need };
            let mark = Mark { need, push, begins, at: cx.now, ..Mark::default() };
            self.queue_for(cx).push_data(data, mark);
        }
    }

    #[inline]
    fn queue_for(&mut self, cx: &mut Context<'_>) -> &mut StreamQueue {
        if self.queue.is_none() {
            self.stalled_since = cx.now;
        }
        self.queue.get_or_insert_with(|| cx.pool.take())
    }

    /// An idle session holds no queue.
    #[inline]
    fn put_back_empty_queue(&mut self, cx: &mut Context<'_>) {
        if self.queue.as_deref().is_some_and(StreamQueue::is_empty)
            && let Some(queue) = self.queue.take()
        {
            cx.pool.put(queue);
        }
    }

    fn push_end(&mut self, cx: &mut Context<'_>, end: ClientEnd, need: u32) {
        let kind = match end {
            ClientEnd::Open => return,
            ClientEnd::Fin(_) => MarkKind::Fin,
            ClientEnd::Reset(_) => MarkKind::Reset,
        };
        let need = if cx.config.gate == Gate::Off { 0 } else { need };
        if self.watch.is_some() {
            self.show_client_close(cx, kind, need);
        } else {
            self.queue_for(cx).push_end(kind, need, 0);
        }
    }

    /// How much of the target's payload the module wants to see.
    pub(crate) fn wanted_payload(&self) -> Payload {
        self.watch.as_ref().map_or(Payload::Headers, |watch| watch.payload())
    }

    /// A packet of the target has come. It is taken up at once, or when the client's round-trip time has passed.
    #[inline]
    pub(crate) fn on_response(&mut self, cx: &mut Context<'_>, header: &ResponseHeader<'_>) {
        self.last_activity = cx.now;
        match &mut self.delay {
            Some(delay) if self.phase == Phase::Live => {
                delay.put(cx.now, header, cx.ledger);
                self.take_delayed_responses(cx);
            }
            _ => self.take_response(cx, header),
        }
    }

    /// Takes up the responses whose time has come.
    fn take_delayed_responses(&mut self, cx: &mut Context<'_>) {
        while let Some(response) = self.delay.as_mut().and_then(|delay| delay.take(cx.now, cx.ledger)) {
            self.take_response(cx, &response.header());
        }
    }

    /// A packet of the target.
    #[inline]
    fn take_response(&mut self, cx: &mut Context<'_>, header: &ResponseHeader<'_>) {
        let (target, queue, mut wire) = self.halves(cx);
        let heard = target.on_response(&mut wire, header, queue);
        if self.phase != Phase::Live {
            let (target, _, mut wire) = self.halves(cx);
            target.transmit(&mut wire, None);
            return;
        }
        if heard.advanced > 0 {
            if let Some(time) = self.gate.take_response_time(cx.now) {
                cx.ledger.response_time.add(time);
                cx.ledger.of_map(self.map, |of_map| of_map.response_time.add(time));
            }
            self.gate.on_target_data(cx.now, heard.advanced, heard.burst_end);
            self.gate.allow_pause(self.target.two_round_trips());
        }
        if self.target.has_hole() {
            self.gate.expect_more();
        }
        if heard.has_payload {
            self.show_target_data(cx, header, &heard);
            if self.phase != Phase::Live {
                return;
            }
        }
        if heard.fin {
            self.gate.open_for_good();
            if self.is_left_at_fin(cx) {
                self.leave_connection(cx);
            }
            if self.phase != Phase::Live {
                return;
            }
        }
        if let Some(closure) = heard.closure {
            self.on_closure(cx, closure);
            if self.phase != Phase::Live {
                return;
            }
        }
        self.pump(cx, false);
    }

    /// The gate looks, the target half sends. `drained`: there are no more responses to read for now.
    #[inline]
    pub(crate) fn pump(&mut self, cx: &mut Context<'_>, drained: bool) {
        if self.phase != Phase::Live {
            return;
        }
        // Most often a response finds nothing that waits for it, and its acknowledgement has time.
        if self.target.rests(cx.now) && self.queue.as_deref().is_none_or(StreamQueue::is_empty) {
            self.gate.quiet_at = Timestamp::NEVER;
            self.put_back_empty_queue(cx);
        } else {
            self.go_on(cx, drained);
        }
    }

    fn go_on(&mut self, cx: &mut Context<'_>, drained: bool) {
        match self.target.state {
            State::Unopened | State::SynSent => return,
            State::Closed => {
                // Reset by the target; the module wants to go on with what comes next.
                let holds = self.watch.as_ref().is_some_and(|watch| watch.holds());
                match self.queue.as_deref() {
                    Some(queue) if queue.byte_count() > 0 => self.reopen_in_time(cx),
                    _ if holds => self.reopen_for_held(cx),
                    None => {}
                    Some(queue) if queue.is_empty() => {
                        if let Some(queue) = self.queue.take() {
                            cx.pool.put(queue);
                        }
                    }
                    // Only an end is left, of a connection that is gone already.
                    Some(_) => self.complete(cx),
                }
                return;
            }
            State::Open => {}
        }
        if let Some(queue) = self.queue.as_deref_mut() {
            let copied = cx.ledger.requests_copied;
            self.gate.poll(cx.now, drained, queue, cx.ledger);
            let released = cx.ledger.requests_copied - copied;
            if released > 0 {
                cx.ledger.of_map(self.map, |of_map| of_map.requests_copied += released);
            }
        }
        let (target, queue, mut wire) = self.halves(cx);
        target.transmit(&mut wire, queue);
        self.put_back_empty_queue(cx);
        let closed_both_ways = self.target.fin_acked() && self.target.peer_closed();
        if closed_both_ways || !self.target.is_open() {
            self.complete(cx);
        }
    }
}
