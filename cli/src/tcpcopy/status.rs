//! What a running copy tells of itself on its socket.

use serde_json::{Map as JsonMap, Value};
use tcpcopy_engine::ledger::SessionEnd;
use tcpcopy_engine::{Map, MapLedger};
use tcpcopy_wire::Endpoint;

use super::options::Options;
use super::report::{self, Snapshot};
use crate::live::protocol::{Counters, InForce, Kernel, Link, MapStatus, Numbers, Status};

/// Everything, from the counters of each worker.
pub(super) fn status(options: &Options, workers: &[Snapshot], total: &Snapshot, in_force: InForce) -> Status {
    let empty = MapLedger::default();
    let maps = options.maps.iter().enumerate();
    Status {
        program: "tcpcopy".to_owned(),
        release: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        uptime_seconds: 0.0,
        in_force,
        options: given(options),
        total: numbers(total),
        maps: maps.map(|(i, map)| map_status(options, map, total.ledger.maps.get(i).unwrap_or(&empty))).collect(),
        workers: workers.iter().map(numbers).collect(),
        links: workers.iter().enumerate().flat_map(|(number, worker)| links(number, worker)).collect(),
    }
}

/// The options; those that were given several times have a list.
fn given(options: &Options) -> JsonMap<String, Value> {
    let mut given = JsonMap::new();
    for (name, value) in options.given.pairs() {
        let value = Value::from(value.clone());
        match given.get_mut(name) {
            None => _ = given.insert(name.clone(), value),
            Some(Value::Array(values)) => values.push(value),
            Some(one) => *one = Value::from(vec![one.take(), value]),
        }
    }
    given
}

fn numbers(snapshot: &Snapshot) -> Numbers {
    let ledger = &snapshot.ledger;
    let mut counters = named(ledger.counters().map(|(name, _, count)| (name, count)));
    counters.insert("routes_unsent".to_owned(), snapshot.routes_unsent);
    counters.extend(report::module_counts(&snapshot.modules).map(|(name, count)| (format!("module {name}"), count)));
    Numbers {
        counters,
        packets_dropped: named(report::packet_drops(ledger)),
        bytes_dropped: named(report::byte_drops(ledger)),
        sessions_ended_early: named(report::session_ends(ledger)),
        packets_not_sent: named(report::send_errors(&snapshot.transmit)),
        kernel: Kernel {
            received: snapshot.capture.received,
            dropped: snapshot.capture.dropped,
            dropped_by_device: snapshot.capture.interface_dropped,
            captures_lost: snapshot.captures_lost,
        },
        lag: (&ledger.lag).into(),
        response_time: (&ledger.response_time).into(),
        online_response_time: (&ledger.online_response_time).into(),
        udp_response_time: (&snapshot.udp_latency).into(),
        links_up: snapshot.links_up,
        links: snapshot.links,
    }
}

fn named(counts: impl Iterator<Item = (&'static str, u64)>) -> Counters {
    counts.map(|(name, count)| (name.to_owned(), count)).collect()
}

/// What a map copies, a port or address and port, and the module that does.
pub(super) fn name_of_map(options: &Options, map: &Map) -> (String, String) {
    let online = map
        .online_addr
        .map_or_else(|| map.online_port.to_string(), |address| Endpoint::new(address, map.online_port).to_string());
    (online, options.modules[usize::from(map.module)].handle.about.name.to_owned())
}

fn map_status(options: &Options, map: &Map, counted: &MapLedger) -> MapStatus {
    let (online, module) = name_of_map(options, map);
    let ended = |reasons: &[SessionEnd]| reasons.iter().map(|reason| counted.ended(*reason)).sum();
    MapStatus {
        online,
        target: map.target.to_string(),
        transport: map.transport.to_string().to_lowercase(),
        module,
        sessions: counted.sessions,
        sessions_alive: counted.sessions_alive,
        requests: counted.requests,
        requests_copied: counted.requests_copied,
        bytes_copied: counted.bytes_copied,
        retransmits: counted.retransmits,
        connections: counted.connections,
        refused: ended(&[SessionEnd::TargetRefused]),
        unanswered: ended(&[SessionEnd::TargetUnreachable, SessionEnd::GaveUp, SessionEnd::TargetSilent]),
        reset: ended(&[SessionEnd::TargetReset, SessionEnd::TargetClosed]),
        sessions_ended_early: named(report::named_ends(counted.sessions_ended)),
        response_time: (&counted.response_time).into(),
    }
}

fn links(number: usize, worker: &Snapshot) -> impl Iterator<Item = Link> {
    worker.relays.iter().zip(&worker.links_state).map(move |((address, stats), up)| Link {
        worker: number,
        intercept: address.to_string(),
        up: *up,
        frames_captured: stats.frames_captured,
        kernel_drops: stats.kernel_drops,
        unrouted: stats.unrouted,
        relayed: stats.relayed,
        overflowed: stats.overflowed,
        routes_alive: stats.routes_alive,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::Parser;
    use tcpcopy_engine::ledger::PacketDrop;
    use tcpcopy_wire::control::LinkStats;

    use super::*;
    use crate::tcpcopy::arguments::Arguments;
    use crate::tcpcopy::modules::{BuiltIn, Catalogue};

    fn options(line: &str) -> Options {
        let arguments = Arguments::try_parse_from(line.split(' ')).unwrap();
        let catalogue = Catalogue::new::<&str>(BuiltIn::shipped(), &[]).unwrap();
        Options::check(arguments, &catalogue, &[]).unwrap()
    }

    #[test]
    fn all_that_is_counted_is_told_by_name() {
        let options = options("tcpcopy -x 80-10.0.0.2:8080,10.0.0.1:81-10.0.0.3:81 -s 10.0.0.9 -c 10.7.0.x");
        let mut worker = Snapshot::default();
        worker.ledger.maps = vec![MapLedger::default(); 2];
        worker.ledger.requests = 7;
        worker.ledger.drop_packet(PacketDrop::NoMap);
        worker.ledger.end_session(SessionEnd::TargetRefused);
        worker.ledger.maps[1].sessions_ended[SessionEnd::TargetRefused as usize] = 1;
        worker.ledger.maps[1].response_time.record(Duration::from_millis(3));
        worker.relays = vec![("10.0.0.9:36524".parse().unwrap(), LinkStats { relayed: 5, ..LinkStats::default() })];
        worker.links_state = vec![true];
        let workers = [worker, Snapshot::default()];
        let mut total = Snapshot::default();
        for worker in &workers {
            total += worker;
        }
        let status = status(&options, &workers, &total, InForce::default());
        for (name, _, count) in total.ledger.counters() {
            assert_eq!(status.total.counters.get(name), Some(&count), "{name}");
        }
        assert_eq!(status.total.packets_dropped["no map matches"], 1);
        assert_eq!(status.total.packets_dropped.len(), PacketDrop::ALL.len());
        assert_eq!((status.workers.len(), status.workers[0].counter("requests")), (2, 7));
        assert_eq!((status.maps[0].online.as_str(), status.maps[1].online.as_str()), ("80", "10.0.0.1:81"));
        assert_eq!((status.maps[0].refused, status.maps[1].refused, status.maps[1].response_time.count), (0, 1, 1));
        assert_eq!((status.maps[1].transport.as_str(), status.maps[1].module.as_str()), ("tcp", "tcp"));
        assert_eq!((status.links.len(), status.links[0].up, status.links[0].relayed), (1, true, 5));
    }

    #[test]
    fn what_was_given_is_told_but_no_password() {
        let line = "tcpcopy -x 3306-10.0.0.2:3306 -s 10.0.0.9 -c 10.7.0.x -u me@secret --proto-opt mysql.slow=7 -r 20";
        let text = serde_json::to_string(&given(&options(line))).unwrap();
        assert!(text.contains(r#""percentage":"20""#) && text.contains("3306-10.0.0.2:3306"), "{text}");
        assert!(!text.contains("secret") && text.contains("mysql.slow=7"), "{text}");
    }
}
