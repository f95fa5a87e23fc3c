//! What a run in several processes needs of each, by what each keeps.

use difflow_model::{RankMemory, Reduction, Sharding, Team, allowed_ranks, exchanged_bytes};
use difflow_trainer::config::ShardingKind;
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
    /// Why these ranks cannot train with it.
    refused: Option<String>,
    memory: RankMemory,
    sent: u64,
}

/// Why so many ranks cannot train with this SHARDING, if they cannot.
pub fn refused(work: &Work, ranks: u64, sharding: ShardingKind) -> Option<String> {
    let t = &work.trainer;
    let allowed = allowed_ranks(t.accumulation, Sharding::from(sharding));
    if !allowed.contains(&ranks) {
        let numbers = allowed.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
        return Some(format!("not with ACCUMULATION {}, which goes on {numbers} ranks", t.accumulation));
    }
    let with = difflow_trainer::config::Config { sharding, ..t.clone() };
    let problem = with.unshared().into_iter().next()?;
    Some(format!("not with {} {}", problem.key, problem.found))
}

/// A row for each value of SHARDING.
fn rows(work: &Work, cost: &Cost, ranks: u64) -> Vec<Row> {
    let micro_batches = work.trainer.accumulation;
    let row = |(name, kind): (&'static str, ShardingKind)| {
        let sharding = Sharding::from(kind);
        let refused = refused(work, ranks, kind);
        let memory = RankMemory::of(&cost.trained, Team { ranks, micro_batches, sharding });
        let sent = exchanged_bytes(cost.trained.values, ranks, micro_batches, sharding);
        Row { name, chosen: work.trainer.sharding == kind, refused, memory, sent }
    };
    ALL.into_iter().map(row).collect()
}

/// For people, as the other lines of a plan.
pub fn lines(work: &Work, cost: &Cost, ranks: u64) -> Vec<(&'static str, String)> {
    let what =
        format!("{}, memory of each by SHARDING (and more in rank 0 while it writes a checkpoint)", grouped(ranks));
    let mut lines = vec![("ranks", what)];
    for Row { name, chosen, refused, memory, sent } in rows(work, cost, ranks) {
        let mark = if chosen { " (as in the file)" } else { "" };
        if let Some(refused) = refused {
            lines.push(("", format!("{name}{mark}: {refused}")));
            continue;
        }
        // A copy for a checkpoint is in the memory of the processor.
        let place = if cost.trained.on_device { ", in host memory" } else { "" };
        let all = format!("{name}{mark}: {} (+ {}{place})", bytes(memory.total()), bytes(memory.checkpoint));
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
    let row = |Row { name, refused, memory, sent, .. }: Row| {
        json!({
            "sharding": name,
            "allowed": refused.is_none(),
            "memory_bytes": memory.total(),
            "checkpoint_bytes": memory.checkpoint,
            "memory": {
                "weights": memory.weights,
                "gradients": memory.gradients,
                "optimizer": memory.state,
                "activations": memory.activations,
                "exchange": memory.buffers,
                "process": memory.process,
            },
            "sent_bytes_per_step": sent,
        })
    };
    rows(work, cost, ranks).into_iter().map(row).collect()
}
