//! Base models by hub id. Nobody listens at the hub's address here: the nodes find the model in the Hugging Face cache, as they do on a
//! machine without a network. That it is fetched is tested in nodes/cli/tests/hub.rs.

use std::fs;
use std::time::Duration;

use difflow_tests::{Dataflow, Outcome, root};

use crate::weights;

#[test]
fn a_run_reads_base_model_and_tokenizer_by_hub_id() {
    let home = tempfile::tempdir().unwrap();
    let repository = home.path().join("hub/models--tests--tiny");
    let snapshot = repository.join("snapshots/0123456789abcdef0123456789abcdef01234567");
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(repository.join("refs")).unwrap();
    fs::write(repository.join("refs/main"), "0123456789abcdef0123456789abcdef01234567").unwrap();
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        fs::copy(root().join("data/tiny/model").join(name), snapshot.join(name)).unwrap();
    }
    let by_id = Dataflow::small(2).set("", "BASE_MODEL", "tests/tiny").set("", "TOKENIZER", "tests/tiny");
    let mut command = by_id.command();
    command.env("HF_HOME", home.path()).env("HF_ENDPOINT", "http://127.0.0.1:1");
    Outcome::of(command, Duration::from_secs(120)).well();
    let by_path = Dataflow::small(2);
    by_path.run().well();
    assert_eq!(weights(&by_id.run_folder(), 2), weights(&by_path.run_folder(), 2));
}
