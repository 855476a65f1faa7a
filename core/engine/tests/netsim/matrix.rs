//! The cases.

use std::time::Duration;

use crate::case::{Case, Expect};
use crate::chance::Quality;
use crate::run_all;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn lossy(per_mille: u32) -> Quality {
    Quality { loss: per_mille, ..Quality::delayed(Duration::from_micros(200)) }
}

#[test]
fn the_network_works_without_the_engine() {
    // The capture sees nothing, so nothing is copied; clients and online finish all the same.
    let case = Case::new("no-capture").with(|c| c.capture.loss = 1000).expecting(Expect::Accounted);
    let mut network = crate::network::Network::new(&case, false);
    network.run().unwrap();
    assert!(network.client_apps.iter().all(|(_, app)| app.closed), "a client did not finish");
}

#[test]
fn a_session_is_copied_on_a_perfect_network() {
    run_all([false, true].map(|ipv6| Case::new(format!("perfect-v6-{ipv6}")).with(|c| c.ipv6 = ipv6)));
}

#[test]
fn loss_on_the_target_path() {
    let mut cases = Vec::new();
    for loss in [0, 10, 20, 50, 100] {
        for (size_name, request, count) in [("byte", 1, 20), ("mss", 1460, 20), ("64k", 64_000, 5), ("2m", 2 << 20, 1)] {
            for seed in 0..if request > 100_000 { 1 } else { 4 } {
                cases.push(Case::new(format!("loss-{loss}-{size_name}-{seed}")).asking(count, request, 300).with(|c| {
                    c.seed = seed;
                    c.ports = 3;
                    c.ipv6 = seed % 2 == 1;
                    c.to_target = lossy(loss);
                    c.from_target = lossy(loss);
                    c.capture.merging = seed % 2 == 0;
                    c.client_think = ms(seed);
                }));
            }
        }
    }
    run_all(cases);
}
