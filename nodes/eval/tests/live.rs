//! Evaluation against scripts on PyTorch that share no code with it. `DIFFLOW_PYTHON` names a Python that has it, with transformers; without one
//! this says what it skips.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use difflow_eval::{Asked, Evaluation, Options, Places, Task};
use difflow_inference::{Session, tiny};
use difflow_tests::{real_data, skip};
use safetensors::SafeTensors;
use serde_json::{Value, json};

fn script(name: &str, arguments: &[&Path], last: &str) -> Option<Value> {
    let Some(python) = std::env::var_os("DIFFLOW_PYTHON") else {
        skip("transformers", "evaluation against PyTorch", "DIFFLOW_PYTHON names no Python that has it");
        return None;
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name);
    let output =
        Command::new(python).arg(script).args(arguments).args((!last.is_empty()).then_some(last)).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

/// HellaSwag, PIQA, WinoGrande and Social IQa, 200 questions each: prompts, tokens, where a candidate begins, and its nats.
#[test]
fn likelihoods_of_an_ar_model_are_those_of_transformers() {
    let Some(data) = real_data("likelihoods of stories260K") else { return };
    let (model, count) = (data.join("models/stories260K"), 200);
    let Some(wanted) = script("likelihood.py", &[&model, &data.join("eval")], &count.to_string()) else { return };
    let session = Session::open(&model, &tiny::opening()).unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data/tasks");
    for name in ["hellaswag", "piqa", "winogrande", "siqa"] {
        let task = Places::of(&folder).tasks(&[name.to_owned()]).unwrap().remove(0);
        let options = Options { limit: Some(count), ..Options::default() };
        let evaluation = Evaluation::prepare(&task, &session, &options).unwrap();
        let found = evaluation.run(None, "", &mut |_| Ok(())).unwrap();
        let wanted = wanted[name].as_array().unwrap();
        assert_eq!((found.answers.len(), wanted.len()), (count, count));
        let (mut compared, mut right) = (0, 0);
        for (answer, wanted) in found.answers.iter().zip(wanted) {
            let Some(wanted) = wanted.as_array() else {
                assert!(answer.cut, "{name}: too long for the script and not cut");
                continue;
            };
            let wanted: Vec<f64> = wanted.iter().map(|value| value.as_f64().unwrap()).collect();
            assert_eq!(answer.values.len(), wanted.len());
            for (value, wanted) in answer.values.iter().zip(&wanted) {
                assert!((value - wanted).abs() < 1e-3, "{name}, question {}: {value} {wanted}", answer.question);
            }
            let best = (0..wanted.len()).min_by(|&a, &b| wanted[a].total_cmp(&wanted[b])).unwrap() as u64;
            assert_eq!(answer.metrics["acc,none"], f64::from(u8::from(Some(best) == answer.gold)));
            compared += 1;
            right += u64::from(Some(best) == answer.gold);
        }
        assert!(compared > 150, "{name}: only {compared} fit");
        eprintln!("{name}: {compared} of {count} questions, {right} right");
    }
}

/// lm-evaluation-harness' own tasks on the same files: what it makes of each candidate, and what it counts.
#[test]
fn accuracies_are_those_of_lm_evaluation_harness() {
    let Some(data) = real_data("accuracies of stories260K") else { return };
    let python = std::env::var_os("DIFFLOW_PYTHON");
    let has =
        |python| Command::new(python).args(["-c", "import lm_eval"]).output().is_ok_and(|out| out.status.success());
    if !python.is_some_and(has) {
        skip(
            "lm-eval",
            "accuracies by lm-evaluation-harness",
            "DIFFLOW_PYTHON names no Python with the package lm-eval",
        );
        return;
    }
    let (model, count) = (data.join("models/stories260K"), 200);
    let Some(wanted) = script("harness.py", &[&model, &data.join("eval")], &count.to_string()) else { return };
    let session = Session::open(&model, &tiny::opening()).unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data/tasks");
    for (name, theirs) in
        [("hellaswag", "hellaswag"), ("piqa", "piqa"), ("winogrande", "winogrande"), ("siqa", "social_iqa")]
    {
        let task = Places::of(&folder).tasks(&[name.to_owned()]).unwrap().remove(0);
        let options = Options { limit: Some(count), ..Options::default() };
        let evaluation = Evaluation::prepare(&task, &session, &options).unwrap();
        let found = evaluation.run(None, "", &mut |_| Ok(())).unwrap();
        let wanted = wanted[theirs].as_array().unwrap();
        assert_eq!((found.answers.len(), wanted.len()), (count, count));
        let (mut compared, mut all_right) = (0, BTreeMap::new());
        for (answer, wanted) in found.answers.iter().zip(wanted) {
            assert_eq!(answer.cut, wanted.is_null(), "{name}, question {}", answer.question);
            let Some(values) = wanted["values"].as_array() else { continue };
            assert_eq!(answer.values.len(), values.len());
            for (value, wanted) in answer.values.iter().zip(values) {
                let wanted = -wanted.as_f64().unwrap();
                assert!((value - wanted).abs() < 1e-3, "{name}, question {}: {value} {wanted}", answer.question);
            }
            for (metric, right) in wanted["metrics"].as_object().unwrap() {
                if let Some(own) = answer.metrics.get(&format!("{metric},none")) {
                    assert_eq!(*own, right.as_f64().unwrap(), "{name}, question {}: {metric}", answer.question);
                    *all_right.entry(metric.clone()).or_insert(0.0) += own;
                }
            }
            compared += 1;
        }
        assert!(compared > 150 && !all_right.is_empty(), "{name}: only {compared} fit");
        eprintln!("{name}: {compared} of {count} questions, right: {all_right:?}");
    }
}

/// A random model with the tensors of a released DiffuGPT.
fn diffugpt(dir: &Path) -> PathBuf {
    tiny::write_model_with_learned_positions(dir);
    let path = dir.join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let rename =
        |name: String| name.replace("transformer.wte", "embed_tokens").replace("transformer.", "denoise_model.");
    let renamed: BTreeMap<String, _> = tensors.tensors().into_iter().map(|(name, view)| (rename(name), view)).collect();
    safetensors::serialize_to_file(renamed, None, &path).unwrap();
    let config = dir.join("config.json");
    let mut json: Value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
    for key in ["difflow", "mask_token_id", "is_causal"] {
        json.as_object_mut().unwrap().remove(key);
    }
    std::fs::write(&config, json.to_string()).unwrap();
    dir.to_owned()
}

/// Given the same masks, the paper's code chooses the same candidates: 500 questions, with its encoding and its quirks.
#[test]
fn the_papers_protocol_makes_the_choices_of_its_rendering_in_pytorch() {
    let dir = tempfile::tempdir().unwrap();
    let model = diffugpt(&dir.path().join("model"));
    let letters = |key: usize, length: usize| -> String {
        (0..length).map(|at| char::from(b'a' + ((key * 7 + at * 5 + key * at) % 26) as u8)).collect()
    };
    let rows: String = (0..500)
        .map(|n| {
            let candidates: Vec<String> = (0..3).map(|c| letters(n * 3 + c, 2 + (n + c) % 6)).collect();
            format!("{}\n", json!({"q": letters(n, 5 + n % 7), "c": candidates, "g": n % 3}))
        })
        .collect();
    std::fs::write(dir.path().join("rows.jsonl"), rows).unwrap();
    let path = dir.path().join("paper.yml");
    let yaml = "about: a\nkind: choice\nsource: {path: rows.jsonl}\ncontext: '{{ q }}'\nchoices: c\ngold: g\nencoding: apart\n\
                anchor: tokenizer\nscoring: paper-code\ndraws: 8\nmetrics: [acc]\n";
    std::fs::write(&path, yaml).unwrap();
    let (task, session) = (Task::read(&path).unwrap(), Session::open(&model, &tiny::opening()).unwrap());
    let evaluation = Evaluation::prepare(&task, &session, &Options::default()).unwrap();
    let mask = session.config().adapted.as_ref().unwrap().mask_token_id;
    let candidate = |id: u64, document: &difflow_inference::Document| {
        let masks: Vec<Vec<bool>> =
            (0..8).map(|draw| evaluation.scorer.masked(id, draw, document.measured())).collect();
        json!({"tokens": document.tokens, "given": document.given, "masks": masks})
    };
    let questions: Vec<Value> = evaluation
        .questions
        .iter()
        .map(|one| match &one.asked {
            Asked::Measure(question) => {
                question.candidates.iter().map(|document| candidate(question.id, document)).collect()
            }
            other => panic!("{other:?}"),
        })
        .collect();
    let asked = dir.path().join("asked.json");
    std::fs::write(&asked, json!({"model": model, "mask": mask, "questions": questions}).to_string()).unwrap();
    let Some(wanted) = script("paper.py", &[&asked], "") else { return };
    let found = evaluation.run(None, "", &mut |_| Ok(())).unwrap();
    let mut chosen = [0; 3];
    for (answer, wanted) in found.answers.iter().zip(wanted.as_array().unwrap()) {
        let wanted: Vec<f64> = wanted.as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect();
        for (value, wanted) in answer.values.iter().zip(&wanted) {
            assert!((value - wanted).abs() < 1e-4, "question {}: {value} {wanted}", answer.question);
        }
        let best = (0..3).min_by(|&a, &b| wanted[a].total_cmp(&wanted[b])).unwrap();
        assert_eq!(answer.chosen, Some(best as u64), "question {}", answer.question);
        chosen[best] += 1;
    }
    assert!(chosen.iter().all(|&count| count > 50), "{chosen:?}");
}
