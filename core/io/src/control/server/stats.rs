//! What is counted of the connections to intercept.

use tcpcopy_wire::control::{DecodeError, GreetingError, LegacyError};

use super::super::CloseReason;
use super::super::transport::TlsFault;

/// Counters of the listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServerStats {
    /// Connections accepted.
    pub accepted: u64,
    /// Connections that are up now.
    pub up: u64,
    /// Closed because what came was not the control link.
    pub garbage: u64,
    /// Closed because the other end speaks another version.
    pub other_version: u64,
    /// Closed by the other end before it sent a byte.
    pub unused: u64,
    /// Closed because no hello came in time.
    pub no_hello: u64,
    /// Closed because there were too many.
    pub too_many: u64,
    /// Closed because there were too many from one address.
    pub too_many_of_one: u64,
    /// Closed because their address is not allowed.
    pub not_allowed: u64,
    /// Closed because the other end proved another secret, or sent a proof again that it had heard.
    pub wrong_secret: u64,
    /// Closed because one end has a secret and the other has none.
    pub no_secret: u64,
    /// Closed because something else came in the place of a proof.
    pub unproved: u64,
    /// Closed because they came without TLS.
    pub without_tls: u64,
    /// Closed because the handshake of TLS failed.
    pub tls_failed: u64,
    /// Batches of responses handed to sockets.
    pub writes: u64,
}

impl ServerStats {
    /// Connections that were closed before they were of use, by reason.
    pub fn closed(&self) -> [(&'static str, u64); 12] {
        [
            ("rejected as garbage", self.garbage),
            ("not allowed", self.not_allowed),
            ("wrong secret", self.wrong_secret),
            ("no secret", self.no_secret),
            ("without a proof", self.unproved),
            ("without TLS", self.without_tls),
            ("TLS failed", self.tls_failed),
            ("of another version", self.other_version),
            ("without a word", self.unused),
            ("without a hello", self.no_hello),
            ("too many", self.too_many),
            ("too many from one address", self.too_many_of_one),
        ]
    }

    /// Counts a connection that was closed before it was up.
    pub(super) fn count_rejected(&mut self, reason: &CloseReason) {
        *(match reason {
            CloseReason::NotAllowed => &mut self.not_allowed,
            CloseReason::TooMany { .. } | CloseReason::Occupied => &mut self.too_many,
            CloseReason::TooManyOfOne { .. } => &mut self.too_many_of_one,
            CloseReason::Greeting(GreetingError::WrongProof { .. }) => &mut self.wrong_secret,
            CloseReason::Greeting(GreetingError::OutOfTurn { .. })
            | CloseReason::Protocol(DecodeError::Unproved { .. }) => &mut self.unproved,
            CloseReason::Greeting(_) | CloseReason::CannotProve => &mut self.no_secret,
            CloseReason::Tls(TlsFault::Plain) => &mut self.without_tls,
            CloseReason::Tls(_) => &mut self.tls_failed,
            CloseReason::Protocol(DecodeError::Version { .. } | DecodeError::Legacy(LegacyError::Version { .. })) => {
                &mut self.other_version
            }
            CloseReason::Protocol(_) | CloseReason::Closed | CloseReason::Refused(_) => &mut self.garbage,
            CloseReason::Unused | CloseReason::Io(..) => &mut self.unused,
            _ => &mut self.no_hello,
        }) += 1;
    }
}
