//! `status`, for people.

use std::fmt::{self, Write};

use super::durations::{Durations, time_in_words};
use super::protocol::{Counters, Link, MapStatus, Numbers, Status};
use crate::logging::one_line;

/// The whole of it.
pub(super) fn status(status: &Status) -> String {
    let mut text = String::new();
    // Strings take all.
    let _ = write(&mut text, status);
    // What comes over a socket may hold anything.
    text.lines().map(|line| one_line(line).into_owned() + "\n").collect()
}

fn write(text: &mut String, status: &Status) -> fmt::Result {
    let state = if status.in_force.paused { "paused" } else { "running" };
    writeln!(
        text,
        "{} {}, process {}, for {}: {state}",
        status.program,
        status.release,
        status.pid,
        uptime_in_words(status.uptime_seconds)
    )?;
    let settings: Vec<String> = status.in_force.settings.iter().map(|(key, value)| format!("{key}={value}")).collect();
    writeln!(text, "  {}", settings.join(", "))?;
    if status.program == "tcpcopy" { copy(text, status) } else { plain(text, status) }
}

fn copy(text: &mut String, status: &Status) -> fmt::Result {
    let total = &status.total;
    traffic(text, total)?;
    kernel(text, total)?;
    writeln!(text, "maps")?;
    for map in &status.maps {
        writeln!(text, "  {} to {} ({}, {})", map.online, map.target, map.transport, map.module)?;
        writeln!(text, "    {}", map_line(map))?;
        writeln!(text, "    answers {}", within(&map.response_time))?;
    }
    if status.workers.len() > 1 {
        writeln!(text, "workers")?;
        for (number, worker) in status.workers.iter().enumerate() {
            writeln!(text, "  {number}: {}", worker_line(worker))?;
        }
    }
    writeln!(text, "links       up {} of {}", total.links_up, total.links)?;
    for link in &status.links {
        writeln!(text, "  {}", link_line(link))?;
    }
    Ok(())
}

/// What was captured, and what became of it.
fn traffic(text: &mut String, total: &Numbers) -> fmt::Result {
    let n = |name| total.counter(name);
    writeln!(
        text,
        "requests    captured {}, let through {}, answered {}",
        n("requests"),
        n("requests_copied"),
        total.response_time.count
    )?;
    writeln!(text, "  lag               {}", within(&total.lag))?;
    writeln!(text, "  target's answers  {}", within(&total.response_time))?;
    if total.online_response_time.count > 0 {
        writeln!(text, "  online's answers  {}", within(&total.online_response_time))?;
    }
    if n("udp_datagrams") > 0 {
        writeln!(
            text,
            "datagrams   captured {}, sent {}, answered {}",
            n("udp_datagrams"),
            n("udp_sent"),
            n("udp_answered")
        )?;
        writeln!(text, "  target's answers  {}", within(&total.udp_response_time))?;
    }
    writeln!(
        text,
        "sessions    seen {}, alive {}, completed {}, ended early {}",
        n("sessions_seen"),
        n("sessions_alive"),
        n("sessions_completed"),
        with_reasons(&total.sessions_ended_early)
    )?;
    let left_out = [
        ("not in the sample", n("syns_not_sampled")),
        ("no room", n("sessions_shed")),
        ("no free source address", n("sessions_without_source")),
        ("paused", n("syns_paused")),
    ];
    writeln!(
        text,
        "  not begun {}",
        with_reasons(&left_out.into_iter().map(|(why, n)| (why.to_owned(), n)).collect())
    )?;
    writeln!(
        text,
        "packets     captured {}, used {}, dropped {}",
        n("packets_captured"),
        n("packets_used"),
        with_reasons(&total.packets_dropped)
    )?;
    writeln!(
        text,
        "bytes       captured {}, copied {}, pending {}, dropped {}",
        n("bytes_captured"),
        n("bytes_copied"),
        n("pending_bytes"),
        with_reasons(&total.bytes_dropped)
    )?;
    writeln!(
        text,
        "to target   packets {}, again {}, not sent {}; connections accepted {}",
        n("packets_sent"),
        n("retransmits"),
        with_reasons(&total.packets_not_sent),
        n("connections")
    )
}

/// A program of which only the counters are known.
fn plain(text: &mut String, status: &Status) -> fmt::Result {
    for (name, count) in &status.total.counters {
        writeln!(text, "{:<28} {count:>14}", name.replace('_', " "))?;
    }
    kernel(text, &status.total)
}

fn kernel(text: &mut String, numbers: &Numbers) -> fmt::Result {
    let kernel = &numbers.kernel;
    writeln!(
        text,
        "kernel      passed the filter {}, lost in the buffer {}, lost by the device {}, captures lost {}",
        kernel.received, kernel.dropped, kernel.dropped_by_device, kernel.captures_lost
    )
}

fn map_line(map: &MapStatus) -> String {
    format!(
        "sessions {} ({} alive), requests {}, let through {}, answered {}; connections accepted {}, refused {}, reset {}, \
         unanswered {}; segments again {}",
        map.sessions,
        map.sessions_alive,
        map.requests,
        map.requests_copied,
        map.response_time.count,
        map.connections,
        map.refused,
        map.reset,
        map.unanswered,
        map.retransmits
    )
}

fn worker_line(worker: &Numbers) -> String {
    format!(
        "packets captured {}, lost in the buffer {}; sessions alive {}; requests {}, let through {}; links up {} of {}",
        worker.counter("packets_captured"),
        worker.kernel.dropped,
        worker.counter("sessions_alive"),
        worker.counter("requests"),
        worker.counter("requests_copied"),
        worker.links_up,
        worker.links
    )
}

fn link_line(link: &Link) -> String {
    format!(
        "{} (worker {}) {}: captured {}, lost in its buffer {}, without a route {}; sent here {}, lost on a full link {}, \
         routes {}",
        link.intercept,
        link.worker,
        if link.up { "up" } else { "DOWN" },
        link.frames_captured,
        link.kernel_drops,
        link.unrouted,
        link.relayed,
        link.overflowed,
        link.routes_alive
    )
}

/// `120`, or `120 (80 idle, 40 malformed)`.
fn with_reasons(counts: &Counters) -> String {
    let total: u64 = counts.values().sum();
    let mut reasons: Vec<(&String, &u64)> = counts.iter().filter(|(_, count)| **count > 0).collect();
    reasons.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let reasons: Vec<String> = reasons.into_iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    if reasons.is_empty() { "0".to_owned() } else { format!("{total} ({})", reasons.join(", ")) }
}

/// `50 % within 0.3 ms, …`.
fn within(durations: &Durations) -> String {
    if durations.count == 0 {
        return "none yet".to_owned();
    }
    let quantiles = [("50 %", durations.p50_us), ("90 %", durations.p90_us), ("99 %", durations.p99_us)];
    let parts: Vec<String> =
        quantiles.iter().map(|(name, us)| format!("{name} within {}", time_in_words(*us))).collect();
    format!("{}, all within {}", parts.join(", "), time_in_words(durations.max_us))
}

/// `3 days 04:05:06`.
pub(super) fn uptime_in_words(seconds: f64) -> String {
    let seconds = seconds.max(0.0) as u64;
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let clock = format!("{:02}:{:02}:{:02}", rest / 3_600, rest / 60 % 60, rest % 60);
    match days {
        0 => clock,
        1 => format!("1 day {clock}"),
        _ => format!("{days} days {clock}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_named_the_most_frequent_first() {
        let counts: Counters =
            [("idle", 2), ("stopped", 0), ("target silent", 40)].map(|(k, n)| (k.to_owned(), n)).into();
        assert_eq!(with_reasons(&counts), "42 (40 target silent, 2 idle)");
        assert_eq!(with_reasons(&Counters::new()), "0");
    }

    #[test]
    fn nothing_of_another_process_reaches_the_terminal_as_it_is() {
        let map = MapStatus { online: "80\u{1b}[2J".to_owned(), ..MapStatus::default() };
        let text = status(&Status { program: "tcpcopy".to_owned(), maps: vec![map], ..Status::default() });
        assert!(text.contains("  80\u{fffd}[2J to "), "{text}");
        assert!(text.lines().count() > 10 && !text.contains('\u{1b}'));
    }

    #[test]
    fn a_time_of_days_is_short() {
        assert_eq!(uptime_in_words(59.9), "00:00:59");
        assert_eq!(uptime_in_words(3.0 * 86_400.0 + 4.0 * 3_600.0 + 5.0 * 60.0 + 6.0), "3 days 04:05:06");
    }
}
