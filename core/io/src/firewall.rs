//! The firewall rules that bring a server's answers to a queue ([`crate::nfqueue`]), by the program `iptables`.
//!
//! A rule of ours carries a comment with the process that made it and when that began, so that what a process left behind
//! that was killed can be told from what a living one uses, also when its id has been given to another.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use tcpcopy_wire::Transport;

use crate::netns::search_path;
use crate::nfqueue;
use crate::process::{self, Capability};

const IPV4: &str = "iptables";
const IPV6: &str = "ip6tables";
/// What the comments of our rules begin with.
const TAG: &str = "tcpcopy-intercept-";
/// Seconds that another program may take to change rules.
const LOCK_WAIT: &str = "5";

/// Why a rule could not be made.
#[derive(Debug)]
pub enum FirewallError {
    /// The program is not installed.
    Missing {
        /// Its name.
        program: &'static str,
    },
    /// The process may not change rules.
    NoPermission {
        /// The command line.
        line: String,
    },
    /// The program failed.
    Failed {
        /// The command line.
        line: String,
        /// Its words.
        message: String,
    },
}

impl fmt::Display for FirewallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { program } => write!(
                f,
                "the program `{program}` is not installed: it is in the package iptables (apt-get install iptables, or yum \
                 install iptables)"
            ),
            // A capability of the program's file is not handed on to the programs that it starts.
            Self::NoPermission { line } => {
                write!(f, "no permission for `{line}`: run as root, or let root make the rule")
            }
            Self::Failed { line, message } => write!(f, "`{line}` failed: {message}"),
        }
    }
}

impl std::error::Error for FirewallError {}

/// The answers of a server on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answers {
    /// Over what it answers.
    pub transport: Transport,
    /// The port that it answers from.
    pub port: u16,
}

impl Answers {
    /// The rule that sends them to a queue, without the command in front of the chain.
    fn rule(self, queue: u16, tag: Option<&str>) -> Vec<String> {
        let protocol = match self.transport {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
        };
        let (port, queue) = (self.port.to_string(), queue.to_string());
        let mut words = vec!["OUTPUT", "-p", protocol, "--sport", &port];
        if let Some(tag) = tag {
            words.extend(["-m", "comment", "--comment", tag]);
        }
        words.extend(["-j", "NFQUEUE", "--queue-num", &queue, "--queue-bypass"]);
        words.into_iter().map(str::to_owned).collect()
    }

    /// The command that a person types to send them to a queue.
    pub fn command(self, queue: u16) -> String {
        format!("{IPV4} -I {}", self.rule(queue, None).join(" "))
    }
}

/// Rules that are in force as long as this lives.
#[derive(Debug)]
pub struct QueueRules {
    /// Program, and the words that remove the rule.
    installed: Vec<(&'static str, Vec<String>)>,
}

impl QueueRules {
    /// Makes rules that send answers to a queue, in front of all others; over IPv6, too, if this host has it. Without a
    /// reader of the queue they do nothing.
    ///
    /// # Errors
    /// [`FirewallError`], when one for IPv4 cannot be made. What cannot be made for IPv6 is logged.
    pub fn install(queue: u16, answers: &[Answers]) -> Result<Self, FirewallError> {
        let mut rules = Self { installed: Vec::new() };
        for answers in answers {
            rules.add(IPV4, answers.rule(queue, Some(&own_tag())))?;
        }
        if has_ipv6() {
            for answers in answers {
                if let Err(e) = rules.add(IPV6, answers.rule(queue, Some(&own_tag()))) {
                    log::warn!("answers over IPv6 go their way: {e}");
                    break;
                }
            }
        }
        Ok(rules)
    }

    fn add(&mut self, program: &'static str, rule: Vec<String>) -> Result<(), FirewallError> {
        run(program, "-I", &rule)?;
        log::info!("made the rule `{program} -I {}`", rule.join(" "));
        self.installed.push((program, rule));
        Ok(())
    }

    /// Removes them.
    pub fn remove(&mut self) {
        for (program, rule) in self.installed.drain(..).rev() {
            match run(program, "-D", &rule) {
                Ok(_) => log::info!("removed the rule `{program} -D {}`", rule.join(" ")),
                Err(e) => log::warn!("a rule is left, or was removed by somebody else: {e}"),
            }
        }
    }
}

impl Drop for QueueRules {
    fn drop(&mut self) {
        self.remove();
    }
}

/// A rule that sends packets to a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundRule {
    /// `iptables` or `ip6tables`.
    pub program: &'static str,
    /// The rule as the program shows it, without counters.
    pub rule: String,
    /// Packets that it has matched.
    pub packets: u64,
    /// Whether packets go their way while nobody reads the queue.
    pub bypass: bool,
    queue: u16,
    tag: Option<Tag>,
}

/// The rules for what this host sends that lead to a queue, as far as they can be seen.
pub fn rules_to(queue: u16) -> Vec<FoundRule> {
    found_rules().into_iter().filter(|found| found.queue == queue).collect()
}

/// Removes what processes have left behind that were killed; returns the rules. Rules to a queue that somebody reads are
/// left alone.
pub fn remove_leftovers() -> Vec<FoundRule> {
    let is_leftover = |found: &FoundRule| {
        let Some(tag) = found.tag else { return false };
        started(tag.pid) != Some(tag.started) && !nfqueue::is_taken(found.queue)
    };
    let mut leftovers: Vec<FoundRule> = found_rules().into_iter().filter(is_leftover).collect();
    leftovers.retain(|found| {
        // `-A CHAIN` and what belongs to it; nothing in a rule of ours has a space in it.
        let words: Vec<String> = found.rule.split_whitespace().skip(1).map(str::to_owned).collect();
        run(found.program, "-D", &words)
            .inspect_err(|e| log::warn!("a rule that an intercept left behind cannot be removed: {e}"))
            .is_ok()
    });
    leftovers
}

fn found_rules() -> Vec<FoundRule> {
    let mut found = Vec::new();
    for program in [IPV4, IPV6] {
        // Without the program, or the right to see rules, there are none to find.
        if let Ok(listing) = run(program, "-S", &["OUTPUT".to_owned(), "-v".to_owned()]) {
            found.extend(listing.lines().filter_map(|line| parse(program, line)));
        }
    }
    found
}

/// Reads `-A OUTPUT … -j NFQUEUE --queue-num N … -c PACKETS BYTES …`, in any order.
fn parse(program: &'static str, line: &str) -> Option<FoundRule> {
    let mut words: Vec<&str> = line.split_whitespace().collect();
    let behind = |words: &[&str], name: &str| words.iter().position(|word| *word == name).map(|at| at + 1);
    let mut packets = 0;
    if let Some(at) = behind(&words, "-c") {
        packets = words.get(at)?.parse().ok()?;
        words.drain(at - 1..(at + 2).min(words.len()));
    }
    let word = |name: &str| behind(&words, name).and_then(|at| words.get(at)).copied();
    // The old name for queue 0, which has no options.
    let queue = match word("-j")? {
        "QUEUE" => 0,
        "NFQUEUE" => word("--queue-num")?.parse().ok()?,
        _ => return None,
    };
    Some(FoundRule {
        program,
        packets,
        bypass: words.contains(&"--queue-bypass"),
        queue,
        tag: word("--comment").and_then(Tag::parse),
        rule: words.join(" "),
    })
}

/// Runs `PROGRAM -w 5 COMMAND WORDS`, and returns what it prints.
fn run(program: &'static str, command: &str, words: &[String]) -> Result<String, FirewallError> {
    let line = || format!("{program} {command} {}", words.join(" "));
    let mut process = Command::new(program);
    process.args(["-w", LOCK_WAIT, command]).args(words).env("PATH", search_path()).stdin(Stdio::null());
    // A Ctrl-C at the terminal is for us; a rule must not be left because of a second one.
    process.process_group(0);
    let output = process.output().map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => FirewallError::Missing { program },
        _ => FirewallError::Failed { line: line(), message: e.to_string() },
    })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    if !process::has_capability(Capability::NetAdmin) || message.contains("must be root") {
        return Err(FirewallError::NoPermission { line: line() });
    }
    Err(FirewallError::Failed { line: line(), message })
}

fn has_ipv6() -> bool {
    fs::read_to_string("/proc/thread-self/net/if_inet6").is_ok_and(|addresses| !addresses.is_empty())
}

// ---------------------------------------------------------------------------------------------------------------------
// Whose a rule is

/// The comment of a rule of ours: `tcpcopy-intercept-PID-STARTED`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tag {
    pid: u32,
    started: u64,
}

impl Tag {
    fn parse(comment: &str) -> Option<Self> {
        let (pid, started) = comment.trim_matches('"').strip_prefix(TAG)?.split_once('-')?;
        Some(Self { pid: pid.parse().ok()?, started: started.parse().ok()? })
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{TAG}{}-{}", self.pid, self.started)
    }
}

fn own_tag() -> String {
    let pid = std::process::id();
    Tag { pid, started: started(pid).unwrap_or_default() }.to_string()
}

/// When a process began, in ticks since the system did; `None` when there is none of this id.
fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; fields are counted behind it (proc(5): starttime is field 22).
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
pub(crate) mod tests;
