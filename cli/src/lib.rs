//! What the two programs are made of: options, configuration file, wiring, exit codes.

mod background;
pub mod config;
pub mod demo;
mod desk;
pub mod doctor;
#[cfg(test)]
mod documents;
pub mod exit;
pub mod grammar;
mod histogram;
pub mod intercept;
pub mod live;
pub mod logging;
pub mod metrics;
pub mod program;
pub mod protect;
pub mod security;
pub mod tcpcopy;
mod values;
