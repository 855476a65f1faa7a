//! Sessions of the module with a target that is played here, packet by packet, and with whatever bytes come.

mod conversations;

use conversations::{Conversation as Recorded, Side};
use proptest::prelude::*;
use tcpcopy_module_api::conformance::{Sample, Samples, check};
use tcpcopy_module_api::testing::{Conversation, State};
use tcpcopy_module_api::{ModuleEntry, ModuleHandle, Options};
use tcpcopy_module_mysql::MySql;
use tcpcopy_module_mysql::wire::{Capabilities, ClientLogin, Login, MAX_PAYLOAD, Packets, write_packet};

fn module(options: &[(&str, &str)]) -> ModuleHandle {
    let mut given: Vec<_> = options.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    given.push(("user".to_owned(), "app@secret".to_owned()));
    ModuleEntry::of::<MySql>().create(&Options::new(given)).unwrap()
}

fn packet(sequence: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    write_packet(sequence, payload, &mut out);
    out
}

const OK: &[u8] = &[0, 0, 0, 2, 0, 0, 0];
const EOF: &[u8] = &[0xfe, 0, 0, 2, 0];

/// Everything but TLS, compression, and what is MariaDB's.
fn capabilities() -> Capabilities {
    Capabilities(0x00ff_f7df & !(Capabilities::SESSION_TRACK.0 | Capabilities::CONNECT_ATTRS.0))
}

fn greeting() -> Vec<u8> {
    let c = capabilities().0.to_le_bytes();
    let mut payload = b"\x0a8.4.0\0\x07\0\0\0abcdefgh\0".to_vec();
    payload.extend_from_slice(&[c[0], c[1], 45, 2, 0, c[2], c[3], 21, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    payload.extend_from_slice(b"ijklmnopqrst\0mysql_native_password\0");
    packet(0, &payload)
}

fn login(user: &str) -> Vec<u8> {
    let login = Login {
        capabilities: capabilities(),
        max_packet: 1 << 24,
        charset: 45,
        user: user.as_bytes().to_vec(),
        database: b"shop".to_vec(),
        attributes: Vec::new(),
    };
    let mut payload = Vec::new();
    login.write(capabilities(), &[7; 20], "mysql_native_password", &mut payload);
    packet(1, &payload)
}

fn command(code: u8, rest: &[u8]) -> Vec<u8> {
    packet(0, &[&[code], rest].concat())
}

/// A result of one column and one row.
fn row() -> Vec<u8> {
    [packet(1, &[1]), packet(2, b"definition"), packet(3, EOF), packet(4, b"\x011"), packet(5, EOF)].concat()
}

fn prepared(id: u8, parameters: u8) -> Vec<u8> {
    let mut answer = packet(1, &[0, id, 0, 0, 0, 0, 0, parameters, 0, 0, 0, 0]);
    for n in 0..parameters {
        answer.extend(packet(2 + n, b"definition"));
    }
    if parameters > 0 {
        answer.extend(packet(2 + parameters, EOF));
    }
    answer
}

/// A session that is logged in on both sides.
fn logged_in(options: &[(&str, &str)]) -> Conversation {
    let mut c = Conversation::open(&module(options));
    c.online(&greeting(), 0).client(&login("app")).target(&greeting());
    c.online(&packet(2, OK), 0).target(&packet(2, OK));
    assert_eq!(*c.state(), State::Open);
    c
}

/// What has reached the target, but for logins, over all connections.
fn commands(c: &Conversation) -> Vec<Vec<u8>> {
    let (mut packets, mut all) = (Packets::new(), Vec::new());
    let bytes: Vec<u8> = c.connections().iter().flatten().flat_map(|message| message.bytes.iter().copied()).collect();
    let mut data = &bytes[..];
    while let Some(payload) = packets.next(&mut data) {
        if payload.sequence == 0 {
            all.push(payload.bytes.to_vec());
        }
    }
    all
}

#[test]
fn the_module_logs_in_by_itself_and_copies_one_command_at_a_time() {
    let mut c = Conversation::open(&module(&[]));
    c.online(&greeting(), 0).client(&login("app"));
    assert!(c.to_target().is_empty(), "the target has not greeted");
    c.client(&command(3, b"SELECT 1")).client(&command(3, b"SELECT 2")).target(&greeting());
    let sent = c.to_target();
    let ClientLogin::Login(said) = ClientLogin::parse(&sent[4..]).unwrap() else { panic!("no TLS") };
    assert_eq!((said.user, said.database), (b"app".to_vec(), b"shop".to_vec()));
    assert!(commands(&c).is_empty() && sent[3] == 1);
    c.target(&packet(2, OK));
    assert_eq!(commands(&c), [b"\x03SELECT 1"]);
    c.target(&row()[..20]);
    assert_eq!(commands(&c).len(), 1, "the answer has not ended");
    c.target(&row()[20..]);
    assert_eq!(commands(&c), [b"\x03SELECT 1", b"\x03SELECT 2"]);
    c.target(&row()).client(&command(1, b"")).client_closes();
    assert_eq!(commands(&c).last().unwrap(), &[1]);
    assert_eq!((c.counter("select"), c.counter("quit")), (2, 1));
    assert_eq!(c.counter("logins: app (mysql_native_password)"), 1);
}

#[test]
fn statements_have_the_targets_numbers() {
    let mut c = logged_in(&[]);
    c.client(&command(0x16, b"SELECT ?")).online(&prepared(5, 1), 0).target(&prepared(9, 1));
    let execute = |id: u8| [&[0x17, id, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 0][..], b"\x07\0\0\0"].concat();
    c.client(&packet(0, &execute(5))).target(&row());
    assert_eq!(*commands(&c).last().unwrap(), execute(9));
    c.client(&packet(0, &execute(6)));
    assert_eq!(commands(&c).len(), 2, "no such statement was prepared");
    c.client(&packet(0, &[0x19, 5, 0, 0, 0])).client(&packet(0, &execute(5)));
    assert_eq!(*commands(&c).last().unwrap(), [0x19, 9, 0, 0, 0]);
}

#[test]
fn a_new_connection_is_told_what_the_old_one_knew() {
    let mut c = logged_in(&[]);
    c.client(&command(3, b"SET @a = 5")).online(&packet(1, OK), 0).target(&packet(1, OK));
    c.client(&command(0x16, b"SELECT ?")).online(&prepared(5, 1), 0).target(&prepared(9, 1));
    let execute = |id: u8, bound: bool| {
        let types: &[u8] = if bound { &[1, 3, 0] } else { &[0] };
        [&[0x17, id, 0, 0, 0, 0, 1, 0, 0, 0, 0][..], types, b"\x07\0\0\0"].concat()
    };
    c.client(&packet(0, &execute(5, true))).target(&row()).target_closes();
    c.client(&packet(0, &execute(5, false)));
    assert_eq!(c.connections().len(), 2);
    let before = commands(&c).len();
    c.target(&greeting()).target(&packet(2, OK)).target(&packet(1, OK)).target(&prepared(3, 1)).target(&row());
    assert_eq!(commands(&c)[before..], [b"\x03SET @a = 5".to_vec(), b"\x16SELECT ?".to_vec(), execute(3, true)]);
    c.client(&command(3, b"SELECT 2"));
    assert_eq!(commands(&c).last().unwrap(), b"\x03SELECT 2");
    assert_eq!((c.counter("reconnects"), c.counter("statements prepared again")), (1, 1));
    assert_eq!(c.counter("commands lost with a connection"), 0);
}

#[test]
fn a_change_of_user_logs_in_again_with_that_users_password() {
    let mut c = logged_in(&[("account", "report@other")]);
    c.client(&command(0x16, b"SELECT ?")).online(&prepared(5, 1), 0).target(&prepared(9, 1));
    c.client(&command(0x11, b"report\0\x14aaaaaaaaaaaaaaaaaaaaother\0\x2d\0mysql_native_password\0"));
    let said = commands(&c).pop().unwrap();
    assert!(said.starts_with(b"\x11report\0\x14") && !said.starts_with(b"\x11report\0\x14aaaa"), "{said:?}");
    // Both servers want another plugin; the client's answer to online is not the target's.
    let switch = packet(1, b"\xfecaching_sha2_password\0ABCDEFGHIJKLMNOPQRST\0");
    c.online(&switch, 0).client(&packet(2, &[9; 32])).online(&packet(3, OK), 0).client(&command(3, b"SELECT 1"));
    let before = commands(&c).len();
    c.target(&switch);
    let proof = c.messages().last().unwrap().bytes.clone();
    assert_eq!((proof.len(), proof[3]), (4 + 32, 2));
    assert_ne!(proof[4..], [9; 32]);
    c.target(&packet(3, &[1, 3]));
    assert_eq!(commands(&c).len(), before, "not in yet");
    c.target(&packet(4, OK));
    assert_eq!(commands(&c).last().unwrap(), b"\x03SELECT 1");
    assert_eq!(c.counter("logins: report (caching_sha2_password)"), 1);
    // Statements are gone with the user.
    c.target(&row()).client(&packet(0, &[0x17, 5, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0]));
    assert_eq!(commands(&c).last().unwrap(), b"\x03SELECT 1");
}

#[test]
fn what_the_target_did_not_answer_is_lost_with_its_connection_and_counted() {
    let mut c = logged_in(&[]);
    c.client(&command(3, b"SELECT 1")).target_closes().client(&command(3, b"SELECT 2"));
    c.target(&greeting()).target(&packet(2, OK));
    assert_eq!(commands(&c), [b"\x03SELECT 1", b"\x03SELECT 2"]);
    assert_eq!(c.counter("commands lost with a connection"), 1);
}

#[test]
fn reads_alone_are_copied_when_told_so_prepared_or_not() {
    let mut c = logged_in(&[("only", "reads")]);
    c.client(&command(3, b"INSERT INTO t VALUES (1)")).online(&packet(1, OK), 0);
    c.client(&command(0x16, b"DELETE FROM t")).online(&prepared(1, 0), 0);
    c.client(&packet(0, &[0x17, 1, 0, 0, 0, 0, 1, 0, 0, 0])).client(&command(3, b"SELECT 1")).target(&row());
    assert_eq!(commands(&c), [b"\x03SELECT 1"]);
    assert_eq!((c.counter("left out: insert"), c.counter("left out: delete")), (1, 2));
}

#[test]
fn who_cannot_be_logged_in_is_counted_and_told_why() {
    let ended = |c: &Conversation| match c.state() {
        State::Ended(reason) => reason.clone(),
        other => panic!("{other:?}"),
    };
    let mut c = Conversation::open(&module(&[]));
    c.online(&greeting(), 0).client(&login("stranger")).target(&greeting());
    assert_eq!(ended(&c), "a user without a password here");
    assert!(c.log()[0].1.contains("no password for user `stranger`"), "{:?}", c.log());
    assert_eq!(c.counter("users without a password here: stranger"), 1);

    let mut c = Conversation::open(&module(&[]));
    c.client(&login("app")).target(&greeting()).target(&packet(2, b"\xff\x15\x04#28000Access denied"));
    assert_eq!(ended(&c), "a login that the target did not take");
    assert!(c.log()[0].1.contains("1045 Access denied; its password"), "{:?}", c.log());
    assert_eq!(c.counter("logins failed: app (mysql_native_password)"), 1);

    let mut c = Conversation::open(&module(&[]));
    let tls = [&(capabilities() | Capabilities::SSL).0.to_le_bytes()[..4], &[0; 28]].concat();
    c.client(&packet(1, &tls));
    assert_eq!(ended(&c), "sessions over TLS");
    assert!(c.log()[0].1.contains("ssl-mode=DISABLED"));
}

#[test]
fn an_open_session_is_joined_at_a_command() {
    let query = command(3, b"SELECT 1");
    assert!(Conversation::join(&module(&[]), b"ELECT 1 FROM t WHERE a = 5").is_none(), "the middle of a query");
    let mut c = Conversation::join(&module(&[("default-db", "shop")]), &query).expect("a command");
    c.target(&greeting()).target(&packet(2, OK));
    assert_eq!(commands(&c), [b"\x03SELECT 1"]);
    let sent = c.to_target();
    let ClientLogin::Login(said) = ClientLogin::parse(&sent[4..]).unwrap() else { panic!("no TLS") };
    assert_eq!((said.user, said.database), (b"app".to_vec(), b"shop".to_vec()));
}

#[test]
fn a_query_of_more_than_16_mb_is_copied_whole() {
    let mut c = logged_in(&[]);
    let query = [b"SELECT '", &vec![b'x'; MAX_PAYLOAD + 500][..], b"'"].concat();
    c.client_in_segments(&command(3, &query), 60_000).target(&row());
    c.client(&command(3, b"SELECT 2"));
    let sent = c.to_target();
    assert!(sent.ends_with(&[&query[MAX_PAYLOAD - 1..], &command(3, b"SELECT 2")].concat()));
}

fn samples() -> Samples {
    let session = |name: &str| {
        Sample::of(name).online(&greeting()).client(&login("app")).target(&greeting()).target(&packet(2, OK))
    };
    let samples = vec![
        session("queries")
            .client(&command(3, b"SELECT 1"))
            .target(&row())
            .client(&command(0x0e, b""))
            .target(&packet(1, OK)),
        session("statements")
            .client(&command(0x16, b"SELECT ?"))
            .online(&prepared(5, 1))
            .target(&prepared(9, 1))
            .client(&packet(0, &[0x17, 5, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 0, 7, 0, 0, 0]))
            .target(&row())
            .client(&packet(0, &[0x19, 5, 0, 0, 0])),
    ];
    // Commands wait for the target to let the client in.
    Samples { most_held: (4 << 20) + 2_000, ..Samples::new(samples) }
}

#[test]
fn the_module_conforms() {
    check(&module(&[]), &samples()).unwrap_or_else(|failure| panic!("{failure}"));
}

/// Real clients and servers, byte by byte and whole: no panic, and nothing is held that should go.
#[test]
fn recorded_sessions_are_taken() {
    for name in Recorded::names() {
        let recorded = Recorded::load(&name);
        for size in [1, 13, usize::MAX] {
            let mut c = Conversation::open(&module(&[("unknown-user", "empty")]));
            for (side, bytes) in &recorded.turns {
                for piece in bytes.chunks(size.min(bytes.len().max(1))) {
                    match side {
                        Side::Client => c.client(piece),
                        // Online and the target are the same server here.
                        Side::Server => c.online(piece, 0).target(piece),
                    };
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever either side says, at any time: no panic.
    #[test]
    fn garbage_is_survived(
        name in prop::sample::select(Recorded::names()),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..10),
        cut in any::<prop::sample::Index>(),
        lost in prop::option::of(any::<prop::sample::Index>()),
        garbage in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let recorded = Recorded::load(&name);
        let mut c = Conversation::open(&module(&[("unknown-user", "empty"), ("only", "reads")]));
        let turns = recorded.turns.len();
        for (number, (side, bytes)) in recorded.turns.iter().enumerate() {
            let mut bytes = bytes.clone();
            for (at, with) in &changes {
                let at = at.index(bytes.len() * turns);
                if at / turns < bytes.len() && at % turns == number {
                    bytes[at / turns] = *with;
                }
            }
            let lost = u64::from(lost.is_some_and(|at| at.index(turns) == number)) * 5;
            match side {
                Side::Client => c.client(&bytes),
                Side::Server => c.online(&bytes, lost).target(&bytes),
            };
            if cut.index(turns) == number {
                c.client(&garbage).target(&garbage).online(&garbage, 1);
            }
        }
        c.target_closes().client(&garbage).client_closes();
    }
}
