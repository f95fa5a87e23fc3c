//! The files that a dataflow file names.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use difflow_corpus::{files, source};
use difflow_text::read_tokenizer;
use tokenizers::Tokenizer;

use crate::dataflow::{File, Finding, Kind, Settings};
use crate::validate::keys::Node;

/// Checks programs, tokenizers, models, documents and gaps.
pub fn check(file: &File, nodes: &[Node], findings: &mut Vec<Finding>) {
    for node in &file.nodes {
        let Some((path, at)) = &node.path else { continue };
        let special = ["shell", "dynamic"].contains(&path.as_str()) || path.starts_with("http");
        if !special && !is_program(path) {
            let allowed = "no such program; `make build` puts difflow's into bin/";
            let found = format!("`{path}`");
            findings.push(Finding::error(Kind::MissingFile, *at, format!("{}.path", node.id), found, allowed));
        }
    }
    let mut tokenizers = BTreeMap::new();
    for node in nodes {
        if let Settings::Corpus(config) = &node.settings {
            sources(node, &config.sources, findings);
        }
        for (key, path) in named(&node.settings) {
            if let Some(id) = hub_id(key, &path) {
                if difflow_hub::cached_folder(&id).is_none() {
                    let found = format!("`{id}`, which is no path here");
                    let allowed = "it is taken for a model on the hub and fetched when the run starts";
                    let finding = Finding::error(Kind::MissingFile, node.place(key), node.subject(key), found, allowed);
                    findings.push(finding.warning());
                }
            } else if !path.is_file() {
                let found = format!("`{}`", path.display());
                let allowed = "no such file; paths are relative to the dataflow file";
                findings.push(Finding::error(Kind::MissingFile, node.place(key), node.subject(key), found, allowed));
            }
        }
        special_tokens(node, &mut tokenizers, findings);
    }
}

/// A program by path, or by name on PATH.
fn is_program(path: &str) -> bool {
    if path.contains('/') || Path::new(path).is_file() {
        return Path::new(path).is_file();
    }
    std::env::var_os("PATH").is_some_and(|all| std::env::split_paths(&all).any(|folder| folder.join(path).is_file()))
}

/// The hub id that a key has in the place of a path.
fn hub_id(key: &str, path: &Path) -> Option<String> {
    let value = if key == "BASE_MODEL" { path.parent()? } else { path };
    let value = value.to_str()?;
    (["BASE_MODEL", "TOKENIZER"].contains(&key) && difflow_hub::is_id(value)).then(|| value.to_owned())
}

/// Keys that name one file each.
fn named(settings: &Settings) -> Vec<(&'static str, PathBuf)> {
    let model = |path: &str| ("BASE_MODEL", Path::new(path).join("config.json"));
    let file = |key, path: &str| (key, PathBuf::from(path));
    let given = |key, path: &str| (!path.is_empty()).then(|| file(key, path));
    match settings {
        Settings::Tokenizer(c) => vec![file("TOKENIZER", &c.tokenizer), model(&c.base_model)],
        Settings::Trainer(c) => vec![file("TOKENIZER", &c.tokenizer), model(&c.base_model)],
        Settings::Sampler(c) => given("INFILL", &c.infill).into_iter().collect(),
        Settings::Evaluator(c) => {
            [given("HELDOUT", &c.heldout), given("INFILL", &c.infill)].into_iter().flatten().collect()
        }
        _ => Vec::new(),
    }
}

fn sources(node: &Node, text: &str, findings: &mut Vec<Finding>) {
    // What cannot be read is said with the keys.
    for source in source::parse(text).unwrap_or_default() {
        if let Err(problem) = files::find(&source) {
            let (key, found) = ("SOURCES", format!("`{}`", problem.found));
            findings.push(Finding::error(
                Kind::MissingFile,
                node.place(key),
                node.subject(key),
                found,
                problem.allowed,
            ));
        }
    }
}

/// The tokens that begin and end a document must be the tokenizer's.
fn special_tokens(node: &Node, tokenizers: &mut BTreeMap<String, Option<Tokenizer>>, findings: &mut Vec<Finding>) {
    let Settings::Tokenizer(config) = &node.settings else { return };
    let (path, bos, eos) = (&config.tokenizer, &config.bos_token, &config.eos_token);
    if !Path::new(path).is_file() {
        return;
    }
    let tokenizer = tokenizers.entry(path.clone()).or_insert_with(|| read_tokenizer(Path::new(path)).ok());
    let mut wrong = |kind, key: &str, found: String, allowed: String| {
        findings.push(Finding::error(kind, node.place(key), node.subject(key), found, allowed));
    };
    let Some(tokenizer) = tokenizer else {
        let allowed = "wanted: a tokenizer.json of Hugging Face tokenizers";
        return wrong(Kind::WrongValue, "TOKENIZER", format!("`{path}`"), allowed.into());
    };
    for (key, token) in [("BOS_TOKEN", bos), ("EOS_TOKEN", eos)] {
        if tokenizer.token_to_id(token).is_none() {
            let mut names: Vec<String> =
                tokenizer.get_added_tokens_decoder().into_values().map(|token| token.content).collect();
            names.sort();
            wrong(
                Kind::WrongValue,
                key,
                format!("`{token}`"),
                format!("wanted: a token of {path}, such as {}", names.join(", ")),
            );
        }
    }
}
