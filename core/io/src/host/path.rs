//! How large packets to a host may be: pings of several sizes, none of which may be cut into fragments.
#![allow(unsafe_code)]

use std::io::{self, Read};
use std::mem::size_of;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};
use tcpcopy_wire::checksum::Sum;

use crate::socket::set_option;

/// Sizes that links and tunnels have, in bytes of IP packet; the least is for whether there is an answer at all.
const SIZES: [usize; 14] = [64, 576, 1280, 1320, 1360, 1380, 1400, 1420, 1440, 1450, 1460, 1472, 1480, 1492];
/// How often they are sent.
const ROUNDS: usize = 3;
/// Never fragment, and go by what the path has reported (ip(7)).
const IP_PMTUDISC_DO: libc::c_int = 2;
/// Bytes of an echo's header.
const ECHO_LEN: usize = 8;

/// What pings have shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathSize {
    /// None was answered.
    NoAnswer,
    /// The largest was answered.
    Whole,
    /// A router, or this host itself, says that larger ones do not fit.
    Reported(u32),
    /// Larger ones than this were not answered, in bytes; nobody says why.
    LostAbove(u32),
}

/// Sends pings of up to `bytes` to a host, and waits for its answers, at most for `patience`.
///
/// # Errors
/// When the socket cannot be had (it needs CAP_NET_RAW), or there is no route.
pub fn measure(to: IpAddr, bytes: usize, patience: Duration) -> io::Result<PathSize> {
    let socket = open(to)?;
    let mut sizes: Vec<usize> = SIZES.into_iter().filter(|size| *size < bytes).collect();
    sizes.push(bytes);
    let id = std::process::id() as u16;
    let (mut largest, mut reported) = (None, None);
    let mut buffer = vec![0; 1 << 16];
    for _ in 0..ROUNDS {
        for (sequence, size) in sizes.iter().enumerate() {
            match socket.send(&echo(to, id, sequence as u16, *size)) {
                Err(e) if e.raw_os_error() == Some(libc::EMSGSIZE) => reported = Some(*size),
                // What does not go out shows as an answer that does not come.
                Err(e) if matches!(e.kind(), io::ErrorKind::HostUnreachable | io::ErrorKind::WouldBlock) => {}
                other => drop(other?),
            }
        }
        let until = Instant::now() + patience / ROUNDS as u32;
        while largest != Some(bytes) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            socket.set_read_timeout(Some(left))?;
            let Ok(len) = (&socket).read(&mut buffer) else { continue };
            let answered =
                answered(to, id, &buffer[..len]).and_then(|sequence| sizes.get(usize::from(sequence)).copied());
            largest = largest.max(answered);
        }
        if largest == Some(bytes) {
            return Ok(PathSize::Whole);
        }
        if reported.is_some() {
            break;
        }
    }
    Ok(match (largest, reported) {
        (None, None) => PathSize::NoAnswer,
        (_, Some(_)) => PathSize::Reported(known_mtu(&socket, to).unwrap_or(largest.unwrap_or(0) as u32)),
        (Some(largest), None) => PathSize::LostAbove(largest as u32),
    })
}

/// A socket for pings to one host, which the kernel neither cuts nor answers.
fn open(to: IpAddr) -> io::Result<Socket> {
    let (domain, protocol) = match to {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
    let (level, option) = match to {
        IpAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER),
        IpAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER),
    };
    set_option(socket.as_raw_fd(), level, option, &IP_PMTUDISC_DO)?;
    socket.connect(&SocketAddr::new(to, 0).into())?;
    Ok(socket)
}

/// An echo request (RFC 792, RFC 4443) whose IP packet has so many bytes.
fn echo(to: IpAddr, id: u16, sequence: u16, packet_bytes: usize) -> Vec<u8> {
    let (kind, ip_header) = if to.is_ipv4() { (8, 20) } else { (128, 40) };
    let mut message = vec![0; packet_bytes.saturating_sub(ip_header).max(ECHO_LEN)];
    message[0] = kind;
    message[4..6].copy_from_slice(&id.to_be_bytes());
    message[6..8].copy_from_slice(&sequence.to_be_bytes());
    // That of ICMPv6, which covers addresses, is the kernel's to fill in.
    if to.is_ipv4() {
        let sum = Sum::default().add_bytes(&message).finish();
        message[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    message
}

/// The number of the echo that a message answers, if it answers one of ours.
fn answered(to: IpAddr, id: u16, received: &[u8]) -> Option<u16> {
    let (kind, message) = match to {
        // With its IP header.
        IpAddr::V4(_) => (0, received.get(usize::from(received.first()? & 0x0f) * 4..)?),
        IpAddr::V6(_) => (129, received),
    };
    let header: &[u8; ECHO_LEN] = message.first_chunk()?;
    let is_ours = header[0] == kind && header[4..6] == id.to_be_bytes();
    is_ours.then(|| u16::from_be_bytes([header[6], header[7]]))
}

/// The path's MTU as far as the kernel has heard of it, in bytes.
fn known_mtu(socket: &Socket, to: IpAddr) -> Option<u32> {
    let (level, option) = match to {
        IpAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_MTU),
        IpAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_MTU),
    };
    let mut value: libc::c_int = 0;
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes, the size of `value`; both live during the call.
    let result = unsafe { libc::getsockopt(socket.as_raw_fd(), level, option, (&raw mut value).cast(), &raw mut len) };
    (result == 0).then_some(value).and_then(|value| u32::try_from(value).ok())
}
