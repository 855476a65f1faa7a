//! Modules that look at datagrams.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tcpcopy_engine::copier::source::SourcePool;
use tcpcopy_engine::ledger::{ByteDrop, PacketDrop};
use tcpcopy_engine::{CopierConfig, Input, LinkId, Notice};
use tcpcopy_module_api::{
    About, Attachment, Ctx, Module, ModuleHandle, Options, Payload, Session, SessionInfo, TargetData, Transport,
};
use tcpcopy_wire::control::{DatagramResponse, RouteChange};

use crate::stage::{CLIENT, ONLINE, Stage, TARGET, end, map, packets};

/// What the module was told, in order.
type Heard = Arc<Mutex<Vec<String>>>;

/// Does what the datagram says.
struct Obedient(Heard);

struct ObedientSession(Heard);

impl Module for Obedient {
    fn about() -> About {
        About { name: "obedient", ..About::new(Transport::Udp, "1") }
    }

    fn create(_: &Options) -> Result<Self, String> {
        Ok(Self(Heard::default()))
    }

    fn on_open(&self, _: &SessionInfo) -> Attachment {
        Attachment::watch(ObedientSession(Arc::clone(&self.0)))
    }
}

impl ObedientSession {
    fn hear(&self, text: String) {
        self.0.lock().expect("one thread").push(text);
    }
}

impl Session for ObedientSession {
    fn on_open(&mut self, ctx: &mut Ctx<'_>) {
        let info = *ctx.info();
        self.hear(format!("open {} as {}", info.online, info.target));
    }

    fn on_client_data(&mut self, ctx: &mut Ctx<'_>, data: &[u8]) {
        match data {
            b"drop" => ctx.drop(4, "was told to"),
            b"ignore" => {}
            b"half" => ctx.pass(2),
            b"beyond" => ctx.pass(usize::MAX),
            b"split" => {
                ctx.pass(2);
                ctx.pass(3);
            }
            b"insert" => {
                ctx.send(b"before");
                ctx.pass(data.len());
                ctx.send(b"after");
            }
            b"too much" => {
                ctx.send(&vec![0; 70_000]);
                ctx.pass(data.len());
            }
            b"abort" => ctx.abort("was told to"),
            b"panic" => std::panic::resume_unwind(Box::new("was told to")),
            b"want" => {
                ctx.want_payload(Payload::First(8));
                ctx.pass(data.len());
            }
            b"bypass" => ctx.bypass(),
            _ => ctx.pass(data.len()),
        }
        self.hear(format!("data {}", String::from_utf8_lossy(&data[..data.len().min(20)])));
    }

    fn on_target_data(&mut self, ctx: &mut Ctx<'_>, data: TargetData<'_>) {
        self.hear(format!("target {} and {}", String::from_utf8_lossy(data.bytes), data.hidden));
        if data.bytes == b"ask on" {
            ctx.send(b"asked on");
        }
    }

    fn on_close(&mut self, _: &mut Ctx<'_>, reason: Option<&str>) {
        self.hear(format!("close {}", reason.unwrap_or("well")));
    }
}

fn stage() -> (Stage, Heard) {
    let heard = Heard::default();
    let handle = ModuleHandle::new(Obedient(Arc::clone(&heard)));
    (Stage::new(CopierConfig::new(vec![map(ONLINE, TARGET)], handle)), heard)
}

/// The payloads that follow from a datagram.
fn told(stage: &mut Stage, payload: &[u8]) -> Vec<Vec<u8>> {
    stage.datagram(CLIENT, ONLINE, payload).into_iter().map(|sent| sent.payload).collect()
}

#[test]
fn a_module_decides_what_becomes_of_a_datagram() {
    let (mut stage, heard) = stage();
    for (datagram, copies) in [
        (&b"as it is"[..], vec![&b"as it is"[..]]),
        (b"", vec![b""]),
        (b"drop", vec![]),
        (b"ignore", vec![]),
        (b"half", vec![b"ha"]),
        (b"split", vec![b"sp", b"lit"]),
        (b"beyond", vec![b"beyond"]),
        (b"insert", vec![b"before", b"insert", b"after"]),
        (b"too much", vec![b"too much"]),
        (b"next", vec![b"next"]),
    ] {
        assert_eq!(told(&mut stage, datagram), copies, "{}", String::from_utf8_lossy(datagram));
    }
    let ledger = stage.copier.ledger();
    assert_eq!((ledger.packets_used, ledger.pending_bytes), (10, 0));
    assert_eq!(ledger.bytes_inserted, 6 + 5 + 70_000);
    assert_eq!(stage.bytes_dropped(ByteDrop::Module), 4 + 6 + 2 + 70_000);
    let counted =
        |name: &str| stage.copier.module_counters().iter().find(|c| &*c.name == name).map(|c| (c.count, c.bytes));
    assert_eq!((counted("was told to"), counted("left undecided")), (Some((1, 4)), Some((2, 8))));
    let open = format!("open {} -> {} as {} -> {}", end(CLIENT), end(ONLINE), end(CLIENT), end(TARGET));
    assert_eq!(heard.lock().unwrap()[0], open);
}

#[test]
fn a_large_datagram_is_shown_whole() {
    let (mut stage, heard) = stage();
    let mut sent = Vec::new();
    for packet in packets(CLIENT, ONLINE, 7, &vec![b'x'; 60_000], 1_500) {
        sent = stage.capture(&packet);
    }
    assert_eq!((sent.len(), sent[0].payload.len()), (1, 60_000));
    assert_eq!(heard.lock().unwrap().len(), 2, "opened, and shown once");
}

#[test]
fn a_module_that_gives_a_client_up_is_not_asked_again() {
    for (word, notice) in [("abort", "ModuleAborted"), ("panic", "ModulePanicked")] {
        let (mut stage, heard) = stage();
        assert_eq!(told(&mut stage, b"first"), [b"first"]);
        assert_eq!(told(&mut stage, word.as_bytes()), Vec::<Vec<u8>>::new());
        let said = format!("{:?}", stage.out.notices);
        assert!(stage.out.notices.len() == 1 && said.contains(notice) && said.contains("was told to"), "{said}");
        stage.out.notices.clear();
        let before = heard.lock().unwrap().len();
        assert_eq!(told(&mut stage, b"later"), Vec::<Vec<u8>>::new());
        assert_eq!((stage.out.notices.len(), heard.lock().unwrap().len()), (0, before));
        assert_eq!(stage.dropped(PacketDrop::SessionEnded), 1);
        assert_eq!(stage.copier.ledger().udp_flows_given_up, 1);
        // Another client is none of its business.
        assert_eq!(stage.datagram("10.1.0.9:4000", ONLINE, b"other").len(), 1);
        // Much later, the client begins anew.
        stage.pass(Duration::from_secs(40));
        assert_eq!(told(&mut stage, b"anew"), [b"anew"]);
    }
}

#[test]
fn a_module_sees_answers_once_it_wants_them() {
    let (mut stage, heard) = stage();
    told(&mut stage, b"q");
    let (id, ..) = stage.last_route();
    let answer = DatagramResponse { id, payload_len: 100, payload: b"12345678" };
    stage.tell(Input::Datagram(answer));
    assert!(!heard.lock().unwrap().iter().any(|text| text.starts_with("target")), "it did not want them");
    told(&mut stage, b"want");
    let want = RouteChange::Payload { id, payload: Payload::First(8) };
    assert_eq!(stage.routes.last(), Some(&(LinkId(0), want)));
    stage.tell(Input::Datagram(answer));
    assert_eq!(heard.lock().unwrap().last().unwrap(), "target 12345678 and 92");
    // An answer may lead to the next question.
    let sent = stage.tell(Input::Datagram(DatagramResponse { id, payload_len: 6, payload: b"ask on" }));
    assert_eq!(sent[0].payload, b"asked on");
    // A link that comes back hears the wish again, behind the route.
    stage.routes.clear();
    stage.tell(Input::LinkUp(LinkId(0)));
    assert!(matches!(stage.routes[..], [(_, RouteChange::Add { .. }), (_, w)] if w == want), "{:?}", stage.routes);
}

#[test]
fn a_module_hears_of_the_end() {
    let (mut stage, heard) = stage();
    told(&mut stage, b"q");
    stage.pass(Duration::from_secs(31));
    assert!(heard.lock().unwrap().last().unwrap().starts_with("close"), "{heard:?}");
    told(&mut stage, b"q");
    stage.tell(Input::Stop);
    assert_eq!(heard.lock().unwrap().iter().filter(|text| text.starts_with("close")).count(), 2);
}

#[test]
fn each_copy_is_a_session_of_its_own() {
    let heard = Heard::default();
    let handle = ModuleHandle::new(Obedient(Arc::clone(&heard)));
    let maps = vec![map(ONLINE, TARGET), map(ONLINE, "10.0.0.3:53")];
    let sources = SourcePool::new(vec!["10.78.0.1".parse().unwrap()]);
    let mut stage = Stage::new(CopierConfig { sources, ..CopierConfig::new(maps, handle) });
    assert_eq!(told(&mut stage, b"insert").len(), 6);
    assert_eq!(heard.lock().unwrap().iter().filter(|text| text.starts_with("open")).count(), 2);
    assert!(stage.out.notices.iter().all(|notice| !matches!(notice, Notice::NoFreeSource { .. })));
    let ledger = stage.copier.ledger();
    assert_eq!((ledger.bytes_captured, ledger.bytes_multiplied, ledger.bytes_copied), (6, 6, 34));
}

#[test]
fn a_module_may_stand_aside() {
    let (mut stage, heard) = stage();
    assert_eq!(told(&mut stage, b"bypass"), [b"bypass"]);
    assert_eq!(told(&mut stage, b"drop"), [b"drop"], "it is not asked any more");
    assert!(!heard.lock().unwrap().iter().any(|text| text == "data drop"));
}
