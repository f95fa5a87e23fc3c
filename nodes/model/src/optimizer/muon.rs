//! Muon (Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"): the momentum of a hidden matrix is replaced by the
//! nearest orthogonal matrix before it is taken off the weights, so all directions of the matrix learn at the same rate.
//!
//! The update of a matrix with r rows and c columns is multiplied by 0.2·√max(r, c), so its root mean square is about 0.2, as AdamW's is in
//! practice ("Muon is Scalable for LLM Training", arXiv 2502.16982, eq. 4): one learning rate and one weight decay serve both.

use tch::{Kind, Tensor};

use crate::error::ModelError;
use crate::optimizer::state::{Noise, fp32, store};
use crate::parameter::Parameter;

/// Settings of Muon.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Muon {
    /// Share of the momentum that a step keeps.
    pub momentum: f64,
}

impl Default for Muon {
    fn default() -> Self {
        Self { momentum: 0.95 }
    }
}

/// Iterations of Newton and Schulz.
const ITERATIONS: usize = 5;
/// Coefficients of x, x³ and x⁵ in an iteration: they are Jordan's, chosen so that small singular values grow fast. The result's
/// singular values lie between 0.7 and 1.2, which trains as well as exactly 1.
const COEFFICIENTS: [f64; 3] = [3.4445, -4.7750, 2.0315];
/// Root mean square of an update, in learning rates.
const UPDATE_RMS: f64 = 0.2;

/// The numbers of one parameter's update.
#[derive(Clone, Copy)]
pub(super) struct Rate {
    pub settings: Muon,
    /// What the weight is multiplied by: 1 − lr · weight decay.
    pub decay: f64,
    pub lr: f64,
    /// What the gradient is multiplied by.
    pub scale: f64,
}

impl Rate {
    /// Updates the weight and its momentum: M ← μM + g, and what is orthogonalised is Nesterov's g + μM.
    pub fn apply(
        self,
        parameter: &Parameter,
        weight: &mut Tensor,
        grad: &Tensor,
        momentum: &mut Tensor,
        noise: Noise,
    ) -> Result<(), ModelError> {
        let (mu, grad) = (self.settings.momentum, grad.f_mul_scalar(self.scale)?);
        let mut values = fp32(momentum)?;
        let _ = values.f_mul_scalar_(mu)?.f_add_(&grad)?;
        store(momentum, &values, noise.of("momentum_buffer"))?;
        let ahead = values.f_mul_scalar(mu)?.f_add_(&grad)?;
        let _ = weight.f_mul_scalar_(self.decay)?;
        for (ahead, mut weight) in parameter.matrices(&ahead)?.iter().zip(parameter.matrices(weight)?) {
            let (rows, columns) = weight.size2()?;
            let rate = self.lr * UPDATE_RMS * (rows.max(columns) as f64).sqrt();
            let _ = weight.f_sub_(&orthogonal(ahead)?.f_mul_scalar(rate)?)?;
        }
        Ok(())
    }
}

/// About the orthogonal matrix that is nearest to an `[r, c]` matrix (U·Vᵀ of its singular value decomposition). Zero for zero.
fn orthogonal(matrix: &Tensor) -> Result<Tensor, ModelError> {
    let (rows, columns) = matrix.size2()?;
    // bf16 serves, and is what makes it cheap on a GPU; CPUs are faster in fp32.
    let kind = if matrix.device().is_cuda() { Kind::BFloat16 } else { Kind::Float };
    let norm = matrix.f_norm()?.f_add_scalar(1e-7)?;
    let mut x = matrix.f_div(&norm)?.f_to_kind(kind)?;
    // The square is made of the shorter side.
    let tall = rows > columns;
    if tall {
        x = x.f_tr()?;
    }
    let [a, b, c] = COEFFICIENTS;
    for _ in 0..ITERATIONS {
        let square = x.f_mm(&x.f_tr()?)?;
        let polynomial = square.f_mm(&square)?.f_mul_scalar_(c)?.f_add_(&square.f_mul_scalar(b)?)?;
        x = polynomial.f_mm(&x)?.f_add_(&x.f_mul_scalar(a)?)?;
    }
    if tall {
        x = x.f_tr()?;
    }
    Ok(x.f_to_kind(Kind::Float)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use difflow_diffusion::keyed;

    use super::*;
    use crate::parameter::normals;

    /// With other coefficients, one iteration less, or the wrong side of a tall matrix, some are far from 1.
    #[test]
    fn an_orthogonalised_matrix_has_singular_values_near_one_and_the_same_directions() {
        for (rows, columns) in [(96, 96), (40, 128), (128, 40), (1, 7)] {
            let mut rng = keyed::rng(1, "matrix", rows as u64, columns as u64);
            let values: Vec<f32> = normals(&mut rng, (rows * columns) as usize).map(|z| (3e-4 * z) as f32).collect();
            let matrix = Tensor::from_slice(&values).view((rows, columns));
            let found = orthogonal(&matrix).unwrap();
            let (u, _, v) = matrix.svd(true, true);
            // Uᵀ·X·V is the singular values' diagonal, and nothing beside it.
            let inner = u.tr().mm(&found).mm(&v);
            let values = inner.diagonal(0, 0, 1);
            let (least, most) = (values.min().double_value(&[]), values.max().double_value(&[]));
            let beside = (&inner - values.diag(0)).abs().max().double_value(&[]);
            // A square random matrix has singular values near nothing, which would need more iterations.
            let mean = values.mean(Kind::Float).double_value(&[]);
            assert!(least > 0.68 || (rows == columns && mean > 0.8), "{rows}×{columns}: {least}, mean {mean}");
            assert!(most < 1.21 && beside < 1e-3, "{rows}×{columns}: {most}, {beside}");
        }
    }

    #[test]
    fn no_gradient_is_no_direction() {
        let zero = Tensor::zeros([4, 6], (Kind::Float, tch::Device::Cpu));
        assert_eq!(orthogonal(&zero).unwrap(), zero);
    }
}
