//! Sockets of the control link (docs/protocol.md): [`ControlServer`] in intercept, [`ControlLinks`] in tcpcopy.
//!
//! Both are driven by a `mio::Poll` that their owner keeps, in the same way:
//!
//! ```text
//! poll.poll(&mut events, time until the earliest next_deadline());
//! for event in &events { if links.owns(event.token()) { links.handle_event(event, now, &mut sink) } }
//! if next_deadline() <= now { links.handle_timeout(now, &mut sink) }
//! ```
//!
//! Each connection goes over TCP or TLS (`transport`), and begins with a greeting in which the two ends may have to prove
//! that they know a secret (`tcpcopy_wire::control::Greeting`); whom the server lets in at all is decided in `admission`.
//! Until a peer has shown who it is, nothing of it reaches the owner, and no deadline is moved by what it sends.
//!
//! Nothing blocks. mio is edge-triggered, so reading goes on until the socket is empty; a link that sends without end is
//! set aside after a budget, and `next_deadline()` is then in the past until `handle_timeout` has read the rest. Buffers
//! are bounded: what does not fit is refused, and the caller counts it.

mod admission;
mod links;
mod server;
mod stream;
#[cfg(test)]
mod tests;
mod tls;
mod transport;

use std::fmt;
use std::time::Duration;

use tcpcopy_wire::control::{DecodeError, GreetingError};

pub use links::legacy::Protocol;
pub use links::{ControlLinks, LinkEvent, LinksConfig, SendError};
pub use server::single::Single;
pub use server::{BindError, ControlServer, LinkFull, PeerEvent, ServerConfig, ServerStats};
pub use tls::{Identity, TlsClient, TlsError, TlsServer};
pub use transport::TlsFault;

/// Port that intercept listens on unless told otherwise.
pub const DEFAULT_PORT: u16 = 36_524;
/// How long a connection may take to say hello, from its beginning.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(3);
/// Time between two pings that tcpcopy sends.
pub const PING_INTERVAL: Duration = Duration::from_secs(3);

/// Why a control connection ended, or did not come about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The other end closed it.
    Closed,
    /// It was closed before a single byte came: a port scan, or a health check.
    Unused,
    /// The operating system reports an error: connection refused, reset, unreachable, …
    Io(std::io::ErrorKind, String),
    /// The bytes that came are not the control link.
    Protocol(DecodeError),
    /// The other end is not who it should be.
    Greeting(GreetingError),
    /// TLS does not come about.
    Tls(TlsFault),
    /// `--allow` does not have the address.
    NotAllowed,
    /// A client of the C programs, which cannot prove anything, where a proof is demanded.
    CannotProve,
    /// Another tcpcopy of the C programs has come, and one is served (`--single`).
    Replaced,
    /// There is another tcpcopy of the C programs, and one is served (`--single -c`).
    Occupied,
    /// intercept closed the connection at once.
    TurnedAway,
    /// The other end said why it closes.
    Refused(String),
    /// No hello came in time.
    NoHello(Duration),
    /// Nothing came for this long, pings notwithstanding.
    Silent(Duration),
    /// The other end took nothing for this long.
    Stalled(Duration),
    /// Route changes did not fit the buffer.
    Overflow {
        /// Bytes it holds.
        limit: usize,
    },
    /// There are as many connections as allowed.
    TooMany {
        /// How many that is.
        limit: usize,
    },
    /// There are as many connections as allowed from one address.
    TooManyOfOne {
        /// How many that is.
        limit: usize,
    },
}

impl CloseReason {
    /// Whether the other end is there, and one of the two does not want the other: trying again alone will not help.
    pub fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::Greeting(_)
                | Self::Tls(_)
                | Self::TurnedAway
                | Self::Refused(_)
                | Self::Protocol(_)
                | Self::NotAllowed
        )
    }

    /// Whether the two ends are of versions that do not go together, which the text names.
    pub fn names_versions(&self) -> bool {
        use tcpcopy_wire::control::LegacyError;
        matches!(self, Self::Protocol(DecodeError::Version { .. } | DecodeError::Legacy(LegacyError::Version { .. })))
    }

    pub(crate) fn io(e: &std::io::Error) -> Self {
        Self::Io(e.kind(), e.to_string())
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("closed by the other end"),
            Self::Unused => f.write_str("closed before a byte was received"),
            Self::Io(_, text) => f.write_str(text),
            Self::Protocol(e) => e.fmt(f),
            Self::Greeting(e) => e.fmt(f),
            Self::Tls(fault) => fault.fmt(f),
            Self::NotAllowed => f.write_str("--allow does not have its address"),
            Self::CannotProve => f.write_str(
                "a tcpcopy of version 1.x, which knows neither --secret-file nor TLS, and this intercept demands them: use a \
                 tcpcopy of this generation, or an intercept without them (and with --allow)",
            ),
            Self::Replaced => f.write_str(
                "another tcpcopy has come, and with --single one is served at a time: the newest, or with -c the oldest",
            ),
            Self::Occupied => f.write_str("there is a tcpcopy already, and -c keeps newcomers out as long as it is there"),
            Self::TurnedAway => f.write_str(
                "closed by intercept at once: its --allow does not have this host's address, it has too many connections \
                 already, or it is one of version 1.x, for which there is --intercept-protocol legacy; its log says which",
            ),
            Self::Refused(text) => write!(f, "refused by the other end: {text}"),
            Self::NoHello(after) => write!(
                f,
                "no hello within {after:?}; is the other end a tcpcopy or intercept of this generation, and is it not stuck? \
                 (for an intercept of version 1.x tcpcopy has --intercept-protocol legacy)"
            ),
            Self::Silent(after) => write!(f, "nothing received for {after:?}"),
            Self::Stalled(after) => write!(f, "the other end has read nothing for {after:?}"),
            Self::Overflow { limit } => write!(f, "more than {limit} bytes of route changes are waiting to be sent"),
            Self::TooMany { limit } => write!(f, "there are {limit} connections already"),
            Self::TooManyOfOne { limit } => write!(f, "there are {limit} connections from its address already"),
        }
    }
}

impl std::error::Error for CloseReason {}
