//! The real `tcpcopy` and `intercept`, running in a lab.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use std::{fmt, io};

use tcpcopy_io::netns::{CpuTime, Process, wait_for};

/// Where the programs are.
#[derive(Clone, Debug)]
pub struct Programs {
    /// Path of `tcpcopy`.
    pub tcpcopy: PathBuf,
    /// Path of `intercept`.
    pub intercept: PathBuf,
}

impl Programs {
    /// The running program as `tcpcopy`, and the `intercept` beside it.
    ///
    /// # Errors
    /// When the system does not tell the running program's path.
    pub fn beside_current() -> io::Result<Self> {
        let tcpcopy = std::env::current_exe()?;
        let intercept = tcpcopy.with_file_name("intercept");
        Ok(Self { tcpcopy, intercept })
    }
}

/// A program with its last lines of output.
#[derive(Debug)]
pub struct Watched {
    /// The program.
    pub process: Process,
    name: String,
    lines: Arc<Mutex<VecDeque<String>>>,
}

/// A program that could not be started, or did not come up.
#[derive(Debug)]
pub struct NotRunning {
    program: String,
    what: String,
    output: Vec<String>,
}

impl fmt::Display for NotRunning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.program, self.what)?;
        self.output.iter().try_for_each(|line| write!(f, "\n    {line}"))
    }
}

impl std::error::Error for NotRunning {}

/// Lines of output that are kept.
const KEPT_LINES: usize = 60;

impl Watched {
    /// Starts `command` and keeps what it prints.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(command: &mut Command) -> Result<Self, NotRunning> {
        let path = command.get_program().to_owned();
        let name = Path::new(&path).file_name().unwrap_or(&path).to_string_lossy().into_owned();
        let failed = |error: io::Error| NotRunning {
            program: path.to_string_lossy().into_owned(),
            what: format!("cannot be started: {error}"),
            output: Vec::new(),
        };
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = Process::start(command).map_err(failed)?;
        let lines = Arc::new(Mutex::new(VecDeque::new()));
        let child = process.child_mut();
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        // These threads end with the program, whose ends of the pipes close then.
        if let Some(pipe) = stdout {
            keep_lines(pipe, Arc::clone(&lines)).map_err(failed)?;
        }
        if let Some(pipe) = stderr {
            keep_lines(pipe, Arc::clone(&lines)).map_err(failed)?;
        }
        Ok(Self { process, name, lines })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The last lines that it printed.
    pub fn output(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// Waits until `ready` says so.
    ///
    /// # Errors
    /// When the program ends, or is not ready after `patience`; with its output.
    pub fn wait_until(
        &mut self,
        what: &str,
        patience: Duration,
        mut ready: impl FnMut(&Process) -> bool,
    ) -> Result<(), NotRunning> {
        let outcome = wait_for(patience, || match self.process.try_wait() {
            Some(status) => Some(Err(format!("ended early ({status})"))),
            None => ready(&self.process).then_some(Ok(())),
        });
        match outcome {
            Some(Ok(())) => Ok(()),
            Some(Err(what)) => Err(self.not_running(what)),
            None => Err(self.not_running(format!("did not {what} within {} s", patience.as_secs()))),
        }
    }

    fn not_running(&self, what: String) -> NotRunning {
        NotRunning { program: self.name.clone(), what, output: self.output() }
    }

    /// Processor time used so far.
    pub fn cpu_time(&self) -> CpuTime {
        self.process.cpu_time().unwrap_or_default()
    }
}

fn keep_lines(pipe: impl Read + Send + 'static, lines: Arc<Mutex<VecDeque<String>>>) -> io::Result<()> {
    std::thread::Builder::new().name("output".into()).spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
            if lines.len() == KEPT_LINES {
                lines.pop_front();
            }
            lines.push_back(line);
        }
    })?;
    Ok(())
}
