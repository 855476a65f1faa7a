//! Judgements about intercept and the host that it runs on, from what it answers over the control link.

use std::net::SocketAddr;
use std::time::Duration;

use tcpcopy_io::control::{CloseReason, DEFAULT_PORT};
use tcpcopy_wire::Transport;
use tcpcopy_wire::control::{Answer, Fate, Question};

use super::checks::Check;
use super::finding::Finding;
use super::sources::network_of;

/// A difference between clocks that is worth a word.
const CLOCKS_APART: Duration = Duration::from_secs(1);
/// What is shown of a text of somebody else at most, in characters.
const SHOWN: usize = 200;

/// What came of an attempt to reach an intercept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reached {
    /// It did not work; `other_port`: something listens on the usual port of its host.
    No { reason: CloseReason, other_port: bool },
    /// It is an intercept of the C programs, or of a release without questions.
    Unasked { legacy: bool },
    /// It is there, and has not answered in time.
    Silent,
    /// It has answered.
    Yes(Box<Report>),
}

/// What it has told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Report {
    /// How far its clock is ahead of ours, in nanoseconds.
    pub(super) clock_ahead: i128,
    /// How long its answer took.
    pub(super) round_trip: Duration,
    pub(super) frames_captured: u64,
    pub(super) kernel_drops: u64,
    pub(super) reads_queue: bool,
    pub(super) forwards_ipv4: Option<bool>,
    pub(super) forwards_ipv6: Option<bool>,
    pub(super) version: String,
    pub(super) devices: String,
    pub(super) filter: String,
    pub(super) answers: Vec<Answer>,
}

/// What is said of one intercept. `questions` are those that it was asked.
pub(super) fn judge(address: SocketAddr, reached: &Reached, questions: &[Question]) -> Vec<Finding> {
    let host = address.ip();
    match reached {
        Reached::No { reason, other_port } => vec![unreachable(address, reason, *other_port)],
        Reached::Unasked { legacy: true } => vec![Check::Intercept.warning(
            format!(
                "intercept at {address} is reached; it is one of the C programs, which cannot be asked about its host"
            ),
            format!("on {host}: sysctl net.ipv4.ip_forward, and whether its -F takes the targets' answers"),
        )],
        Reached::Unasked { legacy: false } => vec![Check::Intercept.warning(
            format!("intercept at {address} is reached; its release cannot be asked about its host"),
            format!("on {host}: install the release {} of this tcpcopy", env!("CARGO_PKG_VERSION")),
        )],
        Reached::Silent => vec![Check::Intercept.warning(
            format!("intercept at {address} is reached, but did not answer questions in time: it may be overloaded"),
            format!("on {host}: look at intercept's log, and run: intercept doctor, with its options"),
        )],
        Reached::Yes(report) => answered(address, report, questions),
    }
}

fn unreachable(address: SocketAddr, reason: &CloseReason, other_port: bool) -> Finding {
    let host = address.ip();
    let text = format!("intercept at {address} cannot be reached: {reason}");
    let remedy = match reason {
        CloseReason::Io(std::io::ErrorKind::ConnectionRefused, _) if other_port => format!(
            "nothing listens on port {}, but something does on {DEFAULT_PORT}, intercept's usual one: leave -p out, or give \
             the port in -s",
            address.port()
        ),
        CloseReason::Io(std::io::ErrorKind::ConnectionRefused, _) => format!(
            "on {host}: start intercept, or see on which port it listens (`ss -lntp`), and give it with -p or -s {host}:PORT"
        ),
        CloseReason::Io(..) | CloseReason::NoHello(_) => format!(
            "`ping {host}`; is the address right, is the host up, and does no firewall on the way drop TCP to port {}?",
            address.port()
        ),
        // These reasons say what to do themselves.
        _ => format!("on {host}: look at intercept's log and options"),
    };
    Check::Intercept.failure(text, remedy)
}

fn answered(address: SocketAddr, report: &Report, questions: &[Question]) -> Vec<Finding> {
    let host = address.ip();
    let mut findings = vec![Check::Intercept.ok(format!(
        "intercept at {address} answers after {:.1} ms; it has captured {} packets",
        report.round_trip.as_secs_f64() * 1000.0,
        report.frames_captured
    ))];
    if report.kernel_drops > 0 {
        findings.push(Check::Intercept.warning(
            format!("the kernel dropped {} packets before intercept at {address} could read them", report.kernel_drops),
            format!(
                "on {host}: a larger buffer for intercept (-B 64), and a filter that takes no more than the answers"
            ),
        ));
    }
    let version = shown(&report.version);
    findings.push(if report.version == env!("CARGO_PKG_VERSION") {
        Check::Version.ok(format!("{version}, as this tcpcopy"))
    } else {
        Check::Version.warning(
            format!("intercept at {address} is of release {version}, this tcpcopy of {}", env!("CARGO_PKG_VERSION")),
            "install the same release on both hosts",
        )
    });
    // The answer was made some time within the round trip.
    let apart = Duration::from_nanos(u64::try_from(report.clock_ahead.unsigned_abs()).unwrap_or(u64::MAX));
    findings.push(if apart > CLOCKS_APART + report.round_trip {
        let direction = if report.clock_ahead > 0 { "ahead of" } else { "behind" };
        Check::Clock.warning(
            format!(
                "the clock of {host} is {:.1} s {direction} this host's: times in the logs do not agree",
                apart.as_secs_f64()
            ),
            "set both by NTP: timedatectl set-ntp true",
        )
    } else {
        Check::Clock.ok("agrees with this host's to within a second")
    });
    findings.extend(filter(address, report, questions));
    findings.extend(fates(address, report, questions));
    findings
}

/// Whether it sees what the targets answer.
fn filter(address: SocketAddr, report: &Report, questions: &[Question]) -> Vec<Finding> {
    let host = address.ip();
    let mut findings = Vec::new();
    let mut seen = Vec::new();
    for (question, answer) in questions.iter().zip(&report.answers) {
        let server = question.flow.server;
        let over = question.transport.to_string().to_lowercase();
        match answer.is_seen {
            Some(true) => seen.push(format!("{over} from {server}")),
            Some(false) => findings.push(Check::InterceptFilter.failure(
                format!(
                    "the filter of intercept at {address} leaves out what {server} answers over {}: {}",
                    question.transport,
                    shown(&report.filter)
                ),
                format!(
                    "on {host}: intercept -i {} -F '{over} and src host {} and src port {}'",
                    shown(&report.devices),
                    server.addr,
                    server.port
                ),
            )),
            None if report.reads_queue => findings.push(Check::InterceptFilter.ok(format!(
                "intercept reads queue {}; its rules are not its own: `intercept doctor` on {host} looks at them",
                shown(&report.devices)
            ))),
            None => findings.push(Check::InterceptFilter.warning(
                format!("whether intercept at {address} sees what {server} answers could not be told"),
                format!("on {host}, with its options: intercept doctor"),
            )),
        }
    }
    if !seen.is_empty() {
        findings.push(Check::InterceptFilter.ok(format!("takes {}", seen.join(", "))));
    }
    findings
}

/// What its host does with packets, besides letting intercept see them.
fn fates(address: SocketAddr, report: &Report, questions: &[Question]) -> Vec<Finding> {
    let host = address.ip();
    let mut findings: Vec<Finding> = Vec::new();
    for (question, answer) in questions.iter().zip(&report.answers) {
        let (client, server) = (question.flow.client.addr, question.flow.server.addr);
        let setting = if client.is_ipv4() { "net.ipv4.ip_forward" } else { "net.ipv6.conf.all.forwarding" };
        let finding = if answer.server_is_local {
            match answer.fate {
                Fate::Delivered => Check::InterceptHost.ok(format!("{host} takes packets from {client} to {server}")),
                Fate::ReversePath => Check::InterceptHost.failure(
                    format!(
                        "the target {host} drops packets from {client} that come from here: its reverse path filter (rp_filter) \
                         expects that address behind another device"
                    ),
                    format!("on {host}: sysctl net.ipv4.conf.all.rp_filter=2, and the same for the device; or a route for {client} \
                             by the device that the copies come in on"),
                ),
                Fate::Unknown => continue,
                _ => Check::InterceptHost.failure(
                    format!("the target {host} does not take packets from {client} to {server}"),
                    format!("on {host}: ip route get {server} from {client} iif DEVICE"),
                ),
            }
        } else {
            let network = network_of(&[client]);
            match answer.fate {
                Fate::Dropped | Fate::ReversePath => {
                    Check::InterceptHost.ok(format!("{host} forwards nothing: answers to {client} end there"))
                }
                Fate::Delivered => Check::InterceptHost.failure(
                    format!(
                        "{client} is an address of {host} itself, whose kernel answers the target's answers and so resets the \
                         connections"
                    ),
                    format!("on {host}: ip address del {client} dev DEVICE; or other addresses with -c"),
                ),
                Fate::Forwarded => Check::InterceptHost.failure(
                    format!("{host} forwards packets: the target's answers to {client} would go on from there to whoever has that address"),
                    format!("on {host}: sysctl {setting}=0; if it must forward: ip route add blackhole {network}"),
                ),
                Fate::NoRoute => Check::InterceptHost.failure(
                    format!(
                        "{host} forwards packets ({setting}=1) and has no route for {client}: it tells the target so, which then \
                         gives the connection up"
                    ),
                    format!("on {host}: sysctl {setting}=0; if it must forward: ip route add blackhole {network}"),
                ),
                Fate::Unknown => {
                    let forwards = if client.is_ipv4() { report.forwards_ipv4 } else { report.forwards_ipv6 };
                    match forwards {
                        Some(false) => Check::InterceptHost.ok(format!("{host} forwards nothing ({setting}=0)")),
                        _ => Check::InterceptHost.warning(
                            format!("what {host} does with answers to {client} could not be told"),
                            format!("on {host}: sysctl {setting}"),
                        ),
                    }
                }
            }
        };
        if !findings.contains(&finding) {
            findings.push(finding);
        }
    }
    findings
}

/// A text of the other end, in one line and not too long.
fn shown(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

/// The questions about maps: one for each target and transport, with a source address of its family.
pub(super) fn questions(
    maps: &[tcpcopy_engine::Map],
    source_for: impl Fn(std::net::IpAddr) -> Option<std::net::IpAddr>,
) -> Vec<Question> {
    /// Any port that a client may have.
    const CLIENT_PORT: u16 = 40_000;
    let mut questions: Vec<Question> = Vec::new();
    for map in maps {
        let Some(source) = source_for(map.target.addr) else { continue };
        let client = tcpcopy_wire::Endpoint::from(SocketAddr::new(source, CLIENT_PORT));
        let transport: Transport = map.transport;
        let question = Question { transport, flow: tcpcopy_wire::Flow { client, server: map.target } };
        if !questions.contains(&question) {
            questions.push(question);
        }
    }
    questions
}

#[cfg(test)]
mod tests;
