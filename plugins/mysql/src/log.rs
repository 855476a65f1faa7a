//! The log of statements: JSON, one statement a line, written by a thread of its own so that no disk holds up the copy.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use tcpcopy_module_api::SessionInfo;

/// Lines that may wait to be written. What does not fit is left out, and counted.
const WAITING: usize = 16_384;
/// Bytes of a statement's text in a line.
const TEXT_LEN: usize = 2_048;

/// A statement that was answered.
pub(crate) struct Entry<'a> {
    pub(crate) session: &'a SessionInfo,
    pub(crate) user: &'a [u8],
    pub(crate) command: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) text: &'a [u8],
    /// From the command to the first packet of the answer, as captured.
    pub(crate) online: Option<Duration>,
    /// From sending the command to the end of its answer.
    pub(crate) target: Duration,
    /// The number of the target's error.
    pub(crate) error: Option<u16>,
}

/// See the [module's documentation](self).
#[derive(Debug)]
pub(crate) struct StatementLog {
    lines: Option<SyncSender<String>>,
    writer: Option<JoinHandle<()>>,
}

impl StatementLog {
    /// Appends to a file.
    pub(crate) fn open(path: &str) -> Result<Self, String> {
        let cannot = |e: std::io::Error| format!("option `log`: cannot write `{path}`: {e}");
        let file = File::options().create(true).append(true).open(path).map_err(cannot)?;
        let (lines, received) = sync_channel(WAITING);
        let writer = std::thread::Builder::new().name("mysql-log".to_owned()).spawn(move || write(&received, file));
        Ok(Self { lines: Some(lines), writer: Some(writer.map_err(cannot)?) })
    }

    /// Writes a line. `false`: it did not fit.
    pub(crate) fn write(&self, entry: &Entry<'_>) -> bool {
        self.lines.as_ref().is_some_and(|lines| lines.try_send(line(entry)).is_ok())
    }
}

impl Drop for StatementLog {
    fn drop(&mut self) {
        // Without a sender the writer comes to its end.
        self.lines = None;
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

fn write(lines: &Receiver<String>, file: File) {
    let mut file = BufWriter::new(file);
    while let Ok(line) = lines.recv() {
        // A disk that is full is full for the next line, too; the copy goes on.
        let _ = file.write_all(line.as_bytes());
        while let Ok(line) = lines.try_recv() {
            let _ = file.write_all(line.as_bytes());
        }
        let _ = file.flush();
    }
}

fn line(entry: &Entry<'_>) -> String {
    let millis = |time: Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
    let text = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(TEXT_LEN)]).into_owned();
    let mut line = serde_json::json!({
        "client": entry.session.online.client.to_string(),
        "target": entry.session.target.server.to_string(),
        "user": text(entry.user),
        "command": entry.command,
        "kind": entry.kind,
        "statement": text(entry.text),
        "online_ms": entry.online.map(millis),
        "target_ms": millis(entry.target),
        "error": entry.error,
    })
    .to_string();
    line.push('\n');
    line
}
