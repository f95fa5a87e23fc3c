//! `difflow score`: nats per token of a text.
//!
//! Every document stands alone: the model's first token (BOS), then the text, cut at the sequence length. The first token is never
//! predicted and never masked, so both modes count the same tokens.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use difflow_diffusion::{MIN_T, TimestepDraw, masking::masked_positions};
use difflow_model::{Device, MicroBatch, Model, Objective, ObjectiveOptions, Pattern};
use difflow_text::read_tokenizer;
use eyre::{Result, bail, ensure, eyre};
use serde_json::json;

use crate::inspect::{Dtype, folder};
use crate::texts;

/// Tokens of a batch, padding included: enough to keep the machine busy, little enough for any.
const BATCH_TOKENS: usize = 16_384;

pub const EXAMPLES: &str = "\
Examples:
  difflow score --model data/tiny/model --parquet data/tiny/heldout.parquet --mode ar --limit 64
  difflow score --model runs/default/checkpoints/step-00001800 --parquet data/tiny/heldout.parquet --mode nelbo";

#[derive(Args)]
pub struct Score {
    /// Hugging Face directory, or a hub id (owner/name).
    #[arg(long)]
    model: String,
    /// Text file; documents are separated by <|endoftext|>, or where there is none by empty lines.
    #[arg(long, required_unless_present = "parquet", conflicts_with = "parquet")]
    text: Option<PathBuf>,
    /// Parquet file; a row is a document.
    #[arg(long)]
    parquet: Option<PathBuf>,
    /// Column of the Parquet file.
    #[arg(long, default_value = "text")]
    column: String,
    /// Documents to read; default: all.
    #[arg(long)]
    limit: Option<usize>,
    /// Tokens of a document, the first included; the rest is cut off. Default: the longest the model was trained for.
    #[arg(long)]
    seq_len: Option<usize>,
    /// Documents one behind the other, cut into rows of --seq-len; what is left over at the end is not scored. Attention crosses
    /// documents, as in training with PACKING: stream.
    #[arg(long)]
    packed: bool,
    /// ar: the next token under causal attention. nelbo: the diffusion bound under full attention.
    #[arg(long, value_enum)]
    mode: Mode,
    /// Times that each document is noised, for nelbo.
    #[arg(long, default_value_t = 8)]
    t_samples: usize,
    /// Key of t and of the masks, for nelbo.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// tokenizer.json; default: the one beside the model.
    #[arg(long)]
    tokenizer: Option<PathBuf>,
    /// Arithmetic of matrix products and attention.
    #[arg(long, value_enum, default_value_t = Dtype::Fp32)]
    dtype: Dtype,
    /// auto, cpu or cuda:N.
    #[arg(long, default_value = "auto")]
    device: String,
    /// {"nats_per_token": …, "tokens": …, "stderr": …} instead of a line.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Mode {
    Ar,
    Nelbo,
}

/// Nats and tokens of one document.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Total {
    nats: f64,
    tokens: f64,
}

impl Score {
    pub fn run(self) -> Result<()> {
        ensure!(self.t_samples > 0, "--t-samples: found 0, wanted at least 1");
        let dir = folder(&self.model)?;
        let mut model = Model::load(&dir, Device::open(&self.device)?)?;
        model.set_precision(self.dtype.precision());
        let documents = self.documents(&model, &dir)?;
        let totals = match self.mode {
            Mode::Ar => ar(&model, &documents)?,
            Mode::Nelbo => nelbo(&model, &documents, self.t_samples, self.seed)?,
        };
        let (mean, tokens, stderr) = estimate(&totals);
        if self.json {
            println!("{}", json!({"nats_per_token": mean, "tokens": tokens, "stderr": stderr}));
        } else {
            let error = stderr.map_or("unknown, of one document".to_owned(), |error| format!("{error:.4}"));
            println!("{mean:.4} nats per token (standard error {error}) over {tokens} tokens");
        }
        Ok(())
    }

    /// The documents as token ids.
    fn documents(&self, model: &Model, dir: &Path) -> Result<Vec<Vec<u32>>> {
        let limit = self.limit.unwrap_or(usize::MAX);
        let texts = match (&self.text, &self.parquet) {
            (Some(path), _) => texts::of_text(path, limit)?,
            (None, Some(path)) => texts::of_parquet(path, &self.column, limit)?,
            (None, None) => bail!("--text or --parquet names what is to be scored"),
        };
        let path = self.tokenizer.clone().unwrap_or_else(|| dir.join("tokenizer.json"));
        let tokenizer = read_tokenizer(&path).map_err(|e| eyre!("cannot read {}: {e}", path.display()))?;
        let config = model.config();
        let length = self.seq_len.unwrap_or(config.max_positions);
        ensure!(length > 1, "--seq-len: found {length}, wanted at least 2");
        let first = config.bos_token_id.or(config.eos_token_ids.first().copied());
        let first = first.ok_or_else(|| eyre!("the model's config.json has neither bos_token_id nor eos_token_id"))?;
        let mut documents: Vec<Vec<u32>> = Vec::with_capacity(texts.len());
        for text in texts {
            let ids = tokenizer.encode_fast(text, false).map_err(|e| eyre!("cannot tokenize: {e}"))?;
            let document = std::iter::once(first).chain(ids.get_ids().iter().copied());
            match self.packed {
                true => documents.push(document.collect()),
                false => documents.push(document.take(length).collect()),
            }
        }
        if self.packed {
            documents = documents.concat().chunks_exact(length).map(<[u32]>::to_vec).collect();
        }
        documents.retain(|document| document.len() > 1);
        ensure!(!documents.is_empty(), "there is no document with a token in it");
        Ok(documents)
    }
}

/// Sum over tokens of −ln p(token | tokens before it), for each document.
fn ar(model: &Model, documents: &[Vec<u32>]) -> Result<Vec<Total>> {
    let mut totals = vec![Total::default(); documents.len()];
    for batch in batches(documents) {
        let sequences: Vec<Vec<u32>> = batch.iter().map(|&at| documents[at].clone()).collect();
        let sums = model.ar_sums(&MicroBatch::padded(&sequences))?;
        for (at, row) in batch.into_iter().zip(&sums.rows) {
            totals[at] = Total { nats: row.unweighted, tokens: row.positions as f64 };
        }
    }
    Ok(totals)
}

/// The bound on the same sum: the mean over `samples` noised copies of the weighted loss. The copies of a document have their t in
/// one stratum each; t and masks depend on seed, document and copy alone.
fn nelbo(model: &Model, documents: &[Vec<u32>], samples: usize, seed: u64) -> Result<Vec<Total>> {
    let Some(adapted) = &model.config().adapted else {
        bail!("the model has no mask token, so it has no diffusion bound; --mode ar measures a base model");
    };
    let options = ObjectiveOptions::recommended(Objective::Diffusion { shift: adapted.shift });
    let mut totals = vec![Total::default(); documents.len()];
    for sample in 0..samples as u64 {
        for batch in batches(documents) {
            let sequences: Vec<Vec<u32>> = batch.iter().map(|&at| documents[at].clone()).collect();
            let mut noised = MicroBatch::padded(&sequences);
            for (row, &at) in batch.iter().enumerate() {
                let t = TimestepDraw::Stratified.draw(seed, at as u64, sample, samples as u64, MIN_T);
                let places = row * noised.length..(row + 1) * noised.length;
                let maskable = &noised.maskable[places.clone()];
                let key = at as u64 * samples as u64 + sample;
                // The linear schedule: α = 1 − t, weight 1/t. The bound is the same for every schedule.
                let masked = masked_positions(maskable, 1.0 - t, seed, key);
                noised.masked[places].copy_from_slice(&masked);
                noised.weights[row] = 1.0 / t;
            }
            let sums = model.nelbo_sums(&noised, &Pattern::Full, options)?;
            for (at, row) in batch.into_iter().zip(&sums.rows) {
                totals[at].nats += row.weighted / samples as f64;
                totals[at].tokens = row.maskable as f64;
            }
        }
    }
    Ok(totals)
}

/// The documents' numbers in batches of like length, longest first, so that little is padding.
fn batches(documents: &[Vec<u32>]) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..documents.len()).collect();
    order.sort_by_key(|&at| std::cmp::Reverse(documents[at].len()));
    let mut batches: Vec<Vec<usize>> = Vec::new();
    for at in order {
        match batches.last_mut() {
            Some(batch) if (batch.len() + 1) * documents[batch[0]].len() <= BATCH_TOKENS => batch.push(at),
            _ => batches.push(vec![at]),
        }
    }
    batches
}

/// Nats per token, tokens, and the standard error with documents as the independent units (`None` for one document).
fn estimate(totals: &[Total]) -> (f64, u64, Option<f64>) {
    let (nats, tokens) = totals.iter().fold((0.0, 0.0), |(n, t), total| (n + total.nats, t + total.tokens));
    let mean = nats / tokens;
    let squares: f64 = totals.iter().map(|total| (total.nats - mean * total.tokens).powi(2)).sum();
    let count = totals.len() as f64;
    let stderr = (totals.len() > 1).then(|| (squares * count / (count - 1.0)).sqrt() / tokens);
    (mean, tokens as u64, stderr)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_estimate_is_the_ratio_of_sums_with_documents_as_units() {
        let of = |nats: f64, tokens: f64| Total { nats, tokens };
        let (mean, tokens, stderr) = estimate(&[of(2.0, 1.0), of(4.0, 3.0)]);
        assert_eq!((mean, tokens), (1.5, 4));
        // Residuals ±0.5: √(2 · (0.25 + 0.25)) / 4.
        assert!((stderr.unwrap() - 0.25).abs() < 1e-12);
        assert_eq!(estimate(&[of(2.0, 1.0)]).2, None);
    }

    #[test]
    fn batches_hold_every_document_once_and_stay_small() {
        let documents: Vec<Vec<u32>> = (1..200).map(|i| vec![0; i * 37 % 500 + 2]).collect();
        let batches = batches(&documents);
        let mut all: Vec<usize> = batches.iter().flatten().copied().collect();
        all.sort_unstable();
        assert_eq!(all, (0..199).collect::<Vec<_>>());
        assert!(batches.iter().all(|batch| batch.len() * documents[batch[0]].len() <= BATCH_TOKENS));
    }

    /// A model that knows nothing has the entropy of a uniform guess in both modes.
    #[test]
    fn both_modes_of_a_model_that_knows_nothing_give_ln_v() {
        let dir = tempfile::tempdir().unwrap();
        let config = r#"{"architectures":["GPT2LMHeadModel"],"vocab_size":63,"n_embd":8,"n_layer":1,"n_head":2,"n_positions":64,
            "initializer_range":1e-9}"#;
        std::fs::write(dir.path().join("config.json"), config).unwrap();
        let mut model = Model::initialise(dir.path(), 0, Device::Cpu).unwrap();
        let documents: Vec<Vec<u32>> = (0..40).map(|i| (0..20 + i).map(|j| (i * j) % 60).collect()).collect();
        assert!(nelbo(&model, &documents, 1, 0).unwrap_err().to_string().contains("--mode ar"));
        let (mean, tokens, _) = estimate(&ar(&model, &documents).unwrap());
        assert!((mean - 63f64.ln()).abs() < 1e-4, "{mean}");
        model.add_mask_token(0).unwrap();
        let (mean, same, stderr) = estimate(&nelbo(&model, &documents, 64, 0).unwrap());
        assert_eq!(tokens, same);
        assert!((mean - 64f64.ln()).abs() < 4.0 * stderr.unwrap() + 0.05, "{mean} {stderr:?}");
        let again = nelbo(&model, &documents, 2, 7).unwrap();
        assert_eq!(again, nelbo(&model, &documents, 2, 7).unwrap());
        assert_ne!(again, nelbo(&model, &documents, 2, 8).unwrap());
    }
}
