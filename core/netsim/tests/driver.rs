//! The engine gives a session what the driver for module tests promises: the same calls come to the same.

use std::time::Duration;

use tcpcopy_module_api::framing::{Counts, LengthField, LengthPrefix, messages};
use tcpcopy_module_api::testing::Conversation;
use tcpcopy_module_api::{
    About, AfterTargetClose, Attachment, Ctx, Module, ModuleHandle, Options, Payload, Session, SessionInfo, TargetData,
    Transport,
};
use tcpcopy_netsim::{Chance, ModuleNetwork, Quality, Reply, Script, serve};

/// Messages whose second byte says what becomes of them, decided as soon as their head has come.
struct Dictated;

const FRAMER: LengthPrefix = LengthPrefix::new(LengthField::U16Be, Counts::BehindHeader(3), 1 << 20);

impl Module for Dictated {
    fn about() -> About {
        About { name: "dictated", ..About::new(Transport::Tcp, "1") }
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

impl Session for Dictated {
    fn on_client_data(&mut self, ctx: &mut Ctx<'_>, data: &[u8]) {
        for message in messages(&FRAMER, data) {
            let message = message.unwrap();
            let Some(verb) = message.bytes.get(2) else { return };
            match verb {
                b'p' => ctx.pass(message.len),
                b'd' => ctx.drop(message.len, "dictated"),
                // In front of it, and behind it, before it has come.
                b'i' => {
                    ctx.send(b"[before]");
                    ctx.pass(message.len);
                    ctx.send(b"[behind]");
                }
                b's' => {
                    ctx.drop(message.len, "replaced");
                    ctx.send(b"[instead]");
                }
                // In two messages, of which the second is decided before the first has come.
                b'2' => {
                    ctx.pass(3);
                    ctx.drop(message.len - 3, "its body");
                }
                other => panic!("{other}"),
            }
            ctx.count("messages", 1);
        }
    }
}

/// A message of `len` bytes behind its head.
fn message(verb: u8, len: u16) -> Vec<u8> {
    let mut message = len.to_be_bytes().to_vec();
    message.push(verb);
    message.extend((0..len).map(|i| i as u8));
    message
}

fn stream(chance: &mut Chance) -> Vec<Vec<u8>> {
    (0..30)
        .map(|_| {
            let verb = b"ppdis2"[chance.below(6) as usize];
            let most = if chance.below(4) == 0 { 9_000 } else { 200 };
            message(verb, chance.below(most) as u16)
        })
        .collect()
}

#[test]
fn what_reaches_the_target_is_what_the_driver_says() {
    for seed in 0..40 {
        let messages = stream(&mut Chance::new(seed));
        let module = ModuleHandle::new(Dictated);
        let mut conversation = Conversation::open(&module);
        conversation.client_in_segments(&messages.concat(), 100);

        let script = messages.iter().fold(Script::new(), Script::send);
        let outcome = ModuleNetwork::new(module)
            .seed(seed)
            .client_path(Quality::delayed(Duration::from_millis(1)))
            .target_path(Quality { loss: 20, reordering: 20, ..Quality::delayed(Duration::from_millis(2)) })
            .client(script)
            .servers(|_| serve(|data: &[u8], _: &mut Reply| data.len()))
            .run();
        outcome.assert_all_completed();
        assert!(outcome.received_of(0) == conversation.to_target(), "seed {seed}: other bytes reached the target");
        assert_eq!(outcome.counted("messages"), conversation.counter("messages"), "seed {seed}");
        for (reason, bytes) in conversation.all_dropped() {
            assert_eq!(outcome.dropped(reason), *bytes, "seed {seed}: {reason}");
        }
    }
}

/// Sends a message of its own when the target speaks, while a long one of the client is under way.
#[derive(Clone)]
struct Interrupting;

impl Module for Interrupting {
    fn about() -> About {
        About { name: "interrupting", ..About::new(Transport::Tcp, "1") }
    }

    fn create(_: &Options) -> Result<Self, String> {
        Ok(Self)
    }

    fn on_open(&self, _: &SessionInfo) -> Attachment {
        Attachment::watch(Self)
    }
}

impl Session for Interrupting {
    fn on_open(&mut self, ctx: &mut Ctx<'_>) {
        ctx.want_payload(Payload::Full);
    }

    fn on_client_data(&mut self, ctx: &mut Ctx<'_>, data: &[u8]) {
        for message in messages(&FRAMER, data) {
            ctx.pass(message.unwrap().len);
        }
    }

    fn on_target_data(&mut self, ctx: &mut Ctx<'_>, data: TargetData<'_>) {
        for _ in data.bytes {
            ctx.send(&message(b'!', 5));
        }
    }
}

#[test]
fn a_message_of_the_modules_own_never_lands_in_the_middle_of_the_clients() {
    let long = message(b'p', 60_000);
    let halves = long.split_at(20_000);
    let script = Script::new().send(halves.0).pause(Duration::from_millis(300)).send(halves.1).wait_for(1);
    let mut greeted = false;
    let target = move |data: &[u8], reply: &mut Reply| {
        if !greeted && data.len() > 10_000 {
            greeted = true;
            reply.send("!");
        }
        if data.len() < 60_003 + 8 { 0 } else { data.len() }
    };
    let mut answered = false;
    let online = move |data: &[u8], reply: &mut Reply| {
        if !answered && data.len() == 60_003 {
            answered = true;
            reply.send(".");
        }
        0
    };
    let outcome = ModuleNetwork::new(ModuleHandle::new(Interrupting))
        .client(script)
        .online(move |_| serve(online))
        .target(move |_| serve(target))
        .run();
    outcome.assert_all_completed();
    let expected = [long, message(b'!', 5)].concat();
    assert!(outcome.received_of(0) == expected, "it stands behind the message that was under way");
}
