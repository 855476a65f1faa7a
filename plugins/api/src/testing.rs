//! A module's tests without an engine: a [`Conversation`] shows a session the bytes of a client and a target, and tells
//! what would reach the target.
//!
//! ```
//! use tcpcopy_module_api::testing::Conversation;
//! # use tcpcopy_module_api::{About, Attachment, Ctx, Module, ModuleHandle, Options, Session, SessionInfo, Transport};
//! # struct NoMinus;
//! # impl Module for NoMinus {
//! #     fn about() -> About { About { name: "nominus", ..About::new(Transport::Tcp, "1") } }
//! #     fn create(_: &Options) -> Result<Self, String> { Ok(Self) }
//! #     fn on_open(&self, _: &SessionInfo) -> Attachment { Attachment::watch(Lines) }
//! # }
//! # struct Lines;
//! # impl Session for Lines {
//! #     fn on_client_data(&mut self, ctx: &mut Ctx<'_>, mut data: &[u8]) {
//! #         while let Some(end) = data.iter().position(|byte| *byte == b'\n') {
//! #             let (line, rest) = data.split_at(end + 1);
//! #             if line.starts_with(b"-") { ctx.drop(line.len(), "begins with a minus"); } else { ctx.pass(line.len()); }
//! #             data = rest;
//! #         }
//! #     }
//! # }
//! let mut conversation = Conversation::open(&ModuleHandle::new(NoMinus));
//! conversation.client(b"one\n-two\nthr");
//! assert_eq!(conversation.to_target(), b"one\n");
//! assert_eq!(conversation.dropped("begins with a minus"), 5);
//! assert_eq!(conversation.held(), b"thr");
//!
//! conversation.client(b"ee\n").client_closes();
//! assert_eq!(conversation.to_target(), b"one\nthree\n");
//! ```
//!
//! What the engine does with packets, acknowledgements and time is left out: the target takes what it is given at once,
//! and acknowledges it. For loss, reordering and the gate there is the virtual network.

mod recorder;
mod steps;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::{
    AfterTargetClose, Attachment, Ctx, Endpoint, Flow, LogLevel, ModuleHandle, Payload, Port, Session, SessionInfo,
    TargetData, Timestamp, Transport,
};
use recorder::Recorder;

/// Reasons under which a [`Conversation`] itself counts bytes that do not reach the target.
pub mod reasons {
    /// The rest of a message that the target had only in part when it closed, or when the session reconnected.
    pub const TARGET_CLOSED: &str = "the target closed";
    /// Bytes that a session had not decided when it ended, and those that came later.
    pub const SESSION_OVER: &str = "the session was over";
    /// What a session left undecided of a datagram.
    pub const UNDECIDED: &str = "left undecided of a datagram";
}

/// A message as it reached the target: what one call of [`Ctx::pass`] or [`Ctx::send`] made of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// What has reached the target.
    pub bytes: Vec<u8>,
    /// Bytes that were passed before they came, and have not come.
    pub missing: usize,
    /// The module sent it, and not the client.
    pub own: bool,
}

/// Where a session is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It goes on.
    Open,
    /// It was copied to its end.
    Done,
    /// It was given up, and why.
    Ended(String),
}

/// All that a conversation came to; see the methods of [`Conversation`] of the same names.
#[allow(missing_docs)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub connections: Vec<Vec<Message>>,
    pub waiting: Vec<Message>,
    pub held: Vec<u8>,
    pub dropped: BTreeMap<String, u64>,
    pub counters: BTreeMap<String, u64>,
    pub log: Vec<(LogLevel, String)>,
    pub expected: u64,
    pub completed: u64,
    pub payload: Payload,
    pub state: State,
}

/// One client's conversation with a target, through a session of a module. See the [module's documentation](self).
pub struct Conversation {
    session: Option<Box<dyn Session>>,
    after_target_close: AfterTargetClose,
    sees_online: bool,
    transport: Transport,
    info: SessionInfo,
    now: Timestamp,

    /// The client's bytes that were not shown, or not decided.
    held: Vec<u8>,
    /// What the session said about the client's bytes and has not taken effect, because it waits for them.
    orders: VecDeque<Order>,
    due: Due,
    /// Everything goes to the target without being shown.
    bypass: bool,
    client_closed: bool,

    /// The messages that reached each connection to the target, in the order of the connections.
    connections: Vec<Vec<Message>>,
    target_closed: bool,
    /// The present connection may have the client's messages.
    ready: bool,
    /// What waits for [`Ctx::ready`].
    waiting: Vec<Message>,
    /// Responses that were expected before the first message that waits.
    expected_before_waiting: u64,
    /// The message written last goes on with the next bytes that are passed. It is in `waiting` when the connection is not
    /// ready.
    within: bool,

    expected: u64,
    completed: u64,
    payload: Payload,
    came: u64,
    /// Where in the client's stream the next decision begins.
    undecided_from: u64,
    boundaries: Vec<u64>,
    /// The message written last is of a session that bypasses, and goes on with whatever comes.
    bypasses: bool,
    dropped: BTreeMap<String, u64>,
    counters: BTreeMap<String, u64>,
    log: Vec<(LogLevel, String)>,
    state: State,
}

/// A decision about the client's bytes, in its place among the others.
#[derive(Debug)]
enum Order {
    Pass(usize),
    Drop(usize, String),
    Send(Vec<u8>),
    Bypass,
    Watch,
}

/// Hooks that are to be called as soon as they may.
#[derive(Debug, Default)]
struct Due {
    resume: bool,
    client_data: bool,
    client_close: bool,
    /// It was `on_client_close` that asked for `client_data`.
    asked_by_close: bool,
}

impl Conversation {
    /// A session from its beginning, of the client 192.0.2.7:40000 with online 192.0.2.1:80 and the target
    /// 198.51.100.1:80.
    pub fn open(module: &ModuleHandle) -> Self {
        Self::with(module, addresses(false))
    }

    /// A session that is joined mid-stream with a client's segment of `data`. It begins where the module's
    /// [`join_at`](crate::Module::join_at) says, or not at all.
    pub fn join(module: &ModuleHandle, data: &[u8]) -> Option<Self> {
        let offset = module.module.join_at(data)?;
        assert!(offset <= data.len(), "join_at said {offset}, in a segment of {} bytes", data.len());
        let mut conversation = Self::with(module, addresses(true));
        conversation.client(&data[offset..]);
        Some(conversation)
    }

    /// A session with these addresses.
    pub fn with(module: &ModuleHandle, info: SessionInfo) -> Self {
        let mut conversation = Self {
            session: None,
            after_target_close: module.module.after_target_close(),
            sees_online: module.about.sees_online,
            transport: module.about.transport,
            info,
            now: Timestamp::from_millis(1_000),
            held: Vec::new(),
            orders: VecDeque::new(),
            due: Due::default(),
            bypass: false,
            client_closed: false,
            connections: vec![Vec::new()],
            target_closed: false,
            ready: true,
            waiting: Vec::new(),
            expected_before_waiting: 0,
            within: false,
            expected: 0,
            completed: 0,
            payload: Payload::Headers,
            came: 0,
            undecided_from: 0,
            boundaries: Vec::new(),
            bypasses: false,
            dropped: BTreeMap::new(),
            counters: BTreeMap::new(),
            log: Vec::new(),
            state: State::Open,
        };
        match module.module.on_open(&info) {
            Attachment::Bypass => conversation.bypass = true,
            Attachment::Watch(session) => {
                conversation.session = Some(session);
                conversation.hook(|session, ctx| session.on_open(ctx));
                conversation.settle();
            }
        }
        conversation
    }

    // ---- what happens ----

    /// The client sends a segment (with UDP, a datagram).
    pub fn client(&mut self, segment: &[u8]) -> &mut Self {
        assert!(!self.client_closed, "the client sent after its close");
        self.came += segment.len() as u64;
        if self.state != State::Open {
            self.count_dropped(segment.len(), reasons::SESSION_OVER);
            return self;
        }
        self.held.extend_from_slice(segment);
        self.due.client_data = true;
        self.settle();
        if self.transport == Transport::Udp {
            self.orders.clear();
            let left = std::mem::take(&mut self.held).len();
            self.count_dropped(left, reasons::UNDECIDED);
        }
        self
    }

    /// The client sends `bytes`, in segments of at most `size` bytes.
    pub fn client_in_segments(&mut self, bytes: &[u8], size: usize) -> &mut Self {
        for segment in bytes.chunks(size) {
            self.client(segment);
        }
        self
    }

    /// The client closes.
    pub fn client_closes(&mut self) -> &mut Self {
        if self.client_closed || self.state != State::Open {
            return self;
        }
        self.client_closed = true;
        // What was to be passed or dropped and has not come never will, nor what was to follow it.
        self.orders.clear();
        self.within = false;
        self.due.client_close = !self.bypass;
        self.settle();
        self
    }

    /// The target sends a segment. It is shown as far as the session wants ([`Ctx::want_payload`]).
    pub fn target(&mut self, segment: &[u8]) -> &mut Self {
        assert!(!self.target_closed, "the target sent after its close");
        let shown = match self.payload {
            Payload::Headers => return self,
            Payload::First(n) => segment.len().min(usize::from(n)),
            Payload::Full => segment.len(),
        };
        let data = TargetData { bytes: &segment[..shown], hidden: (segment.len() - shown) as u32 };
        self.hook(|session, ctx| session.on_target_data(ctx, data));
        self.settle();
        self
    }

    /// Online sends `bytes`, in front of which the capture lost `lost`.
    pub fn online(&mut self, bytes: &[u8], lost: u64) -> &mut Self {
        assert!(self.sees_online, "the module does not ask to see online's bytes: `About::sees_online`");
        self.hook(|session, ctx| session.on_online_data(ctx, bytes, lost));
        self.settle();
        self
    }

    /// The target closes. A module that reconnects does with the next message.
    pub fn target_closes(&mut self) -> &mut Self {
        if self.state == State::Open {
            self.cut_off();
            self.target_closed = true;
            self.completed = if self.waiting.is_empty() { self.expected } else { self.expected_before_waiting };
            self.settle();
        }
        self
    }

    /// Time passes.
    pub fn advance(&mut self, by: Duration) -> &mut Self {
        self.now = self.now + by;
        self
    }

    // ---- what came of it ----

    /// What has reached the present connection to the target.
    pub fn to_target(&self) -> Vec<u8> {
        self.messages().iter().flat_map(|message| message.bytes.iter().copied()).collect()
    }

    /// The messages that have reached the present connection to the target. What a session passes without looking, because
    /// it [bypasses](Ctx::bypass), is one message.
    pub fn messages(&self) -> &[Message] {
        self.connections.last().map_or(&[], Vec::as_slice)
    }

    /// The messages that reached each connection to the target, in the order of the connections.
    pub fn connections(&self) -> &[Vec<Message>] {
        &self.connections
    }

    /// The messages that wait for [`Ctx::ready`].
    pub fn waiting(&self) -> &[Message] {
        &self.waiting
    }

    /// The client's bytes that have not been decided.
    pub fn held(&self) -> &[u8] {
        &self.held
    }

    /// Bytes of the client that were left out under `reason`.
    pub fn dropped(&self, reason: &str) -> u64 {
        self.dropped.get(reason).copied().unwrap_or(0)
    }

    /// Bytes of the client that were left out, by reason. See also [`reasons`].
    pub fn all_dropped(&self) -> &BTreeMap<String, u64> {
        &self.dropped
    }

    /// The module's counter `name`.
    pub fn counter(&self, name: &str) -> u64 {
        self.counters.get(name).copied().unwrap_or(0)
    }

    /// All counters of the module.
    pub fn counters(&self) -> &BTreeMap<String, u64> {
        &self.counters
    }

    /// What the session said in the log.
    pub fn log(&self) -> &[(LogLevel, String)] {
        &self.log
    }

    /// Responses that the session expects ([`Ctx::expect_response`]).
    pub fn expected(&self) -> u64 {
        self.expected
    }

    /// Responses that are complete, by [`Ctx::response_complete`] or because the connection ended.
    pub fn completed(&self) -> u64 {
        self.completed
    }

    /// How much the session wants to see of the target's bytes.
    pub fn payload(&self) -> Payload {
        self.payload
    }

    /// Where the session is.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Everything is copied without the session being asked. When it wants neither the target's nor online's bytes either,
    /// nothing is asked of it any more.
    pub fn is_bypassed(&self) -> bool {
        self.bypass
    }

    /// The present connection to the target has, or would have, the client's messages: the session is not between
    /// [`Session::on_resume`] and [`Ctx::ready`].
    pub fn is_ready(&self) -> bool {
        self.ready
    }

    /// The client's close has reached the target, behind all that came before it.
    pub fn close_reached_target(&self) -> bool {
        self.client_closed && !self.due.client_close && self.held.is_empty() && self.ready
    }

    /// Where in the client's stream the session's decisions began: the first byte of each [`Ctx::pass`] and [`Ctx::drop`].
    pub fn boundaries(&self) -> &[u64] {
        &self.boundaries
    }

    /// There is a connection to the target, which the target has not closed.
    pub fn is_target_open(&self) -> bool {
        !self.target_closed
    }

    /// All that a conversation came to.
    pub fn outcome(&self) -> Outcome {
        Outcome {
            connections: self.connections.clone(),
            waiting: self.waiting.clone(),
            held: self.held.clone(),
            dropped: self.dropped.clone(),
            counters: self.counters.clone(),
            log: self.log.clone(),
            expected: self.expected,
            completed: self.completed,
            payload: self.payload,
            state: self.state.clone(),
        }
    }

    /// Calls a hook, and takes note of what it says.
    fn hook(&mut self, call: impl FnOnce(&mut dyn Session, &mut Ctx<'_>)) {
        if self.state != State::Open {
            return;
        }
        let Some(session) = &mut self.session else { return };
        let mut recorder = Recorder::new(self.info, self.now, self.expected - self.completed);
        call(&mut **session, &mut Ctx::new(&mut recorder));
        for call in recorder.calls {
            self.take_effect(call);
            if self.state != State::Open {
                break;
            }
            self.carry_out();
        }
    }
}

impl std::fmt::Debug for Conversation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.outcome().fmt(f)
    }
}

/// The addresses of a session, from those that RFC 5737 sets aside for documentation.
fn addresses(joined: bool) -> SessionInfo {
    let client = Endpoint::new([192, 0, 2, 7].into(), Port(40_000));
    let online = Endpoint::new([192, 0, 2, 1].into(), Port(80));
    let target = Endpoint::new([198, 51, 100, 1].into(), Port(80));
    SessionInfo { online: Flow { client, server: online }, target: Flow { client, server: target }, joined }
}
