//! tcpcopy's numbers as metrics.

mod maps;

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use self::maps::MapName;
pub(super) use self::maps::names;
use super::report::{self, Snapshot};
use crate::metrics::Metrics;

/// Those of the ledger's counters that also shrink.
pub(super) const GAUGES: &[&str] = &["sessions_alive", "pending_bytes", "udp_flows_alive", "responses_delayed"];

/// The counters of all workers, as they are at one moment.
#[derive(Debug, Default)]
pub struct Exposition {
    /// The counters.
    pub counters: Snapshot,
    /// What the maps are called.
    pub maps: Vec<MapName>,
}

impl Collector for Exposition {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut metrics = Metrics::new(encoder);
        let Snapshot { ledger, capture, transmit, .. } = &self.counters;
        metrics.plain("tcpcopy", ledger.counters(), GAUGES)?;
        let packets = report::packet_drops(ledger);
        metrics.counters("tcpcopy_packets_dropped", "Captured packets that were not used.", "reason", packets)?;
        let bytes = report::byte_drops(ledger);
        metrics.counters("tcpcopy_bytes_dropped", "Clients' bytes that were not copied.", "reason", bytes)?;
        let sessions = report::session_ends(ledger);
        metrics.counters("tcpcopy_sessions_ended_early", "Sessions not copied to their end.", "reason", sessions)?;
        let unsent = report::send_errors(transmit);
        metrics.counters("tcpcopy_packets_not_sent", "Packets that the system did not take.", "reason", unsent)?;
        let lag = "Time from the capture of a request until it was let through to the target.";
        metrics.durations("tcpcopy_lag", lag, &ledger.lag)?;
        let response = "Time from a request until the target began to answer it.";
        metrics.durations("tcpcopy_response_time", response, &ledger.response_time)?;
        let online = "Time from a request until online began to answer it, with --measure-online.";
        metrics.durations("tcpcopy_online_response_time", online, &ledger.online_response_time)?;
        let datagrams = "Time from a datagram until the target answered it.";
        metrics.durations("tcpcopy_udp_response_time", datagrams, &self.counters.udp_latency)?;
        maps::encode(&mut metrics, &self.maps, &ledger.maps)?;
        metrics.counter("tcpcopy_capture_received", "Packets that passed the capture filter.", capture.received)?;
        metrics.counter(
            "tcpcopy_capture_dropped",
            "Packets lost because the capture buffer was full.",
            capture.dropped,
        )?;
        metrics.counter(
            "tcpcopy_capture_dropped_by_device",
            "Packets that the network device could not take.",
            capture.interface_dropped,
        )?;
        let modules = || self.counters.modules.iter();
        let events = modules().map(|c| ([("module", c.module), ("name", &*c.name)], c.count));
        metrics.labelled("tcpcopy_module_events", "What modules count.", events)?;
        let bytes = modules().map(|c| ([("module", c.module), ("name", &*c.name)], c.bytes));
        metrics.labelled("tcpcopy_module_bytes_dropped", "Bytes that modules dropped, by reason.", bytes)?;
        metrics.process()?;
        metrics.gauge(
            "tcpcopy_links",
            "Connections to intercepts that there should be.",
            self.counters.links as f64,
        )?;
        metrics.gauge("tcpcopy_links_up", "Connections to intercepts that work.", self.counters.links_up as f64)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;
    use tcpcopy_engine::ledger::PacketDrop;

    use tcpcopy_engine::MapLedger;

    use super::*;

    #[test]
    fn every_counter_of_the_ledger_is_a_metric() {
        let mut snapshot = Snapshot::default();
        snapshot.ledger.packets_captured = 7;
        snapshot.ledger.sessions_alive = 3;
        snapshot.ledger.drop_packet(PacketDrop::NoMap);
        snapshot.ledger.lag.record(Duration::from_micros(100));
        snapshot.ledger.lag.record(Duration::from_secs(1_000));
        let name = |map: &str| MapName { map: map.to_owned(), module: "tcp".to_owned() };
        let maps = vec![name("80-10.0.0.2:8080"), name("81-10.0.0.2:81"), name("80-10.0.0.2:8080")];
        let of_map = MapLedger { requests: 5, sessions_alive: 2, ..MapLedger::default() };
        snapshot.ledger.maps = vec![of_map.clone(), MapLedger::default(), of_map];
        snapshot.ledger.maps[0].response_time.record(Duration::from_micros(100));
        let names: Vec<&str> = snapshot.ledger.counters().map(|(name, ..)| name).collect();
        assert!(GAUGES.iter().all(|gauge| names.contains(gauge)));
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Exposition { counters: snapshot, maps }));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for name in names {
            assert!(text.contains(&format!("# HELP tcpcopy_{name} ")), "{name} is missing in:\n{text}");
        }
        for line in [
            "tcpcopy_packets_captured_total 7",
            "tcpcopy_sessions_alive 3",
            "tcpcopy_packets_dropped_total{reason=\"no map matches\"} 1",
            "tcpcopy_lag_seconds_count 2",
            "tcpcopy_lag_seconds_bucket{le=\"0.000128\"} 1",
            "tcpcopy_lag_seconds_bucket{le=\"+Inf\"} 2",
            "tcpcopy_map_requests_total{map=\"80-10.0.0.2:8080\",module=\"tcp\"} 10",
            "tcpcopy_map_requests_total{map=\"81-10.0.0.2:81\",module=\"tcp\"} 0",
            "tcpcopy_map_sessions_alive{map=\"80-10.0.0.2:8080\",module=\"tcp\"} 4",
            "tcpcopy_map_response_time_seconds_count{map=\"80-10.0.0.2:8080\",module=\"tcp\"} 1",
        ] {
            assert!(text.lines().any(|l| l.starts_with(line)), "`{line}` is missing in:\n{text}");
        }
        let refused = "map=\"81-10.0.0.2:81\",module=\"tcp\",reason=\"target refused the connection\"";
        assert!(text.contains(&format!("tcpcopy_map_sessions_ended_early_total{{{refused}}} 0\n")), "{text}");
        let series: Vec<&str> = text.lines().filter_map(|line| line.rsplit_once(' ')).map(|(name, _)| name).collect();
        let again = series.iter().enumerate().find(|(i, name)| !name.starts_with('#') && series[..*i].contains(name));
        assert_eq!(again, None, "a series may be there only once");
        assert!(text.ends_with("# EOF\n"));
    }
}
