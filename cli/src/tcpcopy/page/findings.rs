//! What the numbers say, in sentences.

use super::markup::Markup;
use super::{Flow, Units, numbers};
use crate::tcpcopy::recording::{Ended, History};

/// How good a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Grade {
    Good,
    Look,
    Bad,
}

type Finding = (Grade, String);

/// The list of findings.
pub(super) fn write(m: &mut Markup, history: &History) {
    m.leaf("h2", &[], "In short");
    m.within("ul", &[("class", "findings")], |m| {
        for (grade, text) in findings(history) {
            let class = match grade {
                Grade::Good => "good",
                Grade::Look => "look",
                Grade::Bad => "bad",
            };
            m.leaf("li", &[("class", class)], &text);
        }
    });
}

fn findings(history: &History) -> Vec<Finding> {
    let t = &history.totals;
    let mut found = Vec::new();
    if let Some(Ended::Failed(reason)) = history.end.as_ref().map(|end| &end.how) {
        found.push((Grade::Bad, format!("The copy ended by a failure: {reason}.")));
    }
    if Flow::of(history).captured == 0 {
        found.push((
            Grade::Bad,
            format!(
                "No data of clients was captured. {} packets passed the capture filter: does it name the right port and device, \
                 and were there clients?",
                numbers::count(t.count("capture_received").max(t.count("packets_captured")))
            ),
        ));
    } else {
        found.extend(copied(history));
        found.extend(connected(history));
    }
    found.extend(lost(history));
    found.extend(compared(history));
    if t.last("links_up") < t.last("links") && history.end.as_ref().is_none_or(|end| end.how != Ended::ReplayOver) {
        let (up, links) = (t.last("links_up"), t.last("links"));
        found.push((Grade::Look, format!("At the end {} of {links} links to intercept were down.", links - up)));
    }
    found.push(balance(history));
    found
}

/// How much arrived.
fn copied(history: &History) -> Vec<Finding> {
    let (flow, units) = (Flow::of(history), Units::of(history).plural());
    let part = flow.copied.min(flow.captured);
    let share = numbers::percent(part, flow.captured);
    let grade = match part as f64 / flow.captured as f64 {
        s if s >= 0.999 => Grade::Good,
        s if s >= 0.95 => Grade::Look,
        _ => Grade::Bad,
    };
    let (captured, copied) = (numbers::count(flow.captured), numbers::count(flow.copied));
    let mut found = vec![(grade, format!("{share} of the {units} were copied: {copied} sent of {captured} captured."))];
    let counts_answers = history.totals.last("links") > 0 || flow.answered > 0;
    if counts_answers && flow.copied > 0 {
        let grade = if flow.answered * 100 >= flow.copied * 95 { Grade::Good } else { Grade::Look };
        let (share, n) = (numbers::percent(flow.answered, flow.copied), numbers::count(flow.answered));
        // An answer to several requests that came in one go counts once.
        found.push((grade, format!("The target began to answer {n} times, which is {share} of what it was sent.")));
    }
    found
}

/// Whether there were connections to the target.
fn connected(history: &History) -> Vec<Finding> {
    let t = &history.totals;
    let (seen, connections) = (t.count("sessions_seen"), t.count("connections"));
    if seen > 0 && connections == 0 {
        return vec![(
            Grade::Bad,
            "No connection to the target was established. tcpcopy doctor, with the same options, names the place where \
             packets stop."
                .to_owned(),
        )];
    }
    let failed: Vec<(&str, u64)> = t
        .sessions_ended_early
        .iter()
        .filter(|(reason, _)| !["stopped", "idle", "above the rate limit"].contains(&&***reason))
        .map(|(reason, n)| (&**reason, *n))
        .collect();
    let sum: u64 = failed.iter().map(|(_, n)| n).sum();
    match failed.iter().max_by_key(|(_, n)| *n) {
        None if seen > 0 => vec![(Grade::Good, "No session ended before its time.".to_owned())],
        None => Vec::new(),
        Some((reason, n)) => {
            let grade = if sum * 100 <= seen { Grade::Look } else { Grade::Bad };
            let share = numbers::percent(sum, seen);
            let sum = numbers::count(sum);
            vec![(
                grade,
                format!(
                    "{sum} sessions ended early ({share}); the most frequent reason, {} times: {reason}.",
                    numbers::count(*n)
                ),
            )]
        }
    }
}

/// What the capture or the network lost.
fn lost(history: &History) -> Vec<Finding> {
    let t = &history.totals;
    let mut found = Vec::new();
    let (full, device) = (t.count("capture_dropped"), t.count("capture_dropped_by_device"));
    if full + device > 0 {
        found.push((
            Grade::Look,
            format!(
                "{} packets are missing from the capture ({} because its buffer was full, {} in the network device): a larger \
                 buffer (-B) or more workers (--workers) help.",
                numbers::count(full + device),
                numbers::count(full),
                numbers::count(device)
            ),
        ));
    } else if t.count("packets_captured") > 0 && history.begin.files.is_empty() {
        found.push((Grade::Good, "The capture lost no packet.".to_owned()));
    }
    let (again, sent) = (t.count("retransmits"), t.count("packets_sent"));
    if again * 200 > sent {
        let share = numbers::percent(again, sent);
        found.push((
            Grade::Look,
            format!("{share} of the packets to the target were sent again: the way there, or back, loses some."),
        ));
    }
    let unsent: u64 = t.packets_not_sent.values().sum();
    if unsent > 0 {
        found.push((Grade::Look, format!("This host did not send {} packets.", numbers::count(unsent))));
    }
    for damage in t.replay.iter().flat_map(|replay| &replay.damages) {
        found.push((Grade::Look, format!("A file could not be read to its end: {damage}.")));
    }
    found
}

/// The target beside online.
fn compared(history: &History) -> Vec<Finding> {
    let t = &history.totals;
    let pair = |share: f64| Some((t.online.quantile(share)?, t.target.quantile(share)?));
    let (Some((online, target)), Some((slow_online, slow_target))) = (pair(0.5), pair(0.99)) else { return Vec::new() };
    let times = |online: std::time::Duration, target: std::time::Duration| match target.as_secs_f64()
        / online.as_secs_f64().max(1e-6)
    {
        ratio if ratio > 1.15 => format!("{} times as long as online", numbers::short(ratio)),
        ratio if ratio < 0.87 => format!("{} % of online’s time", numbers::short(ratio * 100.0)),
        _ => "as long as online, to within the measure".to_owned(),
    };
    let is_slower = target > online.mul_f64(1.25) || slow_target > slow_online.mul_f64(1.25);
    vec![(
        if is_slower { Grade::Look } else { Grade::Good },
        format!(
            "To begin its answers the target takes {} in the median, and {} at the 99th percentile.",
            times(online, target),
            times(slow_online, slow_target)
        ),
    )]
}

/// Whether everything is accounted for.
fn balance(history: &History) -> Finding {
    let t = &history.totals;
    let sum = |counts: &crate::tcpcopy::recording::sample::Counts| counts.values().sum::<u64>();
    let sides = [
        (
            "packets",
            t.count("packets_captured") + t.count("packets_multiplied"),
            t.count("packets_used") + sum(&t.packets_dropped),
        ),
        (
            "bytes",
            t.count("bytes_captured") + t.count("bytes_inserted") + t.count("bytes_multiplied"),
            t.count("bytes_copied") + sum(&t.bytes_dropped) + t.last("pending_bytes"),
        ),
        (
            "sessions",
            t.count("sessions_seen"),
            t.count("sessions_completed") + sum(&t.sessions_ended_early) + t.last("sessions_alive"),
        ),
    ];
    match sides.iter().find(|(_, came_in, accounted)| came_in != accounted) {
        None => (
            Grade::Good,
            "Every packet, byte and session that was captured is accounted for: copied, or left out for a reason named below."
                .to_owned(),
        ),
        Some((what, came_in, accounted)) => (
            Grade::Look,
            format!("The account of {what} does not balance: {came_in} came in, {accounted} are accounted for."),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tcpcopy::recording::{Begin, End, Sample};

    fn found(sample: &Sample) -> Vec<Finding> {
        let mut history = History::new(Begin::default());
        history.add(sample);
        findings(&history)
    }

    fn counts(of: &[(&'static str, u64)]) -> crate::tcpcopy::recording::sample::Counts {
        of.iter().map(|(name, n)| ((*name).into(), *n)).collect()
    }

    #[track_caller]
    fn assert_found(findings: &[Finding], grade: Grade, part: &str) {
        assert!(findings.iter().any(|(g, text)| *g == grade && text.contains(part)), "{part}: {findings:?}");
    }

    #[test]
    fn nothing_captured_is_said_first() {
        let findings = found(&Sample { counted: counts(&[("capture_received", 12)]), ..Sample::default() });
        assert_eq!(findings[0].0, Grade::Bad);
        assert!(findings[0].1.contains("12 packets passed the capture filter"), "{findings:?}");
    }

    #[test]
    fn what_went_wrong_is_named_with_its_share() {
        let counted = [
            ("requests", 1_000),
            ("requests_copied", 700),
            ("sessions_seen", 100),
            ("connections", 60),
            ("packets_sent", 1_000),
            ("retransmits", 70),
            ("capture_dropped", 5),
        ];
        let ended = counts(&[("target refused the connection", 30), ("target silent", 10), ("stopped", 60)]);
        let findings = found(&Sample { counted: counts(&counted), sessions_ended_early: ended, ..Sample::default() });
        assert_found(&findings, Grade::Bad, "70.0 % of the requests were copied: 700 sent of 1,000 captured");
        assert_found(&findings, Grade::Bad, "40 sessions ended early (40.0 %)");
        assert_found(&findings, Grade::Bad, "30 times: target refused the connection");
        assert_found(&findings, Grade::Look, "5 packets are missing from the capture");
        assert_found(&findings, Grade::Look, "7.00 % of the packets to the target were sent again");
        assert_found(&findings, Grade::Good, "is accounted for");
    }

    #[test]
    fn no_connection_is_the_worst() {
        let counted = [("requests", 10), ("sessions_seen", 10)];
        let ended = counts(&[("target did not answer the SYN", 10)]);
        let findings = found(&Sample { counted: counts(&counted), sessions_ended_early: ended, ..Sample::default() });
        assert_found(&findings, Grade::Bad, "tcpcopy doctor");
        let findings = found(&Sample { counted: counts(&counted), ..Sample::default() });
        assert_found(&findings, Grade::Look, "The account of sessions does not balance");
    }

    #[test]
    fn a_failure_is_told_with_its_reason() {
        let mut history = History::new(Begin::default());
        history.end = Some(End { ended: String::new(), how: Ended::Failed("a worker ended".to_owned()) });
        assert_found(&findings(&history), Grade::Bad, "by a failure: a worker ended");
    }
}
