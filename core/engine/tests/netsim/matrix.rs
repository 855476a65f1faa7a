//! The cases.

use std::net::IpAddr;
use std::time::Duration;

use tcpcopy_engine::Gate;
use tcpcopy_engine::ledger::SessionEnd;
use tcpcopy_netsim::Quality;

use crate::case::{Case, ClientEnd, Expect, Fault};
use crate::run::{Run, run_all};

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
    let mut run = Run::new(&case, false);
    run.run().unwrap();
    assert!((0..case.sessions()).all(|session| run.network.is_client_over(session)), "a client did not finish");
}

#[test]
fn a_session_is_copied_on_a_perfect_network() {
    run_all([false, true].map(|ipv6| Case::new(format!("perfect-v6-{ipv6}")).with(|c| c.ipv6 = ipv6)));
}

#[test]
fn loss_on_the_target_path() {
    let mut cases = Vec::new();
    for loss in [0, 10, 20, 50, 100] {
        for (size_name, request, count) in [("byte", 1, 20), ("mss", 1460, 20), ("64k", 64_000, 5), ("2m", 2 << 20, 1)]
        {
            for seed in 0..if request > 100_000 { 1 } else { 4 } {
                cases.push(Case::new(format!("loss-{loss}-{size_name}-{seed}")).asking(count, request, 300).with(
                    |c| {
                        c.seed = seed;
                        c.ports = 3;
                        c.ipv6 = seed % 2 == 1;
                        c.to_target = lossy(loss);
                        c.from_target = lossy(loss);
                        c.capture.merging = seed % 2 == 0;
                        c.client_think = ms(seed);
                    },
                ));
            }
        }
    }
    run_all(cases);
}

/// What a path may do besides losing packets.
const PATHS: [(&str, Quality); 5] = [
    ("fast", Quality::delayed(Duration::from_micros(50))),
    ("far", Quality { jitter: Duration::from_millis(5), ..Quality::delayed(Duration::from_millis(80)) }),
    ("reordering", Quality { reordering: 100, ..Quality::delayed(Duration::from_millis(1)) }),
    ("duplicating", Quality { duplication: 100, ..Quality::delayed(Duration::from_millis(1)) }),
    (
        "bad",
        Quality {
            loss: 20,
            duplication: 30,
            reordering: 50,
            delay: Duration::from_millis(10),
            jitter: Duration::from_millis(3),
        },
    ),
];

#[test]
fn paths_and_sizes() {
    let mut cases = Vec::new();
    for (path_name, path) in PATHS {
        for (size_name, request, response, count) in
            [("byte", 1, 1, 10), ("mss", 1460, 1460, 10), ("large", 200_000, 100, 3), ("download", 100, 200_000, 3)]
        {
            for seed in 0..6 {
                cases.push(
                    Case::new(format!("path-{path_name}-{size_name}-{seed}")).asking(count, request, response).with(
                        |c| {
                            c.seed = seed;
                            c.ports = 4;
                            c.ipv6 = seed % 3 == 1;
                            (c.to_target, c.from_target) = (path, path);
                            c.capture.merging = seed % 2 == 0;
                            c.client_timestamps = seed % 3 == 0;
                            c.online.timestamps = true;
                            c.target.timestamps = seed % 2 == 0;
                            c.gate = if seed == 5 { Gate::Off } else { Gate::Turns };
                            c.pipelined = seed == 4;
                        },
                    ),
                );
            }
        }
    }
    run_all(cases);
}

#[test]
fn windows() {
    let mut cases = Vec::new();
    for window in [600, 1460, 4096, 16_384, 1 << 20] {
        for loss in [0, 20] {
            for seed in 0..3 {
                cases.push(Case::new(format!("window-{window}-{loss}-{seed}")).asking(2, 60_000, 100).with(|c| {
                    c.seed = seed;
                    c.target.window = window;
                    (c.to_target, c.from_target) = (lossy(loss), lossy(loss));
                    c.capture.merging = seed == 0;
                    // A request of a minute at the least window and one segment a round trip with time-outs.
                    c.run_for = Duration::from_secs(3_600);
                }));
            }
        }
    }
    for deaf in [50, 1_000, 20_000] {
        for loss in [0, 20, 100] {
            for window in [2_000, 65_535] {
                cases.push(Case::new(format!("deaf-{deaf}-{loss}-{window}")).asking(2, 150_000, 100).with(|c| {
                    c.target.window = window;
                    c.target.fault = Fault::DeafFor(ms(deaf));
                    (c.to_target, c.from_target) = (lossy(loss), lossy(loss));
                    c.run_for = Duration::from_secs(3_600);
                }));
            }
        }
    }
    run_all(cases);
}

#[test]
fn one_upload_of_two_megabytes() {
    let mut cases = Vec::new();
    for loss in [0, 20, 50] {
        for merging in [false, true] {
            for window in [65_535, 1 << 20] {
                cases.push(Case::new(format!("upload-{loss}-{merging}-{window}")).asking(1, 2 << 20, 50).with(|c| {
                    (c.to_target, c.from_target) = (lossy(loss), lossy(loss));
                    c.online.window = 1 << 20;
                    c.target.window = window;
                    c.capture.merging = merging;
                }));
            }
        }
    }
    run_all(cases);
}

#[test]
fn slow_answers_in_bursts() {
    let mut cases = Vec::new();
    for (name, online, target) in [("online-slow", 50, 0), ("target-slow", 0, 50), ("target-very-slow", 0, 3_000)] {
        for bursts in [1, 4] {
            for loss in [0, 20] {
                cases.push(Case::new(format!("{name}-{bursts}-{loss}")).asking(5, 400, 4_000).with(|c| {
                    c.online.think = ms(online);
                    c.target.think = ms(target);
                    c.target.bursts = bursts;
                    c.target.gap = ms(3);
                    c.online.bursts = 5 - bursts;
                    c.online.gap = ms(2);
                    (c.to_target, c.from_target) = (lossy(loss), lossy(loss));
                }));
            }
        }
    }
    run_all(cases);
}

#[test]
fn responses_of_another_length() {
    let mut cases = Vec::new();
    for (online, target) in [(10, 5_000), (5_000, 10), (1_460, 2_920), (100_000, 1), (1, 100_000), (2_920, 1_460)] {
        for loss in [0, 20] {
            cases.push(Case::new(format!("lengths-{online}-{target}-{loss}")).asking(6, 300, online).with(|c| {
                c.ports = 2;
                c.target.response = Some(target);
                (c.to_target, c.from_target) = (lossy(loss), lossy(loss));
            }));
        }
    }
    run_all(cases);
}

#[test]
fn ends_of_clients() {
    let mut cases = Vec::new();
    for (name, end) in [
        ("half-close", ClientEnd::HalfClose),
        ("reset", ClientEnd::Reset),
        ("reset-after-500", ClientEnd::ResetAfter(500)),
    ] {
        for loss in [0, 50] {
            for seed in 0..5 {
                cases.push(Case::new(format!("client-{name}-{loss}-{seed}")).asking(3, 300, 800).with(|c| {
                    c.seed = seed;
                    c.ports = 3;
                    c.client_end = end;
                    c.pipelined = seed % 2 == 1;
                    c.target.think = ms(5);
                    (c.to_target, c.from_target) = (lossy(loss), lossy(loss));
                }));
            }
        }
    }
    run_all(cases);
}

#[test]
fn online_closes_first() {
    let mut cases = Vec::new();
    for both in [false, true] {
        for loss in [0, 20, 50] {
            for seed in 0..4 {
                cases.push(Case::new(format!("online-closes-{both}-{loss}-{seed}")).asking(2, 300, 800).with(|c| {
                    c.seed = seed;
                    c.ports = 3;
                    c.client_end = ClientEnd::WaitForServer;
                    c.online.fault = Fault::CloseAfter(2);
                    if both {
                        c.target.fault = Fault::CloseAfter(2);
                    }
                    (c.to_target, c.from_target) = (lossy(loss), lossy(loss));
                }));
            }
        }
    }
    run_all(cases);
}

#[test]
fn target_closes_early() {
    // The module connects again for what the client still sends, and nothing is sent twice.
    let mut cases = Vec::new();
    for (name, fault) in [
        ("close-1", Fault::CloseAfter(1)),
        ("close-2", Fault::CloseAfter(2)),
        ("reset-1", Fault::ResetAfter(1)),
        ("reset-on-1", Fault::ResetOnRequest(1)),
    ] {
        for loss in [0, 20] {
            for think in [0, 20] {
                for seed in 0..3 {
                    cases.push(
                        Case::new(format!("target-{name}-{loss}-{think}-{seed}"))
                            .asking(5, 300, 800)
                            .with(|c| {
                                c.seed = seed;
                                c.ports = 2;
                                c.target.fault = fault;
                                c.client_think = ms(think);
                                (c.to_target, c.from_target) = (lossy(loss), lossy(loss));
                            })
                            .expecting(Expect::Accounted),
                    );
                }
            }
        }
    }
    run_all(cases);
}

#[test]
fn target_that_is_not_there() {
    let gone = Quality { loss: 1000, ..Quality::default() };
    run_all([
        Case::new("refused")
            .with(|c| {
                c.ports = 5;
                c.target.fault = Fault::Refuse;
                c.run_for = ms(500);
            })
            .expecting(Expect::Ended(SessionEnd::TargetRefused)),
        Case::new("unreachable")
            .with(|c| {
                c.ports = 5;
                (c.to_target, c.from_target) = (gone, gone);
            })
            .expecting(Expect::Ended(SessionEnd::TargetUnreachable)),
        Case::new("silent")
            .with(|c| {
                c.ports = 5;
                c.target.fault = Fault::Silent;
                c.response_timeout = Duration::from_secs(60);
            })
            .expecting(Expect::Ended(SessionEnd::TargetSilent)),
        Case::new("idle")
            .with(|c| {
                c.client_end = ClientEnd::StayOpen;
                c.idle_timeout = Duration::from_secs(100);
                c.run_for = Duration::from_secs(200);
            })
            .expecting(Expect::Ended(SessionEnd::Idle)),
        Case::new("alive")
            .with(|c| {
                c.ports = 5;
                c.client_end = ClientEnd::StayOpen;
                c.run_for = Duration::from_secs(100);
            })
            .expecting(Expect::Alive),
    ]);
}

#[test]
fn one_port_after_another() {
    let mut cases = Vec::new();
    for loss in [0, 20] {
        for (name, target_think) in [("quick", 0), ("slow", 200)] {
            for end in [ClientEnd::Close, ClientEnd::Reset, ClientEnd::WaitForServer] {
                for seed in 0..3 {
                    cases.push(Case::new(format!("reuse-{name}-{loss}-{end:?}-{seed}")).asking(1, 200, 500).with(
                        |c| {
                            c.seed = seed;
                            c.ports = 4;
                            c.connections_per_port = 8;
                            c.client_end = end;
                            if end == ClientEnd::WaitForServer {
                                c.online.fault = Fault::CloseAfter(1);
                                c.target.fault = Fault::CloseAfter(1);
                            }
                            c.target.think = ms(target_think);
                            (c.to_target, c.from_target) = (lossy(loss), lossy(loss));
                        },
                    ));
                }
            }
        }
    }
    run_all(cases);
}

#[test]
fn many_short_connections() {
    let mut cases = Vec::new();
    for loss in [0, 20] {
        for mapped in [false, true] {
            cases.push(Case::new(format!("short-{loss}-{mapped}")).asking(1, 150, 600).with(|c| {
                c.ports = 100;
                c.start_gap = Duration::from_micros(300);
                (c.to_target, c.from_target) = (lossy(loss), lossy(loss));
                if mapped {
                    c.sources = (1..=3).map(|i| IpAddr::from([10, 78, 0, i])).collect();
                }
            }));
        }
    }
    run_all(cases);
}

#[test]
fn bad_captures() {
    let mut cases = Vec::new();
    for seed in 0..6 {
        for (name, loss, duplication, reordering) in
            [("duplicates", 0, 1000, 0), ("reorders", 0, 0, 300), ("both", 0, 500, 100)]
        {
            cases.push(Case::new(format!("capture-{name}-{seed}")).asking(8, 3_000, 400).with(|c| {
                c.seed = seed;
                c.ports = 5;
                // Packets overtake each other by less than a round trip, so that data never comes before its SYN.
                c.client_path = Quality::delayed(ms(2));
                (c.capture.loss, c.capture.duplication, c.capture.reordering) = (loss, duplication, reordering);
                c.pipelined = seed % 2 == 1;
            }));
        }
        for loss in [5, 20, 100] {
            cases.push(
                Case::new(format!("capture-loses-{loss}-{seed}"))
                    .asking(8, 3_000, 400)
                    .with(|c| {
                        c.seed = seed;
                        c.ports = 20;
                        c.capture.loss = loss;
                        c.only_whole_sessions = seed % 2 == 1;
                    })
                    .expecting(Expect::Accounted),
            );
        }
        // What the client's path loses, the client sends again, and the capture sees twice or late.
        cases.push(Case::new(format!("client-path-{seed}")).asking(8, 10_000, 400).with(|c| {
            c.seed = seed;
            c.ports = 5;
            // Until the client has noticed, its time-outs doubling from a second.
            c.hole_timeout = Duration::from_secs(100);
            c.client_path = Quality { loss: 20, duplication: 20, reordering: 50, ..Quality::delayed(ms(2)) };
            c.capture.merging = seed % 2 == 0;
        }));
    }
    run_all(cases);
}

#[test]
fn joined_mid_stream() {
    let mut cases = Vec::new();
    for only_whole in [false, true] {
        for loss in [0, 20] {
            for seed in 0..4 {
                cases.push(
                    Case::new(format!("join-{only_whole}-{loss}-{seed}"))
                        .asking(20, 400, 300)
                        .with(|c| {
                            c.seed = seed;
                            c.ports = 3;
                            c.client_think = ms(2);
                            c.capture.begins = ms(20 + seed);
                            c.only_whole_sessions = only_whole;
                            (c.to_target, c.from_target) = (lossy(loss), lossy(loss));
                        })
                        .expecting(Expect::Accounted),
                );
            }
        }
    }
    run_all(cases);
}

#[test]
fn intercept_is_killed_and_started_again() {
    let mut cases = Vec::new();
    for down in [5, 300, 3_000] {
        for loss in [0, 20] {
            for seed in 0..4 {
                cases.push(Case::new(format!("restart-{down}-{loss}-{seed}")).asking(30, 300, 700).with(|c| {
                    c.seed = seed;
                    c.ports = 10;
                    c.client_think = ms(2);
                    c.intercept_restarts = Some((ms(30 + seed), ms(down)));
                    (c.to_target, c.from_target) = (lossy(loss), lossy(loss));
                }));
            }
        }
    }
    run_all(cases);
}

#[test]
fn responses_come_before_their_route() {
    let mut cases = Vec::new();
    for delay in [1, 50, 500] {
        cases.push(Case::new(format!("late-routes-{delay}")).with(|c| {
            c.ports = 10;
            c.control_delay = ms(delay);
        }));
    }
    run_all(cases);
}
