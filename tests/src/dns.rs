//! dnsmasq as online and as target, and a client that asks it.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tcpcopy_io::netns::{Host, Namespace, Process, wait_for};

/// The port of the servers.
pub const DNS_PORT: u16 = 53;
/// The domain of all names that are asked for.
const DOMAIN: &str = "lab";
const START_PATIENCE: Duration = Duration::from_secs(20);
/// A client waits this long for an answer before it asks again.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);

/// What dnsmasq logged of a query.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Query {
    /// The port that it came from.
    pub port: u16,
    /// The address that it came from.
    pub from: IpAddr,
    /// The type: `A`, `AAAA`, `TXT`.
    pub kind: String,
    /// The name.
    pub name: String,
}

/// A running dnsmasq that knows each name of the domain by itself, and logs each query.
pub struct Dnsmasq {
    /// The program.
    pub process: Process,
    log: PathBuf,
}

impl Dnsmasq {
    /// Starts it on all addresses of `host`, with its files in `folder`, named after the host.
    pub fn start(host: &Host, folder: &Path) -> Self {
        let log = folder.join(format!("dnsmasq-{}.log", host.name));
        let output = File::create(folder.join(format!("dnsmasq-{}.out", host.name))).expect("a file for its output");
        let mut command = host.command("dnsmasq");
        // No configuration, no servers to ask, no user to change to: in a user namespace there is none.
        command.args(["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=root"]);
        command.args(["--cache-size=0", "--log-queries=extra", "--pid-file="]);
        command.arg(format!("--port={DNS_PORT}")).arg(format!("--log-facility={}", log.display()));
        command.arg(format!("--address=/{DOMAIN}/192.0.2.1")).arg(format!("--address=/{DOMAIN}/2001:db8::1"));
        command.stdout(output.try_clone().expect("a second descriptor")).stderr(output);
        let mut process = Process::start(&mut command).expect("dnsmasq (package dnsmasq-base)");
        // It listens on TCP, too, and opens both at once.
        let up = wait_for(START_PATIENCE, || {
            process.try_wait().map(Err).or_else(|| process.sees_listener(DNS_PORT).then_some(Ok(())))
        });
        assert!(matches!(up, Some(Ok(()))), "dnsmasq did not come up ({up:?}); see {}", folder.display());
        Self { process, log }
    }

    /// All queries logged so far, in order, of names that begin with `prefix`.
    pub fn queries(&self, prefix: &str) -> Vec<Query> {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let whole_lines = log.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        whole_lines.filter_map(parse_line).filter(|query| query.name.starts_with(prefix)).collect()
    }

    /// Number of them.
    pub fn count(&self, prefix: &str) -> u64 {
        self.queries(prefix).len() as u64
    }
}

/// `… dnsmasq[PID]: NUMBER ADDRESS/PORT query[TYPE] NAME from ADDRESS`; other lines are of no interest.
fn parse_line(line: &str) -> Option<Query> {
    let (_, message) = line.split_once("]: ")?;
    let mut words = message.split_whitespace().skip(1);
    let (from, port) = words.next()?.rsplit_once('/')?;
    let kind = words.next()?.strip_prefix("query[")?.strip_suffix(']')?;
    Some(Query {
        port: port.parse().ok()?,
        from: from.parse().ok()?,
        kind: kind.to_owned(),
        name: words.next()?.to_owned(),
    })
}

/// The types that are asked for in turn, with their numbers (RFC 1035, RFC 3596).
const KINDS: [u16; 3] = [1, 28, 16];

/// Asks a server for the names that are `prefix` and a number of `queries`, in turn from `ports` ports, one after the
/// other. Returns the number of answers; a query without an answer is not asked again.
pub fn ask(host: &Namespace, server: SocketAddr, prefix: &str, queries: Range<u64>, ports: usize) -> u64 {
    let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let sockets = host.run(|| (0..ports).map(|_| UdpSocket::bind(any)).collect::<io::Result<Vec<_>>>());
    let sockets = sockets.and_then(|sockets| sockets).expect("sockets");
    let mut answers = 0;
    let mut buffer = [0; 4096];
    for n in queries {
        let socket = &sockets[(n % ports as u64) as usize];
        socket.set_read_timeout(Some(ANSWER_PATIENCE)).expect("a time-out");
        let id = n as u16;
        socket.send_to(&question(id, &format!("{prefix}{n}.{DOMAIN}"), KINDS[(n % 3) as usize]), server).expect("sent");
        while let Ok((len, _)) = socket.recv_from(&mut buffer) {
            // The answer has the question's number, and the bit that makes it an answer.
            if len >= 12 && buffer[..2] == id.to_be_bytes() && buffer[2] & 0x80 != 0 {
                answers += 1;
                break;
            }
        }
    }
    answers
}

/// Asks a server for the names that are `prefix` and a number of `queries` over TCP (RFC 1035, section 4.2.2), each on a
/// connection of its own. Returns the number of answers.
pub fn ask_over_tcp(host: &Namespace, server: SocketAddr, prefix: &str, queries: Range<u64>) -> u64 {
    let ask = |n: u64| -> io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(&server, ANSWER_PATIENCE)?;
        stream.set_read_timeout(Some(ANSWER_PATIENCE))?;
        let question = question(n as u16, &format!("{prefix}{n}.{DOMAIN}"), KINDS[(n % 3) as usize]);
        stream.write_all(&[&(question.len() as u16).to_be_bytes(), &question[..]].concat())?;
        let mut len = [0; 2];
        stream.read_exact(&mut len)?;
        let mut answer = vec![0; usize::from(u16::from_be_bytes(len))];
        stream.read_exact(&mut answer)?;
        Ok(answer.len() >= 12 && answer[..2] == (n as u16).to_be_bytes() && answer[2] & 0x80 != 0)
    };
    let answered = host.run(|| queries.filter(|n| matches!(ask(*n), Ok(true))).count());
    answered.expect("the client's namespace") as u64
}

/// A query (RFC 1035, section 4.1).
fn question(id: u16, name: &str, kind: u16) -> Vec<u8> {
    let mut bytes = id.to_be_bytes().to_vec();
    // Recursion desired; one question.
    bytes.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend(kind.to_be_bytes());
    bytes.extend(1_u16.to_be_bytes());
    bytes
}
