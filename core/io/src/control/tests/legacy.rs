//! The C programs' control link: here a C tcpcopy, there a C intercept, each played byte by byte.

use std::net::TcpListener;

use tcpcopy_wire::control::{LegacyError, LegacyFormat, NO_SESSION, RecordEncoder, RecordKind, Secret};

use super::*;

const VERSION_6: [u8; 14] = [0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0];
/// 62.135.200.1:39274 -> 10.1.0.2:18081
const ADD: [u8; 14] = [0x3e, 0x87, 0xc8, 0x01, 0x99, 0x6a, 0, 1, 0x0a, 1, 0, 2, 0x46, 0xa1];
const HEADERS: Protocol = Protocol::Legacy { records: RecordKind::Headers, single: false };

fn session() -> Flow {
    let end = |addr: [u8; 4], port| Endpoint::new(IpAddr::from(addr), Port(port));
    Flow { client: end([62, 135, 200, 1], 39_274), server: end([10, 1, 0, 2], 18_081) }
}

fn add_session(id: u64) -> RouteChange {
    RouteChange::Add { id: FlowId(id), transport: Transport::Tcp, flow: session() }
}

/// Records as a C intercept writes them: by hand, without options.
fn record(payload_len: u16) -> Vec<u8> {
    let mut record = vec![0; 64];
    record[0] = 0x45;
    record[2..4].copy_from_slice(&(40 + payload_len).to_be_bytes());
    record[9] = 6;
    record[12..20].copy_from_slice(&[10, 1, 0, 2, 62, 135, 200, 1]);
    record[20..24].copy_from_slice(&[0x46, 0xa1, 0x99, 0x6a]);
    record[32] = 5 << 4;
    record[33] = Flags::ACK.0;
    record
}

/// A C tcpcopy that has connected and said its version.
fn old_tcpcopy(b: &mut Bench) -> (TcpStream, PeerId) {
    let mut client = b.client();
    client.write_all(&VERSION_6).unwrap();
    let peer = until_legacy_up(b);
    (client, peer)
}

fn until_legacy_up(b: &mut Bench) -> PeerId {
    b.until("an old tcpcopy", |s| if let Seen::LegacyUp(peer) = s { Some(*peer) } else { None })
}

/// A C intercept, with a link to it and the version that came on that.
fn old_intercept(protocol: Protocol) -> (Bench, TcpListener, TcpStream) {
    let intercept = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut b = Bench::new().connect_to(&[intercept.local_addr().unwrap()], 1, |c| c.protocol = protocol);
    b.until_link_up();
    let (mut socket, _) = intercept.accept().unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(read(&mut b, &mut socket), VERSION_6);
    (b, intercept, socket)
}

/// The next message of tcpcopy, as the C intercept takes it: 8 bytes, then 6.
fn read(b: &mut Bench, socket: &mut TcpStream) -> [u8; 14] {
    b.turn();
    let mut message = [0; 14];
    socket.read_exact(&mut message[..8]).unwrap();
    socket.read_exact(&mut message[8..]).unwrap();
    message
}

fn until_response(b: &mut Bench) -> (u64, u32, Vec<u8>) {
    b.until("a response", |s| match s {
        Seen::Response(_, id, len, _, payload) => Some((*id, *len, payload.clone())),
        _ => None,
    })
}

#[test]
fn an_old_tcpcopy_is_recognised_and_its_sessions_are_routes() {
    let mut b = Bench::new().serve(|_| {});
    let (mut client, peer) = old_tcpcopy(&mut b);
    // In the pieces in which it may come.
    client.write_all(&ADD[..8]).unwrap();
    b.turn();
    client.write_all(&[&ADD[8..], &ADD[..]].concat()).unwrap();
    for id in [1, 2] {
        b.until("a route", |s| (*s == Seen::Route(peer, add_session(id))).then_some(()));
    }
    let (mut encoder, mut frame) = (RecordEncoder::new(LegacyFormat::default(), 0), Vec::new());
    let response = ResponseHeader {
        id: FlowId(1),
        seq: SeqNumber(7),
        ack: SeqNumber(8),
        flags: Flags::ACK,
        window: 9,
        payload_len: 10,
        options: &[],
        payload: &[],
    };
    encoder.record(&session(), &response, &mut frame);
    let now = b.now();
    let server = b.server.as_mut().unwrap();
    // Counters have no form in this protocol.
    server.send_stats(peer, &LinkStats::default(), now);
    server.send(peer, &frame, 1, now).unwrap();
    let mut came = [0; 66];
    client.read_exact(&mut came).unwrap();
    assert_eq!((&came[..2], &came[14..22], &came[22..26]), (&[0, 1][..], &record(0)[12..20], &record(0)[20..24]));

    // It has no pings: silence means nothing.
    b.skipped += Duration::from_secs(3600);
    for _ in 0..3 {
        b.turn();
    }
    assert_eq!(b.server.as_ref().unwrap().stats().up, 1);
    drop(client);
    b.until("its end", |s| (*s == Seen::PeerGone(peer, CloseReason::Closed, 0)).then_some(()));
}

#[test]
fn both_generations_are_served_at_once() {
    let mut b = Bench::new().serve(|_| {}).connect(1, |_| {});
    b.until_link_up();
    let (_client, _) = old_tcpcopy(&mut b);
    assert_eq!(b.server.as_ref().unwrap().stats().up, 2);
}

#[test]
fn another_old_version_is_closed_and_both_are_named() {
    let mut b = Bench::new().serve(|_| {});
    for theirs in [3u16, 5, 0x8005] {
        let mut client = b.client();
        client.write_all(&[&[0; 6][..], &theirs.to_be_bytes()].concat()).unwrap();
        let reason = b.until_rejected();
        assert_eq!(reason, CloseReason::Protocol(DecodeError::Legacy(LegacyError::Version { ours: 6, theirs })));
        let text = reason.to_string();
        assert!(text.contains("version 6") && text.contains(&format!("version {theirs} ")), "{text}");
        let mut said = Vec::new();
        client.read_to_end(&mut said).unwrap();
        assert_eq!(said, [], "it would take words for records");
    }
    assert_eq!(b.server.as_ref().unwrap().stats().other_version, 3);

    // And so are mistakes of one that was served.
    let (mut client, peer) = old_tcpcopy(&mut b);
    client.write_all(&[9; 14]).unwrap();
    let unknown = CloseReason::Protocol(DecodeError::Legacy(LegacyError::Kind { kind: 0x0909 }));
    b.until("its end", |s| (*s == Seen::PeerGone(peer, unknown.clone(), 0)).then_some(()));
    let mut said = Vec::new();
    client.read_to_end(&mut said).unwrap();
    assert_eq!(said, []);
}

#[test]
fn half_a_version_is_too_late_after_a_while() {
    let mut b = Bench::new().serve(|_| {});
    let mut client = b.client();
    client.write_all(&VERSION_6[..10]).unwrap();
    while b.server.as_ref().unwrap().stats().accepted == 0 {
        b.turn();
    }
    b.skipped += HELLO_TIMEOUT;
    assert_eq!(b.until_rejected(), CloseReason::NoHello(HELLO_TIMEOUT));
}

#[test]
fn who_cannot_prove_anything_is_not_served_where_a_proof_is_demanded() {
    let mut b = Bench::new().serve(|c| c.secret = Some(Secret::new(b"what only the two of us know").unwrap()));
    let mut client = b.client();
    client.write_all(&[&VERSION_6[..], &ADD].concat()).unwrap();
    assert_eq!(b.until_rejected(), CloseReason::CannotProve);
    assert!(b.seen.is_empty(), "and its routes are none: {:?}", b.seen);
    let mut said = Vec::new();
    // What it sent may come back as a reset.
    let _ = client.read_to_end(&mut said);
    assert_eq!(said, []);
}

#[test]
fn without_routes_the_newest_tcpcopy_is_served() {
    let mut b = Bench::new().serve(|c| c.single = Some(Single::Newest));
    let ours: Vec<_> = (0..2).map(|_| old_tcpcopy(&mut b)).collect();
    b.skipped += Duration::from_secs(3);
    let (_client, newer) = old_tcpcopy(&mut b);
    for (mut client, peer) in ours {
        b.until("the older one's end", |s| (*s == Seen::PeerGone(peer, CloseReason::Replaced, 0)).then_some(()));
        assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
    }
    assert_eq!(b.server.as_ref().unwrap().peers().collect::<Vec<_>>(), [newer]);
}

#[test]
fn or_the_oldest_while_it_is_there() {
    let mut b = Bench::new().serve(|c| c.single = Some(Single::Oldest));
    let (client, peer) = old_tcpcopy(&mut b);
    b.skipped += Duration::from_secs(3);
    let mut newcomer = b.client();
    newcomer.write_all(&[&VERSION_6[..], &ADD].concat()).unwrap();
    assert_eq!(b.until_rejected(), CloseReason::Occupied);
    drop(client);
    b.until("the end of the first", |s| (*s == Seen::PeerGone(peer, CloseReason::Closed, 0)).then_some(()));
    old_tcpcopy(&mut b);
}

#[test]
fn an_old_intercept_is_told_of_sessions_and_its_records_find_them() {
    let (mut b, _intercept, mut socket) = old_intercept(HEADERS);
    let links = b.links.as_mut().unwrap();
    links.send(LinkId(0), &add_session(42)).unwrap();
    links.send(LinkId(0), &RouteChange::Remove { id: FlowId(7) }).unwrap();
    links.flush(Timestamp::ZERO);
    assert_eq!(read(&mut b, &mut socket), ADD);

    // Combined, in two writes, and of one packet nobody has heard.
    let mut unknown = record(3);
    unknown[23] += 1;
    let frame = [&[0, 3][..], &record(0), &unknown, &record(21)].concat();
    socket.write_all(&frame[..100]).unwrap();
    b.turn();
    socket.write_all(&frame[100..]).unwrap();
    let came: Vec<_> = (0..3).map(|_| until_response(&mut b)).map(|(id, len, _)| (id, len)).collect();
    assert_eq!(came, [(42, 0), (NO_SESSION.0, 3), (42, 21)]);
    // Bare.
    socket.write_all(&[record(1), record(2)].concat()).unwrap();
    assert_eq!([1, 2].map(|_| until_response(&mut b).1), [1, 2]);

    // The session ends: that is not said.
    let links = b.links.as_mut().unwrap();
    links.send(LinkId(0), &RouteChange::Remove { id: FlowId(42) }).unwrap();
    links.send(LinkId(0), &add_session(43)).unwrap();
    links.send(LinkId(0), &RouteChange::Remove { id: FlowId(42) }).unwrap();
    links.flush(Timestamp::ZERO);
    assert_eq!(read(&mut b, &mut socket), ADD, "and the next one is the next thing said");
    socket.write_all(&record(5)).unwrap();
    assert_eq!(until_response(&mut b).0, 43);

    // It says nothing for an hour, which it may.
    b.skipped += Duration::from_secs(3600);
    for _ in 0..3 {
        b.turn();
    }
    assert_eq!(b.links.as_ref().unwrap().up_count(), 1);
    assert_eq!(b.links.as_ref().unwrap().next_deadline(), None, "nothing to wait for");
    socket.set_nonblocking(true).unwrap();
    assert!(socket.read(&mut [0; 1]).is_err(), "no ping went there");
}

#[test]
fn payload_of_an_old_intercept() {
    let (mut b, _intercept, mut socket) =
        old_intercept(Protocol::Legacy { records: RecordKind::WithPayload, single: false });
    let links = b.links.as_mut().unwrap();
    links.send(LinkId(0), &add_session(1)).unwrap();
    links.send(LinkId(0), &RouteChange::Payload { id: FlowId(1), payload: Payload::Full }).unwrap();
    links.flush(Timestamp::ZERO);
    assert_eq!(read(&mut b, &mut socket), ADD);
    let mut shown = record(4);
    shown.resize(192, 0);
    shown[40..44].copy_from_slice(b"END\n");
    let mut long = record(129);
    long.resize(192, 0);
    socket.write_all(&[&[0, 2][..], &shown, &long].concat()).unwrap();
    assert_eq!([1, 2].map(|_| until_response(&mut b)), [(1, 4, b"END\n".to_vec()), (1, 129, vec![])]);
}

#[test]
fn what_an_old_intercept_cannot_do_is_not_asked_of_it() {
    let (mut b, _intercept, _socket) = old_intercept(HEADERS);
    let links = b.links.as_mut().unwrap();
    let udp = RouteChange::Add { id: FlowId(1), transport: Transport::Udp, flow: session() };
    let wish = RouteChange::Payload { id: FlowId(1), payload: Payload::Full };
    let client = Endpoint::new("fd00::1".parse().unwrap(), Port(1));
    let ipv6 = RouteChange::Add { id: FlowId(2), transport: Transport::Tcp, flow: Flow { client, ..session() } };
    for change in [udp, wish, ipv6] {
        assert_eq!(links.send(LinkId(0), &change), Err(SendError::NotSupported));
    }
}

#[test]
fn an_intercept_without_routes_is_told_of_nothing() {
    let (mut b, _intercept, mut socket) =
        old_intercept(Protocol::Legacy { records: RecordKind::Headers, single: true });
    let links = b.links.as_mut().unwrap();
    links.send(LinkId(0), &add_session(5)).unwrap();
    links.flush(Timestamp::ZERO);
    socket.write_all(&record(6)).unwrap();
    assert_eq!(until_response(&mut b).0, 5);
    socket.set_nonblocking(true).unwrap();
    assert!(socket.read(&mut [0; 1]).is_err(), "nothing behind the version");
}

/// One that was built differently, or is none at all: connections that end at once are tried less and less often.
#[test]
fn an_intercept_of_another_build_is_given_up_more_and_more_slowly() {
    let (mut b, intercept, mut socket) = old_intercept(HEADERS);
    let mut pauses = Vec::new();
    for _ in 0..4 {
        let before = b.now();
        socket.write_all(&[0, 17]).unwrap();
        let reason = CloseReason::Protocol(DecodeError::Legacy(LegacyError::Count { count: 17, max: 16 }));
        b.until("the loss", |s| (*s == Seen::LinkDown(LinkId(0), reason.clone())).then_some(()));
        let due = b.links.as_ref().unwrap().next_deadline().unwrap();
        pauses.push(due.since(before).as_millis());
        b.skipped += Duration::from_secs(5);
        b.until_link_up();
        (socket, _) = intercept.accept().unwrap();
    }
    assert!(pauses.iter().zip([200, 400, 800, 1600]).all(|(pause, least)| *pause >= least), "{pauses:?}");
}

#[test]
fn both_ends_of_this_generation_speak_the_old_protocol_with_each_other() {
    let mut b = Bench::new().serve(|_| {}).connect(2, |c| c.protocol = HEADERS);
    b.until_link_up();
    let peer = until_legacy_up(&mut b);
    until_legacy_up(&mut b);
    for link in [LinkId(0), LinkId(1)] {
        b.links.as_mut().unwrap().send(link, &add_session(77)).unwrap();
    }
    b.links.as_mut().unwrap().flush(Timestamp::ZERO);
    b.until("a route", |s| (*s == Seen::Route(peer, add_session(1))).then_some(()));
    let now = b.now();
    b.server.as_mut().unwrap().send(peer, &[&[0, 1][..], &record(9)].concat(), 1, now).unwrap();
    assert_eq!(until_response(&mut b), (77, 9, vec![]));
    b.server = None;
    b.until("the loss", |s| (*s == Seen::LinkDown(LinkId(0), CloseReason::Closed)).then_some(()));
}
