//! What memcached answers: lines, and values behind them.

use std::collections::VecDeque;

use tcpcopy_module_api::framing::{Fault, Follower, Frame, Framer, Lines};

use crate::request::{Answer, length, words};

/// A line of memcached's has a key of 250 bytes and some numbers.
const LONGEST_LINE: usize = 4_096;
/// What is looked at of each message: enough for its first word.
const WORD: usize = 16;

/// The messages of memcached: a line each, with the value that belongs to it.
#[derive(Clone, Copy, Debug)]
struct Responses;

impl Framer for Responses {
    fn frame(&self, data: &[u8]) -> Frame {
        let line = match Lines::new(LONGEST_LINE).frame(data) {
            Frame::Message(line) => line,
            other => return other,
        };
        let mut words = words(&data[..line]);
        let value = match words.next() {
            Some(b"VALUE") => words.nth(2).and_then(length),
            Some(b"VA") => words.next().and_then(length),
            _ => return Frame::Message(line),
        };
        match value.and_then(|value| value.checked_add(line + 2)) {
            Some(end) => Frame::Message(end),
            None => Frame::Invalid(Fault::NotThisProtocol("a value without a length")),
        }
    }

    fn head(&self) -> usize {
        LONGEST_LINE
    }
}

/// Which of the client's commands the target has answered.
#[derive(Debug)]
pub struct Answers {
    follower: Follower<Responses>,
    /// What the commands that have not been answered will be answered with, the oldest first.
    expected: VecDeque<Answer>,
}

impl Answers {
    /// Commands that wait for an answer at most. A client that sends more of them ahead is not followed.
    pub const MOST: usize = 10_000;

    /// A connection on which nothing was asked.
    pub fn new() -> Self {
        Self { follower: Follower::new(Responses, WORD), expected: VecDeque::new() }
    }

    /// What is expected of a new connection, over which the last `missing` of the commands go.
    pub fn on_new_connection(mut self, missing: usize) -> Self {
        self.expected.drain(..self.expected.len().saturating_sub(missing));
        Self { expected: self.expected, ..Self::new() }
    }

    /// A command was copied that is answered so. False when there are too many to follow.
    pub fn expect(&mut self, answer: Answer) -> bool {
        let room = self.expected.len() < Self::MOST;
        if room {
            self.expected.push_back(answer);
        }
        room
    }

    /// Takes what the target sent, and gives back how many commands are answered with it.
    pub fn come(&mut self, data: &[u8]) -> Result<u64, Fault> {
        let Self { follower, expected } = self;
        let mut answered = 0;
        follower.feed(data, |message, _| {
            if expected.front().is_some_and(|answer| ends(*answer, message)) {
                expected.pop_front();
                answered += 1;
            }
        })?;
        Ok(answered)
    }

    /// Answers that have not come.
    pub fn missing(&self) -> usize {
        self.expected.len()
    }
}

/// Whether `message` is the last one of this answer.
fn ends(answer: Answer, message: &[u8]) -> bool {
    let word = message.split(|byte| b" \r\n".contains(byte)).next().unwrap_or_default();
    let error = matches!(word, b"ERROR" | b"CLIENT_ERROR" | b"SERVER_ERROR");
    match answer {
        Answer::Values => error || word == b"END",
        Answer::Lines => error || matches!(word, b"END" | b"RESET" | b"OK"),
        // What quiet commands in front of it are answered with, if anything, is let pass.
        Answer::NoOp => error || word == b"MN",
        Answer::Line | Answer::Meta => true,
        Answer::None => false,
    }
}
