//! The self-test of a device: losses and gradients of small models there, against torch operations on the CPU.
//!
//! It runs every path that only the device has: attention with and without a bias, forward and backward, in fp32 and bf16, for every
//! family of norms, positions and heads. It takes seconds.

use crate::arithmetic::{Arithmetic, Precision};
use crate::batch::{MicroBatch, PADDING};
use crate::device::Device;
use crate::error::ModelError;
use crate::host::copied;
use crate::learner::Learner;
use crate::model::Model;
use crate::objective::{Blocks, Objective, ObjectiveOptions};
use crate::optimizer::AdamW;
use crate::pattern::{Context, Pattern};

/// What one comparison found.
#[derive(Debug, Clone, PartialEq)]
pub struct Compared {
    /// The model, the pattern and the precision.
    pub what: String,
    /// |loss − the CPU's| / |the CPU's|.
    pub loss: f64,
    /// ‖gradient − the CPU's‖ / ‖the CPU's‖, over all parameters.
    pub gradient: f64,
    /// What both may be at most: rounding.
    pub allowed: f64,
}

impl Compared {
    /// Whether the device computes the same within rounding. NaN is not.
    pub fn holds(&self) -> bool {
        self.loss <= self.allowed && self.gradient <= self.allowed
    }
}

const MODELS: [(&str, &str); 5] = [
    (
        "LayerNorm, learned positions, biases",
        r#"{"architectures":["GPT2LMHeadModel"],"vocab_size":301,"n_embd":128,"n_layer":2,"n_head":2,"n_positions":128,
            "initializer_range":0.1}"#,
    ),
    (
        "RMSNorm, rotary, grouped heads",
        r#"{"architectures":["LlamaForCausalLM"],"vocab_size":301,"hidden_size":128,"intermediate_size":160,
            "num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,"max_position_embeddings":128,
            "initializer_range":0.1,"tie_word_embeddings":true}"#,
    ),
    (
        "normed heads, head not tied",
        r#"{"architectures":["Qwen3ForCausalLM"],"model_type":"qwen3","vocab_size":301,"hidden_size":128,
            "intermediate_size":160,"num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,"head_dim":64,
            "max_position_embeddings":128,"initializer_range":0.1,"tie_word_embeddings":false}"#,
    ),
    (
        "halves side by side, a quarter of each head turned",
        r#"{"architectures":["GPTNeoXForCausalLM"],"vocab_size":301,"hidden_size":128,"intermediate_size":160,
            "num_hidden_layers":2,"num_attention_heads":4,"max_position_embeddings":128,"initializer_range":0.1}"#,
    ),
    (
        "norms everywhere, soft caps, windows by layer",
        r#"{"architectures":["Gemma2ForCausalLM"],"vocab_size":301,"hidden_size":128,"intermediate_size":160,
            "num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,"head_dim":32,"sliding_window":24,
            "query_pre_attn_scalar":32,"max_position_embeddings":128,"initializer_range":0.1}"#,
    ),
];

/// Compares a device with the CPU: every model, pattern and precision.
///
/// # Errors
/// When something does not run at all. That numbers differ is no error: [`Compared::holds`] says it.
pub fn self_test(device: Device) -> Result<Vec<Compared>, ModelError> {
    let mut found = Vec::new();
    for (name, json) in MODELS {
        for (pattern, documents) in patterns() {
            let batch = batch(3, 96, documents);
            let at = |device, precision, device_kernels| {
                step(json, device, (precision, device_kernels), &batch, &pattern, documents)
            };
            let wanted = at(Device::Cpu, Precision::Fp32, false)?;
            // fp32 sums in another order; bf16 has 8 bits, and a small model amplifies some of its rounding.
            let ways = [(Precision::Fp32, false, 2e-4), (Precision::Bf16, false, 4e-2), (Precision::Bf16, true, 4e-2)];
            for (precision, kernels, allowed) in ways.into_iter().filter(|way| !way.1 || device != Device::Cpu) {
                let there = at(device, precision, kernels)?;
                let apart = if documents { ", documents" } else { "" };
                found.push(Compared {
                    what: format!(
                        "{name}; {pattern:?}{apart}; {precision:?}{}",
                        if kernels { ", kernels" } else { "" }
                    ),
                    loss: (there.loss - wanted.loss).abs() / wanted.loss.abs(),
                    gradient: distance(&there.gradients, &wanted.gradients),
                    allowed,
                });
            }
        }
    }
    if device != Device::Cpu {
        for (name, json) in &MODELS[..2] {
            for documents in [false, true] {
                let what = format!("{name}; recorded updates{}", if documents { ", documents" } else { "" });
                let [plain, recorded] = [false, true].map(|recorded| updates(json, device, documents, recorded));
                let (plain, recorded) = (plain?, recorded?);
                found.push(Compared {
                    what,
                    loss: (plain.loss - recorded.loss).abs() / plain.loss.abs(),
                    gradient: distance(&recorded.gradients, &plain.gradients),
                    // Sums in the order of atomic additions, and what six updates make of it.
                    allowed: 2e-2,
                });
            }
        }
    }
    Ok(found)
}

/// The last loss and the weights after six updates of two micro-batches, most of which are recorded ones if they may be.
fn updates(json: &str, device: Device, documents: bool, recorded: bool) -> Result<Step, ModelError> {
    let mut model = Model::of_json(json, 7, device)?;
    model.set_arithmetic(Arithmetic { precision: Precision::Bf16, ..model.arithmetic() });
    model.add_mask_token(7)?;
    let options = ObjectiveOptions::recommended(Objective::Diffusion { shift: true });
    let mut learner = Learner::new(model, options, AdamW::default())?;
    if recorded {
        learner.record_updates().map_err(ModelError::Torch)?;
    }
    let mut loss = 0.0;
    for number in 0..6 {
        for rows in [3, 4] {
            let mut batch = batch(rows, 96, documents);
            batch.tokens.iter_mut().for_each(|token| *token = (*token + 17 * number) % 301);
            learner.start_micro_step(&batch, &Pattern::Full)?;
        }
        loss = learner.apply(1e-3)?.totals.weighted;
    }
    let replayed = learner.graph_use().map_or(0, |used| used.replayed);
    if recorded && replayed != 5 {
        let reason = learner.graph_use().and_then(|used| used.stopped.clone());
        return Err(ModelError::Torch(format!("{replayed} of 6 updates were recorded ones: {reason:?}")));
    }
    let weights = learner.model().parameters.iter().map(|parameter| copied(&parameter.tensor));
    Ok(Step { loss, gradients: weights.collect::<Result<Vec<_>, _>>()?.concat() })
}

fn patterns() -> [(Pattern, bool); 7] {
    let annealed = Pattern::Annealed { ratio: 0.3, seed: 1, draw: 1 };
    [
        (Pattern::Causal, false),
        (Pattern::Full, false),
        (Pattern::Full, true),
        (annealed.clone(), false),
        (annealed, true),
        (Pattern::Block { size: 16 }, false),
        (Pattern::NoisedBlocks { size: 8, context: Context::Block }, true),
    ]
}

/// A third of the tokens masked, in documents of 29 tokens and some padding, or in one.
fn batch(rows: usize, length: usize, documents: bool) -> MicroBatch {
    let hash = |i: usize| (i as u32).wrapping_mul(2_654_435_761) >> 12;
    let mut batch = MicroBatch::clean(rows, length, (0..rows * length).map(|i| hash(i) % 301).collect());
    for i in 0..rows * length {
        batch.masked[i] = batch.maskable[i] && hash(i + 991) % 3 == 0;
        if documents {
            batch.documents[i] = (i % length / 29) as u32;
        }
    }
    if documents {
        batch.documents[rows * length - 5..].fill(PADDING);
    }
    batch
}

struct Step {
    loss: f64,
    gradients: Vec<f32>,
}

fn step(
    json: &str,
    device: Device,
    (precision, device_kernels): (Precision, bool),
    batch: &MicroBatch,
    pattern: &Pattern,
    document_attention: bool,
) -> Result<Step, ModelError> {
    let mut model = Model::of_json(json, 7, device)?;
    model.set_arithmetic(Arithmetic { precision, kernels: false, device_kernels, ..model.arithmetic() });
    model.add_mask_token(7)?;
    let objective = match *pattern {
        Pattern::NoisedBlocks { size, context } => {
            Objective::Block(Blocks { size, context, shift: false, ar_weight: 0.0 })
        }
        _ => Objective::Diffusion { shift: true },
    };
    let options = ObjectiveOptions { document_attention, ..ObjectiveOptions::recommended(objective) };
    let mut learner = Learner::new(model, options, AdamW::default())?;
    let sums = learner.micro_step(batch, pattern)?;
    let gradients = learner.gradients()?.into_iter().flat_map(|(_, values)| values).collect();
    Ok(Step { loss: sums.weighted, gradients })
}

fn distance(a: &[f32], b: &[f32]) -> f64 {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let apart = norm(&mut a.iter().zip(b).map(|(a, b)| f64::from(*a) - f64::from(*b)));
    if a.len() == b.len() { apart / norm(&mut b.iter().map(|b| f64::from(*b))) } else { f64::INFINITY }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// The CPU against itself: fp32 is the reference once more, bf16 is within its rounding and not equal.
    #[test]
    fn the_cpu_passes_its_own_test() {
        crate::set_num_threads(1);
        let found = self_test(Device::Cpu).unwrap();
        assert_eq!(found.len(), 5 * 7 * 2);
        for compared in &found {
            assert!(compared.holds(), "{compared:?}");
            assert_eq!(compared.gradient == 0.0, compared.what.ends_with("Fp32"), "{compared:?}");
        }
    }

    #[test]
    fn what_differs_or_is_not_a_number_does_not_hold() {
        let compared = |loss, gradient| Compared { what: String::new(), loss, gradient, allowed: 1e-3 }.holds();
        assert!(compared(1e-4, 1e-4));
        assert!(!compared(1e-2, 1e-4) && !compared(1e-4, 1e-2) && !compared(f64::NAN, 0.0) && !compared(0.0, f64::NAN));
    }
}
