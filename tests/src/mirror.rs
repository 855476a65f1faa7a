//! A switch that mirrors a server's traffic to another host in a tunnel.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tcpcopy_io::capture::{Capture, CaptureConfig, Method};
use tcpcopy_io::netns::{Host, REPLICAS_V4};

use crate::copy::PORT;

/// The port of VXLAN.
pub const VXLAN_PORT: u16 = 4789;
const GRE: i32 = 47;

/// What mirrored frames are wrapped into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tunnel {
    /// VXLAN to this port.
    Vxlan(u16),
    /// GRE with Ethernet in it.
    Gre,
    /// ERSPAN, type II.
    Erspan,
}

impl Tunnel {
    /// What stands before the `number`th frame, behind the outer IP header and, of VXLAN, the UDP header.
    fn header(self, number: u32) -> Vec<u8> {
        match self {
            // The VNI is valid: 42.
            Self::Vxlan(_) => vec![0x08, 0, 0, 0, 0, 0, 42, 0],
            // A key, and Ethernet.
            Self::Gre => vec![0x20, 0, 0x65, 0x58, 0, 0, 0, 42],
            // A sequence number; then version 1, VLAN 0, session 42, port 1.
            Self::Erspan => {
                let number = number.to_be_bytes();
                [&[0x10, 0, 0x88, 0xbe], &number[..], &[0x10, 0, 0, 42, 0, 0, 0, 1]].concat()
            }
        }
    }
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
            let (kind, protocol, port) = match tunnel {
                Tunnel::Vxlan(port) => (Type::DGRAM, Protocol::UDP, port),
                Tunnel::Gre | Tunnel::Erspan => (Type::RAW, Protocol::from(GRE), 0),
            };
            let socket = Socket::new(Domain::IPV4, kind, Some(protocol)).expect("a socket for the mirror");
            (capture, socket, SocketAddr::new(to.into(), port))
        };
        let (mut capture, socket, to) = host.run(open).expect("the mirrored host's namespace");
        let thread = thread::spawn(move || {
            let (to, mut number) = (to.into(), 0);
            while !stopped.load(Ordering::Relaxed) {
                let send = |frame: &[u8], _| {
                    number += 1;
                    let packet = [&tunnel.header(number), frame].concat();
                    socket.send_to(&packet, &to).expect("a mirrored frame is sent");
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
