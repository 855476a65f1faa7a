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
        // word width and in either byte order and folded at the end (RFC 1071, section 2).
        let mut sum = self.0;
        let mut chunks = bytes.chunks_exact(8);
        let mut wide: u64 = 0;
        for c in &mut chunks {
            let word = u64::from_be_bytes([c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7]]);
            let (s, carry) = wide.overflowing_add(word);
            wide = s + u64::from(carry);
        }
        let rest = chunks.remainder();
        if !rest.is_empty() {
            let mut last = [0u8; 8];
            last[..rest.len()].copy_from_slice(rest);
            let (s, carry) = wide.overflowing_add(u64::from_be_bytes(last));
            wide = s + u64::from(carry);
        }
        sum += (wide >> 32) + (wide & 0xffff_ffff);
        Self(sum)
    }

    /// Adds the pseudo-header of TCP or UDP (RFC 9293, section 3.1; RFC 8200, section 8.1).
    /// `length` is that of the transport header and its payload together, in bytes.
    #[inline]
    #[must_use]
    pub fn add_pseudo_header(self, src: IpAddr, dst: IpAddr, protocol: u8, length: u32) -> Self {
        let sum = match (src, dst) {
            (IpAddr::V4(s), IpAddr::V4(d)) => Self(self.0 + u64::from(u32::from(s)) + u64::from(u32::from(d))),
            (s, d) => self.add_address(s).add_address(d),
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
        let mut s = (self.0 >> 32) + (self.0 & 0xffff_ffff);
        s = (s >> 16) + (s & 0xffff);
        s = (s >> 16) + (s & 0xffff);
        s = (s >> 16) + (s & 0xffff);
        s as u16
    }

    /// The checksum to put into a header.
    #[inline]
    pub fn finish(self) -> u16 {
        !self.folded()
    }
}

/// New checksum after one 16-bit word under it changed from `old` to `new` (RFC 1624, equation 3).
#[inline]
pub fn update(checksum: u16, old: u16, new: u16) -> u16 {
    let sum = u32::from(!checksum) + u32::from(!old) + u32::from(new);
    let sum = (sum >> 16) + (sum & 0xffff);
    !(((sum >> 16) + sum) as u16)
}
