//! From the table of a library to a module that the engine can use.

use std::borrow::Cow;
use std::ffi::c_void;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use tcpcopy_wire::ip::{PROTOCOL_TCP, PROTOCOL_UDP};
use tcpcopy_wire::{Endpoint, Transport};

use super::{
    ABI_VERSION, CREATED, DataHook, FLAG_SEES_ONLINE, PANICKED, RawEndpoint, RawHost, RawModule, RawOption,
    RawSessionInfo, RawSlice, RawText,
};
use crate::{
    About, AfterTargetClose, Attachment, Ctx, LogLevel, Module, ModuleHandle, OptionSpec, Options, Payload, Session,
    SessionInfo, TargetData,
};

/// Why a table is not one of a module that can be used here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImportError {
    /// The library gave no table: it failed before it could say what it is.
    NoTable,
    /// It was built for another version of this interface.
    AbiVersion {
        /// The version here.
        ours: u32,
        /// The version that it was built for.
        theirs: u32,
    },
    /// It has another idea of the table, though of the same version.
    StructSize {
        /// The size here, in bytes.
        ours: u32,
        /// The size there.
        theirs: u32,
    },
    /// A hook that every module has is missing.
    MissingHook {
        /// Its name.
        hook: &'static str,
    },
    /// Its name is none.
    Name {
        /// What it says.
        name: String,
    },
    /// It is for a transport protocol that does not exist.
    Transport {
        /// The number.
        protocol: u32,
    },
    /// A text is longer than any text has reason to be, or not UTF-8.
    Text {
        /// Which.
        what: &'static str,
    },
}

impl fmt::Display for ImportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoTable => f.write_str("it gives no module table: it fails before it can say what it is"),
            Self::AbiVersion { ours, theirs } => write!(
                f,
                "it is built for version {theirs} of the module interface, this program has version {ours}: build it \
                 again with the tcpcopy-module-api (or the tcpcopy_module.h) of this release"
            ),
            Self::StructSize { ours, theirs } => write!(
                f,
                "its module table has {theirs} bytes, version {ABI_VERSION} of the module interface has {ours}: it was \
                 built with a changed header, or for another kind of machine"
            ),
            Self::MissingHook { hook } => write!(f, "it lacks the hook `{hook}`, which every module needs"),
            Self::Name { name } => write!(
                f,
                "its name is {name:?}; a name has a lower-case letter first, then such letters, digits, `-` or `_`, \
                 and at most 32 of them"
            ),
            Self::Transport { protocol } => {
                write!(f, "it is for transport protocol {protocol}; 6 (TCP) and 17 (UDP) are possible")
            }
            Self::Text { what } => write!(f, "its {what} is longer than a text should be, or not UTF-8"),
        }
    }
}

impl std::error::Error for ImportError {}

/// Longest text that is taken, in bytes.
const MAX_TEXT: usize = 4096;
/// Options at most.
const MAX_OPTIONS: usize = 256;

/// A module of a library, before it is made.
#[derive(Clone, Copy)]
pub struct ImportedEntry {
    /// What users see of it.
    pub about: About,
    table: &'static RawModule,
}

/// Reads a table.
///
/// # Errors
/// Why it is not one of a module that can be used here.
///
/// # Safety
/// `table` is null, or points to two integers of 32 bits that are the version and the size of what follows; if both are
/// those of this interface, to a [`RawModule`] that keeps the promises of its documentation. All of it lives for ever.
pub unsafe fn import(table: *const RawModule) -> Result<ImportedEntry, ImportError> {
    if table.is_null() {
        return Err(ImportError::NoTable);
    }
    // SAFETY: the caller's promise; only these two are read before they are known to be right.
    let (theirs, size) =
        unsafe { ((&raw const (*table).abi_version).read(), (&raw const (*table).struct_size).read()) };
    if theirs != ABI_VERSION {
        return Err(ImportError::AbiVersion { ours: ABI_VERSION, theirs });
    }
    let ours = size_of::<RawModule>() as u32;
    if size != ours {
        return Err(ImportError::StructSize { ours, theirs: size });
    }
    // SAFETY: version and size are right, so the caller's promise holds for all of it.
    let table: &'static RawModule = unsafe { &*table };
    let required = [
        ("create", table.create.is_some()),
        ("session_new", table.session_new.is_some()),
        ("session_free", table.session_free.is_some()),
        ("on_client_data", table.on_client_data.is_some()),
    ];
    if let Some((hook, _)) = required.into_iter().find(|(_, there)| !there) {
        return Err(ImportError::MissingHook { hook });
    }
    let name = text(table.name, "name")?;
    if !is_name(name) {
        return Err(ImportError::Name { name: name.to_owned() });
    }
    let transport = match table.transport {
        n if n == PROTOCOL_TCP.into() => Transport::Tcp,
        n if n == PROTOCOL_UDP.into() => Transport::Udp,
        protocol => return Err(ImportError::Transport { protocol }),
    };
    if table.options_len > MAX_OPTIONS {
        return Err(ImportError::Text { what: "list of options" });
    }
    let mut options = Vec::new();
    for i in 0..table.options_len {
        // SAFETY: the table promises so many options.
        let raw = unsafe { *table.options.add(i) };
        options.push(OptionSpec {
            name: text(raw.name, "name of an option")?,
            value: text(raw.value, "description of an option")?,
            help: text(raw.help, "description of an option")?,
        });
    }
    let about = About {
        name,
        version: text(table.version, "version")?,
        summary: text(table.summary, "summary")?,
        transport,
        // Libraries are never unloaded, and each is read once.
        options: Box::leak(options.into_boxed_slice()),
        sees_online: table.flags & FLAG_SEES_ONLINE != 0,
    };
    Ok(ImportedEntry { about, table })
}

/// Whether a text can be the name of a module.
pub fn is_name(text: &str) -> bool {
    text.len() <= 32
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
}

fn text(raw: RawSlice, what: &'static str) -> Result<&'static str, ImportError> {
    if raw.len > MAX_TEXT {
        return Err(ImportError::Text { what });
    }
    // SAFETY: the texts of a table live for ever, with the library.
    std::str::from_utf8(unsafe { raw.bytes() }).map_err(|_| ImportError::Text { what })
}

/// Calls with room for a text; returns the text that came back.
fn with_text(call: impl FnOnce(*mut RawText) -> u32) -> (u32, String) {
    let mut room = [0u8; 1024];
    let mut raw = RawText { data: room.as_mut_ptr(), capacity: room.len(), len: 0 };
    let status = call(&raw mut raw);
    let len = raw.len.min(room.len());
    (status, String::from_utf8_lossy(&room[..len]).into_owned())
}

impl ImportedEntry {
    /// Makes the module.
    ///
    /// # Errors
    /// The module's own words, or those of its panic.
    pub fn create(&self, options: &Options) -> Result<ModuleHandle, String> {
        let slice = |text: &str| RawSlice::new(text.as_bytes());
        let given: Vec<RawOption> =
            options.iter().map(|(name, value)| RawOption { name: slice(name), value: slice(value) }).collect();
        let create = self.table.create.expect("checked by import");
        let mut handle = std::ptr::null_mut();
        // SAFETY: all that is pointed to lives until the call returns.
        let (status, text) = with_text(|error| unsafe { create(given.as_ptr(), given.len(), &raw mut handle, error) });
        match status {
            CREATED => {
                let module = Imported { table: self.table, handle };
                Ok(ModuleHandle { about: self.about, module: Arc::new(module) })
            }
            PANICKED => Err(format!("it failed by a mistake in it: {text}")),
            _ if text.is_empty() => Err("it does not say why".to_owned()),
            _ => Err(text),
        }
    }
}

struct Imported {
    table: &'static RawModule,
    handle: *mut c_void,
}

// SAFETY: the table's documentation asks modules to bear calls from several threads.
unsafe impl Send for Imported {}
// SAFETY: as above.
unsafe impl Sync for Imported {}

impl Module for Imported {
    fn about() -> About {
        unreachable!("what an imported module is, its table says")
    }

    fn create(_: &Options) -> Result<Self, String> {
        unreachable!("an imported module is made by its table")
    }

    fn on_open(&self, info: &SessionInfo) -> Attachment {
        let session_new = self.table.session_new.expect("checked by import");
        let raw = raw_info(info);
        let mut session = std::ptr::null_mut();
        // SAFETY: the handle is the module's own; all that is pointed to lives until the call returns.
        let (status, text) =
            with_text(|error| unsafe { session_new(self.handle, &raw const raw, &raw mut session, error) });
        if status != CREATED {
            std::panic::resume_unwind(Box::new(text));
        }
        if session.is_null() {
            return Attachment::Bypass;
        }
        Attachment::watch(ImportedSession { table: self.table, handle: session })
    }

    fn join_at(&self, data: &[u8]) -> Option<usize> {
        let Some(join_at) = self.table.join_at else { return Some(0) };
        let mut at = 0;
        // SAFETY: as above.
        let found = unsafe { join_at(self.handle, RawSlice::new(data), &raw mut at) };
        (found == 1 && at <= data.len()).then_some(at)
    }

    fn after_target_close(&self) -> AfterTargetClose {
        // SAFETY: as above.
        match self.table.reconnects.map(|reconnects| unsafe { reconnects(self.handle) }) {
            Some(1) => AfterTargetClose::Reconnect,
            _ => AfterTargetClose::End,
        }
    }
}

fn raw_endpoint(e: &Endpoint) -> RawEndpoint {
    let mut addr = [0; 16];
    let family = match e.addr {
        IpAddr::V4(a) => {
            addr[..4].copy_from_slice(&a.octets());
            4
        }
        IpAddr::V6(a) => {
            addr = a.octets();
            6
        }
    };
    RawEndpoint { addr, family, port: e.port.0 }
}

fn raw_info(info: &SessionInfo) -> RawSessionInfo {
    RawSessionInfo {
        client: raw_endpoint(&info.online.client),
        online: raw_endpoint(&info.online.server),
        replica: raw_endpoint(&info.target.client),
        target: raw_endpoint(&info.target.server),
        joined: u32::from(info.joined),
    }
}

struct ImportedSession {
    table: &'static RawModule,
    handle: *mut c_void,
}

// SAFETY: the table's documentation says that a session is used by one thread at a time, not always the same.
unsafe impl Send for ImportedSession {}

impl Drop for ImportedSession {
    fn drop(&mut self) {
        let free = self.table.session_free.expect("checked by import");
        // SAFETY: the handle is the session's own, and not used again.
        unsafe { free(self.handle) }
    }
}

/// What a hook's `cx` points to.
struct Call<'a, 'b> {
    ctx: &'a mut Ctx<'b>,
    failed: Option<String>,
}

impl ImportedSession {
    /// Runs a hook; a failure that the module reports becomes a panic on this side, where the engine looks for it.
    fn run(&mut self, ctx: &mut Ctx<'_>, hook: impl FnOnce(*mut c_void, *const RawHost, *mut c_void)) {
        let mut call = Call { ctx, failed: None };
        hook(self.handle, &raw const HOST, (&raw mut call).cast());
        if let Some(message) = call.failed {
            std::panic::resume_unwind(Box::new(message));
        }
    }

    fn run_data(&mut self, ctx: &mut Ctx<'_>, hook: DataHook, data: RawSlice) {
        // SAFETY: the handle is the session's own; table, context and bytes live until the call returns.
        self.run(ctx, |session, host, cx| unsafe { hook(session, host, cx, data) });
    }
}

// SAFETY (of the calls in this block): as in `run_data`.
impl Session for ImportedSession {
    fn on_open(&mut self, ctx: &mut Ctx<'_>) {
        if let Some(hook) = self.table.on_open {
            self.run(ctx, |session, host, cx| unsafe { hook(session, host, cx) });
        }
    }

    fn on_client_data(&mut self, ctx: &mut Ctx<'_>, data: &[u8]) {
        self.run_data(ctx, self.table.on_client_data.expect("checked by import"), RawSlice::new(data));
    }

    fn on_client_close(&mut self, ctx: &mut Ctx<'_>, held: &[u8]) {
        match self.table.on_client_close {
            Some(hook) => self.run_data(ctx, hook, RawSlice::new(held)),
            None => Plain.on_client_close(ctx, held),
        }
    }

    fn on_target_data(&mut self, ctx: &mut Ctx<'_>, data: TargetData<'_>) {
        if let Some(hook) = self.table.on_target_data {
            let bytes = RawSlice::new(data.bytes);
            self.run(ctx, |session, host, cx| unsafe { hook(session, host, cx, bytes, data.hidden) });
        }
    }

    fn on_online_data(&mut self, ctx: &mut Ctx<'_>, data: &[u8], lost: u64) {
        if let Some(hook) = self.table.on_online_data {
            let bytes = RawSlice::new(data);
            self.run(ctx, |session, host, cx| unsafe { hook(session, host, cx, bytes, lost) });
        }
    }

    fn on_resume(&mut self, ctx: &mut Ctx<'_>) {
        match self.table.on_resume {
            Some(hook) => self.run(ctx, |session, host, cx| unsafe { hook(session, host, cx) }),
            None => Plain.on_resume(ctx),
        }
    }

    fn on_close(&mut self, ctx: &mut Ctx<'_>, reason: Option<&str>) {
        if let Some(hook) = self.table.on_close {
            let reason = reason.map_or(RawSlice::NULL, |reason| RawSlice::new(reason.as_bytes()));
            self.run_data(ctx, hook, reason);
        }
    }
}

/// The defaults of the hooks that a module need not have.
struct Plain;

impl Session for Plain {
    fn on_client_data(&mut self, ctx: &mut Ctx<'_>, data: &[u8]) {
        ctx.pass(data.len());
    }
}

static HOST: RawHost = RawHost {
    abi_version: ABI_VERSION,
    struct_size: size_of::<RawHost>() as u32,
    pass: host::pass,
    drop: host::drop,
    send: host::send,
    ask_again: host::ask_again,
    abort: host::abort,
    bypass: host::bypass,
    watch: host::watch,
    expect_response: host::expect_response,
    response_complete: host::response_complete,
    reconnect: host::reconnect,
    waiting: host::waiting,
    ready: host::ready,
    want_payload: host::want_payload,
    log: host::log,
    count: host::count,
    info: host::info,
    now: host::now,
    failed: host::failed,
};

/// The engine's functions in the table. They take null for nothing, and any bytes for text.
mod host {
    use super::*;

    /// The context of the hook that is running.
    ///
    /// # Safety
    /// `cx` came with that hook.
    unsafe fn ctx<'a>(cx: *mut c_void) -> &'a mut Ctx<'a> {
        // SAFETY: this function's own condition: `cx` points to a `Call` that lives until the hook returns. The
        // lifetimes end with the calling function, which is called by that hook.
        unsafe { &mut *(*cx.cast::<Call<'a, 'a>>()).ctx }
    }

    /// # Safety
    /// The slice lives until the caller's call returns.
    unsafe fn text<'a>(raw: RawSlice) -> Cow<'a, str> {
        // SAFETY: this function's own condition.
        String::from_utf8_lossy(unsafe { raw.bytes() })
    }

    // SAFETY (of all functions below): modules are asked to call them with the context that came with the hook, only
    // while it runs, and with slices that live until the call returns.
    pub(super) unsafe extern "C" fn pass(cx: *mut c_void, n: usize) {
        unsafe { ctx(cx) }.pass(n);
    }

    pub(super) unsafe extern "C" fn drop(cx: *mut c_void, n: usize, reason: RawSlice) {
        unsafe { ctx(cx).drop(n, &text(reason)) }
    }

    pub(super) unsafe extern "C" fn send(cx: *mut c_void, bytes: RawSlice) {
        unsafe { ctx(cx).send(bytes.bytes()) }
    }

    pub(super) unsafe extern "C" fn ask_again(cx: *mut c_void) {
        unsafe { ctx(cx) }.ask_again();
    }

    pub(super) unsafe extern "C" fn abort(cx: *mut c_void, reason: RawSlice) {
        unsafe { ctx(cx).abort(&text(reason)) }
    }

    pub(super) unsafe extern "C" fn bypass(cx: *mut c_void) {
        unsafe { ctx(cx) }.bypass();
    }

    pub(super) unsafe extern "C" fn watch(cx: *mut c_void) {
        unsafe { ctx(cx) }.watch();
    }

    pub(super) unsafe extern "C" fn expect_response(cx: *mut c_void) {
        unsafe { ctx(cx) }.expect_response();
    }

    pub(super) unsafe extern "C" fn response_complete(cx: *mut c_void) {
        unsafe { ctx(cx) }.response_complete();
    }

    pub(super) unsafe extern "C" fn reconnect(cx: *mut c_void) {
        unsafe { ctx(cx) }.reconnect();
    }

    pub(super) unsafe extern "C" fn waiting(cx: *mut c_void) -> usize {
        unsafe { ctx(cx) }.waiting()
    }

    pub(super) unsafe extern "C" fn ready(cx: *mut c_void) {
        unsafe { ctx(cx) }.ready();
    }

    pub(super) unsafe extern "C" fn want_payload(cx: *mut c_void, bytes: u32) {
        let payload = match bytes {
            0 => Payload::Headers,
            n => u16::try_from(n).map_or(Payload::Full, Payload::First),
        };
        unsafe { ctx(cx) }.want_payload(payload);
    }

    pub(super) unsafe extern "C" fn log(cx: *mut c_void, level: u32, line: RawSlice) {
        let level = match level {
            1 => LogLevel::Error,
            2 => LogLevel::Warn,
            3 => LogLevel::Info,
            _ => LogLevel::Debug,
        };
        unsafe { ctx(cx).log(level, &text(line)) }
    }

    pub(super) unsafe extern "C" fn count(cx: *mut c_void, name: RawSlice, n: u64) {
        unsafe { ctx(cx).count(&text(name), n) }
    }

    pub(super) unsafe extern "C" fn info(cx: *mut c_void, info: *mut RawSessionInfo) {
        unsafe { *info = raw_info(ctx(cx).info()) }
    }

    pub(super) unsafe extern "C" fn now(cx: *mut c_void) -> u64 {
        unsafe { ctx(cx) }.now().as_nanos()
    }

    pub(super) unsafe extern "C" fn failed(cx: *mut c_void, message: RawSlice) {
        unsafe {
            (*cx.cast::<Call<'_, '_>>()).failed = Some(text(message).into_owned());
        }
    }
}
