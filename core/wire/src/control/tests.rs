use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::address::{Endpoint, Port};

/// A message with its borrowed parts copied.
#[derive(Clone, Debug, PartialEq)]
enum Owned {
    Hello(Hello),
    Add(FlowId, Transport, Flow),
    Payload(FlowId, Payload),
    Datagram(FlowId, u16, Vec<u8>),
    Remove(FlowId),
    Response(u64, u32, u32, u8, u16, u32, Vec<u8>, Vec<u8>),
    Stats(LinkStats),
    Ping(u64),
    Pong(u64),
    Error(String),
    Skipped(u8),
}

fn copy_out(message: Message<'_>, out: &mut Vec<Owned>) {
    match message {
        Message::Hello(h) => out.push(Owned::Hello(h)),
        Message::RouteAdds(adds) => out.extend(adds.map(|(id, transport, flow)| Owned::Add(id, transport, flow))),
        Message::RoutePayloads(wishes) => out.extend(wishes.map(|(id, payload)| Owned::Payload(id, payload))),
        Message::Datagrams(d) => out.extend(d.map(|d| Owned::Datagram(d.id, d.payload_len, d.payload.to_vec()))),
        Message::RouteRemoves(ids) => out.extend(ids.map(Owned::Remove)),
        Message::Responses(r) => out.extend(r.map(|r| {
            let (options, payload) = (r.options.to_vec(), r.payload.to_vec());
            Owned::Response(r.id.0, r.seq.0, r.ack.0, r.flags.0, r.window, r.payload_len, options, payload)
        })),
        Message::Stats(s) => out.push(Owned::Stats(s)),
        Message::Ping(n) => out.push(Owned::Ping(n)),
        Message::Pong(n) => out.push(Owned::Pong(n)),
        Message::Error(text) => out.push(Owned::Error(text.to_owned())),
        Message::Skipped { kind } => out.push(Owned::Skipped(kind)),
        // checks/tests.rs has them.
        Message::Questions(_) | Message::HostReport(_) => out.push(Owned::Skipped(0)),
        Message::LegacyHello | Message::LegacyRoute(_) | Message::LegacyRecords(_) => panic!("{message:?}"),
        // greeting/tests.rs has them.
        Message::Challenge(_) | Message::Proof(_) => unreachable!("no proof was asked for"),
    }
}

/// Decodes a stream that arrives in the given pieces.
fn decode(role: Role, pieces: &[&[u8]]) -> Result<Vec<Owned>, DecodeError> {
    let mut decoder = Decoder::new(role);
    let (mut kept, mut out) = (Vec::new(), Vec::new());
    for piece in pieces {
        kept.extend_from_slice(piece);
        let mut at = 0;
        while let Some((message, len)) = decoder.next(&kept[at..])? {
            copy_out(message, &mut out);
            at += len;
        }
        kept.drain(..at);
    }
    Ok(out)
}

fn encode(messages: &[Owned], max_batch: u16) -> Vec<u8> {
    let mut batch = BatchEncoder::new(max_batch);
    let mut out = Vec::new();
    for m in messages {
        match m {
            Owned::Hello(h) => encode_hello(h, &mut out),
            Owned::Payload(id, payload) => batch.route(&RouteChange::Payload { id: *id, payload: *payload }, &mut out),
            Owned::Datagram(id, payload_len, payload) => {
                batch.datagram(&DatagramResponse { id: *id, payload_len: *payload_len, payload }, &mut out);
            }
            Owned::Add(id, transport, flow) => {
                batch.route(&RouteChange::Add { id: *id, transport: *transport, flow: *flow }, &mut out);
            }
            Owned::Remove(id) => batch.route(&RouteChange::Remove { id: *id }, &mut out),
            Owned::Response(id, seq, ack, flags, window, payload_len, options, payload) => batch.response(
                &ResponseHeader {
                    payload,
                    id: FlowId(*id),
                    seq: SeqNumber(*seq),
                    ack: SeqNumber(*ack),
                    flags: Flags(*flags),
                    window: *window,
                    payload_len: *payload_len,
                    options,
                },
                &mut out,
            ),
            Owned::Stats(s) => encode_stats(s, &mut out),
            Owned::Ping(n) => encode_ping(*n, &mut out),
            Owned::Pong(n) => encode_pong(*n, &mut out),
            Owned::Error(text) => encode_error(text, &mut out),
            Owned::Skipped(kind) => out.extend_from_slice(&[*kind, 0, 0, 2, 7, 7]),
        }
    }
    out
}

fn hello() -> impl Strategy<Value = Owned> {
    (any::<u32>(), any::<u32>(), any::<u16>()).prop_map(|(features, ttl, max_batch)| {
        Owned::Hello(Hello { features, route_ttl: Duration::from_secs(ttl.into()), max_batch })
    })
}

fn either_way() -> impl Strategy<Value = Owned> {
    prop_oneof![
        any::<u64>().prop_map(Owned::Ping),
        any::<u64>().prop_map(Owned::Pong),
        "\\PC{0,40}".prop_map(Owned::Error),
        (0xa0u8..=0xff).prop_map(Owned::Skipped),
    ]
}

fn flow() -> impl Strategy<Value = Flow> {
    let v4 = (any::<[u8; 4]>(), any::<[u8; 4]>()).prop_map(|(a, b)| (IpAddr::from(a), IpAddr::from(b)));
    let v6 = (any::<[u8; 16]>(), any::<[u8; 16]>()).prop_map(|(a, b)| (IpAddr::from(a), IpAddr::from(b)));
    (prop_oneof![v4, v6], any::<u16>(), any::<u16>())
        .prop_map(|((a, b), p, q)| Flow { client: Endpoint::new(a, Port(p)), server: Endpoint::new(b, Port(q)) })
}

fn transport() -> impl Strategy<Value = Transport> {
    prop_oneof![Just(Transport::Tcp), Just(Transport::Udp)]
}

fn payload() -> impl Strategy<Value = Payload> {
    prop_oneof![Just(Payload::Headers), Just(Payload::Full), (1u16..).prop_map(Payload::First)]
}

fn to_intercept() -> impl Strategy<Value = Vec<Owned>> {
    let message = prop_oneof![
        3 => (any::<u64>(), transport(), flow()).prop_map(|(id, transport, flow)| Owned::Add(FlowId(id), transport, flow)),
        1 => (any::<u64>(), payload()).prop_map(|(id, payload)| Owned::Payload(FlowId(id), payload)),
        2 => any::<u64>().prop_map(|id| Owned::Remove(FlowId(id))),
        1 => either_way(),
    ];
    (hello(), prop::collection::vec(message, 0..40)).prop_map(|(h, mut rest)| {
        rest.insert(0, h);
        rest
    })
}

fn to_tcpcopy() -> impl Strategy<Value = Vec<Owned>> {
    let bytes = |len| prop::collection::vec(any::<u8>(), len);
    let response = (any::<(u64, u32, u32, u8, u16, u32)>(), bytes(0..=40), bytes(0..=60))
        .prop_map(|((a, b, c, d, e, f), options, payload)| Owned::Response(a, b, c, d, e, f, options, payload));
    let datagram = (any::<u64>(), any::<u16>(), prop_oneof![bytes(0..=60), bytes(60_000..=65_000)])
        .prop_map(|(id, len, payload)| Owned::Datagram(FlowId(id), len, payload));
    let stats = any::<[u64; 6]>().prop_map(|c| {
        Owned::Stats(LinkStats {
            frames_captured: c[0],
            kernel_drops: c[1],
            unrouted: c[2],
            relayed: c[3],
            overflowed: c[4],
            routes_alive: c[5],
        })
    });
    let message = prop_oneof![5 => response, 1 => datagram, 1 => stats, 1 => either_way()];
    (hello(), prop::collection::vec(message, 0..40)).prop_map(|(h, mut rest)| {
        rest.insert(0, h);
        rest
    })
}

proptest! {
    #[test]
    fn what_tcpcopy_sends_comes_back(messages in to_intercept(), max_batch in 0u16..9) {
        let bytes = encode(&messages, max_batch);
        prop_assert_eq!(decode(Role::Intercept, &[&bytes]).unwrap(), messages);
    }

    #[test]
    fn what_intercept_sends_comes_back(messages in to_tcpcopy(), max_batch in 0u16..9) {
        let bytes = encode(&messages, max_batch);
        prop_assert_eq!(decode(Role::Tcpcopy, &[&bytes]).unwrap(), messages);
    }

    #[test]
    fn where_the_stream_is_split_does_not_matter(messages in to_tcpcopy(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 1..6)) {
        let bytes = encode(&messages, 0);
        let mut at: Vec<usize> = cuts.iter().map(|c| c.index(bytes.len())).collect();
        at.extend([0, bytes.len()]);
        at.sort_unstable();
        let pieces: Vec<&[u8]> = at.windows(2).map(|w| &bytes[w[0]..w[1]]).collect();
        prop_assert_eq!(decode(Role::Tcpcopy, &pieces).unwrap(), messages);
    }

    #[test]
    fn garbage_gives_the_same_answer_however_it_is_split(
        mut bytes in prop::collection::vec(any::<u8>(), 0..300), greeted: bool, to_tcpcopy: bool, kind in 0usize..17, cut: prop::sample::Index,
    ) {
        let role = if to_tcpcopy { Role::Tcpcopy } else { Role::Intercept };
        let mut stream = Vec::new();
        if greeted {
            encode_hello(&Hello::default(), &mut stream);
            // Half the time a type that exists, so that the bodies are reached too.
            if let [k, reserved, high, ..] = &mut bytes[..] {
                *k = [0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x10, 0x12, 0x13, 0x91, 0x20, 0x22, 0x30, 0x31, 0x07, 0x14, *k][kind];
                (*reserved, *high) = (0, 0);
            }
        }
        stream.append(&mut bytes);
        // A wrong magic is reported with as much of it as has come.
        let without_bytes = |e| if let DecodeError::WrongMagic { .. } = e { None } else { Some(e) };
        let whole = decode(role, &[&stream]).map_err(without_bytes);
        let at = cut.index(stream.len() + 1);
        prop_assert_eq!(decode(role, &[&stream[..at], &stream[at..]]).map_err(without_bytes), whole);
    }
}

fn greeted(role: Role, rest: &[u8]) -> Result<Vec<Owned>, DecodeError> {
    let mut stream = Vec::new();
    encode_hello(&Hello::default(), &mut stream);
    stream.extend_from_slice(rest);
    decode(role, &[&stream]).map(|mut m| m.split_off(1))
}

#[test]
fn other_protocols_are_told_by_their_first_byte() {
    for (first, said) in [(&b"G"[..], "47 (\"G\")"), (b"SSH-", "53 53 48 2d (\"SSH-\")"), (b"\x8f\x03", "8f 03")] {
        let error = decode(Role::Intercept, &[first]).unwrap_err();
        assert!(error.to_string().ends_with(said), "{error}");
    }
    let error = decode(Role::Intercept, &[b"\x16\x03"]).unwrap_err().to_string();
    assert!(error.contains("as TLS does") && error.contains("--tls-cert"), "{error}");
    // What the C programs' intercept sends.
    let error = decode(Role::Tcpcopy, &[&[0, 1, 0x45, 0]]).unwrap_err();
    assert!(error.to_string().contains("1.x"), "{error}");
}

#[test]
fn another_version_is_refused_with_both_numbers() {
    let mut bytes = encode(&[Owned::Hello(Hello::default())], 0);
    bytes[5] = 9;
    let error = decode(Role::Intercept, &[&bytes[..HELLO_HEAD_LEN]]).unwrap_err();
    assert_eq!(error, DecodeError::Version { ours: 2, theirs: 9 });
    let text = error.to_string();
    assert!(text.contains("version 9") && text.contains("version 2"), "{text}");
}

#[test]
fn a_longer_hello_and_longer_statistics_of_a_later_release_are_read() {
    let mut bytes = encode(&[Owned::Hello(Hello { features: 5, ..Hello::default() })], 0);
    bytes[7] += 4;
    bytes.extend_from_slice(&[1, 2, 3, 4]);
    let mut stats = encode(&[Owned::Stats(LinkStats { routes_alive: 3, ..LinkStats::default() })], 0);
    stats[3] += 8;
    stats.extend_from_slice(&[0; 8]);
    bytes.append(&mut stats);
    let read = decode(Role::Tcpcopy, &[&bytes]).unwrap();
    assert_eq!(read[0], Owned::Hello(Hello { features: 5, ..Hello::default() }));
    assert_eq!(read[1], Owned::Stats(LinkStats { routes_alive: 3, ..LinkStats::default() }));
}

#[test]
fn each_fault_of_a_frame_is_named() {
    use DecodeError as E;
    let wrong_length = |kind, len| E::Length { kind, len };
    let cases: &[(Role, &[u8], E)] = &[
        (Role::Intercept, &[0x08, 0], E::UnknownKind { kind: 8 }),
        (Role::Intercept, &[0x20, 1], E::Reserved { kind: 0x20, byte: 1 }),
        (Role::Intercept, &[0x20, 0, 0, 7], wrong_length(Kind::Ping, 7)),
        (Role::Intercept, &[0x01, 0, 0, 21], wrong_length(Kind::RouteAddV4, 21)),
        (Role::Intercept, &[0x02, 0, 0, 0], wrong_length(Kind::RouteAddV6, 0)),
        (Role::Intercept, &[0x03, 0, 0, 9], wrong_length(Kind::RouteRemove, 9)),
        (Role::Intercept, &[0x10, 0], E::WrongDirection { kind: Kind::Responses, role: Role::Intercept }),
        (Role::Tcpcopy, &[0x01, 0], E::WrongDirection { kind: Kind::RouteAddV4, role: Role::Tcpcopy }),
        (Role::Tcpcopy, &[0x10, 0, 0, 23], wrong_length(Kind::Responses, 23)),
        (Role::Intercept, &[0x04, 0, 0, 13], wrong_length(Kind::RoutePayload, 13)),
        (Role::Intercept, &[0x05, 0, 0, 19], wrong_length(Kind::UdpRouteAddV4, 19)),
        (Role::Intercept, &[0x13, 0], E::WrongDirection { kind: Kind::Datagrams, role: Role::Intercept }),
        (Role::Tcpcopy, &[0x04, 0], E::WrongDirection { kind: Kind::RoutePayload, role: Role::Tcpcopy }),
        (Role::Tcpcopy, &[0x12, 0, 0, 25], wrong_length(Kind::FullResponses, 25)),
        (Role::Tcpcopy, &[0x13, 0, 0, 11], wrong_length(Kind::Datagrams, 11)),
        (Role::Tcpcopy, &[0x13, 0, 0, 12, 0, 0, 0, 0, 0, 0, 0, 1, 0, 9, 0, 9], wrong_length(Kind::Datagrams, 12)),
        (Role::Tcpcopy, &[0x91, 0, 0, 40], wrong_length(Kind::Stats, 40)),
        (Role::Tcpcopy, &[0x22, 0, 0xff, 0xff], wrong_length(Kind::Error, 65535)),
        (Role::Tcpcopy, &[0x22, 0, 0, 1, 0xff], E::Text),
    ];
    for (role, bytes, expected) in cases {
        assert_eq!(greeted(*role, bytes).unwrap_err(), *expected);
    }
    let mut response = [0u8; 4 + RESPONSE_FIXED_LEN];
    response[0] = 0x10;
    response[3] = RESPONSE_FIXED_LEN as u8;
    response[27] = 41;
    assert_eq!(greeted(Role::Tcpcopy, &response).unwrap_err(), E::OptionsLength { len: 41 });
    response[27] = 4;
    assert_eq!(greeted(Role::Tcpcopy, &response).unwrap_err(), wrong_length(Kind::Responses, 24));
}

#[test]
fn a_batch_never_outgrows_a_frame_nor_what_the_peer_takes() {
    let response = |n| Owned::Response(n, 1, 2, 0x10, 3, 4, vec![1; 40], vec![]);
    let many: Vec<Owned> = (0..3000).map(response).collect();
    let bytes = encode(&many, 0);
    assert_eq!(greeted(Role::Tcpcopy, &bytes).unwrap(), many);
    // 64 bytes each: 1023 in a frame.
    assert_eq!(bytes.len(), 3000 * 64 + 3 * FRAME_HEADER_LEN);
    assert_eq!(encode(&many[..10], 4).len(), 10 * 64 + 3 * FRAME_HEADER_LEN);
}

/// A capture shows merged segments of up to 64 KB and more.
#[test]
fn a_response_that_no_frame_can_hold_is_written_in_parts() {
    let bytes: Vec<u8> = (0..70_000u32).map(|i| (i % 251) as u8).collect();
    // The last 500 bytes were not captured.
    let whole = Owned::Response(7, u32::MAX - 10, 5, 0x19, 9, 70_500, vec![1; 12], bytes.clone());
    let parts = greeted(Role::Tcpcopy, &encode(&[whole], 0)).unwrap();
    let (mut payload, mut next, mut len) = (Vec::new(), u32::MAX - 10, 0);
    for (i, part) in parts.iter().enumerate() {
        let Owned::Response(7, seq, 5, flags, 9, part_len, options, part) = part else { panic!("{part:?}") };
        assert_eq!((*seq, options.len()), (next, 12));
        assert_eq!(*flags, if i + 1 == parts.len() { 0x19 } else { 0x10 });
        next = next.wrapping_add(*part_len);
        len += part_len;
        payload.extend_from_slice(part);
    }
    assert_eq!((len, payload), (70_500, bytes));
}

#[test]
fn a_frame_is_not_continued_behind_another_or_after_seal() {
    let remove = RouteChange::Remove { id: FlowId(7) };
    let (mut batch, mut out) = (BatchEncoder::default(), Vec::new());
    batch.route(&remove, &mut out);
    encode_ping(1, &mut out);
    batch.route(&remove, &mut out);
    let expected = [Owned::Remove(FlowId(7)), Owned::Ping(1), Owned::Remove(FlowId(7))];
    assert_eq!(greeted(Role::Intercept, &out).unwrap(), expected);
    batch.seal();
    batch.route(&remove, &mut out);
    assert_eq!(out.len(), 3 * 12 + 12);
}

/// The examples of docs/protocol.md: fenced blocks that begin with "```hex NAME", with comments from "#" on.
pub(super) fn documented_examples() -> BTreeMap<String, Vec<u8>> {
    let text = include_str!("../../../../docs/protocol.md");
    let mut examples = BTreeMap::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(name) = line.strip_prefix("```hex ") else { continue };
        let bytes = lines
            .by_ref()
            .take_while(|l| *l != "```")
            .flat_map(|l| l.split('#').next().unwrap_or_default().split_whitespace())
            .flat_map(|word| (0..word.len()).step_by(2).map(|i| u8::from_str_radix(&word[i..i + 2], 16).unwrap()))
            .collect();
        assert!(examples.insert(name.to_owned(), bytes).is_none(), "two examples named {name}");
    }
    examples
}

#[test]
fn the_documentation_shows_what_is_sent() {
    let v4 = |a, b, c, d, port| Endpoint::new(IpAddr::V4(Ipv4Addr::new(a, b, c, d)), Port(port));
    let v6 = |last, port| Endpoint::new(IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last)), Port(port));
    let replica = Flow { client: v4(62, 135, 200, 1, 39274), server: v4(10, 1, 0, 2, 18081) };
    let other = Flow { client: v4(62, 135, 200, 1, 39275), server: v4(10, 1, 0, 2, 18081) };
    let resolver = Flow { client: v4(62, 135, 200, 1, 5353), server: v4(10, 1, 0, 2, 53) };
    let replica_v6 = Flow { client: v6(1, 39274), server: v6(2, 80) };
    let resolver_v6 = Flow { client: v6(1, 5353), server: v6(2, 53) };
    let timestamps = vec![1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2];
    let ttl = Duration::from_secs(720);
    let expected: Vec<(&str, Vec<Owned>)> = vec![
        ("hello-tcpcopy", vec![Owned::Hello(Hello { features: 3, route_ttl: ttl, max_batch: 0 })]),
        ("hello-intercept", vec![Owned::Hello(Hello { features: 3, ..Hello::default() })]),
        (
            "route-add-v4",
            vec![
                Owned::Add(FlowId(0x0001_0000_0000_002a), Transport::Tcp, replica),
                Owned::Add(FlowId(43), Transport::Tcp, other),
            ],
        ),
        ("route-add-v6", vec![Owned::Add(FlowId(44), Transport::Tcp, replica_v6)]),
        ("udp-route-add-v4", vec![Owned::Add(FlowId(45), Transport::Udp, resolver)]),
        ("udp-route-add-v6", vec![Owned::Add(FlowId(46), Transport::Udp, resolver_v6)]),
        (
            "route-payload",
            vec![Owned::Payload(FlowId(43), Payload::Full), Owned::Payload(FlowId(45), Payload::First(12))],
        ),
        ("responses-with-payload", vec![Owned::Response(43, 0x1001, 0x2010, 0x18, 501, 4, vec![], b"END\n".to_vec())]),
        ("datagrams", vec![Owned::Datagram(FlowId(45), 45, (1..=12).collect())]),
        ("route-remove", vec![Owned::Remove(FlowId(0x0001_0000_0000_002a)), Owned::Remove(FlowId(43))]),
        (
            "responses",
            vec![
                Owned::Response(43, 0x1000, 0x2000, 0x12, 65535, 0, vec![2, 4, 5, 0xb4], vec![]),
                Owned::Response(43, 0x1001, 0x2010, 0x18, 501, 21, timestamps, vec![]),
            ],
        ),
        (
            "stats",
            vec![Owned::Stats(LinkStats {
                frames_captured: 1000,
                kernel_drops: 0,
                unrouted: 5,
                relayed: 990,
                overflowed: 0,
                routes_alive: 2,
            })],
        ),
        ("ping", vec![Owned::Ping(0x0123_4567_89ab_cdef)]),
        ("pong", vec![Owned::Pong(0x0123_4567_89ab_cdef)]),
        ("error", vec![Owned::Error("nothing received for 30s".to_owned())]),
    ];
    let documented = documented_examples();
    for (name, messages) in &expected {
        assert_eq!(documented.get(*name), Some(&encode(messages, 0)), "{name}: {:02x?}", encode(messages, 0));
    }
    // Those of the authentication are checked in greeting/tests.rs, those of the C programs' link in legacy/tests.rs,
    // those of `doctor` in checks/tests.rs.
    let elsewhere = ["authentication-", "legacy-", "checks-"];
    let checked = documented.keys().filter(|name| !elsewhere.iter().any(|beginning| name.starts_with(beginning)));
    assert_eq!(checked.count(), expected.len(), "an example that nothing checks");
}
