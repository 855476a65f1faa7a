//! Checked view of a TCP header (RFC 9293, section 3.1) and its options.

use std::fmt;
use std::ops::{BitOr, BitOrAssign};

use crate::address::Port;
use crate::error::ParseError;
use crate::seq::SeqNumber;

/// The flag bits of a TCP header.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(pub u8);

impl Flags {
    /// No more data from the sender.
    pub const FIN: Self = Self(0x01);
    /// Synchronise sequence numbers.
    pub const SYN: Self = Self(0x02);
    /// Reset the connection.
    pub const RST: Self = Self(0x04);
    /// Hand the data to the application without delay.
    pub const PSH: Self = Self(0x08);
    /// The acknowledgement number counts.
    pub const ACK: Self = Self(0x10);

    /// Whether all flags of `other` are set.
    #[inline]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// These flags but for those of `other`.
    #[inline]
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

impl BitOr for Flags {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for Flags {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names =
            [(Self::SYN, "SYN"), (Self::FIN, "FIN"), (Self::RST, "RST"), (Self::PSH, "PSH"), (Self::ACK, "ACK")];
        let mut first = true;
        for (flag, name) in names {
            if self.contains(flag) {
                f.write_str(if first { "" } else { "|" })?;
                f.write_str(name)?;
                first = false;
            }
        }
        if first { f.write_str("-") } else { Ok(()) }
    }
}

/// Bytes of a TCP header without options.
pub const MIN_HEADER_LEN: usize = 20;
/// Bytes of options that a TCP header can carry.
pub const MAX_OPTIONS_LEN: usize = 40;

/// A TCP header whose length has been checked, options included.
#[derive(Clone, Copy)]
pub struct TcpHeader<'a> {
    bytes: &'a [u8],
}

impl<'a> TcpHeader<'a> {
    /// The header at the start of `bytes`.
    ///
    /// # Errors
    /// [`ParseError::Truncated`] when the bytes end inside it, [`ParseError::Malformed`] when its data offset is
    /// below 5.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ParseError> {
        let offset = *bytes.get(12).ok_or(ParseError::Truncated)? >> 4;
        let len = usize::from(offset) * 4;
        if len < MIN_HEADER_LEN {
            return Err(ParseError::Malformed);
        }
        Ok(Self { bytes: bytes.get(..len).ok_or(ParseError::Truncated)? })
    }

    #[inline]
    fn word(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.bytes[at], self.bytes[at + 1]])
    }

    #[inline]
    fn long(&self, at: usize) -> u32 {
        u32::from_be_bytes([self.bytes[at], self.bytes[at + 1], self.bytes[at + 2], self.bytes[at + 3]])
    }

    /// Source port.
    #[inline]
    pub fn src_port(&self) -> Port {
        Port(self.word(0))
    }

    /// Destination port.
    #[inline]
    pub fn dst_port(&self) -> Port {
        Port(self.word(2))
    }

    /// Sequence number of the first byte, or of the SYN.
    #[inline]
    pub fn seq(&self) -> SeqNumber {
        SeqNumber(self.long(4))
    }

    /// Acknowledgement number; means something only with [`Flags::ACK`].
    #[inline]
    pub fn ack(&self) -> SeqNumber {
        SeqNumber(self.long(8))
    }

    /// Bytes of header, options included.
    #[inline]
    pub fn header_len(&self) -> usize {
        self.bytes.len()
    }

    /// The flags.
    #[inline]
    pub fn flags(&self) -> Flags {
        Flags(self.bytes[13])
    }

    /// Advertised window, not scaled.
    #[inline]
    pub fn window(&self) -> u16 {
        self.word(14)
    }

    /// The checksum as it stands in the header.
    #[inline]
    pub fn checksum(&self) -> u16 {
        self.word(16)
    }

    /// The options' bytes, undecoded.
    #[inline]
    pub fn options_bytes(&self) -> &'a [u8] {
        &self.bytes[MIN_HEADER_LEN..]
    }

    /// The options, decoded.
    #[inline]
    pub fn options(&self) -> Options {
        Options::parse(self.options_bytes())
    }
}

/// SACK blocks that are read from one header at most (RFC 2018 allows no more than four).
pub const MAX_SACK_BLOCKS: usize = 4;

/// The options of a TCP header that take part in a connection. Unknown ones are skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Options {
    /// Maximum segment size, in bytes of payload (RFC 9293, section 3.7.1).
    pub mss: Option<u16>,
    /// Window scale: shift count, at most 14 (RFC 7323, section 2).
    pub window_scale: Option<u8>,
    /// SACK permitted (RFC 2018).
    pub sack_permitted: bool,
    /// Timestamp value and echo reply (RFC 7323, section 3).
    pub timestamps: Option<(u32, u32)>,
    sack: [(SeqNumber, SeqNumber); MAX_SACK_BLOCKS],
    sack_count: u8,
}

impl Options {
    /// The options of a SYN.
    pub fn of_syn(
        mss: Option<u16>,
        window_scale: Option<u8>,
        sack_permitted: bool,
        timestamps: Option<(u32, u32)>,
    ) -> Self {
        Self { mss, window_scale, sack_permitted, timestamps, ..Self::default() }
    }

    /// Decodes the options area of a header. Malformed options end the reading; what came before them counts.
    #[inline]
    pub fn parse(mut bytes: &[u8]) -> Self {
        let mut options = Self::default();
        // The layout that every Linux segment has after the handshake: NOP, NOP, timestamps.
        if let Some([1, 1, 8, 10, rest @ ..]) = bytes.first_chunk::<12>() {
            options.timestamps = Some(pair(*rest));
            bytes = &bytes[12..];
        }
        while let [kind, rest @ ..] = bytes {
            match kind {
                0 => break,
                1 => {
                    bytes = rest;
                    continue;
                }
                _ => {}
            }
            let Some(&len) = rest.first() else { break };
            let len = usize::from(len);
            if len < 2 || len > bytes.len() {
                break;
            }
            options.read_one(*kind, &bytes[2..len]);
            bytes = &bytes[len..];
        }
        options
    }

    fn read_one(&mut self, kind: u8, value: &[u8]) {
        match (kind, value) {
            (2, &[a, b]) => self.mss = Some(u16::from_be_bytes([a, b])),
            (3, &[shift]) => self.window_scale = Some(shift.min(14)),
            (4, []) => self.sack_permitted = true,
            (5, blocks) => {
                for block in blocks.as_chunks().0.iter().take(MAX_SACK_BLOCKS) {
                    let (left, right) = pair(*block);
                    self.push_sack(SeqNumber(left), SeqNumber(right));
                }
            }
            (8, value) => {
                if let Ok(value) = value.try_into() {
                    self.timestamps = Some(pair(value));
                }
            }
            _ => {}
        }
    }

    /// Adds a SACK block; the fifth and later ones are left out.
    pub fn push_sack(&mut self, left: SeqNumber, right: SeqNumber) {
        if let Some(slot) = self.sack.get_mut(usize::from(self.sack_count)) {
            *slot = (left, right);
            self.sack_count += 1;
        }
    }

    /// The SACK blocks, as (left edge, right edge).
    pub fn sack_blocks(&self) -> &[(SeqNumber, SeqNumber)] {
        &self.sack[..usize::from(self.sack_count)]
    }

    /// Bytes these options take in a header, padded to a multiple of four, at most [`MAX_OPTIONS_LEN`]: the SACK
    /// blocks that find no room are not counted.
    #[inline]
    pub fn encoded_len(&self) -> usize {
        self.fixed_len()
            + match self.sack_that_fit() {
                0 => 0,
                n => 4 + 8 * n,
            }
    }

    #[inline]
    fn fixed_len(&self) -> usize {
        let mut n = 0;
        if self.mss.is_some() {
            n += 4;
        }
        if self.window_scale.is_some() {
            n += 4;
        }
        if self.timestamps.is_some() {
            n += 12;
        } else if self.sack_permitted {
            n += 4;
        }
        n
    }

    #[inline]
    fn sack_that_fit(&self) -> usize {
        if self.sack_count == 0 {
            return 0;
        }
        let room = (MAX_OPTIONS_LEN - self.fixed_len()).saturating_sub(4) / 8;
        usize::from(self.sack_count).min(room)
    }

    /// Writes the options into `out`, which must be [`encoded_len`](Self::encoded_len) bytes long.
    pub fn encode(&self, out: &mut [u8]) {
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            out[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        if let Some(mss) = self.mss {
            let [a, b] = mss.to_be_bytes();
            put(&[2, 4, a, b]);
        }
        if let Some((value, echo)) = self.timestamps {
            put(if self.sack_permitted { &[4, 2, 8, 10] } else { &[1, 1, 8, 10] });
            put(&value.to_be_bytes());
            put(&echo.to_be_bytes());
        } else if self.sack_permitted {
            put(&[1, 1, 4, 2]);
        }
        if let Some(shift) = self.window_scale {
            put(&[1, 3, 3, shift]);
        }
        let blocks = self.sack_that_fit();
        if blocks > 0 {
            put(&[1, 1, 5, (2 + 8 * blocks) as u8]);
            for (left, right) in &self.sack[..blocks] {
                put(&left.0.to_be_bytes());
                put(&right.0.to_be_bytes());
            }
        }
    }
}

/// Two 32-bit numbers.
#[inline]
fn pair(bytes: [u8; 8]) -> (u32, u32) {
    let both = u64::from_be_bytes(bytes);
    ((both >> 32) as u32, both as u32)
}
