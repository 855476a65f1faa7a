//! Whether a host answers an echo request (RFC 792, RFC 4443): it is up, whatever its firewall does with TCP.

use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};
use tcpcopy_wire::checksum::Sum;

/// Type of an echo request, over IPv4 and IPv6.
const REQUEST: [u8; 2] = [8, 128];
/// Type of its answer.
const REPLY: [u8; 2] = [0, 129];
/// Request and answer: type, code, checksum, identifier, sequence number.
const LEN: usize = 8;

/// Sends an echo request from this host's own address, and waits for the answer, at most this long.
///
/// # Errors
/// When there is no permission for a raw socket, or no route.
pub fn answers(host: IpAddr, patience: Duration) -> io::Result<bool> {
    let (domain, protocol, family) = match host {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, 0),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, 1),
    };
    let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
    // From now on only packets of this host come.
    socket.connect(&SocketAddr::new(host, 0).into())?;
    let id = (std::process::id() as u16).to_be_bytes();
    let mut request = [REQUEST[family], 0, 0, 0, id[0], id[1], 0, 1];
    // The kernel writes the checksum of ICMPv6 itself (RFC 3542, section 3.1).
    let sum = Sum::default().add_bytes(&request).finish();
    request[2..4].copy_from_slice(&sum.to_be_bytes());
    socket.send(&request)?;
    let give_up = Instant::now() + patience;
    let mut packet = [0; 2048];
    loop {
        let left = give_up.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        socket.set_read_timeout(Some(left))?;
        let len = match (&socket).read(&mut packet) {
            Ok(len) => len,
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => return Ok(false),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        // Over IPv4 the packet begins with its IP header.
        let skipped = if host.is_ipv4() { usize::from(packet[0] & 0x0f) * 4 } else { 0 };
        let is_reply = |message: &[u8]| message[0] == REPLY[family] && message[4..6] == id;
        if packet[..len].get(skipped..skipped + LEN).is_some_and(is_reply) {
            return Ok(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_answers_itself() {
        for host in ["127.0.0.1", "::1"] {
            let host: IpAddr = host.parse().unwrap();
            match answers(host, Duration::from_secs(10)) {
                Ok(answered) => assert!(answered, "{host}"),
                // Without the permission, or without IPv6, there is nothing to test.
                Err(e) => assert!(
                    matches!(e.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::AddrNotAvailable)
                        || matches!(e.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::ENETUNREACH)),
                    "{host}: {e}"
                ),
            }
        }
    }
}
