//! Samples of a protocol, from which the suite makes its conversations.

use crate::Payload;
use crate::testing::Conversation;

/// Something that happens in a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The client sends this (with UDP, as one datagram).
    Client(Vec<u8>),
    /// The target sends this.
    Target(Vec<u8>),
    /// Online sends this; only for modules that see it.
    Online(Vec<u8>),
    /// The target closes.
    TargetCloses,
}

/// A conversation as it may happen, and what must come of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Its name, for failures.
    pub name: String,
    /// What happens, in its order. The client closes at the end.
    pub steps: Vec<Step>,
    /// What reaches the target, over all connections; `None` when the sample does not say.
    pub to_target: Option<Vec<u8>>,
}

impl Sample {
    /// A sample in which nothing happens yet.
    pub fn of(name: &str) -> Self {
        Self { name: name.to_owned(), steps: Vec::new(), to_target: None }
    }

    /// The client sends `bytes`.
    #[must_use]
    pub fn client(self, bytes: &[u8]) -> Self {
        self.step(Step::Client(bytes.to_vec()))
    }

    /// The target sends `bytes`.
    #[must_use]
    pub fn target(self, bytes: &[u8]) -> Self {
        self.step(Step::Target(bytes.to_vec()))
    }

    /// Online sends `bytes`.
    #[must_use]
    pub fn online(self, bytes: &[u8]) -> Self {
        self.step(Step::Online(bytes.to_vec()))
    }

    /// The target closes.
    #[must_use]
    pub fn target_closes(self) -> Self {
        self.step(Step::TargetCloses)
    }

    /// What must reach the target, over all connections.
    #[must_use]
    pub fn reaches_target(mut self, bytes: &[u8]) -> Self {
        self.to_target = Some(bytes.to_vec());
        self
    }

    fn step(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }

    /// The client's bytes of the whole sample.
    pub(super) fn client_bytes(&self) -> Vec<u8> {
        let bytes = self.steps.iter().filter_map(|step| match step {
            Step::Client(bytes) => Some(bytes.as_slice()),
            _ => None,
        });
        bytes.collect::<Vec<_>>().concat()
    }
}

/// Samples of a protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Samples {
    /// The samples.
    pub samples: Vec<Sample>,
    /// Bytes that a session may hold at most; what it holds beyond is not bounded at all, by the suite's measure.
    pub most_held: usize,
    /// [`Module::join_at`](crate::Module::join_at) tells the protocol's messages from other bytes, so that whatever offset
    /// it gives is where a message begins. Without this only joins between two messages are checked, which suits a module
    /// that believes the client's segments.
    pub joins_anywhere: bool,
}

impl Samples {
    /// These samples, for a module that holds at most 64 KB and joins between messages.
    pub fn new(samples: Vec<Sample>) -> Self {
        Self { samples, most_held: 65_536, joins_anywhere: false }
    }
}

impl Step {
    /// Makes it happen, in pieces that end at `cuts`, offsets in its bytes. Bytes of a target are only cut when all of them
    /// are shown: otherwise the cut is part of what the session sees.
    pub(super) fn happen(&self, conversation: &mut Conversation, cuts: &[usize]) {
        match self {
            Self::Client(bytes) => pieces(bytes, cuts).for_each(|piece| {
                conversation.client(piece);
            }),
            // A closed target says nothing, and a session that never had anything to send has not opened it again.
            Self::Target(_) if !conversation.is_target_open() => {}
            Self::Target(bytes) if conversation.payload() == Payload::Full => {
                // A session may ask for less from one piece to the next.
                pieces(bytes, cuts).for_each(|piece| {
                    conversation.target(piece);
                });
            }
            Self::Target(bytes) => {
                conversation.target(bytes);
            }
            Self::Online(bytes) => pieces(bytes, cuts).for_each(|piece| {
                conversation.online(piece, 0);
            }),
            Self::TargetCloses => {
                conversation.target_closes();
            }
        }
    }

    /// The bytes that somebody sends in it.
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Client(bytes) | Self::Target(bytes) | Self::Online(bytes) => bytes,
            Self::TargetCloses => &[],
        }
    }

    /// The same with other bytes.
    pub(super) fn with(&self, other: Vec<u8>) -> Self {
        match self {
            Self::Client(_) => Self::Client(other),
            Self::Target(_) => Self::Target(other),
            Self::Online(_) => Self::Online(other),
            Self::TargetCloses => Self::TargetCloses,
        }
    }
}

/// `bytes` cut at `cuts`, which ascend.
fn pieces<'a>(bytes: &'a [u8], cuts: &'a [usize]) -> impl Iterator<Item = &'a [u8]> {
    let ends = cuts.iter().copied().filter(|cut| (1..bytes.len()).contains(cut)).chain([bytes.len()]);
    ends.scan(0, |from, end| Some(&bytes[std::mem::replace(from, end)..end]))
}
