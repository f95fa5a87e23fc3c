//! Plug-ins written in Python, by the same checker as libraries: good ones pass, and what is wrong is said with the line.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

const DIFFLOW: &str = env!("CARGO_BIN_EXE_difflow");

const NOISE: &str = r#""""α = 1 − tᵖ.

power: exponent of t
"""


def alpha(t, power=2.0):
    return 1 - t**power


def alpha_derivative(t, power=2.0):
    return -power * t ** (power - 1)
"#;

/// As many tokens masked as before, in one span; the same of the same (seq, seed, row).
const SPAN: &str = r#""""One span of masks a row.

most: longest span
"""
import random


def noised(rows, seq, seed, most=1000):
    for number, row in enumerate(rows):
        free = [at for at, maskable in enumerate(row["maskable"]) if maskable]
        count = min(sum(row["masked"]), most)
        start = random.Random(f"{seed} {seq} {number}").randrange(len(free))
        row["masked"] = [False] * len(row["masked"])
        for i in range(count):
            row["masked"][free[(start + i) % len(free)]] = True
    return rows
"#;

const LONG_ENOUGH: &str = "def documents(rows, shortest=5):\n    for row in rows:\n        if len(row['text']) >= shortest:\n            yield row\n";

const ANNEALING: &str =
    "def attn_mask_ratio(step, anneal_steps=100):\n    print('seen')\n    return min(1.0, step / anneal_steps)\n";

fn written(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn difflow(arguments: &[&str], file: &Path) -> Output {
    Command::new(DIFFLOW).arg("plugin").args(arguments).arg(file).output().unwrap()
}

/// The tests of `difflow plugin check`, all or those that are named, with their results and messages; the exit code must fit.
fn checked(file: &Path, only: &[&str]) -> Vec<(String, String, String)> {
    let mut arguments = vec!["check", "--json"];
    arguments.extend(only.iter().flat_map(|test| ["--test", test]));
    let output = difflow(&arguments, file);
    let list: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stderr)));
    let text = |one: &Value, key: &str| one[key].as_str().unwrap().to_owned();
    let all: Vec<_> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (text(one, "test"), text(one, "result"), text(one, "message")))
        .collect();
    let failed = all.iter().any(|(_, result, _)| result == "failed");
    assert_eq!(output.status.code(), Some(i32::from(failed)), "{all:?}");
    all
}

#[test]
fn good_files_pass_every_test() {
    let dir = tempfile::tempdir().unwrap();
    // Ten lines or fewer do: without a derivative, difflow takes differences.
    let short = "import math\n\ndef alpha(t):\n    return math.cos(math.pi / 2 * t)\n";
    let weighted = format!("{NOISE}\n\ndef weight(t):\n    return 1 / t\n");
    for (name, text) in [
        ("my-noise.py", NOISE),
        ("short.py", short),
        ("weighted.py", &weighted),
        ("a.py", ANNEALING),
        ("span.py", SPAN),
        ("long-enough.py", LONG_ENOUGH),
    ] {
        let all = checked(&written(dir.path(), name, text), &[]);
        let bad: Vec<_> = all.iter().filter(|(_, result, _)| result == "failed").collect();
        assert!(bad.is_empty() && all.len() > 8, "{name}: {bad:?}");
    }
    let output = difflow(&["show", "--config", r#"{"power": 3}"#], &dir.path().join("my-noise.py"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for part in ["python.my-noise", "α = 1 − tᵖ.", "exponent of t"] {
        assert!(text.contains(part), "`{part}` is not in {text}");
    }
}

/// What each would do unnoticed is in its name.
#[test]
fn bad_ones_fail_and_say_why() {
    let dir = tempfile::tempdir().unwrap();
    let cases = [
        ("does not parse", "def alpha(t:\n    return 1\n", "load", "SyntaxError"),
        ("stops when it is read", "import no_such_module\n", "load", "no_such_module' (line 1)"),
        ("has no function", "def beta(t):\n    return 1\n", "load", "wanted one function alpha"),
        (
            "has two",
            "def alpha(t):\n    return 1 - t\n\ndef attn_mask_ratio(step):\n    return 1\n",
            "load",
            "alpha and attn_mask_ratio",
        ),
        (
            "has an option without a default",
            "def alpha(t, power):\n    return 1 - t\n",
            "load",
            "option `power` of alpha has no default",
        ),
        ("does not begin at 1", "def alpha(t):\n    return 0.9 - 0.9 * t\n", "alpha-0", "α(0) = 0.9"),
        ("rises", "def alpha(t):\n    return 1 - t if t < 0.5 else t\n", "alpha-0", "never rise"),
        ("leaves [0, 1]", "def alpha(t):\n    return 1 - 2 * t\n", "alpha", "a number in [0, 1]"),
        ("gives a text", "def alpha(t):\n    return 'x'\n", "alpha", "ValueError"),
        ("gives nothing", "def alpha(t):\n    pass\n", "alpha", "TypeError"),
        (
            "raises",
            "def alpha(t):\n    if t > 0.7:\n        raise RuntimeError('odd')\n    return 1 - t\n",
            "alpha",
            "RuntimeError: odd (line 3)",
        ),
        (
            "has another derivative",
            "def alpha(t):\n    return 1 - t\n\ndef alpha_derivative(t):\n    return -2.0\n",
            "derivative",
            "finite differences give -1",
        ),
        (
            "has a negative weight",
            "def alpha(t):\n    return 1 - t\n\ndef weight(t):\n    return -1.0\n",
            "weight",
            "at least 0",
        ),
        (
            "ends the process",
            "import os\n\ndef alpha(t):\n    os._exit(3)\n",
            "alpha",
            "python3 process has ended (exit status: 3)",
        ),
        (
            "works on two edges",
            "def documents(rows):\n    return rows\n\ndef noised(rows):\n    return rows\n",
            "load",
            "found documents and noised; wanted one function",
        ),
        ("gives no rows", "def documents(rows):\n    pass\n", "release", "it gave None; wanted the rows"),
        (
            "loses a column",
            "def documents(rows):\n    return [{'text': row['text']} for row in rows]\n",
            "release",
            "row 0 of what it gave has the columns text; wanted the columns doc, text",
        ),
        (
            "gives numbers for truth values",
            "def noised(rows):\n    for row in rows:\n        row['masked'] = [0] * len(row['masked'])\n        yield row\n",
            "release",
            "column `masked`: invalid type: integer `0`, expected a boolean",
        ),
        (
            "gives an id that no vocabulary has",
            "def noised(rows):\n    for row in rows:\n        row['tokens'][3] = 2**32\n        yield row\n",
            "release",
            "column `tokens`: invalid value: integer `4294967296`, expected u32",
        ),
        (
            "gives a text for t",
            "def noised(rows):\n    for row in rows:\n        row['t'] = 'late'\n        yield row\n",
            "release",
            "ValueError: could not convert string to float: 'late'",
        ),
        (
            "gives rows of other lengths",
            "def noised(rows):\n    for row in rows:\n        row['masked'] = row['masked'][1:]\n        yield row\n",
            "message",
            "rows of 36 values, tokens has 37",
        ),
        (
            "masks what may not be masked",
            "def noised(rows):\n    for row in rows:\n        row['masked'][0] = True\n        yield row\n",
            "message",
            "position 0 is masked but not maskable",
        ),
        (
            "gives other batches each time",
            "import time\n\ndef documents(rows):\n    for row in rows:\n        row['text'] += str(time.perf_counter_ns())\n        yield row\n",
            "same-batch",
            "batch 7 came out differently",
        ),
        (
            "makes rows of none",
            "def documents(rows):\n    return rows or [{'doc': 0, 'text': ''}]\n",
            "no-rows",
            "1 rows came out",
        ),
        (
            "raises on a row",
            "def documents(rows):\n    for row in rows:\n        yield row['txt']\n",
            "release",
            "KeyError: 'txt' (line 3)",
        ),
        ("anneals beyond full", "def attn_mask_ratio(step):\n    return step\n", "", "a number in [0, 1]"),
    ];
    for (number, (what, text, test, part)) in cases.into_iter().enumerate() {
        let only: &[&str] = if ["", "load"].contains(&test) { &[] } else { &[test] };
        let all = checked(&written(dir.path(), &format!("bad{number}.py"), text), only);
        let right = |(name, result, message): &(String, String, String)| {
            (test.is_empty() || name == test) && result == "failed" && message.contains(part)
        };
        assert!(all.iter().any(right), "one that {what}: {all:?}");
    }
}

/// A wrong key is the file's author's; its name must be said.
#[test]
fn a_wrong_option_is_named_where_the_file_is_validated() {
    let dir = tempfile::tempdir().unwrap();
    let file = written(dir.path(), "my-noise.py", NOISE);
    for (config, part) in
        [(r#"{"powr": 2}"#, "allowed: power"), (r#"{"power": "two"}"#, "wanted a number"), ("[2]", "wanted an object")]
    {
        let output = difflow(&["show", "--config", config], &file);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains(part), "{config}: {text}");
    }
}
