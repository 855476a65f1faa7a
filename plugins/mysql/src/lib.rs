//! MySQL copy.

pub mod auth;
pub mod command;
pub mod response;
pub mod statement;
pub mod text;
pub mod wire;
