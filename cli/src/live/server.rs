//! The running program's end: a thread for the socket, one for each connection; the main thread answers.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use mio::Waker;
use tcpcopy_io::local::{self, LocalError, LocalName, Peer};
use tcpcopy_io::privileges;

use super::place::{self, Socket};
use super::protocol::{Answer, Command, REQUEST_LIMIT, Refusal, RefusalKind, Reply, Request, VERSION};
use crate::desk::{Asker, Desk};
use crate::exit::{Exit, Failure};

/// Connections at a time.
const CONNECTIONS: usize = 16;
/// A connection on which nothing is asked for this long is closed.
const IDLE_LIMIT: Duration = Duration::from_secs(60);
/// A peer has this long to take an answer.
const WRITE_LIMIT: Duration = Duration::from_secs(5);
/// The main thread has this long to answer; longer than it waits for its workers.
const ANSWER_LIMIT: Duration = Duration::from_secs(8);
/// Pause after a connection could not be accepted, for want of file descriptors for instance.
const ACCEPT_RETRY: Duration = Duration::from_millis(200);

/// What the main thread is asked, and by whom.
pub(crate) type Question = crate::desk::Question<(Command, Peer), Answer>;

/// The socket, seen from the main thread. Its name goes away with this.
pub(crate) struct Live {
    desk: Desk<(Command, Peer), Answer>,
    name: LocalName,
}

impl Live {
    /// Listens where `socket` says, and begins to answer. `waker` wakes the main thread when somebody asks. `None`: nobody is
    /// to ask, or there is no folder for it.
    ///
    /// # Errors
    /// When the place that was asked for cannot be had.
    pub(crate) fn open(program: &str, socket: &Socket, waker: Arc<Waker>) -> Result<Option<Self>, Failure> {
        let (listener, name) = match socket {
            Socket::None => return Ok(None),
            Socket::Path(path) => local::listen(path).map_err(|e| {
                let exit = match &e {
                    LocalError::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                        Exit::Permission
                    }
                    _ => Exit::Failure,
                };
                Failure::new(exit, format!("in --socket: {e}; choose another file"))
            })?,
            Socket::Standard => match listen_at_standard_place(program) {
                Ok(listening) => listening,
                Err(reasons) => {
                    log::info!("no socket for {program} status and its like ({reasons}); name one with --socket");
                    return Ok(None);
                }
            },
        };
        let (desk, asker) = Desk::open(waker);
        let accept = move || {
            privileges::renounce();
            serve(&listener, &asker);
        };
        thread::Builder::new().name("live".to_owned()).spawn(accept).map_err(Failure::cannot("start a thread"))?;
        log::info!("{program} status and its like are answered on {}", name.path().display());
        Ok(Some(Self { desk, name }))
    }

    /// Where it listens.
    pub(crate) fn path(&self) -> &Path {
        self.name.path()
    }

    /// The questions that wait.
    pub(crate) fn questions(&self) -> impl Iterator<Item = Question> {
        self.desk.questions()
    }
}

/// In the first folder that takes it.
fn listen_at_standard_place(program: &str) -> Result<(UnixListener, LocalName), String> {
    let mut reasons = Vec::new();
    for folder in place::folders() {
        if folder.exists() && !place::is_trusted(&folder) {
            reasons.push(format!("{} can be written by others", folder.display()));
            continue;
        }
        local::sweep(&folder, |path| place::process_of(program, path).is_some());
        match local::listen(&folder.join(place::file_name(program, std::process::id()))) {
            Ok(listening) => return Ok(listening),
            Err(e) => reasons.push(e.to_string()),
        }
    }
    Err(reasons.join("; "))
}

fn serve(listener: &UnixListener, asker: &Asker<(Command, Peer), Answer>) {
    let connections = Arc::new(AtomicUsize::new(0));
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(e) => {
                log::debug!("live: cannot accept a connection: {e}");
                thread::sleep(ACCEPT_RETRY);
                continue;
            }
        };
        let guard = Guard::new(&connections);
        let asker = asker.clone();
        let talk = move || {
            let crowded = guard.0.load(Ordering::Relaxed) > CONNECTIONS;
            // Whoever leaves early has no answer coming.
            let _ = converse(&stream, crowded, |command, peer| asker.ask((command, peer), ANSWER_LIMIT));
        };
        if let Err(e) = thread::Builder::new().name("live-peer".to_owned()).spawn(talk) {
            log::debug!("live: cannot start a thread: {e}");
        }
    }
}

/// Counts a connection as long as it lasts.
struct Guard(Arc<AtomicUsize>);

impl Guard {
    fn new(connections: &Arc<AtomicUsize>) -> Self {
        connections.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(connections))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Answers line by line, until the peer leaves or is refused.
fn converse(stream: &UnixStream, crowded: bool, ask: impl Fn(Command, Peer) -> Option<Answer>) -> io::Result<()> {
    stream.set_read_timeout(Some(IDLE_LIMIT))?;
    stream.set_write_timeout(Some(WRITE_LIMIT))?;
    let peer = local::peer(stream)?;
    let refuse = |kind, message: String| say(stream, Answer::Refused(Refusal { kind, message }));
    // The socket's mode says the same; here it holds whatever has become of that.
    if peer.user != 0 && peer.user != local::own_user() {
        log::warn!("refused on the socket: {peer}");
        let owner = local::own_user();
        return refuse(RefusalKind::Permission, format!("only user {owner} and root may ask, not user {}", peer.user));
    }
    if crowded {
        return refuse(RefusalKind::Failure, format!("{CONNECTIONS} others are connected already"));
    }
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = Vec::new();
        let n = reader.by_ref().take(REQUEST_LIMIT as u64 + 1).read_until(b'\n', &mut line)?;
        if n == 0 {
            return Ok(());
        }
        if n > REQUEST_LIMIT {
            return refuse(RefusalKind::Usage, format!("a request has at most {REQUEST_LIMIT} bytes"));
        }
        let answer = match read(&line) {
            Ok(command) => {
                log::debug!("{peer} asks: {command:?}");
                ask(command, peer).unwrap_or_else(|| {
                    let message = "the program does not answer: it is starting, ending, or very busy".to_owned();
                    Answer::Refused(Refusal { kind: RefusalKind::Failure, message })
                })
            }
            Err(message) => Answer::Refused(Refusal { kind: RefusalKind::Usage, message }),
        };
        say(stream, answer)?;
    }
}

fn say(mut out: impl Write, answer: Answer) -> io::Result<()> {
    let mut line = serde_json::to_vec(&Reply { version: VERSION, answer })?;
    line.push(b'\n');
    out.write_all(&line)
}

/// What a line asks for.
fn read(line: &[u8]) -> Result<Command, String> {
    // The version first: what another one means by the rest is not known.
    #[derive(serde::Deserialize)]
    struct Version {
        version: u32,
    }
    let version: Version = serde_json::from_slice(line).map_err(|e| {
        format!("a request is a JSON object on one line, such as {{\"version\":1,\"command\":\"status\"}}: {e}")
    })?;
    if version.version != VERSION {
        return Err(format!("version {} of the requests is not understood, version {VERSION} is", version.version));
    }
    serde_json::from_slice(line).map(|request: Request| request.command).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::live::protocol::InForce;

    /// What is answered to these bytes, of a program that has answers or none.
    fn answers(bytes: &[u8], crowded: bool, busy: bool) -> Vec<Answer> {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let server = thread::spawn(move || {
            converse(&theirs, crowded, |_, peer| {
                assert_eq!(peer.process, std::process::id());
                (!busy).then(|| Answer::InForce(InForce::default()))
            })
        });
        // One that is refused at once does not read all.
        let _ = (&ours).write_all(bytes);
        let _ = ours.shutdown(std::net::Shutdown::Write);
        let lines = BufReader::new(&ours).lines().map_while(Result::ok);
        let answers = lines.map(|line| serde_json::from_str::<Reply>(&line).unwrap().answer).collect();
        let _ = server.join().unwrap();
        answers
    }

    fn refusal(answer: &Answer) -> (RefusalKind, &str) {
        let Answer::Refused(refusal) = answer else { panic!("{answer:?}") };
        (refusal.kind, &refusal.message)
    }

    #[test]
    fn requests_are_answered_one_by_one_and_a_wrong_one_ends_nothing() {
        let bytes = b"{\"version\":1,\"command\":\"pause\"}\nnonsense\n{\"version\":9,\"x\":1}\n{\"version\":1,\"command\":\"resume\"}\n";
        let answers = answers(bytes, false, false);
        assert_eq!(answers.len(), 4, "{answers:?}");
        assert_eq!(answers[0], Answer::InForce(InForce::default()));
        assert!(refusal(&answers[1]).1.contains("JSON object on one line"));
        assert_eq!(
            refusal(&answers[2]),
            (RefusalKind::Usage, "version 9 of the requests is not understood, version 1 is")
        );
        assert_eq!(answers[3], answers[0]);
    }

    #[test]
    fn a_line_without_end_and_a_crowd_are_refused() {
        let endless = answers(&vec![b'['; 2 * REQUEST_LIMIT], false, false);
        assert!(matches!(endless[..], [Answer::Refused(_)]), "{endless:?}");
        let crowd = answers(b"{\"version\":1,\"command\":\"status\"}\n", true, false);
        assert_eq!(refusal(&crowd[0]).0, RefusalKind::Failure);
        let busy = answers(b"{\"version\":1,\"command\":\"status\"}\n", false, true);
        assert_eq!(refusal(&busy[0]).0, RefusalKind::Failure);
    }
}
