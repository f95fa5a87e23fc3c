//! The decoder: embeddings, blocks of attention and feed-forward, and the output head, for every supported family.
//!
//! Activations are rows `[B·L, D]`. The residual stream and the norms stay in fp32; matrix products and attention run
//! in the compute kind (fp32, or bf16 with fp32 master weights).

mod attend;
mod tables;

use std::cell::Cell;
use std::sync::{Arc, Mutex, PoisonError};

use tch::{Device, Kind, Tensor};

use crate::arithmetic::Arithmetic;
use crate::attention::{Attention, Kernel, LayerAttention, Target};
use crate::block::{Block, Parts, Take};
use crate::cache::Cache;
use crate::config::{Layer, ModelConfig, Positions, Residual};
use crate::cuda;
use crate::error::ModelError;
use crate::fused;
use crate::gathered::{Gathered, Units};
use crate::head;
use crate::kernel::attention::{Plan, Shape};
use crate::kernel::scores::Scores;
use crate::layers::{Norm, Passed};
use crate::parameter::{Init, Leaf};
use crate::rotary::{Rotary, rotate};
use crate::weight::Weight;

/// Is shown what each layer makes of the hidden states, `[B·L, D]`.
pub(crate) type Seen<'a> = dyn FnMut(Passed) -> Result<(), ModelError> + 'a;

#[derive(Debug)]
pub(crate) struct Decoder {
    pub(crate) config: Arc<ModelConfig>,
    /// `[V, D]`.
    embedding: Tensor,
    /// `[max_positions, D]` of learned positions.
    position_table: Option<Tensor>,
    pub(crate) blocks: Vec<Block>,
    norm: Norm,
    /// `[V, D]`; that of the embedding when tied.
    head: Weight,
    /// Of each rotary embedding the tables of the last length.
    rotary: Mutex<Vec<Rotary>>,
    /// On a device: the room of forwards of which nothing is kept.
    pub(crate) passing: Mutex<Option<(Arithmetic, Cache)>>,
    /// Which parameters are used together.
    pub(crate) units: Units,
    /// Where each of several processes keeps a share of them.
    pub(crate) gathered: Option<Arc<Gathered>>,
}

impl Decoder {
    /// Builds the decoder of a configuration. `take` is asked for every leaf, so what the decoder needs is said here only.
    pub fn new(config: &ModelConfig, take: &mut Take) -> Result<Self, ModelError> {
        let count = Cell::new(0);
        let take: &mut Take = &mut |leaf| {
            count.set(count.get() + 1);
            match &config.recipe {
                Some(recipe) => take(recipe.named(leaf)),
                None => take(leaf),
            }
        };
        let mut units = Units { blocks: config.layers, ..Units::default() };
        let mut end_unit = || {
            let begin = units.parameters.last().map_or(0, |unit| unit.end);
            units.parameters.push(begin..count.get());
        };
        let (v, d, names) = (config.vocab_size as i64, config.hidden_size as i64, config.family.names());
        let weight = |name: &str| format!("{name}.weight");
        let embedding = take(Leaf::of_tokens(weight(names.embedding), vec![v, d]))?;
        let position_table = match config.positions {
            Positions::Rotary(_) => None,
            Positions::Learned => {
                let shape = vec![config.max_positions as i64, d];
                Some(take(Leaf::new(Init::Normal, [(weight(names.positions), shape)]))?)
            }
        };
        let mut parts = Parts { config, names, take };
        end_unit();
        let mut blocks = Vec::with_capacity(config.layers);
        for layer in 0..config.layers {
            blocks.push(parts.block(layer)?);
            end_unit();
        }
        let norm = parts.norm(names.norm)?;
        end_unit();
        let head = if config.tied {
            embedding.shallow_clone().into()
        } else {
            let head = (parts.take)(Leaf::of_tokens(weight(names.head), vec![v, d]))?;
            end_unit();
            head.into()
        };
        let (config, rotary, passing) = (Arc::new(config.clone()), Mutex::new(Vec::new()), Mutex::new(None));
        Ok(Self { config, embedding, position_table, blocks, norm, head, rotary, passing, units, gathered: None })
    }

    /// What [`Decoder::block`] needs besides the block, sharing all memory.
    pub fn share(&self) -> Self {
        Self {
            config: self.config.clone(),
            embedding: self.embedding.shallow_clone(),
            position_table: None,
            blocks: Vec::new(),
            norm: self.norm.share(),
            head: self.head.share(),
            rotary: Mutex::new(self.kept_rotary().iter().map(Rotary::share).collect()),
            passing: Mutex::new(None),
            units: Units::default(),
            gathered: None,
        }
    }

    /// Computes with parameters that are there then.
    fn used<T>(&self, unit: usize, run: impl FnOnce() -> Result<T, ModelError>) -> Result<T, ModelError> {
        match &self.gathered {
            None => run(),
            Some(gathered) => gathered.used(unit, run),
        }
    }

    /// As it computes something with the last norm and the head.
    pub fn used_last<T>(&self, run: impl FnOnce() -> Result<T, ModelError>) -> Result<T, ModelError> {
        match &self.gathered {
            None => run(),
            Some(gathered) => gathered.used_last(&self.units, run),
        }
    }

    /// As it computes a block from its input, with gradients.
    fn used_block(
        &self,
        layer: usize,
        x: &Tensor,
        run: impl FnOnce(&Tensor) -> Result<Passed, ModelError>,
    ) -> Result<Passed, ModelError> {
        match &self.gathered {
            None => run(x),
            Some(gathered) => gathered.block(layer, x, run),
        }
    }

    /// Where attention is computed, for [`Attention::new`].
    pub fn target(&self, how: Arithmetic) -> Target {
        // Our own kernel does not drop anything.
        let (kind, device, whole) = (how.kind(), self.device(), how.dropout == 0.0);
        let capped = self.config.attention_softcap.is_some();
        let usual = !capped && self.config.each.iter().all(|layer| layer.scale.is_none());
        let documents =
            cuda::kernels(device, how).is_some() && whole && usual && self.config.head_dim.is_multiple_of(8);
        Target {
            kind,
            device,
            fused: how.kernels && whole,
            documents,
            explicit: capped,
            fixed_shapes: how.fixed_shapes,
        }
    }

    /// Hidden states before the last norm, `[B·L, D]`, of token ids `[B, L]` (i64).
    pub fn hidden(&self, tokens: &Tensor, attention: &Attention, how: Arithmetic) -> Result<Tensor, ModelError> {
        let adapted = self.blocks.iter().flat_map(Block::maps).any(|map| map.adapter.is_some());
        if !how.kernels && how.dropout == 0.0 && !how.recompute && !adapted && self.config.has_plain_blocks() {
            return self.hidden_joined(tokens, attention, how, cuda::kernels(self.device(), how).as_ref());
        }
        self.layers(tokens, attention, how, &mut |_| Ok(()))
    }

    /// As [`Decoder::hidden`], of some rows, `wanted` `[n]` (i64): `[n, D]`. On the CPU, what only the others need is not computed: of the
    /// last block all but queries, keys and values and attention. On a GPU the shapes of a step shall not depend on what is masked.
    pub fn hidden_of(
        &self,
        tokens: &Tensor,
        attention: &Attention,
        how: Arithmetic,
        wanted: &Tensor,
    ) -> Result<Tensor, ModelError> {
        let Some((last, before)) = self.blocks.split_last().filter(|_| how.kernels && !how.recompute) else {
            return Ok(self.hidden(tokens, attention, how)?.f_index_select(0, wanted)?);
        };
        let size = tokens.size2()?;
        let mut x = dropped(self.embed(tokens, attention.index.as_ref())?, how)?;
        for (layer, block) in before.iter().enumerate() {
            let attention = attention.layer(layer)?;
            x = self.used_block(layer, &x, |x| self.block(block, x, size, &attention, how))?.rows;
        }
        let attention = attention.layer(before.len())?;
        let passed = self.used_block(before.len(), &x, |x| {
            let attended = self.attention_of(last, x, size, &attention, how)?;
            self.finish(last, &x.f_index_select(0, wanted)?, &attended.f_index_select(0, wanted)?, how)
        })?;
        Ok(passed.rows)
    }

    /// As [`Decoder::hidden`], and shows what is behind each layer to `seen`.
    pub fn layers(
        &self,
        tokens: &Tensor,
        attention: &Attention,
        how: Arithmetic,
        seen: &mut Seen<'_>,
    ) -> Result<Tensor, ModelError> {
        let size = tokens.size2()?;
        let mut x = dropped(self.embed(tokens, attention.index.as_ref())?, how)?;
        for (layer, block) in self.blocks.iter().enumerate() {
            let attention = attention.layer(layer)?;
            let passed = self.used_block(layer, &x, |x| {
                if how.recompute && x.requires_grad() {
                    self.block_recomputed(block, x, size, &attention, how)
                } else {
                    self.block(block, x, size, &attention, how)
                }
            })?;
            x = passed.rows.shallow_clone();
            seen(passed)?;
        }
        Ok(x)
    }

    /// One block on rows `[B·L, D]` for `(rows, length)` = (B, L).
    pub fn block(
        &self,
        block: &Block,
        x: &Tensor,
        size: (i64, i64),
        attention: &LayerAttention,
        how: Arithmetic,
    ) -> Result<Passed, ModelError> {
        let attended = self.attention_of(block, x, size, attention, how)?;
        self.finish(block, x, &attended, how)
    }

    /// What the attention of a block gives, `[B·L, H·d]`.
    fn attention_of(
        &self,
        block: &Block,
        x: &Tensor,
        (rows, length): (i64, i64),
        attention: &LayerAttention,
        how: Arithmetic,
    ) -> Result<Tensor, ModelError> {
        let qkv = self.project(block, x, how)?;
        let span = attention.positions.span(length as usize);
        match &attention.kernel {
            Kernel::Fused(visibility) => {
                let c = &self.config;
                let (rows, length) = (rows as usize, length as usize);
                let shape = Shape { rows, length, heads: c.heads, kv_heads: c.kv_heads, head_dim: c.head_dim };
                let rotary = self.with_rotary(block.layer, span, |rotary| Ok(rotary.host.clone()))?;
                let (visibility, positions) = (visibility.clone(), attention.positions.clone());
                let scores = self.scores(block.layer);
                fused::attend(&qkv.f_to_kind(Kind::Float)?, Plan { shape, scores, visibility, positions, rotary })
            }
            kernel => {
                let rotary = self.rotary_tables(block.layer, span, attention.index.as_ref())?;
                let (q, k, v) = self.heads(&qkv, (rows, length), rotary.as_ref(), how)?;
                self.attend(block.layer, (&q, &k, &v), kernel, how)
            }
        }
    }

    /// The last norm, on rows that will meet the output head, and the scale of the logits.
    pub fn normed(&self, rows: &Tensor, how: Arithmetic) -> Result<Tensor, ModelError> {
        scaled(self.norm.apply(rows, how)?, self.config.logit_scale)
    }

    /// Logits `[n, V]` (fp32) of normed rows.
    pub fn logits(&self, normed: &Tensor, how: Arithmetic) -> Result<Tensor, ModelError> {
        let head = self.head.of(how)?;
        let mut logits = normed.f_to_kind(how.kind())?.f_linear(&head, None::<Tensor>)?.f_to_kind(Kind::Float)?;
        if let Some(cap) = self.config.logit_softcap {
            let _ = head::soft_cap(&mut logits, cap)?;
        }
        Ok(logits)
    }

    /// `[V, D]`.
    pub fn head(&self) -> &Weight {
        &self.head
    }

    /// Keeps all matrices rounded to bf16 from now on, those of the products: nothing is cast in a forward.
    ///
    /// # Errors
    /// When there is no memory for it: half as much again as the weights take.
    pub fn round(&mut self) -> Result<(), ModelError> {
        self.forget_recorded();
        self.head.round_aligned()?;
        self.blocks.iter_mut().try_for_each(Block::round)
    }

    /// Of all matrices that are kept rounded: the rounded ones and the masters, to copy the latter over the former.
    pub fn rounded(&self) -> Result<(Vec<Tensor>, Vec<Tensor>), ModelError> {
        let weights = self.blocks.iter().flat_map(Block::weights).chain([&self.head]);
        let pairs = weights.map(Weight::pair).collect::<Result<Vec<_>, _>>()?;
        Ok(pairs.into_iter().flatten().unzip())
    }

    pub fn device(&self) -> Device {
        self.embedding.device()
    }

    pub(crate) fn embed(&self, tokens: &Tensor, positions: Option<&Tensor>) -> Result<Tensor, ModelError> {
        self.used(Units::EMBEDDING, || self.embedded(tokens, positions))
    }

    fn embedded(&self, tokens: &Tensor, positions: Option<&Tensor>) -> Result<Tensor, ModelError> {
        let (rows, length) = tokens.size2()?;
        let width = self.config.hidden_size as i64;
        let found = Tensor::f_embedding(&self.embedding, tokens, -1, false, false)?.f_to_kind(Kind::Float)?;
        let mut x = scaled(found, self.config.embedding_scale)?;
        if let Some(table) = &self.position_table {
            x = match positions {
                None => x.f_add(&table.f_narrow(0, 0, length)?)?,
                Some(positions) => x.f_add(&Tensor::f_embedding(table, positions, -1, false, false)?)?,
            };
        }
        Ok(x.f_view((rows * length, width))?)
    }

    /// Queries, keys and values `[B·L, (H + 2·Hkv)·d]`, heads normed where the model does that.
    pub(crate) fn project(&self, block: &Block, x: &Tensor, how: Arithmetic) -> Result<Tensor, ModelError> {
        match &block.attention_norm {
            None => self.projected(block, x, how),
            Some(norm) => self.projected(block, &norm.apply(x, how)?, how),
        }
    }

    /// As [`Decoder::project`], of rows that the block's norm has seen.
    pub(crate) fn projected(&self, block: &Block, normed: &Tensor, how: Arithmetic) -> Result<Tensor, ModelError> {
        let mut qkv = block.qkv.apply(normed, how)?;
        let (h, kv, d) = (self.config.heads as i64, self.config.kv_heads as i64, self.config.head_dim as i64);
        if self.config.family.names().qkv_by_head {
            qkv = qkv.f_view((-1, h, 3, d))?.f_transpose(1, 2)?.f_reshape([-1, 3 * h * d])?;
        }
        let Some(norms) = &block.head_norms else { return Ok(qkv) };
        // One split, not three views: their gradients are written once, not each into zeros.
        let split = qkv.f_view((-1, h + 2 * kv, d))?.f_split_with_sizes([h, kv, kv], 1)?;
        let (q, k) = (norms.apply(&norms.q, &split[0], how)?, norms.apply(&norms.k, &split[1], how)?);
        Ok(Tensor::f_cat(&[q, k, split[2].shallow_clone()], 1)?.f_view((-1, (h + 2 * kv) * d))?)
    }

    /// Queries `[B, H, L, d]`, keys and values `[B, Hkv, L, d]`, positions turned in.
    pub(crate) fn heads(
        &self,
        qkv: &Tensor,
        (rows, length): (i64, i64),
        rotary: Option<&(Tensor, Tensor)>,
        how: Arithmetic,
    ) -> Result<(Tensor, Tensor, Tensor), ModelError> {
        let (h, kv, d) = (self.config.heads as i64, self.config.kv_heads as i64, self.config.head_dim as i64);
        let qkv = qkv.f_view((rows, length, h + 2 * kv, d))?;
        let split = |of: &Tensor, sizes: &[i64]| of.f_split_with_sizes(sizes, 2);
        let of_heads = |part: &Tensor| part.f_transpose(1, 2);
        let Some((cos, sin)) = rotary else {
            let parts = split(&qkv, &[h, kv, kv])?;
            return Ok((of_heads(&parts[0])?, of_heads(&parts[1])?, of_heads(&parts[2])?));
        };
        let parts = split(&qkv, &[h + kv, kv])?;
        let turned = split(&rotate(&parts[0], cos, sin)?.f_to_kind(how.kind())?, &[h, kv])?;
        Ok((of_heads(&turned[0])?, of_heads(&turned[1])?, of_heads(&parts[1])?))
    }

    /// How a layer's scores come about.
    pub(crate) fn scores(&self, layer: Layer) -> Scores {
        let scale = match layer.scale {
            None => 1.0 / (self.config.head_dim as f32).sqrt(),
            Some(scale) => scale as f32,
        };
        Scores { scale, cap: self.config.attention_softcap.map(|cap| cap as f32) }
    }

    /// What a block makes of its input and of its attention's result.
    pub(crate) fn finish(
        &self,
        block: &Block,
        x: &Tensor,
        attended: &Tensor,
        how: Arithmetic,
    ) -> Result<Passed, ModelError> {
        let attended = self.branch(block.output.apply(attended, how)?, block.attention_after.as_ref(), how)?;
        let feed = |from: &Tensor| -> Result<Passed, ModelError> {
            // With one norm for both halves, attention's.
            let norm = match self.config.residual {
                Residual::ParallelOneNorm => &block.attention_norm,
                _ => &block.feed_forward_norm,
            };
            let Passed { rows, routed } = match norm {
                None => block.feed_forward.apply(from, self.config.activation, how)?,
                Some(norm) => block.feed_forward.apply(&norm.apply(from, how)?, self.config.activation, how)?,
            };
            Ok(Passed { rows: self.branch(rows, block.feed_forward_after.as_ref(), how)?, routed })
        };
        let with_attended = x.f_add(&attended)?;
        let Passed { rows, routed } = match self.config.residual {
            Residual::Sequential => feed(&with_attended)?,
            Residual::Parallel | Residual::ParallelOneNorm => feed(x)?,
        };
        Ok(Passed { rows: with_attended.f_add(&rows)?, routed })
    }

    /// What a half of a block adds to the residual stream.
    fn branch(&self, result: Tensor, after: Option<&Norm>, how: Arithmetic) -> Result<Tensor, ModelError> {
        let result = match after {
            None => result,
            Some(norm) => norm.apply(&result.f_to_kind(Kind::Float)?.f_contiguous()?, how)?,
        };
        dropped(scaled(result, self.config.residual_scale)?, how)
    }

    /// Whoever changes which tensors a forward reads says so: recorded forwards read those of before.
    pub(crate) fn forget_recorded(&mut self) {
        *self.passing.get_mut().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

// SAFETY: crate::shared says why its tensors may be read from several threads; `sync_apart_from_tensors` that nothing else stands
// against it.
unsafe impl Sync for Decoder {}

/// Fails to compile when a field of a decoder is neither a tensor nor `Sync`.
fn sync_apart_from_tensors(decoder: &Decoder) {
    fn sync<T: Sync>(_: &T) {}
    let Decoder { config, embedding: _, position_table: _, blocks, norm, head, rotary, passing, units, gathered } =
        decoder;
    sync(config);
    sync(blocks);
    sync(norm);
    sync(head);
    sync(rotary);
    sync(passing);
    sync(units);
    sync(gathered);
}
const _: fn(&Decoder) = sync_apart_from_tensors;

/// Without some of the activations, where they are to be dropped.
fn dropped(x: Tensor, how: Arithmetic) -> Result<Tensor, ModelError> {
    Ok(if how.dropout > 0.0 { x.f_dropout(how.dropout, true)? } else { x })
}

/// A tensor times a number; without an operation where that is 1.
fn scaled(x: Tensor, scale: f64) -> Result<Tensor, ModelError> {
    if scale == 1.0 { Ok(x) } else { Ok(x.f_mul_scalar(scale)?) }
}
