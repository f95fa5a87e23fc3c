//! What a run in several processes needs of each, by what each keeps.

use difflow_model::{RankMemory, Reduction, Sharding, Team, allowed_ranks, exchanged_bytes};
use difflow_trainer::config::ShardingKind;
use serde_json::{Value, json};

use crate::plan::cost::{Cost, Work};
use crate::plan::{bytes, grouped};

const ALL: [(&str, ShardingKind); 4] = [
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
    /// The ranks that there may be, where these cannot train with it.
    refused: Option<Vec<u64>>,
    memory: RankMemory,
    sent: u64,
}

/// A row for each value of SHARDING.
fn rows(work: &Work, cost: &Cost, ranks: u64) -> Vec<Row> {
    let micro_batches = work.trainer.accumulation;
    let row = |(name, kind): (&'static str, ShardingKind)| {
        let sharding = Sharding::from(kind);
        // A ring is of those that keep everything.
        let ring = sharding == Sharding::None && Reduction::from(work.trainer.reduction) == Reduction::Ring;
        let allowed = allowed_ranks(micro_batches, sharding, if ring { Reduction::Ring } else { Reduction::Tree });
        let refused = (!allowed.contains(&ranks)).then_some(allowed);
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
        if let Some(allowed) = refused {
            let numbers = allowed.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
            let accumulation = work.trainer.accumulation;
            lines.push((
                "",
                format!("{name}{mark}: not with ACCUMULATION {accumulation}, which goes on {numbers} ranks"),
            ));
            continue;
        }
        let all = format!("{name}{mark}: {} (+ {})", bytes(memory.total()), bytes(memory.checkpoint));
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
    if work.trainer.device.starts_with("cuda") {
        lines.push(("", "these are figures of ranks on the CPU".to_owned()));
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
