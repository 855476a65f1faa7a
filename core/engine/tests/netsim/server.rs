//! A host that listens: online, or the target.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::{Socket, State};
use smoltcp::wire::IpListenEndpoint;
use tcpcopy_wire::tcp::Flags;
use tcpcopy_wire::{TcpSegment, Timestamp};

use crate::apps::{Ordinal, ServerApp};
use crate::case::{Case, Fault, Server};
use crate::host::Host;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Clients,
    Online,
    Target,
}

pub(crate) fn v4_of(place: Place) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, place as u8 + 1)
}

pub(crate) fn v6_of(place: Place) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, place as u16 + 1)
}

pub(crate) fn address(place: Place, ipv6: bool) -> IpAddr {
    if ipv6 { v6_of(place).into() } else { v4_of(place).into() }
}

/// A server with its connections, those that are over included.
pub(crate) struct ServerHost {
    pub(crate) place: Place,
    pub(crate) host: Host,
    behaviour: Server,
    port: u16,
    listener: Option<SocketHandle>,
    live: Vec<(SocketHandle, ServerApp)>,
    pub(crate) over: Vec<ServerApp>,
    /// When it wants to be run again.
    pub(crate) wake: Timestamp,
}

impl ServerHost {
    pub(crate) fn new(place: Place, behaviour: Server, port: u16, mtu: usize, seed: u64) -> Self {
        Self {
            place,
            host: Host::new(v4_of(place), v6_of(place), mtu, seed),
            behaviour,
            port,
            listener: None,
            live: Vec::new(),
            over: Vec::new(),
            wake: Timestamp::NEVER,
        }
    }

    /// A packet reaches the host's card.
    pub(crate) fn receive(&mut self, now: Timestamp, packet: Vec<u8>) {
        let syn_of = TcpSegment::from_ip_packet(&packet, packet.len())
            .ok()
            .filter(|segment| segment.tcp.flags().contains(Flags::SYN))
            .map(|segment| SocketAddr::from(segment.src));
        let known = self.live.iter().position(|(_, app)| Some(app.remote) == syn_of);
        self.host.card.received.push_back(packet);
        let Some(i) = known else { return };
        if self.host.socket(self.live[i].0).state() == State::TimeWait {
            // TIME-WAIT makes room for a new SYN on its ports, as it does on every system in use.
            let (handle, app) = self.live.remove(i);
            self.host.sockets.remove(handle);
            self.over.push(app);
        } else if let Some(listener) = self.listener.take() {
            // The SYN belongs to the connection; smoltcp would give it to whichever socket has the lower index.
            self.host.sockets.remove(listener);
            self.host.poll(now);
        }
    }

    pub(crate) fn run(&mut self, now: Timestamp, case: &Case, ordinal: &mut Ordinal) {
        loop {
            if self.listener.is_none() && self.behaviour.fault != Fault::Refuse {
                let handle = self.host.add_socket(self.behaviour.window, 1 << 18);
                let socket = self.host.socket(handle);
                if self.behaviour.timestamps {
                    socket.set_tsval_generator(Some(crate::host::timestamp_clock));
                }
                socket.listen(IpListenEndpoint { addr: None, port: self.port }).unwrap();
                self.listener = Some(handle);
            }
            self.host.poll(now);
            if let Some(handle) = self.listener
                && let Some(remote) = self.host.socket(handle).remote_endpoint()
            {
                let remote = SocketAddr::new(remote.addr.into(), remote.port);
                self.live.push((handle, ServerApp::new(self.behaviour, &case.turns, remote)));
                self.listener = None;
                continue;
            }
            break;
        }
        self.wake = Timestamp::NEVER;
        let mut i = 0;
        while i < self.live.len() {
            let (handle, app) = &mut self.live[i];
            let socket = self.host.sockets.get_mut::<Socket<'_>>(*handle);
            if let Some(at) = app.step(now, ordinal, socket) {
                self.wake = self.wake.min(at);
            }
            if socket.state() == State::Closed && !socket.can_recv() {
                let (handle, app) = self.live.remove(i);
                // A RST that waits to be sent goes first.
                self.host.poll(now);
                self.host.sockets.remove(handle);
                self.over.push(app);
            } else if socket.state() == State::Listen {
                // A handshake that was reset: the socket listens again, for nobody.
                let (handle, _) = self.live.remove(i);
                self.host.sockets.remove(handle);
            } else {
                i += 1;
            }
        }
        self.host.poll(now);
        if let Some(at) = self.host.wakes_at(now) {
            self.wake = self.wake.min(at);
        }
    }

    /// All connections there were.
    pub(crate) fn connections(&self) -> impl Iterator<Item = &ServerApp> {
        self.over.iter().chain(self.live.iter().map(|(_, app)| app))
    }
}
