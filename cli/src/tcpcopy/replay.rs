//! Replaying captures from files: a thread that reads, and the schedule by which a worker hands on what it has read.
//!
//! ```text
//! file --> (unpack) --> libpcap --> batches --> [schedule: is it due?] --> engine
//!          reader's thread                  |            worker's thread
//! ```
//!
//! The reader is some batches ahead, and waits when nobody takes them. The worker hands a frame on when as much time has
//! passed since the first one as in the capture, less what was cut out, at so many times the speed; or, as fast as
//! possible, as soon as not too much waits for the target. In both cases the engine's clock is the real one.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, SyncSender, TryRecvError};
use std::thread;
use std::time::Duration;
use std::{fmt, fs, io};

use mio::Waker;
use tcpcopy_engine::{Copier, Input, Outbox};
use tcpcopy_io::capture::file::{CaptureFile, FileError, STDIN};
use tcpcopy_wire::Timestamp;
use tcpcopy_wire::link::LinkType;

/// Frames, and bytes of them, that the reader puts together.
const BATCH_FRAMES: usize = 256;
const BATCH_BYTES: usize = 256 << 10;
/// Batches that wait to be taken.
const BATCHES_AHEAD: usize = 8;
/// Frames handed on before the links are looked at again.
const ROUND: usize = 64;
/// As fast as possible, no more is handed on while something waits in so many sessions, or so many bytes wait.
const SESSIONS_WAITING: usize = 512;
const BYTES_WAITING: u64 = 4 << 20;
/// By the file's clock, no more is handed on while so many bytes wait: the replay falls behind rather than losing anything.
const BYTES_BEHIND: u64 = 64 << 20;
/// Pause before it is looked again whether more may be handed on; mostly a response comes first.
const PRESSURE_TICK: Duration = Duration::from_millis(5);
/// Pause before it is looked again whether the reader has something.
const READER_TICK: Duration = Duration::from_millis(100);
/// At the end, what the target does not answer is waited for so long.
const LAST_ANSWERS: Duration = Duration::from_secs(10);
/// The same for datagrams, of which nobody knows whether they will be answered.
const LAST_DATAGRAMS: Duration = Duration::from_secs(1);
/// Pause between looks whether everything has ended.
const END_TICK: Duration = Duration::from_millis(20);

/// What to replay, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The files, one after the other. Absolute, or `-` for standard input.
    pub files: Vec<PathBuf>,
    /// How many times as fast as it was captured.
    pub speed: f64,
    /// Pauses longer than this are left out.
    pub cut_gaps: Option<Duration>,
    /// How many times.
    pub passes: u32,
    /// The capture's times do not matter.
    pub as_fast_as_possible: bool,
    /// What to take of the files, in pcap's language; empty: everything.
    pub filter: String,
}

impl Plan {
    /// Opens each file, to find out whether it can be read.
    ///
    /// # Errors
    /// Why one cannot.
    pub fn check(&self) -> Result<(), FileError> {
        // What is no file can be read but once.
        for path in self.files.iter().filter(|path| path.as_os_str() != STDIN && !is_pipe(path)) {
            CaptureFile::open(path, &self.filter)?;
        }
        Ok(())
    }
}

fn is_pipe(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_fifo())
}

/// How far a replay is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Progress {
    /// Bytes of the files whose frames were handed on in this pass, and of all files; zero and zero where that is not known.
    pub read: (u64, u64),
    /// The pass, from 1, and how many there are.
    pub pass: (u32, u32),
    /// Frames handed on, in all passes.
    pub frames: u64,
    /// How long ago the last frame was due.
    pub behind: Duration,
    /// Everything was handed on; the last sessions come to their ends.
    pub ending: bool,
    /// Places from which on a file could not be read.
    pub damages: Vec<FileError>,
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.ending {
            return write!(f, "{} packets, all read; waiting for the last sessions to end", self.frames);
        }
        let (pass, passes) = self.pass;
        if passes > 1 {
            write!(f, "pass {pass} of {passes}, ")?;
        }
        if let (read, total @ 1..) = self.read {
            write!(f, "{} % done, ", read * 100 / total)?;
        }
        write!(f, "{} packets", self.frames)?;
        if self.behind >= Duration::from_secs(1) {
            write!(f, ", {} s behind", self.behind.as_secs())?;
        }
        Ok(())
    }
}

/// Frames that the reader has put together.
#[derive(Debug, Default)]
struct Batch {
    bytes: Vec<u8>,
    /// When each was captured, where it ends in `bytes`, and its length on the wire.
    frames: Vec<(Timestamp, usize, usize)>,
}

/// What comes from the reader.
enum Item {
    Frames { link: LinkType, batch: Batch, read: (u64, u64) },
    Damaged(FileError),
    EndOfPass,
}

/// When each frame is due, counted from the first one of the replay.
#[derive(Debug)]
struct Schedule {
    speed: f64,
    cut_gaps: Option<Duration>,
    /// When the frame before was captured; none at the beginning of a pass.
    before: Option<Timestamp>,
    elapsed: Duration,
}

impl Schedule {
    /// A frame that was captured then; `counts`: it is one of those whose pauses count.
    fn due(&mut self, at: Timestamp, counts: bool) -> Duration {
        if counts || self.before.is_none() {
            // Where a clock was set back, no time has passed.
            let gap = self.before.map_or(Duration::ZERO, |before| at.since(before));
            if self.cut_gaps.is_none_or(|longest| gap <= longest) {
                self.elapsed += gap.div_f64(self.speed);
            }
            self.before = Some(at);
        }
        self.elapsed
    }
}

#[derive(Debug)]
enum State {
    Running,
    /// Everything was handed on; since when nothing has moved, and what it was that last moved.
    Ending {
        since: Timestamp,
        moved: u64,
    },
    Over,
}

/// A replay under way. See the [module's documentation](self).
pub struct Replay {
    items: Receiver<Item>,
    schedule: Schedule,
    as_fast_as_possible: bool,
    began: Option<Timestamp>,
    link: LinkType,
    batch: Batch,
    /// The bytes of the files that the batch is made of: where they begin, and where they end.
    batch_of: (u64, u64),
    /// The next frame of the batch, and where it begins.
    next: (usize, usize),
    /// When that is due, once it is known.
    due: Option<Timestamp>,
    state: State,
    progress: Progress,
    /// Nothing may be handed on for now.
    held_back: bool,
    measures_online: bool,
    /// Since when it stands still by order.
    paused_at: Option<Timestamp>,
}

impl Replay {
    /// Begins to read. `measures_online`: the engine wants to know when each frame was captured. `waker` wakes whoever calls [`hand_over`](Self::hand_over) when there is something new.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn start(plan: &Plan, measures_online: bool, waker: Arc<Waker>) -> io::Result<Self> {
        let (sender, items) = mpsc::sync_channel(BATCHES_AHEAD);
        let reader = Reader { plan: plan.clone(), sender, waker };
        thread::Builder::new().name("reader".to_owned()).spawn(move || reader.run())?;
        let schedule = Schedule { speed: plan.speed, cut_gaps: plan.cut_gaps, before: None, elapsed: Duration::ZERO };
        Ok(Self {
            items,
            schedule,
            as_fast_as_possible: plan.as_fast_as_possible,
            began: None,
            link: LinkType::Raw,
            batch: Batch::default(),
            batch_of: (0, 0),
            next: (0, 0),
            due: None,
            state: State::Running,
            progress: Progress { pass: (1, plan.passes), ..Progress::default() },
            held_back: false,
            measures_online,
            paused_at: None,
        })
    }

    /// How far it is.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Whether everything is over: the sessions have ended, or there is nothing more to wait for.
    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Over)
    }

    /// Stands still from now on.
    pub fn pause(&mut self, now: Timestamp) {
        self.paused_at.get_or_insert(now);
    }

    /// Goes on from where it stood still, as much later.
    pub fn resume(&mut self, now: Timestamp) {
        if let Some(paused_at) = self.paused_at.take() {
            let later = |at: Timestamp| at + now.since(paused_at);
            (self.began, self.due) = (self.began.map(later), self.due.map(later));
        }
    }

    /// When to call [`hand_over`](Self::hand_over), if nothing happens before; `None`: when woken.
    pub fn next_due(&self, now: Timestamp) -> Option<Timestamp> {
        match self.state {
            State::Running if self.paused_at.is_some() => None,
            State::Running if self.held_back => Some(now + PRESSURE_TICK),
            // The reader wakes whoever waits for it; this is for a wake-up that gets lost.
            State::Running => self.due.or(Some(now + READER_TICK)),
            State::Ending { .. } => Some(now + END_TICK),
            State::Over => None,
        }
    }

    /// Hands on what is due.
    pub fn hand_over(&mut self, now: Timestamp, engine: &mut Copier, outbox: &mut Outbox) {
        match self.state {
            State::Running if self.paused_at.is_some() => {}
            State::Running => {
                for _ in 0..ROUND {
                    if !self.step(now, engine, outbox) {
                        return;
                    }
                }
                // There may be more at once.
                self.due = self.due.or(Some(now));
            }
            State::Ending { since, moved } => self.end(now, engine, since, moved),
            State::Over => {}
        }
    }

    /// One frame, or whatever else comes from the reader; whether there may be more at once.
    fn step(&mut self, now: Timestamp, engine: &mut Copier, outbox: &mut Outbox) -> bool {
        let Some(&(at, end, wire_len)) = self.batch.frames.get(self.next.0) else {
            return self.next_item(now, engine, outbox);
        };
        let pending = engine.ledger().pending_bytes;
        let too_much = self.as_fast_as_possible && engine.sessions_waiting() >= SESSIONS_WAITING;
        self.held_back = too_much || pending >= if self.as_fast_as_possible { BYTES_WAITING } else { BYTES_BEHIND };
        if self.held_back {
            return false;
        }
        let bytes = &self.batch.bytes[self.next.1..end];
        if !self.as_fast_as_possible {
            let began = *self.began.get_or_insert(now);
            let due = *self.due.get_or_insert_with(|| {
                let counts = self.schedule.cut_gaps.is_none() || engine.concerns(self.link, bytes, wire_len);
                began + self.schedule.due(at, counts)
            });
            if due > now {
                self.progress.behind = Duration::ZERO;
                return false;
            }
            self.progress.behind = now.since(due);
        }
        if self.measures_online {
            engine.handle(now, Input::CapturedAt(at), outbox);
        }
        engine.handle(now, Input::Frame { link: self.link, bytes, wire_len }, outbox);
        self.progress.frames += 1;
        self.next = (self.next.0 + 1, end);
        self.due = None;
        // The reader is ahead, of a small file by all of it.
        let (from, to) = self.batch_of;
        self.progress.read.0 = from + (to - from) * self.next.0 as u64 / self.batch.frames.len() as u64;
        true
    }

    fn next_item(&mut self, now: Timestamp, engine: &mut Copier, outbox: &mut Outbox) -> bool {
        match self.items.try_recv() {
            Ok(Item::Frames { link, batch, read }) => {
                self.batch_of = (self.batch_of.1.min(read.0), read.0);
                let done = if batch.frames.is_empty() { read.0 } else { self.batch_of.0 };
                self.progress.read = (done, read.1);
                (self.link, self.batch, self.next) = (link, batch, (0, 0));
            }
            Ok(Item::Damaged(damage)) => {
                log::warn!("{damage}");
                if !self.progress.damages.contains(&damage) {
                    self.progress.damages.push(damage);
                }
            }
            Ok(Item::EndOfPass) => {
                engine.handle(now, Input::NextPass, outbox);
                self.schedule.before = None;
                self.batch_of = (0, 0);
                self.progress.pass.0 += 1;
            }
            Err(TryRecvError::Empty) => {
                self.due = None;
                return false;
            }
            Err(TryRecvError::Disconnected) => {
                self.progress.pass.0 = self.progress.pass.1;
                self.progress.ending = true;
                self.state = State::Ending { since: now, moved: 0 };
                return false;
            }
        }
        true
    }

    fn end(&mut self, now: Timestamp, engine: &Copier, since: Timestamp, moved: u64) {
        let ledger = engine.ledger();
        let moves = ledger.responses + ledger.packets_sent - ledger.retransmits + ledger.sessions_completed;
        if moves != moved {
            self.state = State::Ending { since: now, moved: moves };
            return;
        }
        let patience = match (engine.is_finished(), ledger.udp_flows_alive) {
            (false, _) => LAST_ANSWERS,
            (true, 0) => Duration::ZERO,
            (true, _) => LAST_DATAGRAMS,
        };
        if now.since(since) >= patience {
            self.state = State::Over;
        }
    }
}

/// Reads the files, as often as they are to be read.
struct Reader {
    plan: Plan,
    sender: SyncSender<Item>,
    waker: Arc<Waker>,
}

impl Reader {
    fn run(self) {
        // It ends early when nobody listens any more.
        let _ = self.read_all();
        let Self { sender, waker, .. } = self;
        drop(sender);
        let _ = waker.wake();
    }

    fn send(&self, item: Item) -> Option<()> {
        self.sender.send(item).ok()?;
        self.waker.wake().ok()
    }

    fn read_all(&self) -> Option<()> {
        for _ in 0..self.plan.passes {
            let sizes = self.plan.files.iter().map(|path| fs::metadata(path).map_or(0, |metadata| metadata.len()));
            let sizes: Vec<u64> = sizes.collect();
            for (i, path) in self.plan.files.iter().enumerate() {
                let (before, total) = (sizes[..i].iter().sum::<u64>(), sizes.iter().sum());
                if let Err(damage) = self.read(path, before, total)? {
                    self.send(Item::Damaged(damage))?;
                }
            }
            self.send(Item::EndOfPass)?;
        }
        Some(())
    }

    /// Reads one file; `before` it come so many bytes of others. `None`: nobody listens.
    fn read(&self, path: &Path, before: u64, total: u64) -> Option<Result<(), FileError>> {
        let mut file = match CaptureFile::open(path, &self.plan.filter) {
            Ok(file) => file,
            Err(e) => return Some(Err(e)),
        };
        let link = file.link_type();
        // What comes by and by is not kept back until there is enough for a batch.
        let batch_frames = if file.progress().1 > 0 { BATCH_FRAMES } else { 1 };
        loop {
            let mut batch = Batch::default();
            let end = loop {
                match file.next_frame() {
                    Ok(Some(frame)) => {
                        batch.bytes.extend_from_slice(frame.bytes);
                        batch.frames.push((frame.at, batch.bytes.len(), frame.wire_len));
                        if batch.frames.len() >= batch_frames || batch.bytes.len() >= BATCH_BYTES {
                            break None;
                        }
                    }
                    Ok(None) => break Some(Ok(())),
                    Err(e) => break Some(Err(e)),
                }
            };
            let (read, of) = file.progress();
            let read = if of > 0 { (before + read, total) } else { (0, 0) };
            self.send(Item::Frames { link, batch, read })?;
            if end.is_some() {
                return end;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use mio::{Poll, Token};
    use tcpcopy_engine::{CopierConfig, Map};
    use tcpcopy_module_api::ModuleHandle;
    use tcpcopy_module_tcp::PlainTcp;
    use tcpcopy_wire::{Endpoint, Port};

    use super::*;

    /// A capture file (pcap, of raw IP) with a packet of nothing in particular at each of these seconds.
    fn capture(seconds: &[u32]) -> tempfile::NamedTempFile {
        let mut bytes = Vec::new();
        for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65_535, 101] {
            bytes.extend(word.to_le_bytes());
        }
        for second in seconds {
            for word in [*second, 0, 20, 20] {
                bytes.extend(word.to_le_bytes());
            }
            bytes.extend([0x45, 0, 0, 20, 0, 0, 0, 0, 64, 1, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, bytes).unwrap();
        file
    }

    #[test]
    fn a_paused_replay_stands_still_and_goes_on_as_much_later() {
        let file = capture(&[100, 101, 102]);
        let plan = Plan {
            files: vec![file.path().to_owned()],
            speed: 1.0,
            cut_gaps: None,
            passes: 1,
            as_fast_as_possible: false,
            filter: String::new(),
        };
        let poll = Poll::new().unwrap();
        let waker = Arc::new(mio::Waker::new(poll.registry(), Token(0)).unwrap());
        let mut replay = Replay::start(&plan, false, waker).unwrap();
        let target = Endpoint::new([10, 0, 0, 2].into(), Port(80));
        let map = Map::tcp(None, Port(80), target);
        let mut engine = Copier::new(CopierConfig::new(vec![map], ModuleHandle::new(PlainTcp)));
        let mut outbox = Outbox::new();
        let mut frames_at = |replay: &mut Replay, ms: u64| {
            replay.hand_over(Timestamp::from_millis(ms), &mut engine, &mut outbox);
            replay.progress().frames
        };
        let end = std::time::Instant::now() + Duration::from_secs(60);
        while frames_at(&mut replay, 0) == 0 {
            assert!(std::time::Instant::now() < end, "the file is not read");
            thread::sleep(Duration::from_millis(1));
        }
        replay.pause(Timestamp::from_millis(400));
        replay.pause(Timestamp::from_millis(900));
        assert_eq!((frames_at(&mut replay, 10_000), replay.next_due(Timestamp::from_millis(10_000))), (1, None));
        replay.resume(Timestamp::from_millis(10_400));
        assert_eq!(frames_at(&mut replay, 10_999), 1);
        assert_eq!(replay.next_due(Timestamp::from_millis(10_999)), Some(Timestamp::from_millis(11_000)));
        // 24 bytes of the file's header, and 36 for each packet; that all of it has been read long ago is no progress.
        assert_eq!(replay.progress().read, (44, 132));
        assert_eq!((frames_at(&mut replay, 11_000), frames_at(&mut replay, 12_000)), (2, 3));
        assert_eq!(replay.progress().read, (132, 132));
    }

    fn schedule(speed: f64, cut_gaps: Option<u64>) -> Schedule {
        Schedule { speed, cut_gaps: cut_gaps.map(Duration::from_millis), before: None, elapsed: Duration::ZERO }
    }

    fn dues(mut schedule: Schedule, captured: &[(u64, bool)]) -> Vec<u64> {
        let due = |(at, counts): &(u64, bool)| schedule.due(Timestamp::from_millis(*at), *counts).as_millis() as u64;
        captured.iter().map(due).collect()
    }

    #[test]
    fn frames_are_due_as_they_were_captured() {
        let captured = [(5_000, true), (5_010, true), (5_000, true), (8_000, true)];
        assert_eq!(dues(schedule(1.0, None), &captured), [0, 10, 10, 3_010], "a clock set back stands still");
        assert_eq!(dues(schedule(2.0, None), &captured), [0, 5, 5, 1_505]);
        assert_eq!(dues(schedule(0.5, None), &captured), [0, 20, 20, 6_020]);
    }

    #[test]
    fn long_pauses_of_what_is_copied_are_left_out() {
        let captured = [(0, true), (900, true), (1_500, false), (2_000, true), (2_900, true)];
        assert_eq!(dues(schedule(1.0, Some(1_000)), &captured), [0, 900, 900, 900, 1_800]);
        assert_eq!(dues(schedule(1.0, Some(1_100)), &captured), [0, 900, 900, 2_000, 2_900]);
    }

    #[test]
    fn progress_says_what_a_person_wants_to_know() {
        let progress = Progress { read: (50, 200), pass: (2, 3), frames: 70, ..Progress::default() };
        assert_eq!(progress.to_string(), "pass 2 of 3, 25 % done, 70 packets");
        let late = Progress { pass: (1, 1), frames: 7, behind: Duration::from_millis(2_500), ..Progress::default() };
        assert_eq!(late.to_string(), "7 packets, 2 s behind");
    }
}
