#![allow(clippy::unwrap_used)]

use difflow_node_kit::Stopped;

use super::*;
use crate::config::Checker;
use crate::tiny;

/// A sampler over small files in a folder that lives as long as it.
fn sampler(change: impl FnOnce(&mut Config)) -> (tempfile::TempDir, Sampler, Checkpoint) {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    tiny::write_model(&dir.path().join("checkpoint"), true, 0.3);
    tiny::write_tokenizer(&dir.path().join("tokenizer.json"));
    std::fs::write(at("gaps.jsonl"), "{\"id\":7,\"left\":\"ab\",\"answer\":\" c\",\"right\":\"d\"}\n").unwrap();
    let mut config = Config {
        tokenizer: at("tokenizer.json"),
        infill: at("gaps.jsonl"),
        samples: 5,
        lengths: "6..12".into(),
        base_model: String::new(),
        sample_batch: 2,
        diffusion_steps: 4,
        device: "cpu".into(),
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
    let kinds: Vec<(&str, u64)> = texts.samples.iter().map(|s| (s.kind.as_str(), s.index)).collect();
    let wanted = [0, 1, 2, 3, 4].map(|index| ("unconditional", index)).into_iter().chain([("infill", 0)]);
    assert_eq!(kinds, wanted.collect::<Vec<_>>());
    assert_eq!(texts.metrics["samples_checked"], Some(5.0));
    assert_eq!(texts.metrics["pass_rate"], Some(0.0));
    let infill = &texts.samples[5];
    assert_eq!(infill.prompt, "ab […]d");
    assert!(infill.text.starts_with("ab") && infill.text.ends_with('d'), "{}", infill.text);
}

/// Texts of one checkpoint are compared with those of another: only the weights may make the difference.
#[test]
fn the_batch_size_does_not_change_the_texts() {
    for decoder in [Decoder::Random, Decoder::FirstHitting, Decoder::Confidence, Decoder::Threshold, Decoder::Greedy] {
        let text = |rows| -> Vec<String> {
            let texts = texts(|config| (config.sample_batch, config.decoder) = (rows, decoder));
            texts.samples.into_iter().map(|sample| sample.text).collect()
        };
        assert_eq!(text(1), text(5), "{decoder:?}");
    }
}

/// The report replays it: every token of the text once, what was given without a step.
#[test]
fn the_history_is_the_text_token_by_token() {
    let texts = texts(|_| {});
    for sample in &texts.samples {
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

/// The checkpoint as its own judge; without weights there is none.
#[test]
fn the_base_model_judges_the_texts_from_nothing() {
    let (dir, sampler, checkpoint) = sampler(|_| {});
    let judged = |base: &str| {
        let config = Config { base_model: base.to_owned(), ..sampler.config.clone() };
        let texts = Sampler::open(config).unwrap().write(&checkpoint, &mut || Ok(())).unwrap();
        texts.metrics.get("judge_perplexity").copied().flatten()
    };
    let found = judged(dir.path().join("checkpoint").to_str().unwrap());
    assert!(found.is_some_and(|value| value > 1.0 && value < 1e6), "{found:?}");
    assert_eq!(judged(""), None);
    assert_eq!(judged(dir.path().to_str().unwrap()), None);
}

#[test]
fn nothing_is_judged_when_nobody_checks() {
    let texts = texts(|config| config.checker = Checker::None);
    assert!(texts.samples[..5].iter().all(|sample| sample.verdict.is_empty()));
    assert!(!texts.metrics.contains_key("pass_rate") && texts.metrics.contains_key("distinct_2"));
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

#[test]
fn a_tokenizer_with_more_tokens_than_the_model_is_refused_by_its_key() {
    let (dir, sampler, checkpoint) = sampler(|_| {});
    let path = dir.path().join("checkpoint/config.json");
    let small = std::fs::read_to_string(&path).unwrap().replace("\"vocab_size\": 38", "\"vocab_size\": 20");
    std::fs::write(&path, small.replace("37", "19")).unwrap();
    let mut model = Model::initialise(path.parent().unwrap(), 1, Device::Cpu).unwrap();
    model.add_mask_token(0).unwrap();
    let error = sampler.words.fit(model.config().vocab_size).unwrap_err();
    assert_eq!(error.key, "TOKENIZER");
    drop(checkpoint);
}

#[test]
fn missing_files_are_problems_of_their_keys() {
    let config = Config { tokenizer: "nowhere.json".into(), ..Config::default() };
    assert_eq!(Sampler::open(config).err().unwrap().0[0].key, "TOKENIZER");
    let (dir, ..) = sampler(|_| {});
    let tokenizer = dir.path().join("tokenizer.json").to_str().unwrap().to_owned();
    let config = Config { tokenizer: tokenizer.clone(), infill: "nowhere.jsonl".into(), ..Config::default() };
    assert_eq!(Sampler::open(config).err().unwrap().0[0].key, "INFILL");
    let config = Config { tokenizer, bos_token: "<s>".into(), ..Config::default() };
    assert_eq!(Sampler::open(config).err().unwrap().0[0].key, "BOS_TOKEN");
}
