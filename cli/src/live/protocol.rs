//! What is said on the socket: one JSON object a line, a request and then its answer, as often as whoever asks likes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::durations::Durations;

/// The version of all this. It grows when a peer of an older version would misunderstand; what is only added does not count.
pub const VERSION: u32 = 1;
/// Bytes of a request's line at most.
pub const REQUEST_LIMIT: usize = 64 << 10;

/// A line of whoever asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// See [`VERSION`].
    pub version: u32,
    /// What is wanted.
    #[serde(flatten)]
    pub command: Command,
}

/// What is wanted of a running program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub enum Command {
    /// Everything it knows of itself.
    Status,
    /// No copy for a while: sessions are closed towards the target, and none begin.
    Pause,
    /// Copy again.
    Resume,
    /// Other values from now on: all of them, or none where one is wrong.
    Set {
        /// By their names.
        settings: BTreeMap<String, String>,
    },
}

/// The program's line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// See [`VERSION`].
    pub version: u32,
    /// What it says.
    #[serde(flatten)]
    pub answer: Answer,
}

/// What the program says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// To [`Command::Status`].
    Status(Box<Status>),
    /// To the others: what is in force now.
    InForce(InForce),
    /// Nothing was done.
    Refused(Refusal),
}

/// Why nothing was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Of what kind.
    pub kind: RefusalKind,
    /// In words.
    pub message: String,
}

/// What is wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefusalKind {
    /// What it says.
    Usage,
    /// Who says it.
    Permission,
    /// Nothing; the program cannot answer.
    Failure,
}

/// What can be changed while the program runs, as it is now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InForce {
    /// No copy is made.
    pub paused: bool,
    /// By their names, as `set` takes them.
    pub settings: BTreeMap<String, String>,
}

/// Counters by name.
pub type Counters = BTreeMap<String, u64>;

/// Everything that a program says of itself. Counters begin with the program; all but those of what is there *now* only grow.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// `tcpcopy` or `intercept`.
    pub program: String,
    /// Its release.
    pub release: String,
    /// Its process id.
    pub pid: u32,
    /// Time since its start.
    pub uptime_seconds: f64,
    /// What can be changed.
    pub in_force: InForce,
    /// The options that it was started with, by their long names. Those that hold secrets are left out.
    pub options: Map<String, Value>,
    /// All workers together.
    pub total: Numbers,
    /// What is copied where.
    pub maps: Vec<MapStatus>,
    /// Each worker.
    pub workers: Vec<Numbers>,
    /// The connections to intercepts.
    pub links: Vec<Link>,
}

/// Counters of a worker, or of all.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Numbers {
    /// The plain counters of the ledger.
    pub counters: Counters,
    /// Captured packets that were not used, by reason.
    pub packets_dropped: Counters,
    /// Clients' bytes that were not copied, by reason.
    pub bytes_dropped: Counters,
    /// Sessions not copied to their end, by reason.
    pub sessions_ended_early: Counters,
    /// Packets that the system did not take, by reason.
    pub packets_not_sent: Counters,
    /// What the kernel says of the captures.
    pub kernel: Kernel,
    /// From the capture of a request until it was let through to the target.
    pub lag: Durations,
    /// From then until the target began to answer.
    pub response_time: Durations,
    /// From the capture of a request until online began to answer; nothing without `--measure-online`.
    pub online_response_time: Durations,
    /// From a datagram until the target answered it.
    pub udp_response_time: Durations,
    /// Links that work now.
    pub links_up: u64,
    /// Links that there should be.
    pub links: u64,
}

impl Numbers {
    /// A plain counter; 0 when the program has none of this name.
    pub fn counter(&self, name: &str) -> u64 {
        self.counters.get(name).copied().unwrap_or(0)
    }
}

/// What the kernel counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Kernel {
    /// Packets that passed the filter.
    pub received: u64,
    /// Packets lost because the capture buffer was full.
    pub dropped: u64,
    /// Packets that the device could not take.
    pub dropped_by_device: u64,
    /// How often a capture ended by itself.
    pub captures_lost: u64,
}

/// One `-x` map.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MapStatus {
    /// What is copied: a port, or address and port.
    pub online: String,
    /// Where to.
    pub target: String,
    /// `tcp` or `udp`.
    pub transport: String,
    /// By which protocol module.
    pub module: String,
    /// Sessions begun; over UDP, clients.
    pub sessions: u64,
    /// Sessions that live now.
    pub sessions_alive: u64,
    /// Requests captured; over UDP, datagrams.
    pub requests: u64,
    /// Requests let through to the target.
    pub requests_copied: u64,
    /// Bytes that the target acknowledged, and those of datagrams sent.
    pub bytes_copied: u64,
    /// Segments sent again.
    pub retransmits: u64,
    /// Connections that the target accepted.
    pub connections: u64,
    /// Connections that it refused.
    pub refused: u64,
    /// Connections that it did not answer, and sessions in which it fell silent.
    pub unanswered: u64,
    /// Sessions in which it reset the connection, or closed it early.
    pub reset: u64,
    /// Sessions not copied to their end, by reason; those three are among them.
    pub sessions_ended_early: Counters,
    /// Time until it began to answer; how often it did is the number of these.
    pub response_time: Durations,
}

/// A connection to an intercept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Link {
    /// Which worker's.
    pub worker: usize,
    /// Address and port.
    pub intercept: String,
    /// Whether it works now.
    pub up: bool,
    /// What the intercept last said: frames that it has captured, for whichever tcpcopy,
    pub frames_captured: u64,
    /// frames that its kernel dropped,
    pub kernel_drops: u64,
    /// responses without a route,
    pub unrouted: u64,
    /// responses sent on this link,
    pub relayed: u64,
    /// responses lost because the link was full,
    pub overflowed: u64,
    /// and routes that lead to this link.
    pub routes_alive: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_a_flat_object() {
        let line = |command| serde_json::to_string(&Request { version: VERSION, command }).unwrap();
        assert_eq!(line(Command::Status), r#"{"version":1,"command":"status"}"#);
        let set = Command::Set { settings: [("rate".to_owned(), "20%".to_owned())].into() };
        let text = r#"{"version":1,"command":"set","settings":{"rate":"20%"}}"#;
        assert_eq!(line(set.clone()), text);
        assert_eq!(serde_json::from_str::<Request>(text).unwrap().command, set);
        for wrong in ["{}", r#"{"version":1,"command":"dance"}"#, r#"{"version":1,"command":"set"}"#, "[1]", "status"] {
            assert!(serde_json::from_str::<Request>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_reply_names_what_it_is() {
        let reply = Reply {
            version: VERSION,
            answer: Answer::Refused(Refusal { kind: RefusalKind::Usage, message: "no".to_owned() }),
        };
        let text = serde_json::to_string(&reply).unwrap();
        assert_eq!(text, r#"{"version":1,"refused":{"kind":"usage","message":"no"}}"#);
        assert_eq!(serde_json::from_str::<Reply>(&text).unwrap(), reply);
        let status = Reply { version: VERSION, answer: Answer::Status(Box::default()) };
        let text = serde_json::to_string(&status).unwrap();
        assert_eq!(serde_json::from_str::<Reply>(&text).unwrap(), status);
        // Of another release, with less and with more.
        let other = r#"{"version":1,"status":{"program":"tcpcopy","news":[1],"total":{"counters":{"requests":7}}}}"#;
        let Answer::Status(status) = serde_json::from_str::<Reply>(other).unwrap().answer else { panic!("{other}") };
        assert_eq!((status.total.counter("requests"), status.total.counter("none")), (7, 0));
    }
}
