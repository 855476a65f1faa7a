//! What comes beside clients' segments: fragments and datagrams, what online sends, and what the target sends where no
//! intercept reports it.

use std::net::IpAddr;
use std::ops::Range;

use tcpcopy_wire::control::ResponseHeader;
use tcpcopy_wire::ip::{IpFragment, IpPacket, PROTOCOL_TCP, PROTOCOL_UDP};
use tcpcopy_wire::link::LinkType;
use tcpcopy_wire::{Packet, TcpSegment, Timestamp, Transport, UdpDatagram};

use super::config::Map;
use super::fragments::Fate;
use super::{Context, Copier, udp};
use crate::ledger::PacketDrop;
use crate::outbox::Outbox;

impl Copier {
    /// A datagram, or a part of one.
    pub(super) fn on_other_packet(&mut self, now: Timestamp, packet: &Packet<'_>, out: &mut Outbox) {
        if let Some(reason) = self.drops_all() {
            return self.ledger.drop_packet(reason);
        }
        match packet {
            Packet::Udp(datagram) => {
                self.first_packet_at.get_or_insert(now);
                self.udp.on_datagram(&mut udp_context!(self, now, out), datagram);
            }
            Packet::Fragment(fragment) => {
                let transport = match fragment.protocol {
                    PROTOCOL_TCP => Transport::Tcp,
                    PROTOCOL_UDP => Transport::Udp,
                    _ => return self.ledger.drop_packet(PacketDrop::Fragment),
                };
                let is_online = |addr: Option<IpAddr>| addr.is_none_or(|addr| addr == fragment.dst);
                let mut maps = self.config.maps.iter();
                if !maps.any(|map| map.transport == transport && is_online(map.online_addr)) {
                    // Of online's answers the first fragment has the ports, and stands for all of them.
                    if self.config.measure_online
                        && (transport, fragment.offset) == (Transport::Udp, 0)
                        && let Ok(datagram) = UdpDatagram::from_transport(
                            fragment.src,
                            fragment.dst,
                            fragment.data,
                            usize::from(u16::MAX),
                        )
                    {
                        return self.udp.on_unmapped_datagram(&mut udp_context!(self, now, out), &datagram);
                    }
                    return self.ledger.drop_packet(PacketDrop::Fragment);
                }
                match transport {
                    Transport::Tcp => self.on_fragment(now, fragment, out),
                    Transport::Udp => self.udp.on_fragment(&mut udp_context!(self, now, out), fragment),
                }
            }
            Packet::Tcp(_) => {}
        }
    }

    /// A fragment of a segment. The last one of a segment stands for the whole of it.
    fn on_fragment(&mut self, now: Timestamp, fragment: &IpFragment<'_>, out: &mut Outbox) {
        self.ledger.tcp_fragments += 1;
        if fragment.data.len() < fragment.len {
            return self.ledger.drop_packet(PacketDrop::Truncated);
        }
        let ledger = &mut self.ledger;
        match self.fragments.take(now, fragment, |_| ledger.tcp_incomplete += 1) {
            Fate::Kept => self.ledger.packets_used += 1,
            Fate::Duplicate => self.ledger.drop_packet(PacketDrop::Duplicate),
            Fate::Refused { given_up } => {
                self.ledger.tcp_incomplete += u64::from(given_up.is_some());
                self.ledger.drop_packet(PacketDrop::FragmentRefused);
            }
            Fate::Whole(bytes) => {
                let (src, dst, transport_len) = (fragment.src, fragment.dst, bytes.len());
                let ip = IpPacket { src, dst, protocol: PROTOCOL_TCP, transport: &bytes, transport_len };
                match TcpSegment::parse(&ip) {
                    Ok(segment) => self.on_segment(now, &segment, out),
                    Err(_) => self.ledger.drop_packet(PacketDrop::Malformed),
                }
                self.fragments.give_back(bytes);
            }
        }
    }

    /// A packet of the target, captured on this host.
    pub(super) fn on_target_frame(
        &mut self,
        now: Timestamp,
        link: LinkType,
        bytes: &[u8],
        wire_len: usize,
        out: &mut Outbox,
    ) {
        match Packet::from_frame(link, bytes, wire_len) {
            Ok(Packet::Tcp(segment)) => {
                let Some(id) = self.table.by_replica(&segment.flow_from_server(), &self.config) else {
                    self.ledger.foreign_responses += 1;
                    return;
                };
                let session = &self.table[id];
                let payload = session.wanted_payload().of(segment.payload);
                let header = ResponseHeader { id: session.id, payload, ..ResponseHeader::of(&segment) };
                self.on_response(now, &header, out);
            }
            Ok(Packet::Udp(datagram)) => {
                self.udp.on_captured_response(&mut udp_context!(self, now, out), &datagram);
            }
            // Only the first has the ports; it stands for all of them.
            Ok(Packet::Fragment(f)) if f.protocol == PROTOCOL_UDP && f.offset == 0 => {
                match UdpDatagram::from_transport(f.src, f.dst, f.data, usize::from(u16::MAX)) {
                    Ok(datagram) => self.udp.on_captured_response(&mut udp_context!(self, now, out), &datagram),
                    Err(_) => self.ledger.foreign_responses += 1,
                }
            }
            Ok(Packet::Fragment(_)) | Err(_) => self.ledger.foreign_responses += 1,
        }
    }

    /// A segment for which there is no map: online's, or something else.
    #[cold]
    pub(super) fn on_unmapped_segment(&mut self, now: Timestamp, segment: &TcpSegment<'_>, out: &mut Outbox) {
        let is_online = |map: &Map| {
            map.transport == Transport::Tcp
                && map.online_port == segment.src.port
                && map.online_addr.is_none_or(|addr| addr == segment.src.addr)
        };
        let of_online = || self.config.maps.iter().enumerate().filter(|(_, map)| is_online(map));
        if of_online().next().is_none() {
            self.ledger.drop_packet(PacketDrop::NoMap);
        } else if self.sees_online && of_online().any(|(map, _)| self.config.about(map as u16).sees_online) {
            self.on_online_segment(now, segment, self.config.traffic.copies_in(self.pass), out);
        } else if self.config.measure_online {
            // Online answers once, however many copies there are.
            let first = self.config.traffic.copies_in(self.pass).start;
            self.on_online_segment(now, segment, first..first.wrapping_add(1), out);
        } else {
            self.ledger.drop_packet(PacketDrop::FromOnline);
        }
    }

    /// A segment of online, for those copies of its connection.
    fn on_online_segment(&mut self, now: Timestamp, segment: &TcpSegment<'_>, copies: Range<u32>, out: &mut Outbox) {
        let first = copies.start;
        for copy in copies {
            self.ledger.packets_multiplied += u64::from(copy != first);
            let Some(id) = self.table.by_client(&segment.flow_from_server(), copy) else {
                self.ledger.drop_packet(PacketDrop::NoSession);
                continue;
            };
            let mut cx = context!(self, now, out);
            self.table[id].on_online_segment(&mut cx, segment);
            self.settle(now, id, out);
        }
    }
}
