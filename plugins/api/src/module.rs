//! The traits, and what passes between a module and the engine at its beginning and its end.

use std::str::FromStr;
use std::sync::Arc;

use tcpcopy_wire::{Flow, Transport};

use crate::Ctx;

/// What users see of a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct About {
    /// Its name, as `--proto` takes it: lower-case letters, digits, `-` and `_`, a letter first.
    pub name: &'static str,
    /// Its version.
    pub version: &'static str,
    /// What it does, in a line.
    pub summary: &'static str,
    /// The transport protocol it copies.
    pub transport: Transport,
    /// The options it takes.
    pub options: &'static [OptionSpec],
    /// It wants [`Session::on_online_data`]: the capture then takes what online sends, too.
    pub sees_online: bool,
}

impl About {
    /// A module with no name yet, no options and no wish to see online's bytes.
    pub const fn new(transport: Transport, version: &'static str) -> Self {
        Self { name: "", version, summary: "", transport, options: &[], sees_online: false }
    }
}

/// An option that a module takes, as `--proto-opt NAME=VALUE` or a key of `[module.<its name>]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionSpec {
    /// Its name.
    pub name: &'static str,
    /// What its value is, for help: `N`, `COMMAND[,COMMAND...]`.
    pub value: &'static str,
    /// What it does, in a line.
    pub help: &'static str,
}

/// The options given to a module. Their names have been checked against [`About::options`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options(Vec<(String, String)>);

impl Options {
    /// Options with these names and values, in the order given.
    pub fn new(given: Vec<(String, String)>) -> Self {
        Self(given)
    }

    /// The value of an option; the last one, if it was given several times.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().rev().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// The value of an option, read.
    ///
    /// # Errors
    /// Which option it is, and what is wrong with its value.
    pub fn parse<T: FromStr>(&self, name: &str) -> Result<Option<T>, String>
    where
        T::Err: std::fmt::Display,
    {
        let Some(text) = self.get(name) else { return Ok(None) };
        text.parse().map(Some).map_err(|e| format!("option `{name}`: `{text}`: {e}"))
    }

    /// All names and values, in the order given.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// What a module learns of a session at its beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

impl Attachment {
    /// Show the bytes to `session`.
    pub fn watch(session: impl Session + 'static) -> Self {
        Self::Watch(Box::new(session))
    }
}

/// What to do when the target closes a connection on which its client still sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterTargetClose {
    /// Connect again, and go on with what the client sends next, or with what the session holds. A session that watches
    /// gets [`Session::on_resume`].
    Reconnect,
    /// Give the session up.
    End,
}

/// A protocol module.
pub trait Module: Send + Sync + 'static {
    /// What users see of it.
    fn about() -> About
    where
        Self: Sized;

    /// Makes it.
    ///
    /// # Errors
    /// Which option cannot be used, and what would do. The program then does not start.
    fn create(options: &Options) -> Result<Self, String>
    where
        Self: Sized;

    /// A client begins to talk. The default copies everything.
    fn on_open(&self, info: &SessionInfo) -> Attachment {
        let _ = info;
        Attachment::Bypass
    }

    /// Where copying may begin in `data`, the payload of a client's segment on a connection whose beginning was not
    /// captured: the offset of the first message boundary, or `None` when there is none in it. The default is the
    /// start of the segment, which suits protocols whose clients begin a message in a segment of its own.
    /// [`find_boundary`](crate::framing::find_boundary) does this for protocols with lengths.
    fn join_at(&self, data: &[u8]) -> Option<usize> {
        let _ = data;
        Some(0)
    }

    /// The target closed while the client still sends. The default gives the session up.
    fn after_target_close(&self) -> AfterTargetClose {
        AfterTargetClose::End
    }
}

/// A module that was made, with what users see of it.
#[derive(Clone)]
pub struct ModuleHandle {
    /// What users see of it.
    pub about: About,
    /// The module.
    pub module: Arc<dyn Module>,
}

impl ModuleHandle {
    /// A handle on `module`.
    pub fn new<M: Module>(module: M) -> Self {
        Self { about: M::about(), module: Arc::new(module) }
    }
}

/// A module that can be made: what a program that has it built in lists and calls.
#[derive(Clone, Copy, Debug)]
pub struct ModuleEntry {
    /// What users see of it.
    pub about: About,
    create: fn(&Options) -> Result<Arc<dyn Module>, String>,
}

impl ModuleEntry {
    /// The entry of `M`.
    pub fn of<M: Module>() -> Self {
        Self { about: M::about(), create: |options| Ok(Arc::new(M::create(options)?)) }
    }

    /// Makes the module.
    ///
    /// # Errors
    /// See [`Module::create`].
    pub fn create(&self, options: &Options) -> Result<ModuleHandle, String> {
        Ok(ModuleHandle { about: self.about, module: (self.create)(options)? })
    }
}

/// Bytes of the target, in order. See [`Session::on_target_data`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TargetData<'a> {
    /// The bytes that are shown.
    pub bytes: &'a [u8],
    /// Bytes behind them that are not: none with [`Payload::Full`](crate::Payload::Full), all but the first ones of each of the target's
    /// segments with [`Payload::First`](crate::Payload::First).
    pub hidden: u32,
}

/// One client connection (or, with UDP, one client address and port), as the module that watches it sees it.
///
/// # Client's bytes
///
/// Each byte of the client is passed, dropped, or held. The session is shown, in order, what was neither passed nor
/// dropped before; what a hook leaves undecided is held and shown again with the next bytes, or at once after a hook
/// that called [`Ctx::ask_again`]. A [`pass`](Ctx::pass) or [`drop`](Ctx::drop) may reach beyond what has come: the
/// rest goes the same way without being shown, so that a message whose length is known costs one call however long it
/// is. Each call of `pass` and each of [`send`](Ctx::send) is one message: after a reconnect the engine never begins in
/// the middle of one.
///
/// With UDP each call of [`on_client_data`](Self::on_client_data) shows one datagram (one without payload is copied
/// without being shown), `pass` copies it, `send` makes a
/// datagram of its own, and what is left undecided is dropped.
pub trait Session: Send {
    /// The session begins; the connection to the target is about to be opened.
    fn on_open(&mut self, ctx: &mut Ctx<'_>) {
        let _ = ctx;
    }

    /// The client's bytes that have not been decided yet.
    fn on_client_data(&mut self, ctx: &mut Ctx<'_>, data: &[u8]);

    /// The client closed, and `held` are its bytes that have not been decided. Its close reaches the target once they
    /// are. The default drops them: they are a message cut off by the close. A session that holds whole messages, for a
    /// login to be done, say, leaves them undecided: after a hook that calls [`Ctx::ask_again`] they are shown to
    /// [`on_client_data`](Self::on_client_data) as ever, and what that leaves undecided comes here once more.
    fn on_client_close(&mut self, ctx: &mut Ctx<'_>, held: &[u8]) {
        if !held.is_empty() {
            ctx.drop(held.len(), "cut off by the client's close");
        }
    }

    /// Bytes of the target, in order. Only after [`Ctx::want_payload`].
    fn on_target_data(&mut self, ctx: &mut Ctx<'_>, data: TargetData<'_>) {
        let _ = (ctx, data);
    }

    /// Bytes of online, in order, between the client's own as they were captured. Only with
    /// [`About::sees_online`]. A hole in what was captured is not shown: the bytes just go on, and `lost` says how many
    /// are missing before these.
    fn on_online_data(&mut self, ctx: &mut Ctx<'_>, data: &[u8], lost: u64) {
        let _ = (ctx, data, lost);
    }

    /// There is a new connection to the target, after it closed or [`Ctx::reconnect`]. Until [`Ctx::ready`] nothing that
    /// was passed before goes to the target, and [`Ctx::send`] sends in front of it: this is the time to log in again.
    /// The default is ready at once.
    fn on_resume(&mut self, ctx: &mut Ctx<'_>) {
        ctx.ready();
    }

    /// The session is over: `None` when it was copied to its end, otherwise why it was not. Of `ctx` only
    /// [`log`](Ctx::log) and [`count`](Ctx::count) have an effect.
    fn on_close(&mut self, ctx: &mut Ctx<'_>, reason: Option<&str>) {
        let _ = (ctx, reason);
    }
}
