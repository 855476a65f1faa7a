//! Something in front of the target changes both addresses of what comes in, as a container's host does: the target answers
//! from an address that no copy was sent to, and to one that no copy came from.

use std::net::SocketAddr;

use tcpcopy::demo::client::{Plan, Reuse};
use tcpcopy_io::netns::Lab;
use tcpcopy_tests::copy::{PORT, Setup};
use tcpcopy_tests::load;
use tcpcopy_tests::nginx::Nginx;
use tcpcopy_tests::settle;

use crate::harness::Bench;
use crate::workloads::{QUIET, assert_perfect};

pub(crate) fn both_addresses(bench: &Bench<'_>) {
    const REQUESTS: u64 = 1_000;
    let lab = Lab::new().expect("a lab");
    let online = Nginx::start(&lab.online, bench.folder);
    let target = Nginx::start(&lab.target, bench.folder);
    for words in ["address add 10.200.0.1/32 dev lo", "route add 172.17.0.1 dev eth0", "route add 10.78.0.1 dev eth0"] {
        lab.target.ip(words).expect("ip");
    }
    for rule in [
        format!(
            "-t nat -A PREROUTING -d {} -p tcp --dport {PORT} -j DNAT --to-destination 10.200.0.1",
            lab.target.ipv4
        ),
        "-t nat -A INPUT -d 10.200.0.1 -p tcp -j SNAT --to-source 172.17.0.1".to_owned(),
        // Before the addresses are changed back.
        format!("-t mangle -A OUTPUT -p tcp --sport {PORT} -j NFQUEUE --queue-num 7 --queue-bypass"),
    ] {
        lab.target.iptables(&rule).expect("iptables");
    }
    let mut setup = Setup::traditional(bench.programs, bench.folder, lab.target.ipv4.into());
    setup.intercept = ["--nfqueue", "7", "--dnat", "-D", "172.17.0.1-10.78.0.1"].map(str::to_owned).to_vec();
    setup.set("-c", "10.78.0.1");
    let mut copy = setup.start_with_intercept_on(&lab, &lab.target);
    copy.wait_until_copying(&lab, lab.online.ipv4.into(), || target.requests());
    let before = target.requests();

    let server = SocketAddr::new(lab.online.ipv4.into(), PORT);
    let plan = Plan { connections: 20, rate: Some(500.0), reuse: Reuse::Close, ..Plan::new(server, REQUESTS) };
    assert_eq!(load::run(&lab.client, &plan).failures, [], "online did not answer");
    settle(before + REQUESTS, QUIET, || target.requests());
    assert_perfect(&online.received(), &target.received(), REQUESTS);
    copy.stop();
}
