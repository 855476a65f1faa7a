use proptest::prelude::*;

use super::super::{DecodeError, Decoder, FRAME_HEADER_LEN};
use super::*;

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

/// One end with its decoder.
struct End {
    greeting: Greeting,
    decoder: Decoder,
    /// The other end's hello, once it has come through.
    up: Option<Hello>,
}

#[derive(Debug, PartialEq)]
enum Fault {
    Greeting(GreetingError),
    Decode(DecodeError),
}

impl End {
    fn new(role: Role, secret: Option<&[u8]>, nonce: u8) -> Self {
        let secret = secret.map(|s| (Secret::new(s).unwrap(), [nonce; NONCE_LEN]));
        let greeting = Greeting::new(role, &Hello { features: 3, ..Hello::default() }, secret);
        let mut decoder = Decoder::new(role);
        decoder.take_proof_only(greeting.demands_proof());
        Self { greeting, decoder, up: None }
    }

    fn hear(&mut self, bytes: &[u8]) -> Result<Vec<u8>, Fault> {
        let (mut at, mut out) = (0, Vec::new());
        while let Some((message, len)) = self.decoder.next(&bytes[at..]).map_err(Fault::Decode)? {
            let done = self.greeting.take(&message, &bytes[at..at + len], &mut out).map_err(Fault::Greeting)?;
            if let Some(hello) = done {
                self.up = Some(hello);
            }
            at += len;
        }
        Ok(out)
    }
}

fn pair(of_tcpcopy: Option<&[u8]>, of_intercept: Option<&[u8]>) -> (End, End) {
    (End::new(Role::Tcpcopy, of_tcpcopy, 1), End::new(Role::Intercept, of_intercept, 2))
}

/// What tcpcopy, intercept and tcpcopy again say, in a greeting that works.
fn conversation(tcpcopy: &mut End, intercept: &mut End) -> [Vec<u8>; 4] {
    let mut first = Vec::new();
    tcpcopy.greeting.begin(&mut first);
    let second = intercept.hear(&first).unwrap();
    let third = tcpcopy.hear(&second).unwrap();
    let fourth = intercept.hear(&third).unwrap();
    tcpcopy.hear(&fourth).unwrap();
    [first, second, third, fourth]
}

#[test]
fn without_a_secret_two_hellos_are_enough() {
    let (mut tcpcopy, mut intercept) = pair(None, None);
    let [first, second, third, fourth] = conversation(&mut tcpcopy, &mut intercept);
    assert_eq!((first.len(), second.len(), third.len(), fourth.len()), (20, 20, 0, 0));
    assert_eq!((tcpcopy.up.unwrap().features, intercept.up.unwrap().features), (3, 3));
}

#[test]
fn with_the_secret_each_proves_before_it_is_up() {
    let (mut tcpcopy, mut intercept) = pair(Some(SECRET), Some(SECRET));
    let mut first = Vec::new();
    tcpcopy.greeting.begin(&mut first);
    let second = intercept.hear(&first).unwrap();
    assert!(intercept.up.is_none());
    let third = tcpcopy.hear(&second).unwrap();
    assert!(tcpcopy.up.is_none());
    let fourth = intercept.hear(&third).unwrap();
    assert_eq!(intercept.up.unwrap().features, 3 | FEATURE_AUTHENTICATION);
    assert!(tcpcopy.hear(&fourth).unwrap().is_empty());
    assert_eq!(tcpcopy.up.unwrap().features, 3 | FEATURE_AUTHENTICATION);
    assert_ne!(third, fourth, "the two proofs differ");
}

#[test]
fn who_lacks_the_secret_is_named() {
    let (tcpcopy, mut intercept) = pair(None, Some(SECRET));
    let mut first = Vec::new();
    tcpcopy.greeting.begin(&mut first);
    assert_eq!(intercept.hear(&first), Err(Fault::Greeting(GreetingError::TcpcopyHasNoSecret)));

    let (tcpcopy, mut intercept) = pair(Some(SECRET), None);
    first.clear();
    tcpcopy.greeting.begin(&mut first);
    assert_eq!(intercept.hear(&first), Err(Fault::Greeting(GreetingError::InterceptHasNoSecret)));

    // The same, seen from tcpcopy.
    for (ours, theirs, error) in [
        (None, Some(SECRET), GreetingError::TcpcopyHasNoSecret),
        (Some(SECRET), None, GreetingError::InterceptHasNoSecret),
    ] {
        let mut hello = Vec::new();
        End::new(Role::Intercept, theirs, 2).greeting.speak(&mut hello);
        assert_eq!(End::new(Role::Tcpcopy, ours, 1).hear(&hello), Err(Fault::Greeting(error.clone())));
        assert!(error.to_string().contains("--secret-file"));
    }
}

#[test]
fn another_secret_proves_nothing() {
    let (mut tcpcopy, mut intercept) = pair(Some(b"another secret, as long"), Some(SECRET));
    let mut first = Vec::new();
    tcpcopy.greeting.begin(&mut first);
    let second = intercept.hear(&first).unwrap();
    let third = tcpcopy.hear(&second).unwrap();
    let error = GreetingError::WrongProof { by: Role::Tcpcopy };
    assert_eq!(intercept.hear(&third), Err(Fault::Greeting(error)));
    assert!(intercept.up.is_none());
}

/// An intercept without the secret, that lets everyone in, is still refused by tcpcopy.
#[test]
fn an_intercept_that_cannot_prove_itself_is_refused() {
    let (mut tcpcopy, mut intercept) = pair(Some(SECRET), Some(SECRET));
    let [_, second, _, fourth] = conversation(&mut tcpcopy, &mut intercept);
    let mut again = End::new(Role::Tcpcopy, Some(SECRET), 9);
    again.hear(&second).unwrap();
    let error = GreetingError::WrongProof { by: Role::Intercept };
    assert_eq!(again.hear(&fourth), Err(Fault::Greeting(error)), "a recorded proof, another nonce");
}

#[test]
fn what_was_recorded_is_worthless() {
    let (mut tcpcopy, mut intercept) = pair(Some(SECRET), Some(SECRET));
    let [first, _, third, _] = conversation(&mut tcpcopy, &mut intercept);
    let mut next = End::new(Role::Intercept, Some(SECRET), 3);
    next.hear(&first).unwrap();
    let error = GreetingError::WrongProof { by: Role::Tcpcopy };
    assert_eq!(next.hear(&third), Err(Fault::Greeting(error)));
    // Even with the same nonce of intercept's, which never happens, another hello does not pass.
    let mut same_nonce = End::new(Role::Intercept, Some(SECRET), 2);
    let mut altered = first.clone();
    altered[15] ^= 1;
    same_nonce.hear(&altered).unwrap();
    let error = GreetingError::WrongProof { by: Role::Tcpcopy };
    assert_eq!(same_nonce.hear(&third), Err(Fault::Greeting(error)));
}

/// Whoever has intercept prove itself to him gets nothing that tcpcopy's place could be taken with.
#[test]
fn a_proof_that_is_sent_back_is_worthless() {
    let mut intercept = End::new(Role::Intercept, Some(SECRET), 2);
    let (mut first, mut mirrored) = (Vec::new(), Vec::new());
    End::new(Role::Tcpcopy, Some(SECRET), 2).greeting.begin(&mut first);
    intercept.hear(&first).unwrap();
    // Its own nonce as the challenge, and the proof that it would itself give.
    intercept.greeting.prove(&mut mirrored);
    let error = GreetingError::WrongProof { by: Role::Tcpcopy };
    assert_eq!(intercept.hear(&mirrored), Err(Fault::Greeting(error)));
}

#[test]
fn a_proof_belongs_to_its_channel() {
    let (mut tcpcopy, mut intercept) = pair(Some(SECRET), Some(SECRET));
    tcpcopy.greeting.bind(b"the channel to the one in the middle");
    intercept.greeting.bind(b"the channel from the one in the middle");
    let mut first = Vec::new();
    tcpcopy.greeting.begin(&mut first);
    let second = intercept.hear(&first).unwrap();
    let third = tcpcopy.hear(&second).unwrap();
    assert!(matches!(intercept.hear(&third), Err(Fault::Greeting(GreetingError::WrongProof { .. }))));
}

#[test]
fn nothing_else_is_taken_before_the_proof() {
    let hello = {
        let mut bytes = Vec::new();
        pair(Some(SECRET), None).0.greeting.begin(&mut bytes);
        bytes
    };
    // By its first two bytes, before the body has come: of a type that is known, and of one that is to be skipped.
    for kind in [0x01u8, 0x04, 0x20, 0x21, 0x91, 0xf0] {
        let mut intercept = End::new(Role::Intercept, Some(SECRET), 2);
        intercept.hear(&hello).unwrap();
        assert_eq!(intercept.hear(&[kind, 0]), Err(Fault::Decode(DecodeError::Unproved { kind })));
    }
    let wrong_length = |kind, len| Err(Fault::Decode(DecodeError::Length { kind, len }));
    let mut intercept = End::new(Role::Intercept, Some(SECRET), 2);
    intercept.hear(&hello).unwrap();
    assert_eq!(intercept.hear(&[0x31, 0, 0xff, 0xff]), wrong_length(Kind::Proof, 65535));
}

#[test]
fn the_order_is_kept() {
    let (tcpcopy, mut intercept) = pair(Some(SECRET), Some(SECRET));
    let mut first = Vec::new();
    tcpcopy.greeting.begin(&mut first);
    let challenge = first.split_off(20);
    let mut proof = vec![0x31, 0, 0, 32];
    proof.extend_from_slice(&[0; PROOF_LEN]);
    let mut early = End::new(Role::Intercept, Some(SECRET), 2);
    early.hear(&first).unwrap();
    assert_eq!(early.hear(&proof), Err(Fault::Greeting(GreetingError::OutOfTurn { kind: Kind::Proof })));
    intercept.hear(&first).unwrap();
    intercept.hear(&challenge).unwrap();
    assert_eq!(intercept.hear(&challenge), Err(Fault::Greeting(GreetingError::OutOfTurn { kind: Kind::Challenge })));
    // And who has no secret is not asked for one.
    let mut open = End::new(Role::Intercept, None, 2);
    open.hear(&{
        let mut hello = Vec::new();
        End::new(Role::Tcpcopy, None, 1).greeting.begin(&mut hello);
        hello
    })
    .unwrap();
    assert_eq!(open.hear(&challenge), Err(Fault::Decode(DecodeError::Unasked { kind: Kind::Challenge })));
}

#[test]
fn an_intercept_that_serves_tls_only_says_so() {
    let mut hello = Vec::new();
    encode_hello(&Hello { features: FEATURE_TLS_ONLY | FEATURE_AUTHENTICATION, ..Hello::default() }, &mut hello);
    let mut tcpcopy = End::new(Role::Tcpcopy, None, 1);
    assert_eq!(tcpcopy.hear(&hello), Err(Fault::Greeting(GreetingError::TlsOnly)));
}

#[test]
fn a_secret_is_long_enough_and_never_shown() {
    assert_eq!(Secret::new(&SECRET[..15]).unwrap_err(), ShortSecret { len: 15 });
    let secret = Secret::new(SECRET).unwrap();
    assert_eq!(format!("{secret:?}"), "Secret");
}

/// The examples of docs/protocol.md, checked against an independent computation when they were written.
#[test]
fn the_documented_proofs_are_right() {
    let hello = |role, nonce: u8| {
        let secret = Some((Secret::new(SECRET).unwrap(), std::array::from_fn(|i| nonce + i as u8)));
        let mut decoder = Decoder::new(role);
        decoder.take_proof_only(true);
        End { greeting: Greeting::new(role, &Hello { features: 3, ..Hello::default() }, secret), decoder, up: None }
    };
    let (mut tcpcopy, mut intercept) = (hello(Role::Tcpcopy, 0x00), hello(Role::Intercept, 0x80));
    let said = conversation(&mut tcpcopy, &mut intercept);
    let text = include_str!("../../../../../docs/protocol.md");
    for (name, bytes) in
        ["authentication-1", "authentication-2", "authentication-3", "authentication-4"].iter().zip(&said)
    {
        let block = text.split(&format!("```hex {name}\n")).nth(1).and_then(|rest| rest.split("```").next());
        let block = block.unwrap_or_else(|| panic!("no example {name}"));
        let digits: String =
            block.lines().filter_map(|l| l.split('#').next()).flat_map(str::split_whitespace).collect();
        let documented: Vec<u8> =
            (0..digits.len()).step_by(2).map(|i| u8::from_str_radix(&digits[i..i + 2], 16).unwrap()).collect();
        assert_eq!(&documented, bytes, "{name}");
    }
    assert_eq!(said[2].len(), FRAME_HEADER_LEN + PROOF_LEN);
}

/// One thing that a stranger may do. He has heard a connection that worked, and hears what he is answered.
#[derive(Clone, Debug)]
enum Move {
    /// Says a part of what tcpcopy or intercept said.
    Repeat(usize),
    /// Says what he was answered last.
    Echo,
    /// Sends a challenge or a proof of his own making.
    Invent(bool, [u8; 32]),
    Garbage(Vec<u8>),
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        4 => (0usize..4).prop_map(Move::Repeat),
        2 => Just(Move::Echo),
        2 => any::<(bool, [u8; 32])>().prop_map(|(proof, bytes)| Move::Invent(proof, bytes)),
        1 => prop::collection::vec(any::<u8>(), 0..50).prop_map(Move::Garbage),
    ];
    prop::collection::vec(one, 0..8)
}

proptest! {
    #[test]
    fn a_stranger_never_gets_in(moves in moves(), at_tcpcopy: bool) {
        let (mut tcpcopy, mut intercept) = pair(Some(SECRET), Some(SECRET));
        let said = conversation(&mut tcpcopy, &mut intercept);
        let mut end = End::new(if at_tcpcopy { Role::Tcpcopy } else { Role::Intercept }, Some(SECRET), 77);
        let mut heard = Vec::new();
        end.greeting.begin(&mut heard);
        for one in moves {
            let mut bytes = Vec::new();
            match one {
                Move::Repeat(part) => bytes.clone_from(&said[part]),
                Move::Echo => bytes.clone_from(&heard),
                Move::Invent(true, proof) => encode_proof(&proof, &mut bytes),
                Move::Invent(false, nonce) => encode_challenge(&nonce, &mut bytes),
                Move::Garbage(garbage) => bytes = garbage,
            }
            match end.hear(&bytes) {
                Ok(answer) => heard = answer,
                Err(_) => break,
            }
        }
        prop_assert!(end.up.is_none());
    }
}
