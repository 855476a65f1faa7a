//! What a module can do in a hook: the [`Host`] that it is given.

use tcpcopy_module_api::{Host, LogLevel, Payload, SessionInfo, Timestamp};

use super::{Ahead, Begun, Stage, Verdict, WatchState, cut};
use crate::ledger::ByteDrop;
use crate::outbox::Notice;
use crate::session::queue::Mark;

/// Decisions that the module may make ahead of the bytes they are about. They are made in one hook, or by a session that
/// sends on other occasions while one long message of the client comes.
const AHEAD_LIMIT: usize = 1_024;

/// One call of a hook, while it lasts.
pub(super) struct Call<'a, 'b> {
    pub(super) stage: &'a mut Stage<'b>,
    pub(super) state: &'a mut WatchState,
    pub(super) data: &'a [u8],
    pub(super) verdict: Verdict,
    /// Only the log and the counters are open.
    pub(super) over: bool,
}

impl Call<'_, '_> {
    /// Whether a decision has to wait behind another one that is ahead of its bytes; then it does.
    fn is_ahead(&mut self, decision: impl FnOnce() -> Ahead) -> bool {
        let ahead = &mut self.state.ahead;
        if ahead.is_empty() {
            return false;
        }
        if ahead.len() < AHEAD_LIMIT {
            ahead.push_back(decision());
        } else {
            let reason = format!("the module decides more than {AHEAD_LIMIT} times ahead of the bytes");
            self.verdict.aborted.get_or_insert(reason);
        }
        true
    }
}

impl Host for Call<'_, '_> {
    fn info(&self) -> &SessionInfo {
        &self.state.info
    }

    fn now(&self) -> Timestamp {
        self.stage.now
    }

    fn pass(&mut self, n: usize) {
        if self.over || n == 0 || self.is_ahead(|| Ahead::Pass(n, Begun::No)) {
            return;
        }
        let (now, later) = self.data.split_at(n.min(self.data.len()));
        self.stage.tail().push_unit(n);
        self.state.pass(now, self.stage);
        self.data = later;
        if n > now.len() {
            self.state.ahead.push_back(Ahead::Pass(n - now.len(), Begun::Yes));
        }
    }

    fn drop(&mut self, n: usize, reason: &str) {
        if self.over || n == 0 {
            return;
        }
        self.stage.counters.add(self.stage.module, reason, 1);
        if self.is_ahead(|| Ahead::Drop(n, reason.into())) {
            return;
        }
        let here = n.min(self.data.len());
        self.state.drop(here, reason, self.stage);
        self.data = &self.data[here..];
        if n > here {
            self.state.ahead.push_back(Ahead::Drop(n - here, reason.into()));
        }
    }

    fn send(&mut self, bytes: &[u8]) {
        if self.over || bytes.is_empty() {
            return;
        }
        if self.stage.parked.is_some() {
            // In front of everything: it has its place before any turn of the client.
            let mark = Mark { responses: self.state.expected, push: true, ..Mark::default() };
            self.stage.insert(bytes, mark);
        } else if !self.is_ahead(|| Ahead::Send(bytes.into())) {
            self.state.send(bytes, self.stage);
        }
    }

    fn ask_again(&mut self) {
        self.verdict.ask_again = true;
    }

    fn abort(&mut self, reason: &str) {
        if !self.over {
            self.verdict.aborted.get_or_insert_with(|| reason.to_owned());
        }
    }

    fn bypass(&mut self) {
        if self.over {
            return;
        }
        let rest = self.data.len();
        if rest > 0 {
            self.pass(rest);
        }
        self.state.bypassed = true;
    }

    fn watch(&mut self) {
        self.state.bypassed = false;
    }

    fn expect_response(&mut self) {
        if !self.over {
            self.state.expected = self.state.expected.wrapping_add(1);
            self.state.counted = true;
            self.verdict.counted = true;
        }
    }

    fn response_complete(&mut self) {
        if !self.over && self.stage.completed != self.state.expected {
            self.stage.completed = self.stage.completed.wrapping_add(1);
            self.verdict.completes += 1;
        }
    }

    fn missing_responses(&self) -> u64 {
        // Counts wrap, like sequence numbers.
        self.state.expected.wrapping_sub(self.stage.completed).into()
    }

    fn reconnect(&mut self) {
        self.verdict.reconnect = !self.over;
    }

    fn forget_waiting(&mut self, reason: &str) {
        let Some(parked) = self.stage.parked.as_deref_mut().filter(|_| !self.over) else { return };
        let (here, to_come) = parked.forget_messages();
        if to_come > 0 {
            self.state.drop_the_rest(reason);
        }
        self.stage.ledger.pending_bytes -= here;
        self.stage.ledger.drop_bytes(ByteDrop::Module, here);
        if here > 0 {
            self.stage.counters.add(self.stage.module, reason, 1);
            self.stage.counters.add_drop(self.stage.module, reason, here);
        }
        while self.stage.completed != self.state.expected {
            self.response_complete();
        }
    }

    fn ready(&mut self) {
        self.verdict.ready = !self.over;
    }

    fn want_payload(&mut self, payload: Payload) {
        let payload = if payload == Payload::First(0) { Payload::Headers } else { payload };
        if !self.over && self.state.payload != payload {
            self.state.payload = payload;
            self.verdict.payload = Some(payload);
        }
    }

    fn log(&mut self, level: LogLevel, text: &str) {
        let notice = Notice::ModuleLog {
            module: self.stage.module,
            flow: self.state.info.online,
            level,
            text: cut(text).to_owned(),
        };
        self.stage.notices.push(notice);
    }

    fn count(&mut self, name: &str, n: u64) {
        self.stage.counters.add(self.stage.module, name, n);
    }
}
