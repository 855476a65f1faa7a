//! The program intercept, with a tcpcopy's end of the control link in front of it and real TCP connections on the loopback
//! device of a network namespace behind it.
//!
//! Runs as root, or in a user namespace; where neither is possible the tests are reported as ignored.

use std::collections::HashSet;
use std::fs;
use std::io::{Error, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Failed, Trial};
use mio::{Events, Poll, Token};
use tcpcopy_engine::LinkId;
use tcpcopy_io::clock::MonotonicClock;
use tcpcopy_io::control::{ControlLinks, LinkEvent, LinksConfig};
use tcpcopy_io::netns::{self, Namespace, Process, wait_for};
use tcpcopy_io::process::{SIGHUP, SIGTERM};
use tcpcopy_wire::control::{FEATURE_PAYLOAD, FlowId, Hello, Payload, RouteChange};
use tcpcopy_wire::tcp::Flags;
use tcpcopy_wire::{Flow, SeqNumber};

const INTERCEPT: &str = env!("CARGO_BIN_EXE_intercept");
const PATIENCE: Duration = Duration::from_secs(30);
const CONTROL: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 36524);
const TARGET: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 7000);
const FILTER: &str = "tcp and src port 7000";

fn main() {
    let arguments = Arguments::from_args();
    let impossible = netns::prepare().err();
    if let Some(reason) = &impossible {
        eprintln!("the tests of intercept are ignored: {reason}");
    }
    type Test = fn() -> Result<(), Failed>;
    let tests: [(&str, Test); 12] = [
        ("responses are reported, early ones too", || responses_are_reported("lo", &[])),
        ("on `any` each response is reported once", || responses_are_reported("any", &[])),
        ("by several workers, too", || responses_are_reported("lo", &["--workers", "3"])),
        ("on `any`, too", || responses_are_reported("any", &["--workers", "2"])),
        ("two workers share connections, and have their payload", two_workers),
        ("a device that was away is captured on again", || a_device_comes_back(&[])),
        ("by all workers", || a_device_comes_back(&["--workers", "2"])),
        ("a restarted intercept goes on", a_restart),
        ("a daemon writes its pid, opens its log again, and stops", a_daemon),
        ("-n limits what is written at once", small_writes),
        ("a start that fails says why", failing_starts),
        ("a tcpcopy of the C programs reads records as it was built to", old_tcpcopies),
    ];
    let trials =
        tests.map(|(name, test)| Trial::test(name, test).with_ignored_flag(impossible.is_some())).into_iter().collect();
    libtest_mimic::run(&arguments, trials).exit();
}

/// A namespace with nothing but a loopback device.
fn namespace() -> Result<Namespace, Failed> {
    let namespace = Namespace::new()?;
    namespace.output("ip", &["link", "set", "lo", "up"])?;
    Ok(namespace)
}

fn intercept(namespace: &Namespace, device: &str, options: &[&str]) -> Result<Process, Failed> {
    let mut command = namespace.command(INTERCEPT);
    command.args(["-i", device, "-F", FILTER]).args(options).stderr(Stdio::piped());
    let process = Process::start(&mut command)?;
    wait_for(PATIENCE, || process.sees_listener(CONTROL.1).then_some(())).ok_or("intercept does not listen")?;
    Ok(process)
}

/// Ends intercept in good order and returns its log.
fn stop(mut process: Process) -> Result<String, Failed> {
    process.signal(SIGTERM);
    let status = process.wait(PATIENCE).ok_or("intercept does not stop")?;
    let mut log = String::new();
    process.child_mut().stderr.take().ok_or("no log")?.read_to_string(&mut log)?;
    if !status.success() {
        return Err(format!("{status}: {log}").into());
    }
    Ok(log)
}

/// A response: id, flags, payload length, options, sequence number, and how much of the payload came with it.
type Response = (u64, Flags, u32, Vec<u8>, SeqNumber, usize);

/// A tcpcopy's end of one link.
struct Copier {
    poll: Poll,
    clock: MonotonicClock,
    links: ControlLinks,
    ups: usize,
    responses: Vec<Response>,
}

impl Copier {
    fn new() -> Result<Self, Failed> {
        let poll = Poll::new()?;
        let hello = Hello { features: FEATURE_PAYLOAD, route_ttl: Duration::from_secs(60), max_batch: 0 };
        let links = ControlLinks::new(LinksConfig::new(vec![CONTROL.into()], 1, hello), poll.registry(), Token(0))?;
        let mut copier = Self { poll, clock: MonotonicClock::start(), links, ups: 0, responses: Vec::new() };
        copier.until("the link", |c| c.ups == 1)?;
        Ok(copier)
    }

    fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) -> Result<(), Failed> {
        self.until_or(what, PATIENCE, done)
    }

    fn until_or(&mut self, what: &str, patience: Duration, done: impl Fn(&Self) -> bool) -> Result<(), Failed> {
        let (begun, mut events) = (Instant::now(), Events::with_capacity(16));
        while !done(self) {
            if begun.elapsed() > patience {
                return Err(format!("waited in vain for {what}; got {:?}", self.responses).into());
            }
            self.poll.poll(&mut events, Some(Duration::from_millis(10)))?;
            let now = self.clock.now();
            let Self { links, ups, responses, .. } = self;
            let mut sink = |e: LinkEvent<'_>| match e {
                LinkEvent::Up { .. } => *ups += 1,
                LinkEvent::Response { header: h, .. } => {
                    responses.push((h.id.0, h.flags, h.payload_len, h.options.to_vec(), h.seq, h.payload.len()));
                }
                _ => {}
            };
            for event in &events {
                links.handle_event(event, now, &mut sink);
            }
            if links.next_deadline().is_some_and(|at| at <= now) {
                links.handle_timeout(now, &mut sink);
            }
        }
        Ok(())
    }

    fn add_route(&mut self, id: u64, connection: &TcpStream) -> Result<(), Failed> {
        let flow = Flow { client: connection.local_addr()?.into(), server: SocketAddr::from(TARGET).into() };
        let change = RouteChange::Add { id: FlowId(id), transport: tcpcopy_wire::Transport::Tcp, flow };
        self.links.send(LinkId(0), &change).map_err(|e| format!("{e:?}"))?;
        self.links.flush(self.clock.now());
        Ok(())
    }

    /// Bytes of payload reported for a session, those that the target sent again not counted again.
    fn bytes(&self, id: u64) -> u32 {
        let of_session = || self.responses.iter().filter(|r| r.0 == id);
        let Some(syn_ack) = of_session().find(|r| r.1.contains(Flags::SYN)) else { return 0 };
        of_session().map(|r| (r.4 + r.2).distance_from(syn_ack.4) - 1).max().unwrap_or(0).max(0) as u32
    }

    /// A packet with data that was reported more than once: what is sent again has another timestamp.
    fn reported_twice(&self) -> Option<&Response> {
        let mut seen = HashSet::new();
        self.responses.iter().find(|r| r.2 > 0 && !seen.insert((r.0, r.4.0, r.2, &r.3)))
    }
}

/// A connection to the target, both ends.
fn connection(target: &TcpListener) -> Result<(TcpStream, TcpStream), Failed> {
    let client = TcpStream::connect(SocketAddr::from(TARGET))?;
    Ok((client, target.accept()?.0))
}

/// On a busy machine the route may be there before intercept has looked at the target's answer, which is not early then.
fn responses_are_reported(device: &str, options: &[&str]) -> Result<(), Failed> {
    for _ in 0..5 {
        let log = report_responses(device, options)?;
        if log.contains("early released:0;") {
            continue;
        }
        let told = ["early released:1;", "links up:", "dropped by kernel:0", "stopped"];
        return match told.iter().find(|part| !log.contains(**part)) {
            None => Ok(()),
            Some(part) => Err(format!("`{part}` is not in the log:\n{log}").into()),
        };
    }
    Err("no response was early".into())
}

/// Has a copier learn of a connection that was answered already, and of all that comes on it. Returns intercept's log.
fn report_responses(device: &str, options: &[&str]) -> Result<String, Failed> {
    let namespace = namespace()?;
    let process = intercept(&namespace, device, options)?;
    namespace.run(|| -> Result<(), Failed> {
        let target = TcpListener::bind(SocketAddr::from(TARGET))?;
        // The target has answered the SYN before a tcpcopy is even there: its answer waits for the route, for a second.
        // Where a second is not enough to connect, another attempt is made.
        let (mut copier, mut client, mut server) = (0..20)
            .find_map(|_| {
                let attempt = || -> Result<_, Failed> {
                    let (client, server) = connection(&target)?;
                    let mut copier = Copier::new()?;
                    copier.add_route(7, &client)?;
                    copier.until_or("the early SYN-ACK", Duration::from_secs(2), |c| !c.responses.is_empty())?;
                    Ok((copier, client, server))
                };
                attempt().ok()
            })
            .ok_or("no early response is released")?;
        let (id, flags, len, options, ..) = &copier.responses[0];
        if (*id, *flags, *len) != (7, Flags::SYN | Flags::ACK, 0) || options.len() < 4 {
            return Err(format!("not the SYN-ACK: {:?}", copier.responses).into());
        }
        let mut answer = vec![0; 100_000];
        std::thread::scope(|s| {
            s.spawn(|| server.write_all(&vec![1; 100_000]));
            client.read_exact(&mut answer)
        })?;
        copier.until("all bytes", |c| c.bytes(7) >= 100_000)?;
        drop(server);
        copier.until("the FIN", |c| c.responses.iter().any(|r| r.1.contains(Flags::FIN)))?;
        if copier.bytes(7) != 100_000 {
            return Err(format!("{} bytes reported", copier.bytes(7)).into());
        }
        if let Some(twice) = copier.reported_twice() {
            return Err(format!("reported twice: {twice:?}").into());
        }
        Ok(())
    })??;
    stop(process)
}

/// The number behind a name in a line.
fn number(line: &str, name: &str) -> Option<u64> {
    line.split(name).nth(1)?.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn two_workers() -> Result<(), Failed> {
    const CONNECTIONS: u64 = 64;
    let namespace = namespace()?;
    let process = intercept(&namespace, "lo", &["--workers", "2"])?;
    namespace.run(|| -> Result<(), Failed> {
        let target = TcpListener::bind(SocketAddr::from(TARGET))?;
        let mut copier = Copier::new()?;
        let mut open = Vec::new();
        for id in 0..CONNECTIONS {
            let pair = connection(&target)?;
            copier.add_route(id, &pair.0)?;
            open.push(pair);
        }
        let all = |c: &Copier, len: u32| (0..CONNECTIONS).all(|id| c.bytes(id) == len);
        copier.until("every SYN-ACK", |c| (0..CONNECTIONS).all(|id| c.responses.iter().any(|r| r.0 == id)))?;
        for (client, server) in &mut open {
            server.write_all(b"x")?;
            client.read_exact(&mut [0])?;
        }
        copier.until("every answer", |c| all(c, 1))?;
        for id in 0..CONNECTIONS {
            let change = RouteChange::Payload { id: FlowId(id), payload: Payload::Full };
            copier.links.send(LinkId(0), &change).map_err(|e| format!("{e:?}"))?;
        }
        copier.links.flush(copier.clock.now());
        // The captures are opened again meanwhile. What was captured before has no payload; from some moment on all has.
        let (begun, mut sent) = (Instant::now(), 1);
        let of = |c: &Copier, id: u64| c.responses.iter().filter(|r| r.0 == id).map(|r| r.5).sum::<usize>();
        while begun.elapsed() < PATIENCE {
            sent += 1000;
            copier.responses.retain(|r| r.1.contains(Flags::SYN));
            for (client, server) in &mut open {
                server.write_all(&[7; 1000])?;
                client.read_exact(&mut [0; 1000])?;
            }
            copier.until("answers", |c| (0..CONNECTIONS).all(|id| c.bytes(id) == sent))?;
            if (0..CONNECTIONS).all(|id| of(&copier, id) == 1000) {
                return Ok(());
            }
        }
        Err("payload does not come".into())
    })??;
    let log = stop(process)?;
    let line = |what: &str| log.lines().rfind(|l| l.contains(what)).ok_or_else(|| format!("no `{what}` in:\n{log}"));
    let parts = [line("worker 0: ")?, line("worker 1: ")?].map(|line| number(line, "captured:").unwrap_or(0));
    let total = number(line("total resp packs:")?, "captured:").unwrap_or(0);
    // That one of them has none of 64 connections has a chance of 2^-63.
    if parts.contains(&0) || parts.iter().sum::<u64>() != total || log.contains("balance") {
        return Err(format!("{parts:?} of {total}:\n{log}").into());
    }
    match number(line("total resp packs:")?, "route:") {
        Some(CONNECTIONS) => Ok(()),
        other => Err(format!("{other:?} routes, each should be counted once:\n{log}").into()),
    }
}

fn a_device_comes_back(options: &[&str]) -> Result<(), Failed> {
    let namespace = namespace()?;
    let log = std::env::temp_dir().join(format!("intercept-device-{}-{}", std::process::id(), options.len()));
    let ip = |line: &str| namespace.output("ip", &line.split(' ').collect::<Vec<_>>());
    let make =
        || ["link add away type veth peer name far", "link set away up"].iter().try_for_each(|line| ip(line).map(drop));
    make()?;
    let words = ["-l", &log.to_string_lossy()];
    let process = intercept(&namespace, "lo,away", &[options, &words].concat())?;
    let is_said = |what: &str| {
        wait_for(PATIENCE, || fs::read_to_string(&log).ok().filter(|text| text.contains(what)))
            .ok_or_else(|| format!("`{what}` is not in the log: {}", fs::read_to_string(&log).unwrap_or_default()))
    };
    ip("link delete away")?;
    is_said("trying to open away again")?;
    make()?;
    is_said("capturing on away again")?;
    // The other device goes on all the while, with the same workers.
    namespace.run(|| -> Result<(), Failed> {
        let target = TcpListener::bind(SocketAddr::from(TARGET))?;
        let mut copier = Copier::new()?;
        let mut open = Vec::new();
        for id in 0..20 {
            let pair = connection(&target)?;
            copier.add_route(id, &pair.0)?;
            open.push(pair);
        }
        copier.until("every SYN-ACK", |c| (0..20).all(|id| c.responses.iter().any(|r| r.0 == id)))
    })??;
    stop(process)?;
    let text = fs::read_to_string(&log)?;
    fs::remove_file(&log)?;
    if text.contains("balance") || text.matches("trying to open").count() != 1 {
        return Err(text.into());
    }
    Ok(())
}

fn a_restart() -> Result<(), Failed> {
    let namespace = namespace()?;
    let mut process = intercept(&namespace, "lo", &[])?;
    let (mut copier, mut client, mut server) = namespace.run(|| -> Result<_, Failed> {
        let target = TcpListener::bind(SocketAddr::from(TARGET))?;
        let mut copier = Copier::new()?;
        let (client, server) = connection(&target)?;
        copier.add_route(7, &client)?;
        copier.until("the SYN-ACK", |c| !c.responses.is_empty())?;
        Ok((copier, client, server))
    })??;
    process.kill();
    drop(process);
    let process = intercept(&namespace, "lo", &[])?;
    // In the namespace, because the link is connected again there.
    namespace.run(move || -> Result<(), Failed> {
        copier.until("the link to come up again", |c| c.ups == 2)?;
        copier.add_route(7, &client)?;
        server.write_all(&[0; 1000])?;
        client.read_exact(&mut [0; 1000])?;
        copier.until("what the target sent afterwards", |c| c.bytes(7) == 1000)
    })??;
    stop(process)?;
    Ok(())
}

fn small_writes() -> Result<(), Failed> {
    let namespace = namespace()?;
    let process = intercept(&namespace, "lo", &["-n", "1", "-s", "1"])?;
    namespace.run(|| -> Result<(), Failed> {
        let target = TcpListener::bind(SocketAddr::from(TARGET))?;
        let mut copier = Copier::new()?;
        let mut open = Vec::new();
        for id in 0..50 {
            let pair = connection(&target)?;
            copier.add_route(id, &pair.0)?;
            open.push(pair);
        }
        copier.until("every SYN-ACK", |c| (0..50).all(|id| c.responses.iter().any(|r| r.0 == id)))?;
        for (client, server) in &mut open {
            server.write_all(b"x")?;
            client.read_exact(&mut [0])?;
        }
        copier.until("every answer", |c| (0..50).all(|id| c.bytes(id) == 1))
    })??;
    let log = stop(process)?;
    let last = log.lines().rfind(|l| l.contains("sock write cnt:")).ok_or("no statistics")?;
    // What waited for its route goes with it, several at once perhaps; what was captured with a route goes one by one.
    match (number(last, "sock write cnt:"), number(last, "total resp packs:")) {
        (Some(writes), Some(relayed)) if writes >= 51 && writes <= relayed => Ok(()),
        other => Err(format!("{other:?}: {last}").into()),
    }
}

fn a_daemon() -> Result<(), Failed> {
    let folder = std::env::temp_dir().join(format!("intercept-test-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let result = daemon_in(&folder);
    fs::remove_dir_all(&folder)?;
    result
}

fn daemon_in(folder: &Path) -> Result<(), Failed> {
    let namespace = namespace()?;
    let [config, log, old_log, pid_file] = ["conf", "log", "log.1", "pid"].map(|name| folder.join(name));
    // The port of the file is not taken: the command line has another.
    let text = format!("filter = '{FILTER}'\ndevice = 'lo'\npid = '{}'\nport = 1", pid_file.display());
    fs::write(&config, text)?;
    let words = ["--config", &config.to_string_lossy(), "-d", "-p", "36524", "-l", &log.to_string_lossy()];
    let started = namespace.command(INTERCEPT).args(words).output()?;
    if !started.status.success() {
        return Err(format!("{started:?}").into());
    }
    // From here on the daemon runs; whatever happens it must be stopped.
    let pid: i32 = fs::read_to_string(&pid_file)?.trim().parse().map_err(|e| format!("no pid: {e}"))?;
    let signal = |signal: i32| {
        let sent = Command::new("kill").args([format!("-{signal}"), pid.to_string()]).status();
        sent.is_ok_and(|status| status.success())
    };
    let alive = || PathBuf::from(format!("/proc/{pid}")).exists();
    let reopened = fs::rename(&log, &old_log).and_then(|()| {
        signal(SIGHUP);
        wait_for(PATIENCE, || fs::read_to_string(&log).ok().filter(|text| text.contains("opened again")))
            .ok_or_else(|| Error::other("the log is not opened again"))
    });
    let ran = alive();
    signal(SIGTERM);
    let ended = wait_for(PATIENCE, || (!alive() && !pid_file.exists()).then_some(()));
    if ended.is_none() {
        signal(9);
        return Err("the daemon does not stop".into());
    }
    reopened?;
    let (began, log) = (fs::read_to_string(&old_log)?, fs::read_to_string(&log)?);
    if !ran || !began.contains(":36524") || !log.contains("stopped") {
        return Err(format!("the daemon did not run to its end:\n{began}{log}").into());
    }
    Ok(())
}

fn failing_starts() -> Result<(), Failed> {
    let namespace = namespace()?;
    let taken = namespace.run(|| TcpListener::bind(SocketAddr::from(CONTROL)))??;
    let cases: [(&[&str], i32, &[&str]); 4] = [
        (&["-F", FILTER, "-i", "nosuch0"], 2, &["nosuch0", "lo, any"]),
        (&["-F", "tcp and src prt 1", "-i", "lo"], 2, &["src prt", "-F 'tcp"]),
        (&["-F", FILTER, "-i", "lo", "-b", "127.0.0.1"], 1, &["127.0.0.1:36524", "in use", "-p"]),
        (&["-F", FILTER, "-i", "lo", "-b", "127.0.0.1", "-d", "-l", "/dev/null"], 1, &["127.0.0.1:36524", "in use"]),
    ];
    for (words, code, said) in cases {
        let output = namespace.command(INTERCEPT).args(words).output()?;
        let text = String::from_utf8_lossy(&output.stderr);
        if output.status.code() != Some(code) || said.iter().any(|part| !text.contains(part)) {
            return Err(format!("{words:?}: {}: {text}", output.status).into());
        }
    }
    drop(taken);
    Ok(())
}

/// A tcpcopy of the C programs, byte by byte: what it says, and what it reads of one connection in each form.
fn old_tcpcopies() -> Result<(), Failed> {
    let forms: [(&[&str], usize, bool); 4] = [
        (&[], 64, true),
        (&["--legacy-separate"], 64, false),
        (&["--legacy-payload", "-n", "3"], 192, true),
        (&["--single"], 64, true),
    ];
    for (options, len, combined) in forms {
        let namespace = namespace()?;
        let process = intercept(&namespace, "lo", options)?;
        let announced = options != ["--single"];
        let read = namespace.run(|| old_tcpcopy(len, combined, announced))?;
        read.map_err(|e| format!("{options:?}: {e:?}"))?;
        let log = stop(process)?;
        if !log.contains("tcpcopy of the C programs at 127.0.0.1") {
            return Err(format!("{options:?}: {log}").into());
        }
    }
    Ok(())
}

fn old_tcpcopy(record_len: usize, combined: bool, announced: bool) -> Result<(), Failed> {
    let target = TcpListener::bind(SocketAddr::from(TARGET))?;
    let mut link = TcpStream::connect(SocketAddr::from(CONTROL))?;
    link.set_read_timeout(Some(Duration::from_secs(2)))?;
    link.write_all(&[0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0])?;
    // The SYN-ACK waits for its route for a second, or for the version; where that is not enough, once more.
    let (mut client, mut server, first) = (0..20)
        .find_map(|_| {
            let (client, server) = connection(&target).ok()?;
            let port = client.local_addr().ok()?.port().to_be_bytes();
            let add = [127, 0, 0, 1, port[0], port[1], 0, 1, 127, 0, 0, 1, 0x1b, 0x58];
            if announced {
                link.write_all(&add).ok()?;
            }
            // What is left of the attempts before comes first.
            loop {
                let records = read_records(&mut link, record_len, combined).ok()?;
                if let Some(record) = records.into_iter().find(|record| record[22..24] == port) {
                    return Some((client, server, record));
                }
            }
        })
        .ok_or("no record of a SYN-ACK")?;
    let tcp_len = usize::from(first[32] >> 4) * 4;
    let total = usize::from(first[2]) << 8 | usize::from(first[3]);
    let shape = (first[0], first[9], &first[12..20], &first[20..22], first[33], total - 20 - tcp_len);
    if shape != (0x45, 6, &[127, 0, 0, 1, 127, 0, 0, 1][..], &[0x1b, 0x58][..], 0x12, 0) || tcp_len < 24 {
        return Err(format!("not the SYN-ACK: {first:02x?}").into());
    }
    server.write_all(b"short\n")?;
    client.read_exact(&mut [0; 6])?;
    let mut bytes = 0;
    link.set_read_timeout(Some(PATIENCE))?;
    while bytes < 6 {
        for record in read_records(&mut link, record_len, combined)? {
            let (total, tcp_len) = (usize::from(record[3]), usize::from(record[32] >> 4) * 4);
            let len = total - 20 - tcp_len;
            if len > 0 && record_len == 192 && record[20 + tcp_len..total] != b"short\n"[..] {
                return Err(format!("the payload is not behind the options: {record:02x?}").into());
            }
            bytes += len;
        }
    }
    Ok(())
}

/// One frame, or one bare record.
fn read_records(link: &mut TcpStream, len: usize, combined: bool) -> Result<Vec<Vec<u8>>, Failed> {
    let mut count = [0, 1];
    if combined {
        link.read_exact(&mut count)?;
    }
    if count[0] != 0 || !(1..=16).contains(&count[1]) {
        return Err(format!("a count of {count:?}").into());
    }
    let mut records = vec![vec![0; len]; usize::from(count[1])];
    for record in &mut records {
        link.read_exact(record)?;
    }
    Ok(records)
}
