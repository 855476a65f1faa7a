//! What a run leaves behind: its statistics file, its report, and online's response times beside the target's.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use tcpcopy::tcpcopy::recording::times::Times;
use tcpcopy::tcpcopy::recording::{Ended, History, file};
use tcpcopy_io::netns::{Host, Lab, wait_for};
use tcpcopy_tests::copy::{PORT, Setup, stop};
use tcpcopy_tests::{counters, settle};

use crate::harness::Bench;
use crate::replay::replay;

const ONLINE: Duration = Duration::from_millis(20);
const TARGET: Duration = Duration::from_millis(5);
const CONNECTIONS: usize = 4;
const TURNS: usize = 50;
const REQUESTS: u64 = (CONNECTIONS * TURNS) as u64;
const PATIENCE: Duration = Duration::from_secs(60);

/// A server that answers each line after a while; how long it really took.
struct Slow {
    took: Arc<Mutex<Vec<Duration>>>,
}

impl Slow {
    /// It serves until the test program ends.
    fn start(host: &Host, delay: Duration) -> Self {
        let address = SocketAddr::new(host.ipv4.into(), PORT);
        let listener = host.run(|| TcpListener::bind(address)).and_then(|listener| listener).expect("a listener");
        let took: Arc<Mutex<Vec<Duration>>> = Arc::default();
        let all = Arc::clone(&took);
        thread::spawn(move || {
            for connection in listener.incoming().map_while(Result::ok) {
                let took = Arc::clone(&all);
                thread::spawn(move || serve(&connection, delay, &took));
            }
        });
        Self { took }
    }

    fn answers(&self) -> u64 {
        self.took.lock().expect("the times").len() as u64
    }

    /// The time that none of its answers was faster than.
    fn shortest(&self) -> Duration {
        self.took.lock().expect("the times").iter().min().copied().expect("it has answered")
    }
}

fn serve(connection: &TcpStream, delay: Duration, took: &Mutex<Vec<Duration>>) {
    let _ = connection.set_nodelay(true);
    let mut lines = BufReader::new(connection);
    let mut line = String::new();
    while lines.read_line(&mut line).is_ok_and(|read| read > 0) {
        let began = Instant::now();
        thread::sleep(delay);
        took.lock().expect("the times").push(began.elapsed());
        if (&*connection).write_all(b"here you are\n").is_err() {
            return;
        }
        line.clear();
    }
}

/// Clients that ask online, each so many times, when they have their answer; how long that took.
fn ask(lab: &Lab, connections: usize, turns: usize) -> Vec<Duration> {
    let server = SocketAddr::new(lab.online.ipv4.into(), PORT);
    let clients: Vec<_> = (0..connections)
        .map(|_| {
            let connection = lab.client.run(|| TcpStream::connect(server)).and_then(|c| c).expect("a connection");
            thread::spawn(move || {
                connection.set_nodelay(true).expect("an option");
                let mut answers = BufReader::new(&connection);
                let mut took = Vec::new();
                for turn in 0..turns {
                    let began = Instant::now();
                    (&connection).write_all(format!("request {turn}\n").as_bytes()).expect("to send");
                    answers.read_line(&mut String::new()).expect("an answer");
                    took.push(began.elapsed());
                }
                took
            })
        })
        .collect();
    clients.into_iter().flat_map(|client| client.join().expect("a client")).collect()
}

/// Asks until the target is asked, too; from then on everything is copied. Returns how long all answers took. What is copied
/// of it is at the target when this returns.
fn ask_while_copied(lab: &Lab, target: &Slow) -> Vec<Duration> {
    let mut took = Vec::new();
    let up = wait_for(PATIENCE, || {
        took.extend(ask(lab, 1, 1));
        wait_for(Duration::from_millis(200), || (target.answers() > 0).then_some(()))
    });
    assert!(up.is_some(), "nothing is copied");
    let before = target.answers();
    took.extend(ask(lab, CONNECTIONS, TURNS));
    let copied = settle(before + REQUESTS, PATIENCE, || target.answers());
    assert_eq!(copied, before + REQUESTS, "each request is copied once");
    took
}

/// Online's times, measured on its host, are at least what it slept, and no more than what its clients waited for; some of
/// those may have asked before the copy began.
#[track_caller]
fn assert_online(online: &Times, mut clients: Vec<Duration>) {
    clients.sort();
    assert!(online.count() <= clients.len() as u64, "{} answers to {} requests", online.count(), clients.len());
    for share in [0.01, 0.5, 0.9, 1.0] {
        let measured = online.quantile(share).expect("times");
        // As many waited longer as were measured to be slower, or more.
        let slower = online.count() - (online.count() as f64 * share).ceil() as u64;
        let waited = clients[clients.len() - 1 - slower as usize];
        assert!(measured >= ONLINE, "{share}: {measured:?}, but it slept for {ONLINE:?}");
        // Buckets are up to an eighth wide.
        assert!(measured <= waited.mul_f64(1.13), "{share}: {measured:?}, but clients waited {waited:?} only");
    }
}

#[track_caller]
fn read(path: &Path) -> History {
    file::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).0
}

/// Waits until the file says that the target has answered so many requests.
#[track_caller]
fn wait_until_written(statistics: &Path, answers: u64) {
    let written = wait_for(PATIENCE, || (read(statistics).totals.target.count() >= answers).then_some(()));
    assert!(written.is_some(), "the statistics do not get on: see {}", statistics.display());
}

fn make_page(bench: &Bench<'_>, statistics: &Path, page: &Path) -> String {
    let output = Command::new(&bench.programs.tcpcopy)
        .arg("report")
        .args([statistics, Path::new("-o"), page])
        .output()
        .expect("tcpcopy report");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::read_to_string(page).expect("the page")
}

/// Online answers after 20 ms, the target after 5: both are in the file and on the page, which are one.
pub(crate) fn of_a_live_copy(bench: &Bench<'_>) {
    let lab = Lab::new().expect("a lab");
    let online = Slow::start(&lab.online, ONLINE);
    let target = Slow::start(&lab.target, TARGET);
    let (page, statistics) = (bench.folder.join("report.html"), bench.folder.join("statistics"));
    let mut setup = Setup::new(bench.programs, bench.folder, &lab);
    setup.set("--report", &page.display().to_string());
    setup.set("--stats-file", &statistics.display().to_string());
    setup.tcpcopy.push("--measure-online".to_owned());
    let mut copy = setup.start(&lab);
    let clients = ask_while_copied(&lab, &target);
    let copied = target.answers();

    // The file grows while the run goes on; the page comes at its end.
    wait_until_written(&statistics, copied);
    assert_eq!((page.exists(), read(&statistics).end), (false, None));
    stop("tcpcopy", &mut copy.tcpcopy);

    let history = read(&statistics);
    let t = &history.totals;
    assert_eq!(history.end.as_ref().map(|end| &end.how), Some(&Ended::Stopped));
    assert_eq!((t.count("requests"), t.count("requests_copied"), t.lag.count()), (copied, copied, copied));
    assert_online(&t.online, clients);
    assert!(t.online.count() >= REQUESTS && t.online.count() <= copied, "{} answers of online", t.online.count());
    assert!(online.shortest() >= ONLINE);
    assert_eq!(t.target.count(), copied);
    let fastest = t.target.quantile(0.0).expect("times");
    assert!(fastest >= target.shortest() && fastest >= TARGET, "{fastest:?}, but it slept {:?}", target.shortest());

    let shown = fs::read_to_string(&page).expect("the page at the end");
    assert_eq!(shown, make_page(bench, &statistics, &bench.folder.join("again.html")));
    for part in [format!("{copied} sent of {copied} captured").as_str(), "online’s response time", "it was stopped"] {
        assert!(shown.contains(part), "`{part}` is not on the page");
    }
    println!("online {:?}, target {:?} in the median", t.online.quantile(0.5), t.target.quantile(0.5));
}

/// A killed process leaves a file that a page can be made of.
pub(crate) fn of_a_killed_copy(bench: &Bench<'_>) {
    let lab = Lab::new().expect("a lab");
    let _online = Slow::start(&lab.online, Duration::ZERO);
    let target = Slow::start(&lab.target, Duration::ZERO);
    let statistics = bench.folder.join("statistics");
    let mut setup = Setup::new(bench.programs, bench.folder, &lab);
    setup.set("--stats-file", &statistics.display().to_string());
    let mut copy = setup.start(&lab);
    ask_while_copied(&lab, &target);
    let copied = target.answers();
    wait_until_written(&statistics, copied);
    copy.tcpcopy.kill();
    let page = make_page(bench, &statistics, &bench.folder.join("report.html"));
    for part in [format!("{copied} sent of {copied} captured").as_str(), "not yet, or not in order"] {
        assert!(page.contains(part), "`{part}` is not on the page");
    }
}

/// A capture of both directions, replayed in no time: online's times are those of the capture.
pub(crate) fn of_a_replay(bench: &Bench<'_>) {
    let lab = Lab::new().expect("a lab");
    let _online = Slow::start(&lab.online, ONLINE);
    let target = Slow::start(&lab.target, Duration::ZERO);
    let capture = bench.folder.join("online.pcap");
    let mut tcpdump = counters::capture(&lab.online, &capture, &["tcp port 80"]);
    let clients = ask(&lab, CONNECTIONS, TURNS);
    settle(u64::MAX, Duration::from_secs(3), || fs::metadata(&capture).expect("the capture").len());
    stop("tcpdump", &mut tcpdump);

    let (page, statistics) = (bench.folder.join("report.html"), bench.folder.join("statistics"));
    let setup = Setup::new(bench.programs, bench.folder, &lab);
    let _intercept = setup.start_intercept(&lab.assistant);
    let words = format!(
        "-x 80-{}:80 -s {} -c 10.78.0.x -i {} --as-fast-as-possible --measure-online --stats-file {} --report {}",
        lab.target.ipv4,
        lab.assistant.ipv4,
        capture.display(),
        statistics.display(),
        page.display()
    );
    let (_, took) = replay(&lab.online, &bench.programs.tcpcopy, bench.folder, &words);
    println!("replayed in {took:?}");
    let history = read(&statistics);
    assert_eq!(history.end.as_ref().map(|end| &end.how), Some(&Ended::ReplayOver));
    assert_online(&history.totals.online, clients);
    assert_eq!(history.totals.online.count(), REQUESTS);
    assert_eq!((history.totals.count("requests_copied"), target.answers()), (REQUESTS, REQUESTS));
    let shown = fs::read_to_string(&page).expect("the page at the end");
    for part in ["everything was replayed", "packets read from the files", "200 sent of 200 captured"] {
        assert!(shown.contains(part), "`{part}` is not on the page");
    }
}
