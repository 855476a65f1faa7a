//! The tables of the page: what became of everything.

use std::borrow::Cow;

use tcpcopy_engine::ledger::{ByteDrop, PacketDrop, SessionEnd};
use tcpcopy_io::transmit::SendError;

use super::markup::Markup;
use super::words::{self, Weight};
use super::{numbers, words::Weight::Loss};
use crate::tcpcopy::recording::History;
use crate::tcpcopy::recording::history::Totals;
use crate::tcpcopy::recording::sample::Counts;

const NUMBER: &[(&str, &str)] = &[("class", "number")];

/// All tables.
pub(super) fn write(m: &mut Markup, history: &History) {
    let t = &history.totals;
    m.leaf("h2", &[], "What became of it");
    m.leaf(
        "p",
        &[("class", "note")],
        "Green arrived, red is loss, blue was wanted so, grey belongs to every copy. Shares are of the table’s first row.",
    );
    sessions(m, t);
    packets(m, t);
    bytes(m, t);
    let unsent: u64 = t.packets_not_sent.values().sum();
    if unsent > 0 {
        let meaning = |reason: &str| SendError::ALL.into_iter().find(|e| e.text() == reason).map(words::of_sending);
        let total = t.count("packets_sent");
        table(m, "Packets that the system did not send", ("to be sent", total), &[], &t.packets_not_sent, meaning);
    }
    modules(m, t);
    intercepts(m, t);
    replay(m, t);
    options(m, history);
}

/// What a reason means, if this tcpcopy knows it: the file may be another's.
type Meaning = Option<(Weight, &'static str)>;

fn table(
    m: &mut Markup,
    title: &str,
    (what, total): (&str, u64),
    parts: &[(&str, u64, &'static str)],
    reasons: &Counts,
    meaning: impl Fn(&str) -> Meaning,
) {
    if total == 0 && reasons.is_empty() {
        return;
    }
    m.leaf("h3", &[], title);
    m.within("table", &[("class", "account")], |m| {
        m.within("thead", &[], |m| {
            m.within("tr", &[], |m| {
                m.leaf("th", &[], "");
                m.leaf("th", NUMBER, "number");
                m.leaf("th", NUMBER, "share");
                m.leaf("th", &[], "");
                m.leaf("th", &[], "what it means");
            });
        });
        m.within("tbody", &[], |m| {
            m.within("tr", &[("class", "total")], |m| cells(m, what, total, None, None));
            for (i, (name, n, meaning)) in parts.iter().enumerate() {
                m.within("tr", &[], |m| cells(m, name, *n, Some(total), Some((weight_of_part(i), *meaning))));
            }
            let mut sorted: Vec<(&Cow<'_, str>, &u64)> = reasons.iter().filter(|(_, n)| **n > 0).collect();
            sorted.sort_by_key(|(_, n)| std::cmp::Reverse(**n));
            for (reason, n) in sorted {
                let meaning = meaning(reason).unwrap_or((Loss, ""));
                m.within("tr", &[], |m| cells(m, reason, *n, Some(total), Some(meaning)));
            }
        });
    });
}

/// The first part of each table is what arrived.
fn weight_of_part(i: usize) -> Weight {
    if i == 0 { Weight::Arrived } else { Weight::Normal }
}

fn cells(m: &mut Markup, name: &str, n: u64, total: Option<u64>, meaning: Meaning) {
    let (weight, text) = meaning.unwrap_or((Weight::Normal, ""));
    m.leaf("td", &[("class", "reason")], name);
    m.leaf("td", NUMBER, &numbers::count(n));
    m.leaf("td", NUMBER, &total.map_or_else(String::new, |total| numbers::percent(n, total)));
    m.within("td", &[("class", "share")], |m| {
        let Some(total) = total.filter(|total| *total > 0) else { return };
        let class = match weight {
            Weight::Arrived => "arrived",
            Weight::Loss => "loss",
            Weight::Wanted => "wanted",
            Weight::Normal => "normal",
        };
        // What is there must be seen.
        let width = (n as f64 / total as f64).min(1.0) * 120.0;
        let width = format!("{:.1}", if n > 0 { width.max(1.5) } else { 0.0 });
        m.within("svg", &[("viewBox", "0 0 120 10"), ("preserveAspectRatio", "none"), ("aria-hidden", "true")], |m| {
            m.void("rect", &[("class", class), ("width", &width), ("height", "10")]);
        });
    });
    m.leaf("td", &[("class", "meaning")], text);
}

fn sessions(m: &mut Markup, t: &Totals) {
    let parts = [
        ("copied to their end", t.count("sessions_completed"), "Closed by the client, and so at the target."),
        ("still going on", t.last("sessions_alive"), ""),
    ];
    let meaning = |reason: &str| SessionEnd::ALL.iter().find(|r| r.text() == reason).map(|r| words::of_sessions(*r));
    table(m, "Sessions", ("begun", t.count("sessions_seen")), &parts, &t.sessions_ended_early, meaning);
}

fn packets(m: &mut Markup, t: &Totals) {
    let total = t.count("packets_captured") + t.count("packets_multiplied");
    let parts = [("used", t.count("packets_used"), "They brought something new of a client, or of online.")];
    let meaning = |reason: &str| PacketDrop::ALL.iter().find(|r| r.text() == reason).map(|r| words::of_packets(*r));
    table(m, "Packets captured", ("captured", total), &parts, &t.packets_dropped, meaning);
    let (full, device) = (t.count("capture_dropped"), t.count("capture_dropped_by_device"));
    let text = format!(
        "Besides, {} packets were lost before they were captured: {} because the capture’s buffer was full, {} in the network \
         device.",
        numbers::count(full + device),
        numbers::count(full),
        numbers::count(device)
    );
    if full + device > 0 {
        m.leaf("p", &[("class", "note")], &text);
    }
}

fn bytes(m: &mut Markup, t: &Totals) {
    let total = t.count("bytes_captured") + t.count("bytes_inserted") + t.count("bytes_multiplied");
    let parts = [
        ("copied", t.count("bytes_copied"), "The target has acknowledged them; of datagrams, they were sent."),
        ("waiting", t.last("pending_bytes"), ""),
    ];
    let meaning = |reason: &str| ByteDrop::ALL.iter().find(|r| r.text() == reason).map(|r| words::of_bytes(*r));
    table(m, "Bytes of clients", ("captured, or sent by a module", total), &parts, &t.bytes_dropped, meaning);
}

/// A table of names and numbers.
fn plain_table(m: &mut Markup, headings: &[&str], rows: impl Iterator<Item = Vec<String>>) {
    m.within("table", &[], |m| {
        m.within("thead", &[], |m| {
            m.within("tr", &[], |m| {
                for (i, heading) in headings.iter().enumerate() {
                    m.leaf("th", if i == 0 { &[] } else { NUMBER }, heading);
                }
            });
        });
        m.within("tbody", &[], |m| {
            for row in rows {
                m.within("tr", &[], |m| {
                    for (i, cell) in row.iter().enumerate() {
                        m.leaf("td", if i == 0 { &[("class", "reason")] } else { NUMBER }, cell);
                    }
                });
            }
        });
    });
}

fn modules(m: &mut Markup, t: &Totals) {
    if t.modules.is_empty() {
        return;
    }
    m.leaf("h3", &[], "What the protocol module counted");
    let rows = t.modules.iter().map(|counter| {
        let bytes = if counter.bytes > 0 { numbers::count(counter.bytes) } else { String::new() };
        vec![format!("{}: {}", counter.module, counter.name), numbers::count(counter.count), bytes]
    });
    plain_table(m, &["", "number", "bytes left out"], rows);
}

fn intercepts(m: &mut Markup, t: &Totals) {
    if t.intercepts.is_empty() && t.last("links") == 0 {
        return;
    }
    m.leaf("h3", &[], "Intercept");
    m.leaf(
        "p",
        &[("class", "note")],
        &format!(
            "{} of {} links worked at the end. What an intercept captured is counted from its own start, and for all that it \
             serves.",
            t.last("links_up"),
            t.last("links")
        ),
    );
    if t.intercepts.is_empty() {
        return;
    }
    let rows = t.intercepts.iter().map(|intercept| {
        let numbers = [intercept.captured, intercept.relayed, intercept.lost, intercept.unrouted, intercept.overflowed];
        std::iter::once(intercept.address.clone()).chain(numbers.map(numbers::count)).collect()
    });
    let headings =
        ["", "answers captured", "reported here", "lost in its buffer", "of no session", "lost on a full link"];
    plain_table(m, &headings, rows);
}

fn replay(m: &mut Markup, t: &Totals) {
    let Some(replay) = &t.replay else { return };
    m.leaf("h3", &[], "Replay");
    let left_out = [
        ("not in the sample", t.count("syns_not_sampled")),
        ("no room", t.count("sessions_shed")),
        ("no free source address", t.count("sessions_without_source")),
    ];
    let not_begun: u64 = left_out.iter().map(|(_, n)| n).sum();
    let pass = format!("{} of {}", replay.pass.min(replay.passes), replay.passes);
    let mut rows = vec![
        vec!["packets read from the files".to_owned(), numbers::count(replay.packets)],
        vec!["passes".to_owned(), pass],
        vec!["read to the end".to_owned(), if replay.all_read { "yes" } else { "no" }.to_owned()],
        vec!["packets of clients".to_owned(), numbers::count(t.count("client_packets"))],
        vec!["sessions found".to_owned(), numbers::count(t.count("sessions_seen") + not_begun)],
        vec!["sessions replayed to their end".to_owned(), numbers::count(t.count("sessions_completed"))],
    ];
    for (reason, n) in left_out.into_iter().filter(|(_, n)| *n > 0) {
        rows.push(vec![format!("sessions left out: {reason}"), numbers::count(n)]);
    }
    rows.push(vec!["bytes replayed".to_owned(), numbers::bytes(t.count("bytes_copied"))]);
    for damage in &replay.damages {
        rows.push(vec![damage.clone(), String::new()]);
    }
    plain_table(m, &["", ""], rows.into_iter());
}

fn options(m: &mut Markup, history: &History) {
    let begin = &history.begin;
    m.leaf("h2", &[], "Options");
    if !begin.filter.is_empty() {
        m.within("p", &[], |m| {
            m.text("The capture filter was ");
            m.leaf("code", &[], &begin.filter);
        });
    }
    m.within("table", &[], |m| {
        m.within("tbody", &[], |m| {
            for (name, value) in &begin.options {
                m.within("tr", &[], |m| {
                    m.within("td", &[("class", "reason")], |m| m.leaf("code", &[], name));
                    m.within("td", &[], |m| m.leaf("code", &[], value));
                });
            }
        });
    });
}
