//! `difflow sample` as a person calls it: a small model with random weights, and the cases at the edges.
#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use difflow_inference::tiny;
use serde_json::{Value, json};
use tempfile::TempDir;

/// `model` (rotary), `learned` (a table of positions) and `base` (no mask token), each with a tokenizer of one token a letter.
fn files() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    tiny::write_model(&dir.path().join("model"), true, 0.3);
    tiny::write_model(&dir.path().join("base"), false, 0.3);
    tiny::write_model_with_learned_positions(&dir.path().join("learned"));
    dir
}

fn sample(checkpoint: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_difflow"));
    command.arg("sample").arg("--checkpoint").arg(checkpoint).args(["--device", "cpu", "--threads", "1"]);
    command.args(arguments).output().unwrap()
}

/// The texts of a call that has to succeed, as JSON, and what it says on stderr.
fn texts(checkpoint: &Path, arguments: &[&str]) -> (Vec<Value>, String) {
    let output = sample(checkpoint, &[arguments, &["--json"]].concat());
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{arguments:?}: {stderr}");
    let stdout = String::from_utf8(output.stdout).unwrap();
    (stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect(), stderr)
}

fn text(checkpoint: &Path, arguments: &[&str]) -> Value {
    texts(checkpoint, arguments).0.remove(0)
}

fn ids(text: &Value) -> usize {
    text["ids"].as_array().unwrap().len()
}

#[test]
fn an_empty_prompt_is_text_from_nothing() {
    let dir = files();
    let model = dir.path().join("model");
    let nothing = text(&model, &["--length", "9"]);
    assert_eq!(nothing["ids"], text(&model, &["--length", "9", "--prompt", ""])["ids"]);
    assert!((2..=10).contains(&ids(&nothing)), "{nothing}");
    assert!(nothing["nfe"].as_u64().unwrap() >= 1 && nothing["seconds"].as_f64().unwrap() > 0.0);
}

/// A model that ends its texts by itself needs no length: its canvas is what it was trained with, and what is given counts.
#[test]
fn the_canvas_of_an_open_ended_model_is_the_default_length() {
    let dir = files();
    let model = dir.path().join("model");
    tiny::write_origin(&model, None, |origin| origin.canvas = Some(13));
    for number in 0..6 {
        let seed = number.to_string();
        let one = text(&model, &["--seed", &seed]);
        assert!(ids(&one) <= 13 && (ids(&one) == 13 || one["stopped"] == true), "{one}");
        assert!(ids(&text(&model, &["--seed", &seed, "--prompt", "abc"])) <= 13);
        assert!(ids(&text(&model, &["--seed", &seed, "--length", "30"])) <= 31);
    }
    let longest = (0..6).map(|seed| ids(&text(&model, &["--seed", &seed.to_string(), "--length", "30"]))).max();
    assert!(longest > Some(13), "{longest:?}");
}

#[test]
fn a_prompt_beyond_the_context_is_warned_about_or_refused() {
    let dir = files();
    let long = "a long prompt ".repeat(6);
    let (texts, stderr) = texts(&dir.path().join("model"), &["--length", "4", "--prompt", &long]);
    assert!(stderr.contains("warning") && stderr.contains("at most 64"), "{stderr}");
    assert!(texts[0]["text"].as_str().unwrap().starts_with(&long));
    let refused = sample(&dir.path().join("learned"), &["--length", "4", "--prompt", &long]);
    let stderr = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr.contains("at most 64"), "{stderr}");
}

#[test]
fn gaps_may_be_anywhere_or_nowhere() {
    let dir = files();
    let model = dir.path().join("model");
    let (none, stderr) = texts(&model, &["--infill", "no gap"]);
    assert_eq!((&none[0]["text"], none[0]["nfe"].as_u64()), (&json!("no gap"), Some(0)));
    assert!(stderr.contains("no gap"), "{stderr}");
    for (infill, tokens, gaps) in
        [("[MASK:3]", 4, 1), ("[MASK:3][MASK:2]", 6, 1), ("[MASK:2] end", 8, 1), ("ab [MASK:2] cd [MASK:1] ef", 13, 2)]
    {
        let one = text(&model, &["--infill", infill]);
        // A free end may stop early; a gap between given texts has the length that was asked for.
        if infill.ends_with(']') {
            assert!(ids(&one) <= tokens, "{one}")
        } else {
            assert_eq!(ids(&one), tokens, "{one}")
        }
        assert_eq!(one["filled"].as_array().unwrap().len(), gaps, "{one}");
    }
    let one = text(&model, &["--infill", "ab [MASK:2] cd [MASK:1] ef"]);
    let whole = one["text"].as_str().unwrap();
    assert!(whole.starts_with("ab") && whole.contains(" cd") && whole.ends_with(" ef"), "{whole}");
}

#[test]
fn an_unknown_length_is_searched_or_open_at_the_end() {
    let dir = files();
    let model = dir.path().join("model");
    let one = text(&model, &["--infill", "ab [MASK] cd", "--gap-length", "2..4"]);
    let length = ids(&one) - "_ab cd_".len();
    assert!((2..=4).contains(&length), "{one}");
    let end = text(&model, &["--infill", "ab [MASK]", "--length", "6"]);
    assert!((4..=9).contains(&ids(&end)), "{end}");
    assert!(end["nfe"].as_u64().unwrap() <= 6);
}

#[test]
fn letters_and_tokens_that_the_model_does_not_have_are_named() {
    let dir = files();
    let (_, stderr) = texts(&dir.path().join("model"), &["--prompt", "caf\u{e9}", "--length", "2"]);
    assert!(stderr.contains("caf\u{e9}") && stderr.contains("caf?"), "{stderr}");
    let large = dir.path().join("large.json");
    let mut more = tiny::tokenizer();
    more["model"]["vocab"]["zz"] = 99.into();
    std::fs::write(&large, more.to_string()).unwrap();
    let refused = sample(&dir.path().join("model"), &["--tokenizer", large.to_str().unwrap()]);
    let stderr = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success() && stderr.contains("ids go up to 99"), "{stderr}");
}

#[test]
fn steps_and_thresholds_at_their_ends() {
    let dir = files();
    let model = dir.path().join("model");
    let nfe = |arguments: &[&str]| {
        text(&model, &[&["--infill", "a [MASK:6] b"], arguments].concat())["nfe"].as_u64().unwrap()
    };
    for decoder in ["random", "confidence", "greedy"] {
        assert_eq!(nfe(&["--decoder", decoder, "--steps", "1"]), 1, "{decoder}");
        assert!(nfe(&["--decoder", decoder, "--steps", "500"]) <= 6, "{decoder}");
    }
    assert_eq!(nfe(&["--decoder", "threshold", "--threshold", "0"]), 1);
    assert_eq!(nfe(&["--decoder", "threshold", "--threshold", "1"]), 6);
    assert_eq!(nfe(&["--decoder", "first-hitting"]), 6);
    assert_eq!(nfe(&["--decoder", "first-hitting", "--guidance", "0.5"]), 12);
}

/// Prompts of different lengths, in one batch or one by one, more or fewer texts of each: always the same texts.
#[test]
fn a_text_does_not_depend_on_what_is_written_beside_it() {
    let dir = files();
    let lines = [
        "{\"prompt\": \"a cat\"}",
        "{\"prompt\": \"\"}",
        "{\"infill\": \"x [MASK:3] y\"}",
        "{\"left\": \"one\", \"right\": \" two\", \"answer\": \"ignored\"}",
        "{\"prompt\": \"a much longer prompt.\"}",
    ];
    let path = dir.path().join("prompts.jsonl");
    std::fs::write(&path, lines.join("\n")).unwrap();
    let path = path.to_str().unwrap();
    for decoder in ["random", "threshold"] {
        let run = |more: &[&str]| {
            let arguments =
                [&["--prompts", path, "--length", "5..9", "--decoder", decoder, "--seed", "4"], more].concat();
            let (texts, _) = texts(&dir.path().join("model"), &arguments);
            texts
                .iter()
                .map(|text| (text["prompt_number"].clone(), text["number"].clone(), text["ids"].clone()))
                .collect::<Vec<_>>()
        };
        let together = run(&["-n", "2", "--batch", "16"]);
        assert_eq!(together.len(), 10);
        assert_eq!(together, run(&["-n", "2", "--batch", "1"]));
        let first: Vec<_> = together.iter().filter(|text| text.1 == 0).cloned().collect();
        assert_eq!(first, run(&["-n", "1", "--batch", "3"]));
    }
    std::fs::write(path, "{\"prompt\": \"a\"}\n{\"promt\": \"b\"}\n").unwrap();
    let refused = sample(&dir.path().join("model"), &["--prompts", path]);
    assert!(String::from_utf8(refused.stderr).unwrap().contains("line 2"));
}

#[test]
fn a_base_model_writes_from_left_to_right_and_fills_nothing() {
    let dir = files();
    let base = dir.path().join("base");
    let one = text(&base, &["--prompt", "abc", "--length", "5"]);
    assert!(one["text"].as_str().unwrap().starts_with("abc") && ids(&one) <= 9, "{one}");
    for (arguments, wanted) in [
        (&["--decoder", "random"][..], "base model"),
        (&["--infill", "a [MASK:2] b"][..], "left to right"),
        (&["--watch"][..], "--watch"),
    ] {
        let refused = sample(&base, arguments);
        let stderr = String::from_utf8(refused.stderr).unwrap();
        assert!(!refused.status.success() && stderr.contains(wanted), "{arguments:?}: {stderr}");
    }
}

#[test]
fn the_history_and_the_frames_show_the_same_course() {
    let dir = files();
    let model = dir.path().join("model");
    let arguments = ["--infill", "ab [MASK:5] cd", "--decoder", "confidence", "--steps", "3"];
    let one = text(&model, &[&arguments[..], &["--history"]].concat());
    let history = one["history"].as_array().unwrap();
    assert_eq!(history.len(), 5);
    let last = history.iter().map(|reveal| reveal["step"].as_u64().unwrap()).max();
    assert_eq!((last, one["nfe"].as_u64()), (Some(2), Some(3)));
    let output = sample(&model, &[&arguments[..], &["--watch"]].concat());
    let stdout = String::from_utf8(output.stdout).unwrap();
    let masked: Vec<usize> = stdout.lines().map(|line| line.matches('░').count()).collect();
    // Three frames of a line each, then the text, which may have several.
    assert_eq!(masked[..3], [3, 1, 0], "{stdout}");
    assert!(stdout.trim_end_matches('\n').ends_with(one["text"].as_str().unwrap().trim_end_matches('\n')), "{stdout}");
}

/// A checker that is not there is said before an hour of measuring.
#[test]
fn a_checker_that_is_no_program_is_refused() {
    let dir = files();
    let refused = sample(&dir.path().join("model"), &["--measure", "--checker", "no-such-checker --strict"]);
    let stderr = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr.contains("--checker") && stderr.contains("no-such-checker"), "{stderr}");
}

#[test]
fn measuring_prints_a_row_for_every_way_and_draws_them() {
    let dir = files();
    let gaps = dir.path().join("gaps.jsonl");
    std::fs::write(&gaps, "{\"id\":7,\"left\":\"ab\\nab. ab\",\"answer\":\" c\",\"right\":\"d.\"}\n").unwrap();
    let checker = dir.path().join("checker");
    std::fs::write(&checker, "#!/bin/sh\nexec sed 's/.*/no story/'\n").unwrap();
    std::fs::set_permissions(&checker, PermissionsExt::from_mode(0o755)).unwrap();
    let (picture, judge) = (dir.path().join("curves.svg"), dir.path().join("base"));
    let (rows, _) = texts(
        &dir.path().join("model"),
        &[
            "--measure",
            "-n",
            "3",
            "--length",
            "6..10",
            "--checker",
            checker.to_str().unwrap(),
            "--judge",
            judge.to_str().unwrap(),
            "--gaps",
            gaps.to_str().unwrap(),
            "--picture",
            picture.to_str().unwrap(),
        ],
    );
    let families: std::collections::BTreeSet<&str> = rows.iter().map(|row| row["family"].as_str().unwrap()).collect();
    for family in ["AR base", "random", "first-hitting", "probability", "margin", "entropy", "threshold"] {
        assert!(families.contains(family), "{family} not in {families:?}");
    }
    for row in &rows {
        assert!(row["nfe"].as_f64().unwrap() >= 1.0 && row["tokens_per_s"].as_f64().unwrap() > 0.0, "{row}");
        assert!(row["perplexity"].as_f64().unwrap() > 1.0 && row["pass_rate"] == 0.0, "{row}");
        assert!((0.0..=1.0).contains(&row["infill_exact_match"].as_f64().unwrap()), "{row}");
        // The second sentence was hidden; from left to right none can be.
        assert_eq!(row["completed_nfe"].as_f64().is_some_and(|nfe| nfe >= 1.0), row["family"] != "AR base", "{row}");
        assert_eq!(row["completed_pass_rate"].as_f64(), (row["family"] != "AR base").then_some(0.0), "{row}");
    }
    assert!(std::fs::read_to_string(picture).unwrap().contains("<svg"));
}

/// `model`, marked as one of block diffusion, with what it says of decoding.
fn block_model(dir: &TempDir, generation: &Value) -> std::path::PathBuf {
    let model = dir.path().join("model");
    let path = model.join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config["difflow"]["objective"] = json!("block");
    config["difflow"]["shift"] = json!(false);
    config["difflow"]["block"] = json!({"size": 4, "context": "causal", "ar_weight": 0.5});
    std::fs::write(path, config.to_string()).unwrap();
    std::fs::write(model.join("generation_config.json"), generation.to_string()).unwrap();
    model
}

#[test]
fn a_checkpoint_is_decoded_as_it_says_unless_an_option_says_otherwise() {
    let dir = files();
    let says = json!({"eos_token_id": 2, "difflow": {"DECODER": "ar", "TEMPERATURE": 0.0}});
    let model = block_model(&dir, &says);
    let own = text(&model, &["--seed", "3"]);
    // From left to right a token a forward, greedily, and up to the length of training.
    assert_eq!(own["nfe"].as_u64().unwrap() as usize, ids(&own) - 1);
    assert!(own["stopped"] == json!(true) || ids(&own) == 64, "{own}");
    assert_eq!(own["ids"], text(&model, &["--seed", "4"])["ids"]);
    // One option changes, the others stay: drafts write the same greedy text.
    let drafts = text(&model, &["--decoder", "speculative"]);
    assert_eq!(own["ids"], drafts["ids"]);
    // An option counts even where it is the default's.
    let drawn = |seed| text(&model, &["--temperature", "0.95", "--top-p", "1", "--seed", seed])["ids"].clone();
    assert_ne!(drawn("3"), drawn("4"));
    let model = block_model(&dir, &json!({"difflow": {"DECODR": "ar"}}));
    let refused = sample(&model, &[]);
    let stderr = String::from_utf8(refused.stderr).unwrap();
    assert!(
        !refused.status.success() && stderr.contains("generation_config.json") && stderr.contains("DECODR"),
        "{stderr}"
    );
}

#[test]
fn blocks_and_drafts_can_be_watched_and_gaps_say_why_not() {
    let dir = files();
    let model = block_model(&dir, &json!({}));
    let shown = |arguments: &[&str]| {
        let output = sample(&model, &[&["--watch", "--length", "20"], arguments].concat());
        let (stdout, stderr) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        assert!(output.status.success(), "{stderr}");
        stdout
    };
    let drafts = shown(&["--decoder", "speculative"]);
    assert!(drafts.contains("⟨?") && drafts.contains("⟨✗"), "{drafts}");
    // No more than a block is open.
    let blocks = shown(&["--decoder", "threshold"]);
    assert!(blocks.contains('░') && !blocks.contains("░░░░░"), "{blocks}");
    let other = sample(&model, &["--block", "8", "--length", "9"]);
    assert!(String::from_utf8(other.stderr).unwrap().contains("trained with blocks of 4"));
    let refused = sample(&model, &["--infill", "ab [MASK:2] cd"]);
    let stderr = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success() && stderr.contains("whole rows"), "{stderr}");
}
