//! The driver for module tests keeps the contract that the engine gives to modules.

use tcpcopy_module_api::testing::{Conversation, Message, State, reasons};
use tcpcopy_module_api::{
    About, AfterTargetClose, Attachment, Ctx, Module, ModuleHandle, Options, Payload, Session, SessionInfo, TargetData,
    Transport,
};

/// A module whose client says what the session shall do, a line for each call of [`Ctx`]; a line is dropped first,
/// unless it is passed.
struct Scripted {
    after_target_close: AfterTargetClose,
}

impl Module for Scripted {
    fn about() -> About {
        About { name: "scripted", sees_online: true, ..About::new(Transport::Tcp, "1") }
    }

    fn create(_: &Options) -> Result<Self, String> {
        Ok(Self { after_target_close: AfterTargetClose::Reconnect })
    }

    fn on_open(&self, info: &SessionInfo) -> Attachment {
        assert_eq!(info.online.client, info.target.client);
        Attachment::watch(Script)
    }

    fn after_target_close(&self) -> AfterTargetClose {
        self.after_target_close
    }
}

struct Script;

impl Script {
    fn line(ctx: &mut Ctx<'_>, line: &str) {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        let number = || rest.parse().unwrap();
        match verb {
            "pass" => ctx.pass(number()),
            "drop" => ctx.drop(number(), "told to"),
            "send" => ctx.send(rest.as_bytes()),
            "bypass" => ctx.bypass(),
            "watch" => ctx.watch(),
            "abort" => ctx.abort(rest),
            "expect" => ctx.expect_response(),
            "complete" => ctx.response_complete(),
            "reconnect" => ctx.reconnect(),
            "ready" => ctx.ready(),
            "full" => ctx.want_payload(Payload::Full),
            "first" => ctx.want_payload(Payload::First(2)),
            "count" => ctx.count(rest, 1),
            other => panic!("`{other}`"),
        }
    }
}

impl Session for Script {
    fn on_client_data(&mut self, ctx: &mut Ctx<'_>, mut data: &[u8]) {
        while let Some(end) = data.iter().position(|byte| *byte == b'\n') {
            let line = str::from_utf8(&data[..end]).unwrap();
            ctx.drop(end + 1, "command");
            data = &data[end + 1..];
            for part in line.split(';') {
                Self::line(ctx, part);
                match part.split_once(' ') {
                    Some(("pass" | "drop", n)) => data = &data[data.len().min(n.parse().unwrap())..],
                    None if part == "bypass" => return,
                    _ => {}
                }
            }
        }
    }

    fn on_target_data(&mut self, ctx: &mut Ctx<'_>, data: TargetData<'_>) {
        ctx.count(&format!("target {} hidden {}", String::from_utf8_lossy(data.bytes), data.hidden), 1);
        if let Some(line) = data.bytes.strip_prefix(b"do ") {
            Self::line(ctx, str::from_utf8(line).unwrap());
        }
    }

    fn on_online_data(&mut self, ctx: &mut Ctx<'_>, data: &[u8], lost: u64) {
        ctx.count(&format!("online {} lost {lost}", String::from_utf8_lossy(data)), 1);
    }

    fn on_resume(&mut self, ctx: &mut Ctx<'_>) {
        ctx.count("missing", ctx.missing_responses());
        ctx.send(b"login");
        ctx.want_payload(Payload::Full);
    }

    fn on_close(&mut self, ctx: &mut Ctx<'_>, reason: Option<&str>) {
        ctx.send(b"too late");
        ctx.count(reason.unwrap_or("copied"), 1);
    }
}

fn open() -> Conversation {
    Conversation::open(&ModuleHandle::new(Scripted::create(&Options::default()).unwrap()))
}

fn message(bytes: &[u8]) -> Message {
    Message { bytes: bytes.to_vec(), missing: 0, own: false }
}

fn own(bytes: &[u8]) -> Message {
    Message { own: true, ..message(bytes) }
}

#[test]
fn a_message_passed_before_it_came_is_copied_when_it_comes_and_shown_to_nobody() {
    let mut conversation = open();
    conversation.client(b"pass 6\nab");
    assert_eq!(conversation.messages(), [Message { missing: 4, ..message(b"ab") }]);
    conversation.client(b"cd").client(b"efabort seen\n");
    assert_eq!(conversation.messages(), [message(b"abcdef")]);
    assert_eq!(conversation.state(), &State::Ended("seen".into()), "what comes behind it is shown");
}

#[test]
fn what_is_said_behind_a_message_takes_effect_behind_it() {
    let mut conversation = open();
    conversation.client(b"pass 4;send hello;drop 3;pass 2\nab");
    assert_eq!(conversation.to_target(), b"ab");
    conversation.client(b"cdXXXef");
    assert_eq!(conversation.messages(), [message(b"abcd"), own(b"hello"), message(b"ef")]);
    assert_eq!(conversation.dropped("told to"), 3);
}

#[test]
fn what_is_held_is_shown_again_with_the_next_bytes_or_when_another_hook_asks() {
    /// Passes what it holds when it is asked a second time.
    struct Second(u32);
    impl Session for Second {
        fn on_client_data(&mut self, ctx: &mut Ctx<'_>, data: &[u8]) {
            ctx.want_payload(Payload::Full);
            ctx.ask_again();
            self.0 += 1;
            if self.0 == 2 {
                ctx.pass(data.len());
            }
        }
        fn on_target_data(&mut self, ctx: &mut Ctx<'_>, _: TargetData<'_>) {
            ctx.ask_again();
        }
    }
    struct Seconds;
    impl Module for Seconds {
        fn about() -> About {
            About::new(Transport::Tcp, "1")
        }
        fn create(_: &Options) -> Result<Self, String> {
            Ok(Self)
        }
        fn on_open(&self, _: &SessionInfo) -> Attachment {
            Attachment::watch(Second(0))
        }
    }
    let open = || Conversation::open(&ModuleHandle::new(Seconds));
    let mut conversation = open();
    conversation.client(b"ab");
    assert_eq!(conversation.held(), b"ab", "a hook that asks for itself would go round in a circle");
    conversation.client(b"cd");
    assert_eq!(conversation.to_target(), b"abcd");

    let mut conversation = open();
    conversation.client(b"ab").target(b"go");
    assert_eq!(conversation.to_target(), b"ab");
}

#[test]
fn a_session_that_bypasses_is_asked_again_when_it_watches() {
    let mut conversation = open();
    conversation.client(b"full;bypass\nabort now\n").client(b"abort!\n");
    assert_eq!(conversation.to_target(), b"abort now\nabort!\n");
    assert!(conversation.is_bypassed());
    conversation.target(b"do watch").client(b"count seen\n");
    assert_eq!(conversation.counter("seen"), 1);
}

#[test]
fn the_target_is_shown_as_far_as_the_session_wants() {
    let mut conversation = open();
    conversation.target(b"abcd").client(b"first\n").target(b"efgh").client(b"full\n").target(b"ijkl");
    let expected = ["target ef hidden 2", "target ijkl hidden 0"];
    assert_eq!(conversation.counters().keys().collect::<Vec<_>>(), expected);
    conversation.online(b"mn", 7);
    assert_eq!(conversation.counter("online mn lost 7"), 1);
}

#[test]
fn no_response_is_complete_that_was_not_expected() {
    let mut conversation = open();
    conversation.client(b"complete;expect;expect;complete\n");
    assert_eq!((conversation.expected(), conversation.completed()), (2, 1));
    conversation.target_closes();
    assert_eq!(conversation.completed(), 2, "a target that closed owes nothing any more");
}

#[test]
fn a_closed_target_is_opened_again_for_the_next_message_which_waits_for_the_login() {
    let mut conversation = open();
    conversation.client(b"expect;pass 3\none").target_closes();
    assert_eq!(conversation.completed(), 1, "the closed connection owes nothing");
    assert_eq!(conversation.connections().len(), 1, "nothing to send, nothing to open");
    conversation.client(b"pass 3;expect\ntwopass 5\nthree");
    assert_eq!((conversation.expected(), conversation.completed()), (2, 1), "what waits will be answered");
    assert_eq!(conversation.messages(), [own(b"login")]);
    assert_eq!(conversation.waiting(), [message(b"two"), message(b"three")]);
    conversation.target(b"do send password").target(b"do ready");
    assert_eq!(conversation.messages(), [own(b"login"), own(b"password"), message(b"two"), message(b"three")]);
    assert!(conversation.waiting().is_empty());
}

#[test]
fn a_message_cut_off_by_the_targets_close_does_not_go_on_with_its_second_half() {
    let mut conversation = open();
    conversation.client(b"pass 6\nabc").target_closes().client(b"defpass 3\nghi").target(b"do ready");
    assert_eq!(conversation.connections()[0], [Message { missing: 3, ..message(b"abc") }]);
    assert_eq!(conversation.connections()[1], [own(b"login"), message(b"ghi")]);
    assert_eq!(conversation.dropped(reasons::TARGET_CLOSED), 3);
}

#[test]
fn a_message_that_waits_for_the_login_is_whole_when_it_goes() {
    let mut conversation = open();
    conversation.client(b"reconnect\n");
    assert_eq!(conversation.messages(), [own(b"login")]);
    conversation.target(b"do ready").client(b"pass 4\nab").target_closes().client(b"cd");
    assert_eq!(conversation.connections().len(), 2);
    conversation.client(b"pass 4\nef");
    assert_eq!(conversation.waiting(), [Message { missing: 2, ..message(b"ef") }]);
    conversation.target_closes().client(b"gh");
    assert_eq!(conversation.connections().len(), 4);
    conversation.target(b"do ready");
    assert_eq!(conversation.messages(), [own(b"login"), message(b"efgh")], "it had not begun to be sent");
}

#[test]
fn a_module_that_does_not_reconnect_ends_with_the_next_message() {
    let module = Scripted { after_target_close: AfterTargetClose::End };
    let mut conversation = Conversation::open(&ModuleHandle::new(module));
    conversation.target_closes().client(b"count still here\n").client(b"pass 3\nabc");
    assert_eq!(conversation.counter("still here"), 1);
    assert_eq!(conversation.state(), &State::Ended(reasons::TARGET_CLOSED.into()));
    assert_eq!(conversation.dropped(reasons::TARGET_CLOSED), 3);
    assert_eq!(conversation.counter(reasons::TARGET_CLOSED), 1, "on_close learns why");
}

#[test]
fn the_clients_close_waits_behind_what_is_held() {
    let mut conversation = open();
    conversation.client(b"pass 9\nabc").client_closes();
    assert!(conversation.close_reached_target(), "the rest will not come");
    conversation.target_closes();
    assert_eq!((conversation.state(), conversation.counter("copied")), (&State::Done, 1));
    assert_eq!(conversation.to_target(), b"abc", "on_close has no say any more");

    let mut conversation = open();
    conversation.client(b"cut o").client_closes();
    assert_eq!(conversation.dropped("cut off by the client's close"), 5, "the default of on_client_close");
}

#[test]
fn bytes_behind_the_sessions_end_are_counted() {
    let mut conversation = open();
    conversation.client(b"abort enough\nabc").client(b"de");
    assert_eq!(conversation.dropped(reasons::SESSION_OVER), 5);
    assert_eq!(conversation.counter("enough"), 1);
}

#[test]
fn a_datagram_is_decided_at_once_or_left_out() {
    let mut module = ModuleHandle::new(Scripted::create(&Options::default()).unwrap());
    module.about.transport = Transport::Udp;
    let mut conversation = Conversation::open(&module);
    conversation.client(b"pass 100;send own\nabc").client(b"pass 1\nxyz").client(b"half a line");
    assert_eq!(conversation.messages(), [message(b"abc"), own(b"own"), message(b"x")]);
    assert_eq!(conversation.dropped(reasons::UNDECIDED), 2 + 11);
}

#[test]
fn what_is_held_at_the_clients_close_is_decided_when_the_target_is_ready_for_it() {
    /// Passes lines once the target has spoken.
    struct Patient(bool);
    impl Session for Patient {
        fn on_open(&mut self, ctx: &mut Ctx<'_>) {
            ctx.want_payload(Payload::Full);
        }
        fn on_client_data(&mut self, ctx: &mut Ctx<'_>, data: &[u8]) {
            for line in data.split_inclusive(|byte| *byte == b'\n').filter(|line| self.0 && line.ends_with(b"\n")) {
                ctx.pass(line.len());
            }
        }
        fn on_client_close(&mut self, ctx: &mut Ctx<'_>, held: &[u8]) {
            if self.0 {
                ctx.drop(held.len(), "cut off");
            }
        }
        fn on_target_data(&mut self, ctx: &mut Ctx<'_>, _: TargetData<'_>) {
            self.0 = true;
            ctx.ask_again();
        }
    }
    struct Patience;
    impl Module for Patience {
        fn about() -> About {
            About::new(Transport::Tcp, "1")
        }
        fn create(_: &Options) -> Result<Self, String> {
            Ok(Self)
        }
        fn on_open(&self, _: &SessionInfo) -> Attachment {
            Attachment::watch(Patient(false))
        }
    }
    let mut conversation = Conversation::open(&ModuleHandle::new(Patience));
    conversation.client(b"one\ntwo\nthr").client_closes();
    assert_eq!(conversation.held(), b"one\ntwo\nthr");
    conversation.target(b"welcome").target_closes();
    assert_eq!(conversation.to_target(), b"one\ntwo\n");
    assert_eq!((conversation.dropped("cut off"), conversation.state()), (3, &State::Done));
}
