//! MySQL copy.

pub mod auth;
pub mod command;
pub mod response;
pub mod wire;
