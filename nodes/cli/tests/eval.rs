//! `difflow eval` as a person calls it, on small models with random weights.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use difflow_inference::tiny;
use difflow_tests::Random;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Two models, `model` (diffusion) and `base`, and a folder `tasks` with a choice of letters.
fn files() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    tiny::write_model(&dir.path().join("model"), true, 0.5);
    tiny::write_model(&dir.path().join("base"), false, 0.5);
    let tasks = dir.path().join("tasks");
    std::fs::create_dir_all(tasks.join("suites")).unwrap();
    let rows: String = (0..90)
        .map(|n| {
            let letter = |at: usize| char::from(b'a' + ((n * 7 + at * 11) % 26) as u8);
            let word = |from: usize| (from..from + 4).map(letter).collect::<String>();
            format!("{}\n", json!({"q": word(0), "c": [word(5), word(9)], "g": n % 2}))
        })
        .collect();
    std::fs::write(tasks.join("rows.jsonl"), rows).unwrap();
    let yaml = "about: Letters.\nkind: choice\nsource: {path: rows.jsonl}\ncontext: '{{ q }}'\nchoices: c\ngold: g\nmetrics: [acc, acc_norm]\ndraws: 4\n";
    std::fs::write(tasks.join("letters.yml"), yaml).unwrap();
    std::fs::write(tasks.join("suites/all.yml"), "about: Everything.\ntasks: [letters]\n").unwrap();
    dir
}

fn eval(dir: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_difflow"));
    command.arg("eval").args(arguments).current_dir(dir).output().unwrap()
}

fn evaluated(dir: &Path, model: &str, out: &str, more: &[&str]) -> Output {
    let own = ["--task-folder", "tasks", "--checkpoint", model, "--out", out, "--device", "cpu", "--threads", "1"];
    eval(dir, &[&own[..], more].concat())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The file of a folder whose name begins so.
fn named(folder: &Path, start: &str) -> PathBuf {
    let mut all = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    all.find(|path| path.file_name().unwrap().to_str().unwrap().starts_with(start)).unwrap()
}

#[test]
fn results_are_in_the_layout_of_lm_evaluation_harness() {
    let dir = files();
    let output = evaluated(dir.path(), "model", "out", &["--suite", "all"]);
    let stdout = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(stdout.contains("acc_norm") && stdout.contains("llada-mc, 4 draws"), "{stdout}");
    let folder = dir.path().join("out/model");
    let results: Value = serde_json::from_slice(&std::fs::read(named(&folder, "results_")).unwrap()).unwrap();
    let letters = &results["results"]["letters"];
    let (acc, stderr) = (letters["acc,none"].as_f64().unwrap(), letters["acc_stderr,none"].as_f64().unwrap());
    assert!((0.0..=1.0).contains(&acc) && stderr > 0.0 && letters["sample_len"] == 90, "{letters}");
    for key in [
        "groups",
        "configs",
        "versions",
        "n-shot",
        "higher_is_better",
        "n-samples",
        "config",
        "task_hashes",
        "model_name_sanitized",
    ] {
        assert!(results.get(key).is_some(), "{key}");
    }
    assert!(results["total_evaluation_time_seconds"].is_string());
    let lines = std::fs::read_to_string(named(&folder, "samples_letters_")).unwrap();
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let right = lines.iter().filter(|line| line["acc"] == 1.0).count();
    assert_eq!(lines.len(), 90);
    assert!((right as f64 / 90.0 - acc).abs() < 1e-9);
    let first = &lines[0];
    assert_eq!((first["doc_id"].as_u64(), first["target"].as_str()), (Some(0), Some("0")));
    assert_eq!(first["arguments"]["gen_args_1"]["arg_1"], first["doc"]["c"][1]);
    assert_eq!(first["resps"][0][0][0].as_str().unwrap().parse::<f64>().unwrap(), {
        let kept = first["filtered_resps"][0][0].as_str().unwrap();
        kept.parse::<f64>().unwrap()
    });
    assert_eq!(first["doc_hash"].as_str().unwrap().len(), 64);
    assert_eq!(first["difflow"]["stderr"].as_array().unwrap().len(), 2);
}

/// The files in an evaluation's folders of answers, with their bytes.
fn answers(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    let folders = std::fs::read_dir(folder.join("answers")).into_iter().flatten().map(|entry| entry.unwrap().path());
    for path in folders.flat_map(|folder| std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path())) {
        let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
        // A file that is just being written is gone again before it can be read.
        all.extend(std::fs::read(&path).ok().map(|bytes| (name, bytes)));
    }
    all
}

/// SIGKILL while it starts, while it measures and right after a file was written, until it is done: the bytes of an evaluation that was
/// left alone. The results differ in nothing but when it was and how long it took.
#[test]
fn an_evaluation_that_is_killed_goes_on_to_the_same_bytes() {
    let dir = files();
    let rows = std::fs::read_to_string(dir.path().join("tasks/rows.jsonl")).unwrap();
    std::fs::write(dir.path().join("tasks/rows.jsonl"), rows.repeat(6)).unwrap();
    let more = ["--suite", "all", "--draws", "16"];
    assert!(evaluated(dir.path(), "model", "whole", &more).status.success());
    let (whole, killed) = (dir.path().join("whole/model"), dir.path().join("killed/model"));
    let parts = |folder: &Path| answers(folder).keys().filter(|name| name.ends_with(".parquet")).count();
    let (mut random, mut kills, mut between) = (Random::new(15), 0, 0);
    loop {
        let own =
            ["--task-folder", "tasks", "--checkpoint", "model", "--out", "killed", "--device", "cpu", "--threads", "1"];
        let mut command = Command::new(env!("CARGO_BIN_EXE_difflow"));
        command.arg("eval").args(own).args(more).current_dir(dir.path()).stdout(Stdio::null()).stderr(Stdio::null());
        let (mut child, before) = (command.spawn().unwrap(), parts(&killed));
        // The first ones die wherever they are, the others when they have written a file, every second of them at once.
        while kills > 2 && child.try_wait().unwrap().is_none() && parts(&killed) == before {
            thread::sleep(Duration::from_millis(1));
        }
        if kills % 2 == 0 {
            thread::sleep(Duration::from_millis(random.below(80) as u64));
        }
        if child.try_wait().unwrap().is_some() {
            break;
        }
        // The standard library's name for SIGKILL.
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
        between += usize::from((1..parts(&whole)).contains(&parts(&killed)));
    }
    assert!(kills > 3 && between > 0, "killed {kills} times, {between} of them between two files");
    assert!(evaluated(dir.path(), "model", "killed", &more).status.success());
    assert_eq!(answers(&whole), answers(&killed));
    let samples = |folder: &Path| std::fs::read(named(folder, "samples_letters_")).unwrap();
    assert_eq!(samples(&whole), samples(&killed));
    let results = |folder: &Path| {
        let mut results: Value = serde_json::from_slice(&std::fs::read(named(folder, "results_")).unwrap()).unwrap();
        for key in ["date", "total_evaluation_time_seconds"] {
            assert!(results.as_object_mut().unwrap().remove(key).is_some(), "{key}");
        }
        results
    };
    assert_eq!(results(&whole), results(&killed));
}

/// The same weights do not differ from themselves, other weights do, and only common questions count.
#[test]
fn two_evaluations_are_compared_question_by_question() {
    let dir = files();
    for (model, out) in [("model", "out"), ("base", "out")] {
        assert!(evaluated(dir.path(), model, out, &["--tasks", "letters"]).status.success());
    }
    assert!(evaluated(dir.path(), "model", "again", &["--tasks", "letters", "--limit", "70"]).status.success());
    let diff = |a: &str, b: &str| -> Vec<Value> {
        let output = eval(dir.path(), &["diff", a, b, "--json"]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let same = diff("out/model", "again/model");
    assert!(same.iter().all(|one| one["questions"] == 70 && one["difference"] == 0.0 && one["p"] == 1.0), "{same:?}");
    let other = diff("out/model", "out/base");
    let acc = other.iter().find(|one| one["metric"] == "acc,none").unwrap();
    let (a, b) = (acc["only_a"].as_f64().unwrap(), acc["only_b"].as_f64().unwrap());
    assert!(a + b > 0.0 && ((b - a) / 90.0 - acc["difference"].as_f64().unwrap()).abs() < 1e-9, "{acc}");
    let shown = text(&eval(dir.path(), &["diff", "out/model", "out/base"]).stdout);
    assert!(shown.contains("McNemar") && shown.contains("letters"), "{shown}");
    let nothing = eval(dir.path(), &["diff", "out", "out/base"]);
    assert!(text(&nothing.stderr).contains("results_*.json") && nothing.status.code() == Some(1));
}

#[test]
fn what_is_wrong_with_a_task_is_exit_code_78_and_nothing_is_written() {
    let dir = files();
    let (rows, task) = (dir.path().join("tasks/rows.jsonl"), dir.path().join("tasks/letters.yml"));
    let (good_rows, good_task) = (std::fs::read_to_string(&rows).unwrap(), std::fs::read_to_string(&task).unwrap());
    let long = "x".repeat(70);
    let add = |row: Value| format!("{good_rows}{row}\n");
    for (rows_text, task_text, part) in [
        (good_rows.clone(), good_task.replace("kind: choice", "kind: chioce"), "chioce"),
        (good_rows.clone(), good_task.replace("{{ q }}", "{{ quest }}"), "column `quest`"),
        (add(json!({"q": "a", "c": ["b", "c"], "g": 2})), good_task.clone(), "question 90: found gold 2"),
        (add(json!({"q": "a", "c": ["b", ""], "g": 0})), good_task.clone(), "question 90: found an empty candidate"),
        (add(json!({"q": "a", "c": ["b", long], "g": 0})), good_task.clone(), "a candidate of 70 tokens"),
    ] {
        std::fs::write(&rows, rows_text).unwrap();
        std::fs::write(&task, task_text).unwrap();
        let output = evaluated(dir.path(), "model", "out", &["--tasks", "letters"]);
        let stderr = text(&output.stderr);
        assert!(output.status.code() == Some(78) && stderr.contains(part), "{part} not in {stderr}");
        assert!(!dir.path().join("out").exists(), "{part}");
    }
    let unknown = evaluated(dir.path(), "model", "out", &["--tasks", "nothing"]);
    std::fs::write(&rows, good_rows).unwrap();
    std::fs::write(&task, good_task).unwrap();
    assert_eq!(unknown.status.code(), Some(78));
    let unfit = evaluated(dir.path(), "base", "out", &["--tasks", "letters", "--scoring", "llada-mc"]);
    assert!(unfit.status.code() == Some(78) && text(&unfit.stderr).contains("exact"), "{}", text(&unfit.stderr));
    let listed = text(&eval(dir.path(), &["--list", "--task-folder", "tasks"]).stdout);
    assert!(listed.contains("letters (choice: acc, acc_norm)") && listed.contains("--suite all: letters"), "{listed}");
}
