//! The statistics, in words.

use std::fmt::Write;

use tcpcopy_engine::relay::RelayDrop;
use tcpcopy_io::control::ServerStats;

use super::crew::Total;

/// The lines of one report. Counters that are nearly always zero are shown when they are not; several workers have a line
/// each.
pub(super) fn lines(total: &Total, server: &ServerStats) -> Vec<String> {
    let Total { relay, captures, workers } = total;
    let mut lines = vec![
        format!(
            "total resp packs:{}, all:{}, route:{}, sock write cnt:{}, all sessions:{}, captured:{}, waiting:{}",
            relay.relayed,
            relay.responses,
            relay.routes_added,
            server.writes,
            relay.routes_alive,
            relay.frames,
            relay.held
        ),
        format!(
            "early kept:{}, early released:{}; routes removed:{}, expired:{}, replaced:{}, orphaned:{}; links up:{}, \
             accepted:{}{}",
            relay.early_kept,
            relay.early_released,
            relay.routes_removed,
            relay.routes_expired,
            relay.routes_replaced,
            relay.routes_orphaned,
            server.up,
            server.accepted,
            when_not_zero(&[
                ("without routes", relay.routeless),
                ("routes refused", relay.routes_refused),
                ("routes above one link's share", relay.routes_over_share),
            ]) + &when_not_zero(&server.closed())
        ),
    ];
    let dropped: Vec<(&str, u64)> =
        RelayDrop::ALL.iter().map(|reason| (reason.text(), relay.dropped[*reason as usize])).collect();
    lines.push(format!(
        "dropped by kernel:{}, by device:{}{}",
        captures.dropped,
        captures.interface_dropped,
        when_not_zero(&dropped)
    ));
    for (number, worker) in workers.iter().enumerate() {
        lines.push(format!(
            "worker {number}: captured:{}, all:{}, relayed:{}, waiting:{}, dropped by kernel:{}, routes:{}",
            worker.relay.frames,
            worker.relay.responses,
            worker.relay.relayed,
            worker.relay.held,
            worker.captures.dropped,
            worker.relay.routes_alive
        ));
    }
    lines
}

fn when_not_zero(counters: &[(&str, u64)]) -> String {
    let mut text = String::new();
    for (name, n) in counters.iter().filter(|(_, n)| *n > 0) {
        // Writing to a string cannot fail.
        let _ = write!(text, ", {name}:{n}");
    }
    text
}
