//! Chance from a seed, and the links that it plays on.

use std::time::Duration;

use tcpcopy_wire::Timestamp;

/// SplitMix64: small, and the same on every machine.
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    /// Chance that plays out the same for the same seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number, from the whole range.
    #[allow(clippy::should_implement_trait)] // an iterator that never ends would only be called through `next().unwrap()`
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; zero when `bound` is zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.next() % bound }
    }

    /// True `per_mille` times out of a thousand.
    pub fn hits(&mut self, per_mille: u32) -> bool {
        per_mille > 0 && self.below(1000) < u64::from(per_mille)
    }
}

/// What a link does to packets. Shares are per mille.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quality {
    /// Packets that are lost.
    pub loss: u32,
    /// Packets that arrive twice.
    pub duplication: u32,
    /// Packets that fall behind those sent after them.
    pub reordering: u32,
    /// Time that each packet takes.
    pub delay: Duration,
    /// Added to the delay, from nothing to this much, without changing the order.
    pub jitter: Duration,
}

impl Quality {
    /// Everything goes wrong, now and then.
    pub const BAD: Self = Self {
        loss: 50,
        duplication: 50,
        reordering: 50,
        delay: Duration::from_millis(5),
        jitter: Duration::from_millis(2),
    };

    /// Nothing but this delay.
    pub const fn delayed(delay: Duration) -> Self {
        Self { loss: 0, duplication: 0, reordering: 0, delay, jitter: Duration::ZERO }
    }
}

/// One direction of a path.
#[derive(Debug)]
pub(crate) struct Link {
    quality: Quality,
    last_arrival: Timestamp,
}

impl Link {
    pub(crate) fn new(quality: Quality) -> Self {
        Self { quality, last_arrival: Timestamp::ZERO }
    }

    /// When a packet sent now arrives: not at all, once or twice.
    pub(crate) fn arrivals(&mut self, now: Timestamp, chance: &mut Chance) -> Vec<Timestamp> {
        let q = self.quality;
        if chance.hits(q.loss) {
            return Vec::new();
        }
        let jitter = Duration::from_nanos(chance.below(q.jitter.as_nanos() as u64 + 1));
        let in_order = (now + q.delay + jitter).max(self.last_arrival);
        let arrival = if chance.hits(q.reordering) {
            in_order + Duration::from_micros(20 + chance.below(2_000))
        } else {
            self.last_arrival = in_order;
            in_order
        };
        let mut arrivals = vec![arrival];
        if chance.hits(q.duplication) {
            arrivals.push(arrival + Duration::from_micros(chance.below(500)));
        }
        arrivals
    }
}
