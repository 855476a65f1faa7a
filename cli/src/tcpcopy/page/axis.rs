//! Axes: where the round numbers are.

use std::time::Duration;

use super::numbers;

/// From values to positions.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Axis {
    from: f64,
    to: f64,
    is_logarithmic: bool,
    /// Positions of both ends.
    start: f64,
    end: f64,
    /// Values with their labels; an empty label is a line only.
    pub(super) ticks: Vec<(f64, String)>,
}

impl Axis {
    /// From zero to a round number above `max`, with about five ticks.
    pub(super) fn linear(max: f64, start: f64, end: f64) -> Self {
        let max = if max > 0.0 { max } else { 1.0 };
        let step = round_step(max / 5.0);
        let steps = (max / step).ceil();
        let ticks = (0..=steps as u32).map(|i| f64::from(i) * step).map(|value| (value, numbers::short(value)));
        Self { from: 0.0, to: steps * step, is_logarithmic: false, start, end, ticks: ticks.collect() }
    }

    /// Durations in microseconds on a logarithmic axis, with labels at 1, 2 and 5 of each power of ten, or fewer.
    pub(super) fn durations(min: f64, max: f64, start: f64, end: f64) -> Self {
        let (min, max) = (min.max(1.0), max.max(2.0));
        let steps: &[f64] = match (max / min).log10() {
            decades if decades <= 2.5 => &[1.0, 2.0, 5.0],
            decades if decades <= 4.0 => &[1.0, 3.0],
            _ => &[1.0],
        };
        // All round numbers from the last one below to the first one above.
        let round: Vec<f64> =
            (0..=11).flat_map(|power| steps.iter().map(move |step| step * 10f64.powi(power))).collect();
        let from = round.iter().rev().find(|value| **value <= min * 1.001).copied().unwrap_or(1.0);
        let to = round.iter().find(|value| **value >= max * 0.999 && **value > from).copied().unwrap_or(max);
        let ticks = round.into_iter().filter(|value| (from..=to).contains(value));
        let label = |value: f64| (value, numbers::time(Duration::from_micros(value as u64)));
        Self { from, to, is_logarithmic: true, start, end, ticks: ticks.map(label).collect() }
    }

    /// Time since the beginning of a run, in seconds.
    pub(super) fn elapsed(seconds: f64, start: f64, end: f64) -> Self {
        const STEPS: &[f64] = &[
            0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1_800.0, 3_600.0,
            7_200.0, 10_800.0, 21_600.0, 43_200.0, 86_400.0, 172_800.0, 604_800.0,
        ];
        let seconds = seconds.max(0.1);
        // `1 h 15 min` is long.
        let most = if seconds > 3_600.0 { 7.0 } else { 9.0 };
        let step = STEPS.iter().find(|step| seconds / **step <= most).copied().unwrap_or(seconds / 8.0);
        let ticks = (0..=(seconds / step + 1e-9) as u32).map(|i| f64::from(i) * step);
        let label = |value: f64| (value, if value == 0.0 { "0".to_owned() } else { numbers::span(value) });
        Self { from: 0.0, to: seconds, is_logarithmic: false, start, end, ticks: ticks.map(label).collect() }
    }

    /// Where a value is; beyond the ends, at the end.
    pub(super) fn position(&self, value: f64) -> f64 {
        let share = if self.is_logarithmic {
            (value.max(self.from) / self.from).ln() / (self.to / self.from).ln()
        } else {
            (value - self.from) / (self.to - self.from)
        };
        self.start + (self.end - self.start) * share.clamp(0.0, 1.0)
    }
}

/// The next of 1, 2, 2.5 and 5 times a power of ten.
fn round_step(least: f64) -> f64 {
    let power = 10f64.powf(least.log10().floor());
    [1.0, 2.0, 2.5, 5.0, 10.0].map(|step| step * power).into_iter().find(|step| *step >= least * 0.999).unwrap_or(least)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis) -> String {
        axis.ticks.iter().map(|(_, label)| label.as_str()).collect::<Vec<_>>().join(" | ")
    }

    #[test]
    fn ticks_are_round_numbers_around_the_values() {
        assert_eq!(labels(&Axis::linear(87.0, 0.0, 1.0)), "0 | 20 | 40 | 60 | 80 | 100");
        assert_eq!(labels(&Axis::linear(12_000.0, 0.0, 1.0)), "0 | 2,500 | 5,000 | 7,500 | 10k | 12.5k");
        assert_eq!(labels(&Axis::linear(0.0, 0.0, 1.0)), "0 | 0.2 | 0.4 | 0.6 | 0.8 | 1");
        assert_eq!(labels(&Axis::durations(120.0, 900.0, 0.0, 1.0)), "100 µs | 200 µs | 500 µs | 1 ms");
        assert_eq!(
            labels(&Axis::durations(5.0, 2_000_000.0, 0.0, 1.0)),
            "1 µs | 10 µs | 100 µs | 1 ms | 10 ms | 100 ms | 1 s | 10 s"
        );
        assert_eq!(labels(&Axis::elapsed(700.0, 0.0, 1.0)), "0 | 2 min | 4 min | 6 min | 8 min | 10 min");
        assert_eq!(labels(&Axis::elapsed(3.0, 0.0, 1.0)), "0 | 0.5 s | 1 s | 1.5 s | 2 s | 2.5 s | 3 s");
    }

    #[test]
    fn positions_are_between_the_ends_whatever_the_value() {
        for axis in
            [Axis::linear(10.0, 100.0, 0.0), Axis::durations(1.0, 1.0, 100.0, 0.0), Axis::elapsed(0.0, 0.0, 100.0)]
        {
            for value in [0.0, 1.0, 5.0, 1e300, f64::INFINITY] {
                assert!((0.0..=100.0).contains(&axis.position(value)), "{axis:?} {value}");
            }
        }
        let axis = Axis::durations(100.0, 10_000.0, 0.0, 100.0);
        assert!((axis.position(1_000.0) - 50.0).abs() < 1e-9);
    }
}
