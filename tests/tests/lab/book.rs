//! The recipes of the documents, done: each block of commands that is marked with a host is run on that host of a lab whose
//! hosts have the documents' addresses, from the recipe's first line to the last one of its undoing.
//!
//! Lines are run as they stand, with four exceptions: `-d` is left out, so that the test can end what it has started; the
//! log of `-l` goes into the test's folder, which is also the folder where lines are run; the user `tcpcopy`, whom
//! a reader makes, is `nobody`; and tcpdump stays root (`-Z root`), for it is the only user of a user namespace.

use std::ffi::OsStr;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tcpcopy::demo::client::{Plan, Reuse};
use tcpcopy::demo::server::Server;
use tcpcopy_io::netns::{Host, Lab, Process, wait_for};
use tcpcopy_tests::book::{self, Act, Block, Mark, Step};
use tcpcopy_tests::copy::{INTERCEPT_PORT, stop};
use tcpcopy_tests::load;
use tcpcopy_tests::terminal::Terminal;

use crate::harness::Bench;
use crate::surroundings::{self, Surroundings};

const PATIENCE: Duration = Duration::from_secs(30);
/// Numbers of requests that only find out whether the copy works already.
const PROBES: u64 = 1 << 40;
/// Requests that must arrive where a document says that they do.
const REQUESTS: u64 = 100;

/// The documents whose recipes are done here.
const DOCUMENTS: &[&str] = &[
    "README.md",
    "docs/getting-started.md",
    "docs/deploy.md",
    "docs/tuning.md",
    "docs/doctor.md",
    "docs/live.md",
    "docs/metrics.md",
    "docs/mysql.md",
    "docs/operations.md",
    "docs/report.md",
    "docs/security.md",
    "docs/troubleshooting.md",
    "docs/udp.md",
];
/// Where the recipes stand that other documents begin with.
const SET_UPS: &str = "docs/deploy.md";
/// What stands behind the name of such a recipe where tcpcopy is to run, too.
const COPYING: &str = ", copying";

fn is_run(step: &Step) -> bool {
    matches!(&step.act, Act::Block(Block { mark: Some(Mark::RunOn(_)), .. }))
}

/// No document has blocks that claim to be run, and are not.
pub(crate) fn all_are_run() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let paths = fs::read_dir(root.join("docs")).expect("docs").map(|entry| entry.expect("an entry").path());
    for path in paths.filter(|path| path.extension().is_some_and(|kind| kind == "md")) {
        let name = format!("docs/{}", path.file_name().unwrap_or_default().to_string_lossy());
        let is_known = DOCUMENTS.contains(&name.as_str());
        let marked = book::read(&name).iter().any(is_run);
        assert!(is_known || !marked, "no test runs the blocks of {name}: add it to DOCUMENTS");
    }
}

pub(crate) fn readme(bench: &Bench<'_>) {
    run(bench, "README.md");
}

pub(crate) fn getting_started(bench: &Bench<'_>) {
    run(bench, "docs/getting-started.md");
}

pub(crate) fn deploy(bench: &Bench<'_>) {
    run(bench, "docs/deploy.md");
}

pub(crate) fn tuning(bench: &Bench<'_>) {
    run(bench, "docs/tuning.md");
}

pub(crate) fn doctor(bench: &Bench<'_>) {
    run(bench, "docs/doctor.md");
}

pub(crate) fn live(bench: &Bench<'_>) {
    run(bench, "docs/live.md");
}

pub(crate) fn metrics(bench: &Bench<'_>) {
    run(bench, "docs/metrics.md");
}

pub(crate) fn operations(bench: &Bench<'_>) {
    run(bench, "docs/operations.md");
}

pub(crate) fn report(bench: &Bench<'_>) {
    run(bench, "docs/report.md");
}

pub(crate) fn security(bench: &Bench<'_>) {
    run(bench, "docs/security.md");
}

pub(crate) fn troubleshooting(bench: &Bench<'_>) {
    run(bench, "docs/troubleshooting.md");
}

pub(crate) fn udp(bench: &Bench<'_>) {
    run(bench, "docs/udp.md");
}

pub(crate) fn mysql(bench: &Bench<'_>) {
    run(bench, "docs/mysql.md");
}

/// Does each recipe of a document that has something to be run.
fn run(bench: &Bench<'_>, document: &'static str) {
    let steps = book::read(document);
    let mut recipes = 0;
    for recipe in steps.chunk_by(|a, b| a.section == b.section) {
        if recipe.iter().any(is_run) {
            println!("{document}: {}", recipe[0].section);
            Recipe::new(bench, document, recipes).follow(recipe);
            recipes += 1;
        }
    }
    assert!(recipes > 0, "{document} has nothing to run");
}

/// The documents' IPv6 address with this end.
fn ipv6(last: u8) -> IpAddr {
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last.into()).into()
}

/// A recipe that is being done.
struct Recipe<'a> {
    bench: &'a Bench<'a>,
    document: &'static str,
    folder: PathBuf,
    lab: Lab,
    _online: Server,
    /// The servers that copies may go to: that of the target, that of a target on online itself, and that of a second one.
    targets: [Server; 3],
    surroundings: Surroundings,
    running: Vec<(String, Process)>,
    /// Lines that started a program, with their hosts.
    lines: Vec<(String, String)>,
    /// How many programs were started so far, and before the last block that starts any.
    started: usize,
    started_before: usize,
    /// Online's address, for clients.
    address: IpAddr,
    /// Requests sent so far, and how often the last of them must have arrived.
    numbered: u64,
    replays: usize,
    probes: u64,
}

impl<'a> Recipe<'a> {
    /// Hosts with the documents' addresses. What a recipe sets up by itself is not there.
    fn new(bench: &'a Bench<'a>, document: &'static str, number: usize) -> Self {
        let lab = Lab::with(&["monitor", "admin", "target2"]).expect("a lab");
        let hosts = lab.hosts().zip([7, 1, 2, 3, 5, 9, 4]);
        for (host, last) in hosts {
            for address in [Ipv4Addr::new(10, 0, 0, last).into(), ipv6(last)] {
                host.add_address(address).expect("an address");
            }
        }
        lab.target.ip("route del 10.78.0.0/16").expect("ip route");
        lab.target.ip("-6 route del fd78::/64").expect("ip route");
        let folder = bench.folder.join(format!("recipe-{number}"));
        fs::create_dir(&folder).expect("a folder");
        let server = |host: &Host, port| {
            Server::start(host, SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)), Instant::now()).expect("a server")
        };
        let other = lab.hosts().find(|host| host.name == "target2").expect("the second target");
        let targets = [server(&lab.target, 8080), server(&lab.online, 8080), server(other, 8080)];
        let online = server(&lab.online, 80);
        Self {
            bench,
            document,
            folder,
            _online: online,
            targets,
            lab,
            surroundings: Surroundings::default(),
            running: Vec::new(),
            lines: Vec::new(),
            started: 0,
            started_before: 0,
            address: Ipv4Addr::new(10, 0, 0, 1).into(),
            numbered: 0,
            replays: 0,
            probes: 0,
        }
    }

    fn host(&self, name: &str) -> &Host {
        self.lab.hosts().find(|host| host.name == name).unwrap_or_else(|| panic!("the lab has no host `{name}`"))
    }

    /// What a recipe must leave as it was.
    fn state(&self) -> Vec<String> {
        let ask = |host: &Host, line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            format!("{}: {line}\n{}", host.name, host.output(words[0], &words[1..]).expect(line))
        };
        let lines = [
            "ip route",
            "ip -6 route show fd78::/64",
            "ip -br link",
            "iptables -S",
            "iptables -t raw -S",
            "sysctl -a --pattern ^net.ipv4.(ip_forward|conf.all)",
        ];
        self.lab.hosts().flat_map(|host| lines.map(|line| ask(host, line))).collect()
    }

    fn follow(mut self, steps: &[Step]) {
        for step in steps {
            if let Act::With(name) = &step.act {
                let found = self.surroundings.add(name, &self.lab, self.bench.programs, &self.folder);
                assert_eq!(found, Surroundings::knows(name), "{name}");
            }
        }
        let before = self.state();
        let (mut started, mut arrived) = (false, false);
        let mut undo: Vec<Step> = Vec::new();
        for step in steps {
            let place = format!("{}, line {}", self.document, step.line);
            match &step.act {
                Act::Block(_) => {
                    self.run_block(step);
                    started |= self.runs("tcpcopy");
                }
                Act::RequestsArrive(times) => {
                    self.requests_arrive(*times, &place);
                    arrived = true;
                }
                Act::RequestsOverIpv6Arrive => {
                    let usual = std::mem::replace(&mut self.address, ipv6(1));
                    self.requests_arrive(1, &place);
                    self.address = usual;
                    arrived = true;
                }
                Act::SomeArrive => {
                    self.some_arrive(&place);
                    arrived = true;
                }
                Act::OfManyClientsArrive => {
                    self.of_many_clients_arrive(&place);
                    arrived = true;
                }
                Act::QueriesArrive { over_tcp, at } => {
                    self.surroundings.queries_arrive(&self.lab.client, at, *over_tcp, &place);
                    arrived = true;
                }
                Act::StatementsArrive => {
                    self.surroundings.statements_arrive(&self.lab.client, &place);
                    arrived = true;
                }
                Act::LogSays(words) => {
                    let said = wait_for(PATIENCE, || self.logged(words).then_some(()));
                    assert!(said.is_some(), "{place}: no log in {} says `{words}`", self.folder.display());
                }
                Act::ClientsAsk => self.clients_ask(&place),
                Act::ItHasArrived => {
                    self.it_has_arrived(&place);
                    arrived = true;
                }
                Act::With(name) if Surroundings::knows(name) => {}
                Act::With(recipe) => {
                    undo.extend(self.prepare(recipe, &place));
                    arrived |= recipe.ends_with(COPYING);
                }
                Act::Stop(programs) => programs.iter().for_each(|program| self.stop(program, &place)),
                Act::StartAgain(program) => {
                    self.started_before = self.started;
                    let line = self.lines.iter().rev().find(|(_, line)| book::words(line)[0] == *program);
                    let (host, line) = line.unwrap_or_else(|| panic!("{place}: {program} never ran")).clone();
                    self.run_line(&host, &line, &place);
                }
            }
        }
        let section = &steps[0].section;
        if !undo.is_empty() {
            for program in ["tcpcopy", "intercept"] {
                while self.runs(program) {
                    self.stop(program, section);
                }
            }
            for step in &undo {
                self.run_block(step);
            }
        }
        assert!(arrived || !started, "{}: nothing is copied in `{section}`", self.document);
        let left: Vec<&String> = self.running.iter().map(|(name, _)| name).collect();
        assert!(left.is_empty(), "{}: `{section}` ends nowhere {left:?}", self.document);
        for (now, before) in self.state().iter().zip(&before) {
            assert_eq!(now, before, "{}: `{section}` leaves something behind", self.document);
        }
    }

    fn runs(&self, program: &str) -> bool {
        self.running.iter().any(|(name, _)| name == program)
    }

    /// Does another recipe, and what runs on online only where it is to be `copying`; returns the steps that undo it.
    fn prepare(&mut self, recipe: &str, place: &str) -> Vec<Step> {
        if let Some(document) = recipe.strip_prefix("the files of ") {
            self.make_files(document, place);
            return Vec::new();
        }
        let (recipe, copying) = recipe.strip_suffix(COPYING).map_or((recipe, false), |recipe| (recipe, true));
        let of = |document: &str| -> Vec<Step> {
            let steps = book::read(document);
            steps.into_iter().filter(|step| step.section.eq_ignore_ascii_case(recipe)).collect()
        };
        let steps = Some(of(self.document)).filter(|steps| !steps.is_empty()).unwrap_or_else(|| of(SET_UPS));
        let stop = steps.iter().position(|step| matches!(step.act, Act::Stop(_)));
        let stop = stop.unwrap_or_else(|| panic!("{place}: no recipe `{recipe}`"));
        let works = steps.iter().position(|step| matches!(step.act, Act::RequestsArrive(_))).unwrap_or(stop);
        for step in &steps[..works] {
            let of_online = matches!(&step.act, Act::Block(Block { mark: Some(Mark::RunOn(hosts)), .. })
                if hosts.iter().any(|host| host == "online"));
            if copying || !of_online {
                self.run_block(step);
            }
        }
        if copying {
            self.requests_arrive(1, place);
        }
        steps.into_iter().skip(stop).filter(is_run).collect()
    }

    /// Runs what makes a document's files, as one script.
    fn make_files(&self, document: &str, place: &str) {
        let (host, script) = book::made_by(document);
        assert!(!script.is_empty(), "{place}: {document} makes no files");
        self.run_to_its_end(&host, &script.join("\n"), place);
    }

    /// Whether one of the programs that were started last has logged these words.
    fn logged(&self, words: &str) -> bool {
        let entries = fs::read_dir(&self.folder).expect("the folder").map(|entry| entry.expect("an entry").path());
        let mut logs = entries.filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let number = name.split_once('-').and_then(|(number, _)| number.parse().ok());
            number.is_some_and(|number: usize| number >= self.started_before)
        });
        logs.any(|log| fs::read(log).is_ok_and(|text| String::from_utf8_lossy(&text).contains(words)))
    }

    fn run_block(&mut self, step: &Step) {
        let before = self.started;
        if let Act::Block(Block { mark: Some(Mark::RunOn(hosts)), commands }) = &step.act {
            let place = format!("{}, line {}", self.document, step.line);
            if commands.iter().any(|line| self.surroundings.does_instead(line)) {
                return;
            }
            for (line, host) in commands.iter().zip(hosts.iter().cycle()) {
                self.run_line(host, line, &place);
            }
            if self.started > before {
                self.started_before = before;
            }
        }
    }

    /// A program on a host, which finds ours by their names, and of those that run only the ones of this host.
    fn command(&self, host: &str, program: impl AsRef<OsStr>) -> Command {
        let mut command = self.host(host).command(program);
        let folder = self.bench.programs.tcpcopy.parent().expect("the folder of the programs");
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}", folder.display()));
        let run = self.folder.join(format!("run-{host}"));
        fs::create_dir_all(&run).expect("a folder");
        command.env("RUNTIME_DIRECTORY", run).current_dir(&self.folder);
        command
    }

    fn run_line(&mut self, host: &str, line: &str, place: &str) {
        let words = book::words(line);
        let is_replay = words.windows(2).any(|pair| pair[0] == "-i" && pair[1].contains('.'));
        let is_command = words.get(1).is_some_and(|word| word.chars().all(|c| c.is_ascii_lowercase()));
        let program = match words.first().map(String::as_str) {
            Some("tcpcopy") if !is_replay && !is_command => self.bench.programs.tcpcopy.clone(),
            Some("intercept") if !is_command => self.bench.programs.intercept.clone(),
            Some("tcpdump") => "tcpdump".into(),
            Some("tcpcopy") if words[1] == "top" => return self.watch(host, line),
            _ => return self.run_to_its_end(host, line, place),
        };
        self.lines.push((host.to_owned(), line.to_owned()));
        let number = self.started;
        self.started += 1;
        let log = self.folder.join(format!("{number}-{}.log", words[0]));
        let file = fs::File::create(&log).expect("a log");
        let mut arguments = words[1..].to_vec();
        arguments.retain(|word| word != "-d");
        if let Some(at) = arguments.iter().position(|word| word == "-l") {
            arguments.drain(at..at + 2);
        }
        if let Some(at) = arguments.iter().position(|word| word == "--user") {
            "nobody".clone_into(&mut arguments[at + 1]);
        }
        if words[0] == "tcpdump" && !arguments.iter().any(|word| word == "-Z") {
            arguments.splice(0..0, ["-Z", "root"].map(str::to_owned));
        }
        let port = arguments.iter().skip_while(|word| *word != "-p").nth(1);
        let port = port.map_or(INTERCEPT_PORT, |port| port.parse().expect("a port"));
        let mut command = self.command(host, program);
        command.args(&arguments);
        command.stdout(file.try_clone().expect("a descriptor")).stderr(file);
        let mut process = Process::start(&mut command).expect("a program");
        // What a program says of itself: other programs on the host have sockets of the same kinds.
        let says = |words: &str| fs::read_to_string(&log).is_ok_and(|text| text.contains(words));
        let is_ready = |process: &Process| match words[0].as_str() {
            "intercept" => process.sees_listener(port) && says("listening on"),
            // The file, or the line about the device, comes after the filter, before which packets are forgotten.
            "tcpdump" => match words.iter().skip_while(|word| *word != "-w").nth(1) {
                Some(file) => process.captures() > 0 && self.folder.join(file).exists(),
                None => says("listening on"),
            },
            _ => says("capturing on"),
        };
        let up = wait_for(PATIENCE, || process.try_wait().map(Err).or_else(|| is_ready(&process).then_some(Ok(()))));
        let logged = fs::read_to_string(&log).unwrap_or_default();
        assert!(matches!(up, Some(Ok(()))), "{place}: `{line}` did not start ({up:?}):\n{logged}");
        self.running.push((words[0].clone(), process));
    }

    /// Runs a line in a terminal, until it shows what runs and somebody presses `q`.
    fn watch(&self, host: &str, line: &str) {
        let mut terminal = Terminal::start(self.command(host, "script"), &self.folder, (50, 140), line);
        for words in ["running", "captured", "answered"] {
            terminal.wait_for(words);
        }
        terminal.press(b"q");
        terminal.end();
    }

    fn run_to_its_end(&self, host: &str, line: &str, place: &str) {
        let mut command = self.command(host, "sh");
        command.args(["-e", "-c", line]).stdin(Stdio::null());
        let output = command.output().expect("a shell");
        // In many containers /proc/sys is read-only; what already has its value need not be written.
        if !output.status.success() && self.has_value(host, line) {
            return;
        }
        let told = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        assert!(output.status.success(), "{place}: `{line}` fails on {host}:\n{told}");
        // What shows something is there to be read.
        println!("{host}: {line}\n{told}");
    }

    /// Whether a line sets a kernel parameter to what it is.
    fn has_value(&self, host: &str, line: &str) -> bool {
        let Some((name, value)) = line.strip_prefix("sysctl -w ").and_then(|rest| rest.split_once('=')) else {
            return false;
        };
        self.host(host).set_sysctl(&name.replace('.', "/"), value).is_ok()
    }

    /// Copied requests of a kind, at any of the targets.
    fn copied(&self, is_wanted: impl Fn(u64) -> bool) -> Vec<u64> {
        let received = self.targets.iter().flat_map(Server::received);
        let mut ids: Vec<u64> = received.filter_map(|request| request.id).filter(|id| is_wanted(*id)).collect();
        ids.sort_unstable();
        ids
    }

    /// Requests to online arrive at the target, each as often as `times`.
    fn requests_arrive(&mut self, times: usize, place: &str) {
        self.some_arrive(place);
        self.clients_ask(place);
        self.replays = times - 1;
        self.it_has_arrived(place);
    }

    /// Of requests to online some arrive at the target.
    fn some_arrive(&mut self, place: &str) {
        let server = SocketAddr::new(self.address, 80);
        let before = self.copied(|id| id >= PROBES).len();
        let up = wait_for(PATIENCE, || {
            let plan = Plan { first_id: PROBES + self.probes, reuse: Reuse::Close, ..Plan::new(server, 10) };
            load::run(&self.lab.client, &plan);
            self.probes += 10;
            wait_for(Duration::from_millis(200), || (self.copied(|id| id >= PROBES).len() > before).then_some(()))
        });
        assert!(up.is_some(), "{place}: no request was copied; the logs are in {}", self.folder.display());
    }

    /// Of requests to online from more and more addresses some arrive at the target.
    fn of_many_clients_arrive(&mut self, place: &str) {
        const AT_ONCE: u16 = 200;
        let before = self.copied(|id| id >= PROBES).len();
        let mut first = 0_u16;
        let up = wait_for(PATIENCE * 4, || {
            surroundings::ask_from_many(&self.lab.client, PROBES + self.probes, first..first + AT_ONCE);
            self.probes += u64::from(AT_ONCE);
            first = (first + AT_ONCE) % 60_000;
            wait_for(Duration::from_millis(200), || (self.copied(|id| id >= PROBES).len() > before).then_some(()))
        });
        assert!(up.is_some(), "{place}: no request was copied; the logs are in {}", self.folder.display());
    }

    /// Numbered requests from the client to online.
    fn clients_ask(&mut self, place: &str) {
        let server = SocketAddr::new(self.address, 80);
        let first_id = self.numbered;
        let plan = Plan { connections: 10, rate: Some(200.0), first_id, ..Plan::new(server, REQUESTS) };
        assert_eq!(load::run(&self.lab.client, &plan).failures, [], "{place}: online did not answer");
        self.numbered += REQUESTS;
        self.replays = 0;
    }

    /// The last of these have arrived at a target, each as often as it was to.
    fn it_has_arrived(&mut self, place: &str) {
        let range = self.numbered.saturating_sub(REQUESTS)..self.numbered;
        self.replays += 1;
        let wanted: Vec<u64> = range.clone().flat_map(|id| vec![id; self.replays]).collect();
        let copied = || self.copied(|id| range.contains(&id));
        wait_for(PATIENCE, || (copied().len() >= wanted.len()).then_some(()));
        assert!(!wanted.is_empty() && copied() == wanted, "{place}: not every request was copied once: {:?}", copied());
    }

    fn stop(&mut self, program: &str, place: &str) {
        let at = self.running.iter().position(|(name, _)| name == program);
        let Some(at) = at else { panic!("{place}: {program} does not run") };
        let (name, mut process) = self.running.remove(at);
        if name == "tcpdump" {
            // It gets what it has captured up to a second later, and forgets what it has not got when it ends.
            thread::sleep(Duration::from_secs(2));
        }
        stop(&name, &mut process);
    }
}
