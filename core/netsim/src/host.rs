//! A host with a TCP of its own, independent of the engine's: smoltcp.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{self, Device, DeviceCapabilities, Medium};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr};
use tcpcopy_wire::Timestamp;

/// The host's network card: two queues.
pub(crate) struct Card {
    mtu: usize,
    pub(crate) received: VecDeque<Vec<u8>>,
    pub(crate) sent: VecDeque<Vec<u8>>,
}

pub(crate) struct Arrived(Vec<u8>);
pub(crate) struct Leaving<'a>(&'a mut VecDeque<Vec<u8>>);

impl phy::RxToken for Arrived {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl phy::TxToken for Leaving<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut packet = vec![0; len];
        let result = f(&mut packet);
        self.0.push_back(packet);
        result
    }
}

impl Device for Card {
    type RxToken<'a> = Arrived;
    type TxToken<'a> = Leaving<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Arrived, Leaving<'_>)> {
        let packet = self.received.pop_front()?;
        Some((Arrived(packet), Leaving(&mut self.sent)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Leaving<'_>> {
        Some(Leaving(&mut self.sent))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        capabilities
    }
}

/// An interface with its sockets.
pub(crate) struct Host {
    pub(crate) card: Card,
    pub(crate) interface: Interface,
    pub(crate) sockets: SocketSet<'static>,
}

/// The virtual clock in smoltcp's microseconds.
pub(crate) fn instant(now: Timestamp) -> Instant {
    Instant::from_micros(now.as_micros() as i64)
}

pub(crate) fn smol(addr: IpAddr) -> IpAddress {
    match addr {
        IpAddr::V4(a) => IpAddress::Ipv4(a),
        IpAddr::V6(a) => IpAddress::Ipv6(a),
    }
}

impl Host {
    pub(crate) fn new(v4: Ipv4Addr, v6: Ipv6Addr, mtu: usize, seed: u64) -> Self {
        let mut card = Card { mtu, received: VecDeque::new(), sent: VecDeque::new() };
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut card, Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(IpAddress::Ipv4(v4), 0)).unwrap();
            addresses.push(IpCidr::new(IpAddress::Ipv6(v6), 0)).unwrap();
        });
        Self { card, interface, sockets: SocketSet::new(Vec::new()) }
    }

    pub(crate) fn poll(&mut self, now: Timestamp) {
        MILLISECONDS.set(1_000 + now.as_millis() as u32);
        self.interface.poll(instant(now), &mut self.card, &mut self.sockets);
    }

    /// When the TCP wants to be polled again: never before `now`, and a microsecond late rather than early.
    pub(crate) fn wakes_at(&mut self, now: Timestamp) -> Option<Timestamp> {
        let at = self.interface.poll_at(instant(now), &self.sockets)?;
        Some(Timestamp::from_nanos(at.total_micros().max(0) as u64 * 1_000).max(now + Duration::from_micros(1)))
    }

    pub(crate) fn add_socket(&mut self, window: usize, send_buffer: usize) -> SocketHandle {
        let mut socket =
            tcp::Socket::new(tcp::SocketBuffer::new(vec![0; window]), tcp::SocketBuffer::new(vec![0; send_buffer]));
        socket.set_nagle_enabled(false);
        self.sockets.add(socket)
    }

    pub(crate) fn socket(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }
}

thread_local! {
    static MILLISECONDS: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
}

/// Timestamps of smoltcp's sockets: it asks a function without arguments, so the virtual clock is left for it here.
pub(crate) fn timestamp_clock() -> u32 {
    MILLISECONDS.get()
}
