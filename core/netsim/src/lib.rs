//! tcpcopy's engines on a virtual network: virtual time, chance from a seed, and TCPs that are not their own.
//!
//! Clients talk to online over smoltcp sockets; a capture shows the engine what arrives at online; what the engine sends
//! travels over a path, which may be bad, to a target with smoltcp sockets, whose packets travel back over another to the
//! relay engine, and from there as bytes of the control link.
//!
//! ```text
//!   clients ---- client path ---- online
//!                            |
//!                         capture (loss, duplicates, merging)
//!                            v
//!                         Copier ---- to_target ------> target
//!                            ^                            |
//!                            +--- intercept <--- from_target
//! ```
//!
//! [`Network`] runs whatever [`Application`]s it is given; the engine's own tests do. A test of a protocol module wants
//! [`ModuleNetwork`], on which clients are scripts and servers are closures.
//!
//! Nothing here sleeps or looks at a clock: a minute on a path with losses takes milliseconds, and the same seed gives
//! the same run.

mod application;
mod chance;
mod conditions;
mod events;
mod host;
mod intercept;
mod merging;
mod modules;
mod network;
mod packets;
mod probe;
mod server_host;

pub use application::{Application, Begin, Client, Listener, Service};
pub use chance::{Chance, Quality};
pub use conditions::{Capture, Conditions, ONLINE_PORT, Place, TARGET_PORT};
pub use modules::{
    ClientOutcome, Echo, End, Faulty, FromFn, Lines, ModuleNetwork, Outcome, Reply, Script, Server, TargetConnection,
    lines, serve,
};
pub use network::{Network, Record};
pub use probe::{Fate, ProbeConditions, ProbeOutcome, run_probe};
/// The socket that an [`Application`] reads and writes.
pub use smoltcp::socket::tcp::{Socket, State};

/// What went wrong, in words: a test prints it.
pub type Failure = String;
