//! How the view looks: all of it as lines, of which those are shown that fit.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

use super::View;
use super::history::{self, History, Point};
use crate::live::durations::{Durations, time_in_words};
use crate::live::protocol::{Counters, MapStatus, Status};
use crate::live::text::uptime_in_words;

/// Reasons of drops that are listed at most; those with most go first.
const REASONS: usize = 8;
/// Eighths of a character's height.
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// Columns in front of a graph.
const BEFORE_GRAPH: usize = 30;

const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);
const FAINT: Style = Style::new().add_modifier(Modifier::DIM);
const GOOD: Style = Style::new().fg(Color::Green);
const ODD: Style = Style::new().fg(Color::Yellow);
const BAD: Style = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);

/// Draws everything.
pub(super) fn draw(frame: &mut Frame<'_>, view: &mut View) {
    let [head, body, foot] =
        Layout::vertical([Constraint::Length(1), Constraint::Min(0), Constraint::Length(1)]).areas(frame.area());
    frame.render_widget(Paragraph::new(title(view)), head);
    let lines = lines(view, body);
    // No further than to where the last line is at the bottom.
    view.scrolled = view.scrolled.min((lines.len() as u16).saturating_sub(body.height));
    let below = (lines.len() as u16).saturating_sub(view.scrolled + body.height);
    frame.render_widget(Paragraph::new(lines).scroll((view.scrolled, 0)), body);
    frame.render_widget(Paragraph::new(footer(view, below)), foot);
}

fn title(view: &View) -> Line<'static> {
    let Some(status) = view.history.now() else { return Line::styled("asking ...", FAINT) };
    let state = match (&view.ended, status.in_force.paused) {
        (Some(_), _) => Span::styled(" ENDED ", BAD),
        (None, true) => Span::styled(" PAUSED ", ODD.add_modifier(Modifier::REVERSED)),
        (None, false) => Span::styled(" running ", GOOD),
    };
    let settings: Vec<String> = status.in_force.settings.iter().map(|(key, value)| format!("{key}={value}")).collect();
    Line::from(vec![
        Span::styled(format!("{} {}", status.program, status.release), BOLD),
        state,
        Span::raw(format!("process {}, for {}   ", status.pid, uptime_in_words(status.uptime_seconds))),
        Span::styled(settings.join("  "), FAINT),
    ])
}

fn footer(view: &View, below: u16) -> Line<'static> {
    if let Some(reason) = &view.ended {
        return Line::from(vec![
            Span::styled(format!("{reason}; "), BAD),
            Span::raw("these were its last numbers. q leaves"),
        ]);
    }
    if view.asks {
        let question =
            "Pause? The target's sessions are closed, and none begin until it is resumed. y: yes, any other key: no";
        return Line::styled(question, ODD);
    }
    if let Some((note, _)) = &view.note {
        return Line::styled(note.clone(), ODD);
    }
    let paused = view.history.now().is_some_and(|status| status.in_force.paused);
    let more = if below > 0 || view.scrolled > 0 { format!("  up, down: {below} more lines") } else { String::new() };
    let order = if paused { "p: resume" } else { "p: pause" };
    Line::styled(format!("q: leave, the copy goes on  {order}{more}"), FAINT)
}

fn lines(view: &View, area: Rect) -> Vec<Line<'static>> {
    let history = &view.history;
    let (Some(now), Some(before)) = (history.now(), history.before()) else { return Vec::new() };
    let width = usize::from(area.width);
    let mut lines = graphs(history, width);
    lines.extend(times(now, before, width));
    lines.extend(maps(history, now, before, width));
    lines.extend(losses(history, now, before, width));
    if now.workers.len() > 1 {
        lines.extend(workers(history, now, before));
    }
    lines.extend(links(history, now, before, width));
    lines
}

/// A heading over columns.
fn heading(text: String) -> Line<'static> {
    Line::styled(text, BOLD)
}

fn graphs(history: &History, width: usize) -> Vec<Line<'static>> {
    let point = history.point();
    let room = width.saturating_sub(BEFORE_GRAPH);
    let graph = |name: &str, value: String, line: fn(&Point) -> f64| {
        Line::from(vec![
            Span::styled(format!("{name:<14}"), BOLD),
            Span::raw(format!("{value:>14}  ")),
            Span::styled(sparkline(&history.line(room, line)), GOOD),
        ])
    };
    vec![
        graph("captured", format!("{}/s", number(point.captured)), |point| point.captured),
        graph("copied", format!("{}/s", number(point.copied)), |point| point.copied),
        graph("answered", format!("{}/s", number(point.answered)), |point| point.answered),
        graph("sessions", number(point.sessions), |point| point.sessions),
        graph("lag 99 %", time_in_words(Some(point.lag_us as u64)), |point| point.lag_us),
        graph("answer 99 %", time_in_words(Some(point.response_us as u64)), |point| point.response_us),
        graph("sent again", format!("{}/s", number(point.retransmits)), |point| point.retransmits),
    ]
}

/// A graph of bars from nothing to the largest value.
fn sparkline(values: &[f64]) -> String {
    let top = values.iter().copied().fold(0.0, f64::max);
    let bar = |value: f64| {
        if value <= 0.0 || top <= 0.0 { ' ' } else { BARS[((value / top * 8.0).ceil() as usize).clamp(1, 8) - 1] }
    };
    values.iter().map(|value| bar(*value)).collect()
}

/// Texts in columns of these widths, each to the right, a space between.
fn columns<const N: usize>(widths: [usize; N], texts: [impl AsRef<str>; N]) -> String {
    let cells: Vec<String> =
        widths.into_iter().zip(texts).map(|(width, text)| format!("{:>width$}", text.as_ref())).collect();
    cells.join(" ")
}

/// Quantiles of the last second, and since the start; side by side where there is room.
fn times(now: &Status, before: &Status, width: usize) -> Vec<Line<'static>> {
    const WIDTHS: [usize; 4] = [9; 4];
    let quantiles = |durations: &Durations| {
        columns(WIDTHS, [durations.p50_us, durations.p90_us, durations.p99_us, durations.max_us].map(time_in_words))
    };
    let kinds = [
        ("lag", &now.total.lag, &before.total.lag),
        ("answer", history::response_time(&now.total), history::response_time(&before.total)),
    ];
    let shares = columns(WIDTHS, ["50 %", "90 %", "99 %", "all"]);
    if width < 98 {
        let mut lines = vec![Line::default(), heading(format!("{:<18}{shares}", "times"))];
        for (name, now, before) in kinds {
            lines.push(Line::raw(format!("{:<18}{}", format!("{name}, now"), quantiles(&now.since(before)))));
            lines.push(Line::styled(format!("{:<18}{}", format!("{name}, ever"), quantiles(now)), FAINT));
        }
        return lines;
    }
    let mut lines = vec![Line::default(), heading(format!("{:<12}{shares}   ever {}", "times, now", &shares[..39]))];
    for (name, now, before) in kinds {
        lines.push(Line::raw(format!("{name:<12}{}        {}", quantiles(&now.since(before)), quantiles(now))));
    }
    lines
}

/// Each target's health; its name on a line of its own where there is no room beside the columns.
fn maps(history: &History, now: &Status, before: &Status, width: usize) -> Vec<Line<'static>> {
    const DONE: [usize; 6] = [6, 8, 8, 9, 7, 8];
    const HEALTH: [usize; 3] = [7, 6, 10];
    let beside = width.checked_sub(80).filter(|room| *room >= 30).map(|room| room.min(50));
    let indent = beside.unwrap_or(2);
    let done = columns(DONE, ["alive", "copied/s", "answer/s", "99 %", "again/s", "accepted"]);
    let health = columns(HEALTH, ["refused", "reset", "unanswered"]);
    let title = if beside.is_some() { "map" } else { "" };
    let mut lines = vec![Line::default(), heading(format!("{title:<indent$}{done} {health}"))];
    for (i, map) in now.maps.iter().enumerate() {
        let earlier = before.maps.get(i).unwrap_or(map);
        let rate = |now: u64, before: u64| number(history.rate(now, before));
        let name = format!("{} > {} {}", map.online, map.target, map.module);
        let failures = |map: &MapStatus| map.refused + map.reset + map.unanswered;
        let style = if failures(map) > failures(earlier) { BAD } else { Style::new() };
        let done = columns(
            DONE,
            [
                number(map.sessions_alive as f64),
                rate(map.requests_copied, earlier.requests_copied),
                rate(map.response_time.count, earlier.response_time.count),
                time_in_words(map.response_time.since(&earlier.response_time).p99_us),
                rate(map.retransmits, earlier.retransmits),
                number(map.connections as f64),
            ],
        );
        let health = columns(HEALTH, [map.refused, map.reset, map.unanswered].map(|count| number(count as f64)));
        let mut front = shortened(&name, indent.saturating_sub(1));
        if beside.is_none() {
            lines.push(Line::raw(shortened(&name, width)));
            front.clear();
        }
        lines.push(Line::from(vec![Span::raw(format!("{front:<indent$}{done} ")), Span::styled(health, style)]));
    }
    lines
}

/// What was not copied, and why.
fn losses(history: &History, now: &Status, before: &Status, width: usize) -> Vec<Line<'static>> {
    let kinds: [(&str, &Counters, &Counters); 4] = [
        ("session", &now.total.sessions_ended_early, &before.total.sessions_ended_early),
        ("packet", &now.total.packets_dropped, &before.total.packets_dropped),
        ("bytes", &now.total.bytes_dropped, &before.total.bytes_dropped),
        ("not sent", &now.total.packets_not_sent, &before.total.packets_not_sent),
    ];
    let of_kinds = kinds.into_iter().flat_map(|(kind, now, before)| {
        now.iter().map(move |(reason, count)| (kind, reason.clone(), *count, before.get(reason).copied().unwrap_or(0)))
    });
    let kernel = (now.total.kernel, before.total.kernel);
    let of_kernel = [
        ("kernel", "the capture buffer was full".to_owned(), kernel.0.dropped, kernel.1.dropped),
        ("kernel", "the device could not take it".to_owned(), kernel.0.dropped_by_device, kernel.1.dropped_by_device),
    ];
    let mut rows: Vec<_> = of_kinds.chain(of_kernel).filter(|(_, _, count, _)| *count > 0).collect();
    if rows.is_empty() {
        return Vec::new();
    }
    // What goes on now before what is over.
    rows.sort_by_key(|(_, _, count, before)| std::cmp::Reverse((count.saturating_sub(*before), *count)));
    let room = width.saturating_sub(32).clamp(20, 60);
    let mut lines = vec![
        Line::default(),
        heading(format!("{:<10}{:<room$} {}", "dropped", "why", columns([9, 9], ["a second", "ever"]))),
    ];
    for (kind, reason, count, before) in rows.into_iter().take(REASONS) {
        let style = if count > before { Style::new() } else { FAINT };
        let counts = columns([9, 9], [number(history.rate(count, before)), number(count as f64)]);
        lines.push(Line::styled(format!("{kind:<10}{:<room$} {counts}", shortened(&reason, room)), style));
    }
    lines
}

fn workers(history: &History, now: &Status, before: &Status) -> Vec<Line<'static>> {
    const WIDTHS: [usize; 7] = [10, 10, 9, 10, 8, 11, 6];
    let titles = ["packets/s", "captured/s", "copied/s", "answered/s", "sessions", "kernel lost", "links"];
    let mut lines = vec![Line::default(), heading(format!("{:<8}{}", "worker", columns(WIDTHS, titles)))];
    for (i, worker) in now.workers.iter().enumerate() {
        let earlier = before.workers.get(i).unwrap_or(worker);
        let rate = |now: u64, before: u64| number(history.rate(now, before));
        let texts = [
            rate(worker.counter("packets_captured"), earlier.counter("packets_captured")),
            rate(history::captured(worker), history::captured(earlier)),
            rate(history::copied(worker), history::copied(earlier)),
            rate(history::answered(worker), history::answered(earlier)),
            number((worker.counter("sessions_alive") + worker.counter("udp_flows_alive")) as f64),
            number(worker.kernel.dropped as f64),
            format!("{}/{}", worker.links_up, worker.links),
        ];
        lines.push(Line::raw(format!("{i:<8}{}", columns(WIDTHS, texts))));
    }
    lines
}

fn links(history: &History, now: &Status, before: &Status, width: usize) -> Vec<Line<'static>> {
    const WIDTHS: [usize; 5] = [8, 11, 8, 9, 7];
    if now.links.is_empty() {
        return Vec::new();
    }
    let room = width.saturating_sub(60).clamp(20, 48);
    let titles = columns(WIDTHS, ["sent/s", "kernel lost", "unrouted", "link full", "routes"]);
    let mut lines = vec![
        Line::default(),
        heading(format!("{:<room$} {} {titles}", "intercept", columns([6, 4], ["worker", "link"]))),
    ];
    for (i, link) in now.links.iter().enumerate() {
        let earlier = before.links.get(i).unwrap_or(link);
        let (state, style) = if link.up { ("up", GOOD) } else { ("DOWN", BAD) };
        let texts = [
            number(history.rate(link.relayed, earlier.relayed)),
            number(link.kernel_drops as f64),
            number(link.unrouted as f64),
            number(link.overflowed as f64),
            number(link.routes_alive as f64),
        ];
        lines.push(Line::from(vec![
            Span::raw(format!("{:<room$} {:>6} ", shortened(&link.intercept, room), link.worker)),
            Span::styled(format!("{state:>4}"), style),
            Span::raw(format!(" {}", columns(WIDTHS, texts))),
        ]));
    }
    lines
}

/// A number in few characters: `0.4`, `950`, `12.3k`, `4.5M`.
fn number(n: f64) -> String {
    match n {
        n if n <= 0.0 => "0".to_owned(),
        n if n < 9.95 && n.fract() > 0.0 => format!("{n:.1}"),
        n if n < 9_999.5 => format!("{n:.0}"),
        n if n < 999_950.0 => format!("{:.1}k", n / 1e3),
        n if n < 999_950_000.0 => format!("{:.1}M", n / 1e6),
        n => format!("{:.1}G", n / 1e9),
    }
}

/// A text in so many characters at most.
fn shortened(text: &str, limit: usize) -> String {
    if text.chars().count() <= limit {
        return text.to_owned();
    }
    text.chars().take(limit.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests;
