//! Packets, checked and printed.

use std::fmt::Write as _;

use tcpcopy_wire::checksum::Sum;
use tcpcopy_wire::ip::{IpPacket, PROTOCOL_TCP};
use tcpcopy_wire::{TcpSegment, Timestamp};

use crate::Failure;

/// A packet of the engine: whole, with right checksums, not larger than the path takes.
pub(crate) fn check(packet: &[u8], mtu: u16) -> Result<(), Failure> {
    let segment = TcpSegment::from_ip_packet(packet, packet.len()).map_err(|e| format!("sent a packet that is {e}"))?;
    if packet.len() > usize::from(mtu) {
        return Err(format!("sent {} bytes where the MTU is {mtu}: {segment:?}", packet.len()));
    }
    let ip = IpPacket::parse(packet, packet.len()).map_err(|e| e.to_string())?;
    let tcp = Sum::default()
        .add_pseudo_header(ip.src, ip.dst, PROTOCOL_TCP, ip.transport_len as u32)
        .add_bytes(ip.transport)
        .finish();
    let header = if ip.src.is_ipv4() { Sum::default().add_bytes(&packet[..20]).finish() } else { 0 };
    if tcp != 0 || header != 0 || ip.transport.len() != ip.transport_len {
        return Err(format!("sent a packet with a wrong checksum or length: {segment:?}"));
    }
    Ok(())
}

/// A line of the packet trace, formatted only when it is read.
pub(crate) struct Trace {
    at: Timestamp,
    what: &'static str,
    packet: Vec<u8>,
    len: usize,
}

impl Trace {
    pub(crate) fn new(at: Timestamp, what: &'static str, packet: &[u8]) -> Self {
        Self { at, what, packet: packet[..packet.len().min(120)].to_vec(), len: packet.len() }
    }
}

impl std::fmt::Display for Trace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match TcpSegment::from_ip_packet(&self.packet, self.len) {
            Ok(segment) => {
                let options = segment.tcp.options();
                let mut text = format!("{:?} {:<16} {segment:?}", self.at, self.what);
                for (left, right) in options.sack_blocks() {
                    let _ = write!(text, " sack {left}..{right}");
                }
                if let Some((value, echo)) = options.timestamps {
                    let _ = write!(text, " ts {value}/{echo}");
                }
                f.write_str(&text)
            }
            Err(error) => write!(f, "{:?} {:<17} {error}", self.at, self.what),
        }
    }
}
