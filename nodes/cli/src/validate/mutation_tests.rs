#![allow(clippy::unwrap_used)]
//! Typing mistakes in a dataflow file must lead to findings, never to a panic or a hang.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use difflow_diffusion::keyed;

use super::*;

const MUTATIONS: u64 = 2000;

/// The dataflow files of the repository.
fn valid_files() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut paths = vec![root.join("dataflow.yml")];
    for entry in std::fs::read_dir(root.join("data/experiments")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "yml") {
            paths.push(path);
        }
    }
    paths.sort();
    paths.iter().map(|path| (path.display().to_string(), std::fs::read_to_string(path).unwrap())).collect()
}

fn folder(path: &str) -> &Path {
    Path::new(path).parent().unwrap()
}

#[test]
fn the_dataflow_files_of_the_repository_have_no_errors() {
    for (path, text) in valid_files() {
        let found = check(&text, folder(&path), Environment::None).findings;
        let errors: Vec<_> = found.iter().filter(|finding| finding.level == Level::Error).collect();
        assert!(errors.is_empty(), "{path}: {errors:#?}");
    }
}

/// One to four changes: characters, lines, words and numbers lost, doubled, swapped or replaced.
fn mutated(text: &str, number: u64) -> String {
    const PIECES: [&str; 24] = [
        ":",
        "-",
        "{",
        "}",
        "[",
        "]",
        "'",
        "\"",
        "\t",
        "&a ",
        "*a",
        "!",
        "|",
        ">",
        "$X",
        "#",
        ", ",
        "\n",
        "0",
        "-1",
        "1e999",
        "99999999999999999999",
        "é",
        "\u{0}",
    ];
    let mut random = keyed::rng(7, "mutation", number, 0);
    let mut draw = |n: usize| (keyed::uniform(&mut random) * n as f64) as usize;
    let mut chars: Vec<char> = text.chars().collect();
    for _ in 0..=draw(4) {
        let at = draw(chars.len().max(1)).min(chars.len().saturating_sub(1));
        let end = (at + 1 + draw(12)).min(chars.len());
        match draw(7) {
            0 => drop(chars.drain(at..end)),
            1 => _ = chars.splice(at..at, PIECES[draw(PIECES.len())].chars()),
            2 => _ = chars.splice(at..end, PIECES[draw(PIECES.len())].chars()),
            3 => chars.truncate(at),
            4 => {
                let copy: Vec<char> = chars[at..end].to_vec();
                _ = chars.splice(at..at, copy);
            }
            other => {
                let mut lines: Vec<String> = chars.iter().collect::<String>().lines().map(str::to_owned).collect();
                if lines.len() > 1 {
                    let (one, two) = (draw(lines.len()), draw(lines.len()));
                    if other == 5 { lines.swap(one, two) } else { lines.insert(two, lines[one].clone()) }
                }
                chars = lines.join("\n").chars().collect();
            }
        }
        if chars.is_empty() {
            break;
        }
    }
    chars.into_iter().collect()
}

#[test]
fn two_thousand_mutations_end_in_findings() {
    let files = valid_files();
    let mut refused = 0;
    for number in 0..MUTATIONS {
        let (path, text) = &files[number as usize % files.len()];
        let text = mutated(text, number);
        let findings = catch_unwind(AssertUnwindSafe(|| check(&text, folder(path), Environment::None).findings));
        let Ok(findings) = findings else { panic!("mutation {number} of {path} panics:\n{text}") };
        refused += u64::from(!findings.is_empty());
        let lines = text.lines().count().max(1) + 1;
        assert!(
            findings.iter().all(|finding| finding.at.file > 0 || (1..=lines).contains(&finding.at.line)),
            "mutation {number}: {findings:#?}"
        );
    }
    // A checker that sees nothing would pass everything above.
    assert!(refused > MUTATIONS / 3, "only {refused} of {MUTATIONS} were refused");
}
