use proptest::prelude::*;

use super::super::tests::documented_examples;
use super::super::{DecodeError, Decoder, Role};
use super::*;

const VERSION_6: [u8; 14] = [0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0];
/// 62.135.200.1:39274 -> 10.1.0.2:18081
const ADD: [u8; 14] = [0x3e, 0x87, 0xc8, 0x01, 0x99, 0x6a, 0, 1, 0x0a, 1, 0, 2, 0x46, 0xa1];
const ALL_FORMS: [Format; 4] = [
    Format { records: RecordKind::Headers, combined: true },
    Format { records: RecordKind::Headers, combined: false },
    Format { records: RecordKind::WithPayload, combined: true },
    Format { records: RecordKind::WithPayload, combined: false },
];

fn flow() -> Flow {
    Flow {
        client: Endpoint::new(IpAddr::from([62, 135, 200, 1]), Port(39_274)),
        server: Endpoint::new(IpAddr::from([10, 1, 0, 2]), Port(18_081)),
    }
}

fn response<'a>(seq: u32, options: &'a [u8], payload: &'a [u8]) -> ResponseHeader<'a> {
    ResponseHeader {
        id: NO_SESSION,
        seq: SeqNumber(seq),
        ack: SeqNumber(0x1020_3040),
        flags: Flags::ACK | Flags::PSH,
        window: 501,
        payload_len: payload.len() as u32,
        options,
        payload,
    }
}

fn encoded(format: Format, max_batch: u16, responses: &[ResponseHeader<'_>]) -> Vec<u8> {
    let (mut encoder, mut out) = (RecordEncoder::new(format, max_batch), Vec::new());
    for response in responses {
        assert!(encoder.record(&flow(), response, &mut out));
    }
    out
}

/// What a tcpcopy reads: flow, sequence number, flags, payload length, options and payload.
type Read = (Flow, u32, u8, u32, Vec<u8>, Vec<u8>);

/// Reads what arrives in pieces of this size.
fn read(kind: RecordKind, bytes: &[u8], piece: usize) -> Result<Vec<Read>, DecodeError> {
    let (mut decoder, mut kept, mut all) = (Decoder::legacy(kind), Vec::new(), Vec::new());
    for piece in bytes.chunks(piece) {
        kept.extend_from_slice(piece);
        let mut at = 0;
        while let Some((message, len)) = decoder.next(&kept[at..])? {
            let Message::LegacyRecords(records) = message else { panic!("{message:?}") };
            all.extend(records.map(|(flow, r)| {
                assert_eq!(r.id, NO_SESSION);
                (flow, r.seq.0, r.flags.0, r.payload_len, r.options.to_vec(), r.payload.to_vec())
            }));
            at += len;
        }
        kept.drain(..at);
    }
    assert!(kept.is_empty(), "whole records only");
    Ok(all)
}

/// Reads client messages at intercept's end.
fn clients(bytes: &[u8]) -> Result<Vec<Option<Flow>>, DecodeError> {
    let (mut decoder, mut at, mut all) = (Decoder::new(Role::Intercept), 0, Vec::new());
    while let Some((message, len)) = decoder.next(&bytes[at..])? {
        match message {
            Message::LegacyHello => all.push(None),
            Message::LegacyRoute(flow) => all.push(Some(flow)),
            Message::Skipped { kind: 2 } => {}
            other => panic!("{other:?}"),
        }
        at += len;
    }
    assert_eq!(at, bytes.len());
    Ok(all)
}

#[test]
fn a_tcpcopy_says_its_version_and_then_its_sessions() {
    let mut said = Vec::new();
    encode_version(&mut said);
    assert!(encode_client_add(&flow(), &mut said));
    assert_eq!(said, [VERSION_6, ADD].concat());
    let mut delete = ADD;
    delete[7] = 2;
    said.extend_from_slice(&delete);
    assert_eq!(clients(&said), Ok(vec![None, Some(flow())]), "a CLIENT_DEL asks for nothing");
}

#[test]
fn the_documentation_shows_what_is_sent() {
    let syn_ack = ResponseHeader { flags: Flags::SYN | Flags::ACK, ..response(0x0a0b_0c0d, &[2, 4, 5, 0xb4], &[]) };
    let documented = documented_examples();
    assert_eq!(documented["legacy-tcpcopy"], [VERSION_6, ADD].concat());
    let sent = encoded(Format::default(), 0, &[syn_ack]);
    assert_eq!(documented["legacy-intercept"], sent, "{sent:02x?}");
    assert_eq!(
        documented.keys().filter(|name| name.starts_with("legacy-")).count(),
        2,
        "an example that nothing checks"
    );
}

#[test]
fn there_is_no_route_and_no_record_for_ipv6() {
    let v6 = Flow { client: Endpoint::new("fd00::1".parse().unwrap(), Port(1)), ..flow() };
    let mut out = Vec::new();
    assert!(!encode_client_add(&v6, &mut out));
    assert!(!RecordEncoder::new(Format::default(), 0).record(&v6, &response(1, &[], &[]), &mut out));
    assert!(out.is_empty());
}

#[test]
fn other_versions_are_named_and_nothing_is_guessed() {
    let first_eight = |version: u16| [[0; 6].as_slice(), &version.to_be_bytes()].concat();
    for theirs in [3, 4, 5, 0x8005, 7, 0x0600] {
        let error = clients(&first_eight(theirs)).unwrap_err();
        assert_eq!(error, DecodeError::Legacy(LegacyError::Version { ours: 6, theirs }));
        let text = error.to_string();
        assert!(text.contains(&format!("version {theirs} ")) && text.contains("version 6 "), "{text}");
    }
    // Not even all of its version is needed when it cannot be one.
    assert_eq!(clients(&[0, 0, 7]), Err(DecodeError::Legacy(LegacyError::NoVersion)));
    let mut decoder = Decoder::new(Role::Intercept);
    for len in 0..14 {
        assert!(decoder.next(&VERSION_6[..len]).unwrap().is_none(), "{len} bytes are no message yet");
    }
    let unknown = [&VERSION_6[..], &[1, 2, 3, 4, 5, 6, 0, 3, 0, 0, 0, 0, 0, 0]].concat();
    assert_eq!(clients(&unknown), Err(DecodeError::Legacy(LegacyError::Kind { kind: 3 })));
}

/// A SYN-ACK with an MSS, as it goes to a tcpcopy that was built like this intercept.
#[test]
fn a_record_is_the_packets_headers() {
    let syn_ack = ResponseHeader { flags: Flags::SYN | Flags::ACK, ..response(0x0a0b_0c0d, &[2, 4, 5, 0xb4], &[]) };
    let out = encoded(Format::default(), 0, &[syn_ack]);
    let mut expected = vec![0, 1]; // one record
    expected.extend_from_slice(&[
        0x45, 0, 0, 44, 0, 0, 0x40, 0, 64, 6, 0, 0, // length 20 + 24, not to be fragmented, TCP
        10, 1, 0, 2, 62, 135, 200, 1, // from the target to the replica
        0x46, 0xa1, 0x99, 0x6a, 0x0a, 0x0b, 0x0c, 0x0d, 0x10, 0x20, 0x30, 0x40, // ports, numbers
        0x60, 0x12, 0x01, 0xf5, 0, 0, 0, 0, // 24 bytes of header, SYN and ACK, window
        2, 4, 5, 0xb4, // MSS
    ]);
    expected.resize(66, 0);
    let sum = Sum::default().add_bytes(&expected[2..22]).finish();
    expected[12..14].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(out, expected);
    let flags = (Flags::SYN | Flags::ACK).0;
    assert_eq!(
        read(RecordKind::Headers, &out, 1),
        Ok(vec![(flow(), 0x0a0b_0c0d, flags, 0, vec![2, 4, 5, 0xb4], vec![])])
    );
}

#[test]
fn frames_have_the_sizes_of_the_c_programs() {
    let responses: Vec<_> = (0..17).map(|n| response(n, &[], b"x")).collect();
    let size = |format, count: usize| encoded(format, 0, &responses[..count]).len();
    let [combined, bare, with_payload, bare_with_payload] = ALL_FORMS;
    assert_eq!([1, 2, 16, 17].map(|n| size(combined, n)), [66, 130, 1026, 1026 + 66]);
    assert_eq!([1, 2, 6, 7].map(|n| size(with_payload, n)), [194, 386, 1154, 1154 + 194]);
    assert_eq!([1, 2, 17].map(|n| size(bare, n)), [64, 128, 17 * 64]);
    assert_eq!(size(bare_with_payload, 2), 384);
    assert_eq!(encoded(combined, 2, &responses[..3])[..2], [0, 2], "-n bounds a frame");
    assert_eq!(encoded(with_payload, 15, &responses[..7])[..2], [0, 6], "and so does the form");
}

#[test]
fn a_sealed_frame_takes_no_more() {
    let (mut encoder, mut out) = (RecordEncoder::new(Format::default(), 0), Vec::new());
    encoder.record(&flow(), &response(1, &[], &[]), &mut out);
    out.clear();
    encoder.seal();
    encoder.record(&flow(), &response(2, &[], &[]), &mut out);
    assert_eq!((out.len(), &out[..2]), (66, &[0, 1][..]));
}

#[test]
fn payload_is_there_up_to_128_bytes_and_behind_the_options() {
    let timestamps = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2];
    let long = [7; 129];
    let responses = [response(1, &timestamps, &long[..128]), response(2, &[], b"END\n"), response(3, &[], &long)];
    let out = encoded(ALL_FORMS[2], 0, &responses);
    assert_eq!(out.len(), 2 + 3 * 192);
    assert_eq!(out[2 + 192 + 40..][..4], *b"END\n", "not at 64");
    let shown: Vec<_> = read(RecordKind::WithPayload, &out, 100).unwrap().into_iter().map(|r| (r.3, r.5)).collect();
    assert_eq!(shown, [(128, long[..128].to_vec()), (4, b"END\n".to_vec()), (129, vec![])]);

    // Cut by the capture: the rest of a record is not to be taken for payload.
    let cut = ResponseHeader { payload_len: 100, ..response(4, &[], b"half") };
    let out = encoded(ALL_FORMS[2], 0, &[cut]);
    assert!(out[2 + 40..].iter().all(|b| *b == 0));
    // In a record without payload nobody looks for it.
    assert_eq!(read(RecordKind::Headers, &encoded(ALL_FORMS[0], 0, &responses), 64).unwrap()[1].5, b"");
}

#[test]
fn options_that_do_not_fit_are_left_out_whole() {
    let mut options = vec![1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2, 1, 1, 5, 26];
    options.resize(40, 9);
    let read = read(RecordKind::Headers, &encoded(ALL_FORMS[0], 0, &[response(1, &options, b"abc")]), 7).unwrap();
    assert_eq!(read[0].4, [&options[..14], &[0, 0]].concat(), "timestamps, and not a part of SACK's blocks");
    assert_eq!(read[0].3, 3, "the lengths go with it");
}

/// As the C intercept writes it: lengths of options that are not there, in both headers.
#[test]
fn a_record_of_the_c_intercept_is_read_by_what_is_in_it() {
    let mut record = encoded(ALL_FORMS[1], 0, &[response(5, &[8, 10, 0, 0, 0, 1, 0, 0, 0, 2, 1, 1], &[])]);
    record[0] = 0x47; // eight bytes of IP options, left out
    record[3] = 28 + 52 + 100;
    record[32] = 52 << 2; // 32 bytes of TCP options, of which 24 came
    let read = read(RecordKind::Headers, &record, 64).unwrap();
    assert_eq!((read[0].1, read[0].3, read[0].4.len()), (5, 100, 24));
}

/// A capture shows merged segments; an IPv4 header says 65,535 bytes at most.
#[test]
fn a_packet_above_64_kb_becomes_several_records() {
    let merged = ResponseHeader {
        payload_len: 150_000,
        flags: Flags::ACK | Flags::PSH | Flags::FIN,
        ..response(u32::MAX, &[], &[])
    };
    let records = read(RecordKind::Headers, &encoded(ALL_FORMS[0], 0, &[merged]), 500).unwrap();
    let mut next = u32::MAX;
    for (n, record) in records.iter().enumerate() {
        assert_eq!(record.1, next);
        assert_eq!(Flags(record.2).contains(Flags::FIN), n == 2, "FIN and PSH are at the end");
        next = next.wrapping_add(record.3);
    }
    assert_eq!((records.len(), next), (3, 149_999));
}

#[test]
fn ends_that_were_built_differently_are_told_so() {
    let responses: Vec<_> = (0..3).map(|n| response(n, &[], b"12345")).collect();
    let with_payload = encoded(ALL_FORMS[2], 0, &responses);
    let error = read(RecordKind::Headers, &with_payload, 9).unwrap_err();
    assert!(error.to_string().contains("legacy-payload"), "{error}");
    let plain = encoded(ALL_FORMS[0], 0, &responses);
    let error = read(RecordKind::WithPayload, &[plain.clone(), plain.clone(), plain].concat(), 9).unwrap_err();
    assert!(error.to_string().contains("legacy-payload"), "{error}");
    assert_eq!(
        read(RecordKind::Headers, &[0, 17], 2),
        Err(DecodeError::Legacy(LegacyError::Count { count: 17, max: 16 }))
    );
    assert_eq!(
        read(RecordKind::WithPayload, &[0, 7], 2),
        Err(DecodeError::Legacy(LegacyError::Count { count: 7, max: 6 }))
    );
    let not_tcp = encoded(ALL_FORMS[1], 0, &responses[..1]).into_iter().enumerate();
    let not_tcp: Vec<u8> = not_tcp.map(|(at, byte)| if at == 9 { 17 } else { byte }).collect();
    assert_eq!(read(RecordKind::Headers, &not_tcp, 64), Err(DecodeError::Legacy(LegacyError::Record { first: 0x45 })));
}

proptest! {
    /// Whatever the form and the pieces, what was written is read.
    #[test]
    fn records_are_read_as_they_were_written(
        form in 0usize..4,
        max_batch in 0u16..20,
        piece in 1usize..500,
        packets in prop::collection::vec((any::<u32>(), 0usize..7, prop::collection::vec(any::<u8>(), 0..200)), 1..40),
    ) {
        let format = ALL_FORMS[form];
        let options = [1; MAX_RECORD_OPTIONS];
        let responses: Vec<_> =
            packets.iter().map(|(seq, words, payload)| response(*seq, &options[..words * 4], payload)).collect();
        let expected: Vec<Read> = responses.iter().map(|r| {
            let shown = format.records == RecordKind::WithPayload && r.payload.len() <= MAX_RECORD_DATA;
            let payload = if shown { r.payload.to_vec() } else { Vec::new() };
            (flow(), r.seq.0, r.flags.0, r.payload_len, r.options.to_vec(), payload)
        }).collect();
        prop_assert_eq!(read(format.records, &encoded(format, max_batch, &responses), piece).unwrap(), expected);
    }

    /// A packet of any length and with any options makes records that are whole and can be read.
    #[test]
    fn any_packet_can_be_written(
        options in prop::collection::vec(any::<u8>(), 0..60),
        payload_len in any::<u32>().prop_map(|n| n % 400_000),
        payload in prop::collection::vec(any::<u8>(), 0..300),
        flags in any::<u8>(),
    ) {
        let r = ResponseHeader { payload_len, flags: Flags(flags), ..response(0, &options, &payload) };
        for format in ALL_FORMS {
            let records = read(format.records, &encoded(format, 0, &[r]), 4096).unwrap();
            prop_assert_eq!(records.iter().map(|r| r.3).sum::<u32>(), payload_len);
        }
    }

    #[test]
    fn garbage_is_refused_or_read_and_never_a_panic(
        mut bytes in prop::collection::vec(any::<u8>(), 0..600),
        begins in 0usize..5,
    ) {
        for kind in [RecordKind::Headers, RecordKind::WithPayload] {
            let good = encoded(Format { records: kind, combined: begins % 2 == 0 }, 0, &[response(1, &[], b"ab")]);
            let len = (good.len() / 4 * begins).min(bytes.len());
            bytes[..len].copy_from_slice(&good[..len]);
            let (mut decoder, mut at) = (Decoder::legacy(kind), 0);
            while let Ok(Some((message, len))) = decoder.next(&bytes[at..]) {
                prop_assert!(len > 0 && at + len <= bytes.len());
                let Message::LegacyRecords(records) = message else { panic!("{message:?}") };
                for (_, r) in records {
                    prop_assert!(r.options.len() <= MAX_RECORD_OPTIONS && r.payload.len() <= MAX_RECORD_DATA);
                }
                at += len;
            }
        }
        let said = [&VERSION_6[..begins.min(3) * 4 + 2], &bytes].concat();
        let (mut decoder, mut at) = (Decoder::new(Role::Intercept), 0);
        while let Ok(Some((_, len))) = decoder.next(&said[at..]) {
            prop_assert!(len > 0);
            at += len;
        }
    }
}
