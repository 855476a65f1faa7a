//! Sending whole IP packets, headers of our own included, in batches.
//!
//! By this host's routes: raw sockets of protocol `IPPROTO_RAW`, since with any other protocol the kernel would queue every
//! inbound packet of that protocol on them. At the link layer ([`link`]): a packet socket (packet(7)) that takes no
//! packets, and whole frames. The arrays that sendmmsg(2) reads are made once and used for every batch.
#![allow(unsafe_code)]

pub mod link;
pub(crate) mod netlink;

use std::fmt;
use std::io;
use std::mem::{size_of, zeroed};
use std::net::IpAddr;
use std::os::fd::AsRawFd;

use std::sync::Arc;

use socket2::{Domain, Protocol, Socket, Type};
use tcpcopy_wire::link::{ETHERNET_HEADER_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6};

use self::link::{Hop, LinkPaths, Routed};
use crate::process::{self, Capability};

/// Packets given to the kernel in one call at most.
const BATCH: usize = 64;

/// How long a full send buffer is waited for, once per call of [`Transmitter::send`], in milliseconds.
const FULL_WAIT_MS: libc::c_int = 1;

/// Why transmission cannot begin.
#[derive(Debug)]
pub enum TransmitError {
    /// The process may not send packets with headers of its own.
    NoPermission,
    /// The system refuses the socket for another reason.
    Open {
        /// `IPv4` or `IPv6`.
        family: &'static str,
        /// The system's words.
        source: io::Error,
    },
    /// A device cannot send frames of Ethernet.
    Device {
        /// The device.
        device: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No device leads to a target.
    NoPath {
        /// The target.
        target: IpAddr,
        /// The devices that may be used.
        devices: Vec<String>,
        /// What is in the way.
        reason: String,
    },
}

impl fmt::Display for TransmitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPermission => {
                write!(f, "no permission to send raw packets: {}", Capability::NetRaw.remedy())
            }
            Self::Open { family, source } => write!(f, "cannot open a raw {family} socket: {source}"),
            Self::Device { device, reason } => write!(f, "cannot send on `{device}`: {reason}"),
            Self::NoPath { target, devices, reason } => {
                write!(f, "{target} cannot be reached at the link layer of {}: {reason}", devices.join(", "))
            }
        }
    }
}

impl std::error::Error for TransmitError {}

/// Why a packet was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum SendError {
    /// The send buffer or the device's queue is full (`EAGAIN`, `ENOBUFS`).
    QueueFull,
    /// A rule of this host forbids it (`EPERM`, `EACCES`).
    Forbidden,
    /// It is larger than the device or the path takes (`EMSGSIZE`).
    TooLarge,
    /// This host knows no way to the target (`ENETUNREACH`, `EHOSTUNREACH`, `ENETDOWN`).
    NoRoute,
    /// No socket of the packet's family is open.
    NoSocket,
    /// The MAC address of the next hop is not known.
    NoNeighbour,
    /// Anything else.
    Other,
}

impl SendError {
    /// Every cause.
    pub const ALL: [Self; 7] = [
        Self::QueueFull,
        Self::Forbidden,
        Self::TooLarge,
        Self::NoRoute,
        Self::NoSocket,
        Self::NoNeighbour,
        Self::Other,
    ];

    /// The cause in the words of log and statistics.
    pub const fn text(self) -> &'static str {
        match self {
            Self::QueueFull => "queue full",
            Self::Forbidden => "forbidden",
            Self::TooLarge => "too large",
            Self::NoRoute => "no route",
            Self::NoSocket => "address family not in use",
            Self::NoNeighbour => "next hop not found",
            Self::Other => "other",
        }
    }

    fn from_errno(errno: i32) -> Self {
        match errno {
            libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM => Self::QueueFull,
            libc::EPERM | libc::EACCES => Self::Forbidden,
            libc::EMSGSIZE => Self::TooLarge,
            libc::ENETUNREACH | libc::EHOSTUNREACH | libc::ENETDOWN | libc::EHOSTDOWN | libc::ENXIO | libc::ENODEV => {
                Self::NoRoute
            }
            _ => Self::Other,
        }
    }

    /// What probably is behind it, and what to do.
    pub const fn advice(self) -> &'static str {
        match self {
            Self::QueueFull => "the device does not send as fast as packets come; sessions retransmit what is lost",
            Self::Forbidden => {
                "a firewall rule on this host rejects the copies: look at `iptables -S OUTPUT` and at conntrack (a \
                 full table, or `-m state --state INVALID -j DROP`), or exempt the target with `-j NOTRACK`"
            }
            Self::TooLarge => "the device's MTU is smaller than the packets: give it with -M",
            Self::NoRoute => "this host has no route to the target: see `ip route get TARGET`, then `ip route add`",
            Self::NoSocket => "no target of this address family was configured",
            Self::NoNeighbour => {
                "no neighbour answers for the target on the device of -o: see `ip neigh`, or give its MAC address in -x, \
                 as in 80-10.0.0.2:80@02:00:00:00:00:02"
            }
            Self::Other => "the sessions concerned retransmit",
        }
    }
}

/// Counters of a [`Transmitter`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TransmitStats {
    /// Packets that the kernel took.
    pub sent: u64,
    /// Packets that it did not take, by [`SendError`].
    pub failed: [u64; SendError::ALL.len()],
}

impl std::ops::AddAssign for TransmitStats {
    fn add_assign(&mut self, other: Self) {
        self.sent += other.sent;
        for (sum, n) in self.failed.iter_mut().zip(other.failed) {
            *sum += n;
        }
    }
}

/// Sends IP packets. A packet that cannot be sent is counted, never more than that: TCP repeats it.
pub struct Transmitter {
    means: Means,
    outcome: Outcome,
}

/// How packets leave this host.
enum Means {
    /// By its routes, from a socket for each address family.
    Ip { ipv4: Option<Batch>, ipv6: Option<Batch> },
    /// As whole frames.
    Link { batch: Batch, routed: Routed },
}

impl Transmitter {
    /// Opens the sockets for the address families that are needed, each with a send buffer of `buffer_bytes` if the
    /// system allows it. Packets go by this host's routes.
    ///
    /// # Errors
    /// [`TransmitError`].
    pub fn open(ipv4: bool, ipv6: bool, buffer_bytes: usize) -> Result<Self, TransmitError> {
        let means = Means::Ip {
            ipv4: ipv4.then(|| Batch::open(Family::Ipv4, buffer_bytes)).transpose()?,
            ipv6: ipv6.then(|| Batch::open(Family::Ipv6, buffer_bytes)).transpose()?,
        };
        Ok(Self { means, outcome: Outcome::default() })
    }

    /// Opens a socket for whole frames, which take these paths.
    ///
    /// # Errors
    /// [`TransmitError`].
    pub fn open_link(paths: &Arc<LinkPaths>, buffer_bytes: usize) -> Result<Self, TransmitError> {
        let means =
            Means::Link { batch: Batch::open(Family::Link, buffer_bytes)?, routed: Routed::new(Arc::clone(paths)) };
        Ok(Self { means, outcome: Outcome::default() })
    }

    /// Sends each packet, in order within its address family, to the address beside it.
    #[inline]
    pub fn send<'a>(&mut self, packets: impl Iterator<Item = (IpAddr, &'a [u8])>) {
        let outcome = &mut self.outcome;
        outcome.waited = false;
        match &mut self.means {
            Means::Ip { ipv4, ipv6 } => {
                for (to, packet) in packets {
                    let batch = if to.is_ipv4() { &mut *ipv4 } else { &mut *ipv6 };
                    let Some(batch) = batch else {
                        let e = io::Error::from_raw_os_error(libc::EAFNOSUPPORT);
                        outcome.fail(SendError::NoSocket, 1, to, packet.len(), &e);
                        continue;
                    };
                    batch.push(to, packet);
                    // SAFETY: what was pushed lives for 'a, longer than this call.
                    unsafe { batch.flush_if_full(outcome) };
                }
                for batch in [ipv4, ipv6].into_iter().flatten() {
                    // SAFETY: as above; afterwards the batch is empty and points to nothing that is used again.
                    unsafe { batch.flush(outcome) };
                }
            }
            Means::Link { batch, routed } => {
                routed.renew();
                for (to, packet) in packets {
                    let Some(hop) = routed.hop(to) else {
                        let e = io::Error::from_raw_os_error(libc::EHOSTUNREACH);
                        outcome.fail(SendError::NoNeighbour, 1, to, packet.len(), &e);
                        continue;
                    };
                    batch.push_frame(to, hop, packet);
                    // SAFETY: as above.
                    unsafe { batch.flush_if_full(outcome) };
                }
                // SAFETY: as above.
                unsafe { batch.flush(outcome) };
            }
        }
    }

    /// The counters.
    pub fn stats(&self) -> TransmitStats {
        self.outcome.stats
    }
}

/// Counters, and which causes the log has named already.
#[derive(Default)]
struct Outcome {
    stats: TransmitStats,
    named: [bool; SendError::ALL.len()],
    waited: bool,
}

impl Outcome {
    #[cold]
    fn fail(&mut self, cause: SendError, count: usize, to: IpAddr, len: usize, e: &io::Error) {
        self.stats.failed[cause as usize] += count as u64;
        if !std::mem::replace(&mut self.named[cause as usize], true) {
            log::warn!(
                "a packet of {len} bytes to {to} could not be sent: {e}; {}. Further ones are only counted.",
                cause.advice()
            );
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    Ipv4,
    Ipv6,
    Link,
}

/// One socket and the arrays for its calls of sendmmsg.
struct Batch {
    socket: Socket,
    /// Each points to the entries of the other arrays with its index: set up once.
    headers: Box<[libc::mmsghdr; BATCH]>,
    /// Ethernet header, if any, and packet.
    buffers: Box<[[libc::iovec; 2]; BATCH]>,
    addresses: Box<[Address; BATCH]>,
    ethernet: Box<[[u8; ETHERNET_HEADER_LEN]; BATCH]>,
    /// Whom each packet is for.
    targets: Box<[IpAddr; BATCH]>,
    len: usize,
}

/// Room for an address of any family.
#[derive(Clone, Copy)]
union Address {
    ipv4: libc::sockaddr_in,
    ipv6: libc::sockaddr_in6,
    link: libc::sockaddr_ll,
}

// SAFETY: the raw pointers go to the boxes beside them, which move with the struct, and (during `send` only) to packets
// borrowed by the thread that sends.
unsafe impl Send for Batch {}

impl Batch {
    fn open(family: Family, buffer_bytes: usize) -> Result<Self, TransmitError> {
        let (domain, protocol, name) = match family {
            Family::Ipv4 => (Domain::IPV4, libc::IPPROTO_RAW, "IPv4"),
            Family::Ipv6 => (Domain::IPV6, libc::IPPROTO_RAW, "IPv6"),
            // A packet socket of protocol 0 takes no packets.
            Family::Link => (Domain::PACKET, 0, "packet"),
        };
        let to_error = |source: io::Error| {
            if source.kind() == io::ErrorKind::PermissionDenied && !process::has_capability(Capability::NetRaw) {
                TransmitError::NoPermission
            } else {
                TransmitError::Open { family: name, source }
            }
        };
        let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(protocol))).map_err(to_error)?;
        socket.set_nonblocking(true).map_err(to_error)?;
        if family == Family::Ipv4 {
            socket.set_header_included_v4(true).map_err(to_error)?;
        }
        grow_send_buffer(&socket, buffer_bytes);

        // SAFETY: all-zero bytes are valid for these C structs: null pointers, lengths of zero.
        let mut batch = unsafe {
            Self {
                socket,
                headers: Box::new(zeroed()),
                buffers: Box::new(zeroed()),
                addresses: Box::new(zeroed()),
                ethernet: Box::new([[0; ETHERNET_HEADER_LEN]; BATCH]),
                targets: Box::new([IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED); BATCH]),
                len: 0,
            }
        };
        for (((header, buffers), address), ethernet) in batch
            .headers
            .iter_mut()
            .zip(batch.buffers.iter_mut())
            .zip(batch.addresses.iter_mut())
            .zip(batch.ethernet.iter_mut())
        {
            let name_len = match family {
                Family::Ipv4 => {
                    // SAFETY: all-zero bytes are a valid address.
                    address.ipv4 = unsafe { zeroed() };
                    address.ipv4.sin_family = libc::AF_INET as libc::sa_family_t;
                    size_of::<libc::sockaddr_in>()
                }
                Family::Ipv6 => {
                    // SAFETY: as above.
                    address.ipv6 = unsafe { zeroed() };
                    address.ipv6.sin6_family = libc::AF_INET6 as libc::sa_family_t;
                    size_of::<libc::sockaddr_in6>()
                }
                Family::Link => {
                    // SAFETY: as above.
                    address.link = unsafe { zeroed() };
                    address.link.sll_family = libc::AF_PACKET as libc::c_ushort;
                    size_of::<libc::sockaddr_ll>()
                }
            };
            header.msg_hdr.msg_name = (&raw mut *address).cast();
            header.msg_hdr.msg_namelen = name_len as libc::socklen_t;
            if family == Family::Link {
                buffers[0] = libc::iovec { iov_base: ethernet.as_mut_ptr().cast(), iov_len: ETHERNET_HEADER_LEN };
                header.msg_hdr.msg_iov = buffers.as_mut_ptr();
                header.msg_hdr.msg_iovlen = 2;
            } else {
                header.msg_hdr.msg_iov = &raw mut buffers[1];
                header.msg_hdr.msg_iovlen = 1;
            }
        }
        Ok(batch)
    }

    /// Adds a packet. There must be room, and the packet must live until the flush.
    #[inline]
    fn push(&mut self, to: IpAddr, packet: &[u8]) {
        match to {
            IpAddr::V4(ip) => self.addresses[self.len].ipv4.sin_addr.s_addr = u32::from_ne_bytes(ip.octets()),
            IpAddr::V6(ip) => self.addresses[self.len].ipv6.sin6_addr.s6_addr = ip.octets(),
        }
        self.push_bytes(to, packet);
    }

    /// Adds a packet that goes to this next hop in a frame. As with [`push`](Self::push).
    #[inline]
    fn push_frame(&mut self, to: IpAddr, hop: &Hop, packet: &[u8]) {
        let (kind, header) = if to.is_ipv6() { (ETHERTYPE_IPV6, hop.ipv6) } else { (ETHERTYPE_IPV4, hop.ipv4) };
        self.ethernet[self.len] = header;
        let address = &mut self.addresses[self.len];
        address.link.sll_protocol = kind.to_be();
        address.link.sll_ifindex = hop.device;
        self.push_bytes(to, packet);
    }

    #[inline]
    fn push_bytes(&mut self, to: IpAddr, packet: &[u8]) {
        self.targets[self.len] = to;
        // The kernel only reads through this pointer.
        self.buffers[self.len][1] = libc::iovec { iov_base: packet.as_ptr().cast_mut().cast(), iov_len: packet.len() };
        self.len += 1;
    }

    /// Makes room.
    ///
    /// # Safety
    /// As [`flush`](Self::flush).
    #[inline]
    unsafe fn flush_if_full(&mut self, outcome: &mut Outcome) {
        if self.len == BATCH {
            // SAFETY: as the caller promises.
            unsafe { self.flush(outcome) };
        }
    }

    /// Sends what was pushed, and forgets it.
    ///
    /// # Safety
    /// The packets pushed since the last flush are still borrowed.
    #[inline]
    unsafe fn flush(&mut self, outcome: &mut Outcome) {
        let mut next = 0;
        while next < self.len {
            // SAFETY: headers next..len point to addresses and buffers owned by self; the buffers point to packets that
            // live, as the caller promises.
            let sent = unsafe {
                libc::sendmmsg(
                    self.socket.as_raw_fd(),
                    self.headers.as_mut_ptr().add(next),
                    (self.len - next) as libc::c_uint,
                    libc::MSG_DONTWAIT,
                )
            };
            if sent > 0 {
                outcome.stats.sent += sent as u64;
                next += sent as usize;
            } else {
                next += self.not_sent(next, outcome);
            }
        }
        self.len = 0;
    }

    /// The packet at `at` was not taken: counts it, or waits for room. Returns how many packets to go past.
    #[cold]
    fn not_sent(&mut self, at: usize, outcome: &mut Outcome) -> usize {
        let e = io::Error::last_os_error();
        let errno = e.raw_os_error().unwrap_or(0);
        if errno == libc::EINTR {
            return 0;
        }
        if errno == libc::EAGAIN && !std::mem::replace(&mut outcome.waited, true) {
            let mut poll = libc::pollfd { fd: self.socket.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
            // SAFETY: one pollfd, which lives during the call. Its result does not matter: the next send tells.
            unsafe { libc::poll(&raw mut poll, 1, FULL_WAIT_MS) };
            return 0;
        }
        // A full buffer will not take the rest either; any other error concerns this packet alone.
        let lost = if errno == libc::EAGAIN { self.len - at } else { 1 };
        outcome.fail(SendError::from_errno(errno), lost, self.targets[at], self.buffers[at][1].iov_len, &e);
        lost
    }
}

/// As large as asked with `CAP_NET_ADMIN`, otherwise as large as `net.core.wmem_max` lets it be.
fn grow_send_buffer(socket: &Socket, bytes: usize) {
    let value = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    // SAFETY: the kernel reads the bytes of a live c_int.
    let forced = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_SNDBUFFORCE,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if forced != 0 {
        // The kernel cuts the value to its limit; a smaller buffer is still a buffer.
        let _ = socket.set_send_buffer_size(bytes);
    }
}

#[cfg(test)]
mod tests;
