//! The head of the page: what was copied, from where to where, when, and the figures that matter most.

use super::markup::Markup;
use super::{Flow, Units, numbers};
use crate::tcpcopy::recording::times::Times;
use crate::tcpcopy::recording::{Ended, History};

/// `port 80 → 10.0.0.2:8080`, and how many more.
fn route(history: &History) -> String {
    match &history.begin.maps[..] {
        [] => "nothing".to_owned(),
        [map] => format!("{} → {}", map.online, map.target),
        [map, rest @ ..] => format!("{} → {} and {} more", map.online, map.target, rest.len()),
    }
}

/// The title of the page.
pub(super) fn title(history: &History) -> String {
    format!("Traffic copy {}, {}", route(history), date(&history.begin.began))
}

/// `2026-01-31 12:34:56 +01:00`, from RFC 3339.
fn date(text: &str) -> String {
    match (text.get(..10), text.get(11..19), text.get(19..)) {
        (Some(day), Some(time), Some(zone)) => format!("{day} {time} {zone}"),
        _ => text.to_owned(),
    }
}

fn list(items: &[String]) -> String {
    items.join(", ")
}

/// The head.
pub(super) fn write(m: &mut Markup, history: &History) {
    let begin = &history.begin;
    m.leaf("h1", &[], "Traffic copy");
    m.leaf("p", &[("class", "route")], &route(history));
    let (what, from) = if begin.files.is_empty() {
        ("sent to the production server (“online”)", "as it happened")
    } else {
        ("had sent to the production server (“online”), as recorded in a capture,", "once more")
    };
    m.leaf(
        "p",
        &[],
        &format!(
            "What clients {what} was sent {from} to a test server (“target”), as if the same clients had connected there. The \
             target’s answers reached no client. This page says how much of it arrived, how fast, and what was lost."
        ),
    );
    m.within("dl", &[("class", "facts")], |m| {
        for map in &begin.maps {
            fact(
                m,
                "Copied",
                &format!("{} to {}, {}, by module {}", map.online, map.target, map.transport, map.module),
            );
        }
        if begin.files.is_empty() {
            fact(m, "Captured", &format!("on {}, on host {}", list(&begin.devices), begin.host));
        } else {
            fact(m, "Replayed", &format!("{}, by host {}", list(&begin.files), begin.host));
        }
        if !begin.intercepts.is_empty() {
            fact(m, "Answers", &format!("reported by intercept at {}", list(&begin.intercepts)));
        }
        fact(m, "Began", &date(&begin.began));
        let seconds = numbers::span(history.totals.seconds);
        match &history.end {
            None => fact(m, "Ended", &format!("not yet, or not in order: this is what was written in {seconds}")),
            Some(end) => {
                let how = match &end.how {
                    Ended::Stopped => "it was stopped".to_owned(),
                    Ended::ReplayOver => "everything was replayed".to_owned(),
                    Ended::Failed(reason) => format!("it failed: {reason}"),
                };
                fact(m, "Ended", &format!("{}, after {seconds}: {how}", date(&end.ended)));
            }
        }
        fact(m, "Program", &format!("tcpcopy {}, {}", begin.version, workers(begin.workers)));
    });
    tiles(m, history);
}

fn workers(n: u16) -> String {
    if n == 1 { "one worker".to_owned() } else { format!("{n} workers") }
}

fn fact(m: &mut Markup, name: &str, text: &str) {
    m.leaf("dt", &[], name);
    m.leaf("dd", &[], text);
}

/// A figure, what it is, and what goes with it.
fn tile(m: &mut Markup, is_bad: bool, figure: &str, what: &str, besides: &str) {
    m.within("div", &[("class", if is_bad { "tile bad" } else { "tile" })], |m| {
        m.leaf("b", &[], figure);
        m.leaf("span", &[], what);
        if !besides.is_empty() {
            m.leaf("span", &[("class", "besides")], besides);
        }
    });
}

/// The median of some times, with the 99th percentile.
fn times_tile(m: &mut Markup, times: &Times, what: &str, if_none: &str) {
    match (times.quantile(0.5), times.quantile(0.99)) {
        (Some(median), Some(slow)) => {
            tile(m, false, &numbers::time(median), what, &format!("99 of 100 within {}", numbers::time(slow)));
        }
        _ => tile(m, false, "–", what, if_none),
    }
}

fn tiles(m: &mut Markup, history: &History) {
    let (t, flow, units) = (&history.totals, Flow::of(history), Units::of(history));
    let is_normal = |reason: &str| ["stopped", "idle"].contains(&reason);
    let failed: u64 = t.sessions_ended_early.iter().filter(|(reason, _)| !is_normal(reason)).map(|(_, n)| n).sum();
    let per_second = |n: u64| numbers::short(n as f64 / t.seconds.max(1e-3));
    m.within("div", &[("class", "tiles")], |m| {
        let rate = format!("{} a second on average", per_second(flow.captured));
        let captured = format!("{} captured", units.plural());
        tile(m, flow.captured == 0, &numbers::count(flow.captured), &captured, &rate);
        let share = numbers::percent(flow.copied.min(flow.captured), flow.captured);
        let bytes = numbers::bytes(t.count("bytes_copied"));
        tile(m, flow.copied * 100 < flow.captured * 99, &share, "of them copied to the target", &bytes);
        if units == Units::Datagrams {
            tile(m, false, &numbers::count(t.count("udp_flows")), "clients, each for every target", "");
        } else {
            tile(m, false, &numbers::count(t.count("sessions_seen")), "sessions", "");
            let besides = numbers::percent(failed, t.count("sessions_seen"));
            tile(m, failed > 0, &numbers::count(failed), "sessions ended early", &besides);
            times_tile(m, &t.lag, "lag of the copy, median", "no request was let through");
        }
        let answered = numbers::percent(flow.answered.min(flow.copied), flow.copied);
        tile(
            m,
            false,
            &answered,
            "of what was sent was answered",
            &format!("{} answers", numbers::count(flow.answered)),
        );
        times_tile(m, &t.target, "target’s response time, median", "no answer was heard of");
        let why = if history.begin.measures_online { "no answer was captured" } else { "not measured" };
        times_tile(m, &t.online, "online’s response time, median", why);
    });
}
