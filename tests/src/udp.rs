//! Clients and servers of UDP whose datagrams have numbers, so that each one's fate is known.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};
use tcpcopy_io::netns::{Host, Namespace, wait_for};
use tcpcopy_io::socket::grow_receive_buffer;

use crate::copy::PROBES;

/// Bytes of the shortest datagram: its number.
pub const SHORTEST: usize = 8;

const START_PATIENCE: Duration = Duration::from_secs(30);
/// Receive buffer of a receiver, in bytes; the kernel gives less to who may not go beyond its limit.
const RECEIVE_BUFFER: usize = 8 << 20;
/// How often a receiver looks whether it should end.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Bytes that follow from a number.
pub fn payload(id: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len.max(SHORTEST)];
    fill(id, &mut bytes);
    bytes
}

fn fill(id: u64, bytes: &mut [u8]) {
    let (number, rest) = bytes.split_at_mut(SHORTEST);
    number.copy_from_slice(&id.to_be_bytes());
    rest.iter_mut().zip(id..).for_each(|(byte, n)| *byte = (n % 251) as u8);
}

/// A datagram that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrived {
    /// Its number.
    pub id: u64,
    /// Where it seems to come from.
    pub from: SocketAddr,
    /// Bytes of payload.
    pub len: usize,
    /// Whether each byte is what it was.
    pub is_intact: bool,
    /// When it came, from the receiver's origin on.
    pub at: Duration,
}

#[derive(Default)]
struct Shared {
    arrived: Mutex<Vec<Arrived>>,
    count: AtomicU64,
    probes: AtomicU64,
    stop: AtomicBool,
}

/// A socket that remembers what it received. It ends when dropped.
pub struct Receiver {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    namespace: Namespace,
    address: SocketAddr,
}

impl Receiver {
    /// Starts one on a host, dating from `origin` what arrives; `answers`: each datagram is sent back as it is.
    pub fn start(host: &Host, address: SocketAddr, origin: Instant, answers: bool) -> Self {
        let namespace = host.share().expect("a descriptor");
        let socket = host.run(|| bind(address)).and_then(|socket| socket).expect("a port for UDP");
        let shared = Arc::new(Shared::default());
        let receiving = Arc::clone(&shared);
        let thread = thread::spawn(move || receive(&socket, &receiving, origin, answers));
        Self { shared, thread: Some(thread), namespace, address }
    }

    /// Datagrams that arrived, without probes.
    pub fn count(&self) -> u64 {
        self.shared.count.load(Ordering::Relaxed)
    }

    /// Probes that arrived.
    pub fn probes(&self) -> u64 {
        self.shared.probes.load(Ordering::Relaxed)
    }

    /// What arrived, without probes.
    pub fn arrived(&self) -> Vec<Arrived> {
        self.shared.arrived.lock().expect("no panic while receiving").clone()
    }

    /// Datagrams that the kernel dropped because the socket's buffer was full.
    pub fn dropped(&self) -> u64 {
        let table = if self.address.is_ipv4() { "udp" } else { "udp6" };
        // /proc/thread-self/net shows the namespace of the thread that opens it.
        let table = self.namespace.run(|| fs::read_to_string(format!("/proc/thread-self/net/{table}")));
        let table = table.and_then(|table| table).expect("the kernel's table of sockets");
        let port = format!(":{:04X}", self.address.port());
        let is_own = |line: &&str| line.split_whitespace().nth(1).is_some_and(|local| local.ends_with(&port));
        let line = table.lines().skip(1).find(is_own).expect("the socket");
        line.split_whitespace().next_back().and_then(|drops| drops.parse().ok()).expect("a number of drops")
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A receiver that panicked has said so.
            let _ = thread.join();
        }
    }
}

fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    // A thread that waits for its turn for a third of a second must not lose anything: what is sent is counted.
    grow_receive_buffer(&socket, RECEIVE_BUFFER);
    socket.bind(&address.into())?;
    socket.set_read_timeout(Some(LOOK_EVERY))?;
    Ok(socket.into())
}

fn receive(socket: &UdpSocket, shared: &Shared, origin: Instant, answers: bool) {
    let mut buffer = vec![0; 65_536];
    let mut expected = Vec::new();
    while !shared.stop.load(Ordering::Relaxed) {
        let Ok((len, from)) = socket.recv_from(&mut buffer) else { continue };
        let bytes = &buffer[..len];
        if answers {
            // An answer that cannot be sent is missed by whoever waits for it.
            let _ = socket.send_to(bytes, from);
        }
        let Some(id) = bytes.first_chunk().map(|number| u64::from_be_bytes(*number)) else { continue };
        if id >= PROBES {
            shared.probes.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        expected.resize(len, 0);
        fill(id, &mut expected);
        let arrived = Arrived { id, from, len, is_intact: bytes == expected, at: origin.elapsed() };
        shared.arrived.lock().expect("no panic while receiving").push(arrived);
        shared.count.fetch_add(1, Ordering::Relaxed);
    }
}

/// What clients send: datagrams numbered from `first_id` on, in turn from each of their ports.
#[derive(Clone, Debug)]
pub struct Traffic {
    /// The server.
    pub server: SocketAddr,
    /// Sockets, each with a port of its own.
    pub ports: usize,
    /// Number of the first datagram.
    pub first_id: u64,
    /// How many there are.
    pub datagrams: u64,
    /// Bytes of payload.
    pub len: usize,
    /// Datagrams a second.
    pub rate: u64,
}

impl Traffic {
    /// A thousand small datagrams a second from ten ports.
    pub fn new(server: SocketAddr, datagrams: u64) -> Self {
        Self { server, ports: 10, first_id: 0, datagrams, len: 100, rate: 1_000 }
    }

    /// Sends it all from a host. Returns the ports that it was sent from. Nothing reads what comes back.
    pub fn send(&self, host: &Namespace) -> Vec<u16> {
        let any = if self.server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let sockets = host
            .run(|| (0..self.ports).map(|_| UdpSocket::bind(any)).collect::<io::Result<Vec<_>>>())
            .and_then(|sockets| sockets)
            .expect("sockets");
        let start = Instant::now();
        let mut bytes = payload(self.first_id, self.len);
        for n in 0..self.datagrams {
            let due = Duration::from_nanos(n * 1_000_000_000 / self.rate);
            // Those of a millisecond in a row: more is asked of a copy than by even pauses, and less of this host.
            if due.saturating_sub(start.elapsed()) > Duration::from_millis(1) {
                thread::sleep(due.saturating_sub(start.elapsed()));
            }
            let id = self.first_id + n;
            fill(id, &mut bytes);
            let socket = &sockets[(n % self.ports as u64) as usize];
            while let Err(error) = socket.send_to(&bytes, self.server) {
                let is_full = matches!(error.kind(), io::ErrorKind::WouldBlock) || error.raw_os_error() == Some(105);
                assert!(is_full, "datagram {id} to {}: {error}", self.server);
                thread::sleep(Duration::from_millis(1));
            }
        }
        sockets.iter().map(|socket| socket.local_addr().expect("a bound socket").port()).collect()
    }
}

/// Sends probes from a host until one of them has been copied: from then on all must be. Returns how many it sent.
pub fn wait_until_copying(host: &Namespace, server: SocketAddr, target: &Receiver) -> u64 {
    let before = target.probes();
    let mut sent = 0;
    let up = wait_for(START_PATIENCE, || {
        let probe = Traffic { ports: 1, first_id: PROBES + sent, ..Traffic::new(server, 1) };
        probe.send(host);
        sent += 1;
        wait_for(Duration::from_millis(200), || (target.probes() > before).then_some(()))
    });
    assert!(up.is_some(), "no datagram was copied from {server}");
    sent
}

/// How often each number arrived.
pub fn times_arrived(arrived: &[Arrived]) -> HashMap<u64, u64> {
    let mut times = HashMap::new();
    for datagram in arrived {
        *times.entry(datagram.id).or_default() += 1;
    }
    times
}
