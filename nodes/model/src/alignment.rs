//! Alignment with the frozen base model (arXiv 2605.06885): the hidden states that predict a token are drawn to those with which the base
//! model, reading the clean text from left to right, predicts the same token.

use tch::{Kind, Tensor};

use crate::attention::Attention;
use crate::batch::MicroBatch;
use crate::error::ModelError;
use crate::input::Input;
use crate::later::upload;
use crate::model::Model;
use crate::objective::Selection;
use crate::pattern::Pattern;

/// Added to the product of the norms: a state of zeros has the distance 1.
const EPS: f64 = 1e-8;

/// The base model, and how much the distance to it counts.
#[derive(Debug)]
pub(crate) struct Alignment {
    base: Model,
    /// Of a distance beside a cross-entropy.
    pub weight: f64,
}

/// Predicted tokens that the base model predicts too: all but the first of a document.
#[derive(Debug)]
pub(crate) struct Pairs {
    /// Places in the model's input, and in the base model's.
    own: Tensor,
    base: Tensor,
}

impl Alignment {
    /// Errors if `base` does not have the shape of `model`, or one of them has a forward of its own.
    pub fn new(mut base: Model, model: &Model, weight: f64) -> Result<Self, ModelError> {
        let shape = |model: &Model| (model.config.layers, model.config.hidden_size);
        if shape(&base) != shape(model) {
            let found = format!("{} layers of {}", base.config.layers, base.config.hidden_size);
            let wanted = format!("those of the model: {} of {}", model.config.layers, model.config.hidden_size);
            return Err(ModelError::input("the base model to align with", found, wanted));
        }
        if [&base, model].iter().any(|model| model.decoder.own().is_none()) {
            let wanted = "a model that difflow computes itself: a plug-in says nothing of its layers";
            return Err(ModelError::input("alignment", "a plug-in's torch model", wanted));
        }
        base.arithmetic = model.arithmetic;
        base.round()?;
        Ok(Self { base, weight })
    }

    /// The tokens of `selection` that are the objective's own and that the base model predicts; `None` where there are none.
    pub fn pairs(&self, selection: &Selection, batch: &MicroBatch) -> Result<Option<Pairs>, ModelError> {
        let own = selection.from.iter().zip(&selection.at).take(selection.own);
        let known = own.filter(|&(_, &at)| at % batch.length > 0 && batch.documents[at - 1] == batch.documents[at]);
        let (own, base): (Vec<i64>, Vec<i64>) = known.map(|(&from, &at)| (from as i64, at as i64 - 1)).unzip();
        if own.is_empty() {
            return Ok(None);
        }
        let device = self.base.device.torch();
        Ok(Some(Pairs { own: upload(&own, device)?, base: upload(&base, device)? }))
    }

    /// 1 − cosine of the two models' states, mean over the layers, of each pair: fp32 `[n]`, with gradients for the states in `layers`,
    /// each `[B·L, D]`.
    pub fn distances(
        &self,
        layers: &[Tensor],
        pairs: &Pairs,
        batch: &MicroBatch,
        document_attention: bool,
    ) -> Result<Tensor, ModelError> {
        let wanted = tch::no_grad(|| self.states(pairs, batch, document_attention))?;
        let mut cosines: Option<Tensor> = None;
        for (layer, wanted) in layers.iter().zip(&wanted) {
            let found = layer.f_index_select(0, &pairs.own)?.f_to_kind(Kind::Float)?;
            let cosine = Tensor::f_cosine_similarity(&found, wanted, 1, EPS)?;
            cosines = Some(match cosines {
                None => cosine,
                Some(sum) => sum.f_add(&cosine)?,
            });
        }
        let cosines = cosines.ok_or_else(|| ModelError::Torch("a model without layers".to_owned()))?;
        Ok(cosines.f_mul_scalar(-1.0 / layers.len() as f64)?.f_add_scalar(1.0)?)
    }

    /// The base model's states behind each layer that predict the tokens: fp32 `[n, D]`.
    fn states(&self, pairs: &Pairs, batch: &MicroBatch, document_attention: bool) -> Result<Vec<Tensor>, ModelError> {
        let (base, how, pattern) = (&self.base, self.base.arithmetic, Pattern::Causal);
        let input = Input::new(batch, batch.tokens.clone(), &pattern, document_attention);
        let attention = Attention::new(&pattern, input.layout, &base.config.windows(), base.decoder.target(how))?;
        let mut states = Vec::with_capacity(base.config.layers);
        let _ = base.decoder.layers(&base.ids(&input.tokens, input.layout.rows)?, &attention, how, &mut |layer| {
            states.push(layer.rows.f_index_select(0, &pairs.base)?.f_to_kind(Kind::Float)?);
            Ok(())
        })?;
        Ok(states)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use crate::host::copied;
    use crate::learner::Learner;
    use crate::objective::{Blocks, Objective, ObjectiveOptions};
    use crate::optimizer::AdamW;
    use crate::pattern::Context;
    use crate::small::{LLAMA, model};

    use super::*;

    /// Two documents in rows of 12; of each the second and the last token are masked.
    fn batch() -> MicroBatch {
        let mut batch = MicroBatch::clean(2, 12, (0..24).map(|at| at * 7 % 37).collect());
        batch.documents = (0..24).map(|at| u32::from(at % 12 > 6)).collect();
        batch.masked = (0..24).map(|at| [1, 6, 8, 11].contains(&(at % 12))).collect();
        batch.weights = vec![1.0, 3.0];
        batch
    }

    fn learner(objective: Objective, weight: f64, kernels: bool) -> Learner {
        let mut own = model(LLAMA);
        own.arithmetic.kernels = kernels;
        own.add_mask_token(7).unwrap();
        let options = ObjectiveOptions::recommended(objective);
        let mut learner = Learner::new(own, options, AdamW::default()).unwrap();
        if weight > 0.0 {
            learner.align(model(LLAMA), weight).unwrap();
        }
        learner
    }

    const FULL: Objective = Objective::Diffusion { shift: true };

    /// A token's distance is that of the states which predict it: by hand, from the hidden states of both models' last layer, which a model
    /// of one layer has alone.
    #[test]
    fn distances_are_those_of_the_states_that_predict_a_token() {
        let json = LLAMA.replace(r#""num_hidden_layers":2"#, r#""num_hidden_layers":1"#);
        let (base, mut own) = (model(&json), model(&json));
        own.add_mask_token(7).unwrap();
        let (batch, alone) = (batch(), model(&json));
        let xt: Vec<u32> = batch.tokens.iter().zip(&batch.masked).map(|(&id, &m)| if m { 37 } else { id }).collect();
        let states = |model: &Model, tokens: &[u32], pattern: &Pattern| {
            let input = Input::new(&batch, tokens.to_vec(), pattern, true);
            let attention =
                Attention::new(pattern, input.layout, &model.config.windows(), model.decoder.target(model.arithmetic))
                    .unwrap();
            let ids = model.ids(&input.tokens, 2).unwrap();
            copied(&model.decoder.hidden(&ids, &attention, model.arithmetic, false).unwrap()).unwrap()
        };
        let (found, wanted) = (states(&own, &xt, &Pattern::Full), states(&alone, &batch.tokens, &Pattern::Causal));
        let by_hand: f64 = (0..24)
            .filter(|&at| batch.masked[at])
            .map(|at| {
                let part = (at - 1) * 24..at * 24;
                let (a, b) = (&found[part.clone()], &wanted[part]);
                let dot =
                    |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
                1.0 - dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
            })
            .sum();
        let options = ObjectiveOptions::recommended(FULL);
        let mut learner = Learner::new(own, options, AdamW::default()).unwrap();
        learner.align(base, 1.0).unwrap();
        let sums = learner.micro_step(&batch, &Pattern::Full).unwrap();
        assert_eq!(sums.aligned, 8);
        assert!((sums.distance - by_hand).abs() < 1e-4 * by_hand, "{} {by_hand}", sums.distance);
    }

    /// Read from left to right, what stands before the first masked token is the base model's own text.
    #[test]
    fn a_model_that_reads_as_its_base_has_no_distance_and_one_that_sees_more_has() {
        for (masked, pattern, zero) in
            [(1, Pattern::Causal, true), (11, Pattern::Causal, true), (6, Pattern::Full, false)]
        {
            let mut batch = MicroBatch::clean(1, 12, (0..12).map(|at| at * 7 % 37).collect());
            batch.masked[masked] = true;
            let sums = learner(FULL, 1.0, true).micro_step(&batch, &pattern).unwrap();
            assert_eq!((sums.aligned, sums.distance.abs() < 1e-6), (1, zero), "{masked}: {}", sums.distance);
        }
    }

    /// Its gradient is proportional to the weight, does not depend on the split into micro-batches, is the same with torch's operations,
    /// and a step against it brings the states nearer.
    #[test]
    fn the_gradient_of_the_distance_is_added_to_that_of_the_objective() {
        let blocks = Blocks { size: 4, context: Context::Causal, shift: false, ar_weight: 0.5 };
        for objective in [FULL, Objective::Diffusion { shift: false }, Objective::Block(blocks)] {
            let gradients = |weight, batches: &[MicroBatch], kernels| {
                let mut learner = learner(objective, weight, kernels);
                for batch in batches {
                    learner.micro_step(batch, &Pattern::Full).unwrap();
                }
                learner.gradients().unwrap().into_iter().flat_map(|(_, values)| values).collect::<Vec<f32>>()
            };
            let (whole, halves) = ([batch()], [batch().rows(0, 1), batch().rows(1, 2)]);
            let (none, one, four) =
                (gradients(0.0, &whole, true), gradients(1.0, &whole, true), gradients(4.0, &whole, true));
            let size = one.iter().zip(&none).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(size > 1e-4, "{objective:?}: nothing is added");
            let largest = one.iter().fold(1.0, |a: f32, b| a.max(b.abs()));
            for (split, torch) in [(gradients(1.0, &halves, true), false), (gradients(1.0, &whole, false), true)] {
                let gap = one.iter().zip(&split).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(gap < 1e-5 * largest, "{objective:?}, torch {torch}: {gap} of {largest}");
            }
            for ((none, one), four) in none.iter().zip(&one).zip(&four) {
                let gap = (four - none) - 4.0 * (one - none);
                assert!(gap.abs() < 1e-4, "{objective:?}: {none} {one} {four}");
            }
            let mut learner = learner(objective, 1e4, true);
            let before = learner.micro_step(&batch(), &Pattern::Full).unwrap().distance;
            learner.apply(1e-4).unwrap();
            let after = learner.micro_step(&batch(), &Pattern::Full).unwrap().distance;
            assert!(after < before, "{objective:?}: {before} {after}");
        }
    }

    #[test]
    fn a_base_model_of_another_shape_and_next_tokens_are_refused() {
        let other = model(&LLAMA.replace(r#""num_hidden_layers":2"#, r#""num_hidden_layers":1"#));
        let error = learner(FULL, 0.0, true).align(other, 1.0).unwrap_err().to_string();
        assert!(error.contains("1 layers of 24") && error.contains("2 of 24"), "{error}");
        let error = learner(Objective::Ar, 0.0, true).align(model(LLAMA), 1.0).unwrap_err().to_string();
        assert!(error.contains("next-token"), "{error}");
    }
}
