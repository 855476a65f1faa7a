//! What a run leaves behind: samples of its counters, a file of them, and the report at the end.
//!
//! ```text
//! counters --every second, later less often--> Sample --+--> a line of the statistics file --> tcpcopy report FILE
//!                                                       +--> History ------------------------> --report
//! ```
//!
//! The page is made of a [`History`] either way, so that both ways lead to the same page.

pub mod command;
pub mod file;
pub mod history;
mod recorder;
pub mod sample;
pub mod times;

pub use history::History;
pub use recorder::{Files, Recorder};
pub use sample::{Begin, End, Ended, Line, Sample};
