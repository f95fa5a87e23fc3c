//! docs/PLUGINS.md, word for word: a guide whose commands do not work is worse than none.

#![allow(clippy::unwrap_used)]

use crate::json;
use crate::new_plugins::{shared_target, shell};
use difflow_tests::{Dataflow, root};

/// The fenced blocks of a language, in order.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    text.split(&fence).skip(1).map(|part| part.split("```").next().unwrap().to_owned()).collect()
}

#[test]
fn the_commands_of_the_guide_do_what_it_says() {
    let guide = std::fs::read_to_string(root().join("docs/PLUGINS.md")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let commands = blocks(&guide, "sh");
    assert_eq!(commands.len(), 2, "the guide has other commands than this test knows");
    // The one thing that is not in the guide: cargo keeps what it compiled for other tests.
    let keep = format!("cd my-noise\nln -s '{}' target\n", shared_target().display());
    let rust = shell(&commands[0].replacen("cd my-noise\n", &keep, 1), dir.path());
    assert!(
        rust.contains(" 0 failed") && rust.contains("α(t)") && rust.contains("w(t)") && rust.contains("power"),
        "{rust}"
    );
    let c = shell(&commands[1], dir.path());
    assert!(c.contains(" 0 failed"), "{c}");
    let yaml = blocks(&guide, "yaml");
    let (key, value) = yaml[0].lines().find_map(|line| line.trim().split_once(": ")).unwrap();
    assert_eq!(key, "NOISE_SCHEDULE");
    let dataflow = Dataflow::small(2).set("noiser", key, value.replace("/home/you", &dir.path().display().to_string()));
    dataflow.run().well();
    let record = json(&dataflow.run_folder().join("run.json"))["plugins"]["noiser.NOISE_SCHEDULE"].clone();
    assert_eq!((record["id"].as_str(), record["version"].as_str()), (Some("org.example.my-noise"), Some("0.1.0")));
    assert_eq!(record["sha256"].as_str().map(str::len), Some(64));
}
