//! Clients as scripts.

use std::fmt;
use std::time::Duration;

use tcpcopy_wire::Timestamp;

use crate::application::Application;
use crate::{Socket, State};

/// What a client does on its connection to online, step by step.
///
/// ```
/// use std::time::Duration;
/// use tcpcopy_netsim::Script;
///
/// let script = Script::new()
///     .wait_until(|greeting| greeting.ends_with(b"\n"))
///     .send("get a\n")
///     .wait_for(2)
///     .pause(Duration::from_millis(20))
///     .send("quit\n");
/// ```
///
/// A script that has come to its end closes the connection. What the waits are about is what online answers; the target
/// is never heard.
#[derive(Debug, Default)]
pub struct Script {
    begins: Option<Duration>,
    steps: Vec<Step>,
}

/// Whether what online has answered is enough.
type Condition = dyn Fn(&[u8]) -> bool;

enum Step {
    Send(Vec<u8>),
    WaitFor(usize),
    WaitUntil(Box<Condition>),
    WaitForClose,
    Pause(Duration),
    Capture(bool),
    Close,
    Reset,
    StayOpen,
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Send(bytes) => write!(f, "send {} bytes", bytes.len()),
            Self::WaitFor(n) => write!(f, "wait for {n} bytes"),
            Self::WaitUntil(_) => f.write_str("wait until an answer is as it should be"),
            Self::WaitForClose => f.write_str("wait for online's close"),
            Self::Pause(duration) => write!(f, "pause for {duration:?}"),
            Self::Capture(on) => f.write_str(if *on { "captured" } else { "uncaptured" }),
            Self::Close => f.write_str("close"),
            Self::Reset => f.write_str("reset"),
            Self::StayOpen => f.write_str("stay open"),
        }
    }
}

impl Script {
    /// Connects, and closes.
    pub fn new() -> Self {
        Self::default()
    }

    /// When it connects. Without this, clients begin a millisecond after each other.
    #[must_use]
    pub fn begins(mut self, at: Duration) -> Self {
        self.begins = Some(at);
        self
    }

    fn step(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }

    /// Sends bytes, in segments of their own.
    #[must_use]
    pub fn send(self, bytes: impl AsRef<[u8]>) -> Self {
        self.step(Step::Send(bytes.as_ref().to_vec()))
    }

    /// Waits until online has answered this many bytes more than earlier waits have taken.
    #[must_use]
    pub fn wait_for(self, bytes: usize) -> Self {
        self.step(Step::WaitFor(bytes))
    }

    /// Waits until this is true of what online has answered and earlier waits have not taken. Takes all of it.
    #[must_use]
    pub fn wait_until(self, enough: impl Fn(&[u8]) -> bool + 'static) -> Self {
        self.step(Step::WaitUntil(Box::new(enough)))
    }

    /// Waits until online has closed or reset the connection.
    #[must_use]
    pub fn wait_for_close(self) -> Self {
        self.step(Step::WaitForClose)
    }

    /// Waits.
    #[must_use]
    pub fn pause(self, duration: Duration) -> Self {
        self.step(Step::Pause(duration))
    }

    /// From here on the capture sees nothing of this connection. As a first step it hides the SYN, too. Waits until online
    /// has acknowledged all that was sent before.
    #[must_use]
    pub fn uncaptured(self) -> Self {
        self.step(Step::Capture(false))
    }

    /// From here on the capture sees the connection, which tcpcopy may join mid-stream. Waits until online has acknowledged
    /// all that was sent before.
    #[must_use]
    pub fn captured(self) -> Self {
        self.step(Step::Capture(true))
    }

    /// Closes the sending side; steps that wait may follow.
    #[must_use]
    pub fn half_close(self) -> Self {
        self.step(Step::Close)
    }

    /// Closes, as the end of a script does anyway.
    #[must_use]
    pub fn close(self) -> Self {
        self.step(Step::Close)
    }

    /// Resets the connection, once online has acknowledged all that was sent.
    #[must_use]
    pub fn reset(self) -> Self {
        self.step(Step::Reset)
    }

    /// Says nothing more, and leaves the connection open: the run goes on to its time limit.
    #[must_use]
    pub fn stay_open(self) -> Self {
        self.step(Step::StayOpen)
    }

    pub(super) fn begin(&self, client: usize) -> Duration {
        self.begins.unwrap_or(Duration::from_millis(1 + client as u64))
    }
}

/// A script that is played.
#[derive(Debug)]
pub(super) struct Player {
    steps: Vec<Step>,
    /// The step that is being taken.
    at: usize,
    written: usize,
    pub(super) received: Vec<u8>,
    /// What the waits have taken of it.
    taken: usize,
    paused_until: Option<Timestamp>,
    captured: bool,
    closed: bool,
}

impl Player {
    pub(super) fn new(script: Script) -> Self {
        let captured = !matches!(script.steps.first(), Some(Step::Capture(false)));
        Self {
            steps: script.steps,
            at: 0,
            written: 0,
            received: Vec::new(),
            taken: 0,
            paused_until: None,
            captured,
            closed: false,
        }
    }

    /// The step that it never got past.
    pub(super) fn stuck_at(&self) -> Option<String> {
        let step = self.steps.get(self.at).filter(|step| !matches!(step, Step::StayOpen))?;
        let waiting = self.received.len() - self.taken;
        Some(format!("step {} ({step:?}), with {waiting} bytes of online not taken", self.at + 1))
    }

    /// Takes the steps that are due.
    fn play(&mut self, now: Timestamp, socket: &mut Socket<'_>) -> Option<Timestamp> {
        while let Some(step) = self.steps.get(self.at) {
            match step {
                Step::Send(bytes) => {
                    assert!(!self.closed, "the script sends after it has closed: step {}", self.at + 1);
                    self.written += socket.send_slice(&bytes[self.written..]).unwrap_or(0);
                    if self.written < bytes.len() {
                        return None; // the TCP runs us again when there is room
                    }
                    self.written = 0;
                    self.at += 1;
                    return Some(now + Duration::from_micros(1)); // what is sent next is a segment of its own
                }
                Step::WaitFor(n) => {
                    if self.received.len() - self.taken < *n {
                        return None;
                    }
                    self.taken += n;
                }
                Step::WaitUntil(enough) => {
                    if !enough(&self.received[self.taken..]) {
                        return None;
                    }
                    self.taken = self.received.len();
                }
                Step::WaitForClose => {
                    let open = matches!(socket.state(), State::Established | State::FinWait1 | State::FinWait2);
                    if open || socket.can_recv() {
                        return None;
                    }
                }
                Step::Pause(duration) => {
                    let until = *self.paused_until.get_or_insert(now + *duration);
                    if now < until {
                        return Some(until);
                    }
                    self.paused_until = None;
                }
                Step::Capture(_) | Step::Reset if socket.send_queue() > 0 => return None,
                Step::Capture(on) => self.captured = *on,
                Step::Close => {
                    socket.close();
                    self.closed = true;
                }
                Step::Reset => {
                    socket.abort();
                    self.closed = true;
                }
                Step::StayOpen => return None,
            }
            self.at += 1;
        }
        if !self.closed {
            socket.close();
            self.closed = true;
        }
        None
    }
}

impl Application for Player {
    fn step(&mut self, now: Timestamp, socket: &mut Socket<'_>) -> Option<Timestamp> {
        if socket.state() == State::SynSent {
            return None;
        }
        while socket.can_recv() {
            let received = &mut self.received;
            let Ok(()) = socket.recv(|bytes| {
                received.extend_from_slice(bytes);
                (bytes.len(), ())
            }) else {
                break;
            };
        }
        self.play(now, socket)
    }

    fn is_captured(&self) -> bool {
        self.captured
    }
}
