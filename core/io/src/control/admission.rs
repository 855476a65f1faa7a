//! Whom intercept lets in, and what it says to those whom it does not.

use std::io::Write;
use std::net::IpAddr;

use tcpcopy_wire::Timestamp;
use tcpcopy_wire::control::{DecodeError, FEATURE_TLS_ONLY, GreetingError, Hello, encode_error, encode_hello};

use super::CloseReason;
use super::server::ServerConfig;
use super::server::single::Group;
use super::stream::Stream;
use super::tls::TlsServer;
use super::transport::TlsFault;

impl ServerConfig {
    /// Why a connection from this address is closed before anything is read from it, if it is. `there` are the addresses
    /// of the connections that there are.
    pub(super) fn refusal(&self, from: IpAddr, there: impl Iterator<Item = IpAddr> + Clone) -> Option<CloseReason> {
        if !self.allow.is_empty() && !self.allow.iter().any(|network| network.contains(&from)) {
            return Some(CloseReason::NotAllowed);
        }
        if there.clone().count() >= self.max_peers {
            return Some(CloseReason::TooMany { limit: self.max_peers });
        }
        let of_one = there.filter(|address| *address == from).count();
        (of_one >= self.max_per_address).then_some(CloseReason::TooManyOfOne { limit: self.max_per_address })
    }

    /// Why a tcpcopy of the C programs, recognised by its first bytes, is closed, if it is: it can prove nothing.
    pub fn refusal_of_unproved(&self) -> Option<CloseReason> {
        (self.secret.is_some() || self.tls.is_some()).then_some(CloseReason::CannotProve)
    }

    /// Whether a tcpcopy of the C programs is served, and whose connections have to be closed for it.
    pub(super) fn admit_legacy(
        &self,
        group: &mut Group,
        slot: usize,
        now: Timestamp,
    ) -> Result<Vec<usize>, CloseReason> {
        match (self.refusal_of_unproved(), self.single) {
            (Some(reason), _) => Err(reason),
            (None, None) => Ok(Vec::new()),
            (None, Some(policy)) => group.join(policy, slot, now),
        }
    }

    /// Whether whoever reaches the port is let in.
    pub fn lets_everyone_in(&self) -> bool {
        let certificates = self.tls.as_ref().is_some_and(TlsServer::demands_certificate);
        self.secret.is_none() && self.allow.is_empty() && !certificates
    }

    /// What to tell once, when a peer from another host comes and everyone is let in.
    pub fn open_warning(port: u16) -> String {
        format!(
            "anyone who reaches port {port} can register routes, and so read headers and payload of responses that match \
             -F, take over the routes of others, and fill the route table; give --secret-file (here and to tcpcopy) or \
             --allow"
        )
    }

    /// Tells a peer that speaks our protocol, or should, why it is closed, if its socket takes it at once.
    pub(super) fn say_goodbye(&self, stream: &mut Stream, up: bool, reason: &CloseReason) {
        let mut last_words = Vec::new();
        match reason {
            CloseReason::Protocol(DecodeError::Version { .. }) => encode_hello(&self.hello, &mut last_words),
            CloseReason::Tls(TlsFault::Plain) => {
                let features = self.hello.features | FEATURE_TLS_ONLY;
                encode_hello(&Hello { features, ..self.hello }, &mut last_words);
                encode_error(&reason.to_string(), &mut last_words);
                // Not in TLS, which this peer does not speak.
                let _ = stream.socket.socket.write(&last_words);
                return;
            }
            CloseReason::Greeting(error) => {
                // What it was asked, for it may not have gone out yet; or the hello that shows what is wrong.
                last_words.append(&mut stream.out.take());
                if let GreetingError::TcpcopyHasNoSecret | GreetingError::InterceptHasNoSecret = error {
                    stream.own_hello(&mut last_words);
                }
                encode_error(&reason.to_string(), &mut last_words);
            }
            CloseReason::Protocol(_) | CloseReason::Silent(_) if up => {
                encode_error(&reason.to_string(), &mut last_words);
            }
            _ => {}
        }
        if stream.out.is_empty() && !last_words.is_empty() {
            // A courtesy: the connection ends whether it arrives or not.
            let _ = stream.socket.write(&last_words);
        }
        stream.socket.say_end();
    }
}
