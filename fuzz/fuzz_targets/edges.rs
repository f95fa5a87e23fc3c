//! Arrays on an edge: read or refused (nodes/schema/tests/hostile.rs).
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../nodes/schema/tests/mutations/mod.rs"]
mod mutations;

use mutations::{Choices, KINDS, survive};

/// Choices are bytes; when there are no more, always the first.
struct Bytes<'a>(&'a [u8]);

impl Choices for Bytes<'_> {
    fn below(&mut self, n: usize) -> usize {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        usize::from(*first) % n
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut choices = Bytes(bytes);
    let kind = choices.below(KINDS);
    survive(&mut choices, kind);
});
