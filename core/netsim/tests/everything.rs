//! A module that does all that a module may do, on networks that lose, duplicate and reorder.
//!
//! It copies a protocol with logins: a server greets with a salt and takes nothing before it got the right answer to it,
//! once on each connection. What becomes of a message is in its second field, its verb:
//!
//! ```text
//! length of the body (2 bytes) | verb (1) | number (4) | body
//! ```

use std::collections::VecDeque;
use std::time::Duration;

use tcpcopy_engine::ledger::{ByteDrop, SessionEnd};
use tcpcopy_module_api::framing::{Counts, Fault, Frame, Framer, LengthField, LengthPrefix, find_boundary, messages};
use tcpcopy_module_api::{
    About, AfterTargetClose, Attachment, Ctx, Module, ModuleHandle, Options, Payload, Session, SessionInfo, TargetData,
    Transport,
};
use tcpcopy_netsim::{Chance, End, ModuleNetwork, Outcome, Quality, Reply, Script, Server};

const HEAD: usize = 7;
const FRAMER: LengthPrefix = LengthPrefix::new(LengthField::U16Be, Counts::BehindHeader(HEAD), 1 << 20);
/// What the answer to a salt differs from it by.
const SECRET: u32 = 0x5ec2_e7e5;
/// In the number of a message that the module made.
const OWN: u32 = 1 << 31;
/// How long a server takes for an answer.
const THINKING: Duration = Duration::from_millis(3);

const BAD: Quality = Quality {
    loss: 30,
    duplication: 30,
    reordering: 50,
    delay: Duration::from_millis(4),
    jitter: Duration::from_millis(2),
};

fn message(verb: u8, number: u32, body: usize) -> Vec<u8> {
    let mut message = u16::try_from(body).unwrap().to_be_bytes().to_vec();
    message.push(verb);
    message.extend(number.to_be_bytes());
    // No byte of a body is a verb.
    message.extend((0..body).map(|i| (number as usize * 31 + i) as u8 | 0x80));
    message
}

fn number_of(message: &[u8]) -> u32 {
    u32::from_be_bytes(message[3..HEAD].try_into().unwrap())
}

/// The module.
struct Everything;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Login {
    /// The target has not greeted.
    Greeting,
    /// It was answered.
    Answered,
    Done,
}

struct EverythingSession {
    login: Login,
    from_target: Vec<u8>,
    from_online: Vec<u8>,
    /// The last message that online has answered; none of a session that was joined, perhaps amid an answer.
    online_answered: Option<u32>,
    /// Verbs and numbers of messages that the target has yet to answer.
    pending: VecDeque<(u8, u32)>,
}

impl Module for Everything {
    fn about() -> About {
        About { name: "everything", sees_online: true, ..About::new(Transport::Tcp, "1") }
    }

    fn create(_: &Options) -> Result<Self, String> {
        Ok(Self)
    }

    fn on_open(&self, _: &SessionInfo) -> Attachment {
        Attachment::watch(EverythingSession {
            login: Login::Greeting,
            from_target: Vec::new(),
            from_online: Vec::new(),
            online_answered: None,
            pending: VecDeque::new(),
        })
    }

    fn join_at(&self, data: &[u8]) -> Option<usize> {
        // A body is full of lengths.
        let strict = |data: &[u8]| match data.get(2) {
            Some(verb) if !b"Lacdghiknrs".contains(verb) => Frame::Invalid(Fault::NotThisProtocol("no verb")),
            _ => FRAMER.frame(data),
        };
        find_boundary(&strict, data, 2)
    }

    fn after_target_close(&self) -> AfterTargetClose {
        AfterTargetClose::Reconnect
    }
}

impl EverythingSession {
    fn expect(&mut self, ctx: &mut Ctx<'_>, verb: u8, number: u32) {
        ctx.expect_response();
        self.pending.push_back((verb, number));
    }

    fn on_response(&mut self, ctx: &mut Ctx<'_>, verb: u8, number: u32) {
        match (verb, self.login) {
            (b'G', Login::Greeting) => {
                ctx.send(&message(b'L', number ^ SECRET, 0));
                self.login = Login::Answered;
            }
            (b'W', Login::Answered) => {
                self.login = Login::Done;
                ctx.ready();
                ctx.ask_again();
            }
            (b'R', Login::Done) => match self.pending.pop_front() {
                Some((verb, expected)) if expected == number => {
                    ctx.response_complete();
                    if verb == b'r' {
                        ctx.reconnect();
                    }
                }
                expected => ctx.abort(&format!("{number:x} was answered instead of {expected:x?}")),
            },
            other => ctx.abort(&format!("{other:?} from the target")),
        }
    }
}

impl Session for EverythingSession {
    fn on_open(&mut self, ctx: &mut Ctx<'_>) {
        ctx.want_payload(Payload::Full);
    }

    fn on_client_data(&mut self, ctx: &mut Ctx<'_>, data: &[u8]) {
        if self.login != Login::Done {
            return;
        }
        let joined = ctx.info().joined;
        for next in messages(&FRAMER, data) {
            let next = next.unwrap();
            if next.bytes.len() < HEAD {
                return;
            }
            let (verb, number, body) = (next.bytes[2], number_of(next.bytes), next.len - HEAD);
            let whole = next.bytes.len() == next.len;
            match verb {
                b'L' => ctx.drop(next.len, "login"),
                b'd' => ctx.drop(next.len, "told to"),
                b'n' => ctx.pass(next.len),
                b'a' => return ctx.abort("told to"),
                b'h' if self.online_answered < Some(number) && !joined => return,
                b'g' | b's' if !whole => return,
                b'g' | b's' => {
                    ctx.drop(next.len, "replaced");
                    ctx.send(&message(b'c', number, if verb == b'g' { body * 2 } else { body / 2 }));
                    self.expect(ctx, verb, number);
                }
                b'i' => {
                    ctx.send(&message(b'c', OWN | number, 30));
                    self.expect(ctx, b'c', OWN | number);
                    ctx.pass(next.len);
                    self.expect(ctx, verb, number);
                }
                _ => {
                    ctx.pass(next.len);
                    self.expect(ctx, verb, number);
                }
            }
        }
    }

    fn on_client_close(&mut self, ctx: &mut Ctx<'_>, held: &[u8]) {
        if self.login == Login::Done {
            ctx.drop(held.len(), "cut off");
        }
    }

    fn on_target_data(&mut self, ctx: &mut Ctx<'_>, data: TargetData<'_>) {
        assert_eq!(data.hidden, 0);
        self.from_target.extend_from_slice(data.bytes);
        let received = std::mem::take(&mut self.from_target);
        let mut taken = 0;
        for next in messages(&FRAMER, &received) {
            let next = next.unwrap();
            if next.bytes.len() < next.len {
                break;
            }
            taken += next.len;
            self.on_response(ctx, next.bytes[2], number_of(next.bytes));
        }
        self.from_target.extend_from_slice(&received[taken..]);
    }

    fn on_online_data(&mut self, ctx: &mut Ctx<'_>, data: &[u8], lost: u64) {
        assert_eq!(lost, 0);
        if ctx.info().joined {
            return;
        }
        self.from_online.extend_from_slice(data);
        let mut taken = 0;
        for next in messages(&FRAMER, &self.from_online).map(Result::unwrap) {
            if next.bytes.len() < next.len {
                break;
            }
            taken += next.len;
            if next.bytes[2] == b'R' {
                self.online_answered = Some(number_of(next.bytes));
            }
        }
        self.from_online.drain(..taken);
        ctx.ask_again();
    }

    fn on_resume(&mut self, ctx: &mut Ctx<'_>) {
        self.login = Login::Greeting;
        self.from_target.clear();
        let missing = usize::try_from(ctx.missing_responses()).unwrap();
        self.pending.drain(..self.pending.len() - missing);
        ctx.count("resumed", 1);
    }
}

/// A server of that protocol.
struct Greeter {
    salt: u32,
    logged_in: bool,
    /// Length of an answer's body, of the message's number.
    answer: fn(u32) -> usize,
    /// The verb behind whose answer it closes.
    closes_at: u8,
}

impl Server for Greeter {
    fn on_connect(&mut self, reply: &mut Reply) {
        reply.send(message(b'G', self.salt, 0));
    }

    fn on_data(&mut self, data: &[u8], reply: &mut Reply) -> usize {
        let Some(next) = messages(&FRAMER, data).map(Result::unwrap).next().filter(|next| next.bytes.len() == next.len)
        else {
            return 0;
        };
        let (verb, number) = (next.bytes[2], number_of(next.bytes));
        let is_login = verb == b'L' && number == self.salt ^ SECRET;
        if is_login == self.logged_in {
            // A second login, or something in front of the first.
            reply.send(message(b'E', number, 0));
            reply.close();
        } else if is_login {
            self.logged_in = true;
            reply.send(message(b'W', number, 0));
        } else if verb != b'n' {
            reply.pause(THINKING);
            reply.send(message(b'R', number, (self.answer)(number)));
            if verb == self.closes_at {
                reply.close();
            }
        }
        next.len
    }
}

fn online_answer(number: u32) -> usize {
    number as usize * 97 % 3_000
}

fn target_answer(number: u32) -> usize {
    (number & 0xffff) as usize * 61 % 4_000
}

/// What a client sends, turn by turn.
struct Dialogue(Vec<Vec<(u8, usize)>>);

impl Dialogue {
    /// Turns of one to four messages. What ends a connection comes last in its turn: what follows is of the next one.
    fn random(seed: u64, ends: &[u8]) -> Self {
        let mut chance = Chance::new(seed);
        let turn = |_| {
            let mut turn: Vec<_> = (0..=chance.below(3))
                .map(|_| {
                    let verb = b"ccccddgshin"[chance.below(11) as usize];
                    let most = if chance.below(8) == 0 { 20_000 } else { 300 };
                    (verb, chance.below(most) as usize)
                })
                .collect();
            if !ends.is_empty() && chance.below(4) == 0 {
                turn.push((ends[chance.below(ends.len() as u64) as usize], 10));
            }
            turn
        };
        Self((0..25).map(turn).collect())
    }

    /// Each message with its number, by turn.
    fn numbered(&self) -> Vec<Vec<(u8, u32, usize)>> {
        let number = |turn: usize, at: usize| (turn * 16 + at) as u32;
        let turns = self.0.iter().enumerate();
        turns
            .map(|(turn, list)| {
                list.iter().enumerate().map(|(at, (verb, len))| (*verb, number(turn, at), *len)).collect()
            })
            .collect()
    }

    /// The client: logs in, and waits for online's answers behind each turn.
    fn script(&self) -> Script {
        let mut script = self.turns(Script::new().wait_for(HEAD).send(message(b'L', SECRET, 0)).wait_for(HEAD), 0);
        script = script.pause(Duration::from_millis(100));
        script
    }

    /// The turns from one on.
    fn turns(&self, mut script: Script, from: usize) -> Script {
        for turn in &self.numbered()[from..] {
            let bytes: Vec<u8> = turn.iter().flat_map(|(verb, number, len)| message(*verb, *number, *len)).collect();
            let answers = turn.iter().filter(|(verb, ..)| *verb != b'n');
            let answered = answers.map(|(_, number, _)| HEAD + online_answer(*number)).sum();
            // In two segments, cut anywhere.
            let (first, second) = bytes.split_at(bytes.len() * 5 / 7);
            script = script.send(first).send(second).wait_for(answered);
        }
        script
    }

    /// What the target is to get, by turn.
    fn copied(&self) -> Vec<Vec<Vec<u8>>> {
        let copy = |(verb, number, len): &(u8, u32, usize)| match verb {
            b'd' => vec![],
            b'g' => vec![message(b'c', *number, len * 2)],
            b's' => vec![message(b'c', *number, len / 2)],
            b'i' => vec![message(b'c', OWN | number, 30), message(b'i', *number, *len)],
            _ => vec![message(*verb, *number, *len)],
        };
        self.numbered().iter().map(|turn| turn.iter().flat_map(copy).collect()).collect()
    }
}

fn network(seed: u64) -> ModuleNetwork {
    ModuleNetwork::new(ModuleHandle::new(Everything))
        .seed(seed)
        .client_path(Quality::delayed(Duration::from_millis(1)))
        .target_path(BAD)
        .online(|_| Greeter { salt: 0, logged_in: false, answer: online_answer, closes_at: 0 })
        .target(|connection| Greeter {
            salt: connection as u32 * 7_919 + 1,
            logged_in: false,
            answer: target_answer,
            closes_at: b'k',
        })
}

/// The client's messages that the target got, each with the time of its first byte; the logins apart.
fn arrived(outcome: &Outcome, client: usize) -> Vec<(Duration, Vec<u8>)> {
    let mut all = Vec::new();
    for connection in outcome.connections_of(client) {
        let mut at = 0;
        for (i, taken) in connection.messages().into_iter().enumerate() {
            let is_login = taken[2] == b'L';
            assert_eq!(is_login, i == 0, "a connection begins with a login, and has no other");
            if !is_login {
                let time = connection.arrived_at(at).unwrap();
                all.push((time.since(tcpcopy_module_api::Timestamp::ZERO), taken.to_vec()));
            }
            at += taken.len();
        }
    }
    all
}

/// Bytes that were to be copied and did not arrive; all others must have, in order.
fn missing_bytes(dialogue: &Dialogue, arrived: &[(Duration, Vec<u8>)]) -> u64 {
    let mut expected = dialogue.copied().concat().into_iter();
    let mut missing = 0;
    for (_, bytes) in arrived {
        missing += expected.by_ref().take_while(|e| e != bytes).map(|e| e.len() as u64).sum::<u64>();
    }
    missing + expected.map(|e| e.len() as u64).sum::<u64>()
}

/// Bytes of messages that the engine counts as lost with a connection, and what that had of them already.
fn lost_bytes(outcome: &Outcome) -> u64 {
    let in_part = outcome.connections.iter().map(|connection| {
        connection.received.len() - connection.messages().iter().map(|message| message.len()).sum::<usize>()
    });
    outcome.ledger.bytes_dropped[ByteDrop::TargetClosed as usize] + in_part.sum::<usize>() as u64
}

/// No message came before the target could have answered all those of earlier turns.
fn assert_gate_never_opened_early(arrived: &[(Duration, Vec<u8>)]) {
    let mut answered = Duration::ZERO;
    let (mut turn, mut turn_answered) = (u32::MAX, Duration::ZERO);
    for (at, bytes) in arrived {
        let number = number_of(bytes) & !OWN;
        if number / 16 != turn {
            turn = number / 16;
            answered = answered.max(turn_answered);
        }
        assert!(*at >= answered, "message {number:x} came at {at:?}, the turn before was answered at {answered:?}");
        if bytes[2] != b'n' {
            turn_answered = *at + THINKING;
        }
    }
}

#[test]
fn messages_arrive_as_the_module_decides_once_and_in_order_over_connections_that_it_gives_up() {
    let mut reconnects = 0;
    for seed in 0..60 {
        let dialogues: Vec<_> = (0..2).map(|client| Dialogue::random(seed * 2 + client, b"r")).collect();
        let outcome =
            network(seed).conditions(|c| c.ipv6 = seed % 2 == 1).clients(dialogues.iter().map(Dialogue::script)).run();
        outcome.assert_all_completed();
        for (client, dialogue) in dialogues.iter().enumerate() {
            let arrived = arrived(&outcome, client);
            let bytes: Vec<_> = arrived.iter().map(|(_, bytes)| bytes.clone()).collect();
            let expected = dialogue.copied().concat();
            assert!(bytes == expected, "seed {seed}, client {client}: {} of {}", bytes.len(), expected.len());
            assert_gate_never_opened_early(&arrived);
        }
        assert!(outcome.ledger.retransmits > 0, "seed {seed}: nothing was lost");
        assert_eq!(outcome.ledger.bytes_dropped[ByteDrop::TargetClosed as usize], 0, "seed {seed}");
        reconnects += outcome.ledger.reconnects;
        assert_eq!(outcome.counted("resumed"), outcome.ledger.reconnects);
    }
    assert!(reconnects > 200, "{reconnects} reconnects in all");
}

#[test]
fn what_a_closing_target_loses_is_counted_and_all_else_arrives() {
    let (mut lost_messages, mut reconnects) = (0, 0);
    for seed in 0..60 {
        let dialogue = Dialogue::random(seed, b"rkk");
        let outcome = network(seed).client(dialogue.script()).run();
        let end = outcome.clients[0].end;
        let last_was_lost = matches!(end, End::Early(SessionEnd::TargetClosed | SessionEnd::TargetReset));
        assert!(end == End::Completed || last_was_lost, "seed {seed}: {end:?}");
        let arrived = arrived(&outcome, 0);
        let missing = missing_bytes(&dialogue, &arrived);
        let counted = lost_bytes(&outcome);
        assert!(missing <= counted, "seed {seed}: {missing} bytes are missing, {counted} counted");
        assert_gate_never_opened_early(&arrived);
        lost_messages += u64::from(missing > 0);
        reconnects += outcome.ledger.reconnects;
    }
    assert!(lost_messages > 0 && reconnects > 100, "{lost_messages} runs lost something, {reconnects} reconnects");
}

#[test]
fn a_target_that_is_away_for_a_while_is_waited_for() {
    for seed in 0..20 {
        let dialogue = Dialogue::random(seed, b"r");
        let outcome = network(seed)
            .client(dialogue.script())
            .conditions(|c| c.target_restarts = Some((Duration::from_millis(100 + seed * 10), Duration::from_secs(4))))
            .run();
        let end = outcome.clients[0].end;
        if outcome.ledger.connections == 0 {
            // SYN or SYN-ACK was lost, and the next SYN refused: there was no connection yet.
            assert_eq!(end, End::Early(SessionEnd::TargetRefused));
            continue;
        }
        assert!(end == End::Completed, "seed {seed}: {end:?}, {:?}", outcome.clients[0].aborted);
        let missing = missing_bytes(&dialogue, &arrived(&outcome, 0));
        let counted = lost_bytes(&outcome);
        assert!(missing <= counted, "seed {seed}: {missing} bytes are missing, {counted} counted");
        // What was on its way when it went, and nothing of the time that it was away.
        let lost = dialogue.copied().concat().len() - arrived(&outcome, 0).len();
        assert!(lost <= 8, "seed {seed}: {lost} messages are missing");
        assert!(outcome.ledger.connections < 30, "seed {seed}: {} connections", outcome.ledger.connections);
    }
}

/// Holds everything, for a word of the target that does not come.
struct Holding;

impl Module for Holding {
    fn about() -> About {
        About { name: "holding", ..About::new(Transport::Tcp, "1") }
    }

    fn create(_: &Options) -> Result<Self, String> {
        Ok(Self)
    }

    fn on_open(&self, _: &SessionInfo) -> Attachment {
        Attachment::watch(Self)
    }

    fn after_target_close(&self) -> AfterTargetClose {
        AfterTargetClose::Reconnect
    }
}

impl Session for Holding {
    fn on_client_data(&mut self, _: &mut Ctx<'_>, _: &[u8]) {}

    fn on_client_close(&mut self, _: &mut Ctx<'_>, _: &[u8]) {}
}

/// Hangs up as soon as somebody is there.
struct HangsUp;

impl Server for HangsUp {
    fn on_connect(&mut self, reply: &mut Reply) {
        reply.close();
    }

    fn on_data(&mut self, data: &[u8], _: &mut Reply) -> usize {
        data.len()
    }
}

#[test]
fn what_is_held_does_not_call_a_target_that_hangs_up_all_the_time() {
    let outcome = ModuleNetwork::new(ModuleHandle::new(Holding))
        .client(Script::new().send("half").pause(Duration::from_secs(20)))
        .online(|_| tcpcopy_netsim::serve(|_: &[u8], _: &mut Reply| 0))
        .target(|_| HangsUp)
        .run();
    let connections = outcome.connections.len();
    assert!((5..=60).contains(&connections), "{connections} connections in 20 seconds");
}

#[test]
fn an_abort_ends_its_own_session_and_no_other() {
    for seed in 0..10 {
        let mut dialogues = [Dialogue::random(seed, b"r"), Dialogue::random(seed + 100, b"r")];
        dialogues[0].0[12] = vec![(b'a', 5)];
        let outcome = network(seed).clients(dialogues.iter().map(Dialogue::script)).run();
        assert_eq!(outcome.clients[0].end, End::Early(SessionEnd::Module));
        assert_eq!(outcome.clients[0].aborted.as_deref(), Some("told to"));
        assert_eq!(outcome.clients[1].end, End::Completed);
        let bytes = |client| arrived(&outcome, client).into_iter().map(|(_, bytes)| bytes).collect::<Vec<_>>();
        assert!(dialogues[0].copied()[..12].concat().starts_with(&bytes(0)), "seed {seed}");
        assert!(bytes(1) == dialogues[1].copied().concat(), "seed {seed}");
    }
}

#[test]
fn a_session_joined_mid_stream_logs_in_by_itself() {
    for seed in 0..20 {
        let dialogue = Dialogue::random(seed, b"r");
        let login = Script::new().uncaptured().wait_for(HEAD).send(message(b'L', SECRET, 0)).wait_for(HEAD).captured();
        let outcome = network(seed).client(dialogue.turns(login, 0).pause(Duration::from_millis(100))).run();
        outcome.assert_all_completed();
        assert_eq!(outcome.ledger.joined, 1);
        let bytes: Vec<_> = arrived(&outcome, 0).into_iter().map(|(_, bytes)| bytes).collect();
        let expected = dialogue.copied().concat();
        // The first segments may hold no two heads to find a boundary by.
        assert!(expected.ends_with(&bytes) && bytes.len() >= 10, "seed {seed}: {}", bytes.len());
    }
}
