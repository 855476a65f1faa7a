//! From a Rust module to the table that a library exports. Used through [`export_module!`](crate::export_module).

use std::ffi::c_void;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::panic::{AssertUnwindSafe, catch_unwind};

use tcpcopy_wire::{Endpoint, Flow, Port, Timestamp};

use super::{
    ABI_VERSION, CREATED, FLAG_SEES_ONLINE, PANICKED, PAYLOAD_FULL, REFUSED, RawEndpoint, RawHost, RawModule,
    RawOption, RawOptionSpec, RawSessionInfo, RawSlice, RawText, panic_text,
};
use crate::{
    AfterTargetClose, Attachment, Ctx, Host, LogLevel, Module, OptionSpec, Options, Payload, Session, SessionInfo,
    TargetData,
};

/// The table of a module; null when it cannot even say what it is. Lives for ever.
pub fn table<M: Module>() -> *const RawModule {
    catch_unwind(make_table::<M>).unwrap_or(std::ptr::null())
}

fn make_table<M: Module>() -> *const RawModule {
    let about = M::about();
    let text = |text: &'static str| RawSlice::new(text.as_bytes());
    let raw =
        |spec: &OptionSpec| RawOptionSpec { name: text(spec.name), value: text(spec.value), help: text(spec.help) };
    let options: &'static [RawOptionSpec] = Box::leak(about.options.iter().map(raw).collect());
    Box::leak(Box::new(RawModule {
        abi_version: ABI_VERSION,
        struct_size: size_of::<RawModule>() as u32,
        name: text(about.name),
        version: text(about.version),
        summary: text(about.summary),
        transport: about.transport as u32,
        flags: if about.sees_online { FLAG_SEES_ONLINE } else { 0 },
        options: options.as_ptr(),
        options_len: options.len(),
        create: Some(create::<M>),
        session_new: Some(session_new::<M>),
        session_free: Some(session_free),
        on_client_data: Some(on_client_data),
        join_at: Some(join_at::<M>),
        reconnects: Some(reconnects::<M>),
        on_open: Some(on_open),
        on_client_close: Some(on_client_close),
        on_target_data: Some(on_target_data),
        on_online_data: Some(on_online_data),
        on_resume: Some(on_resume),
        on_close: Some(on_close),
    }))
}

unsafe extern "C" fn create<M: Module>(
    options: *const RawOption,
    options_len: usize,
    module: *mut *mut c_void,
    error: *mut RawText,
) -> u32 {
    let made = catch_unwind(|| {
        let mut given = Vec::new();
        for i in 0..options_len {
            // SAFETY: the caller gives `options_len` options, whose texts live until this returns.
            let (name, value) = unsafe { ((*options.add(i)).name.bytes(), (*options.add(i)).value.bytes()) };
            given.push((lossy(name), lossy(value)));
        }
        M::create(&Options::new(given))
    });
    match made {
        Ok(Ok(made)) => {
            // SAFETY: the caller gives a place for the handle.
            unsafe { *module = Box::into_raw(Box::new(made)).cast() };
            CREATED
        }
        // SAFETY: the caller gives room for a text.
        Ok(Err(reason)) => unsafe { say(error, &reason, REFUSED) },
        // SAFETY: as above.
        Err(panic) => unsafe { say(error, &panic_text(&*panic), PANICKED) },
    }
}

/// Writes a text into the caller's room.
///
/// # Safety
/// `error` points to a text with room, as the table's documentation asks of callers.
unsafe fn say(error: *mut RawText, text: &str, status: u32) -> u32 {
    // SAFETY: this function's own condition.
    unsafe { (*error).write(text) };
    status
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn endpoint(raw: &RawEndpoint) -> Endpoint {
    let addr = if raw.family == 4 {
        let [a, b, c, d, ..] = raw.addr;
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    } else {
        IpAddr::V6(Ipv6Addr::from(raw.addr))
    };
    Endpoint::new(addr, Port(raw.port))
}

fn session_info(raw: &RawSessionInfo) -> SessionInfo {
    SessionInfo {
        online: Flow { client: endpoint(&raw.client), server: endpoint(&raw.online) },
        target: Flow { client: endpoint(&raw.replica), server: endpoint(&raw.target) },
        joined: raw.joined != 0,
    }
}

unsafe extern "C" fn session_new<M: Module>(
    module: *mut c_void,
    info: *const RawSessionInfo,
    session: *mut *mut c_void,
    error: *mut RawText,
) -> u32 {
    // SAFETY: the handle is one that `create` made from an `M`, and is never unmade; the info lives until this returns.
    let (module, info) = unsafe { (&*module.cast::<M>(), session_info(&*info)) };
    match catch_unwind(AssertUnwindSafe(|| module.on_open(&info))) {
        Ok(attachment) => {
            let handle = match attachment {
                Attachment::Bypass => std::ptr::null_mut(),
                // A thin pointer to the fat one.
                Attachment::Watch(watching) => Box::into_raw(Box::new(watching)).cast(),
            };
            // SAFETY: the caller gives a place for the handle.
            unsafe { *session = handle };
            CREATED
        }
        // SAFETY: the caller gives room for a text.
        Err(panic) => unsafe { say(error, &panic_text(&*panic), PANICKED) },
    }
}

unsafe extern "C" fn session_free(session: *mut c_void) {
    // SAFETY: the handle is one that `session_new` made, and the caller does not use it again.
    let session = unsafe { Box::from_raw(session.cast::<Box<dyn Session>>()) };
    let _ = catch_unwind(AssertUnwindSafe(|| drop(session)));
}

unsafe extern "C" fn join_at<M: Module>(module: *mut c_void, data: RawSlice, at: *mut usize) -> u32 {
    // SAFETY: the handle is one that `create` made from an `M`; the bytes live until this returns.
    let (module, data) = unsafe { (&*module.cast::<M>(), data.bytes()) };
    match catch_unwind(AssertUnwindSafe(|| module.join_at(data))) {
        Ok(Some(offset)) => {
            // SAFETY: the caller gives a place for the offset.
            unsafe { *at = offset };
            1
        }
        // A module that fails here finds no boundary.
        _ => 0,
    }
}

unsafe extern "C" fn reconnects<M: Module>(module: *mut c_void) -> u32 {
    // SAFETY: the handle is one that `create` made from an `M`.
    let module = unsafe { &*module.cast::<M>() };
    let after = catch_unwind(AssertUnwindSafe(|| module.after_target_close()));
    u32::from(matches!(after, Ok(AfterTargetClose::Reconnect)))
}

/// The engine, as the module sees it through the table.
struct Remote {
    host: *const RawHost,
    cx: *mut c_void,
    info: SessionInfo,
}

impl Remote {
    fn host(&self) -> &RawHost {
        // SAFETY: the table lives until the hook returns, and this does not outlive it.
        unsafe { &*self.host }
    }
}

// SAFETY (of every call below): the functions are the engine's own, called with the context that came with them, while
// the hook that they came with is still running; slices live until the call returns.
impl Host for Remote {
    fn info(&self) -> &SessionInfo {
        &self.info
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_nanos(unsafe { (self.host().now)(self.cx) })
    }

    fn pass(&mut self, n: usize) {
        unsafe { (self.host().pass)(self.cx, n) }
    }

    fn drop(&mut self, n: usize, reason: &str) {
        unsafe { (self.host().drop)(self.cx, n, RawSlice::new(reason.as_bytes())) }
    }

    fn send(&mut self, bytes: &[u8]) {
        unsafe { (self.host().send)(self.cx, RawSlice::new(bytes)) }
    }

    fn ask_again(&mut self) {
        unsafe { (self.host().ask_again)(self.cx) }
    }

    fn abort(&mut self, reason: &str) {
        unsafe { (self.host().abort)(self.cx, RawSlice::new(reason.as_bytes())) }
    }

    fn bypass(&mut self) {
        unsafe { (self.host().bypass)(self.cx) }
    }

    fn watch(&mut self) {
        unsafe { (self.host().watch)(self.cx) }
    }

    fn expect_response(&mut self) {
        unsafe { (self.host().expect_response)(self.cx) }
    }

    fn response_complete(&mut self) {
        unsafe { (self.host().response_complete)(self.cx) }
    }

    fn reconnect(&mut self) {
        unsafe { (self.host().reconnect)(self.cx) }
    }

    fn waiting(&self) -> usize {
        unsafe { (self.host().waiting)(self.cx) }
    }

    fn ready(&mut self) {
        unsafe { (self.host().ready)(self.cx) }
    }

    fn want_payload(&mut self, payload: Payload) {
        let bytes = match payload {
            Payload::Headers => 0,
            Payload::First(n) => n.into(),
            Payload::Full => PAYLOAD_FULL,
        };
        unsafe { (self.host().want_payload)(self.cx, bytes) }
    }

    fn log(&mut self, level: LogLevel, text: &str) {
        unsafe { (self.host().log)(self.cx, level as u32, RawSlice::new(text.as_bytes())) }
    }

    fn count(&mut self, name: &str, n: u64) {
        unsafe { (self.host().count)(self.cx, RawSlice::new(name.as_bytes()), n) }
    }
}

/// Runs a hook of a session.
///
/// # Safety
/// `session` is a handle that `session_new` made and `session_free` has not seen; `host` and `cx` are those of the hook.
unsafe fn hook(
    session: *mut c_void,
    host: *const RawHost,
    cx: *mut c_void,
    run: impl FnOnce(&mut dyn Session, &mut Ctx<'_>),
) {
    let mut raw = RawSessionInfo::default();
    // SAFETY: this function's own condition; sessions are used by one thread at a time.
    let session = unsafe {
        ((*host).info)(cx, &raw mut raw);
        &mut *session.cast::<Box<dyn Session>>()
    };
    let mut remote = Remote { host, cx, info: session_info(&raw) };
    let outcome = catch_unwind(AssertUnwindSafe(|| run(&mut **session, &mut Ctx::new(&mut remote))));
    if let Err(panic) = outcome {
        let text = panic_text(&*panic);
        // SAFETY: as the other calls of the engine's functions.
        unsafe { (remote.host().failed)(cx, RawSlice::new(text.as_bytes())) };
    }
}

// SAFETY (of all hooks): the table's documentation asks of callers what `hook` asks, and that slices live until the
// hook returns.
unsafe extern "C" fn on_open(session: *mut c_void, host: *const RawHost, cx: *mut c_void) {
    unsafe { hook(session, host, cx, |session, ctx| session.on_open(ctx)) }
}

unsafe extern "C" fn on_client_data(session: *mut c_void, host: *const RawHost, cx: *mut c_void, data: RawSlice) {
    unsafe { hook(session, host, cx, |session, ctx| session.on_client_data(ctx, data.bytes())) }
}

unsafe extern "C" fn on_client_close(session: *mut c_void, host: *const RawHost, cx: *mut c_void, held: RawSlice) {
    unsafe { hook(session, host, cx, |session, ctx| session.on_client_close(ctx, held.bytes())) }
}

unsafe extern "C" fn on_target_data(
    session: *mut c_void,
    host: *const RawHost,
    cx: *mut c_void,
    data: RawSlice,
    hidden: u32,
) {
    unsafe {
        let data = TargetData { bytes: data.bytes(), hidden };
        hook(session, host, cx, |session, ctx| session.on_target_data(ctx, data));
    }
}

unsafe extern "C" fn on_online_data(
    session: *mut c_void,
    host: *const RawHost,
    cx: *mut c_void,
    data: RawSlice,
    lost: u64,
) {
    unsafe { hook(session, host, cx, |session, ctx| session.on_online_data(ctx, data.bytes(), lost)) }
}

unsafe extern "C" fn on_resume(session: *mut c_void, host: *const RawHost, cx: *mut c_void) {
    unsafe { hook(session, host, cx, |session, ctx| session.on_resume(ctx)) }
}

unsafe extern "C" fn on_close(session: *mut c_void, host: *const RawHost, cx: *mut c_void, reason: RawSlice) {
    unsafe {
        let text = String::from_utf8_lossy(reason.bytes());
        let reason = (!reason.data.is_null()).then_some(&*text);
        hook(session, host, cx, |session, ctx| session.on_close(ctx, reason));
    }
}

/// Makes a crate a module that can be loaded at run time, and built in.
///
/// ```ignore
/// tcpcopy_module_api::export_module!(MyModule);
/// ```
///
/// The crate's types are `cdylib` (for the shared library) and `rlib` (for `--set-protocol-module` builds and tests). The
/// macro exports the C symbol `tcpcopy_module`, and the Rust function `tcpcopy_module_entry`.
#[macro_export]
macro_rules! export_module {
    ($module:ty) => {
        /// What a program that loads this library asks for.
        #[allow(unsafe_code)] // the symbol's name, which nothing else has
        #[unsafe(no_mangle)]
        pub extern "C" fn tcpcopy_module() -> *const $crate::abi::RawModule {
            $crate::abi::export::table::<$module>()
        }

        /// What a program that has this crate built in asks for.
        pub fn tcpcopy_module_entry() -> $crate::ModuleEntry {
            $crate::ModuleEntry::of::<$module>()
        }
    };
}
