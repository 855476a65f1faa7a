//! How a session tells the engine what to do.

use tcpcopy_wire::Timestamp;
use tcpcopy_wire::control::Payload;

use crate::SessionInfo;

/// How much a line of a module's log matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum LogLevel {
    /// Something does not work, and a person has to do something about it.
    Error = 1,
    /// Something is not as it should be.
    Warn = 2,
    /// Worth knowing.
    Info = 3,
    /// For whoever looks for a fault.
    Debug = 4,
}

/// How a session tells the engine what to do. The calls take effect in their order, when the hook has returned.
pub struct Ctx<'a> {
    host: &'a mut dyn Host,
}

impl<'a> Ctx<'a> {
    /// A context on an engine. Modules never need this; engines and tests do.
    pub fn new(host: &'a mut dyn Host) -> Self {
        Self { host }
    }

    /// Who talks to whom.
    pub fn info(&self) -> &SessionInfo {
        self.host.info()
    }

    /// What time it is, on the engine's own clock.
    pub fn now(&self) -> Timestamp {
        self.host.now()
    }

    /// Copies the next `n` bytes of the client, as one message. Those that have not come yet are copied when they
    /// come, without being shown.
    pub fn pass(&mut self, n: usize) {
        self.host.pass(n);
    }

    /// Leaves the next `n` bytes of the client out, and counts them under `reason`. Those that have not come yet are
    /// left out when they come.
    pub fn drop(&mut self, n: usize, reason: &str) {
        self.host.drop(n, reason);
    }

    /// Sends bytes of the module's own, as one message: behind what was passed or sent before, in front of what is held.
    /// Directly after a [`drop`](Self::drop), in the same hook, they take the place of what was dropped.
    pub fn send(&mut self, bytes: &[u8]) {
        self.host.send(bytes);
    }

    /// Shows [`on_client_data`](crate::Session::on_client_data) once more what is held, when this hook has returned. In
    /// `on_client_data` itself it has no effect: what is held there waits for something to happen.
    pub fn ask_again(&mut self) {
        self.host.ask_again();
    }

    /// Gives the session up. `reason` is for the log and the statistics.
    pub fn abort(&mut self, reason: &str) {
        self.host.abort(reason);
    }

    /// Copies what is held and all that follows, without asking again, until [`watch`](Self::watch). The session is over
    /// for the module, unless it wants the target's or online's bytes.
    pub fn bypass(&mut self) {
        self.host.bypass();
    }

    /// Ends [`bypass`](Self::bypass) with the client's next bytes.
    pub fn watch(&mut self) {
        self.host.watch();
    }

    /// The target will answer what was passed or sent last. From the first such call on, a client's next turn (what it
    /// sends after it has received something) goes to the target when [`response_complete`](Self::response_complete) was
    /// called as often as this was for what went before it, and no sooner. A session that never calls this is gated by
    /// the amount of bytes and by pauses. What was sent over a connection that is gone counts as answered.
    pub fn expect_response(&mut self) {
        self.host.expect_response();
    }

    /// The target has answered one of the messages that [`expect_response`](Self::expect_response) was called for.
    pub fn response_complete(&mut self) {
        self.host.response_complete();
    }

    /// Gives up the connection to the target and opens a new one; then comes
    /// [`on_resume`](crate::Session::on_resume). Messages that the target has not acknowledged, or only in part, are
    /// left out and counted. What goes on is the next whole message.
    pub fn reconnect(&mut self) {
        self.host.reconnect();
    }

    /// Responses that are expected and not complete. In [`on_resume`](crate::Session::on_resume) these are the responses to
    /// the messages that will go over the new connection: the last so many for which
    /// [`expect_response`](Self::expect_response) was called. The ones before them were left to the old connection, and
    /// nothing more will be heard of them.
    pub fn missing_responses(&self) -> u64 {
        self.host.missing_responses()
    }

    /// In [`on_resume`](crate::Session::on_resume), and until [`ready`](Self::ready): the messages that wait for the new
    /// connection will not go there. They are counted under `reason`, and no response to them is expected any more. For
    /// messages that mean something on the old connection alone, and that the session sends anew in other words.
    pub fn forget_waiting(&mut self, reason: &str) {
        self.host.forget_waiting(reason);
    }

    /// The new connection is as it must be for the client's messages. See [`on_resume`](crate::Session::on_resume).
    pub fn ready(&mut self) {
        self.host.ready();
    }

    /// How much of the target's bytes the session wants to see from now on. [`Payload::Headers`], nothing, at the start.
    pub fn want_payload(&mut self, payload: Payload) {
        self.host.want_payload(payload);
    }

    /// Says something in the log, with the session's name in front. Lines that come too fast are left out and counted.
    pub fn log(&mut self, level: LogLevel, text: &str) {
        self.host.log(level, text);
    }

    /// Adds `n` to the module's counter `name`, which the statistics show. Use few names, and constant ones.
    pub fn count(&mut self, name: &str, n: u64) {
        self.host.count(name, n);
    }
}

/// The engine's side of [`Ctx`]; each method is that of the same name there.
#[allow(missing_docs)]
pub trait Host {
    fn info(&self) -> &SessionInfo;
    fn now(&self) -> Timestamp;
    fn pass(&mut self, n: usize);
    fn drop(&mut self, n: usize, reason: &str);
    fn send(&mut self, bytes: &[u8]);
    fn ask_again(&mut self);
    fn abort(&mut self, reason: &str);
    fn bypass(&mut self);
    fn watch(&mut self);
    fn expect_response(&mut self);
    fn response_complete(&mut self);
    fn reconnect(&mut self);
    fn missing_responses(&self) -> u64;
    fn forget_waiting(&mut self, reason: &str);
    fn ready(&mut self);
    fn want_payload(&mut self, payload: Payload);
    fn log(&mut self, level: LogLevel, text: &str);
    fn count(&mut self, name: &str, n: u64);
}
