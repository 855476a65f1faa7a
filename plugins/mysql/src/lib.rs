//! MySQL copy.

pub mod auth;
pub mod wire;
