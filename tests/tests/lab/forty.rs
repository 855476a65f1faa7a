//! More intercepts than the C program takes: forty, each of which reports a fortieth of one target's responses.

use std::fs;

use tcpcopy::demo::client::{Plan, Reuse};
use tcpcopy_io::netns::{Lab, Process};
use tcpcopy_tests::copy::{self, Setup};
use tcpcopy_tests::load;
use tcpcopy_tests::nginx::Nginx;
use tcpcopy_tests::settle;

use crate::harness::Bench;
use crate::many::wait_until_copying;
use crate::workloads::{QUIET, assert_perfect, at};

pub(crate) fn intercepts(bench: &Bench<'_>) {
    const INTERCEPTS: u16 = 40;
    const REQUESTS: u64 = 1_000;
    let lab = Lab::new().expect("a lab");
    let online = Nginx::start(&lab.online, bench.folder);
    let target = Nginx::start(&lab.target, bench.folder);
    let ports = 36_524..36_524 + INTERCEPTS;
    let folders: Vec<_> = ports.clone().map(|port| bench.folder.join(port.to_string())).collect();
    let intercepts: Vec<Process> = ports
        .clone()
        .zip(&folders)
        .map(|(port, folder)| {
            fs::create_dir(folder).expect("a folder");
            // Clients have ports of one parity first.
            let filter = format!("tcp and src port 80 and (tcp[2:2] / 2) % {INTERCEPTS} = {}", port - 36_524);
            let mut part = Setup::new(bench.programs, folder, &lab);
            part.intercept =
                ["-i", "eth0", "-F", &filter, "-p", &port.to_string(), "-B", "1"].map(str::to_owned).to_vec();
            part.start_intercept_at(&lab.assistant, port)
        })
        .collect();
    let mut setup = Setup::new(bench.programs, bench.folder, &lab);
    let addresses: Vec<String> = ports.map(|port| format!("{}:{port}", lab.assistant.ipv4)).collect();
    setup.set("-s", &addresses.join(","));
    let mut tcpcopy = setup.start_tcpcopy(&lab.online);
    wait_until_copying(&lab, lab.online.ipv4.into(), || target.requests());
    let before = target.requests();

    let plan =
        Plan { connections: 20, rate: Some(500.0), reuse: Reuse::Close, ..Plan::new(at(lab.online.ipv4), REQUESTS) };
    assert_eq!(load::run(&lab.client, &plan).failures, [], "online did not answer");
    settle(before + REQUESTS, QUIET, || target.requests());
    assert_perfect(&online.received(), &target.received(), REQUESTS);
    copy::stop("tcpcopy", &mut tcpcopy);
    for (mut intercept, folder) in intercepts.into_iter().zip(folders) {
        copy::stop("intercept", &mut intercept);
        let log = fs::read_to_string(folder.join("intercept.log")).expect("intercept's log");
        let last = log.lines().rfind(|line| line.contains("total resp packs:")).expect("statistics");
        assert!(!last.contains("total resp packs:0,"), "{}: {last}", folder.display());
    }
}
