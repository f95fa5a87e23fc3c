//! Forward passes that return sums of cross-entropy, with or without gradients.
//!
//! Only positions that carry loss reach the output head, in chunks, so the logits of a whole batch are never in
//! memory at once. When a batch needs several chunks, each chunk's gradient is computed immediately and propagated
//! through the selected hidden states.

use tch::{Kind, Reduction, Tensor};

use crate::alignment::Alignment;
use crate::arithmetic::Arithmetic;
use crate::batch::MicroBatch;
use crate::caught::caught;
use crate::device::Device;
use crate::error::ModelError;
use crate::experts::balance;
use crate::fused;
use crate::head;
use crate::host::copied;
use crate::input::real;
use crate::model::Model;
use crate::objective::{Objective, ObjectiveOptions, Selection};
use crate::part::{Given, Ready, Wanted};
use crate::pattern::Pattern;
use crate::reducer::Reducer;
use crate::step_sums::{StepSums, Sums};

/// What a micro-step learns from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lesson<'a> {
    pub divisor: Divisor,
    /// Beside the objective.
    pub alignment: Option<&'a Alignment>,
    /// Of the routers' loss beside the objective; 0 for none.
    pub router_weight: f64,
    /// Who hears which backward pass is the last.
    pub reducer: &'a dyn Reducer,
}

/// What the gradients of a micro-step are divided by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Divisor {
    Number(f64),
    /// The positions of the micro-batch that carry loss.
    Positions,
}

/// Logits held at once, in elements: 64 MiB of fp32 on the CPU; on a GPU, whose products want many rows, 1 GiB of bf16.
pub(crate) fn chunk_elements(device: Device) -> usize {
    match device {
        Device::Cpu => 1 << 24,
        Device::Cuda(_) => 1 << 29,
    }
}

/// The losses of a micro-batch, perhaps still on the device.
#[derive(Debug)]
pub(crate) struct Losses {
    /// What is known without them.
    known: StepSums,
    parts: Vec<PartLosses>,
}

/// Those of the rows that one forward read.
#[derive(Debug)]
struct PartLosses {
    /// Numbers of the rows in the batch.
    rows: Vec<usize>,
    selection: Selection,
    values: Values,
    /// Distances to the base model's hidden states: fp32 `[m]`.
    distances: Option<Tensor>,
    balance: Option<Balance>,
}

/// The load-balancing loss of one forward.
#[derive(Debug)]
struct Balance {
    /// fp32 `[1]`.
    loss: Tensor,
    /// As [`StepSums::balanced`].
    balanced: u64,
}

#[derive(Debug)]
pub(crate) enum Values {
    /// A CPU kernel's.
    Here(Vec<f32>),
    /// fp32 `[n]`.
    There(Tensor),
}

impl Values {
    /// Those that are in a tensor.
    pub fn there(&self) -> Option<&Tensor> {
        match self {
            Self::Here(_) => None,
            Self::There(tensor) => Some(tensor),
        }
    }

    /// The same, without a copy of a tensor.
    pub fn share(&self) -> Self {
        match self {
            Self::Here(values) => Self::Here(values.clone()),
            Self::There(tensor) => Self::There(tensor.shallow_clone()),
        }
    }
}

impl Losses {
    /// Of these parts: each has the numbers of its rows, what it predicts and the losses of that.
    pub fn new(known: StepSums, parts: impl Iterator<Item = (Vec<usize>, Selection, Values)>) -> Self {
        let part = |(rows, selection, values)| PartLosses { rows, selection, values, distances: None, balance: None };
        Self { known, parts: parts.map(part).collect() }
    }

    /// What is known without reading anything: how many positions of each kind there are; the losses are 0.
    pub fn counted(&self) -> Sums {
        let mut sums = self.known.counted();
        for PartLosses { selection, distances, balance, .. } in &self.parts {
            sums.count(selection);
            sums.aligned += distances.as_ref().map_or(0, |distances| distances.numel() as u64);
            sums.balanced += balance.as_ref().map_or(0, |balance| balance.balanced);
        }
        sums
    }

    /// Those that are in tensors, in order.
    pub fn there(&self) -> impl Iterator<Item = &Tensor> {
        self.parts.iter().flat_map(|part| {
            part.values
                .there()
                .into_iter()
                .chain(&part.distances)
                .chain(part.balance.as_ref().map(|balance| &balance.loss))
        })
    }

    /// The sums, reading what is on a device.
    pub fn read(&self) -> Result<StepSums, ModelError> {
        let there = self.there().map(copied).collect::<Result<Vec<_>, _>>()?;
        Ok(self.sums(&there.concat()))
    }

    /// The sums, where the values of [`Losses::there`] are these.
    pub fn sums(&self, there: &[f32]) -> StepSums {
        let (mut sums, mut there) = (self.known.clone(), there.iter().copied());
        for PartLosses { rows, selection, values, distances, balance } in &self.parts {
            match values {
                Values::Here(losses) => sums.add(rows, selection, losses),
                Values::There(tensor) => {
                    // Behind them may be those of the positions that fill the shape up.
                    let losses: Vec<f32> = there.by_ref().take(tensor.numel()).collect();
                    sums.add(rows, selection, &losses[..selection.target.len()]);
                }
            }
            for distance in there.by_ref().take(distances.as_ref().map_or(0, Tensor::numel)) {
                sums.distance += f64::from(distance);
                sums.aligned += 1;
            }
            if let Some(Balance { balanced, .. }) = balance {
                sums.balance += f64::from(there.next().unwrap_or(f32::NAN)) * *balanced as f64;
                sums.balanced += balanced;
            }
        }
        sums.totalled()
    }
}

impl Model {
    /// Diffusion loss sums of a noised batch, without gradients. `maskable` tokens of the batch are the denominator that makes
    /// `weighted` the NELBO in nats a token.
    pub fn nelbo_sums(
        &self,
        batch: &MicroBatch,
        pattern: &Pattern,
        options: ObjectiveOptions,
    ) -> Result<StepSums, ModelError> {
        caught(|| tch::no_grad(|| self.losses(batch, pattern, options, self.arithmetic, None)?.read()))
    }

    /// Next-token loss sums under causal attention, without gradients; each document is read alone.
    pub fn ar_sums(&self, batch: &MicroBatch) -> Result<StepSums, ModelError> {
        let options = ObjectiveOptions::recommended(Objective::Ar);
        caught(|| tch::no_grad(|| self.losses(batch, &Pattern::Causal, options, self.arithmetic, None)?.read()))
    }

    /// Losses of one micro-batch; with a lesson, gradients of weighted sum / divisor are added to the parameters'. Reads nothing back
    /// from a device.
    pub(crate) fn losses(
        &self,
        batch: &MicroBatch,
        pattern: &Pattern,
        options: ObjectiveOptions,
        how: Arithmetic,
        lesson: Option<Lesson<'_>>,
    ) -> Result<Losses, ModelError> {
        let asked = lesson.map(|lesson| lesson.divisor);
        let (parts, known, divisor) = self.ready(batch, pattern, options, how, asked)?;
        let (mut losses, last) = (Losses { known, parts: Vec::with_capacity(parts.len()) }, parts.len());
        if let Some(lesson) = lesson {
            lesson.reducer.passes(last as u64)?;
        }
        for (number, part) in parts.into_iter().enumerate() {
            let Ready { rows, batch, selection, copies, given } = part;
            let batch = batch.as_ref();
            let pairs = match lesson.and_then(|lesson| lesson.alignment) {
                Some(alignment) => alignment.pairs(&selection, batch)?.map(|pairs| (alignment, pairs)),
                None => None,
            };
            let router_weight = lesson.map_or(0.0, |lesson| lesson.router_weight);
            let (mut layers, mut routed) = (Vec::new(), Vec::new());
            let predicting = if pairs.is_none() && router_weight == 0.0 {
                self.predicting(&given, how, lesson.is_some())?
            } else {
                let hidden = self.decoder.layers(&given.ids, &given.attention, how, &mut |layer| {
                    if pairs.is_some() {
                        layers.push(layer.rows);
                    }
                    routed.extend(layer.routed);
                    Ok(())
                })?;
                hidden.f_index_select(0, &given.index)?
            };
            let near = match &pairs {
                None => None,
                Some((alignment, pairs)) => {
                    let distances = alignment.distances(&layers, pairs, batch, options.document_attention)?;
                    let loss = distances.f_sum(Kind::Float)?;
                    let loss = loss.f_mul_scalar(alignment.weight / divisor)?;
                    Some((loss, distances.f_detach()?))
                }
            };
            let (near, distances) = near.unzip();
            let even = if router_weight == 0.0 { None } else { balance(&routed, &real(batch, copies))? };
            let balanced = match asked {
                Some(Divisor::Positions) => selection.own as u64,
                Some(Divisor::Number(_)) | None => batch.maskable_tokens(),
            };
            let balance = match &even {
                None => None,
                Some(loss) => Some(Balance { loss: loss.f_detach()?.f_view(1)?, balanced }),
            };
            // As much of it as there is of the objective in this forward.
            let weight = router_weight * balanced as f64 / divisor;
            let even = even.map(|loss| loss.f_mul_scalar(weight)).transpose()?;
            let beside = match (near, even) {
                (Some(near), Some(even)) => Some(near.f_add(&even)?),
                (near, even) => near.or(even),
            };
            if let Some(lesson) = lesson.filter(|_| number + 1 == last) {
                lesson.reducer.last_pass();
            }
            let values = self.head_losses(&predicting, &given.wanted, beside.as_ref(), how)?;
            losses.parts.push(PartLosses { rows, selection, values, distances, balance });
        }
        Ok(losses)
    }

    /// Hidden states before the last norm, `[n, D]`, of the rows that predict.
    pub(crate) fn predicting(&self, given: &Given, how: Arithmetic, train: bool) -> Result<Tensor, ModelError> {
        self.decoder.hidden_of(&given.ids, &given.attention, how, train, &given.index)
    }

    /// Cross-entropy, in nats, of each token as a row of hidden states before the last norm, `[N, D]`, predicts it; without gradients.
    pub(crate) fn cross_entropies(&self, rows: &Tensor, target: Vec<i64>) -> Result<Vec<f32>, ModelError> {
        let wanted = Wanted::new(self, self.arithmetic, &target, None)?;
        match caught(|| self.head_losses(rows, &wanted, None, self.arithmetic))? {
            Values::Here(losses) => Ok(losses),
            Values::There(losses) => copied(&losses),
        }
    }

    /// Cross-entropy of each row's token, in nats; with a scale, the gradients of their scaled sum and of the loss `beside` it.
    pub(crate) fn head_losses(
        &self,
        rows: &Tensor,
        wanted: &Wanted,
        beside: Option<&Tensor>,
        how: Arithmetic,
    ) -> Result<Values, ModelError> {
        let backward = |total: Tensor| -> Result<(), ModelError> {
            let total = match beside {
                None => total,
                Some(beside) => total.f_add(beside)?,
            };
            Ok(total.f_backward()?)
        };
        let chunk = |count: usize| (self.chunk_elements / self.config.vocab_size).clamp(1, count);
        match (wanted, self.decoder.own()) {
            (Wanted::Here { target, scale }, Some(decoder)) => {
                let (sizes, cap) = ((chunk(target.len()), how.kind()), self.config.logit_softcap);
                let (total, losses) = decoder.used_last(|| {
                    let (normed, head) = (decoder.normed(rows, how)?, &decoder.head().master);
                    fused::head_loss(&normed, head, target, scale.as_deref(), sizes, cap)
                })?;
                if scale.is_some() {
                    backward(total)?;
                }
                Ok(Values::Here(losses))
            }
            (Wanted::There { target, scale }, Some(decoder)) => {
                let (normed, sizes) = (decoder.normed(rows, how)?, (chunk(target.numel()), self.config.logit_softcap));
                let (total, losses) = head::loss(&normed, decoder.head(), target, scale.as_ref(), sizes, how)?;
                if scale.is_some() {
                    backward(total)?;
                }
                Ok(Values::There(losses))
            }
            // A plug-in's model has made all logits already.
            (Wanted::There { target, scale }, None) => {
                let loss = rows.f_cross_entropy_loss(target, None::<Tensor>, Reduction::None, -100, 0.0)?;
                if let Some(scale) = scale {
                    backward(loss.f_mul(scale)?.f_sum(Kind::Float)?)?;
                }
                Ok(Values::There(loss.f_detach()?))
            }
            (Wanted::Here { .. }, None) => Err(ModelError::Torch("a CPU kernel for a plug-in's model".to_owned())),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::attention::Attention;
    use crate::input::Input;
    use crate::pattern::Context;

    /// What the clean text's own predictions, and decoding with its cache, rest on: it is read as the base model reads it, to the bit.
    #[test]
    fn the_clean_half_is_the_base_models_forward() {
        let config = r#"{"architectures":["LlamaForCausalLM"],"vocab_size":37,"hidden_size":24,"intermediate_size":21,
            "num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,"max_position_embeddings":64,
            "initializer_range":0.3,"tie_word_embeddings":true}"#;
        let dir = tempfile::TempDir::new().unwrap();
        std::fs::write(dir.path().join("config.json"), config).unwrap();
        let mut model = Model::initialise(dir.path(), 7, Device::Cpu).unwrap();
        model.add_mask_token(7).unwrap();
        let mut batch = MicroBatch::clean(2, 48, (0..96).map(|at| at * 7 % 37).collect());
        batch.documents = (0..96).map(|at| u32::from(at % 48 > 20)).collect();
        let xt: Vec<u32> = batch.tokens.iter().enumerate().map(|(at, &id)| if at % 3 == 0 { 37 } else { id }).collect();
        for kernels in [true, false] {
            let how = Arithmetic { kernels, ..model.arithmetic };
            let hidden = |noised: Vec<u32>, pattern: &Pattern| {
                let input = Input::new(&batch, noised, pattern, true);
                let all = Tensor::arange(input.tokens.len() as i64, (Kind::Int64, tch::Device::Cpu));
                let (windows, target) = (model.config.windows(), model.decoder.target(how));
                let attention = Attention::new(pattern, input.layout, &windows, target).unwrap();
                let ids = model.ids(&input.tokens, input.layout.rows).unwrap();
                copied(&model.decoder.hidden_of(&ids, &attention, how, false, &all).unwrap()).unwrap()
            };
            let blocks = Pattern::NoisedBlocks { size: 4, context: Context::Causal };
            let (both, alone) = (hidden(xt.clone(), &blocks), hidden(batch.tokens.clone(), &Pattern::Causal));
            let half = 48 * 24;
            for row in 0..2 {
                let clean = &both[(2 * row + 1) * half..(2 * row + 2) * half];
                let gap = clean.iter().zip(&alone[row * half..(row + 1) * half]).map(|(a, b)| (a - b).abs());
                // Torch's own attention adds up in another order where the bias is wider.
                assert!(gap.fold(0.0, f32::max) <= if kernels { 0.0 } else { 1e-5 }, "kernels {kernels}, row {row}");
            }
        }
    }
}
