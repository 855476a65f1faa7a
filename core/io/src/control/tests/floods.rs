//! One end that does too much of something: it is bounded, counted, and nobody else's business.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::security::{assert_works, secret};
use super::*;

/// Connections opened before the server accepts them: fewer than wait in its queue.
const BATCH: usize = 100;

#[test]
fn ten_thousand_connections_are_turned_away_and_a_good_one_still_gets_in() {
    const CONNECTIONS: usize = 10_000;
    const MOST: usize = 64;
    let mut b = Bench::new().serve(|c| {
        c.max_peers = MOST;
        c.secret = Some(secret());
    });
    let mut held = Vec::new();
    for batch in 1..=CONNECTIONS / BATCH {
        let fresh: Vec<TcpStream> = (0..BATCH).map(|_| b.client()).collect();
        while b.server.as_ref().unwrap().stats().accepted < (batch * BATCH) as u64 {
            b.turn();
        }
        // The first are those that are in; they say nothing.
        if held.is_empty() {
            held = fresh;
        }
        let late = b.seen.iter().filter(|s| !matches!(s, Seen::Rejected(CloseReason::TooMany { limit: MOST })));
        assert_eq!(late.collect::<Vec<_>>(), Vec::<&Seen>::new());
    }
    let server = b.server.as_ref().unwrap();
    let stats = server.stats();
    assert_eq!((stats.accepted, stats.too_many), (CONNECTIONS as u64, (CONNECTIONS - MOST) as u64));
    assert_eq!(b.seen.len(), CONNECTIONS - MOST);
    b.seen.clear();

    // Those who are in have their 3 seconds; then there is room.
    b.skipped += HELLO_TIMEOUT;
    for _ in 0..MOST {
        assert_eq!(b.until_rejected(), CloseReason::NoHello(HELLO_TIMEOUT));
    }
    b = b.connect(1, |c| c.secret = Some(secret()));
    b.until_link_up();
    assert_works(&mut b);
}

#[test]
fn one_address_cannot_have_all_connections() {
    let mut b = Bench::new().serve(|c| {
        c.address = Some(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        c.max_peers = 8;
        c.max_per_address = 4;
    });
    let port = b.address().port();
    let greedy: Vec<TcpStream> = (0..6).map(|_| TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap()).collect();
    for _ in 0..2 {
        assert_eq!(b.until_rejected(), CloseReason::TooManyOfOne { limit: 4 });
    }
    assert_eq!(b.server.as_ref().unwrap().stats().too_many_of_one, 2);
    // From 127.0.0.2 there is room.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 2], 0)).into()).unwrap();
    socket.connect(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into()).unwrap();
    let mut other = TcpStream::from(socket);
    let mut hello = Vec::new();
    encode_hello(&Hello::default(), &mut hello);
    other.write_all(&hello).unwrap();
    b.until("the other's hello", |s| matches!(s, Seen::PeerUp(..)).then_some(()));
    drop(greedy);
}

/// Writes one route after the other, as fast as it goes, until it is told to stop.
fn flood(mut client: TcpStream, stop: Arc<AtomicBool>) -> thread::JoinHandle<u64> {
    let (mut encoder, mut routes) = (BatchEncoder::default(), Vec::new());
    for n in 0..3_000 {
        encoder.route(&add(n), &mut routes);
    }
    thread::spawn(move || {
        let mut sent = 0;
        while !stop.load(Ordering::Relaxed) && client.write_all(&routes).is_ok() {
            sent += 3_000;
        }
        sent
    })
}

#[test]
fn a_flood_of_routes_does_not_keep_others_waiting() {
    let mut b = Bench::new().serve(|_| {}).connect(1, |_| {});
    b.until_link_up();
    // The first to come has the first number.
    let good = PeerId(0);
    let mut client = b.client();
    let mut hello = Vec::new();
    encode_hello(&Hello::default(), &mut hello);
    client.write_all(&hello).unwrap();
    b.until("the flooder's hello", |s| matches!(s, Seen::PeerUp(peer, _) if *peer != good).then_some(()));
    let stop = Arc::new(AtomicBool::new(false));
    let flooder = flood(client, Arc::clone(&stop));
    b.until("the flood", |s| matches!(s, Seen::Route(peer, _) if *peer != good).then_some(()));

    for n in 0..5 {
        let route = RouteChange::Remove { id: FlowId(1_000_000 + n) };
        let links = b.links.as_mut().unwrap();
        links.send(LinkId(0), &route).unwrap();
        links.flush(Timestamp::ZERO);
        b.until("the other's route", |s| {
            matches!(s, Seen::Route(peer, c) if *peer == good && *c == route).then_some(())
        });
        // What the flooder has sent meanwhile was read, too, a bounded part at a time.
        b.seen.retain(|s| !matches!(s, Seen::Route(..)));
    }
    stop.store(true, Ordering::Relaxed);
    while !flooder.is_finished() {
        b.turn();
        b.seen.clear();
    }
    assert!(flooder.join().unwrap() > 0);
    assert!(b.links.as_ref().unwrap().is_up(LinkId(0)));
}
