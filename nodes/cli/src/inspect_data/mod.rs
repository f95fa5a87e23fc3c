//! `difflow inspect data`: the first examples that the trainer of a dataflow file would get. The file's own data nodes make them, and a node of
//! this program stands in the trainer's place: what is shown is what came over the edge.

mod examples;
mod node;
mod show;
mod stand_in;

use std::fs::{self, File};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use clap::Args;
use difflow_schema::Facts;
use difflow_text::Words;
use eyre::{Context, Result, eyre};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::chosen::Chosen;
use crate::{dora, run};

pub use examples::Example;
pub use node::BatchesArguments;

#[derive(Args)]
pub struct DataArguments {
    #[command(flatten)]
    chosen: Chosen,
    /// Examples to show: the documents of the first batches, in their order.
    #[arg(short = 'n', long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    examples: u64,
    /// A JSON list instead of texts: tokens, which of them may be masked, and which are.
    #[arg(long)]
    json: bool,
    /// The dora program; default: `dora` beside this program, else on PATH.
    #[arg(long)]
    dora: Option<PathBuf>,
}

/// What the node hands to the command.
#[derive(Debug, Serialize, Deserialize)]
struct Found {
    facts: Facts,
    examples: Vec<Example>,
}

impl DataArguments {
    /// Shows the examples. Returns the exit code.
    ///
    /// # Errors
    /// When the file has no trainer, dora cannot be started, or the nodes leave nothing.
    pub fn run(self) -> Result<u8> {
        let file = &self.chosen.file;
        let tree = match self.chosen.read(1, &[])? {
            Ok(tree) => tree,
            Err(code) => return Ok(code),
        };
        let scratch = Scratch::new(file)?;
        let found = scratch.folder.join("examples.json");
        let text = stand_in::dataflow(&tree.text(), &scratch.folder, &found, self.examples)?;
        fs::write(&scratch.file, text).with_context(|| format!("cannot write {}", scratch.file.display()))?;
        let log_path = scratch.folder.join("log");
        let log = File::create(&log_path).with_context(|| log_path.display().to_string())?;
        let code = run::follow(&dora::program(self.dora), &[], &scratch.file, &log_path, log)?;
        if code != 0 {
            scratch.keep(&log_path, file);
            return Ok(code);
        }
        let bytes =
            fs::read(&found).map_err(|_| eyre!("the data of {} ended before its first example", file.display()))?;
        let Found { facts, examples } = serde_json::from_slice(&bytes)?;
        if self.json {
            println!("{:#}", json!(examples));
            return Ok(0);
        }
        let tokenizer =
            facts.tokenizer.ok_or_else(|| eyre!("the batches do not say what tokenizer they were made with"))?;
        let words = Words::open(&tokenizer.path, tokenizer.bos, tokenizer.eos)?;
        let colour =
            std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        println!("{}", show::legend(colour));
        for example in &examples {
            println!("\n{}", show::example(&words, example, colour)?);
        }
        Ok(0)
    }
}

/// What the look needs on disk while it lasts: the dataflow file, beside the one it stands for, since paths are relative to it; and the
/// run's folder, for the nodes write one.
struct Scratch {
    folder: PathBuf,
    file: PathBuf,
}

impl Scratch {
    fn new(file: &Path) -> Result<Self> {
        let name = file.file_stem().unwrap_or_default().to_string_lossy();
        let number = std::process::id();
        let folder = std::env::temp_dir().join(format!("difflow-inspect-{number}"));
        fs::create_dir_all(&folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
        Ok(Self { folder, file: file.with_file_name(format!(".{name}-data-{number}.yml")) })
    }

    /// Keeps what dora and the nodes wrote, where `difflow run` keeps it.
    fn keep(&self, log: &Path, file: &Path) {
        let out = file.with_file_name("out");
        let name = format!("{}-inspect.log", file.file_stem().unwrap_or_default().to_string_lossy());
        let kept = fs::create_dir_all(&out).and_then(|()| fs::copy(log, out.join(&name)));
        if kept.is_ok() {
            eprintln!("difflow: that file is now {}", out.join(name).display());
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let mut session = self.file.file_stem().unwrap_or_default().to_owned();
        session.push(".dora-session.yaml");
        _ = fs::remove_file(self.file.with_file_name("out").join(session));
        _ = fs::remove_file(&self.file);
        _ = fs::remove_dir_all(&self.folder);
    }
}
