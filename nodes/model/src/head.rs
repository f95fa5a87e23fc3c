//! Cross-entropy through the output head by torch's operations, on any device. Logits exist for a chunk of rows at a time, and their
//! gradient is computed on the way and in their place; nothing is read back. [`crate::fused::head_loss`] is the same with CPU kernels.

use tch::{Kind, Tensor};

use crate::arithmetic::Arithmetic;
use crate::cuda;
use crate::error::ModelError;
use crate::shim::attach;
use crate::weight::Weight;

/// Σ scale · cross-entropy of normed rows `[N, D]` through the head `[V, D]`: a number without value that has the gradients, and the
/// cross-entropy of each row in nats, fp32 `[N]`. Logits are capped at `cap`. Without a scale nothing has gradients.
pub(crate) fn loss(
    rows: &Tensor,
    head: &Weight,
    target: &Tensor,
    scale: Option<&Tensor>,
    (chunk, cap): (usize, Option<f64>),
    how: Arithmetic,
) -> Result<(Tensor, Tensor), ModelError> {
    let (count, kind, vocabulary) = (target.size1()?, how.kind(), head.master.size()[0]);
    let (x, weights) = (rows.f_detach()?.f_to_kind(kind)?, head.filled(how)?);
    let kernels = cuda::kernels(rows.device(), how);
    let (mut losses, mut slopes) = (Vec::new(), Vec::new());
    let mut head_gradient: Option<Tensor> = None;
    tch::no_grad(|| -> Result<(), ModelError> {
        for start in (0..count).step_by(chunk) {
            let length = (chunk as i64).min(count - start);
            let part = x.f_narrow(0, start, length)?;
            let mut logits = part.f_mm(&weights.f_tr()?)?;
            let steep = cap.map(|cap| soft_cap(&mut logits, cap)).transpose()?;
            let wanted = target.f_narrow(0, start, length)?;
            let scale = scale.map(|scale| scale.f_narrow(0, start, length)).transpose()?;
            let fast = cuda::cross_entropy(&logits, vocabulary, &wanted, scale.as_ref(), kernels.as_ref())?;
            let (loss, slope) = match fast {
                Some(loss) => (loss, scale.is_some().then_some(logits)),
                None => cross_entropy(logits, vocabulary, &wanted.f_unsqueeze(1)?, scale.as_ref())?,
            };
            losses.push(loss);
            let Some(mut slope) = slope else { continue };
            if let Some(steep) = &steep {
                let _ = slope.f_mul_(steep)?;
            }
            slopes.push(slope.f_mm(&weights)?);
            if !head.master.requires_grad() {
                continue;
            }
            let gradient = slope.f_tr()?.f_mm(&part)?.f_narrow(0, 0, vocabulary)?.f_to_kind(Kind::Float)?;
            head_gradient = Some(match head_gradient.take() {
                None => gradient,
                Some(mut sum) => sum.f_add_(&gradient)?,
            });
        }
        Ok(())
    })?;
    let losses = joined(losses)?;
    if slopes.is_empty() {
        return Ok((Tensor::new(), losses));
    }
    let rows_gradient = joined(slopes)?.f_to_kind(rows.kind())?;
    let total =
        attach(losses.f_new_zeros([] as [i64; 0], (Kind::Float, losses.device()))?, &[rows, &head.master], |_| {
            Ok(vec![Some(rows_gradient), head_gradient])
        })?;
    Ok((total, losses))
}

/// Logits x become cap · tanh(x / cap). Returns the slope of that, 1 − tanh².
pub(crate) fn soft_cap(logits: &mut Tensor, cap: f64) -> Result<Tensor, ModelError> {
    let _ = logits.f_mul_scalar_(1.0 / cap)?.f_tanh_()?;
    let slope = logits.f_square()?.f_neg()?.f_add_scalar(1.0)?;
    let _ = logits.f_mul_scalar_(cap)?;
    Ok(slope)
}

/// The cross-entropy `[n]` of logits `[n, V or more]` of which the first `vocabulary` count, and its gradient times `scale`, in the
/// logits' kind and size.
fn cross_entropy(
    mut logits: Tensor,
    vocabulary: i64,
    target: &Tensor,
    scale: Option<&Tensor>,
) -> Result<(Tensor, Option<Tensor>), ModelError> {
    let extra = logits.size()[1] - vocabulary;
    if extra > 0 {
        let _ = logits.f_narrow(1, vocabulary, extra)?.f_fill_(f64::NEG_INFINITY)?;
    }
    let mut shares = logits.f_log_softmax(1, Kind::Float)?;
    let loss = shares.f_gather(1, target, false)?.f_squeeze_dim(1)?.f_neg()?;
    let Some(scale) = scale else { return Ok((loss, None)) };
    let scale = scale.f_unsqueeze(1)?;
    let _ = shares.f_exp_()?.f_mul_(&scale)?;
    let _ = shares.f_scatter_add_(1, target, &scale.f_neg()?)?;
    logits.f_copy_(&shares)?;
    Ok((loss, Some(logits)))
}

fn joined(mut parts: Vec<Tensor>) -> Result<Tensor, ModelError> {
    match parts.pop() {
        Some(one) if parts.is_empty() => Ok(one),
        Some(last) => {
            parts.push(last);
            Ok(Tensor::f_cat(&parts, 0)?)
        }
        None => Err(ModelError::Torch("a loss of no rows".to_owned())),
    }
}
