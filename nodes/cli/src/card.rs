//! The card of a published model: README.md, with the metadata that Hugging Face reads, what the model is, how it was trained, what came out
//! and how to sample. All of it is from the files of the checkpoint and of its run; what they do not say is left out.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Component, Path};

use difflow_model::{Adapted, Blocks, Context, Model, ObjectiveKind};
use difflow_schema::measures::MEASURES;
use difflow_schema::results::{Scores, Texts};
use difflow_schema::run::{Manifest, RunDir};
use difflow_schema::{Component as Named, Origin};
use eyre::Result;
use serde_json::Value;

use crate::records::list::short;
use crate::records::run::plain;

/// Keys of training that say how, by node, in the order of the table.
const KEYS: [&str; 18] = [
    "corpus.SOURCES",
    "tokenizer.SEQUENCE_LENGTH",
    "tokenizer.MICRO_BATCH",
    "noiser.NOISE_SCHEDULE",
    "noiser.BLOCK_SIZE",
    "trainer.OBJECTIVE",
    "trainer.SHIFT",
    "trainer.CONTEXT",
    "trainer.AR_WEIGHT",
    "trainer.ANNEALING_SCHEDULE",
    "trainer.ANNEAL_STEPS",
    "trainer.STEPS",
    "trainer.ACCUMULATION",
    "trainer.OPTIMIZER",
    "trainer.LEARNING_RATE",
    "trainer.LORA_RANK",
    "trainer.PRECISION",
    "trainer.SEED",
];

/// A row of what came out.
struct Figure {
    title: String,
    before: Option<f64>,
    after: Option<f64>,
}

/// The card of a model that was read from the checkpoint in `folder`. `code` says whether the Python file by which `transformers` computes it
/// stands beside it. Errors if a file of the checkpoint is damaged.
pub fn text(model: &Model, folder: &Path, license: Option<&str>, code: bool) -> Result<String> {
    let origin = Origin::read(folder)?;
    let lineage = lineage(folder);
    let base = origin.as_ref().and_then(|origin| hub_id(&origin.base_model));
    let adapted = model.config().adapted.as_ref();
    let mut text = metadata(base.as_deref(), adapted, license);
    text.push_str(&format!("# {}\n\n{}\n\n", title(folder), what(model, base.as_deref(), &lineage)));
    if let Some(adapted) = adapted {
        text.push_str(&method(adapted));
    }
    text.push_str(&training(folder, origin.as_ref(), &lineage));
    let figures = figures(folder);
    if !figures.is_empty() {
        text.push_str("## What came out\n\n| | before training | after |\n|---|---|---|\n");
        let cell = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), short);
        for Figure { title, before, after } in figures {
            text.push_str(&format!("| {title} | {} | {} |\n", cell(before), cell(after)));
        }
        text.push('\n');
    }
    text.push_str(&sampling(code, folder.join("generation_config.json").is_file()));
    Ok(text)
}

/// The front matter. Values are JSON texts, which YAML reads.
fn metadata(base: Option<&str>, adapted: Option<&Adapted>, license: Option<&str>) -> String {
    let mut text = "---\n".to_owned();
    for (key, value) in [("license", license), ("base_model", base)] {
        text.push_str(&value.map_or_else(String::new, |value| format!("{key}: {}\n", Value::from(value))));
    }
    text.push_str("library_name: transformers\npipeline_tag: text-generation\ntags:\n- difflow\n");
    let kinds: &[&str] = match adapted {
        Some(Adapted { objective: ObjectiveKind::Diffusion, .. }) => &["diffusion-language-model", "masked-diffusion"],
        Some(Adapted { objective: ObjectiveKind::Block, .. }) => &["diffusion-language-model", "block-diffusion"],
        Some(Adapted { objective: ObjectiveKind::Ar, .. }) | None => &[],
    };
    kinds.iter().for_each(|kind| text.push_str(&format!("- {kind}\n")));
    text + "---\n\n"
}

/// The name of the checkpoint's run, or of its folder.
fn title(folder: &Path) -> String {
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let run = run(folder).and_then(|(run, step)| Some(format!("{}, step {step}", name(run.root())?)));
    run.or_else(|| name(folder)).unwrap_or_else(|| "A difflow model".to_owned())
}

fn what(model: &Model, base: Option<&str>, lineage: &Value) -> String {
    let (config, count) = (model.config(), model.parameter_count());
    let kind = match config.adapted.as_ref().map(|adapted| adapted.objective) {
        Some(ObjectiveKind::Diffusion) => "A masked diffusion language model",
        Some(ObjectiveKind::Block) => "A language model of block diffusion",
        Some(ObjectiveKind::Ar) | None => "An autoregressive language model",
    };
    let from = base.map_or_else(String::new, |base| format!(", from {base}"));
    let version = lineage["difflow"].as_str().map_or_else(String::new, |version| format!(" {version}"));
    format!(
        "{kind} of {count} parameters ({}, {} layers), made with difflow{version}{from}.",
        config.architecture, config.layers
    )
}

fn method(adapted: &Adapted) -> String {
    let mut text = "## Method\n\n".to_owned();
    let mask = adapted.mask_token_id;
    match (adapted.objective, &adapted.blocks) {
        (ObjectiveKind::Ar, _) => text.push_str(&format!("It predicts the next token; its mask token is {mask}.\n")),
        (_, None) => text.push_str(&format!(
            "A text begins as mask tokens (id {mask}), which become known in any order: each position sees the whole text.\n"
        )),
        (_, Some(Blocks { size, context, ar_weight, .. })) => {
            text.push_str(&format!(
                "A text is written in blocks of {size} positions from left to right. A block begins as mask tokens (id {mask}), sees itself \
                 and the text before it, and becomes known in any order.\n"
            ));
            if *context == Context::Causal {
                text.push_str("The text before a block is read causally, as in the base model");
                let checks = "; it was trained to predict its next token, too, and can check the drafts of blocks";
                text.push_str(if *ar_weight > 0.0 { checks } else { "" });
                text.push_str(".\n");
            }
        }
    }
    if adapted.shift && adapted.objective != ObjectiveKind::Ar {
        text.push_str("The hidden state of a position predicts the token behind it, as in the base model.\n");
    }
    text + "\n"
}

fn training(folder: &Path, origin: Option<&Origin>, lineage: &Value) -> String {
    let mut rows = Vec::new();
    if let Ok((manifest, _)) = Manifest::read(folder) {
        rows.push(("optimizer steps done".to_owned(), manifest.step.to_string()));
        rows.push(("tokens seen".to_owned(), manifest.tokens_seen.to_string()));
    }
    let said = |key: &&str| {
        let value = plain(lineage["configuration"].get(*key)?);
        (!value.is_empty() && value != "null").then(|| (format!("`{key}`"), format!("`{value}`")))
    };
    let keys: Vec<(String, String)> = KEYS.iter().filter_map(said).collect();
    if let (true, Some(Origin { noise_schedule: Named { name, .. }, sequence_length, .. })) = (keys.is_empty(), origin)
    {
        rows.push(("noise schedule".to_owned(), format!("`{name}`")));
        rows.push(("tokens of a training row".to_owned(), sequence_length.to_string()));
    }
    rows.extend(keys);
    if rows.is_empty() {
        return String::new();
    }
    // A bar would end the cell.
    let rows = rows.into_iter().map(|(what, value)| format!("| {what} | {} |\n", value.replace('|', "\\|")));
    format!("## Training\n\n| | |\n|---|---|\n{}\n", rows.collect::<String>())
}

/// The figures that reports show, of the checkpoint and of the model before training. None where the checkpoint lies in no run.
fn figures(folder: &Path) -> Vec<Figure> {
    let Some((run, step)) = run(folder) else { return Vec::new() };
    let of = |step: u64| {
        let scores = Scores::read(&run.scores(step)).map(|found| found.metrics).unwrap_or_default();
        let texts = Texts::read(&run.samples(step)).map(|found| found.metrics).unwrap_or_default();
        scores.into_iter().chain(texts).collect::<BTreeMap<_, _>>()
    };
    let (before, after) = (of(0), of(step));
    let value = |of: &BTreeMap<String, Option<f64>>, name: &str| of.get(name).copied().flatten();
    let row = |measure: &difflow_schema::measures::Measure| {
        let (before, after) = (value(&before, measure.name), value(&after, measure.name));
        // What was measured of this checkpoint alone is one of its figures.
        after.is_some().then(|| Figure { title: measure.title(), before: before.filter(|_| step > 0), after })
    };
    MEASURES.iter().filter(|measure| measure.reported).filter_map(row).collect()
}

/// How to sample; `decoding` says whether generation_config.json does, too.
fn sampling(code: bool, decoding: bool) -> String {
    let mut text = "## Sampling\n\n```sh\ndifflow sample --checkpoint . -n 3\n```\n".to_owned();
    if code {
        text.push_str(
            "\nIn plain `transformers`, with this folder's own `modeling_difflow.py`:\n\n\
             ```python\n\
             import torch\n\
             from transformers import AutoModelForMaskedLM, AutoTokenizer\n\n\
             lm = AutoModelForMaskedLM.from_pretrained(\".\", trust_remote_code=True)\n\
             tokenizer = AutoTokenizer.from_pretrained(\".\")\n\
             prompt = [lm.anchor] + tokenizer(\"A text to be continued\", add_special_tokens=False).input_ids\n\
             ids = lm.generate(torch.tensor([prompt]))\n\
             print(tokenizer.decode(ids[0], skip_special_tokens=True))\n\
             ```\n\n\
             `logits[:, i]` of the model's output are of the token at position i.\n",
        );
    }
    if decoding {
        text.push_str("\n`generation_config.json` says how it is decoded where nothing else is said.\n");
    }
    text
}

/// The run that a checkpoint lies in, and its step.
fn run(folder: &Path) -> Option<(RunDir, u64)> {
    let checkpoints = folder.parent()?;
    let root = checkpoints.parent().filter(|_| checkpoints.file_name() == Some(OsStr::new("checkpoints")))?;
    let step = folder.file_name()?.to_str()?.strip_prefix("step-")?.parse().ok()?;
    Some((RunDir::new(root.parent()?, root.file_name()?.to_str()?), step))
}

/// What lineage.json says; null where it says nothing.
fn lineage(folder: &Path) -> Value {
    let bytes = std::fs::read(folder.join("lineage.json")).unwrap_or_default();
    serde_json::from_slice(&bytes).unwrap_or_default()
}

/// The hub id of a model in the cache of Hugging Face.
pub fn hub_id(path: &Path) -> Option<String> {
    let name =
        |part: Component| part.as_os_str().to_str()?.strip_prefix("models--").map(|id| id.replacen("--", "/", 1));
    path.components().find_map(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_model_from_the_hub_is_named_by_its_id_and_a_folder_by_nothing() {
        let cached = "/home/me/.cache/huggingface/hub/models--openai-community--gpt2/snapshots/607a30d783dfa663caf39e06633721c8d4cfcd7e";
        assert_eq!(hub_id(Path::new(cached)).as_deref(), Some("openai-community/gpt2"));
        assert_eq!(hub_id(Path::new("/data/models/tiny")), None);
    }

    #[test]
    fn only_a_checkpoint_of_a_run_has_a_run() {
        let (found, step) = run(Path::new("/runs/mine/checkpoints/step-00000120")).unwrap_or_else(|| panic!("no run"));
        assert_eq!((found.root(), step), (Path::new("/runs/mine"), 120));
        assert!(
            run(Path::new("/runs/mine/checkpoints/latest")).is_none() && run(Path::new("/models/step-1")).is_none()
        );
    }
}
