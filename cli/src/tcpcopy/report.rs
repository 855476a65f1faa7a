//! What tcpcopy says of itself: the statistics in the log, and the table at the end.

use std::fmt::{self, Write};
use std::net::SocketAddr;
use std::ops::AddAssign;

use tcpcopy_engine::Ledger;
use tcpcopy_engine::ledger::{ByteDrop, PacketDrop, SessionEnd};
use tcpcopy_io::capture::CaptureStats;
use tcpcopy_io::transmit::{SendError, TransmitStats};
use tcpcopy_wire::control::LinkStats;

/// The counters of a worker, or of all of them together.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// What became of what was captured.
    pub ledger: Ledger,
    /// What the kernel counted.
    pub capture: CaptureStats,
    /// How often a capture ended by itself.
    pub captures_lost: u64,
    /// What was sent.
    pub transmit: TransmitStats,
    /// Route changes that met a link that was down.
    pub routes_unsent: u64,
    /// Links that work now.
    pub links_up: u64,
    /// Links.
    pub links: u64,
    /// For each link, what its intercept last said of itself.
    pub relays: Vec<(SocketAddr, LinkStats)>,
}

impl AddAssign<&Self> for Snapshot {
    fn add_assign(&mut self, other: &Self) {
        self.ledger += &other.ledger;
        self.capture += other.capture;
        self.captures_lost += other.captures_lost;
        self.transmit += other.transmit;
        self.routes_unsent += other.routes_unsent;
        self.links_up += other.links_up;
        self.links += other.links;
        self.relays.extend_from_slice(&other.relays);
    }
}

/// Named counts of which only those that are not zero are shown: `2 no map matches, 1 malformed`.
struct NonZero<I>(I);

impl<I: Iterator<Item = (&'static str, u64)> + Clone> fmt::Display for NonZero<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (name, count)) in self.0.clone().filter(|(_, count)| *count > 0).enumerate() {
            let comma = if i > 0 { ", " } else { "" };
            write!(f, "{comma}{count} {name}")?;
        }
        Ok(())
    }
}

fn packet_drops(ledger: &Ledger) -> impl Iterator<Item = (&'static str, u64)> + Clone {
    PacketDrop::ALL.iter().map(|reason| reason.text()).zip(ledger.packets_dropped)
}

fn byte_drops(ledger: &Ledger) -> impl Iterator<Item = (&'static str, u64)> + Clone {
    ByteDrop::ALL.iter().map(|reason| reason.text()).zip(ledger.bytes_dropped)
}

fn session_ends(ledger: &Ledger) -> impl Iterator<Item = (&'static str, u64)> + Clone {
    SessionEnd::ALL.iter().map(|reason| reason.text()).zip(ledger.sessions_ended)
}

fn send_errors(stats: &TransmitStats) -> impl Iterator<Item = (&'static str, u64)> + Clone {
    SendError::ALL.map(SendError::text).into_iter().zip(stats.failed)
}

/// `120`, or `120 (80 idle, 40 malformed)`.
fn with_reasons(counts: impl Iterator<Item = (&'static str, u64)> + Clone) -> String {
    let total: u64 = counts.clone().map(|(_, count)| count).sum();
    if total == 0 { "0".to_owned() } else { format!("{total} ({})", NonZero(counts)) }
}

/// The block of lines that the log gets every `--stats-interval`, in the words of the C programs where they have one.
pub fn statistics(snapshot: &Snapshot) -> Vec<String> {
    let Snapshot { ledger: l, capture, transmit, .. } = snapshot;
    let ended: u64 = l.sessions_ended.iter().sum();
    let obsolete = l.sessions_ended[SessionEnd::Idle as usize] + l.sessions_ended[SessionEnd::TargetSilent as usize];
    let mut lines = vec![
        format!(
            "active:{},rel:{},obs del:{obsolete},tw:{}",
            l.sessions_alive,
            l.sessions_completed + ended,
            l.time_wait
        ),
        format!(
            "conns:{},resp packs:{},c-resp packs:{},resp fin:{},resp rst:{}",
            l.connections, l.responses, l.data_responses, l.response_fins, l.response_resets
        ),
        format!(
            "send packs:{},send content packs:{},send syn:{},fin:{},reset:{}",
            l.packets_sent, l.data_packets_sent, l.syns_sent, l.fins_sent, l.resets_sent
        ),
        format!(
            "reconnect:{},no syn:{},retransmit:{},recv packs after retransmission:{}",
            l.reconnects, l.joined, l.retransmits, l.recovered
        ),
        format!(
            "syn cnt:{},all clt packs:{},clt cont:{},total cont retransmit:{},frag:{},total captured:{}",
            l.client_syns,
            l.client_packets,
            l.client_data_packets,
            l.packets_dropped[PacketDrop::Duplicate as usize],
            l.packets_dropped[PacketDrop::Fragment as usize],
            l.packets_captured
        ),
        format!(
            "packets: captured {} = used {} + dropped {}",
            l.packets_captured,
            l.packets_used,
            with_reasons(packet_drops(l))
        ),
        format!(
            "bytes: captured {} + inserted {} = copied {} + pending {} + dropped {}",
            l.bytes_captured,
            l.bytes_inserted,
            l.bytes_copied,
            l.pending_bytes,
            with_reasons(byte_drops(l))
        ),
        format!(
            "sessions: seen {} = completed {} + alive {} + ended early {}",
            l.sessions_seen,
            l.sessions_completed,
            l.sessions_alive,
            with_reasons(session_ends(l))
        ),
        format!(
            "gate: held {}, released by bytes {}, by push {}, by quiet {}",
            l.gate_held, l.gate_by_bytes, l.gate_by_push, l.gate_by_quiet
        ),
        format!(
            "kernel: passed the filter {}, lost in the buffer {}, lost by the device {}, captures lost {}; not sent {}; \
             links up {} of {}",
            capture.received,
            capture.dropped,
            capture.interface_dropped,
            snapshot.captures_lost,
            with_reasons(send_errors(transmit)),
            snapshot.links_up,
            snapshot.links
        ),
    ];
    lines.extend(relay_lines(&snapshot.relays));
    lines
}

/// One line for each intercept. Its counters of frames and drops are its own, so that each of its links says the same;
/// those of responses belong to the link.
fn relay_lines(relays: &[(SocketAddr, LinkStats)]) -> Vec<String> {
    let mut totals: Vec<(SocketAddr, LinkStats)> = Vec::new();
    for (address, stats) in relays {
        match totals.iter_mut().find(|(known, _)| known == address) {
            None => totals.push((*address, *stats)),
            Some((_, total)) => {
                total.frames_captured = total.frames_captured.max(stats.frames_captured);
                total.kernel_drops = total.kernel_drops.max(stats.kernel_drops);
                total.unrouted = total.unrouted.max(stats.unrouted);
                total.relayed += stats.relayed;
                total.overflowed += stats.overflowed;
                total.routes_alive += stats.routes_alive;
            }
        }
    }
    totals
        .into_iter()
        .map(|(address, s)| {
            format!(
                "intercept {address}: captured {}, lost in the buffer {}, without a route {}; sent here {}, lost on a full \
                 link {}, routes {}",
                s.frames_captured, s.kernel_drops, s.unrouted, s.relayed, s.overflowed, s.routes_alive
            )
        })
        .collect()
}

/// What deserves a warning, given the counters of one interval ago.
pub fn warnings(before: &Snapshot, now: &Snapshot) -> Vec<String> {
    let mut warnings = Vec::new();
    let (active, connections) = (now.ledger.sessions_alive, now.ledger.connections);
    if connections * 100 < active * 80 {
        warnings.push(format!(
            "many connections can't be established: {connections} connections for {active} active sessions; does the \
             target listen, does it route its answers to intercept, and does intercept capture them?"
        ));
    }
    let lost = now.capture.dropped.saturating_sub(before.capture.dropped);
    if lost > 0 {
        warnings.push(format!(
            "{lost} packets were lost because the capture buffer was full: make it larger with -B, or use --workers"
        ));
    }
    if now.links_up < now.links {
        warnings.push(format!("{} of {} links to intercept are down", now.links - now.links_up, now.links));
    }
    warnings
}

/// The table that is printed at the end.
pub fn table(snapshot: &Snapshot) -> String {
    let Snapshot { ledger: l, capture, transmit, .. } = snapshot;
    let mut text = String::new();
    let mut rows = |title: &str, total: (&str, u64), parts: &[(&str, u64)], reasons: Vec<(&str, u64)>| {
        writeln!(text, "{title:<10} {:<64} {:>14}", total.0, total.1).expect("strings take all");
        for (name, count) in parts {
            writeln!(text, "{:<10}   {name:<62} {count:>14}", "").expect("strings take all");
        }
        for (name, count) in reasons.into_iter().filter(|(_, count)| *count > 0) {
            writeln!(text, "{:<10}     {name:<60} {count:>14}", "").expect("strings take all");
        }
    };
    let dropped = |counts: &[u64]| counts.iter().sum::<u64>();
    rows(
        "packets",
        ("captured", l.packets_captured),
        &[("used", l.packets_used), ("dropped", dropped(&l.packets_dropped))],
        packet_drops(l).collect(),
    );
    rows(
        "bytes",
        ("captured", l.bytes_captured),
        &[
            ("inserted by the module", l.bytes_inserted),
            ("copied", l.bytes_copied),
            ("pending", l.pending_bytes),
            ("dropped", dropped(&l.bytes_dropped)),
        ],
        byte_drops(l).collect(),
    );
    rows(
        "sessions",
        ("seen", l.sessions_seen),
        &[
            ("completed", l.sessions_completed),
            ("alive", l.sessions_alive),
            ("ended early", dropped(&l.sessions_ended)),
        ],
        session_ends(l).collect(),
    );
    rows(
        "target",
        ("packets sent", l.packets_sent),
        &[
            ("segments sent again", l.retransmits),
            ("connections accepted", l.connections),
            ("responses received", l.responses),
            ("packets that could not be sent", dropped(&transmit.failed)),
        ],
        send_errors(transmit).collect(),
    );
    rows(
        "kernel",
        ("packets that passed the filter", capture.received),
        &[
            ("lost: the capture buffer was full", capture.dropped),
            ("lost: the device could not take them", capture.interface_dropped),
        ],
        Vec::new(),
    );
    if let Err(imbalance) = l.check() {
        text.push_str(&imbalance);
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Snapshot {
        let mut s = Snapshot { links: 2, links_up: 2, ..Snapshot::default() };
        s.ledger.packets_captured = 10;
        s.ledger.packets_used = 7;
        for _ in 0..2 {
            s.ledger.drop_packet(PacketDrop::NoMap);
        }
        s.ledger.drop_packet(PacketDrop::Duplicate);
        s.ledger.connections = 5;
        s.transmit.failed[SendError::TooLarge as usize] = 3;
        s
    }

    #[test]
    fn statistics_name_only_the_reasons_that_occurred() {
        let lines = statistics(&sample()).join("\n");
        assert!(
            lines.contains(
                "packets: captured 10 = used 7 + dropped 3 (2 no map matches, 1 nothing new \
                 (retransmission, keepalive or captured twice))"
            ),
            "{lines}"
        );
        assert!(lines.contains("conns:5,") && lines.contains("not sent 3 (3 too large); links up 2 of 2"), "{lines}");
        assert!(lines.contains("+ ended early 0\n"), "{lines}");
    }

    #[test]
    fn snapshots_of_workers_add_up() {
        let mut total = sample();
        total += &sample();
        assert_eq!((total.ledger.packets_captured, total.links, total.transmit.failed.iter().sum::<u64>()), (20, 4, 6));
        assert_eq!(total.ledger.check(), Ok(()));
    }

    #[test]
    fn a_warning_needs_a_reason() {
        let before = sample();
        let mut now = sample();
        assert!(warnings(&before, &now).is_empty());
        now.ledger.sessions_alive = 7;
        now.capture.dropped = 4;
        now.links_up = 1;
        let text = warnings(&before, &now).join("\n");
        assert!(text.contains("5 connections for 7 active") && text.contains("4 packets were lost"), "{text}");
        assert!(text.contains("1 of 2 links"), "{text}");
    }

    #[test]
    fn the_table_lists_totals_and_reasons() {
        let table = table(&sample());
        let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        for row in ["packets captured 10", "used 7", "no map matches 2", "too large 3"] {
            assert!(rows.contains(&row.split(' ').collect()), "{table}");
        }
        let width = |line: &str| line.chars().count();
        assert!(table.lines().all(|line| width(line) == width(table.lines().next().unwrap_or_default())), "{table}");
        assert!(!table.contains("malformed") && !table.contains("balance"), "{table}");
    }
}
