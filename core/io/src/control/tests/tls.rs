//! TLS under the control link, with certificates that are made here.

use std::fs;
use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tcpcopy_wire::control::{GreetingError, Role};
use tempfile::TempDir;

use super::super::stream::OutBuffer;
use super::super::transport::Transport;
use super::security::{another_secret, assert_works, secret, until_both_refuse};
use super::*;

/// An authority, and a folder for what it signs.
struct Authority {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "an authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        fs::write(folder.path().join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        Self { folder, issuer: Issuer::new(params, key) }
    }

    fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A certificate for a name or address, and its key.
    fn sign(&self, name: &str) -> Signed {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = self.folder.path().join(format!("{name}.pem"));
        let key_file = self.folder.path().join(format!("{name}.key"));
        fs::write(&certificate, params.signed_by(&key, &self.issuer).unwrap().pem()).unwrap();
        fs::write(&key_file, key.serialize_pem()).unwrap();
        Signed { certificate, key: key_file }
    }
}

struct Signed {
    certificate: PathBuf,
    key: PathBuf,
}

impl Signed {
    fn identity(&self) -> Identity<'_> {
        Identity { certificate: &self.certificate, key: &self.key }
    }
}

fn server(authority: &Authority, demands_certificate: bool) -> TlsServer {
    let ca = authority.ca();
    let own = authority.sign("127.0.0.1");
    TlsServer::new(own.identity(), demands_certificate.then_some(ca.as_path())).unwrap()
}

fn client(authority: &Authority, own: Option<&Signed>, name: Option<&str>) -> TlsClient {
    TlsClient::new(&authority.ca(), own.map(Signed::identity), name).unwrap()
}

#[test]
fn a_link_works_over_tls() {
    let authority = Authority::new();
    let mut b = Bench::new()
        .serve(|c| c.tls = Some(server(&authority, false)))
        .connect(3, |c| c.tls = Some(client(&authority, None, None)));
    for _ in 0..3 {
        b.until_link_up();
    }
    assert_works(&mut b);
    while (0..3).any(|n| b.links.as_ref().unwrap().rtt(LinkId(n)).is_none()) {
        b.turn();
    }
    assert_routes_pass(&mut b, 100_000);
    // What the other end says when it goes is understood.
    b.server = None;
    b.until("the loss", |s| matches!(s, Seen::LinkDown(_, CloseReason::Closed)).then_some(()));
}

#[test]
fn each_shows_the_other_its_certificate() {
    let authority = Authority::new();
    let own = authority.sign("tcpcopy.example");
    let mut b = Bench::new().serve(|c| c.tls = Some(server(&authority, true)));
    assert!(!b.server.as_ref().unwrap().config().lets_everyone_in());
    b = b.connect(1, |c| c.tls = Some(client(&authority, Some(&own), None)));
    b.until_link_up();
    assert_works(&mut b);
}

#[test]
fn a_certificate_that_is_missing_or_of_another_authority_is_refused() {
    let (authority, other) = (Authority::new(), Authority::new());
    let strange = other.sign("tcpcopy.example");
    for (own, at_intercept, at_tcpcopy) in [
        (None, "showed no certificate", "wants to see a certificate"),
        (Some(&strange), "not signed by the authority given with --tls-ca", "refuses the certificate of --tls-cert"),
    ] {
        let mut b = Bench::new()
            .serve(|c| c.tls = Some(server(&authority, true)))
            .connect(1, |c| c.tls = Some(client(&authority, own, None)));
        let (intercept, tcpcopy) = until_both_refuse(&mut b);
        assert!(intercept.to_string().contains(at_intercept), "{intercept}");
        assert!(tcpcopy.to_string().contains(at_tcpcopy), "{tcpcopy}");
        assert_eq!(b.server.as_ref().unwrap().stats().tls_failed, 1);
    }
}

#[test]
fn an_intercept_of_another_authority_or_name_is_refused() {
    let (authority, other) = (Authority::new(), Authority::new());
    let elsewhere = authority.sign("10.9.8.7");
    let named = authority.sign("intercept.example");
    let serve = |own: &Signed| TlsServer::new(own.identity(), None).unwrap();
    for (tls, name, said) in [
        (server(&other, false), None, "not signed by the authority given with --tls-ca"),
        (serve(&elsewhere), None, "--tls-name"),
        (serve(&named), Some("another.example"), "--tls-name"),
    ] {
        let mut b =
            Bench::new().serve(|c| c.tls = Some(tls)).connect(1, |c| c.tls = Some(client(&authority, None, name)));
        let (intercept, tcpcopy) = until_both_refuse(&mut b);
        assert!(tcpcopy.to_string().contains(said), "{tcpcopy}");
        assert!(matches!(intercept, CloseReason::Tls(TlsFault::Failed(_))), "{intercept:?}");
    }
    let mut b = Bench::new()
        .serve(|c| c.tls = Some(serve(&named)))
        .connect(1, |c| c.tls = Some(client(&authority, None, Some("intercept.example"))));
    b.until_link_up();
}

#[test]
fn with_tls_at_one_end_only_both_ends_say_so() {
    let authority = Authority::new();
    let mut b = Bench::new().serve(|c| c.tls = Some(server(&authority, false))).connect(1, |_| {});
    let (intercept, tcpcopy) = until_both_refuse(&mut b);
    assert_eq!(intercept, CloseReason::Tls(TlsFault::Plain));
    assert_eq!(tcpcopy, CloseReason::Greeting(GreetingError::TlsOnly));
    for text in [intercept.to_string(), tcpcopy.to_string()] {
        assert!(text.contains("give tcpcopy --tls-ca"), "{text}");
    }
    assert_eq!(b.server.as_ref().unwrap().stats().without_tls, 1);
    b.client().write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    assert_eq!(b.until_rejected(), CloseReason::Tls(TlsFault::NotTls { first: b'G' }));

    let mut b = Bench::new().serve(|_| {}).connect(1, |c| c.tls = Some(client(&authority, None, None)));
    let (intercept, tcpcopy) = until_both_refuse(&mut b);
    assert!(intercept.to_string().contains("as TLS does"), "{intercept}");
    assert_eq!(tcpcopy, CloseReason::Tls(TlsFault::ClosedInHandshake { by: Role::Intercept }));
    assert!(tcpcopy.to_string().contains("--tls-cert"), "{tcpcopy}");
}

#[test]
fn the_secret_counts_inside_tls_too() {
    let authority = Authority::new();
    for (ours, right) in [(Some(secret()), true), (Some(another_secret()), false), (None, false)] {
        let mut b = Bench::new().serve(|c| {
            c.tls = Some(server(&authority, false));
            c.secret = Some(secret());
        });
        let wrong = ours.is_some();
        b = b.connect(1, |c| {
            c.tls = Some(client(&authority, None, None));
            c.secret = ours;
        });
        if right {
            b.until_link_up();
            assert_works(&mut b);
            continue;
        }
        let (intercept, tcpcopy) = until_both_refuse(&mut b);
        let expected =
            if wrong { GreetingError::WrongProof { by: Role::Tcpcopy } } else { GreetingError::TcpcopyHasNoSecret };
        assert_eq!(intercept, CloseReason::Greeting(expected));
        assert!(tcpcopy.to_string().contains("--secret-file"), "{tcpcopy}");
    }
}

/// Who is not allowed does not even get a handshake; tcpcopy cannot know why, and names both possibilities.
#[test]
fn the_allow_list_comes_before_tls() {
    let authority = Authority::new();
    let mut b = Bench::new()
        .serve(|c| {
            c.tls = Some(server(&authority, false));
            c.allow = vec!["10.0.0.0/8".parse().unwrap()];
        })
        .connect(1, |c| c.tls = Some(client(&authority, None, None)));
    let (intercept, tcpcopy) = until_both_refuse(&mut b);
    assert_eq!(intercept, CloseReason::NotAllowed);
    assert!(tcpcopy.to_string().contains("--allow"), "{tcpcopy}");
}

#[test]
fn a_handshake_that_drips_is_over_in_time() {
    let authority = Authority::new();
    let mut b = Bench::new().serve(|c| c.tls = Some(server(&authority, false)));
    let mut client = b.client();
    // The head of a record with a ClientHello of 500 bytes.
    for byte in [0x16, 3, 1, 1, 0xf8, 1, 0, 1, 0xf4, 3, 3, 0, 0, 0, 0, 0] {
        assert!(b.seen.is_empty(), "{:?}", b.seen);
        client.write_all(&[byte]).unwrap();
        b.turn();
        b.skipped += HELLO_TIMEOUT / 20;
    }
    b.skipped += HELLO_TIMEOUT;
    assert_eq!(b.until_rejected(), CloseReason::NoHello(HELLO_TIMEOUT));
}

#[test]
fn a_peer_that_does_not_read_over_tls_is_closed_in_the_end() {
    let authority = Authority::new();
    let mut b = Bench::new()
        .serve(|c| {
            c.out_limit = 1 << 20;
            c.tls = Some(server(&authority, false));
        })
        .connect(1, |c| c.tls = Some(client(&authority, None, None)));
    b.until_link_up();
    // It no longer reads: nobody turns its end, while its socket stays open.
    let _links = b.links.take();
    let (batch, now) = (responses(1000), b.now());
    let server = b.server.as_mut().unwrap();
    let mut taken = 0;
    while server.send(PeerId(0), &batch, 1000, now).is_ok() {
        taken += 1000;
        assert!(taken * 36 < 1 << 30, "the buffer has no end");
    }
    let after = ServerConfig::default().stall_timeout;
    b.skipped += after;
    let (reason, undelivered) = b.until("its end", |s| match s {
        Seen::PeerGone(_, reason, undelivered) => Some((reason.clone(), *undelivered)),
        _ => None,
    });
    assert_eq!(reason, CloseReason::Stalled(after));
    assert!((28_000..=30_000).contains(&undelivered), "{undelivered}");
}

/// Two ends of one connection, after their handshake.
fn pair(authority: &Authority) -> (Transport, Transport) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (far, _) = listener.accept().unwrap();
    let mio_socket = |socket: TcpStream| {
        socket.set_nonblocking(true).unwrap();
        mio::net::TcpStream::from_std(socket)
    };
    let mut tcpcopy = client(authority, None, None).connect(mio_socket(near), Ipv4Addr::LOCALHOST.into()).unwrap();
    let mut intercept = server(authority, false).accept(mio_socket(far)).unwrap();
    tcpcopy.flush().unwrap();
    let begun = Instant::now();
    while tcpcopy.binding().is_none() || intercept.binding().is_none() {
        assert!(begun.elapsed() < PATIENCE, "the handshake has no end");
        for end in [&mut intercept, &mut tcpcopy] {
            assert_eq!(end.read(&mut [0; 100]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        }
    }
    assert_eq!(tcpcopy.binding(), intercept.binding());
    (tcpcopy, intercept)
}

#[test]
fn the_two_ends_of_a_connection_share_what_no_other_has() {
    let authority = Authority::new();
    let (one, other) = (pair(&authority), pair(&authority));
    assert_ne!(one.0.binding(), other.0.binding());
}

/// TLS may have taken over what the socket has not: that, too, counts as waiting, and goes out when there is room.
#[test]
fn what_tls_holds_back_is_not_forgotten() {
    let (mut tcpcopy, mut intercept) = pair(&Authority::new());
    let (mut out, mut sent) = (OutBuffer::default(), 0);
    let now = Timestamp::from_millis(5);
    while !intercept.holds_bytes() {
        out.send(&mut intercept, now, &[1; 100], 1).unwrap();
        sent += 100;
    }
    assert!(out.is_empty());
    assert_eq!(out.blocked_since, Some(now));
    let (mut received, mut buffer) = (0, [0; 4096]);
    let begun = Instant::now();
    while received < sent {
        assert!(begun.elapsed() < PATIENCE, "{received} of {sent} bytes came");
        match tcpcopy.read(&mut buffer) {
            Ok(n) => received += n,
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                out.flush(&mut intercept, now + Duration::from_millis(1)).unwrap();
            }
            Err(e) => panic!("{e}"),
        }
    }
    out.flush(&mut intercept, now).unwrap();
    assert_eq!((received, out.blocked_since), (sent, None));
}

#[test]
fn files_that_cannot_be_used_are_named_with_their_option() {
    let authority = Authority::new();
    let (own, other) = (authority.sign("127.0.0.1"), authority.sign("127.0.0.2"));
    let nothing = authority.folder.path().join("nothing.pem");
    let empty = authority.folder.path().join("empty.pem");
    fs::write(&empty, "no PEM").unwrap();
    let with = |certificate: &PathBuf, key: &PathBuf, ca: Option<&PathBuf>| {
        TlsServer::new(Identity { certificate, key }, ca.map(PathBuf::as_path)).unwrap_err().to_string()
    };
    for (text, option, reason) in [
        (with(&nothing, &own.key, None), "--tls-cert", "No such file"),
        (with(&own.certificate, &nothing, None), "--tls-key", "No such file"),
        (with(&own.certificate, &own.certificate, None), "--tls-key", "no private key"),
        (with(&empty, &own.key, None), "--tls-cert", "no certificate"),
        (with(&own.certificate, &own.key, Some(&empty)), "--tls-ca", "no certificate"),
        (with(&own.certificate, &other.key, None), "--tls-cert", "key"),
    ] {
        assert!(text.contains(option) && text.contains(reason), "{text}");
    }
    let name = TlsClient::new(&authority.ca(), None, Some("no name")).unwrap_err();
    assert_eq!(name, TlsError::Name("no name".to_owned()));
}
