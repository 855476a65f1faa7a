//! What whole-system tests and measurements stand on: real servers, real clients, and the real `tcpcopy` and
//! `intercept`, on the four hosts of a [`Lab`](tcpcopy_io::netns::Lab).
//!
//! A failure here is a broken machine or a broken test, so these functions panic with what went wrong; the verdicts
//! about tcpcopy are the tests' own.

pub mod book;
pub mod copy;
pub mod counters;
pub mod dns;
pub mod lines;
pub mod load;
pub mod memcached;
pub mod mirror;
pub mod nginx;
pub mod programs;
pub mod sql;
pub mod terminal;
pub mod udp;

use std::time::{Duration, Instant};

/// Waits until `count` has reached `expected`, or has not grown for `quiet`; returns it.
pub fn settle(expected: u64, quiet: Duration, mut count: impl FnMut() -> u64) -> u64 {
    let mut seen = count();
    let mut since = Instant::now();
    while seen < expected && since.elapsed() < quiet {
        std::thread::sleep(Duration::from_millis(20));
        let now = count();
        if now != seen {
            seen = now;
            since = Instant::now();
        }
    }
    seen
}
