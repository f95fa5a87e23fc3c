//! Keyed random numbers: the same key gives the same draws on every machine.

use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// A random number generator for one story. What it draws depends on (seed, stream, index) and on nothing else, so stories
/// can be made in any order.
pub struct Dice(ChaCha12Rng);

impl Dice {
    /// `stream` keeps apart what is drawn for different purposes.
    pub fn new(seed: u64, stream: u64, index: u64) -> Dice {
        let mut key = [0u8; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        key[8..16].copy_from_slice(&stream.to_le_bytes());
        key[16..24].copy_from_slice(&index.to_le_bytes());
        key[24..].copy_from_slice(b"tiny-one");
        Dice(ChaCha12Rng::from_seed(key))
    }

    /// A number below `n`; 0 when `n` is 0. Written out here so that the corpus does not change with a library's sampling algorithm.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.0.next_u64()) * n as u128) >> 64) as usize
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: u8, high: u8) -> u8 {
        low + self.below(usize::from(high.saturating_sub(low)) + 1) as u8
    }

    /// True in `percent` of a hundred cases.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// One of the choices, None when there are none.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> Option<T> {
        choices.get(self.below(choices.len())).copied()
    }

    /// Puts the items into a random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}
