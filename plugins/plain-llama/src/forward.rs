//! The forward pass.

use difflow_plugin_torch::Result;
use difflow_plugin_torch::tch::{Kind, Tensor};

use crate::PlainLlama;

impl PlainLlama {
    /// Logits `[B, L, V]`.
    pub fn logits(&self, ids: &Tensor, bias: &Tensor) -> Result<Tensor> {
        let (rows, length) = ids.size2()?;
        let (heads, kv_heads, size) = (self.heads()?, self.kv_heads()?, self.head_size()?);
        let (cos, sin) = self.rotation(length, ids)?;
        let mut x = Tensor::f_embedding(self.weight("model.embed_tokens")?, ids, -1, false, false)?;
        for layer in 0..self.layers()? {
            let name = |part: &str| format!("model.layers.{layer}.{part}");
            let y = self.norm(&x, &name("input_layernorm"))?;
            // [B, H, L, d]
            let split = |part: &str, heads: i64| -> Result<Tensor> {
                Ok(self.linear(&y, &name(part))?.f_view([rows, length, heads, size])?.f_transpose(1, 2)?)
            };
            let q = turn(&split("self_attn.q_proj", heads)?, &cos, &sin)?.f_to_kind(self.kind)?;
            let k = turn(&split("self_attn.k_proj", kv_heads)?, &cos, &sin)?.f_to_kind(self.kind)?;
            let v = split("self_attn.v_proj", kv_heads)?;
            // Each key and value serves the queries of its group.
            let [k, v] = [k, v].map(|x| x.f_repeat_interleave_self_int(heads / kv_heads, 1, None::<i64>));
            let scores = q.f_matmul(&k?.f_transpose(2, 3)?)?.f_div_scalar((size as f64).sqrt())?.f_add(bias)?;
            let seen = scores.f_softmax(-1, self.kind)?.f_matmul(&v?)?;
            let seen = seen.f_transpose(1, 2)?.f_reshape([rows, length, heads * size])?;
            x = x.f_add(&self.linear(&seen, &name("self_attn.o_proj"))?)?;
            let y = self.norm(&x, &name("post_attention_layernorm"))?;
            let gated =
                self.linear(&y, &name("mlp.gate_proj"))?.f_silu()?.f_mul(&self.linear(&y, &name("mlp.up_proj"))?)?;
            x = x.f_add(&self.linear(&gated, &name("mlp.down_proj"))?)?;
        }
        let x = self.norm(&x, "model.norm")?;
        let head = if self.weights.contains_key("lm_head.weight") { "lm_head" } else { "model.embed_tokens" };
        Ok(self.linear(&x, head)?.f_to_kind(Kind::Float)?)
    }

    /// x·Wᵀ in the kind of the arithmetic.
    fn linear(&self, x: &Tensor, name: &str) -> Result<Tensor> {
        Ok(x.f_to_kind(self.kind)?.f_linear(&self.weight(name)?.f_to_kind(self.kind)?, None::<Tensor>)?)
    }

    fn norm(&self, x: &Tensor, name: &str) -> Result<Tensor> {
        let weight = self.weight(name)?;
        let width = weight.size();
        Ok(x.f_rms_norm(&width, Some(weight), self.number("rms_norm_eps", 1e-6)?)?)
    }

    /// Cosines and sines of the rotary embedding, `[L, d/2]`.
    fn rotation(&self, length: i64, on: &Tensor) -> Result<(Tensor, Tensor)> {
        let (half, theta) = (self.head_size()? / 2, self.number("rope_theta", 10000.0)?);
        let frequencies: Vec<f64> = (0..half).map(|i| theta.powf(-(i as f64) / half as f64)).collect();
        let positions = Tensor::f_arange(length, (Kind::Double, on.device()))?;
        let angles = positions.f_outer(&Tensor::f_from_slice(&frequencies)?.f_to_device(on.device())?)?;
        Ok((angles.f_cos()?.f_to_kind(Kind::Float)?, angles.f_sin()?.f_to_kind(Kind::Float)?))
    }
}

/// Turns the pairs (i, i + d/2) of `[B, H, L, d]` by the angle of their position.
fn turn(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let parts = x.f_to_kind(Kind::Float)?.f_chunk(2, -1)?;
    let (a, b) = (&parts[0], &parts[1]);
    let turned = [a.f_mul(cos)?.f_sub(&b.f_mul(sin)?)?, b.f_mul(cos)?.f_add(&a.f_mul(sin)?)?];
    Ok(Tensor::f_cat(&turned, -1)?)
}
