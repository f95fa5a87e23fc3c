//! What a run in several processes needs of each, by what each keeps.

use difflow_model::{RankMemory, Sharding, Team, exchanged_bytes};
use difflow_trainer::config::{Config, ReductionKind, ShardingKind};
use serde_json::{Value, json};

use crate::plan::cost::{Cost, Work};
use crate::plan::{bytes, grouped};

pub const ALL: [(&str, ShardingKind); 4] = [
    ("none", ShardingKind::None),
    ("optimizer", ShardingKind::Optimizer),
    ("gradients", ShardingKind::Gradients),
    ("parameters", ShardingKind::Parameters),
];

/// One value of SHARDING.
struct Row {
    name: &'static str,
    /// Whether the file has it.
    chosen: bool,
    /// What is wrong with the file's ACCUMULATION.
    problem: Option<String>,
    /// What these ranks are and need, or why they cannot train with it.
    needs: Result<(Team, RankMemory, u64), String>,
}

/// Micro-batches that each of so many ranks has of so many: a number that any number of ranks can have each, and no more.
pub fn own(micro_batches: u64, ranks: u64, sharding: Sharding) -> u64 {
    let own = (micro_batches / ranks).max(1);
    if sharding.takes_turns() { own } else { 1 << own.ilog2() }
}

/// So many ranks with this SHARDING and the ACCUMULATION of the file or, where that does not go on so many of them, the nearest one below that does;
/// then also what is wrong.
///
/// # Errors
/// No ACCUMULATION helps: says why.
pub fn team(work: &Work, ranks: u64, kind: ShardingKind) -> Result<(Team, Option<String>), String> {
    let (t, sharding) = (&work.trainer, Sharding::from(kind));
    // A ring is of those that keep everything.
    let reduction = if kind == ShardingKind::None { t.reduction } else { ReductionKind::Tree };
    let with = Config { sharding: kind, reduction, ..t.clone() };
    if let Some(problem) = with.unshared().into_iter().next() {
        return Err(format!("not with {} {}", problem.key, problem.found));
    }
    let allowed = with.allowed_ranks();
    if allowed.contains(&ranks) {
        return Ok((Team { ranks, micro_batches: t.accumulation, sharding }, None));
    }
    let micro_batches = ranks * own(t.accumulation, ranks, sharding);
    let numbers = allowed.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
    let plural = if allowed.len() == 1 { "rank" } else { "ranks" };
    let problem = format!(
        "not with ACCUMULATION {}, which goes on {numbers} {plural}; with {}",
        t.accumulation,
        grouped(micro_batches)
    );
    Ok((Team { ranks, micro_batches, sharding }, Some(problem)))
}

/// A row for each value of SHARDING.
fn rows(work: &Work, cost: &Cost, ranks: u64) -> Vec<Row> {
    let row = |(name, kind): (&'static str, ShardingKind)| {
        let (problem, needs) = match team(work, ranks, kind) {
            Ok((team, problem)) => {
                let Team { ranks, micro_batches, sharding } = team;
                let sent = exchanged_bytes(cost.trained.values, ranks, micro_batches, sharding);
                (problem, Ok((team, RankMemory::of(&cost.trained, team), sent)))
            }
            Err(problem) => (None, Err(problem)),
        };
        Row { name, chosen: work.trainer.sharding == kind, problem, needs }
    };
    ALL.into_iter().map(row).collect()
}

/// For people, as the other lines of a plan.
pub fn lines(work: &Work, cost: &Cost, ranks: u64) -> Vec<(&'static str, String)> {
    let what =
        format!("{}, memory of each by SHARDING (and more in rank 0 while it writes a checkpoint)", grouped(ranks));
    let mut lines = vec![("ranks", what)];
    for Row { name, chosen, problem, needs } in rows(work, cost, ranks) {
        let mark = if chosen { " (as in the file)" } else { "" };
        let problem = problem.map(|problem| format!(" {problem}:")).unwrap_or_default();
        let (_, memory, sent) = match needs {
            Ok(needs) => needs,
            Err(refused) => {
                lines.push(("", format!("{name}{mark}: {refused}")));
                continue;
            }
        };
        // A copy for a checkpoint is in the memory of the processor.
        let place = if cost.trained.on_device { ", in host memory" } else { "" };
        let all = format!("{name}{mark}:{problem} {} (+ {}{place})", bytes(memory.total()), bytes(memory.checkpoint));
        let parts = [
            ("weights", memory.weights),
            ("gradients", memory.gradients),
            ("optimizer", memory.state),
            ("activations", memory.activations),
            ("exchange", memory.buffers),
            ("process", memory.process),
        ];
        let parts = parts.map(|(what, count)| format!("{} {what}", bytes(count))).join(", ");
        lines.push(("", format!("{all}: {parts}; {} sent in a step", bytes(sent))));
    }
    if cost.trained.on_device {
        lines.push(("", "of a GPU's memory, as estimated for one GPU; not measured with several".to_owned()));
    } else if work.trainer.device.starts_with("cuda") {
        lines.push((
            "",
            "these are figures of ranks on the CPU: for a GPU there are some with PRECISION: bf16 only".to_owned(),
        ));
    }
    lines
}

/// For programs.
pub fn to_json(work: &Work, cost: &Cost, ranks: u64) -> Value {
    let row = |Row { name, problem, needs, .. }: Row| {
        let needs = needs.ok();
        json!({
            "sharding": name,
            "allowed": problem.is_none() && needs.is_some(),
            "accumulation": needs.map(|(team, ..)| team.micro_batches),
            "memory_bytes": needs.map(|(_, memory, _)| memory.total()),
            "checkpoint_bytes": needs.map(|(_, memory, _)| memory.checkpoint),
            "memory": needs.map(|(_, memory, _)| json!({
                "weights": memory.weights,
                "gradients": memory.gradients,
                "optimizer": memory.state,
                "activations": memory.activations,
                "exchange": memory.buffers,
                "process": memory.process,
            })),
            "sent_bytes_per_step": needs.map(|(_, _, sent)| sent),
        })
    };
    rows(work, cost, ranks).into_iter().map(row).collect()
}
