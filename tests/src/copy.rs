//! The real `tcpcopy` and `intercept` between the hosts of a lab.

use std::fs::{self, File};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use tcpcopy::demo::client::{Plan, Reuse};
use tcpcopy::demo::copy::Programs;
use tcpcopy_io::netns::{Host, Lab, Process, wait_for};

use crate::load;
use crate::sql::SQL_PORT;

/// The port of the servers.
pub const PORT: u16 = 80;
/// The port on which intercept listens.
pub const INTERCEPT_PORT: u16 = 36524;
/// Numbers of requests that only find out whether the copy works already; no verdict counts them.
pub const PROBES: u64 = 1 << 40;

/// In megabytes: half a second.
const LARGE_BUFFER: [&str; 2] = ["-B", "128"];
const START_PATIENCE: Duration = Duration::from_secs(30);
/// What a program gets to end when its test has failed already.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// How the programs are started.
pub struct Setup<'a> {
    /// Where they are.
    pub programs: &'a Programs,
    /// Where their logs go.
    pub folder: &'a Path,
    /// Everything behind `tcpcopy`.
    pub tcpcopy: Vec<String>,
    /// Everything behind `intercept`.
    pub intercept: Vec<String>,
    /// Gives tcpcopy a larger buffer for captured packets than it takes by itself. That one holds an eighth of a second of
    /// traffic: on a machine that is busy with other things a program may wait for its turn longer than that.
    pub has_time: bool,
}

impl<'a> Setup<'a> {
    /// The command lines of a plain copy over IPv4.
    pub fn new(programs: &'a Programs, folder: &'a Path, lab: &Lab) -> Self {
        let map = format!("{PORT}-{}:{PORT}", lab.target.ipv4);
        Self::with(programs, folder, &map, &lab.assistant.ipv4.to_string(), "10.78.0.x")
    }

    /// The command lines of a copy over IPv6.
    pub fn ipv6(programs: &'a Programs, folder: &'a Path, lab: &Lab) -> Self {
        let map = format!("{PORT}-[{}]:{PORT}", lab.target.ipv6);
        Self::with(programs, folder, &map, &format!("[{}]", lab.assistant.ipv6), "fd78::1-fd78::40")
    }

    /// The command lines of a copy of datagrams by these maps, over IPv4 and IPv6. `answers_of`: the target's port, when
    /// intercept is to report what comes from there.
    pub fn udp(programs: &'a Programs, folder: &'a Path, lab: &Lab, maps: &str, answers_of: Option<u16>) -> Self {
        let mut setup = Self::with(programs, folder, maps, "", "10.78.0.x,fd78::1-fd78::40");
        match answers_of {
            Some(port) => {
                setup.set("-s", &lab.assistant.ipv4.to_string());
                setup.intercept = ["-i", "eth0", "-F", &format!("udp and src port {port}")].map(str::to_owned).to_vec();
            }
            None => drop(setup.tcpcopy.drain(2..4)),
        }
        setup
    }

    /// The command lines of a copy between databases, over IPv4, byte by byte as long as no module is named.
    pub fn sql(programs: &'a Programs, folder: &'a Path, lab: &Lab) -> Self {
        let map = format!("{SQL_PORT}-{}:{SQL_PORT}", lab.target.ipv4);
        let mut setup = Self::with(programs, folder, &map, &lab.assistant.ipv4.to_string(), "10.78.0.x");
        setup.intercept = ["-i", "eth0", "-F", &format!("tcp and src port {SQL_PORT}")].map(str::to_owned).to_vec();
        setup
    }

    /// The command lines of a traditional copy: intercept on the target itself, no assistant, no route, and copies with
    /// their clients' own addresses. `server`: the target's address.
    pub fn traditional(programs: &'a Programs, folder: &'a Path, server: IpAddr) -> Self {
        let map = format!("{PORT}-{}", SocketAddr::new(server, PORT));
        Self {
            programs,
            folder,
            tcpcopy: ["-x", &map, "-i", "eth0"].map(str::to_owned).to_vec(),
            intercept: ["--nfqueue", "7", "--setup", &PORT.to_string()].map(str::to_owned).to_vec(),
            has_time: true,
        }
    }

    /// Gives an option of tcpcopy that takes a value another one, or adds it.
    pub fn set(&mut self, option: &str, value: &str) {
        match self.tcpcopy.iter().position(|word| word == option) {
            Some(at) => value.clone_into(&mut self.tcpcopy[at + 1]),
            None => self.tcpcopy.extend([option.to_owned(), value.to_owned()]),
        }
    }

    /// Has both programs share their work between threads.
    pub fn set_workers(&mut self, workers: &str) {
        self.set("--workers", workers);
        self.intercept.extend(["--workers", workers].map(str::to_owned));
    }

    fn with(programs: &'a Programs, folder: &'a Path, map: &str, intercept: &str, sources: &str) -> Self {
        Self {
            programs,
            folder,
            tcpcopy: ["-x", map, "-s", intercept, "-c", sources, "-i", "eth0"].map(str::to_owned).to_vec(),
            intercept: ["-i", "eth0", "-F", &format!("tcp and src port {PORT}")].map(str::to_owned).to_vec(),
            has_time: true,
        }
    }

    /// Starts intercept, and waits until it listens.
    pub fn start_intercept(&self, host: &Host) -> Process {
        self.start_intercept_at(host, INTERCEPT_PORT)
    }

    /// Starts intercept, whose options name this port, and waits until it listens.
    pub fn start_intercept_at(&self, host: &Host, port: u16) -> Process {
        let mut intercept = start(host, &self.programs.intercept, &self.intercept, &self.intercept_log());
        wait_until(&mut intercept, "intercept listens", self.folder, |process| {
            process.sees_listener(port) && (process.captures() > 0 || self.reads_queue(host, process))
        });
        intercept
    }

    /// Whether intercept reads a queue, and has made its rules.
    fn reads_queue(&self, host: &Host, process: &Process) -> bool {
        let queues = fs::read_to_string(format!("/proc/{}/net/netfilter/nfnetlink_queue", process.id()));
        let has_rules = || {
            let rules = host.output("iptables", &["-S", "OUTPUT"]).expect("the rules of iptables");
            rules.contains(&format!("tcpcopy-intercept-{}-", process.id()))
        };
        let sets_up = self.intercept.iter().any(|word| word == "--setup");
        queues.is_ok_and(|queues| !queues.is_empty()) && (!sets_up || has_rules())
    }

    /// Starts tcpcopy, and waits until it captures and is connected, if there is an intercept.
    pub fn start_tcpcopy(&self, host: &Host) -> Process {
        let has = |wanted: &dyn Fn(&str) -> bool| self.tcpcopy.iter().any(|word| wanted(word));
        let mut arguments = self.tcpcopy.clone();
        if self.has_time && !has(&|word| word == "-B") {
            arguments.extend(LARGE_BUFFER.map(str::to_owned));
        }
        let mut tcpcopy = start(host, &self.programs.tcpcopy, &arguments, &self.tcpcopy_log());
        let is_alone = !has(&|word| word == "-s") && has(&|word| word.starts_with("udp:"));
        let is_alone = is_alone || self.tcpcopy.windows(2).any(|words| words[0] == "-s" && words[1] == "local");
        wait_until(&mut tcpcopy, "tcpcopy is connected", self.folder, |process| {
            (is_alone || process.connections_to(INTERCEPT_PORT) > 0) && process.captures() > 0
        });
        tcpcopy
    }

    /// Where tcpcopy logs.
    pub fn tcpcopy_log(&self) -> PathBuf {
        self.folder.join("tcpcopy.log")
    }

    /// Where intercept logs.
    pub fn intercept_log(&self) -> PathBuf {
        self.folder.join("intercept.log")
    }

    /// Starts both, intercept on the assistant.
    pub fn start(&self, lab: &Lab) -> Copy {
        self.start_between(&lab.online, &lab.assistant)
    }

    /// Starts both, intercept on this host.
    pub fn start_with_intercept_on(&self, lab: &Lab, host: &Host) -> Copy {
        self.start_between(&lab.online, host)
    }

    /// Starts both, tcpcopy on this host.
    pub fn start_with_tcpcopy_on(&self, lab: &Lab, host: &Host) -> Copy {
        self.start_between(host, &lab.assistant)
    }

    fn start_between(&self, copying: &Host, intercepting: &Host) -> Copy {
        let intercept = self.start_intercept(intercepting);
        let tcpcopy = self.start_tcpcopy(copying);
        Copy { tcpcopy, intercept, tcpcopy_log: self.tcpcopy_log() }
    }
}

/// Both programs, running.
pub struct Copy {
    /// tcpcopy, on online if nothing else is said.
    pub tcpcopy: Process,
    /// intercept, on the assistant.
    pub intercept: Process,
    tcpcopy_log: PathBuf,
}

impl Copy {
    /// Sends single requests from the client to online until the target, which has got `copied` requests, gets one: from
    /// then on every request must be copied. Returns the number of requests sent.
    pub fn wait_until_copying(&mut self, lab: &Lab, online: IpAddr, mut copied: impl FnMut() -> u64) -> u64 {
        let before = copied();
        let mut sent = 0;
        let up = wait_for(START_PATIENCE, || {
            let mut plan = Plan::new(SocketAddr::new(online, PORT), 1);
            plan.first_id = PROBES + sent;
            plan.reuse = Reuse::Close;
            load::run(&lab.client, &plan);
            sent += 1;
            wait_for(Duration::from_millis(200), || (copied() > before).then_some(()))
        });
        assert!(up.is_some(), "no request was copied; see {}", self.tcpcopy_log.display());
        sent
    }

    /// Ends both programs as an administrator would; both must end well. Returns what tcpcopy logged.
    pub fn stop(mut self) -> String {
        stop("tcpcopy", &mut self.tcpcopy);
        stop("intercept", &mut self.intercept);
        fs::read_to_string(&self.tcpcopy_log).expect("tcpcopy's log")
    }
}

impl Drop for Copy {
    /// A test that fails says what became of each packet: the counters that tcpcopy writes at its end.
    fn drop(&mut self) {
        if thread::panicking() {
            self.tcpcopy.stop(STOP_PATIENCE);
            self.intercept.stop(STOP_PATIENCE);
            println!("{}", fs::read_to_string(&self.tcpcopy_log).unwrap_or_default());
        }
    }
}

/// Ends a program as an administrator would; it must end well.
pub fn stop(name: &str, process: &mut Process) {
    let status = process.stop(START_PATIENCE);
    let ended_well = status.is_some_and(|status| status.success());
    assert!(ended_well, "{name} did not end well after SIGTERM: {status:?}");
}

fn start(host: &Host, program: &Path, arguments: &[String], log: &Path) -> Process {
    let log = File::options().create(true).append(true).open(log).expect("a log file");
    let mut command = host.command(program);
    command.args(arguments).stdout(log.try_clone().expect("a descriptor")).stderr(log);
    Process::start(&mut command).unwrap_or_else(|error| panic!("{}: {error}", program.display()))
}

fn wait_until(process: &mut Process, what: &str, folder: &Path, ready: impl Fn(&Process) -> bool) {
    let up = wait_for(START_PATIENCE, || process.try_wait().map(Err).or_else(|| ready(process).then_some(Ok(()))));
    assert!(matches!(up, Some(Ok(()))), "did not come to pass: {what} ({up:?}); see {}", folder.display());
}
