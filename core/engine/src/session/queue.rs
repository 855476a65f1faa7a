//! The client's bytes on their way to the target.
//!
//! One ring of bytes and, beside it, *marks* for those that were never sent: where the client's segments ended, which of
//! them the gate holds, and where the client closed. From the front:
//!
//! ```text
//! bytes:  | sent, not acknowledged |  released  |   held by the gate   |
//!         ^ the target half's una  ^ its max    ^ first unreleased mark
//! marks:                           [data][data] [data, held][data][FIN]
//! ```
//!
//! Where a module watches, the queue also knows where its messages end (*units*), so that a connection that is rebuilt goes
//! on with a whole one.
//!
//! The queue exists only while it holds something: an idle session has none. [`QueuePool`] keeps empty ones for the next
//! session that needs one, so that a request costs no allocation.

use std::collections::VecDeque;

use tcpcopy_wire::Timestamp;

/// What a mark stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum MarkKind {
    /// Bytes.
    #[default]
    Data,
    /// The client's FIN.
    Fin,
    /// The client's RST.
    Reset,
}

/// One of the client's segments, or what is left of it to send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mark {
    /// Bytes; zero for FIN and RST.
    pub(crate) len: u32,
    /// Bytes of response, FIN counted as one, that the client had acknowledged since its data before this. Zero: the
    /// client did not wait for anything, and neither does the copy.
    pub(crate) need: u32,
    /// Responses that the module had expected before this.
    pub(crate) responses: u32,
    pub(crate) kind: MarkKind,
    /// The client set PSH.
    pub(crate) push: bool,
    /// A request begins here.
    pub(crate) begins: bool,
    /// When it was captured, or the module decided about it.
    pub(crate) at: Timestamp,
}

/// See the [module's documentation](self).
#[derive(Debug, Default)]
pub(crate) struct StreamQueue {
    bytes: VecDeque<u8>,
    marks: VecDeque<Mark>,
    /// Marks at the front that the gate has let through.
    released: usize,
    /// Lengths of the module's messages, from the one that the first byte is of; none where no module watches.
    units: VecDeque<usize>,
    /// Bytes of the first unit that are gone from the front.
    unit_gone: usize,
}

impl StreamQueue {
    /// Appends a segment of the client; `mark` is all about it but its length.
    #[inline]
    pub(crate) fn push_data(&mut self, data: &[u8], mark: Mark) {
        self.bytes.extend(data);
        self.marks.push_back(Mark { len: data.len() as u32, ..mark });
    }

    /// A message of so many bytes begins behind what is here. Its bytes may come later.
    pub(crate) fn push_unit(&mut self, len: usize) {
        if len > 0 {
            self.units.push_back(len);
        }
    }

    /// Appends the client's FIN or RST.
    pub(crate) fn push_end(&mut self, kind: MarkKind, need: u32, responses: u32) {
        self.marks.push_back(Mark { len: 0, need, responses, kind, ..Mark::default() });
    }

    /// The first mark that the gate has not let through.
    #[inline]
    pub(crate) fn first_held(&self) -> Option<&Mark> {
        self.marks.get(self.released)
    }

    /// Lets the first held mark through. If a request begins with it that was not let through before, tells since when that
    /// has been here.
    #[inline]
    pub(crate) fn release(&mut self) -> Option<Timestamp> {
        let mark = self.marks.get_mut(self.released)?;
        self.released += 1;
        std::mem::take(&mut mark.begins).then_some(mark.at)
    }

    /// The next mark to send.
    #[inline]
    pub(crate) fn next_released(&self) -> Option<&Mark> {
        if self.released > 0 { self.marks.front() } else { None }
    }

    /// Whether there is one.
    #[inline]
    pub(crate) fn has_released(&self) -> bool {
        self.released > 0
    }

    /// Whether a FIN comes directly after the next mark, and may go out with it.
    #[inline]
    pub(crate) fn fin_follows(&self) -> bool {
        self.released > 1 && self.marks.get(1).is_some_and(|m| m.kind == MarkKind::Fin)
    }

    /// `len` bytes of the next mark were sent; with all its bytes (or with zero, for FIN and RST) the mark is gone.
    #[inline]
    pub(crate) fn mark_sent(&mut self, len: u32) {
        if let Some(mark) = self.marks.front_mut() {
            mark.len -= len;
            if mark.len == 0 {
                self.marks.pop_front();
                self.released -= 1;
            }
        }
    }

    /// `len` bytes from offset `at`, in two parts.
    #[inline]
    pub(crate) fn slices(&self, at: u32, len: u32) -> (&[u8], &[u8]) {
        let (at, end) = (at as usize, at as usize + len as usize);
        let (a, b) = self.bytes.as_slices();
        if end <= a.len() {
            (&a[at..end], &[])
        } else if at >= a.len() {
            (&b[at - a.len()..end - a.len()], &[])
        } else {
            (&a[at..], &b[..end - a.len()])
        }
    }

    /// Forgets `n` bytes at the front: the target has them.
    #[inline]
    pub(crate) fn consume(&mut self, n: u32) {
        if !self.units.is_empty() {
            self.consume_units(n as usize);
        }
        if n as usize >= self.bytes.len() {
            self.bytes.clear();
        } else {
            self.bytes.drain(..n as usize);
        }
    }

    fn consume_units(&mut self, n: usize) {
        self.unit_gone += n;
        while let Some(len) = self.units.front().filter(|len| **len <= self.unit_gone) {
            self.unit_gone -= len;
            self.units.pop_front();
        }
        if self.units.is_empty() {
            self.unit_gone = 0;
        }
    }

    /// Forgets everything that was never sent; returns the number of bytes.
    pub(crate) fn drop_unsent(&mut self) -> u64 {
        let unsent: u64 = self.marks.iter().map(|m| u64::from(m.len)).sum();
        self.marks.clear();
        self.released = 0;
        self.bytes.truncate(self.bytes.len() - unsent as usize);
        unsent
    }

    /// Forgets all messages, of which nothing was sent; ends stay. Returns the number of bytes that were here, and of those
    /// of the last message that are still to come.
    pub(crate) fn forget_messages(&mut self) -> (u64, usize) {
        let here = self.bytes.len();
        let to_come = (self.units.iter().sum::<usize>() - self.unit_gone).saturating_sub(here);
        self.bytes.clear();
        self.units.clear();
        self.unit_gone = 0;
        self.marks.retain(|mark| mark.kind != MarkKind::Data);
        (here as u64, to_come)
    }

    /// After the connection was rebuilt: of the bytes that were sent and not acknowledged, the first `lost` are forgotten,
    /// and the rest is sent again in front of all marks. Returns the number of bytes forgotten.
    pub(crate) fn rewind(&mut self, lost: u32) -> u64 {
        let unsent: u64 = self.marks.iter().map(|m| u64::from(m.len)).sum();
        let sent = self.bytes.len() - unsent as usize;
        let lost = (lost as usize).min(sent);
        self.bytes.drain(..lost);
        self.released = 0;
        if sent > lost {
            let len = (sent - lost) as u32;
            self.marks.push_front(Mark { len, push: true, ..Mark::default() });
        }
        lost as u64
    }

    /// After a connection of a watched session is gone: forgets everything that was sent, and what follows up to the next
    /// whole message. Returns the number of bytes that were here, and of those of the same message that are still to come.
    pub(crate) fn cut_at_unit(&mut self) -> (u64, usize) {
        let unsent: usize = self.marks.iter().map(|m| m.len as usize).sum();
        let sent = self.bytes.len() - unsent;
        // The end of the first unit that was not begun.
        let mut cut = 0;
        let mut begun = self.unit_gone > 0;
        let mut gone = self.unit_gone;
        while let Some(&len) = self.units.front() {
            if !begun && cut >= sent {
                break;
            }
            cut += len - gone;
            gone = 0;
            begun = false;
            self.units.pop_front();
        }
        let cut = cut.max(sent);
        self.unit_gone = 0;
        self.released = 0;
        let here = cut.min(self.bytes.len());
        self.bytes.drain(..here);
        let mut unsent_gone = here - sent;
        while let Some(mark) = self.marks.front_mut().filter(|m| m.kind == MarkKind::Data && unsent_gone > 0) {
            let part = unsent_gone.min(mark.len as usize);
            unsent_gone -= part;
            mark.len -= part as u32;
            if mark.len == 0 {
                self.marks.pop_front();
            }
        }
        (here as u64, cut - here)
    }

    /// Responses expected before the first mark; `None` without marks.
    pub(crate) fn responses_before(&self) -> Option<u32> {
        self.marks.front().map(|m| m.responses)
    }

    /// Appends all of another queue of which nothing was sent. Its first mark begins a turn, or not, as `need` says.
    pub(crate) fn append(&mut self, mut other: Self, need: u32, responses: u32) {
        debug_assert_eq!((other.released, other.unit_gone), (0, 0));
        if let Some(first) = other.marks.front_mut() {
            (first.need, first.responses) = (need, responses);
        }
        self.bytes.append(&mut other.bytes);
        self.marks.append(&mut other.marks);
        self.units.append(&mut other.units);
    }

    /// Takes the first mark off, with its bytes, whether the gate has let it through or not. Of a queue of datagrams that is
    /// one of them.
    pub(crate) fn pop_mark(&mut self, into: &mut Vec<u8>) -> bool {
        into.clear();
        self.units.clear();
        let Some(mark) = self.marks.pop_front() else { return false };
        into.extend(self.bytes.drain(..mark.len as usize));
        true
    }

    /// Number of bytes held, sent or not.
    #[inline]
    pub(crate) fn byte_count(&self) -> usize {
        self.bytes.len()
    }

    /// Whether neither bytes nor marks are left.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.marks.is_empty()
    }
}

/// Empty queues, kept for their memory.
#[derive(Debug, Default)]
pub(crate) struct QueuePool {
    // Boxed as sessions hold them: moving the box is the point.
    #[allow(clippy::vec_box)]
    idle: Vec<Box<StreamQueue>>,
    in_use: usize,
}

/// Empty queues kept at most.
const POOL_LIMIT: usize = 256;
/// A queue whose ring has grown beyond this many bytes is given back to the allocator.
const RING_LIMIT: usize = 64 << 10;

impl QueuePool {
    /// An empty queue.
    #[inline]
    #[allow(clippy::unnecessary_box_returns)] // the box is what is kept
    pub(crate) fn take(&mut self) -> Box<StreamQueue> {
        self.in_use += 1;
        self.idle.pop().unwrap_or_default()
    }

    /// Queues that were taken and not put back.
    pub(crate) fn in_use(&self) -> usize {
        self.in_use
    }

    /// Takes back a queue, whatever it holds.
    #[inline]
    pub(crate) fn put(&mut self, mut queue: Box<StreamQueue>) {
        // Some are made elsewhere.
        self.in_use = self.in_use.saturating_sub(1);
        if self.idle.len() < POOL_LIMIT && queue.bytes.capacity() <= RING_LIMIT {
            if !queue.is_empty() {
                queue.bytes.clear();
                queue.marks.clear();
            }
            if !queue.units.is_empty() {
                queue.units.clear();
            }
            queue.released = 0;
            queue.unit_gone = 0;
            self.idle.push(queue);
        }
    }
}
