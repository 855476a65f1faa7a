//! TCP sequence numbers (RFC 9293, section 3.4): 32-bit counters that wrap.

use std::fmt;
use std::ops::{Add, AddAssign, Sub};

/// A position in one direction of a TCP connection.
///
/// Comparison wraps: `a` is before `b` when the shorter way round leads forward from `a` to `b`. That is no total
/// order, so there is no `Ord`; use [`is_before`](Self::is_before) and its kin.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct SeqNumber(pub u32);

impl SeqNumber {
    /// Signed distance from `other` to `self`, positive when `self` is ahead.
    #[inline]
    pub fn distance_from(self, other: Self) -> i32 {
        self.0.wrapping_sub(other.0) as i32
    }

    /// Whether `self` lies strictly before `other`.
    #[inline]
    pub fn is_before(self, other: Self) -> bool {
        self.distance_from(other) < 0
    }

    /// Whether `self` lies strictly after `other`.
    #[inline]
    pub fn is_after(self, other: Self) -> bool {
        self.distance_from(other) > 0
    }

    /// Whether `self` lies before `other` or is the same.
    #[inline]
    pub fn is_at_or_before(self, other: Self) -> bool {
        !self.is_after(other)
    }

    /// Whether `self` lies after `other` or is the same.
    #[inline]
    pub fn is_at_or_after(self, other: Self) -> bool {
        !self.is_before(other)
    }

    /// The later of two positions.
    #[inline]
    #[must_use]
    pub fn later(self, other: Self) -> Self {
        if self.is_before(other) { other } else { self }
    }

    /// The earlier of two positions.
    #[inline]
    #[must_use]
    pub fn earlier(self, other: Self) -> Self {
        if self.is_after(other) { other } else { self }
    }
}

impl Add<u32> for SeqNumber {
    type Output = Self;
    #[inline]
    fn add(self, bytes: u32) -> Self {
        Self(self.0.wrapping_add(bytes))
    }
}

impl Sub<u32> for SeqNumber {
    type Output = Self;
    #[inline]
    fn sub(self, bytes: u32) -> Self {
        Self(self.0.wrapping_sub(bytes))
    }
}

impl AddAssign<u32> for SeqNumber {
    #[inline]
    fn add_assign(&mut self, bytes: u32) {
        *self = *self + bytes;
    }
}

impl fmt::Debug for SeqNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seq {}", self.0)
    }
}

impl fmt::Display for SeqNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
