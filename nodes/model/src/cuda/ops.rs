//! The operations, each with its gradient: a kernel where there is one, torch's operations where not.
//!
//! Rows `[N, D]`; the residual stream is fp32, what enters a product is in the kind of the arithmetic.

use std::sync::Arc;

use tch::{Kind, Tensor};

use crate::config::NormKind;
use crate::cuda::library::{Argument, Grid, Kernels};
use crate::error::ModelError;
use crate::layers::Norm;
use crate::shim::{attach, attach_all};

/// Values that a thread moves at a time.
const VALUES: usize = 8;
/// Blocks of a kernel that adds up over rows, for each multiprocessor: enough to hide the latency of memory.
const BLOCKS: usize = 4;
/// The most threads of a block.
const THREADS: usize = 1024;

/// What a half of a block adds to the residual stream: the result of its last matrix, and that one's bias.
#[derive(Debug)]
pub(crate) struct Branch<'a> {
    pub rows: Tensor,
    pub bias: Option<&'a Tensor>,
}

/// x + branch + bias (fp32) and its norm (in `kind`).
pub(crate) fn add_norm(
    x: &Tensor,
    branch: Option<&Branch>,
    norm: &Norm,
    kind: Kind,
    kernels: Option<&Arc<Kernels>>,
) -> Result<(Tensor, Tensor), ModelError> {
    let width = x.size2()?.1 as usize;
    let Some(kernels) = kernels.filter(|_| width.is_multiple_of(VALUES) && width <= VALUES * THREADS) else {
        let sum = match branch {
            None => x.shallow_clone(),
            Some(branch) => added(x, branch)?,
        };
        let normed = norm.plain(&sum)?.f_to_kind(kind)?;
        return Ok((sum, normed));
    };
    let (rows, layer, none) = (x.size2()?.0, norm.kind == NormKind::Layer, Tensor::new());
    let float = |size: &[i64]| Tensor::f_empty(size, (Kind::Float, x.device()));
    let (statistics, normed) = (float(&[rows, 2])?, Tensor::f_empty(x.size(), (kind, x.device()))?);
    let sum = if branch.is_some() { float(&x.size())? } else { x.f_detach()? };
    let bias = branch.and_then(|branch| branch.bias);
    let name = if layer { c"add_layer_norm" } else { c"add_rms_norm" };
    let threads = width.div_ceil(VALUES).next_multiple_of(32);
    let branch_rows = branch.map(|branch| branch.rows.f_contiguous()).transpose()?;
    let gain = norm.gain()?;
    let arguments = [
        Argument::Memory(x),
        branch_rows.as_ref().into(),
        bias.into(),
        Argument::Memory(&gain),
        norm.bias.as_ref().into(),
        Argument::Memory(&sum),
        Argument::Memory(&normed),
        Argument::Memory(&statistics),
        Argument::Int(width as i32),
        Argument::Float(norm.eps as f32),
    ];
    // SAFETY: as the kernel declares them; all rows are `width` wide and contiguous.
    unsafe { kernels.launch(name, Grid { x: rows as usize, y: 1, threads }, &arguments)? };
    let rows_of_branch = branch.map_or(&none, |branch| &branch.rows);
    let inputs = [x, rows_of_branch, bias.unwrap_or(&none), &gain, norm.bias.as_ref().unwrap_or(&none)];
    let there: Vec<bool> = inputs.iter().map(|input| input.defined()).collect();
    let defined: Vec<&Tensor> = inputs.into_iter().filter(|input| input.defined()).collect();
    let (saved, weight, kernels) = (sum.f_detach()?, gain.f_detach()?, kernels.clone());
    let backward = move |gradients: &[Option<Tensor>]| -> Result<Vec<Option<Tensor>>, ModelError> {
        let of_sum = gradients[0].as_ref().map(Tensor::f_contiguous).transpose()?;
        let of_normed = match &gradients[1] {
            Some(gradient) => gradient.f_contiguous()?,
            None => Tensor::f_zeros(saved.size(), (kind, saved.device()))?,
        };
        let float = |size: &[i64]| Tensor::f_empty(size, (Kind::Float, saved.device()));
        let dx = float(&saved.size())?;
        let in_bf16 = if there[1] { Some(Tensor::f_empty(saved.size(), (kind, saved.device()))?) } else { None };
        let blocks = (kernels.processors * BLOCKS).min(rows as usize);
        let partial = float(&[blocks as i64, 3, width as i64])?;
        let name = if layer { c"add_layer_norm_slope" } else { c"add_rms_norm_slope" };
        let arguments = [
            Argument::Memory(&saved),
            Argument::Memory(&statistics),
            Argument::Memory(&weight),
            of_sum.as_ref().into(),
            Argument::Memory(&of_normed),
            Argument::Memory(&dx),
            in_bf16.as_ref().into(),
            Argument::Memory(&partial),
            Argument::Int(rows as i32),
            Argument::Int(width as i32),
        ];
        // SAFETY: as above.
        unsafe { kernels.launch(name, Grid { x: blocks, y: 1, threads }, &arguments)? };
        let sums = partial.f_sum_dim_intlist([0i64].as_slice(), false, Kind::Float)?;
        let part = |at: i64| sums.f_get(at);
        let all = [Some(dx), in_bf16, Some(part(2)?), Some(part(0)?), Some(part(1)?)];
        Ok(all.into_iter().zip(&there).filter(|(_, there)| **there).map(|(gradient, _)| gradient).collect())
    };
    if branch.is_some() {
        let [sum, normed] = attach_all([sum, normed], &defined, backward)?;
        return Ok((sum, normed));
    }
    // Without a branch x is its own sum, and goes on as it is: the gradients meet at it.
    let [normed] = attach_all([normed], &defined, move |gradients| {
        let of_normed = gradients[0].as_ref().map(Tensor::shallow_clone);
        backward(&[None, of_normed])
    })?;
    Ok((x.shallow_clone(), normed))
}

/// x + branch + bias.
pub(crate) fn added(x: &Tensor, branch: &Branch) -> Result<Tensor, ModelError> {
    let sum = x.f_add(&branch.rows)?;
    Ok(match branch.bias {
        None => sum,
        Some(bias) => sum.f_add(bias)?,
    })
}

/// gelu(x · W + b) for W `[in, out]`, tanh approximation, and where b is given with its gradient.
pub(crate) fn linear_gelu(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    kernels: Option<&Arc<Kernels>>,
) -> Result<Tensor, ModelError> {
    let width = weight.size()[1] as usize;
    let Some(kernels) = kernels.filter(|_| width.is_multiple_of(VALUES)) else {
        return Ok(bias.f_addmm(x, weight)?.f_gelu("tanh")?);
    };
    let (x_saved, w_saved) = (x.f_detach()?, weight.f_detach()?);
    let h = bias.f_detach()?.f_addmm(&x_saved, &w_saved)?;
    let out = h.f_gelu("tanh")?;
    let (kernels, rows) = (kernels.clone(), x.size2()?.0 as usize);
    attach(out, &[x, weight, bias], move |gradient| {
        // Nothing else reads it: it is made for this function alone.
        let slope = gradient.f_contiguous()?;
        let threads = 128;
        let across = width.div_ceil(VALUES * threads);
        let down = (kernels.processors * BLOCKS * 2).div_ceil(across).min(rows);
        let partial = Tensor::f_empty([down as i64, width as i64], (Kind::Float, slope.device()))?;
        let arguments = [
            Argument::Memory(&h),
            Argument::Memory(&slope),
            Argument::Memory(&partial),
            Argument::Int(rows as i32),
            Argument::Int(width as i32),
        ];
        // SAFETY: as the kernel declares them; both matrices are [rows, width] and contiguous.
        unsafe { kernels.launch(c"gelu_slope", Grid { x: across, y: down, threads }, &arguments)? };
        let of_bias = partial.f_sum_dim_intlist([0i64].as_slice(), false, slope.kind())?;
        Ok(vec![Some(slope.f_mm(&w_saved.f_tr()?)?), Some(x_saved.f_tr()?.f_mm(&slope)?), Some(of_bias)])
    })
}

/// silu(gate) · up of rows `[gate | up]`.
pub(crate) fn swiglu(both: &Tensor, kernels: Option<&Arc<Kernels>>) -> Result<Tensor, ModelError> {
    let (rows, wide) = both.size2()?;
    let width = wide as usize / 2;
    let Some(kernels) = kernels.filter(|_| width.is_multiple_of(VALUES) && both.is_contiguous()) else {
        let parts = both.f_split(wide / 2, 1)?;
        return Ok(parts[0].f_silu()?.f_mul(&parts[1])?);
    };
    let count = rows as usize * width;
    let grid = Grid { x: count.div_ceil(VALUES * 256), y: 1, threads: 256 };
    let out = Tensor::f_empty([rows, width as i64], (both.kind(), both.device()))?;
    // SAFETY: as the kernel declares them.
    unsafe {
        kernels.launch(
            c"swiglu",
            grid,
            &[
                Argument::Memory(both),
                Argument::Memory(&out),
                Argument::Long(count as u64),
                Argument::Int(width as i32),
            ],
        )?
    };
    let (saved, kernels) = (both.f_detach()?, kernels.clone());
    attach(out, &[both], move |gradient| {
        let (slope, out) = (gradient.f_contiguous()?, saved.f_empty_like()?);
        let (all, wide) = (Argument::Long(count as u64), Argument::Int(width as i32));
        let arguments = [Argument::Memory(&saved), Argument::Memory(&slope), Argument::Memory(&out), all, wide];
        // SAFETY: as above.
        unsafe { kernels.launch(c"swiglu_slope", grid, &arguments)? };
        Ok(vec![Some(out)])
    })
}

/// The tables of the rotary embedding, and whose they are.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    /// `[positions, size / 2]` each, fp32.
    pub cos: &'a Tensor,
    pub sin: &'a Tensor,
    /// Position of each token of a row, i64; `None` where they are counted.
    pub index: Option<&'a Tensor>,
    /// Tokens of a row.
    pub length: i64,
    pub heads: i64,
    /// The first so many of the heads are turned.
    pub turned: i64,
    pub size: i64,
}

/// Turns heads of `[N, heads · size]` in place, for who has made it for this.
pub(crate) fn rotate(qkv: Tensor, turn: &Turn, kernels: &Arc<Kernels>) -> Result<Tensor, ModelError> {
    let turned =
        |x: &Tensor, kernels: &Kernels, tables: &[Tensor; 2], index: Option<&Tensor>, numbers: [i32; 4], sign| {
            let [length, heads, turned, size] = numbers;
            let arguments = [
                Argument::Memory(x),
                Argument::Memory(&tables[0]),
                Argument::Memory(&tables[1]),
                index.into(),
                Argument::Int(length),
                Argument::Int(heads),
                Argument::Int(turned),
                Argument::Int(size),
                Argument::Float(sign),
            ];
            let grid = Grid { x: x.size()[0] as usize, y: 1, threads: 256 };
            // SAFETY: as the kernel declares them; the tables have a row for every position.
            unsafe { kernels.launch(c"rotate", grid, &arguments) }
        };
    let numbers = [turn.length as i32, turn.heads as i32, turn.turned as i32, turn.size as i32];
    let tables = [turn.cos.shallow_clone(), turn.sin.shallow_clone()];
    let index = turn.index.map(Tensor::shallow_clone);
    let out = qkv.f_detach()?;
    turned(&out, kernels, &tables, index.as_ref(), numbers, 1.0)?;
    let kernels = kernels.clone();
    attach(out, &[&qkv], move |gradient| {
        let slope = gradient.f_contiguous()?;
        turned(&slope, &kernels, &tables, index.as_ref(), numbers, -1.0)?;
        Ok(vec![Some(slope)])
    })
}

/// The cross-entropy `[n]` of logits `[n, V or more]` in bf16 of which the first `vocabulary` count. With a scale `[n]` the logits become
/// their gradient times it. Returns `None` where the kernel cannot.
pub(crate) fn cross_entropy(
    logits: &Tensor,
    vocabulary: i64,
    target: &Tensor,
    scale: Option<&Tensor>,
    kernels: Option<&Arc<Kernels>>,
) -> Result<Option<Tensor>, ModelError> {
    let (rows, stride) = logits.size2()?;
    let Some(kernels) = kernels.filter(|_| (stride as usize).is_multiple_of(VALUES) && logits.is_contiguous()) else {
        return Ok(None);
    };
    let loss = Tensor::f_empty([rows], (Kind::Float, logits.device()))?;
    let arguments = [
        Argument::Memory(logits),
        Argument::Memory(target),
        scale.into(),
        Argument::Memory(&loss),
        Argument::Int(stride as i32),
        Argument::Int(vocabulary as i32),
    ];
    let threads = (stride as usize / VALUES).next_multiple_of(32).min(THREADS);
    // SAFETY: as the kernel declares them.
    unsafe { kernels.launch(c"cross_entropy", Grid { x: rows as usize, y: 1, threads }, &arguments)? };
    Ok(Some(loss))
}
