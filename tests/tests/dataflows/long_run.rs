//! Memory and open files of every node stay where they are, however many batches go by. scripts/long-run.sh runs the long form.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use difflow_tests::{Dataflow, Life};

/// Resident KiB and open files by node.
type Loads = BTreeMap<String, (u64, usize)>;

fn loads(life: &mut Life) -> Loads {
    let nodes = life.processes().into_iter().filter(|process| process.node().is_some() || process.name == "dora");
    nodes.filter_map(|process| Some((process.name.clone(), process.load()?))).collect()
}

/// Runs so many batches of the smallest model and takes the loads after each `1/parts` of them.
fn measured(batches: u64, parts: u64) -> Vec<(u64, Loads)> {
    let dataflow = Dataflow::tiny(batches)
        .set("", "MICRO_BATCH", 1)
        .set("trainer", "CHECKPOINT_EVERY", batches / parts)
        .set("checkpointer", "KEEP_LAST", parts + 2)
        .set("evaluator", "EVAL_DOCUMENTS", 1);
    let mut life = Life::begin(&dataflow);
    let mut all = Vec::new();
    for part in 1..parts {
        let step = batches / parts * part;
        let path = dataflow.run_folder().join(format!("checkpoints/step-{step:08}"));
        assert!(life.until(|_| path.exists()), "it ended before step {step}: {}", life.text());
        all.push((step, loads(&mut life)));
    }
    life.end(Duration::from_secs(600)).0.well();
    let log = dataflow.folder().join("out");
    let logs: u64 =
        fs::read_dir(log).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.metadata().ok()?.len())).sum();
    println!("{batches} batches; log of difflow run: {} KiB", logs >> 10);
    all
}

fn show(all: &[(u64, Loads)]) {
    let Some((_, first)) = all.first() else { return };
    println!(
        "{:>8}  {}",
        "batch",
        first.keys().map(|name| format!("{:>22}", name.trim_start_matches("difflow-"))).collect::<String>()
    );
    for (step, loads) in all {
        let cell = |name| {
            loads
                .get(name)
                .map_or("gone".to_owned(), |(kib, files)| format!("{:.1} MiB {files:>3} files", *kib as f64 / 1024.0))
        };
        println!("{step:>8}  {}", first.keys().map(|name| format!("{:>22}", cell(name))).collect::<String>());
    }
}

/// Grown by at most so many KiB, and not by one file a batch. While training goes on every node is there to be measured.
fn flat(early: &Loads, late: &Loads, kib: u64) {
    assert_eq!(early.keys().filter(|name| name.starts_with("difflow-")).count(), 8, "{:?}", early.keys());
    for (name, (memory, files)) in early {
        let (memory_late, files_late) = late.get(name).unwrap_or_else(|| panic!("{name} is gone: {:?}", late.keys()));
        assert!(*memory_late <= memory + kib, "{name}: {memory} KiB early, {memory_late} KiB late");
        assert!(*files_late <= files + 8, "{name}: {files} open files early, {files_late} late");
    }
}

#[test]
fn memory_and_open_files_stay_flat_over_some_thousand_batches() {
    let all = measured(2400, 6);
    show(&all);
    // The monitor grows by some 22 MiB once, within the first 15,000 batches; a leak of 40 KiB a batch is more than this.
    flat(&all[1].1, &all[4].1, 48 << 10);
}

#[test]
#[ignore = "many minutes: scripts/long-run.sh"]
fn long_run() {
    let batches = std::env::var("DIFFLOW_LONG_RUN").ok().and_then(|batches| batches.parse().ok()).unwrap_or(50_000);
    let all = measured(batches, 10);
    show(&all);
    flat(&all[1].1, &all[8].1, 32 << 10);
}
