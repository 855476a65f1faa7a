use proptest::prelude::*;

use super::conversations::{Conversation, Side, row_in_packets};
use super::*;
use crate::command::{CHANGE_USER, Command, QUERY};
use crate::wire::{ClientLogin, Greeting, Header};

/// Payloads of one side's bytes, with their sequence numbers.
fn payloads(bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let (mut packets, mut data, mut all) = (Packets::new(), bytes, Vec::new());
    while let Some(payload) = packets.next(&mut data) {
        all.push((payload.sequence, payload.bytes.to_vec()));
    }
    all
}

/// What was agreed at the beginning of a recorded conversation; `None` where nobody logged in that can be followed.
fn agreed(conversation: &Conversation) -> Option<Capabilities> {
    let greeting = Greeting::parse(&payloads(&conversation.turns[0].1)[0].1).ok()?.ok()?;
    let (_, login) = payloads(&conversation.said(Side::Client)).into_iter().next()?;
    let ClientLogin::Login(login) = ClientLogin::parse(&login).ok()? else { return None };
    let compressed = Capabilities::COMPRESS.0 | Capabilities::ZSTD.0;
    (login.capabilities.0 & compressed == 0).then_some(login.capabilities & greeting.capabilities)
}

/// Follows the answers in a recorded conversation, cut into pieces of `size`. Each answer must be complete exactly where the
/// client begins to speak again.
fn follow(name: &str, size: usize) -> Vec<String> {
    let conversation = Conversation::load(name);
    let Some(capabilities) = agreed(&conversation) else { return Vec::new() };
    let (mut follower, mut told, mut in_commands, mut other_login) =
        (Follower::new(capabilities), vec![], false, false);
    let (mut file, mut wants_file) = (false, false);
    for (side, bytes) in &conversation.turns {
        if *side == Side::Client {
            for (sequence, payload) in payloads(bytes) {
                if file {
                    // A file ends with an empty packet.
                    file = !payload.is_empty();
                } else if sequence == 0 && !payload.is_empty() {
                    assert!(in_commands, "{name}");
                    let command = Command::of(payload[0]).unwrap_or_else(|| panic!("{name}: {:x}", payload[0]));
                    other_login = command.code == CHANGE_USER;
                    follower.expect(if other_login { Answer::Nothing } else { command.answer }).unwrap();
                }
            }
        } else if in_commands && !other_login {
            let mut collect = |event| {
                wants_file |= event == Event::WantsFile;
                told.push(event);
            };
            for piece in bytes.chunks(size) {
                follower.feed(piece, &mut collect).unwrap_or_else(|e| panic!("{name}: {e}"));
            }
            file = std::mem::take(&mut wants_file);
            assert!(follower.is_idle() || file, "{name}: {:?} {:?}", follower.expected, follower.state);
        } else {
            // The login is over with its OK.
            in_commands |= payloads(bytes).last().is_some_and(|(_, payload)| payload.first() == Some(&0));
            other_login &=
                !payloads(bytes).last().is_some_and(|(_, payload)| matches!(payload.first(), Some(0 | 0xff)));
        }
    }
    told.iter().map(|event| format!("{event:?}")).collect()
}

#[test]
fn answers_of_real_servers_end_where_the_client_speaks_again() {
    let mut followed = 0;
    for name in Conversation::names() {
        let whole = follow(&name, usize::MAX);
        followed += usize::from(!whole.is_empty());
        for size in [1, 3, 7, 1000] {
            assert_eq!(follow(&name, size), whole, "{name} in pieces of {size}");
        }
    }
    assert!(followed > 30, "{followed}");
}

#[test]
fn statements_errors_and_files_are_told() {
    let told = follow("mariadb-statements", usize::MAX).join(" ");
    assert!(told.contains("Prepared { id: 1, parameters:") && told.contains("Error(ErrPacket { code: 1"), "{told}");
    let told = follow("mysql-local-infile", usize::MAX).join(" ");
    assert!(told.contains("WantsFile"), "{told}");
    let told = follow("mysql-idle", usize::MAX).join(" ");
    assert!(told.contains("Unasked(ErrPacket { code: 4031"), "{told}");
}

fn packet(sequence: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    crate::wire::write_packet(sequence, payload, &mut out);
    out
}

/// A row of 16 MB and more, in several packets, begins with a byte that is that of an end.
#[test]
fn a_row_of_many_megabytes_is_no_end() {
    for (deprecated, length) in
        [(false, 16 << 20), (true, 16 << 20), (true, (16 << 20) + 70_000), (false, 0xff_ffff - 4)]
    {
        let capabilities = Capabilities::PROTOCOL_41
            | if deprecated { Capabilities::DEPRECATE_EOF } else { Capabilities::PROTOCOL_41 };
        let mut stream = [packet(1, &[1]), packet(2, b"definition")].concat();
        if !deprecated {
            stream.extend(packet(3, &[0xfe, 0, 0, 2, 0]));
        }
        stream.extend(row_in_packets(4, length));
        let mut follower = Follower::new(capabilities);
        follower.expect(Command::of(QUERY).unwrap().answer).unwrap();
        let mut events = Vec::new();
        follower.feed(&stream, |event| events.push(event)).unwrap();
        assert!(events.is_empty() && !follower.is_idle(), "{length}");
        let end: &[u8] = if deprecated { &[0xfe, 0, 0, 2, 0, 0, 0] } else { &[0xfe, 0, 0, 2, 0] };
        follower.feed(&packet(6, end), |event| events.push(event)).unwrap();
        assert_eq!(events, [Event::Complete], "{length}");
    }
}

#[test]
fn after_a_loss_the_next_answer_is_followed_again() {
    let mut follower = Follower::new(Capabilities::PROTOCOL_41);
    follower.expect(Answer::Results).unwrap();
    follower.feed(&packet(1, &[2]), |_| {}).unwrap();
    follower.lose();
    follower.feed(b"the middle of something", |event| panic!("{event:?}")).unwrap();
    follower.expect(Answer::Done).unwrap();
    let mut events = Vec::new();
    follower.feed(&packet(1, &[0, 0, 0, 2, 0, 0, 0]), |event| events.push(event)).unwrap();
    assert_eq!(events, [Event::Complete]);
}

proptest! {
    #[test]
    fn no_answer_panics_or_takes_memory(
        bytes in prop::collection::vec(any::<u8>(), 0..3_000),
        answers in prop::collection::vec(prop::sample::select(vec![
            Answer::Done, Answer::Text, Answer::Results, Answer::Prepared, Answer::Rows]), 1..20),
        capabilities in any::<u64>(),
        in_packets in any::<bool>(),
    ) {
        let mut follower = Follower::new(Capabilities(capabilities));
        for answer in answers {
            follower.expect(answer).unwrap();
        }
        let bytes = if in_packets { bytes.chunks(9).flat_map(|payload| packet(1, payload)).collect() } else { bytes };
        for piece in bytes.chunks(100) {
            if follower.feed(piece, |_| {}).is_err() {
                break;
            }
        }
    }
}

/// The header of each packet says where the next one is.
#[test]
fn recordings_are_whole() {
    for name in Conversation::names() {
        let bytes = Conversation::load(&name).said(Side::Server);
        if let Some(header) = Header::read(&bytes) {
            assert!(header.sequence == 0 && header.len > 0, "{name}");
        }
    }
}
