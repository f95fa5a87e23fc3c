//! What one node decides is no key of another: it travels with the data and the checkpoints, and run.json says all of it.

use std::fs;
use std::time::Duration;

use difflow_tests::{Dataflow, Outcome, parquet_rows, real_data, write_gpt2};
use serde_json::Value;

use crate::{json, weights};

/// The noise schedule of noiser, sampler and evaluator changes in one line.
#[test]
fn the_noise_schedule_is_one_line() {
    let dataflow = Dataflow::tiny(2).set("noiser", "NOISE_SCHEDULE", "cosine").set("trainer", "ACCUMULATION", 2);
    // So that the corpus is read to its end before the first batch leaves, and the lengths are known with it.
    let dataflow = dataflow.set("tokenizer", "SHUFFLE_WINDOW", 8192);
    dataflow.run().well();
    let run = dataflow.run_folder();
    for step in [0, 2] {
        let origin = json(&run.join(format!("checkpoints/step-{step:08}/origin.json")));
        assert_eq!(origin["noise_schedule"]["name"], "cosine", "{origin:#}");
        assert_eq!((&origin["bos"], &origin["eos"], &origin["steps"]), (&0.into(), &1.into(), &2.into()));
        // Checkpoint 0 does not wait for the batches, so that it is scored meanwhile.
        let entropy = origin["length_entropy"].as_f64();
        assert_eq!(entropy.is_some_and(|entropy| entropy > 1.0), step > 0, "{origin:#}");
        // The tokenizer of the run, which the base model's folder does not have.
        assert!(run.join(format!("checkpoints/step-{step:08}/tokenizer.json")).exists());
    }
}

/// Anyone who gets run.json alone knows what ran.
#[test]
fn run_json_is_the_whole_configuration_and_what_it_was_made_from() {
    let dataflow = Dataflow::tiny(2);
    dataflow.run().well();
    let record = json(&dataflow.run_folder().join("run.json"));
    let nodes = ["corpus", "tokenizer", "noiser", "trainer", "checkpointer", "sampler", "evaluator", "monitor"];
    for node in nodes {
        assert_eq!(record["configuration"][format!("{node}.RUN")], "tiny-diffusion", "{record:#}");
        assert_eq!(record["nodes"][node], format!("difflow-{node}"));
    }
    // Defaults too.
    assert_eq!(record["configuration"]["trainer.BETA1"], 0.9);
    let inputs = record["inputs"].as_object().expect("inputs");
    for file in ["model/config.json", "model/model.safetensors", "tokenizer.json"] {
        assert!(inputs.keys().any(|path| path.ends_with(file)), "{file} not in {inputs:?}");
    }
    for text in ["/revision", "/versions/dora", "/versions/libtorch", "/device", "/corpus", "/tokenizer/sha256"] {
        let found = record.pointer(text).and_then(Value::as_str);
        assert!(found.is_some_and(|found| !found.is_empty() && found != "unknown"), "{text}: {found:?}");
    }
    let lineage = json(&dataflow.run_folder().join("checkpoints/step-00000002/lineage.json"));
    assert_eq!(lineage["configuration"]["noiser.NOISE_SCHEDULE"], "linear");
}

/// A stray `export` once changed runs without a word.
#[test]
fn a_variable_of_the_shell_changes_nothing() {
    let plain = Dataflow::tiny(4);
    plain.run().well();
    let exported = Dataflow::tiny(4);
    let mut command = exported.command();
    command.env("STEPS", "2").env("BETA1", "0.1").env("WEIGHT_DECAY", "0.5");
    Outcome::of(command, Duration::from_secs(300)).well();
    assert!(weights(&plain.run_folder(), 4) == weights(&exported.run_folder(), 4), "other weights");
}

/// The trainer said that the data ended, which sent people looking for documents.
#[test]
fn a_refused_configuration_is_not_called_the_end_of_the_data() {
    let dataflow = Dataflow::tiny(4).set("corpus", "SOURCES", r#"[{"path": "nowhere.jsonl"}]"#);
    let outcome = dataflow.run_within(Duration::from_secs(90)).refused(78, &["SOURCES", "nowhere.jsonl"]);
    assert!(!outcome.text.contains("the data ended"), "{}", outcome.text);
    // Nothing was made with it, so nothing holds the run to it.
    let mended = serde_json::json!([{"path": dataflow.corpus_file()}]).to_string();
    dataflow.set("corpus", "SOURCES", mended).run().well();
}

/// Documents to score are split off the corpus where none are given, and not trained on.
#[test]
fn documents_are_held_out_of_a_corpus() {
    let dataflow = Dataflow::tiny(2).set("corpus", "HELDOUT", "").set("corpus", "HELDOUT_DOCUMENTS", 7);
    dataflow.run().well();
    let run = dataflow.run_folder();
    let store = json(&run.join("tokens/store.json"));
    let documents = fs::read_to_string(dataflow.corpus_file()).expect("a corpus").lines().count() as u64;
    assert_eq!(store["documents"], documents - 7);
    assert!(run.join("heldout.parquet").exists());
}

/// The tokenizer of GPT-2, a model of its shape, and text from the web, in place of data/tiny: once ten keys in four nodes.
#[test]
fn three_lines_are_enough_for_an_experiment_of_ones_own() {
    let Some(data) = real_data("an experiment on web text with the tokenizer of GPT-2") else { return };
    let mut dataflow = Dataflow::open("dataflow.yml");
    let model = dataflow.folder().join("gpt2");
    write_gpt2(&model, &data.join("tokenizers/gpt2/tokenizer.json"));
    let sources = serde_json::json!([{"path": data.join("text/openwebtext-1k.parquet")}]).to_string();
    dataflow = dataflow
        .set("", "RUN", "web")
        .set("", "BASE_MODEL", model.display().to_string())
        .set("corpus", "SOURCES", sources)
        // So that it is over soon.
        .shortened(4)
        .set("sampler", "LENGTHS", "16..24");
    // What dataflow.yml has for data/tiny alone.
    let own = [("corpus", "HELDOUT"), ("sampler", "CHECKER"), ("sampler", "INFILL"), ("evaluator", "INFILL")];
    for (node, key) in own.into_iter().chain([("trainer", "ANNEAL_STEPS")]) {
        if let Some(env) = dataflow.node(node)["env"].as_object_mut() {
            env.remove(key);
        }
    }
    let outcome = dataflow.run().well().says(&["validation NELBO"]);
    let run = dataflow.run_folder();
    let origin = json(&run.join("checkpoints/step-00000004/origin.json"));
    assert_eq!((&origin["bos"], &origin["eos"]), (&50_256.into(), &50_256.into()), "{}", outcome.text);
    let held = parquet_rows(&run.join("heldout.parquet"));
    assert!((20..=128).contains(&held), "{held} of 1000 documents are held out");
    assert_eq!(crate::metric(&dataflow, "attn_mask_ratio")[&4], 1.0, "attention is never full");
    // A model that knows nothing: the logarithm of the vocabulary, 10.8. One draw of t a block of a thousand tokens: a standard error of 0.9.
    let nelbo = crate::scores(&run, 0)["nelbo"];
    assert!((8.0..13.6).contains(&nelbo), "{nelbo}");
}
