//! Activation checkpointing (arXiv 1604.06174): a block keeps only its input and is recomputed in the backward pass.
//! Memory for activations falls to one block's, for a third more arithmetic; the gradients are the same.

use tch::{Kind, Tensor};

use crate::arithmetic::Arithmetic;
use crate::attention::LayerAttention;
use crate::block::Block;
use crate::decoder::Decoder;
use crate::error::ModelError;
use crate::shim::attach;

impl Decoder {
    /// A block's output `[B·L, D]` for `size` = (B, L), as [`Decoder::block`] gives it.
    pub(crate) fn block_recomputed(
        &self,
        block: &Block,
        x: &Tensor,
        size: (i64, i64),
        attention: &LayerAttention,
        how: Arithmetic,
    ) -> Result<Tensor, ModelError> {
        let out = tch::no_grad(|| self.block(block, x, size, attention, how))?;
        let (decoder, block, attention, input) = (self.share(), block.share(), attention.share(), x.f_detach()?);
        attach(out, &[x], move |gradient| {
            tch::with_grad(|| {
                let x = input.f_detach()?.f_set_requires_grad(true)?;
                let again = decoder.block(&block, &x, size, &attention, how)?;
                // A backward pass inside the backward pass; the parameters' gradients are added where they belong.
                again.f_mul(gradient)?.f_sum(Kind::Float)?.f_backward()?;
                Ok(vec![Some(x.f_grad()?)])
            })
        })
    }
}
