//! Both ends over loopback. Nothing here depends on how fast the machine is: each test waits for what it expects, and
//! time that has to pass is passed by moving the clock that the code is given.

mod checks;
mod floods;
mod legacy;
mod security;
mod tls;

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};
use tcpcopy_engine::{LinkId, PeerId};
use tcpcopy_wire::Transport;
use tcpcopy_wire::control::{
    Answer, BatchEncoder, DatagramResponse, DecodeError, FlowId, Hello, LinkStats, Payload, Question, ResponseHeader,
    RouteChange, encode_hello,
};
use tcpcopy_wire::tcp::Flags;
use tcpcopy_wire::{Endpoint, Flow, Port, SeqNumber, Timestamp};

use super::*;

const SERVER: Token = Token(1);
const LINKS: Token = Token(1000);
const PATIENCE: Duration = Duration::from_secs(60);

/// An intercept's end and a tcpcopy's end on one poll, with a clock that tests can move forward.
struct Bench {
    poll: Poll,
    events: Events,
    started: Instant,
    skipped: Duration,
    server: Option<ControlServer>,
    links: Option<ControlLinks>,
    seen: VecDeque<Seen>,
}

#[derive(Clone, Debug, PartialEq)]
enum Seen {
    PeerUp(PeerId, Hello),
    LegacyUp(PeerId),
    Route(PeerId, RouteChange),
    PeerGone(PeerId, CloseReason, u64),
    Rejected(CloseReason),
    LinkUp(LinkId, Hello),
    LinkDown(LinkId, CloseReason),
    LinkFailed(LinkId, u32, CloseReason),
    Response(LinkId, u64, u32, Vec<u8>, Vec<u8>),
    Datagram(LinkId, u64, u16, Vec<u8>),
    Stats(LinkId, LinkStats),
    Questions(PeerId, Vec<Question>),
    Report(LinkId, String, Vec<Answer>),
}

impl Bench {
    fn new() -> Self {
        Self {
            poll: Poll::new().unwrap(),
            events: Events::with_capacity(64),
            started: Instant::now(),
            skipped: Duration::ZERO,
            server: None,
            links: None,
            seen: VecDeque::new(),
        }
    }

    fn serve(mut self, change: impl FnOnce(&mut ServerConfig)) -> Self {
        let localhost = Some(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let mut config = ServerConfig { address: localhost, port: 0, ..ServerConfig::default() };
        change(&mut config);
        self.server = Some(ControlServer::bind(config, self.poll.registry(), SERVER).unwrap());
        self
    }

    fn connect(self, connections: u16, change: impl FnOnce(&mut LinksConfig)) -> Self {
        let to = self.address();
        self.connect_to(&[to], connections, change)
    }

    fn connect_to(mut self, to: &[SocketAddr], connections: u16, change: impl FnOnce(&mut LinksConfig)) -> Self {
        let hello = Hello { features: 0, route_ttl: Duration::from_secs(720), max_batch: 0 };
        let mut config = LinksConfig::new(to.to_vec(), connections, hello);
        change(&mut config);
        self.links = Some(ControlLinks::new(config, self.poll.registry(), LINKS).unwrap());
        self
    }

    fn address(&self) -> SocketAddr {
        self.server.as_ref().unwrap().local_addr().unwrap()
    }

    fn now(&self) -> Timestamp {
        Timestamp::ZERO + self.started.elapsed() + self.skipped
    }

    fn turn(&mut self) {
        self.poll.poll(&mut self.events, Some(Duration::from_millis(5))).unwrap();
        let now = self.now();
        let Self { server, links, seen, events, .. } = self;
        let mut on_peer = |e: PeerEvent<'_>| match e {
            PeerEvent::Up { peer, hello, .. } => seen.push_back(Seen::PeerUp(peer, hello)),
            PeerEvent::LegacyUp { peer, .. } => seen.push_back(Seen::LegacyUp(peer)),
            PeerEvent::Route { peer, change } => seen.push_back(Seen::Route(peer, change)),
            PeerEvent::Questions { peer, questions, .. } => seen.push_back(Seen::Questions(peer, questions)),
            PeerEvent::Gone { peer, reason, undelivered, .. } => {
                seen.push_back(Seen::PeerGone(peer, reason.clone(), undelivered));
            }
            PeerEvent::Rejected { reason, .. } => seen.push_back(Seen::Rejected(reason.clone())),
        };
        if let Some(server) = server {
            for event in events.iter() {
                if server.owns(event.token()) {
                    server.handle_event(event, now, &mut on_peer);
                }
            }
            if server.next_deadline().is_some_and(|at| at <= now) {
                server.handle_timeout(now, &mut on_peer);
            }
        }
        let mut on_link = |e: LinkEvent<'_>| match e {
            LinkEvent::Up { link, hello } => seen.push_back(Seen::LinkUp(link, hello)),
            LinkEvent::Down { link, reason } => seen.push_back(Seen::LinkDown(link, reason.clone())),
            LinkEvent::Failed { link, attempts, reason } => {
                seen.push_back(Seen::LinkFailed(link, attempts, reason.clone()));
            }
            LinkEvent::Response { link, header } => {
                let payload = header.payload.to_vec();
                seen.push_back(Seen::Response(link, header.id.0, header.payload_len, header.options.to_vec(), payload));
            }
            LinkEvent::Datagram { link, datagram } => {
                seen.push_back(Seen::Datagram(link, datagram.id.0, datagram.payload_len, datagram.payload.to_vec()));
            }
            LinkEvent::Report { link, report } => {
                seen.push_back(Seen::Report(link, report.filter.to_owned(), report.answers.collect()));
            }
            LinkEvent::Stats { link, stats } => seen.push_back(Seen::Stats(link, stats)),
        };
        if let Some(links) = links {
            for event in events.iter() {
                if links.owns(event.token()) {
                    links.handle_event(event, now, &mut on_link);
                }
            }
            if links.next_deadline().is_some_and(|at| at <= now) {
                links.handle_timeout(now, &mut on_link);
            }
        }
    }

    /// Goes on until `found` picks something out of what has been seen, and forgets what came before it.
    fn until<T>(&mut self, what: &str, mut found: impl FnMut(&Seen) -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            if let Some((at, picked)) = self.seen.iter().enumerate().find_map(|(i, s)| Some((i, found(s)?))) {
                self.seen.drain(..=at);
                return picked;
            }
            assert!(begun.elapsed() < PATIENCE, "waited in vain for {what}; seen: {:?}", self.seen);
            self.turn();
        }
    }

    fn until_link_up(&mut self) -> LinkId {
        self.until("a link to come up", |s| if let Seen::LinkUp(link, _) = s { Some(*link) } else { None })
    }

    fn until_rejected(&mut self) -> CloseReason {
        self.until("a rejection", |s| if let Seen::Rejected(reason) = s { Some(reason.clone()) } else { None })
    }

    /// A plain client of the server.
    fn client(&self) -> TcpStream {
        let client = TcpStream::connect(self.address()).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client
    }
}

fn flow(port: u16) -> Flow {
    let end = |last, port| Endpoint::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)), Port(port));
    Flow { client: end(1, port), server: end(2, 80) }
}

fn add(n: u64) -> RouteChange {
    RouteChange::Add { id: FlowId(n), transport: Transport::Tcp, flow: flow(n as u16) }
}

/// Frames with `count` responses.
fn responses(count: u64) -> Vec<u8> {
    let (mut encoder, mut bytes) = (BatchEncoder::default(), Vec::new());
    for n in 0..count {
        let (seq, ack) = (SeqNumber(1), SeqNumber(2));
        let options: &[u8] = &[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2];
        let header = ResponseHeader {
            payload: &[],
            id: FlowId(n),
            seq,
            ack,
            flags: Flags::ACK,
            window: 3,
            payload_len: n as u32,
            options,
        };
        encoder.response(&header, &mut bytes);
    }
    bytes
}

/// In order, none missing.
fn assert_routes_pass(b: &mut Bench, routes: u64) {
    let now = b.now();
    let links = b.links.as_mut().unwrap();
    for n in 0..routes {
        links.send(LinkId(0), &add(n)).unwrap();
        if n % 1000 == 0 {
            links.flush(now);
        }
    }
    links.flush(now);
    for n in 0..routes {
        let next = b.until("a route", |s| if let Seen::Route(_, c) = s { Some(*c) } else { None });
        assert_eq!(next, add(n));
    }
}

#[test]
fn links_come_up_and_carry_routes_responses_statistics_and_pings() {
    let mut b = Bench::new().serve(|_| {});
    let to = [b.address(), b.address()];
    b = b.connect_to(&to, 2, |_| {});
    for _ in 0..4 {
        b.until_link_up();
    }
    let links = b.links.as_mut().unwrap();
    assert_eq!((links.up_count(), links.len(), b.server.as_ref().unwrap().stats().up), (4, 4, 4));
    let changes = [add(7), add(8), RouteChange::Remove { id: FlowId(7) }];
    for change in &changes {
        links.send(LinkId(2), change).unwrap();
    }
    links.flush(Timestamp::ZERO);
    let mut from = Vec::new();
    for change in changes {
        from.push(b.until("a route", |s| match s {
            Seen::Route(peer, c) if *c == change => Some(*peer),
            _ => None,
        }));
    }
    assert!(from.iter().all(|peer| *peer == from[0]), "all on one link: {from:?}");
    let now = b.now();
    let stats = LinkStats { relayed: 5, ..LinkStats::default() };
    let server = b.server.as_mut().unwrap();
    server.send(from[0], &responses(3), 3, now).unwrap();
    server.send_stats(from[0], &stats, now);
    for n in 0..3 {
        b.until("a response", |s| match s {
            Seen::Response(LinkId(2), id, len, options, _)
                if *id == n && u64::from(*len) == n && options.len() == 12 =>
            {
                Some(())
            }
            _ => None,
        });
    }
    b.until("statistics", |s| (*s == Seen::Stats(LinkId(2), stats)).then_some(()));
    while (0..4).any(|n| b.links.as_ref().unwrap().rtt(LinkId(n)).is_none()) {
        b.turn();
    }
}

#[test]
fn many_routes_pass_whatever_the_sockets_take_at_once() {
    let mut b = Bench::new().serve(|_| {}).connect(1, |_| {});
    b.until_link_up();
    assert_routes_pass(&mut b, 200_000);
}

#[test]
fn garbage_and_a_scan_are_closed_and_counted() {
    let mut b = Bench::new().serve(|_| {});
    let mut browser = b.client();
    browser.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    assert!(matches!(b.until_rejected(), CloseReason::Protocol(DecodeError::WrongMagic { .. })));
    let mut said = Vec::new();
    // The rest of what it sent may come back as a reset; either way it is told nothing.
    let _ = browser.read_to_end(&mut said);
    assert!(said.is_empty());

    drop(b.client());
    assert_eq!(b.until_rejected(), CloseReason::Unused);
    let stats = b.server.as_ref().unwrap().stats();
    assert_eq!((stats.accepted, stats.garbage, stats.unused, stats.up), (2, 1, 1, 0));
}

#[test]
fn garbage_after_the_hello_ends_the_peer_with_an_explanation() {
    let mut b = Bench::new().serve(|_| {});
    let mut client = b.client();
    let mut bytes = Vec::new();
    encode_hello(&Hello::default(), &mut bytes);
    bytes.extend_from_slice(&[0x7f, 0, 0, 0]);
    client.write_all(&bytes).unwrap();
    let wrong = CloseReason::Protocol(DecodeError::UnknownKind { kind: 0x7f });
    b.until("the end", |s| (*s == Seen::PeerGone(PeerId(0), wrong.clone(), 0)).then_some(()));
    assert_eq!(b.server.as_ref().unwrap().stats().up, 0);
}

#[test]
fn another_version_is_refused_by_both_ends() {
    let mut b = Bench::new().serve(|_| {});
    let mut client = b.client();
    let mut bytes = Vec::new();
    encode_hello(&Hello::default(), &mut bytes);
    bytes[5] = 3;
    client.write_all(&bytes).unwrap();
    assert_eq!(b.until_rejected(), CloseReason::Protocol(DecodeError::Version { ours: 2, theirs: 3 }));
    let mut answer = [0; 20];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(answer[..6], [0x8e, b'T', b'C', b'P', 0, 2]);
    assert_eq!(b.server.as_ref().unwrap().stats().other_version, 1);

    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    b = b.connect_to(&[other.local_addr().unwrap()], 1, |_| {});
    b.turn();
    let (mut peer, _) = other.accept().unwrap();
    peer.write_all(&bytes).unwrap();
    let version = CloseReason::Protocol(DecodeError::Version { ours: 2, theirs: 3 });
    b.until("the refusal", |s| (*s == Seen::LinkFailed(LinkId(0), 1, version.clone())).then_some(()));
}

#[test]
fn who_says_no_hello_is_closed_in_time() {
    let mut b = Bench::new().serve(|_| {});
    let _silent = b.client();
    let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    b = b.connect_to(&[mute.local_addr().unwrap()], 1, |_| {});
    while b.server.as_ref().unwrap().stats().accepted == 0 {
        b.turn();
    }
    assert!(b.seen.is_empty());
    b.skipped += HELLO_TIMEOUT;
    assert_eq!(b.until_rejected(), CloseReason::NoHello(HELLO_TIMEOUT));
    b.until("the link's failure", |s| matches!(s, Seen::LinkFailed(_, 1, CloseReason::NoHello(_))).then_some(()));
}

#[test]
fn more_peers_than_allowed_are_turned_away() {
    let mut b = Bench::new().serve(|c| c.max_peers = 1).connect(1, |_| {});
    b.until_link_up();
    let _second = b.client();
    assert_eq!(b.until_rejected(), CloseReason::TooMany { limit: 1 });
}

#[test]
fn a_lost_intercept_is_connected_again() {
    let mut b = Bench::new().serve(|_| {});
    let address = b.address();
    b = b.connect_to(&[address], 2, |_| {});
    b.until_link_up();
    b.until_link_up();
    b.server = None;
    let down = |s: &Seen| matches!(s, Seen::LinkDown(..)).then_some(());
    b.until("the loss", down);
    b.until("the loss of the other", down);
    assert_eq!(b.links.as_mut().unwrap().send(LinkId(0), &add(1)), Err(SendError::Down));
    let refused = |s: &Seen| match s {
        Seen::LinkFailed(_, attempts, CloseReason::Io(std::io::ErrorKind::ConnectionRefused, _)) => Some(*attempts),
        _ => None,
    };
    b.skipped += Duration::from_millis(200);
    assert_eq!((b.until("a failed attempt", refused), b.until("another", refused)), (1, 1));
    // Nothing listens yet, so attempts go on, further and further apart.
    b.skipped += Duration::from_millis(200);
    assert_eq!(b.until("a second attempt", refused), 2);
    b = b.serve(|c| c.port = address.port());
    b.skipped += Duration::from_secs(5);
    b.until_link_up();
    b.until_link_up();
    assert_eq!(b.links.as_mut().unwrap().send(LinkId(0), &add(1)), Ok(()));
}

#[test]
fn a_dead_intercept_is_noticed_by_its_silence() {
    let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut b = Bench::new().connect_to(&[mute.local_addr().unwrap()], 1, |_| {});
    b.turn();
    let (mut peer, _) = mute.accept().unwrap();
    let mut hello = Vec::new();
    encode_hello(&Hello::default(), &mut hello);
    peer.write_all(&hello).unwrap();
    b.until_link_up();
    b.skipped += PING_INTERVAL * 3;
    let silent = CloseReason::Silent(PING_INTERVAL * 3);
    b.until("the loss", |s| (*s == Seen::LinkDown(LinkId(0), silent.clone())).then_some(()));
}

#[test]
fn a_silent_tcpcopy_is_closed() {
    let mut b = Bench::new().serve(|_| {});
    let mut client = b.client();
    let mut hello = Vec::new();
    encode_hello(&Hello::default(), &mut hello);
    client.write_all(&hello).unwrap();
    b.until("the peer", |s| matches!(s, Seen::PeerUp(..)).then_some(()));
    let after = ServerConfig::default().silence_timeout;
    b.skipped += after;
    b.until("its end", |s| (*s == Seen::PeerGone(PeerId(0), CloseReason::Silent(after), 0)).then_some(()));
}

#[test]
fn a_peer_that_does_not_read_costs_bounded_memory_and_is_closed_in_the_end() {
    let mut b = Bench::new().serve(|c| c.out_limit = 1 << 20);
    let mut client = b.client();
    let mut hello = Vec::new();
    encode_hello(&Hello::default(), &mut hello);
    client.write_all(&hello).unwrap();
    b.until("the peer", |s| matches!(s, Seen::PeerUp(..)).then_some(()));
    let (batch, now) = (responses(1000), b.now());
    let server = b.server.as_mut().unwrap();
    let mut taken = 0;
    while server.send(PeerId(0), &batch, 1000, now).is_ok() {
        taken += 1000;
        assert!(taken * 36 < 1 << 30, "the buffer has no end");
    }
    assert_eq!(server.send(PeerId(0), &batch, 1000, now), Err(LinkFull));
    let after = ServerConfig::default().stall_timeout;
    b.skipped += after;
    let (reason, undelivered) = b.until("its end", |s| match s {
        Seen::PeerGone(_, reason, undelivered) => Some((reason.clone(), *undelivered)),
        _ => None,
    });
    assert_eq!(reason, CloseReason::Stalled(after));
    // What waited in the buffer is known to be lost: a megabyte of it, and the batch that was begun.
    assert!((28_000..=30_000).contains(&undelivered), "{undelivered}");
}

#[test]
fn a_link_whose_buffer_overflows_is_given_up() {
    let mut b = Bench::new().serve(|_| {}).connect(1, |c| c.out_limit = 100);
    b.until_link_up();
    let links = b.links.as_mut().unwrap();
    while links.send(LinkId(0), &add(1)).is_ok() {}
    assert_eq!(links.send(LinkId(0), &add(1)), Err(SendError::Full));
    let overflow = CloseReason::Overflow { limit: 100 };
    b.until("the loss", |s| (*s == Seen::LinkDown(LinkId(0), overflow.clone())).then_some(()));
    b.skipped += Duration::from_secs(5);
    b.until_link_up();
}

#[test]
fn an_address_in_use_is_named() {
    let b = Bench::new().serve(|_| {});
    let config = ServerConfig { address: Some(b.address().ip()), port: b.address().port(), ..ServerConfig::default() };
    let error = ControlServer::bind(config, b.poll.registry(), Token(9000)).unwrap_err().to_string();
    assert!(error.contains(&b.address().to_string()) && error.contains("-p"), "{error}");
}

#[test]
fn without_an_address_both_families_are_served() {
    let mut b = Bench::new().serve(|c| c.address = None);
    let port = b.address().port();
    b = b.connect_to(&[SocketAddr::from((Ipv4Addr::LOCALHOST, port))], 1, |_| {});
    b.until_link_up();
    if std::net::TcpListener::bind("[::1]:0").is_ok() {
        let mut v6 = TcpStream::connect(("::1", port)).unwrap();
        v6.write_all(b"x").unwrap();
        b.until_rejected();
    }
}

#[test]
fn payload_and_datagrams_pass_in_both_directions() {
    let mut b = Bench::new().serve(|_| {}).connect(1, |_| {});
    b.until_link_up();
    let links = b.links.as_mut().unwrap();
    let udp = RouteChange::Add { id: FlowId(9), transport: Transport::Udp, flow: flow(53) };
    let wish = RouteChange::Payload { id: FlowId(9), payload: Payload::Full };
    for change in [udp, wish] {
        links.send(LinkId(0), &change).unwrap();
    }
    links.flush(Timestamp::ZERO);
    let peer = b.until("a UDP route", |s| match s {
        Seen::Route(peer, c) if *c == udp => Some(*peer),
        _ => None,
    });
    b.until("a wish for payload", |s| matches!(s, Seen::Route(_, c) if *c == wish).then_some(()));
    let (mut encoder, mut bytes) = (BatchEncoder::default(), Vec::new());
    let datagram = DatagramResponse { id: FlowId(9), payload_len: 45, payload: b"answer" };
    encoder.datagram(&datagram, &mut bytes);
    let header = ResponseHeader {
        id: FlowId(9),
        seq: SeqNumber(1),
        ack: SeqNumber(2),
        flags: Flags::ACK,
        window: 3,
        payload_len: 4,
        options: &[],
        payload: b"END\n",
    };
    encoder.response(&header, &mut bytes);
    b.server.as_mut().unwrap().send(peer, &bytes, 2, Timestamp::ZERO).unwrap();
    b.until("the datagram", |s| matches!(s, Seen::Datagram(_, 9, 45, d) if d == b"answer").then_some(()));
    b.until("the response", |s| matches!(s, Seen::Response(_, 9, 4, _, d) if d == b"END\n").then_some(()));
}

#[test]
fn an_intercept_that_cannot_is_not_asked() {
    let mut b = Bench::new().serve(|config| config.hello = Hello::default()).connect(1, |_| {});
    b.until_link_up();
    let links = b.links.as_mut().unwrap();
    let udp = RouteChange::Add { id: FlowId(9), transport: Transport::Udp, flow: flow(53) };
    let wish = RouteChange::Payload { id: FlowId(9), payload: Payload::Full };
    for change in [udp, wish] {
        assert_eq!(links.send(LinkId(0), &change), Err(SendError::NotSupported));
    }
    links.send(LinkId(0), &add(1)).unwrap();
}
