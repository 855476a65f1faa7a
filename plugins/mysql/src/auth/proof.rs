//! Proofs of passwords.

use ed25519_dalek::VerifyingKey;
use ed25519_dalek::hazmat::{ExpandedSecretKey, raw_sign};
use rand_core::OsRng;
use rsa::pkcs8::DecodePublicKey;
use rsa::{Oaep, RsaPublicKey};
use sha1::Sha1;
use sha2::{Digest, Sha256, Sha512};

/// The largest key that is used. What a larger one costs is the other side's choice, and it runs on the thread that copies.
const LARGEST_KEY: usize = 4096 / 8;

fn xor<const N: usize>(mut a: [u8; N], b: [u8; N]) -> [u8; N] {
    for (a, b) in a.iter_mut().zip(b) {
        *a ^= b;
    }
    a
}

/// mysql_native_password: SHA1(password) XOR SHA1(salt, SHA1(SHA1(password))).
pub(super) fn native(password: &[u8], salt: &[u8]) -> [u8; 20] {
    let once = Sha1::digest(password);
    let twice = Sha1::digest(once);
    xor(once.into(), Sha1::new().chain_update(salt).chain_update(twice).finalize().into())
}

/// caching_sha2_password: SHA256(password) XOR SHA256(SHA256(SHA256(password)), salt).
pub(super) fn caching_sha2(password: &[u8], salt: &[u8]) -> [u8; 32] {
    let once = Sha256::digest(password);
    let twice = Sha256::digest(once);
    xor(once.into(), Sha256::new().chain_update(twice).chain_update(salt).finalize().into())
}

/// The password, with a NUL behind it, mixed with the salt and encrypted for the owner of a key in PEM. `None`: the key
/// cannot be used.
///
/// The `rsa` crate's known weakness in timing concerns those who decrypt; here is only a public key.
pub(super) fn encrypted(password: &[u8], salt: &[u8], key: &[u8]) -> Option<Vec<u8>> {
    let key = RsaPublicKey::from_public_key_pem(std::str::from_utf8(key).ok()?.trim_end_matches('\0')).ok()?;
    if rsa::traits::PublicKeyParts::size(&key) > LARGEST_KEY {
        return None;
    }
    let mixed: Vec<u8> =
        password.iter().chain(&[0]).zip(salt.iter().cycle()).map(|(password, salt)| password ^ salt).collect();
    key.encrypt(&mut OsRng, Oaep::new::<Sha1>(), &mixed).ok()
}

/// client_ed25519: the salt's signature with a key that is made of the password. It is Ed25519 (RFC 8032) with the
/// password in the place of the secret, of whatever length.
pub(super) fn ed25519(password: &[u8], salt: &[u8]) -> Vec<u8> {
    let secret = ExpandedSecretKey::from_bytes(&Sha512::digest(password).into());
    let public = VerifyingKey::from(&secret);
    raw_sign::<Sha512>(&secret, salt, &public).to_bytes().to_vec()
}
