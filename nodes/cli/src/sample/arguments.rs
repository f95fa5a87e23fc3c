//! What `difflow sample` can be told.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use difflow_model::{Caching, Score};
use difflow_text::Lengths;
use serde::de::DeserializeOwned;

pub const EXAMPLES: &str = "\
Examples:
  difflow sample --checkpoint runs/default -n 4                                  four texts from nothing
  difflow sample --checkpoint runs/default --prompt 'A day at the lake' --watch  see a text being unmasked
  difflow sample --checkpoint runs/default --infill 'Once [MASK:5] there was [MASK] .'
  difflow sample --checkpoint runs/default --decoder threshold --block 32 --cache dual
  difflow sample --checkpoint runs/default --measure --judge data/tiny/model --checker world --gaps data/tiny/infill.jsonl -n 64

A gap is [MASK:5] (five tokens), [MASK:2..6] (searched within these bounds) or [MASK] (within --gap-length).
A file for --prompts has one JSON object a line: {\"prompt\": …}, {\"infill\": …} or {\"left\": …, \"right\": …}.";

/// Which positions become known first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Decoder {
    /// Any, as the noise schedule run backwards says.
    Random,
    /// Any, one a forward: `random` with ever smaller steps.
    FirstHitting,
    /// Those with the highest --score, evenly over --steps.
    Confidence,
    /// All whose --score is at least --threshold.
    Threshold,
    /// As confidence, and always the most probable token.
    Greedy,
    /// From left to right, one token a forward with a KV cache: for base models.
    Ar,
}

/// Who checks the texts of --measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Checker {
    /// Nobody.
    None,
    /// The rules of the little world of data/tiny.
    World,
}

#[derive(Args)]
pub struct Arguments {
    /// A checkpoint, a base model, or the folder of a run (its last checkpoint).
    #[arg(long)]
    pub checkpoint: PathBuf,
    /// tokenizer.json; default: the one beside the weights.
    #[arg(long)]
    pub tokenizer: Option<PathBuf>,
    /// Text to be continued.
    #[arg(long, conflicts_with_all = ["infill", "prompts"])]
    pub prompt: Option<String>,
    /// Text with gaps to be filled.
    #[arg(long, conflicts_with = "prompts")]
    pub infill: Option<String>,
    /// JSONL file with prompts and texts with gaps.
    #[arg(long)]
    pub prompts: Option<PathBuf>,
    /// Texts of each prompt.
    #[arg(short = 'n', long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1 << 32))]
    pub count: u64,
    /// New tokens, or bounds such as 80..125 (drawn per text). An end-of-text token ends a text before.
    #[arg(long, default_value = "128", value_parser = lengths)]
    pub length: Lengths,
    /// Bounds of a gap whose length is searched.
    #[arg(long, default_value = "1..8", value_parser = lengths)]
    pub gap_length: Lengths,
    /// Steps from the empty canvas to the text.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    pub steps: u32,
    /// Default: random for a diffusion model, ar for a base model.
    #[arg(long)]
    pub decoder: Option<Decoder>,
    /// What makes a position sure: probability, margin or entropy.
    #[arg(long, default_value = "probability", value_parser = named::<Score>)]
    pub score: Score,
    /// For the decoder threshold.
    #[arg(long, default_value_t = 0.9)]
    pub threshold: f64,
    /// With the decoder threshold: always the best of this many masked positions from the left, too; default: of all.
    #[arg(long)]
    pub window: Option<usize>,
    /// Fill blocks of this many positions from left to right.
    #[arg(long)]
    pub block: Option<usize>,
    /// What is kept of earlier forwards: none, prefix, or dual (with --block).
    #[arg(long, default_value = "none", value_parser = named::<Caching>)]
    pub cache: Caching,
    /// With --cache: read the whole canvas every so many forwards; default: at the start of a block.
    #[arg(long)]
    pub refresh: Option<u32>,
    /// Classifier-free guidance by the given tokens; 0 is none.
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    pub guidance: f64,
    /// Divides the logits; 0 takes the most probable token.
    #[arg(long, default_value_t = 0.95)]
    pub temperature: f64,
    /// Draw from the most probable tokens with this mass together.
    #[arg(long, default_value_t = 0.9)]
    pub top_p: f64,
    /// Draw from this many most probable tokens.
    #[arg(long)]
    pub top_k: Option<usize>,
    /// Makes tokens that the text already has less probable; 1 is off.
    #[arg(long, default_value_t = 1.0)]
    pub repetition_penalty: f64,
    /// Noise schedule that the decoder random runs backwards: a name or a plug-in.
    #[arg(long, default_value = "linear")]
    pub noise_schedule: String,
    /// Its options, as a JSON object.
    #[arg(long, default_value = "{}")]
    pub noise_schedule_config: String,
    /// Key of all random numbers: the same seed gives the same texts, in any batch.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Texts of one forward.
    #[arg(long, default_value_t = 16, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..))]
    pub batch: usize,
    /// auto, cpu, cuda or cuda:N.
    #[arg(long, default_value = "auto")]
    pub device: String,
    /// CPU threads of one operation; default: all cores.
    #[arg(long)]
    pub threads: Option<usize>,
    /// One JSON object a text: text, ids, nfe, seconds.
    #[arg(long)]
    pub json: bool,
    /// With --json: what was revealed when.
    #[arg(long, requires = "json")]
    pub history: bool,
    /// Show the first text of each batch while it is unmasked.
    #[arg(long, conflicts_with = "json")]
    pub watch: bool,
    /// Write --count texts with many decoders and print a table of quality against forwards.
    #[arg(long, conflicts_with_all = ["prompt", "infill", "prompts", "watch"])]
    pub measure: bool,
    /// With --measure: base model that judges (perplexity) and is compared with (decoder ar).
    #[arg(long, requires = "measure")]
    pub judge: Option<PathBuf>,
    /// With --measure: who says whether a text is right.
    #[arg(long, value_enum, default_value = "none", requires = "measure")]
    pub checker: Checker,
    /// With --measure: gaps with answers (JSONL with left, answer, right).
    #[arg(long, requires = "measure")]
    pub gaps: Option<PathBuf>,
    /// With --measure: how many of the gaps, from the first on.
    #[arg(long, default_value_t = 200, requires = "measure")]
    pub gap_count: usize,
    /// With --measure: write the curves as an SVG picture.
    #[arg(long, requires = "measure")]
    pub picture: Option<PathBuf>,
}

/// One number, or two with two points between them.
fn lengths(text: &str) -> Result<Lengths, String> {
    let one =
        || text.parse().ok().filter(|&length: &usize| length > 0).map(|length| Lengths { low: length, high: length });
    Lengths::parse(text).or_else(one).ok_or_else(|| "allowed: a number from 1 on, or two such as 80..125".to_owned())
}

/// A choice by the name that it has in configurations too.
fn named<T: DeserializeOwned>(name: &str) -> Result<T, String> {
    serde_json::from_value(name.into()).map_err(|e| e.to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_length_is_a_number_or_bounds() {
        assert_eq!(lengths("7"), Ok(Lengths { low: 7, high: 7 }));
        assert_eq!(lengths("7..9"), Ok(Lengths { low: 7, high: 9 }));
        for wrong in ["0", "9..7", "x", ""] {
            assert!(lengths(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn choices_have_their_configuration_names() {
        assert_eq!(named::<Caching>("dual"), Ok(Caching::Dual));
        assert!(named::<Score>("sure").unwrap_err().contains("margin"));
    }
}
