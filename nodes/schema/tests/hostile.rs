//! Arrays that no difflow node sends: every message either reads them or refuses them. 20,000 mutations, the same ones each time;
//! fuzz/ has the same with a fuzzer's choices.

mod mutations;

use mutations::{Choices, KINDS, survive};

/// splitmix64
struct Random(u64);

impl Choices for Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        ((x ^ (x >> 29)) % n as u64) as usize
    }
}

#[test]
fn no_array_makes_a_message_panic() {
    for kind in 0..KINDS {
        let mut random = Random(kind as u64);
        let read = (0..2500).filter(|_| survive(&mut random, kind)).count();
        // All read, or all refused, would show nothing.
        assert!((50..2450).contains(&read), "{read} of 2500 of kind {kind} were read");
    }
}
