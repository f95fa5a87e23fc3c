//! What a forward of a micro-batch reads: the rows that are cut alike, and their tensors on the device.

use std::borrow::Cow;
use std::collections::BTreeMap;

use tch::Tensor;

use crate::arithmetic::Arithmetic;
use crate::attention::Attention;
use crate::batch::MicroBatch;
use crate::error::ModelError;
use crate::input::{Copies, Input};
use crate::later::upload;
use crate::loss::Divisor;
use crate::model::Model;
use crate::objective::{Blocks, Objective, ObjectiveOptions, Selection, noised, select};
use crate::pattern::Pattern;
use crate::step_sums::StepSums;

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

/// A part with what its forward reads.
pub(crate) struct Ready<'a> {
    pub rows: Vec<usize>,
    pub batch: Cow<'a, MicroBatch>,
    pub selection: Selection,
    pub copies: Copies,
    pub given: Given,
}

impl Model {
    /// The parts of a micro-batch that have something to predict, ready to be computed; what is known of the micro-batch; and what its
    /// gradients are divided by, where there are to be any.
    pub(crate) fn ready<'a>(
        &self,
        batch: &'a MicroBatch,
        pattern: &Pattern,
        options: ObjectiveOptions,
        how: Arithmetic,
        divisor: Option<Divisor>,
    ) -> Result<(Vec<Ready<'a>>, StepSums, f64), ModelError> {
        batch.check(self.config.vocab_size, self.longest())?;
        let mask = self.config.adapted.as_ref().map(|a| a.mask_token_id);
        let parts = Part::all(batch, pattern, options, mask)?;
        let own = parts.iter().map(|part| part.selection.own).sum::<usize>().max(1) as f64;
        let number = divisor.map(|divisor| match divisor {
            Divisor::Number(number) => number,
            Divisor::Positions => own,
        });
        let (mut ready, mut known) = (Vec::with_capacity(parts.len()), StepSums::of(batch));
        for Part { rows, batch, xt, pattern, selection } in parts {
            let copies = pattern.copies();
            known.positions_read += batch.tokens_read() * copies.count() as u64;
            if selection.target.is_empty() {
                continue;
            }
            let input = Input::new(&batch, xt, &pattern, options.document_attention);
            let given = Given::new(self, &input, (&pattern, &selection), number, how)?;
            ready.push(Ready { rows, batch, selection, copies, given });
        }
        Ok((ready, known, number.unwrap_or(1.0)))
    }
}

/// What predictions are compared with.
#[derive(Debug)]
pub(crate) enum Wanted {
    /// For a CPU kernel.
    Here { target: Vec<i64>, scale: Option<Vec<f32>> },
    /// i64 and fp32 `[n]`.
    There { target: Tensor, scale: Option<Tensor> },
}

impl Wanted {
    /// Tokens, and what the gradient of each one's loss is multiplied by, where there is to be one.
    pub fn new(model: &Model, how: Arithmetic, target: &[i64], scale: Option<Vec<f32>>) -> Result<Self, ModelError> {
        if how.kernels && model.decoder.own().is_some() {
            return Ok(Self::Here { target: target.to_vec(), scale });
        }
        let device = model.device.torch();
        let scale = scale.map(|scale| upload(&scale, device)).transpose()?;
        Ok(Self::There { target: upload(target, device)?, scale })
    }
}

/// The tensors that a forward and its loss read.
#[derive(Debug)]
pub(crate) struct Given {
    /// Token ids `[rows, length]`.
    pub ids: Tensor,
    pub attention: Attention,
    /// Which rows of the hidden states predict, `[n]`.
    pub index: Tensor,
    pub wanted: Wanted,
}

impl Given {
    /// Those of a part. With a divisor, the gradients of the losses' weighted sum are divided by it.
    pub fn new(
        model: &Model,
        input: &Input,
        (pattern, selection): (&Pattern, &Selection),
        divisor: Option<f64>,
        how: Arithmetic,
    ) -> Result<Self, ModelError> {
        let mut index: Vec<i64> = selection.from.iter().map(|&place| place as i64).collect();
        let mut target = Cow::Borrowed(selection.target.as_slice());
        let mut scale: Option<Vec<f32>> =
            divisor.map(|divisor| selection.weight.iter().map(|w| (w / divisor) as f32).collect());
        if how.fixed_shapes {
            let places = input.tokens.len();
            let room = room(index.len(), places);
            // Predictions of weight 0, each from another place: gradients are added where places come again.
            index.extend((index.len()..room).map(|number| (number % places) as i64));
            target.to_mut().resize(room, 0);
            if let Some(scale) = &mut scale {
                scale.resize(room, 0.0);
            }
        }
        let (layout, target_of_attention) = (input.layout, model.decoder.target(how));
        Ok(Self {
            ids: model.ids(&input.tokens, layout.rows)?,
            attention: Attention::new(pattern, layout, &model.config.windows(), target_of_attention)?,
            index: upload(&index, model.device.torch())?,
            wanted: Wanted::new(model, how, &target, scale)?,
        })
    }

    /// All of them, in a fixed order.
    pub fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        let wanted = match &self.wanted {
            Wanted::Here { .. } => [None, None],
            Wanted::There { target, scale } => [Some(target), scale.as_ref()],
        };
        [&self.ids, &self.index].into_iter().chain(wanted.into_iter().flatten()).chain(self.attention.tensors())
    }

    /// What a forward depends on beside their values: with the same, it is the same operations on tensors of the same sizes.
    pub fn signature(&self) -> Vec<i64> {
        let sizes = self.tensors().flat_map(|tensor| [vec![tensor.dim() as i64], tensor.size()].concat());
        sizes.chain(self.attention.signature()).collect()
    }
}

/// Room for so many predictions of `places`: the next multiple of about a sixteenth of the places.
fn room(count: usize, places: usize) -> usize {
    count.next_multiple_of((places / 16).next_power_of_two().max(8))
}
