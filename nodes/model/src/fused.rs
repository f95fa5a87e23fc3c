//! The CPU kernels as differentiable functions of tensors. Each has a plain torch version next to its caller, which
//! is used on other devices and in other precisions, and is compared with the kernel in tests.

use tch::{Kind, Tensor};

use crate::error::ModelError;
use crate::head;
use crate::host::{blank, read, write};
use crate::kernel::attention::{self, Plan};
use crate::kernel::pointwise;
use crate::shim::attach;

/// RMS norm over the last dimension of a plain tensor.
pub(crate) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor, ModelError> {
    let rows = x.numel() as i64 / weight.size1()?;
    let (mut y, mut inverse) = (blank(&x.size())?, blank(&[rows])?);
    // SAFETY: both were made here; nothing else has them.
    let (to, inverse_to) = unsafe { (write(&mut y)?, write(&mut inverse)?) };
    pointwise::rms_norm(read(x)?, read(weight)?, eps as f32, to, inverse_to)?;
    let (x_saved, w_saved) = (x.f_detach()?, weight.f_detach()?);
    attach(y, &[x, weight], move |gradient| {
        let gradient = gradient.f_contiguous()?;
        let mut dx = blank(&x_saved.size())?;
        let (x, w) = (read(&x_saved)?, read(&w_saved)?);
        // SAFETY: made here.
        let to = unsafe { write(&mut dx)? };
        let dw = pointwise::rms_norm_backward(x, w, read(&inverse)?, read(&gradient)?, to)?;
        Ok(vec![Some(dx), Some(Tensor::f_from_slice(&dw)?)])
    })
}

/// silu(gate) ⊙ up of plain rows `[N, 2F]`: `[N, F]`.
pub(crate) fn swiglu(gate_up: &Tensor) -> Result<Tensor, ModelError> {
    let (rows, both) = gate_up.size2()?;
    let width = both as usize / 2;
    let mut y = blank(&[rows, both / 2])?;
    // SAFETY: made here.
    pointwise::swiglu(read(gate_up)?, width, unsafe { write(&mut y)? })?;
    let saved = gate_up.f_detach()?;
    attach(y, &[gate_up], move |gradient| {
        let gradient = gradient.f_contiguous()?;
        let mut out = blank(&saved.size())?;
        // SAFETY: made here.
        pointwise::swiglu_backward(read(&saved)?, width, read(&gradient)?, unsafe { write(&mut out)? })?;
        Ok(vec![Some(out)])
    })
}

/// Rotary embedding and attention of a plain projection `[B·L, (H + 2·Hkv)·d]`: `[B·L, H·d]`.
pub(crate) fn attend(qkv: &Tensor, plan: Plan) -> Result<Tensor, ModelError> {
    let shape = plan.shape;
    let mut out = blank(&[qkv.size()[0], (shape.heads * shape.head_dim) as i64])?;
    let mut log_sums = vec![0f32; shape.rows * shape.heads * shape.length];
    // SAFETY: made here.
    attention::forward(&plan, read(qkv)?, unsafe { write(&mut out)? }, &mut log_sums)?;
    let (qkv_saved, out_saved) = (qkv.f_detach()?, out.f_detach()?);
    attach(out, &[qkv], move |gradient| {
        let gradient = gradient.f_contiguous()?;
        let mut dqkv = blank(&qkv_saved.size())?;
        let (qkv, out) = (read(&qkv_saved)?, read(&out_saved)?);
        // SAFETY: made here.
        attention::backward(&plan, qkv, out, &log_sums, read(&gradient)?, unsafe { write(&mut dqkv)? })?;
        Ok(vec![Some(dqkv)])
    })
}

/// Σ scale · cross-entropy of normed rows `[N, D]` (fp32, CPU) through the head `[V, D]`, as one number with gradients, and the
/// cross-entropy of each row in nats. Logits are capped at `cap`. They exist for `chunk` rows at a time, and gradients are computed on
/// the way; matrix products are in `kind`.
pub(crate) fn head_loss(
    rows: &Tensor,
    head: &Tensor,
    targets: &[i64],
    scale: Option<&[f32]>,
    (chunk, kind): (usize, Kind),
    cap: Option<f64>,
) -> Result<(Tensor, Vec<f32>), ModelError> {
    let count = targets.len();
    let (plain_rows, plain_head) = (rows.f_detach()?.f_to_kind(kind)?, head.f_detach()?.f_to_kind(kind)?);
    let mut losses = vec![0f32; count];
    let rows_gradient = blank(&rows.size())?;
    // With gradients, products in another kind are rounded to it and summed in fp32; products in fp32 are summed in place.
    let mut head_gradient = scale
        .filter(|_| head.requires_grad())
        .map(|_| Tensor::f_zeros(head.size(), (Kind::Float, tch::Device::Cpu)))
        .transpose()?;
    let room = blank(&[chunk as i64, head.size()[0]])?;
    tch::no_grad(|| -> Result<(), ModelError> {
        for start in (0..count).step_by(chunk) {
            let length = chunk.min(count - start);
            let (from, part_count) = (start as i64, length as i64);
            let part = plain_rows.f_narrow(0, from, part_count)?;
            let mut logits = room.f_narrow(0, 0, part_count)?;
            multiply(&mut logits, &part, &plain_head.f_transpose(0, 1)?)?;
            let steep = cap.map(|cap| head::soft_cap(&mut logits, cap)).transpose()?;
            let range = start..start + length;
            let part_scale = scale.map(|scale| &scale[range.clone()]);
            // SAFETY: a part of `room`, which was made here; no other part is read or written meanwhile.
            let values = unsafe { write(&mut logits)? };
            pointwise::cross_entropy(values, &targets[range.clone()], part_scale, &mut losses[range])?;
            if scale.is_none() {
                continue;
            }
            // The kernel has turned the logits into their gradient.
            if let Some(steep) = &steep {
                let _ = logits.f_mul_(steep)?;
            }
            let slope = logits.f_to_kind(kind)?;
            multiply(&mut rows_gradient.f_narrow(0, from, part_count)?, &slope, &plain_head)?;
            let Some(sum) = &mut head_gradient else { continue };
            let across = slope.f_transpose(0, 1)?;
            let _ = match kind {
                Kind::Float => sum.f_addmm_(&across, &part)?,
                _ => sum.f_add_(&across.f_mm(&part)?)?,
            };
        }
        Ok(())
    })?;
    let Some(scale) = scale else { return Ok((Tensor::new(), losses)) };
    let total: f64 = losses.iter().zip(scale).map(|(loss, scale)| f64::from(*loss) * f64::from(*scale)).sum();
    let total = Tensor::f_from_slice(&[total as f32])?.f_view(())?;
    let total = attach(total, &[rows, head], move |gradient| {
        // The loss is the end of the graph: its gradient is 1 unless someone scales it.
        let factor = gradient.f_double_value(&[])?;
        let scaled = |tensor: Tensor| if factor == 1.0 { Ok(tensor) } else { tensor.f_mul_scalar(factor) };
        Ok(vec![Some(scaled(rows_gradient)?), head_gradient.map(scaled).transpose()?])
    })?;
    Ok((total, losses))
}

/// to = a · b, where `to` is fp32 or of the kind of a and b.
pub(crate) fn multiply(to: &mut Tensor, a: &Tensor, b: &Tensor) -> Result<(), ModelError> {
    match a.kind() {
        Kind::Float => drop(a.f_mm_out(to, b)?),
        _ => to.f_copy_(&a.f_mm(b)?)?,
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::Ordering;

    use crate::kernel::ASKED;
    use crate::pattern::Context;
    use crate::{
        AdamW, Arithmetic, Blocks, Learner, MicroBatch, Model, Normaliser, Objective, ObjectiveKind, ObjectiveOptions,
        PADDING, Pattern, small,
    };

    const LLAMA: &str = r#"{"architectures":["LlamaForCausalLM"],"vocab_size":37,"hidden_size":24,"intermediate_size":21,
        "num_hidden_layers":2,"num_attention_heads":HEADS,"num_key_value_heads":2,"head_dim":DIM,
        "max_position_embeddings":64,"initializer_range":0.3,"tie_word_embeddings":true}"#;
    const GPT2: &str = r#"{"architectures":["GPT2LMHeadModel"],"vocab_size":37,"n_embd":DIM,"n_layer":2,"n_head":2,
        "n_positions":64,"initializer_range":0.3}"#;

    fn model(json: &str, heads: usize, dim: usize) -> Model {
        let mut model = small::model(&json.replace("HEADS", &heads.to_string()).replace("DIM", &dim.to_string()));
        model.add_mask_token(7).unwrap();
        model
    }

    fn batch(rows: usize, length: usize) -> MicroBatch {
        let hash = |i: usize| (i as u32).wrapping_mul(2_654_435_761) >> 12;
        let mut batch = MicroBatch::clean(rows, length, (0..rows * length).map(|i| hash(i) % 37).collect());
        for i in 0..rows * length {
            batch.masked[i] = batch.maskable[i] && hash(i + 991) % 3 > 0;
            batch.documents[i] = (i % length / 11) as u32;
        }
        batch.documents[rows * length - 3..].fill(PADDING);
        batch
    }

    /// Losses by row and gradients of all parameters. Blocks are those of a document, so nothing crosses them.
    fn slopes(
        model: Model,
        batch: &MicroBatch,
        pattern: &Pattern,
        crossing: bool,
    ) -> (Vec<f64>, Vec<(String, Vec<f32>)>) {
        let objective = match *pattern {
            Pattern::NoisedBlocks { size, context } => {
                Objective::Block(Blocks { size, context, shift: false, ar_weight: 0.0 })
            }
            _ => Objective::Diffusion { shift: true },
        };
        let crossing = crossing && objective.kind() != ObjectiveKind::Block;
        let options = ObjectiveOptions { document_attention: !crossing, ..ObjectiveOptions::recommended(objective) };
        let mut learner = Learner::new(model, options, AdamW::default()).unwrap();
        let sums = learner.micro_step(batch, pattern).unwrap();
        (sums.rows.iter().map(|row| row.weighted).collect(), learner.gradients().unwrap())
    }

    /// The instruction set is one for the process: tests that compare bits and tests that change it wait for each other.
    static LEVEL: Mutex<()> = Mutex::new(());

    /// The kernels against torch operations: losses and every gradient, for sizes that do and do not fill a vector.
    #[test]
    fn kernels_equal_torch_operations() {
        let _alone = LEVEL.lock().unwrap();
        compare(&[(LLAMA, 4, 8), (LLAMA, 6, 16), (LLAMA, 2, 10), (LLAMA, 2, 24), (GPT2, 2, 12), (GPT2, 2, 64)]);
    }

    /// Parts of heads turned, soft caps, scales, norms everywhere, halves side by side, windows and embeddings by layer.
    #[test]
    fn kernels_equal_torch_operations_in_every_family() {
        let _alone = LEVEL.lock().unwrap();
        compare(&small::FAMILIES.map(|(_, json)| (json, 0, 0)));
        for level in [1, 2] {
            ASKED.store(level, Ordering::Relaxed);
            let (_, gemma2) = small::FAMILIES[3];
            compare(&[(gemma2, 0, 0)]);
        }
        ASKED.store(0, Ordering::Relaxed);
    }

    /// What no formula of ours is asked: how the loss changes when all weights go a little along their gradient.
    #[test]
    fn gradients_are_the_slope_of_the_loss_in_every_family() {
        crate::set_num_threads(1);
        for (name, json) in small::FAMILIES {
            for kernels in [true, false] {
                let batch = batch(3, 40);
                let own = || {
                    let mut own = model(json, 0, 0);
                    own.set_arithmetic(Arithmetic { kernels, ..own.arithmetic() });
                    own
                };
                let options = ObjectiveOptions {
                    normaliser: Normaliser::MaskedTokens,
                    ..ObjectiveOptions::recommended(Objective::Diffusion { shift: true })
                };
                let mut learner = Learner::new(own(), options, AdamW::default()).unwrap();
                let positions = learner.micro_step(&batch, &Pattern::Full).unwrap().positions as f64;
                let slopes: Vec<tch::Tensor> =
                    learner.model().parameters.iter().map(|parameter| parameter.tensor.grad()).collect();
                let norm: f64 = slopes.iter().map(|g| g.square().sum(tch::Kind::Double).double_value(&[])).sum();
                let moved = |step: f64| {
                    let own = own();
                    for (parameter, slope) in own.parameters.iter().zip(&slopes) {
                        tch::no_grad(|| _ = parameter.tensor.shallow_clone().f_add_(&(slope * step)).unwrap());
                    }
                    own.nelbo_sums(&batch, &Pattern::Full, options).unwrap().weighted / positions
                };
                // The loss moves by about a thousandth of itself.
                let step = 1e-3 * moved(0.0) / norm;
                let found = (moved(step) - moved(-step)) / (2.0 * step);
                let factor = found / norm;
                assert!((factor - 1.0).abs() < 3e-3, "{name}, kernels {kernels}: {factor}");
            }
        }
    }

    /// The same for machines without AVX-512, and without AVX2.
    #[test]
    fn kernels_equal_torch_operations_on_lesser_machines() {
        let _alone = LEVEL.lock().unwrap();
        for level in [1, 2] {
            ASKED.store(level, Ordering::Relaxed);
            compare(&[(LLAMA, 6, 16), (GPT2, 2, 12)]);
        }
        ASKED.store(0, Ordering::Relaxed);
    }

    fn compare(models: &[(&str, usize, usize)]) {
        // Small operations on a busy machine: threads would mostly wait for each other.
        crate::set_num_threads(1);
        let annealed = Pattern::Annealed { ratio: 0.3, seed: 1, draw: 1 };
        let blocks = Pattern::NoisedBlocks { size: 4, context: Context::Block };
        let patterns =
            [Pattern::Causal, Pattern::Full, annealed, Pattern::Band { right: 3 }, Pattern::Block { size: 5 }, blocks];
        for &(json, heads, dim) in models {
            for (pattern, length) in patterns.iter().zip([33, 64, 40, 7, 50, 45]) {
                for crossing in [false, true] {
                    let batch = batch(3, length);
                    let mut plain = model(json, heads, dim);
                    plain.set_arithmetic(Arithmetic { kernels: false, ..plain.arithmetic() });
                    let (wanted, wanted_slopes) = slopes(plain, &batch, pattern, crossing);
                    let (found, found_slopes) = slopes(model(json, heads, dim), &batch, pattern, crossing);
                    let what =
                        format!("{json}, {heads} heads of {dim}, {pattern:?}, length {length}, crossing {crossing}");
                    // Sums in another order have other last bits: equal ones would be torch's operations twice.
                    assert!(found_slopes != wanted_slopes, "{what}: the kernels did not run");
                    for (a, b) in wanted.iter().zip(&found) {
                        assert!((a - b).abs() < 1e-4 * a.abs().max(1.0), "{what}: {a} {b}");
                    }
                    let scale = wanted_slopes.iter().flat_map(|(_, g)| g).fold(0f32, |a, g| a.max(g.abs()));
                    for ((name, a), (_, b)) in wanted_slopes.iter().zip(&found_slopes) {
                        let gap = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                        assert!(gap < 2e-5 * scale, "{what}, {name}: {gap} of {scale}");
                        assert!(b.iter().all(|x| x.is_finite()), "{what}, {name}");
                    }
                }
            }
        }
    }

    /// Chunks bound memory and must not change what is computed.
    #[test]
    fn losses_in_chunks_equal_losses_at_once() {
        let (batch, pattern) = (batch(3, 40), Pattern::Full);
        for fused in [true, false] {
            let with = |elements: usize| {
                let mut model = model(LLAMA, 4, 8);
                model.set_arithmetic(Arithmetic { kernels: fused, ..model.arithmetic() });
                model.chunk_elements = elements;
                slopes(model, &batch, &pattern, false)
            };
            let ((whole, wanted), (parts, found)) = (with(1 << 20), with(38 * 7));
            assert!(whole.iter().zip(&parts).all(|(a, b)| (a - b).abs() < 1e-4));
            for ((name, a), (_, b)) in wanted.iter().zip(&found) {
                assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-4), "{name}");
            }
        }
    }

    /// Guards reproducibility: sums must not depend on which thread did which part.
    #[test]
    fn the_same_inputs_give_the_same_bits() {
        let _alone = LEVEL.lock().unwrap();
        crate::set_num_threads(4);
        let (batch, pattern) = (batch(8, 60), Pattern::Annealed { ratio: 0.5, seed: 1, draw: 1 });
        for json in [LLAMA, small::MIXTRAL] {
            let once = || slopes(model(json, 4, 8), &batch, &pattern, false);
            let first = once();
            for _ in 0..5 {
                assert!(first == once());
            }
        }
    }
}
