//! How much memory one of several processes that train a model needs.

use tch::Tensor;

use crate::config::ModelConfig;
use crate::decoder::Decoder;
use crate::exchange::{ROOMS, full_round};
use crate::optimizer::Optimizer;
use crate::parameter::Leaf;
use crate::ranks::Sharding;
use crate::sum::most_nodes;
use crate::summary::Memory;

/// Bytes of a process before it has a model: libtorch, mostly.
const PROCESS: u64 = 250_000_000;
/// The same of a device's memory: CUDA's context, NCCL's buffers, and what lies between tensors. Assumed.
const DEVICE: u64 = 1_500_000_000;

/// The ranks, and how they share a step out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Team {
    pub ranks: u64,
    /// Of a step, of all ranks together.
    pub micro_batches: u64,
    pub sharding: Sharding,
}

impl Team {
    /// Values of all ranks together that are exchanged at a time; gradients that come wait until they are as many.
    pub fn round(&self) -> u64 {
        full_round(self.ranks as usize) as u64
    }
}

impl ModelConfig {
    /// Values of each parameter of what is used together: the embeddings, each block, the last norm, and the output head where it is a
    /// matrix of its own. `rows` are added to the vocabulary.
    pub fn unit_values(&self, rows: u64) -> Vec<Vec<u64>> {
        let mut leaves = Vec::new();
        let decoder = Decoder::new(self, &mut |leaf: Leaf| {
            leaves.push(leaf.values() + if leaf.vocabulary { rows * self.hidden_size as u64 } else { 0 });
            Ok(Tensor::new())
        });
        let units = decoder.map_or_else(|_| Vec::new(), |decoder| decoder.units.parameters);
        units.into_iter().map(|unit| leaves[unit].to_vec()).collect()
    }
}

/// What is trained, as one process keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trained {
    /// Bytes of weights, of their average, and of a base model beside them.
    pub weights: u64,
    /// Values that have gradients.
    pub values: u64,
    /// Bytes of the optimizer's state.
    pub state: u64,
    /// Bytes that a forward and backward pass keeps.
    pub activations: u64,
    /// Values of the largest parameter.
    pub largest: u64,
    /// Whether embeddings and head are one parameter, whose two gradients are added.
    pub tied: bool,
    /// Bytes of copies that a forward makes of all weights and keeps for the backward pass; counted in `weights`, too.
    pub rounded: u64,
    /// Values of the largest block, and of the two neighbours that are largest together.
    pub units: (u64, u64),
    /// Whether all of this is in the memory of a GPU, where gradients come as activations go.
    pub on_device: bool,
}

impl Trained {
    /// All weights of a model with so many (more than `config` says, where a mask token was added), by micro-batches of so many rows of so
    /// many tokens.
    pub fn whole(config: &ModelConfig, parameters: u64, optimizer: &Optimizer, rows: u64, length: u64) -> Self {
        let memory = Memory::of_training(config, parameters, optimizer, rows, length, false);
        Self {
            weights: 4 * parameters,
            values: parameters,
            state: optimizer.state_bytes(config, parameters),
            activations: memory.activations + memory.logits,
            largest: config.largest_count(),
            tied: config.tied,
            rounded: 0,
            units: config.unit_counts(),
            on_device: false,
        }
    }
}

/// Bytes that a rank needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RankMemory {
    pub process: u64,
    /// As one process keeps them, or its share and what is gathered: what is used, and what comes while it is.
    pub weights: u64,
    /// Sums of gradients, and the gradients that are added to them.
    pub gradients: u64,
    /// The optimizer's state.
    pub state: u64,
    /// With logits.
    pub activations: u64,
    /// What is exchanged at a time.
    pub buffers: u64,
    /// A copy of the weights, in rank 0 while it writes a checkpoint, where it has them; and of the optimizer's state, where each rank has all of
    /// it.
    pub checkpoint: u64,
}

impl RankMemory {
    /// Of one of several ranks.
    pub fn of(trained: &Trained, team: Team) -> Self {
        let Trained { weights, values, state, activations, largest, tied, rounded, units, on_device } = *trained;
        let (block, pair) = units;
        let Team { ranks, micro_batches, sharding } = team;
        let share = |of: u64| if sharding == Sharding::None { of } else { of.div_ceil(ranks) };
        let own = (micro_batches / ranks).max(1);
        let again = if tied { largest } else { 0 };
        // Of gradients that come in the place of activations, what is more than those.
        let beyond = |coming: u64| if on_device { coming.saturating_sub(activations / 4) } else { coming };
        // Those that come, until they have been exchanged.
        let passing = (team.round() + largest).min(values) + again;
        let gradients = match sharding {
            // Of the micro-batches before the last one, one for each digit of their number; and the sum of a share. Without shares, those of a
            // single micro-batch stay, too, or its process is the only one.
            Sharding::None | Sharding::Optimizer => {
                let sum = if ranks > 1 { values.div_ceil(ranks) } else { 0 };
                let stay = ranks == 1 || (sharding == Sharding::None && own == 1);
                let coming = if stay { values + again } else { passing };
                values * u64::from(own.ilog2()) + beyond(coming) + sum
            }
            Sharding::Gradients => {
                // The first come while all activations are there.
                let first = team.round().min(passing);
                share(values) * most_nodes(micro_batches, ranks) + first + beyond(passing - first)
            }
            // Those of a block, or of the embeddings, wait until all of them are there.
            Sharding::Parameters => share(values) * most_nodes(micro_batches, ranks) + block.max(largest) + again,
        };
        // What each gives and gets in a round.
        let buffers = if ranks > 1 { 4 * 2 * ROOMS as u64 * values.min(team.round()) } else { 0 };
        let copied = match sharding {
            Sharding::None => 4 * values + state,
            Sharding::Optimizer | Sharding::Gradients => 4 * values,
            Sharding::Parameters => 0,
        };
        Self {
            process: if on_device { DEVICE } else { PROCESS },
            weights: match sharding {
                // What units leave when they go is not all used again: as much as two neighbours need, by what was measured.
                Sharding::Parameters => share(weights) + rounded - share(rounded) + 4 * 2 * pair,
                _ => weights,
            },
            gradients: 4 * gradients,
            state: share(state),
            activations,
            buffers,
            checkpoint: copied,
        }
    }

    /// While it trains.
    pub fn total(&self) -> u64 {
        self.process + self.weights + self.gradients + self.state + self.activations + self.buffers
    }

    /// Of rank 0, while it trains and writes a checkpoint.
    pub fn with_checkpoint(&self) -> u64 {
        self.total() + self.checkpoint
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Measured by the bench `ranks` with `memory` (docs/RANKS.md): the most that a rank held, in MB, in training and, of rank 0, with a
    /// checkpoint to be written.
    const MEASURED: [(u64, Sharding, f64, f64); 9] = [
        (1, Sharding::None, 2880.0, 4063.0),
        (2, Sharding::None, 2360.0, 3505.0),
        (2, Sharding::Optimizer, 1958.0, 2304.0),
        (2, Sharding::Gradients, 1500.0, 1916.0),
        (2, Sharding::Parameters, 1663.0, 1663.0),
        (4, Sharding::None, 2084.0, 3261.0),
        (4, Sharding::Optimizer, 1197.0, 1579.0),
        (4, Sharding::Gradients, 1196.0, 1577.0),
        (4, Sharding::Parameters, 1220.0, 1221.0),
    ];

    #[test]
    fn the_memory_of_a_rank_is_what_was_measured() {
        let json = r#"{"architectures": ["GPT2LMHeadModel"], "n_positions": 1024, "vocab_size": 16384, "n_embd": 768, "n_layer": 12,
            "n_head": 12}"#;
        let config = ModelConfig::from_json(json, Path::new("config.json")).unwrap();
        let trained = Trained::whole(&config, config.parameter_count() + 768, &Optimizer::default(), 1, 256);
        for (ranks, sharding, training, with_checkpoint) in MEASURED {
            let memory = RankMemory::of(&trained, Team { ranks, micro_batches: 4, sharding });
            for (planned, measured) in [(memory.total(), training), (memory.with_checkpoint(), with_checkpoint)] {
                let off = planned as f64 / 1e6 / measured - 1.0;
                assert!(off.abs() < 0.15, "{ranks} ranks, {sharding:?}: {planned} for {measured} MB");
            }
        }
    }

    /// 100 values: a micro-batch's gradients take over the 200 bytes of its activations, and those of two more are kept beside the next one's;
    /// and the sum of a half.
    #[test]
    fn on_a_gpu_gradients_come_in_the_place_of_activations() {
        let on_device = |activations, micro_batches| {
            let trained = Trained {
                weights: 600,
                values: 100,
                state: 800,
                activations,
                largest: 10,
                tied: false,
                rounded: 0,
                units: (10, 20),
                on_device: true,
            };
            RankMemory::of(&trained, Team { ranks: 2, micro_batches, sharding: Sharding::None }).gradients
        };
        assert_eq!([on_device(200, 2), on_device(1000, 2)], [200 + 200, 200]);
        assert_eq!([on_device(200, 8), on_device(1000, 8)], [200 + 800 + 200, 800 + 200]);
    }

    #[test]
    fn the_values_of_all_units_are_those_of_the_model() {
        for (tied, units) in [(true, 14), (false, 15)] {
            let json = format!(
                r#"{{"architectures": ["GPT2LMHeadModel"], "n_positions": 1024, "vocab_size": 50257, "n_embd": 768, "n_layer": 12,
                    "n_head": 12, "tie_word_embeddings": {tied}}}"#
            );
            let config = ModelConfig::from_json(&json, Path::new("config.json")).unwrap();
            let of = |rows| config.unit_values(rows);
            let sum = |of: &[Vec<u64>]| of.iter().flatten().sum::<u64>();
            assert_eq!((of(0).len(), sum(&of(0))), (units, config.parameter_count()));
            // A row of the embeddings, and of a head of its own.
            assert_eq!(sum(&of(1)) - sum(&of(0)), if tied { 768 } else { 2 * 768 });
        }
    }
}
