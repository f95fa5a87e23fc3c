//! `difflow plan`: what a dataflow file would cost, before it is started.

mod calibrate;
mod cost;
mod curves;
mod hardware;
mod machine;
mod ranks;
mod scaling;
mod shape;

use std::path::{Path, PathBuf};

use clap::Args;
use eyre::{Result, eyre};
use serde_json::{Value, json};

use crate::dataflow::{Level, Names, Settings, shape as reading};
use crate::plan::cost::{Cost, Work};
use crate::plan::hardware::Hardware;
use crate::plan::machine::Machine;
use crate::plan::scaling::Scaling;
use crate::plugin::plot;
use crate::terminal;
use crate::validate::{self, EXIT_CONFIG, Environment, enter_folder};

pub const EXAMPLES: &str = "\
Examples:
  difflow plan                                    plan dataflow.yml of this folder
  difflow plan data/experiments/paper-diffugpt-s.yml    the paper's small model; its shape is in data/experiments/shapes/
  difflow plan my.yml --no-calibration            without the few seconds of measuring
  difflow plan my.yml --machine h100              time on an H100, as measured for docs/RESULTS.md
  difflow plan my.yml --flops-per-second 200e12   time on another machine
  difflow plan my.yml --ranks 4                   four processes: memory of each, what they send, a step's time, and more of them
  difflow plan my.yml --ranks 64 --machine h100x8 on eight machines of eight H100s
  difflow plan my.yml --ranks 64 --machine h100x8 --links 340e9,25e9    and with a slower network between them

The time is an estimate from a short measurement of training steps on this machine; memory is what difflow's own kernels keep.";

#[derive(Args)]
pub struct Arguments {
    /// The dataflow file.
    #[arg(default_value = "dataflow.yml")]
    file: PathBuf,
    /// Measure nothing: leave the time out.
    #[arg(long)]
    no_calibration: bool,
    /// Take this many floating-point operations a second instead of measuring.
    #[arg(long, conflicts_with = "no_calibration")]
    flops_per_second: Option<f64>,
    /// Take what was measured on another machine: h100, h100x8 (machines of so many), or the JSON file of scripts/gpu.sh.
    #[arg(long, value_name = "NAME|FILE", conflicts_with_all = ["no_calibration", "flops_per_second"])]
    machine: Option<String>,
    /// In so many processes, as of `difflow run --ranks`. Not said: as many trainers as the file has.
    #[arg(long, value_name = "N")]
    ranks: Option<u64>,
    /// Bytes a second of a rank to those in its machine, to those in others, and how many ranks a machine has.
    #[arg(long, value_name = "INSIDE[,BETWEEN[,RANKS]]")]
    links: Option<String>,
    /// One JSON object.
    #[arg(long)]
    json: bool,
}

/// Plans a file. Returns the exit code.
///
/// # Errors
/// The file cannot be read, it has no trainer, or the shape of its base model is not known.
pub fn run(arguments: &Arguments) -> Result<u8> {
    let name = arguments.file.display().to_string();
    let text = std::fs::read_to_string(&arguments.file).map_err(|e| eyre!("cannot read {name}: {e}"))?;
    let machine = arguments.machine.as_deref().map(Machine::open).transpose()?;
    enter_folder(&arguments.file)?;
    let checked = validate::check(&text, Path::new(""), Environment::None);
    let errors: Vec<_> = checked.findings.iter().filter(|finding| finding.level == Level::Error).collect();
    if !errors.is_empty() {
        let names = Names::new(&arguments.file, &checked.files);
        for finding in errors {
            eprintln!("{}", finding.to_text(&names));
        }
        eprintln!("{}", terminal::error("a file with errors cannot be planned"));
        return Ok(EXIT_CONFIG);
    }
    let (work, trainers) = work(&text)?;
    let ranks = arguments.ranks.unwrap_or(trainers);
    if ranks == 0 {
        return Err(eyre!("--ranks: found 0, wanted 1 or more"));
    }
    let shape = shape::find(&work.trainer.base_model)?;
    let cost = Cost::of(&work, &shape.config);
    let hardware = hardware(arguments, machine.as_ref(), &work)?;
    let elsewhere = machine.map(|machine| machine.flops_per_second(cost.base_parameters, work.trainer.precision));
    let rate = match arguments.flops_per_second.or(elsewhere.transpose()?) {
        Some(rate) if rate > 0.0 => Some(rate),
        Some(rate) => return Err(eyre!("--flops-per-second: found {rate}, wanted a number above 0")),
        None if arguments.no_calibration => None,
        None => Some(calibrate::flops_per_second(&work, &shape)?),
    };
    let scaling = match (&hardware, rate) {
        (Some(hardware), Some(rate)) if ranks > 1 => Some(Scaling::new(&work, &cost, &shape.config, hardware, rate)),
        _ => None,
    };
    if arguments.json {
        println!("{:#}", to_json(&work, &shape, &cost, (rate, ranks), scaling.as_ref()));
        return Ok(0);
    }
    println!("{name}: run {} from {}", work.trainer.run.name, shape.from);
    for (key, value) in lines(&work, &cost, (rate, ranks), scaling.as_ref()) {
        println!("  {key:<18} {value}");
    }
    for curve in curves::of(&work)? {
        println!("\n{}", plot::terminal(&curve));
    }
    Ok(0)
}

/// The machines of the ranks, as far as they are known.
fn hardware(arguments: &Arguments, machine: Option<&Machine>, work: &Work) -> Result<Option<Hardware>> {
    let known = match machine {
        Some(machine) => machine.hardware.clone(),
        None => (!work.trainer.device.starts_with("cuda")).then(Hardware::processor),
    };
    let Some(links) = &arguments.links else { return Ok(known) };
    // Of other GPUs only what is said is known; of their memory it is supposed that it is no slower.
    let other = || Hardware { memory: None, ..Hardware::h100(8) };
    known.unwrap_or_else(other).with_links(links).map(Some)
}

/// The settings that decide the work, and how many trainers share it.
fn work(text: &str) -> Result<(Work, u64)> {
    let file = reading::read(text, Path::new("")).file;
    let nodes = validate::settings(&file, false, &mut Vec::new());
    let (mut trainer, mut tokenizer, mut noiser, mut checkpointer, mut trainers) = (None, None, None, None, 0);
    for node in &nodes {
        match &node.settings {
            Settings::Trainer(c) => {
                trainer = Some(c.as_ref().clone());
                trainers += 1;
            }
            Settings::Tokenizer(c) => tokenizer = Some(c.clone()),
            Settings::Noiser(c) => noiser = Some(c.clone()),
            Settings::Checkpointer(c) => checkpointer = Some(c.clone()),
            _ => {}
        }
    }
    let trainer = trainer.ok_or_else(|| eyre!("there is no difflow-trainer in this dataflow: nothing to plan"))?;
    let tokenizer =
        tokenizer.ok_or_else(|| eyre!("there is no difflow-tokenizer in this dataflow: the batch is not known"))?;
    let (noiser, checkpointer) = (noiser.unwrap_or_default(), checkpointer.unwrap_or_default());
    let masked_share = curves::masked_share(&noiser)?;
    Ok((Work { trainer, tokenizer, noiser, checkpointer, masked_share }, trainers))
}

fn lines(
    work: &Work,
    cost: &Cost,
    (rate, count): (Option<f64>, u64),
    scaling: Option<&Scaling>,
) -> Vec<(&'static str, String)> {
    let t = &work.trainer;
    let mask = match cost.mask_rows {
        0 => "an existing token is the mask".to_owned(),
        rows => format!("{rows} mask row{} of {} more", if rows == 1 { "" } else { "s" }, cost.hidden_size),
    };
    let kind = |share: f64| {
        if share < 1.0 {
            format!("{:.1} % of the positions pass the output head", 100.0 * share)
        } else {
            "every position passes the output head".into()
        }
    };
    let mut lines = vec![
        ("parameters", format!("{}; {mask}", grouped(cost.base_parameters))),
        (
            "a step",
            format!(
                "{} sequences ({} × {}) of {} tokens: {} tokens",
                grouped(cost.rows_per_step),
                work.tokenizer.micro_batch,
                t.accumulation,
                work.tokenizer.sequence_length,
                grouped(cost.tokens_per_step)
            ),
        ),
        ("the run", format!("{} steps, {} tokens (padding counted)", grouped(t.steps), grouped(cost.tokens))),
        (
            "positions",
            format!("{} that forwards read (a text that stands twice counts twice)", grouped(cost.positions)),
        ),
        ("FLOPs", format!("{:.3e}; {}", cost.flops, kind(cost.head_share))),
        ("", format!("  formula: {} = {:.3e}", cost.rule, cost.formula)),
        (
            "memory",
            format!(
                "{} a device: {} weights, gradients and moments, {} activations, {} logits",
                bytes(cost.memory_bytes()),
                bytes(cost.memory.parameters + cost.average_bytes + cost.frozen_bytes),
                bytes(cost.memory.activations),
                bytes(cost.memory.logits)
            ),
        ),
        (
            "disk",
            format!(
                "{} for {} checkpoints of {} at most at once",
                bytes(cost.disk_bytes),
                cost.checkpoints_kept,
                bytes(cost.checkpoint_bytes)
            ),
        ),
    ];
    if count > 1 {
        lines.extend(ranks::lines(work, cost, count));
    }
    if let Some(scaling) = scaling {
        lines.extend(scaling.lines(count));
    }
    lines.push(match rate {
        Some(rate) if count > 1 => {
            let (time, exchange) = match scaling.and_then(|scaling| scaling.seconds(count)) {
                Some(seconds) => (seconds * work.trainer.steps as f64, ""),
                None => (cost.flops / rate / count as f64, "exchange, "),
            };
            (
                "time",
                format!(
                    "{} at {rate:.2e} FLOP/s on each of {count} devices; {exchange}sampling and scoring not counted",
                    duration(time)
                ),
            )
        }
        Some(rate) => (
            "time",
            format!(
                "{} at {rate:.2e} FLOP/s on one device; sampling and scoring not counted",
                duration(cost.flops / rate)
            ),
        ),
        None => ("time", "not measured".to_owned()),
    });
    lines
}

fn to_json(
    work: &Work,
    shape: &shape::Shape,
    cost: &Cost,
    (rate, count): (Option<f64>, u64),
    scaling: Option<&Scaling>,
) -> Value {
    let simulated =
        scaling.and_then(|scaling| scaling.seconds(count)).map(|seconds| seconds * work.trainer.steps as f64);
    json!({
        "run": work.trainer.run,
        "base_model": work.trainer.base_model,
        "shape": shape.from,
        "parameters": cost.base_parameters,
        "mask_rows": cost.mask_rows,
        "steps": work.trainer.steps,
        "tokens_per_step": cost.tokens_per_step,
        "tokens": cost.tokens,
        "positions": cost.positions,
        "flops": cost.flops,
        "formula": cost.rule,
        "formula_flops": cost.formula,
        "masked_share": work.masked_share,
        "memory_bytes": cost.memory_bytes(),
        "memory": {"parameters": cost.memory.parameters, "activations": cost.memory.activations, "logits": cost.memory.logits, "average": cost.average_bytes, "frozen": cost.frozen_bytes},
        "checkpoint_bytes": cost.checkpoint_bytes,
        "checkpoints_kept": cost.checkpoints_kept,
        "disk_bytes": cost.disk_bytes,
        "flops_per_second": rate,
        "seconds": simulated.or(rate.map(|rate| cost.flops / rate / count as f64)),
        "ranks": count,
        "by_sharding": (count > 1).then(|| ranks::to_json(work, cost, count)),
        "simulation": scaling.map(|scaling| scaling.to_json(count)),
    })
}

/// 1234567 as 1,234,567.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn bytes(count: u64) -> String {
    match count as f64 {
        n if n >= 1e12 => format!("{:.1} TB", n / 1e12),
        n if n >= 1e9 => format!("{:.1} GB", n / 1e9),
        n => format!("{:.1} MB", n / 1e6),
    }
}

fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.0} minutes", s / 60.0),
        s if s < 172_800.0 => format!("{:.1} hours", s / 3600.0),
        s => format!("{:.1} days", s / 86_400.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!(
            (grouped(7), grouped(1000), grouped(124_439_808)),
            ("7".into(), "1,000".into(), "124,439,808".into())
        );
        assert_eq!((bytes(1_500_000), bytes(2_500_000_000)), ("1.5 MB".into(), "2.5 GB".into()));
        assert_eq!(
            (duration(90.0), duration(600.0), duration(86_400.0 * 3.0)),
            ("90 s".into(), "10 minutes".into(), "3.0 days".into())
        );
    }
}
