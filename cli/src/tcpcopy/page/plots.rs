//! The plots of the page.

use std::time::Duration;

use super::markup::Markup;
use super::plot::{Bars, Course, Distribution, Line, Scale};
use super::{Units, numbers};
use crate::tcpcopy::recording::History;
use crate::tcpcopy::recording::history::Point;
use crate::tcpcopy::recording::times::Times;

/// Points of a line at most: more than eyes tell apart make a page large.
const POINTS: usize = 200;
/// Bins of a distribution at most.
const BINS: f64 = 36.0;
/// Quantiles of the table, with their names.
const QUANTILES: &[(f64, &str)] =
    &[(0.5, "50 %"), (0.75, "75 %"), (0.9, "90 %"), (0.95, "95 %"), (0.99, "99 %"), (0.999, "99.9 %"), (1.0, "all")];

/// All plots, and the table of quantiles.
pub(super) fn write(m: &mut Markup, history: &History) {
    let points = history.course(POINTS);
    let course = Plots { history, whiles: points.iter().map(|p| (p.at - p.seconds, p.at)).collect(), points };
    m.leaf("h2", &[], "In the course of time");
    if course.points.is_empty() {
        m.leaf("p", &[("class", "note")], "There is no sample: the run was over at once, or nothing was written.");
    } else if course.points.iter().all(|point| point.captured + point.copied + point.lost + point.sessions_begun == 0) {
        m.leaf("p", &[("class", "note")], "Nothing of clients was captured, so there is no course to draw.");
    } else {
        course.write(m);
    }
    response_times(m, history);
}

struct Plots<'a> {
    history: &'a History,
    points: Vec<Point>,
    whiles: Vec<(f64, f64)>,
}

fn per_second(value: f64) -> String {
    format!("{} a second", numbers::short(value))
}

fn duration(micros: f64) -> String {
    numbers::time(Duration::from_micros(micros as u64))
}

impl Plots<'_> {
    fn line<'a>(&self, name: &'a str, class: &'static str, value: impl Fn(&Point) -> Option<f64>) -> Line<'a> {
        Line { name, class, values: self.points.iter().map(value).collect() }
    }

    fn rate<'a>(&self, name: &'a str, class: &'static str, count: impl Fn(&Point) -> u64) -> Line<'a> {
        self.line(name, class, |point| Some(count(point) as f64 / point.seconds.max(1e-3)))
    }

    fn quantile<'a>(
        &self,
        name: &'a str,
        class: &'static str,
        times: impl Fn(&Point) -> &Times,
        share: f64,
    ) -> Line<'a> {
        self.line(name, class, |point| times(point).quantile(share).map(|time| time.as_micros() as f64))
    }

    fn plot(
        &self,
        m: &mut Markup,
        title: &str,
        note: &str,
        scale: Scale,
        words: fn(f64) -> String,
        lines: Vec<Line<'_>>,
    ) {
        let seconds = self.history.totals.seconds;
        let course = Course { title, scale, seconds, whiles: &self.whiles, lines, words };
        if !course.has_values() {
            return;
        }
        m.within("section", &[("class", "plot")], |m| {
            m.leaf("h3", &[], title);
            if !note.is_empty() {
                m.leaf("p", &[("class", "note")], note);
            }
            course.draw(m);
        });
    }

    fn write(&self, m: &mut Markup) {
        let units = Units::of(self.history).plural();
        self.plot(
            m,
            &format!("Throughput, in {units} a second"),
            "Where all is well the three lines are one.",
            Scale::Numbers,
            per_second,
            vec![
                self.rate("captured", "wide", |point| point.captured),
                self.rate("copied", "blue", |point| point.copied),
                self.rate("answered by the target", "amber thin", |point| point.answered),
            ],
        );
        self.plot(
            m,
            "Lag: from the capture of a request until it was let through",
            "",
            Scale::Durations,
            duration,
            vec![
                self.quantile("half of the requests within (p50)", "blue", |point| &point.lag, 0.5),
                self.quantile("99 of 100 within (p99)", "amber", |point| &point.lag, 0.99),
            ],
        );
        let mut times = vec![
            self.quantile("target, p50", "blue", |point| &point.target, 0.5),
            self.quantile("target, p99", "blue thin", |point| &point.target, 0.99),
        ];
        if self.history.begin.measures_online {
            times.push(self.quantile("online, p50", "green", |point| &point.online, 0.5));
            times.push(self.quantile("online, p99", "green thin", |point| &point.online, 0.99));
        }
        self.plot(m, "Response time: until the answer began", "", Scale::Durations, duration, times);
        let (who, title, begun) = match Units::of(self.history) {
            Units::Datagrams => ("clients", "Clients that are remembered", "New clients, a second"),
            Units::Both => {
                ("sessions and clients", "Sessions, and clients over UDP, at a time", "New and failed, a second")
            }
            Units::Requests => ("sessions", "Sessions at a time", "Sessions begun and failed, a second"),
        };
        let alive = vec![self.line(who, "blue", |point| Some(point.alive as f64))];
        self.plot(m, title, "", Scale::Numbers, numbers::short, alive);
        self.plot(
            m,
            begun,
            "",
            Scale::Numbers,
            per_second,
            vec![
                self.rate("begun", "blue", |point| point.sessions_begun),
                self.rate("ended early", "red", |point| point.sessions_failed),
            ],
        );
        if self.points.iter().any(|point| point.retransmits + point.lost > 0) {
            self.plot(
                m,
                "Loss, in packets a second",
                "",
                Scale::Numbers,
                per_second,
                vec![
                    self.rate("sent to the target again", "amber", |point| point.retransmits),
                    self.rate("missing from the capture", "red", |point| point.lost),
                ],
            );
        }
    }
}

/// Ends of bins of equal width on a logarithmic axis, from the shortest to the longest time.
pub(super) fn bins(all: &[&Times]) -> Vec<f64> {
    let buckets = || all.iter().flat_map(|times| times.counts.iter().map(|(end, _)| bucket(*end)));
    let min = buckets().map(|(start, _)| start).fold(f64::MAX, f64::min).clamp(1.0, 1e15);
    let max = buckets().map(|(_, end)| end).fold(min * 2.0, f64::max).min(1e16);
    let octaves = (max / min).log2();
    let per_octave = [4.0, 3.0, 2.0, 1.0].into_iter().find(|per| octaves * per <= BINS).unwrap_or(BINS / octaves);
    let (first, last) = ((min.log2() * per_octave).floor() as i64, (max.log2() * per_octave).ceil() as i64);
    (first..=last.max(first + 1)).map(|i| (i as f64 / per_octave).exp2()).collect()
}

/// From where to where a bucket reaches of which the longest time is given: each doubling has eight.
fn bucket(end: u64) -> (f64, f64) {
    let end = end.clamp(1, 1 << 50);
    let width = 1u64 << end.ilog2().saturating_sub(3);
    ((end + 1 - width) as f64, (end + 1) as f64)
}

/// The share of each bin in percent. A bucket that reaches over several bins is divided among them.
pub(super) fn shares(times: &Times, ends: &[f64]) -> Vec<f64> {
    let count = times.count().max(1) as f64;
    let bins: Vec<(f64, f64)> = ends.windows(2).map(|bin| (bin[0].ln(), bin[1].ln())).collect();
    let mut shares = vec![0.0; bins.len()];
    for (end, n) in &times.counts {
        let (start, end) = bucket(*end);
        let (start, end) = (start.ln(), end.ln());
        for (share, (from, to)) in shares.iter_mut().zip(&bins) {
            let common = (end.min(*to) - start.max(*from)).max(0.0);
            *share += *n as f64 * 100.0 / count * common / (end - start);
        }
    }
    shares
}

fn response_times(m: &mut Markup, history: &History) {
    let t = &history.totals;
    m.leaf("h2", &[], "Response times");
    if t.target.is_empty() && t.online.is_empty() {
        m.leaf("p", &[("class", "note")], "No answer of the target was heard of.");
        return;
    }
    let measured = history.begin.measures_online && !t.online.is_empty();
    let note = match (measured, history.begin.measures_online) {
        (true, _) => {
            "How long each took to begin an answer, as shares of all answers. The target’s times contain the network to it and \
             back; online’s, measured on its own network card, do not."
        }
        (false, true) => "Online was to be measured (--measure-online), but none of its answers were captured.",
        (false, false) => {
            "How long the target took to begin an answer, as shares of all answers, the network to it and back included. With \
             --measure-online the production server’s times stand beside them."
        }
    };
    m.leaf("p", &[("class", "note")], note);
    let all: Vec<&Times> = [&t.online, &t.target].into_iter().filter(|times| !times.is_empty()).collect();
    let ends = bins(&all);
    let mut bars = Vec::new();
    if !t.online.is_empty() {
        bars.push(Bars { name: "online", class: "bar-online", shares: shares(&t.online, &ends) });
    }
    if !t.target.is_empty() {
        bars.push(Bars { name: "target", class: "bar-target", shares: shares(&t.target, &ends) });
    }
    m.within("section", &[("class", "plot")], |m| {
        Distribution { title: "Distribution of response times", ends, bars }.draw(m);
    });
    quantiles(m, &t.online, &t.target);
}

fn quantiles(m: &mut Markup, online: &Times, target: &Times) {
    const NUMBER: &[(&str, &str)] = &[("class", "number")];
    let dash = || "–".to_owned();
    let row = |m: &mut Markup, name: &str, online: Option<Duration>, target: Option<Duration>| {
        m.within("tr", &[], |m| {
            m.leaf("td", &[], name);
            m.leaf("td", NUMBER, &online.map_or_else(dash, numbers::time));
            m.leaf("td", NUMBER, &target.map_or_else(dash, numbers::time));
            let ratio =
                online.zip(target).map(|(online, target)| target.as_secs_f64() / online.as_secs_f64().max(1e-6));
            m.leaf("td", NUMBER, &ratio.map_or_else(dash, |ratio| format!("{} ×", numbers::short(ratio))));
        });
    };
    m.within("table", &[], |m| {
        m.within("thead", &[], |m| {
            m.within("tr", &[], |m| {
                m.leaf("th", &[], "of the answers, begun within");
                m.leaf("th", NUMBER, "online");
                m.leaf("th", NUMBER, "target");
                m.leaf("th", NUMBER, "target / online");
            });
        });
        m.within("tbody", &[], |m| {
            for (share, name) in QUANTILES {
                row(m, name, online.quantile(*share), target.quantile(*share));
            }
            row(m, "on average", online.mean(), target.mean());
            m.within("tr", &[("class", "total")], |m| {
                m.leaf("td", &[], "answers");
                m.leaf("td", NUMBER, &numbers::count(online.count()));
                m.leaf("td", NUMBER, &numbers::count(target.count()));
                m.leaf("td", NUMBER, "");
            });
        });
    });
}
