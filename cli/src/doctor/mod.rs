//! `doctor`: looks for what keeps a copy from working, and says what mends it.
//!
//! Facts are gathered by `core/io/src/host`, by a short capture (`watch`) and over the control link (`ask`); what they mean is
//! decided by functions that look at nothing else (`host`, `answers`, `sources`, `firewall`, `intercepts`), so that each fault can be judged
//! without having it. The `probe` is the last check: a session through the whole loop.

mod answers;
mod ask;
mod checks;
pub mod command;
mod finding;
mod firewall;
mod host;
mod intercept;
mod intercepts;
mod probe;
mod rules;
mod run;
mod sources;
mod watch;

pub use finding::{Finding, Outcome};
