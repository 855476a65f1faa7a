//! tcpcopy's engine: sessions, found by flow or by id, driven by packets, responses and time.

pub mod config;
mod fragments;
mod rate;
pub mod source;
mod table;
mod tunnels;
mod udp;

use std::time::Duration;

use tcpcopy_wire::control::{DatagramResponse, ResponseHeader};
use tcpcopy_wire::decap::{Frame, TunnelError};
use tcpcopy_wire::link::LinkType;
use tcpcopy_wire::tcp::{Flags, MIN_HEADER_LEN};
use tcpcopy_wire::{Endpoint, Packet, ParseError, TcpSegment, Timestamp, Transport};

use crate::counters::ModuleCounters;
use crate::latency::Latency;
use crate::ledger::{ByteDrop, Ledger, MapLedger, PacketDrop};
use crate::outbox::{LinkId, Outbox};
use crate::session::deadlines::Patience;
use crate::session::delay::DelayLine;
use crate::session::queue::QueuePool;
use crate::session::{Context, NOBODY, Session};
use crate::timer::TimerWheel;
use config::{CopierConfig, Map, Rate, Traffic};
use fragments::Reassembler;
use rate::RateLimit;
use table::SessionTable;
use tunnels::Tunnels;
use udp::UdpCopier;

/// After [`Input::Stop`] and [`Input::Pause`], sessions have this long to close.
const STOP_GRACE: Duration = Duration::from_secs(1);

/// What happens to a [`Copier`].
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// A frame was captured, from a client towards online as far as the capture's filter can tell.
    Frame {
        /// How the frame begins.
        link: LinkType,
        /// What was captured of it.
        bytes: &'a [u8],
        /// Its length on the wire, in bytes.
        wire_len: usize,
    },
    /// The frames that follow were captured then, by whatever clock the capture has. Only needed where online is measured;
    /// without it they were captured when they come.
    CapturedAt(Timestamp),
    /// An intercept reports a packet of the target.
    Response(ResponseHeader<'a>),
    /// An intercept reports a datagram of the target.
    Datagram(DatagramResponse<'a>),
    /// A frame of the target was captured here (`-s local`): what an intercept would have reported.
    TargetFrame {
        /// How the frame begins.
        link: LinkType,
        /// What was captured of it.
        bytes: &'a [u8],
        /// Its length on the wire, in bytes.
        wire_len: usize,
    },
    /// Everything that was readable has been handed over: the caller is about to wait. Ends bursts of responses.
    Drained,
    /// A connection to an intercept works (again): the routes of all live sessions must be added.
    LinkUp(LinkId),
    /// A connection to an intercept is lost.
    LinkDown(LinkId),
    /// The deadline has come.
    Timeout,
    /// From now on only this part of new connections is copied, in ten-thousandths: always the same clients' at the same
    /// part. Those that are left out are so whole; those under way go on.
    Share(u16),
    /// This part of the sessions is given up, in hundredths and rounded up, the newest first.
    CloseNewest(u8),
    /// Nothing more will be captured of the sessions that there are: what they have is copied, and then they close. Those
    /// of what is captured from now on are others, from other addresses or ports, even if their clients look the same.
    NextPass,
    /// Close all sessions towards the target and begin none, until [`Resume`](Input::Resume). What is captured meanwhile is
    /// dropped and counted.
    Pause,
    /// Copy again what begins from now on, and join what goes on.
    Resume,
    /// Copy so many connections of a hundred (1 to 100) of those that begin from now on, or are joined, and of datagrams. A
    /// ramp ends with this.
    Sample(u8),
    /// From now on the limit is this.
    MaxRate(Option<Rate>),
    /// Close all sessions towards the target, take no more. [`Copier::is_finished`] tells when that is done.
    Stop,
}

/// tcpcopy's engine. See the [crate's documentation](crate) for how it is driven.
pub struct Copier {
    config: CopierConfig,
    table: SessionTable,
    wheel: TimerWheel,
    patience: Patience,
    /// See [`CopierConfig::most_waiting`].
    most_waiting: u64,
    ledger: Ledger,
    counters: ModuleCounters,
    udp: UdpCopier,
    /// A module wants to see what online sends.
    sees_online: bool,
    /// See [`Input::CapturedAt`].
    captured_at: Option<Timestamp>,
    /// Packets may come in tunnels.
    tunnels: Option<Tunnels>,
    pool: QueuePool,
    ip_id: u16,
    /// Sessions whose gate waits for the end of a burst of responses.
    burst: Vec<u32>,
    /// Scratch: timers that are due, bursts that have ended.
    due: Vec<u32>,
    stop_at: Option<Timestamp>,
    paused: bool,
    /// When sessions that close for a pause are given up.
    pause_ends_at: Option<Timestamp>,
    shed_notice_at: Timestamp,
    /// The limit on connections, where there is one.
    limit: Option<RateLimit>,
    /// The part of new connections that is copied, see [`Input::Share`].
    share: u16,
    /// When the first packet came.
    first_packet_at: Option<Timestamp>,
    /// How often [`Input::NextPass`] came.
    pass: u32,
    /// Fragments of segments.
    fragments: Reassembler,
}

/// A [`Context`] from an engine's fields, leaving its table free to be borrowed.
macro_rules! context {
    ($engine:ident, $now:expr, $out:expr) => {
        Context {
            now: $now,
            captured_at: $engine.captured_at.unwrap_or($now),
            config: &$engine.config,
            ledger: &mut $engine.ledger,
            counters: &mut $engine.counters,
            out: $out,
            pool: &mut $engine.pool,
            ip_id: &mut $engine.ip_id,
        }
    };
}

/// The same for UDP, leaving its copier free to be borrowed.
macro_rules! udp_context {
    ($engine:ident, $now:expr, $out:expr) => {
        udp::Context {
            now: $now,
            captured_at: $engine.captured_at.unwrap_or($now),
            config: &$engine.config,
            ledger: &mut $engine.ledger,
            counters: &mut $engine.counters,
            out: $out,
            running: $engine.first_packet_at.map_or(std::time::Duration::ZERO, |at| $now.since(at)),
            pass: $engine.pass,
            share: $engine.share,
        }
    };
}

// Behind the macros that they use.
mod begin;
mod beside;
mod orders;
mod room;

impl Copier {
    /// An engine with no sessions.
    pub fn new(config: CopierConfig) -> Self {
        let maps = config.maps.len();
        Self {
            table: SessionTable::new(config.seed),
            ip_id: config.seed as u16,
            udp: UdpCopier::new(&config),
            tunnels: Tunnels::new(&config),
            limit: config.traffic.max_rate.map(RateLimit::new),
            share: Traffic::WHOLE,
            fragments: Reassembler::new(config.seed, MIN_HEADER_LEN),
            sees_online: (0..config.maps.len()).any(|map| config.about(map as u16).sees_online),
            captured_at: None,
            patience: Patience::new(&config),
            most_waiting: config.most_waiting(),
            config,
            wheel: TimerWheel::new(),
            ledger: Ledger { maps: vec![MapLedger::default(); maps], ..Ledger::default() },
            counters: ModuleCounters::default(),
            pool: QueuePool::default(),
            burst: Vec::new(),
            due: Vec::new(),
            stop_at: None,
            paused: false,
            pause_ends_at: None,
            shed_notice_at: Timestamp::ZERO,
            first_packet_at: None,
            pass: 0,
        }
    }

    /// Takes one input and adds to `out` what follows from it. `now` must not run backwards. Never panics, whatever the
    /// bytes.
    #[inline]
    pub fn handle(&mut self, now: Timestamp, input: Input<'_>, out: &mut Outbox) {
        match input {
            Input::Frame { link, bytes, wire_len } => self.on_frame(now, link, bytes, wire_len, out),
            Input::CapturedAt(at) => self.captured_at = Some(at),
            Input::Response(ref header) => self.on_response(now, header, out),
            Input::Datagram(ref response) => self.udp.on_response(&mut udp_context!(self, now, out), response),
            Input::TargetFrame { link, bytes, wire_len } => self.on_target_frame(now, link, bytes, wire_len, out),
            Input::Drained => self.on_drained(now, out),
            Input::Timeout => self.on_timeout(now, out),
            Input::LinkUp(link) => {
                for id in self.table.ids() {
                    let session = &self.table[id];
                    if session.is_connected() {
                        session.announce(&self.config, Some(link), out);
                    }
                }
                self.udp.on_link_up(&self.config, link, out);
            }
            // Nothing to do: responses are missed until the link is up again, and the target sends them again.
            Input::LinkDown(_) => {}
            Input::Share(share) => self.share = share,
            Input::CloseNewest(percent) => self.close_newest(now, percent, out),
            Input::NextPass => {
                self.for_all(now, out, Session::end_of_capture);
                self.pass = self.pass.wrapping_add(1);
            }
            Input::Pause => self.on_pause(now, out),
            Input::Resume => self.on_resume(now, out),
            Input::Sample(percentage) => {
                self.config.traffic.percentage = percentage.clamp(1, 100);
                self.config.traffic.ramp = None;
            }
            Input::MaxRate(rate) => {
                self.config.traffic.max_rate = rate;
                self.limit = rate.map(RateLimit::new);
                self.udp.set_limit(rate);
            }
            Input::Stop => self.on_stop(now, out),
        }
    }

    /// When [`Input::Timeout`] is due; `None` while nothing waits.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        let fragments = self.fragments.next_deadline();
        let tunnels = self.tunnels.as_ref().and_then(Tunnels::next_deadline);
        let closing = self.stop_at.or(self.pause_ends_at);
        [self.wheel.next_deadline(), closing, self.udp.next_deadline(&self.config), fragments, tunnels]
            .into_iter()
            .flatten()
            .min()
    }

    /// The counters.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// How long targets took to answer UDP datagrams.
    pub fn udp_latency(&self) -> &Latency {
        self.udp.latency()
    }

    /// The counters that modules have named themselves.
    pub fn module_counters(&self) -> &ModuleCounters {
        &self.counters
    }

    /// Whether, after [`Input::Stop`], nothing is left to do.
    pub fn is_finished(&self) -> bool {
        self.ledger.sessions_alive == 0
    }

    /// Bytes that sessions and what waits in them take, near enough.
    pub fn memory(&self) -> usize {
        let waiting = self.ledger.pending_bytes as usize;
        let delayed = self.ledger.responses_delayed as usize * DelayLine::RESPONSE_BYTES;
        let sessions = self.table.len() * SessionTable::SESSION_BYTES;
        let tunnels = self.tunnels.as_ref().map_or(0, Tunnels::memory);
        sessions + waiting + waiting / 4 + delayed + self.udp.memory() + self.fragments.memory() + tunnels
    }

    /// Whether a frame is of a client that a map is for, going by its addresses.
    pub fn concerns(&self, link: LinkType, bytes: &[u8], wire_len: usize) -> bool {
        let outer = Frame { link, bytes, wire_len };
        let inner = if self.tunnels.is_some() { self.config.decapsulation.innermost(outer) } else { Ok(None) };
        let frame = match inner {
            Ok(inner) => inner.unwrap_or(outer),
            Err(error) => return error == TunnelError::Fragment,
        };
        match Packet::from_frame(frame.link, frame.bytes, frame.wire_len) {
            Ok(Packet::Tcp(segment)) => self.map_for(&segment).is_ok(),
            Ok(Packet::Udp(datagram)) => {
                let takes = |map: &Map| map.transport == Transport::Udp && map.takes(datagram.src, datagram.dst);
                self.config.maps.iter().any(takes)
            }
            Ok(Packet::Fragment(_)) => true,
            Err(_) => false,
        }
    }

    /// Sessions in which something waits: for the target's window or answer, or to be acknowledged.
    pub fn sessions_waiting(&self) -> usize {
        self.pool.in_use()
    }

    #[inline]
    fn on_frame(&mut self, now: Timestamp, link: LinkType, bytes: &[u8], wire_len: usize, out: &mut Outbox) {
        self.ledger.packets_captured += 1;
        let frame = Frame { link, bytes, wire_len };
        if self.tunnels.is_some() {
            self.on_mirrored_frame(now, frame, out);
        } else {
            self.on_plain_frame(now, frame, out);
        }
    }

    /// A frame that is in no tunnel, or not any more.
    #[inline]
    fn on_plain_frame(&mut self, now: Timestamp, frame: Frame<'_>, out: &mut Outbox) {
        match Packet::from_frame(frame.link, frame.bytes, frame.wire_len) {
            Ok(Packet::Tcp(ref segment)) => self.on_segment(now, segment, out),
            Ok(ref other) => self.on_other_packet(now, other, out),
            Err(error) => {
                self.ledger.drop_packet(match error {
                    ParseError::Truncated => PacketDrop::Truncated,
                    ParseError::Malformed => PacketDrop::Malformed,
                    ParseError::Fragment => PacketDrop::Fragment,
                    ParseError::NotIp | ParseError::OtherProtocol => PacketDrop::OtherProtocol,
                });
            }
        }
    }

    #[inline]
    fn on_segment(&mut self, now: Timestamp, segment: &TcpSegment<'_>, out: &mut Outbox) {
        let map = match self.map_for(segment) {
            Ok(map) => map,
            Err(PacketDrop::NoMap) => return self.on_unmapped_segment(now, segment, out),
            Err(reason) => return self.ledger.drop_packet(reason),
        };
        let flags = segment.tcp.flags();
        self.ledger.client_packets += 1;
        self.ledger.bytes_captured += u64::from(segment.payload_len);
        self.ledger.client_data_packets += u64::from(segment.payload_len > 0);
        self.ledger.checksum_offloaded += u64::from(segment.checksum_is_offloaded());
        self.ledger.client_syns += u64::from(flags.contains(Flags::SYN));
        if let Some(reason) = self.drops_all() {
            let begins = flags.contains(Flags::SYN) && reason == PacketDrop::Paused;
            self.ledger.syns_paused += u64::from(begins);
            self.drop_segment(reason, segment);
            return;
        }
        if self.first_packet_at.is_none() {
            self.first_packet_at = Some(now);
        }
        let copies = self.config.traffic.copies_in(self.pass);
        self.copy_segment(now, segment, map, copies.start, out);
        for copy in copies.skip(1) {
            self.ledger.packets_multiplied += 1;
            self.ledger.bytes_multiplied += u64::from(segment.payload_len);
            self.copy_segment(now, segment, map, copy, out);
        }
    }

    /// A client's segment, for one of the copies of its connection.
    #[inline]
    fn copy_segment(&mut self, now: Timestamp, segment: &TcpSegment<'_>, map: u16, copy: u32, out: &mut Outbox) {
        let known = self.table.by_client(&segment.flow_from_client(), copy);
        if segment.tcp.flags().contains(Flags::SYN) {
            self.on_syn(now, segment, map, copy, known, out);
            return;
        }
        match known {
            Some(id) => {
                if self.ledger.pending_bytes > self.most_waiting && segment.payload_len > 0 {
                    self.give_up_for_memory(now, id, out);
                }
                let session = &mut self.table[id];
                if let Some(limit) = &mut self.limit
                    && !session.is_over()
                {
                    limit.carry(now, u64::from(segment.payload_len));
                }
                let mut cx = context!(self, now, out);
                session.on_client_segment(&mut cx, segment);
                if is_to_go(session, id, &mut self.burst, &mut self.wheel, &self.patience) {
                    self.remove(now, id, out);
                }
            }
            None => self.join(now, segment, map, copy, out),
        }
    }

    /// The first map that a packet belongs to.
    #[inline]
    fn map_for(&self, segment: &TcpSegment<'_>) -> Result<u16, PacketDrop> {
        let mut reason = PacketDrop::NoMap;
        for (i, map) in self.config.maps.iter().enumerate() {
            // What goes to a target is ours, even where the target's port is also online's.
            if segment.dst == map.target && map.transport == Transport::Tcp {
                reason = PacketDrop::OwnCopy;
                continue;
            }
            let wanted = map.transport == Transport::Tcp && map.takes(segment.src, segment.dst);
            if wanted && reason != PacketDrop::OwnCopy {
                return Ok(i as u16);
            }
        }
        Err(reason)
    }

    /// Whether a client is in the sample.
    fn samples(&self, now: Timestamp, client: Endpoint) -> bool {
        let running = self.first_packet_at.map_or(Duration::ZERO, |at| now.since(at));
        self.config.traffic.samples(client, running)
    }

    /// A packet of a client that is not used.
    fn drop_segment(&mut self, reason: PacketDrop, segment: &TcpSegment<'_>) {
        self.ledger.drop_packet(reason);
        self.ledger.drop_bytes(ByteDrop::PacketDropped, u64::from(segment.payload_len));
    }

    #[inline]
    fn on_response(&mut self, now: Timestamp, header: &ResponseHeader<'_>, out: &mut Outbox) {
        let Some((id, session)) = self.table.by_id(header.id) else { return self.on_stale_response(now, header, out) };
        let mut cx = context!(self, now, out);
        session.on_response(&mut cx, header);
        if is_to_go(session, id, &mut self.burst, &mut self.wheel, &self.patience) {
            self.remove(now, id, out);
        }
    }

    /// A response for a session that is gone. When a port is used again at once, the new connection's SYN may reach the
    /// target before its route reaches intercept, which then reports the SYN-ACK under the old route's id. The new
    /// session has mostly taken over the old one's slot, and its initial sequence number proves that it is meant.
    #[cold]
    fn on_stale_response(&mut self, now: Timestamp, header: &ResponseHeader<'_>, out: &mut Outbox) {
        if header.flags.contains(Flags::SYN | Flags::ACK)
            && let Some((id, session)) = self.table.by_former_id(header.id)
            && session.expects_syn_ack(header.ack)
        {
            let mut cx = context!(self, now, out);
            session.on_response(&mut cx, header);
            return self.settle(now, id, out);
        }
        self.ledger.responses += 1;
        self.ledger.stale_responses += 1;
    }

    /// After anything happened to a session: its successor, its deadline, its place on the burst list.
    fn settle(&mut self, now: Timestamp, id: u32, out: &mut Outbox) {
        if is_to_go(&mut self.table[id], id, &mut self.burst, &mut self.wheel, &self.patience) {
            self.remove(now, id, out);
        }
    }

    fn on_drained(&mut self, now: Timestamp, out: &mut Outbox) {
        if self.burst.is_empty() {
            return;
        }
        std::mem::swap(&mut self.burst, &mut self.due);
        for i in 0..self.due.len() {
            let id = self.due[i];
            // The slot may hold another session by now; asking that one does no harm.
            let Some(session) = self.table.get_mut(id) else { continue };
            session.in_burst = false;
            let mut cx = context!(self, now, out);
            session.pump(&mut cx, true);
            self.settle(now, id, out);
        }
        self.due.clear();
    }

    fn on_timeout(&mut self, now: Timestamp, out: &mut Outbox) {
        let mut due = std::mem::take(&mut self.due);
        self.wheel.expire(now, &mut due);
        for &id in &due {
            let Some(session) = self.table.get_mut(id) else { continue };
            let mut cx = context!(self, now, out);
            if session.on_timeout(&mut cx) {
                self.remove(now, id, out);
            } else {
                self.settle(now, id, out);
            }
        }
        due.clear();
        self.due = due;
        let ledger = &mut self.ledger;
        self.fragments.expire(Some(now), |_| ledger.tcp_incomplete += 1);
        if let Some(tunnels) = &mut self.tunnels {
            tunnels.expire(now, ledger);
        }
        if self.config.preserve_rtt {
            // What was delayed has been read long ago.
            self.on_drained(now, out);
        }
        self.udp.on_timeout(&mut udp_context!(self, now, out));
        if self.stop_at.is_some_and(|at| now >= at) {
            self.stop_at = Some(Timestamp::NEVER);
            self.for_all(now, out, Session::stop_now);
        }
        if self.pause_ends_at.is_some_and(|at| now >= at) {
            self.pause_ends_at = None;
            self.for_all(now, out, Session::stop_now);
        }
    }

    fn for_all(&mut self, now: Timestamp, out: &mut Outbox, action: impl Fn(&mut Session, &mut Context<'_>)) {
        for id in self.table.ids() {
            let Some(session) = self.table.get_mut(id) else { continue };
            let mut cx = context!(self, now, out);
            action(session, &mut cx);
            self.settle(now, id, out);
        }
    }
}

/// Sees to a session's deadline and its place on the burst list. Tells whether it is over, and its successor has waited for
/// that.
#[inline(always)]
fn is_to_go(session: &mut Session, id: u32, burst: &mut Vec<u32>, wheel: &mut TimerWheel, patience: &Patience) -> bool {
    if session.queued {
        return false;
    }
    if session.is_over() && session.successor != NOBODY {
        return true;
    }
    if session.waits_for_drain() && !session.in_burst {
        session.in_burst = true;
        burst.push(id);
    }
    let deadline = session.deadline(patience);
    if deadline != Timestamp::NEVER {
        wheel.arm(id, deadline);
    }
    false
}
