//! The arguments of `difflow sample`.

use std::path::PathBuf;

use clap::Args;
use difflow_inference::{DEFAULT_LENGTH, Decoding};
use difflow_text::Lengths;

pub const EXAMPLES: &str = "\
Examples:
  difflow sample --checkpoint runs/default -n 4                                  four texts from nothing
  difflow sample --checkpoint runs/default --prompt 'A day at the lake' --watch  see a text being unmasked
  difflow sample --checkpoint runs/default --infill 'Once [MASK:5] there was [MASK] .'
  difflow sample --checkpoint runs/default --decoder threshold --block 32 --cache dual
  difflow sample --checkpoint runs/blocks --decoder speculative --watch          drafts, and which of them are kept
  difflow sample --checkpoint runs/default --measure --judge data/tiny/model --gaps data/tiny/infill.jsonl --checker COMMAND -n 64

A gap is [MASK:5] (five tokens), [MASK:2..6] (searched within these bounds) or [MASK] (within --gap-length).
A file for --prompts has one JSON object a line: {\"prompt\": …}, {\"infill\": …} or {\"left\": …, \"right\": …}.";

#[derive(Args)]
pub struct Arguments {
    /// A checkpoint, a base model, or the folder of a run (its last checkpoint).
    #[arg(long)]
    pub checkpoint: PathBuf,
    /// A folder with an adapter (PEFT's files) for it. A checkpoint that is one itself needs none.
    #[arg(long)]
    pub adapter: Option<PathBuf>,
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
    /// New tokens, or bounds such as 80..125 (drawn per text). An end-of-text token ends a text before. Default: as long as a text may be
    /// that a model with an open end or with blocks ends itself, else 128.
    #[arg(long, value_parser = lengths)]
    pub length: Option<Lengths>,
    /// Bounds of a gap whose length is searched.
    #[arg(long, default_value = "1..8", value_parser = lengths)]
    pub gap_length: Lengths,
    /// What is not given is as the checkpoint says (generation_config.json).
    #[command(flatten)]
    pub decoding: Decoding,
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
    /// With --measure: a command that says whether a text is right. It reads one JSON object with a text a line and answers one line a
    /// text, `ok` or what is wrong.
    #[arg(long, default_value = "none", requires = "measure")]
    pub checker: String,
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

impl Arguments {
    /// New tokens of a text with a free end, by a model that ends texts within so many.
    pub fn length(&self, room: Option<usize>) -> Lengths {
        let length = room.unwrap_or(DEFAULT_LENGTH);
        self.length.unwrap_or(Lengths { low: length, high: length })
    }
}

/// One number, or two with two points between them.
fn lengths(text: &str) -> Result<Lengths, String> {
    let one =
        || text.parse().ok().filter(|&length: &usize| length > 0).map(|length| Lengths { low: length, high: length });
    Lengths::parse(text).or_else(one).ok_or_else(|| "allowed: a number from 1 on, or two such as 80..125".to_owned())
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
}
