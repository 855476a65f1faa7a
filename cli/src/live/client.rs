//! The end of whoever asks: finds a running program, and talks to it.

use std::fmt;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::place;
use super::protocol::{Answer, Command, InForce, Refusal, RefusalKind, Reply, Request, Status, VERSION};
use crate::exit::{Exit, Failure};

/// How long an answer may take; longer than the program gives itself.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// Bytes of an answer at most.
const REPLY_LIMIT: u64 = 64 << 20;

/// Which running program is meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Choice {
    /// The one that listens here.
    pub(super) socket: Option<PathBuf>,
    /// The one with this process id.
    pub(super) process: Option<u32>,
}

/// A connection to a running program.
#[derive(Debug)]
pub(super) struct Connection {
    stream: BufReader<UnixStream>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum AskError {
    /// The program does not do it.
    Refused(Refusal),
    /// The program has gone.
    Gone,
    /// The connection fails, or what comes is no answer.
    Broken(String),
}

impl fmt::Display for AskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refusal) => f.write_str(&refusal.message),
            Self::Gone => f.write_str("the program has ended"),
            Self::Broken(reason) => f.write_str(reason),
        }
    }
}

impl From<AskError> for Failure {
    fn from(error: AskError) -> Self {
        let exit = match &error {
            AskError::Refused(Refusal { kind: RefusalKind::Usage, .. }) => Exit::Usage,
            AskError::Refused(Refusal { kind: RefusalKind::Permission, .. }) => Exit::Permission,
            AskError::Gone => Exit::Unreachable,
            AskError::Refused(_) | AskError::Broken(_) => Exit::Failure,
        };
        Self::new(exit, error)
    }
}

impl Connection {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        stream.set_write_timeout(Some(ANSWER_LIMIT))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    pub(super) fn ask(&mut self, command: Command) -> Result<Answer, AskError> {
        let broken = |e: io::Error| match e.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => AskError::Gone,
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                AskError::Broken("the program does not answer".to_owned())
            }
            _ => AskError::Broken(format!("cannot talk to the program: {e}")),
        };
        let mut line = serde_json::to_vec(&Request { version: VERSION, command }).map_err(|e| broken(e.into()))?;
        line.push(b'\n');
        // One that refuses may have done so, and closed, before it was asked anything: its words are still to be read.
        let sent = self.stream.get_mut().write_all(&line);
        let mut reply = Vec::new();
        match self.stream.by_ref().take(REPLY_LIMIT).read_until(b'\n', &mut reply) {
            Ok(0) => return Err(sent.map_or_else(broken, |()| AskError::Gone)),
            Ok(_) => {}
            Err(e) => return Err(broken(e)),
        }
        let reply: Reply = serde_json::from_slice(&reply)
            .map_err(|e| AskError::Broken(format!("what the program says is not understood: {e}")))?;
        match reply.answer {
            Answer::Refused(refusal) => Err(AskError::Refused(refusal)),
            answer => Ok(answer),
        }
    }

    pub(super) fn status(&mut self) -> Result<Status, AskError> {
        match self.ask(Command::Status)? {
            Answer::Status(status) => Ok(*status),
            _ => Err(AskError::Broken("the program tells no status".to_owned())),
        }
    }

    pub(super) fn order(&mut self, command: Command) -> Result<InForce, AskError> {
        match self.ask(command)? {
            Answer::InForce(in_force) => Ok(in_force),
            _ => Err(AskError::Broken("the program does not tell what is in force".to_owned())),
        }
    }
}

/// The running program that is meant.
///
/// # Errors
/// When there is none, or more than one, or it may not be asked.
pub(super) fn find(program: &str, choice: &Choice) -> Result<Connection, Failure> {
    if let Some(path) = &choice.socket {
        return Connection::open(path).map_err(|e| match e.kind() {
            io::ErrorKind::PermissionDenied => denied(program, std::slice::from_ref(path)),
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                Failure::new(Exit::Unreachable, format!("no {program} listens on {}", path.display()))
            }
            _ => Failure::new(Exit::Failure, format!("cannot connect to {}: {e}", path.display())),
        });
    }
    find_in(program, choice.process, &place::folders_to_search())
}

fn find_in(program: &str, process: Option<u32>, folders: &[PathBuf]) -> Result<Connection, Failure> {
    let mut found = Vec::new();
    let mut closed = Vec::new();
    for folder in folders {
        let files = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        for path in files {
            let Some(id) = place::process_of(program, &path) else { continue };
            if process.is_some_and(|process| process != id) {
                continue;
            }
            match Connection::open(&path) {
                Ok(connection) => found.push((id, connection)),
                Err(e) if e.kind() == io::ErrorKind::PermissionDenied => closed.push(path),
                // What a dead process has left behind.
                Err(_) => {}
            }
        }
    }
    found.sort_by_key(|(id, _)| *id);
    if found.len() > 1 {
        let mut text = format!("{} are running; say which one with --pid:", found.len());
        for (id, mut connection) in found {
            let doing = connection.status().map_or_else(|e| format!("({e})"), |status| in_short(&status));
            text = format!("{text}\n  --pid {id}   {doing}");
        }
        return Err(Failure::usage(text));
    }
    match found.pop() {
        Some((_, connection)) => Ok(connection),
        None if !closed.is_empty() => Err(denied(program, &closed)),
        None => {
            let which = process.map_or_else(String::new, |process| format!(" with process id {process}"));
            let folders: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
            Err(Failure::new(
                Exit::Unreachable,
                format!(
                    "no {program}{which} is running, as far as {} tells; where one was started with --socket FILE, say the \
                     same here",
                    folders.join(", ")
                ),
            ))
        }
    }
}

fn denied(program: &str, paths: &[PathBuf]) -> Failure {
    let paths: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    Failure::new(
        Exit::Permission,
        format!("{} is not for this user: ask as the one that {program} runs as, or as root", paths.join(", ")),
    )
}

/// What a program does, in a few words.
fn in_short(status: &Status) -> String {
    let maps: Vec<String> = status.maps.iter().map(|map| format!("{} to {}", map.online, map.target)).collect();
    let taken = ["filter", "nfqueue"].into_iter().filter_map(|name| {
        let value = status.options.get(name).filter(|_| status.program == "intercept")?;
        Some(format!("{name} {}", value.as_str().map_or_else(|| value.to_string(), str::to_owned)))
    });
    let maps: Vec<String> = maps.into_iter().chain(taken).collect();
    let paused = if status.in_force.paused { ", paused" } else { "" };
    crate::logging::one_line(&format!("{}{paused}", maps.join(", "))).into_owned()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    /// A folder with sockets of such programs, of which the live ones answer one request with this map.
    fn folder(name: &str, live: &[u32], dead: &[u32]) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("tcpcopy-find-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir(&folder).unwrap();
        for id in dead {
            drop(UnixListener::bind(folder.join(place::file_name("tcpcopy", *id))).unwrap());
        }
        for &id in live {
            let listener = UnixListener::bind(folder.join(place::file_name("tcpcopy", id))).unwrap();
            thread::spawn(move || {
                let (stream, _) = listener.accept().unwrap();
                let mut line = String::new();
                // Whoever only looks whether it lives asks nothing.
                if BufReader::new(&stream).read_line(&mut line).unwrap_or(0) == 0 {
                    return;
                }
                let map = super::super::protocol::MapStatus {
                    online: "80".to_owned(),
                    target: format!("10.0.0.{id}:80"),
                    ..Default::default()
                };
                let status = Status { pid: id, maps: vec![map], ..Status::default() };
                let reply = Reply { version: VERSION, answer: Answer::Status(Box::new(status)) };
                let text = serde_json::to_string(&reply).unwrap() + "\n";
                (&stream).write_all(text.as_bytes()).unwrap();
            });
        }
        folder
    }

    #[test]
    fn the_only_one_is_found_among_the_dead() {
        let folder = folder("one", &[7], &[5, 6]);
        let mut connection = find_in("tcpcopy", None, std::slice::from_ref(&folder)).unwrap();
        assert_eq!(connection.status().unwrap().pid, 7);
        assert!(matches!(connection.status(), Err(AskError::Gone)));
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn of_several_one_must_be_named() {
        let folder = folder("several", &[7, 8], &[]);
        let failure = find_in("tcpcopy", None, std::slice::from_ref(&folder)).unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
        assert!(failure.message.contains("--pid 7   80 to 10.0.0.7:80\n  --pid 8   80 to 10.0.0.8:80"), "{failure}");
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn an_intercept_is_known_by_what_it_takes() {
        let status = |name: &str, value: serde_json::Value| Status {
            program: "intercept".to_owned(),
            options: [(name.to_owned(), value)].into_iter().collect(),
            ..Status::default()
        };
        assert_eq!(in_short(&status("filter", "tcp and src port 80".into())), "filter tcp and src port 80");
        assert_eq!(in_short(&status("nfqueue", 3.into())), "nfqueue 3");
    }

    #[test]
    fn none_is_told_apart_from_another_users() {
        let folder = folder("none", &[7], &[5]);
        let none = |program, process| find_in(program, process, std::slice::from_ref(&folder)).unwrap_err();
        assert_eq!(none("tcpcopy", Some(5)).exit, Exit::Unreachable);
        assert_eq!(none("intercept", None).exit, Exit::Unreachable);
        assert!(find_in("tcpcopy", Some(7), std::slice::from_ref(&folder)).is_ok());
        fs::remove_dir_all(&folder).unwrap();
    }
}
