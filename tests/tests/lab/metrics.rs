//! What the programs serve for Prometheus agrees with what the servers log.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};

use tcpcopy::demo::client::Reuse;
use tcpcopy_io::netns::{Host, Lab};
use tcpcopy_tests::copy::Setup;
use tcpcopy_tests::load;
use tcpcopy_tests::settle;

use crate::harness::Bench;
use crate::workloads::{QUIET, at, plan, web_servers};

const REQUESTS: u64 = 1_000;
const PORT: u16 = 9180;

/// Asks the program on this host for its metrics.
fn scrape(host: &Host) -> String {
    let ask = || {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, PORT)).expect("a connection to --metrics");
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: lab\r\n\r\n").expect("the request goes out");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("the answer is text");
        answer
    };
    let answer = host.run(ask).expect("the host's namespace");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("# EOF\n"), "{answer}");
    answer
}

/// The value of a metric, by its name and labels.
fn value(answer: &str, name: &str) -> f64 {
    let line = answer.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|value| value.trim().parse().ok()).unwrap_or_else(|| panic!("no value of {name} in\n{answer}"))
}

/// The value of a metric that counts.
fn count(answer: &str, name: &str) -> u64 {
    value(answer, name) as u64
}

/// Requests, answers and memory; by two workers, whose numbers are added up.
pub(crate) fn both_programs(bench: &Bench<'_>) {
    let lab = Lab::new().expect("a lab");
    let [online, target] = web_servers(bench, &lab);
    let mut setup = Setup::new(bench.programs, bench.folder, &lab);
    setup.set_workers("2");
    setup.set("--metrics", &PORT.to_string());
    setup.set("--log-format", "json");
    setup.intercept.extend(["--metrics".to_owned(), PORT.to_string()]);
    let mut copy = setup.start(&lab);
    let first = copy.wait_until_copying(&lab, lab.online.ipv4.into(), || target.requests());
    let before = target.requests();
    assert_eq!(
        load::run(&lab.client, &plan(at(lab.online.ipv4), 1_000.0, REQUESTS, 20, Reuse::Close)).failures,
        [],
        "online did not answer"
    );
    settle(before + REQUESTS, QUIET, || target.requests());
    assert_eq!(online.requests(), first + REQUESTS);

    let tcpcopy = scrape(&lab.online);
    let requests = target.requests();
    assert_eq!(count(&tcpcopy, "tcpcopy_requests_copied_total"), requests, "{tcpcopy}");
    assert_eq!(count(&tcpcopy, "tcpcopy_lag_seconds_count"), requests, "{tcpcopy}");
    assert_eq!(count(&tcpcopy, "tcpcopy_response_time_seconds_count"), requests, "{tcpcopy}");
    let of_map = format!("{{map=\"80-{}:80\",module=\"tcp\"}}", lab.target.ipv4);
    assert_eq!(count(&tcpcopy, &format!("tcpcopy_map_requests_copied_total{of_map}")), requests, "{tcpcopy}");
    assert_eq!(count(&tcpcopy, "tcpcopy_links_up"), count(&tcpcopy, "tcpcopy_links"), "{tcpcopy}");
    // A response took its time, and less than the whole test.
    let mean = value(&tcpcopy, "tcpcopy_response_time_seconds_sum") / requests as f64;
    assert!(mean > 0.0 && mean < 10.0, "{mean}");
    // Capture buffers of 32 MB are a part of it.
    assert!(value(&tcpcopy, "process_resident_memory_bytes") > f64::from(1 << 20), "{tcpcopy}");

    let intercept = scrape(&lab.assistant);
    let routes = count(&intercept, "intercept_routes_added_total");
    assert!(routes >= requests, "a route for each connection: {routes} of {requests}\n{intercept}");
    assert!(count(&intercept, "intercept_relayed_total") >= 2 * requests, "{intercept}");
    assert_eq!(count(&intercept, "intercept_capture_dropped_total"), 0, "{intercept}");

    let log = copy.stop();
    let lines = log.lines().filter(|line| line.starts_with('{'));
    let levels = lines.map(|line| serde_json::from_str::<serde_json::Value>(line).expect("an object")["level"].clone());
    assert!(levels.filter(|level| level == "info").count() > 3, "{log}");
}
