//! A terminal for a program that draws on one.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tcpcopy_io::netns::{Process, wait_for};

const PATIENCE: Duration = Duration::from_secs(60);

/// A program in a terminal of so many rows and columns, by script(1).
pub struct Terminal {
    script: Process,
    output: PathBuf,
    read: usize,
}

impl Terminal {
    /// Runs `line` by a shell in a terminal of (rows, columns), whose text goes to a file in `folder`. `script`: the
    /// command `script` without arguments, on the host where the line is to run.
    pub fn start(mut script: Command, folder: &Path, (rows, columns): (u16, u16), line: &str) -> Self {
        let output = folder.join("terminal");
        let _ = fs::remove_file(&output);
        let sized = format!("stty rows {rows} cols {columns}; exec {line}");
        script.args(["-q", "-e", "-f", "-c", &sized]).arg(&output).env("TERM", "xterm");
        script.stdin(Stdio::piped()).stdout(Stdio::null());
        Self { script: Process::start(&mut script).expect("script (package bsdutils)"), output, read: 0 }
    }

    /// Presses keys.
    pub fn press(&mut self, keys: &[u8]) {
        self.read = self.text().len();
        let stdin = self.script.child_mut().stdin.as_mut().expect("a pipe");
        stdin.write_all(keys).expect("the terminal");
        stdin.flush().expect("the terminal");
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.output).unwrap_or_default()).into_owned()
    }

    /// Waits until this is drawn, since the last key.
    pub fn wait_for(&self, words: &str) {
        let drawn = wait_for(PATIENCE, || self.text()[self.read..].contains(words).then_some(()));
        assert!(drawn.is_some(), "`{words}` is not drawn:\n{}", self.text());
    }

    /// Waits for the end, which must be a good one.
    pub fn end(mut self) {
        let status = self.script.wait(PATIENCE);
        assert!(status.is_some_and(|status| status.success()), "ended with {status:?}:\n{}", self.text());
        // The alternate screen is left (xterm's control sequences, DECSET 1049).
        assert!(self.text().contains("\u{1b}[?1049l"), "the terminal is not left as it was");
    }
}
