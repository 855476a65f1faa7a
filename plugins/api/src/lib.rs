//! What a protocol module depends on: the traits through which the engine knows it, and nothing else.
//!
//! A [`Module`] is made once. The engine asks it for a [`Session`] whenever a client's connection begins; a module that
//! has no business with the bytes answers [`Attachment::Bypass`] and costs nothing from then on. A session sees the
//! client's bytes in order, never packets, sequence numbers or sockets, and decides through [`Ctx`] what reaches the
//! target: the engine owns sequence arithmetic, retransmission and timing.

use tcpcopy_wire::Flow;

/// The transport protocol that a module copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A byte stream.
    Tcp,
}

/// What a module learns of a session at its beginning.
#[derive(Clone, Copy, Debug)]
pub struct SessionInfo {
    /// The client's connection to online.
    pub online: Flow,
    /// The replica's connection to the target.
    pub target: Flow,
    /// The session was joined mid-stream: its beginning was not captured.
    pub joined: bool,
}

/// A module's answer to a new session.
pub enum Attachment {
    /// Copy everything; the module is not asked again for this session.
    Bypass,
    /// Show the bytes to this.
    Watch(Box<dyn Session>),
}

/// What to do when the target closes a connection on which its client still sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterTargetClose {
    /// Connect again, and go on with what the client sends next.
    Reconnect,
    /// Give the session up.
    End,
}

/// A protocol module.
pub trait Module: Send + Sync {
    /// Its name, as `--proto` takes it.
    fn name(&self) -> &str;

    /// The transport protocol it copies.
    fn transport(&self) -> Transport;

    /// A session begins. The default copies everything.
    fn on_open(&self, info: &SessionInfo) -> Attachment {
        let _ = info;
        Attachment::Bypass
    }

    /// Where copying may begin in `data`, the payload of a client's segment on a connection whose beginning was not
    /// captured: the offset of the first message boundary, or `None` when there is none in it. The default is the
    /// start of the segment, which suits protocols whose clients begin a message in a segment of its own.
    fn join_at(&self, data: &[u8]) -> Option<usize> {
        let _ = data;
        Some(0)
    }

    /// The target closed while the client still sends. The default gives the session up.
    fn after_target_close(&self) -> AfterTargetClose {
        AfterTargetClose::End
    }
}

/// One client connection, as the module that watches it sees it.
pub trait Session: Send {
    /// `data` are the client's bytes that have not been decided yet: those of the newest segment, behind whatever was
    /// left undecided before. What the calls on `ctx` leave undecided is kept and shown again with the next segment.
    fn on_client_data(&mut self, ctx: &mut Ctx<'_>, data: &[u8]);
}

/// How a session tells the engine what to do. The calls take effect in their order.
pub struct Ctx<'a> {
    host: &'a mut dyn Host,
}

impl<'a> Ctx<'a> {
    /// A context on an engine. Modules never need this; engines and tests do.
    pub fn new(host: &'a mut dyn Host) -> Self {
        Self { host }
    }

    /// Copies the next `n` undecided bytes. More than there are means all.
    pub fn pass(&mut self, n: usize) {
        self.host.pass(n);
    }

    /// Leaves the next `n` undecided bytes out, and counts them.
    pub fn drop(&mut self, n: usize) {
        self.host.drop(n);
    }

    /// Sends bytes of the module's own, in front of what is undecided.
    pub fn send(&mut self, bytes: &[u8]) {
        self.host.send(bytes);
    }

    /// Gives the session up. `reason` is for the log.
    pub fn abort(&mut self, reason: &str) {
        self.host.abort(reason);
    }

    /// Copies whatever is undecided and all that follows, without asking again.
    pub fn bypass(&mut self) {
        self.host.bypass();
    }
}

/// The engine's side of [`Ctx`].
pub trait Host {
    /// See [`Ctx::pass`].
    fn pass(&mut self, n: usize);
    /// See [`Ctx::drop`].
    fn drop(&mut self, n: usize);
    /// See [`Ctx::send`].
    fn send(&mut self, bytes: &[u8]);
    /// See [`Ctx::abort`].
    fn abort(&mut self, reason: &str);
    /// See [`Ctx::bypass`].
    fn bypass(&mut self);
}
