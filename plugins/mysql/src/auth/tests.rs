use ed25519_dalek::VerifyingKey;
use ed25519_dalek::hazmat::{ExpandedSecretKey, raw_verify};
use proptest::prelude::*;
use rand_core::OsRng;
use rsa::pkcs8::{EncodePublicKey, LineEnding};
use rsa::{Oaep, RsaPrivateKey};
use sha1::Sha1;
use sha2::{Digest, Sha256, Sha512};

use super::*;

const SALT: [u8; SALT_LEN] = *b"abcdefghijklmnopqrst";

fn exchange(plugin: Plugin) -> Exchange {
    Exchange::new(Password::new(b"s3cret"), plugin.name().as_bytes(), SALT)
}

/// As a server does that knows SHA1(SHA1(password)) alone.
fn native_holds(proof: &[u8], salt: &[u8]) -> bool {
    let stored = Sha1::digest(Sha1::digest(b"s3cret"));
    let mask = Sha1::new().chain_update(salt).chain_update(stored).finalize();
    let once: Vec<u8> = proof.iter().zip(mask).map(|(a, b)| a ^ b).collect();
    Sha1::digest(&once) == stored
}

/// As a server does that remembers SHA256(SHA256(password)).
fn sha2_holds(proof: &[u8], salt: &[u8]) -> bool {
    let stored = Sha256::digest(Sha256::digest(b"s3cret"));
    let mask = Sha256::new().chain_update(stored).chain_update(salt).finalize();
    let once: Vec<u8> = proof.iter().zip(mask).map(|(a, b)| a ^ b).collect();
    Sha256::digest(&once) == stored
}

fn switch(plugin: &str, salt: &[u8]) -> Vec<u8> {
    [b"\xfe", plugin.as_bytes(), b"\0", salt, b"\0"].concat()
}

#[test]
fn a_server_believes_the_proofs() {
    assert!(native_holds(&exchange(Plugin::Native).first_proof(), &SALT));
    assert!(sha2_holds(&exchange(Plugin::CachingSha2).first_proof(), &SALT));
}

#[test]
fn another_plugin_is_used_when_the_server_wants_it() {
    let other = *b"ABCDEFGHIJKLMNOPQRST";
    let mut login = exchange(Plugin::CachingSha2);
    login.first_proof();
    let Ok(Step::Send(proof)) = login.on_packet(&switch("mysql_native_password", &other)) else { panic!() };
    assert!(native_holds(&proof, &other) && login.plugin() == Plugin::Native);
    assert_eq!(login.on_packet(&[0, 0, 0, 2, 0, 0, 0]), Ok(Step::Done));

    let mut login = exchange(Plugin::Native);
    let Ok(Step::Send(proof)) = login.on_packet(&switch("caching_sha2_password", &other)) else { panic!() };
    assert!(sha2_holds(&proof, &other));
    assert_eq!(login.on_packet(&[1, 3]), Ok(Step::Wait), "it remembers");
    assert_eq!(login.on_packet(&[0, 0, 0, 2, 0, 0, 0]), Ok(Step::Done));
}

/// Asks for the key, and decrypts what comes for it.
#[test]
fn the_password_goes_encrypted_to_a_server_that_wants_all_of_it() {
    let private = RsaPrivateKey::new(&mut OsRng, 1024).unwrap();
    let key = private.to_public_key().to_public_key_pem(LineEnding::LF).unwrap();
    let reveal = |encrypted: &[u8]| -> Vec<u8> {
        let mixed = private.decrypt(Oaep::new::<Sha1>(), encrypted).unwrap();
        mixed.iter().zip(SALT.iter().cycle()).map(|(a, b)| a ^ b).collect()
    };
    let key_packet = [b"\x01", key.as_bytes()].concat();

    let mut login = exchange(Plugin::CachingSha2);
    login.first_proof();
    assert_eq!(login.on_packet(&[1, 4]), Ok(Step::Send(vec![2])));
    let Ok(Step::Send(encrypted)) = login.on_packet(&key_packet) else { panic!() };
    assert_eq!(reveal(&encrypted), b"s3cret\0");
    assert!(login.on_packet(&key_packet).is_err(), "it was not asked for twice");

    let mut login = exchange(Plugin::Sha256);
    assert_eq!(login.first_proof(), [1]);
    let Ok(Step::Send(encrypted)) = login.on_packet(&key_packet) else { panic!() };
    assert_eq!(reveal(&encrypted), b"s3cret\0");
    for garbage in
        [&b"\x01no key"[..], b"\x01-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", b"\x01\xff"]
    {
        let mut login = exchange(Plugin::Sha256);
        login.first_proof();
        assert_eq!(login.on_packet(garbage), Err(AuthError::Malformed(Malformed("the target's public key"))));
    }
}

#[test]
fn mariadb_verifies_the_signature_with_the_key_that_it_stores() {
    let salt = [7; 32];
    let mut login = exchange(Plugin::Native);
    let Ok(Step::Send(signature)) = login.on_packet(&switch("client_ed25519", &salt)) else { panic!() };
    let stored = VerifyingKey::from(&ExpandedSecretKey::from_bytes(&Sha512::digest(b"s3cret").into()));
    let signature = ed25519_dalek::Signature::from_slice(&signature).unwrap();
    assert!(raw_verify::<Sha512>(&stored, &salt, &signature).is_ok());
}

#[test]
fn an_empty_password_is_shown_as_none() {
    for plugin in [Plugin::Native, Plugin::CachingSha2, Plugin::Sha256] {
        let mut login = Exchange::new(Password::default(), plugin.name().as_bytes(), SALT);
        assert_eq!(login.first_proof(), b"");
        let Ok(Step::Send(answer)) = login.on_packet(&switch(plugin.name(), &SALT)) else { panic!() };
        assert_eq!(answer, if plugin == Plugin::Native { &b""[..] } else { &[0] });
    }
}

#[test]
fn what_cannot_be_done_is_named() {
    let unsupported = |name: &str| Err(AuthError::Unsupported(name.to_owned()));
    assert_eq!(
        exchange(Plugin::Native).on_packet(&switch("mysql_clear_password", &[])),
        unsupported("mysql_clear_password")
    );
    assert_eq!(exchange(Plugin::Native).on_packet(&switch("dialog", b"Password: ")), unsupported("dialog"));
    assert_eq!(exchange(Plugin::Native).on_packet(&[0xfe]), unsupported("mysql_old_password"));
    let refused = exchange(Plugin::Native).on_packet(b"\xff\x15\x04#28000Access denied").unwrap_err();
    assert_eq!(refused.to_string(), "the target refused it: 1045 Access denied");
}

#[test]
fn a_password_does_not_show_itself() {
    assert!(!format!("{:?}", exchange(Plugin::Native)).contains("s3cret"));
}

proptest! {
    #[test]
    fn no_packet_panics(packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 1..5)) {
        for plugin in Plugin::ALL {
            let mut login = exchange(plugin);
            login.first_proof();
            for packet in &packets {
                let _ = login.on_packet(packet);
            }
        }
    }
}
