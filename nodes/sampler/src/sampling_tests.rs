#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt;

use difflow_inference::{Compute, tiny};
use difflow_node_kit::Stopped;

use super::*;

/// A sampler over small files in a folder that lives as long as it; its checker passes nothing.
fn sampler(change: impl FnOnce(&mut Config)) -> (tempfile::TempDir, Sampler, Checkpoint) {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    tiny::write_model(&dir.path().join("checkpoint"), true, 0.3);
    std::fs::write(at("gaps.jsonl"), "{\"id\":7,\"left\":\"ab\",\"answer\":\" c\",\"right\":\"d\"}\n").unwrap();
    std::fs::write(at("checker"), "#!/bin/sh\nexec sed 's/.*/no story/'\n").unwrap();
    std::fs::set_permissions(at("checker"), PermissionsExt::from_mode(0o755)).unwrap();
    let mut config = Config {
        infill: at("gaps.jsonl"),
        checker: at("checker"),
        samples: 5,
        lengths: "6..12".into(),
        judge: "none".into(),
        sample_batch: 2,
        decoding: Decoding { decoder: Decoder::Random, steps: 4, ..Decoding::default() },
        compute: Compute { device: "cpu".into(), ..Compute::default() },
        ..Config::default()
    };
    change(&mut config);
    let checkpoint = Checkpoint { step: 10, path: at("checkpoint"), sha256: "a".into(), bytes: 1, tokens_seen: 2 };
    (dir, Sampler::open(config).unwrap(), checkpoint)
}

fn texts(change: impl FnOnce(&mut Config)) -> Texts {
    let (_dir, sampler, checkpoint) = sampler(change);
    sampler.write(&checkpoint, &mut || Ok(())).unwrap()
}

#[test]
fn texts_and_infillings_come_with_verdicts_and_numbers() {
    let texts = texts(|_| {});
    let samples = &texts.content.samples;
    let kinds: Vec<(&str, u64)> = samples.iter().map(|s| (s.kind.as_str(), s.index)).collect();
    let wanted = [0, 1, 2, 3, 4].map(|index| ("unconditional", index)).into_iter().chain([("infill", 0)]);
    assert_eq!(kinds, wanted.collect::<Vec<_>>());
    assert!(samples[..5].iter().all(|sample| sample.verdict == "no story"));
    assert_eq!(texts.metrics["samples_checked"], Some(5.0));
    assert_eq!(texts.metrics["pass_rate"], Some(0.0));
    let infill = &samples[5];
    assert_eq!(infill.prompt, "ab […]d");
    assert!(infill.text.starts_with("ab") && infill.text.ends_with('d'), "{}", infill.text);
    assert!(infill.verdict == OK || infill.verdict == "wanted `c`", "{}", infill.verdict);
}

/// Texts from nothing say nothing about a model that answers: its answers to held-out prompts are shown, and judged with the prompt in view.
#[test]
fn a_model_of_conversations_answers_the_runs_held_out_prompts() {
    let (dir, sampler, checkpoint) = sampler(|config| {
        let runs = config.infill.replace("gaps.jsonl", "runs");
        let checker = format!("{runs}-checker");
        std::fs::write(&checker, "#!/bin/sh\nexec cat\n").unwrap();
        std::fs::set_permissions(&checker, PermissionsExt::from_mode(0o755)).unwrap();
        (config.run.runs, config.checker, config.infill) = (runs, checker, String::new());
    });
    tiny::write_origin(&dir.path().join("checkpoint"), None, |origin| {
        origin.sequence_length = 14;
        origin.examples = Some(difflow_schema::ExampleFacts {
            template: None,
            template_file: None,
            template_date: None,
            separator: ".".into(),
            pad_policy: "eos-once".into(),
            turns: "apart".into(),
            several_a_row: true,
            fill_multiple: None,
        });
    });
    let messages = ["ab", "longer than a training row", "c"]
        .map(|prompt| difflow_schema::Conversation::exchange(prompt, "yes").unwrap().to_json());
    let path = sampler.config.run.dir().heldout();
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let column: arrow::array::ArrayRef = std::sync::Arc::new(arrow::array::StringArray::from(messages.to_vec()));
    let batch = arrow::array::RecordBatch::try_from_iter([("messages", column)]).unwrap();
    let mut writer =
        parquet::arrow::ArrowWriter::try_new(std::fs::File::create(&path).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    let texts = sampler.write(&checkpoint, &mut || Ok(())).unwrap();
    let samples = &texts.content.samples;
    let found: Vec<(&str, &str)> = samples.iter().map(|s| (s.kind.as_str(), s.prompt.as_str())).collect();
    assert_eq!(found, [("answer", "ab"), ("answer", "c")]);
    for sample in samples {
        let wanted = serde_json::json!({"prompt": sample.prompt, "response": sample.text});
        assert_eq!(serde_json::from_str::<Value>(&sample.verdict).unwrap(), wanted);
        assert!(!sample.text.is_empty() && !sample.text.starts_with(&format!("{}.", sample.prompt)), "{}", sample.text);
        let shown: String = sample.history.iter().map(|token| token.text.as_str()).collect();
        assert_eq!(shown, sample.text, "what is played is the answer, without its prompt");
    }
    assert!(texts.metrics.contains_key("ended_rate"));
}

/// The run's length is the checkpoint's to say: its last checkpoint writes more.
#[test]
fn the_last_checkpoint_of_the_run_writes_more() {
    let (dir, sampler, checkpoint) = sampler(|config| config.samples_final = 7);
    let count = |steps| {
        tiny::write_origin(&dir.path().join("checkpoint"), None, |origin| origin.steps = steps);
        let texts = sampler.write(&checkpoint, &mut || Ok(())).unwrap();
        texts.content.samples.iter().filter(|sample| sample.kind == "unconditional").count()
    };
    assert_eq!((count(10), count(11)), (7, 5));
}

/// The report replays it: every token of the text once, what was given without a step.
#[test]
fn the_history_is_the_text_token_by_token() {
    for sample in texts(|_| {}).content.samples {
        let shown: String = sample.history.iter().map(|token| token.text.as_str()).collect();
        assert_eq!(shown, sample.text);
        let revealed = sample.history.iter().filter(|token| token.step.is_some()).count();
        match sample.kind.as_str() {
            "infill" => assert_eq!(revealed, 2, "the gap of ` c`"),
            _ => assert_eq!(revealed, sample.history.len()),
        }
        assert!(sample.history.iter().all(|token| token.step.is_some() == token.probability.is_some()));
    }
}

/// The checkpoint as its own base model and judge; without weights there is none.
#[test]
fn the_base_model_judges_the_texts_unless_another_does_or_nobody() {
    let (dir, sampler, checkpoint) = sampler(|_| {});
    let judged = |judge: &str, base: &Path| {
        tiny::write_origin(&dir.path().join("checkpoint"), Some(base), |_| ());
        let config = Config { judge: judge.to_owned(), ..sampler.config.clone() };
        let texts = Sampler::open(config).unwrap().write(&checkpoint, &mut || Ok(())).unwrap();
        texts.metrics.get("judge_perplexity").copied().flatten()
    };
    let (model, shape) = (dir.path().join("checkpoint"), dir.path().join("shape"));
    std::fs::create_dir(&shape).unwrap();
    std::fs::copy(model.join("config.json"), shape.join("config.json")).unwrap();
    let found = judged("", &model);
    assert!(found.is_some_and(|value| value > 1.0 && value < 1e6), "{found:?}");
    assert_eq!(judged(model.to_str().unwrap(), &shape), found);
    assert_eq!((judged("", &shape), judged("none", &model)), (None, None));
}

#[test]
fn nothing_is_judged_when_nobody_checks() {
    let texts = texts(|config| config.checker = "none".into());
    assert!(texts.content.samples[..5].iter().all(|sample| sample.verdict.is_empty()));
    assert!(!texts.metrics.contains_key("pass_rate") && texts.metrics.contains_key("distinct_2"));
}

/// A checker that fails must not look like texts that do.
#[test]
fn a_checker_that_answers_too_little_is_an_error() {
    let (dir, sampler, checkpoint) = sampler(|_| {});
    std::fs::write(dir.path().join("checker"), "#!/bin/sh\nhead -n 3\n").unwrap();
    let error = format!("{:#}", sampler.write(&checkpoint, &mut || Ok(())).unwrap_err());
    assert!(error.contains("3 lines for 5 texts"), "{error}");
}

/// A checkpoint of a run with OBJECTIVE ar writes from left to right, whatever DECODER says, and fills no gaps.
#[test]
fn a_model_trained_left_to_right_writes_left_to_right() {
    let (dir, sampler, checkpoint) = sampler(|config| config.decoding.decoder = Decoder::Confidence);
    tiny::mark_left_to_right(&dir.path().join("checkpoint"));
    let texts = sampler.write(&checkpoint, &mut || Ok(())).unwrap();
    assert_eq!(texts.content.samples.len(), 5);
    assert!(texts.content.samples.iter().all(|sample| sample.history.is_empty()));
}

#[test]
fn a_stop_is_noticed_between_batches() {
    let (_dir, sampler, checkpoint) = sampler(|_| {});
    let mut asked = 0;
    let result = sampler.write(&checkpoint, &mut || {
        asked += 1;
        if asked == 2 { Err(Stopped.into()) } else { Ok(()) }
    });
    assert!(result.unwrap_err().is::<Stopped>());
}

/// A model that was trained with open ends is given its canvas, and no text is longer.
#[test]
fn the_canvas_of_a_checkpoint_is_the_length_of_its_texts() {
    let (dir, sampler, checkpoint) = sampler(|config| config.lengths = "canvas".into());
    tiny::write_origin(&dir.path().join("checkpoint"), None, |origin| origin.canvas = Some(9));
    let session = Session::open(&dir.path().join("checkpoint"), &tiny::opening()).unwrap();
    assert_eq!(sampler.lengths(&session).unwrap(), Lengths { low: 8, high: 8 });
    let texts = sampler.write(&checkpoint, &mut || Ok(())).unwrap();
    let lengths: Vec<usize> = texts.content.samples[..5].iter().map(|sample| sample.history.len()).collect();
    assert!(lengths.iter().all(|&length| (1..=8).contains(&length)), "{lengths:?}");
}

#[test]
fn missing_files_and_lengths_that_do_not_fit_are_problems_of_their_keys() {
    let (dir, good, checkpoint) = sampler(|_| {});
    let key = |change: &dyn Fn(&mut Config)| {
        let mut config = good.config.clone();
        change(&mut config);
        Sampler::open(config).err().unwrap().0.remove(0).key
    };
    assert_eq!(key(&|config| config.infill = "nowhere.jsonl".into()), "INFILL");
    assert_eq!(key(&|config| config.checker = "nowhere/checker".into()), "CHECKER");
    assert_eq!(key(&|config| config.compute.device = "gpu".into()), "DEVICE");
    tiny::write_model_with_learned_positions(&dir.path().join("checkpoint"));
    let long = Sampler::open(Config { lengths: "60..64".into(), ..good.config.clone() }).unwrap();
    let error = long.write(&checkpoint, &mut || Ok(())).unwrap_err();
    assert_eq!(error.downcast::<Problems>().unwrap().0[0].key, "LENGTHS");
    tiny::write_model(&dir.path().join("checkpoint"), true, 0.3);
    let canvas = Sampler::open(Config { lengths: "canvas".into(), ..good.config.clone() }).unwrap();
    let error = canvas.write(&checkpoint, &mut || Ok(())).unwrap_err();
    assert_eq!(error.downcast::<Problems>().unwrap().0[0].key, "LENGTHS");
    let judge = Sampler::open(Config { judge: "/nowhere".into(), ..good.config.clone() }).unwrap();
    let error = judge.write(&checkpoint, &mut || Ok(())).unwrap_err();
    assert_eq!(error.downcast::<Problems>().unwrap().0[0].key, "JUDGE");
}
