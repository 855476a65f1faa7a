//! Plots as SVG.

use std::fmt::Write;

use super::axis::Axis;
use super::markup::Markup;
use super::numbers;

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 230.0;
const LEFT: f64 = 66.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 28.0;

/// A line of a plot.
pub(super) struct Line<'a> {
    /// What the legend calls it.
    pub(super) name: &'a str,
    /// Its class, which has its colour and width.
    pub(super) class: &'static str,
    /// A value for each while; none where there was nothing.
    pub(super) values: Vec<Option<f64>>,
}

/// What the values are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Scale {
    /// Numbers from zero on.
    Numbers,
    /// Microseconds, on a logarithmic axis.
    Durations,
}

/// Values in the course of a run.
pub(super) struct Course<'a> {
    /// What it shows, for those who cannot see it.
    pub(super) title: &'a str,
    pub(super) scale: Scale,
    /// The length of the run, in seconds.
    pub(super) seconds: f64,
    /// Beginnings and ends of the whiles, in seconds.
    pub(super) whiles: &'a [(f64, f64)],
    pub(super) lines: Vec<Line<'a>>,
    /// A value in words, for the tooltip.
    pub(super) words: fn(f64) -> String,
}

fn at(position: f64) -> String {
    let text = format!("{position:.1}");
    text.strip_suffix(".0").map(str::to_owned).unwrap_or(text)
}

fn frame(m: &mut Markup, title: &str, content: impl FnOnce(&mut Markup)) {
    let view = format!("0 0 {WIDTH} {HEIGHT}");
    m.within("svg", &[("viewBox", &view), ("role", "img"), ("aria-label", title)], content);
}

fn horizontal_grid(m: &mut Markup, y: &Axis) {
    for (value, label) in &y.ticks {
        let position = y.position(*value);
        let (line, text) = (at(position), at(position + 4.0));
        m.void(
            "line",
            &[("class", "grid"), ("x1", &at(LEFT)), ("x2", &at(WIDTH - RIGHT)), ("y1", &line), ("y2", &line)],
        );
        m.leaf("text", &[("x", &at(LEFT - 8.0)), ("y", &text), ("text-anchor", "end")], label);
    }
}

fn labels_below(m: &mut Markup, x: &Axis) {
    for (value, label) in &x.ticks {
        let position = x.position(*value);
        let (line, foot) = (at(position), HEIGHT - BOTTOM);
        m.void("line", &[("class", "tick"), ("x1", &line), ("x2", &line), ("y1", &at(foot)), ("y2", &at(foot + 5.0))]);
        let anchor = if position > WIDTH - RIGHT - 20.0 { "end" } else { "middle" };
        m.leaf("text", &[("x", &line), ("y", &at(HEIGHT - 8.0)), ("text-anchor", anchor)], label);
    }
}

/// The legend of a plot, which is text beside it.
pub(super) fn legend<'a>(m: &mut Markup, entries: impl Iterator<Item = (&'a str, &'static str)>) {
    m.within("ul", &[("class", "legend")], |m| {
        for (name, class) in entries {
            m.within("li", &[], |m| {
                m.within("svg", &[("viewBox", "0 0 28 10"), ("aria-hidden", "true")], |m| {
                    if class.starts_with("bar") {
                        m.void("rect", &[("class", class), ("x", "4"), ("y", "0"), ("width", "20"), ("height", "10")]);
                    } else {
                        m.void("line", &[("class", class), ("x1", "1"), ("x2", "27"), ("y1", "5"), ("y2", "5")]);
                    }
                });
                m.text(name);
            });
        }
    });
}

impl Course<'_> {
    /// Whether there is anything but nothing to show.
    pub(super) fn has_values(&self) -> bool {
        self.lines.iter().any(|line| line.values.iter().flatten().any(|value| *value > 0.0))
    }

    /// The plot, with its legend.
    pub(super) fn draw(&self, m: &mut Markup) {
        let values = || self.lines.iter().flat_map(|line| line.values.iter().flatten().copied());
        let max = values().fold(0.0, f64::max);
        let y = match self.scale {
            Scale::Numbers => Axis::linear(max, HEIGHT - BOTTOM, TOP),
            Scale::Durations => Axis::durations(values().fold(max, f64::min), max, HEIGHT - BOTTOM, TOP),
        };
        let x = Axis::elapsed(self.seconds, LEFT, WIDTH - RIGHT);
        legend(m, self.lines.iter().map(|line| (line.name, line.class)));
        frame(m, self.title, |m| {
            horizontal_grid(m, &y);
            labels_below(m, &x);
            for line in &self.lines {
                self.draw_line(m, line, &x, &y);
            }
            self.tooltips(m, &x);
        });
    }

    /// A line through the middles of the whiles, with gaps where there is nothing.
    fn draw_line(&self, m: &mut Markup, line: &Line<'_>, x: &Axis, y: &Axis) {
        let places = self.whiles.iter().zip(&line.values);
        let places: Vec<Option<(f64, f64)>> = places
            .map(|((from, to), value)| value.map(|value| (x.position(f64::midpoint(*from, *to)), y.position(value))))
            .collect();
        for piece in places.split(Option::is_none).filter(|piece| !piece.is_empty()) {
            if let [Some((x, y))] = piece {
                let class = format!("{} dot", line.class);
                m.void("circle", &[("class", &class), ("cx", &at(*x)), ("cy", &at(*y)), ("r", "2.5")]);
                continue;
            }
            let points: Vec<String> = piece.iter().flatten().map(|(x, y)| format!("{},{}", at(*x), at(*y))).collect();
            m.void("polyline", &[("class", line.class), ("points", &points.join(" "))]);
        }
    }

    /// What a pointer over a while is told.
    fn tooltips(&self, m: &mut Markup, x: &Axis) {
        for (i, (from, to)) in self.whiles.iter().enumerate() {
            let (left, right) = (x.position(*from), x.position(*to));
            let (width, height) = (at((right - left).max(0.5)), at(HEIGHT - TOP - BOTTOM));
            let mut text = format!("{} to {}", numbers::span(*from), numbers::span(*to));
            for line in &self.lines {
                let value = line.values[i].map_or_else(|| "–".to_owned(), self.words);
                let _ = write!(text, "\n{}: {value}", line.name);
            }
            let place = [("class", "hover"), ("x", &at(left)), ("y", &at(TOP)), ("width", &width), ("height", &height)];
            m.within("rect", &place, |m| m.leaf("title", &[], &text));
        }
    }
}

/// Shares of some distribution, by the upper ends of their bins.
pub(super) struct Bars<'a> {
    pub(super) name: &'a str,
    pub(super) class: &'static str,
    /// Of each bin, the share in it, in percent.
    pub(super) shares: Vec<f64>,
}

/// Distributions side by side, on one logarithmic axis of durations.
pub(super) struct Distribution<'a> {
    pub(super) title: &'a str,
    /// The ends of the bins, in microseconds: one more than there are bins.
    pub(super) ends: Vec<f64>,
    pub(super) bars: Vec<Bars<'a>>,
}

impl Distribution<'_> {
    /// The plot, with its legend.
    pub(super) fn draw(&self, m: &mut Markup) {
        let max = self.bars.iter().flat_map(|bars| bars.shares.iter().copied()).fold(0.0, f64::max);
        let mut y = Axis::linear(max, HEIGHT - BOTTOM, TOP);
        y.ticks.iter_mut().for_each(|(_, label)| label.push_str(" %"));
        let (first, last) = (self.ends[0], self.ends[self.ends.len() - 1]);
        let x = Axis::durations(first, last, LEFT, WIDTH - RIGHT);
        legend(m, self.bars.iter().map(|bars| (bars.name, bars.class)));
        frame(m, self.title, |m| {
            horizontal_grid(m, &y);
            labels_below(m, &x);
            for (i, bin) in self.ends.windows(2).enumerate() {
                let (left, right) = (x.position(bin[0]), x.position(bin[1]));
                let each = (right - left - 2.0).max(1.0) / self.bars.len() as f64;
                for (n, bars) in self.bars.iter().enumerate().filter(|(_, bars)| bars.shares[i] > 0.0) {
                    let top = y.position(bars.shares[i]).min(HEIGHT - BOTTOM - 1.0);
                    let (left, height) = (at(left + 1.0 + each * n as f64), at(HEIGHT - BOTTOM - top));
                    let width = at((each - 0.5).max(0.5));
                    let place =
                        [("class", bars.class), ("x", &left), ("y", &at(top)), ("width", &width), ("height", &height)];
                    m.void("rect", &place);
                }
                self.tooltip(m, i, (left, right));
            }
        });
    }

    fn tooltip(&self, m: &mut Markup, bin: usize, (left, right): (f64, f64)) {
        let end = |i: usize| numbers::time(std::time::Duration::from_micros(self.ends[i] as u64));
        let mut text = format!("{} to {}", end(bin), end(bin + 1));
        for bars in &self.bars {
            let _ = write!(text, "\n{}: {:.2} %", bars.name, bars.shares[bin]);
        }
        let (x, width, height) = (at(left), at(right - left), at(HEIGHT - TOP - BOTTOM));
        let place = [("class", "hover"), ("x", &x), ("y", &at(TOP)), ("width", &width), ("height", &height)];
        m.within("rect", &place, |m| m.leaf("title", &[], &text));
    }
}
