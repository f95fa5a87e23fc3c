//! `difflow plugin`: create, list, show and check plug-ins.

mod check;
pub mod child;
mod list;
mod new;
pub mod picture;
pub mod plot;
mod show;
pub mod table;

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};
use difflow_plugin_host::Kind;
use difflow_plugin_host::conformance::{self, Test};
use eyre::Result;

#[derive(Subcommand)]
pub enum Command {
    /// Write a new plug-in: a folder with its source, its build file and a README.
    #[command(after_help = "\
Examples:
  difflow plugin new my-noise --kind noise-schedule
  difflow plugin new my-annealing --kind annealing-schedule --lang c")]
    New {
        /// Its name; the folder NAME is made.
        name: String,
        /// What it is.
        #[arg(long)]
        kind: KindName,
        /// In which language.
        #[arg(long, default_value = "rust")]
        lang: Language,
        /// The folder `plugins` of difflow, with `sdk` and `include` in it; default: the one of this installation or checkout.
        #[arg(long)]
        sdk: Option<PathBuf>,
    },
    /// List what there is: built in, and in the folders that are searched.
    #[command(after_help = "\
Examples:
  difflow plugin list
  DIFFLOW_PLUGIN_PATH=my-noise/target/release difflow plugin list --json")]
    List {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show a component: what it is, its options, and a plot.
    #[command(after_help = "\
Examples:
  difflow plugin show builtin:cosine
  difflow plugin show ./libmy_noise.so --config '{\"power\": 2}' --svg plot.svg")]
    Show {
        /// builtin:NAME, a library (`lib.so` or `lib.so#component`) or a component id.
        component: String,
        /// Its configuration, for the plot.
        #[arg(long, default_value = "{}")]
        config: String,
        /// Steps of an annealing schedule's plot; also its anneal_steps where the configuration does not set them.
        #[arg(long, default_value_t = 1000)]
        steps: u64,
        /// Write the plot into this SVG file.
        #[arg(long)]
        svg: Option<PathBuf>,
        /// Write the plot into this PNG file.
        #[arg(long)]
        png: Option<PathBuf>,
    },
    /// Check whether components do what they must; each test in a process of its own.
    #[command(after_help = "\
Examples:
  difflow plugin check                    all built-in components
  difflow plugin check ./libmy_noise.so

Exit codes: 0 every test passed, 1 some failed.")]
    Check {
        /// Libraries, component ids or builtin:NAME; default: all built-in components.
        components: Vec<String>,
        /// Only this test; may be given several times.
        #[arg(long)]
        test: Vec<String>,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// What a library holds, as JSON: how `list` and `check` look at one without loading it themselves.
    #[command(hide = true)]
    Describe {
        /// The library.
        library: String,
    },
    /// Open what a key of a dataflow file names, in this process: how `difflow validate` tries a library.
    #[command(hide = true)]
    Open {
        /// What the key names.
        named: crate::validate::Named,
        /// The value of the key.
        value: String,
        /// Its configuration.
        config: String,
        /// Steps of an annealing schedule.
        steps: u64,
    },
    /// Tests on one component in this process, until one does not pass: how `check` runs each of them.
    #[command(hide = true)]
    RunTest {
        /// The library, or `builtin`.
        library: String,
        /// Id of the component.
        component: String,
        /// Names of the tests.
        #[arg(required = true)]
        tests: Vec<String>,
    },
}

/// Kinds on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum KindName {
    NoiseSchedule,
    AnnealingSchedule,
    BatchTransform,
    ModelRecipe,
    TorchModel,
}

impl From<KindName> for Kind {
    fn from(name: KindName) -> Self {
        match name {
            KindName::NoiseSchedule => Self::NoiseSchedule,
            KindName::AnnealingSchedule => Self::AnnealingSchedule,
            KindName::BatchTransform => Self::BatchTransform,
            KindName::ModelRecipe => Self::ModelRecipe,
            KindName::TorchModel => Self::TorchModel,
        }
    }
}

/// Languages of `plugin new`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Language {
    Rust,
    C,
}

/// The tests of a kind; those that compute with torch models are the model crate's.
fn tests(kind: Kind) -> Vec<Test> {
    let torch = if kind == Kind::TorchModel { difflow_model::plugin_tests::TESTS } else { &[] };
    conformance::tests(kind).into_iter().chain(torch.iter().copied()).collect()
}

/// Runs a subcommand; the exit code.
///
/// # Errors
/// What to tell the person at the screen.
pub fn run(command: Command) -> Result<u8> {
    match command {
        Command::New { name, kind, lang, sdk } => new::run(&name, kind, lang, sdk),
        Command::List { json } => list::run(json),
        Command::Show { component, config, steps, svg, png } => {
            show::run(&component, &config, steps, show::Files { svg, png })
        }
        Command::Check { components, test, json } => check::run(&components, &test, json),
        Command::Describe { library } => child::describe(&library),
        Command::Open { named, value, config, steps } => crate::validate::open(named, &value, &config, steps),
        Command::RunTest { library, component, tests } => child::run_tests(&library, &component, &tests),
    }
}
