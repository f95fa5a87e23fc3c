//! The paper's three setups: valid, and planned with the numbers that the paper and the models' authors published.

#![allow(clippy::unwrap_used)]

mod common;

use common::{difflow, root};
use serde_json::Value;

fn plan(file: &str) -> Value {
    let output = difflow(&["plan", file, "--json", "--no-calibration"]);
    assert!(output.status.success(), "{file}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A setup of the paper, in published numbers.
struct Setup {
    file: &'static str,
    parameters: u64,
    mask_rows: u64,
    steps: u64,
    tokens_per_step: u64,
    layers: f64,
    width: f64,
    length: f64,
    vocabulary: f64,
    /// Values of the embedding tables that no product reads.
    tables: f64,
    /// Forward passes' worth of work in the blocks: 4 with recomputation.
    passes: f64,
}

const SETUPS: [Setup; 3] = [
    Setup {
        file: "data/experiments/paper-diffugpt-s.yml",
        parameters: 124_439_808,
        mask_rows: 0,
        steps: 1_000_000,
        tokens_per_step: 512 * 256,
        layers: 12.0,
        width: 768.0,
        length: 512.0,
        vocabulary: 50257.0,
        tables: (50257.0 + 1024.0) * 768.0,
        passes: 3.0,
    },
    Setup {
        file: "data/experiments/paper-diffugpt-m.yml",
        parameters: 354_823_168,
        mask_rows: 1,
        steps: 160_000,
        tokens_per_step: 1024 * 1280,
        layers: 24.0,
        width: 1024.0,
        length: 1024.0,
        vocabulary: 50257.0,
        tables: (50257.0 + 1024.0) * 1024.0,
        passes: 3.0,
    },
    Setup {
        file: "data/experiments/paper-diffullama-7b.yml",
        parameters: 6_738_415_616,
        mask_rows: 0,
        steps: 2070,
        tokens_per_step: 2048 * 15_360,
        layers: 32.0,
        width: 4096.0,
        length: 2048.0,
        vocabulary: 32000.0,
        tables: 2.0 * 32000.0 * 4096.0,
        passes: 4.0,
    },
];

#[test]
fn the_papers_setups_are_planned_with_the_published_numbers() {
    for setup in &SETUPS {
        let plan = plan(setup.file);
        assert_eq!(plan["parameters"], setup.parameters, "{}", setup.file);
        assert_eq!(plan["mask_rows"], setup.mask_rows, "{}", setup.file);
        assert_eq!(plan["steps"], setup.steps);
        assert_eq!(plan["tokens_per_step"], setup.tokens_per_step);
        assert_eq!(plan["tokens"], setup.tokens_per_step * setup.steps);
        assert!(plan["seconds"].is_null() && plan["disk_bytes"].as_u64().unwrap() > 12 * setup.parameters);
        assert!(plan["memory_bytes"].as_u64().unwrap() > 16 * setup.parameters);
    }
}

/// Counted here once more, from the published sizes: 6·N·D for the products of parameters, 12·L·A·S·D for attention, both with the
/// passes of the blocks that the setup has. Half the tokens are masked in the mean over t, and only those pass the output head.
#[test]
fn the_operations_are_those_of_the_formula() {
    for setup in &SETUPS {
        let plan = plan(setup.file);
        let flops = plan["flops"].as_f64().unwrap();
        let share = plan["masked_share"].as_f64().unwrap();
        assert!((share - 0.5).abs() < 0.002, "{share}");
        let tokens = (setup.tokens_per_step * setup.steps) as f64;
        let blocks = 2.0 * setup.passes * (setup.parameters as f64 - setup.tables);
        let attention = 4.0 * setup.passes * setup.layers * setup.width * setup.length;
        let head = 6.0 * share * setup.vocabulary * setup.width;
        let wanted = (blocks + attention + head) * tokens;
        assert!((flops / wanted - 1.0).abs() < 0.02, "{}: {flops:e}, wanted {wanted:e}", setup.file);
        let printed = plan["formula_flops"].as_f64().unwrap();
        assert!((flops / printed - 1.0).abs() < 0.02, "{}: {flops:e}, printed formula {printed:e}", setup.file);
    }
}

#[test]
fn the_papers_setups_are_valid() {
    for setup in &SETUPS {
        let output = difflow(&["validate", setup.file, "--no-environment", "--deny-warnings"]);
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stdout));
    }
}

#[test]
fn a_plan_has_numbers_curves_and_a_time() {
    let output = difflow(&["plan", "dataflow.yml", "--flops-per-second", "1e11"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    for part in [
        "parameters",
        "FLOPs",
        "6·N·D + 12·L·A·S·D",
        "memory",
        "disk",
        "at 1.00e11 FLOP/s",
        "learning rate",
        "attn_mask_ratio",
        "α(t)",
        "┤",
    ] {
        assert!(text.contains(part), "`{part}` not in\n{text}");
    }
}

/// Of GPT-2 small in bf16, by hand: 6 bytes a parameter of weights, 8 of moments, and a copy in fp32 while a checkpoint is written.
#[test]
fn ranks_share_what_sharding_says() {
    let file = "data/experiments/paper-diffugpt-s.yml";
    let output = difflow(&["plan", file, "--ranks", "8", "--json", "--no-calibration"]);
    let plan: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    let parameters = plan["parameters"].as_u64().unwrap() + plan["mask_rows"].as_u64().unwrap() * 768;
    let rows: Vec<(&str, Value)> = ["none", "optimizer", "gradients", "parameters"]
        .into_iter()
        .zip(plan["by_sharding"].as_array().unwrap().clone())
        .collect();
    assert_eq!(rows.len(), 4);
    let mut before = u64::MAX;
    // What is not there on a GPU has no numbers.
    let there = rows[3].1["allowed"].as_bool().unwrap();
    assert_eq!(rows[3].1["memory_bytes"].is_null(), !there);
    for (name, row) in &rows[..3] {
        assert_eq!((row["sharding"].as_str(), row["allowed"].as_bool()), (Some(*name), Some(true)));
        let share = if *name == "none" { 1 } else { 8 };
        assert_eq!(row["memory"]["weights"], 6 * parameters, "{name}");
        assert_eq!(row["memory"]["optimizer"].as_u64().unwrap(), (8 * parameters).div_ceil(share), "{name}");
        let copied = match *name {
            "none" => 12 * parameters,
            _ => 4 * parameters,
        };
        assert_eq!(row["checkpoint_bytes"], copied, "{name}");
        let total = row["memory_bytes"].as_u64().unwrap();
        // On a GPU gradients come as activations go, but for the first four million that are exchanged as they come.
        let passing = if *name == "gradients" { 4 << 22 } else { 0 };
        assert!(total <= before.saturating_add(passing), "{name}: more than the row above");
        before = total;
    }
    // Each of seven ranks gets a share from all others and gives it back, in all 2 · 7 · 4 bytes a parameter.
    assert_eq!(rows[1].1["sent_bytes_per_step"], 56 * parameters);
    assert!(plan["simulation"].is_null(), "a time from nothing");
    // What the tree cannot do is said, and planned with what it can.
    let text = difflow(&["plan", file, "--ranks", "7", "--no-calibration"]).stdout;
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(text.contains("not with ACCUMULATION 8, which goes on 1, 2, 4, 8 ranks; with 7"), "{text}");
    // On the CPU: a share of the weights, and the embeddings and a block while they are used, which leave as much behind.
    let folder = tempfile::tempdir().unwrap();
    let shapes = folder.path().join("shapes");
    std::fs::create_dir(&shapes).unwrap();
    std::fs::copy(root().join("data/experiments/shapes/gpt2.json"), shapes.join("gpt2.json")).unwrap();
    let set = ["--set", "DEVICE=cpu", "--set", "PRECISION=fp32", "--set", "SHARDING=parameters"];
    let expanded = difflow(&[&["expand", file], &set[..]].concat());
    let own = folder.path().join("own.yml");
    std::fs::write(&own, expanded.stdout).unwrap();
    let row = planned(&[own.to_str().unwrap(), "--ranks", "8", "--no-calibration"])["by_sharding"][3].clone();
    let used = 4 * ((50_257 + 1024) * 768 + 12 * 768 * 768 + 13 * 768);
    assert_eq!(row["memory"]["weights"], (4 * parameters).div_ceil(8) + 2 * used, "{row}");
    assert_eq!((&row["memory"]["optimizer"], &row["checkpoint_bytes"]), (&parameters.into(), &0.into()));
}

fn planned(arguments: &[&str]) -> Value {
    let output = difflow(&[&["plan", "--json"], arguments].concat());
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)))
}

/// By hand, of 7B in bf16 on 8 GPUs: 6 bytes a parameter of weights, a share of 8 of moments, and four sums of a share of the gradients.
#[test]
fn seven_billion_parameters_fit_eight_gpus_of_80_gb_and_the_papers_steps_fit_64() {
    let eight = planned(&["data/experiments/diffullama-7b-8gpus.yml", "--ranks", "8", "--machine", "h100x8"]);
    let parameters = 6_738_415_616_u64;
    let rows = &eight["by_sharding"];
    let gradients = &rows[2]["memory"];
    assert_eq!((&rows[2]["sharding"], &gradients["weights"]), (&"gradients".into(), &(6 * parameters).into()));
    assert_eq!(gradients["optimizer"], parameters);
    let sums = gradients["gradients"].as_u64().unwrap() - 4 * parameters.div_ceil(8) * 4;
    assert!(sums < 1_000_000_000, "{sums} beside the sums: more than some matrices");
    // The inputs of 32 blocks, of 8 rows.
    let input = 4 * 4096 * 32 * 8 * 2048;
    assert!(gradients["activations"].as_u64().unwrap() > input, "{gradients}");
    assert!(rows[2]["memory_bytes"].as_u64().unwrap() < 80_000_000_000, "{}", rows[2]);
    let steps = &eight["simulation"]["by_sharding"];
    assert_eq!((&steps["gradients"]["fits"], &steps["none"]["fits"]), (&true.into(), &false.into()));
    let paper = planned(&["data/experiments/paper-diffullama-7b.yml", "--ranks", "64", "--machine", "h100x8"]);
    assert_eq!(paper["simulation"]["by_sharding"]["gradients"]["fits"], true, "{}", paper["by_sharding"]);
}

/// The simulation is that of the file, the ranks and the machine: bytes of the formula, time of the links that are said.
#[test]
fn more_ranks_are_simulated_on_the_links_that_are_said() {
    let file = "data/experiments/paper-diffugpt-s.yml";
    let fast = planned(&[file, "--ranks", "8", "--machine", "h100x4"]);
    let slow = planned(&[file, "--ranks", "8", "--machine", "h100x4", "--links", "340e9,1e9"]);
    assert_eq!(slow["simulation"]["supposed"]["between"]["bytes_per_second"], 1e9);
    let sent = &slow["by_sharding"];
    let number = |of: &Value, key: &str| of[key].as_f64().unwrap();
    for (row, name) in ["none", "optimizer", "gradients"].into_iter().enumerate() {
        let (fast, slow) = (&fast["simulation"]["by_sharding"][name], &slow["simulation"]["by_sharding"][name]);
        assert!(number(slow, "seconds_per_step") > number(fast, "seconds_per_step"), "{name}: {slow}, {fast}");
        assert!(number(slow, "waiting_share") > 1.5 * number(fast, "waiting_share"), "{name}: {slow}, {fast}");
        let (counted, formula) = (number(slow, "sent_bytes_per_step"), number(&sent[row], "sent_bytes_per_step"));
        assert!((counted / formula - 1.0).abs() < 1e-9, "{name}: {counted}, {formula}");
    }
    let rows = fast["simulation"]["scaling"].as_array().unwrap();
    let rows: Vec<&Value> = rows.iter().map(|row| &row["same_micro_batches_per_rank"]).collect();
    let ranks: Vec<u64> = rows.iter().map(|row| row["ranks"].as_u64().unwrap()).collect();
    assert_eq!(ranks, (0..=10).map(|power| 1 << power).collect::<Vec<u64>>());
    let efficiency: Vec<f64> = rows.iter().map(|row| number(row, "efficiency")).collect();
    assert!(
        efficiency[0] == 1.0 && efficiency[3..].is_sorted_by(|a, b| a >= b) && efficiency[3] < 1.0,
        "{efficiency:?}"
    );
    // The run takes its steps.
    let chosen = number(&fast["simulation"]["by_sharding"]["none"], "seconds_per_step");
    assert!((number(&fast, "seconds") / number(&fast, "steps") / chosen - 1.0).abs() < 1e-9);
    let output = difflow(&["plan", file, "--ranks", "8", "--machine", "h100x4"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for part in ["a step of ranks", "more ranks", "  1024 ", "efficiency", "NVLink", "DEVICE cuda", "fits in 80.0 GB"] {
        assert!(text.contains(part), "`{part}` not in\n{text}");
    }
}

/// A few real training steps, so this is the slow one: a second or two.
#[test]
fn this_machine_is_measured_with_real_steps() {
    let output = difflow(&["plan", "dataflow.yml", "--json"]);
    let plan: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    let rate = plan["flops_per_second"].as_f64().unwrap();
    assert!(rate > 1e8 && rate < 1e16, "{rate:e}");
    assert!((plan["seconds"].as_f64().unwrap() * rate / plan["flops"].as_f64().unwrap() - 1.0).abs() < 1e-9);
}

#[test]
fn a_file_with_errors_and_an_unknown_shape_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(root().join("dataflow.yml")).unwrap();
    let file = folder.path().join("x.yml");
    std::fs::write(&file, text.replace("difflow-trainer", "difflow-trainr")).unwrap();
    let output = difflow(&["plan", file.to_str().unwrap(), "--no-calibration"]);
    assert_eq!(output.status.code(), Some(78));
    std::fs::write(&file, text).unwrap();
    let output = difflow(&["plan", file.to_str().unwrap(), "--no-calibration"]);
    let problem = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && problem.contains("shapes/model.json"), "{problem}");
}
