//! A module's session, and the client's bytes that it has not decided about.

use tcpcopy_module_api::{Ctx, Host, LogLevel, Payload, Session as ModuleSession, SessionInfo, Timestamp};

/// See the [module's documentation](self).
pub(crate) struct Watch {
    session: Box<dyn ModuleSession>,
    info: SessionInfo,
    undecided: Vec<u8>,
}

/// What the module decided about the bytes shown.
#[derive(Debug, Default)]
pub(crate) struct Decision {
    /// What goes to the target, in order.
    pub(crate) output: Vec<u8>,
    /// Bytes of it that are the module's own.
    pub(crate) inserted: u64,
    /// Bytes left out.
    pub(crate) dropped: u64,
    /// The module gives the session up, and why.
    pub(crate) aborted: Option<String>,
    /// It need not be asked again.
    pub(crate) bypassed: bool,
}

struct Pending<'a> {
    info: &'a SessionInfo,
    now: Timestamp,
    decision: Decision,
    data: &'a [u8],
}

impl Host for Pending<'_> {
    fn info(&self) -> &SessionInfo {
        self.info
    }

    fn now(&self) -> Timestamp {
        self.now
    }

    fn ask_again(&mut self) {}

    fn watch(&mut self) {}

    fn expect_response(&mut self) {}

    fn response_complete(&mut self) {}

    fn reconnect(&mut self) {}

    fn ready(&mut self) {}

    fn want_payload(&mut self, _: Payload) {}

    fn log(&mut self, _: LogLevel, _: &str) {}

    fn count(&mut self, _: &str, _: u64) {}

    fn pass(&mut self, n: usize) {
        let (now, later) = self.data.split_at(n.min(self.data.len()));
        self.decision.output.extend_from_slice(now);
        self.data = later;
    }

    fn drop(&mut self, n: usize, _: &str) {
        let n = n.min(self.data.len());
        self.decision.dropped += n as u64;
        self.data = &self.data[n..];
    }

    fn send(&mut self, bytes: &[u8]) {
        self.decision.output.extend_from_slice(bytes);
        self.decision.inserted += bytes.len() as u64;
    }

    fn abort(&mut self, reason: &str) {
        self.decision.aborted.get_or_insert_with(|| reason.to_owned());
    }

    fn bypass(&mut self) {
        self.pass(usize::MAX);
        self.decision.bypassed = true;
    }
}

impl Watch {
    pub(crate) fn new(session: Box<dyn ModuleSession>, info: SessionInfo) -> Self {
        Self { session, info, undecided: Vec::new() }
    }

    /// Shows the module the next bytes of the client.
    pub(crate) fn on_client_data(&mut self, now: Timestamp, data: &[u8]) -> Decision {
        self.undecided.extend_from_slice(data);
        let mut pending = Pending { info: &self.info, now, decision: Decision::default(), data: &self.undecided };
        let shown = self.undecided.len();
        self.session.on_client_data(&mut Ctx::new(&mut pending), &self.undecided);
        let decided = shown - pending.data.len();
        let decision = pending.decision;
        self.undecided.drain(..decided);
        decision
    }

    /// Bytes that wait for the module's decision.
    pub(crate) fn undecided(&self) -> u64 {
        self.undecided.len() as u64
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("undecided", &self.undecided.len()).finish_non_exhaustive()
    }
}
