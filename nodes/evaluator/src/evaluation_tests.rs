#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::sync::Arc;

use arrow::array::{ArrayRef, LargeStringArray, RecordBatch, UInt64Array};
use difflow_inference::{Compute, tiny};
use difflow_node_kit::RunKeys;
use parquet::arrow::ArrowWriter;
use serde_json::json;
use tempfile::TempDir;

use super::*;

/// Base model, checkpoint, documents and gaps in a folder.
fn files() -> (TempDir, Config) {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    tiny::write_model(&dir.path().join("base"), false, 0.3);
    tiny::write_model(&dir.path().join("checkpoint"), true, 0.3);
    tiny::write_origin(&dir.path().join("checkpoint"), Some(&dir.path().join("base")), |origin| {
        origin.sequence_length = 12;
    });
    write_documents(Path::new(&at("heldout.parquet")));
    let gap = "{\"id\":7,\"left\":\"ab\",\"answer\":\" c\",\"right\":\"d\"}\n";
    std::fs::write(at("gaps.jsonl"), gap.repeat(3)).unwrap();
    let config = Config {
        run: RunKeys { runs: at("runs"), ..RunKeys::default() },
        heldout: at("heldout.parquet"),
        infill: at("gaps.jsonl"),
        eval_documents: 3,
        eval_gaps: 2,
        compute: Compute { device: "cpu".into(), ..Compute::default() },
        ..Config::default()
    };
    (dir, config)
}

fn write_documents(path: &Path) {
    let texts: ArrayRef = Arc::new(LargeStringArray::from(vec!["a bad day", "no end of it at all", "ox", "last"]));
    let ids: ArrayRef = Arc::new(UInt64Array::from(vec![0, 1, 2, 3]));
    let batch = RecordBatch::try_from_iter([("doc_id", ids), ("text", texts)]).unwrap();
    let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

fn checkpoint(dir: &TempDir, step: u64) -> Checkpoint {
    let path = dir.path().join("checkpoint").to_str().unwrap().to_owned();
    Checkpoint { step, path, sha256: "a".into(), bytes: 1, tokens_seen: 2 }
}

fn score(dir: &TempDir, config: &Config, step: u64) -> Scores {
    Evaluation::open(config.clone()).unwrap().score(&checkpoint(dir, step), &mut || Ok(())).unwrap()
}

fn names(scores: &Scores) -> Vec<&str> {
    scores.metrics.keys().map(String::as_str).collect()
}

#[test]
fn the_base_model_is_scored_at_step_0_only() {
    let (dir, config) = files();
    let before = score(&dir, &config, 0);
    let wanted = ["ar_infill_exact_match", "ar_loss", "infill_exact_match", "nelbo", "nelbo_stderr"];
    assert_eq!(names(&before), wanted);
    assert_eq!(before.content, Scored { documents: 3, documents_cut: 1, gaps: 2 });
    let after = score(&dir, &config, 5);
    assert_eq!(names(&after), ["infill_exact_match", "nelbo", "nelbo_stderr"]);
    assert_eq!(after.metrics["nelbo"], before.metrics["nelbo"], "the same weights have the same score at any step");
}

/// A run with OBJECTIVE ar is the other arm of a comparison: it has no bound, and reads from the left at every step.
#[test]
fn a_model_trained_left_to_right_is_scored_left_to_right() {
    let (dir, config) = files();
    tiny::mark_left_to_right(&dir.path().join("checkpoint"));
    assert_eq!(names(&score(&dir, &config, 5)), ["ar_infill_exact_match", "ar_loss"]);
}

/// Every checkpoint is asked, and at step 0 the base model too; a stop between two batches of a task ends with its own error.
#[test]
fn tasks_are_put_to_every_checkpoint() {
    let (dir, config) = files();
    let task = dir.path().join("letters.yml");
    let rows: String = (0..20)
        .map(|n| format!("{}\n", json!({"q": "abc".repeat(1 + n % 3), "c": ["de", "fgh"], "g": n % 2})))
        .collect();
    std::fs::write(dir.path().join("rows.jsonl"), rows).unwrap();
    let yaml =
        "about: a\nkind: choice\nsource: {path: rows.jsonl}\ncontext: '{{ q }}'\nchoices: c\ngold: g\nmetrics: [acc]\n";
    std::fs::write(&task, yaml).unwrap();
    let tasks = task.to_str().unwrap().to_owned();
    let config = Config { tasks, infill: String::new(), task_questions: 10, task_draws: 2, ..config };
    let before = score(&dir, &config, 0);
    assert_eq!(
        names(&before),
        ["ar_loss", "base/letters/acc", "nelbo", "nelbo_stderr", "task/letters/acc", "task_score"]
    );
    assert_eq!(before.metrics["task_score"], before.metrics["task/letters/acc"]);
    let (evaluation, mut asked) = (Evaluation::open(config.clone()).unwrap(), 0);
    let mut count = || {
        asked += 1;
        Ok(())
    };
    evaluation.score(&checkpoint(&dir, 5), &mut count).unwrap();
    let (all, mut asked) = (asked, 0);
    // The last batch is one of the task.
    let stopped = evaluation.score(&checkpoint(&dir, 5), &mut || {
        asked += 1;
        if asked == all { Err(eyre::eyre!("the run ends")) } else { Ok(()) }
    });
    assert_eq!(stopped.unwrap_err().to_string(), "the run ends");
    for tasks in ["no-such-task".to_owned(), format!("{},", task.with_extension("json").display())] {
        let refused = Evaluation::open(Config { tasks, ..config.clone() }).err().unwrap().to_string();
        assert!(refused.starts_with("TASKS: ") && refused.contains("empty for none"), "{refused}");
    }
}

/// The bound is given the length of a document and the AR loss beside it is not: the figure that compares has the cost of the lengths.
#[test]
fn the_bound_stands_beside_one_that_pays_for_the_lengths_as_the_ar_loss_does() {
    let (dir, config) = files();
    tiny::write_origin(&dir.path().join("checkpoint"), None, |origin| {
        (origin.sequence_length, origin.length_entropy) = (12, Some(1.5));
    });
    let metrics = score(&dir, &config, 5).metrics;
    // Three documents with 10, 11 and 3 tokens behind the anchor.
    let wanted = metrics["nelbo"].unwrap() + 1.5 * 3.0 / 24.0;
    assert!((metrics["nelbo_with_length"].unwrap() - wanted).abs() < 1e-12, "{metrics:?}");
}

/// With `clipped` (and a plug-in's own weight) the evaluator's NELBO was weighed by the training schedule: no bound, and another number for
/// the same weights.
#[test]
fn the_score_does_not_depend_on_the_runs_noise_schedule() {
    let (dir, config) = files();
    let nelbo = |schedule: &str| {
        tiny::write_origin(&dir.path().join("checkpoint"), None, |origin| {
            (origin.sequence_length, origin.noise_schedule.name) = (12, schedule.into());
        });
        score(&dir, &config, 5).metrics["nelbo"]
    };
    assert_eq!(nelbo("clipped"), nelbo("linear"));
}

/// The file's truncation cut documents to four tokens, and its padding scored what is no text.
#[test]
fn truncation_and_padding_of_the_tokenizer_change_no_score() {
    let (dir, config) = files();
    let whole = score(&dir, &config, 5);
    let path = dir.path().join("checkpoint/tokenizer.json");
    let mut tokenizer: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    tokenizer["truncation"] = json!({"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0});
    tokenizer["padding"] = json!({"strategy": {"Fixed": 4}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
                                  "pad_type_id": 0, "pad_token": "<pad>"});
    std::fs::write(&path, tokenizer.to_string()).unwrap();
    let found = score(&dir, &config, 5);
    assert_eq!((found.metrics, found.content), (whole.metrics, whole.content));
}

/// Checkpoints of November 2026 say by the keys of their dataflow what origin.json says now.
#[test]
fn a_checkpoint_of_an_older_difflow_is_scored() {
    let (dir, config) = files();
    let with_origin = score(&dir, &config, 0);
    std::fs::remove_file(dir.path().join("checkpoint/origin.json")).unwrap();
    let lineage = json!({"configuration": {"BASE_MODEL": dir.path().join("base"), "SEQUENCE_LENGTH": 12}});
    std::fs::write(dir.path().join("checkpoint/lineage.json"), lineage.to_string()).unwrap();
    let found = score(&dir, &config, 0);
    assert_eq!((found.metrics, found.content), (with_origin.metrics, with_origin.content));
}

#[test]
fn documents_are_cut_to_the_sequence_length_and_keep_their_beginning() {
    let (dir, config) = files();
    let session = Session::open(&dir.path().join("checkpoint"), &tiny::opening()).unwrap();
    let questions = Evaluation::open(config).unwrap().questions(&session).unwrap();
    let documents: Vec<&Vec<u32>> = questions
        .documents
        .iter()
        .map(|task| match task {
            Task::Likelihood(document) => &document.tokens,
            other => panic!("{other:?}"),
        })
        .collect();
    let (bos, eos) = (session.words().bos, session.words().eos);
    assert_eq!(documents.iter().map(|document| document.len()).collect::<Vec<_>>(), [11, 12, 4]);
    assert!(documents.iter().all(|document| document[0] == bos));
    assert_eq!(documents[2].last(), Some(&eos));
    assert_ne!(documents[1].last(), Some(&eos));
}

/// The corpus node splits them off; without HELDOUT they are waited for, and read when a checkpoint comes.
#[test]
fn without_a_file_of_its_own_the_runs_held_out_documents_are_scored() {
    let (dir, config) = files();
    let given = score(&dir, &config, 5);
    let config = Config { heldout: String::new(), ..config };
    let evaluation = Evaluation::open(config.clone()).unwrap();
    let path = config.run.dir().heldout();
    let mut asked = 0;
    let found = evaluation.score(&checkpoint(&dir, 5), &mut || {
        asked += 1;
        if asked == 2 {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            write_documents(&path);
        }
        Ok(())
    });
    assert_eq!(found.unwrap().metrics, given.metrics);
    std::fs::remove_file(&path).unwrap();
    let text = evaluation.heldout().texts().unwrap_err().to_string();
    assert!(text.contains("HELDOUT") && text.contains("heldout.parquet") && text.contains("corpus"), "{text}");
}

#[test]
fn a_stop_is_noticed_between_batches() {
    let (dir, config) = files();
    let mut asked = 0;
    let result = Evaluation::open(config).unwrap().score(&checkpoint(&dir, 5), &mut || {
        asked += 1;
        if asked == 2 { Err(difflow_node_kit::Stopped.into()) } else { Ok(()) }
    });
    assert!(result.unwrap_err().is::<difflow_node_kit::Stopped>());
}

#[test]
fn wrong_inputs_are_problems_of_their_keys() {
    let (dir, config) = files();
    let key = |change: &dyn Fn(&mut Config)| {
        let mut config = config.clone();
        change(&mut config);
        Evaluation::open(config).err().unwrap().0.remove(0).key
    };
    assert_eq!(key(&|config| config.heldout = "nowhere.parquet".into()), "HELDOUT");
    assert_eq!(key(&|config| config.text_column = "body".into()), "TEXT_COLUMN");
    assert_eq!(key(&|config| config.text_column = "doc_id".into()), "TEXT_COLUMN");
    assert_eq!(key(&|config| config.infill = config.heldout.clone()), "INFILL");
    assert_eq!(key(&|config| config.compute.device = "gpu".into()), "DEVICE");
    tiny::write_origin(&dir.path().join("checkpoint"), Some(Path::new("/nowhere")), |_| ());
    let evaluation = Evaluation::open(Config { infill: String::new(), ..config }).unwrap();
    assert!(evaluation.gaps.is_empty());
    let error = format!("{:#}", evaluation.score(&checkpoint(&dir, 0), &mut || Ok(())).unwrap_err());
    assert!(error.contains("base model") && error.contains("/nowhere"), "{error}");
}

/// The run's own held-out conversations, as the corpus node leaves them, or those of HELDOUT by its columns.
#[test]
fn of_conversations_the_answers_are_scored_given_their_prompts() {
    let (dir, config) = files();
    let examples = difflow_schema::ExampleFacts {
        template: None,
        template_file: None,
        template_date: None,
        separator: ".".into(),
        pad_policy: "eos-once".into(),
        turns: "apart".into(),
        several_a_row: true,
        fill_multiple: None,
    };
    tiny::write_origin(&dir.path().join("checkpoint"), Some(&dir.path().join("base")), |origin| {
        (origin.sequence_length, origin.examples) = (12, Some(examples));
    });
    let exchanges = [("ab", "cd"), ("e", "fgh"), ("too long for a row", "i")];
    let messages =
        exchanges.map(|(prompt, response)| difflow_schema::Conversation::exchange(prompt, response).unwrap().to_json());
    let column = |texts: Vec<&str>| -> ArrayRef { Arc::new(LargeStringArray::from(texts)) };
    let write = |path: &Path, columns: Vec<(&str, ArrayRef)>| {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
    };
    let messages = column(messages.iter().map(String::as_str).collect());
    write(&config.run.dir().heldout(), vec![("messages", messages)]);
    let (prompts, responses) = exchanges.iter().copied().unzip();
    let own = dir.path().join("own.parquet");
    write(&own, vec![("question", column(prompts)), ("response", column(responses))]);

    let run = Config { heldout: String::new(), infill: String::new(), ..config };
    let scores = score(&dir, &run, 0);
    assert_eq!(scores.content.documents, 2, "an answer that does not fit into a row is left out");
    let session = Session::open(&dir.path().join("base"), &tiny::opening()).unwrap();
    let document = |text: &str, given| {
        let words = session.words();
        Document { tokens: [vec![words.bos], words.encode(text).unwrap(), vec![words.eos]].concat(), given }
    };
    let wanted =
        session
            .ar_loss(&[document("ab.cd", 4), document("e.fgh", 3)], Batching::Rows(1), &mut |_| {
                Ok::<(), InferenceError>(())
            })
            .unwrap();
    assert!((scores.metrics["ar_loss"].unwrap() - Estimate::of(&wanted).value).abs() < 1e-6);
    let named = Config { heldout: own.display().to_string(), prompt_column: Some("question".into()), ..run.clone() };
    assert_eq!(score(&dir, &named, 0).metrics, scores.metrics);
    let error = |config: Config| {
        let scored = Evaluation::open(config).and_then(|evaluation| {
            evaluation
                .questions(&Session::open(&dir.path().join("checkpoint"), &tiny::opening()).unwrap())
                .map(|_| ())
                .map_err(|e| e.downcast::<Problems>().unwrap())
        });
        scored.unwrap_err().0.remove(0).key
    };
    assert_eq!(error(Config { prompt_column: None, text_column: "question".into(), ..named.clone() }), "PROMPT_COLUMN");
    assert_eq!(error(Config { prompt_column: Some("no".into()), ..named.clone() }), "PROMPT_COLUMN");
    assert_eq!(error(Config { response_column: "no".into(), ..named.clone() }), "RESPONSE_COLUMN");
    assert_eq!(error(Config { messages_column: Some("question".into()), ..named }), "MESSAGES_COLUMN");
}
