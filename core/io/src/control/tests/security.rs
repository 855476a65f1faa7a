//! The secret: who has it gets in, and nobody else does, whatever he has recorded.

use std::net::{Shutdown, TcpListener};
use std::sync::mpsc;
use std::thread;

use tcpcopy_wire::control::{
    FEATURE_AUTHENTICATION, GreetingError, Role, Secret, encode_challenge, encode_error, encode_proof,
};

use super::*;

pub(super) fn secret() -> Secret {
    Secret::new(b"what only the two of us know").unwrap()
}

pub(super) fn another_secret() -> Secret {
    Secret::new(b"what somebody else made up").unwrap()
}

pub(super) fn until_failed(b: &mut Bench) -> CloseReason {
    b.until("a failed attempt", |s| if let Seen::LinkFailed(_, _, reason) = s { Some(reason.clone()) } else { None })
}

/// Waits for both, in whatever order they come: intercept's reason, and tcpcopy's.
pub(super) fn until_both_refuse(b: &mut Bench) -> (CloseReason, CloseReason) {
    let (mut intercept, mut tcpcopy) = (None, None);
    while intercept.is_none() || tcpcopy.is_none() {
        b.until("both refusals", |s| match s {
            Seen::Rejected(reason) => {
                intercept.get_or_insert(reason.clone());
                Some(())
            }
            Seen::LinkFailed(_, _, reason) => {
                tcpcopy.get_or_insert(reason.clone());
                Some(())
            }
            Seen::PeerUp(..) | Seen::LinkUp(..) => panic!("somebody was let in"),
            _ => None,
        });
    }
    (intercept.unwrap(), tcpcopy.unwrap())
}

fn hello_that_proves() -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_hello(&Hello { features: FEATURE_AUTHENTICATION, ..Hello::default() }, &mut bytes);
    encode_challenge(&[7; 32], &mut bytes);
    bytes
}

/// A link that works carries a route and a response.
pub(super) fn assert_works(b: &mut Bench) {
    let links = b.links.as_mut().unwrap();
    links.send(LinkId(0), &add(7)).unwrap();
    links.flush(Timestamp::ZERO);
    let peer = b.until("a route", |s| match s {
        Seen::Route(peer, c) if *c == add(7) => Some(*peer),
        _ => None,
    });
    let now = b.now();
    b.server.as_mut().unwrap().send(peer, &responses(1), 1, now).unwrap();
    b.until("a response", |s| matches!(s, Seen::Response(..)).then_some(()));
}

#[test]
fn who_knows_the_secret_gets_in() {
    let mut b = Bench::new().serve(|c| c.secret = Some(secret())).connect(1, |c| c.secret = Some(secret()));
    b.until_link_up();
    assert_works(&mut b);
    assert_eq!(b.server.as_ref().unwrap().stats().up, 1);
}

/// Who is in stays in; who comes must know the new one.
#[test]
fn another_secret_counts_from_the_next_connection_on() {
    let mut b = Bench::new().serve(|c| c.secret = Some(secret())).connect(1, |c| c.secret = Some(secret()));
    b.until_link_up();
    b.server.as_mut().unwrap().renew(Some(another_secret()), None);
    assert_works(&mut b);
    b = b.connect(1, |c| c.secret = Some(secret()));
    let (intercept, _) = until_both_refuse(&mut b);
    assert_eq!(intercept, CloseReason::Greeting(GreetingError::WrongProof { by: Role::Tcpcopy }));
    b.links.as_mut().unwrap().renew(Some(another_secret()), None);
    b.skipped += Duration::from_secs(60);
    b.until_link_up();
    assert_works(&mut b);
}

#[test]
fn a_wrong_secret_is_told_on_both_sides_and_counted() {
    let mut b = Bench::new().serve(|c| c.secret = Some(secret())).connect(1, |c| c.secret = Some(another_secret()));
    let (intercept, tcpcopy) = until_both_refuse(&mut b);
    assert_eq!(intercept, CloseReason::Greeting(GreetingError::WrongProof { by: Role::Tcpcopy }));
    assert!(matches!(tcpcopy, CloseReason::Refused(_)), "{tcpcopy:?}");
    for text in [intercept.to_string(), tcpcopy.to_string()] {
        assert!(text.contains("--secret-file") && text.contains("must be the same"), "{text}");
    }
    let stats = b.server.as_ref().unwrap().stats();
    assert_eq!((stats.wrong_secret, stats.up, stats.garbage), (1, 0, 0));
}

#[test]
fn who_lacks_a_secret_is_named_on_both_sides() {
    for (ours, theirs, lacking) in
        [(None, Some(secret()), "tcpcopy a --secret-file"), (Some(secret()), None, "intercept a --secret-file")]
    {
        let mut b = Bench::new().serve(|c| c.secret = theirs).connect(1, |c| c.secret = ours);
        let (intercept, tcpcopy) = until_both_refuse(&mut b);
        for text in [intercept.to_string(), tcpcopy.to_string()] {
            assert!(text.contains(&format!("give {lacking}")), "{text}");
        }
        assert_eq!(b.server.as_ref().unwrap().stats().no_secret, 1);
    }
}

/// A tcpcopy that knows of no secrets gets the reason as an error.
#[test]
fn a_tcpcopy_of_an_older_release_is_told_why() {
    let mut b = Bench::new().serve(|c| c.secret = Some(secret()));
    let mut client = b.client();
    let mut hello = Vec::new();
    encode_hello(&Hello::default(), &mut hello);
    client.write_all(&hello).unwrap();
    assert_eq!(b.until_rejected(), CloseReason::Greeting(GreetingError::TcpcopyHasNoSecret));
    let mut said = Vec::new();
    client.read_to_end(&mut said).unwrap();
    assert_eq!(said[..6], [0x8e, b'T', b'C', b'P', 0, 2]);
    let features = u32::from_be_bytes([said[8], said[9], said[10], said[11]]);
    assert_eq!(features & FEATURE_AUTHENTICATION, FEATURE_AUTHENTICATION, "its hello says that it wants a proof");
    // Behind hello and challenge there is the error.
    let text = String::from_utf8_lossy(&said);
    assert!(text.contains("give tcpcopy a --secret-file"), "{text}");
}

/// Stands between tcpcopy and intercept, passes everything on, and keeps what tcpcopy says in pieces as they come.
fn eavesdropper(intercept: SocketAddr) -> (SocketAddr, mpsc::Receiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (heard, recorded) = mpsc::channel();
    thread::spawn(move || {
        let (from_tcpcopy, _) = listener.accept().unwrap();
        let to_intercept = TcpStream::connect(intercept).unwrap();
        let (mut back, mut there) = (to_intercept.try_clone().unwrap(), from_tcpcopy.try_clone().unwrap());
        thread::spawn(move || std::io::copy(&mut back, &mut there));
        let (mut from_tcpcopy, mut to_intercept) = (from_tcpcopy, to_intercept);
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = from_tcpcopy.read(&mut buffer) {
            let _ = heard.send(buffer[..n].to_vec());
            if to_intercept.write_all(&buffer[..n]).is_err() {
                return;
            }
        }
        // The other thread has the same socket: it would stay open.
        let _ = to_intercept.shutdown(Shutdown::Both);
    });
    (address, recorded)
}

#[test]
fn a_recorded_connection_cannot_be_played_again() {
    let mut b = Bench::new().serve(|c| c.secret = Some(secret()));
    let (address, recorded) = eavesdropper(b.address());
    b = b.connect_to(&[address], 1, |c| c.secret = Some(secret()));
    b.until_link_up();
    assert_works(&mut b);
    b.links = None;
    b.until("its end", |s| matches!(s, Seen::PeerGone(..)).then_some(()));
    let said: Vec<u8> = recorded.iter().flatten().collect();
    // Hello and challenge, proof, and then a route.
    assert!(said.len() > 20 + 36 + 36, "{}", said.len());

    // All at once, and then as it was said: the proof behind intercept's challenge.
    let mut all = b.client();
    all.write_all(&said).unwrap();
    assert_eq!(b.until_rejected(), CloseReason::Greeting(GreetingError::WrongProof { by: Role::Tcpcopy }));
    let mut politely = b.client();
    politely.write_all(&said[..56]).unwrap();
    while b.server.as_ref().unwrap().stats().accepted < 3 {
        b.turn();
    }
    politely.set_nonblocking(true).unwrap();
    let mut answer = [0; 56];
    while politely.peek(&mut answer).unwrap_or(0) < answer.len() {
        b.turn();
    }
    politely.write_all(&said[56..]).unwrap();
    assert_eq!(b.until_rejected(), CloseReason::Greeting(GreetingError::WrongProof { by: Role::Tcpcopy }));
    let stats = b.server.as_ref().unwrap().stats();
    assert_eq!((stats.wrong_secret, stats.up), (2, 0));
    assert!(!b.seen.iter().any(|s| matches!(s, Seen::PeerUp(..) | Seen::Route(..))), "{:?}", b.seen);
}

/// An intercept that has no secret, and says what it hears.
#[test]
fn an_echo_is_no_intercept() {
    let echo = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut b = Bench::new().connect_to(&[echo.local_addr().unwrap()], 1, |c| c.secret = Some(secret()));
    b.turn();
    let (mut peer, _) = echo.accept().unwrap();
    thread::spawn(move || {
        let mut there = peer.try_clone().unwrap();
        std::io::copy(&mut peer, &mut there)
    });
    assert_eq!(until_failed(&mut b), CloseReason::Greeting(GreetingError::WrongProof { by: Role::Intercept }));
}

#[test]
fn an_intercept_with_another_secret_cannot_pose_as_ours() {
    let rogue = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut b = Bench::new().connect_to(&[rogue.local_addr().unwrap()], 1, |c| c.secret = Some(secret()));
    b.turn();
    let (mut peer, _) = rogue.accept().unwrap();
    let mut said = hello_that_proves();
    encode_proof(&[0; 32], &mut said);
    peer.write_all(&said).unwrap();
    assert_eq!(until_failed(&mut b), CloseReason::Greeting(GreetingError::WrongProof { by: Role::Intercept }));
}

#[test]
fn nothing_is_taken_before_the_proof() {
    let mut b = Bench::new().serve(|c| c.secret = Some(secret()));
    // A frame of the largest size, of which only the head ever comes; and one that would be skipped.
    for head in [[0x01, 0, 0xff, 0xdc], [0xf0, 0, 0xff, 0xff], [0x20, 0, 0, 8]] {
        let mut client = b.client();
        let mut bytes = hello_that_proves();
        bytes.extend_from_slice(&head);
        client.write_all(&bytes).unwrap();
        assert_eq!(b.until_rejected(), CloseReason::Protocol(DecodeError::Unproved { kind: head[0] }));
    }
    let stats = b.server.as_ref().unwrap().stats();
    assert_eq!((stats.unproved, stats.up), (3, 0));
}

#[test]
fn oversized_frames_are_refused_by_their_head() {
    let mut b = Bench::new().serve(|_| {});
    let mut huge_hello = Vec::new();
    encode_hello(&Hello::default(), &mut huge_hello);
    huge_hello[6..8].copy_from_slice(&[0xff, 0xff]);
    b.client().write_all(&huge_hello).unwrap();
    assert_eq!(b.until_rejected(), CloseReason::Protocol(DecodeError::HelloLength { len: 65535 }));

    let mut client = b.client();
    let mut bytes = Vec::new();
    encode_hello(&Hello::default(), &mut bytes);
    bytes.extend_from_slice(&[0x22, 0, 0xff, 0xff]);
    client.write_all(&bytes).unwrap();
    let reason = b.until("the end", |s| if let Seen::PeerGone(_, r, _) = s { Some(r.clone()) } else { None });
    assert!(matches!(reason, CloseReason::Protocol(DecodeError::Length { len: 65535, .. })), "{reason:?}");
}

/// What strangers say is shown in a log, in one line.
#[test]
fn the_text_of_an_error_cannot_write_lines_of_its_own() {
    let mut b = Bench::new().serve(|_| {});
    let mut client = b.client();
    let mut bytes = Vec::new();
    encode_hello(&Hello::default(), &mut bytes);
    encode_error("bye\nINFO all is well\x1b[2J", &mut bytes);
    client.write_all(&bytes).unwrap();
    let reason = b.until("the end", |s| if let Seen::PeerGone(_, r, _) = s { Some(r.clone()) } else { None });
    assert_eq!(reason, CloseReason::Refused("bye INFO all is well [2J".to_owned()));
}

/// A byte now and then keeps nobody's connection: what counts is when it began.
#[test]
fn dripping_bytes_do_not_move_the_deadline() {
    let whole = hello_that_proves();
    // The hello byte by byte; then a whole hello, and a proof byte by byte that is never finished.
    let proof = [&[0x31, 0, 0, 32][..], &[0; 31]].concat();
    for (at_once, drips) in [(&[][..], &whole[..19]), (&whole[..], &proof[..])] {
        let mut b = Bench::new().serve(|c| c.secret = Some(secret()));
        let mut client = b.client();
        client.set_nodelay(true).unwrap();
        client.write_all(at_once).unwrap();
        while b.server.as_ref().unwrap().stats().accepted == 0 {
            b.turn();
        }
        for (sent, byte) in drips.iter().enumerate() {
            assert!(b.seen.is_empty(), "after {sent} bytes: {:?}", b.seen);
            client.write_all(&[*byte]).unwrap();
            b.turn();
            b.skipped += HELLO_TIMEOUT / (drips.len() as u32 + 1);
        }
        b.skipped += HELLO_TIMEOUT / 10;
        assert_eq!(b.until_rejected(), CloseReason::NoHello(HELLO_TIMEOUT));
        assert_eq!(b.server.as_ref().unwrap().stats().no_hello, 1);
    }
}

#[test]
fn only_allowed_addresses_are_listened_to() {
    let mut b = Bench::new()
        .serve(|c| c.allow = vec!["10.0.0.0/8".parse().unwrap(), "fd00::/16".parse().unwrap()])
        .connect(1, |_| {});
    let (intercept, tcpcopy) = until_both_refuse(&mut b);
    assert_eq!((&intercept, &tcpcopy), (&CloseReason::NotAllowed, &CloseReason::TurnedAway));
    assert!(tcpcopy.to_string().contains("--allow"));
    let stats = b.server.as_ref().unwrap().stats();
    assert_eq!((stats.not_allowed, stats.up), (stats.accepted, 0));

    // On a socket for both families IPv4 addresses come in an IPv6 guise.
    let mut b = Bench::new().serve(|c| {
        c.address = None;
        c.allow = vec!["127.0.0.0/8".parse().unwrap()];
    });
    let port = b.address().port();
    b = b.connect_to(&[SocketAddr::from((Ipv4Addr::LOCALHOST, port))], 1, |_| {});
    b.until_link_up();
    assert_works(&mut b);
}

#[test]
fn who_can_prove_nothing_is_refused_where_a_proof_is_demanded() {
    let open = ServerConfig::default();
    assert_eq!((open.refusal_of_unproved(), open.lets_everyone_in()), (None, true));
    let demanding = ServerConfig { secret: Some(secret()), ..ServerConfig::default() };
    assert_eq!(demanding.refusal_of_unproved(), Some(CloseReason::CannotProve));
    assert!(!demanding.lets_everyone_in());
    let narrow = ServerConfig { allow: vec!["10.0.0.1/32".parse().unwrap()], ..ServerConfig::default() };
    assert_eq!((narrow.refusal_of_unproved(), narrow.lets_everyone_in()), (None, false));
}
