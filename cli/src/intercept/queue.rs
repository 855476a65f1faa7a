//! The traditional set-up: intercept on the test server itself, where the firewall hands it what the server answers
//! (NFQUEUE). Answers to the copies are reported and stop here; answers to those on the passlist go their way.

use std::fmt::Write;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use tcpcopy_io::capture::{CaptureStats, Drained};
use tcpcopy_io::firewall::{self, Answers, FirewallError, QueueRules};
use tcpcopy_io::nfqueue::{Queue, QueueConfig, QueueError, QueueTable, Verdict};
use tcpcopy_wire::ip::{IpFragment, IpPacket, PROTOCOL_TCP, PROTOCOL_UDP};
use tcpcopy_wire::{ParseError, Transport};

use super::arguments::Arguments;
use super::passlist::Passlist;
use crate::exit::{Exit, Failure};
use crate::grammar::{OptionName, Part};
use crate::values::in_range;

/// Packets that may wait in the queue unless something else is wanted. Those that find it full reach the clients, so it is
/// longer than the C program's (1024).
const DEFAULT_LENGTH: u32 = 8192;

const SETUP: OptionName = OptionName { name: "--setup", example: "--setup 8080 or --setup 8080,udp:53" };

/// The options of the traditional set-up, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueOptions {
    /// The queue's number.
    pub number: u16,
    /// It was not given.
    pub understood: bool,
    /// Packets that may wait in it.
    pub length: u32,
    /// Who is answered.
    pub passlist: Passlist,
    /// Whose answers to bring to the queue, by rules of our own.
    pub setup: Vec<Answers>,
}

impl QueueOptions {
    /// The options, if the traditional set-up is meant: because one of them is there, or because nothing is said of where
    /// responses come from.
    ///
    /// # Errors
    /// When they are wrong, or there are options of a capture beside them.
    pub fn check(arguments: &Arguments, control_port: u16) -> Result<Option<Self>, Failure> {
        let own = [
            ("--nfqueue", arguments.nfqueue.is_some()),
            ("-x (--passlist)", !arguments.passlist.is_empty()),
            ("-q (--queue-length)", arguments.queue_length.is_some()),
            ("--setup", !arguments.setup.is_empty()),
        ];
        let of_capture = [
            ("-F (--filter)", arguments.filter.is_some()),
            ("-o (--target)", !arguments.target.is_empty()),
            ("-i (--device)", !arguments.device.is_empty()),
        ];
        let given = |options: &[(&'static str, bool)]| options.iter().find(|(_, given)| *given).map(|(name, _)| *name);
        match (given(&own), given(&of_capture)) {
            (Some(queue), Some(capture)) => {
                return Err(Failure::usage(format!(
                    "{queue} and {capture} contradict each other: with {queue} intercept runs on the test server itself and \
                     the firewall hands it the responses (NFQUEUE), with {capture} it runs where they are routed to and \
                     captures them; leave one out"
                )));
            }
            (None, Some(_)) => return Ok(None),
            (_, None) => {}
        }
        let passlist = if arguments.passlist.is_empty() {
            Passlist::default()
        } else {
            Passlist::parse(&arguments.passlist.join(",")).map_err(Failure::usage)?
        };
        Ok(Some(Self {
            number: arguments.nfqueue.unwrap_or(0),
            understood: arguments.nfqueue.is_none(),
            length: in_range("-q (--queue-length)", arguments.queue_length.unwrap_or(DEFAULT_LENGTH), 1..=u32::MAX)?,
            passlist,
            setup: setup(&arguments.setup.join(","), control_port)?,
        }))
    }
}

/// Reads `[udp:]port`, separated by commas.
fn setup(text: &str, control_port: u16) -> Result<Vec<Answers>, Failure> {
    let mut all: Vec<Answers> = Vec::new();
    if text.is_empty() {
        return Ok(all);
    }
    for part in Part::whole(SETUP, text).list().map_err(Failure::usage)? {
        let (transport, port) = match part.split_once(':') {
            None => (Transport::Tcp, part),
            Some((name, port)) => match name.text() {
                "tcp" => (Transport::Tcp, port),
                "udp" => (Transport::Udp, port),
                _ => return Err(Failure::usage(name.error("tcp or udp is expected here"))),
            },
        };
        let answers = Answers { transport, port: port.port().map_err(Failure::usage)?.0 };
        if answers == (Answers { transport: Transport::Tcp, port: control_port }) {
            return Err(Failure::usage(part.error(
                "this is the port that intercept itself listens on for tcpcopy; if the test server has it, give \
                 intercept another one with -p, and tcpcopy the same",
            )));
        }
        if !all.contains(&answers) {
            all.push(answers);
        }
    }
    Ok(all)
}

/// Why a packet went its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
enum Passed {
    /// Its receiver is on the passlist.
    Passlist,
    /// It is of intercept's own connections to tcpcopy.
    Control,
    /// It is neither TCP nor UDP, and so nobody's response.
    Other,
}

/// Decides about packets.
#[derive(Debug)]
struct Judge {
    passlist: Passlist,
    control_port: u16,
    passed: [u64; 3],
}

impl Judge {
    /// The reason to let a packet go its way; `None` when it is a response, to be reported and dropped.
    #[inline]
    fn judge(&mut self, bytes: &[u8], len: usize) -> Option<Passed> {
        let reason = self.reason(bytes, len);
        if let Some(reason) = reason {
            self.passed[reason as usize] += 1;
        }
        reason
    }

    #[inline]
    fn reason(&self, bytes: &[u8], len: usize) -> Option<Passed> {
        let (dst, protocol, transport) = match IpPacket::parse(bytes, len) {
            Ok(ip) => (ip.dst, ip.protocol, ip.transport),
            Err(ParseError::Fragment) => match IpFragment::parse(bytes) {
                Ok(fragment) if fragment.offset == 0 => (fragment.dst, fragment.protocol, fragment.data),
                Ok(fragment) => (fragment.dst, fragment.protocol, &[][..]),
                Err(_) => return Some(Passed::Other),
            },
            Err(_) => return Some(Passed::Other),
        };
        if protocol != PROTOCOL_TCP && protocol != PROTOCOL_UDP {
            return Some(Passed::Other);
        }
        if self.passlist.contains(dst) {
            return Some(Passed::Passlist);
        }
        let is_control = protocol == PROTOCOL_TCP && transport.get(..2) == Some(&self.control_port.to_be_bytes()[..]);
        is_control.then_some(Passed::Control)
    }
}

/// The queue and what belongs to it, as a source of responses.
pub(super) struct QueueSource {
    // Dropped in this order: without rules nothing more comes.
    rules: Option<QueueRules>,
    queue: Queue,
    /// There may be packets.
    pub(super) readable: bool,
    judge: Judge,
    counted: RuleCounter,
    told_unseen: u64,
    closing: bool,
}

impl QueueSource {
    /// Removes what former intercepts left, opens the queue, and makes the rules that are wanted; these with no more rights
    /// than `settle` leaves, which must do to remove them.
    ///
    /// # Errors
    /// When the queue cannot be read, or a rule cannot be made.
    pub(super) fn open(
        options: &QueueOptions,
        control_port: u16,
        copy_bytes: usize,
        buffer_bytes: usize,
        (registry, token): (&Registry, Token),
        settle: impl FnOnce() -> Result<(), Failure>,
    ) -> Result<Self, Failure> {
        let number = options.number;
        if options.understood {
            log::info!(
                "neither -F nor --nfqueue was given, so this host is taken for the test server itself, whose answers come \
                 through NFQUEUE {number}"
            );
        }
        // This also has iptables of the older kind load the kernel's modules, for which there is no right later.
        for left in firewall::remove_leftovers() {
            log::warn!("removed a rule that an intercept which was killed had left: `{} {}`", left.program, left.rule);
        }
        let config = QueueConfig { number, length: options.length, copy_bytes, buffer_bytes };
        let queue = Queue::open(&config).map_err(|e| {
            let exit = if matches!(e, QueueError::NoPermission) { Exit::Permission } else { Exit::Failure };
            Failure::new(exit, e)
        })?;
        registry
            .register(&mut SourceFd(&queue.as_raw_fd()), token, Interest::READABLE)
            .map_err(Failure::cannot(&format!("wait for packets of NFQUEUE {number}")))?;
        settle()?;
        // Before our own rules are made: all that they take counts.
        let counted = RuleCounter::new(number, queue.table().clone());
        let rules = if options.setup.is_empty() {
            tell_rules(number);
            None
        } else {
            Some(QueueRules::install(number, &options.setup).map_err(|e| rule_failure(&e))?)
        };
        let judge = Judge { passlist: options.passlist.clone(), control_port, passed: [0; 3] };
        // Packets may have come before the registration.
        Ok(Self { rules, queue, readable: true, judge, counted, told_unseen: 0, closing: false })
    }

    /// Judges up to about `budget` packets, and gives those that are responses to `report`: what was copied, from the IP
    /// header on, and the length.
    pub(super) fn drain(&mut self, budget: usize, mut report: impl FnMut(&[u8], usize)) {
        let judge = &mut self.judge;
        let drained = self.queue.drain(budget, |bytes, len| {
            if judge.judge(bytes, len).is_some() {
                return Verdict::Accept;
            }
            report(bytes, len);
            Verdict::Drop
        });
        self.readable = match drained {
            Ok(Drained { more, .. }) => more,
            Err(e) => {
                log::error!("cannot read NFQUEUE {}: {e}", self.queue.number());
                false
            }
        };
    }

    /// Has as much of each packet copied from now on.
    pub(super) fn set_copy_bytes(&mut self, bytes: usize) -> io::Result<()> {
        self.queue.set_copy_bytes(bytes)
    }

    /// Removes our rules, because the end is near: from now on answers go their way.
    pub(super) fn close_rules(&mut self) {
        self.counted.count();
        self.rules = None;
        self.closing = true;
    }

    /// What the queue has in common with a capture.
    pub(super) fn capture_stats(&mut self) -> CaptureStats {
        let stats = self.queue.stats();
        let dropped = stats.unseen + stats.kernel_buffer_full + stats.kernel_queue_full + self.counted.let_through();
        CaptureStats { received: stats.packets, dropped, interface_dropped: 0 }
    }

    /// The line of a report.
    pub(super) fn report(&mut self) -> String {
        if !self.closing {
            self.counted.count_soon();
        }
        let (stats, full) = (self.queue.stats(), self.counted.let_through());
        let [passlist, control, other] = self.judge.passed;
        let mut line = format!(
            "NFQUEUE {}: packets:{}, dropped:{}, accepted for the passlist:{passlist}, waiting:{}",
            self.queue.number(),
            stats.packets,
            stats.dropped,
            stats.waiting
        );
        for (what, n) in [
            ("accepted as our own", control),
            ("accepted as neither TCP nor UDP", other),
            ("let through unseen, queue full", full),
            ("let through unseen, buffer full", stats.unseen),
            ("buffer overruns", stats.overruns),
            ("dropped by kernel, queue full", stats.kernel_queue_full),
            ("dropped by kernel, buffer full", stats.kernel_buffer_full),
            ("verdicts not taken", stats.refused),
        ] {
            if n > 0 {
                // Writing to a string cannot fail.
                let _ = write!(line, ", {what}:{n}");
            }
        }
        if full + stats.unseen > self.told_unseen {
            log::warn!(
                "{} responses were let through to the clients, because they came faster than they could be read; make the \
                 queue longer with -q, or the buffer larger with -B",
                full + stats.unseen - self.told_unseen
            );
            self.told_unseen = full + stats.unseen;
        }
        line
    }
}

/// Says which rules lead to the queue, or which ones to make.
fn tell_rules(queue: u16) {
    let rules = firewall::rules_to(queue);
    for rule in &rules {
        log::info!("a rule that leads here: `{} {}`", rule.program, rule.rule);
        if !rule.bypass {
            log::warn!("that rule has no --queue-bypass: while intercept does not run, the kernel drops what it takes");
        }
    }
    if rules.is_empty() {
        let command = Answers { transport: Transport::Tcp, port: 8080 }.command(queue).replace("8080", "PORT");
        log::warn!(
            "no rule leads to NFQUEUE {queue} yet; for a test server on TCP port PORT type: {command}\n(ip6tables for IPv6, -p \
             udp for UDP; -D in the place of -I removes it afterwards. With --setup PORT intercept does both)"
        );
    }
}

fn rule_failure(e: &FirewallError) -> Failure {
    let exit = if matches!(e, FirewallError::NoPermission { .. }) { Exit::Permission } else { Exit::Failure };
    Failure::new(exit, format!("in --setup: {e}"))
}

/// Counts the packets that found the queue full, which the kernel does not: those that the rules took, without those that
/// were queued. Packets between the two counts are missed, never invented.
#[derive(Debug)]
struct RuleCounter {
    queue: u16,
    /// What the rules had taken before we came.
    before: u64,
    let_through: Arc<AtomicU64>,
    table: QueueTable,
}

impl RuleCounter {
    fn new(queue: u16, table: QueueTable) -> Self {
        Self { queue, before: taken_by_rules(queue), let_through: Arc::default(), table }
    }

    fn let_through(&self) -> u64 {
        self.let_through.load(Ordering::Relaxed)
    }

    fn count(&self) {
        count_into(&self.let_through, &self.table, self.queue, self.before);
    }

    /// Counts on a thread of its own: programs are run for it, and the queue must not wait for them.
    fn count_soon(&self) {
        let (let_through, table, queue, before) =
            (Arc::clone(&self.let_through), self.table.clone(), self.queue, self.before);
        // Without a thread there is no count this time.
        let _ = thread::Builder::new().spawn(move || count_into(&let_through, &table, queue, before));
    }
}

fn count_into(let_through: &AtomicU64, table: &QueueTable, queue: u16, before: u64) {
    let taken = taken_by_rules(queue).saturating_sub(before);
    // In this order.
    if let Some(queued) = table.queued(queue) {
        // The kernel counts in 32 bits.
        let difference = (taken as u32).wrapping_sub(queued).cast_signed().max(0);
        let_through.fetch_max(difference as u64, Ordering::Relaxed);
    }
}

fn taken_by_rules(queue: u16) -> u64 {
    firewall::rules_to(queue).iter().map(|rule| rule.packets).sum()
}

#[cfg(test)]
mod tests;
