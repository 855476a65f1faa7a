//! The table of a module that is written in Rust: see [`export_module!`](crate::export_module).
//!
//! Each function here is called by a program across C: it catches what panics, and says so.

use std::cell::OnceCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::OnceLock;

use super::convert::{panic_text, payload_number, transport_number};
use super::{
    ABI_VERSION, AFTER_CLOSE_END, AFTER_CLOSE_RECONNECT, FAILED, HostTable, ModuleTable, NO_BOUNDARY, OK, PANICKED,
    RawContext, RawModule, RawOption, RawSession, RawSessionInfo, RawSetting, Slice,
};
use crate::{
    AfterTargetClose, Attachment, Ctx, Host, LogLevel, Module, Options, Payload, Session, SessionInfo, TargetData,
    Timestamp,
};

/// Makes a module of a crate, from a type that implements [`Module`]: generates the symbol through which programs load
/// it, and the function `tcpcopy_module_entry() -> ModuleEntry` for a program that has it built in.
///
/// The crate needs `crate-type = ["cdylib", "rlib"]`, the first to be loaded, the second to be built in, and must not be
/// built with `panic = "abort"`. It goes into the root of the crate, and there may be one in a program.
///
/// ```
/// # use tcpcopy_module_api::{About, Module, Options, Transport};
/// struct MyModule;
///
/// impl Module for MyModule {
///     fn about() -> About {
///         About { name: "mine", summary: "copies as it is", ..About::new(Transport::Tcp, env!("CARGO_PKG_VERSION")) }
///     }
///
///     fn create(_: &Options) -> Result<Self, String> {
///         Ok(Self)
///     }
/// }
///
/// tcpcopy_module_api::export_module!(MyModule);
/// ```
#[macro_export]
macro_rules! export_module {
    ($module:ty) => {
        /// The symbol by which programs know this library.
        // The name is the contract; nothing else in a library may have it.
        #[allow(unsafe_code)]
        #[unsafe(no_mangle)]
        pub extern "C" fn tcpcopy_module() -> *const $crate::abi::ModuleTable {
            static TABLE: $crate::abi::ExportedTable = $crate::abi::ExportedTable::new();
            TABLE.of::<$module>()
        }

        /// The module, for a program that has this crate built in.
        pub fn tcpcopy_module_entry() -> $crate::ModuleEntry {
            $crate::ModuleEntry::of::<$module>()
        }
    };
}

/// The place of a library's table; [`export_module!`](crate::export_module) has one.
#[derive(Debug)]
pub struct ExportedTable(OnceLock<Option<ModuleTable>>);

impl ExportedTable {
    /// An empty one.
    #[allow(clippy::new_without_default)]
    pub const fn new() -> Self {
        Self(OnceLock::new())
    }

    /// The table of `M`, always the same; null when `M::about` panics.
    pub fn of<M: Module>(&self) -> *const ModuleTable {
        let table = self.0.get_or_init(|| catch_unwind(table::<M>).map_err(panic_text).ok());
        table.as_ref().map_or(ptr::null(), ptr::from_ref)
    }
}

fn table<M: Module>() -> ModuleTable {
    let about = M::about();
    let options: Vec<RawOption> = about
        .options
        .iter()
        .map(|option| RawOption {
            name: Slice::of(option.name.as_bytes()),
            value: Slice::of(option.value.as_bytes()),
            help: Slice::of(option.help.as_bytes()),
        })
        .collect();
    // Made once for a library, which is there for good.
    let options = options.leak();
    ModuleTable {
        abi_version: ABI_VERSION,
        struct_size: size_of::<ModuleTable>() as u32,
        name: Slice::of(about.name.as_bytes()),
        version: Slice::of(about.version.as_bytes()),
        summary: Slice::of(about.summary.as_bytes()),
        transport: transport_number(about.transport),
        sees_online: u32::from(about.sees_online),
        options: options.as_ptr(),
        option_count: options.len(),
        create: Some(create::<M>),
        destroy: Some(destroy::<M>),
        session_open: Some(session_open::<M>),
        session_destroy: Some(session_destroy),
        join_at: Some(join_at::<M>),
        after_target_close: Some(after_target_close::<M>),
        on_open: Some(on_open),
        on_client_data: Some(on_client_data),
        on_client_close: Some(on_client_close),
        on_target_data: Some(on_target_data),
        on_online_data: Some(on_online_data),
        on_resume: Some(on_resume),
        on_close: Some(on_close),
    }
}

/// What is behind a [`RawSession`].
type Opened = Box<dyn Session>;

/// Runs a hook's body; what it panics with is told to the program.
///
/// # Safety
/// `host` and `cx` are what the hook was given.
unsafe fn guard(host: *const HostTable, cx: *mut RawContext, body: impl FnOnce() -> Result<(), String>) -> u32 {
    let (status, text) = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => return OK,
        Ok(Err(text)) => (FAILED, text),
        Err(panic) => (PANICKED, panic_text(panic)),
    };
    // SAFETY: the caller's promise; a host's table is of the same version as the module's.
    unsafe {
        if let Some(fail) = (*host).fail {
            fail(cx, Slice::of(text.as_bytes()));
        }
    }
    status
}

/// A text that a program gives.
///
/// # Safety
/// As [`Slice::bytes`].
unsafe fn text(slice: Slice) -> String {
    // SAFETY: the caller's promise.
    String::from_utf8_lossy(unsafe { slice.bytes() }.unwrap_or_default()).into_owned()
}

unsafe extern "C" fn create<M: Module>(
    host: *const HostTable,
    cx: *mut RawContext,
    settings: *const RawSetting,
    count: usize,
    made: *mut *mut RawModule,
) -> u32 {
    // SAFETY: `settings` has `count` entries, and `made` is the program's to be written to, as the header says.
    unsafe {
        guard(host, cx, || {
            let given = (0..count).map(|i| {
                let setting = settings.add(i).read();
                (text(setting.name), text(setting.value))
            });
            let module = M::create(&Options::new(given.collect()))?;
            *made = Box::into_raw(Box::new(module)).cast();
            Ok(())
        })
    }
}

unsafe extern "C" fn destroy<M: Module>(module: *mut RawModule) {
    // A panic here concerns nobody any more, and has been printed. SAFETY: `module` is from `create`, and comes once.
    let _ = catch_unwind(AssertUnwindSafe(|| drop(unsafe { Box::from_raw(module.cast::<M>()) }))).map_err(panic_text);
}

unsafe extern "C" fn session_open<M: Module>(
    module: *mut RawModule,
    host: *const HostTable,
    cx: *mut RawContext,
    info: *const RawSessionInfo,
    opened: *mut *mut RawSession,
) -> u32 {
    // SAFETY: `module` is from `create`, and `info` and `opened` are the program's, as the header says.
    unsafe {
        guard(host, cx, || {
            if let Attachment::Watch(session) = (*module.cast::<M>()).on_open(&SessionInfo::from(*info)) {
                *opened = Box::into_raw(Box::<Opened>::new(session)).cast();
            }
            Ok(())
        })
    }
}

unsafe extern "C" fn session_destroy(session: *mut RawSession) {
    // As in `destroy`. SAFETY: `session` is from `session_open`, and comes once.
    let _ =
        catch_unwind(AssertUnwindSafe(|| drop(unsafe { Box::from_raw(session.cast::<Opened>()) }))).map_err(panic_text);
}

unsafe extern "C" fn join_at<M: Module>(
    module: *mut RawModule,
    host: *const HostTable,
    cx: *mut RawContext,
    data: Slice,
    offset: *mut usize,
) -> u32 {
    // SAFETY: `module` is from `create`, and `data` and `offset` are the program's, as the header says.
    unsafe {
        guard(host, cx, || {
            *offset = (*module.cast::<M>()).join_at(data.bytes().unwrap_or_default()).unwrap_or(NO_BOUNDARY);
            Ok(())
        })
    }
}

unsafe extern "C" fn after_target_close<M: Module>(
    module: *mut RawModule,
    host: *const HostTable,
    cx: *mut RawContext,
    answer: *mut u32,
) -> u32 {
    // SAFETY: `module` is from `create`, and `answer` is the program's, as the header says.
    unsafe {
        guard(host, cx, || {
            *answer = match (*module.cast::<M>()).after_target_close() {
                AfterTargetClose::Reconnect => AFTER_CLOSE_RECONNECT,
                AfterTargetClose::End => AFTER_CLOSE_END,
            };
            Ok(())
        })
    }
}

/// Runs a hook of a session.
///
/// # Safety
/// `session` is from `session_open`; `host` and `cx` are what the hook was given.
unsafe fn hook(
    session: *mut RawSession,
    host: *const HostTable,
    cx: *mut RawContext,
    body: impl FnOnce(&mut dyn Session, &mut Ctx<'_>),
) -> u32 {
    // SAFETY: the caller's promise. A session's hooks never run at the same time, so that this is the only reference.
    unsafe {
        guard(host, cx, || {
            let mut program = Program { host: &*host, cx, info: OnceCell::new() };
            body(&mut **session.cast::<Opened>(), &mut Ctx::new(&mut program));
            Ok(())
        })
    }
}

/// Hooks of a session that are a call of the trait's method and nothing else.
macro_rules! hooks {
    ($($name:ident($($arg:ident: $kind:ty),*) => $($value:expr),*;)*) => {$(
        unsafe extern "C" fn $name(
            session: *mut RawSession,
            host: *const HostTable,
            cx: *mut RawContext
            $(, $arg: $kind)*
        ) -> u32 {
            // SAFETY: a program calls this with what `session_open` gave it, and with bytes that are there until the
            // hook returns.
            unsafe { hook(session, host, cx, |session, ctx| session.$name(ctx $(, $value)*)) }
        }
    )*};
}

hooks! {
    on_open() =>;
    on_client_data(data: Slice) => data.bytes().unwrap_or_default();
    on_client_close(held: Slice) => held.bytes().unwrap_or_default();
    on_target_data(data: Slice, hidden: u32) => TargetData { bytes: data.bytes().unwrap_or_default(), hidden };
    on_online_data(data: Slice, lost: u64) => data.bytes().unwrap_or_default(), lost;
    on_resume() =>;
    on_close(reason: Slice) => (!reason.data.is_null()).then(|| text(reason)).as_deref();
}

/// The program, as a session's [`Ctx`] knows it.
struct Program<'a> {
    host: &'a HostTable,
    cx: *mut RawContext,
    info: OnceCell<SessionInfo>,
}

/// Calls back. A program whose table lacks a callback is not one that the header describes.
macro_rules! callback {
    ($self:ident.$name:ident($($arg:expr),*)) => {
        // SAFETY: the hook runs, and this is what it was given; the bytes are there.
        unsafe { $self.host.$name.expect("a host has all callbacks")($self.cx $(, $arg)*) }
    };
}

impl Host for Program<'_> {
    fn info(&self) -> &SessionInfo {
        self.info.get_or_init(|| {
            let info = callback!(self.info());
            assert!(!info.is_null(), "there is no session to ask about");
            // SAFETY: not null, and there until the hook returns.
            SessionInfo::from(unsafe { *info })
        })
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_nanos(callback!(self.now()))
    }

    fn pass(&mut self, n: usize) {
        callback!(self.pass(n));
    }

    fn drop(&mut self, n: usize, reason: &str) {
        callback!(self.drop(n, Slice::of(reason.as_bytes())));
    }

    fn send(&mut self, bytes: &[u8]) {
        callback!(self.send(Slice::of(bytes)));
    }

    fn ask_again(&mut self) {
        callback!(self.ask_again());
    }

    fn abort(&mut self, reason: &str) {
        callback!(self.abort(Slice::of(reason.as_bytes())));
    }

    fn bypass(&mut self) {
        callback!(self.bypass());
    }

    fn watch(&mut self) {
        callback!(self.watch());
    }

    fn expect_response(&mut self) {
        callback!(self.expect_response());
    }

    fn response_complete(&mut self) {
        callback!(self.response_complete());
    }

    fn reconnect(&mut self) {
        callback!(self.reconnect());
    }

    fn missing_responses(&self) -> u64 {
        callback!(self.missing_responses())
    }

    fn forget_waiting(&mut self, reason: &str) {
        callback!(self.forget_waiting(Slice::of(reason.as_bytes())));
    }

    fn ready(&mut self) {
        callback!(self.ready());
    }

    fn want_payload(&mut self, payload: Payload) {
        callback!(self.want_payload(payload_number(payload)));
    }

    fn log(&mut self, level: LogLevel, text: &str) {
        callback!(self.log(level as u32, Slice::of(text.as_bytes())));
    }

    fn count(&mut self, name: &str, n: u64) {
        callback!(self.count(Slice::of(name.as_bytes()), n));
    }
}
