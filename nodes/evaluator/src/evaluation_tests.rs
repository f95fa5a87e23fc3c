#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::sync::Arc;

use arrow::array::{ArrayRef, LargeStringArray, RecordBatch, UInt64Array};
use parquet::arrow::ArrowWriter;
use tempfile::TempDir;

use super::*;
use crate::tiny;

/// Base model, checkpoint, tokenizer, documents and gaps in a folder.
fn files() -> (TempDir, Config) {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    tiny::write_model(&dir.path().join("base"), false, 0.3);
    tiny::write_model(&dir.path().join("checkpoint"), true, 0.3);
    tiny::write_tokenizer(&dir.path().join("tokenizer.json"));
    let texts: ArrayRef = Arc::new(LargeStringArray::from(vec!["a bad day", "no end of it at all", "ox", "last"]));
    let ids: ArrayRef = Arc::new(UInt64Array::from(vec![0, 1, 2, 3]));
    let batch = RecordBatch::try_from_iter([("doc_id", ids), ("text", texts)]).unwrap();
    let mut writer = ArrowWriter::try_new(File::create(at("heldout.parquet")).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    let gap = "{\"id\":7,\"left\":\"ab\",\"answer\":\" c\",\"right\":\"d\"}\n";
    std::fs::write(at("gaps.jsonl"), gap.repeat(3)).unwrap();
    let config = Config {
        base_model: at("base"),
        tokenizer: at("tokenizer.json"),
        heldout: at("heldout.parquet"),
        infill: at("gaps.jsonl"),
        sequence_length: 12,
        eval_documents: 3,
        eval_gaps: 2,
        device: "cpu".into(),
        ..Config::default()
    };
    (dir, config)
}

fn checkpoint(dir: &TempDir, step: u64) -> Checkpoint {
    let path = dir.path().join("checkpoint").to_str().unwrap().to_owned();
    Checkpoint { step, path, sha256: "a".into(), bytes: 1, tokens_seen: 2 }
}

fn names(scores: &Scores) -> Vec<&str> {
    scores.metrics.keys().map(String::as_str).collect()
}

#[test]
fn the_base_model_is_scored_at_step_0_only() {
    let (dir, config) = files();
    let evaluation = Evaluation::open(config).unwrap();
    let before = evaluation.score(&checkpoint(&dir, 0), &mut || Ok(())).unwrap();
    let wanted = ["ar_infill_exact_match", "ar_loss", "infill_exact_match", "nelbo", "nelbo_stderr"];
    assert_eq!(names(&before), wanted);
    assert_eq!((before.documents, before.documents_cut, before.gaps), (3, 1, 2));
    let after = evaluation.score(&checkpoint(&dir, 5), &mut || Ok(())).unwrap();
    assert_eq!(names(&after), ["infill_exact_match", "nelbo", "nelbo_stderr"]);
    assert_eq!(after.metrics["nelbo"], before.metrics["nelbo"], "the same weights have the same score at any step");
}

/// A run with OBJECTIVE ar is the other arm of a comparison: it has no bound, and reads from the left at every step.
#[test]
fn a_model_trained_left_to_right_is_scored_left_to_right() {
    let (dir, config) = files();
    let mut model = Model::load(&dir.path().join("checkpoint"), Device::Cpu).unwrap();
    model.set_objective(difflow_model::Objective::Ar);
    model.save(&dir.path().join("checkpoint")).unwrap();
    let scores = Evaluation::open(config).unwrap().score(&checkpoint(&dir, 5), &mut || Ok(())).unwrap();
    assert_eq!(names(&scores), ["ar_infill_exact_match", "ar_loss"]);
}

#[test]
fn documents_are_cut_to_the_sequence_length_and_keep_their_beginning() {
    let (_dir, config) = files();
    let words = Words::open(&config.tokenizer, "<bos>", "<eos>").ok().unwrap();
    let heldout = Heldout::read(&config, &words).unwrap();
    assert_eq!(heldout.documents.iter().map(Vec::len).collect::<Vec<_>>(), [11, 12, 4]);
    assert!(heldout.documents.iter().all(|document| document[0] == words.bos));
    assert_eq!(heldout.documents[2].last(), Some(&words.eos));
    assert_ne!(heldout.documents[1].last(), Some(&words.eos));
}

#[test]
fn wrong_inputs_are_problems_of_their_keys() {
    let (dir, config) = files();
    let key = |change: &dyn Fn(&mut Config)| {
        let mut config = config.clone();
        change(&mut config);
        let error = Evaluation::open(config).err().unwrap();
        error.downcast::<Problems>().unwrap().0.remove(0).key
    };
    assert_eq!(key(&|config| config.heldout = "nowhere.parquet".into()), "HELDOUT");
    assert_eq!(key(&|config| config.text_column = "body".into()), "TEXT_COLUMN");
    assert_eq!(key(&|config| config.text_column = "doc_id".into()), "TEXT_COLUMN");
    assert_eq!(key(&|config| config.infill = config.heldout.clone()), "INFILL");
    assert_eq!(key(&|config| config.tokenizer = config.heldout.clone()), "TOKENIZER");
    assert_eq!(key(&|config| config.eos_token = "</s>".into()), "EOS_TOKEN");
    assert_eq!(key(&|config| config.device = "gpu".into()), "DEVICE");
    let evaluation = Evaluation::open(Config { base_model: "nowhere".into(), ..config.clone() }).unwrap();
    let error = evaluation.score(&checkpoint(&dir, 0), &mut || Ok(())).unwrap_err();
    assert_eq!(error.downcast::<Problems>().unwrap().0[0].key, "BASE_MODEL");
    assert!(Evaluation::open(Config { infill: String::new(), ..config }).unwrap().questions.is_empty());
}
