//! What keeps the host that tcpcopy or intercept runs on safe from it: limits, conditions to end, fewer rights, and word to
//! the service manager.

pub mod cpu;
pub mod identity;
pub mod service;
pub mod stop_if;

#[cfg(test)]
mod tests;
