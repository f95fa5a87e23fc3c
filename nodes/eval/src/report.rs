//! Results in lm-evaluation-harness' layout, so that what reads its files reads ours: `results_DATE.json` and `samples_TASK_DATE.jsonl`.

use std::path::{Path, PathBuf};

use difflow_inference::{Scoring, Session};
use difflow_schema::manifest::Manifest;
use difflow_schema::run::{bytes_sha256, file_sha256, write_atomically};
use serde_json::{Map, Value as Json, json};

use crate::answers::Answer;
use crate::error::EvalError;
use crate::run::{Evaluation, Outcome};
use crate::task::Kind;

/// One evaluation of a model by some tasks.
pub struct Report<'a> {
    pub session: &'a Session,
    /// The model as it was named.
    pub model: String,
    /// When it was, such as 2026-11-26T23-59-00.
    pub date: String,
    pub device: String,
    pub limit: Option<usize>,
    pub seed: u64,
    /// As [`fingerprint`] has it.
    pub checkpoint: String,
}

/// A name as a folder's: what file systems and viewers do not like becomes `__`.
pub fn sanitised(name: &str) -> String {
    let mut clean = String::new();
    let mut bad = false;
    for c in name.chars() {
        let now = "\"<>:/|\\?*[]".contains(c);
        if now && !bad {
            clean += "__";
        } else if !now {
            clean.push(c);
        }
        bad = now;
    }
    clean
}

/// What identifies a checkpoint's weights, tokenizer and configuration, and those of an adapter: its manifest, or the sha256 of its files.
/// Errors if one cannot be read.
pub fn fingerprint(session: &Session, adapter: Option<&Path>) -> Result<String, EvalError> {
    let own = of_folder(session.folder())?;
    match adapter {
        None => Ok(own),
        Some(adapter) => Ok(bytes_sha256(format!("{own} {}", of_folder(adapter)?).as_bytes())),
    }
}

fn of_folder(folder: &Path) -> Result<String, EvalError> {
    if let Ok((_, sha256)) = Manifest::read(folder) {
        return Ok(sha256);
    }
    let wrong = EvalError::file(folder);
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder).map_err(|e| wrong(&e))?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|path| {
        let ending = path.extension().and_then(|ending| ending.to_str());
        path.is_file() && matches!(ending, Some("safetensors" | "json"))
    });
    files.sort();
    let mut all = String::new();
    for path in files {
        let (sha256, _) = file_sha256(&path).map_err(|e| EvalError::file(&path)(&e))?;
        all += &format!("{} {sha256}\n", path.file_name().unwrap_or_default().to_string_lossy());
    }
    Ok(bytes_sha256(all.as_bytes()))
}

/// Writes the results of some tasks to a folder; returns the path of the results. Errors if a file cannot be written.
pub fn write(folder: &Path, report: &Report, tasks: &[(&Evaluation, &Outcome)]) -> Result<PathBuf, EvalError> {
    let Report { date, .. } = report;
    for (evaluation, outcome) in tasks {
        let path = folder.join(format!("samples_{}_{date}.jsonl", evaluation.task.name));
        let mut lines = String::new();
        for answer in &outcome.answers {
            lines += &sample(evaluation, answer).to_string();
            lines.push('\n');
        }
        write_atomically(&path, lines.as_bytes()).map_err(|e| EvalError::file(&path)(&e))?;
    }
    let path = folder.join(format!("results_{date}.json"));
    let text = serde_json::to_vec_pretty(&results(folder, report, tasks)).unwrap_or_default();
    write_atomically(&path, &text).map_err(|e| EvalError::file(&path)(&e))?;
    Ok(path)
}

fn results(folder: &Path, report: &Report, tasks: &[(&Evaluation, &Outcome)]) -> Json {
    let by_task = |of: &dyn Fn(&Evaluation, &Outcome) -> Json| -> Json {
        let own = tasks.iter().map(|(evaluation, outcome)| (evaluation.task.name.clone(), of(evaluation, outcome)));
        own.collect::<Map<_, _>>().into()
    };
    let seconds: f64 = tasks.iter().map(|(_, outcome)| outcome.seconds).sum();
    json!({
        "results": by_task(&|evaluation, outcome| {
            let mut all = Map::from_iter([
                ("alias".to_owned(), evaluation.task.name.clone().into()),
                ("name".to_owned(), evaluation.task.name.clone().into()),
                ("sample_len".to_owned(), outcome.answers.len().into()),
            ]);
            for (name, figure) in &outcome.figures {
                let (metric, filter) = name.split_once(',').unwrap_or((name, "none"));
                all.insert(name.clone(), figure.value.into());
                all.insert(format!("{metric}_stderr,{filter}"), figure.stderr.into());
            }
            all.into()
        }),
        "groups": {},
        "group_subtasks": by_task(&|_, _| json!([])),
        "configs": by_task(&|evaluation, _| {
            let mut file = evaluation.task.identity();
            file["task"] = evaluation.task.name.clone().into();
            file
        }),
        "versions": by_task(&|_, _| json!(1)),
        "n-shot": by_task(&|evaluation, _| evaluation.task.few_shot.as_ref().map_or(0, |few| few.count).into()),
        "higher_is_better": by_task(&|_, outcome| {
            let names = outcome.figures.keys().map(|name| name.split(',').next().unwrap_or_default());
            let lower = |name: &str| name.contains("perplexity") || name.contains("per_");
            names.map(|name| (name.to_owned(), Json::from(!lower(name)))).collect::<Map<_, _>>().into()
        }),
        "n-samples": by_task(&|evaluation, outcome| {
            json!({"original": evaluation.questions.len(), "effective": outcome.answers.len()})
        }),
        "config": {
            "model": "difflow", "model_args": {"checkpoint": report.model}, "batch_size": null, "device": report.device,
            "limit": report.limit, "bootstrap_iters": 1000, "gen_kwargs": null, "random_seed": report.seed,
            "numpy_seed": report.seed, "torch_seed": report.seed, "fewshot_seed": report.seed,
        },
        "git_hash": null,
        "date": report.date,
        "model_source": "difflow",
        "model_name": report.model,
        "model_name_sanitized": sanitised(&report.model),
        "chat_template": null,
        "chat_template_sha": null,
        "task_hashes": by_task(&|evaluation, _| {
            bytes_sha256(evaluation.task.identity().to_string().as_bytes()).into()
        }),
        "total_evaluation_time_seconds": seconds.to_string(),
        "difflow": {
            "version": env!("CARGO_PKG_VERSION"),
            "checkpoint": report.checkpoint,
            "tasks": by_task(&|evaluation, outcome| {
                let answers = outcome.folder.as_ref().map(|own| own.strip_prefix(folder).unwrap_or(own));
                json!({
                    "scoring": scoring(evaluation),
                    "intervals": outcome.figures.iter().map(|(name, figure)| {
                        (name.clone(), json!([figure.low, figure.high]))
                    }).collect::<Map<_, _>>(),
                    "questions_cut": outcome.answers.iter().filter(|answer| answer.cut).count(),
                    "draws_mean": mean(&outcome.answers),
                    "reads": if evaluation.reads_both_sides() { "both sides" } else { "left side" },
                    "answers": answers,
                })
            }),
        },
    })
}

/// How the values came about, in words: `llada-mc, 128 draws`.
pub fn scoring(evaluation: &Evaluation) -> String {
    let scorer = &evaluation.scorer;
    match (evaluation.task.kind, scorer.scoring) {
        (Kind::Gap | Kind::Generate, _) => "text".into(),
        (_, Scoring::Exact) => "exact".into(),
        (_, Scoring::LladaMc) => format!("llada-mc, {} draws", scorer.draws),
        (_, Scoring::PaperText) => format!("paper-text, T = {}", scorer.draws),
        (_, Scoring::PaperCode) => format!("paper-code, T = {}", scorer.draws),
    }
}

fn mean(answers: &[Answer]) -> f64 {
    answers.iter().map(|answer| answer.draws as f64).sum::<f64>() / answers.len().max(1) as f64
}

fn sample(evaluation: &Evaluation, answer: &Answer) -> Json {
    let sha256 = |text: &str| bytes_sha256(text.as_bytes());
    let prompt = answer.given.first().cloned().unwrap_or_default();
    let choice = evaluation.task.kind == Kind::Choice;
    let target = match answer.gold {
        Some(gold) => gold.to_string(),
        None => answer.candidates.first().cloned().unwrap_or_default(),
    };
    let mut arguments = Map::new();
    let followers: Vec<&String> = if choice { answer.candidates.iter().collect() } else { Vec::new() };
    for (number, follower) in followers.iter().enumerate() {
        let given = answer.given.get(number).or(answer.given.first()).cloned().unwrap_or_default();
        arguments.insert(format!("gen_args_{number}"), json!({"arg_0": given, "arg_1": follower}));
    }
    if arguments.is_empty() {
        arguments.insert("gen_args_0".into(), json!({"arg_0": prompt, "arg_1": {}}));
    }
    // As lm-evaluation-harness, a log-likelihood and whether it is the greedy text, which nobody asked.
    let values: Vec<Json> = answer.values.iter().map(|value| json!([(-value).to_string(), "False"])).collect();
    let (responses, filtered): (Vec<Json>, Vec<Json>) = if answer.texts.is_empty() {
        (values.iter().map(|value| json!([value])).collect(), values)
    } else {
        let texts: Vec<Json> = answer.texts.values().map(|text| json!(text)).collect();
        (texts.iter().map(|text| json!([text])).collect(), texts)
    };
    let metrics: Vec<&str> = answer.metrics.keys().map(|name| name.split(',').next().unwrap_or_default()).collect();
    let mut line = json!({
        "doc_id": answer.question,
        "doc": answer.row_json(),
        "target": target,
        "arguments": arguments,
        "resps": responses,
        "filtered_resps": filtered,
        "filter": "none",
        "metrics": metrics,
        "doc_hash": sha256(&answer.row),
        "prompt_hash": sha256(&prompt),
        "target_hash": sha256(&target),
        "difflow": {
            "scoring": scoring(evaluation),
            "draws": answer.draws,
            "stderr": answer.errors.iter().map(|error| json!(error)).collect::<Vec<_>>(),
            "tokens": answer.tokens,
            "texts": answer.texts,
            "forwards": answer.forwards,
            "chosen": answer.chosen,
        },
    });
    for (name, value) in &answer.metrics {
        let (metric, filter) = name.split_once(',').unwrap_or((name, "none"));
        // A viewer reads the plain name; where texts were told their length in two ways, the first.
        if line.get(metric).is_none() {
            line[metric] = json!(value);
        }
        if filter != "none" {
            line[name] = json!(value);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_folders_as_lm_evaluation_harness_makes_them() {
        assert_eq!(sanitised("runs/default"), "runs__default");
        assert_eq!(sanitised("a://b[1]"), "a__b__1__");
        assert_eq!(sanitised("/x"), "__x");
    }
}
