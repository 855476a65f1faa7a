//! Frames that were taken out of a capture's ring before there was time to handle them.
//!
//! libpcap's ring is a row of large blocks, and the kernel closes a block after each millisecond in which a packet came,
//! however little is in it: a ring of 32 MB holds 128 ms of traffic, not 32 MB. Handling a frame costs a packet sent, ten
//! times what it costs to copy it. So when a burst comes faster than it can be handled, the ring is emptied into this
//! queue, and the frames wait in ordinary memory.

use std::collections::VecDeque;

use tcpcopy_wire::Timestamp;

const CHUNK_BYTES: usize = 256 << 10;
/// Empty chunks kept for the next burst.
const SPARE_CHUNKS: usize = 4;
const HEADER: usize = 16;

/// A queue of frames, bounded in bytes.
#[derive(Debug)]
pub struct Backlog {
    chunks: VecDeque<Vec<u8>>,
    spare: Vec<Vec<u8>>,
    /// Where in the first chunk the next frame begins.
    at: usize,
    bytes: usize,
    limit: usize,
}

impl Backlog {
    /// An empty queue that is full at `limit` bytes or, by the last frame, a little above.
    pub fn new(limit: usize) -> Self {
        Self { chunks: VecDeque::new(), spare: Vec::new(), at: 0, bytes: 0, limit }
    }

    /// Whether no frame waits.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Whether it has reached its limit. It takes a frame all the same.
    pub fn is_full(&self) -> bool {
        self.bytes >= self.limit
    }

    /// Adds a frame behind the others: what was captured of it, its length on the wire, and when that was.
    pub fn push(&mut self, frame: &[u8], wire_len: usize, at: Timestamp) {
        let size = HEADER + frame.len();
        if self.chunks.back().is_none_or(|chunk| chunk.len() + size > chunk.capacity()) {
            let mut chunk = self.spare.pop().unwrap_or_default();
            chunk.reserve(size.max(CHUNK_BYTES));
            self.chunks.push_back(chunk);
        }
        if let Some(chunk) = self.chunks.back_mut() {
            chunk.extend_from_slice(&(frame.len() as u32).to_ne_bytes());
            chunk.extend_from_slice(&(wire_len as u32).to_ne_bytes());
            chunk.extend_from_slice(&((at.as_nanos() >> 32) as u32).to_ne_bytes());
            chunk.extend_from_slice(&(at.as_nanos() as u32).to_ne_bytes());
            chunk.extend_from_slice(frame);
            self.bytes += size;
        }
    }

    /// Hands over frames, the oldest first, until `frames` of them or about `bytes` are through; returns how many.
    pub fn drain(&mut self, frames: usize, bytes: usize, mut each: impl FnMut(&[u8], usize, Timestamp)) -> usize {
        let enough = self.bytes.saturating_sub(bytes);
        for done in 0..frames {
            let Some(chunk) = self.chunks.front().filter(|_| self.bytes > enough) else { return done };
            let (header, rest) = chunk[self.at..].split_at(HEADER);
            let field = |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
            let (len, wire_len) = (field(0) as usize, field(4) as usize);
            let at = Timestamp::from_nanos(u64::from(field(8)) << 32 | u64::from(field(12)));
            each(&rest[..len], wire_len, at);
            self.at += HEADER + len;
            self.bytes -= HEADER + len;
            if self.at == chunk.len()
                && let Some(mut empty) = self.chunks.pop_front()
            {
                self.at = 0;
                if self.spare.len() < SPARE_CHUNKS && empty.capacity() <= CHUNK_BYTES {
                    empty.clear();
                    self.spare.push(empty);
                }
            }
        }
        frames
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_back_what_it_took_in_order() {
        let mut backlog = Backlog::new(1 << 20);
        // From empty frames to ones larger than a chunk, so that every border is met.
        let frames: Vec<Vec<u8>> =
            (0..200usize).map(|i| vec![i as u8; (i * i * 37) % 70_000 + if i == 77 { 400_000 } else { 0 }]).collect();
        let mut given = Vec::new();
        let mut take = |f: &[u8], wire_len, at| given.push((f.to_vec(), wire_len, at));
        for (i, frame) in frames.iter().enumerate() {
            backlog.push(frame, frame.len() + i, Timestamp::from_nanos(u64::MAX - i as u64));
            if i % 3 == 0 {
                backlog.drain(2, usize::MAX, &mut take);
            }
        }
        while backlog.drain(7, 100_000, &mut take) > 0 {}
        assert!(backlog.is_empty());
        assert_eq!(given.len(), frames.len());
        for (i, given) in given.into_iter().enumerate() {
            let at = Timestamp::from_nanos(u64::MAX - i as u64);
            assert_eq!(given, (frames[i].clone(), frames[i].len() + i, at));
        }
    }

    #[test]
    fn says_when_it_is_full_and_when_it_is_not_any_more() {
        let mut backlog = Backlog::new(1000);
        while !backlog.is_full() {
            backlog.push(&[0; 84], 84, Timestamp::ZERO);
        }
        assert_eq!(backlog.drain(usize::MAX, usize::MAX, |_, _, _| ()), 10);
        assert!(!backlog.is_full());
    }
}
