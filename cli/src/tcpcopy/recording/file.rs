//! Reads a statistics file.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use super::history::History;
use super::sample::{FORMAT, Line};

/// Why a statistics file cannot be used.
#[derive(Debug)]
pub enum ReadError {
    /// It cannot be read.
    Read(io::Error),
    /// A line is none of a statistics file.
    NotALine {
        /// Which, from 1.
        number: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// It is of another version.
    Format(u32),
    /// There is no run in it.
    Empty,
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(e) => e.fmt(f),
            Self::NotALine { number, reason } => write!(f, "line {number} is none of --stats-file: {reason}"),
            Self::Format(format) => {
                write!(
                    f,
                    "the file is of format {format}, and this tcpcopy knows format {FORMAT}; use the one that wrote it"
                )
            }
            Self::Empty => f.write_str("no run begins in this file; it should be one that --stats-file wrote"),
        }
    }
}

impl std::error::Error for ReadError {}

/// A file's last run, and how many there are in it.
///
/// # Errors
/// Why the file cannot be used.
pub fn read(path: &Path) -> Result<(History, usize), ReadError> {
    let file = File::open(path).map_err(ReadError::Read)?;
    read_from(BufReader::new(file))
}

fn read_from(mut lines: impl BufRead) -> Result<(History, usize), ReadError> {
    let (mut history, mut runs) = (None, 0);
    let mut damage = None;
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        if lines.read_until(b'\n', &mut line).map_err(ReadError::Read)? == 0 {
            break;
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        match serde_json::from_slice(&line) {
            Ok(Line::Begin(begin)) if begin.format != FORMAT => return Err(ReadError::Format(begin.format)),
            Ok(Line::Begin(begin)) => {
                history = Some(History::new(begin));
                runs += 1;
                // It ends a run before that was killed within a line.
                damage = None;
            }
            Ok(other) => {
                if let Some(error) = damage {
                    return Err(error);
                }
                let Some(history) = &mut history else { return Err(ReadError::Empty) };
                match other {
                    Line::Sample(sample) => {
                        history.add(&sample);
                    }
                    Line::End(end) => history.end = Some(end),
                    Line::Begin(_) => {}
                }
            }
            Err(e) if damage.is_none() => damage = Some(ReadError::NotALine { number, reason: e.to_string() }),
            Err(_) => {}
        }
    }
    match (history, damage) {
        // The last line is not whole: its writer was killed, or is just writing it.
        (Some(history), _) => Ok((history, runs)),
        (None, Some(error)) => Err(error),
        (None, None) => Err(ReadError::Empty),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGIN: &str = r#"{"kind":"begin","format":1,"version":"0","host":"h","began":"t","maps":[],"devices":[],"files":[],"filter":"","intercepts":[],"measures_online":false,"workers":1,"options":[]}"#;
    const SAMPLE: &str = r#"{"kind":"sample","at":1.0,"seconds":1.0,"counted":{"requests":7},"now":{}}"#;
    const END: &str = r#"{"kind":"end","ended":"t","how":{"failed":"no reason"}}"#;

    fn read(lines: &[&str]) -> Result<(History, usize), ReadError> {
        read_from(lines.join("\n").as_bytes())
    }

    #[test]
    fn a_file_whose_writer_was_killed_is_read_up_to_there() {
        let (history, _) = read(&[BEGIN, SAMPLE, SAMPLE, &SAMPLE[..40]]).unwrap();
        assert_eq!((history.totals.count("requests"), history.end), (14, None));
        let (history, _) = read(&[BEGIN, SAMPLE, END, ""]).unwrap();
        assert!(matches!(history.end.unwrap().how, super::super::Ended::Failed(reason) if reason == "no reason"));
    }

    #[test]
    fn the_last_of_several_runs_counts() {
        let (history, runs) = read(&[BEGIN, SAMPLE, &SAMPLE[..40], BEGIN, SAMPLE, END]).unwrap();
        assert_eq!((history.totals.count("requests"), runs), (7, 2));
    }

    #[test]
    fn what_is_no_statistics_file_is_refused_with_the_line() {
        assert!(matches!(read(&["# a heading", "text"]), Err(ReadError::NotALine { number: 1, .. })));
        assert!(matches!(read(&[BEGIN, "text", SAMPLE]), Err(ReadError::NotALine { number: 2, .. })));
        assert!(matches!(read(&[SAMPLE]), Err(ReadError::Empty)));
        assert!(matches!(read(&[]), Err(ReadError::Empty)));
        assert!(matches!(read(&[&BEGIN.replace("\"format\":1", "\"format\":9")]), Err(ReadError::Format(9))));
    }
}
