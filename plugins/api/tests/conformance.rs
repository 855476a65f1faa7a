//! The suite finds each kind of fault, and passes a module without one.

use std::sync::atomic::{AtomicU64, Ordering};

use tcpcopy_module_api::conformance::{Rule, Sample, Samples, check, check_options};
use tcpcopy_module_api::framing::{Fault, Frame, Framer, Lines, find_boundary, messages};
use tcpcopy_module_api::{
    About, AfterTargetClose, Attachment, Ctx, Module, ModuleEntry, ModuleHandle, OptionSpec, Options, Payload, Session,
    SessionInfo, Transport,
};

/// What is wrong with a module of the protocol whose messages are lines that begin with `+` (passed) or `-` (left out).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    Nothing,
    PassesWhatHasCome,
    CountsCalls,
    PanicsOnAnEmptyLine,
    HoldsWithoutEnd,
    HoldsBehindTheClose,
    JoinsAnywhere,
    JoinsBehindTheEnd,
    IsNeverReady,
    RemembersOtherSessions,
    Misnamed,
}

struct Signed(Wrong);

impl Module for Signed {
    fn about() -> About {
        const OPTIONS: &[OptionSpec] = &[OptionSpec { name: "most", value: "N", help: "the longest line" }];
        About {
            name: "signed",
            summary: "lines with a plus",
            options: OPTIONS,
            ..About::new(Transport::Tcp, env!("CARGO_PKG_VERSION"))
        }
    }

    fn create(options: &Options) -> Result<Self, String> {
        options.parse::<u16>("most")?;
        Ok(Self(Wrong::Nothing))
    }

    fn on_open(&self, _: &SessionInfo) -> Attachment {
        Attachment::watch(SignedSession(self.0))
    }

    fn join_at(&self, data: &[u8]) -> Option<usize> {
        match self.0 {
            Wrong::JoinsAnywhere => Some(0),
            Wrong::JoinsBehindTheEnd => Some(data.len() + 1),
            _ => find_boundary(&SignedLines, data, 2),
        }
    }

    fn after_target_close(&self) -> AfterTargetClose {
        AfterTargetClose::Reconnect
    }
}

struct SignedLines;

impl Framer for SignedLines {
    fn frame(&self, data: &[u8]) -> Frame {
        match data.first() {
            Some(b'+' | b'-') => Lines::new(100).frame(data),
            Some(_) => Frame::Invalid(Fault::NotThisProtocol("a line begins with a sign")),
            None => Frame::More,
        }
    }

    fn head(&self) -> usize {
        100
    }

    fn may_begin_behind(&self, byte: u8) -> bool {
        byte == b'\n'
    }
}

struct SignedSession(Wrong);

static SESSIONS: AtomicU64 = AtomicU64::new(0);

impl Session for SignedSession {
    fn on_open(&mut self, ctx: &mut Ctx<'_>) {
        if self.0 == Wrong::RemembersOtherSessions {
            ctx.count("sessions before", SESSIONS.fetch_add(1, Ordering::Relaxed));
        }
    }

    fn on_client_data(&mut self, ctx: &mut Ctx<'_>, data: &[u8]) {
        if self.0 == Wrong::CountsCalls {
            ctx.count("calls", 1);
        }
        if self.0 == Wrong::HoldsWithoutEnd && !data.contains(&b'\n') {
            return;
        }
        let mut decided = 0;
        for message in messages(&SignedLines, data) {
            match message {
                Ok(message) if message.bytes[0] == b'-' => ctx.drop(message.len, "minus"),
                Ok(message) => {
                    assert!(self.0 != Wrong::PanicsOnAnEmptyLine || message.len > 2, "an empty line");
                    ctx.pass(message.len);
                }
                Err(fault) => ctx.abort(&fault.to_string()),
            }
            decided += message.map_or(0, |message| message.len);
        }
        if self.0 == Wrong::PassesWhatHasCome {
            ctx.pass(data.len() - decided);
        }
    }

    fn on_client_close(&mut self, ctx: &mut Ctx<'_>, held: &[u8]) {
        if self.0 != Wrong::HoldsBehindTheClose {
            ctx.drop(held.len(), "cut off");
        }
    }

    fn on_resume(&mut self, ctx: &mut Ctx<'_>) {
        ctx.want_payload(Payload::Full);
        if self.0 != Wrong::IsNeverReady {
            ctx.ready();
        }
    }
}

fn samples() -> Samples {
    let samples = vec![
        Sample::of("plus and minus")
            .client(b"+one\n-two\n")
            .target(b"ok\n")
            .client(b"+three\n+four\n-\n")
            .reaches_target(b"+one\n+three\n+four\n"),
        Sample::of("the target closes").client(b"+one\n").target_closes().client(b"+two\n").target(b"ok\n"),
        Sample::of("nothing"),
    ];
    Samples { most_held: 1_000, joins_anywhere: true, ..Samples::new(samples) }
}

fn rule_broken_by(wrong: Wrong) -> Option<Rule> {
    let mut module = ModuleHandle::new(Signed(wrong));
    if wrong == Wrong::Misnamed {
        module.about.name = "Signed lines";
    }
    match check(&module, &samples()) {
        Ok(report) => {
            assert!(report.conversations > 1_000 && report.bytes > 100_000, "{report:?}");
            None
        }
        Err(failure) => {
            assert!(failure.to_string().contains(module.about.name), "{failure}");
            Some(failure.rule)
        }
    }
}

#[test]
fn a_module_without_a_fault_passes() {
    assert_eq!(rule_broken_by(Wrong::Nothing), None);
}

#[test]
fn each_kind_of_fault_is_found() {
    assert_eq!(rule_broken_by(Wrong::PassesWhatHasCome), Some(Rule::Segmentation));
    assert_eq!(rule_broken_by(Wrong::CountsCalls), Some(Rule::Segmentation));
    assert_eq!(rule_broken_by(Wrong::PanicsOnAnEmptyLine), Some(Rule::NoPanic));
    assert_eq!(rule_broken_by(Wrong::HoldsWithoutEnd), Some(Rule::HeldBound));
    assert_eq!(rule_broken_by(Wrong::HoldsBehindTheClose), Some(Rule::Close));
    assert_eq!(rule_broken_by(Wrong::JoinsBehindTheEnd), Some(Rule::Join));
    assert_eq!(rule_broken_by(Wrong::IsNeverReady), Some(Rule::Reconnect));
    assert_eq!(rule_broken_by(Wrong::RemembersOtherSessions), Some(Rule::Determinism));
    assert_eq!(rule_broken_by(Wrong::Misnamed), Some(Rule::About));
}

/// Joining in the middle of a line is found where the line's rest looks like a line of its own.
#[test]
fn a_join_in_the_middle_of_a_message_is_found() {
    let samples = || vec![Sample::of("signs within").client(b"+one+two\n+three\n")];
    let anywhere = Samples { joins_anywhere: true, ..Samples::new(samples()) };
    let failure = check(&ModuleHandle::new(Signed(Wrong::JoinsAnywhere)), &anywhere).unwrap_err();
    assert_eq!(failure.rule, Rule::Join, "{failure}");
    // A module that believes the client's segments says so.
    assert!(check(&ModuleHandle::new(Signed(Wrong::JoinsAnywhere)), &Samples::new(samples())).is_ok());
}

#[test]
fn a_sample_that_comes_to_something_else_is_found() {
    let samples = Samples::new(vec![Sample::of("all").client(b"+one\n-two\n").reaches_target(b"+one\n-two\n")]);
    let failure = check(&ModuleHandle::new(Signed(Wrong::Nothing)), &samples).unwrap_err();
    assert_eq!(failure.rule, Rule::Sample);
    assert!(failure.what.contains("`+one\\n` reached the target, and not `+one\\n-two\\n`"), "{failure}");
}

#[test]
fn options_are_refused_by_name() {
    let entry = ModuleEntry::of::<Signed>();
    let check = |refused| check_options(&entry.about, |options| entry.create(options), refused);
    assert_eq!(check(&[("most", "many"), ("most", "-1")]), Ok(()));
    assert!(check(&[("most", "5")]).unwrap_err().what.contains("takes `5`"));
    assert!(check(&[("least", "5")]).unwrap_err().what.contains("not among"));
    let unnamed =
        check_options(&entry.about, |options| entry.create(options).map_err(|_| "no".into()), &[("most", "x")]);
    assert!(unnamed.unwrap_err().what.contains("does not name it"));
    let picky = check_options(&entry.about, |_| Err("most is needed".into()), &[]);
    assert!(picky.unwrap_err().what.contains("without any option"));
}
