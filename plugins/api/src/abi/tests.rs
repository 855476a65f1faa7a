//! Both sides of the C ABI in one process: a module in Rust behind its table, and the program that reads it.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use super::convert::{level_of, panic_text, payload_number, payload_of};
use super::*;
use crate::testing::Conversation;
use crate::{
    About, AfterTargetClose, Attachment, Ctx, Endpoint, Flow, Host, LogLevel, Module, ModuleHandle, OptionSpec,
    Options, Payload, Port, Session, SessionInfo, TargetData, Timestamp, Transport,
};

/// Panics where its option says so.
struct Fragile {
    panic_in: String,
}

impl Fragile {
    fn reached(&self, place: &str) {
        assert!(self.panic_in != place, "panicked in {place}");
    }
}

impl Module for Fragile {
    fn about() -> About {
        const OPTIONS: &[OptionSpec] = &[OptionSpec { name: "panic-in", value: "HOOK", help: "where to panic" }];
        About { name: "fragile", summary: "breaks", options: OPTIONS, ..About::new(Transport::Udp, "0.1") }
    }

    fn create(options: &Options) -> Result<Self, String> {
        let module = Self { panic_in: options.get("panic-in").unwrap_or_default().to_owned() };
        module.reached("create");
        if module.panic_in == "nowhere" { Err("option `panic-in`: where is that?".to_owned()) } else { Ok(module) }
    }

    fn on_open(&self, info: &SessionInfo) -> Attachment {
        self.reached("open");
        if info.joined { Attachment::Bypass } else { Attachment::watch(Self { panic_in: self.panic_in.clone() }) }
    }

    fn join_at(&self, data: &[u8]) -> Option<usize> {
        self.reached("join_at");
        data.iter().position(|byte| *byte == b'!')
    }

    fn after_target_close(&self) -> AfterTargetClose {
        self.reached("after_target_close");
        AfterTargetClose::Reconnect
    }
}

impl Session for Fragile {
    fn on_client_data(&mut self, ctx: &mut Ctx<'_>, data: &[u8]) {
        self.reached("on_client_data");
        ctx.pass(data.len());
    }

    fn on_close(&mut self, _: &mut Ctx<'_>, reason: Option<&str>) {
        self.reached(reason.unwrap_or("the end"));
    }
}

fn fragile() -> ForeignModule {
    static TABLE: ExportedTable = ExportedTable::new();
    assert_eq!(TABLE.of::<Fragile>(), TABLE.of::<Fragile>());
    // SAFETY: this crate's own table.
    unsafe { ForeignModule::from_table(TABLE.of::<Fragile>()) }.unwrap()
}

fn made(panic_in: &str) -> ModuleHandle {
    fragile().create(&Options::new(vec![("panic-in".to_owned(), panic_in.to_owned())])).unwrap()
}

fn flow(client: &str, server: &str) -> Flow {
    let endpoint = |text: &str| Endpoint::from(text.parse::<std::net::SocketAddr>().unwrap());
    Flow { client: endpoint(client), server: endpoint(server) }
}

fn info() -> SessionInfo {
    SessionInfo {
        online: flow("10.0.0.7:40000", "10.0.0.1:80"),
        target: flow("[fd00::7]:40001", "[fd00::2]:8080"),
        joined: false,
    }
}

/// What a panic says that `act` ends with.
fn panic_of<T>(act: impl FnOnce() -> T) -> Option<String> {
    catch_unwind(AssertUnwindSafe(act)).err().map(panic_text)
}

#[test]
fn what_users_see_comes_across() {
    let about = fragile().about();
    assert_eq!(about, Fragile::about());
    assert_eq!(made("").about, about);
}

#[test]
fn module_hooks_come_across() {
    let module = made("").module;
    assert_eq!(module.join_at(b"..!"), Some(2));
    assert_eq!(module.join_at(b"..."), None);
    assert_eq!(module.join_at(b""), None);
    assert_eq!(module.after_target_close(), AfterTargetClose::Reconnect);
    assert!(matches!(module.on_open(&info()), Attachment::Watch(_)));
    assert!(matches!(module.on_open(&SessionInfo { joined: true, ..info() }), Attachment::Bypass));
}

#[test]
fn create_says_why_it_does_not() {
    let create = |place: &str| {
        let error = fragile().create(&Options::new(vec![("panic-in".to_owned(), place.to_owned())])).err();
        error.expect("an error")
    };
    assert_eq!(create("nowhere"), CreateError::Refused { message: "option `panic-in`: where is that?".to_owned() });
    assert_eq!(create("create"), CreateError::Panicked { message: "panicked in create".to_owned() });
    assert_eq!(create("create").to_string(), "it panicked while it was made: panicked in create");
}

#[test]
fn a_panic_goes_on_with_its_message() {
    for (place, hook) in [
        ("open", (|module: &dyn Module| drop(module.on_open(&info()))) as fn(&dyn Module)),
        ("join_at", |module| assert_eq!(module.join_at(b"."), None)),
        ("after_target_close", |module| assert_eq!(module.after_target_close(), AfterTargetClose::End)),
    ] {
        let module = made(place).module;
        assert_eq!(panic_of(|| hook(&*module)), Some(format!("panicked in {place}")));
    }
    let mut everything = Everything::default();
    let Attachment::Watch(mut session) = made("on_client_data").module.on_open(&info()) else { panic!("watches") };
    let said = panic_of(|| session.on_client_data(&mut Ctx::new(&mut everything), b"data"));
    assert_eq!(said.as_deref(), Some("panicked in on_client_data"));
    assert!(everything.calls.is_empty());
    // The reason of a close, and that there is none, come across.
    for (place, reason) in [("the end", None), ("", Some("")), ("refused", Some("refused"))] {
        let Attachment::Watch(mut session) = made(place).module.on_open(&info()) else { panic!("watches") };
        let said = panic_of(|| session.on_close(&mut Ctx::new(&mut everything), reason));
        assert_eq!(said, Some(format!("panicked in {place}")));
    }
}

/// A session goes on to need what its module has: it is not freed before.
#[test]
fn a_session_outlives_the_handle_of_its_module() {
    let handle = made("");
    let Attachment::Watch(mut session) = handle.module.on_open(&info()) else { panic!("watches") };
    drop(handle);
    let mut everything = Everything::default();
    session.on_client_data(&mut Ctx::new(&mut everything), b"data");
    assert_eq!(everything.calls, ["pass 4"]);
}

/// Calls everything that a context has.
struct Caller;

impl Module for Caller {
    fn about() -> About {
        About { name: "caller", ..About::new(Transport::Tcp, "1") }
    }

    fn create(_: &Options) -> Result<Self, String> {
        Ok(Self)
    }

    fn on_open(&self, _: &SessionInfo) -> Attachment {
        Attachment::watch(Self)
    }
}

impl Session for Caller {
    fn on_client_data(&mut self, ctx: &mut Ctx<'_>, data: &[u8]) {
        let first = *ctx.info();
        let (now, missing) = (ctx.now().as_nanos(), ctx.missing_responses());
        let text = format!("{data:?} {} {} {} {now} {missing}", first.online, first.target, first.joined);
        ctx.log(LogLevel::Debug, &text);
        ctx.pass(1);
        ctx.drop(usize::MAX, "sch\u{f6}n");
        ctx.send(b"");
        ctx.send(b"own");
        ctx.ask_again();
        ctx.bypass();
        ctx.watch();
        ctx.expect_response();
        ctx.response_complete();
        ctx.reconnect();
        ctx.forget_waiting("stale");
        ctx.ready();
        ctx.want_payload(Payload::First(7));
        ctx.want_payload(Payload::Full);
        ctx.count("seen", u64::MAX);
        ctx.abort("enough");
        assert_eq!(*ctx.info(), first);
    }

    fn on_target_data(&mut self, ctx: &mut Ctx<'_>, data: TargetData<'_>) {
        ctx.log(LogLevel::Error, &format!("{data:?}"));
    }

    fn on_online_data(&mut self, ctx: &mut Ctx<'_>, data: &[u8], lost: u64) {
        ctx.log(LogLevel::Warn, &format!("{data:?} {lost}"));
    }
}

/// Writes down what it is asked.
struct Everything {
    info: SessionInfo,
    calls: Vec<String>,
    panic_on_send: bool,
}

impl Default for Everything {
    fn default() -> Self {
        Self { info: info(), calls: Vec::new(), panic_on_send: false }
    }
}

impl Host for Everything {
    fn info(&self) -> &SessionInfo {
        &self.info
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_nanos(42)
    }

    fn pass(&mut self, n: usize) {
        self.calls.push(format!("pass {n}"));
    }

    fn drop(&mut self, n: usize, reason: &str) {
        self.calls.push(format!("drop {n} {reason}"));
    }

    fn send(&mut self, bytes: &[u8]) {
        assert!(!self.panic_on_send, "the engine is broken");
        self.calls.push(format!("send {bytes:?}"));
    }

    fn ask_again(&mut self) {
        self.calls.push("ask_again".to_owned());
    }

    fn abort(&mut self, reason: &str) {
        self.calls.push(format!("abort {reason}"));
    }

    fn bypass(&mut self) {
        self.calls.push("bypass".to_owned());
    }

    fn watch(&mut self) {
        self.calls.push("watch".to_owned());
    }

    fn expect_response(&mut self) {
        self.calls.push("expect_response".to_owned());
    }

    fn response_complete(&mut self) {
        self.calls.push("response_complete".to_owned());
    }

    fn reconnect(&mut self) {
        self.calls.push("reconnect".to_owned());
    }

    fn missing_responses(&self) -> u64 {
        3
    }

    fn forget_waiting(&mut self, reason: &str) {
        self.calls.push(format!("forget_waiting {reason}"));
    }

    fn ready(&mut self) {
        self.calls.push("ready".to_owned());
    }

    fn want_payload(&mut self, payload: Payload) {
        self.calls.push(format!("want_payload {payload:?}"));
    }

    fn log(&mut self, level: LogLevel, text: &str) {
        self.calls.push(format!("log {level:?} {text}"));
    }

    fn count(&mut self, name: &str, n: u64) {
        self.calls.push(format!("count {name} {n}"));
    }
}

fn caller() -> Box<dyn Session> {
    static TABLE: ExportedTable = ExportedTable::new();
    // SAFETY: this crate's own table.
    let module = unsafe { ForeignModule::from_table(TABLE.of::<Caller>()) }.unwrap();
    match module.create(&Options::default()).unwrap().module.on_open(&info()) {
        Attachment::Watch(session) => session,
        Attachment::Bypass => panic!("a caller watches"),
    }
}

/// What the session asks through the table is, call for call, what it asks without.
#[test]
fn every_call_comes_across_in_its_order() {
    let run = |session: &mut dyn Session| {
        let mut host = Everything::default();
        session.on_open(&mut Ctx::new(&mut host));
        session.on_client_data(&mut Ctx::new(&mut host), &[1, 2, 3]);
        session.on_client_data(&mut Ctx::new(&mut host), &[]);
        session.on_target_data(&mut Ctx::new(&mut host), TargetData { bytes: b"tail", hidden: 5 });
        session.on_online_data(&mut Ctx::new(&mut host), b"row", u64::MAX);
        session.on_client_close(&mut Ctx::new(&mut host), b"held");
        session.on_client_close(&mut Ctx::new(&mut host), b"");
        session.on_resume(&mut Ctx::new(&mut host));
        session.on_close(&mut Ctx::new(&mut host), Some("because"));
        host.calls
    };
    let direct = run(&mut Caller);
    assert_eq!(run(&mut *caller()), direct);
    assert_eq!(direct.len(), 38, "{direct:#?}");
    assert!(
        direct[0].ends_with("[1, 2, 3] 10.0.0.7:40000 -> 10.0.0.1:80 [fd00::7]:40001 -> [fd00::2]:8080 false 42 3")
    );
}

/// A panic of the engine below a module's frames is the engine's: it goes on above them, whole.
#[test]
fn a_panic_of_the_program_goes_around_the_module() {
    let mut host = Everything { panic_on_send: true, ..Everything::default() };
    let said = panic_of(|| caller().on_client_data(&mut Ctx::new(&mut host), b"data"));
    assert_eq!(said.as_deref(), Some("the engine is broken"));
    // After it the hook's calls have no effect.
    assert_eq!(host.calls.len(), 3, "{:?}", host.calls);
}

#[test]
fn a_conversation_goes_through_a_table() {
    let mut conversation = Conversation::open(&made(""));
    conversation.client(b"one").client(b"two");
    assert_eq!(conversation.to_target(), b"onetwo");
    assert_eq!(conversation.messages().len(), 2);
}

fn refusal(change: impl FnOnce(&mut ModuleTable)) -> TableError {
    static TABLE: ExportedTable = ExportedTable::new();
    // SAFETY: this crate's own table.
    let mut table = unsafe { *TABLE.of::<Fragile>() };
    change(&mut table);
    // SAFETY: as above, but for the changes, which are refused; the copy is there for good.
    unsafe { ForeignModule::from_table(Box::leak(Box::new(table))) }.unwrap_err()
}

#[test]
fn tables_that_are_wrong_are_refused() {
    // SAFETY: null is allowed.
    assert_eq!(unsafe { ForeignModule::from_table(ptr::null()) }.unwrap_err(), TableError::Null);
    assert_eq!(refusal(|table| table.abi_version += 1), TableError::AbiVersion { found: ABI_VERSION + 1 });
    let size = size_of::<ModuleTable>() as u32;
    assert_eq!(refusal(|table| table.struct_size -= 8), TableError::StructSize { found: size - 8 });
    assert_eq!(refusal(|table| table.create = None), TableError::HookMissing { hook: "create" });
    assert_eq!(refusal(|table| table.destroy = None), TableError::HookMissing { hook: "destroy" });
    assert_eq!(refusal(|table| table.session_open = None), TableError::HookMissing { hook: "session_open" });
    assert_eq!(refusal(|table| table.session_destroy = None), TableError::HookMissing { hook: "session_destroy" });
    assert_eq!(refusal(|table| table.on_client_data = None), TableError::HookMissing { hook: "on_client_data" });
    assert_eq!(refusal(|table| table.transport = 132), TableError::Transport { found: 132 });
    assert_eq!(refusal(|table| table.option_count = 257), TableError::OptionCount { found: 257 });
    assert_eq!(refusal(|table| table.options = ptr::null()), TableError::OptionCount { found: 1 });
}

#[test]
fn texts_that_are_wrong_are_refused() {
    let said = |change: fn(&mut ModuleTable)| refusal(change).to_string();
    assert_eq!(
        said(|table| table.name = Slice::of(b"Upper")),
        "its name `Upper` is not one: lower-case letters, digits, `-` and `_`, a letter first"
    );
    assert!(said(|table| table.name = Slice::of(b"")).contains("its name `` is not one"));
    assert!(said(|table| table.name = Slice::of(b"../up")).contains("is not one"));
    assert!(said(|table| table.summary = Slice::of(b"\xff\xfe")).contains("its summary is not UTF-8"));
    assert!(said(|table| table.summary = Slice::of(b"two\nlines")).contains("control characters"));
    assert_eq!(said(|table| table.version = Slice { data: ptr::null(), len: 3 }), "its version is a null pointer");
    // A length that cannot be is not followed to where it leads.
    assert!(said(|table| table.summary.len = usize::MAX).contains("are too many"));
    assert!(said(|table| table.name.len = 65).contains("has 65 bytes, and more than 64 are too many"));
    static NAMELESS: [RawOption; 1] = [RawOption { name: Slice::of(b"a b"), value: Slice::NULL, help: Slice::NULL }];
    assert!(said(|table| table.options = NAMELESS.as_ptr()).contains("its option's name `a b` is not one"));
}

#[test]
fn numbers_mean_the_same_on_both_sides() {
    for payload in [Payload::Headers, Payload::First(1), Payload::First(u16::MAX), Payload::Full] {
        assert_eq!(payload_of(payload_number(payload)), payload);
    }
    assert_eq!(payload_of(70_000), Payload::First(u16::MAX));
    for level in [LogLevel::Error, LogLevel::Warn, LogLevel::Info, LogLevel::Debug] {
        assert_eq!(level_of(level as u32), level);
    }
    assert_eq!(level_of(99), LogLevel::Warn);
    let raw = RawEndpoint::from(Endpoint::new([10, 0, 0, 7].into(), Port(80)));
    assert_eq!((raw.ip_version, raw.port, &raw.address[..5]), (4, 80, &[10, 0, 0, 7, 0][..]));
    assert_eq!(SessionInfo::from(RawSessionInfo::from(&info())), info());
}

/// A module whose description panics has no table.
struct Speechless;

impl Module for Speechless {
    fn about() -> About {
        panic!("no words")
    }

    fn create(_: &Options) -> Result<Self, String> {
        Ok(Self)
    }
}

#[test]
fn a_module_that_cannot_say_what_it_is_has_no_table() {
    static TABLE: ExportedTable = ExportedTable::new();
    assert!(TABLE.of::<Speechless>().is_null());
}

#[test]
fn a_panic_may_be_anything() {
    let words: Box<dyn Any + Send> = Box::new(5_u8);
    assert_eq!(panic_text(words), "a panic without words");
}
