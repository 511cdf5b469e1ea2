//! Chance that can be repeated: the same seed gives the same numbers.

use std::time::Duration;

/// A generator of small numbers (`SplitMix64`).
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// One that gives the numbers of this seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number from 0 to below `sides`.
    pub fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((mixed ^ (mixed >> 31)) % sides as u64).unwrap()
    }

    /// One of these.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.roll(from.len())]
    }

    /// A time from `shortest` to below `longest`, in milliseconds.
    pub fn pause(&mut self, shortest: usize, longest: usize) -> Duration {
        Duration::from_millis((shortest + self.roll(longest - shortest)) as u64)
    }

    /// Another generator, with numbers of its own.
    #[must_use]
    pub fn split(&mut self) -> Self {
        Self(self.roll(usize::MAX) as u64)
    }
}
