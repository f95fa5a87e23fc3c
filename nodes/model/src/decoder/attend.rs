//! A layer's attention by torch's operations.

use tch::{Device, Kind, Tensor};

use super::{Decoder, dropped};
use crate::arithmetic::Arithmetic;
use crate::attention::Kernel;
use crate::config::Layer;
use crate::error::ModelError;

impl Decoder {
    /// Attention of queries `[B, H, n, d]` over keys and values `[B, Hkv, m, d]`, as rows `[B·n, H·d]`.
    pub(crate) fn attend(
        &self,
        layer: Layer,
        (q, k, v): (&Tensor, &Tensor, &Tensor),
        kernel: &Kernel,
        how: Arithmetic,
    ) -> Result<Tensor, ModelError> {
        let (rows, h, new, d) = q.size4()?;
        let capped = self.config.attention_softcap;
        // GPU kernels read a key for all query heads of its group; on the CPU the copies are what torch itself would make.
        let on_device = q.device() != Device::Cpu && capped.is_none();
        let (k, v) = if on_device { (k.shallow_clone(), v.shallow_clone()) } else { (grouped(k, h)?, grouped(v, h)?) };
        let in_groups = k.size()[1] != h;
        // Said explicitly each time: a fused call without a bias may otherwise turn causal, and a flash path ignore the bias.
        let (bias, causal) = match kernel {
            Kernel::Causal => (None, true),
            Kernel::Full => (None, false),
            Kernel::Bias(bias) => (Some(bias), false),
            Kernel::Documents(documents) => {
                let tokens = |x: &Tensor| Ok::<_, ModelError>(x.f_transpose(1, 2)?.f_flatten(0, 1)?);
                let out = documents.attend(&tokens(q)?, &tokens(&k)?, &tokens(&v)?)?;
                return Ok(out.f_reshape([rows * new, h * d])?);
            }
            Kernel::Fused(_) => return Err(ModelError::Torch("a CPU kernel's plan reached torch".to_owned())),
        };
        let out = match capped {
            None => {
                Tensor::f_scaled_dot_product_attention(q, &k, &v, bias, how.dropout, causal, layer.scale, in_groups)?
            }
            Some(_) if causal => return Err(ModelError::Torch("a soft cap without a bias".to_owned())),
            Some(cap) => {
                let scale = layer.scale.unwrap_or(1.0 / (d as f64).sqrt());
                let scores = q.f_matmul(&k.f_transpose(2, 3)?)?.f_mul_scalar(scale / cap)?.f_tanh()?;
                let mut scores = scores.f_mul_scalar(cap)?;
                if let Some(bias) = bias {
                    scores = scores.f_add(bias)?;
                }
                let shares = scores.f_softmax(-1, Kind::Float)?.f_to_kind(v.kind())?;
                dropped(shares, how)?.f_matmul(&v)?
            }
        };
        Ok(out.f_transpose(1, 2)?.f_reshape([rows * new, h * d])?)
    }
}

/// Repeats each key or value head for the query heads of its group: `[B, Hkv, L, d]` → `[B, H, L, d]`.
fn grouped(x: &Tensor, heads: i64) -> Result<Tensor, ModelError> {
    let (rows, kv, length, d) = x.size4()?;
    if kv == heads {
        return Ok(x.shallow_clone());
    }
    let wide = x.f_unsqueeze(2)?.f_expand([rows, kv, heads / kv, length, d], false)?;
    Ok(wide.f_reshape([rows, heads, length, d])?)
}
