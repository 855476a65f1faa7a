//! Watches this host's devices for the probe's own packets, for answers that should not come here, and for ICMP errors.

use std::io;
use std::os::fd::AsRawFd;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use tcpcopy_io::capture::{Capture, CaptureConfig, Method, device_names};
use tcpcopy_wire::icmp::{IcmpError, PROTOCOL_ICMP, PROTOCOL_ICMPV6};
use tcpcopy_wire::ip::IpPacket;
use tcpcopy_wire::link::LinkType;
use tcpcopy_wire::tcp::Flags;
use tcpcopy_wire::{Flow, TcpSegment};

/// Devices that are watched at most; hosts of containers have hundreds.
const MOST_DEVICES: usize = 64;
/// Each may have this much in its buffer, in bytes.
const BUFFER: usize = 256 << 10;
/// Bytes of each packet: all headers, and those of a packet that an ICMP error quotes.
const SNAPLEN: usize = 256;
/// Frames taken at once.
const BATCH: usize = 64;

/// What was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// Devices by which the SYN went, in the order in which it was seen.
    pub(super) syn_on: Vec<String>,
    /// The probe's FIN went out.
    pub(super) fin: bool,
    /// The device on which an answer of the target to the probe was seen, and what it was.
    pub(super) answer: Option<(String, Flags)>,
    /// What hosts on the way said of the probe's packets.
    pub(super) errors: Vec<IcmpError>,
    /// Every device was watched, so that what was not seen was not there.
    pub(super) everywhere: bool,
}

/// Captures on all devices, for one flow.
pub(super) struct Watch {
    flow: Flow,
    captures: Vec<(String, Capture)>,
    seen: Seen,
}

impl Watch {
    /// Begins to watch. Devices that cannot be captured on are left out, and then not all is seen.
    pub(super) fn open(flow: Flow, registry: &Registry, first_token: usize) -> Self {
        let mut names = device_names();
        names.retain(|name| name != "any");
        // Real devices first.
        names.sort_by_key(|name| name.starts_with("veth") || name.starts_with("cali") || name.starts_with("lxc"));
        let mut seen = Seen { everywhere: names.len() <= MOST_DEVICES, ..Seen::default() };
        let mut captures = Vec::new();
        for name in names.into_iter().take(MOST_DEVICES) {
            let config = CaptureConfig {
                device: name.clone(),
                filter: filter(flow),
                buffer_bytes: BUFFER,
                snaplen: SNAPLEN,
                inbound_only: false,
                // One packet after the other, with no timer; and nothing is reserved for devices where nothing happens.
                method: Method::Raw,
                ..CaptureConfig::default()
            };
            let token = Token(first_token + captures.len());
            let opened = Capture::open(&config).map_err(|e| e.to_string()).and_then(|capture| {
                let fd = capture.as_raw_fd();
                registry.register(&mut SourceFd(&fd), token, Interest::READABLE).map_err(|e| e.to_string())?;
                Ok(capture)
            });
            match opened {
                Ok(capture) => captures.push((name, capture)),
                Err(e) => {
                    log::debug!("{e}");
                    seen.everywhere = false;
                }
            }
        }
        Self { flow, captures, seen }
    }

    /// Looks at all that has come.
    pub(super) fn look(&mut self) {
        let Self { flow, captures, seen } = self;
        captures.retain_mut(|(device, capture)| {
            let link = capture.link_type();
            // A device that goes away, or is down, shows nothing more.
            capture.drain(BATCH, |bytes, wire_len| note(seen, *flow, device, link, bytes, wire_len)).is_ok()
        });
    }

    /// Ends.
    pub(super) fn close(mut self, registry: &Registry) -> Seen {
        self.look();
        for (_, capture) in &self.captures {
            // The descriptor is closed with the capture; this only tidies up before.
            let _: io::Result<()> = registry.deregister(&mut SourceFd(&capture.as_raw_fd()));
        }
        self.seen
    }
}

fn filter(flow: Flow) -> String {
    let (client, server) = (flow.client, flow.server);
    let errors = if server.addr.is_ipv4() { "icmp" } else { "icmp6 and ip6[40] < 128" };
    format!(
        "(tcp and port {} and port {} and host {} and host {}) or ({errors})",
        client.port, server.port, client.addr, server.addr
    )
}

fn note(seen: &mut Seen, flow: Flow, device: &str, link: LinkType, bytes: &[u8], wire_len: usize) {
    let Ok(packet) = link.ip_packet(bytes) else { return };
    let packet_len = wire_len.saturating_sub(bytes.len() - packet.len());
    let Ok(ip) = IpPacket::parse(packet, packet_len) else { return };
    if matches!(ip.protocol, PROTOCOL_ICMP | PROTOCOL_ICMPV6) {
        if let Some(error) = IcmpError::parse(&ip).filter(|error| error.flow == flow)
            && !seen.errors.contains(&error)
        {
            seen.errors.push(error);
        }
        return;
    }
    let Ok(segment) = TcpSegment::parse(&ip) else { return };
    let flags = segment.tcp.flags();
    if segment.flow_from_client() == flow {
        if flags.contains(Flags::SYN) && !seen.syn_on.iter().any(|known| known == device) {
            seen.syn_on.push(device.to_owned());
        }
        seen.fin |= flags.contains(Flags::FIN);
    } else if segment.flow_from_server() == flow && seen.answer.is_none() {
        seen.answer = Some((device.to_owned(), flags));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;
    use tcpcopy_io::capture::check_filter;
    use tcpcopy_wire::SeqNumber;
    use tcpcopy_wire::build::TcpRepr;
    use tcpcopy_wire::icmp::IcmpCause;
    use tcpcopy_wire::tcp::Options;

    fn flow(client: &str, server: &str) -> Flow {
        let endpoint = |text: &str| text.parse::<SocketAddr>().unwrap().into();
        Flow { client: endpoint(client), server: endpoint(server) }
    }

    fn packet(flow: Flow, from_server: bool, flags: Flags) -> Vec<u8> {
        let (src, dst) = if from_server { (flow.server, flow.client) } else { (flow.client, flow.server) };
        let (seq, ack, options) = (SeqNumber(1), SeqNumber(2), Options::default());
        let mut bytes = Vec::new();
        TcpRepr { src, dst, seq, ack, flags, window: 1, options, ip_id: 1 }.write((&[], &[]), &mut bytes);
        bytes
    }

    #[test]
    fn filters_are_understood() {
        for flow in [flow("10.78.0.1:700", "10.0.0.2:80"), flow("[fd78::1]:700", "[fd00::2]:80")] {
            assert_eq!(check_filter(&filter(flow)), Ok(()));
        }
    }

    #[test]
    fn packets_of_the_probe_are_told_from_others() {
        let (own, other) = (flow("10.78.0.1:700", "10.0.0.2:80"), flow("10.78.0.1:701", "10.0.0.2:80"));
        let mut seen = Seen::default();
        let mut show = |device, bytes: &[u8]| note(&mut seen, own, device, LinkType::Raw, bytes, bytes.len());
        show("eth0", &packet(other, false, Flags::SYN));
        show("eth0", &packet(other, true, Flags::SYN | Flags::ACK));
        for device in ["eth0.7", "eth0", "eth0"] {
            show(device, &packet(own, false, Flags::SYN));
        }
        let syn = packet(own, false, Flags::SYN);
        for quoted in [&syn, &syn, &packet(other, false, Flags::SYN)] {
            let mut error = packet(own, true, Flags::SYN);
            error[9] = PROTOCOL_ICMP;
            error.splice(20.., [&[3, 1, 0, 0, 0, 0, 0, 0], &quoted[..]].concat());
            let len = error.len() as u16;
            error[2..4].copy_from_slice(&len.to_be_bytes());
            show("eth0", &error);
        }
        show("eth1", &packet(own, true, Flags::SYN | Flags::ACK));
        show("eth0", &packet(own, true, Flags::RST));
        show("eth0", b"no packet");
        assert_eq!(seen.syn_on, ["eth0.7", "eth0"]);
        assert_eq!(seen.answer, Some(("eth1".to_owned(), Flags::SYN | Flags::ACK)));
        assert_eq!(seen.errors.iter().map(|error| error.cause).collect::<Vec<_>>(), [IcmpCause::HostUnreachable]);
        assert!(!seen.fin);
    }
}
