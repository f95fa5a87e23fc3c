//! A low-rank change of a linear map (LoRA, arXiv 2106.09685): y + scale · B A x, where only A and B are trained.

use tch::{Kind, Tensor};

use crate::arithmetic::Arithmetic;
use crate::error::ModelError;

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
        let down: Vec<Tensor> = self.pieces.iter().map(|piece| piece.a.shallow_clone()).collect();
        let low = x.f_linear(&Tensor::f_cat(&down, 0)?.f_to_kind(how.kind())?, None::<Tensor>)?;
        Ok(y.f_addmm(&low, &self.up()?.f_to_kind(how.kind())?.f_transpose(0, 1)?)?)
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
