//! UDP copy: each datagram of a client, to the targets of all maps that match it.
//!
//! # Theory of operation
//!
//! ```text
//! fragment --> put together --+
//! datagram -------------------+--> maps --> sample, rate --> for each map and copy: flow --> (module) --> packets
//!                                                                                     ^
//! datagram of the target (from intercept) --> its flow: answered, how long it took ---+
//! ```
//!
//! There is no connection to keep and nothing to wait for: a datagram goes out in the call that brings it, and no target
//! can delay another. What is remembered of a client is its *flow*: which source address and port its copies have, the
//! route that brings back what the target answers, and when what was sent. A flow that is not used for
//! [`udp_idle_timeout`](super::config::CopierConfig::udp_idle_timeout) is forgotten; at the limit the one that was used longest ago makes room.
//!
//! A response is taken to answer the datagram that was sent first of those not answered yet: right for clients that wait
//! or keep order, near enough for ratios and latencies of others. After some seconds a datagram is not waited for any more,
//! so that a lost answer does not shift all that follow.

mod flows;

use std::time::Duration;

use tcpcopy_module_api::{Payload, SessionInfo, TargetData};
use tcpcopy_wire::control::{DatagramResponse, FlowId, RouteChange};
use tcpcopy_wire::ip::IpFragment;
use tcpcopy_wire::udp::{UDP_HEADER_LEN, UdpRepr};
use tcpcopy_wire::{Endpoint, Flow, Timestamp, Transport, UdpDatagram};

use super::config::{CopierConfig, Map, Rate, Traffic};
use super::fragments::{Fate, Reassembler};
use super::rate::RateLimit;
use crate::counters::ModuleCounters;
use crate::latency::Latency;
use crate::ledger::{ByteDrop, Ledger, PacketDrop};
use crate::outbox::{LinkId, Notice, Outbox};
use crate::session::queue::StreamQueue;
use crate::session::watch::{Hook, Stage, Verdict, Watch};
use flows::{Answer, FlowTable, Key};

/// What this needs from the engine around it.
pub(super) struct Context<'a> {
    pub(super) now: Timestamp,
    /// When the present frame was captured, by the capture's clock.
    pub(super) captured_at: Timestamp,
    pub(super) config: &'a CopierConfig,
    pub(super) ledger: &'a mut Ledger,
    pub(super) counters: &'a mut ModuleCounters,
    pub(super) out: &'a mut Outbox,
    /// Since the first packet.
    pub(super) running: Duration,
    /// See [`Input::NextPass`](super::Input::NextPass).
    pub(super) pass: u32,
    /// See [`Input::Share`](super::Input::Share).
    pub(super) share: u16,
}

/// See the [module's documentation](self).
#[derive(Debug)]
pub(super) struct UdpCopier {
    flows: FlowTable,
    fragments: Reassembler,
    limit: Option<RateLimit>,
    latency: Latency,
    /// Ties the fragments of a datagram together.
    fragment_id: u32,
    /// Scratch: what a module lets pass, and one datagram of it.
    queue: StreamQueue,
    payload: Vec<u8>,
}

impl UdpCopier {
    pub(super) fn new(config: &CopierConfig) -> Self {
        Self {
            flows: FlowTable::new(config.seed),
            fragments: Reassembler::new(config.seed, UDP_HEADER_LEN),
            limit: config.traffic.max_rate.map(RateLimit::new),
            latency: Latency::default(),
            fragment_id: config.seed as u32,
            queue: StreamQueue::default(),
            payload: Vec::new(),
        }
    }

    /// From now on the limit is this.
    pub(super) fn set_limit(&mut self, rate: Option<Rate>) {
        self.limit = rate.map(RateLimit::new);
    }

    /// How long targets took to answer.
    pub(super) fn latency(&self) -> &Latency {
        &self.latency
    }

    /// Bytes of memory in use, near enough.
    pub(super) fn memory(&self) -> usize {
        self.flows.memory() + self.fragments.memory()
    }

    pub(super) fn next_deadline(&self, config: &CopierConfig) -> Option<Timestamp> {
        let idle = self.flows.oldest().map(|slot| self.flows.get(slot).last_used + config.udp_idle_timeout);
        [idle, self.fragments.next_deadline()].into_iter().flatten().min()
    }

    /// A fragment of a datagram was captured.
    pub(super) fn on_fragment(&mut self, cx: &mut Context<'_>, f: &IpFragment<'_>) {
        let payload = self.fragments.payload_of(f);
        cx.ledger.udp_fragments += 1;
        if f.data.len() < f.len {
            return drop_fragment(cx.ledger, PacketDrop::Truncated, payload);
        }
        let ledger = &mut *cx.ledger;
        let fate = self.fragments.take(cx.now, f, |lost| give_up(ledger, lost));
        match fate {
            // Its bytes are counted when it is known whose they are, or that nobody will have them.
            Fate::Kept => cx.ledger.packets_used += 1,
            Fate::Duplicate => drop_fragment(cx.ledger, PacketDrop::Duplicate, payload),
            Fate::Refused { given_up } => {
                drop_fragment(cx.ledger, PacketDrop::FragmentRefused, payload);
                if let Some(kept) = given_up {
                    give_up(cx.ledger, kept);
                }
            }
            Fate::Whole(bytes) => {
                self.on_whole(cx, f, &bytes);
                self.fragments.give_back(bytes);
            }
        }
    }

    /// A datagram has become whole with `last`. It is counted as if it had come in one piece.
    fn on_whole(&mut self, cx: &mut Context<'_>, last: &IpFragment<'_>, bytes: &[u8]) {
        let Ok(datagram) = UdpDatagram::from_transport(last.src, last.dst, bytes, bytes.len()) else {
            let payload = bytes.len().saturating_sub(UDP_HEADER_LEN) as u64;
            return drop_fragment(cx.ledger, PacketDrop::Malformed, payload);
        };
        // Of a fast sender the 16 bits of IPv4 come again within seconds: then a lost fragment's place may have been taken
        // by one of another datagram (RFC 4963), which only the checksum tells.
        if !datagram.checksum_may_be_right(bytes) {
            cx.ledger.udp_incomplete += 1;
            return drop_fragment(cx.ledger, PacketDrop::FragmentRefused, datagram.payload_len.into());
        }
        cx.ledger.udp_reassembled += 1;
        self.on_datagram(cx, &datagram);
    }

    /// A datagram was captured.
    pub(super) fn on_datagram(&mut self, cx: &mut Context<'_>, datagram: &UdpDatagram<'_>) {
        let mut matched = false;
        for map in cx.config.maps.iter().filter(|map| map.transport == Transport::Udp) {
            // What goes to a target is ours, even where the target's port is also online's.
            if datagram.dst == map.target {
                return cx.ledger.drop_packet(PacketDrop::OwnCopy);
            }
            matched |= map.takes(datagram.src, datagram.dst);
        }
        if !matched {
            return self.on_unmapped_datagram(cx, datagram);
        }
        let len = u64::from(datagram.payload_len);
        cx.ledger.udp_datagrams += 1;
        cx.ledger.client_packets += 1;
        cx.ledger.bytes_captured += len;
        if let Err(reason) = self.copy(cx, datagram) {
            cx.ledger.drop_packet(reason);
            cx.ledger.drop_bytes(ByteDrop::PacketDropped, len);
        } else {
            cx.ledger.packets_used += 1;
        }
    }

    /// A datagram for which there is no map: online's, or something else.
    pub(super) fn on_unmapped_datagram(&mut self, cx: &mut Context<'_>, datagram: &UdpDatagram<'_>) {
        let is_online = |map: &Map| {
            map.transport == Transport::Udp
                && map.online_port == datagram.src.port
                && map.online_addr.is_none_or(|addr| addr == datagram.src.addr)
        };
        if !cx.config.measure_online || !cx.config.maps.iter().any(is_online) {
            return cx.ledger.drop_packet(PacketDrop::NoMap);
        }
        let (online, copies) = (datagram.flow_from_server(), cx.config.traffic.copies_in(cx.pass));
        // A datagram is measured with the first of its copies that could be made.
        let keys = (0..cx.config.maps.len() as u16).flat_map(|map| copies.clone().map(move |copy| (map, copy)));
        for (map, copy) in keys {
            let Some(slot) = self.flows.find(&Key { online, map, copy }) else { continue };
            let Some(answer) = self.flows.online_answered(slot, cx.captured_at) else { continue };
            if let Answer::After(time) = answer {
                cx.ledger.online_response_time.record(time);
            }
            cx.ledger.packets_used += 1;
            cx.ledger.online_packets += 1;
            return;
        }
        cx.ledger.drop_packet(PacketDrop::NoSession);
    }

    /// Makes all copies. An error: there is none, for this reason, which is the first one's.
    fn copy(&mut self, cx: &mut Context<'_>, datagram: &UdpDatagram<'_>) -> Result<(), PacketDrop> {
        if datagram.is_cut() {
            return Err(PacketDrop::Truncated);
        }
        let traffic = &cx.config.traffic;
        if !traffic.samples(datagram.src, cx.running) {
            return Err(PacketDrop::NotSampled);
        }
        if !Traffic::is_in_share(datagram.src, cx.share) {
            return Err(PacketDrop::Throttled);
        }
        if !self.limit.as_mut().is_none_or(|limit| limit.allows(cx.now, datagram.payload.len())) {
            return Err(PacketDrop::OverRate);
        }
        let mut outcome = Err(PacketDrop::NoMap);
        let mut left_out = 0;
        for map in 0..cx.config.maps.len() as u16 {
            let m = &cx.config.maps[usize::from(map)];
            if m.transport != Transport::Udp || !m.takes(datagram.src, datagram.dst) {
                continue;
            }
            for copy in cx.config.traffic.copies_in(cx.pass) {
                // The bytes were captured once, and each further copy has them once more.
                let again = outcome.is_ok();
                match self.copy_once(cx, datagram, Key { online: datagram.flow_from_client(), map, copy }, again) {
                    Ok(()) => outcome = Ok(()),
                    Err(reason) => {
                        left_out += 1;
                        if outcome == Err(PacketDrop::NoMap) {
                            outcome = Err(reason);
                        }
                    }
                }
            }
        }
        if outcome.is_ok() {
            cx.ledger.udp_copies_left_out += left_out;
        }
        outcome
    }

    fn copy_once(
        &mut self,
        cx: &mut Context<'_>,
        datagram: &UdpDatagram<'_>,
        key: Key,
        again: bool,
    ) -> Result<(), PacketDrop> {
        let target = cx.config.maps[usize::from(key.map)].target;
        if datagram.payload.len() > UdpRepr::max_payload(&target.addr) {
            return Err(PacketDrop::TooLarge);
        }
        let slot = match self.flows.find(&key) {
            Some(slot) => slot,
            None => self.begin(cx, key, target)?,
        };
        self.flows.touch(slot, cx.now);
        if self.flows.get(slot).given_up {
            return Err(PacketDrop::SessionEnded);
        }
        cx.ledger.of_map(key.map, |of_map| of_map.requests += 1);
        if cx.config.measure_online && !again {
            self.flows.asked_online(slot, cx.captured_at);
        }
        let len = datagram.payload.len() as u64;
        if again {
            cx.ledger.bytes_multiplied += len;
        }
        // A datagram without payload has nothing to decide about.
        if len > 0 && self.flows.get(slot).watch.is_some() {
            cx.ledger.pending_bytes += len;
            self.show_datagram(cx, slot, datagram.payload);
        } else {
            cx.ledger.bytes_copied += len;
            cx.ledger.of_map(key.map, |of_map| of_map.bytes_copied += len);
            self.send(cx, slot, datagram.payload);
        }
        Ok(())
    }

    /// A new flow, with its route. An error: there is no room for it, or no address.
    fn begin(&mut self, cx: &mut Context<'_>, key: Key, target: Endpoint) -> Result<u32, PacketDrop> {
        while self.flows.len() >= cx.config.session_limit || self.memory() >= cx.config.memory_limit {
            let Some(oldest) = self.flows.oldest() else { return Err(PacketDrop::Shed) };
            cx.ledger.udp_flows_evicted += 1;
            self.end(cx, oldest, "no room");
        }
        let client = key.online.client;
        let Some(source) = self.source(cx.config, client, target, key.copy) else {
            cx.out.notices.push(Notice::NoFreeSource { client, target });
            return Err(PacketDrop::NoSource);
        };
        let replica = Flow { client: source, server: target };
        let info = SessionInfo { online: key.online, target: replica, joined: false };
        let watch = Watch::open(cx.config.module(key.map), info);
        let slot = self.flows.insert(cx.now, key, replica, watch);
        cx.ledger.udp_flows += 1;
        cx.ledger.udp_flows_alive += 1;
        cx.ledger.of_map(key.map, |of_map| {
            of_map.sessions += 1;
            of_map.sessions_alive += 1;
        });
        self.announce(cx.config, slot, None, cx.out);
        self.consult(cx, slot, Hook::Open);
        Ok(slot)
    }

    /// Address and port that a copy comes from.
    fn source(&self, config: &CopierConfig, client: Endpoint, target: Endpoint, copy: u32) -> Option<Endpoint> {
        config
            .choose_source(client, target, copy, |source| self.flows.is_taken(&Flow { client: source, server: target }))
    }

    /// Shows a datagram to the module of its flow.
    fn show_datagram(&mut self, cx: &mut Context<'_>, slot: u32, payload: &[u8]) {
        let Some(mut watch) = self.flows.get_mut(slot).watch.take() else { return };
        let map = self.flows.get(slot).key.map;
        let mut stage = stage(cx, map, &mut self.queue);
        let shown = watch.take_client_data(payload, 0, true, &mut stage);
        let verdict = if shown { watch.call(Hook::ClientData, &mut stage) } else { Verdict::default() };
        watch.end_datagram(&mut stage);
        self.flows.get_mut(slot).watch = Some(watch);
        self.carry_out(cx, slot, verdict);
    }

    fn consult(&mut self, cx: &mut Context<'_>, slot: u32, hook: Hook<'_>) {
        let Some(mut watch) = self.flows.get_mut(slot).watch.take() else { return };
        let map = self.flows.get(slot).key.map;
        let verdict = watch.call(hook, &mut stage(cx, map, &mut self.queue));
        self.flows.get_mut(slot).watch = Some(watch);
        self.carry_out(cx, slot, verdict);
    }

    fn carry_out(&mut self, cx: &mut Context<'_>, slot: u32, verdict: Verdict) {
        let mut payload = std::mem::take(&mut self.payload);
        while self.queue.pop_mark(&mut payload) {
            cx.ledger.pending_bytes -= payload.len() as u64;
            if payload.len() > UdpRepr::max_payload(&self.flows.get(slot).replica.server.addr) {
                cx.ledger.drop_bytes(ByteDrop::Module, payload.len() as u64);
                continue;
            }
            cx.ledger.bytes_copied += payload.len() as u64;
            let map = self.flows.get(slot).key.map;
            cx.ledger.of_map(map, |of_map| of_map.bytes_copied += payload.len() as u64);
            self.send(cx, slot, &payload);
        }
        self.payload = payload;
        let flow = self.flows.get_mut(slot);
        let (module, online) = (cx.config.about(flow.key.map).name, flow.key.online);
        if let Some(message) = verdict.panicked {
            cx.ledger.udp_flows_given_up += 1;
            cx.out.notices.push(Notice::ModulePanicked { module, flow: online, message });
            (flow.given_up, flow.watch) = (true, None);
        } else if let Some(reason) = verdict.aborted {
            cx.ledger.udp_flows_given_up += 1;
            cx.counters.add(module, &reason, 1);
            cx.out.notices.push(Notice::ModuleAborted { module, flow: online, reason });
            flow.given_up = true;
        }
        if let Some(payload) = verdict.payload {
            let id = self.flows.id(slot);
            cx.out.routes.extend(links(cx.config, id).map(|link| (link, RouteChange::Payload { id, payload })));
        }
        let flow = self.flows.get_mut(slot);
        if flow.watch.as_ref().is_some_and(|watch| watch.is_done()) {
            flow.watch = None;
        }
    }

    /// Sends a datagram of a flow.
    fn send(&mut self, cx: &mut Context<'_>, slot: u32, payload: &[u8]) {
        let Flow { client: src, server: dst } = self.flows.get(slot).replica;
        if cx.config.intercepts > 0 || cx.config.sees_responses {
            self.flows.sent(slot, cx.now);
        }
        self.fragment_id = self.fragment_id.wrapping_add(1);
        let mut packets = 0;
        UdpRepr { src, dst, ip_id: self.fragment_id }.write(payload, cx.config.mtu.into(), |write| {
            packets += 1;
            cx.out.push_packet(dst.addr, |out| write(out));
        });
        cx.ledger.udp_sent += 1;
        cx.ledger.of_map(self.flows.get(slot).key.map, |of_map| of_map.requests_copied += 1);
        cx.ledger.packets_sent += packets;
        cx.ledger.data_packets_sent += packets;
        cx.ledger.udp_fragments_sent += if packets > 1 { packets } else { 0 };
    }

    /// An intercept reports a datagram of a target.
    pub(super) fn on_response(&mut self, cx: &mut Context<'_>, response: &DatagramResponse<'_>) {
        cx.ledger.responses += 1;
        let Some(slot) = self.flows.by_id(response.id) else {
            cx.ledger.stale_responses += 1;
            return;
        };
        cx.ledger.udp_responses += 1;
        cx.ledger.data_responses += u64::from(response.payload_len > 0);
        cx.ledger.response_bytes += u64::from(response.payload_len);
        self.flows.touch(slot, cx.now);
        match self.flows.get_mut(slot).to_target.answered(cx.now) {
            Answer::ToNothing => cx.ledger.udp_unsolicited += 1,
            Answer::Untimed => cx.ledger.udp_answered += 1,
            Answer::After(time) => {
                cx.ledger.udp_answered += 1;
                self.latency.record(time);
                let map = self.flows.get(slot).key.map;
                cx.ledger.of_map(map, |of_map| of_map.response_time.record(time));
            }
        }
        let hidden = u32::from(response.payload_len).saturating_sub(response.payload.len() as u32);
        let wants = self.flows.get(slot).watch.as_ref().is_some_and(|watch| watch.payload() != Payload::Headers);
        if wants && !self.flows.get(slot).given_up {
            self.consult(cx, slot, Hook::TargetData(TargetData { bytes: response.payload, hidden }));
        }
    }

    /// A datagram of a target was captured here.
    pub(super) fn on_captured_response(&mut self, cx: &mut Context<'_>, datagram: &UdpDatagram<'_>) {
        let Some(slot) = self.flows.by_replica(&datagram.flow_from_server()) else {
            cx.ledger.foreign_responses += 1;
            return;
        };
        let id = self.flows.id(slot);
        let payload_len = datagram.payload_len;
        let wanted = self.flows.get(slot).watch.as_ref().map_or(Payload::Headers, |watch| watch.payload());
        let payload = wanted.of(datagram.payload);
        self.on_response(cx, &DatagramResponse { id, payload_len, payload });
    }

    /// Announces the route of a flow on every link that carries it, or only on `only`.
    fn announce(&self, config: &CopierConfig, slot: u32, only: Option<LinkId>, out: &mut Outbox) {
        let (id, flow) = (self.flows.id(slot), self.flows.get(slot));
        let add = RouteChange::Add { id, transport: Transport::Udp, flow: flow.replica };
        let payload = flow.watch.as_ref().map_or(Payload::Headers, |watch| watch.payload());
        for link in links(config, id).filter(|link| only.is_none_or(|only| only == *link)) {
            out.routes.push((link, add));
            if payload != Payload::Headers {
                out.routes.push((link, RouteChange::Payload { id, payload }));
            }
        }
    }

    /// A link works (again): all routes that it carries are announced on it.
    pub(super) fn on_link_up(&self, config: &CopierConfig, link: LinkId, out: &mut Outbox) {
        for slot in self.flows.slots() {
            self.announce(config, slot, Some(link), out);
        }
    }

    fn end(&mut self, cx: &mut Context<'_>, slot: u32, reason: &str) {
        self.consult(cx, slot, Hook::Close(Some(reason)));
        let id = self.flows.id(slot);
        cx.out.routes.extend(links(cx.config, id).map(|link| (link, RouteChange::Remove { id })));
        let flow = self.flows.remove(slot);
        cx.ledger.udp_unanswered += flow.to_target.count;
        cx.ledger.udp_flows_alive -= 1;
        cx.ledger.of_map(flow.key.map, |of_map| of_map.sessions_alive -= 1);
    }

    /// The deadline has come, or may have.
    pub(super) fn on_timeout(&mut self, cx: &mut Context<'_>) {
        let ledger = &mut *cx.ledger;
        self.fragments.expire(Some(cx.now), |lost| give_up(ledger, lost));
        while let Some(oldest) = self.flows.oldest() {
            if self.flows.get(oldest).last_used + cx.config.udp_idle_timeout > cx.now {
                return;
            }
            self.end(cx, oldest, "idle");
        }
    }

    /// Everything ends, for this reason.
    pub(super) fn stop(&mut self, cx: &mut Context<'_>, reason: &str) {
        let ledger = &mut *cx.ledger;
        self.fragments.expire(None, |lost| give_up(ledger, lost));
        for slot in self.flows.slots() {
            self.end(cx, slot, reason);
        }
    }
}

/// A fragment is not used, with its payload.
fn drop_fragment(ledger: &mut Ledger, reason: PacketDrop, payload: u64) {
    ledger.drop_packet(reason);
    ledger.bytes_captured += payload;
    ledger.drop_bytes(ByteDrop::PacketDropped, payload);
}

/// A datagram will not become whole: the payload of its fragments that are here.
fn give_up(ledger: &mut Ledger, payload: u64) {
    ledger.udp_incomplete += 1;
    ledger.bytes_captured += payload;
    ledger.drop_bytes(ByteDrop::IncompleteDatagram, payload);
}

fn stage<'a>(cx: &'a mut Context<'_>, map: u16, queue: &'a mut StreamQueue) -> Stage<'a> {
    Stage {
        now: cx.now,
        module: cx.config.about(map).name,
        ungated: true,
        ledger: cx.ledger,
        notices: &mut cx.out.notices,
        counters: cx.counters,
        queue,
        parked: None,
        completed: 0,
    }
}

/// The links that carry the route of a flow: one of each intercept's.
fn links(config: &CopierConfig, id: FlowId) -> impl Iterator<Item = LinkId> + use<> {
    let per = config.links_per_intercept.max(1);
    let own = (id.0 as u32 % u32::from(per)) as u16;
    (0..config.intercepts).map(move |i| LinkId(i * per + own))
}
