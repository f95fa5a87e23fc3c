//! Keys for several ranks, and what they cannot be together with.

use difflow_model::{Reduction, Sharding, Transport, allowed_ranks};
use difflow_node_kit::Problem;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::{ArithmeticKind, Config, OptimizerKind};

/// What each of several ranks keeps of weights, gradients and optimizer.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ShardingKind {
    /// Everything.
    #[default]
    None,
    /// The optimizer's state of its share of the parameters (ZeRO-1).
    Optimizer,
    /// And the sum of the gradients of its share (ZeRO-2): those of a micro-batch are exchanged block by block in the backward pass, so a step
    /// exchanges as often as a rank has micro-batches.
    Gradients,
    /// And the weights of its share, and of their average (ZeRO-3): no rank ever has the whole model. A block's weights are gathered for its
    /// forward and once more for its backward pass, while the block before it is computed. Not for Muon, adapters, alignment and torch models.
    Parameters,
}

/// In which order the gradients of several ranks are added up.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ReductionKind {
    /// As one process adds them, whatever the number of ranks: the bytes of the result are the same.
    #[default]
    Tree,
    /// As libtorch's all_reduce adds them, around a ring: the last bits depend on the number of ranks. With SHARDING: none only.
    Ring,
}

/// How several ranks exchange what is on their GPUs.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TransportKind {
    /// By NCCL where each has a GPU of its own, and difflow's library for it is there; else through host memory.
    #[default]
    Auto,
    /// By NCCL, from GPU to GPU.
    Nccl,
    /// Through host memory.
    Host,
}

impl From<TransportKind> for Transport {
    fn from(kind: TransportKind) -> Self {
        match kind {
            TransportKind::Auto => Self::Auto,
            TransportKind::Nccl => Self::Nccl,
            TransportKind::Host => Self::Host,
        }
    }
}

impl From<ReductionKind> for Reduction {
    fn from(kind: ReductionKind) -> Self {
        match kind {
            ReductionKind::Tree => Self::Tree,
            ReductionKind::Ring => Self::Ring,
        }
    }
}

impl From<ShardingKind> for Sharding {
    fn from(kind: ShardingKind) -> Self {
        match kind {
            ShardingKind::None => Self::None,
            ShardingKind::Optimizer => Self::Optimizer,
            ShardingKind::Gradients => Self::Gradients,
            ShardingKind::Parameters => Self::Parameters,
        }
    }
}

impl Config {
    /// The numbers of ranks that can share the micro-batches of a step.
    pub fn allowed_ranks(&self) -> Vec<u64> {
        allowed_ranks(self.accumulation, self.sharding.into(), self.reduction.into())
    }

    /// What several ranks cannot keep shares of.
    pub fn unshared(&self) -> Vec<Problem> {
        if self.reduction == ReductionKind::Ring && self.sharding != ShardingKind::None {
            let allowed = "tree; or SHARDING: none: with shares, each is exchanged once, as in a ring";
            return vec![Problem::new("REDUCTION", "ring", allowed)];
        }
        if self.sharding != ShardingKind::Parameters {
            return Vec::new();
        }
        let no = |key: &str, found: String, allowed: &str| {
            Problem::new(key, found, format!("allowed with SHARDING: parameters: {allowed}; or SHARDING: gradients"))
        };
        let mut problems = Vec::new();
        if self.device.starts_with("cuda") {
            problems.push(no("DEVICE", self.device.clone(), "cpu, so far"));
        }
        if self.arithmetic == ArithmeticKind::Torch {
            problems.push(no(
                "ARITHMETIC",
                "torch".to_owned(),
                "difflow, as torch's own updates want the whole weights",
            ));
        }
        if self.optimizer == OptimizerKind::Muon {
            problems.push(no("OPTIMIZER", "muon".to_owned(), "adamw, as Muon updates matrices as a whole"));
        }
        if self.lora_rank > 0 {
            problems.push(no("LORA_RANK", self.lora_rank.to_string(), "0, as all weights must be trained"));
        }
        if self.align_weight > 0.0 {
            problems.push(no(
                "ALIGN_WEIGHT",
                self.align_weight.to_string(),
                "0, as each rank would need the whole base model",
            ));
        }
        if !self.torch_model.is_empty() {
            problems.push(no(
                "TORCH_MODEL",
                self.torch_model.clone(),
                "none, as only difflow knows what a block of its own models needs",
            ));
        }
        problems
    }
}
