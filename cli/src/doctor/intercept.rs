//! The checks of `intercept doctor`, in their order.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use tcpcopy_io::capture::{Capture, CaptureConfig, CaptureError};
use tcpcopy_io::control::{CloseReason, LinksConfig};
use tcpcopy_io::firewall::{self as rules_of_queue, Answers, FoundRule};
use tcpcopy_io::host::{self, Rulesets};
use tcpcopy_io::nfqueue;
use tcpcopy_io::privileges::Account;
use tcpcopy_io::process;
use tcpcopy_wire::control::{FEATURE_CHECKS, Hello, Question};
use tcpcopy_wire::tcp::Flags;
use tcpcopy_wire::{Endpoint, Flow, Packet, TcpSegment, Transport};

use super::ask::ask;
use super::checks::Check;
use super::finding::Finding;
use super::intercepts::Reached;
use super::rules::Rules;
use super::run::{capture_failure, privileges};
use super::{firewall, host as judge};
use crate::intercept::options::Options;
use crate::intercept::queue::QueueOptions;

/// Pause between two looks at the rings.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// How long a listener on this host may take to accept a connection.
const CONNECT_PATIENCE: Duration = Duration::from_secs(1);
/// Packets that are enough to judge by.
const ENOUGH: u64 = 20_000;
const AT_ONCE: usize = 4096;
/// Bytes of each packet that tell what it is.
const HEADERS: usize = 256;

/// Makes all checks; `emit` gets each finding as soon as it is there.
pub(super) fn run(options: &Options, duration: Duration, emit: &mut dyn FnMut(Finding)) {
    judge::user(options.identity.user.as_deref().map(Account::find)).into_iter().for_each(&mut *emit);
    let for_queue = options.queue.as_ref().map(|_| "NFQUEUE cannot be read");
    emit(judge::capabilities(privileges(), &process::setcap_line(), for_queue));
    match &options.queue {
        Some(queue) => emit_all(emit, queue_rules(queue)),
        None => captures(options, duration, emit),
    }
    let rules = Rules::read(&Rulesets::read());
    emit(firewall::control_port(&rules, options.port));
    emit(port(options));
}

fn emit_all(emit: &mut dyn FnMut(Finding), findings: Vec<Finding>) {
    findings.into_iter().for_each(emit);
}

/// Where answers are captured: devices, what the filter finds, and that they go no further.
fn captures(options: &Options, duration: Duration, emit: &mut dyn FnMut(Finding)) {
    let devices = host::devices();
    for name in &options.devices {
        emit(judge::device(name, &devices, false));
    }
    let rings = options.devices.len() * options.buffer_bytes * usize::from(options.workers);
    emit(judge::memory(rings as u64, 0, host::available_memory()));
    if privileges().net_raw {
        match watch(options, duration) {
            Ok(seen) => emit(traffic(&options.filter, &seen, duration)),
            Err(e) => capture_failure(&e).into_iter().for_each(&mut *emit),
        }
    }
    let number = |name: &str| host::sysctl_number(name).map(|value| value != 0);
    let (ipv4, ipv6) = (number("net/ipv4/ip_forward"), number("net/ipv6/conf/all/forwarding"));
    let uses_ipv6 = devices.iter().flat_map(|device| &device.addresses).any(|net| match net.addr() {
        IpAddr::V6(addr) => !addr.is_loopback() && !addr.is_unicast_link_local(),
        IpAddr::V4(_) => false,
    });
    emit(judge::forwarding(ipv4, ipv6, uses_ipv6));
    martians(options, emit);
}

/// Answers to addresses that are nobody's here may be logged by the kernel, one by one.
fn martians(options: &Options, emit: &mut dyn FnMut(Finding)) {
    let names = options.devices.iter().map(String::as_str).chain(["all"]).filter(|name| *name != "any");
    let logging = names.filter(|name| host::sysctl_number(&format!("net/ipv4/conf/{name}/log_martians")) == Some(1));
    let settings: Vec<String> = logging.map(|name| format!("net.ipv4.conf.{name}.log_martians=0")).collect();
    let strict = |name: &String| host::route::reverse_path_filter(name).is_some_and(|value| value > 0);
    if !settings.is_empty() && options.devices.iter().any(strict) {
        emit(Check::Kernel.warning(
            "where the target's address is not expected on the device (rp_filter), each of its answers becomes a line of the \
             kernel's log (log_martians); intercept sees them all the same",
            format!("sysctl {}", settings.join(" ")),
        ));
    }
}

/// What a capture has shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) packets: u64,
    /// With an ACK of a SYN: connections that came about at the target.
    pub(super) accepted: u64,
    pub(super) resets: u64,
    /// TCP and UDP of all kinds without the filter; only counted where the filter found nothing.
    pub(super) unfiltered: u64,
}

fn watch(options: &Options, duration: Duration) -> Result<Seen, CaptureError> {
    let config = |filter: &str| {
        let filter = filter.to_owned();
        move |device: &String| CaptureConfig {
            device: device.clone(),
            filter: filter.clone(),
            buffer_bytes: options.buffer_bytes,
            snaplen: HEADERS,
            immediate: true,
            ..CaptureConfig::default()
        }
    };
    let mut seen = look(options.devices.iter().map(config(&options.filter)), duration)?;
    if seen.packets == 0 {
        seen.unfiltered = look(options.devices.iter().map(config("tcp or udp")), duration)?.packets;
    }
    Ok(seen)
}

fn look(configs: impl Iterator<Item = CaptureConfig>, duration: Duration) -> Result<Seen, CaptureError> {
    let mut captures = configs.map(|config| Capture::open(&config)).collect::<Result<Vec<_>, _>>()?;
    let mut seen = Seen::default();
    let end = Instant::now() + duration;
    while Instant::now() < end && seen.packets < ENOUGH {
        thread::sleep(LOOK_EVERY);
        for capture in &mut captures {
            let link = capture.link_type();
            capture.drain(AT_ONCE, |bytes, wire_len| {
                seen.packets += 1;
                if let Ok(Packet::Tcp(TcpSegment { tcp, .. })) = Packet::from_frame(link, bytes, wire_len) {
                    let has = |flag| tcp.flags().contains(flag);
                    seen.accepted += u64::from(has(Flags::SYN) && has(Flags::ACK));
                    seen.resets += u64::from(has(Flags::RST));
                }
            })?;
        }
    }
    Ok(seen)
}

/// What the capture has shown means.
pub(super) fn traffic(filter: &str, seen: &Seen, duration: Duration) -> Finding {
    let seconds = duration.as_secs_f32();
    let Seen { packets, accepted, resets, unfiltered } = seen;
    if *packets == 0 {
        let nothing = format!("no packet that the filter takes within {seconds} s: {filter}");
        let remedy = "is a tcpcopy running, with clients? Then the target's route for its addresses (-c) does not lead here (ip \
                      route get ADDRESS, on the target), or the filter is not about the target's port";
        return match unfiltered {
            0 => Check::Traffic.warning(format!("{nothing}; nor any other of TCP or UDP"), remedy),
            n => Check::Traffic.warning(format!("{nothing}; {n} others of TCP and UDP were seen"), remedy),
        };
    }
    if *resets > 0 && *accepted == 0 && resets * 2 > *packets {
        return Check::Traffic.warning(
            format!("{packets} packets within {seconds} s, {resets} of them resets: the target refuses connections"),
            "on the target: does the server listen on that port (`ss -lnt`), for all addresses?",
        );
    }
    Check::Traffic
        .ok(format!("{packets} packets of the target within {seconds} s, {accepted} of them accept connections"))
}

/// The queue of the traditional set-up: that there is one, who reads it, and what leads to it.
fn queue_rules(queue: &QueueOptions) -> Vec<Finding> {
    let found = rules_of_queue::rules_to(queue.number);
    judge_queue(queue, &found, host::has_nfqueue(), nfqueue::is_taken(queue.number), privileges().net_admin)
}

fn judge_queue(
    queue: &QueueOptions,
    found: &[FoundRule],
    has_nfqueue: bool,
    is_taken: bool,
    may_look: bool,
) -> Vec<Finding> {
    let number = queue.number;
    let mut findings = Vec::new();
    if !has_nfqueue {
        findings.push(Check::Queue.warning(
            "the kernel shows no NFQUEUE; its module is loaded when the first rule or reader needs it",
            "modprobe nfnetlink_queue",
        ));
    }
    if is_taken {
        findings.push(
            Check::Queue.ok(format!("queue {number} is read, by an intercept that runs already or another program")),
        );
    }
    if !may_look {
        return findings;
    }
    let example = Answers { transport: Transport::Tcp, port: 8080 };
    match (found, queue.setup.is_empty()) {
        ([], true) => findings.push(Check::Queue.failure(
            format!("no rule leads to queue {number}: intercept would see no answer"),
            format!("--setup PORT, with which intercept makes the rule itself; or {}", example.command(number)),
        )),
        ([], false) => findings.push(
            Check::Queue
                .ok(format!("no rule leads to queue {number} yet; intercept makes its own at the start (--setup)")),
        ),
        (found, _) => {
            for rule in found {
                let text = format!("{} {} has taken {} packets", rule.program, rule.rule, rule.packets);
                findings.push(if rule.bypass || is_taken {
                    Check::Queue.ok(text)
                } else {
                    Check::Queue.failure(
                        format!(
                            "{text}; without --queue-bypass it drops the server's answers while nobody reads the queue"
                        ),
                        format!("make it again with --queue-bypass: {}", example.command(number)),
                    )
                });
            }
        }
    }
    findings
}

/// Whether the port that tcpcopys connect to can be had, or who has it.
fn port(options: &Options) -> Finding {
    let (any, loopback): (IpAddr, IpAddr) = match options.bind {
        Some(address) => (address, address),
        None => (Ipv6Addr::UNSPECIFIED.into(), Ipv4Addr::LOCALHOST.into()),
    };
    let port = options.port;
    if port == 0 {
        return Check::Port.ok("any that is free (-p 0); the log says which");
    }
    let bound = TcpListener::bind((any, port)).or_else(|e| match e.kind() {
        ErrorKind::AddrInUse | ErrorKind::PermissionDenied => Err(e),
        // A host without IPv6.
        _ if options.bind.is_none() => TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)),
        _ => Err(e),
    });
    match bound {
        Ok(_) => Check::Port.ok(format!("{port} is free; no intercept runs on it")),
        Err(e) if e.kind() == ErrorKind::AddrInUse => taken(port, who_listens(SocketAddr::new(loopback, port))),
        Err(e) if e.kind() == ErrorKind::AddrNotAvailable => Check::Port.failure(
            format!("{any} (-b) is no address of this host"),
            "give -b an address that `ip address` shows, or leave it out",
        ),
        Err(e) => {
            Check::Port.failure(format!("{port} cannot be had: {e}"), "give another one with -p, and tcpcopy the same")
        }
    }
}

/// Who has the port.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Listener {
    /// An intercept, of this release if that is known.
    Intercept(Option<String>),
    Another,
    /// Somebody to whom this host's own packets do not get through.
    Hidden,
}

fn who_listens(address: SocketAddr) -> Listener {
    if TcpStream::connect_timeout(&address, CONNECT_PATIENCE).is_err_and(|e| e.kind() == ErrorKind::TimedOut) {
        return Listener::Hidden;
    }
    let hello = Hello { features: FEATURE_CHECKS, ..Hello::default() };
    // About nobody (RFC 5737): what counts is that there is an answer.
    let end = |last, port| Endpoint::from(SocketAddr::from(([192, 0, 2, last], port)));
    let question = Question { transport: Transport::Tcp, flow: Flow { client: end(1, 1024), server: end(2, 80) } };
    let reached =
        ask(LinksConfig::new(vec![address], 1, hello), &[question]).ok().and_then(|all| all.into_iter().next());
    match reached {
        Some(Reached::Yes(report)) => Listener::Intercept(Some(report.version)),
        // It is one of ours, too, that says why it does not want us: a secret, TLS.
        Some(
            Reached::Unasked { .. }
            | Reached::Silent
            | Reached::No { reason: CloseReason::Refused(_) | CloseReason::Greeting(_) | CloseReason::Tls(_), .. },
        ) => Listener::Intercept(None),
        Some(Reached::No { .. }) | None => Listener::Another,
    }
}

fn taken(port: u16, listener: Listener) -> Finding {
    match listener {
        Listener::Intercept(version) => {
            let of = version.map(|version| format!(" {version}")).unwrap_or_default();
            Check::Port.ok(format!("an intercept{of} listens on {port} already: another one needs another port"))
        }
        Listener::Hidden => Check::Port.warning(
            format!("a program listens on {port} already, and does not answer this host itself"),
            format!(
                "`ss -lntp sport = :{port}` shows which: an intercept that the firewall hides from this host is well; stop any \
                 other, or give intercept another port with -p, and tcpcopy the same"
            ),
        ),
        Listener::Another => Check::Port.failure(
            format!("another program listens on {port}"),
            format!("`ss -lntp sport = :{port}` shows which; stop it, or give intercept another port with -p, and tcpcopy the same"),
        ),
    }
}

#[cfg(test)]
mod tests;
