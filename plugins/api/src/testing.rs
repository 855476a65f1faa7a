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

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::{
    AfterTargetClose, Attachment, Ctx, Endpoint, Flow, LogLevel, ModuleHandle, Payload, Port, Session, SessionInfo,
    TargetData, Timestamp, Transport,
};
use recorder::{Call, Recorder};

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

    // ---- how ----

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

    /// Carries out what can be, and calls the hooks that are due, until all that is left waits for something to happen.
    fn settle(&mut self) {
        loop {
            if self.state == State::Open {
                self.carry_out();
            }
            let decides = !self.bypass && self.orders.is_empty();
            if self.state != State::Open {
                self.close_session();
                return;
            } else if self.due.resume {
                self.hook(|session, ctx| session.on_resume(ctx));
                // A connection that is new already is not given up in its favour.
                self.due.resume = false;
            } else if decides && self.due.client_data {
                self.due.client_data = false;
                let asked_by_close = std::mem::take(&mut self.due.asked_by_close);
                if !self.held.is_empty() {
                    let held = self.held.clone();
                    self.hook(|session, ctx| session.on_client_data(ctx, &held));
                    self.due.client_data = false;
                    self.due.client_close = self.client_closed && !asked_by_close;
                }
            } else if decides && self.due.client_close {
                self.due.client_close = false;
                if !self.held.is_empty() {
                    let held = self.held.clone();
                    self.hook(|session, ctx| session.on_client_close(ctx, &held));
                    self.due.asked_by_close = self.due.client_data;
                }
            } else if self.client_closed && self.target_closed && !self.due.client_close {
                self.state = State::Done;
            } else if self.waits_for_new_connection() {
                self.connect();
            } else {
                let watches = self.sees_online || self.payload != Payload::Headers || !self.ready;
                if self.bypass && !watches && self.orders.is_empty() {
                    self.session = None;
                }
                self.check();
                return;
            }
        }
    }

    fn take_effect(&mut self, call: Call) {
        match call {
            Call::Pass(n) => {
                self.decide(n);
                self.orders.push_back(Order::Pass(n));
            }
            Call::Drop(n, reason) => {
                self.decide(n);
                self.orders.push_back(Order::Drop(n, reason));
            }
            // In front of what waits: there, and only there, the session's own bytes do not keep to their place.
            Call::Send(bytes) if bytes.is_empty() => {}
            Call::Send(bytes) if !self.ready => {
                self.connection().push(Message { bytes, missing: 0, own: true });
            }
            Call::Send(bytes) => self.orders.push_back(Order::Send(bytes)),
            Call::Bypass => self.orders.push_back(Order::Bypass),
            Call::Watch => self.orders.push_back(Order::Watch),
            Call::AskAgain => self.due.client_data = true,
            Call::Abort(reason) => self.state = State::Ended(reason),
            Call::ExpectResponse => self.expected += 1,
            Call::ResponseComplete => self.completed = (self.completed + 1).min(self.expected),
            Call::ForgetWaiting(_) if self.ready => {}
            Call::ForgetWaiting(reason) => {
                let waiting = std::mem::take(&mut self.waiting);
                let clients = waiting.iter().filter(|message| !message.own).map(|message| message.bytes.len());
                self.count_dropped(clients.sum(), &reason);
                if std::mem::take(&mut self.within)
                    && let Some(Order::Pass(n)) = self.orders.front()
                {
                    self.orders[0] = Order::Drop(*n, reason);
                }
                self.completed = self.expected;
                self.expected_before_waiting = self.expected;
            }
            Call::Reconnect if self.due.resume => {}
            Call::Reconnect => {
                self.cut_off();
                self.connect();
            }
            Call::Ready => {
                self.ready = true;
                let waiting = std::mem::take(&mut self.waiting);
                self.connection().extend(waiting);
            }
            Call::WantPayload(Payload::First(0)) => self.payload = Payload::Headers,
            Call::WantPayload(payload) => self.payload = payload,
            Call::Log(level, text) => self.log.push((level, text)),
            Call::Count(name, n) => *self.counters.entry(name).or_default() += n,
        }
    }

    /// Takes note of where a decision about `n` bytes begins.
    fn decide(&mut self, n: usize) {
        if n > 0 {
            self.boundaries.push(self.undecided_from);
            self.undecided_from = self.undecided_from.saturating_add(n as u64);
        }
    }

    /// Carries out the orders for which there are bytes.
    fn carry_out(&mut self) {
        while let Some(order) = self.orders.pop_front() {
            match order {
                Order::Pass(0) | Order::Drop(0, _) => {}
                Order::Pass(_) | Order::Drop(..) if self.held.is_empty() => {
                    self.orders.push_front(order);
                    break;
                }
                Order::Pass(n) => {
                    let now = n.min(self.held.len());
                    let bytes = self.held.drain(..now).collect();
                    let later = if self.transport == Transport::Tcp { n - now } else { 0 };
                    self.orders.push_front(Order::Pass(later));
                    self.write(bytes, later, false);
                }
                Order::Drop(n, reason) => {
                    let now = n.min(self.held.len());
                    self.held.drain(..now);
                    self.count_dropped(now, &reason);
                    let later = if self.transport == Transport::Tcp { n - now } else { 0 };
                    self.orders.push_front(Order::Drop(later, reason));
                }
                Order::Send(bytes) => self.write(bytes, 0, true),
                Order::Bypass => self.bypass = true,
                Order::Watch => self.bypass = false,
            }
        }
        if self.bypass && !self.held.is_empty() && self.orders.is_empty() {
            let bytes = std::mem::take(&mut self.held);
            self.undecided_from = self.undecided_from.saturating_add(bytes.len() as u64);
            // With TCP all of it is one message, however many segments it comes in.
            self.within |= self.bypasses && !self.target_closed;
            self.write(bytes, 0, false);
            self.bypasses = self.transport == Transport::Tcp;
        }
    }

    /// Writes (the next part of) a message to the target, over a new connection if the present one is closed.
    fn write(&mut self, bytes: Vec<u8>, missing: usize, own: bool) {
        if self.target_closed {
            if self.after_target_close == AfterTargetClose::End {
                let lost = if own { 0 } else { bytes.len() };
                self.count_dropped(lost, reasons::TARGET_CLOSED);
                self.state = State::Ended(reasons::TARGET_CLOSED.to_owned());
                return;
            }
            self.connect();
        }
        self.bypasses = false;
        let within = std::mem::replace(&mut self.within, missing > 0);
        let ready = self.ready;
        let messages = if ready { self.connection() } else { &mut self.waiting };
        match messages.last_mut().filter(|_| within) {
            Some(message) => {
                message.bytes.extend_from_slice(&bytes);
                message.missing = missing;
            }
            None => messages.push(Message { bytes, missing, own }),
        }
    }

    /// Leaves out the rest of a message that the target has in part: its connection is no more.
    fn cut_off(&mut self) {
        if self.within && self.ready {
            self.within = false;
            if let Some(Order::Pass(n)) = self.orders.front() {
                self.orders[0] = Order::Drop(*n, reasons::TARGET_CLOSED.to_owned());
            }
        }
    }

    /// The target has closed, and the session holds bytes: perhaps for something that only a new connection can say.
    fn waits_for_new_connection(&self) -> bool {
        let goes_on = self.after_target_close == AfterTargetClose::Reconnect;
        self.target_closed && goes_on && self.session.is_some() && !self.bypass && !self.held.is_empty()
    }

    /// Opens a new connection to the target. Only a session that watches has something to say about it.
    fn connect(&mut self) {
        self.bypasses = false;
        self.connections.push(Vec::new());
        self.target_closed = false;
        // What waits will be answered; what went over the old connection will not.
        if self.waiting.is_empty() {
            self.expected_before_waiting = self.expected;
        }
        self.completed = self.expected_before_waiting;
        self.ready = self.session.is_none();
        self.due.resume = self.session.is_some();
    }

    fn close_session(&mut self) {
        let left = std::mem::take(&mut self.held).len();
        self.count_dropped(left, reasons::SESSION_OVER);
        self.orders.clear();
        self.due = Due::default();
        if let Some(mut session) = self.session.take() {
            let mut recorder = Recorder::new(self.info, self.now, self.expected - self.completed);
            let reason = match &self.state {
                State::Ended(reason) => Some(reason.as_str()),
                State::Open | State::Done => None,
            };
            session.on_close(&mut Ctx::new(&mut recorder), reason);
            for call in recorder.calls {
                if matches!(call, Call::Log(..) | Call::Count(..)) {
                    self.take_effect(call);
                }
            }
        }
        self.check();
    }

    fn connection(&mut self) -> &mut Vec<Message> {
        self.connections.last_mut().expect("there is one from the beginning")
    }

    fn count_dropped(&mut self, n: usize, reason: &str) {
        if n > 0 {
            *self.dropped.entry(reason.to_owned()).or_default() += n as u64;
        }
    }

    /// Each byte of the client was passed, dropped, or is held.
    fn check(&self) {
        let messages = self.connections.iter().flatten().chain(&self.waiting);
        let passed: usize = messages.filter(|message| !message.own).map(|message| message.bytes.len()).sum();
        let accounted = passed as u64 + self.dropped.values().sum::<u64>() + self.held.len() as u64;
        assert_eq!(accounted, self.came, "the client's bytes do not add up");
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
