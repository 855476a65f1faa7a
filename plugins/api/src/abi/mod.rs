//! The traits as a C ABI, for modules in shared libraries.
//!
//! A library exports one symbol, `tcpcopy_module`: a function that returns a [`RawModule`], which begins with the version
//! and the size of this interface. The same is `include/tcpcopy_module.h` for C. [`export`] makes the table from a Rust
//! module (through [`export_module!`](crate::export_module)), [`import`] makes a module from the table.
//!
//! Rules of the boundary: no memory changes its owner; what is pointed to lives until the call returns, except what the
//! table itself points to, which lives for ever; nothing unwinds across it.

// The boundary is pointers. Each block says what it relies on.
#![allow(unsafe_code)]

pub mod export;
pub mod import;

use std::ffi::c_void;

/// Version of this interface. A change of any of these types, or of what a call means, needs another one.
pub const ABI_VERSION: u32 = 1;

/// The symbol that a library exports: a [`ModuleSymbol`].
pub const SYMBOL: &[u8] = b"tcpcopy_module\0";

/// The type behind [`SYMBOL`].
pub type ModuleSymbol = unsafe extern "C" fn() -> *const RawModule;

/// [`RawModule::flags`]: the module wants to see what online sends.
pub const FLAG_SEES_ONLINE: u32 = 1;
/// [`RawHost::want_payload`]: everything.
pub const PAYLOAD_FULL: u32 = u32::MAX;
/// [`RawModule::create`]: done.
pub const CREATED: u32 = 0;
/// [`RawModule::create`]: the options cannot be used; the text says why.
pub const REFUSED: u32 = 1;
/// A call ended in a panic; the text says which.
pub const PANICKED: u32 = 2;

/// Bytes, or text in UTF-8. `data` may be null when `len` is zero.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct RawSlice {
    /// The first byte.
    pub data: *const u8,
    /// How many there are.
    pub len: usize,
}

/// Room for a text that the callee writes.
#[repr(C)]
#[derive(Debug)]
pub struct RawText {
    /// Where to write.
    pub data: *mut u8,
    /// Bytes of room.
    pub capacity: usize,
    /// Bytes written.
    pub len: usize,
}

/// An option that a module takes.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct RawOptionSpec {
    /// Its name.
    pub name: RawSlice,
    /// What its value is, for help.
    pub value: RawSlice,
    /// What it does.
    pub help: RawSlice,
}

/// An option that was given.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct RawOption {
    /// Its name.
    pub name: RawSlice,
    /// Its value.
    pub value: RawSlice,
}

/// An address and a port.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RawEndpoint {
    /// The address in network order; of IPv4 the first four bytes.
    pub addr: [u8; 16],
    /// 4 or 6.
    pub family: u16,
    /// The port, in the host's byte order.
    pub port: u16,
}

/// What a module learns of a session.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RawSessionInfo {
    /// The client.
    pub client: RawEndpoint,
    /// The online server that it talks to.
    pub online: RawEndpoint,
    /// The replica.
    pub replica: RawEndpoint,
    /// The target that it talks to.
    pub target: RawEndpoint,
    /// 1 when the session was joined mid-stream, otherwise 0.
    pub joined: u32,
}

/// The engine's side of a call; each function is that of [`Ctx`](crate::Ctx) of the same name. `cx` is the context that came with
/// the hook.
#[repr(C)]
#[derive(Clone, Copy)]
#[allow(missing_docs)] // see Ctx
pub struct RawHost {
    /// Version of the interface that the engine speaks.
    pub abi_version: u32,
    /// Size of this table, in bytes.
    pub struct_size: u32,
    pub pass: unsafe extern "C" fn(cx: *mut c_void, n: usize),
    pub drop: unsafe extern "C" fn(cx: *mut c_void, n: usize, reason: RawSlice),
    pub send: unsafe extern "C" fn(cx: *mut c_void, bytes: RawSlice),
    pub ask_again: unsafe extern "C" fn(cx: *mut c_void),
    pub abort: unsafe extern "C" fn(cx: *mut c_void, reason: RawSlice),
    pub bypass: unsafe extern "C" fn(cx: *mut c_void),
    pub watch: unsafe extern "C" fn(cx: *mut c_void),
    pub expect_response: unsafe extern "C" fn(cx: *mut c_void),
    pub response_complete: unsafe extern "C" fn(cx: *mut c_void),
    pub reconnect: unsafe extern "C" fn(cx: *mut c_void),
    pub waiting: unsafe extern "C" fn(cx: *mut c_void) -> usize,
    pub ready: unsafe extern "C" fn(cx: *mut c_void),
    /// 0: nothing; [`PAYLOAD_FULL`]: everything; else so many of the first bytes of each segment, at most 65535.
    pub want_payload: unsafe extern "C" fn(cx: *mut c_void, bytes: u32),
    /// `level`: 1 error, 2 warning, 3 information, 4 debugging.
    pub log: unsafe extern "C" fn(cx: *mut c_void, level: u32, text: RawSlice),
    pub count: unsafe extern "C" fn(cx: *mut c_void, name: RawSlice, n: u64),
    pub info: unsafe extern "C" fn(cx: *mut c_void, info: *mut RawSessionInfo),
    /// Nanoseconds on the engine's clock.
    pub now: unsafe extern "C" fn(cx: *mut c_void) -> u64,
    /// The module has failed in this hook, as a Rust module does by a panic: ends the session, and is counted so.
    pub failed: unsafe extern "C" fn(cx: *mut c_void, message: RawSlice),
}

/// A hook that is told nothing but its session.
pub type PlainHook = unsafe extern "C" fn(session: *mut c_void, host: *const RawHost, cx: *mut c_void);
/// A hook that is shown bytes.
pub type DataHook = unsafe extern "C" fn(session: *mut c_void, host: *const RawHost, cx: *mut c_void, data: RawSlice);

/// A module.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct RawModule {
    /// [`ABI_VERSION`] of the interface that it was built for.
    pub abi_version: u32,
    /// Size of this table in that interface, in bytes.
    pub struct_size: u32,
    /// See [`About::name`](crate::About::name).
    pub name: RawSlice,
    /// See [`About::version`](crate::About::version).
    pub version: RawSlice,
    /// See [`About::summary`](crate::About::summary).
    pub summary: RawSlice,
    /// 6 for TCP, 17 for UDP.
    pub transport: u32,
    /// [`FLAG_SEES_ONLINE`], or zero.
    pub flags: u32,
    /// The options that it takes.
    pub options: *const RawOptionSpec,
    /// How many there are.
    pub options_len: usize,

    /// Required. Makes the module: stores a handle and returns [`CREATED`], or writes a text and returns [`REFUSED`] or
    /// [`PANICKED`]. It is never unmade.
    pub create: Option<
        unsafe extern "C" fn(
            options: *const RawOption,
            options_len: usize,
            module: *mut *mut c_void,
            error: *mut RawText,
        ) -> u32,
    >,
    /// Required. A client begins to talk: stores a handle for its session, or null to copy everything; returns
    /// [`CREATED`], or writes a text and returns [`PANICKED`]. See [`Module::on_open`](crate::Module::on_open).
    pub session_new: Option<
        unsafe extern "C" fn(
            module: *mut c_void,
            info: *const RawSessionInfo,
            session: *mut *mut c_void,
            error: *mut RawText,
        ) -> u32,
    >,
    /// Required. The handle of a session is used no more.
    pub session_free: Option<unsafe extern "C" fn(session: *mut c_void)>,
    /// Required. See [`Session::on_client_data`](crate::Session::on_client_data).
    pub on_client_data: Option<DataHook>,

    /// See [`Module::join_at`](crate::Module::join_at): stores the offset and returns 1, or returns 0.
    pub join_at: Option<unsafe extern "C" fn(module: *mut c_void, data: RawSlice, at: *mut usize) -> u32>,
    /// See [`Module::after_target_close`](crate::Module::after_target_close): 1 to reconnect, 0 to end the session.
    pub reconnects: Option<unsafe extern "C" fn(module: *mut c_void) -> u32>,
    /// See [`Session::on_open`](crate::Session::on_open).
    pub on_open: Option<PlainHook>,
    /// See [`Session::on_client_close`](crate::Session::on_client_close).
    pub on_client_close: Option<DataHook>,
    /// See [`Session::on_target_data`](crate::Session::on_target_data).
    pub on_target_data: Option<
        unsafe extern "C" fn(session: *mut c_void, host: *const RawHost, cx: *mut c_void, data: RawSlice, hidden: u32),
    >,
    /// See [`Session::on_online_data`](crate::Session::on_online_data).
    pub on_online_data: Option<
        unsafe extern "C" fn(session: *mut c_void, host: *const RawHost, cx: *mut c_void, data: RawSlice, lost: u64),
    >,
    /// See [`Session::on_resume`](crate::Session::on_resume).
    pub on_resume: Option<PlainHook>,
    /// See [`Session::on_close`](crate::Session::on_close); the reason is null when the session was copied to its end.
    pub on_close: Option<DataHook>,
}

// SAFETY: a table is written once, before anybody else sees it, and points to what lives for ever; that its functions
// may be called from several threads is asked of them in the documentation.
unsafe impl Sync for RawModule {}
// SAFETY: as above.
unsafe impl Send for RawModule {}

impl RawSlice {
    /// A slice of bytes that the callee may read until it returns.
    pub const fn new(bytes: &[u8]) -> Self {
        Self { data: bytes.as_ptr(), len: bytes.len() }
    }

    /// No bytes, which is not the same as an empty text.
    pub const NULL: Self = Self { data: std::ptr::null(), len: 0 };

    /// The bytes.
    ///
    /// # Safety
    /// `data` points to `len` bytes that live for `'a`, or `len` is zero.
    pub unsafe fn bytes<'a>(self) -> &'a [u8] {
        if self.len == 0 || self.data.is_null() {
            return &[];
        }
        // SAFETY: the caller's promise; null and empty are taken care of above.
        unsafe { std::slice::from_raw_parts(self.data, self.len) }
    }
}

impl RawText {
    /// Writes a text, cut to the room there is.
    ///
    /// # Safety
    /// `data` points to `capacity` bytes that may be written.
    pub unsafe fn write(&mut self, text: &str) {
        let text = &text.as_bytes()[..text.floor_char_boundary(self.capacity)];
        if !self.data.is_null() {
            // SAFETY: the caller's promise; the text was cut to the room.
            unsafe { std::ptr::copy_nonoverlapping(text.as_ptr(), self.data, text.len()) };
            self.len = text.len();
        }
    }
}

/// What a panic said.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message").to_owned()
}
