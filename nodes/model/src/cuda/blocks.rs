//! The decoder's forward for training on a GPU: the same arithmetic as [`Decoder::hidden`], with what stands between the matrix products
//! joined across the borders of blocks. What a half of a block adds to the residual stream is added by the operation that norms it for the
//! next half.

use std::sync::Arc;

use tch::Tensor;

use crate::arithmetic::Arithmetic;
use crate::attention::{Attention, LayerAttention};
use crate::block::Block;
use crate::config::Activation;
use crate::cuda::library::Kernels;
use crate::cuda::ops::{Branch, Turn, add_norm, added, linear_gelu, rotate, swiglu};
use crate::decoder::Decoder;
use crate::error::ModelError;
use crate::layers::{FeedForward, Linear};

impl Decoder {
    /// As [`Decoder::hidden`], for a model that has plain blocks.
    pub(crate) fn hidden_joined(
        &self,
        tokens: &Tensor,
        attention: &Attention,
        how: Arithmetic,
        kernels: Option<&Arc<Kernels>>,
    ) -> Result<Tensor, ModelError> {
        let size = tokens.size2()?;
        let mut x = self.embed(tokens, attention.index.as_ref())?;
        let mut branch: Option<Branch> = None;
        for (layer, block) in self.blocks.iter().enumerate() {
            let attention = attention.layer(layer)?;
            let missing = || ModelError::Torch("a joined block without norms before its halves".to_owned());
            let attention_norm = block.attention_norm.as_ref().ok_or_else(missing)?;
            let feed_forward_norm = block.feed_forward_norm.as_ref().ok_or_else(missing)?;
            let (sum, normed) = add_norm(&x, branch.as_ref(), attention_norm, how.kind(), kernels)?;
            let attended = self.attended(block, &normed, size, &attention, how, kernels)?;
            let first = product(&block.output, &attended, how)?;
            let (sum, normed) = add_norm(&sum, Some(&first), feed_forward_norm, how.kind(), kernels)?;
            branch = Some(self.fed(block, &normed, how, kernels)?);
            x = sum;
        }
        match &branch {
            None => Ok(x),
            Some(branch) => added(&x, branch),
        }
    }

    fn attended(
        &self,
        block: &Block,
        normed: &Tensor,
        size: (i64, i64),
        attention: &LayerAttention,
        how: Arithmetic,
        kernels: Option<&Arc<Kernels>>,
    ) -> Result<Tensor, ModelError> {
        let (qkv, c) = (self.projected(block, normed, how)?, &self.config);
        let span = attention.positions.span(size.1 as usize);
        let (heads, kv) = (c.heads as i64, c.kv_heads as i64);
        let turn = |qkv: &Tensor, kernels: &Arc<Kernels>| {
            self.with_rotary(block.layer, span, |rotary| {
                let (cos, sin) = rotary.tables();
                let (index, length, turned) = (attention.index.as_ref(), size.1, heads + kv);
                let turn = Turn { cos, sin, index, length, heads: heads + 2 * kv, turned, size: c.head_dim as i64 };
                rotate(qkv.shallow_clone(), &turn, kernels)
            })
        };
        let whole = self.turns_whole_heads(block.layer);
        let turned = match kernels.filter(|_| qkv.is_contiguous() && whole) {
            Some(kernels) => turn(&qkv, kernels)?,
            None => None,
        };
        let rotary =
            if turned.is_some() { None } else { self.rotary_tables(block.layer, span, attention.index.as_ref())? };
        let (q, k, v) = self.heads(turned.as_ref().unwrap_or(&qkv), size, rotary.as_ref(), how)?;
        self.attend(block.layer, (&q, &k, &v), &attention.kernel, how)
    }

    fn fed<'a>(
        &self,
        block: &'a Block,
        normed: &Tensor,
        how: Arithmetic,
        kernels: Option<&Arc<Kernels>>,
    ) -> Result<Branch<'a>, ModelError> {
        match &block.feed_forward {
            FeedForward::Gated { gate_up, down } if self.config.activation == Activation::Silu => {
                product(down, &swiglu(&gate_up.apply(normed, how)?, kernels)?, how)
            }
            FeedForward::Plain { up: Linear { weight, bias: Some(bias), in_first: true, adapter: None }, down }
                if self.config.activation == Activation::GeluTanh =>
            {
                product(down, &linear_gelu(normed, &weight.of(how)?, &bias.of(how)?, kernels)?, how)
            }
            feed_forward => {
                Ok(Branch { rows: feed_forward.apply(normed, self.config.activation, how)?.rows, bias: None })
            }
        }
    }
}

/// The product of a matrix without its bias, which is added with it.
fn product<'a>(map: &'a Linear, x: &Tensor, how: Arithmetic) -> Result<Branch<'a>, ModelError> {
    let weight = map.weight.of(how)?;
    let rows = if map.in_first { x.f_mm(&weight)? } else { x.f_linear(&weight, None::<Tensor>)? };
    Ok(Branch { rows, bias: map.bias.as_ref().map(|bias| &bias.master) })
}
