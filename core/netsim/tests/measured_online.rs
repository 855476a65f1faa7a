//! How long online takes to answer is measured beside the target, from the capture of both directions.

use std::time::Duration;

use tcpcopy_engine::latency::Latency;
use tcpcopy_module_api::ModuleHandle;
use tcpcopy_module_tcp::PlainTcp;
use tcpcopy_netsim::{ModuleNetwork, Outcome, Quality, Reply, Script, Server};

const TURNS: usize = 20;
const ANSWER: usize = 5_000;
const ONLINE: Duration = Duration::from_millis(20);
const TARGET: Duration = Duration::from_millis(5);

/// Answers each line after a while.
struct Slow(Duration);

impl Server for Slow {
    fn on_data(&mut self, data: &[u8], reply: &mut Reply) -> usize {
        let Some(end) = data.iter().position(|byte| *byte == b'\n') else { return 0 };
        reply.pause(self.0);
        reply.send(vec![b'a'; ANSWER]);
        end + 1
    }
}

fn network() -> ModuleNetwork {
    let script = (0..TURNS).fold(Script::new(), |script, i| script.send(format!("{i}\n")).wait_for(ANSWER));
    ModuleNetwork::new(ModuleHandle::new(PlainTcp))
        .client(script)
        .online(|_| Slow(ONLINE))
        .target(|_| Slow(TARGET))
        .conditions(|c| c.capture.both_directions = true)
}

fn measured(network: ModuleNetwork) -> Outcome {
    network.config(|config| config.measure_online = true).run()
}

/// All within the time that it took, and what the way and the histogram's buckets add at most.
#[track_caller]
fn assert_took(latency: &Latency, time: Duration, way: Duration) {
    for share in [0.01, 0.5, 1.0] {
        let found = latency.quantile(share).expect("something was measured");
        assert!(found >= time && found <= (time + way).mul_f64(1.13), "{share}: {found:?}, of {time:?}");
    }
}

#[test]
fn both_sides_have_their_own_times() {
    let outcome = measured(network());
    outcome.assert_all_completed();
    let ledger = &outcome.ledger;
    assert_eq!((ledger.requests, ledger.online_response_time.count()), (TURNS as u64, TURNS as u64));
    // The capture is on online's host: no way is in it.
    assert_took(&ledger.online_response_time, ONLINE, Duration::from_millis(1));
    // To the target and back, and over the control link.
    assert_took(&ledger.response_time, TARGET, Duration::from_millis(2));
}

#[test]
fn nothing_is_measured_unless_that_is_wanted() {
    let outcome = network().run();
    outcome.assert_all_completed();
    assert_eq!(outcome.ledger.online_response_time.count(), 0);
    assert_eq!(outcome.ledger.online_packets, 0);
}

#[test]
fn what_is_lost_and_sent_again_does_not_make_answers() {
    for seed in 0..10 {
        let bad = Quality { loss: 30, duplication: 30, ..Quality::delayed(Duration::from_millis(1)) };
        let outcome = measured(network().seed(seed).client_path(bad));
        let ledger = &outcome.ledger;
        assert!(ledger.online_response_time.count() <= TURNS as u64, "seed {seed}");
        let shortest = ledger.online_response_time.quantile(0.001).expect("something was measured");
        assert!(shortest >= ONLINE, "seed {seed}: {shortest:?} is less than online ever takes");
    }
}
