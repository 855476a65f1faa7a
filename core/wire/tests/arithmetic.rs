//! Sequence numbers, moments and checksums against their definitions.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use proptest::prelude::*;
use tcpcopy_wire::checksum::{Sum, update};
use tcpcopy_wire::{SeqNumber, Timestamp};

/// RFC 1071 to the letter: big-endian words, end-around carry after every addition.
fn naive_sum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = 0;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        if sum > 0xffff {
            sum -= 0xffff;
        }
    }
    sum as u16
}

/// One's complement has two zeros, which are the same number.
fn same_in_ones_complement(a: u16, b: u16) -> bool {
    a == b || (a == 0 && b == 0xffff) || (a == 0xffff && b == 0)
}

proptest! {
    #[test]
    fn adding_moves_forward_by_as_much(start: u32, bytes in 0..=i32::MAX as u32) {
        let from = SeqNumber(start);
        let to = from + bytes;
        prop_assert_eq!(to.distance_from(from), bytes as i32);
        prop_assert_eq!(to - bytes, from);
        prop_assert_eq!(to.is_after(from), bytes > 0);
        prop_assert!(to.is_at_or_after(from) && from.is_at_or_before(to));
    }

    #[test]
    fn exactly_one_of_before_same_and_after(a: u32, b: u32) {
        let (a, b) = (SeqNumber(a), SeqNumber(b));
        prop_assert_eq!([a.is_before(b), a == b, a.is_after(b)].iter().filter(|x| **x).count(), 1);
    }

    #[test]
    fn order_is_seen_alike_from_both_ends(a: u32, distance in 1..=i32::MAX as u32) {
        let near = SeqNumber(a);
        let far = near + distance;
        prop_assert!(near.is_before(far) && far.is_after(near));
        prop_assert_eq!((near.later(far), far.later(near)), (far, far));
        prop_assert_eq!((near.earlier(far), far.earlier(near)), (near, near));
    }

    #[test]
    fn comparing_never_panics(a: u32, b: u32, n: u32) {
        let (a, b) = (SeqNumber(a), SeqNumber(b));
        let _ = (a.distance_from(b), a.later(b), a.earlier(b), a + n, a - n);
    }

    /// Against 128 bits, in which nothing overflows.
    #[test]
    fn moving_a_moment_ends_at_the_ends_of_time(at: u64, seconds: u64, short: bool, nanos in 0u32..1_000_000_000) {
        let moved = Duration::new(if short { seconds % 1_000_000 } else { seconds }, nanos);
        let end = u128::from(u64::MAX);
        let (moment, wide) = (Timestamp::from_nanos(at), u128::from(at));
        prop_assert_eq!(u128::from((moment + moved).as_nanos()), (wide + moved.as_nanos()).min(end));
        prop_assert_eq!(u128::from((moment - moved).as_nanos()), wide.saturating_sub(moved.as_nanos()));
        prop_assert_eq!(u128::from(moment.after_nanos(seconds).as_nanos()), (wide + u128::from(seconds)).min(end));
        prop_assert_eq!(u128::from(moment.after_micros(seconds).as_nanos()), (wide + u128::from(seconds) * 1_000).min(end));
        prop_assert_eq!(moment.since(Timestamp::from_nanos(seconds)).as_nanos(), wide.saturating_sub(u128::from(seconds)));
    }

    #[test]
    fn sum_is_that_of_the_definition(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(same_in_ones_complement(Sum::default().add_bytes(&bytes).folded(), naive_sum(&bytes)));
    }

    #[test]
    fn sum_of_parts_is_that_of_the_whole(bytes in proptest::collection::vec(any::<u8>(), 0..300), cut in 0usize..150) {
        let (left, right) = bytes.split_at((2 * cut).min(bytes.len()));
        let parts = Sum::default().add_bytes(left).add_bytes(right).folded();
        prop_assert!(same_in_ones_complement(parts, Sum::default().add_bytes(&bytes).folded()));
    }

    #[test]
    fn a_packet_with_its_checksum_sums_to_all_ones(mut bytes in proptest::collection::vec(any::<u8>(), 2..300)) {
        bytes[0..2].fill(0);
        let checksum = Sum::default().add_bytes(&bytes).finish();
        bytes[0..2].copy_from_slice(&checksum.to_be_bytes());
        prop_assert_eq!(Sum::default().add_bytes(&bytes).finish(), 0);
    }

    #[test]
    fn pseudo_header_is_that_of_the_standards(src: [u8; 16], dst: [u8; 16], protocol: u8, length in 0u32..=65_535) {
        let (s4, d4) = (<[u8; 4]>::try_from(&src[..4]).unwrap(), <[u8; 4]>::try_from(&dst[..4]).unwrap());
        let mut v4 = [s4, d4].concat();
        v4.extend([0, protocol]);
        v4.extend((length as u16).to_be_bytes());
        let got = Sum::default().add_pseudo_header(IpAddr::from(s4), IpAddr::from(d4), protocol, length).folded();
        prop_assert!(same_in_ones_complement(got, naive_sum(&v4)));

        let mut v6 = [src, dst].concat();
        v6.extend(length.to_be_bytes());
        v6.extend([0, 0, 0, protocol]);
        let (s6, d6) = (IpAddr::V6(Ipv6Addr::from(src)), IpAddr::V6(Ipv6Addr::from(dst)));
        let got = Sum::default().add_pseudo_header(s6, d6, protocol, length).folded();
        prop_assert!(same_in_ones_complement(got, naive_sum(&v6)));
    }

    #[test]
    fn updating_a_checksum_equals_summing_again(
        mut bytes in proptest::collection::vec(any::<u8>(), 2..200), at: prop::sample::Index, new: u16
    ) {
        // The word is one of the whole ones.
        let at = at.index(bytes.len() / 2) * 2;
        let before = Sum::default().add_bytes(&bytes).finish();
        let old = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        bytes[at..at + 2].copy_from_slice(&new.to_be_bytes());
        let after = Sum::default().add_bytes(&bytes).finish();
        prop_assert!(same_in_ones_complement(update(before, old, new), after));
    }
}

#[test]
fn large_sums_do_not_overflow() {
    let bytes = vec![0xff; 1 << 20];
    assert_eq!(Sum::default().add_bytes(&bytes).folded(), 0xffff);
    let mut sum = Sum::default();
    for _ in 0..1000 {
        sum = sum.add_bytes(&bytes[..65_536]);
    }
    assert_eq!(sum.folded(), 0xffff);
}

#[test]
fn the_example_of_rfc_1624_gives_its_answer() {
    // Section 4: checksum 0xDD2F, word 0x5555 becomes 0x3285; the right answer is 0x0000, where RFC 1141 gave 0xFFFF.
    assert_eq!(update(0xdd2f, 0x5555, 0x3285), 0x0000);
}
