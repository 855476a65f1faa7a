use proptest::prelude::*;

use super::super::tests::documented_examples;
use super::super::{Decoder, Hello, Message, Role, encode_hello};
use super::*;

/// The frame's message, behind a hello.
fn decode<T>(role: Role, frame: &[u8], take: impl FnOnce(Message<'_>) -> T) -> Result<Option<T>, DecodeError> {
    let mut hello = Vec::new();
    encode_hello(&Hello::default(), &mut hello);
    let mut decoder = Decoder::new(role);
    decoder.next(&hello)?;
    Ok(decoder.next(frame)?.map(|(message, _)| take(message)))
}

fn questions_of(frame: &[u8]) -> Result<Option<Vec<Question>>, DecodeError> {
    decode(Role::Intercept, frame, |message| match message {
        Message::Questions(questions) => questions.collect(),
        other => panic!("{other:?}"),
    })
}

fn question(transport: Transport, client: &str, server: &str) -> Question {
    let end = |text: &str| text.parse::<std::net::SocketAddr>().unwrap().into();
    Question { transport, flow: Flow { client: end(client), server: end(server) } }
}

fn report() -> HostReport<'static> {
    HostReport {
        clock: 1_000_000_000,
        frames_captured: 1000,
        kernel_drops: 0,
        reads_queue: false,
        forwards_ipv4: Some(false),
        forwards_ipv6: None,
        version: "0.1.0",
        devices: "eth0",
        filter: "tcp",
        answers: Answers { bytes: &[] },
    }
}

const SEEN: Answer = Answer { is_seen: Some(true), server_is_local: false, fate: Fate::Dropped };

#[test]
fn questions_come_back() {
    let asked = [
        question(Transport::Tcp, "10.78.0.1:4000", "10.0.0.2:80"),
        question(Transport::Udp, "[fd78::1]:4000", "[fd00::2]:53"),
    ];
    let mut frame = Vec::new();
    encode_questions(&asked, &mut frame);
    assert_eq!(questions_of(&frame).unwrap().unwrap(), asked);
}

#[test]
fn no_more_questions_are_asked_than_answered() {
    let asked = [question(Transport::Tcp, "10.78.0.1:4000", "10.0.0.2:80"); 20];
    let mut frame = Vec::new();
    encode_questions(&asked, &mut frame);
    assert_eq!(questions_of(&frame).unwrap().unwrap().len(), MAX_QUESTIONS);
    let mut frame = Vec::new();
    encode_host_report(&report(), &[SEEN; 20], &mut frame);
    let answers = decode(Role::Tcpcopy, &frame, |message| match message {
        Message::HostReport(report) => report.answers.count(),
        other => panic!("{other:?}"),
    });
    assert_eq!(answers.unwrap(), Some(MAX_QUESTIONS));
}

#[test]
fn a_longer_report_of_a_later_release_is_read() {
    let mut frame = Vec::new();
    encode_host_report(&report(), &[SEEN], &mut frame);
    frame.extend_from_slice(&[1, 2, 3, 4]);
    frame[3] += 4;
    let filter = decode(Role::Tcpcopy, &frame, |message| match message {
        Message::HostReport(report) => report.filter.to_owned(),
        other => panic!("{other:?}"),
    });
    assert_eq!(filter.unwrap().unwrap(), "tcp");
}

#[test]
fn what_is_wrong_with_them_is_named() {
    let mut frame = Vec::new();
    encode_questions(&[question(Transport::Tcp, "10.78.0.1:4000", "10.0.0.2:80")], &mut frame);
    let mut other_protocol = frame.clone();
    other_protocol[4] = 1;
    let wrong = |kind, len| Err(DecodeError::Length { kind, len });
    assert_eq!(questions_of(&other_protocol), wrong(Kind::Questions, QUESTION_LEN));
    assert_eq!(questions_of(&[0x07, 0, 0, 0]), wrong(Kind::Questions, 0));
    assert_eq!(questions_of(&[0x07, 0, 0, 37]), wrong(Kind::Questions, 37));
    assert_eq!(questions_of(&[0x07, 0, 0xff, 0xff]), wrong(Kind::Questions, 0xffff));
    let to_tcpcopy = decode(Role::Tcpcopy, &frame, |_| ());
    assert_eq!(to_tcpcopy, Err(DecodeError::WrongDirection { kind: Kind::Questions, role: Role::Tcpcopy }));

    let mut frame = Vec::new();
    encode_host_report(&report(), &[SEEN], &mut frame);
    let to_intercept = decode(Role::Intercept, &frame, |_| ());
    assert_eq!(to_intercept, Err(DecodeError::WrongDirection { kind: Kind::HostReport, role: Role::Intercept }));
    let body = frame.len() - FRAME_HEADER_LEN;
    let mut more_answers = frame.clone();
    more_answers[4 + 27] = 17;
    assert_eq!(
        decode(Role::Tcpcopy, &more_answers, |_| ()),
        Err(DecodeError::Length { kind: Kind::HostReport, len: body })
    );
    let mut not_text = frame.clone();
    *not_text.last_mut().unwrap() = 0xff;
    assert_eq!(decode(Role::Tcpcopy, &not_text, |_| ()), Err(DecodeError::Text));
}

fn answer() -> impl Strategy<Value = Answer> {
    let fate = prop::sample::select(vec![
        Fate::Delivered,
        Fate::Dropped,
        Fate::Forwarded,
        Fate::NoRoute,
        Fate::ReversePath,
        Fate::Unknown,
    ]);
    (any::<Option<bool>>(), any::<bool>(), fate).prop_map(|(is_seen, server_is_local, fate)| Answer {
        is_seen,
        server_is_local,
        fate,
    })
}

proptest! {
    #[test]
    fn reports_come_back(
        numbers in any::<[u64; 3]>(), reads_queue: bool, forwards in any::<[Option<bool>; 2]>(),
        texts in ["\\PC{0,20}", "\\PC{0,80}", "\\PC{0,600}"], answers in prop::collection::vec(answer(), 0..=MAX_QUESTIONS),
    ) {
        let sent = HostReport {
            clock: numbers[0],
            frames_captured: numbers[1],
            kernel_drops: numbers[2],
            reads_queue,
            forwards_ipv4: forwards[0],
            forwards_ipv6: forwards[1],
            version: &texts[0],
            devices: &texts[1],
            filter: &texts[2],
            answers: Answers { bytes: &[] },
        };
        let mut frame = Vec::new();
        encode_host_report(&sent, &answers, &mut frame);
        let equal = decode(Role::Tcpcopy, &frame, |message| match message {
            Message::HostReport(came) => {
                came.answers.clone().eq(answers.iter().copied())
                    && HostReport { answers: Answers::default(), ..came } == HostReport {
                        version: super::super::encode::cut(&texts[0], MAX_REPORT_VERSION),
                        devices: super::super::encode::cut(&texts[1], MAX_REPORT_DEVICES),
                        filter: super::super::encode::cut(&texts[2], MAX_REPORT_FILTER),
                        ..sent
                    }
            }
            other => panic!("{other:?}"),
        });
        prop_assert_eq!(equal, Ok(Some(true)));
    }

    /// Whatever stands in the bodies, they are read or refused.
    #[test]
    fn hostile_bodies_are_read_or_refused(kind in prop::sample::select(vec![0x07u8, 0x14]), body in prop::collection::vec(any::<u8>(), 0..700)) {
        let mut frame = vec![kind, 0];
        frame.extend_from_slice(&(body.len() as u16).to_be_bytes());
        frame.extend_from_slice(&body);
        let role = if kind == 0x07 { Role::Intercept } else { Role::Tcpcopy };
        let read = decode(role, &frame, |message| match message {
            Message::Questions(questions) => questions.count() * QUESTION_LEN == body.len(),
            Message::HostReport(report) => report.answers.count() <= MAX_QUESTIONS && report.filter.len() <= MAX_REPORT_FILTER,
            _ => false,
        });
        prop_assert!(matches!(read, Ok(Some(true)) | Err(_)), "{:?}", read);
    }
}

#[test]
fn the_documentation_shows_what_is_sent() {
    let documented = documented_examples();
    let mut frame = Vec::new();
    encode_questions(&[question(Transport::Tcp, "62.135.200.1:39274", "10.1.0.2:18081")], &mut frame);
    assert_eq!(documented.get("checks-questions"), Some(&frame), "{frame:02x?}");
    let mut frame = Vec::new();
    encode_host_report(&report(), &[SEEN], &mut frame);
    assert_eq!(documented.get("checks-report"), Some(&frame), "{frame:02x?}");
}
