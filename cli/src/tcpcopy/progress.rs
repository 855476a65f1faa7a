//! How far a replay is, for the person who waits for it: a bar on a terminal, a line now and then otherwise.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::replay::Progress;

/// Time between two looks: the bar moves, and the end is noticed.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Time between two lines.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// See the [module's documentation](self).
pub struct ProgressDisplay {
    /// `None`: lines in the log.
    bar: Option<ProgressBar>,
    next_line: Instant,
}

impl ProgressDisplay {
    /// On the terminal, if there is one and it is ours.
    pub fn new(daemon: bool) -> Self {
        let bar = (!daemon && io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::new(0);
            let style = ProgressStyle::with_template("{wide_bar} {bytes}/{total_bytes} {elapsed} {msg}");
            bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        Self { bar, next_line: Instant::now() + LINE_EVERY }
    }

    /// How often [`show`](Self::show) is to be called.
    pub fn every() -> Duration {
        LOOK_EVERY
    }

    /// Shows it.
    pub fn show(&mut self, progress: &Progress) {
        if let Some(bar) = &self.bar {
            bar.set_length(progress.read.1);
            bar.set_position(progress.read.0);
            bar.set_message(progress.to_string());
        } else if Instant::now() >= self.next_line {
            self.next_line = Instant::now() + LINE_EVERY;
            log::info!("replay: {progress}");
        }
    }
}

impl Drop for ProgressDisplay {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
