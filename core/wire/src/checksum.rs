//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).

use std::net::IpAddr;

/// A one's-complement sum in progress. Order of the added parts does not matter, except that each part but the
/// last must have an even length.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

impl Sum {
    /// Adds a slice, read as big-endian 16-bit words, an odd last byte padded with zero.
    #[inline]
    #[must_use]
    pub fn add_bytes(self, bytes: &[u8]) -> Self {
        // Eight bytes at a time into 64 bits with the carry added back: one's-complement sums may be taken in any
        // word width and in either byte order and folded at the end (RFC 1071, section 2). In the machine's own order
        // no word has to be turned round but the sum.
        let mut wide: u64 = 0;
        let (blocks, rest) = bytes.as_chunks::<32>();
        for block in blocks {
            for word in block.as_chunks().0 {
                wide = add_carry(wide, u64::from_ne_bytes(*word));
            }
        }
        let (words, mut rest) = rest.as_chunks();
        for word in words {
            wide = add_carry(wide, u64::from_ne_bytes(*word));
        }
        if let Some((half, last)) = rest.split_first_chunk() {
            wide = add_carry(wide, u32::from_ne_bytes(*half).into());
            rest = last;
        }
        if let Some((pair, last)) = rest.split_first_chunk() {
            wide = add_carry(wide, u16::from_ne_bytes(*pair).into());
            rest = last;
        }
        if let [last] = rest {
            wide = add_carry(wide, u16::from_ne_bytes([*last, 0]).into());
        }
        // Turned round as a whole: that also turns the order of its words, which does not matter.
        let wide = u64::from_be(wide);
        Self(self.0 + (wide >> 32) + (wide & 0xffff_ffff))
    }

    /// Adds the pseudo-header of TCP or UDP (RFC 9293, section 3.1; RFC 8200, section 8.1).
    /// `length` is that of the transport header and its payload together, in bytes.
    #[inline]
    #[must_use]
    pub fn add_pseudo_header(self, src: IpAddr, dst: IpAddr, protocol: u8, length: u32) -> Self {
        let sum = match (&src, &dst) {
            (IpAddr::V4(s), IpAddr::V4(d)) => Self(self.0 + u64::from(u32::from(*s)) + u64::from(u32::from(*d))),
            _ => self.add_address(src).add_address(dst),
        };
        Self(sum.0 + u64::from(protocol) + u64::from(length))
    }

    fn add_address(self, a: IpAddr) -> Self {
        match a {
            IpAddr::V4(a) => Self(self.0 + u64::from(u32::from(a))),
            IpAddr::V6(a) => self.add_bytes(&a.octets()),
        }
    }

    /// The sum folded to 16 bits, not yet complemented: what a sender with checksum offload leaves in the field.
    #[inline]
    pub fn folded(self) -> u16 {
        // Each half added to the other with the carry added back, which cannot carry once more.
        let (sum, carry) = ((self.0 >> 32) as u32).overflowing_add(self.0 as u32);
        let sum = sum + u32::from(carry);
        let (sum, carry) = ((sum >> 16) as u16).overflowing_add(sum as u16);
        sum + u16::from(carry)
    }

    /// The checksum to put into a header.
    #[inline]
    pub fn finish(self) -> u16 {
        !self.folded()
    }
}

/// The sum of two one's-complement numbers.
#[inline]
fn add_carry(a: u64, b: u64) -> u64 {
    let (sum, carry) = a.overflowing_add(b);
    sum + u64::from(carry)
}

/// New checksum after one 16-bit word under it changed from `old` to `new` (RFC 1624, equation 3).
#[inline]
pub fn update(checksum: u16, old: u16, new: u16) -> u16 {
    let sum = u32::from(!checksum) + u32::from(!old) + u32::from(new);
    let sum = (sum >> 16) + (sum & 0xffff);
    !(((sum >> 16) + sum) as u16)
}
