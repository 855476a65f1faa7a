//! intercept's engine: brings each packet of a target to the tcpcopy that waits for it.
//!
//! # Theory of operation
//!
//! A *peer* is one control connection of one tcpcopy. It adds a *route* before it opens a connection to the target: a
//! flow, and the id under which it wants to hear of that flow. A *response* is a captured frame with a TCP segment or
//! a UDP datagram from a target; its flow is looked up with the sender as the server.
//!
//! ```text
//!                       route known
//! frame --parse--> response ------------------------> record in the peer's batch (relayed)
//!   |                 |                                     ^             |
//!   | unreadable      | no route                            | RouteAdd    | peer's buffer full,
//!   v                 v                                     |             | peer gone
//! dropped           early queue (held) --------------------+              v
//!                     |  one second, or pushed out by newer             dropped
//!                     v
//!                   dropped
//! ```
//!
//! **Routes.** A flow has one route: adding it again, from whichever peer, replaces the older one, because the newest
//! tcpcopy that claims a flow is the one that just opened it. Ids belong to their peer: two tcpcopys, or two workers
//! of one, may use equal ids without knowing of each other. A route ends when its peer removes it, when its peer
//! goes, when it is replaced, or when no response has used it and nobody has added it again for the time that its peer
//! asked for. The last is found by a hand that walks over the table once in at most a minute and never more than an
//! eighth of the shortest of these times, so that no packet pays for the bookkeeping of a list.
//!
//! **Early responses.** The route of a connection travels over TCP, its SYN over another path; a target nearby may
//! answer before the route is here. The same happens to all live connections when a control connection breaks and is
//! set up again. Such responses are kept for [`EARLY_KEPT_FOR`], at most [`RelayConfig::early_limit`] of them, the
//! oldest making room, and are released in order when their route comes. Once any route wants payload, early responses
//! keep theirs, too, within 4 MB over all of them: how much of it their own route wants is said behind the route.
//!
//! **Peers.** The routes of a peer that goes are removed at once. Its tcpcopy connects again and adds them again; what
//! was captured in between is early, and is released then.
//!
//! **Time.** One deadline: that of the oldest early response, or the next step of the hand while there are routes.
//! Routes measure time in seconds.
//!
//! **Payload.** A route begins without; its peer may ask for the first bytes of each packet, or for all, at any time. Where
//! all of it is wanted and the capture cut a packet, what was captured and what was not are reported apart, so that the
//! peer can acknowledge the one and gets the other sent again: a capture that is too short delays but never stops a
//! session. A peer that has not said in its hello that it knows of payload is sent none.
//!
//! **Several relays.** Where several threads share a capture, by flow, each has a relay and tells it of all peers and
//! routes; see [`RelayStats::of_workers`]. A route that only another relay uses is idle here and is forgotten in time. That
//! costs nothing as long as a flow's responses go to one relay. Only fragments, which are shared by addresses, may come to
//! another one, and find no route when none of that flow came there for so long.
//!
//! **The C programs.** Their tcpcopy is served, too, by routes that have the peer's number and an id that is nobody's
//! business; its responses are records of their link. It removes no routes: once the target has closed, one is kept for a
//! minute only. What has no route goes, with [`LegacyConfig::single`], to one of those peers without. See `legacy`.
//!
//! **Addresses.** Where a host on the way changes them, responses show others than the routes have; see [`Translation`].
//!
//! **Memory.** No peer has more than half of the routes that there may be. A route costs 64 bytes, a quarter more for room to grow, and two index entries of 5 bytes at a load
//! between 7/16 and 7/8: at most 103 bytes, whether anything happens on it or not.
//!
//! **Accounting.** `frames = relayed + dropped by reason + held`, at any moment; see [`RelayStats::check`].

mod early;
mod legacy;
mod outbox;
mod routes;
mod stats;
#[cfg(test)]
mod tests;
mod translation;

use std::time::Duration;

use tcpcopy_wire::control::{
    BatchEncoder, FEATURE_PAYLOAD, FlowId, LinkStats, MAX_RECORD_PAYLOAD, Payload, ResponseHeader, RouteChange,
};
use tcpcopy_wire::ip::PROTOCOL_UDP;
use tcpcopy_wire::link::LinkType;
use tcpcopy_wire::tcp::Flags;
use tcpcopy_wire::{Flow, Packet, ParseError, SeqNumber, Timestamp, Transport, UdpDatagram};

use early::EarlyQueue;
pub use legacy::LegacyConfig;
use outbox::Encoder;
pub use outbox::{RelayNotice, RelayOutbox};
use routes::{Added, RouteTable};
pub use stats::{RelayDrop, RelayStats};
pub use translation::Translation;

/// How long a response without a route is kept.
pub const EARLY_KEPT_FOR: Duration = Duration::from_secs(1);

/// Time between two steps of the hand that finds idle routes.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// Steps in which the hand goes round at most.
const SWEEP_STEPS: u32 = 60;
/// Shortest time between two notices about responses without a route.
const UNROUTED_NOTICE_EVERY: Duration = Duration::from_secs(10);

/// One control connection of a tcpcopy. The caller numbers them, from 0 and densely: the number is used as an index. A
/// number may be used again after [`RelayInput::PeerGone`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(pub u32);

/// What a [`Relay`] is told at its start.
#[derive(Clone, Debug)]
pub struct RelayConfig {
    /// Routes for which there is room at once (`-s`).
    pub initial_routes: usize,
    /// Routes at most; further ones are refused and counted.
    pub route_limit: usize,
    /// Routes of one peer at most, so that none fills the table; further ones are refused and counted.
    pub route_limit_per_peer: usize,
    /// How long an idle route is kept when its peer does not say.
    pub default_route_ttl: Duration,
    /// Early responses kept at most.
    pub early_limit: usize,
    /// Start value of the hash keys.
    pub seed: u64,
    /// How tcpcopys of the C programs are served.
    pub legacy: LegacyConfig,
    /// What was changed of addresses on the way.
    pub translation: Translation,
}

impl Default for RelayConfig {
    fn default() -> Self {
        Self {
            initial_routes: 65_536,
            route_limit: 1 << 23,
            route_limit_per_peer: 1 << 22,
            default_route_ttl: Duration::from_secs(3600),
            early_limit: 4096,
            seed: 0,
            legacy: LegacyConfig::default(),
            translation: Translation::default(),
        }
    }
}

/// What happens to a [`Relay`].
#[derive(Clone, Copy, Debug)]
pub enum RelayInput<'a> {
    /// A frame was captured, from a target as far as the capture's filter can tell.
    Frame {
        /// How the frame begins.
        link: LinkType,
        /// What was captured of it: the headers are enough.
        bytes: &'a [u8],
        /// Its length on the wire, in bytes.
        wire_len: usize,
    },
    /// A tcpcopy has connected and said hello.
    PeerUp {
        /// The connection.
        peer: PeerId,
        /// How long its idle routes are kept; zero leaves it to [`RelayConfig::default_route_ttl`].
        route_ttl: Duration,
        /// Most responses that it takes in one frame; zero: as many as fit.
        max_batch: u16,
        /// What it can do, by its hello.
        features: u32,
    },
    /// A tcpcopy of the C programs has connected and said its version.
    LegacyPeerUp {
        /// The connection.
        peer: PeerId,
    },
    /// A tcpcopy changes a route. Ignored when the peer is not up.
    Route {
        /// The connection that the change came on.
        peer: PeerId,
        /// The change.
        change: RouteChange,
    },
    /// Responses that were taken from the outbox could not be sent after all.
    Undelivered {
        /// Whom they were for.
        peer: PeerId,
        /// How many.
        responses: u64,
        /// Why: [`RelayDrop::LinkFull`] or [`RelayDrop::LinkClosed`].
        reason: RelayDrop,
    },
    /// A connection is lost.
    PeerGone {
        /// The connection.
        peer: PeerId,
    },
    /// The deadline has come.
    Timeout,
}

#[derive(Clone, Debug, Default)]
struct Peer {
    up: bool,
    legacy: bool,
    takes_payload: bool,
    route_ttl_secs: u32,
    routes_alive: u64,
    relayed: u64,
    overflowed: u64,
    told_full: bool,
}

/// intercept's engine.
pub struct Relay {
    config: RelayConfig,
    routes: RouteTable,
    early: EarlyQueue,
    peers: Vec<Peer>,
    stats: RelayStats,
    next_sweep: Timestamp,
    /// Responses without a route since the last notice about them.
    unrouted_since_notice: u64,
    next_unrouted_notice: Timestamp,
    told_table_full: bool,
    /// Most that any route has asked for.
    largest_wish: Payload,
    /// Peers that get what has no route, in the order in which they came.
    single: Vec<PeerId>,
}

impl Relay {
    /// An engine without peers.
    pub fn new(config: RelayConfig) -> Self {
        Self {
            routes: RouteTable::new(config.initial_routes.min(config.route_limit), config.seed),
            early: EarlyQueue::new(config.early_limit, config.seed),
            peers: Vec::new(),
            stats: RelayStats::default(),
            next_sweep: Timestamp::ZERO,
            unrouted_since_notice: 0,
            next_unrouted_notice: Timestamp::ZERO,
            told_table_full: false,
            largest_wish: Payload::Headers,
            single: Vec::new(),
            config,
        }
    }

    /// Takes one input and adds to `out` what follows from it. `now` must not run backwards. Never panics, whatever
    /// the bytes.
    #[inline]
    pub fn handle(&mut self, now: Timestamp, input: RelayInput<'_>, out: &mut RelayOutbox) {
        match input {
            RelayInput::Frame { link, bytes, wire_len } => self.on_frame(now, link, bytes, wire_len, out),
            RelayInput::PeerUp { peer, route_ttl, max_batch, features } => {
                self.on_peer_up(peer, route_ttl, max_batch, features, out);
            }
            RelayInput::LegacyPeerUp { peer } => self.on_legacy_peer_up(peer, out),
            RelayInput::Route { peer, change } => match change {
                RouteChange::Add { id, transport, flow } => self.on_route_add(now, peer, id, transport, flow, out),
                RouteChange::Remove { id } => self.on_route_remove(peer, id),
                RouteChange::Payload { id, payload } => self.on_wish(peer, id, payload),
            },
            RelayInput::Undelivered { peer, responses, reason } => self.undelivered(peer, responses, reason),
            RelayInput::PeerGone { peer } => self.on_peer_gone(peer, out),
            RelayInput::Timeout => self.on_timeout(now, out),
        }
    }

    /// When [`RelayInput::Timeout`] is due; `None` while nothing waits.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        let early = self.early.oldest().map(|at| at + EARLY_KEPT_FOR);
        let sweep = (!self.routes.is_empty()).then_some(self.next_sweep);
        match (early, sweep) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// The counters.
    pub fn stats(&self) -> &RelayStats {
        &self.stats
    }

    /// What a peer may want to know. Frames that the kernel dropped are the caller's to fill in.
    pub fn link_stats(&self, peer: PeerId) -> LinkStats {
        let dropped = |reason: RelayDrop| self.stats.dropped[reason as usize];
        let p = self.peers.get(peer.0 as usize).cloned().unwrap_or_default();
        LinkStats {
            frames_captured: self.stats.frames,
            kernel_drops: 0,
            unrouted: dropped(RelayDrop::NoRoute) + dropped(RelayDrop::EarlyFull),
            relayed: p.relayed,
            overflowed: p.overflowed,
            routes_alive: p.routes_alive,
        }
    }

    /// The largest wish for payload that a route has had so far: as much of each packet must be captured.
    #[inline]
    pub fn wants_payload(&self) -> Payload {
        self.largest_wish
    }

    /// Bytes of memory that the routes take, room to grow included.
    pub fn route_memory(&self) -> usize {
        self.routes.memory()
    }

    #[inline]
    fn on_frame(&mut self, now: Timestamp, link: LinkType, bytes: &[u8], wire_len: usize, out: &mut RelayOutbox) {
        self.stats.frames += 1;
        let error = match Packet::from_frame(link, bytes, wire_len) {
            Ok(Packet::Tcp(segment)) => {
                let response = ResponseHeader::of(&segment);
                return self.on_response(now, Transport::Tcp, &segment.flow_from_server(), response, out);
            }
            Ok(Packet::Udp(datagram)) => return self.on_datagram(now, &datagram, out),
            // Only the first has the ports; it stands for all of them.
            Ok(Packet::Fragment(f)) if f.protocol == PROTOCOL_UDP && f.offset == 0 => {
                match UdpDatagram::from_transport(f.src, f.dst, f.data, usize::from(u16::MAX)) {
                    Ok(datagram) => return self.on_datagram(now, &datagram, out),
                    Err(e) => e,
                }
            }
            Ok(Packet::Fragment(_)) => ParseError::Fragment,
            Err(e) => e,
        };
        self.stats.drop_frames(
            match error {
                ParseError::Truncated => RelayDrop::Truncated,
                ParseError::Malformed => RelayDrop::Malformed,
                ParseError::Fragment => RelayDrop::Fragment,
                ParseError::NotIp | ParseError::OtherProtocol => RelayDrop::OtherProtocol,
            },
            1,
        );
    }

    fn on_datagram(&mut self, now: Timestamp, datagram: &UdpDatagram<'_>, out: &mut RelayOutbox) {
        self.stats.datagrams += 1;
        // Of a datagram only this much is told.
        let response = ResponseHeader {
            id: FlowId(0),
            seq: SeqNumber(0),
            ack: SeqNumber(0),
            flags: Flags(0),
            window: 0,
            payload_len: datagram.payload_len.into(),
            options: &[],
            payload: datagram.payload,
        };
        self.on_response(now, Transport::Udp, &datagram.flow_from_server(), response, out);
    }

    #[inline]
    fn on_response(
        &mut self,
        now: Timestamp,
        transport: Transport,
        flow: &Flow,
        mut response: ResponseHeader<'_>,
        out: &mut RelayOutbox,
    ) {
        self.stats.responses += 1;
        let flow = &self.config.translation.as_sent(*flow);
        let key = self.config.translation.key(*flow);
        if let Some((peer, id, payload)) = self.routes.find_and_touch(transport, &key, seconds(now)) {
            self.stats.matched += 1;
            self.watch_for_close(peer, transport, &key, response.flags);
            response.id = id;
            response.payload = payload.of(response.payload);
            if payload == Payload::Full && transport == Transport::Tcp {
                out.push_all_of(peer, flow, &response);
            } else {
                out.push(peer, transport, flow, &response);
            }
            self.stats.relayed += 1;
            self.peers[peer.0 as usize].relayed += 1;
        } else if !self.relay_without_route(transport, flow, &response, out) {
            self.expire_early(now, out);
            self.stats.early_kept += 1;
            response.payload = self.largest_wish.of(response.payload);
            if let Some((transport, flow)) = self.early.keep(now, transport, &key, &response) {
                self.count_unrouted(now, transport, flow, RelayDrop::EarlyFull, out);
            }
            self.stats.held = self.early.len() as u64;
        }
    }

    fn on_peer_up(&mut self, peer: PeerId, route_ttl: Duration, max_batch: u16, features: u32, out: &mut RelayOutbox) {
        let route_ttl_secs = self.route_ttl_secs(route_ttl);
        let takes_payload = features & FEATURE_PAYLOAD != 0;
        let state = Peer { up: true, takes_payload, route_ttl_secs, ..Peer::default() };
        self.admit(peer, state, Encoder::Current(BatchEncoder::new(max_batch)), out);
    }

    /// How long the routes of a peer that says this are kept.
    fn route_ttl_secs(&self, said: Duration) -> u32 {
        let ttl = if said.is_zero() { self.config.default_route_ttl } else { said };
        u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX).max(1)
    }

    /// Begins to serve a peer, in the place of one that had its number.
    fn admit(&mut self, peer: PeerId, state: Peer, encoder: Encoder, out: &mut RelayOutbox) {
        self.on_peer_gone(peer, out);
        let at = peer.0 as usize;
        if self.peers.len() <= at {
            self.peers.resize(at + 1, Peer::default());
        }
        self.peers[at] = state;
        out.set_encoder(peer, encoder);
    }

    fn on_route_add(
        &mut self,
        now: Timestamp,
        peer: PeerId,
        id: FlowId,
        transport: Transport,
        flow: Flow,
        out: &mut RelayOutbox,
    ) {
        if !self.is_up(peer) || !self.suits(peer, transport, &flow) {
            return;
        }
        let key = self.config.translation.key(flow);
        if self.routes.is_empty() {
            self.next_sweep = now + SWEEP_EVERY;
        }
        if self.routes.len() >= self.config.route_limit && !self.routes.contains(transport, &key) {
            self.stats.routes_refused += 1;
            if !self.told_table_full {
                self.told_table_full = true;
                out.notices.push(RelayNotice::RouteTableFull { limit: self.config.route_limit });
            }
            return;
        }
        let share = self.config.route_limit_per_peer;
        let p = &mut self.peers[peer.0 as usize];
        if p.routes_alive >= share as u64 && self.routes.owner(transport, &key) != Some(peer) {
            self.stats.routes_over_share += 1;
            if !std::mem::replace(&mut p.told_full, true) {
                out.notices.push(RelayNotice::PeerRoutesFull { peer, limit: share });
            }
            return;
        }
        self.stats.routes_added += 1;
        self.peers[peer.0 as usize].routes_alive += 1;
        let Added { replaced_flow, replaced_id } = self.routes.add(seconds(now), peer, id, transport, key);
        for owner in [replaced_flow, replaced_id].into_iter().flatten() {
            self.stats.routes_replaced += 1;
            self.peers[owner.0 as usize].routes_alive -= 1;
        }
        self.wish_by_itself(peer, id);
        self.count_routes();
        self.expire_early(now, out);
        let takes_payload = self.peers[peer.0 as usize].takes_payload;
        let Self { early, stats, peers, .. } = self;
        early.release(transport, &key, |response| {
            stats.early_released += 1;
            stats.relayed += 1;
            peers[peer.0 as usize].relayed += 1;
            // How much of its payload is wanted comes behind the route: it goes with all that was kept.
            let payload = if takes_payload { response.payload } else { &[] };
            out.push(peer, transport, &flow, &ResponseHeader { id, payload, ..*response });
        });
        self.stats.held = self.early.len() as u64;
    }

    fn on_route_remove(&mut self, peer: PeerId, id: FlowId) {
        if self.routes.remove(peer, id) {
            self.stats.routes_removed += 1;
            self.peers[peer.0 as usize].routes_alive -= 1;
            self.count_routes();
        } else {
            self.stats.unknown_removals += 1;
        }
    }

    fn on_wish(&mut self, peer: PeerId, id: FlowId, payload: Payload) {
        let payload = match payload {
            Payload::First(0) => Payload::Headers,
            // More than one record holds; in several, "the first bytes" would begin with each of them anew.
            Payload::First(n) if usize::from(n) > MAX_RECORD_PAYLOAD => Payload::Full,
            other => other,
        };
        if self.is_up(peer) && self.routes.set_payload(peer, id, payload) {
            self.largest_wish = self.largest_wish.max(payload);
        } else {
            self.stats.unknown_wishes += 1;
        }
    }

    fn on_peer_gone(&mut self, peer: PeerId, out: &mut RelayOutbox) {
        if !self.is_up(peer) {
            return;
        }
        let unsent = out.discard(peer);
        self.undelivered(peer, unsent, RelayDrop::LinkClosed);
        let routes = self.routes.remove_peer(peer, self.peers[peer.0 as usize].routes_alive);
        self.stats.routes_orphaned += routes;
        self.single.retain(|single| *single != peer);
        self.peers[peer.0 as usize] = Peer::default();
        self.count_routes();
        out.notices.push(RelayNotice::RoutesOrphaned { peer, routes });
    }

    fn undelivered(&mut self, peer: PeerId, responses: u64, reason: RelayDrop) {
        let responses = self.stats.count_undelivered(reason, responses);
        if let Some(p) = self.peers.get_mut(peer.0 as usize) {
            p.relayed = p.relayed.saturating_sub(responses);
            p.overflowed += responses;
        }
    }

    fn on_timeout(&mut self, now: Timestamp, out: &mut RelayOutbox) {
        self.expire_early(now, out);
        if self.routes.is_empty() || now < self.next_sweep {
            return;
        }
        self.next_sweep = now + SWEEP_EVERY;
        let shortest = self.peers.iter().filter(|p| p.up).map(|p| p.route_ttl_secs).min().unwrap_or(1);
        let steps = (shortest / 8).clamp(1, SWEEP_STEPS);
        let Self { routes, peers, stats, .. } = self;
        routes.sweep(steps, |route_peer, last_used, closing| {
            let p = &mut peers[route_peer.0 as usize];
            let ttl = if closing { p.route_ttl_secs.min(legacy::CLOSED_KEPT_SECS) } else { p.route_ttl_secs };
            let idle = seconds(now).saturating_sub(last_used) > ttl;
            if idle {
                p.routes_alive -= 1;
                stats.routes_expired += 1;
            }
            idle
        });
        self.count_routes();
    }

    fn expire_early(&mut self, now: Timestamp, out: &mut RelayOutbox) {
        while self.early.oldest().is_some_and(|at| at + EARLY_KEPT_FOR <= now) {
            if let Some((transport, flow)) = self.early.drop_oldest() {
                self.count_unrouted(now, transport, flow, RelayDrop::NoRoute, out);
            }
        }
        self.stats.held = self.early.len() as u64;
    }

    fn count_unrouted(
        &mut self,
        now: Timestamp,
        transport: Transport,
        flow: Flow,
        reason: RelayDrop,
        out: &mut RelayOutbox,
    ) {
        self.stats.drop_frames(reason, 1);
        self.stats.datagrams_unrouted += u64::from(transport == Transport::Udp);
        self.unrouted_since_notice += 1;
        if now >= self.next_unrouted_notice {
            self.next_unrouted_notice = now + UNROUTED_NOTICE_EVERY;
            out.notices.push(RelayNotice::Unrouted { transport, flow, responses: self.unrouted_since_notice });
            self.unrouted_since_notice = 0;
        }
    }

    fn count_routes(&mut self) {
        self.stats.routes_alive = self.routes.len() as u64;
        if self.routes.len() < self.config.route_limit {
            self.told_table_full = false;
        }
    }

    fn is_up(&self, peer: PeerId) -> bool {
        self.peers.get(peer.0 as usize).is_some_and(|p| p.up)
    }
}

/// The clock of the routes.
#[inline]
fn seconds(now: Timestamp) -> u32 {
    (now.as_nanos() / 1_000_000_000) as u32
}
