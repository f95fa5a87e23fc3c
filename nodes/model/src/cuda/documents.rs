//! Attention inside documents by torch's flash kernel for sequences of different lengths: what is not visible is not computed, and there is
//! no bias of a row's length squared.

use std::ffi::{c_char, c_int, c_void};
use std::sync::Arc;

use tch::Tensor;

use crate::error::ModelError;
use crate::later::upload;
use crate::shim::{attach, checked};
use crate::visibility::Stretch;

/// A C_tensor pointer of tch.
type Raw = *mut c_void;

unsafe extern "C" {
    fn difflow_documents(
        q: Raw,
        k: Raw,
        v: Raw,
        bounds: Raw,
        longest: i64,
        causal: c_int,
        out: *mut Raw,
        sums: *mut Raw,
        seed: *mut Raw,
        offset: *mut Raw,
        error: *mut c_char,
        room: usize,
    ) -> c_int;
    fn difflow_documents_slope(
        gradient: Raw,
        q: Raw,
        k: Raw,
        v: Raw,
        out: Raw,
        sums: Raw,
        bounds: Raw,
        longest: i64,
        causal: c_int,
        seed: Raw,
        offset: Raw,
        of_q: *mut Raw,
        of_k: *mut Raw,
        of_v: *mut Raw,
        error: *mut c_char,
        room: usize,
    ) -> c_int;
}

/// Documents that fixed shapes have room for at least.
const FEWEST: usize = 16;

/// The documents of a batch, on the device.
#[derive(Debug, Clone)]
pub(crate) struct Documents {
    bounds: Arc<Bounds>,
    longest: i64,
    causal: bool,
}

/// Where documents begin, and where the last one ends: i32 `[documents + 1]`.
#[derive(Debug)]
struct Bounds(Tensor);

// SAFETY: it is only read, after it was made.
unsafe impl Sync for Bounds {}

impl Documents {
    /// Of documents that lie one after the other in rows of `length`. With fixed shapes there are empty documents behind them, up to a power
    /// of two, and the longest is said to be as long as a row.
    pub fn new(
        documents: &[Stretch],
        causal: bool,
        length: usize,
        fixed_shapes: bool,
        device: tch::Device,
    ) -> Result<Self, ModelError> {
        let ends = documents.iter().map(|document| document.end as i32);
        let mut bounds: Vec<i32> = std::iter::once(0).chain(ends).collect();
        let mut longest = documents.iter().map(|document| document.len()).max().unwrap_or(0);
        if fixed_shapes {
            let end = bounds.last().copied().unwrap_or(0);
            bounds.resize(documents.len().next_power_of_two().max(FEWEST) + 1, end);
            longest = length;
        }
        Ok(Self { bounds: Arc::new(Bounds(upload(&bounds, device)?)), longest: longest as i64, causal })
    }

    /// Their bounds, on the device.
    pub fn bounds(&self) -> &Tensor {
        &self.bounds.0
    }

    /// What a kernel is told beside them.
    pub fn told(&self) -> [i64; 2] {
        [self.longest, i64::from(self.causal)]
    }

    /// Attention of queries `[T, H, d]` over keys and values `[T, Hkv, d]`: `[T, H, d]`.
    pub fn attend(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor, ModelError> {
        let [q_saved, k_saved, v_saved] = [q.f_detach()?, k.f_detach()?, v.f_detach()?];
        let mut made = [std::ptr::null_mut(); 4];
        let [out, sums, seed, offset] = &mut made;
        let (bounds, longest, causal) = (raw(&self.bounds.0), self.longest, c_int::from(self.causal));
        let (q_raw, k_raw, v_raw) = (raw(&q_saved), raw(&k_saved), raw(&v_saved));
        // SAFETY: live tensors; on success the results are owned ones.
        let [out, sums, seed, offset] = unsafe {
            checked(|error, room| {
                difflow_documents(q_raw, k_raw, v_raw, bounds, longest, causal, out, sums, seed, offset, error, room)
            })?;
            made.map(|tensor| Tensor::from_ptr(tensor.cast()))
        };
        let (documents, out_saved) = (self.clone(), out.f_detach()?);
        attach(out, &[q, k, v], move |gradient| {
            let gradient = gradient.f_contiguous()?;
            let mut made = [std::ptr::null_mut(); 3];
            let [of_q, of_k, of_v] = &mut made;
            let (q, k, v, out) = (raw(&q_saved), raw(&k_saved), raw(&v_saved), raw(&out_saved));
            let (sums, seed, offset, bounds) = (raw(&sums), raw(&seed), raw(&offset), raw(&documents.bounds.0));
            let (longest, causal, gradient) = (documents.longest, c_int::from(documents.causal), raw(&gradient));
            // SAFETY: as above.
            let gradients = unsafe {
                checked(|error, room| {
                    difflow_documents_slope(
                        gradient, q, k, v, out, sums, bounds, longest, causal, seed, offset, of_q, of_k, of_v, error,
                        room,
                    )
                })?;
                made.map(|tensor| Tensor::from_ptr(tensor.cast()))
            };
            Ok(gradients.into_iter().map(Some).collect())
        })
    }
}

fn raw(tensor: &Tensor) -> Raw {
    tensor.as_ptr().cast_mut().cast()
}
