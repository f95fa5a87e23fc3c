//! The plug-ins that a dataflow file uses: found, loaded and queried, as the nodes will do.

use clap::ValueEnum;
use difflow_model::TorchPlugin;
use difflow_plugin_host::{AnnealingSchedule, Library, ModelRecipe, NoiseSchedule, PluginError, Transforms};
use difflow_schema::{PlainDocuments, RowNoised};
use eyre::Result;

use crate::dataflow::{Finding, Kind, Settings};
use crate::plugin::child::{self, Ended};
use crate::validate::Environment;
use crate::validate::keys::Node;

/// What a key names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Named {
    Noise,
    Annealing,
    Recipe,
    Torch,
    DocumentTransforms,
    NoisedTransforms,
}

impl Named {
    fn name(self) -> &'static str {
        match self {
            Self::Noise => "noise",
            Self::Annealing => "annealing",
            Self::Recipe => "recipe",
            Self::Torch => "torch",
            Self::DocumentTransforms => "document-transforms",
            Self::NoisedTransforms => "noised-transforms",
        }
    }

    fn load(self, value: &str, config: &str, steps: u64) -> Result<(), PluginError> {
        match self {
            Self::Noise => NoiseSchedule::open(value, config).map(drop),
            Self::Annealing => AnnealingSchedule::open(value, config, steps).map(drop),
            Self::Recipe => ModelRecipe::open(value, config).map(drop),
            Self::Torch => TorchPlugin::named(value, config).map(drop),
            Self::DocumentTransforms => Transforms::open::<PlainDocuments>(value).map(drop),
            Self::NoisedTransforms => Transforms::open::<RowNoised>(value).map(drop),
        }
    }
}

/// In the child: opens what a key names. Prints what is wrong, after a line that says whether its configuration is.
///
/// # Errors
/// Never; for the table of subcommands.
pub fn open(named: Named, value: &str, config: &str, steps: u64) -> Result<u8> {
    Ok(match named.load(value, config, steps) {
        Ok(()) => 0,
        Err(e) => {
            println!("{}\n{e}", e.key("KEY"));
            1
        }
    })
}

/// A key that names a plug-in.
struct Use<'a> {
    named: Named,
    key: &'static str,
    value: &'a str,
    config: &'a str,
    steps: u64,
}

fn uses(settings: &Settings) -> Vec<Use<'_>> {
    let one = |named, key, value, config| Use { named, key, value, config, steps: 1 };
    let noise = |value, config| one(Named::Noise, "NOISE_SCHEDULE", value, config);
    let recipe = |value, config| one(Named::Recipe, "MODEL_RECIPE", value, config);
    let torch = |value, config| one(Named::Torch, "TORCH_MODEL", value, config);
    let all = match settings {
        Settings::Corpus(c) => vec![one(Named::DocumentTransforms, "TRANSFORMS", &c.transforms, "{}")],
        Settings::Noiser(c) => vec![
            noise(&c.noise_schedule, &c.noise_schedule_config),
            one(Named::NoisedTransforms, "TRANSFORMS", &c.transforms, "{}"),
        ],
        Settings::Trainer(c) => {
            let (value, config) = (&c.annealing_schedule, &c.annealing_schedule_config);
            let annealing =
                Use { steps: c.anneal_steps(), ..one(Named::Annealing, "ANNEALING_SCHEDULE", value, config) };
            vec![
                annealing,
                recipe(&c.model_recipe, &c.model_recipe_config),
                torch(&c.torch_model, &c.torch_model_config),
            ]
        }
        Settings::Tokenizer(_)
        | Settings::Checkpointer(_)
        | Settings::Sampler(_)
        | Settings::Evaluator(_)
        | Settings::Monitor(_)
        | Settings::Server(_) => Vec::new(),
    };
    let empty_is_none = |named| !matches!(named, Named::Noise | Named::Annealing);
    all.into_iter().filter(|one| !(one.value.is_empty() && empty_is_none(one.named))).collect()
}

/// Opens every plug-in of every node.
pub fn check(nodes: &[Node], environment: Environment, findings: &mut Vec<Finding>) {
    for node in nodes {
        for one in uses(&node.settings) {
            let Err((config, message)) = judge(&one, environment) else { continue };
            // A list of transforms has the configurations inside.
            let beside = config && one.key != "TRANSFORMS";
            let key = if beside { format!("{}_CONFIG", one.key) } else { one.key.to_owned() };
            let kind = if config { Kind::WrongValue } else { Kind::BadPlugin };
            let found = format!("`{}`", if beside { one.config } else { one.value });
            findings.push(Finding::error(kind, node.place(&key), node.subject(&key), found, message));
        }
    }
}

/// Whether it can be used; else whether its configuration is to blame, and why.
fn judge(one: &Use, environment: Environment) -> Result<(), (bool, String)> {
    let here = || {
        let result = one.named.load(one.value, one.config, one.steps);
        result.map_err(|e| (matches!(e, PluginError::Config { .. }), e.to_string()))
    };
    match environment {
        Environment::Here if !built_in(one) => {
            let steps = one.steps.to_string();
            let arguments = ["plugin", "open", one.named.name(), one.value, one.config, &steps];
            match child::run(None, &arguments) {
                Ok(Ended::Well(_) | Ended::Skipped(_)) => Ok(()),
                Ok(Ended::Badly(text)) => {
                    let (first, rest) = text.split_once('\n').unwrap_or(("", &text));
                    Err((first == "KEY_CONFIG", rest.to_owned()))
                }
                Err(e) => Err((false, format!("{e:#}"))),
            }
        }
        // A plug-in of a library is a file: nothing to say about it here.
        Environment::None if !built_in(one) && foreign(one.value) => Ok(()),
        _ => here(),
    }
}

/// Whether a value is a component of difflow's own, which cannot crash this program.
fn built_in(one: &Use) -> bool {
    let Ok(library) = Library::builtin() else { return false };
    let name = one.value.strip_prefix("builtin:").unwrap_or(one.value);
    library
        .components()
        .iter()
        .any(|component| component.id.strip_prefix(component.kind.builtin_prefix()) == Some(name))
}

/// Whether a value looks like a path or a component id, or is a list that has such.
fn foreign(value: &str) -> bool {
    value.contains(['.', '/', '#']) || value.starts_with('[')
}
