//! Packets that come in tunnels, as switches and clouds deliver a mirror (`--decap`).
//!
//! Where the way of the mirrored traffic has too small an MTU for the tunnels' headers, full frames come in IP fragments
//! of the outer packet. These are put together before anything else is looked at. A fragment of UDP names no port, except
//! for the first one: the others are believed to be a tunnel's when its first one is here already, or when no map is over
//! UDP, so that they can be nothing else that is wanted.

use tcpcopy_wire::decap::{Frame, OuterFragment, TunnelError};
use tcpcopy_wire::ip::IpPacket;
use tcpcopy_wire::{Timestamp, Transport};

use super::Copier;
use super::config::CopierConfig;
use super::fragments::{Fate, Reassembler};
use crate::ledger::{Ledger, PacketDrop};
use crate::outbox::Outbox;

/// What is waited for of packets in tunnels.
pub(super) struct Tunnels {
    fragments: Reassembler,
    has_udp_maps: bool,
}

impl Tunnels {
    /// `None`: tunnels are not opened.
    pub(super) fn new(config: &CopierConfig) -> Option<Self> {
        let has_udp_maps = config.maps.iter().any(|map| map.transport == Transport::Udp);
        config.decapsulation.is_on().then(|| Self { fragments: Reassembler::new(config.seed, 0), has_udp_maps })
    }

    pub(super) fn next_deadline(&self) -> Option<Timestamp> {
        self.fragments.next_deadline()
    }

    pub(super) fn memory(&self) -> usize {
        self.fragments.memory()
    }

    /// Gives up what has waited for too long.
    pub(super) fn expire(&mut self, now: Timestamp, ledger: &mut Ledger) {
        self.fragments.expire(Some(now), |_| ledger.tunnels_incomplete += 1);
    }

    fn is_mine(&self, f: &OuterFragment<'_>) -> bool {
        f.is_certain || !self.has_udp_maps || self.fragments.knows(&f.fragment)
    }
}

impl Copier {
    /// A captured frame that may be in a tunnel.
    pub(super) fn on_mirrored_frame(&mut self, now: Timestamp, frame: Frame<'_>, out: &mut Outbox) {
        let inner = self.config.decapsulation.innermost(frame);
        match inner {
            Ok(Some(inner)) => {
                self.ledger.packets_decapsulated += 1;
                self.on_plain_frame(now, inner, out);
            }
            Ok(None) | Err(TunnelError::Fragment) => {
                let fragment = self.config.decapsulation.outer_fragment(frame);
                match (fragment, &self.tunnels) {
                    (Some(f), Some(tunnels)) if tunnels.is_mine(&f) => self.on_outer_fragment(now, &f, out),
                    _ if inner.is_ok() => self.on_plain_frame(now, frame, out),
                    // A fragment in a tunnel, of another tunnel.
                    _ => self.ledger.drop_packet(PacketDrop::TunnelFragment),
                }
            }
            Err(error) => self.drop_tunnel(error),
        }
    }

    /// A part of a tunnel's packet. The last one that comes stands for the whole of it.
    fn on_outer_fragment(&mut self, now: Timestamp, f: &OuterFragment<'_>, out: &mut Outbox) {
        let Some(tunnels) = &mut self.tunnels else { return };
        let (fragment, ledger) = (&f.fragment, &mut self.ledger);
        ledger.tunnel_fragments += 1;
        if fragment.data.len() < fragment.len {
            return ledger.drop_packet(PacketDrop::Truncated);
        }
        match tunnels.fragments.take(now, fragment, |_| ledger.tunnels_incomplete += 1) {
            Fate::Kept => ledger.packets_used += 1,
            Fate::Duplicate => ledger.drop_packet(PacketDrop::Duplicate),
            Fate::Refused { given_up } => {
                ledger.tunnels_incomplete += u64::from(given_up.is_some());
                ledger.drop_packet(PacketDrop::FragmentRefused);
            }
            Fate::Whole(bytes) => {
                let (src, dst, protocol) = (fragment.src, fragment.dst, fragment.protocol);
                let ip = IpPacket { src, dst, protocol, transport: &bytes, transport_len: bytes.len() };
                match self.config.decapsulation.innermost_of_packet(&ip) {
                    Ok(Some(inner)) => {
                        self.ledger.packets_decapsulated += 1;
                        self.on_plain_frame(now, inner, out);
                    }
                    Ok(None) => self.ledger.drop_packet(PacketDrop::Fragment),
                    Err(error) => self.drop_tunnel(error),
                }
                if let Some(tunnels) = &mut self.tunnels {
                    tunnels.fragments.give_back(bytes);
                }
            }
        }
    }

    fn drop_tunnel(&mut self, error: TunnelError) {
        self.ledger.drop_packet(match error {
            TunnelError::Truncated => PacketDrop::TunnelCut,
            TunnelError::UnknownForm => PacketDrop::TunnelUnknown,
            TunnelError::Fragment => PacketDrop::TunnelFragment,
            TunnelError::TooDeep => PacketDrop::TunnelTooDeep,
        });
    }
}
