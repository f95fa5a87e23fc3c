//! Forward passes that return sums of cross-entropy, with or without gradients.
//!
//! Only positions that carry loss reach the output head, in chunks, so the logits of a whole batch are never in
//! memory at once. When a batch needs several chunks, each chunk's gradient is computed immediately and propagated
//! through the selected hidden states.

use std::borrow::Cow;
use std::collections::BTreeMap;

use tch::{Kind, Reduction, Tensor};

use crate::alignment::Alignment;
use crate::arithmetic::Arithmetic;
use crate::attention::Attention;
use crate::batch::MicroBatch;
use crate::decoder::Seen;
use crate::device::Device;
use crate::error::ModelError;
use crate::experts::balance;
use crate::fused;
use crate::head;
use crate::host::copied;
use crate::input::{Copies, Input};
use crate::later::upload;
use crate::model::Model;
use crate::objective::{Blocks, Objective, ObjectiveOptions, Selection, noised, select};
use crate::pattern::Pattern;
use crate::reducer::Reducer;

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

/// Sums over one micro-batch, in nats. Divide by a number of tokens of the caller's choice.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StepSums {
    /// Σ loss weight · cross-entropy.
    pub weighted: f64,
    /// Σ cross-entropy.
    pub unweighted: f64,
    /// Positions that carried loss.
    pub positions: u64,
    /// Maskable positions of the batch.
    pub maskable: u64,
    /// Σ cross-entropy of the next tokens of the clean texts, where the objective has an AR loss beside it; its weight is not in it.
    pub ar: f64,
    /// Next tokens that it is of.
    pub ar_positions: u64,
    /// Σ distance to the base model's hidden states, where the model is aligned with it; its weight is not in it.
    pub distance: f64,
    /// Predicted tokens that it is of.
    pub aligned: u64,
    /// Σ load-balancing loss of the routers · `balanced`, where the objective has it beside it; its weight is not in it.
    pub balance: f64,
    /// What the objective is divided by, of the forwards that it is of: maskable positions, or those that carried loss.
    pub balanced: u64,
    /// Positions that the forwards read, without padding: a text with a clean one beside it counts twice.
    pub positions_read: u64,
    /// The first four for each sequence.
    pub rows: Vec<RowSums>,
}

/// Sums over one sequence, in nats.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct RowSums {
    pub weighted: f64,
    pub unweighted: f64,
    pub positions: u64,
    pub maskable: u64,
}

impl StepSums {
    /// False when a cross-entropy was NaN or infinite.
    pub fn is_finite(&self) -> bool {
        [self.weighted, self.unweighted, self.ar, self.distance, self.balance].iter().all(|sum| sum.is_finite())
    }

    /// Of a batch that nothing has been predicted of.
    fn of(batch: &MicroBatch) -> Self {
        let maskable = |row: &[bool]| row.iter().filter(|&&maskable| maskable).count() as u64;
        let row = |row| RowSums { maskable: maskable(row), ..RowSums::default() };
        Self { rows: batch.maskable.chunks(batch.length).map(row).collect(), ..Self::default() }
    }

    /// Adds the losses of a part. f64 and in row-major order: the same losses give the same sums.
    fn add(&mut self, rows: &[usize], selection: &Selection, losses: &[f32]) {
        let Selection { row, weight, own, .. } = selection;
        for ((&row, &weight), &loss) in row.iter().zip(weight).zip(losses).take(*own) {
            let row = &mut self.rows[rows[row]];
            row.weighted += weight * f64::from(loss);
            row.unweighted += f64::from(loss);
            row.positions += 1;
        }
        for &loss in &losses[*own..] {
            self.ar += f64::from(loss);
            self.ar_positions += 1;
        }
    }

    /// With the sums of the rows added up.
    fn totalled(mut self) -> Self {
        for row in &self.rows {
            self.weighted += row.weighted;
            self.unweighted += row.unweighted;
            self.positions += row.positions;
            self.maskable += row.maskable;
        }
        self
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
enum Values {
    /// A CPU kernel's.
    Here(Vec<f32>),
    /// fp32 `[n]`.
    There(Tensor),
}

impl Losses {
    /// What is known without reading anything: how many positions of each kind there are; the losses are 0.
    pub fn counted(&self) -> StepSums {
        let mut sums = StepSums { rows: Vec::new(), ..self.known.clone() };
        sums.maskable = self.known.rows.iter().map(|row| row.maskable).sum();
        for PartLosses { selection, distances, balance, .. } in &self.parts {
            sums.positions += selection.own as u64;
            sums.ar_positions += (selection.target.len() - selection.own) as u64;
            sums.aligned += distances.as_ref().map_or(0, |distances| distances.numel() as u64);
            sums.balanced += balance.as_ref().map_or(0, |balance| balance.balanced);
        }
        sums
    }

    /// Those that are in tensors, in order.
    pub fn there(&self) -> impl Iterator<Item = &Tensor> {
        self.parts.iter().flat_map(|part| {
            let losses = match &part.values {
                Values::Here(_) => None,
                Values::There(tensor) => Some(tensor),
            };
            losses.into_iter().chain(&part.distances).chain(part.balance.as_ref().map(|balance| &balance.loss))
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
                    let losses: Vec<f32> = there.by_ref().take(tensor.numel()).collect();
                    sums.add(rows, selection, &losses);
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

/// The rows of a batch that one forward reads: all of them, unless they are cut into blocks of different sizes.
struct Part<'a> {
    /// Their numbers in the batch.
    rows: Vec<usize>,
    batch: Cow<'a, MicroBatch>,
    xt: Vec<u32>,
    pattern: Pattern,
    selection: Selection,
}

impl<'a> Part<'a> {
    /// Of `batch` the rows that are cut alike, smallest blocks first; those that are not cut come last and have `pattern`. Errors if xt
    /// needs a mask token and there is none.
    fn all(
        batch: &'a MicroBatch,
        pattern: &Pattern,
        options: ObjectiveOptions,
        mask: Option<u32>,
    ) -> Result<Vec<Self>, ModelError> {
        let Objective::Block(blocks) = options.objective else {
            if pattern.copies() != Copies::One {
                let wanted = "one of a text that stands once, or block diffusion";
                return Err(ModelError::input("attention pattern", "one of [x_t ; x_0]", wanted));
            }
            let rows = (0..batch.rows).collect();
            return Ok(vec![Self::new(rows, Cow::Borrowed(batch), pattern.clone(), options, mask)?]);
        };
        let mut groups = BTreeMap::<usize, Vec<usize>>::new();
        for row in 0..batch.rows {
            let size = batch.blocks.get(row).map_or(blocks.size, |&size| size);
            groups.entry(size.min(batch.length)).or_default().push(row);
        }
        let part = |(size, rows): (usize, Vec<usize>)| {
            let own = Cow::Owned(batch.only(&rows));
            if size == batch.length {
                let objective = Objective::Diffusion { shift: blocks.shift };
                return Self::new(rows, own, pattern.clone(), ObjectiveOptions { objective, ..options }, mask);
            }
            let objective = Objective::Block(Blocks { size, ..blocks });
            let pattern = Pattern::NoisedBlocks { size, context: blocks.context };
            Self::new(rows, own, pattern, ObjectiveOptions { objective, ..options }, mask)
        };
        groups.into_iter().map(part).collect()
    }

    fn new(
        rows: Vec<usize>,
        batch: Cow<'a, MicroBatch>,
        pattern: Pattern,
        options: ObjectiveOptions,
        mask: Option<u32>,
    ) -> Result<Self, ModelError> {
        let xt = noised(&batch, options.objective, mask)?;
        let selection = select(&batch, &xt, options, mask);
        Ok(Self { rows, batch, xt, pattern, selection })
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
        tch::no_grad(|| self.losses(batch, pattern, options, self.arithmetic, None)?.read())
    }

    /// Next-token loss sums under causal attention, without gradients; each document is read alone.
    pub fn ar_sums(&self, batch: &MicroBatch) -> Result<StepSums, ModelError> {
        let options = ObjectiveOptions::recommended(Objective::Ar);
        tch::no_grad(|| self.losses(batch, &Pattern::Causal, options, self.arithmetic, None)?.read())
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
        batch.check(self.config.vocab_size, self.longest())?;
        let mask = self.config.adapted.as_ref().map(|a| a.mask_token_id);
        let parts = Part::all(batch, pattern, options, mask)?;
        let divisor = lesson.map(|lesson| match lesson.divisor {
            Divisor::Number(number) => number,
            Divisor::Positions => parts.iter().map(|part| part.selection.own).sum::<usize>().max(1) as f64,
        });
        let mut losses = Losses { known: StepSums::of(batch), parts: Vec::with_capacity(parts.len()) };
        let last = parts.iter().rposition(|part| !part.selection.target.is_empty());
        if let Some(lesson) = lesson {
            let own = parts.iter().filter(|part| !part.selection.target.is_empty()).count();
            lesson.reducer.passes(own as u64)?;
        }
        for (number, mut part) in parts.into_iter().enumerate() {
            losses.known.positions_read += part.batch.tokens_read() * part.pattern.copies().count() as u64;
            if part.selection.target.is_empty() {
                continue;
            }
            let xt = std::mem::take(&mut part.xt);
            let input = Input::new(&part.batch, xt, &part.pattern, options.document_attention);
            let (batch, selection) = (&part.batch, &part.selection);
            let pairs = match lesson.and_then(|lesson| lesson.alignment) {
                Some(alignment) => alignment.pairs(selection, batch)?.map(|pairs| (alignment, pairs)),
                None => None,
            };
            let router_weight = lesson.map_or(0.0, |lesson| lesson.router_weight);
            let index: Vec<i64> = selection.from.iter().map(|&place| place as i64).collect();
            let index = upload(&index, self.device.torch())?;
            let (mut layers, mut routed) = (Vec::new(), Vec::new());
            let predicting = if pairs.is_none() && router_weight == 0.0 {
                self.hidden(&input, &part.pattern, how, lesson.is_some(), &index)?
            } else {
                let hidden = self.layers(&input, &part.pattern, how, &mut |layer| {
                    if pairs.is_some() {
                        layers.push(layer.rows);
                    }
                    routed.extend(layer.routed);
                    Ok(())
                })?;
                hidden.f_index_select(0, &index)?
            };
            let near = match &pairs {
                None => None,
                Some((alignment, pairs)) => {
                    let distances = alignment.distances(&layers, pairs, batch, options.document_attention)?;
                    let loss = distances.f_sum(Kind::Float)?;
                    let loss = loss.f_mul_scalar(alignment.weight / divisor.unwrap_or(1.0))?;
                    Some((loss, distances.f_detach()?))
                }
            };
            let (near, distances) = near.unzip();
            let even = if router_weight == 0.0 { None } else { balance(&routed, &input.real(batch))? };
            let balanced = match lesson.map(|lesson| lesson.divisor) {
                Some(Divisor::Positions) => selection.own as u64,
                Some(Divisor::Number(_)) | None => batch.maskable_tokens(),
            };
            let balance = match &even {
                None => None,
                Some(loss) => Some(Balance { loss: loss.f_detach()?.f_view(1)?, balanced }),
            };
            // As much of it as there is of the objective in this forward.
            let weight = router_weight * balanced as f64 / divisor.unwrap_or(1.0);
            let even = even.map(|loss| loss.f_mul_scalar(weight)).transpose()?;
            let beside = match (near, even) {
                (Some(near), Some(even)) => Some(near.f_add(&even)?),
                (near, even) => near.or(even),
            };
            if let Some(lesson) = lesson.filter(|_| last == Some(number)) {
                lesson.reducer.last_pass();
            }
            let values = self.head_losses(&predicting, &part.selection, divisor, beside.as_ref(), how)?;
            losses.parts.push(PartLosses { rows: part.rows, selection: part.selection, values, distances, balance });
        }
        Ok(losses)
    }

    /// Hidden states before the last norm, `[n, D]`, of some rows of an input, `wanted` `[n]`.
    fn hidden(
        &self,
        input: &Input,
        pattern: &Pattern,
        how: Arithmetic,
        train: bool,
        wanted: &Tensor,
    ) -> Result<Tensor, ModelError> {
        let attention = Attention::new(pattern, input.layout, &self.config.windows(), self.decoder.target(how))?;
        self.decoder.hidden_of(&self.ids(&input.tokens, input.layout.rows)?, &attention, how, train, wanted)
    }

    /// Cross-entropy, in nats, of each token as a row of hidden states before the last norm, `[N, D]`, predicts it; without gradients.
    pub(crate) fn cross_entropies(&self, rows: &Tensor, target: Vec<i64>) -> Result<Vec<f32>, ModelError> {
        let selection = Selection { own: target.len(), target, ..Selection::default() };
        match self.head_losses(rows, &selection, None, None, self.arithmetic)? {
            Values::Here(losses) => Ok(losses),
            Values::There(losses) => copied(&losses),
        }
    }

    /// Hidden states before the last norm, `[B·L, D]`, of an input in training; shows what is behind each layer to `seen`.
    fn layers(
        &self,
        input: &Input,
        pattern: &Pattern,
        how: Arithmetic,
        seen: &mut Seen<'_>,
    ) -> Result<Tensor, ModelError> {
        let attention = Attention::new(pattern, input.layout, &self.config.windows(), self.decoder.target(how))?;
        let ids = self.ids(&input.tokens, input.layout.rows)?;
        self.decoder.layers(&ids, &attention, how, seen)
    }

    /// Cross-entropy of each selected position, in nats; with a divisor, the gradients of their weighted sum and of the loss `beside` it.
    fn head_losses(
        &self,
        rows: &Tensor,
        selection: &Selection,
        divisor: Option<f64>,
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
        let count = selection.target.len();
        let chunk = (self.chunk_elements / self.config.vocab_size).clamp(1, count);
        let scale: Option<Vec<f32>> =
            divisor.map(|divisor| selection.weight.iter().map(|w| (w / divisor) as f32).collect());
        let decoder = self.decoder.own();
        if let Some(decoder) = decoder.filter(|_| how.kernels) {
            let (sizes, cap) = ((chunk, how.kind()), self.config.logit_softcap);
            let (total, losses) = decoder.used_last(|| {
                let (normed, head) = (decoder.normed(rows, how)?, &decoder.head().master);
                fused::head_loss(&normed, head, &selection.target, scale.as_deref(), sizes, cap)
            })?;
            if scale.is_some() {
                backward(total)?;
            }
            return Ok(Values::Here(losses));
        }
        let device = self.device.torch();
        let target = upload(&selection.target, device)?;
        let scale = scale.map(|scale| upload(&scale, device)).transpose()?;
        if let Some(decoder) = decoder {
            let normed = decoder.normed(rows, how)?;
            let (total, losses) =
                head::loss(&normed, decoder.head(), &target, scale.as_ref(), (chunk, self.config.logit_softcap), how)?;
            if scale.is_some() {
                backward(total)?;
            }
            return Ok(Values::There(losses));
        }
        // A plug-in's model has made all logits already.
        let loss = rows.f_cross_entropy_loss(&target, None::<Tensor>, Reduction::None, -100, 0.0)?;
        if let Some(scale) = &scale {
            backward(loss.f_mul(scale)?.f_sum(Kind::Float)?)?;
        }
        Ok(Values::There(loss.f_detach()?))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
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
                copied(&model.hidden(&input, pattern, how, false, &all).unwrap()).unwrap()
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
