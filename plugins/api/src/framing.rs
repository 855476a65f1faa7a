//! Messages in a stream of bytes: where they begin and how long they are.
//!
//! A [`Framer`] looks at the beginning of a message and says how long the message is. From that follow the three things
//! that a module of a framed protocol needs:
//!
//! - [`messages`] cuts the client's bytes into messages, as [`Session::on_client_data`](crate::Session::on_client_data)
//!   shows them. A message may be longer than what has come: `ctx.pass(message.len)` then copies the rest when it comes.
//! - [`Follower`] follows the target's bytes, which are shown once and not held, and tells when a message has ended.
//! - [`find_boundary`] finds a place at which a stream can be joined in its middle, for
//!   [`Module::join_at`](crate::Module::join_at).
//!
//! Two framers come with the crate: [`LengthPrefix`] for messages whose length stands in front of them, and [`Lines`]. A
//! protocol with a rule of its own implements [`Framer`], or gives a closure:
//!
//! ```
//! use tcpcopy_module_api::framing::{Fault, Frame, messages};
//!
//! /// Messages of a kind, `A` or `B`, which has a fixed length each.
//! let by_kind = |data: &[u8]| match data.first() {
//!     None => Frame::More,
//!     Some(b'A') => Frame::Message(4),
//!     Some(b'B') => Frame::Message(16),
//!     Some(_) => Frame::Invalid(Fault::NotThisProtocol("a message is of kind A or B")),
//! };
//!
//! let lengths: Vec<usize> = messages(&by_kind, b"A123A456B12").map(|message| message.unwrap().len).collect();
//! assert_eq!(lengths, [4, 4, 16]);
//! ```

use std::fmt;

/// What the bytes at the beginning of a message say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Not enough to tell.
    More,
    /// A message of so many bytes, with everything that belongs to it. It may be longer than what has come; zero is
    /// taken for [`Fault::TooShort`].
    Message(usize),
    /// This is not the beginning of a message.
    Invalid(Fault),
}

/// Why bytes are not a message. Its text suits [`Ctx::abort`](crate::Ctx::abort).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The length that the message gives of itself is above the bound.
    TooLong {
        /// What it gives, with its header.
        len: u64,
        /// The bound.
        most: usize,
    },
    /// The length that the message gives of itself is less than that of its header.
    TooShort {
        /// What it gives.
        len: u64,
    },
    /// A line has not ended within the bound.
    LineTooLong {
        /// The bound.
        most: usize,
    },
    /// The framer could not tell the length from as many bytes as it needs at most ([`Framer::head`]).
    NoLength {
        /// That many.
        head: usize,
    },
    /// Bytes were hidden where a message begins, so that its length is not known.
    Hidden,
    /// Something else, in the framer's words.
    NotThisProtocol(&'static str),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { len, most } => write!(f, "a message of {len} bytes, where {most} is the most"),
            Self::TooShort { len } => write!(f, "a message of {len} bytes, which is less than its header"),
            Self::LineTooLong { most } => write!(f, "a line of more than {most} bytes"),
            Self::NoLength { head } => write!(f, "a message whose length cannot be told from its first {head} bytes"),
            Self::Hidden => f.write_str("the beginning of a message was not shown"),
            Self::NotThisProtocol(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for Fault {}

/// A protocol's rule of how long a message is.
///
/// The answer depends on the bytes only, and more bytes never change it: once it is not [`Frame::More`], it stays. That
/// is what makes a stream's messages the same however it was cut into segments.
pub trait Framer {
    /// What `data`, which begins where a message begins, says of that message. Never panics, whatever `data` is.
    fn frame(&self, data: &[u8]) -> Frame;

    /// How many bytes [`frame`](Self::frame) needs at most to tell. It bounds what is held of a message whose length is not
    /// known, and the time that [`find_boundary`] takes: with that many bytes, [`Frame::More`] is taken for a fault. The
    /// default suits protocols with a short header.
    fn head(&self) -> usize {
        64
    }

    /// Whether a message may begin behind `byte`. The default says yes to all of them; a protocol whose messages end
    /// alike spares [`find_boundary`] most of the work, and most of the wrong guesses.
    fn may_begin_behind(&self, byte: u8) -> bool {
        let _ = byte;
        true
    }
}

impl<F: Fn(&[u8]) -> Frame> Framer for F {
    fn frame(&self, data: &[u8]) -> Frame {
        self(data)
    }
}

/// [`Framer::frame`], with a message of no bytes refused, which would be the last one for ever, and the bound kept on what
/// it may ask to see.
fn frame<F: Framer + ?Sized>(framer: &F, data: &[u8]) -> Frame {
    match framer.frame(data) {
        Frame::Message(0) => Frame::Invalid(Fault::TooShort { len: 0 }),
        Frame::More if data.len() >= framer.head() => Frame::Invalid(Fault::NoLength { head: framer.head() }),
        frame => frame,
    }
}

/// How a length is written: its size and its byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LengthField {
    /// One byte.
    U8,
    /// Two bytes, the high one first.
    U16Be,
    /// Two bytes, the low one first.
    U16Le,
    /// Three bytes, the high one first.
    U24Be,
    /// Three bytes, the low one first.
    U24Le,
    /// Four bytes, the high one first.
    U32Be,
    /// Four bytes, the low one first.
    U32Le,
}

impl LengthField {
    /// Bytes that it takes.
    pub const fn size(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::U16Be | Self::U16Le => 2,
            Self::U24Be | Self::U24Le => 3,
            Self::U32Be | Self::U32Le => 4,
        }
    }

    /// The length in `field`, which has its size.
    fn read(self, field: &[u8]) -> u32 {
        let append = |value: u32, byte: &u8| value << 8 | u32::from(*byte);
        match self {
            Self::U8 | Self::U16Be | Self::U24Be | Self::U32Be => field.iter().fold(0, append),
            Self::U16Le | Self::U24Le | Self::U32Le => field.iter().rev().fold(0, append),
        }
    }
}

/// What a length counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counts {
    /// All of the message, the length itself included.
    Message,
    /// What comes behind the length.
    BehindLength,
    /// What comes behind a header of so many bytes, which has the length in it.
    BehindHeader(usize),
}

/// Messages with their length in front: in a field of one to four bytes, at a fixed place.
///
/// ```
/// use tcpcopy_module_api::framing::{Counts, Frame, Framer, LengthField, LengthPrefix};
///
/// // MySQL: three bytes of length, one byte of sequence number, and the payload that was counted.
/// let packets = LengthPrefix::new(LengthField::U24Le, Counts::BehindHeader(4), 1 << 20);
/// assert_eq!(packets.frame(&[5, 0, 0, 0, 3]), Frame::Message(9));
/// assert_eq!(packets.frame(&[5, 0]), Frame::More);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LengthPrefix {
    offset: usize,
    field: LengthField,
    counts: Counts,
    most: usize,
}

impl LengthPrefix {
    /// Messages that begin with their length and have at most `most` bytes, all counted.
    pub const fn new(field: LengthField, counts: Counts, most: usize) -> Self {
        Self { offset: 0, field, counts, most }
    }

    /// The same with the length not at the beginning but behind `offset` bytes.
    #[must_use]
    pub const fn at(self, offset: usize) -> Self {
        Self { offset, ..self }
    }

    /// Where the length ends.
    fn end_of_length(&self) -> usize {
        self.offset.saturating_add(self.field.size())
    }
}

impl Framer for LengthPrefix {
    fn frame(&self, data: &[u8]) -> Frame {
        let header = self.end_of_length();
        let Some(field) = data.get(self.offset..header) else { return Frame::More };
        let counted = u64::from(self.field.read(field));
        let len = match self.counts {
            Counts::Message => counted,
            Counts::BehindLength => counted.saturating_add(header as u64),
            Counts::BehindHeader(bytes) => counted.saturating_add(bytes.max(header) as u64),
        };
        if len > self.most as u64 {
            Frame::Invalid(Fault::TooLong { len, most: self.most })
        } else if len < header as u64 {
            Frame::Invalid(Fault::TooShort { len })
        } else {
            Frame::Message(len as usize)
        }
    }

    fn head(&self) -> usize {
        self.end_of_length()
    }
}

/// Lines, which end with LF or CRLF. A message is a line with its end.
///
/// ```
/// use tcpcopy_module_api::framing::{Frame, Framer, Lines};
///
/// let lines = Lines::new(80);
/// assert_eq!(lines.frame(b"HELO me\r\nMAIL"), Frame::Message(9));
/// assert_eq!(Lines::text(b"HELO me\r\n"), b"HELO me");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lines {
    most: usize,
}

impl Lines {
    /// Lines of at most `most` bytes, their end counted.
    pub const fn new(most: usize) -> Self {
        Self { most }
    }

    /// What stands in a line: all but its end.
    pub fn text(line: &[u8]) -> &[u8] {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        line.strip_suffix(b"\r").unwrap_or(line)
    }
}

impl Framer for Lines {
    fn frame(&self, data: &[u8]) -> Frame {
        match data.iter().take(self.most).position(|byte| *byte == b'\n') {
            Some(end) => Frame::Message(end + 1),
            None if data.len() >= self.most => Frame::Invalid(Fault::LineTooLong { most: self.most }),
            None => Frame::More,
        }
    }

    fn head(&self) -> usize {
        self.most
    }

    fn may_begin_behind(&self, byte: u8) -> bool {
        byte == b'\n'
    }
}

/// A message of the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// What has come of it.
    pub bytes: &'a [u8],
    /// How long it is.
    pub len: usize,
}

impl Message<'_> {
    /// All of it has come.
    pub fn is_whole(&self) -> bool {
        self.bytes.len() == self.len
    }
}

/// The messages at the beginning of `data`, in order; see [`messages`].
#[derive(Debug)]
pub struct Messages<'a, F: ?Sized> {
    framer: &'a F,
    rest: &'a [u8],
}

/// Cuts `data` into messages. The iterator ends where more bytes are needed to tell how long the next message is; the last
/// message may not have come to its end ([`Message::is_whole`]). A fault is the last item.
///
/// Pass or drop each message by its `len`, or leave a message that is not whole, and stop there, to be shown it again with
/// more of it: then it is the framer's bound that limits what is held.
///
/// ```
/// # use tcpcopy_module_api::{Ctx, Session, framing::{LengthPrefix, messages}};
/// struct Packets(LengthPrefix);
///
/// impl Session for Packets {
///     fn on_client_data(&mut self, ctx: &mut Ctx<'_>, data: &[u8]) {
///         for message in messages(&self.0, data) {
///             match message {
///                 Ok(message) => ctx.pass(message.len),
///                 Err(fault) => ctx.abort(&fault.to_string()),
///             }
///         }
///     }
/// }
/// ```
pub fn messages<'a, F: Framer + ?Sized>(framer: &'a F, data: &'a [u8]) -> Messages<'a, F> {
    Messages { framer, rest: data }
}

impl<'a, F: Framer + ?Sized> Iterator for Messages<'a, F> {
    type Item = Result<Message<'a>, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        match frame(self.framer, self.rest) {
            Frame::More => None,
            Frame::Message(len) => {
                let (bytes, rest) = self.rest.split_at(len.min(self.rest.len()));
                self.rest = rest;
                Some(Ok(Message { bytes, len }))
            }
            Frame::Invalid(fault) => {
                self.rest = &[];
                Some(Err(fault))
            }
        }
    }
}

/// Follows a stream of messages whose bytes are shown once: what the target, or online, sends.
///
/// It keeps the first bytes of the message that has not ended, and no more, so its memory has a bound however long the
/// messages are.
#[derive(Clone, Debug)]
pub struct Follower<F> {
    framer: F,
    keep: usize,
    /// The beginning of the message that has not ended.
    head: Vec<u8>,
    /// Its length, once known.
    len: usize,
    /// Bytes of it that have come.
    come: usize,
    fault: Option<Fault>,
}

impl<F: Framer> Follower<F> {
    /// Follows a stream from a message's beginning. Of each message the first `keep` bytes are shown when it has ended.
    pub fn new(framer: F, keep: usize) -> Self {
        Self { framer, keep, head: Vec::new(), len: 0, come: 0, fault: None }
    }

    /// Takes the next bytes of the stream, and calls `ended` for each message that ends in them: with its first bytes, as
    /// many as are kept, and its length.
    ///
    /// # Errors
    /// The bytes are not of this protocol. The follower has lost its place for good, and says so from then on.
    pub fn feed(&mut self, mut data: &[u8], mut ended: impl FnMut(&[u8], usize)) -> Result<(), Fault> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        while !data.is_empty() {
            if self.len == 0 {
                data = self.begin(data)?;
            } else {
                data = self.go_on(data);
            }
            self.end_if_whole(&mut ended);
        }
        Ok(())
    }

    /// Takes note of `hidden` bytes that came and were not shown (see [`TargetData`](crate::TargetData)): they must lie in
    /// a message whose length is known. A message that ends in them has `ended` called.
    ///
    /// # Errors
    /// The beginning of a message lies in them. The follower has lost its place for good.
    pub fn skip(&mut self, hidden: u32, mut ended: impl FnMut(&[u8], usize)) -> Result<(), Fault> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let hidden = hidden as usize;
        if hidden == 0 {
            return Ok(());
        }
        if self.len == 0 || hidden > self.len - self.come {
            self.fault = Some(Fault::Hidden);
            return Err(Fault::Hidden);
        }
        self.come += hidden;
        self.end_if_whole(&mut ended);
        Ok(())
    }

    /// Whether a message has begun and not ended.
    pub fn is_within(&self) -> bool {
        !self.head.is_empty() || self.len > 0
    }

    /// Takes bytes of a message whose length is not known yet.
    fn begin<'d>(&mut self, data: &'d [u8]) -> Result<&'d [u8], Fault> {
        let before = self.head.len();
        let answer = if before == 0 {
            frame(&self.framer, data)
        } else {
            let wanted = self.framer.head().saturating_sub(before);
            self.head.extend_from_slice(&data[..data.len().min(wanted)]);
            frame(&self.framer, &self.head)
        };
        match answer {
            Frame::More => {
                if before == 0 {
                    self.head.extend_from_slice(data);
                }
                Ok(&[])
            }
            Frame::Message(len) => {
                // Never less than what was not enough before, should a framer break its promise.
                self.len = len.max(before);
                let (here, rest) = data.split_at(data.len().min(self.len - before));
                self.come = before + here.len();
                self.head.truncate(before);
                self.head.extend_from_slice(&here[..here.len().min(self.keep.saturating_sub(before))]);
                self.head.truncate(self.keep);
                Ok(rest)
            }
            Frame::Invalid(fault) => {
                self.head = Vec::new();
                self.fault = Some(fault);
                Err(fault)
            }
        }
    }

    /// Takes bytes of a message whose length is known.
    fn go_on<'d>(&mut self, data: &'d [u8]) -> &'d [u8] {
        let (here, rest) = data.split_at(data.len().min(self.len - self.come));
        // Behind a hole nothing is kept: it would not be the message's beginning.
        if self.head.len() == self.come && self.come < self.keep {
            self.head.extend_from_slice(&here[..here.len().min(self.keep - self.come)]);
        }
        self.come += here.len();
        rest
    }

    fn end_if_whole(&mut self, ended: &mut impl FnMut(&[u8], usize)) {
        if self.len > 0 && self.come == self.len {
            ended(&self.head, self.len);
            self.head.clear();
            (self.len, self.come) = (0, 0);
        }
    }
}

/// Where in `data`, which begins anywhere in a stream, a message begins: the first offset from which `in_a_row` messages
/// follow each other whole, and nothing behind them contradicts. Offset 0 needs one message fewer to be believed, if the
/// last one ends exactly where `data` ends: clients begin most messages in a segment of their own.
///
/// What it finds is as good as the framer's doubts: one that takes any bytes for a message, such as [`Lines`], lets every
/// segment begin one, whereas one that looks for a known command rarely errs.
///
/// No length is trusted: a message that reaches beyond `data` proves nothing. Every offset is looked at once, and no more
/// than [`Framer::head`] bytes there, so the time is linear in the length of `data`.
///
/// ```
/// use tcpcopy_module_api::framing::{Counts, LengthField, LengthPrefix, find_boundary};
///
/// let framer = LengthPrefix::new(LengthField::U16Be, Counts::Message, 100);
/// assert_eq!(find_boundary(&framer, b"the end\0\x05set\0\x03x\0\x04ok", 3), Some(7));
/// ```
pub fn find_boundary<F: Framer + ?Sized>(framer: &F, data: &[u8], in_a_row: usize) -> Option<usize> {
    /// What a message that begins at an offset leads to.
    const CONTRADICTION: u16 = u16::MAX;
    let in_a_row = in_a_row.clamp(1, usize::from(CONTRADICTION) - 1);
    // At the end of `data`, nothing more is known: no messages, and no contradiction.
    let mut row = vec![CONTRADICTION; data.len() + 1];
    row[data.len()] = 0;
    let mut ends_with_data = vec![false; data.len() + 1];
    ends_with_data[data.len()] = true;
    // From the end to the beginning, so that what follows a message is known when the message is looked at.
    for offset in (0..data.len()).rev() {
        if offset > 0 && !framer.may_begin_behind(data[offset - 1]) {
            continue;
        }
        let shown = &data[offset..data.len().min(offset.saturating_add(framer.head().max(1)))];
        row[offset] = match frame(framer, shown) {
            Frame::More => 0,
            Frame::Message(len) => match offset.checked_add(len).filter(|end| *end <= data.len()) {
                None => 0,
                Some(end) => {
                    ends_with_data[offset] = ends_with_data[end];
                    match row[end] {
                        CONTRADICTION => CONTRADICTION,
                        messages => (messages + 1).min(CONTRADICTION - 1),
                    }
                }
            },
            Frame::Invalid(_) => CONTRADICTION,
        };
    }
    let believed = |offset: usize| row[offset] != CONTRADICTION && usize::from(row[offset]) >= in_a_row;
    let whole_segment = !data.is_empty()
        && row[0] != CONTRADICTION
        && ends_with_data[0]
        && usize::from(row[0]) >= (in_a_row - 1).max(1);
    if whole_segment { Some(0) } else { (0..data.len()).find(|offset| believed(*offset)) }
}
