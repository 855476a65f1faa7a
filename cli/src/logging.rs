//! The log: lines of the form `2026/01/31 12:34:56 +789 [warn] text`, or JSON objects, to a file or to stderr. Where stderr
//! is systemd's journal, which has the time and the program's name by itself, lines are `<4>text`, with syslog's number for
//! the level.

use std::borrow::Cow;
use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use flexi_logger::{DeferredNow, FileSpec, FlexiLoggerError, LogSpecification, Logger, LoggerHandle, WriteMode};
use log::{LevelFilter, Record};

/// What a line of the log looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// `2026/01/31 12:34:56 +789 [warn] text`.
    #[default]
    Text,
    /// `{"time":"2026-01-31T12:34:56.789+01:00","level":"warn","message":"text"}`.
    Json,
}

impl LogFormat {
    /// Reads `--log-format`.
    ///
    /// # Errors
    /// What there is, in words.
    pub fn parse(text: Option<&str>) -> Result<Self, String> {
        match text {
            None | Some("text") => Ok(Self::Text),
            Some("json") => Ok(Self::Json),
            Some(other) => Err(format!("in --log-format: `{other}` is neither text nor json")),
        }
    }
}

/// The running log. Logging stops when it is dropped.
pub struct Log {
    handle: LoggerHandle,
    file: Option<PathBuf>,
}

/// Why there is no log.
#[derive(Debug)]
pub struct LogError {
    file: Option<PathBuf>,
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.file {
            Some(file) => write!(f, "cannot write the log file {}: {}", file.display(), self.source),
            None => write!(f, "cannot log to stderr: {}", self.source),
        }
    }
}

impl std::error::Error for LogError {}

impl Log {
    /// Begins to log what is at least as grave as `level`, in this form: appended to `file`, or to stderr if there is none.
    ///
    /// # Errors
    /// When the file cannot be written, or a log is running already.
    pub fn start(file: Option<&Path>, level: LevelFilter, format: LogFormat) -> Result<Self, LogError> {
        let to_error = |source: FlexiLoggerError| LogError { file: file.map(Path::to_owned), source: source.into() };
        let write = match format {
            LogFormat::Text if file.is_none() && stderr_is_the_journal() => write_priority,
            LogFormat::Text => write_line,
            LogFormat::Json => write_json,
        };
        let logger = Logger::with(LogSpecification::builder().default(level).build()).format(write);
        let logger = match file {
            Some(path) => {
                let spec = FileSpec::try_from(path).map_err(to_error)?;
                logger.log_to_file(spec).append().write_mode(WriteMode::Direct)
            }
            None => logger.log_to_stderr(),
        };
        // What cannot be logged any more, because who read it has gone, is no reason to end a copy.
        let logger = logger.panic_if_error_channel_is_broken(false);
        let handle = logger.start().map_err(to_error)?;
        Ok(Self { handle, file: file.map(Path::to_owned) })
    }

    /// From now on, logs what is at least as grave as `level`.
    pub fn set_level(&self, level: LevelFilter) {
        self.handle.set_new_spec(LogSpecification::builder().default(level).build());
    }

    /// Opens the file again by its name, after it was moved away (log rotation), and says in the log how it went: when it cannot
    /// be created, lines still go to the old file.
    pub fn reopen(&self) {
        match self.open_again() {
            Ok(()) => log::info!("log opened again"),
            Err(e) => log::error!(
                "{e}; lines go on in this file, which may have another name by now; let the program's user write to the folder, \
                 and send HUP again"
            ),
        }
    }

    fn open_again(&self) -> Result<(), LogError> {
        if let Some(file) = &self.file {
            // The logger keeps the system's reason to itself, and lets go of the old file even when there is no new one.
            let opened = fs::OpenOptions::new().append(true).create(true).open(file);
            opened.map_err(|e| LogError { file: Some(file.clone()), source: e.into() })?;
        }
        self.handle.reopen_output().map_err(|source| LogError { file: self.file.clone(), source: source.into() })
    }
}

fn level(record: &Record<'_>) -> &'static str {
    match record.level() {
        log::Level::Error => "error",
        log::Level::Warn => "warn",
        log::Level::Info => "info",
        log::Level::Debug => "debug",
        log::Level::Trace => "trace",
    }
}

fn write_line(out: &mut dyn Write, now: &mut DeferredNow, record: &Record<'_>) -> io::Result<()> {
    write!(out, "{} [{}] {}", now.format("%Y/%m/%d %H:%M:%S +%3f"), level(record), record.args())
}

/// A line with its priority in front (sd-daemon(3)); each line of a text that has several.
fn write_priority(out: &mut dyn Write, _: &mut DeferredNow, record: &Record<'_>) -> io::Result<()> {
    let priority = match record.level() {
        log::Level::Error => 3,
        log::Level::Warn => 4,
        log::Level::Info => 6,
        log::Level::Debug | log::Level::Trace => 7,
    };
    let text = record.args().to_string().replace('\n', &format!("\n<{priority}>"));
    write!(out, "<{priority}>{text}")
}

/// Whether what is written to stderr goes to the journal itself, and not to a file or a pipe that the program was given in its
/// place: `JOURNAL_STREAM` names the socket (systemd.exec(5)).
fn stderr_is_the_journal() -> bool {
    let Some(named) = std::env::var_os("JOURNAL_STREAM") else { return false };
    let own = fs::metadata("/proc/self/fd/2").map(|socket| format!("{}:{}", socket.dev(), socket.ino()));
    own.is_ok_and(|own| named.to_str() == Some(&own))
}

/// One object a line (JSON Lines). The time is of RFC 3339.
fn write_json(out: &mut dyn Write, now: &mut DeferredNow, record: &Record<'_>) -> io::Result<()> {
    let time = now.format("%Y-%m-%dT%H:%M:%S%.3f%:z").to_string();
    let (level, message) = (level(record), serde_json::Value::from(record.args().to_string()));
    write!(out, "{{\"time\":\"{time}\",\"level\":\"{level}\",\"message\":{message}}}")
}

/// A text of a module or of a client, fit for one line of the log: control characters do not get through.
pub fn one_line(text: &str) -> Cow<'_, str> {
    if text.contains(char::is_control) {
        return text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect::<String>().into();
    }
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_json_a_line_is_an_object_whatever_the_text() {
        let mut out = Vec::new();
        let record = Record::builder().args(format_args!("a \"word\"\nand a line")).level(log::Level::Error).build();
        write_json(&mut out, &mut DeferredNow::new(), &record).unwrap();
        let line = String::from_utf8(out).unwrap();
        assert!(!line.contains('\n'), "{line}");
        let object: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&object["level"], &object["message"]), (&"error".into(), &"a \"word\"\nand a line".into()));
        let time = object["time"].as_str().unwrap();
        assert!(time.len() >= 24 && &time[10..11] == "T" && &time[19..20] == ".", "{time}");
        assert_eq!(LogFormat::parse(Some("xml")), Err("in --log-format: `xml` is neither text nor json".to_owned()));
    }

    #[test]
    fn for_the_journal_each_line_has_its_priority_and_no_time() {
        for (level, priority) in
            [(log::Level::Error, 3), (log::Level::Warn, 4), (log::Level::Info, 6), (log::Level::Debug, 7)]
        {
            let mut out = Vec::new();
            let record = Record::builder().args(format_args!("one\ntwo")).level(level).build();
            write_priority(&mut out, &mut DeferredNow::new(), &record).unwrap();
            assert_eq!(String::from_utf8(out).unwrap(), format!("<{priority}>one\n<{priority}>two"));
        }
    }

    #[test]
    fn a_line_has_the_time_the_level_and_the_text() {
        let mut out = Vec::new();
        let record = Record::builder().args(format_args!("copying")).level(log::Level::Warn).build();
        write_line(&mut out, &mut DeferredNow::new(), &record).unwrap();
        let line = String::from_utf8(out).unwrap();
        // 2026/01/31 12:34:56 +789 [warn] copying
        let pattern = "dddd/dd/dd dd:dd:dd +ddd [warn] copying";
        assert_eq!(line.len(), pattern.len(), "{line}");
        for (c, p) in line.chars().zip(pattern.chars()) {
            assert!(if p == 'd' && !c.is_alphabetic() { c.is_ascii_digit() } else { c == p }, "{line}");
        }
    }

    #[test]
    fn what_a_module_or_client_says_stays_on_its_line() {
        assert_eq!(one_line("a plain text"), "a plain text");
        assert_eq!(one_line("two\nlines\r\u{1b}[31m"), "two\u{fffd}lines\u{fffd}\u{fffd}[31m");
    }
}
