//! Building the packets that we invent: IP header, TCP header, options, payload, checksums.

use std::net::IpAddr;

use crate::address::Endpoint;
use crate::checksum::Sum;
use crate::ip::PROTOCOL_TCP;
use crate::seq::SeqNumber;
use crate::tcp::{Flags, MIN_HEADER_LEN, Options};

/// A TCP segment to be sent, without its payload.
#[derive(Clone, Copy, Debug)]
pub struct TcpRepr {
    /// Sender.
    pub src: Endpoint,
    /// Receiver, of the same address family.
    pub dst: Endpoint,
    /// Sequence number.
    pub seq: SeqNumber,
    /// Acknowledgement number; zero without [`Flags::ACK`].
    pub ack: SeqNumber,
    /// Flags.
    pub flags: Flags,
    /// Window, already scaled down.
    pub window: u16,
    /// Options.
    pub options: Options,
    /// IPv4 identification; IPv6 has none.
    pub ip_id: u16,
}

const TTL: u8 = 64;

/// Bytes of IP header for an address family.
pub const fn ip_header_len(addr: &IpAddr) -> usize {
    match addr {
        IpAddr::V4(_) => 20,
        IpAddr::V6(_) => 40,
    }
}

impl TcpRepr {
    /// Appends the packet, from its IP header to the last byte of payload, to `out`. The payload comes in two parts
    /// because it lies in a ring buffer; either may be empty.
    ///
    /// The payload must fit an IP packet (the caller cuts to the MSS), and both ends must be of one family.
    #[inline]
    pub fn write(&self, payload: (&[u8], &[u8]), out: &mut Vec<u8>) {
        let options_len = self.options.encoded_len();
        let tcp_len = MIN_HEADER_LEN + options_len;
        let transport_len = tcp_len + payload.0.len() + payload.1.len();
        let start = out.len();
        out.reserve(40 + transport_len);
        match (&self.src.addr, &self.dst.addr) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let mut h = [0u8; 20];
                h[0] = 0x45;
                h[2..4].copy_from_slice(&((20 + transport_len) as u16).to_be_bytes());
                h[4..6].copy_from_slice(&self.ip_id.to_be_bytes());
                h[6] = 0x40; // don't fragment
                h[8] = TTL;
                h[9] = PROTOCOL_TCP;
                h[12..16].copy_from_slice(&src.octets());
                h[16..20].copy_from_slice(&dst.octets());
                let sum = Sum::default().add_bytes(&h).finish();
                h[10..12].copy_from_slice(&sum.to_be_bytes());
                out.extend_from_slice(&h);
            }
            (src, dst) => {
                let mut h = [0u8; 40];
                h[0] = 0x60;
                h[4..6].copy_from_slice(&(transport_len as u16).to_be_bytes());
                h[6] = PROTOCOL_TCP;
                h[7] = TTL;
                h[8..24].copy_from_slice(&as_v6(*src));
                h[24..40].copy_from_slice(&as_v6(*dst));
                out.extend_from_slice(&h);
            }
        }
        let tcp_at = out.len();
        let mut h = [0u8; MIN_HEADER_LEN];
        h[0..2].copy_from_slice(&self.src.port.0.to_be_bytes());
        h[2..4].copy_from_slice(&self.dst.port.0.to_be_bytes());
        h[4..8].copy_from_slice(&self.seq.0.to_be_bytes());
        h[8..12].copy_from_slice(&self.ack.0.to_be_bytes());
        h[12] = ((tcp_len / 4) as u8) << 4;
        h[13] = self.flags.0;
        h[14..16].copy_from_slice(&self.window.to_be_bytes());
        out.extend_from_slice(&h);
        if options_len > 0 {
            out.resize(tcp_at + tcp_len, 0);
            self.options.encode(&mut out[tcp_at + MIN_HEADER_LEN..]);
        }
        out.extend_from_slice(payload.0);
        if !payload.1.is_empty() {
            out.extend_from_slice(payload.1);
        }
        let sum = Sum::default()
            .add_pseudo_header(self.src.addr, self.dst.addr, PROTOCOL_TCP, transport_len as u32)
            .add_bytes(&out[tcp_at..])
            .finish();
        out[tcp_at + 16..tcp_at + 18].copy_from_slice(&sum.to_be_bytes());
        debug_assert_eq!(out.len() - start, ip_header_len(&self.dst.addr) + transport_len);
    }
}

/// An address in the form of IPv6.
pub(crate) fn as_v6(addr: IpAddr) -> [u8; 16] {
    match addr {
        IpAddr::V4(a) => a.to_ipv6_mapped().octets(),
        IpAddr::V6(a) => a.octets(),
    }
}
