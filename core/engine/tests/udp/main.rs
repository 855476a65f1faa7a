//! The engine datagram by datagram: send this, expect that, at this time.

mod copies;
mod fragments;
mod hostile;
mod modules;
mod orders;
mod responses;
mod stage;
