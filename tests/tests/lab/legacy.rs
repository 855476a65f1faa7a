//! The control link of the C programs between our two: each plays its old counterpart for the other.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use tcpcopy::demo::client::{Plan, Reuse};
use tcpcopy_io::netns::Lab;
use tcpcopy_tests::copy::{INTERCEPT_PORT, Setup};
use tcpcopy_tests::counters::ResetWatch;
use tcpcopy_tests::load;

use crate::harness::Bench;
use crate::workloads::{assert_copied, at, plan, web_servers};

/// Copies a load over kept and one over closed connections, with these options for the two programs, and returns what they
/// logged: tcpcopy, intercept.
fn copies(bench: &Bench<'_>, tcpcopy: &str, intercept: &str, meanwhile: impl FnOnce(&Lab)) -> (String, String) {
    let lab = Lab::new().expect("a lab");
    let [online, target] = web_servers(bench, &lab);
    let client_resets = ResetWatch::from_all(&lab.online);
    let copied_resets = ResetWatch::from_replicas(&lab.target);
    let mut setup = Setup::new(bench.programs, bench.folder, &lab);
    setup.tcpcopy.extend(tcpcopy.split_whitespace().map(str::to_owned));
    setup.intercept.extend(intercept.split_whitespace().map(str::to_owned));
    let mut copy = setup.start(&lab);
    copy.wait_until_copying(&lab, lab.online.ipv4.into(), || target.requests());
    let before = target.requests();

    meanwhile(&lab);
    for (first_id, reuse) in [(0, Reuse::KeepAlive), (10_000, Reuse::Close)] {
        let plan = Plan { first_id, ..plan(at(lab.online.ipv4), 1_000.0, 2_000, 50, reuse) };
        assert_eq!(load::run(&lab.client, &plan).failures, [], "online did not answer");
    }
    assert_copied(&online, &target, before, 4_000);
    let tcpcopy = copy.stop();
    let (sent, copied) = (client_resets.count(), copied_resets.count());
    assert!(copied <= sent, "{copied} RSTs reached the target, but the clients sent {sent}");
    let intercept = fs::read_to_string(setup.intercept_log()).expect("intercept's log");
    assert!(intercept.contains("tcpcopy of the C programs"), "another protocol was spoken:\n{intercept}");
    assert!(!tcpcopy.contains("balance") && !intercept.contains("balance"), "{tcpcopy}\n{intercept}");
    (tcpcopy, intercept)
}

/// As both were built by default; and a tcpcopy of 0.9 is told from one of 1.0.
pub(crate) fn combined(bench: &Bench<'_>) {
    let (_, intercept) = copies(bench, "--intercept-protocol legacy -C 2", "-n 5", |lab| {
        let closed = lab.online.run(|| {
            let mut old = TcpStream::connect((lab.assistant.ipv4, INTERCEPT_PORT)).expect("intercept's port");
            old.set_read_timeout(Some(Duration::from_secs(60))).expect("a time-out");
            old.write_all(&[0, 0, 0, 0, 0, 0, 0, 5]).expect("a version");
            old.read_to_end(&mut Vec::new())
        });
        assert_eq!(closed.expect("online's namespace").expect("no reset"), 0, "it is told nothing");
    });
    let refused = intercept.lines().any(|line| line.contains("version 5 ") && line.contains("version 6 "));
    assert!(refused, "both versions are to be named:\n{intercept}");
}

/// As with `--disable-combined`.
pub(crate) fn separate(bench: &Bench<'_>) {
    copies(bench, "--intercept-protocol legacy", "--legacy-separate", |_| {});
}

/// As with `--with-resp-payload`.
pub(crate) fn with_payload(bench: &Bench<'_>) {
    copies(bench, "--intercept-protocol legacy-payload", "--legacy-payload", |_| {});
}

/// As with `--single` on both sides: nobody registers anything.
pub(crate) fn single(bench: &Bench<'_>) {
    let (_, intercept) = copies(bench, "--single -C 2", "--single -c", |_| {});
    assert!(intercept.contains(", route:0,") && intercept.contains("without routes:"), "{intercept}");
}
