//! The table that is printed at the end.

use std::fmt::{Display, Write};

use tcpcopy_engine::Ledger;
use tcpcopy_engine::latency::Latency;

use super::{
    Snapshot, byte_drops, has_udp, latencies, module_counts, multiplier, packet_drops, send_errors, session_ends,
};
use crate::logging::one_line;

/// Rows of a title, a name and a value.
#[derive(Default)]
struct Table(String);

impl Table {
    fn row(&mut self, title: &str, indent: usize, name: &str, value: impl Display) {
        let name = format!("{:indent$}{name}", "");
        writeln!(self.0, "{title:<10} {name:<64} {value:>14}").expect("strings take all");
    }

    /// A total and its parts.
    fn block(&mut self, title: &str, total: (&str, u64), parts: &[(&str, u64)]) {
        self.row(title, 0, total.0, total.1);
        for (name, count) in parts {
            self.row("", 2, name, count);
        }
    }

    /// Of the last part the reasons that are not zero.
    fn reasons(&mut self, reasons: impl Iterator<Item = (&'static str, u64)>) {
        for (name, count) in reasons.filter(|(_, count)| *count > 0) {
            self.row("", 4, name, count);
        }
    }

    /// Within how many milliseconds which share of something came about.
    fn shares(&mut self, indent: usize, of: &str, latency: &Latency) {
        for (share, milliseconds) in latencies(latency) {
            self.row("", indent, &format!("{share} {of} within (ms)"), format!("{milliseconds:.3}"));
        }
    }

    fn balances(&mut self, l: &Ledger) {
        let dropped = |counts: &[u64]| counts.iter().sum::<u64>();
        let mut packet_parts = vec![
            ("multiplied: taken for further copies", l.packets_multiplied),
            ("used", l.packets_used),
            ("dropped", dropped(&l.packets_dropped)),
        ];
        if l.packets_decapsulated > 0 {
            packet_parts.insert(0, ("taken out of tunnels", l.packets_decapsulated));
            packet_parts.insert(1, ("fragments of tunnels' packets", l.tunnel_fragments));
        }
        self.block("packets", ("captured", l.packets_captured), &packet_parts);
        self.reasons(packet_drops(l));
        self.block(
            "bytes",
            ("captured", l.bytes_captured),
            &[
                ("inserted by the module", l.bytes_inserted),
                ("multiplied: sent to more targets, or from more sources", l.bytes_multiplied),
                ("copied", l.bytes_copied),
                ("pending", l.pending_bytes),
                ("dropped", dropped(&l.bytes_dropped)),
            ],
        );
        self.reasons(byte_drops(l));
        self.block(
            "sessions",
            ("seen", l.sessions_seen),
            &[
                ("completed", l.sessions_completed),
                ("alive", l.sessions_alive),
                ("ended early", dropped(&l.sessions_ended)),
            ],
        );
        self.reasons(session_ends(l));
    }

    fn requests(&mut self, l: &Ledger) {
        if l.requests == 0 {
            return;
        }
        let mut parts =
            vec![("let through to the target", l.requests_copied), ("answers begun", l.response_time.count())];
        let mut times = vec![("let through", &l.lag), ("answers begun", &l.response_time)];
        // Of a measurement that nobody asked for nothing is said.
        if l.online_response_time.count() > 0 {
            parts.push(("answers begun by online", l.online_response_time.count()));
            times.push(("answers begun by online", &l.online_response_time));
        }
        self.block("requests", ("captured", l.requests), &parts);
        for (what, latency) in times {
            self.shares(4, &format!("of those {what},"), latency);
        }
    }

    fn udp(&mut self, snapshot: &Snapshot) {
        let l = &snapshot.ledger;
        if !has_udp(l) {
            return;
        }
        let responses = [
            ("responses received", l.udp_responses),
            ("datagrams answered", l.udp_answered),
            ("datagrams not answered", l.udp_unanswered),
            ("responses to nothing that was sent", l.udp_unsolicited),
        ];
        let mut parts = vec![
            ("sent to targets, all copies", l.udp_sent),
            ("fragments of these", l.udp_fragments_sent),
            ("copies left out", l.udp_copies_left_out),
            ("fragments captured", l.udp_fragments),
            ("datagrams put together from them", l.udp_reassembled),
            ("datagrams of which fragments are missing", l.udp_incomplete),
            ("clients, by target and copy", l.udp_flows),
        ];
        parts.extend(if snapshot.links > 0 { &responses[..] } else { &[] });
        self.block("udp", ("datagrams captured", l.udp_datagrams), &parts);
        self.shares(2, "of the answers", &snapshot.udp_latency);
    }
}

/// The table that is printed at the end.
pub fn table(snapshot: &Snapshot) -> String {
    let Snapshot { ledger: l, capture, transmit, .. } = snapshot;
    let mut table = Table::default();
    table.balances(l);
    table.block(
        "target",
        ("packets sent", l.packets_sent),
        &[
            ("segments sent again", l.retransmits),
            ("connections accepted", l.connections),
            ("responses received", l.responses),
            ("packets that could not be sent", transmit.failed.iter().sum()),
        ],
    );
    table.reasons(send_errors(transmit));
    table.block(
        "kernel",
        ("packets that passed the filter", capture.received),
        &[
            ("lost: the capture buffer was full", capture.dropped),
            ("lost: the device could not take them", capture.interface_dropped),
        ],
    );
    table.requests(l);
    table.udp(snapshot);
    for (name, count) in module_counts(&snapshot.modules) {
        table.row("module", 0, &one_line(&name), count);
    }
    let Table(mut text) = table;
    if let Some(multiplier) = multiplier(l) {
        writeln!(text, "multiplier: {multiplier}").expect("strings take all");
    }
    if let Err(imbalance) = l.check() {
        writeln!(text, "{imbalance}").expect("strings take all");
    }
    text
}

/// Behind the table: what part of the work each worker had. Nothing of one that was alone.
pub fn worker_rows(workers: &[Snapshot]) -> String {
    let mut table = Table::default();
    for (number, Snapshot { ledger: l, capture, .. }) in workers.iter().enumerate().filter(|_| workers.len() > 1) {
        table.block(
            &format!("worker {number}"),
            ("packets captured", l.packets_captured),
            &[
                ("sessions seen", l.sessions_seen),
                ("sessions completed", l.sessions_completed),
                ("packets sent", l.packets_sent),
                ("lost: the capture buffer was full", capture.dropped),
            ],
        );
    }
    table.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(sessions_seen: u64) -> Snapshot {
        let mut s = Snapshot::default();
        (s.ledger.packets_captured, s.ledger.sessions_seen) = (10, sessions_seen);
        s
    }

    #[test]
    fn several_workers_have_rows_of_their_own() {
        assert_eq!(worker_rows(&[snapshot(0)]), "");
        let text = worker_rows(&[snapshot(0), snapshot(31)]);
        let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        for row in
            ["worker 0 packets captured 10", "sessions seen 0", "worker 1 packets captured 10", "sessions seen 31"]
        {
            assert!(rows.contains(&row.split(' ').collect()), "{text}");
        }
    }
}
