//! What can be wrong with captured bytes.

use std::fmt;

/// Why a captured frame is not a packet that can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParseError {
    /// The capture ends inside a header, or (for payload that is needed) before the packet does.
    Truncated,
    /// A header contradicts itself.
    Malformed,
    /// A part of an IP packet.
    Fragment,
    /// Not IPv4 or IPv6.
    NotIp,
    /// Another transport protocol than the one that is looked for.
    OtherProtocol,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Truncated => "the capture ends before the packet does",
            Self::Malformed => "a header contradicts itself",
            Self::Fragment => "an IP fragment",
            Self::NotIp => "not an IP packet",
            Self::OtherProtocol => "another transport protocol",
        })
    }
}

impl std::error::Error for ParseError {}
