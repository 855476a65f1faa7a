//! Peers of the C programs: their routes have no ids and no wishes, their responses are whole headers, and those that were
//! built with `--single` have no routes at all.

use std::net::IpAddr;
use std::time::Duration;

use tcpcopy_wire::control::{
    FlowId, LegacyFormat, MAX_RECORD_DATA, Payload, RecordEncoder, RecordKind, ResponseHeader,
};
use tcpcopy_wire::tcp::Flags;
use tcpcopy_wire::{Flow, Transport};

use super::outbox::Encoder;
use super::{Peer, PeerId, Relay, RelayOutbox};

/// How peers of the C programs are served. Nothing in the protocol says what they were built for, so it is the same for all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LegacyConfig {
    /// The form of what is sent to them.
    pub format: LegacyFormat,
    /// Records in one frame at most (`-n`); zero: as many as one may have.
    pub max_batch: u16,
    /// They register no routes (`--single`): what has no route is theirs, each flow always the same one's.
    pub single: bool,
}

impl LegacyConfig {
    /// How much of the payload of their packets goes to them.
    fn payload(self) -> Payload {
        match self.format.records {
            RecordKind::Headers => Payload::Headers,
            RecordKind::WithPayload => Payload::First(MAX_RECORD_DATA as u16),
        }
    }
}

/// How long a route is kept, in seconds, once the target has closed its connection and while nothing more comes. These peers
/// remove none, and a busy one would fill the table within the time for which one that is merely idle is kept.
pub(super) const CLOSED_KEPT_SECS: u32 = 60;

/// Whether a flow can be written as an address of the C programs' link.
fn has_form(transport: Transport, flow: &Flow) -> bool {
    let is_ipv4 = matches!((flow.client.addr, flow.server.addr), (IpAddr::V4(_), IpAddr::V4(_)));
    is_ipv4 && transport == Transport::Tcp
}

impl Relay {
    pub(super) fn on_legacy_peer_up(&mut self, peer: PeerId, out: &mut RelayOutbox) {
        let config = self.config.legacy;
        let route_ttl_secs = self.route_ttl_secs(Duration::ZERO);
        let takes_payload = config.format.records == RecordKind::WithPayload;
        let state = Peer { up: true, legacy: true, takes_payload, route_ttl_secs, ..Peer::default() };
        self.admit(peer, state, Encoder::Legacy(RecordEncoder::new(config.format, config.max_batch)), out);
        // At once, and not with the first route: its first response may be here before it, and is what counts most.
        self.largest_wish = self.largest_wish.max(config.payload());
        if config.single {
            self.single.push(peer);
        }
    }

    /// Whether a peer's new route can be served.
    pub(super) fn suits(&self, peer: PeerId, transport: Transport, flow: &Flow) -> bool {
        !self.peers[peer.0 as usize].legacy || has_form(transport, flow)
    }

    /// A route of a peer of the C programs is as good as its wish.
    pub(super) fn wish_by_itself(&mut self, peer: PeerId, id: FlowId) {
        if self.peers[peer.0 as usize].legacy {
            self.routes.set_payload(peer, id, self.config.legacy.payload());
        }
    }

    /// Takes note of a FIN or RST.
    #[inline]
    pub(super) fn watch_for_close(&mut self, peer: PeerId, transport: Transport, flow: &Flow, flags: Flags) {
        let closes = flags.contains(Flags::FIN) || flags.contains(Flags::RST);
        if closes && self.peers[peer.0 as usize].legacy {
            self.routes.set_closing(transport, flow);
        }
    }

    /// Hands a response that has no route to the peer that is to have it without, if there is one.
    pub(super) fn relay_without_route(
        &mut self,
        transport: Transport,
        flow: &Flow,
        response: &ResponseHeader<'_>,
        out: &mut RelayOutbox,
    ) -> bool {
        if self.single.is_empty() || !has_form(transport, flow) {
            return false;
        }
        let key = self.routes.hash_of(transport, flow) & 0xff;
        let peer = self.single[key as usize % self.single.len()];
        let payload = self.config.legacy.payload().of(response.payload);
        out.push(peer, transport, flow, &ResponseHeader { payload, ..*response });
        self.stats.routeless += 1;
        self.stats.relayed += 1;
        self.peers[peer.0 as usize].relayed += 1;
        true
    }
}
