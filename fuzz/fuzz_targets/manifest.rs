//! manifest.json of a checkpoint: what is taken is what difflow writes, and leads to no file outside of the folder.
#![no_main]

use std::path::Path;

use difflow_schema::run::{CheckpointError, Manifest};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let path = Path::new("manifest.json");
    if let Ok(manifest) = Manifest::parse(path, bytes) {
        assert_eq!(manifest.text(), bytes);
        assert!(manifest.files.keys().all(|name| !name.contains('/') && name != ".."));
    }
    // A fuzzer finds no sha256: with the right one, it is taken unless a name leads out of the folder.
    if let Ok(found) = serde_json::from_slice::<Manifest>(bytes) {
        let sealed = Manifest::new(found.step, found.tokens_seen, found.next_seq, found.files).text();
        assert!(matches!(Manifest::parse(path, &sealed), Ok(_) | Err(CheckpointError::Outside { .. })));
    }
});
