//! The program `tcpcopy`.

pub mod arguments;
pub mod filter;
pub mod grammar;
pub mod options;
