//! The commands of `difflow-world`.

use clap::{Parser, Subcommand};
use difflow_world::corpus::{self, INSTRUCTIONS, INSTRUCTIONS_HELDOUT, SEED};
use difflow_world::{Problem, ProblemKind, check, instruct, stats, tell};
use eyre::{Result, WrapErr, eyre};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

/// Makes the self-made world of data/tiny, tells single stories of it, and checks texts against it.
#[derive(Parser)]
#[command(
    name = "difflow-world",
    version,
    after_help = "Examples:
  difflow-world make --out data/tiny        write corpus, tokenizer, gaps and endings
  difflow-world story --seed 7              print one story
  difflow-world check samples.jsonl         score generated texts
  difflow-world story --seed 7 | difflow-world check -
  difflow-world stats                       figures of the corpus"
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write train.parquet, heldout.parquet, tokenizer.json, infill.jsonl and endings.jsonl; print the sha256 of each.
    #[command(after_help = "Example:\n  difflow-world make --out data/tiny")]
    Make {
        /// Folder to write into; made if it is not there.
        #[arg(long)]
        out: PathBuf,
        /// Another seed makes another corpus of the same world.
        #[arg(long, default_value_t = SEED)]
        seed: u64,
    },
    /// Write instructions with answers for finetuning, instructions.parquet and instructions-heldout.parquet; print the sha256 of each.
    #[command(after_help = "Examples:
  difflow-world instruct --out data/tiny/instructions
  difflow-world instruct --out few --train 300 --heldout 30")]
    Instruct {
        /// Folder to write into; made if it is not there.
        #[arg(long)]
        out: PathBuf,
        /// Another seed makes other instructions in the same world.
        #[arg(long, default_value_t = SEED)]
        seed: u64,
        /// Instructions to train on.
        #[arg(long, default_value_t = INSTRUCTIONS)]
        train: usize,
        /// Instructions held out.
        #[arg(long, default_value_t = INSTRUCTIONS_HELDOUT)]
        heldout: usize,
    },
    /// Judge answers to instructions: one {"prompt": …, "response": …} a line in, one verdict a line out: `ok`, or what is wrong.
    #[command(after_help = "Example:
  difflow-world judge answers.jsonl     or - for standard input; exit code 0 whatever the verdicts are")]
    Judge {
        /// A file, or - for standard input.
        #[arg(default_value = "-")]
        file: String,
    },
    /// Print one story.
    #[command(after_help = "Example:\n  difflow-world story --seed 7")]
    Story {
        #[arg(long, default_value_t = 0)]
        seed: u64,
    },
    /// Check texts; print the share that passes and why the others do not. Exit code 1 if any text fails.
    #[command(after_help = "Examples:
  difflow-world check samples.jsonl     one {\"text\": ...} a line
  difflow-world check samples.txt       texts between lines of ---, or NUL bytes
  difflow-world check -                 from standard input
  difflow-world check --json            as the sampler's CHECKER: one {\"text\": ...} a line in, one verdict a line out")]
    Check {
        /// A file, or - for standard input.
        #[arg(required_unless_present = "json")]
        file: Option<String>,
        /// One {"text": ...} a line in, one verdict a line out: `ok`, or what is wrong. Exit code 0 whatever the verdicts are.
        #[arg(long, conflicts_with = "verbose")]
        json: bool,
        /// Print every problem of every text.
        #[arg(long)]
        verbose: bool,
    },
    /// Print figures of the corpus: lengths, vocabulary, novelty, how much the checker sees.
    #[command(after_help = "Example:\n  difflow-world stats")]
    Stats {
        #[arg(long, default_value_t = SEED)]
        seed: u64,
    },
}

pub fn run(cli: Cli) -> Result<ExitCode> {
    match cli.command {
        Command::Make { out, seed } => {
            for (name, sum) in corpus::write_all(&out, seed)? {
                println!("{sum}  {name}");
            }
        }
        Command::Instruct { out, seed, train, heldout } => {
            for (name, sum) in corpus::write_instructions(&out, seed, [train, heldout])? {
                println!("{sum}  {name}");
            }
        }
        Command::Judge { file } => answered(&file, |line| {
            let (prompt, response) = (field(line, "prompt")?, field(line, "response")?);
            Ok(instruct::judge(&prompt, &response).err())
        })?,
        Command::Story { seed } => println!("{}", tell::tell(seed, tell::Split::Sample, 0)),
        Command::Check { file, json: true, .. } => verdicts(file.as_deref().unwrap_or("-"))?,
        Command::Check { file, verbose, .. } => return score(file.as_deref().unwrap_or("-"), verbose),
        Command::Stats { seed } => print!("{}", stats::describe(seed)?),
    }
    Ok(ExitCode::SUCCESS)
}

fn verdicts(file: &str) -> Result<()> {
    let words = |problems: Vec<Problem>| problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    answered(file, |line| Ok(check(&text_of(line)?).err().map(words)))
}

/// Answers each line as it comes, so that the asker need not close its side first: `ok`, or the problem.
fn answered(file: &str, problem: impl Fn(&str) -> Result<Option<String>>) -> Result<()> {
    let input: Box<dyn BufRead> = if file == "-" {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(BufReader::new(File::open(file).wrap_err_with(|| format!("cannot read {file}"))?))
    };
    let mut output = std::io::stdout().lock();
    for (number, line) in (1..).zip(input.lines()) {
        let line = line.wrap_err_with(|| format!("cannot read {file}"))?;
        let verdict = problem(&line).wrap_err_with(|| format!("line {number}"))?.unwrap_or_else(|| "ok".to_owned());
        // A message may quote the text, which may have lines.
        writeln!(output, "{}", verdict.replace('\n', " ")).wrap_err("cannot write the verdicts")?;
    }
    Ok(())
}

fn score(file: &str, verbose: bool) -> Result<ExitCode> {
    let mut input = String::new();
    if file == "-" {
        std::io::stdin().read_to_string(&mut input).wrap_err("cannot read standard input")?;
    } else {
        input = std::fs::read_to_string(file).wrap_err_with(|| format!("cannot read {file}"))?;
    }
    let texts = texts_of(&input).wrap_err_with(|| format!("in {file}"))?;
    if texts.is_empty() {
        return Err(eyre!("{file} holds no text; give one {{\"text\": ...}} a line, or texts between lines of ---"));
    }
    let mut reasons: BTreeMap<ProblemKind, (usize, String)> = BTreeMap::new();
    let mut passed = 0;
    for (number, text) in texts.iter().enumerate() {
        let Err(problems) = check(text) else {
            passed += 1;
            continue;
        };
        for problem in &problems {
            if verbose {
                println!("text {}: {problem}", number + 1);
            }
        }
        // A text counts once, under its first problem: later ones are often its consequences.
        if let Some(first) = problems.first() {
            reasons.entry(first.kind).or_insert_with(|| (0, format!("text {}: {first}", number + 1))).0 += 1;
        }
    }
    println!("{passed} of {} pass ({:.1} %)", texts.len(), 100.0 * passed as f64 / texts.len() as f64);
    for (kind, (count, example)) in &reasons {
        println!("{count:>6} {kind}, e.g. {example}");
    }
    Ok(if passed == texts.len() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Splits the input: JSON lines with a `text` if it starts with an object, else NUL bytes or lines of `---` between texts.
fn texts_of(input: &str) -> Result<Vec<String>> {
    if input.trim_start().starts_with('{') {
        let lines = input.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        return lines.map(|(number, line)| text_of(line).wrap_err_with(|| format!("line {}", number + 1))).collect();
    }
    let parts: Vec<&str> = if input.contains('\0') {
        input.split('\0').collect()
    } else {
        input.split("\n---\n").map(|part| part.trim_end_matches("---\n")).collect()
    };
    Ok(parts.into_iter().map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect())
}

fn text_of(line: &str) -> Result<String> {
    field(line, "text")
}

fn field(line: &str, name: &str) -> Result<String> {
    let value: serde_json::Value = serde_json::from_str(line).wrap_err("not JSON")?;
    let text = value.get(name).and_then(|text| text.as_str()).map(str::to_owned);
    text.ok_or_else(|| eyre!("no \"{name}\" that is a string"))
}
