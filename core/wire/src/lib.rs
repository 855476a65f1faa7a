//! Bytes and their meaning: checked views of packets, sequence numbers, addresses, time, checksums, and the
//! encoding of the control link.
//!
//! Nothing here keeps state or does I/O. A parser takes a slice, checks every length before it uses it, and
//! returns either a view that cannot go out of bounds or an error that says what was wrong.

pub mod address;
pub mod build;
pub mod checksum;
pub mod control;
pub mod decap;
pub mod error;
pub mod icmp;
pub mod ip;
pub mod link;
pub mod packet;
pub mod seq;
pub mod tcp;
pub mod time;
pub mod udp;

pub use address::{Endpoint, Flow, Port};
pub use error::ParseError;
pub use ip::Transport;
pub use packet::{Packet, TcpSegment};
pub use seq::SeqNumber;
pub use time::Timestamp;
pub use udp::UdpDatagram;
