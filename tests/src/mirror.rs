//! A switch that mirrors a server's traffic to another host, in a tunnel or as it is.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tcpcopy_io::capture::{Capture, CaptureConfig, Method};
use tcpcopy_io::netns::{Host, REPLICAS_V4, Wire};

use crate::copy::PORT;

/// The port of VXLAN.
pub const VXLAN_PORT: u16 = 4789;
const GRE: i32 = 47;

/// The device of a mirror without a tunnel, on both hosts.
pub const MIRROR_PORT: &str = "span0";

/// What mirrored frames are wrapped into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tunnel {
    /// VXLAN to this port.
    Vxlan(u16),
    /// GRE with Ethernet in it.
    Gre,
    /// ERSPAN, type II.
    Erspan,
    /// No tunnel: frames as they are, but for VLAN tags of these types, on the cable [`MIRROR_PORT`].
    Tags(&'static [u16]),
}

impl Tunnel {
    /// The `number`th frame as the mirror sends it, behind the outer IP header and, of VXLAN, the UDP header.
    fn wrap(self, frame: &[u8], number: u32) -> Vec<u8> {
        match self {
            // The VNI is valid: 42.
            Self::Vxlan(_) => [&[0x08, 0, 0, 0, 0, 0, 42, 0], frame].concat(),
            // A key, and Ethernet.
            Self::Gre => [&[0x20, 0, 0x65, 0x58, 0, 0, 0, 42], frame].concat(),
            // A sequence number; then version 1, VLAN 0, session 42, port 1.
            Self::Erspan => {
                let number = number.to_be_bytes();
                [&[0x10, 0, 0x88, 0xbe], &number[..], &[0x10, 0, 0, 42, 0, 0, 0, 1], frame].concat()
            }
            Self::Tags(kinds) => {
                let (addresses, rest) = frame.split_at(12);
                let tags: Vec<u8> = kinds.iter().flat_map(|kind| [(kind >> 8) as u8, *kind as u8, 0, 42]).collect();
                [addresses, &tags, rest].concat()
            }
        }
    }
}

/// Where mirrored frames go.
enum Outlet {
    Tunnel(Socket, SockAddr),
    Port(Wire),
}

/// A running mirror; it ends when it is dropped.
pub struct Mirror {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Mirror {
    /// Sends a copy of each frame of the server on `host`, of both directions, to another host.
    pub fn start(host: &Host, to: Ipv4Addr, tunnel: Tunnel) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let (replicas, bits) = REPLICAS_V4;
        let config = CaptureConfig {
            device: "eth0".to_owned(),
            filter: format!("tcp port {PORT} and not net {replicas}/{bits}"),
            inbound_only: false,
            method: Method::Raw,
            ..CaptureConfig::default()
        };
        let open = || {
            let capture = Capture::open(&config).expect("a capture for the mirror");
            let socket = |kind, protocol, port| {
                let socket = Socket::new(Domain::IPV4, kind, Some(protocol)).expect("a socket for the mirror");
                Outlet::Tunnel(socket, SocketAddr::new(to.into(), port).into())
            };
            let outlet = match tunnel {
                Tunnel::Vxlan(port) => socket(Type::DGRAM, Protocol::UDP, port),
                Tunnel::Gre | Tunnel::Erspan => socket(Type::RAW, Protocol::from(GRE), 0),
                Tunnel::Tags(_) => Outlet::Port(Wire::open(MIRROR_PORT).expect("the port of the mirror")),
            };
            (capture, outlet)
        };
        let (mut capture, outlet) = host.run(open).expect("the mirrored host's namespace");
        let thread = thread::spawn(move || {
            let mut number = 0;
            while !stopped.load(Ordering::Relaxed) {
                let send = |frame: &[u8], _| {
                    number += 1;
                    let packet = tunnel.wrap(frame, number);
                    let sent = match &outlet {
                        Outlet::Tunnel(socket, to) => socket.send_to(&packet, to).map(drop),
                        Outlet::Port(wire) => wire.send(&packet),
                    };
                    sent.expect("a mirrored frame is sent");
                };
                if capture.drain(64, send).expect("the mirror's capture").count == 0 {
                    thread::sleep(Duration::from_micros(200));
                }
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let well = thread.join().is_ok();
            // A failure of the mirror is the test's failure, unless it has failed already.
            assert!(well || thread::panicking(), "the mirror failed");
        }
    }
}
