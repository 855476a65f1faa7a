//! `tcpcopy demo`: the whole of a copy on this one machine, for a few seconds.
//!
//! Four hosts are made out of network namespaces; a client sends requests to an online server; the real `tcpcopy` and
//! `intercept` copy them to a target server. Every request is accounted for at the end. Nothing outlives the demo.

pub mod client;
pub mod compare;
pub mod copy;
pub mod request;
pub mod screen;
pub mod server;

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{fmt, io};

use clap::Parser;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use tcpcopy_io::netns::{self, Lab, NetnsError};

use crate::exit::{self, Exit};
use client::{Outcome, Plan, Progress, Reuse};
use compare::Comparison;
use copy::{NotRunning, Programs, Watched};
use screen::{Screen, Style, readable, thousands};
use server::Server;

/// Shows a copy at work on this one machine: client, online, target and assistant in network namespaces of their own,
/// the real tcpcopy and intercept between them, and every request accounted for.
#[derive(Clone, Copy, Debug, Parser)]
#[command(name = "tcpcopy demo", bin_name = "tcpcopy demo")]
pub struct Options {
    /// Requests a second
    #[arg(long, default_value_t = 2000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=50_000))]
    rate: u32,
    /// Connections open at a time
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=5_000))]
    connections: u32,
    /// How long the client sends
    #[arg(long, default_value_t = 10, value_name = "S", value_parser = clap::value_parser!(u32).range(1..=3_600))]
    seconds: u32,
}

/// The port of both servers.
const PORT: u16 = 80;
/// The port on which intercept listens.
const INTERCEPT_PORT: u16 = 36524;
/// Numbers of the requests that only find out whether the copy works already.
const PROBES: u64 = 1 << 40;
/// Numbers of the requests on connections that serve one request each.
const SINGLES: u64 = 1 << 32;
/// How long a program may take to come up.
const START_PATIENCE: Duration = Duration::from_secs(10);
/// When nothing more has reached the target for this long, nothing more will.
const QUIET: Duration = Duration::from_secs(3);

#[derive(Debug)]
enum DemoError {
    Netns(NetnsError),
    Program(NotRunning),
    System { doing: &'static str, source: io::Error },
    NothingCopied { output: Vec<String> },
    Interrupted { signal: usize },
}

impl fmt::Display for DemoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Netns(error) => write!(f, "{error}"),
            Self::Program(error) => write!(f, "{error}"),
            Self::System { doing, source } => write!(f, "cannot {doing}: {source}"),
            Self::NothingCopied { output } => {
                write!(f, "no request reached the target within {} s; the programs said:", START_PATIENCE.as_secs())?;
                output.iter().try_for_each(|line| write!(f, "\n    {line}"))
            }
            Self::Interrupted { .. } => write!(f, "interrupted; everything is cleaned up"),
        }
    }
}

impl From<NetnsError> for DemoError {
    fn from(error: NetnsError) -> Self {
        Self::Netns(error)
    }
}

impl From<NotRunning> for DemoError {
    fn from(error: NotRunning) -> Self {
        Self::Program(error)
    }
}

impl DemoError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Netns(NetnsError::NotPermitted { .. }) => Exit::Permission.into(),
            // As a shell reports a program that a signal ended.
            Self::Interrupted { signal } => ExitCode::from(128 + *signal as u8),
            _ => Exit::Failure.into(),
        }
    }
}

fn system(doing: &'static str) -> impl FnOnce(io::Error) -> DemoError {
    move |source| DemoError::System { doing, source }
}

/// Runs the demo; `arguments` begin with the program's name. To be called at the start of `main`, before there is a
/// second thread: without root it enters a user namespace, which only a process with a single thread can.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let options = match Options::try_parse_from(arguments) {
        Ok(options) => options,
        Err(error) => return exit::parsed("tcpcopy demo", &error),
    };
    let screen = Screen::new();
    match show(options, screen) {
        Ok(perfect) => if perfect { Exit::Done } else { Exit::Failure }.into(),
        Err(error) => {
            screen.clear();
            crate::exit::say(&format!("tcpcopy demo: {error}"));
            error.exit_code()
        }
    }
}

/// The signal that asked the demo to end; 0 while none has.
#[derive(Clone, Default)]
struct Interrupt(Arc<AtomicUsize>);

impl Interrupt {
    fn watch() -> Result<Self, DemoError> {
        let signal = Self::default();
        for number in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register_usize(number, Arc::clone(&signal.0), number as usize)
                .map_err(system("watch for signals"))?;
        }
        Ok(signal)
    }

    fn check(&self) -> Result<(), DemoError> {
        match self.0.load(Ordering::Relaxed) {
            0 => Ok(()),
            signal => Err(DemoError::Interrupted { signal }),
        }
    }
}

/// Everything that runs. Fields are dropped in this order: programs first, hosts last.
struct Stage {
    tcpcopy: Watched,
    intercept: Watched,
    online: Server,
    target: Server,
    lab: Lab,
}

fn show(options: Options, screen: Screen) -> Result<bool, DemoError> {
    netns::prepare()?;
    netns::raise_open_file_limit();
    let interrupt = Interrupt::watch()?;
    screen.line(&screen.paint(Style::Bold, "Four hosts on a switch of their own, a real tcpcopy and a real intercept"));
    let mut stage = set_up(screen)?;
    wait_for_first_copy(&stage, &interrupt)?;

    let cpu_before = [stage.tcpcopy.cpu_time().total(), stage.intercept.cpu_time().total()];
    let clients = Clients::start(&stage.lab, options)?;
    let outcome = watch(&stage, clients, options, screen, &interrupt)?;
    let cpu_after = [stage.tcpcopy.cpu_time().total(), stage.intercept.cpu_time().total()];

    stage.tcpcopy.process.stop(START_PATIENCE);
    stage.intercept.process.stop(START_PATIENCE);
    let result = Comparison::new(&stage.online.received(), &stage.target.received(), |id| id < PROBES);
    let cpu = [cpu_after[0].saturating_sub(cpu_before[0]), cpu_after[1].saturating_sub(cpu_before[1])];
    Ok(report(&stage, &outcome, &result, cpu, screen))
}

fn set_up(screen: Screen) -> Result<Stage, DemoError> {
    let programs = Programs::beside_current().map_err(system("find the running program"))?;
    let lab = Lab::new()?;
    let origin = Instant::now();
    let start = |address: IpAddr, host: &netns::Host| {
        Server::start(host, SocketAddr::new(address, PORT), origin).map_err(system("start an HTTP server"))
    };
    let online = start(lab.online.ipv4.into(), &lab.online)?;
    let target = start(lab.target.ipv4.into(), &lab.target)?;

    let filter = format!("tcp and src port {PORT}");
    let map = format!("{PORT}-{}:{PORT}", lab.target.ipv4);
    let assistant = lab.assistant.ipv4.to_string();
    let intercept_arguments = ["-i", "eth0", "-F", &filter];
    let tcpcopy_arguments = ["-x", &map, "-s", &assistant, "-c", "10.78.0.x", "-i", "eth0"];

    let faint = |text: &str| screen.paint(Style::Faint, text);
    screen.line("");
    for (host, what) in [
        (&lab.client, format!("sends requests to {}:{PORT}", lab.online.ipv4)),
        (&lab.online, format!("answers them; {}", faint(&format!("tcpcopy {}", tcpcopy_arguments.join(" "))))),
        (&lab.target, "gets the copies; answers to 10.78.0.0/16 by way of the assistant".to_owned()),
        (&lab.assistant, faint(&format!("intercept -i eth0 -F '{filter}'"))),
    ] {
        screen.line(&format!(
            "  {}  {:<10} {what}",
            screen.paint(Style::Bold, &format!("{:<9}", host.name)),
            host.ipv4
        ));
    }
    screen.line("");

    let mut intercept = Watched::start(lab.assistant.command(&programs.intercept).args(intercept_arguments))?;
    intercept.wait_until("listen", START_PATIENCE, |process| {
        process.sees_listener(INTERCEPT_PORT) && process.captures() > 0
    })?;
    let mut tcpcopy = Watched::start(lab.online.command(&programs.tcpcopy).args(tcpcopy_arguments))?;
    tcpcopy.wait_until("connect to intercept", START_PATIENCE, |process| {
        process.connections_to(INTERCEPT_PORT) > 0 && process.captures() > 0
    })?;
    Ok(Stage { tcpcopy, intercept, online, target, lab })
}

/// Sends single requests until one of them reaches the target: from then on each one must.
fn wait_for_first_copy(stage: &Stage, interrupt: &Interrupt) -> Result<(), DemoError> {
    let end = Instant::now() + START_PATIENCE;
    let progress = Arc::new(Progress::default());
    let mut id = PROBES;
    while stage.target.requests() == 0 {
        interrupt.check()?;
        if Instant::now() > end {
            let mut output = stage.tcpcopy.output();
            output.extend(stage.intercept.output());
            return Err(DemoError::NothingCopied { output });
        }
        let mut plan = Plan::new(SocketAddr::new(stage.lab.online.ipv4.into(), PORT), 1);
        plan.first_id = id;
        plan.reuse = Reuse::Close;
        stage
            .lab
            .client
            .run(|| client::run(&plan, &progress))
            .and_then(|outcome| outcome)
            .map_err(system("send a first request"))?;
        id += 1;
        let _ = netns::wait_for(Duration::from_millis(100), || (stage.target.requests() > 0).then_some(()));
    }
    Ok(())
}

/// The body lengths of the demo: most requests have none, one in eight up to 6 KB, and one in 512 takes many segments.
fn body_len(id: u64) -> usize {
    match id {
        id if id % 512 == 7 => 100_000,
        id if id % 8 == 3 => (id.wrapping_mul(7919) % 6_000) as usize + 1,
        _ => 0,
    }
}

/// The client, in two parts: connections that are kept, and connections that serve one request each.
struct Clients {
    threads: Vec<JoinHandle<io::Result<Outcome>>>,
}

impl Clients {
    fn start(lab: &Lab, options: Options) -> Result<Self, DemoError> {
        let progress = Arc::new(Progress::default());
        let rate = f64::from(options.rate);
        let mut threads = Vec::new();
        for (reuse, share, first_id) in [(Reuse::KeepAlive, 0.9, 0), (Reuse::Close, 0.1, SINGLES)] {
            let plan = Plan {
                server: SocketAddr::new(lab.online.ipv4.into(), PORT),
                connections: (options.connections as usize / 2).max(1),
                rate: Some(rate * share),
                requests: (rate * share * f64::from(options.seconds)).ceil() as u64,
                reuse,
                first_id,
                body_len,
                linger: Duration::ZERO,
            };
            let progress = Arc::clone(&progress);
            let namespace = lab.client.share().map_err(system("start the client"))?;
            let thread = std::thread::Builder::new().name("client".into()).spawn(move || {
                namespace.enter()?;
                client::run(&plan, &progress)
            });
            threads.push(thread.map_err(system("start the client"))?);
        }
        Ok(Self { threads })
    }

    fn are_done(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    fn join(self) -> Result<Outcome, DemoError> {
        let mut all = Outcome::default();
        for thread in self.threads {
            let outcome = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            let outcome = outcome.map_err(system("run the client"))?;
            all.sent.extend(outcome.sent);
            all.answered += outcome.answered;
            all.failures.extend(outcome.failures);
        }
        Ok(all)
    }
}

/// Prints how it goes until the client is done and the target has nothing more to come.
fn watch(
    stage: &Stage,
    clients: Clients,
    options: Options,
    screen: Screen,
    interrupt: &Interrupt,
) -> Result<Outcome, DemoError> {
    let titles = ["", "captured at online", "copied to target", "answered by target", "on their way"];
    let title = format!("{:>6}{:>21}{:>20}{:>21}{:>15}", titles[0], titles[1], titles[2], titles[3], titles[4]);
    screen.line(&screen.paint(Style::Bold, &title));
    // The requests that found out whether the copy works do not count.
    let before = (stage.target.answers(), stage.target.requests(), stage.online.requests());
    let counts = || {
        // The target is read first, so that what is on its way is never negative.
        let (answers, copied) = (stage.target.answers() - before.0, stage.target.requests() - before.1);
        (answers, copied, stage.online.requests() - before.2)
    };
    let row = |seconds: u64| {
        let (answers, copied, captured) = counts();
        format!(
            "{seconds:>4} s{:>21}{:>20}{:>21}{:>15}",
            thousands(captured),
            thousands(copied),
            thousands(answers),
            thousands(captured.saturating_sub(copied))
        )
    };
    let start = Instant::now();
    let mut next_line = 1;
    while !clients.are_done() {
        // The threads of the client end with the process.
        interrupt.check()?;
        std::thread::sleep(Duration::from_millis(50));
        let seconds = start.elapsed().as_secs();
        if seconds >= next_line && next_line < u64::from(options.seconds) {
            screen.clear();
            screen.line(&row(seconds));
            next_line = seconds + 1;
        } else {
            screen.passing(&row(seconds));
        }
    }
    let mut seen = 0;
    let mut quiet_since = Instant::now();
    while quiet_since.elapsed() < QUIET {
        interrupt.check()?;
        let (_, copied, captured) = counts();
        if copied >= captured {
            break;
        }
        if copied != seen {
            seen = copied;
            quiet_since = Instant::now();
        }
        std::thread::sleep(Duration::from_millis(20));
        screen.passing(&row(start.elapsed().as_secs()));
    }
    screen.clear();
    screen.line(&row(start.elapsed().as_secs()));
    clients.join()
}

/// Prints the closing table; true when the copy was perfect.
fn report(stage: &Stage, outcome: &Outcome, result: &Comparison, cpu: [Duration; 2], screen: Screen) -> bool {
    let perfect = result.is_perfect() && outcome.failures.is_empty() && result.online > 0;
    let fault = |name: &str, count: usize| (name.to_owned(), thousands(count as u64), count > 0);
    let plain = |name: &str, value: String| (name.to_owned(), value, false);
    let mut rows = vec![
        plain("requests online", thousands(result.online)),
        plain("requests at the target", thousands(result.target)),
        fault("lost", result.lost.len()),
        fault("altered", result.altered.len()),
        fault("more than once", result.duplicated.len()),
        fault("out of order", result.out_of_order.len()),
    ];
    if !outcome.failures.is_empty() {
        rows.push(fault("unanswered by online", outcome.failures.len()));
    }
    if !result.invented.is_empty() {
        rows.push(fault("never sent by a client", result.invented.len()));
    }
    let per_request = |time: Duration| time.as_secs_f64() * 1e6 / result.online.max(1) as f64;
    rows.push(plain("lag online to target, median", readable(result.median_lag)));
    rows.push(plain("lag online to target, p99", readable(result.p99_lag)));
    rows.push(plain(
        "CPU per request",
        format!(
            "{:.1} us (tcpcopy {:.1}, intercept {:.1})",
            per_request(cpu[0]) + per_request(cpu[1]),
            per_request(cpu[0]),
            per_request(cpu[1])
        ),
    ));
    screen.line("");
    for (name, value, bad) in rows {
        let value = if bad { screen.paint(Style::Bad, &value) } else { value };
        screen.line(&format!("  {name:<30} {value}"));
    }
    screen.line("");
    if perfect {
        screen.line(&screen.paint(Style::Good, "Every request arrived at the target, once, in order and unaltered."));
    } else {
        screen.line(&screen.paint(Style::Bad, "The copy is not perfect."));
        for (id, what) in outcome.failures.iter().take(5) {
            screen.line(&format!("  request {id}: {what}"));
        }
        for program in [&stage.tcpcopy, &stage.intercept] {
            screen.line(&format!("Last words of {}:", program.name()));
            program.output().iter().for_each(|line| screen.line(&format!("    {line}")));
        }
    }
    perfect
}
