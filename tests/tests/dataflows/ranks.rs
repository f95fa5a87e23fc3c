//! Several trainers that train one model: the bytes are those of one, whatever happens on the way.

use std::fs;
use std::path::Path;
use std::time::Duration;

use difflow_tests::{Dataflow, Life, Process, all_gone};

use crate::{metric, weights};

const STEPS: u64 = 6;
pub const LIMIT: Duration = Duration::from_secs(600);

/// Four micro-batches a step, and a checkpoint every other step.
pub fn small() -> Dataflow {
    Dataflow::tiny(STEPS)
        .set("", "MICRO_BATCH", 2)
        .set("", "ACCUMULATION", 4)
        .set("trainer", "CHECKPOINT_EVERY", 2)
        .set("trainer", "DROPOUT", 0.1)
}

fn block() -> Dataflow {
    small()
        .set("trainer", "OBJECTIVE", "block")
        .set("trainer", "AR_WEIGHT", 1)
        .set("noiser", "BLOCK_SIZE", "4:1,row:1")
        .set("sampler", "DECODER", "confidence")
}

/// The bytes of weights and optimizer of the last checkpoint, and the digest of all batches that it was trained on.
fn end(run: &Path) -> (Vec<u8>, Vec<u8>, String) {
    let folder = run.join(format!("checkpoints/step-{STEPS:08}"));
    let lineage: serde_json::Value = serde_json::from_slice(&fs::read(folder.join("lineage.json")).unwrap()).unwrap();
    let optimizer = fs::read(folder.join("optimizer.safetensors")).unwrap();
    (weights(run, STEPS), optimizer, lineage["chain"].as_str().unwrap().to_owned())
}

pub fn same(whole: &Dataflow, other: &Dataflow, what: &str) {
    let (whole, other) = (end(&whole.run_folder()), end(&other.run_folder()));
    assert_eq!(whole.2, other.2, "{what}: other batches");
    assert!(whole.0 == other.0, "{what}: other weights");
    assert!(whole.1 == other.1, "{what}: another optimizer state");
}

/// All that dora and the nodes wrote.
fn logs(dataflow: &Dataflow) -> String {
    let files = fs::read_dir(dataflow.folder().join("out")).unwrap().map(|file| file.unwrap().path());
    files
        .filter(|path| path.extension().is_some_and(|end| end == "log"))
        .map(|path| fs::read_to_string(path).unwrap())
        .collect()
}

/// Ranks, and what each keeps of the optimizer's state.
fn number_of_ranks_does_not_matter(dataflow: fn() -> Dataflow, several: [(usize, &str); 2]) {
    let alone = dataflow();
    alone.run_within(LIMIT).well();
    for (ranks, sharding) in several {
        let several = dataflow().set("trainer", "SHARDING", sharding).on_ranks(ranks);
        several.run_within(LIMIT).well();
        let logs = logs(&several);
        assert!(logs.contains(&format!("{ranks} ranks after")), "it was not trained in {ranks} ranks");
        let shared = logs.contains(&format!("rank 0 keeps {} % of the optimizer's state", 100 / ranks));
        assert_eq!(shared, sharding != "none", "{sharding}: another share than the key says");
        same(&alone, &several, &format!("{ranks} ranks, {sharding}"));
        // The ranks tell each other of a step when they take the next.
        let (sent, least) = (metric(&several, "exchange_bytes"), metric(&several, "exchange_s_least"));
        assert_eq!(sent.keys().copied().collect::<Vec<_>>(), (1..STEPS).collect::<Vec<_>>());
        assert!(sent.values().chain(least.values()).all(|value| *value > 0.0), "{sent:?} {least:?}");
        assert!(metric(&alone, "exchange_bytes").is_empty());
    }
}

#[test]
fn two_and_four_ranks_end_in_the_bytes_of_one() {
    number_of_ranks_does_not_matter(small, [(2, "parameters"), (4, "optimizer")]);
}

#[test]
fn so_they_do_in_block_diffusion() {
    number_of_ranks_does_not_matter(block, [(2, "gradients"), (4, "parameters")]);
}

/// The trainers of a run; that of rank 0, which has the run's lock, comes first.
fn trainers(life: &mut Life, run: &Path) -> Vec<Process> {
    let lock = run.join("lock");
    let leads = |process: &Process| {
        let open = fs::read_dir(format!("/proc/{}/fd", process.pid)).into_iter().flatten().flatten();
        open.filter_map(|file| fs::read_link(file.path()).ok()).any(|path| path == lock)
    };
    let mut all: Vec<Process> =
        life.processes().into_iter().filter(|process| process.node() == Some("trainer")).collect();
    all.sort_by_key(|process| !leads(process));
    all
}

/// Starts the dataflow slowly, and waits until its checkpoint of step 2 is there and it is at work on the next.
fn under_way(dataflow: Dataflow) -> (Dataflow, Life) {
    let dataflow = dataflow.set("trainer", "SLOW_DOWN_SECONDS", 1);
    let mut life = Life::begin(&dataflow);
    let checkpoint = dataflow.run_folder().join("checkpoints/step-00000002");
    assert!(life.until(|_| checkpoint.exists()), "{}", life.text());
    (dataflow, life)
}

/// Every stop leaves all ranks at one step, and every start shares the batches and the optimizer's state out anew.
#[test]
fn a_stopped_run_goes_on_with_another_number_of_ranks() {
    let alone = small();
    alone.run_within(LIMIT).well();
    let (dataflow, life) = under_way(small().set("trainer", "SHARDING", "gradients").on_ranks(2));
    life.signal(libc::SIGINT);
    let (outcome, _) = life.end(LIMIT);
    outcome.well();
    assert!(!dataflow.run_folder().join(format!("checkpoints/step-{STEPS:08}")).exists(), "the run was not stopped");
    let dataflow = dataflow.set("trainer", "SLOW_DOWN_SECONDS", 0).set("trainer", "SHARDING", "parameters").on_ranks(4);
    dataflow.run_within(LIMIT).well();
    same(&alone, &dataflow, "2 and then 4 ranks");
}

#[test]
fn a_killed_rank_ends_the_run_and_the_same_command_goes_on() {
    let alone = small();
    alone.run_within(LIMIT).well();
    for rank in [0, 1] {
        let (dataflow, mut life) = under_way(small().on_ranks(2));
        let victims = trainers(&mut life, &dataflow.run_folder());
        assert_eq!(victims.len(), 2, "{victims:?}");
        victims[rank].signal(libc::SIGKILL);
        let (outcome, processes) = life.end(LIMIT);
        let lost = format!("rank {rank} of 2");
        assert_ne!(outcome.code, 0, "{}", outcome.text);
        assert!(outcome.text.contains(&lost) && outcome.text.contains("has ended"), "{lost}:\n{}", outcome.text);
        all_gone(&processes, Duration::from_secs(60));
        let dataflow = dataflow.set("trainer", "SLOW_DOWN_SECONDS", 0);
        dataflow.run_within(LIMIT).well();
        same(&alone, &dataflow, &lost);
    }
}

/// Nobody else would ever say why nothing goes on.
#[test]
fn a_rank_that_stands_still_is_named_after_the_timeout() {
    let (dataflow, mut life) = under_way(small().set("trainer", "GROUP_TIMEOUT", 5).on_ranks(2));
    let victims = trainers(&mut life, &dataflow.run_folder());
    victims[1].signal(libc::SIGSTOP);
    let named = life.until(|life| life.text().contains("rank 1 of 2 (trainer-1"));
    assert!(named && life.text().contains("is stopped"), "{}", life.text());
    let (outcome, processes) = life.end(LIMIT);
    assert_ne!(outcome.code, 0, "{}", outcome.text);
    all_gone(&processes, Duration::from_secs(60));
}

#[test]
fn ranks_that_cannot_share_a_step_or_connect_are_refused() {
    small().on_ranks(3).run_within(LIMIT).refused(78, &["ACCUMULATION", "4 on 3 ranks", "1, 2, 4"]);
    let nccl = small().set("trainer", "TRANSPORT", "nccl").on_ranks(2);
    nccl.run_within(LIMIT).refused(78, &["TRANSPORT", "nccl", "rank 0 computes on the CPU", "auto, host"]);
    let ring = small().set("trainer", "SHARDING", "optimizer").set("trainer", "REDUCTION", "ring").on_ranks(2);
    ring.run_within(LIMIT).refused(78, &["REDUCTION", "ring", "SHARDING: none"]);
    let muon = small().set("trainer", "SHARDING", "parameters").set("trainer", "OPTIMIZER", "muon").on_ranks(2);
    muon.run_within(LIMIT).refused(78, &["OPTIMIZER", "muon", "SHARDING: parameters", "adamw"]);
}
