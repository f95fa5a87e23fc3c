//! A low-rank change of a linear map (LoRA, arXiv 2106.09685): y + scale · B A x, where only A and B are trained.

use tch::{Kind, Tensor};

use crate::arithmetic::Arithmetic;
use crate::error::ModelError;
use crate::shim::attach;

/// The change of a map, or of some of the matrices that it stands for: queries, keys and values are one map here and three in the files.
#[derive(Debug)]
pub(crate) struct LowRank {
    pub pieces: Vec<Piece>,
    /// Columns of the whole map.
    pub outputs: i64,
}

/// The change of one matrix.
#[derive(Debug)]
pub(crate) struct Piece {
    /// `[r, in]`.
    pub a: Tensor,
    /// `[out, r]`.
    pub b: Tensor,
    pub scale: f64,
    /// Its first column among those of the map.
    pub start: i64,
}

impl Piece {
    fn share(&self) -> Self {
        Self { a: self.a.shallow_clone(), b: self.b.shallow_clone(), ..*self }
    }

    /// scale · B A, `[out, in]`, in fp32.
    pub fn product(&self) -> Result<Tensor, ModelError> {
        Ok(self.b.f_detach()?.f_mm(&self.a.f_detach()?)?.f_mul_scalar(self.scale)?)
    }
}

impl LowRank {
    /// The same tensors.
    pub fn share(&self) -> Self {
        Self { pieces: self.pieces.iter().map(Piece::share).collect(), outputs: self.outputs }
    }

    /// `y` with the change for the rows `x`, both in the kind of the arithmetic.
    pub fn add(&self, y: &Tensor, x: &Tensor, how: Arithmetic) -> Result<Tensor, ModelError> {
        let x = match how.adapter_dropout {
            0.0 => x.shallow_clone(),
            share => x.f_dropout(share, true)?,
        };
        let low = x.f_linear(&self.down()?.f_to_kind(how.kind())?, None::<Tensor>)?;
        Ok(y.f_addmm(&low, &self.up()?.f_to_kind(how.kind())?.f_transpose(0, 1)?)?)
    }

    /// Whether the rows `x` `[N, in]` are cheaper multiplied by the sum of the matrices than by each for itself.
    pub fn fits_into_weight(&self, x: &Tensor) -> bool {
        let (rows, inputs) = (x.size()[0], x.size()[1]);
        rows * (inputs + self.outputs) >= inputs * self.outputs
    }

    /// x·(W + scale · B A) (+ b) for rows `x` `[N, in]` in fp32, where weight, perhaps in bf16, and bias are not trained:
    /// one product of the size of the model's own in each direction, and for A and B products with as many columns as
    /// their rank. The sum is made twice rather than kept, so that only one exists at a time. Does not drop anything.
    pub fn multiply(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
        in_first: bool,
    ) -> Result<Tensor, ModelError> {
        let (down, up) = tch::no_grad(|| Ok::<_, ModelError>((self.down()?, self.up()?)))?;
        let weight = weight.f_detach()?;
        let sum = move |weight: &Tensor, down: &Tensor, up: &Tensor| -> Result<Tensor, ModelError> {
            let weight = weight.f_to_kind(Kind::Float)?;
            // `[in, out]`.
            if in_first {
                Ok(weight.f_addmm(&down.f_transpose(0, 1)?, &up.f_transpose(0, 1)?)?)
            } else {
                Ok(weight.f_addmm(up, down)?.f_transpose(0, 1)?)
            }
        };
        let y = tch::no_grad(|| {
            let sum = sum(&weight, &down, &up)?;
            Ok::<_, ModelError>(match bias {
                None => x.f_mm(&sum)?,
                Some(bias) => bias.f_addmm(x, &sum)?,
            })
        })?;
        let inputs: Vec<&Tensor> =
            std::iter::once(x).chain(self.pieces.iter().flat_map(|piece| [&piece.a, &piece.b])).collect();
        let (saved, onward, pieces) = (x.f_detach()?, x.requires_grad(), self.share().pieces);
        attach(y, &inputs, move |gradient| {
            let onward =
                if onward { Some(gradient.f_mm(&sum(&weight, &down, &up)?.f_transpose(0, 1)?)?) } else { None };
            let low = saved.f_mm(&down.f_transpose(0, 1)?)?;
            let down_gradient = up.f_transpose(0, 1)?.f_mm(&gradient.f_transpose(0, 1)?)?.f_mm(&saved)?;
            let mut gradients = vec![onward];
            let mut first = 0;
            for Piece { a, b, scale, start } in &pieces {
                let (rank, length) = (a.size()[0], b.size()[0]);
                let (low, gradient) = (low.f_narrow(1, first, rank)?, gradient.f_narrow(1, *start, length)?);
                let b = low.f_transpose(0, 1)?.f_mm(&gradient)?.f_mul_scalar(*scale)?;
                gradients.extend([
                    Some(down_gradient.f_narrow(0, first, rank)?),
                    Some(b.f_transpose(0, 1)?.f_contiguous()?),
                ]);
                first += rank;
            }
            Ok(gradients)
        })
    }

    /// All A as one matrix `[Σ r, in]`.
    fn down(&self) -> Result<Tensor, ModelError> {
        let all: Vec<Tensor> = self.pieces.iter().map(|piece| piece.a.shallow_clone()).collect();
        Ok(Tensor::f_cat(&all, 0)?)
    }

    /// All B · scale as one matrix `[outputs, Σ r]`, zero where a piece does not reach.
    fn up(&self) -> Result<Tensor, ModelError> {
        let columns: i64 = self.pieces.iter().map(|piece| piece.a.size()[0]).sum();
        let (mut first, mut whole) = (0, None::<Tensor>);
        for Piece { b, scale, start, .. } in &self.pieces {
            let (rows, rank) = b.size2()?;
            let around = [first, columns - first - rank, *start, self.outputs - start - rows];
            let b = b.f_mul_scalar(*scale)?.f_constant_pad_nd(around)?;
            first += rank;
            whole = Some(match whole {
                None => b,
                Some(sum) => sum.f_add(&b)?,
            });
        }
        match whole {
            Some(whole) => Ok(whole),
            None => Ok(Tensor::f_zeros([self.outputs, 0], (Kind::Float, tch::Device::Cpu))?),
        }
    }
}
