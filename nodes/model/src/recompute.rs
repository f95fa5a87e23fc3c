//! Activation checkpointing (arXiv 1604.06174): a block keeps only its input and is recomputed in the backward pass.
//! Memory for activations falls to one block's, for a third more arithmetic; the gradients are the same.

use tch::{Kind, Tensor};

use crate::arithmetic::Arithmetic;
use crate::attention::LayerAttention;
use crate::block::Block;
use crate::decoder::Decoder;
use crate::error::ModelError;
use crate::experts::Routed;
use crate::layers::Passed;
use crate::shim::attach_all;

impl Decoder {
    /// A block's output `[B·L, D]` for `size` = (B, L), as [`Decoder::block`] gives it.
    pub(crate) fn block_recomputed(
        &self,
        block: &Block,
        x: &Tensor,
        size: (i64, i64),
        attention: &LayerAttention,
        how: Arithmetic,
    ) -> Result<Passed, ModelError> {
        let Passed { rows, routed } = tch::no_grad(|| self.block(block, x, size, attention, how))?;
        let (decoder, block, attention, input) = (self.share(), block.share(), attention.share(), x.f_detach()?);
        let backward = move |gradients: &[Option<Tensor>]| {
            tch::with_grad(|| {
                let x = input.f_detach()?.f_set_requires_grad(true)?;
                let Passed { rows, routed } = decoder.block(&block, &x, size, &attention, how)?;
                let again = std::iter::once(rows).chain(routed.map(|routed| routed.shares));
                // A backward pass inside the backward pass; the parameters' gradients are added where they belong.
                let mut sum: Option<Tensor> = None;
                for (again, gradient) in again.zip(gradients) {
                    let Some(gradient) = gradient else { continue };
                    let own = again.f_mul(gradient)?.f_sum(Kind::Float)?;
                    sum = Some(match sum {
                        None => own,
                        Some(sum) => sum.f_add(&own)?,
                    });
                }
                sum.ok_or_else(|| ModelError::Torch("a backward pass without a gradient".to_owned()))?.f_backward()?;
                Ok(vec![Some(x.f_grad()?)])
            })
        };
        Ok(match routed {
            None => {
                let [rows] = attach_all([rows], &[x], backward)?;
                Passed { rows, routed: None }
            }
            Some(Routed { shares, chosen }) => {
                let [rows, shares] = attach_all([rows, shares], &[x], backward)?;
                Passed { rows, routed: Some(Routed { shares, chosen }) }
            }
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::attention::Attention;
    use crate::host::copied;
    use crate::input::Layout;
    use crate::pattern::Pattern;
    use crate::small::{LLAMA, model};

    /// When the weights of the last block change.
    #[derive(Clone, Copy, PartialEq)]
    enum Change {
        Never,
        BeforeForward,
        BeforeBackward,
    }

    /// The gradient of the embedding.
    fn gradient(kernels: bool, recompute: bool, change: Change) -> Vec<f32> {
        let model = model(LLAMA);
        let how = Arithmetic { kernels, recompute, ..model.arithmetic() };
        let parameters = || model.parameters.iter().map(|parameter| (&parameter.leaf.parts[0].name, &parameter.tensor));
        parameters().for_each(|(_, tensor)| _ = tensor.set_requires_grad(true));
        let grow = || {
            let last = parameters().filter(|(name, _)| name.starts_with("model.layers.1.mlp"));
            tch::no_grad(|| last.for_each(|(_, tensor)| _ = tensor.shallow_clone().f_mul_scalar_(2.0).unwrap()));
        };
        if change == Change::BeforeForward {
            grow();
        }
        let (ids, target) = (model.ids(&[5, 9, 1, 30, 2], 1).unwrap(), model.decoder.target(how));
        let attention = Attention::new(&Pattern::Full, Layout::row(5), &model.config.windows(), target).unwrap();
        let hidden = model.decoder.hidden(&ids, &attention, how, true).unwrap();
        if change == Change::BeforeBackward {
            grow();
        }
        hidden.f_sum(Kind::Float).unwrap().f_backward().unwrap();
        let (_, embedding) = parameters().find(|(name, _)| *name == "model.embed_tokens.weight").unwrap();
        copied(&embedding.grad()).unwrap()
    }

    /// A setting that is ignored gives the same gradients. So the last block changes after the forward pass: computed again it gives the
    /// gradients of the new weights; with activations of the old ones it gives a mixture, or torch refuses.
    #[test]
    fn a_block_is_computed_again_in_the_backward_pass() {
        for kernels in [true, false] {
            let found = gradient(kernels, true, Change::BeforeBackward);
            let distance = |other: Vec<f32>| found.iter().zip(other).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            let to_new = distance(gradient(kernels, false, Change::BeforeForward));
            let to_old = distance(gradient(kernels, false, Change::Never));
            assert!(to_new < 1e-4 * to_old, "{to_new} to the new weights, {to_old} to the old ones");
        }
    }
}
