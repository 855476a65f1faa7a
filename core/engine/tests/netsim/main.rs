//! The engine on a virtual network: virtual time, chance from a seed, and TCPs that are not its own.
//!
//! Clients talk to online over smoltcp sockets; a capture shows the engine what arrives at online; what the engine sends
//! travels over a bad path to a target with smoltcp sockets, whose packets travel back over a bad path to the relay
//! engine, and from there as bytes of the control link.
//! [`outcome`] judges each packet and each run.
//!
//! A failure prints the case's name. `NETSIM_CASE=<name> cargo test -p tcpcopy-engine --test netsim` runs that case alone
//! and writes every packet to standard error. `NETSIM_ROUNDS=<n>` runs each case with n seeds instead of one.

mod apps;
mod case;
mod chance;
mod host;
mod intercept;
mod matrix;
mod merging;
mod network;
mod outcome;

use std::panic::{AssertUnwindSafe, catch_unwind};

use case::Case;
use network::Network;

/// Runs cases, and fails with what went wrong in each of the first few that failed.
pub(crate) fn run_all(cases: impl IntoIterator<Item = Case>) {
    let only = std::env::var("NETSIM_CASE").ok();
    // In the name of a case, the round stands behind a plus.
    let (only_name, only_round) = match only.as_deref().map(|name| name.split_once('+').unwrap_or((name, "0"))) {
        Some((name, round)) => (Some(name), round.parse().expect("NETSIM_CASE ends in a number behind the plus")),
        None => (None, 0),
    };
    let rounds = std::env::var("NETSIM_ROUNDS").map_or(1, |n| n.parse().expect("NETSIM_ROUNDS is a number"));
    let mut run = 0;
    let mut failures = Vec::new();
    for case in cases {
        if only_name.is_some_and(|name| name != case.name) {
            continue;
        }
        for round in if only_name.is_some() { only_round..only_round + 1 } else { 0..rounds } {
            let mut case = case.clone();
            if round > 0 {
                case.name = format!("{}+{round}", case.name);
                case.seed += 1_000 * round;
            }
            run += 1;
            let mut network = Network::new(&case, only.is_some());
            let verdict = catch_unwind(AssertUnwindSafe(|| network.run())).unwrap_or_else(|panic| {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                Err(format!("panic: {}", text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("?")))
            });
            if let Err(failure) = verdict {
                let packets = network.recent_packets();
                drop(network);
                failures.push((case, failure, packets));
            }
        }
    }
    if let Some((case, _, packets)) = failures.first() {
        let list: Vec<_> = failures.iter().take(20).map(|(c, f, _)| format!("  {}: {f}", c.name)).collect();
        panic!(
            "{} of {run} cases failed:\n{}\n\nThe first of them: {case:?}\nIts last packets:\n{packets}",
            failures.len(),
            list.join("\n"),
        );
    }
}
