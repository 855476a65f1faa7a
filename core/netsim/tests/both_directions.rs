//! What online and the target send reaches the modules that want it, byte by byte, whatever the network does.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tcpcopy_module_api::{
    About, AfterTargetClose, Attachment, Ctx, Module, ModuleHandle, Options, Payload, Session, SessionInfo, TargetData,
    Transport,
};
use tcpcopy_netsim::{ModuleNetwork, Quality, Script, Server, lines};

/// What the module was shown.
#[derive(Debug, Default)]
struct Seen {
    online: Vec<u8>,
    lost: u64,
    target: Vec<u8>,
    hidden: u64,
}

/// Passes each line as a message, and keeps what it is shown.
#[derive(Clone)]
struct Listener {
    payload: Payload,
    seen: Arc<Mutex<Seen>>,
}

impl Listener {
    fn new(payload: Payload) -> Self {
        Self { payload, seen: Arc::default() }
    }
}

impl Module for Listener {
    fn about() -> About {
        About { name: "listener", sees_online: true, ..About::new(Transport::Tcp, "1") }
    }

    fn create(_: &Options) -> Result<Self, String> {
        Ok(Self::new(Payload::Full))
    }

    fn on_open(&self, _: &SessionInfo) -> Attachment {
        Attachment::watch(self.clone())
    }

    fn after_target_close(&self) -> AfterTargetClose {
        AfterTargetClose::Reconnect
    }
}

impl Session for Listener {
    fn on_open(&mut self, ctx: &mut Ctx<'_>) {
        ctx.want_payload(self.payload);
    }

    fn on_client_data(&mut self, ctx: &mut Ctx<'_>, data: &[u8]) {
        for line in data.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n")) {
            ctx.pass(line.len());
            ctx.count("lines", 1);
        }
    }

    fn on_target_data(&mut self, _: &mut Ctx<'_>, data: TargetData<'_>) {
        let mut seen = self.seen.lock().unwrap();
        seen.target.extend_from_slice(data.bytes);
        seen.hidden += u64::from(data.hidden);
    }

    fn on_online_data(&mut self, _: &mut Ctx<'_>, data: &[u8], lost: u64) {
        let mut seen = self.seen.lock().unwrap();
        seen.online.extend_from_slice(data);
        seen.lost += lost;
    }

    fn on_close(&mut self, ctx: &mut Ctx<'_>, reason: Option<&str>) {
        ctx.log(tcpcopy_module_api::LogLevel::Info, reason.unwrap_or("copied"));
    }
}

const TURNS: usize = 20;
/// Longer than a segment.
const ANSWER: usize = 5_000;

/// Clients ask for long answers, of which the target's differ from online's.
fn asking(module: &Listener) -> ModuleNetwork {
    let script = (0..TURNS).fold(Script::new(), |script, i| script.send(format!("{i}\n")).wait_for(ANSWER));
    ModuleNetwork::new(ModuleHandle::new(module.clone()))
        .client(script)
        .online(|_| lines(|_| answer(b'a')))
        .target(|_| lines(|_| answer(b'A')))
}

/// Compares long byte strings, and says where they part.
#[track_caller]
fn assert_same(what: &str, got: &[u8], expected: &[u8]) {
    let same = got.iter().zip(expected).take_while(|(a, b)| a == b).count();
    assert!(got == expected, "{what}: {} bytes, {} expected, the first {same} alike", got.len(), expected.len());
}

fn answer(first: u8) -> Vec<u8> {
    (0..ANSWER).map(|i| first + (i % 26) as u8).collect()
}

#[test]
fn a_module_sees_what_both_servers_send_whatever_is_lost() {
    for seed in 0..20 {
        let module = Listener::new(Payload::Full);
        let outcome = asking(&module).seed(seed).target_path(Quality::BAD).conditions(|c| c.ipv6 = seed % 2 == 1).run();
        outcome.assert_all_completed();
        assert_eq!(outcome.counted("lines"), TURNS as u64);
        assert_eq!(outcome.logged(), ["copied"]);
        let seen = module.seen.lock().unwrap();
        assert_same(&format!("target, seed {seed}"), &seen.target, &answer(b'A').repeat(TURNS));
        assert_same(&format!("online, seed {seed}"), &seen.online, &answer(b'a').repeat(TURNS));
        assert_eq!((seen.hidden, seen.lost), (0, 0));
    }
}

#[test]
fn a_module_sees_the_first_bytes_of_each_segment_if_that_is_what_it_wants() {
    let module = Listener::new(Payload::First(10));
    asking(&module).run().assert_all_completed();
    let seen = module.seen.lock().unwrap();
    assert_eq!(seen.target.len() as u64 + seen.hidden, (ANSWER * TURNS) as u64);
    let segments = ANSWER.div_ceil(1460) * TURNS;
    assert_eq!(seen.target.len(), segments * 10);
    assert!(seen.target.starts_with(&answer(b'A')[..10]));
}

#[test]
fn payload_comes_again_when_intercept_was_killed() {
    for seed in 0..5 {
        let module = Listener::new(Payload::Full);
        let outcome = asking(&module)
            .seed(seed)
            .target_path(Quality::delayed(Duration::from_millis(10)))
            .conditions(|c| {
                c.intercept_restarts = Some((Duration::from_millis(100 + seed), Duration::from_millis(300)));
            })
            .run();
        outcome.assert_all_completed();
        assert_same(&format!("seed {seed}"), &module.seen.lock().unwrap().target, &answer(b'A').repeat(TURNS));
    }
}

#[test]
fn what_the_capture_misses_of_online_is_told() {
    let mut lost = 0;
    for seed in 0..10 {
        let module = Listener::new(Payload::Headers);
        let outcome = asking(&module).seed(seed).conditions(|c| c.capture.loss = 10).run();
        let seen = module.seen.lock().unwrap();
        assert!(seen.target.is_empty(), "nothing of the target was asked for");
        if outcome.ledger.sessions_completed == 1 {
            assert_eq!(seen.online.len() as u64 + seen.lost, (ANSWER * TURNS) as u64, "seed {seed}");
            lost += seen.lost;
        }
    }
    assert!(lost > 0, "no session with a hole in online's bytes went on");
}

#[test]
fn every_message_arrives_once_when_the_target_closes_again_and_again() {
    let module = Listener::new(Payload::Full);
    let script = (0..TURNS).fold(Script::new(), |script, i| {
        script.send(format!("{i}\n")).wait_for(ANSWER).pause(Duration::from_millis(100))
    });
    let outcome = ModuleNetwork::new(ModuleHandle::new(module.clone()))
        .client(script)
        .online(|_| lines(|_| answer(b'a')))
        .target(|_| lines(|_| answer(b'A')).closing_after(3))
        .run();
    outcome.assert_all_completed();
    let sent: Vec<_> = (0..TURNS).map(|i| format!("{i}\n")).collect();
    assert_eq!(outcome.messages_of(0), sent.iter().map(String::as_bytes).collect::<Vec<_>>());
    assert_eq!(outcome.connections.len(), TURNS.div_ceil(3));
    assert_same("target", &module.seen.lock().unwrap().target, &answer(b'A').repeat(TURNS));
}
