//! The numbers of each `-x` map as metrics, told apart by the labels `map` and `module`.

use std::fmt;

use tcpcopy_engine::MapLedger;
use tcpcopy_engine::ledger::SessionEnd;

use crate::metrics::Metrics;
use crate::tcpcopy::options::Options;
use crate::tcpcopy::status;

type Count = fn(&MapLedger) -> u64;

/// What a map is called: as in `-x`, and by which module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapName {
    /// `80-10.0.0.2:8080`.
    pub(super) map: String,
    /// `tcp`.
    pub(super) module: String,
}

/// The names of all maps, in their order.
pub(in crate::tcpcopy) fn names(options: &Options) -> Vec<MapName> {
    let name = |map| {
        let (online, module) = status::name_of_map(options, map);
        MapName { map: format!("{online}-{}", map.target), module }
    };
    options.maps.iter().map(name).collect()
}

/// Of each map its numbers. Maps of one name are added up: a series may be there only once.
pub(super) fn encode(metrics: &mut Metrics<'_>, names: &[MapName], ledgers: &[MapLedger]) -> fmt::Result {
    let mut maps: Vec<(&MapName, MapLedger)> = Vec::new();
    for (name, ledger) in names.iter().zip(ledgers) {
        match maps.iter_mut().find(|(known, _)| *known == name) {
            Some((_, sum)) => *sum += ledger,
            None => maps.push((name, ledger.clone())),
        }
    }
    let labels = |name: &MapName| [("map", name.map.clone()), ("module", name.module.clone())];
    let counters: [(&str, &str, Count); 6] = [
        ("sessions", "Sessions of a map begun; over UDP, clients.", |ledger| ledger.sessions),
        ("requests", "Requests of a map; over UDP, datagrams.", |ledger| ledger.requests),
        ("requests_copied", "Those of them that were let through to the target.", |ledger| ledger.requests_copied),
        ("bytes_copied", "Bytes of a map that the target acknowledged, and those of datagrams sent.", |ledger| {
            ledger.bytes_copied
        }),
        ("retransmits", "Segments of a map sent again.", |ledger| ledger.retransmits),
        ("connections", "Connections of a map that the target accepted.", |ledger| ledger.connections),
    ];
    for (name, help, count) in counters {
        let values = maps.iter().map(|(map, ledger)| (labels(map), count(ledger)));
        metrics.labelled(&format!("tcpcopy_map_{name}"), help, values)?;
    }
    let alive = maps.iter().map(|(map, ledger)| (labels(map), ledger.sessions_alive as f64));
    metrics.labelled_gauges("tcpcopy_map_sessions_alive", "Sessions of a map that live now.", alive)?;
    let ended = maps.iter().flat_map(|(map, ledger)| {
        SessionEnd::ALL.iter().map(move |reason| {
            let [map, module] = labels(map);
            ([map, module, ("reason", reason.text().to_owned())], ledger.ended(*reason))
        })
    });
    metrics.labelled("tcpcopy_map_sessions_ended_early", "Sessions of a map not copied to their end.", ended)?;
    let times = maps.iter().map(|(map, ledger)| (labels(map), &ledger.response_time));
    let help = "Time from a request of a map until its target began to answer it.";
    metrics.labelled_durations("tcpcopy_map_response_time", help, times)
}
