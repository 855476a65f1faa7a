//! How a session comes to be: with the SYN of a client, or in the middle of its connection; which source it has; when it starts,
//! and when it is forgotten.

use std::net::IpAddr;

use tcpcopy_wire::tcp::Flags;
use tcpcopy_wire::{Endpoint, Flow, SeqNumber, TcpSegment, Timestamp};

use super::Copier;
use super::config::Traffic;
use crate::ledger::PacketDrop;
use crate::outbox::{Notice, Outbox};
use crate::session::watch::guarded;
use crate::session::{Beginning, Context, NOBODY, Session};
use crate::target::Offer;

/// Window scale that the SYN of a joined session offers.
const JOINED_WINDOW_SCALE: u8 = 7;

impl Copier {
    pub(super) fn on_syn(
        &mut self,
        now: Timestamp,
        segment: &TcpSegment<'_>,
        map: u16,
        copy: u32,
        known: Option<u32>,
        out: &mut Outbox,
    ) {
        let isn = segment.tcp.seq();
        let mut predecessor = None;
        if let Some(id) = known {
            let session = &self.table[id];
            if session.began_with(isn) {
                let reason = if session.has_ended_early() { PacketDrop::SessionEnded } else { PacketDrop::Duplicate };
                return self.drop_segment(reason, segment);
            }
            // One that ended while it waited stays in its place: the session before it knows it.
            if session.is_over() && !session.queued {
                self.remove(now, id, out);
            } else {
                predecessor = Some(id);
            }
        }
        if !self.samples(now, segment.src) {
            self.ledger.syns_not_sampled += 1;
            return self.drop_segment(PacketDrop::NotSampled, segment);
        }
        let options = segment.tcp.options();
        let offer = Offer {
            mss: options.mss.map(|mss| mss.min(self.own_mss(map))),
            window_scale: options.window_scale,
            sack: options.sack_permitted,
            timestamps: options.timestamps.is_some(),
        };
        let Some(id) = self.begin(now, segment, (map, copy), isn, false, offer, predecessor, out) else { return };
        if segment.payload_len > 0 {
            // Data on a SYN (TCP Fast Open, RFC 7413) does not go out on the SYN, which the target may not allow, but
            // after it. Should online not have taken it, the client sends it again, and that is a duplicate.
            let mut cx = context!(self, now, out);
            self.table[id].on_client_segment(&mut cx, segment);
            self.settle(now, id, out);
        } else {
            self.ledger.packets_used += 1;
        }
        if let Some(old) = predecessor {
            self.table[old].successor = id;
            let mut cx = context!(self, now, out);
            self.table[old].presume_end(&mut cx);
            self.settle(now, old, out);
        }
    }

    /// A segment of a connection whose beginning was not captured, or whose copy was given up some time ago.
    pub(super) fn join(&mut self, now: Timestamp, segment: &TcpSegment<'_>, map: u16, copy: u32, out: &mut Outbox) {
        let closing = segment.tcp.flags().contains(Flags::RST);
        if segment.payload_len == 0 || segment.is_cut() || closing || self.config.only_whole_sessions {
            return self.drop_segment(PacketDrop::NoSession, segment);
        }
        if !self.samples(now, segment.src) {
            return self.drop_segment(PacketDrop::NotSampled, segment);
        }
        if !Traffic::is_in_share(segment.src, self.share) {
            return self.drop_segment(PacketDrop::Throttled, segment);
        }
        let boundary = guarded(|| self.config.module(map).join_at(segment.payload)).unwrap_or_else(|message| {
            let module = self.config.about(map).name;
            self.counters.add(module, "panics where a session was to be joined", 1);
            out.notices.push(Notice::ModulePanicked {
                module,
                flow: Flow { client: segment.src, server: segment.dst },
                message,
            });
            None
        });
        let Some(at) = boundary.filter(|at| *at < segment.payload.len()) else {
            return self.drop_segment(PacketDrop::NoSession, segment);
        };
        let isn = segment.tcp.seq() + at as u32 - 1;
        let offer = Offer {
            mss: Some(self.own_mss(map)),
            window_scale: Some(JOINED_WINDOW_SCALE),
            sack: true,
            timestamps: segment.tcp.options().timestamps.is_some(),
        };
        let Some(id) = self.begin(now, segment, (map, copy), isn, true, offer, None, out) else { return };
        if let Some(limit) = self.limit.as_mut().filter(|_| !self.table[id].is_over()) {
            limit.carry(now, u64::from(segment.payload_len));
        }
        let mut cx = context!(self, now, out);
        self.table[id].on_client_segment(&mut cx, segment);
        self.settle(now, id, out);
    }

    /// The largest MSS that we announce on a map.
    fn own_mss(&self, map: u16) -> u16 {
        let headers = match self.config.maps[usize::from(map)].target.addr {
            IpAddr::V4(_) => 40,
            IpAddr::V6(_) => 60,
        };
        self.config.mss.min(self.config.mtu.saturating_sub(headers)).max(64)
    }

    /// Makes a session and, unless it has to wait for `predecessor`, starts it. `None`: there is no room for it, which has
    /// been counted.
    #[allow(clippy::too_many_arguments)] // what a session begins with; each comes from another place
    fn begin(
        &mut self,
        now: Timestamp,
        segment: &TcpSegment<'_>,
        (map, copy): (u16, u32),
        isn: SeqNumber,
        joined: bool,
        offer: Offer,
        predecessor: Option<u32>,
        out: &mut Outbox,
    ) -> Option<u32> {
        if let Some(reason) = self.has_no_room(now, joined, out) {
            self.drop_segment(reason, segment);
            return None;
        }
        let client = segment.src;
        let target = self.config.maps[usize::from(map)].target;
        let left_out = self.leaves_out(now, client);
        let source = match predecessor {
            Some(id) => Some(self.table[id].source),
            // It stays here, so that it is left out whole, but not on the way to the target.
            None if left_out.is_some() => Some(client),
            None => self.choose_source(client, target, copy),
        };
        let Some(source) = source else {
            out.notices.push(Notice::NoFreeSource { client, target });
            self.ledger.sessions_without_source += u64::from(!joined);
            self.drop_segment(PacketDrop::NoSource, segment);
            return None;
        };
        self.ledger.sessions_multiplied += u64::from(copy != self.config.traffic.copies_in(self.pass).start);
        let (_, id) = self.table.next_id();
        let beginning = Beginning {
            id,
            flow: segment.flow_from_client(),
            source,
            map,
            copy,
            isn,
            joined,
            queued: predecessor.is_some(),
            offer,
        };
        let mut cx = context!(self, now, out);
        let mut session = Session::new(&mut cx, beginning);
        if let Some(reason) = left_out {
            session.leave_out(&mut cx, reason);
        } else {
            session.open_module(&mut cx);
        }
        let slot = self.table.insert(session);
        if left_out.is_some() {
            self.settle(now, slot, out);
        } else if predecessor.is_none() {
            self.start(now, slot, out);
        }
        Some(slot)
    }

    fn choose_source(&self, client: Endpoint, target: Endpoint, copy: u32) -> Option<Endpoint> {
        self.config.choose_source(client, target, copy, |source| {
            self.table.is_replica_taken(&Flow { client: source, server: target }, &self.config)
        })
    }

    pub(super) fn start(&mut self, now: Timestamp, id: u32, out: &mut Outbox) {
        let session = &mut self.table[id];
        session.queued = false;
        // It may have ended while it waited.
        if !session.is_over() {
            self.table.occupy_replica(id, &self.config);
            let mut cx = context!(self, now, out);
            self.table[id].start(&mut cx);
        }
        self.settle(now, id, out);
    }

    pub(super) fn remove(&mut self, now: Timestamp, id: u32, out: &mut Outbox) {
        self.wheel.disarm(id);
        let session = self.table.remove(id, &self.config);
        session.withdraw(&self.config, out);
        if session.successor != NOBODY {
            self.start(now, session.successor, out);
        }
    }
}
