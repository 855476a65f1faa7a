//! The beginning of a connection: a hello from each end and, where there is a secret, the proof that each end knows it.
//!
//! # Theory of operation
//!
//! ```text
//! tcpcopy                                     intercept
//!    | hello, challenge (its nonce)  ----------> |
//!    | <----------  hello, challenge (its nonce) |
//!    | proof ----------------------------------> |  refuses a wrong one; tcpcopy is up
//!    | <---------------------------------- proof |
//!    |  refuses a wrong one; intercept is up
//! ```
//!
//! A proof is HMAC-SHA256 (RFC 2104, FIPS 180-4) under the secret, over a label, the role of the one who proves, both
//! nonces, both hellos as they were sent, and what is unique to the channel below (RFC 9266; empty without TLS). So a proof
//! is good for one connection, one direction, and these very hellos: one that was recorded answers an old nonce, one that
//! is sent back has the wrong role, and what was altered on its way was not what the other end signed.
//!
//! tcpcopy, which connects, proves first: whoever merely reaches intercept's port gets no proof to try guesses on. Until
//! the other end has proved itself, a [`Decoder`](super::Decoder) with
//! [`take_proof_only`](super::Decoder::take_proof_only) takes nothing else from it.
//!
//! Nonces come from the caller, 32 bytes from the system's random numbers for each connection.

use std::fmt;
use std::sync::Arc;

use hmac::{Hmac, Mac};
use sha2::Sha256;

use super::encode::{encode_challenge, encode_hello, encode_proof};
use super::frame::{FEATURE_AUTHENTICATION, FEATURE_TLS_ONLY, Kind, NONCE_LEN, PROOF_LEN};
use super::{Hello, Message, Role};

/// Bytes of the shortest secret.
pub const MIN_SECRET_LEN: usize = 16;

/// What every proof begins with, so that a proof means nothing where the same secret is used for something else.
const LABEL: &[u8] = b"tcpcopy control link 2 proof\0";

/// What both ends know and nobody else does. Never shown, not even by `Debug`.
#[derive(Clone)]
pub struct Secret(Arc<[u8]>);

/// A secret of too few bytes to be one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShortSecret {
    /// How many there are.
    pub len: usize,
}

impl fmt::Display for ShortSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the secret has {} bytes; it must have {MIN_SECRET_LEN} or more", self.len)
    }
}

impl std::error::Error for ShortSecret {}

impl Secret {
    /// A secret of these bytes.
    ///
    /// # Errors
    /// When there are fewer than [`MIN_SECRET_LEN`].
    pub fn new(bytes: &[u8]) -> Result<Self, ShortSecret> {
        if bytes.len() < MIN_SECRET_LEN { Err(ShortSecret { len: bytes.len() }) } else { Ok(Self(bytes.into())) }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Why two ends do not come together. The text is for the logs of both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GreetingError {
    /// intercept has a secret, tcpcopy has none.
    TcpcopyHasNoSecret,
    /// tcpcopy has a secret, intercept has none.
    InterceptHasNoSecret,
    /// A proof is wrong: another secret, or a proof that was made for another connection.
    WrongProof {
        /// Who sent it.
        by: Role,
    },
    /// intercept serves TLS only, and tcpcopy came without.
    TlsOnly,
    /// A part of a proof that is not due.
    OutOfTurn {
        /// What came.
        kind: Kind,
    },
}

impl fmt::Display for GreetingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TcpcopyHasNoSecret => f.write_str(
                "intercept was started with --secret-file and tcpcopy was not: give tcpcopy a --secret-file with the same \
                 secret",
            ),
            Self::InterceptHasNoSecret => f.write_str(
                "tcpcopy was started with --secret-file and intercept was not: give intercept a --secret-file with the \
                 same secret",
            ),
            Self::WrongProof { by } => {
                let (who, whose) = match by {
                    Role::Tcpcopy => ("tcpcopy", "intercept"),
                    Role::Intercept => ("intercept", "tcpcopy"),
                };
                write!(
                    f,
                    "{who} has not proved that it knows the secret of {whose}: the first lines of the files that both were \
                     given with --secret-file must be the same"
                )
            }
            Self::TlsOnly => f.write_str(
                "intercept was started with --tls-cert and serves TLS only: give tcpcopy --tls-ca, with the certificate \
                 of the authority that signed intercept's",
            ),
            Self::OutOfTurn { kind } => write!(f, "a {kind} that is not due"),
        }
    }
}

impl std::error::Error for GreetingError {}

/// One end of a connection that has just begun.
#[derive(Clone, Debug)]
pub struct Greeting {
    role: Role,
    /// What this end says, as it goes over the link.
    our_hello: Vec<u8>,
    secret: Option<(Secret, [u8; NONCE_LEN])>,
    channel: Vec<u8>,
    their_hello: Option<(Hello, Vec<u8>)>,
    their_nonce: Option<[u8; NONCE_LEN]>,
}

impl Greeting {
    /// The beginning of a connection, at the end `role`. `secret`: with random bytes that were never used before.
    pub fn new(role: Role, hello: &Hello, secret: Option<(Secret, [u8; NONCE_LEN])>) -> Self {
        let mut our_hello = Vec::new();
        let asks = if secret.is_some() { FEATURE_AUTHENTICATION } else { 0 };
        let features = hello.features & !(FEATURE_AUTHENTICATION | FEATURE_TLS_ONLY) | asks;
        encode_hello(&Hello { features, ..*hello }, &mut our_hello);
        Self { role, our_hello, secret, channel: Vec::new(), their_hello: None, their_nonce: None }
    }

    /// Whether the other end has to prove itself.
    pub fn demands_proof(&self) -> bool {
        self.secret.is_some()
    }

    /// The hello of this end, as it goes over the link.
    pub fn own_hello(&self) -> &[u8] {
        &self.our_hello
    }

    /// Binds the proofs to a secure channel: bytes that both its ends know, and that no other channel has. To be called
    /// before the first [`take`](Self::take).
    pub fn bind(&mut self, channel: &[u8]) {
        self.channel = channel.to_vec();
    }

    /// Appends what this end says without having heard anything. intercept says nothing.
    pub fn begin(&self, out: &mut Vec<u8>) {
        if self.role == Role::Tcpcopy {
            self.speak(out);
        }
    }

    /// Takes a message, which came as the bytes `raw`, and appends what it is answered with. The other end's hello comes
    /// back as soon as it is the one that it should be: then the greeting is over.
    ///
    /// # Errors
    /// Why the connection must end. The greeting must not be used again.
    pub fn take(
        &mut self,
        message: &Message<'_>,
        raw: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Option<Hello>, GreetingError> {
        match message {
            Message::Hello(hello) => self.take_hello(*hello, raw, out),
            Message::Challenge(nonce) => {
                if self.their_hello.is_none() || self.their_nonce.is_some() {
                    return Err(GreetingError::OutOfTurn { kind: Kind::Challenge });
                }
                self.their_nonce = Some(*nonce);
                if self.role == Role::Tcpcopy {
                    self.prove(out);
                }
                Ok(None)
            }
            Message::Proof(proof) => {
                let by = if self.role == Role::Tcpcopy { Role::Intercept } else { Role::Tcpcopy };
                let Some(mac) = self.mac(by) else { return Err(GreetingError::OutOfTurn { kind: Kind::Proof }) };
                // In constant time: how much of a guess is right must not show.
                mac.verify_slice(proof).map_err(|_| GreetingError::WrongProof { by })?;
                if self.role == Role::Intercept {
                    self.prove(out);
                }
                Ok(self.their_hello.take().map(|(hello, _)| hello))
            }
            _ => Ok(None),
        }
    }

    fn take_hello(&mut self, hello: Hello, raw: &[u8], out: &mut Vec<u8>) -> Result<Option<Hello>, GreetingError> {
        let lacking = |role| match role {
            Role::Tcpcopy => GreetingError::TcpcopyHasNoSecret,
            Role::Intercept => GreetingError::InterceptHasNoSecret,
        };
        let other = if self.role == Role::Tcpcopy { Role::Intercept } else { Role::Tcpcopy };
        if self.role == Role::Tcpcopy && hello.features & FEATURE_TLS_ONLY != 0 && self.channel.is_empty() {
            return Err(GreetingError::TlsOnly);
        }
        match (self.demands_proof(), hello.features & FEATURE_AUTHENTICATION != 0) {
            (true, false) => return Err(lacking(other)),
            (false, true) => return Err(lacking(self.role)),
            _ => {}
        }
        if self.role == Role::Intercept {
            self.speak(out);
        }
        if self.demands_proof() {
            self.their_hello = Some((hello, raw.to_vec()));
            return Ok(None);
        }
        Ok(Some(hello))
    }

    fn speak(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.our_hello);
        if let Some((_, nonce)) = &self.secret {
            encode_challenge(nonce, out);
        }
    }

    fn prove(&self, out: &mut Vec<u8>) {
        if let Some(mac) = self.mac(self.role) {
            let proof: [u8; PROOF_LEN] = mac.finalize().into_bytes().into();
            encode_proof(&proof, out);
        }
    }

    /// The proof of an end, once all is known that it is about.
    fn mac(&self, by: Role) -> Option<Hmac<Sha256>> {
        let (secret, our_nonce) = self.secret.as_ref()?;
        let ((_, their_hello), their_nonce) = (self.their_hello.as_ref()?, self.their_nonce.as_ref()?);
        let ours = (&our_nonce[..], &self.our_hello[..]);
        let theirs = (&their_nonce[..], &their_hello[..]);
        let (tcpcopy, intercept) = if self.role == Role::Tcpcopy { (ours, theirs) } else { (theirs, ours) };
        let mut mac = Hmac::<Sha256>::new_from_slice(&secret.0).ok()?;
        mac.update(LABEL);
        mac.update(&[match by {
            Role::Tcpcopy => 1,
            Role::Intercept => 2,
        }]);
        mac.update(tcpcopy.0);
        mac.update(intercept.0);
        for part in [tcpcopy.1, intercept.1, &self.channel] {
            mac.update(&(part.len() as u16).to_be_bytes());
            mac.update(part);
        }
        Some(mac)
    }
}

#[cfg(test)]
mod tests;
