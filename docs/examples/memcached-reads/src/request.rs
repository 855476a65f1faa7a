//! What a client asks: commands of memcached's text protocol, and how long they are.

use tcpcopy_module_api::framing::{Fault, Frame, Framer, Lines};

/// A line of a client; a `get` of many keys may be long.
const LONGEST_LINE: usize = 32 * 1_024;
/// No value is larger: it is the most that memcached's `-I` takes.
const LARGEST_VALUE: usize = 1 << 30;

/// What a command does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It changes nothing.
    Read,
    /// It changes what is stored.
    Write,
    /// It is about the server.
    Administration,
}

/// What a command is answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Values, and `END`.
    Values,
    /// One line.
    Line,
    /// One line, perhaps with a value.
    Meta,
    /// `MN`, and nothing else.
    NoOp,
    /// Several lines, up to `END`, or one.
    Lines,
    /// Nothing.
    None,
}

/// A command of the protocol.
#[derive(Debug, PartialEq, Eq)]
pub struct Command {
    /// Its word.
    pub name: &'static str,
    /// What it does.
    pub kind: Kind,
    /// What it is answered with.
    pub answer: Answer,
    /// The word of its line that gives the length of the data block behind the line.
    data: Option<usize>,
}

const fn command(name: &'static str, kind: Kind, answer: Answer) -> Command {
    Command { name, kind, answer, data: None }
}

const fn storage(name: &'static str, answer: Answer, data: usize) -> Command {
    Command { name, kind: Kind::Write, answer, data: Some(data) }
}

/// The commands, after memcached's doc/protocol.txt.
const COMMANDS: &[Command] = &[
    command("get", Kind::Read, Answer::Values),
    command("gets", Kind::Read, Answer::Values),
    command("mg", Kind::Read, Answer::Meta),
    command("mn", Kind::Read, Answer::NoOp),
    command("version", Kind::Read, Answer::Line),
    command("quit", Kind::Read, Answer::None),
    storage("set", Answer::Line, 4),
    storage("add", Answer::Line, 4),
    storage("replace", Answer::Line, 4),
    storage("append", Answer::Line, 4),
    storage("prepend", Answer::Line, 4),
    storage("cas", Answer::Line, 4),
    storage("ms", Answer::Meta, 2),
    command("delete", Kind::Write, Answer::Line),
    command("incr", Kind::Write, Answer::Line),
    command("decr", Kind::Write, Answer::Line),
    command("touch", Kind::Write, Answer::Line),
    command("gat", Kind::Write, Answer::Values),
    command("gats", Kind::Write, Answer::Values),
    command("md", Kind::Write, Answer::Meta),
    command("ma", Kind::Write, Answer::Meta),
    command("flush_all", Kind::Write, Answer::Line),
    command("me", Kind::Administration, Answer::Meta),
    command("stats", Kind::Administration, Answer::Lines),
    command("verbosity", Kind::Administration, Answer::Line),
];

impl Command {
    /// The command that this word stands for.
    pub fn named(word: &[u8]) -> Option<&'static Self> {
        COMMANDS.iter().find(|command| command.name.as_bytes() == word)
    }

    /// The command of a client's line.
    pub fn of(line: &[u8]) -> Option<&'static Self> {
        Self::named(words(line).next()?)
    }

    /// What `line`, a line with this command, is answered with: nothing when the client does not want to know.
    pub fn answer_to(&self, line: &[u8]) -> Answer {
        let quiet = match self.answer {
            // A quiet command is answered or not, as it turns out.
            Answer::Meta => words(line).skip(2).any(|flag| flag == b"q"),
            _ => words(line).last() == Some(b"noreply"),
        };
        if quiet { Answer::None } else { self.answer }
    }
}

/// The messages of a client: a line each, with the data block that belongs to it.
#[derive(Clone, Copy, Debug)]
pub struct Requests {
    /// Only commands that are known, with data blocks that end where they should, are messages.
    pub strict: bool,
}

impl Framer for Requests {
    fn frame(&self, data: &[u8]) -> Frame {
        if data.first() == Some(&0x80) {
            return Frame::Invalid(Fault::NotThisProtocol("memcached's binary protocol"));
        }
        let line = match Lines::new(LONGEST_LINE).frame(data) {
            Frame::Message(line) => line,
            other => return other,
        };
        let command = Command::of(&data[..line]);
        if self.strict && command.is_none() {
            return Frame::Invalid(Fault::NotThisProtocol("a command that is not memcached's"));
        }
        // A line without a length that can be read is refused by memcached, which then reads on behind it.
        let block = command.and_then(|command| words(&data[..line]).nth(command.data?)).and_then(length);
        let Some(block) = block else { return Frame::Message(line) };
        if block > LARGEST_VALUE {
            return Frame::Invalid(Fault::TooLong { len: block as u64, most: LARGEST_VALUE });
        }
        let end = line + block + 2;
        if self.strict && data.get(end - 2..end).is_some_and(|end| end != b"\r\n") {
            return Frame::Invalid(Fault::NotThisProtocol("a data block that does not end where it should"));
        }
        Frame::Message(end)
    }

    fn head(&self) -> usize {
        LONGEST_LINE
    }

    fn may_begin_behind(&self, byte: u8) -> bool {
        byte == b'\n'
    }
}

/// The words of a line.
pub(crate) fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    Lines::text(line).split(|byte| *byte == b' ').filter(|word| !word.is_empty())
}

/// A length written in digits.
pub(crate) fn length(word: &[u8]) -> Option<usize> {
    if word.is_empty() || !word.iter().all(u8::is_ascii_digit) {
        return None;
    }
    str::from_utf8(word).ok()?.parse().ok()
}
