//! The live view: a running program answers on a unix socket what it does, and takes orders; `top`, `status`, `pause`,
//! `resume` and `set` ask. What is said on the socket is in `docs/live.md`.
//!
//! ```text
//! tcpcopy status ── client ──▶ socket ──▶ server (a thread) ──▶ main thread ──▶ workers
//!                   protocol                                    supervise
//! ```

mod client;
pub mod command;
pub mod durations;
mod place;
pub mod protocol;
pub(crate) mod server;
pub(crate) mod settings;
mod text;
mod top;

pub(crate) use place::{Socket, socket};
