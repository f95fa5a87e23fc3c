//! What a model folder contains, read only from its headers, and how much memory training needs.

use std::collections::BTreeMap;
use std::path::Path;

use tch::Tensor;

use crate::config::{Mixture, ModelConfig};
use crate::decoder::Decoder;
use crate::device::Device;
use crate::error::ModelError;
use crate::gathered::Units;
use crate::loss::chunk_elements;
use crate::optimizer::Optimizer;
use crate::parameter::Leaf;
use crate::tensor_files::TensorFiles;

/// A model folder in numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    pub config: ModelConfig,
    /// Values in the files, buffers of old files included.
    pub parameters: u64,
    /// Values of each element type, by safetensors' name.
    pub dtypes: BTreeMap<String, u64>,
    /// Bytes of all tensors in the files.
    pub bytes: u64,
}

impl Summary {
    /// Reads config.json and the headers of the safetensors of `dir`.
    pub fn read(dir: &Path) -> Result<Self, ModelError> {
        let (config, files) = (ModelConfig::load(dir)?, TensorFiles::open_model(dir)?);
        let (mut dtypes, mut parameters, mut bytes) = (BTreeMap::new(), 0, 0);
        for (dtype, count, size) in files.contents() {
            *dtypes.entry(dtype).or_insert(0) += count;
            parameters += count;
            bytes += size;
        }
        Ok(Self { config, parameters, dtypes, bytes })
    }
}

impl ModelConfig {
    /// The leaves of a model of this shape, in order.
    pub(crate) fn leaves(&self) -> Vec<Leaf> {
        self.leaves_and_units().0
    }

    fn leaves_and_units(&self) -> (Vec<Leaf>, Option<Units>) {
        let mut leaves = Vec::new();
        // The decoder is asked what it needs; it gets no tensors, and nobody keeps it.
        let decoder = Decoder::new(self, &mut |leaf| {
            leaves.push(leaf);
            Ok(Tensor::new())
        });
        (leaves, decoder.ok().map(|decoder| decoder.units))
    }

    /// Values of the largest block, and of the two neighbours that are largest together among what a forward and a backward pass use one after
    /// the other: embeddings, blocks, head.
    pub fn unit_counts(&self) -> (u64, u64) {
        let (leaves, units) = self.leaves_and_units();
        units.map_or((0, 0), |units| {
            let values = |unit: usize| units.parameters[unit].clone().map(|leaf| leaves[leaf].values()).sum::<u64>();
            let block = (1..=units.blocks).map(values).max().unwrap_or(0);
            let pair = units.order().windows(2).map(|pair| values(pair[0]) + values(pair[1])).max();
            (block, pair.unwrap_or(0))
        })
    }

    /// Values of all parameters, a tied head counted once: what [`Summary::read`] counts in a model's files, from its shape alone.
    pub fn parameter_count(&self) -> u64 {
        self.leaves().iter().map(Leaf::values).sum()
    }

    /// Values of the largest parameter.
    pub fn largest_count(&self) -> u64 {
        self.leaves().iter().map(Leaf::values).max().unwrap_or(0)
    }

    /// Values of the experts that do not compute a token: of all layers, what it does not pass.
    pub fn idle_count(&self) -> u64 {
        let idle = |mixture: &Mixture| {
            let matrices = 3 * (mixture.count - mixture.chosen) * mixture.width * self.hidden_size;
            matrices as u64 * mixture.in_layer.iter().filter(|has| **has).count() as u64
        };
        self.experts.as_ref().map_or(0, idle)
    }

    /// Values of the hidden matrices, which are those of the blocks.
    pub fn hidden_matrix_count(&self) -> u64 {
        self.leaves().iter().filter(|leaf| leaf.matrices.is_some()).map(Leaf::values).sum()
    }
}

/// Bytes that training needs, without torch itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// fp32 weights and gradients, 8 bytes a parameter (and 2 for a bf16 copy of the layer at work), and the optimizer's state.
    pub parameters: u64,
    /// What the blocks keep for the backward pass.
    pub activations: u64,
    /// Logits and their gradient, one chunk at a time.
    pub logits: u64,
}

/// Values a token of what a block keeps.
struct Widths {
    /// The residual stream.
    hidden: u64,
    /// Queries, keys and values.
    heads: u64,
    /// Attention's result.
    attended: u64,
    /// The feed-forward block's inner results; with experts also what each of a token's gets and gives.
    inner: u64,
}

impl Widths {
    /// Of each layer.
    fn of(config: &ModelConfig) -> Vec<Self> {
        let (hidden, f) = (config.hidden_size as u64, config.intermediate_size as u64);
        let heads = (config.heads + 2 * config.kv_heads) as u64 * config.head_dim as u64;
        let attended = (config.heads * config.head_dim) as u64;
        let inner = |layer| match config.experts_of(layer) {
            Some(mixture) => mixture.chosen as u64 * (3 * mixture.width as u64 + 2 * hidden),
            None if config.gated => 3 * f,
            None => 2 * f,
        };
        (0..config.layers).map(|layer| Self { hidden, heads, attended, inner: inner(layer) }).collect()
    }
}

/// Of all layers what their blocks keep; with checkpointing their inputs, and one block at a time has the rest.
fn kept(blocks: impl Iterator<Item = u64> + Clone, input: u64, checkpointing: bool) -> u64 {
    if checkpointing { input * blocks.clone().count() as u64 + blocks.max().unwrap_or(0) } else { blocks.sum() }
}

impl Memory {
    /// Everything.
    pub fn total(&self) -> u64 {
        self.parameters + self.activations + self.logits
    }

    /// An estimate for micro-batches of `rows` × `length` tokens on difflow's own kernels, from the sizes of what a block keeps:
    /// its input, both norms' results, q, k and v, attention's result, the sum before the feed-forward block, and that block's
    /// two inner results. With `checkpointing` a block keeps its input only, and one block at a time has the rest.
    pub fn of_training(
        config: &ModelConfig,
        parameters: u64,
        optimizer: &Optimizer,
        rows: u64,
        length: u64,
        checkpointing: bool,
    ) -> Self {
        let (d, layers) = (config.hidden_size as u64, Widths::of(config));
        let blocks = layers.iter().map(|of| 4 * of.hidden + of.heads + of.attended + of.inner);
        let values = kept(blocks, d, checkpointing);
        let tokens = rows * length;
        let logits = (tokens * config.vocab_size as u64).min(chunk_elements(Device::Cpu) as u64);
        let parameters = 8 * parameters + optimizer.state_bytes(config, parameters);
        Self { parameters, activations: 4 * tokens * (values + 2 * d), logits: 4 * logits }
    }

    /// The same for bf16 on a GPU, where half of the positions carry loss. The weights are there twice, fp32 and rounded; their gradients
    /// come as the activations go, so they are not in the sum. A block keeps two fp32 sums of the residual stream, and in bf16 both norms'
    /// results, q, k and v, attention's result, and the feed-forward block's two inner results.
    pub fn of_device_training(
        config: &ModelConfig,
        parameters: u64,
        optimizer: &Optimizer,
        rows: u64,
        length: u64,
        checkpointing: bool,
    ) -> Self {
        let (d, layers) = (config.hidden_size as u64, Widths::of(config));
        let blocks = layers.iter().map(|of| 12 * of.hidden + 2 * (of.heads + of.attended + of.inner));
        let bytes = kept(blocks, 4 * d, checkpointing);
        let (tokens, positions) = (rows * length, rows * length / 2);
        let vocabulary = config.vocab_size as u64;
        // Logits in bf16, and the gradient of the head in both kinds.
        let logits = 2 * (positions * vocabulary).min(chunk_elements(Device::Cuda(0)) as u64) + 6 * vocabulary * d;
        let parameters = 6 * parameters + optimizer.state_bytes(config, parameters);
        Self { parameters, activations: tokens * bytes + positions * 10 * d, logits }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn root() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
    }

    /// The published counts of gpt2, gpt2-medium and Llama-2-7b.
    #[test]
    fn the_papers_base_models_have_as_many_parameters_as_are_published() {
        for (name, published) in [("gpt2", 124_439_808), ("gpt2-medium", 354_823_168), ("Llama-2-7b-hf", 6_738_415_616)]
        {
            let path = root().join(format!("data/experiments/shapes/{name}.json"));
            let config = ModelConfig::from_json(&std::fs::read_to_string(&path).unwrap(), &path).unwrap();
            assert_eq!(config.parameter_count(), published, "{name}");
        }
    }

    /// The published counts of Mixtral-8x7B-v0.1 and Qwen3-30B-A3B, and how many of them compute a token, in billions.
    #[test]
    fn models_with_experts_have_as_many_parameters_as_are_published_and_as_few_at_work() {
        let mixtral = r#"{"architectures":["MixtralForCausalLM"],"vocab_size":32000,"hidden_size":4096,"intermediate_size":14336,
            "num_hidden_layers":32,"num_attention_heads":32,"num_key_value_heads":8,"num_local_experts":8}"#;
        let qwen3 = r#"{"architectures":["Qwen3MoeForCausalLM"],"vocab_size":151936,"hidden_size":2048,"intermediate_size":6144,
            "num_hidden_layers":48,"num_attention_heads":32,"num_key_value_heads":4,"head_dim":128,"num_experts":128,
            "moe_intermediate_size":768,"num_experts_per_tok":8}"#;
        for (json, published, at_work) in [(mixtral, 46_702_792_704, 12.9), (qwen3, 30_532_122_624, 3.3)] {
            let config = ModelConfig::from_json(json, Path::new("config.json")).unwrap();
            assert_eq!(config.parameter_count(), published);
            let billions = (published - config.idle_count()) as f64 / 1e9;
            assert!((billions - at_work).abs() < 0.06, "{billions}");
        }
    }

    /// Measured on an H100 with bf16 and full attention (docs/RESULTS.md): the most that tensors took, in MiB.
    #[test]
    fn the_memory_of_training_on_a_gpu_is_what_was_measured() {
        let path = root().join("data/experiments/shapes/gpt2-medium.json");
        let config = ModelConfig::from_json(&std::fs::read_to_string(&path).unwrap(), &path).unwrap();
        for (rows, measured) in [(16, 19_900.0), (32, 34_138.0), (64, 62_373.0)] {
            let parameters = config.parameter_count() + config.hidden_size as u64;
            let memory =
                Memory::of_device_training(&config, parameters, &Optimizer::default(), rows, 1024, false).total();
            let off = memory as f64 / f64::from(1 << 20) / measured - 1.0;
            assert!(off.abs() < 0.1, "{rows} rows: {off}");
        }
    }

    #[test]
    fn a_count_from_the_shape_is_the_count_in_the_files() {
        let summary = Summary::read(&root().join("data/tiny/model")).unwrap();
        assert_eq!(summary.config.parameter_count(), summary.parameters);
    }
}
