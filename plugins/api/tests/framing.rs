//! Framing: a stream's messages are the same however it is cut, garbage is refused and never trusted.

use proptest::prelude::*;
use tcpcopy_module_api::framing::{
    Counts, Fault, Follower, Frame, Framer, LengthField, LengthPrefix, Lines, find_boundary, messages,
};

const FIELDS: [LengthField; 7] = [
    LengthField::U8,
    LengthField::U16Be,
    LengthField::U16Le,
    LengthField::U24Be,
    LengthField::U24Le,
    LengthField::U32Be,
    LengthField::U32Le,
];

/// A message of `body` bytes under `framer`'s rule, written the other way round: from length to bytes.
fn write(field: LengthField, counts: Counts, offset: usize, body: &[u8]) -> Vec<u8> {
    let header = match counts {
        Counts::BehindHeader(header) => header.max(offset + field.size()),
        _ => offset + field.size(),
    };
    let counted = match counts {
        Counts::Message => header + body.len(),
        Counts::BehindLength | Counts::BehindHeader(_) => body.len(),
    } as u32;
    let mut message = vec![0xa5; header];
    let bytes = match field {
        LengthField::U8 => vec![counted as u8],
        LengthField::U16Be => (counted as u16).to_be_bytes().to_vec(),
        LengthField::U16Le => (counted as u16).to_le_bytes().to_vec(),
        LengthField::U24Be => counted.to_be_bytes()[1..].to_vec(),
        LengthField::U24Le => counted.to_le_bytes()[..3].to_vec(),
        LengthField::U32Be => counted.to_be_bytes().to_vec(),
        LengthField::U32Le => counted.to_le_bytes().to_vec(),
    };
    message[offset..offset + field.size()].copy_from_slice(&bytes);
    message.extend_from_slice(body);
    message
}

/// What a module does: holds what is not decided, and decides message by message, ahead of the bytes where it can.
fn lengths_by_segment(framer: &impl Framer, stream: &[u8], segments: &[usize]) -> (Vec<usize>, Option<Fault>) {
    let (mut held, mut ahead, mut lengths) = (Vec::new(), 0, Vec::new());
    for segment in cut(stream, segments) {
        let skipped = segment.len().min(ahead);
        ahead -= skipped;
        held.extend_from_slice(&segment[skipped..]);
        let mut decided = 0;
        for message in messages(framer, &held) {
            match message {
                Ok(message) => {
                    lengths.push(message.len);
                    decided += message.bytes.len();
                    ahead = message.len - message.bytes.len();
                }
                Err(fault) => return (lengths, Some(fault)),
            }
        }
        held.drain(..decided);
    }
    (lengths, None)
}

/// `stream` in segments of these sizes, round and round.
fn cut<'a>(mut stream: &'a [u8], sizes: &[usize]) -> Vec<&'a [u8]> {
    let mut segments = Vec::new();
    for size in sizes.iter().cycle() {
        if stream.is_empty() {
            break;
        }
        let (segment, rest) = stream.split_at(stream.len().min((*size).max(1)));
        segments.push(segment);
        stream = rest;
    }
    segments
}

fn fields() -> impl Strategy<Value = LengthField> {
    prop::sample::select(&FIELDS[..])
}

fn counts() -> impl Strategy<Value = Counts> {
    prop_oneof![Just(Counts::Message), Just(Counts::BehindLength), (0_usize..12).prop_map(Counts::BehindHeader)]
}

fn segment_sizes() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(1_usize..40, 1..20)
}

proptest! {
    #[test]
    fn any_segmentation_gives_the_same_messages(
        field in fields(),
        counts in counts(),
        offset in 0_usize..6,
        bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..120), 1..12),
        segments in segment_sizes(),
    ) {
        let framer = LengthPrefix::new(field, counts, 1 << 20).at(offset);
        let written: Vec<Vec<u8>> = bodies.iter().map(|body| write(field, counts, offset, body)).collect();
        let stream = written.concat();
        let expected: Vec<usize> = written.iter().map(Vec::len).collect();
        prop_assert_eq!(lengths_by_segment(&framer, &stream, &segments), (expected.clone(), None));

        let mut follower = Follower::new(framer, 7);
        let mut ended = Vec::new();
        for segment in cut(&stream, &segments) {
            follower.feed(segment, |head, len| ended.push((head.to_vec(), len))).unwrap();
        }
        let heads: Vec<_> = written.iter().map(|message| (message[..message.len().min(7)].to_vec(), message.len())).collect();
        prop_assert_eq!(ended, heads);
        prop_assert!(!follower.is_within());
    }

    #[test]
    fn any_segmentation_gives_the_same_lines(
        lines in prop::collection::vec("[a-z ]{0,60}(\r)?\n", 1..12),
        segments in segment_sizes(),
    ) {
        let stream = lines.concat();
        let expected: Vec<usize> = lines.iter().map(String::len).collect();
        prop_assert_eq!(lengths_by_segment(&Lines::new(62), stream.as_bytes(), &segments), (expected, None));
    }

    /// What is read is bounded, and the fault comes at the same message, however garbage is cut.
    #[test]
    fn garbage_ends_at_the_same_place_however_it_is_cut(
        field in fields(),
        counts in counts(),
        offset in 0_usize..6,
        garbage in prop::collection::vec(any::<u8>(), 0..2_000),
        segments in segment_sizes(),
    ) {
        let framer = LengthPrefix::new(field, counts, 300).at(offset);
        let whole = lengths_by_segment(&framer, &garbage, &[usize::MAX]);
        prop_assert_eq!(&lengths_by_segment(&framer, &garbage, &segments), &whole);

        let (mut ended, mut fault) = (Vec::new(), None);
        let mut follower = Follower::new(framer, 16);
        for segment in cut(&garbage, &segments) {
            fault = follower.feed(segment, |_, len| ended.push(len)).err();
        }
        let (mut lengths, expected) = whole;
        // The last message may not have come to its end.
        if lengths.iter().sum::<usize>() > garbage.len() {
            lengths.pop();
        }
        prop_assert_eq!((ended, fault), (lengths, expected));

        let lines = lengths_by_segment(&Lines::new(40), &garbage, &[usize::MAX]);
        prop_assert_eq!(lengths_by_segment(&Lines::new(40), &garbage, &segments), lines);
    }

    #[test]
    fn a_boundary_is_where_a_message_begins(
        bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 6..12),
        from in 0_usize..60,
    ) {
        // A header that is told from other bytes: a magic number of four bytes, and a length.
        let framer = Magic;
        let written: Vec<Vec<u8>> = bodies.iter().map(|body| {
            let mut message = b"\xfaM\xce\x01".to_vec();
            message.extend_from_slice(&(body.len() as u16).to_be_bytes());
            message.extend_from_slice(body);
            message
        }).collect();
        let stream = written.concat();
        let mut starts: Vec<usize> = vec![0];
        for message in &written {
            starts.push(starts.last().unwrap() + message.len());
        }
        let from = from.min(written[0].len());
        let found = find_boundary(&framer, &stream[from..], 3);
        let first = starts.iter().find(|start| **start >= from).unwrap() - from;
        prop_assert_eq!(found, Some(first));
    }

    #[test]
    fn a_boundary_lies_within_what_was_shown(
        field in fields(),
        counts in counts(),
        garbage in prop::collection::vec(any::<u8>(), 0..600),
        in_a_row in 0_usize..5,
    ) {
        let framer = LengthPrefix::new(field, counts, usize::MAX);
        if let Some(offset) = find_boundary(&framer, &garbage, in_a_row) {
            prop_assert!(offset < garbage.len());
            let (lengths, fault) = lengths_by_segment(&framer, &garbage[offset..], &[usize::MAX]);
            prop_assert!(fault.is_none());
            prop_assert!(lengths[0] <= garbage.len() - offset, "its length was trusted");
        }
        find_boundary(&Lines::new(30), &garbage, in_a_row);
    }
}

struct Magic;

impl Framer for Magic {
    fn frame(&self, data: &[u8]) -> Frame {
        if !data.iter().zip(b"\xfaM\xce\x01").all(|(byte, expected)| byte == expected) {
            return Frame::Invalid(Fault::NotThisProtocol("no magic number"));
        }
        LengthPrefix::new(LengthField::U16Be, Counts::BehindLength, 1 << 16).at(4).frame(data)
    }
}

#[test]
fn lengths_near_overflow_are_refused() {
    for counts in [Counts::Message, Counts::BehindLength, Counts::BehindHeader(4), Counts::BehindHeader(usize::MAX)] {
        let framer = LengthPrefix::new(LengthField::U32Be, counts, 1 << 20);
        assert!(
            matches!(framer.frame(&[0xff; 16]), Frame::Invalid(Fault::TooLong { len, .. }) if len >= u64::from(u32::MAX)),
            "{counts:?}"
        );
        // With no bound at all, it is a message that never ends and not a wrapped length.
        let unbounded = LengthPrefix::new(LengthField::U32Be, counts, usize::MAX);
        assert!(
            matches!(unbounded.frame(&[0xff; 16]), Frame::Message(len) if len >= u32::MAX as usize),
            "{counts:?}: {:?}",
            unbounded.frame(&[0xff; 16])
        );
    }
    assert_eq!(LengthPrefix::new(LengthField::U8, Counts::Message, 9).at(usize::MAX).frame(b"abc"), Frame::More);
}

#[test]
fn a_length_that_leaves_out_its_own_header_is_refused() {
    let framer = LengthPrefix::new(LengthField::U16Be, Counts::Message, 100).at(2);
    assert_eq!(framer.frame(&[9, 9, 0, 3]), Frame::Invalid(Fault::TooShort { len: 3 }));
    assert_eq!(framer.frame(&[9, 9, 0, 4]), Frame::Message(4));
}

#[test]
fn a_message_of_nothing_is_refused_rather_than_repeated() {
    let nothing = |_: &[u8]| Frame::Message(0);
    let all: Vec<_> = messages(&nothing, b"abc").collect();
    assert_eq!(all, [Err(Fault::TooShort { len: 0 })]);
    assert_eq!(find_boundary(&nothing, b"abc", 1), None);
    assert_eq!(Follower::new(nothing, 4).feed(b"abc", |_, _| {}), Err(Fault::TooShort { len: 0 }));
}

#[test]
fn a_line_may_be_as_long_as_its_bound_and_no_longer() {
    let lines = Lines::new(5);
    assert_eq!(lines.frame(b"abcd\n"), Frame::Message(5));
    assert_eq!(lines.frame(b"abcd"), Frame::More);
    assert_eq!(lines.frame(b"abcde"), Frame::Invalid(Fault::LineTooLong { most: 5 }));
    assert_eq!(lines.frame(b"abcde\n"), Frame::Invalid(Fault::LineTooLong { most: 5 }));
    assert_eq!(Lines::text(b"a\rb\r\n"), b"a\rb");
    assert_eq!(Lines::text(b"ab\n"), b"ab");
    assert_eq!(Lines::text(b"ab"), b"ab");
}

#[test]
fn a_framer_may_not_wait_for_ever() {
    let never = |_: &[u8]| Frame::More;
    assert_eq!(messages(&never, &[0; 63]).next(), None);
    assert_eq!(messages(&never, &[0; 64]).next(), Some(Err(Fault::NoLength { head: 64 })));
    let mut follower = Follower::new(never, 0);
    assert_eq!(follower.feed(&[0; 40], |_, _| {}), Ok(()));
    assert_eq!(follower.feed(&[0; 40], |_, _| {}), Err(Fault::NoLength { head: 64 }));
    assert_eq!(follower.feed(b"", |_, _| {}), Err(Fault::NoLength { head: 64 }), "its place is lost for good");
}

#[test]
fn hidden_bytes_are_counted_within_a_message_and_refused_between_two() {
    let packets = LengthPrefix::new(LengthField::U8, Counts::BehindLength, 256);
    let mut follower = Follower::new(packets, 4);
    let mut ended = Vec::new();
    follower.feed(b"\x0aab", |_, _| panic!("it has not ended")).unwrap();
    follower.skip(3, |_, _| panic!("it has not ended")).unwrap();
    follower.feed(b"fgh", |_, _| panic!("it has not ended")).unwrap();
    follower.skip(2, |head, len| ended.push((head.to_vec(), len))).unwrap();
    assert_eq!(ended, [(b"\x0aab".to_vec(), 11)], "what stands behind a hole is not the message's beginning");
    assert_eq!(follower.skip(0, |_, _| {}), Ok(()));
    assert_eq!(follower.skip(1, |_, _| {}), Err(Fault::Hidden));
}

#[test]
fn one_whole_message_in_a_segment_of_its_own_is_believed_and_a_length_beyond_it_is_not() {
    let packets = LengthPrefix::new(LengthField::U16Be, Counts::BehindLength, 1 << 16);
    assert_eq!(find_boundary(&packets, b"\x00\x03abc", 2), Some(0));
    assert_eq!(find_boundary(&packets, b"\x00\x04abc", 2), None);
    assert_eq!(find_boundary(&packets, b"", 2), None);
}

/// A quadratic scan of these would take minutes.
#[test]
fn a_scan_looks_at_each_offset_once() {
    use std::cell::Cell;
    let looks = Cell::new(0_usize);
    let counted = |data: &[u8]| {
        looks.set(looks.get() + data.len());
        LengthPrefix::new(LengthField::U8, Counts::Message, 256).frame(data)
    };
    let data = vec![1; 65_535];
    assert_eq!(find_boundary(&counted, &data, 5), Some(0));
    assert!(looks.get() <= data.len() * 64, "{} bytes were shown", looks.get());

    let lines = vec![b'\n'; 65_535];
    assert_eq!(find_boundary(&Lines::new(1 << 16), &lines, 3), Some(0));
}
