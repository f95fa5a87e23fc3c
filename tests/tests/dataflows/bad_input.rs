//! Bad input: the whole run ends within seconds, with a message that names what and where, and nothing written is lost.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use difflow_tests::{Dataflow, Disk, Outcome, program, write_parquet};

use crate::weights;

/// Far above what an ending takes, far below what any run takes.
const SOON: Duration = Duration::from_secs(60);

fn sources(path: &Path) -> String {
    serde_json::json!([{"path": path}]).to_string()
}

fn corpus(dataflow: Dataflow, name: &str, texts: &[&str]) -> Dataflow {
    let path = dataflow.folder().join(name);
    write_parquet(&path, "text", texts);
    dataflow.set("corpus", "SOURCES", sources(&path))
}

#[test]
fn a_missing_corpus() {
    let dataflow = Dataflow::small(4);
    let path = dataflow.folder().join("nowhere.parquet");
    dataflow
        .set("corpus", "SOURCES", sources(&path))
        .run_within(SOON)
        .refused(78, &["corpus", "SOURCES", "nowhere.parquet"]);
}

#[test]
fn an_empty_corpus() {
    let dataflow = corpus(Dataflow::small(4), "empty.parquet", &[]);
    dataflow.run_within(SOON).refused(78, &["empty.parquet"]);
}

#[test]
fn a_parquet_file_without_the_text_column() {
    let dataflow = Dataflow::small(4);
    let path = dataflow.folder().join("other.parquet");
    write_parquet(&path, "story", &["a", "b"]);
    let dataflow = dataflow.set("corpus", "SOURCES", sources(&path));
    dataflow.run_within(SOON).refused(78, &["corpus", "other.parquet", "text", "story"]);
}

#[test]
fn a_query_that_does_not_parse() {
    let dataflow = Dataflow::small(4).set("corpus", "SQL", "SELEC text FROM source");
    dataflow.run_within(SOON).refused(78, &["corpus", "SQL", "SELEC"]);
}

#[test]
fn a_query_over_a_table_that_is_none() {
    let dataflow = Dataflow::small(4).set("corpus", "SQL", "SELECT text FROM stories");
    dataflow.run_within(SOON).refused(78, &["corpus", "SQL", "stories", "its tables: source, source1"]);
}

#[test]
fn no_documents_after_filtering() {
    let dataflow = Dataflow::small(4).set("corpus", "SQL", "SELECT text FROM source WHERE text = 'never'");
    dataflow.run_within(SOON).refused(78, &["no document"]);
}

#[test]
fn a_tokenizer_whose_vocabulary_does_not_fit_the_model() {
    let dataflow = Dataflow::small(4);
    let text = fs::read_to_string(difflow_tests::root().join("data/tiny/tokenizer.json")).expect("a tokenizer");
    let mut tokenizer: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let mut extra = tokenizer["added_tokens"][0].clone();
    (extra["id"], extra["content"]) = (5000.into(), "<extra>".into());
    tokenizer["model"]["vocab"]["<extra>"] = 5000.into();
    tokenizer["added_tokens"].as_array_mut().expect("added tokens").push(extra);
    let path = dataflow.folder().join("tokenizer.json");
    fs::write(&path, tokenizer.to_string()).expect("the folder takes a file");
    let dataflow = dataflow.set("", "TOKENIZER", path.display().to_string());
    dataflow.run_within(SOON).refused(78, &["tokenizer.json", "5000", "rows"]);
}

#[test]
fn a_document_longer_than_the_sequence() {
    let long = "Sara walked to the river. ".repeat(40);
    let dataflow = corpus(Dataflow::small(4), "long.parquet", &["A day.", &long]);
    let dataflow = dataflow.set("tokenizer", "LONG_DOCUMENTS", "refuse");
    dataflow.run_within(SOON).refused(78, &["tokenizer", "SEQUENCE_LENGTH", "document 1", "LONG_DOCUMENTS"]);
}

#[test]
fn a_base_model_folder_that_is_none() {
    let dataflow = Dataflow::small(4);
    let folder = dataflow.folder().join("model");
    fs::create_dir(&folder).expect("a folder");
    let dataflow = dataflow.set("", "BASE_MODEL", folder.display().to_string());
    dataflow.run_within(SOON).refused(78, &["BASE_MODEL", "config.json"]);
}

/// A checkpoint folder that is none, or a damaged one, is named and passed over; the one before it is used.
#[test]
fn a_checkpoint_that_is_none() {
    let dataflow = Dataflow::small(6).set("trainer", "CHECKPOINT_EVERY", 3);
    dataflow.run().well();
    let run = dataflow.run_folder();
    let before = weights(&run, 6);
    fs::create_dir_all(run.join("checkpoints/step-00000009")).expect("a folder");
    let file = run.join("checkpoints/step-00000006/model.safetensors");
    let mut bytes = fs::read(&file).expect("weights");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&file, bytes).expect("weights");
    dataflow.run().well().says(&["step 9", "step 6", "model.safetensors"]);
    assert!(before == weights(&run, 6), "training went on from elsewhere");
}

/// A tmpfs of a few hundred kilobytes holds no checkpoint. Needs the right to mount, which CI has.
#[test]
fn a_full_disk() {
    let dataflow = Dataflow::small(4);
    let path = dataflow.folder().join("disk");
    let Some(_disk) = Disk::mount(&path, 1024, "a full disk") else { return };
    let outcome = dataflow.set("", "RUNS", path.display().to_string()).run_within(SOON);
    outcome.refused(1, &["disk", "No space left on device"]);
}

/// `difflow run` and `dora run` need no fixed port. `dora start` does: something that is not dora on it ends the start at once.
#[test]
fn a_port_in_use() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port().to_string();
    std::thread::spawn(move || taken.incoming().for_each(drop));
    let dataflow = Dataflow::small(4);
    let mut command = Command::new(program("dora"));
    command.arg("start").arg(dataflow.write()).arg("--attach").env("DORA_COORDINATOR_PORT", &port);
    let outcome = Outcome::of(command, SOON);
    assert_ne!(outcome.code, 0, "{}", outcome.text);
    outcome.says(&[&format!("127.0.0.1:{port}")]);
}
