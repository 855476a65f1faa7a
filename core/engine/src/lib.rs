//! The whole logic of `tcpcopy` and of `intercept`, with no I/O, no clock, no threads and no globals.
//!
//! [`Copier`] is tcpcopy: captured client packets and the target's responses go in, packets for the target and route
//! changes for intercept come out. [`Relay`](relay::Relay) is intercept: captured responses and route changes go in,
//! response records for the right tcpcopy come out. Both are driven the same way:
//!
//! ```text
//! engine.handle(now, input, &mut outbox);      // as often as there is input
//! let wake_me = engine.next_deadline();        // then wait for input, at most until then
//! engine.handle(now, Input::Timeout, &mut outbox);
//! ```
//!
//! Time never comes from anywhere but `now`, which must not run backwards, and chance only from the seed given to
//! `new`. So a run can be repeated exactly, and live copy, offline replay and simulation are one engine.

mod chunked;
pub mod copier;
pub mod counters;
pub mod latency;
pub mod ledger;
pub mod outbox;
pub mod probe;
mod ranges;
pub mod relay;
mod session;
mod target;
mod timer;

pub use copier::config::{CopierConfig, Gate, Map, Rate, SampleBy, Traffic};
pub use copier::{Copier, Input};
pub use counters::{ModuleCounter, ModuleCounters};
pub use latency::Latency;
pub use ledger::{Ledger, MapLedger};
pub use outbox::{LinkId, Notice, Outbox};
pub use probe::{Probe, ProbeConfig, ProbeInput};
pub use relay::{PeerId, Relay, RelayConfig, RelayInput, RelayNotice, RelayOutbox};
