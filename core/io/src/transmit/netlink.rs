//! What the kernel knows of routes and neighbours, over rtnetlink(7).
#![allow(unsafe_code)]

use std::io::{self, Read, Write};
use std::mem::{MaybeUninit, size_of, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tcpcopy_wire::link::MacAddress;

/// The kernel answers at once; this is for a kernel that does not.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// Room for one read: the kernel's answers to a dump come in parts of up to 32 KB.
const READ_BYTES: usize = 64 << 10;

const HEADER_LEN: usize = 16;
/// Of `struct rtmsg` and of `struct ndmsg`, both.
const BODY_LEN: usize = 12;

const ERROR: u16 = 2;
const DONE: u16 = 3;
const REQUEST: u16 = 0x01;
const DUMP: u16 = 0x300;

const ROUTE_DESTINATION: u16 = 1;
const ROUTE_SOURCE: u16 = 2;
const ROUTE_FROM_DEVICE: u16 = 3;
const ROUTE_DEVICE: u16 = 4;
const ROUTE_GATEWAY: u16 = 5;
const ROUTE_PREFERRED_SOURCE: u16 = 7;
const ROUTE_METRICS: u16 = 8;
/// Within the metrics.
const METRIC_MTU: u16 = 2;
/// A gateway of the other address family: the family, then the address.
const ROUTE_VIA: u16 = 18;
/// The type of a route to an address of this host.
const LOCAL_ROUTE: u8 = 2;

const NEIGHBOUR_ADDRESS: u16 = 1;
const NEIGHBOUR_LINK_ADDRESS: u16 = 2;

/// Groups of notices: links, neighbours, IPv4 routes and IPv6 routes change.
const CHANGES: u32 = 0x1 | 0x4 | 0x40 | 0x400;

/// A socket to the kernel.
pub(crate) struct Netlink {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

/// Which way packets to an address go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    /// The system's number for the device.
    pub(crate) device: u32,
    /// The router; `None`: the address itself is on the link.
    pub(crate) gateway: Option<IpAddr>,
    /// The address is one of this host's own.
    pub(crate) is_local: bool,
    /// The address that this host uses as its own on this way.
    pub(crate) source: Option<IpAddr>,
    /// Largest packet on this way, where that is less than the device's; in bytes.
    pub(crate) mtu: Option<u32>,
}

/// A neighbour that the kernel has heard of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Neighbour {
    pub(crate) device: u32,
    pub(crate) addr: IpAddr,
    pub(crate) state: State,
}

/// What the kernel knows of a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Its address, known to be right.
    Sure(MacAddress),
    /// Its address, as it was the last time.
    Stale(MacAddress),
    /// It is being asked for.
    Asked,
    /// It did not answer.
    Failed,
}

impl State {
    fn new(state: u16, address: Option<MacAddress>) -> Self {
        const INCOMPLETE: u16 = 0x01;
        const STALE: u16 = 0x04;
        const FAILED: u16 = 0x20;
        match address {
            _ if state & FAILED != 0 => Self::Failed,
            Some(address) if state & STALE != 0 => Self::Stale(address),
            Some(address) if state & INCOMPLETE == 0 => Self::Sure(address),
            _ => Self::Asked,
        }
    }
}

impl Netlink {
    /// A socket for questions.
    pub(crate) fn open() -> io::Result<Self> {
        let protocol = Protocol::from(libc::NETLINK_ROUTE);
        let socket = Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, Some(protocol))?;
        socket.set_read_timeout(Some(ANSWER_LIMIT))?;
        Ok(Self { socket, sequence: 0, buffer: vec![0; READ_BYTES] })
    }

    /// A socket that hears of changes.
    pub(crate) fn open_for_changes() -> io::Result<Self> {
        let netlink = Self::open()?;
        // SAFETY: all-zero bytes are a valid sockaddr_nl.
        let mut address: libc::sockaddr_nl = unsafe { zeroed() };
        address.nl_family = libc::AF_NETLINK as libc::sa_family_t;
        address.nl_groups = CHANGES;
        let len = size_of::<libc::sockaddr_nl>() as libc::socklen_t;
        // SAFETY: the address lives during the call and has the size that is given.
        if unsafe { libc::bind(netlink.socket.as_raw_fd(), (&raw const address).cast(), len) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(netlink)
    }

    /// Waits until something changes, at most for `patience`. What exactly does not matter: whoever waits looks again.
    pub(crate) fn wait_for_change(&mut self, patience: Duration) {
        // Without a time-out that works this would wait for ever; with a lost notice (ENOBUFS) there is one to look for.
        if self.socket.set_read_timeout(Some(patience)).is_err() {
            return std::thread::sleep(patience);
        }
        let _ = self.socket.read(&mut self.buffer);
    }

    /// Forgets the notices that have come.
    pub(crate) fn skip_changes(&self) {
        let mut bytes = [MaybeUninit::uninit(); 4096];
        while self.socket.recv_with_flags(&mut bytes, libc::MSG_DONTWAIT).is_ok() {}
    }

    /// The way to an address, out of a certain device if one is given.
    pub(crate) fn route(&mut self, to: IpAddr, device: Option<u32>) -> io::Result<Route> {
        let mut body = vec![0; BODY_LEN];
        body[0] = family(to);
        body[1] = if to.is_ipv4() { 32 } else { 128 };
        push_attribute(&mut body, ROUTE_DESTINATION, &address_bytes(to));
        if let Some(device) = device {
            push_attribute(&mut body, ROUTE_DEVICE, &device.to_ne_bytes());
        }
        self.ask_for_route(&body)
    }

    /// What becomes of a packet that comes in by a device: where it goes on to, or why it does not.
    pub(crate) fn way_on(&mut self, from: IpAddr, to: IpAddr, device: u32) -> io::Result<Route> {
        let mut body = vec![0; BODY_LEN];
        body[0] = family(to);
        let bits = if to.is_ipv4() { 32 } else { 128 };
        (body[1], body[2]) = (bits, bits);
        push_attribute(&mut body, ROUTE_DESTINATION, &address_bytes(to));
        push_attribute(&mut body, ROUTE_SOURCE, &address_bytes(from));
        push_attribute(&mut body, ROUTE_FROM_DEVICE, &device.to_ne_bytes());
        self.ask_for_route(&body)
    }

    fn ask_for_route(&mut self, body: &[u8]) -> io::Result<Route> {
        let mut route = None;
        self.ask(libc::RTM_GETROUTE, 0, body, |kind, body| {
            if kind == libc::RTM_NEWROUTE {
                route = read_route(body);
            }
        })?;
        route.ok_or_else(|| io::Error::other("the kernel's answer has no route"))
    }

    /// The neighbours of one address family.
    pub(crate) fn neighbours(&mut self, ipv6: bool) -> io::Result<Vec<Neighbour>> {
        let mut body = vec![0; BODY_LEN];
        body[0] = if ipv6 { libc::AF_INET6 } else { libc::AF_INET } as u8;
        let mut neighbours = Vec::new();
        self.ask(libc::RTM_GETNEIGH, DUMP, &body, |kind, body| {
            if kind == libc::RTM_NEWNEIGH {
                neighbours.extend(read_neighbour(body));
            }
        })?;
        Ok(neighbours)
    }

    /// Asks and reads the answers until their end.
    fn ask(&mut self, kind: u16, flags: u16, body: &[u8], mut each: impl FnMut(u16, &[u8])) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut request = Vec::with_capacity(HEADER_LEN + body.len());
        request.extend(((HEADER_LEN + body.len()) as u32).to_ne_bytes());
        request.extend(kind.to_ne_bytes());
        request.extend((REQUEST | flags).to_ne_bytes());
        request.extend(self.sequence.to_ne_bytes());
        request.extend([0; 4]);
        request.extend(body);
        self.socket.write_all(&request)?;
        loop {
            let len = match self.socket.read(&mut self.buffer) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            for message in messages(&self.buffer[..len]) {
                // What is left of an earlier question that was given up.
                if message.sequence != self.sequence {
                    continue;
                }
                match message.kind {
                    DONE => return Ok(()),
                    ERROR => {
                        let code = message.body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                        return if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) };
                    }
                    kind => each(kind, message.body),
                }
                // An answer that is not one of many is the only one.
                if flags & DUMP == 0 {
                    return Ok(());
                }
            }
        }
    }
}

struct Message<'a> {
    kind: u16,
    sequence: u32,
    body: &'a [u8],
}

/// The messages in what was read; what is cut at the end is left out.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let header: &[u8; HEADER_LEN] = bytes.first_chunk()?;
        let len = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let body = bytes.get(HEADER_LEN..len)?;
        let message = Message {
            kind: u16::from_ne_bytes([header[4], header[5]]),
            sequence: u32::from_ne_bytes([header[8], header[9], header[10], header[11]]),
            body,
        };
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// The attributes behind a message's fixed part, with their types.
fn attributes(body: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    nested(body.get(BODY_LEN..).unwrap_or_default())
}

/// The attributes in the value of one.
fn nested(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let header: &[u8; 4] = rest.first_chunk()?;
        let len = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        // The highest bits say how the value is encoded.
        let kind = u16::from_ne_bytes([header[2], header[3]]) & 0x3fff;
        let value = rest.get(4..len)?;
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn push_attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    body.extend(((4 + value.len()) as u16).to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

fn read_route(body: &[u8]) -> Option<Route> {
    let is_local = *body.get(7)? == LOCAL_ROUTE;
    let mut route = Route { device: 0, gateway: None, is_local, source: None, mtu: None };
    for (kind, value) in attributes(body) {
        match kind {
            ROUTE_DEVICE => route.device = u32::from_ne_bytes(*value.first_chunk()?),
            ROUTE_PREFERRED_SOURCE => route.source = address(value),
            ROUTE_METRICS => {
                let mtu = nested(value).find(|(kind, _)| *kind == METRIC_MTU);
                route.mtu = mtu.and_then(|(_, value)| value.first_chunk()).map(|mtu| u32::from_ne_bytes(*mtu));
            }
            ROUTE_GATEWAY => route.gateway = address(value),
            ROUTE_VIA => route.gateway = address(value.get(2..)?),
            _ => {}
        }
    }
    Some(route)
}

fn read_neighbour(body: &[u8]) -> Option<Neighbour> {
    let fixed: &[u8; BODY_LEN] = body.first_chunk()?;
    let device = u32::from_ne_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]);
    let state = u16::from_ne_bytes([fixed[8], fixed[9]]);
    let (mut addr, mut link_address) = (None, None);
    for (kind, value) in attributes(body) {
        match kind {
            NEIGHBOUR_ADDRESS => addr = address(value),
            NEIGHBOUR_LINK_ADDRESS => link_address = value.try_into().ok().map(MacAddress),
            _ => {}
        }
    }
    Some(Neighbour { device, addr: addr?, state: State::new(state, link_address) })
}

fn family(addr: IpAddr) -> u8 {
    (if addr.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }) as u8
}

fn address_bytes(addr: IpAddr) -> Vec<u8> {
    match addr {
        IpAddr::V4(addr) => addr.octets().to_vec(),
        IpAddr::V6(addr) => addr.octets().to_vec(),
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(|bytes| Ipv4Addr::from(bytes).into()),
        16 => <[u8; 16]>::try_from(bytes).ok().map(|bytes| Ipv6Addr::from(bytes).into()),
        _ => None,
    }
}
