//! Each workload: what it is, what the C programs score, what is to be reached, how it is measured.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use tcpcopy::demo::client::{Plan, Reuse};
use tcpcopy::demo::compare::Comparison;
use tcpcopy::demo::copy::Programs;
use tcpcopy::demo::screen::thousands;
use tcpcopy::demo::server::Server;
use tcpcopy_io::netns::Lab;
use tcpcopy_tests::copy::{PORT, PROBES, Setup};
use tcpcopy_tests::load::{self, Running, Wrk};
use tcpcopy_tests::settle;
use tempfile::TempDir;

use crate::protocols;
use crate::run::{Measured, Scene};
use crate::table::Row;

pub(crate) struct Workload {
    pub(crate) number: u8,
    pub(crate) name: &'static str,
    /// What the C programs score.
    pub(crate) before: &'static str,
    /// What is to be reached.
    pub(crate) goal: &'static str,
    pub(crate) measure: fn(&Programs) -> Vec<Row>,
}

pub(crate) const ALL: &[Workload] = &[
    Workload {
        number: 1,
        name: "keepalive, 50 connections",
        before: "100 %",
        goal: "100 % within 1 s",
        measure: keepalive,
    },
    Workload {
        number: 2,
        name: "CPU, 10,000/s keepalive",
        before: "16-20 + 6-7 us",
        goal: "12 us together",
        measure: cpu,
    },
    Workload {
        number: 3,
        name: "new connection per request",
        before: "100 %, RST in 40 %",
        goal: "100 % within 1 s, no own RST",
        measure: new_connections,
    },
    Workload {
        number: 4,
        name: "wrk -t1 -c4, keepalive, 5 s",
        before: "3-5 %",
        goal: "95 % within 1 s",
        measure: wrk_4,
    },
    Workload {
        number: 5,
        name: "wrk -t1 -c10, keepalive, 5 s",
        before: "13-26 %",
        goal: "95 % within 1 s",
        measure: wrk_10,
    },
    Workload {
        number: 6,
        name: "wrk -t1 -c50, closed, 5 s",
        before: "76 %",
        goal: "99 % within 1 s",
        measure: wrk_closing,
    },
    Workload {
        number: 7,
        name: "30 POSTs of 2 MB, 3 at a time",
        before: "70-100 %",
        goal: "100 % within 5 s",
        measure: posts,
    },
    Workload {
        number: 8,
        name: "2 % loss both ways, 1,000/s keepalive",
        before: "39-50 % after 10 s",
        goal: "100 % within 10 s, in order",
        measure: loss_keepalive,
    },
    Workload {
        number: 9,
        name: "2 % loss both ways, 500/s, new connections",
        before: "98 %",
        goal: "100 %",
        measure: loss_new_connections,
    },
    Workload {
        number: 10,
        name: "8,000 idle sessions",
        before: "+8.2 MB, intercept 61 MB",
        goal: "512 B each, intercept < 16 MB",
        measure: idle_sessions,
    },
    Workload {
        number: 11,
        name: "400 source ports, 1,000/s",
        before: "100 %",
        goal: "100 % within 1 s",
        measure: port_reuse,
    },
    Workload {
        number: 12,
        name: "MySQL, native password, 20 sessions, 20 queries each",
        before: "400 of 400",
        goal: "all",
        measure: protocols::native_password,
    },
    Workload {
        number: 13,
        name: "MySQL, MariaDB's client library (sysbench)",
        before: "0 %",
        goal: "100 %",
        measure: protocols::client_library,
    },
    Workload {
        number: 14,
        name: "MySQL, caching_sha2_password on the target",
        before: "not supported",
        goal: "100 %",
        measure: protocols::caching_sha2,
    },
    Workload {
        number: 15,
        name: "UDP, datagrams",
        before: "none above the MTU",
        goal: "all, whole",
        measure: protocols::large_datagrams,
    },
    Workload {
        number: 16,
        name: "wrk -t1 -c50, keepalive, 3 s",
        before: "one worker only",
        goal: "(told, not judged)",
        measure: workers,
    },
];

const SECOND: Duration = Duration::from_secs(1);
/// How long a paced client sends.
const SECONDS: u64 = 6;

fn paced(server: SocketAddr, rate: u64, seconds: u64, reuse: Reuse) -> Plan {
    Plan { connections: 50, rate: Some(rate as f64), reuse, ..Plan::new(server, rate * seconds) }
}

fn copied(measured: &Measured) -> String {
    let in_time = format!("{:.1} % of {}", measured.share(), thousands(measured.online));
    if measured.in_time == measured.online {
        return in_time;
    }
    let at_last = 100.0 * measured.at_last as f64 / measured.online.max(1) as f64;
    format!("{in_time} ({at_last:.1} % at last)")
}

fn row(variant: String, measured: &Measured, ours: String, reached: bool) -> Row {
    Row { variant, before: None, ours, cpu: Some(measured.cpu), reached: Some(reached) }
}

fn keepalive(programs: &Programs) -> Vec<Row> {
    [2_000, 5_000, 10_000, 20_000].into_iter().map(|rate| keepalive_at(programs, rate)).collect()
}

fn keepalive_at(programs: &Programs, rate: u64) -> Row {
    let measured = Scene::new(programs).measure(SECOND, 10 * SECOND, |scene| {
        load::run(&scene.lab.client, &paced(scene.server(), rate, SECONDS, Reuse::KeepAlive));
    });
    let ours = format!("{}, lag p99 {} ms", copied(&measured), measured.comparison.p99_lag.as_millis());
    let reached = measured.in_time == measured.online && measured.comparison.is_perfect();
    row(format!(", {}/s", thousands(rate)), &measured, ours, reached)
}

fn cpu(programs: &Programs) -> Vec<Row> {
    let measured = Scene::new(programs).measure(SECOND, 10 * SECOND, |scene| {
        load::run(&scene.lab.client, &paced(scene.server(), 10_000, SECONDS, Reuse::KeepAlive));
    });
    let together = measured.cpu.0 + measured.cpu.1;
    let ours = format!("{together:.1} us, copied {:.1} %", measured.share());
    vec![row(String::new(), &measured, ours, together <= 12.0 && measured.in_time == measured.online)]
}

fn new_connections(programs: &Programs) -> Vec<Row> {
    [1_000, 3_000, 5_000]
        .into_iter()
        .map(|rate| {
            let measured = Scene::new(programs).measure(SECOND, 10 * SECOND, |scene| {
                load::run(&scene.lab.client, &paced(scene.server(), rate, SECONDS, Reuse::Close));
            });
            let (sent, at_target) = measured.resets;
            let ours = format!("{}, RST {at_target} of {sent}", copied(&measured));
            let reached = measured.in_time == measured.online && at_target <= sent && measured.comparison.is_perfect();
            row(format!(", {}/s", thousands(rate)), &measured, ours, reached)
        })
        .collect()
}

fn wrk(programs: &Programs, connections: u32, close: bool, goal: f64) -> Vec<Row> {
    let measured = Scene::new(programs).measure(SECOND, 10 * SECOND, |scene| {
        let wrk = Wrk { connections, seconds: 5, close, load: load::WrkLoad::AsFastAsItGoes };
        wrk.run(&scene.lab.client, scene.server(), scene.folder.path());
    });
    let ours = copied(&measured);
    vec![row(String::new(), &measured, ours, measured.share() >= goal)]
}

fn wrk_4(programs: &Programs) -> Vec<Row> {
    wrk(programs, 4, false, 95.0)
}

fn wrk_10(programs: &Programs) -> Vec<Row> {
    wrk(programs, 10, false, 95.0)
}

fn wrk_closing(programs: &Programs) -> Vec<Row> {
    wrk(programs, 50, true, 99.0)
}

fn posts(programs: &Programs) -> Vec<Row> {
    const POSTS: u64 = 30;
    let folder = TempDir::with_prefix("tcpcopy-bench-").expect("a folder");
    let lab = Lab::new().expect("a lab");
    let origin = Instant::now();
    let start = |host: &tcpcopy_io::netns::Host| {
        Server::start(host, SocketAddr::new(host.ipv4.into(), PORT), origin).expect("a server")
    };
    let (online, target) = (start(&lab.online), start(&lab.target));
    let setup = Setup { has_time: false, ..Setup::new(programs, folder.path(), &lab) };
    let mut copy = setup.start(&lab);
    copy.wait_until_copying(&lab, lab.online.ipv4.into(), || target.requests());
    let plan = Plan {
        connections: 3,
        body_len: |_| 2_000_000,
        ..Plan::new(SocketAddr::new(lab.online.ipv4.into(), PORT), POSTS)
    };
    load::run(&lab.client, &plan);
    let compare = || Comparison::new(&online.received(), &target.received(), |id| id < PROBES);
    let end = Instant::now();
    while !compare().is_perfect() && end.elapsed() < 5 * SECOND {
        thread::sleep(Duration::from_millis(20));
    }
    let took = end.elapsed();
    let result = compare();
    let identical = result.online - (result.lost.len() + result.altered.len()) as u64;
    let reached = result.is_perfect() && result.online == POSTS;
    let ours = format!("{identical} of {POSTS} identical, {:.1} s after the last", took.as_secs_f64());
    vec![Row { variant: String::new(), before: None, ours, cpu: None, reached: Some(reached) }]
}

fn loss(programs: &Programs, rate: u64, requests: u64, reuse: Reuse) -> Vec<Row> {
    let scene = Scene::new(programs);
    scene.lab.lose_packets(0.02).expect("iptables");
    let measured = scene.measure(10 * SECOND, 60 * SECOND, |scene| {
        let plan = Plan { requests, ..paced(scene.server(), rate, 0, reuse) };
        load::run(&scene.lab.client, &plan);
    });
    let reached = measured.in_time == measured.online && measured.comparison.is_perfect();
    let ours = format!("{}, out of order {}", copied(&measured), measured.comparison.out_of_order.len());
    vec![row(String::new(), &measured, ours, reached)]
}

fn loss_keepalive(programs: &Programs) -> Vec<Row> {
    loss(programs, 1_000, 5_000, Reuse::KeepAlive)
}

fn loss_new_connections(programs: &Programs) -> Vec<Row> {
    loss(programs, 500, 2_500, Reuse::Close)
}

fn idle_sessions(programs: &Programs) -> Vec<Row> {
    const SESSIONS: u64 = 8_000;
    let scene = Scene::new(programs);
    let resident = |scene: &Scene| {
        [&scene.copy.tcpcopy, &scene.copy.intercept].map(|process| process.resident().expect("a running program"))
    };
    let before = resident(&scene);
    let copied_before = scene.target.requests();
    let plan = Plan {
        connections: SESSIONS as usize,
        rate: Some(2_000.0),
        linger: 600 * SECOND,
        ..Plan::new(scene.server(), SESSIONS)
    };
    let client = Running::start(&scene.lab.client, plan);
    let copied = settle(copied_before + SESSIONS, 10 * SECOND, || scene.target.requests()) - copied_before;
    // What is freed when a session falls idle is freed by then.
    thread::sleep(3 * SECOND);
    let after = resident(&scene);
    client.progress.stop.store(true, Ordering::Relaxed);
    client.join();
    let each = |at: usize| after[at].saturating_sub(before[at]) / SESSIONS;
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    let ours = format!(
        "{} B each; {:.1} -> {:.1}, intercept {:.1} MB",
        each(0),
        megabytes(before[0]),
        megabytes(after[0]),
        megabytes(after[1])
    );
    let reached = each(0) <= 512 && megabytes(after[1]) < 16.0 && copied == SESSIONS;
    let variant = if copied == SESSIONS { String::new() } else { format!(" (only {copied} copied)") };
    vec![Row { variant, before: None, ours, cpu: None, reached: Some(reached) }]
}

fn port_reuse(programs: &Programs) -> Vec<Row> {
    let scene = Scene::new(programs);
    scene.lab.client.set_sysctl("net/ipv4/ip_local_port_range", "20000 20399").expect("400 source ports");
    scene.lab.client.set_sysctl("net/ipv4/tcp_tw_reuse", "1").expect("tcp_tw_reuse");
    let measured = scene.measure(SECOND, 10 * SECOND, |scene| {
        load::run(&scene.lab.client, &paced(scene.server(), 1_000, SECONDS, Reuse::Close));
    });
    let reached = measured.in_time == measured.online && measured.comparison.is_perfect();
    let ours = copied(&measured);
    vec![row(String::new(), &measured, ours, reached)]
}

/// The same load as fast as it goes, with one worker in each program and with two. On a machine whose processors are busy
/// with the servers already, more threads have nothing to run on; the ratio tells.
fn workers(programs: &Programs) -> Vec<Row> {
    let mut alone = 0;
    ["1", "2"]
        .into_iter()
        .map(|workers| {
            let scene = Scene::with(programs, |setup| setup.set_workers(workers));
            let measured = scene.measure(SECOND, 10 * SECOND, |scene| {
                let wrk = Wrk { connections: 50, seconds: 3, close: false, load: load::WrkLoad::AsFastAsItGoes };
                wrk.run(&scene.lab.client, scene.server(), scene.folder.path());
            });
            let ratio = if alone == 0 {
                alone = measured.in_time.max(1);
                String::new()
            } else {
                format!(", {:.2} times those of one", measured.in_time as f64 / alone as f64)
            };
            let row = row(format!(", --workers {workers}"), &measured, copied(&measured) + &ratio, true);
            Row { reached: None, ..row }
        })
        .collect()
}
