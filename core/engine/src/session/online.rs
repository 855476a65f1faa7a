//! What online sends, for modules that want to see it: its bytes in order, as far as they were captured.
//!
//! Passive, and more forgiving than the client half: nothing depends on these bytes being whole, so a hole does not end the
//! session. It is waited for as long as online may still fill it: the client's acknowledgement tells when it has been
//! filled and the capture missed it.

use tcpcopy_wire::tcp::Flags;
use tcpcopy_wire::{SeqNumber, TcpSegment};

use super::online_time::OnlineTime;
use super::reassembly::Reassembly;

/// Bytes that wait for a hole to be filled, at most.
const LIMIT: usize = 1 << 20;

/// What a session knows of online, where it looks at what that sends; most do not.
#[derive(Debug)]
pub(crate) struct Online {
    /// For a module that sees it; while the session is under way.
    pub(crate) half: Option<OnlineHalf>,
    /// Where online's times are measured.
    pub(crate) time: Option<OnlineTime>,
}

impl Online {
    /// What a session needs that is to look at this; nothing if it is at nothing.
    pub(crate) fn new(is_seen: bool, is_measured: bool) -> Option<Box<Self>> {
        (is_seen || is_measured).then(|| {
            Box::new(Self { half: is_seen.then(OnlineHalf::default), time: is_measured.then(OnlineTime::default) })
        })
    }
}

/// See the [module's documentation](self).
#[derive(Debug, Default)]
pub(crate) struct OnlineHalf {
    next: Option<SeqNumber>,
    ahead: Reassembly,
}

impl OnlineHalf {
    /// Takes one segment; returns its bytes that come next in the stream, and whether anything in it was new. What had
    /// waited for them comes from [`take_piece`](Self::take_piece).
    pub(crate) fn on_segment<'a>(&mut self, segment: &TcpSegment<'a>) -> (&'a [u8], bool) {
        let seq = segment.tcp.seq() + u32::from(segment.tcp.flags().contains(Flags::SYN));
        let first = self.next.is_none();
        let next = *self.next.get_or_insert(seq);
        let data = segment.payload;
        let ahead = seq.distance_from(next);
        if data.is_empty() || ahead > 1 << 30 {
            return (&[], first);
        }
        if ahead > 0 {
            return (&[], self.ahead.insert(seq, data, None, false) > 0);
        }
        let old = (ahead.unsigned_abs() as usize).min(data.len());
        let new = &data[old..];
        self.next = Some(next + new.len() as u32);
        (new, first || !new.is_empty())
    }

    /// What comes next of what had waited, and how many bytes before it are missing for good. `acknowledged`: how far the
    /// client has received online's stream.
    pub(crate) fn take_piece(&mut self, acknowledged: SeqNumber) -> Option<(Vec<u8>, u64)> {
        let next = self.next?;
        self.ahead.trim(next);
        let start = self.ahead.first_seq()?;
        let missing = start.distance_from(next);
        if missing > 0 && self.ahead.bytes() <= LIMIT && !acknowledged.is_at_or_after(start) {
            return None;
        }
        let piece = self.ahead.take_at(start)?;
        self.next = Some(start + piece.data.len() as u32);
        Some((piece.data, missing.max(0) as u64))
    }
}
