//! The engine packet by packet: send this, expect that, at this time.
//!
//! Sequence numbers are relative, as a packet analyser shows them: each side's SYN is 0, its first byte 1.

mod closing;
mod fidelity;
mod handshake;
mod loss;
mod modules;
mod orders;
mod script;
mod traffic;
mod tunnels;
mod turns;
mod windows;
