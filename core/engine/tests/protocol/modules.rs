//! What a module's mistakes cost.

use tcpcopy_engine::CopierConfig;
use tcpcopy_engine::ledger::{PacketDrop, SessionEnd};
use tcpcopy_module_api::{
    About, AfterTargetClose, Attachment, Ctx, Module, ModuleHandle, Options, Payload, Session, SessionInfo, TargetData,
    Transport,
};

use crate::script::*;

/// Panics in the hook that it is told, and copies everything otherwise.
#[derive(Clone, Copy)]
struct Panics(&'static str);

impl Panics {
    fn at(self, hook: &str) {
        if self.0 == hook {
            // Without the message on standard error that a panic prints first.
            std::panic::resume_unwind(Box::new(format!("a mistake in {hook}")));
        }
    }
}

impl Module for Panics {
    fn about() -> About {
        About { name: "panics", sees_online: true, ..About::new(Transport::Tcp, "1") }
    }

    fn create(_: &Options) -> Result<Self, String> {
        Ok(Self(""))
    }

    fn on_open(&self, _: &SessionInfo) -> Attachment {
        self.at("module.on_open");
        Attachment::watch(*self)
    }

    fn join_at(&self, _: &[u8]) -> Option<usize> {
        self.at("join_at");
        Some(0)
    }

    fn after_target_close(&self) -> AfterTargetClose {
        self.at("after_target_close");
        AfterTargetClose::Reconnect
    }
}

impl Session for Panics {
    fn on_open(&mut self, ctx: &mut Ctx<'_>) {
        self.at("on_open");
        ctx.want_payload(Payload::Full);
    }

    fn on_client_data(&mut self, ctx: &mut Ctx<'_>, data: &[u8]) {
        self.at("on_client_data");
        if self.0 != "on_client_close" {
            ctx.pass(data.len());
        }
    }

    fn on_client_close(&mut self, _: &mut Ctx<'_>, _: &[u8]) {
        self.at("on_client_close");
    }

    fn on_target_data(&mut self, _: &mut Ctx<'_>, _: TargetData<'_>) {
        self.at("on_target_data");
    }

    fn on_online_data(&mut self, _: &mut Ctx<'_>, _: &[u8], _: u64) {
        self.at("on_online_data");
    }

    fn on_resume(&mut self, ctx: &mut Ctx<'_>) {
        self.at("on_resume");
        ctx.ready();
    }

    fn on_close(&mut self, _: &mut Ctx<'_>, _: Option<&str>) {
        self.at("on_close");
    }
}

fn with(hook: &'static str) -> impl FnOnce(&mut CopierConfig) {
    move |config| config.modules = vec![ModuleHandle::new(Panics(hook))]
}

/// A session that gets to every hook but `join_at`; then one that none of its mistakes reaches.
fn run(hook: &'static str) -> Script {
    let mut s = Script::with(with(hook));
    s.client(segment(SYN, 0, 0).mss(1460));
    if s.id.is_none() {
        return s;
    }
    s.target(segment(SYN_ACK, 0, 1).mss(1460));
    s.client(segment(ACK, 1, 1));
    s.client(segment(PSH_ACK, 1, 1).data(100));
    s.online(segment(PSH_ACK, 1, 101).data(60));
    s.client(segment(ACK, 101, 61));
    s.target(segment(PSH_ACK, 1, 101).data(50));
    // The target closes, and the client goes on.
    s.target(segment(FIN_ACK, 51, 101));
    s.client(segment(PSH_ACK, 101, 61).data(10));
    s.target_anew(segment(SYN_ACK, 0, 1).mss(1460));
    s.target_anew(segment(ACK, 1, 11));
    s.client(segment(FIN_ACK, 111, 61));
    s.target_anew(segment(FIN_ACK, 1, 12));
    s
}

#[test]
fn a_panic_in_any_hook_ends_that_session_and_is_told() {
    let well = run("nowhere");
    assert_eq!((well.ended.as_slice(), well.panics.as_slice()), (&[][..], &[][..]));
    assert_eq!((well.ledger().reconnects, well.ledger().sessions_completed), (1, 1));
    for hook in [
        "module.on_open",
        "after_target_close",
        "on_open",
        "on_client_data",
        "on_client_close",
        "on_target_data",
        "on_online_data",
        "on_resume",
    ] {
        let s = run(hook);
        assert_eq!(s.panics, [format!("a mistake in {hook}")]);
        assert_eq!(s.ended, [SessionEnd::ModulePanicked], "{hook}");
        assert_eq!((s.ledger().sessions_alive, s.ledger().pending_bytes), (0, 0), "{hook}");
    }
    // By then it is over in any case.
    let s = run("on_close");
    assert_eq!(s.panics, ["a mistake in on_close"]);
    assert_eq!((s.ended.as_slice(), s.ledger().sessions_completed), (&[][..], 1));
}

#[test]
fn a_panic_about_where_to_join_costs_the_packet() {
    let mut s = Script::with(with("join_at"));
    s.client(segment(PSH_ACK, 1_000, 500).data(100));
    s.nothing_more();
    assert_eq!(s.panics, ["a mistake in join_at"]);
    assert_eq!(s.ledger().packets_dropped[PacketDrop::NoSession as usize], 1);
    assert_eq!(s.ledger().sessions_seen, 0);
}
