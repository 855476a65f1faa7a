//! Why nothing arrives, as far as a running copy can tell from its own counters; the doctor can tell more.
//!
//! The counters are looked at every few seconds. What they say is logged once when it begins to be so, and once when
//! sessions are established again.

use std::fmt::Write;
use std::time::{Duration, Instant};

use tcpcopy_engine::ledger::PacketDrop;
use tcpcopy_io::transmit::SendError;

use super::report::Snapshot;

/// Pause between looks at the counters.
pub const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How long sessions are given: those begun in the first half of this time must be established at its end.
const WINDOW: Duration = Duration::from_secs(10);
/// How long it may be silent at the beginning.
const SILENCE: Duration = Duration::from_secs(30);
/// Later a silence is strange that is so many times longer than any before it.
const STRANGE: u32 = 3;

/// What keeps sessions from being established.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Symptom {
    /// No packet is captured.
    NothingCaptured,
    /// Packets are captured, none of which a map matches.
    NothingMatches,
    /// No link to an intercept works.
    LinksDown,
    /// This host does not send our packets.
    NotSent,
    /// Nothing of the target is reported.
    NoAnswers,
    /// The target answers with RST only.
    OnlyResets,
    /// Something is reported, but no SYN-ACK.
    NoSynAck,
}

/// What two looks at the counters, one some seconds after the other, say together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing that could be judged.
    Unknown,
    /// Sessions are established.
    Working,
    /// They are not.
    Broken(Symptom),
}

/// What the counters say of the time between `before` and `now`. Silence is no symptom here: it may be night.
pub fn judge(before: &Snapshot, now: &Snapshot) -> State {
    let (b, n) = (&before.ledger, &now.ledger);
    if n.connections > b.connections || n.udp_sent > b.udp_sent {
        return State::Working;
    }
    let captured = n.packets_captured > b.packets_captured;
    let seen = n.client_packets > b.client_packets || n.udp_datagrams > b.udp_datagrams;
    if n.syns_sent == b.syns_sent {
        return if captured && !seen { State::Broken(Symptom::NothingMatches) } else { State::Unknown };
    }
    let answers = n.responses - b.responses;
    let resets = n.response_resets - b.response_resets;
    State::Broken(if now.links > 0 && now.links_up == 0 {
        Symptom::LinksDown
    } else if now.transmit.sent == before.transmit.sent && failed(before, now).is_some() {
        Symptom::NotSent
    } else if answers == 0 {
        Symptom::NoAnswers
    } else if resets == answers {
        Symptom::OnlyResets
    } else {
        Symptom::NoSynAck
    })
}

/// The cause for which most packets were not sent.
fn failed(before: &Snapshot, now: &Snapshot) -> Option<SendError> {
    let count = |cause: &SendError| now.transmit.failed[*cause as usize] - before.transmit.failed[*cause as usize];
    SendError::ALL.into_iter().max_by_key(count).filter(|cause| count(cause) > 0)
}

/// A symptom in words, with the numbers behind it.
pub fn describe(symptom: Symptom, before: &Snapshot, now: &Snapshot) -> String {
    let (b, n) = (&before.ledger, &now.ledger);
    let syns = n.syns_sent - b.syns_sent;
    let begun = format!("no session is established: {syns} SYNs were sent");
    match symptom {
        Symptom::NothingCaptured => {
            "nothing is captured: no client is there, or -i and -F show other packets than theirs".to_owned()
        }
        Symptom::NothingMatches => {
            let of_no_map =
                n.packets_dropped[PacketDrop::NoMap as usize] - b.packets_dropped[PacketDrop::NoMap as usize];
            format!(
                "{} packets were captured, none of which is for an online server of -x ({of_no_map} are for other addresses \
                 or ports)",
                n.packets_captured - b.packets_captured
            )
        }
        Symptom::LinksDown => {
            format!("{begun}, and no link to intercept works: no answer of the target can be reported")
        }
        Symptom::NotSent => {
            let cause = failed(before, now).map_or("unknown", SendError::text);
            format!("no session is established: this host does not send our packets ({cause})")
        }
        Symptom::NoAnswers => begun + &nothing_reported(before, now),
        Symptom::OnlyResets => {
            format!("{begun}, and the target answered with RST only: does a server listen on the port that -x names?")
        }
        Symptom::NoSynAck => format!(
            "{begun}, and of {} packets of the target that were reported none is a SYN-ACK for one of them",
            n.responses - b.responses
        ),
    }
}

/// What intercepts say of themselves tells a little more.
fn nothing_reported(before: &Snapshot, now: &Snapshot) -> String {
    if now.links == 0 {
        return ", and no answer of the target was captured here: does it route them to this host, and do --response-device \
                and --response-filter take them?"
            .to_owned();
    }
    let sum = |snapshot: &Snapshot, count: fn(&tcpcopy_wire::control::LinkStats) -> u64| -> u64 {
        snapshot.relays.iter().map(|(_, stats)| count(stats)).sum()
    };
    let captured = sum(now, |stats| stats.frames_captured).saturating_sub(sum(before, |stats| stats.frames_captured));
    let unrouted = sum(now, |stats| stats.unrouted).saturating_sub(sum(before, |stats| stats.unrouted));
    let mut text = ", and intercept reported no answer of the target".to_owned();
    let more = match (captured, unrouted) {
        (0, _) => {
            "; it captured nothing: does the target get the SYNs, does it route its answers to intercept's host, and do \
             intercept's -i and -F take them?"
                .to_owned()
        }
        (_, 0) => format!("; it captured {captured} packets, none of them for our sessions"),
        _ => format!("; it captured {captured} packets, of which {unrouted} belong to no session that it knows of"),
    };
    write!(text, "{more}").expect("strings take all");
    text
}

/// Looks at the counters again and again, and has something to say when what they tell has changed.
#[derive(Debug)]
pub struct Diagnosis {
    /// What to type for more.
    command: String,
    /// Files are replayed: what is captured, and when, is known.
    is_replay: bool,
    window: (Instant, Snapshot),
    /// SYNs that there were in the middle of the window.
    syns_halfway: Option<u64>,
    /// Packets captured, and when that was last another number.
    captured: (Instant, u64),
    /// The longest time after which a packet was captured after all.
    longest_silence: Duration,
    told: Option<Symptom>,
}

impl Diagnosis {
    /// Begins now. `command` is what a person should type who wants to know more.
    pub fn new(command: String, is_replay: bool, now: Instant) -> Self {
        Self {
            command,
            is_replay,
            window: (now, Snapshot::default()),
            syns_halfway: None,
            captured: (now, 0),
            longest_silence: Duration::ZERO,
            told: None,
        }
    }

    /// What to log, if anything; a warning, unless the trouble is over.
    pub fn look(&mut self, at: Instant, now: &Snapshot) -> Option<(log::Level, String)> {
        if now.ledger.packets_captured != self.captured.1 {
            let silence = at.saturating_duration_since(self.captured.0);
            self.longest_silence = self.longest_silence.max(silence);
            self.captured = (at, now.ledger.packets_captured);
        }
        let silence = at.saturating_duration_since(self.captured.0);
        if !self.is_replay && silence >= SILENCE.max(self.longest_silence * STRANGE) {
            return self.tell(State::Broken(Symptom::NothingCaptured), now);
        }
        let elapsed = at.saturating_duration_since(self.window.0);
        if elapsed >= WINDOW / 2 {
            self.syns_halfway.get_or_insert(now.ledger.syns_sent);
        }
        if elapsed < WINDOW {
            return None;
        }
        let mut state = judge(&self.window.1, now);
        let had_time = self.syns_halfway.is_some_and(|syns| syns > self.window.1.ledger.syns_sent);
        let is_of_syns = !matches!(state, State::Broken(Symptom::NothingMatches) | State::Working);
        if is_of_syns && !had_time {
            state = State::Unknown;
        }
        let told = self.tell(state, now);
        self.window = (at, now.clone());
        self.syns_halfway = None;
        told
    }

    fn tell(&mut self, state: State, now: &Snapshot) -> Option<(log::Level, String)> {
        match state {
            State::Unknown => None,
            State::Working => self.told.take().map(|_| (log::Level::Info, "sessions are established now".to_owned())),
            State::Broken(symptom) if self.told == Some(symptom) => None,
            State::Broken(symptom) => {
                self.told = Some(symptom);
                let text = describe(symptom, &self.window.1, now);
                Some((log::Level::Warn, format!("{text}; to find out where it stops, run: {}", self.command)))
            }
        }
    }
}

#[cfg(test)]
mod tests;
