//! Seeded random numbers, one independent stream for every split and purpose.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::Split;

/// A ChaCha stream with the few draws that scenes need.
#[derive(Clone, Debug)]
pub(crate) struct Dice(ChaCha8Rng);

impl Dice {
    /// The stream of `(split, purpose)` under the key `seed`; streams of one key never overlap.
    pub(crate) fn new(split: Split, purpose: u8, seed: u64) -> Dice {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        let mut rng = ChaCha8Rng::from_seed(key);
        let side = match split {
            Split::Train => 0,
            Split::Validation => 1,
            Split::HeldOut => 2,
        };
        rng.set_stream(side << 8 | u64::from(purpose));
        Dice(rng)
    }

    /// Uniform in [0, 1).
    pub(crate) fn fraction(&mut self) -> f64 {
        // 53 bits by hand: the mapping is part of what a seed means, and must not change with a library's version.
        (self.0.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in [`low`, `high`).
    pub(crate) fn range(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.fraction()
    }

    /// Uniform in [`low`, `high`] with either sign.
    pub(crate) fn either(&mut self, low: f64, high: f64) -> f64 {
        let size = self.range(low, high);
        if self.chance(0.5) { size } else { -size }
    }

    /// Uniform over 0..`count`.
    pub(crate) fn index(&mut self, count: usize) -> usize {
        ((self.fraction() * count as f64) as usize).min(count - 1)
    }

    /// True with this probability.
    pub(crate) fn chance(&mut self, probability: f64) -> bool {
        self.fraction() < probability
    }
}
