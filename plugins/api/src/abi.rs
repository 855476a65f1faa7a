//! The traits again, as C sees them: what a module in a shared library and the program that loads it agree on.
//!
//! A library has one symbol, [`SYMBOL`], a function that returns a [`ModuleTable`]. Everything else goes through that
//! table and, the other way, through the [`HostTable`] that each hook is given. `include/tcpcopy_module.h` says the same
//! in C, and says what it means; a test compares the two.
//!
//! Authors of modules in Rust need [`export_module!`](crate::export_module) and nothing else of this. What reads a table
//! of somebody else is [`ForeignModule`].
//!
//! Nothing is allocated on one side and freed on the other, and nothing unwinds across: a panic is caught where it
//! happens, goes over as [`PANICKED`] and a text, and goes on as a panic on the other side.
#![allow(unsafe_code)]

mod context;
mod convert;
mod export;
mod foreign;
#[cfg(test)]
mod tests;

use std::marker::{PhantomData, PhantomPinned};

pub use export::ExportedTable;
pub use foreign::{CreateError, ForeignModule, TableError, is_module_name};

/// The version of everything here. It goes up with every change of a struct, a signature or a meaning; a module and a
/// program that differ in it do not work together.
pub const ABI_VERSION: u32 = 1;

/// The name of the one symbol, a [`TableFn`].
pub const SYMBOL: &str = "tcpcopy_module";

/// A hook did what it should.
pub const OK: u32 = 0;
/// A hook failed: of [`ModuleTable::create`] that the options cannot be used, of any other the same as [`PANICKED`].
pub const FAILED: u32 = 1;
/// A hook panicked. The session is over.
pub const PANICKED: u32 = 2;

/// [`ModuleTable::transport`]: TCP, by its protocol number.
pub const TRANSPORT_TCP: u32 = 6;
/// [`ModuleTable::transport`]: UDP, by its protocol number.
pub const TRANSPORT_UDP: u32 = 17;

/// [`HostTable::want_payload`]: nothing. Other numbers are bytes of each packet, 65535 at most.
pub const PAYLOAD_NONE: u32 = 0;
/// [`HostTable::want_payload`]: everything.
pub const PAYLOAD_FULL: u32 = u32::MAX;

/// [`ModuleTable::join_at`]: there is no boundary.
pub const NO_BOUNDARY: usize = usize::MAX;

/// [`ModuleTable::after_target_close`]: give the session up.
pub const AFTER_CLOSE_END: u32 = 0;
/// [`ModuleTable::after_target_close`]: connect again.
pub const AFTER_CLOSE_RECONNECT: u32 = 1;

/// What the symbol [`SYMBOL`] is.
pub type TableFn = unsafe extern "C" fn() -> *const ModuleTable;

/// Something only one side knows the inside of.
macro_rules! opaque {
    ($(#[$doc:meta] $name:ident)*) => {$(
        #[$doc]
        #[repr(C)]
        #[derive(Debug)]
        pub struct $name {
            nothing: [u8; 0],
            // Neither side may assume anything about what is behind the pointer.
            mark: PhantomData<(*mut u8, PhantomPinned)>,
        }
    )*};
}

opaque! {
    /// A module, as its library knows it.
    RawModule
    /// A session, as its library knows it.
    RawSession
    /// A call of a hook, as the program knows it.
    RawContext
}

/// A field of a struct that both sides know, for the test of the layout.
#[derive(Clone, Copy, Debug)]
pub struct FieldLayout {
    /// Its name in C, which is its name here.
    pub name: &'static str,
    /// Bytes from the struct's beginning.
    pub offset: usize,
    /// Its size in bytes.
    pub size: usize,
    /// Its type, as Rust calls it.
    pub kind: &'static str,
}

/// A struct that both sides know, for the test of the layout.
#[derive(Clone, Debug)]
pub struct StructLayout {
    /// Its name in C.
    pub name: &'static str,
    /// Its size in bytes.
    pub size: usize,
    /// Its alignment in bytes.
    pub align: usize,
    /// Its fields, in order.
    pub fields: Vec<FieldLayout>,
}

/// Defines structs that both sides know, and lists their layout.
macro_rules! shared {
    ($(
        $(#[$doc:meta])* $name:ident as $c_name:literal {
            $($(#[$field_doc:meta])* $field:ident: $kind:ty,)*
        }
    )*) => {
        $(
            $(#[$doc])*
            #[repr(C)]
            #[derive(Clone, Copy, Debug)]
            pub struct $name {
                $($(#[$field_doc])* pub $field: $kind,)*
            }
        )*

        /// All structs that both sides know.
        pub fn layout() -> Vec<StructLayout> {
            vec![$(StructLayout {
                name: $c_name,
                size: size_of::<$name>(),
                align: align_of::<$name>(),
                fields: vec![$(FieldLayout {
                    name: stringify!($field),
                    offset: std::mem::offset_of!($name, $field),
                    size: size_of::<$kind>(),
                    kind: std::any::type_name::<$kind>(),
                },)*],
            },)*]
        }
    };
}

// Hooks and callbacks are `Option`s even where they must be there: a table comes from a library that may be anything,
// and a null in a bare function pointer would be undefined before anybody could look.
shared! {
    /// Bytes, and how many. May be null when there are none.
    Slice as "tcpcopy_slice" {
        /// The first byte.
        data: *const u8,
        /// How many.
        len: usize,
    }

    /// An address and a port.
    RawEndpoint as "tcpcopy_endpoint" {
        /// 4 or 6.
        ip_version: u16,
        /// In the host's byte order.
        port: u16,
        /// As in an IP header. An IPv4 address is the first four bytes, and zeros follow.
        address: [u8; 16],
    }

    /// A connection.
    RawFlow as "tcpcopy_flow" {
        /// Who opened it.
        client: RawEndpoint,
        /// Who listens.
        server: RawEndpoint,
    }

    /// [`SessionInfo`](crate::SessionInfo).
    RawSessionInfo as "tcpcopy_session_info" {
        /// The client's connection to online.
        online: RawFlow,
        /// The replica's connection to the target.
        target: RawFlow,
        /// 1 when it was joined mid-stream, otherwise 0.
        joined: u32,
    }

    /// [`OptionSpec`](crate::OptionSpec).
    RawOption as "tcpcopy_option" {
        /// Its name.
        name: Slice,
        /// What its value is.
        value: Slice,
        /// What it does.
        help: Slice,
    }

    /// An option that was given.
    RawSetting as "tcpcopy_setting" {
        /// Its name.
        name: Slice,
        /// Its value.
        value: Slice,
    }

    /// What a hook may ask of the program: [`Ctx`](crate::Ctx). Of hooks of a module, and not of a session, only `fail`
    /// has an effect, and `info` is null.
    HostTable as "tcpcopy_host" {
        /// [`ABI_VERSION`] of the program.
        abi_version: u32,
        /// The size of this struct.
        struct_size: u32,
        /// Says in words why the hook is about to return [`FAILED`] or [`PANICKED`].
        fail: Option<unsafe extern "C" fn(*mut RawContext, Slice)>,
        /// [`Ctx::info`](crate::Ctx::info). What it points to is there until the hook returns.
        info: Option<unsafe extern "C" fn(*mut RawContext) -> *const RawSessionInfo>,
        /// [`Ctx::now`](crate::Ctx::now), in nanoseconds.
        now: Option<unsafe extern "C" fn(*mut RawContext) -> u64>,
        /// [`Ctx::pass`](crate::Ctx::pass).
        pass: Option<unsafe extern "C" fn(*mut RawContext, usize)>,
        /// [`Ctx::drop`](crate::Ctx::drop).
        drop: Option<unsafe extern "C" fn(*mut RawContext, usize, Slice)>,
        /// [`Ctx::send`](crate::Ctx::send).
        send: Option<unsafe extern "C" fn(*mut RawContext, Slice)>,
        /// [`Ctx::ask_again`](crate::Ctx::ask_again).
        ask_again: Option<unsafe extern "C" fn(*mut RawContext)>,
        /// [`Ctx::abort`](crate::Ctx::abort).
        abort: Option<unsafe extern "C" fn(*mut RawContext, Slice)>,
        /// [`Ctx::bypass`](crate::Ctx::bypass).
        bypass: Option<unsafe extern "C" fn(*mut RawContext)>,
        /// [`Ctx::watch`](crate::Ctx::watch).
        watch: Option<unsafe extern "C" fn(*mut RawContext)>,
        /// [`Ctx::expect_response`](crate::Ctx::expect_response).
        expect_response: Option<unsafe extern "C" fn(*mut RawContext)>,
        /// [`Ctx::response_complete`](crate::Ctx::response_complete).
        response_complete: Option<unsafe extern "C" fn(*mut RawContext)>,
        /// [`Ctx::reconnect`](crate::Ctx::reconnect).
        reconnect: Option<unsafe extern "C" fn(*mut RawContext)>,
        /// [`Ctx::missing_responses`](crate::Ctx::missing_responses).
        missing_responses: Option<unsafe extern "C" fn(*mut RawContext) -> u64>,
        /// [`Ctx::forget_waiting`](crate::Ctx::forget_waiting).
        forget_waiting: Option<unsafe extern "C" fn(*mut RawContext, Slice)>,
        /// [`Ctx::ready`](crate::Ctx::ready).
        ready: Option<unsafe extern "C" fn(*mut RawContext)>,
        /// [`Ctx::want_payload`](crate::Ctx::want_payload): [`PAYLOAD_NONE`], [`PAYLOAD_FULL`], or so many bytes.
        want_payload: Option<unsafe extern "C" fn(*mut RawContext, u32)>,
        /// [`Ctx::log`](crate::Ctx::log), with the level's number.
        log: Option<unsafe extern "C" fn(*mut RawContext, u32, Slice)>,
        /// [`Ctx::count`](crate::Ctx::count).
        count: Option<unsafe extern "C" fn(*mut RawContext, Slice, u64)>,
    }

    /// A module. Hooks return [`OK`], [`FAILED`] or [`PANICKED`].
    ModuleTable as "tcpcopy_module_table" {
        /// [`ABI_VERSION`] of the module. The first two fields are the same in every version.
        abi_version: u32,
        /// The size of this struct.
        struct_size: u32,
        /// [`About::name`](crate::About::name).
        name: Slice,
        /// [`About::version`](crate::About::version).
        version: Slice,
        /// [`About::summary`](crate::About::summary).
        summary: Slice,
        /// [`TRANSPORT_TCP`] or [`TRANSPORT_UDP`].
        transport: u32,
        /// 1 for [`About::sees_online`](crate::About::sees_online), otherwise 0.
        sees_online: u32,
        /// The first of the options.
        options: *const RawOption,
        /// How many there are.
        option_count: usize,
        /// [`Module::create`](crate::Module::create): puts the module's handle, which may be null, where the last argument points.
        create: Option<
            unsafe extern "C" fn(
                *const HostTable, *mut RawContext, *const RawSetting, usize, *mut *mut RawModule,
            ) -> u32,
        >,
        /// Ends a module that was made.
        destroy: Option<unsafe extern "C" fn(*mut RawModule)>,
        /// [`Module::on_open`](crate::Module::on_open): puts the session's handle where the last argument points, or
        /// leaves the null there to bypass.
        session_open: Option<
            unsafe extern "C" fn(
                *mut RawModule, *const HostTable, *mut RawContext, *const RawSessionInfo, *mut *mut RawSession,
            ) -> u32,
        >,
        /// Ends a session's handle. Comes once for each, after all its hooks.
        session_destroy: Option<unsafe extern "C" fn(*mut RawSession)>,
        /// [`Module::join_at`](crate::Module::join_at): puts the offset where the last argument points, or leaves the
        /// [`NO_BOUNDARY`] there. May be null.
        join_at: Option<
            unsafe extern "C" fn(*mut RawModule, *const HostTable, *mut RawContext, Slice, *mut usize) -> u32,
        >,
        /// [`Module::after_target_close`](crate::Module::after_target_close): puts [`AFTER_CLOSE_RECONNECT`] where the
        /// last argument points, or leaves the [`AFTER_CLOSE_END`] there. May be null.
        after_target_close: Option<
            unsafe extern "C" fn(*mut RawModule, *const HostTable, *mut RawContext, *mut u32) -> u32,
        >,
        /// [`Session::on_open`](crate::Session::on_open). May be null.
        on_open: Option<unsafe extern "C" fn(*mut RawSession, *const HostTable, *mut RawContext) -> u32>,
        /// [`Session::on_client_data`](crate::Session::on_client_data).
        on_client_data: Option<unsafe extern "C" fn(*mut RawSession, *const HostTable, *mut RawContext, Slice) -> u32>,
        /// [`Session::on_client_close`](crate::Session::on_client_close). May be null.
        on_client_close: Option<unsafe extern "C" fn(*mut RawSession, *const HostTable, *mut RawContext, Slice) -> u32>,
        /// [`Session::on_target_data`](crate::Session::on_target_data), with the bytes hidden behind these. May be null.
        on_target_data: Option<
            unsafe extern "C" fn(*mut RawSession, *const HostTable, *mut RawContext, Slice, u32) -> u32,
        >,
        /// [`Session::on_online_data`](crate::Session::on_online_data), with the bytes lost before these. May be null.
        on_online_data: Option<
            unsafe extern "C" fn(*mut RawSession, *const HostTable, *mut RawContext, Slice, u64) -> u32,
        >,
        /// [`Session::on_resume`](crate::Session::on_resume). May be null.
        on_resume: Option<unsafe extern "C" fn(*mut RawSession, *const HostTable, *mut RawContext) -> u32>,
        /// [`Session::on_close`](crate::Session::on_close), with a null reason when it was copied to its end. May be
        /// null.
        on_close: Option<unsafe extern "C" fn(*mut RawSession, *const HostTable, *mut RawContext, Slice) -> u32>,
    }
}

impl Slice {
    /// No bytes, and nowhere.
    pub const NULL: Self = Self { data: std::ptr::null(), len: 0 };

    /// The bytes of `bytes`, which must outlive whatever reads the result.
    pub const fn of(bytes: &[u8]) -> Self {
        Self { data: bytes.as_ptr(), len: bytes.len() }
    }

    /// The bytes, or `None` when they cannot be: nowhere, and yet some, or more than fit into memory.
    ///
    /// # Safety
    /// Unless it is null or longer than memory, there must be so many readable bytes there that nobody writes while `'a`
    /// lasts.
    pub unsafe fn bytes<'a>(self) -> Option<&'a [u8]> {
        if self.len == 0 {
            return Some(&[]);
        }
        if self.data.is_null() || self.len > isize::MAX as usize {
            return None;
        }
        // SAFETY: not null, not too long; that the bytes are there is the caller's promise.
        Some(unsafe { std::slice::from_raw_parts(self.data, self.len) })
    }
}

// SAFETY: an option's strings are only read, and are there as long as the table that they belong to.
unsafe impl Sync for RawOption {}
// SAFETY: as above; a table is only read once it is handed out.
unsafe impl Sync for ModuleTable {}
// SAFETY: as above, and nothing in it belongs to a thread.
unsafe impl Send for ModuleTable {}
