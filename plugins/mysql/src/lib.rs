//! MySQL copy.

pub mod wire;
