//! Packets: three bytes of length, a sequence number, and the payload. One that is as long as can be goes on in the next.

use tcpcopy_module_api::framing::{Counts, LengthField, LengthPrefix};

/// Bytes in front of a payload.
pub const HEADER_LEN: usize = 4;
/// The longest payload of one packet. A packet with so much goes on in the next one, which may be empty.
pub const MAX_PAYLOAD: usize = 0xff_ffff;
/// How long packets are, for [`framing`](tcpcopy_module_api::framing).
pub const FRAMER: LengthPrefix =
    LengthPrefix::new(LengthField::U24Le, Counts::BehindHeader(HEADER_LEN), HEADER_LEN + MAX_PAYLOAD);

/// What stands in front of a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Length of the payload.
    pub len: usize,
    /// Counts packets of a command and its answer, of both sides, from 0.
    pub sequence: u8,
}

impl Header {
    /// The header at the beginning of `bytes`, if all of it is there.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let [a, b, c, sequence] = *bytes.first_chunk()?;
        Some(Self { len: u32::from_le_bytes([a, b, c, 0]) as usize, sequence })
    }

    /// Whether the payload goes on in the next packet.
    pub fn is_continued(self) -> bool {
        self.len == MAX_PAYLOAD
    }
}

/// Appends a payload, in as many packets as it needs. Returns the sequence number of the next one.
pub fn write_packet(mut sequence: u8, mut payload: &[u8], out: &mut Vec<u8>) -> u8 {
    loop {
        let (now, later) = payload.split_at(payload.len().min(MAX_PAYLOAD));
        out.extend_from_slice(&(now.len() as u32).to_le_bytes()[..3]);
        out.push(sequence);
        out.extend_from_slice(now);
        sequence = sequence.wrapping_add(1);
        if now.len() < MAX_PAYLOAD {
            return sequence;
        }
        payload = later;
    }
}

/// Most that is kept of a payload.
pub const KEPT: usize = 64 << 10;

/// A payload, with everything that follows from a packet being continued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Payload<'a> {
    /// Its first bytes, [`KEPT`] at most.
    pub bytes: &'a [u8],
    /// Its length.
    pub len: u64,
    /// The sequence number of its first packet.
    pub sequence: u8,
}

/// Reads packets from a stream that is shown once: keeps the beginning of the payload that is being received.
#[derive(Clone, Debug, Default)]
pub struct Packets {
    header: [u8; HEADER_LEN],
    header_len: usize,
    /// What is to come of the present packet.
    missing: usize,
    continued: bool,
    sequence: u8,
    len: u64,
    kept: Vec<u8>,
}

impl Packets {
    /// Nothing was received.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes of a stream up to the end of a payload, and hands that out. `None`: all of `data` was taken,
    /// and there is none yet. Call it again until then.
    pub fn next<'a>(&'a mut self, data: &mut &[u8]) -> Option<Payload<'a>> {
        loop {
            if self.missing > 0 {
                let (now, later) = data.split_at(data.len().min(self.missing));
                let room = KEPT - self.kept.len();
                self.kept.extend_from_slice(&now[..now.len().min(room)]);
                *data = later;
                self.missing -= now.len();
                if self.missing > 0 {
                    return None;
                }
                if !self.continued {
                    return Some(self.finish());
                }
            }
            while self.header_len < HEADER_LEN {
                let (&byte, later) = data.split_first()?;
                self.header[self.header_len] = byte;
                self.header_len += 1;
                *data = later;
            }
            let header = Header::read(&self.header)?;
            self.header_len = 0;
            if !self.continued {
                self.kept.clear();
                self.len = 0;
                self.sequence = header.sequence;
            }
            self.continued = header.is_continued();
            self.missing = header.len;
            self.len += header.len as u64;
            if header.len == 0 {
                return Some(self.finish());
            }
        }
    }

    fn finish(&mut self) -> Payload<'_> {
        self.continued = false;
        Payload { bytes: &self.kept, len: self.len, sequence: self.sequence }
    }

    /// Whether a payload has begun and not ended.
    pub fn is_within(&self) -> bool {
        self.missing > 0 || self.continued || self.header_len > 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn payloads(packets: &mut Packets, mut data: &[u8]) -> Vec<(Vec<u8>, u64, u8)> {
        let mut all = Vec::new();
        while let Some(payload) = packets.next(&mut data) {
            all.push((payload.bytes.to_vec(), payload.len, payload.sequence));
        }
        all
    }

    proptest! {
        #[test]
        fn payloads_come_back_however_the_stream_is_cut(
            sent in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..10),
            size in 1usize..200,
        ) {
            let mut stream = Vec::new();
            for (n, payload) in sent.iter().enumerate() {
                write_packet(n as u8, payload, &mut stream);
            }
            let mut packets = Packets::new();
            let read: Vec<_> = stream.chunks(size).flat_map(|chunk| payloads(&mut packets, chunk)).collect();
            let expected: Vec<_> =
                sent.into_iter().enumerate().map(|(n, p)| { let len = p.len() as u64; (p, len, n as u8) }).collect();
            prop_assert_eq!(read, expected);
            prop_assert!(!packets.is_within());
        }

        #[test]
        fn garbage_takes_no_memory(data in prop::collection::vec(any::<u8>(), 0..5_000)) {
            let mut packets = Packets::new();
            payloads(&mut packets, &data);
            prop_assert!(packets.kept.capacity() <= 2 * KEPT);
        }
    }

    #[test]
    fn what_fills_a_packet_goes_on_in_the_next_one() {
        for extra in [0, 1, 5] {
            let payload = vec![7; MAX_PAYLOAD + extra];
            let mut stream = Vec::new();
            assert_eq!(write_packet(255, &payload, &mut stream), 1);
            assert_eq!(stream.len(), payload.len() + 2 * HEADER_LEN);
            write_packet(9, b"next", &mut stream);
            let mut packets = Packets::new();
            let read: Vec<_> = stream.chunks(100_000).flat_map(|chunk| payloads(&mut packets, chunk)).collect();
            assert_eq!(read.len(), 2);
            assert_eq!((read[0].0.len(), read[0].1, read[0].2), (KEPT, payload.len() as u64, 255));
            assert_eq!(read[1], (b"next".to_vec(), 4, 9));
        }
    }
}
