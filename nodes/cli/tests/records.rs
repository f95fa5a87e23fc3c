//! `difflow runs`, `diff`, `report` and `sql` over two runs that are written here as trainer and monitor write them.

#![allow(clippy::unwrap_used)]

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use arrow::array::{Float64Array, RecordBatch, StringArray, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema};
use parquet::arrow::ArrowWriter;
use serde_json::{Value, json};

type Row = (&'static str, &'static str, u64, f64);

/// One part of a metrics store.
fn part(path: &Path, rows: &[Row]) {
    let field = |name: &str, kind: DataType| Field::new(name, kind, false);
    let fields = vec![
        field("step", DataType::UInt64),
        field("name", DataType::Utf8),
        field("value", DataType::Float64),
        field("node", DataType::Utf8),
    ];
    let schema = Arc::new(Schema::new(fields));
    let batch = RecordBatch::try_new(
        schema.clone(),
        vec![
            Arc::new(UInt64Array::from_iter_values(rows.iter().map(|row| row.2))),
            Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.1))),
            Arc::new(Float64Array::from_iter_values(rows.iter().map(|row| row.3))),
            Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.0))),
        ],
    )
    .unwrap();
    let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), schema, None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

fn run(runs: &Path, name: &str, learning_rate: f64, losses: &[f64]) {
    let folder = runs.join(name);
    for part in ["metrics", "checkpoints/step-00000000", "checkpoints/step-00000003"] {
        fs::create_dir_all(folder.join(part)).unwrap();
    }
    let record = json!({
        "difflow": "0.1.0",
        "configuration": {"RUN": name, "SEED": 1, "trainer.LEARNING_RATE": learning_rate},
        "inputs": {"model.safetensors": "abc"},
        "plugins": {},
    });
    fs::write(folder.join("run.json"), record.to_string()).unwrap();
    let rows: Vec<Row> = losses.iter().enumerate().map(|(i, loss)| ("trainer", "loss", i as u64 + 1, *loss)).collect();
    part(&folder.join("metrics/part-000000.parquet"), &rows);
    // A later part overrules an earlier one: the run was resumed from step 2.
    let again =
        [("trainer", "loss", 3, losses[2] + 0.5), ("evaluator", "nelbo", 0, 6.0), ("evaluator", "nelbo", 3, losses[2])];
    part(&folder.join("metrics/part-000001.parquet"), &again);
}

fn two_runs() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    run(folder.path(), "slow", 0.001, &[5.0, 4.5, 4.0]);
    run(folder.path(), "fast", 0.01, &[5.0, 4.0, 3.0]);
    fs::create_dir(folder.path().join("no-run")).unwrap();
    folder
}

fn difflow(runs: &Path, arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_difflow"))
        .args(arguments)
        .arg("--runs")
        .arg(runs)
        .env("NO_COLOR", "1")
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

#[test]
fn sql_joins_two_runs() {
    let runs = two_runs();
    let query = "SELECT a.step, a.value AS slow, b.value AS fast FROM metrics a JOIN metrics b ON a.step = b.step AND a.name = b.name \
                 WHERE a.run = 'slow' AND b.run = 'fast' AND a.name = 'loss' ORDER BY a.step";
    let (code, text, problem) = difflow(runs.path(), &["sql", query, "--json"]);
    assert_eq!(code, 0, "{problem}");
    let rows: Value = serde_json::from_str(&text).unwrap();
    let wanted = json!([
        {"step": 1, "slow": 5.0, "fast": 5.0},
        {"step": 2, "slow": 4.5, "fast": 4.0},
        {"step": 3, "slow": 4.5, "fast": 3.5},
    ]);
    assert_eq!(rows, wanted);
    let (_, text, _) = difflow(
        runs.path(),
        &[
            "sql",
            "SELECT k.run, k.value, min(m.value) FROM keys k JOIN metrics m ON k.run = m.run WHERE k.key = 'trainer.LEARNING_RATE' AND m.name = 'nelbo' GROUP BY k.run, k.value ORDER BY k.run",
        ],
    );
    let lines: Vec<&str> = text.lines().collect();
    assert!(
        lines.len() == 3 && lines[1].starts_with("fast") && lines[1].ends_with("3.0") && lines[2].contains("0.001"),
        "{text}"
    );
    let (_, text, _) =
        difflow(runs.path(), &["sql", "SELECT run, max(step) AS last FROM checkpoints GROUP BY run ORDER BY run"]);
    assert_eq!(text, "run   last\nfast  3\nslow  3\n");
}

#[test]
fn sql_reads_and_changes_nothing() {
    let runs = two_runs();
    for query in [
        "DROP TABLE metrics",
        "COPY metrics TO 'x.parquet'",
        "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '/etc/passwd'",
        "SELECT nonsense FROM metrics",
    ] {
        let (code, text, problem) = difflow(runs.path(), &["sql", query]);
        assert!(
            code == 1 && text.is_empty() && problem.contains("tables: metrics"),
            "{query}: {code} {text} {problem}"
        );
    }
}

#[test]
fn runs_are_listed_with_their_last_numbers() {
    let runs = two_runs();
    let (code, text, _) = difflow(runs.path(), &["runs"]);
    let lines: Vec<&str> = text.lines().collect();
    assert!(code == 0 && lines.len() == 3 && lines[1].starts_with("fast") && lines[1].contains("3.5000"), "{text}");
    let (_, text, _) = difflow(&runs.path().join("none"), &["runs"]);
    assert!(text.starts_with("no runs in "), "{text}");
}

#[test]
fn diff_shows_what_differs_and_what_came_of_it() {
    let runs = two_runs();
    let (code, text, _) = difflow(runs.path(), &["diff", "slow", "fast"]);
    assert_eq!(code, 0);
    let has = |start: &str, part: &str| text.lines().any(|line| line.starts_with(start) && line.contains(part));
    assert!(has("trainer.LEARNING_RATE", "0.001") && has("loss", "-1.0000") && !text.contains("SEED"), "{text}");
    let (code, _, problem) = difflow(runs.path(), &["diff", "slow", "fats"]);
    assert!(code == 1 && problem.contains("there is: fast, slow"), "{problem}");
}

#[test]
fn a_report_says_what_ran_with_what_and_what_came_out() {
    let runs = two_runs();
    let (code, text, _) = difflow(runs.path(), &["report", "fast"]);
    assert_eq!(code, 0);
    for part in [
        "# Run fast",
        "3 optimizer steps",
        "| validation NELBO, nats per token | 6.0000 | 3.0000 |",
        "| trainer.LEARNING_RATE | `0.01` |",
        "`abc`",
        "steps 0, 3",
    ] {
        assert!(text.contains(part), "`{part}` not in\n{text}");
    }
}
