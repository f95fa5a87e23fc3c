#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use difflow_inference::tiny;
use difflow_tests::real_data;

use super::*;

/// 150 questions of letters with three candidates, and a task file beside them.
fn choice(dir: &Path, extra: &str) -> Task {
    let word = |key: usize, length: usize| -> String {
        (0..length).map(|at| char::from(b'a' + ((key * 7 + at * 5 + key * at) % 26) as u8)).collect()
    };
    let rows: String = (0..150)
        .map(|n| {
            let candidates: Vec<String> = (0..3).map(|c| word(n * 3 + c, 2 + (n + c) % 4)).collect();
            format!("{}\n", json!({"q": word(n, 6 + n % 5), "c": candidates, "g": n % 3}))
        })
        .collect();
    std::fs::write(dir.join("rows.jsonl"), rows).unwrap();
    task(dir, &format!("kind: choice\ncontext: '{{{{ q }}}}'\nchoices: c\ngold: g\nmetrics: [acc, acc_norm]\n{extra}"))
}

fn task(dir: &Path, yaml: &str) -> Task {
    let path = dir.join("mine.yml");
    std::fs::write(&path, format!("about: a\nsource: {{path: rows.jsonl}}\n{yaml}")).unwrap();
    Task::read(&path).unwrap()
}

fn options() -> Options {
    Options { draws: Some(8), batch_tokens: 2000, rows: 4, ..Options::default() }
}

fn run(task: &Task, session: &Session, options: &Options, folder: Option<&Path>) -> Outcome {
    Evaluation::prepare(task, session, options).unwrap().run(folder, "weights", &mut |_| Ok(())).unwrap()
}

/// Every file below a folder, with its bytes.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            all.extend(
                files(&path)
                    .into_iter()
                    .map(|(name, bytes)| (path.file_name().unwrap().into(), name, bytes))
                    .map(|(folder, name, bytes): (PathBuf, PathBuf, Vec<u8>)| (folder.join(name), bytes)),
            );
        } else {
            all.insert(path.file_name().unwrap().into(), std::fs::read(&path).unwrap());
        }
    }
    all
}

/// The source is no part of the settings, which name the folder: answers to its old rows are none to the new ones.
#[test]
fn answers_to_other_rows_are_not_taken() {
    let dir = tempfile::tempdir().unwrap();
    let task = choice(dir.path(), "");
    let session = tiny::session(true, 0.3);
    let (kept, fresh) = (dir.path().join("kept"), dir.path().join("fresh"));
    let before = run(&task, &session, &options(), Some(&kept));
    let rows = dir.path().join("rows.jsonl");
    let text = std::fs::read_to_string(&rows).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    lines.swap(3, 70);
    std::fs::write(&rows, lines.join("\n")).unwrap();
    let (again, wanted) =
        (run(&task, &session, &options(), Some(&kept)), run(&task, &session, &options(), Some(&fresh)));
    assert_eq!(again.answers, wanted.answers);
    assert_ne!(again.answers[3].values, before.answers[3].values);
    assert_eq!(again.answers[149], before.answers[149]);
}

/// Stopped after a few batches, again and again, and gone on with: the bytes of a run that was never stopped.
#[test]
fn a_run_that_was_stopped_goes_on_and_gives_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let (task, session) = (choice(dir.path(), ""), tiny::session(true, 0.3));
    let (whole, stopped) = (dir.path().join("whole"), dir.path().join("stopped"));
    let wanted = run(&task, &session, &options(), Some(&whole));
    let evaluation = Evaluation::prepare(&task, &session, &options()).unwrap();
    let (mut runs, mut allowed) = (0, 3);
    let found = loop {
        let mut batches = 0;
        let result = evaluation.run(Some(&stopped), "weights", &mut |_| {
            batches += 1;
            if batches > allowed { Err(EvalError::Stopped) } else { Ok(()) }
        });
        runs += 1;
        allowed += 2;
        if let Ok(found) = result {
            break found;
        }
    };
    assert!(runs > 3, "{runs}");
    assert_eq!(files(&whole), files(&stopped));
    assert_eq!((found.figures, &found.answers), (wanted.figures.clone(), &wanted.answers));
    // A second time nothing is computed.
    let mut before = 0;
    evaluation
        .run(Some(&whole), "weights", &mut |done| {
            before = done.before;
            Ok(())
        })
        .unwrap();
    assert_eq!(before, 150);
    // Other weights are asked anew.
    evaluation
        .run(Some(&whole), "other", &mut |done| {
            before = done.before;
            Ok(())
        })
        .unwrap();
    assert_eq!(before, 0);
}

/// Of the first questions the answers are the same, and they are taken over where they are there.
#[test]
fn fewer_questions_first_change_no_answer() {
    let dir = tempfile::tempdir().unwrap();
    let (task, session) = (choice(dir.path(), ""), tiny::session(true, 0.3));
    let folder = dir.path().join("out");
    let few = run(&task, &session, &Options { limit: Some(70), ..options() }, Some(&folder));
    let all = run(&task, &session, &options(), Some(&folder));
    assert_eq!((few.answers.len(), all.answers.len()), (70, 150));
    for (few, all) in few.answers.iter().zip(&all.answers) {
        let near = few.values.iter().zip(&all.values).all(|(a, b)| (a - b).abs() < 1e-4);
        assert!(near && few.question == all.question && few.row == all.row);
    }
    assert_eq!(few.answers[..64], all.answers[..64]);
    let fewer = run(&task, &session, &Options { limit: Some(70), ..options() }, Some(&folder));
    assert_eq!(fewer.answers, all.answers[..70]);
}

/// A sequential test takes fewer draws, and where it stopped early the choice is mostly that of all draws.
#[test]
fn more_draws_only_where_the_answer_is_open() {
    let dir = tempfile::tempdir().unwrap();
    let (task, session) = (choice(dir.path(), ""), tiny::session(true, 0.8));
    let options = Options { draws: Some(128), limit: Some(60), ..options() };
    let all = run(&task, &session, &options, None);
    let some = run(&task, &session, &Options { sequential: Some(4.0), ..options }, None);
    let draws: BTreeSet<u64> = some.answers.iter().map(|answer| answer.draws).collect();
    assert!(draws.iter().all(|draws| [8, 16, 32, 64, 128].contains(draws)), "{draws:?}");
    assert!(some.answers.iter().map(|answer| answer.draws).sum::<u64>() < 60 * 128, "{draws:?}");
    let same = all.answers.iter().zip(&some.answers).filter(|(a, b)| a.chosen == b.chosen).count();
    assert!(same >= 57, "{same} of 60");
    for (all, some) in all.answers.iter().zip(&some.answers).filter(|(_, some)| some.draws == 128) {
        assert!(all.values.iter().zip(&some.values).all(|(a, b)| (a - b).abs() < 1e-4), "the draws are the same ones");
    }
}

#[test]
fn what_the_model_cannot_be_asked_is_said_before_anything_is_computed() {
    let dir = tempfile::tempdir().unwrap();
    let task = choice(dir.path(), "");
    for (session, scoring, part) in
        [(tiny::session(true, 0.3), Scoring::Exact, "llada-mc"), (tiny::session(false, 0.3), Scoring::LladaMc, "exact")]
    {
        let error =
            Evaluation::prepare(&task, &session, &Options { scoring: Some(scoring), ..options() }).err().unwrap();
        assert!(error.is_configuration() && error.to_string().contains(part), "{error}");
    }
    let code = "kind: generate\ncontext: q\nanswer: q\nprogram: '{{ text }}'\nmetrics: [pass_at_1]\n";
    let code = self::task(dir.path(), code);
    let error = Evaluation::prepare(&code, &tiny::session(true, 0.3), &options()).err().unwrap().to_string();
    assert!(error.contains("--allow-code-execution"), "{error}");
}

/// Texts with a length that is told and one that is not, side by side; a model that is right has them all.
#[test]
fn texts_are_written_with_and_without_their_length_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let session = tiny::session(true, 0.3);
    choice(dir.path(), "");
    let yaml = "kind: gap\nfirst: 6\ncontext: '{{ q }}'\nright: '{{ c[0] }}'\nanswer: '{{ c[1] }}'\nlength: 1..3\nmetrics: [exact_match, rouge]\n";
    let task = self::task(dir.path(), yaml);
    let found = run(&task, &session, &options(), None);
    for answer in &found.answers {
        assert_eq!(answer.texts.keys().collect::<Vec<_>>(), ["oracle", "unknown"]);
        assert!(answer.texts.values().all(|text| !text.is_empty()) && answer.forwards > 0, "{answer:?}");
    }
    let names: Vec<&str> = found.figures.keys().map(String::as_str).collect();
    let wanted =
        ["exact_match", "rouge1", "rouge2", "rougeL"].map(|name| [format!("{name},oracle"), format!("{name},unknown")]);
    assert_eq!(names, wanted.as_flattened());
    // Answers that are what the model writes are right. A text with the name of a special token has more letters than tokens.
    let plain = found.answers.iter().filter(|answer| answer.texts["oracle"].chars().count() as u64 == answer.tokens[0]);
    let own = |answer: &Answer| {
        let mut row = answer.row_json();
        row["c"][1] = answer.texts["oracle"].clone().into();
        format!("{row}\n")
    };
    let rows: String = plain.map(own).collect();
    assert!(!rows.is_empty());
    std::fs::write(dir.path().join("rows.jsonl"), rows).unwrap();
    let found = run(&task, &session, &options(), None);
    assert_eq!(found.figures["exact_match,oracle"].value, 1.0);
}

/// A base model continues a text until it ends, greedily; what is behind `until` does not count.
#[test]
fn a_base_model_continues_and_a_text_ends_where_it_should() {
    let dir = tempfile::tempdir().unwrap();
    choice(dir.path(), "");
    let session = tiny::session(false, 0.3);
    let yaml =
        "kind: generate\nfirst: 5\ncontext: '{{ q }}'\nanswer: '{{ c[0] }}'\nlength: 1..9\nmetrics: [contains]\n";
    let free = run(&self::task(dir.path(), yaml), &session, &options(), None);
    // A text with two different letters ends before the second.
    let two = |answer: &Answer| {
        let mut chars = answer.texts["unknown"].chars();
        Some((chars.next()?, chars.next()?)).filter(|(a, b)| a != b)
    };
    let (at, end) = free.answers.iter().enumerate().find_map(|(at, answer)| Some((at, two(answer)?.1))).unwrap();
    let ended = run(&self::task(dir.path(), &format!("{yaml}until: {}\n", json!([end]))), &session, &options(), None);
    assert_eq!(ended.answers[at].texts["unknown"].chars().count(), 1);
}

/// stories260K, the model with public weights that is at hand: perplexity in windows is its loss.
#[test]
fn perplexity_is_of_whole_texts() {
    let Some(data) = real_data("perplexity of stories260K") else { return };
    let session = Session::open(&data.join("models/stories260K"), &tiny::opening()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let text = "Once upon a time, there was a little girl named Lily. She loved to play outside in the sun.";
    std::fs::write(dir.path().join("rows.jsonl"), format!("{}\n", json!({"text": text}))).unwrap();
    let task = self::task(dir.path(), "kind: perplexity\ntext: '{{ text }}'\nmetrics: [perplexity]\n");
    let found = run(&task, &session, &options(), None);
    let words = session.words();
    let tokens = [vec![words.bos], words.encode(text).unwrap()].concat();
    let document = difflow_inference::Document::new(tokens);
    let nats = session.ar_loss(&[document], Batching::Rows(1), &mut |_| Ok::<(), InferenceError>(())).unwrap()[0].nats;
    assert!((found.answers[0].values[0] - nats).abs() < 1e-3);
    assert!((found.figures["word_perplexity,none"].value - (nats / 19.0).exp()).abs() < 1e-2, "{:?}", found.figures);
}
