//! What a protocol module depends on: the traits through which the engine knows it, and nothing else.
//!
//! A [`Module`] is made once, from the options that the user gave. The engine asks it for a [`Session`] whenever a client
//! begins to talk; a module that has no business with the bytes answers [`Attachment::Bypass`] and costs nothing from
//! then on. A session sees bytes in order, of both directions if it wants, and decides through [`Ctx`] what reaches the
//! target. It never sees packets, sequence numbers or sockets: the engine owns segmentation, sequence arithmetic,
//! retransmission and timing, so that a module may change lengths, leave messages out and send bytes of its own.
//!
//! # A module in full
//!
//! ```
//! use tcpcopy_module_api::{About, Attachment, Ctx, Module, Options, Session, SessionInfo, Transport};
//!
//! /// Copies lines that do not begin with `-`.
//! struct NoMinus;
//!
//! impl Module for NoMinus {
//!     fn about() -> About {
//!         About { name: "nominus", summary: "lines without a minus", ..About::new(Transport::Tcp, env!("CARGO_PKG_VERSION")) }
//!     }
//!
//!     fn create(_: &Options) -> Result<Self, String> {
//!         Ok(Self)
//!     }
//!
//!     fn on_open(&self, _: &SessionInfo) -> Attachment {
//!         Attachment::watch(Lines)
//!     }
//! }
//!
//! struct Lines;
//!
//! impl Session for Lines {
//!     fn on_client_data(&mut self, ctx: &mut Ctx<'_>, mut data: &[u8]) {
//!         while let Some(end) = data.iter().position(|byte| *byte == b'\n') {
//!             let (line, rest) = data.split_at(end + 1);
//!             if line.starts_with(b"-") {
//!                 ctx.drop(line.len(), "begins with a minus");
//!             } else {
//!                 ctx.pass(line.len());
//!             }
//!             data = rest;
//!         }
//!         if data.len() > 65_536 {
//!             ctx.abort("a line of more than 64 KB");
//!         }
//!     }
//! }
//! ```
//!
//! # Rules
//!
//! A module runs on the thread that copies packets. It must never block, allocate without a bound, or trust a length that
//! it read: what a client sends is anybody's. A panic ends the session that it happened in.
//!
//! # A library of its own
//!
//! [`export_module!`] makes a shared library of a module, which `tcpcopy --proto ./path.so` loads. [`abi`] is what the two
//! sides agree on then, and `include/tcpcopy_module.h` is the same for C.

pub mod abi;
pub mod conformance;
mod ctx;
pub mod framing;
mod module;
pub mod testing;

pub use ctx::{Ctx, Host, LogLevel};
pub use module::{
    About, AfterTargetClose, Attachment, Module, ModuleEntry, ModuleHandle, OptionSpec, Options, Session, SessionInfo,
    TargetData,
};
pub use tcpcopy_wire::control::Payload;
pub use tcpcopy_wire::{Endpoint, Flow, Port, Timestamp, Transport};

/// The code in the guide for authors compiles.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/modules.md")]
pub struct Guide;
