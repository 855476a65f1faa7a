//! What tcpcopy says of itself: the statistics in the log, and at the end the table and what became of a replay.

use std::fmt::{self, Write};
use std::net::SocketAddr;
use std::ops::AddAssign;

use tcpcopy_engine::Ledger;
use tcpcopy_engine::counters::ModuleCounters;
use tcpcopy_engine::latency::Latency;
use tcpcopy_engine::ledger::{ByteDrop, PacketDrop, SessionEnd};
use tcpcopy_io::capture::CaptureStats;
use tcpcopy_io::transmit::{SendError, TransmitStats};
use tcpcopy_wire::control::LinkStats;

use super::replay::Progress;
use crate::logging::one_line;

mod table;

pub use table::{table, worker_rows};

/// The counters of a worker, or of all of them together.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// What became of what was captured.
    pub ledger: Ledger,
    /// How long targets took to answer datagrams.
    pub udp_latency: Latency,
    /// What modules counted.
    pub modules: ModuleCounters,
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
    /// For each link, whether it works now.
    pub links_state: Vec<bool>,
    /// For each link, what its intercept last said of itself.
    pub relays: Vec<(SocketAddr, LinkStats)>,
    /// How far the replay is, if there is one.
    pub replay: Option<Progress>,
}

impl AddAssign<&Self> for Snapshot {
    fn add_assign(&mut self, other: &Self) {
        self.ledger += &other.ledger;
        self.udp_latency.merge(&other.udp_latency);
        self.modules.merge(&other.modules);
        self.capture += other.capture;
        self.captures_lost += other.captures_lost;
        self.transmit += other.transmit;
        self.routes_unsent += other.routes_unsent;
        self.links_up += other.links_up;
        self.links += other.links;
        self.links_state.extend_from_slice(&other.links_state);
        self.relays.extend_from_slice(&other.relays);
        // One worker replays.
        self.replay = self.replay.take().or_else(|| other.replay.clone());
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

pub(super) fn packet_drops(ledger: &Ledger) -> impl Iterator<Item = (&'static str, u64)> + Clone {
    PacketDrop::ALL.iter().map(|reason| reason.text()).zip(ledger.packets_dropped)
}

pub(super) fn byte_drops(ledger: &Ledger) -> impl Iterator<Item = (&'static str, u64)> + Clone {
    ByteDrop::ALL.iter().map(|reason| reason.text()).zip(ledger.bytes_dropped)
}

pub(super) fn session_ends(ledger: &Ledger) -> impl Iterator<Item = (&'static str, u64)> + Clone {
    named_ends(ledger.sessions_ended)
}

pub(super) fn named_ends(
    counts: [u64; SessionEnd::ALL.len()],
) -> impl Iterator<Item = (&'static str, u64)> + Clone + use<> {
    SessionEnd::ALL.iter().map(|reason| reason.text()).zip(counts)
}

pub(super) fn send_errors(stats: &TransmitStats) -> impl Iterator<Item = (&'static str, u64)> + Clone {
    SendError::ALL.map(SendError::text).into_iter().zip(stats.failed)
}

/// `120`, or `120 (80 idle, 40 malformed)`.
fn with_reasons(counts: impl Iterator<Item = (&'static str, u64)> + Clone) -> String {
    let total: u64 = counts.clone().map(|(_, count)| count).sum();
    if total == 0 { "0".to_owned() } else { format!("{total} ({})", NonZero(counts)) }
}

/// Whether there is anything to say of UDP.
fn has_udp(l: &Ledger) -> bool {
    l.udp_datagrams + l.udp_sent + l.udp_fragments + l.udp_responses > 0
}

/// `12.5 %` of a whole; nothing of nothing.
fn percent(part: u64, whole: u64) -> String {
    if whole == 0 { "none".to_owned() } else { format!("{:.1} %", part as f64 * 100.0 / whole as f64) }
}

/// Shares of the answers, and the milliseconds within which they came; nothing where there are none.
fn latencies(latency: &Latency) -> Vec<(String, f64)> {
    [(0.5, "50 %"), (0.9, "90 %"), (0.99, "99 %"), (1.0, "all")]
        .into_iter()
        .filter_map(|(share, name)| Some((name.to_owned(), latency.quantile(share)?.as_secs_f64() * 1e3)))
        .collect()
}

fn udp_lines(snapshot: &Snapshot) -> Vec<String> {
    let l = &snapshot.ledger;
    if !has_udp(l) {
        return Vec::new();
    }
    let mut lines = vec![format!(
        "udp: datagrams {}, sent {} ({} fragments), copies left out {}, fragments {} = reassembled {} datagrams, \
         incomplete {}; clients {}, alive {}, evicted {}, given up {}",
        l.udp_datagrams,
        l.udp_sent,
        l.udp_fragments_sent,
        l.udp_copies_left_out,
        l.udp_fragments,
        l.udp_reassembled,
        l.udp_incomplete,
        l.udp_flows,
        l.udp_flows_alive,
        l.udp_flows_evicted,
        l.udp_flows_given_up
    )];
    if snapshot.links == 0 {
        lines.push("udp responses: not counted without an intercept (-s)".to_owned());
        return lines;
    }
    let line = format!(
        "udp responses: {}, answered {} of {} sent ({}), unanswered {}, unsolicited {}{}",
        l.udp_responses,
        l.udp_answered,
        l.udp_sent,
        percent(l.udp_answered, l.udp_sent),
        l.udp_unanswered,
        l.udp_unsolicited,
        within("; ", &snapshot.udp_latency)
    );
    lines.push(line);
    lines
}

/// `50 % within 0.3 ms, …` behind some text; nothing of nothing.
fn within(before: &str, latency: &Latency) -> String {
    let shares: Vec<String> = latencies(latency)
        .into_iter()
        .map(|(name, milliseconds)| format!("{name} within {milliseconds:.3} ms"))
        .collect();
    if shares.is_empty() { String::new() } else { format!("{before}{}", shares.join(", ")) }
}

/// How long requests were held here, and how long the target took.
fn request_lines(l: &Ledger) -> Vec<String> {
    if l.requests == 0 {
        return Vec::new();
    }
    let mut lines = vec![
        format!("requests: captured {}, let through {}{}", l.requests, l.requests_copied, within("; lag: ", &l.lag)),
        format!("target: began to answer {}{}", l.response_time.count(), within("; ", &l.response_time)),
    ];
    if l.online_response_time.count() > 0 {
        let online = &l.online_response_time;
        lines.push(format!("online: began to answer {}{}", online.count(), within("; ", online)));
    }
    lines
}

/// Why packets could not be taken out of their tunnel.
const TUNNEL_DROPS: [PacketDrop; 4] =
    [PacketDrop::TunnelCut, PacketDrop::TunnelUnknown, PacketDrop::TunnelFragment, PacketDrop::TunnelTooDeep];

fn tunnel_line(ledger: &Ledger) -> Option<String> {
    let drops = TUNNEL_DROPS.map(|reason| (reason.text(), ledger.packets_dropped[reason as usize]));
    let seen =
        ledger.packets_decapsulated + ledger.tunnel_fragments + drops.iter().map(|(_, count)| count).sum::<u64>();
    (seen > 0).then(|| {
        let not_taken = with_reasons(drops.into_iter());
        format!(
            "tunnels: packets taken out of them {}, not taken out {not_taken}; fragments {}, incomplete packets {}",
            ledger.packets_decapsulated, ledger.tunnel_fragments, ledger.tunnels_incomplete
        )
    })
}

/// What modules counted, each count and each number of bytes that is not zero, by module and name.
pub(super) fn module_counts(modules: &ModuleCounters) -> impl Iterator<Item = (String, u64)> {
    let counts =
        modules.iter().flat_map(|counter| [(counter, counter.count, ""), (counter, counter.bytes, " (bytes dropped)")]);
    let counts = counts.filter(|(_, count, _)| *count > 0);
    counts.map(|(counter, count, what)| (format!("{}: {}{what}", counter.module, counter.name), count))
}

/// What each module counted: `module words: lines 3, not a word 20 bytes dropped`.
fn module_lines(modules: &ModuleCounters) -> Vec<String> {
    let mut lines: Vec<(&str, String)> = Vec::new();
    for counter in modules.iter() {
        let name = one_line(&counter.name);
        let mut parts = Vec::new();
        if counter.count > 0 {
            parts.push(format!("{name} {}", counter.count));
        }
        if counter.bytes > 0 {
            parts.push(format!("{name} {} bytes dropped", counter.bytes));
        }
        let text = parts.join(", ");
        match lines.iter_mut().find(|(module, _)| *module == counter.module) {
            _ if text.is_empty() => {}
            Some((_, line)) => write!(line, ", {text}").expect("strings take all"),
            None => lines.push((counter.module, text)),
        }
    }
    lines.into_iter().map(|(module, text)| format!("module {module}: {text}")).collect()
}

/// The block of lines that the log gets every `--stats-interval`, in the words of the C programs where they have one.
pub fn statistics(snapshot: &Snapshot) -> Vec<String> {
    let l = &snapshot.ledger;
    let mut lines = lines_of_the_c_programs(l);
    lines.extend(balance_lines(snapshot));
    lines.extend(tunnel_line(l));
    lines.extend(request_lines(l));
    if let Some(multiplier) = multiplier(l) {
        lines.push(format!("multiplier: {multiplier}"));
    }
    if let Some(progress) = &snapshot.replay {
        lines.push(format!("replay: {progress}"));
    }
    lines.extend(udp_lines(snapshot));
    lines.extend(module_lines(&snapshot.modules));
    lines.extend(relay_lines(&snapshot.relays));
    lines
}

fn lines_of_the_c_programs(l: &Ledger) -> Vec<String> {
    let ended: u64 = l.sessions_ended.iter().sum();
    let obsolete = l.sessions_ended[SessionEnd::Idle as usize] + l.sessions_ended[SessionEnd::TargetSilent as usize];
    vec![
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
    ]
}

/// Both sides of each balance, and what is on neither.
fn balance_lines(snapshot: &Snapshot) -> [String; 5] {
    let Snapshot { ledger: l, capture, transmit, .. } = snapshot;
    [
        format!(
            "packets: captured {} + multiplied {} = used {} + dropped {}",
            l.packets_captured,
            l.packets_multiplied,
            l.packets_used,
            with_reasons(packet_drops(l))
        ),
        format!(
            "bytes: captured {} + inserted {} + multiplied {} = copied {} + pending {} + dropped {}",
            l.bytes_captured,
            l.bytes_inserted,
            l.bytes_multiplied,
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
            "gate: held {}, released by module {}, by bytes {}, by push {}, by quiet {}",
            l.gate_held, l.gate_by_module, l.gate_by_bytes, l.gate_by_push, l.gate_by_quiet
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
    ]
}

/// One line for each intercept. Its counters of frames and drops are its own, so that each of its links says the same;
/// those of responses belong to the link. One that has said nothing of itself, as those of the C programs never do, has
/// none.
fn relay_lines(relays: &[(SocketAddr, LinkStats)]) -> Vec<String> {
    relay_totals(relays)
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

/// What each intercept that has said anything of itself says, with its links together.
pub(super) fn relay_totals(relays: &[(SocketAddr, LinkStats)]) -> Vec<(SocketAddr, LinkStats)> {
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
    totals.retain(|(_, stats)| *stats != LinkStats::default());
    totals
}

/// A number of bytes as people read it: `1.5 MB`.
fn bytes_in_words(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} bytes"),
        10_000..10_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        10_000_000..10_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

/// How many times over clients' connections are copied, where that is wanted.
fn multiplier(l: &Ledger) -> Option<String> {
    let firsts = l.sessions_seen - l.sessions_multiplied;
    (l.sessions_multiplied > 0 && firsts > 0).then(|| {
        format!(
            "{:.2} copies of each connection begun, without a free source {}",
            l.sessions_seen as f64 / firsts as f64,
            l.sessions_without_source
        )
    })
}

/// Of a replay: what was found in the files, what of it reached the target, and why the rest did not.
pub fn replay_summary(snapshot: &Snapshot) -> Vec<String> {
    let (Some(progress), l) = (&snapshot.replay, &snapshot.ledger) else { return Vec::new() };
    let mut lines: Vec<String> = progress.damages.iter().map(ToString::to_string).collect();
    if !progress.ending {
        lines.push(format!("the replay was ended before its end: {progress}"));
    }
    let left_out = [
        ("not in the sample", l.syns_not_sampled),
        ("no room", l.sessions_shed),
        ("too many", l.sessions_over_limit),
        ("no free source address", l.sessions_without_source),
    ];
    let found = l.sessions_seen + left_out.iter().map(|(_, n)| n).sum::<u64>();
    let skipped = left_out.into_iter().chain(session_ends(l));
    lines.push(format!(
        "sessions: found {found}, replayed {}, skipped or ended early {}",
        l.sessions_completed,
        with_reasons(skipped.collect::<Vec<_>>().into_iter())
    ));
    // What was never looked at, as of a client that is not in the sample, is not known to be requests.
    lines.push(format!(
        "requests: found {}, replayed {}, skipped {}",
        l.requests,
        l.requests_copied,
        l.requests.saturating_sub(l.requests_copied)
    ));
    if has_udp(l) {
        lines.push(format!("datagrams: found {}, replayed {}", l.udp_datagrams, l.udp_sent));
    }
    let of_bytes: u64 = l.bytes_dropped.iter().sum();
    lines.push(format!(
        "bytes: found {}, replayed {}, skipped {}{}",
        bytes_in_words(l.bytes_captured + l.bytes_multiplied),
        bytes_in_words(l.bytes_copied),
        bytes_in_words(of_bytes + l.pending_bytes),
        if of_bytes > 0 { format!(" ({})", NonZero(byte_drops(l))) } else { String::new() }
    ));
    lines.push(format!(
        "packets: in the files {}, of clients {}, of no use {}",
        progress.frames,
        l.client_packets,
        with_reasons(packet_drops(l))
    ));
    lines
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
    let incomplete = now.ledger.tunnels_incomplete.saturating_sub(before.ledger.tunnels_incomplete);
    if incomplete > 0 {
        warnings.push(format!(
            "{incomplete} mirrored packets came in IP fragments of which some were missing: give the way from the mirror to \
             this host an MTU that is larger than the mirrored network's by the tunnel's headers (50 bytes for VXLAN)"
        ));
    }
    if now.links_up < now.links {
        warnings.push(format!("{} of {} links to intercept are down", now.links - now.links_up, now.links));
    }
    warnings
}

#[cfg(test)]
mod tests;
