//! `doctor`: looks for what keeps a copy from working, and says what mends it.

mod finding;

pub use finding::{Finding, Outcome};
