//! Takes the samples of a run, writes them down, and makes the report when it ends.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use flexi_logger::DeferredNow;

use super::history::History;
use super::sample::{Begin, End, Ended, Line, Sample};
use crate::exit::{Exit, Failure};
use crate::tcpcopy::options::Options;
use crate::tcpcopy::page;
use crate::tcpcopy::report::Snapshot;

/// Between two samples, at first.
const EVERY: Duration = Duration::from_secs(1);

/// See the [module's documentation](self).
pub struct Recorder {
    history: History,
    before: Snapshot,
    began: Instant,
    sampled_at: Instant,
    every: Duration,
    file: Option<StatisticsFile>,
    page: Option<PathBuf>,
}

#[derive(Debug)]
struct StatisticsFile {
    path: PathBuf,
    file: File,
}

/// The files of a run, opened while the program is still who started it: the user of `--user` may have no right to make them
/// where they are wanted.
#[derive(Debug, Default)]
pub struct Files {
    statistics: Option<StatisticsFile>,
    page: Option<PathBuf>,
}

impl Files {
    /// Opens what the options name. `may_replace` says whether whoever the program will run as may make new files beside one:
    /// where that is not so, the report's file is made now, and written in its place at the end.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn open(options: &Options, may_replace: impl Fn(&Path) -> bool) -> Result<Self, Failure> {
        Self::at(options.stats_file.as_deref(), options.report.as_deref(), may_replace)
    }

    fn at(
        statistics: Option<&Path>,
        page: Option<&Path>,
        may_replace: impl Fn(&Path) -> bool,
    ) -> Result<Self, Failure> {
        let open = |path| StatisticsFile::open(path).map_err(|e| statistics_failure(path, &e));
        let statistics = statistics.map(open).transpose()?;
        if let Some(path) = page.filter(|path| !may_replace(path)) {
            open_in_place(path).map_err(|e| page_failure(path, &e))?;
        }
        Ok(Self { statistics, page: page.map(Path::to_owned) })
    }
}

/// Opens a page to be written where it is; what is in it stays for now.
fn open_in_place(page: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(false).open(page)
}

/// Now, by this host's clock.
fn rfc3339() -> String {
    DeferredNow::new().format("%Y-%m-%dT%H:%M:%S%:z").to_string()
}

fn host_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "unknown".to_owned() } else { name.to_owned() }
}

impl StatisticsFile {
    /// Opens a file, to go on behind what is in it.
    fn open(path: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
        if file.metadata()?.len() > 0 {
            file.seek(SeekFrom::End(-1))?;
            let mut last = [0];
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                // A run before was killed within a line.
                file.write_all(b"\n")?;
            }
        }
        Ok(Self { path: path.to_owned(), file })
    }

    /// Writes a line whole, so that whoever reads while it grows sees whole lines.
    fn write(&mut self, line: &Line) -> io::Result<()> {
        let mut text = serde_json::to_string(line)?;
        text.push('\n');
        self.file.write_all(text.as_bytes())
    }
}

impl Recorder {
    /// Begins to record, where there are files to record to. The program is who it will be.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn start(options: &Options, files: Files) -> Result<Option<Self>, Failure> {
        if files.page.is_none() && files.statistics.is_none() {
            return Ok(None);
        }
        let begin = Begin::of(options, host_name(), rfc3339());
        Self::begin(begin, files).map(Some)
    }

    fn begin(begin: Begin, files: Files) -> Result<Self, Failure> {
        let Files { statistics: mut file, page } = files;
        if let Some(file) = &mut file {
            file.write(&Line::Begin(begin.clone())).map_err(|e| statistics_failure(&file.path, &e))?;
        }
        if let Some(path) = &page {
            // Better to hear of it now than after the run.
            let temporary = temporary_of(path);
            let tried = match File::create(&temporary) {
                Ok(_) => fs::remove_file(&temporary),
                Err(e) if e.kind() == io::ErrorKind::PermissionDenied => open_in_place(path).map(drop),
                Err(e) => Err(e),
            };
            tried.map_err(|e| page_failure(path, &e))?;
        }
        let now = Instant::now();
        Ok(Self {
            history: History::new(begin),
            before: Snapshot::default(),
            began: now,
            sampled_at: now,
            every: EVERY,
            file,
            page,
        })
    }

    /// When the next sample is due.
    pub fn next_due(&self) -> Instant {
        self.sampled_at + self.every
    }

    /// Takes a sample: these are the counters now.
    pub fn sample(&mut self, now: &Snapshot) {
        let at = Instant::now();
        let since = |earlier: Instant| at.saturating_duration_since(earlier).as_secs_f64();
        // Milliseconds: more digits only make the file longer.
        let round = |seconds: f64| (seconds * 1e3).round() / 1e3;
        let sample = Sample::between(&self.before, now, round(since(self.began)), round(since(self.sampled_at)));
        self.before = now.clone();
        self.sampled_at = at;
        if self.history.add(&sample) {
            self.every *= 2;
        }
        self.write(&Line::Sample(sample));
    }

    fn write(&mut self, line: &Line) {
        let Some(file) = &mut self.file else { return };
        if let Err(e) = file.write(line) {
            log::error!("cannot write {}: {e}; no more statistics are written to it", file.path.display());
            self.file = None;
        }
    }

    /// The run has ended like this, with these counters: writes the rest.
    ///
    /// # Errors
    /// When the page cannot be written.
    pub fn finish(mut self, now: &Snapshot, how: Ended) -> Result<(), Failure> {
        self.sample(now);
        let end = End { ended: rfc3339(), how };
        self.write(&Line::End(end.clone()));
        self.history.end = Some(end);
        let Some(path) = &self.page else { return Ok(()) };
        write_page(path, &self.history).map_err(|e| {
            let failure = page_failure(path, &e);
            log::error!("{failure}");
            failure
        })?;
        log::info!("the report is in {}", path.display());
        Ok(())
    }
}

fn statistics_failure(path: &Path, e: &io::Error) -> Failure {
    Failure::new(Exit::Failure, format!("cannot write {} (--stats-file): {e}", path.display()))
}

fn page_failure(path: &Path, e: &io::Error) -> Failure {
    Failure::new(Exit::Failure, format!("cannot write the report {}: {e}", path.display()))
}

/// A name beside a file's own, for what is not complete.
fn temporary_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    name.into()
}

/// Makes the page and puts it in its place whole, in the place of an older one. Where the folder takes no new file, but an
/// older one may be written, the page is written into that.
///
/// # Errors
/// The system's.
pub(super) fn write_page(path: &Path, history: &History) -> io::Result<()> {
    let temporary = temporary_of(path);
    let page = page::render(history);
    let written = fs::write(&temporary, &page).and_then(|()| fs::rename(&temporary, path));
    let Err(e) = written else { return Ok(()) };
    let _ = fs::remove_file(&temporary);
    if e.kind() == io::ErrorKind::PermissionDenied && path.exists() {
        return fs::write(path, page);
    }
    Err(e)
}

#[cfg(test)]
mod tests;
