//! Processes of a run are killed or stopped at random moments; the same command then goes on, and the weights are those of a run that
//! nothing happened to, byte for byte. The seed is printed; `DIFFLOW_FAULT_SEED` repeats a test. scripts/faults.sh runs the long form.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use difflow_tests::{Dataflow, Life, Outcome, Process, Random, all_gone, program};

use crate::{json, weights};

const STEPS: u64 = 36;
/// A fault comes within so many seconds after the start: while nodes start, train, or score and sample.
const HORIZON: f64 = 7.0;
/// After a fault the run must be over by then. Other nodes may have 10 s to end by themselves, and 15 s when they are asked to.
const OVER: Duration = Duration::from_secs(90);

/// What happens.
#[derive(Clone, Copy)]
enum Fault {
    /// One process is killed: a node, dora or difflow.
    KillOne,
    /// All processes are killed at once.
    KillAll,
    /// One process stands still for so long.
    Pause(Duration),
    /// One of the trainers is killed. Each start has another number of them, which keep more or less of the optimizer's state.
    KillRank,
}

impl Fault {
    /// Micro-batches of a step: for ranks, as many as there may be of them.
    fn accumulation(self, random: &mut Random) -> usize {
        if matches!(self, Self::KillRank) { 4 } else { 1 + random.below(3) }
    }

    /// How the dataflow is started the next time.
    fn next(self, dataflow: Dataflow, random: &mut Random) -> Dataflow {
        if !matches!(self, Self::KillRank) {
            return dataflow;
        }
        let (ranks, sharding) =
            ([1, 2, 4][random.below(3)], ["none", "optimizer", "gradients", "parameters"][random.below(4)]);
        println!("{ranks} ranks, SHARDING {sharding}");
        dataflow.set("trainer", "SHARDING", sharding).set("trainer", "GROUP_TIMEOUT", 60).on_ranks(ranks)
    }
}

fn seed() -> u64 {
    let given = std::env::var("DIFFLOW_FAULT_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs());
    println!("DIFFLOW_FAULT_SEED={seed}");
    seed
}

/// The number of faults of a long form.
fn count(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|count| count.parse().ok()).unwrap_or(default)
}

/// Everything that decides how training goes on is the same, and the records prove that each batch was trained on once and in order.
pub fn same(whole: &Dataflow, broken: &Dataflow, steps: u64) {
    let (whole, broken) = (whole.run_folder(), broken.run_folder());
    assert!(weights(&whole, steps) == weights(&broken, steps), "the final weights differ");
    let file = |run: &std::path::Path, name: &str| run.join(format!("checkpoints/step-{steps:08}/{name}"));
    let optimizer = |run| std::fs::read(file(run, "optimizer.safetensors")).expect("an optimizer state");
    assert!(optimizer(&whole) == optimizer(&broken), "the final optimizer states differ");
    let chain = |run| json(&file(run, "lineage.json"))["chain"].clone();
    assert_eq!(chain(&whole), chain(&broken), "other batches were trained on");
    for run in [&whole, &broken] {
        let mut inspect = Command::new(program("difflow"));
        inspect.args(["inspect", "run"]).arg(run);
        Outcome::of(inspect, Duration::from_secs(60)).well().says(&["each once, in order"]);
    }
}

/// The default dataflow with the default base model, shortened; checkpoints are frequent, and it takes longer than [`HORIZON`].
fn default_shortened(steps: u64) -> Dataflow {
    Dataflow::small(steps).set("trainer", "CHECKPOINT_EVERY", steps / 6 + 1)
}

/// `count` faults on as many runs as it takes; every run is compared with one of the same keys that nothing happened to.
fn endure(fault: Fault, count: usize, dataflow: fn(u64) -> Dataflow) {
    let seed = seed();
    let mut random = Random::new(seed);
    let (mut faults, mut runs) = (0, 0);
    while faults < count {
        let (accumulation, ema) = (fault.accumulation(&mut random), [0.0, 0.9][random.below(2)]);
        let new = || dataflow(STEPS).set("", "ACCUMULATION", accumulation).set("trainer", "EMA_DECAY", ema);
        let (whole, mut broken) = (new(), new().set("trainer", "SLOW_DOWN_SECONDS", 0.1));
        whole.run().well();
        runs += 1;
        loop {
            broken = fault.next(broken, &mut random);
            let mut life = Life::begin(&broken);
            let moment = random.unit() * HORIZON;
            let struck = faults < count && life.until(|life| life.age() >= moment && life.processes().len() > 2);
            if struck {
                faults += 1;
                println!(
                    "fault {faults}/{count} on run {runs} at {moment:.2} s: {}",
                    strike(fault, &mut life, &mut random)
                );
            }
            // What nothing happens to any more has all its steps before it.
            let (outcome, processes) = life.end(if struck { OVER } else { 10 * OVER });
            all_gone(&processes, Duration::from_secs(30));
            if !struck || matches!(fault, Fault::Pause(_)) {
                outcome.well();
                break;
            }
        }
        same(&whole, &broken, STEPS);
    }
    println!("{faults} faults on {runs} runs (seed {seed}): all final weights equal");
}

/// Does it; says to whom.
fn strike(fault: Fault, life: &mut Life, random: &mut Random) -> String {
    let mut processes = life.processes();
    if matches!(fault, Fault::KillRank) && processes.iter().any(|process| process.node() == Some("trainer")) {
        processes.retain(|process| process.node() == Some("trainer"));
    }
    let one: Process = processes[random.below(processes.len())].clone();
    match fault {
        Fault::KillOne | Fault::KillRank => {
            one.signal(libc::SIGKILL);
            format!("{} killed", one.name)
        }
        Fault::KillAll => {
            // In an order of its own each time.
            while !processes.is_empty() {
                processes.swap_remove(random.below(processes.len())).signal(libc::SIGKILL);
            }
            "everything killed".to_owned()
        }
        Fault::Pause(pause) => {
            one.signal(libc::SIGSTOP);
            std::thread::sleep(pause);
            one.signal(libc::SIGCONT);
            format!("{} stood still for {pause:?}", one.name)
        }
    }
}

#[test]
fn a_killed_process_costs_no_batch_and_changes_no_weight() {
    endure(Fault::KillOne, 3, Dataflow::tiny);
}

/// Block diffusion with everything that the noiser draws: sizes that grow, whole rows, t of each block, inverse masks.
fn block(steps: u64) -> Dataflow {
    let dataflow = Dataflow::tiny(steps).set("trainer", "OBJECTIVE", "block").set("trainer", "AR_WEIGHT", 0.6);
    let dataflow = dataflow.set("noiser", "BLOCK_SIZE", "2..8:3,row:1").set("noiser", "BLOCK_GROWTH_STEPS", steps);
    dataflow.set("noiser", "COMPLEMENTARY", true)
}

#[test]
fn neither_does_it_in_block_diffusion() {
    endure(Fault::KillOne, 2, block);
}

/// An adapter beside a base model that stays.
fn adapted(steps: u64) -> Dataflow {
    Dataflow::tiny(steps).set("trainer", "LORA_RANK", 2).set("trainer", "LORA_DROPOUT", 0.1)
}

#[test]
fn neither_does_it_in_training_an_adapter() {
    endure(Fault::KillOne, 2, adapted);
}

#[test]
fn neither_does_killing_everything_at_once() {
    endure(Fault::KillAll, 2, Dataflow::tiny);
}

#[test]
fn a_process_that_stands_still_only_delays_the_run() {
    endure(Fault::Pause(Duration::from_secs(3)), 1, Dataflow::tiny);
}

#[test]
#[ignore = "minutes: scripts/faults.sh"]
fn long_form_of_killed_processes() {
    endure(Fault::KillOne, count("DIFFLOW_KILLS", 30), default_shortened);
}

#[test]
#[ignore = "minutes: scripts/faults.sh"]
fn long_form_of_killed_ranks() {
    endure(Fault::KillRank, count("DIFFLOW_KILLS_RANKS", 30), Dataflow::tiny);
}

#[test]
#[ignore = "minutes: scripts/faults.sh"]
fn long_form_of_everything_killed() {
    endure(Fault::KillAll, count("DIFFLOW_KILLS_ALL", 10), default_shortened);
}

#[test]
#[ignore = "minutes: scripts/faults.sh"]
fn long_form_of_processes_that_stand_still() {
    endure(Fault::Pause(Duration::from_secs(60)), count("DIFFLOW_PAUSES", 3), default_shortened);
}

/// Files in shared memory that these processes have mapped or open.
fn shared_memory(processes: &[Process]) -> BTreeSet<PathBuf> {
    let mut files = BTreeSet::new();
    for process in processes {
        let folder = Path::new("/proc").join(process.pid.to_string());
        let maps = std::fs::read_to_string(folder.join("maps")).unwrap_or_default();
        files.extend(maps.lines().filter_map(|line| Some(PathBuf::from(&line[line.find("/dev/shm/")?..]))));
        let open = std::fs::read_dir(folder.join("fd")).into_iter().flatten().filter_map(Result::ok);
        files.extend(
            open.filter_map(|entry| std::fs::read_link(entry.path()).ok()).filter(|path| path.starts_with("/dev/shm")),
        );
    }
    files.retain(|file| file.exists());
    files
}

/// What killed runs leave in shared memory must not pile up: dora's next processes take it away.
#[test]
fn shared_memory_of_killed_runs_is_taken_away() {
    let dataflow = Dataflow::tiny(STEPS).set("trainer", "SLOW_DOWN_SECONDS", 0.1);
    let mut had = BTreeSet::new();
    for seed in 0..3 {
        let mut life = Life::begin(&dataflow);
        let path = dataflow.run_folder().join("checkpoints/step-00000000");
        assert!(life.until(|life| path.exists() && life.node("trainer").is_some()), "it ended early");
        had.extend(shared_memory(&life.processes()));
        strike(Fault::KillAll, &mut life, &mut Random::new(seed));
        all_gone(&life.end(OVER).1, Duration::from_secs(30));
    }
    let left = had.iter().filter(|file| file.exists()).count();
    assert!(left > 0, "nothing was left of {} files: this test shows nothing", had.len());
    dataflow.run().well();
    let left: Vec<&PathBuf> = had.iter().filter(|file| file.exists()).collect();
    assert!(left.is_empty(), "{left:?} of {} files are still there after a whole run", had.len());
}
