//! `difflow score`: nats per token of a text.
//!
//! Every document is scored alone: the model's first token (BOS), then the text, truncated to the sequence length.
//! The first token is never predicted and never masked, so both modes count the same tokens.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use difflow_inference::documents::{self, DocumentsError};
use difflow_inference::{Batching, Document, Estimate, InferenceError, Noise, Opening, Progress, Session};
use eyre::{Result, bail, ensure, eyre};
use serde_json::json;

use crate::arithmetic::Arithmetic;

/// Tokens of a batch, padding included: enough to keep the machine busy, little enough for any.
const BATCH_TOKENS: usize = 16_384;

pub const EXAMPLES: &str = "\
Examples:
  difflow score --model data/tiny/model --parquet data/tiny/heldout.parquet --mode ar --limit 64
  difflow score --model runs/default/checkpoints/step-00001100 --parquet data/tiny/heldout.parquet --mode nelbo";

#[derive(Args)]
pub struct Score {
    /// Hugging Face directory, or a hub id (owner/name).
    #[arg(long)]
    model: String,
    /// A folder with an adapter (PEFT's files) for it.
    #[arg(long)]
    adapter: Option<PathBuf>,
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
    #[command(flatten)]
    arithmetic: Arithmetic,
    /// {"nats_per_token": …, "tokens": …, "stderr": …} instead of a line.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Mode {
    Ar,
    Nelbo,
}

impl Score {
    pub fn run(self) -> Result<()> {
        ensure!(self.t_samples > 0, "--t-samples: found 0, wanted at least 1");
        let opening = Opening {
            device: self.arithmetic.device.clone(),
            precision: self.arithmetic.precision(),
            tokenizer: self.tokenizer.clone(),
            adapter: self.adapter.clone(),
            ..Opening::default()
        };
        let session = Session::open(self.model.as_ref(), &opening)?;
        let documents = self.documents(&session)?;
        let batching = Batching::Tokens(BATCH_TOKENS);
        let mut ready = |_: Progress| Ok::<(), InferenceError>(());
        let nats = match self.mode {
            Mode::Ar => session.ar_loss(&documents, batching, &mut ready)?,
            Mode::Nelbo => {
                let noise = Noise { seed: self.seed, draws: self.t_samples };
                session.nelbo(&documents, noise, batching, &mut ready)?
            }
        };
        let estimate = Estimate::of(&nats);
        // Packed rows are not documents, and their length says nothing of one.
        let entropy = session.facts().length_entropy.filter(|_| self.mode == Mode::Nelbo && !self.packed);
        let with_length = entropy.map(|entropy| estimate.with_length(entropy));
        let Estimate { value, stderr, tokens, .. } = estimate;
        if self.json {
            let mut answer = json!({"nats_per_token": value, "tokens": tokens, "stderr": stderr});
            if let Some(with_length) = with_length {
                answer["nats_per_token_with_length"] = with_length.into();
            }
            println!("{answer}");
        } else {
            let error = stderr.map_or("unknown, of one document".to_owned(), |error| format!("{error:.4}"));
            println!("{value:.4} nats per token (standard error {error}) over {tokens} tokens");
            if let (Some(with_length), Some(entropy)) = (with_length, entropy) {
                println!(
                    "{with_length:.4} with the length of each document, which the bound is given and --mode ar is not ({entropy:.2} \
                     nats a document)"
                );
            }
        }
        Ok(())
    }

    /// The documents as token ids.
    fn documents(&self, session: &Session) -> Result<Vec<Document>> {
        let limit = self.limit.unwrap_or(usize::MAX);
        let texts = match (&self.text, &self.parquet) {
            (Some(path), _) => documents::of_text(path, limit)?,
            (None, Some(path)) => documents::of_parquet(path, &self.column, limit).map_err(|e| match e {
                DocumentsError::NoColumn { .. } => eyre!("{e}; see --column"),
                e => e.into(),
            })?,
            (None, None) => bail!("--text or --parquet names what is to be scored"),
        };
        let length = self.seq_len.unwrap_or(session.config().max_positions);
        ensure!(length > 1, "--seq-len: found {length}, wanted at least 2");
        let words = session.words();
        let mut rows: Vec<Vec<u32>> = Vec::with_capacity(texts.len());
        for text in texts {
            let mut row = [vec![words.bos], words.encode(&text)?].concat();
            if !self.packed {
                row.truncate(length);
            }
            rows.push(row);
        }
        if self.packed {
            rows = rows.concat().chunks_exact(length).map(<[u32]>::to_vec).collect();
        }
        rows.retain(|row| row.len() > 1);
        ensure!(!rows.is_empty(), "there is no document with a token in it");
        Ok(rows.into_iter().map(Document::new).collect())
    }
}
