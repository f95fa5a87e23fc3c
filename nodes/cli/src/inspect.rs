//! `difflow inspect`: what a model folder contains, and what the model computes, also for others to check; for runs
//! see `inspect_run.rs`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use difflow_model::{Device, Memory, Model, Optimizer, Pattern, Summary};
use eyre::{Result, ensure};
use serde_json::{Value, json};

use crate::arithmetic::Arithmetic;
use crate::inspect_data::{BatchesArguments, DataArguments};
use crate::inspect_run::RunArguments;

#[derive(Subcommand)]
pub enum Inspect {
    /// Architecture, parameters, element types, mask token, and memory for training; reads only the headers.
    #[command(after_help = "\
Examples:
  difflow inspect model data/tiny/model
  difflow inspect model openai-community/gpt2 --batch 8 --seq-len 1024 --json")]
    Model(ModelArguments),
    /// Logits of a sequence of token ids under an attention pattern.
    #[command(after_help = "\
Examples:
  difflow inspect logits --model data/tiny/model --ids 0,17,42 --pattern causal
  difflow inspect logits --model runs/default/checkpoints/step-00001100 --ids 0,17,42 --pattern full --json")]
    Logits(LogitsArguments),
    /// Checkpoints of a run, and the proof that each batch was trained on once and in order.
    #[command(after_help = "\
Examples:
  difflow inspect run default         which checkpoints are good, and which batches they were trained on
  difflow inspect run default --json  the same for programs, with every checkpoint on the way")]
    Run(RunArguments),
    /// The first examples that the trainer of a dataflow file would get: what is given, what is learned, what is masked.
    #[command(after_help = "\
Examples:
  difflow inspect data                     the first three documents of dataflow.yml, from its own first batches
  difflow inspect data my.yml -n 10        ten of another file
  difflow inspect data my.yml --set PAD_POLICY=eos-once --json

Its data nodes run in a folder that is removed afterwards. Exit codes: 0 done, 1 failed, 2 usage, 78 a node refused its configuration or its data.")]
    Data(DataArguments),
    /// The node that stands in the trainer's place for `inspect data`.
    #[command(hide = true)]
    Batches(BatchesArguments),
}

#[derive(Args)]
pub struct ModelArguments {
    /// Hugging Face directory, or a hub id (owner/name).
    model: String,
    /// Sequences of a micro-batch, for the memory estimate.
    #[arg(long, default_value_t = 16)]
    batch: u64,
    /// Tokens of a sequence; default: 512, or the longest the model was trained for if that is less.
    #[arg(long)]
    seq_len: Option<u64>,
    /// One JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub struct LogitsArguments {
    /// Hugging Face directory, or a hub id (owner/name).
    #[arg(long)]
    model: String,
    /// Token ids, separated by commas.
    #[arg(long, value_delimiter = ',', required = true)]
    ids: Vec<u32>,
    /// Which positions see which.
    #[arg(long, value_enum)]
    pattern: PatternName,
    /// Share of later tokens that are seen, for the annealed pattern.
    #[arg(long, default_value_t = 0.5)]
    ratio: f64,
    /// Key of the annealed pattern's draw.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    arithmetic: Arithmetic,
    /// {"shape": [L, V], "logits": [[…]]} instead of the most likely tokens of each position.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum PatternName {
    Causal,
    Full,
    Annealed,
}

impl Inspect {
    /// Returns the exit code.
    ///
    /// # Errors
    /// When what is asked for cannot be read or computed.
    pub fn run(self) -> Result<u8> {
        match self {
            Self::Model(arguments) => arguments.run().map(|()| 0),
            Self::Logits(arguments) => arguments.run().map(|()| 0),
            Self::Run(arguments) => arguments.run().map(|()| 0),
            Self::Data(arguments) => arguments.run(),
            Self::Batches(arguments) => arguments.run(),
        }
    }
}

impl ModelArguments {
    fn run(self) -> Result<()> {
        let summary = Summary::read(&folder(&self.model)?)?;
        let length = self.seq_len.unwrap_or(512.min(summary.config.max_positions as u64));
        let found = described(&summary, self.batch, length);
        if self.json {
            println!("{found}");
        } else {
            for (key, value) in found.as_object().into_iter().flatten() {
                match value {
                    Value::Object(map) => map.iter().for_each(|(inner, value)| line(&format!("{key}.{inner}"), value)),
                    value => line(key, value),
                }
            }
        }
        Ok(())
    }
}

fn line(key: &str, value: &Value) {
    let shown = match (key.ends_with("_bytes"), value) {
        (true, Value::Number(bytes)) => format!("{:.1} MiB", bytes.as_f64().unwrap_or_default() / f64::from(1 << 20)),
        (_, Value::String(text)) => text.clone(),
        (_, value) => value.to_string(),
    };
    println!("{key:<44} {shown}");
}

fn described(summary: &Summary, batch: u64, length: u64) -> Value {
    let c = &summary.config;
    let memory = |checkpointing| {
        let memory = Memory::of_training(c, summary.parameters, &Optimizer::default(), batch, length, checkpointing);
        json!({"parameters_bytes": memory.parameters, "activations_bytes": memory.activations,
               "logits_bytes": memory.logits, "total_bytes": memory.total()})
    };
    json!({
        "architecture": c.architecture,
        "parameters": summary.parameters,
        "dtypes": summary.dtypes,
        "file_bytes": summary.bytes,
        "vocab_size": c.vocab_size,
        "hidden_size": c.hidden_size,
        "intermediate_size": c.intermediate_size,
        "layers": c.layers,
        "heads": c.heads,
        "kv_heads": c.kv_heads,
        "head_dim": c.head_dim,
        "max_positions": c.max_positions,
        "tied": c.tied,
        "mask_token_id": c.adapted.as_ref().map(|adapted| adapted.mask_token_id),
        "shift": c.adapted.as_ref().map(|adapted| adapted.shift),
        "objective": c.adapted.as_ref().map(|adapted| adapted.objective),
        "block": c.adapted.as_ref().and_then(|adapted| adapted.blocks),
        "batch": batch,
        "seq_len": length,
        "training_memory": memory(false),
        "training_memory_with_activation_checkpointing": memory(true),
    })
}

impl LogitsArguments {
    fn run(self) -> Result<()> {
        ensure!((0.0..=1.0).contains(&self.ratio), "--ratio: found {}, wanted 0 to 1", self.ratio);
        let mut model = Model::load(&folder(&self.model)?, Device::open(&self.arithmetic.device)?)?;
        model.set_precision(self.arithmetic.precision());
        let pattern = match self.pattern {
            PatternName::Causal => Pattern::Causal,
            PatternName::Full => Pattern::Full,
            PatternName::Annealed => Pattern::Annealed { ratio: self.ratio, seed: self.seed, draw: 0 },
        };
        let logits = model.logits(&self.ids, &pattern)?;
        let rows: Vec<&[f32]> = logits.chunks(model.config().vocab_size).collect();
        if self.json {
            println!("{}", json!({"shape": [rows.len(), model.config().vocab_size], "logits": rows}));
        } else {
            for (position, row) in rows.iter().enumerate() {
                let mut order: Vec<usize> = (0..row.len()).collect();
                order.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
                let best = order.iter().take(5).map(|&id| format!("{id}: {:.4}", row[id])).collect::<Vec<_>>();
                println!("{position:>5}  {}", best.join("  "));
            }
        }
        Ok(())
    }
}

/// The folder of a model: the one that is there, or the hub's.
pub fn folder(model: &str) -> Result<PathBuf> {
    Ok(difflow_hub::folder(model)?)
}
