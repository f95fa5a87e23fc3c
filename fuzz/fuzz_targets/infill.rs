//! Texts with gaps: read or refused, and nothing but gaps and the blanks around them is lost.
#![no_main]

use difflow_text::{Part, parse_gaps};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(parts) = parse_gaps(text) {
        let kept: usize = parts.iter().map(|part| if let Part::Text(text) = part { text.len() } else { 0 }).sum();
        assert!(kept <= text.len() && (text.contains("[MASK") || kept == text.len()));
    }
});
