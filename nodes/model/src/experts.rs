//! Feed-forward blocks of experts (mixtures of experts): a router gives every expert a share of each token, the experts with the largest
//! shares compute the token, and what they give is added up by their shares.
//!
//! The tokens are sorted by expert, so that an expert that has any multiplies all of them at once; one without tokens costs nothing. A token's
//! results are added in the order of its shares, whichever other tokens there are.

use tch::{Kind, Tensor};

use crate::arithmetic::{Arithmetic, Precision};
use crate::block::Parts;
use crate::config::{Activation, Mixture};
use crate::error::ModelError;
use crate::family::ExpertNames;
use crate::fused::multiply;
use crate::host::copied;
use crate::later::upload;
use crate::layers::{Passed, gated};
use crate::parameter::{Init, Leaf, Matrices};
use crate::shim::attach;
use crate::weight::Weight;

/// The experts of a block, each with a gate.
#[derive(Debug)]
pub(crate) struct Experts {
    /// `[E, D]`.
    router: Weight,
    /// Gate and up of one expert below the other, `[E · 2F, D]`.
    gate_up: Weight,
    /// `[E · D, F]`.
    down: Weight,
    /// Experts of a token.
    chosen: usize,
    /// The shares of a token's experts are divided by their sum.
    normed: bool,
}

/// What the router of a block said.
#[derive(Debug)]
pub(crate) struct Routed {
    /// Of each token by each expert, fp32 `[N, E]`.
    pub shares: Tensor,
    /// The experts of each token, `[N · k]`.
    pub chosen: Vec<i64>,
}

impl Parts<'_, '_> {
    /// The experts of block `layer`.
    pub fn experts(&mut self, layer: usize, mixture: &Mixture, names: &ExpertNames) -> Result<Experts, ModelError> {
        let (count, d, f) = (mixture.count, self.config.hidden_size as i64, mixture.width as i64);
        let at = |part: &str| format!("{}.weight", self.names.of_layer(layer, part));
        let of = |expert: usize, part: &str| at(&part.replace("{expert}", &expert.to_string()));
        let router = Leaf::new(Init::Normal, [(at(names.router), vec![count as i64, d])]);
        let inner = (0..count).flat_map(|expert| names.inner.map(|part| (of(expert, part), vec![f, d])));
        let matrices = Matrices { dimension: 0, sizes: vec![f; 2 * count] };
        let gate_up = Leaf::of_matrices(Init::Normal, inner, matrices);
        let outer = (0..count).map(|expert| (of(expert, names.down), vec![d, f]));
        let matrices = Matrices { dimension: 0, sizes: vec![d; count] };
        let down = Leaf::of_matrices(Init::Residual, outer, matrices);
        let mut take = |leaf: Leaf| (self.take)(Leaf { routed: true, ..leaf }).map(Weight::from);
        let (router, gate_up, down) = (take(router)?, take(gate_up)?, take(down)?);
        Ok(Experts { router, gate_up, down, chosen: mixture.chosen, normed: mixture.normed })
    }
}

impl Experts {
    /// The same tensors.
    pub fn share(&self) -> Self {
        let (router, gate_up, down) = (self.router.share(), self.gate_up.share(), self.down.share());
        Self { router, gate_up, down, ..*self }
    }

    /// Its matrices.
    pub fn weights(&self) -> [&Weight; 3] {
        [&self.router, &self.gate_up, &self.down]
    }

    /// Its matrices, to be changed.
    pub fn weights_mut(&mut self) -> [&mut Weight; 3] {
        [&mut self.router, &mut self.gate_up, &mut self.down]
    }

    /// Rows `[N, D]`. Waits for the device, which the choice of the experts is read from.
    pub fn apply(&self, x: &Tensor, activation: Activation, how: Arithmetic) -> Result<Passed, ModelError> {
        // In fp32 whatever the arithmetic: rounding must not choose.
        let fp32 = Arithmetic { precision: Precision::Fp32, ..how };
        let logits = x.f_to_kind(Kind::Float)?.f_linear(&self.router.of(fp32)?, None::<Tensor>)?;
        let shares = logits.f_softmax(-1, Kind::Float)?;
        let (tokens, count) = shares.size2()?;
        let (chosen, k) = (chosen(&copied(&shares)?, count as usize, self.chosen), self.chosen as i64);
        let sorted = Sorted::new(&chosen, (count as usize, self.chosen), x.device())?;
        let index = upload(&chosen, x.device())?.f_view((tokens, k))?;
        let mut weights = shares.f_gather(1, &index, false)?;
        if self.normed {
            weights = weights.f_div(&weights.f_sum_dim_intlist([1].as_slice(), true, Kind::Float)?)?;
        }
        let own = sorted.spread(&x.f_to_kind(how.kind())?)?;
        let inner = gated(&sorted.multiply(&own, &self.gate_up, how)?, activation, how)?;
        let outer = sorted.multiply(&inner, &self.down, how)?.f_to_kind(Kind::Float)?;
        Ok(Passed { rows: sorted.gathered(&outer, &weights)?, routed: Some(Routed { shares, chosen }) })
    }
}

/// Of each row of `count` shares the experts with the `most` largest, the largest first; of equals the one with the smaller number.
fn chosen(shares: &[f32], count: usize, most: usize) -> Vec<i64> {
    let mut all: Vec<usize> = Vec::with_capacity(count);
    let mut chosen = Vec::with_capacity(shares.len() / count * most);
    for row in shares.chunks(count) {
        all.clear();
        all.extend(0..count);
        let order = |a: &usize, b: &usize| row[*b].total_cmp(&row[*a]).then(a.cmp(b));
        if most < count {
            let _ = all.select_nth_unstable_by(most, order);
        }
        all[..most].sort_unstable_by(order);
        chosen.extend(all[..most].iter().map(|&expert| expert as i64));
    }
    chosen
}

/// Pairs of a token and one of its experts, sorted by expert, and by token where that is the same.
#[derive(Debug)]
struct Sorted {
    /// Pairs of each expert.
    sizes: Vec<i64>,
    /// Experts of a token.
    chosen: i64,
    /// The token of each pair.
    tokens: Tensor,
    /// Which pair, counted token by token, each one is.
    pairs: Tensor,
    /// Where the pairs are, token by token.
    places: Tensor,
}

impl Sorted {
    /// For experts as [`Routed::chosen`] has them; `count` of them, `most` for a token.
    fn new(chosen: &[i64], (count, most): (usize, usize), device: tch::Device) -> Result<Self, ModelError> {
        let mut sizes = vec![0; count];
        chosen.iter().for_each(|&expert| sizes[expert as usize] += 1);
        let mut next: Vec<i64> = sizes.iter().scan(0, |sum, size| Some(std::mem::replace(sum, *sum + size))).collect();
        let (mut pairs, mut places) = (vec![0; chosen.len()], Vec::with_capacity(chosen.len()));
        for (pair, &expert) in chosen.iter().enumerate() {
            let place = next[expert as usize];
            next[expert as usize] += 1;
            pairs[place as usize] = pair as i64;
            places.push(place);
        }
        let tokens: Vec<i64> = pairs.iter().map(|pair| pair / most as i64).collect();
        let there = |values: &[i64]| upload(values, device);
        let (tokens, pairs, places) = (there(&tokens)?, there(&pairs)?, there(&places)?);
        Ok(Self { sizes, chosen: most as i64, tokens, pairs, places })
    }

    /// The row of each pair's token: `[N, D]` → `[N · k, D]`.
    fn spread(&self, x: &Tensor) -> Result<Tensor, ModelError> {
        let rows = x.f_detach()?.f_index_select(0, &self.tokens)?;
        let (places, chosen) = (self.places.shallow_clone(), self.chosen);
        attach(rows, &[x], move |gradient| {
            let width = gradient.size2()?.1;
            let by_token = gradient.f_index_select(0, &places)?.f_view((-1, chosen, width))?;
            Ok(vec![Some(by_token.f_sum_dim_intlist([1].as_slice(), false, gradient.kind())?)])
        })
    }

    /// The product of each expert's rows and its matrix in a stack of them: `[N · k, in]` → `[N · k, out]`.
    fn multiply(&self, x: &Tensor, stack: &Weight, how: Arithmetic) -> Result<Tensor, ModelError> {
        let (weights, x) = (stack.values(how)?, x.f_to_kind(how.kind())?);
        let (kind, size) = (how.kind(), weights.size()[0] / self.sizes.len() as i64);
        let of = move |expert: i64| Ok::<_, ModelError>(weights.f_narrow(0, expert * size, size)?.f_to_kind(kind)?);
        let (rows, stretches) = (x.f_detach()?, stretches(&self.sizes));
        let product = Tensor::f_empty([rows.size()[0], size], (kind, x.device()))?;
        for &Stretch { expert, start, length } in &stretches {
            let (mut to, own) = (product.f_narrow(0, start, length)?, rows.f_narrow(0, start, length)?);
            multiply(&mut to, &own, &of(expert)?.f_transpose(0, 1)?)?;
        }
        let (onward, learns, shape) = (x.requires_grad(), stack.master.requires_grad(), stack.master.size());
        attach(product, &[&x, &stack.master], move |gradient| {
            let gradient = gradient.f_to_kind(kind)?;
            let zeros = |size: &[i64], kind| Tensor::f_zeros(size, (kind, gradient.device()));
            let onward = if onward { Some(zeros(&rows.size(), kind)?) } else { None };
            let whole = if learns { Some(zeros(&shape, Kind::Float)?) } else { None };
            for &Stretch { expert, start, length } in &stretches {
                let own = gradient.f_narrow(0, start, length)?;
                if let Some(onward) = &onward {
                    multiply(&mut onward.f_narrow(0, start, length)?, &own, &of(expert)?)?;
                }
                if let Some(whole) = &whole {
                    let (mut to, rows) = (whole.f_narrow(0, expert * size, size)?, rows.f_narrow(0, start, length)?);
                    multiply(&mut to, &own.f_transpose(0, 1)?, &rows)?;
                }
            }
            Ok(vec![onward, whole])
        })
    }

    /// Of each token the sum over its experts of their results, `[N · k, D]`, times their weights, `[N, k]`: `[N, D]`, all in fp32.
    fn gathered(&self, results: &Tensor, weights: &Tensor) -> Result<Tensor, ModelError> {
        let (chosen, width) = (self.chosen, results.size2()?.1);
        let (results_saved, weights_saved) = (results.f_detach()?, weights.f_detach()?);
        let (places, pairs) = (self.places.shallow_clone(), self.pairs.shallow_clone());
        let by_token =
            move || Ok::<_, ModelError>(results_saved.f_index_select(0, &places)?.f_view((-1, chosen, width))?);
        let sum = |products: Tensor, over: i64| products.f_sum_dim_intlist([over].as_slice(), false, Kind::Float);
        let rows = sum(by_token()?.f_mul(&weights_saved.f_unsqueeze(2)?)?, 1)?;
        attach(rows, &[results, weights], move |gradient| {
            let gradient = gradient.f_unsqueeze(1)?;
            let results = gradient.f_mul(&weights_saved.f_unsqueeze(2)?)?.f_view((-1, width))?;
            let weights = sum(by_token()?.f_mul(&gradient)?, 2)?;
            Ok(vec![Some(results.f_index_select(0, &pairs)?), Some(weights)])
        })
    }
}

/// The rows of an expert that has some.
struct Stretch {
    expert: i64,
    start: i64,
    length: i64,
}

fn stretches(sizes: &[i64]) -> Vec<Stretch> {
    let starts = sizes.iter().scan(0, |sum, size| Some(std::mem::replace(sum, *sum + size)));
    let all = starts.zip(sizes).enumerate();
    let stretches = all.map(|(expert, (start, &length))| Stretch { expert: expert as i64, start, length });
    stretches.filter(|stretch| stretch.length > 0).collect()
}

/// The load-balancing loss of routers (Switch Transformer, arXiv 2101.03961, eq. 4 to 6, as `transformers` computes it): E · Σ over the experts
/// of the mean number of times that a token chose the expert and its mean share, both over the tokens that count, of all layers together. It is
/// k where all experts have as much to do. With gradients for the shares; fp32, one number. `None` where no token counts.
pub(crate) fn balance(routed: &[Routed], counts: &[bool]) -> Result<Option<Tensor>, ModelError> {
    let Some(first) = routed.first() else { return Ok(None) };
    let (count, device) = (first.shares.size()[1] as usize, first.shares.device());
    let tokens = counts.iter().filter(|counts| **counts).count() * routed.len();
    if tokens == 0 {
        return Ok(None);
    }
    let mut times = vec![0u64; count];
    for Routed { chosen, .. } in routed {
        let most = chosen.len() / counts.len();
        let real = chosen.chunks(most).zip(counts).filter(|(_, counts)| **counts);
        real.flat_map(|(chosen, _)| chosen).for_each(|&expert| times[expert as usize] += 1);
    }
    let scale = count as f64 / (tokens as f64 * tokens as f64);
    let times: Vec<f32> = times.into_iter().map(|times| (times as f64 * scale) as f32).collect();
    let real: Vec<f32> = counts.iter().map(|&counts| f32::from(u8::from(counts))).collect();
    let (times, real) = (upload(&times, device)?, upload(&real, device)?);
    let mut loss: Option<Tensor> = None;
    for Routed { shares, .. } in routed {
        let own = shares.f_mv(&times)?.f_dot(&real)?;
        loss = Some(match loss {
            None => own,
            Some(sum) => sum.f_add(&own)?,
        });
    }
    Ok(loss)
}
