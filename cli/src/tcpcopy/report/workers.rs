//! What part of the work each worker had.

use std::fmt::Write;

use super::Snapshot;

/// Behind the table: what part of the work each worker had. Nothing of one that was alone.
pub fn worker_rows(workers: &[Snapshot]) -> String {
    let mut text = String::new();
    for (number, Snapshot { ledger: l, capture, .. }) in workers.iter().enumerate().filter(|_| workers.len() > 1) {
        let title = format!("worker {number}");
        writeln!(text, "{title:<10} {:<64} {:>14}", "packets captured", l.packets_captured).expect("strings take all");
        for (name, count) in [
            ("sessions seen", l.sessions_seen),
            ("sessions completed", l.sessions_completed),
            ("packets sent", l.packets_sent),
            ("lost: the capture buffer was full", capture.dropped),
        ] {
            writeln!(text, "{:<10}   {name:<62} {count:>14}", "").expect("strings take all");
        }
    }
    text
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
