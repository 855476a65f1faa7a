//! The module's session, and the client's bytes that it has not decided about.
//!
//! # Theory of operation
//!
//! The client's bytes stand in one buffer, `undecided`, with the client's segments beside it. A hook of the module is
//! given a [`Host`] that takes bytes off its front: what is passed goes into the stream queue, what is dropped is
//! counted. Either may reach beyond what has come: the rest (`ahead`) is used up by later bytes without asking.
//!
//! A *turn* begins with a segment of the client that followed a response (`need` bytes of it). Where the module drops a
//! whole turn the target will not answer it, so the next turn must not wait for that: it waits, instead, for what the
//! dropped one would have waited for. Hence `turn_need` and `sent_in_turn`:
//!
//! ```text
//! turn begins with need n:   sent_in_turn? turn_need = n, sent_in_turn = false : (nothing; turn_need stays)
//! bytes go to the target:    their mark takes turn_need, turn_need = 0, sent_in_turn = true
//! ```
//!
//! A server may speak first, so that before the client's first bytes `sent_in_turn` is true: these wait for a greeting if
//! the client has got one. Where it has got none, nothing was asked yet that a later turn could wait for.
//!
//! Every hook runs under [`guarded`]: a panic is the module's failure, not the program's. One in `Module::on_open` becomes
//! a session whose first hook panics, so that it ends like any other.

mod host;

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use tcpcopy_module_api::{
    Attachment, Ctx, Module, Payload, Session as ModuleSession, SessionInfo, TargetData, Timestamp,
};

use super::held::Held;
use super::queue::{Mark, MarkKind, StreamQueue};
use crate::counters::ModuleCounters;
use crate::ledger::{ByteDrop, Ledger};
use crate::outbox::Notice;
use host::Call;

/// Bytes that a module may leave undecided at most; a module that wants to see more at once does not know its bounds.
pub(crate) const UNDECIDED_LIMIT: usize = 32 << 20;

/// Why what a module leaves undecided of a datagram is dropped.
const UNDECIDED: &str = "left undecided";

/// What remains of a segment of the client.
#[derive(Clone, Copy, Debug)]
struct Segment {
    len: usize,
    need: u32,
    push: bool,
    /// Its first byte was decided about.
    begun: bool,
}

/// What is decided before its bytes come.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Ahead {
    /// So many bytes of a message, of which some are with the target already, or none.
    Pass(usize, Begun),
    Drop(usize, Box<str>),
    /// The module's own, behind a message that has not come to its end.
    Send(Box<[u8]>),
}

/// Whether the target's queue knows of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begun {
    Yes,
    No,
}

/// See the [module's documentation](self).
pub(crate) struct Watch {
    session: Box<dyn ModuleSession>,
    state: WatchState,
    undecided: Held,
    /// How the client closed behind `undecided`, and the bytes of response it had acknowledged then.
    pub(crate) closing: Option<(MarkKind, u32)>,
    /// While a new connection is made ready: what waits for that.
    pub(crate) parked: Option<Box<StreamQueue>>,
    /// New connections that were not made ready yet, in a row.
    pub(crate) rebuilds: u8,
    /// New connections that the target has refused, in a row, as far as they count.
    pub(crate) refusals: u8,
    /// No new connection before this.
    pub(crate) retry_at: Timestamp,
}

/// What hooks change.
struct WatchState {
    info: SessionInfo,
    /// Of `undecided`.
    segments: VecDeque<Segment>,
    ahead: VecDeque<Ahead>,
    turn_need: u32,
    sent_in_turn: bool,
    /// What was decided last, in this hook, was to drop something.
    replacing: bool,
    /// The client has sent something.
    has_spoken: bool,
    /// The client's bytes are not shown.
    bypassed: bool,
    payload: Payload,
    /// Responses that the module expects, from the beginning of the session.
    expected: u32,
    /// The gate goes by their number.
    counted: bool,
}

/// An occasion on which the module is asked.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Hook<'a> {
    Open,
    ClientData,
    ClientClose,
    TargetData(TargetData<'a>),
    OnlineData(&'a [u8], u64),
    Resume,
    Close(Option<&'a str>),
}

/// Where the effects of a hook go.
pub(crate) struct Stage<'a> {
    pub(crate) now: Timestamp,
    pub(crate) module: &'static str,
    /// Nothing is held back by the gate.
    pub(crate) ungated: bool,
    pub(crate) ledger: &'a mut Ledger,
    pub(crate) notices: &'a mut Vec<Notice>,
    pub(crate) counters: &'a mut ModuleCounters,
    /// What goes to the target.
    pub(crate) queue: &'a mut StreamQueue,
    /// While a new connection is made ready: what waits for that, and what is passed meanwhile.
    pub(crate) parked: Option<Box<StreamQueue>>,
    /// What the gate has been told is complete.
    pub(crate) completed: u32,
}

/// What the session has to do after a hook.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) aborted: Option<String>,
    pub(crate) panicked: Option<String>,
    pub(crate) reconnect: bool,
    pub(crate) ready: bool,
    pub(crate) ask_again: bool,
    /// How much of the target's payload is wanted, if that has changed.
    pub(crate) payload: Option<Payload>,
    /// Responses that became complete.
    pub(crate) completes: u32,
    /// The gate is to count responses.
    pub(crate) counted: bool,
}

impl Stage<'_> {
    /// What goes behind everything that was passed before.
    fn tail(&mut self) -> &mut StreamQueue {
        self.parked.as_deref_mut().unwrap_or(self.queue)
    }

    /// Bytes of the module's own, for the present connection.
    fn insert(&mut self, bytes: &[u8], mark: Mark) {
        self.ledger.bytes_inserted += bytes.len() as u64;
        self.ledger.pending_bytes += bytes.len() as u64;
        self.queue.push_unit(bytes.len());
        self.queue.push_data(bytes, mark);
    }
}

impl WatchState {
    /// The next undecided byte begins a segment: a turn may begin with it.
    fn begin_segment(&mut self) {
        if let Some(first) = self.segments.front_mut().filter(|s| !s.begun) {
            first.begun = true;
            if first.need > 0 && self.sent_in_turn {
                self.turn_need = first.need;
                self.sent_in_turn = false;
            } else if !self.has_spoken {
                self.sent_in_turn = false;
            }
            self.has_spoken = true;
        }
    }

    /// Takes off `n` bytes of one segment; tells whether the client had set PSH at their end.
    fn take(&mut self, n: usize) -> bool {
        let Some(first) = self.segments.front_mut() else { return false };
        first.len -= n;
        if first.len > 0 {
            return false;
        }
        let push = first.push;
        self.segments.pop_front();
        push
    }

    /// Bytes of the first segment.
    fn in_segment(&self) -> usize {
        self.segments.front().map_or(0, |s| s.len)
    }

    fn mark(&mut self, stage: &Stage<'_>, push: bool) -> Mark {
        let begins = !std::mem::replace(&mut self.sent_in_turn, true);
        let need = std::mem::take(&mut self.turn_need);
        let need = if stage.ungated { 0 } else { need };
        Mark { need, responses: self.expected, push, begins, at: stage.now, ..Mark::default() }
    }

    /// Moves `data`, which begins at the first segment, to the target.
    fn pass(&mut self, mut data: &[u8], stage: &mut Stage<'_>) {
        self.replacing = false;
        while !data.is_empty() {
            self.begin_segment();
            let (now, later) = data.split_at(self.in_segment().min(data.len()));
            let push = self.take(now.len());
            let mark = self.mark(stage, push);
            stage.tail().push_data(now, mark);
            data = later;
        }
    }

    /// Inserts bytes of the module's own.
    fn send(&mut self, bytes: &[u8], stage: &mut Stage<'_>) {
        // In front of what is held, they wait for what that would have waited for. In the place of what was dropped they
        // belong to its turn: what is held may be of the next one, and has to wait for the answer to them. Where answers
        // are counted, they can wait like what is held, as well, in case they were meant to be in front of it.
        if !self.replacing {
            self.begin_segment();
        }
        let mut mark = self.mark(stage, true);
        if self.replacing && self.counted && !stage.ungated {
            let of_next = self.segments.front().filter(|next| !next.begun).map_or(0, |next| next.need);
            mark.need = mark.need.max(of_next);
        }
        stage.insert(bytes, mark);
    }

    /// The rest of a message that has begun and will not be sent is left out when it comes.
    fn drop_the_rest(&mut self, reason: &str) {
        if let Some(ahead) = self.ahead.front_mut()
            && let Ahead::Pass(n, Begun::Yes) = *ahead
        {
            *ahead = Ahead::Drop(n, reason.into());
        }
    }

    /// Leaves `n` bytes out.
    fn drop(&mut self, mut n: usize, reason: &str, stage: &mut Stage<'_>) {
        self.replacing = true;
        stage.ledger.drop_bytes(ByteDrop::Module, n as u64);
        stage.ledger.pending_bytes -= n as u64;
        stage.counters.add_drop(stage.module, reason, n as u64);
        while n > 0 {
            self.begin_segment();
            let part = self.in_segment().min(n);
            self.take(part);
            n -= part;
        }
    }
}

/// Takes off a count as many bytes as there are.
fn take_off(n: &mut usize, data: &[u8]) -> usize {
    let here = data.len().min(*n);
    *n -= here;
    here
}

/// Longest text taken from a module, in bytes.
const MAX_TEXT: usize = 1024;

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_TEXT)]
}

/// Calls a module. An error: it panicked, with this message.
pub(crate) fn guarded<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        cut(text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message")).to_owned()
    })
}

/// The session of a module that panicked when it was to make one.
struct Panicked(String);

impl ModuleSession for Panicked {
    fn on_open(&mut self, _: &mut Ctx<'_>) {
        // As it was said when the module did.
        resume_unwind(Box::new(std::mem::take(&mut self.0)));
    }

    fn on_client_data(&mut self, ctx: &mut Ctx<'_>, _: &[u8]) {
        self.on_open(ctx);
    }
}

impl Watch {
    /// Asks a module who watches a new session: it itself, or nobody.
    pub(crate) fn open(module: &dyn Module, info: SessionInfo) -> Option<Box<Self>> {
        match guarded(|| module.on_open(&info)) {
            Ok(Attachment::Bypass) => None,
            Ok(Attachment::Watch(session)) => Some(Box::new(Self::new(session, info))),
            Err(message) => Some(Box::new(Self::new(Box::new(Panicked(message)), info))),
        }
    }

    fn new(session: Box<dyn ModuleSession>, info: SessionInfo) -> Self {
        Self {
            session,
            state: WatchState {
                info,
                segments: VecDeque::new(),
                ahead: VecDeque::new(),
                turn_need: 0,
                sent_in_turn: true,
                replacing: false,
                has_spoken: false,
                bypassed: false,
                payload: Payload::Headers,
                expected: 0,
                counted: false,
            },
            undecided: Held::default(),
            closing: None,
            parked: None,
            rebuilds: 0,
            refusals: 0,
            retry_at: Timestamp::ZERO,
        }
    }

    /// Asks the module.
    pub(crate) fn call(&mut self, hook: Hook<'_>, stage: &mut Stage<'_>) -> Verdict {
        let Self { session, state, undecided, parked, .. } = self;
        stage.parked = parked.take();
        state.replacing = false;
        let over = matches!(hook, Hook::Close(_));
        let mut call = Call { stage, state, data: undecided.as_slice(), verdict: Verdict::default(), over };
        let held = undecided.as_slice();
        let outcome = guarded(|| {
            let ctx = &mut Ctx::new(&mut call);
            match hook {
                Hook::Open => session.on_open(ctx),
                Hook::ClientData => session.on_client_data(ctx, held),
                Hook::ClientClose => session.on_client_close(ctx, held),
                Hook::TargetData(data) => session.on_target_data(ctx, data),
                Hook::OnlineData(data, lost) => session.on_online_data(ctx, data, lost),
                Hook::Resume => session.on_resume(ctx),
                Hook::Close(reason) => session.on_close(ctx, reason),
            }
        });
        let left = call.data.len();
        let mut verdict = call.verdict;
        *parked = stage.parked.take();
        verdict.panicked = outcome.err();
        let decided = undecided.len() - left;
        undecided.take(decided);
        if undecided.len() > UNDECIDED_LIMIT {
            verdict.aborted.get_or_insert_with(|| format!("the module holds more than {} MB", UNDECIDED_LIMIT >> 20));
        }
        verdict
    }

    /// Takes the next bytes of the client. Tells whether the module has to be asked about them.
    #[inline]
    pub(crate) fn take_client_data(&mut self, data: &[u8], need: u32, push: bool, stage: &mut Stage<'_>) -> bool {
        stage.parked = self.parked.take();
        let shown = self.sort_client_data(data, need, push, stage);
        self.parked = stage.parked.take();
        shown
    }

    #[inline]
    fn sort_client_data(&mut self, mut data: &[u8], need: u32, push: bool, stage: &mut Stage<'_>) -> bool {
        let mut begun = false;
        while let Some(ahead) = self.state.ahead.front_mut() {
            let here = match ahead {
                Ahead::Send(_) => 0,
                Ahead::Pass(..) | Ahead::Drop(..) if data.is_empty() => break,
                Ahead::Pass(n, begun) => {
                    if *begun == Begun::No {
                        stage.tail().push_unit(*n);
                        *begun = Begun::Yes;
                    }
                    take_off(n, data)
                }
                Ahead::Drop(n, _) => take_off(n, data),
            };
            let (now, later) = data.split_at(here);
            if here > 0 {
                self.state.segments.push_back(Segment { len: here, need, push: push && later.is_empty(), begun });
            }
            let Some(ahead) = self.state.ahead.pop_front() else { break };
            match &ahead {
                Ahead::Pass(..) => self.state.pass(now, stage),
                Ahead::Drop(_, reason) => self.state.drop(here, reason, stage),
                Ahead::Send(bytes) => self.state.send(bytes, stage),
            }
            if matches!(ahead, Ahead::Pass(1.., _) | Ahead::Drop(1.., _)) {
                self.state.ahead.push_front(ahead);
            }
            begun |= here > 0;
            data = later;
        }
        if data.is_empty() {
            return false;
        }
        self.state.segments.push_back(Segment { len: data.len(), need, push, begun });
        if self.state.bypassed {
            self.state.pass(data, stage);
            return false;
        }
        self.undecided.push(data);
        true
    }

    /// A datagram ends: what is left of it undecided is dropped, and what was decided beyond its end is forgotten.
    pub(crate) fn end_datagram(&mut self, stage: &mut Stage<'_>) {
        self.state.ahead.clear();
        if !self.undecided.is_empty() {
            stage.counters.add(stage.module, UNDECIDED, 1);
            self.state.drop(self.undecided.len(), UNDECIDED, stage);
            self.undecided.take(self.undecided.len());
        }
    }

    /// Bytes that wait for the module's decision, or for the connection to be made ready.
    pub(crate) fn waiting(&self) -> u64 {
        (self.undecided.len() + self.parked.as_ref().map_or(0, |queue| queue.byte_count())) as u64
    }

    /// Whether the client's bytes wait for the module's decision.
    pub(crate) fn holds(&self) -> bool {
        !self.undecided.is_empty()
    }

    /// Whether the module has no more wishes about what the session's own ends send: unless it sees online, the session
    /// can go on without it.
    pub(crate) fn is_done(&self) -> bool {
        self.state.bypassed
            && self.state.payload == Payload::Headers
            && self.state.ahead.is_empty()
            && self.parked.is_none()
    }

    /// How much of the target's payload is wanted.
    pub(crate) fn payload(&self) -> Payload {
        self.state.payload
    }

    /// Responses that the module expects, from the beginning of the session.
    pub(crate) fn expected(&self) -> u32 {
        self.state.expected
    }

    /// What the client's close waits for, given the bytes of response that the client had acknowledged before it.
    pub(crate) fn need_of_close(&mut self, need: u32) -> u32 {
        if need > 0 && self.state.sent_in_turn { need } else { std::mem::take(&mut self.state.turn_need) }
    }

    /// Bytes that the module had passed before they came belong to a message that will not be sent: they are dropped.
    pub(crate) fn drop_the_rest(&mut self) {
        self.state.drop_the_rest("of a message that the target's close cut off");
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("undecided", &self.undecided.len()).finish_non_exhaustive()
    }
}
