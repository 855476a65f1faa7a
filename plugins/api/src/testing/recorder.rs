//! What a hook said, in its order.

use crate::{Host, LogLevel, Payload, SessionInfo, Timestamp};

/// A call of [`Ctx`](crate::Ctx), named as there.
#[derive(Debug)]
pub(super) enum Call {
    Pass(usize),
    Drop(usize, String),
    Send(Vec<u8>),
    AskAgain,
    Abort(String),
    Bypass,
    Watch,
    ExpectResponse,
    ResponseComplete,
    Reconnect,
    ForgetWaiting(String),
    Ready,
    WantPayload(Payload),
    Log(LogLevel, String),
    Count(String, u64),
}

/// Writes down what a hook says, to take effect when it has returned.
pub(super) struct Recorder {
    info: SessionInfo,
    now: Timestamp,
    missing_responses: u64,
    pub(super) calls: Vec<Call>,
}

impl Recorder {
    pub(super) fn new(info: SessionInfo, now: Timestamp, missing_responses: u64) -> Self {
        Self { info, now, missing_responses, calls: Vec::new() }
    }
}

impl Host for Recorder {
    fn info(&self) -> &SessionInfo {
        &self.info
    }

    fn now(&self) -> Timestamp {
        self.now
    }

    fn pass(&mut self, n: usize) {
        self.calls.push(Call::Pass(n));
    }

    fn drop(&mut self, n: usize, reason: &str) {
        self.calls.push(Call::Drop(n, reason.to_owned()));
    }

    fn send(&mut self, bytes: &[u8]) {
        self.calls.push(Call::Send(bytes.to_vec()));
    }

    fn ask_again(&mut self) {
        self.calls.push(Call::AskAgain);
    }

    fn abort(&mut self, reason: &str) {
        self.calls.push(Call::Abort(reason.to_owned()));
    }

    fn bypass(&mut self) {
        self.calls.push(Call::Bypass);
    }

    fn watch(&mut self) {
        self.calls.push(Call::Watch);
    }

    fn expect_response(&mut self) {
        self.calls.push(Call::ExpectResponse);
    }

    fn response_complete(&mut self) {
        self.calls.push(Call::ResponseComplete);
    }

    fn reconnect(&mut self) {
        self.calls.push(Call::Reconnect);
    }

    fn missing_responses(&self) -> u64 {
        self.missing_responses
    }

    fn forget_waiting(&mut self, reason: &str) {
        self.calls.push(Call::ForgetWaiting(reason.to_owned()));
    }

    fn ready(&mut self) {
        self.calls.push(Call::Ready);
    }

    fn want_payload(&mut self, payload: Payload) {
        self.calls.push(Call::WantPayload(payload));
    }

    fn log(&mut self, level: LogLevel, text: &str) {
        self.calls.push(Call::Log(level, text.to_owned()));
    }

    fn count(&mut self, name: &str, n: u64) {
        self.calls.push(Call::Count(name.to_owned(), n));
    }
}
