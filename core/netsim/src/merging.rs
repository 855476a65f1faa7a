//! What GRO does before a capture sees the packets: consecutive segments of one flow become one, up to 64 KB.

use tcpcopy_wire::tcp::Flags;
use tcpcopy_wire::{Flow, SeqNumber, TcpSegment};

/// Segments that wait for more, one packet a flow.
#[derive(Default)]
pub(crate) struct Merger {
    waiting: Vec<Waiting>,
}

struct Waiting {
    flow: Flow,
    next: SeqNumber,
    ack: SeqNumber,
    packet: Vec<u8>,
}

/// An IPv4 packet is not longer than this, nor is the payload of an IPv6 packet.
const MAX: usize = 65_535;

impl Merger {
    /// Takes a packet; returns those that are complete, in order.
    pub(crate) fn offer(&mut self, packet: &[u8]) -> Vec<Vec<u8>> {
        let Ok(segment) = TcpSegment::from_ip_packet(packet, packet.len()) else {
            return vec![packet.to_vec()];
        };
        let mut ready = Vec::new();
        let flow = segment.flow_from_client();
        let flags = segment.tcp.flags();
        let plain = segment.payload_len > 0 && flags.0 & (Flags::SYN | Flags::FIN | Flags::RST).0 == 0;
        if let Some(i) = self.waiting.iter().position(|w| w.flow == flow) {
            let waiting = &mut self.waiting[i];
            let fits = waiting.packet.len() + segment.payload.len() <= MAX;
            if plain && fits && waiting.next == segment.tcp.seq() && waiting.ack == segment.tcp.ack() {
                waiting.packet.extend_from_slice(segment.payload);
                waiting.next += segment.payload_len;
                set_length(&mut waiting.packet, flags);
                if flags.contains(Flags::PSH) {
                    ready.push(self.waiting.remove(i).packet);
                }
                return ready;
            }
            ready.push(self.waiting.remove(i).packet);
        }
        if plain && !flags.contains(Flags::PSH) {
            let next = segment.tcp.seq() + segment.payload_len;
            self.waiting.push(Waiting { flow, next, ack: segment.tcp.ack(), packet: packet.to_vec() });
        } else {
            ready.push(packet.to_vec());
        }
        ready
    }

    /// What waits longest.
    pub(crate) fn flush(&mut self) -> Option<Vec<u8>> {
        if self.waiting.is_empty() { None } else { Some(self.waiting.remove(0).packet) }
    }
}

/// The length field and the last segment's PSH. The checksums become wrong, as those of merged packets are.
fn set_length(packet: &mut [u8], flags: Flags) {
    let v4 = packet[0] >> 4 == 4;
    let (field, len, tcp) = if v4 { (2, packet.len(), 20) } else { (4, packet.len() - 40, 40) };
    packet[field..field + 2].copy_from_slice(&(len as u16).to_be_bytes());
    packet[tcp + 13] |= flags.0;
}
