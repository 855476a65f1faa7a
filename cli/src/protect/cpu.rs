//! `--cpu-limit`: how much is copied so that tcpcopy stays below a share of a processor.
//!
//! # Theory of operation
//!
//! A process that sleeps loses what the kernel captures meanwhile, and copies damaged sessions. So nothing is slowed down;
//! fewer connections are begun. Every half second the processor time of the last half second is compared with the limit:
//!
//! | used, of the limit | what follows |
//! |---|---|
//! | above | the share of new connections shrinks in proportion, at most by half; what is below 1 % becomes nothing |
//! | above, with no share left for 2 s | of the sessions under way the newest are closed, as many as are too much, at most a quarter |
//! | 90 % to the whole | all stays as it is |
//! | below 90 % | the share grows by a twentieth, at least by half a percent |
//!
//! The share shrinks within seconds and grows from nothing to everything in about half a minute. A short peak costs little,
//! a lasting one leads to small steps around what fits.

use std::fmt;
use std::time::Duration;

use tcpcopy_engine::Traffic;

use crate::exit::Failure;

/// Time between measurements.
pub const MEASURE_EVERY: Duration = Duration::from_millis(500);
/// Below this part of the limit there is room for more.
const ROOM_BELOW: f64 = 0.9;
/// Smaller shares are none.
const SMALLEST_SHARE: f64 = 0.01;
/// A share grows by so much, at least.
const SMALLEST_STEP: f64 = 0.005;
/// A share grows by this part of it.
const GROWTH: f64 = 0.05;
/// Measurements above the limit without any share until sessions are closed: what has been begun may be about to end.
const PATIENCE: u32 = 4;
/// Of a hundred sessions so many are closed at a time, at most.
const MOST_CLOSED: f64 = 25.0;

/// What the workers are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Throttle {
    /// The part of new connections that is copied, in ten-thousandths.
    pub share: u16,
    /// Of a hundred sessions, so many are given up, the newest first.
    pub close_percent: u8,
}

/// The limit, and what has been told so far.
#[derive(Clone, Debug, PartialEq)]
pub struct CpuLimit {
    /// Processors, or parts of one, that may be used.
    limit: f64,
    /// From 0 to 1.
    share: f64,
    /// Measurements above the limit, in a row, while the share was nothing.
    in_vain: u32,
}

impl CpuLimit {
    /// Reads `--cpu-limit`: percent of one processor.
    ///
    /// # Errors
    /// Wrong usage.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        let number = text.trim().trim_end_matches('%').trim_end();
        match number.parse::<u32>() {
            Ok(percent @ 1..=100_000) => Ok(Self::new(f64::from(percent) / 100.0)),
            _ => Err(Failure::usage(format!(
                "in --cpu-limit: `{text}` is no percentage of one processor\nit is written like this: --cpu-limit 50, or \
                 --cpu-limit 150 for one and a half"
            ))),
        }
    }

    /// A limit of so many processors.
    pub fn new(limit: f64) -> Self {
        Self { limit, share: 1.0, in_vain: 0 }
    }

    /// The limit, in processors.
    pub fn limit(&self) -> f64 {
        self.limit
    }

    /// What follows from having used so many processors since the last measurement; `None`: nothing new.
    pub fn measured(&mut self, used: f64) -> Option<Throttle> {
        let (ratio, before) = (used / self.limit, self.share);
        let mut close = 0.0;
        if ratio > 1.0 {
            if before > 0.0 {
                self.share = before * (1.0 / ratio).max(0.5);
                if self.share < SMALLEST_SHARE {
                    self.share = 0.0;
                }
            } else {
                self.in_vain += 1;
                if self.in_vain >= PATIENCE {
                    self.in_vain = 0;
                    close = ((1.0 - 1.0 / ratio) * 100.0).ceil().clamp(1.0, MOST_CLOSED);
                }
            }
        } else {
            self.in_vain = 0;
            if ratio < ROOM_BELOW {
                self.share = (before + SMALLEST_STEP.max(before * GROWTH)).min(1.0);
            }
        }
        let throttle =
            Throttle { share: (self.share * f64::from(Traffic::WHOLE)).round() as u16, close_percent: close as u8 };
        // Equal to what was told, unless a step was taken.
        #[allow(clippy::float_cmp)]
        (self.share != before || throttle.close_percent > 0).then_some(throttle)
    }
}

impl fmt::Display for CpuLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.0} % of a processor", self.limit * 100.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Measurements of a load that is the share's part of `whole`, as when sessions are short; the last share.
    fn settle(limit: &mut CpuLimit, whole: f64, measurements: u32) -> f64 {
        for _ in 0..measurements {
            let used = limit.share * whole;
            assert!(limit.measured(used).is_none_or(|throttle| throttle.close_percent == 0));
        }
        limit.share
    }

    #[test]
    fn below_the_limit_everything_is_copied() {
        let mut limit = CpuLimit::new(0.5);
        assert_eq!(limit.measured(0.2), None);
        assert_eq!(limit.measured(0.5), None);
    }

    #[test]
    fn above_it_the_share_shrinks_in_proportion_at_most_by_half() {
        let mut limit = CpuLimit::new(0.5);
        assert_eq!(limit.measured(0.625), Some(Throttle { share: 8_000, close_percent: 0 }));
        assert_eq!(limit.measured(4.0), Some(Throttle { share: 4_000, close_percent: 0 }));
        assert_eq!(limit.measured(0.48), None, "neither too much nor room for more");
    }

    #[test]
    fn a_lasting_load_is_met_near_the_limit() {
        for whole in [0.6, 1.0, 5.0] {
            let mut limit = CpuLimit::new(0.5);
            settle(&mut limit, whole, 60);
            for _ in 0..40 {
                let used = settle(&mut limit, whole, 1) * whole;
                assert!((0.38..=0.56).contains(&used), "{used} of 0.5 at {whole}");
            }
        }
    }

    #[test]
    fn after_a_peak_all_is_copied_again_within_a_minute() {
        let mut limit = CpuLimit::new(0.5);
        for _ in 0..10 {
            limit.measured(3.0);
        }
        assert!(limit.share <= 0.0);
        let first = limit.measured(0.1).unwrap();
        assert_eq!(first.share, 50, "slowly");
        assert!(settle(&mut limit, 0.4, 120) >= 1.0);
    }

    #[test]
    fn without_a_share_left_the_newest_sessions_are_closed_in_proportion() {
        let mut limit = CpuLimit { share: 0.0, ..CpuLimit::new(1.0) };
        for (used, expected) in [(1.1, 10), (1.005, 1), (9.0, 25)] {
            for _ in 1..PATIENCE {
                assert_eq!(limit.measured(used), None, "those that have begun may be about to end");
            }
            assert_eq!(limit.measured(used), Some(Throttle { share: 0, close_percent: expected }));
        }
        assert_eq!(limit.measured(1.5), None);
        assert_eq!(limit.measured(0.95), None);
        assert_eq!(limit.in_vain, 0, "in a row");
    }

    #[test]
    fn the_option_is_a_percentage_of_one_processor() {
        assert_eq!(CpuLimit::parse("150").unwrap(), CpuLimit::new(1.5));
        assert_eq!(CpuLimit::parse(" 50 % ").unwrap(), CpuLimit::new(0.5));
        for text in ["", "0", "-5", "half", "0.5"] {
            let message = CpuLimit::parse(text).unwrap_err().message;
            assert!(message.contains("--cpu-limit 150"), "{message}");
        }
    }
}
