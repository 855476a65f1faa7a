//! Clients.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tcpcopy::demo::client::{self, Outcome, Plan, Progress};
use tcpcopy_io::netns::{Host, Namespace, Process};

/// Runs `plan` in a host's namespace to its end.
pub fn run(host: &Namespace, plan: &Plan) -> Outcome {
    let progress = Arc::new(Progress::default());
    host.run(|| client::run(plan, &progress)).and_then(|outcome| outcome).expect("a client")
}

/// A client that runs while the test does something else.
pub struct Running {
    /// How far it is.
    pub progress: Arc<Progress>,
    thread: JoinHandle<Outcome>,
}

impl Running {
    /// Starts `plan` in a host's namespace.
    pub fn start(host: &Namespace, plan: Plan) -> Self {
        let progress = Arc::new(Progress::default());
        let namespace = host.share().expect("a descriptor");
        let shared = Arc::clone(&progress);
        let thread = std::thread::spawn(move || {
            namespace.enter().expect("the client's namespace");
            client::run(&plan, &shared).expect("a client")
        });
        Self { progress, thread }
    }

    /// Waits for its end.
    pub fn join(self) -> Outcome {
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// How `wrk` sends.
pub struct Wrk {
    /// Connections, all in one thread.
    pub connections: u32,
    /// How long it runs, in seconds.
    pub seconds: u32,
    /// Whether each request has a connection of its own.
    pub close: bool,
    /// What it sends.
    pub load: WrkLoad,
}

/// What `wrk` sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WrkLoad {
    /// The same request, over and over.
    AsFastAsItGoes,
    /// Requests with a number each in their path, from 0 on.
    Numbered {
        /// Milliseconds between an answer and the next request on the same connection.
        pause_ms: u32,
        /// About as many requests; behind them it only waits for its end, so that nothing is under way then.
        limit: u64,
    },
}

impl Wrk {
    /// Runs it on `host`; its script and output are in `folder`.
    pub fn run(&self, host: &Host, server: SocketAddr, folder: &Path) -> String {
        let script = folder.join("wrk.lua");
        fs::write(&script, self.script()).expect("wrk.lua");
        let output = folder.join("wrk.out");
        let file = File::create(&output).expect("wrk.out");
        let mut command = host.command("wrk");
        command.args(["-t1", "-c", &self.connections.to_string(), "-d", &format!("{}s", self.seconds)]);
        command.args(["--timeout", "20s"]).arg("-s").arg(&script).arg(format!("http://{server}/"));
        command.stdout(file.try_clone().expect("a descriptor")).stderr(file);
        let mut wrk = Process::start(&mut command).expect("wrk (package wrk)");
        let patience = Duration::from_secs(u64::from(self.seconds) + 60);
        let status = wrk.wait(patience).expect("the end of wrk");
        let text = fs::read_to_string(&output).expect("wrk.out");
        assert!(status.success(), "wrk ended with {status}:\n{text}");
        text
    }

    fn script(&self) -> String {
        let close = if self.close { "wrk.headers['Connection'] = 'close'\n" } else { "" };
        let numbered = match self.load {
            WrkLoad::AsFastAsItGoes => String::new(),
            WrkLoad::Numbered { pause_ms, limit } => format!(
                "number = 0
                 function request()
                     local path = '/r/' .. number
                     number = number + 1
                     return wrk.format('GET', path)
                 end
                 function delay()
                     if number >= {limit} then return 1000000 end
                     return {pause_ms}
                 end\n"
            ),
        };
        format!("{close}{numbered}")
    }
}
