//! The files that a dataflow file names.

use std::path::{Path, PathBuf};

use difflow_corpus::source;
use difflow_eval::{EvalError, Places};
use difflow_tables::{Address, files};
use difflow_text::read_tokenizer;
use difflow_tokenizer::special_tokens::SpecialTokens;

use crate::dataflow::{File, Finding, Kind, Settings};
use crate::validate::keys::Node;

/// Checks programs, tokenizers, models, documents and gaps.
pub fn check(file: &File, nodes: &[Node], findings: &mut Vec<Finding>) {
    for node in &file.nodes {
        let Some((path, at)) = &node.path else { continue };
        let special = ["shell", "dynamic"].contains(&path.as_str()) || path.starts_with("http");
        if !special && !is_program(path) {
            let allowed = "no such program; `make build` puts difflow's into bin/, which `difflow init` links to";
            let found = format!("`{path}`");
            findings.push(Finding::error(Kind::MissingFile, *at, format!("{}.path", node.id), found, allowed));
        }
    }
    for node in nodes {
        if let Settings::Corpus(config) = &node.settings {
            sources(node, "SOURCES", &config.sources, findings);
            let heldout = config.heldout.as_ref().map(|path| serde_json::json!([{"path": path}]).to_string());
            heldout.into_iter().for_each(|list| sources(node, "HELDOUT", &list, findings));
        }
        for (key, path) in named(node) {
            if let Some(id) = hub_id(key, &path) {
                if difflow_hub::cached_folder(&id).is_none() {
                    let found = format!("`{id}`, which is no path here");
                    let allowed = "it is taken for a model on the hub and fetched when the run starts";
                    let finding = Finding::error(Kind::MissingFile, node.place(key), node.subject(key), found, allowed);
                    findings.push(finding.warning());
                }
            } else if !path.is_file() {
                let found = format!("`{}`", path.display());
                let address = path.to_str().is_some_and(|path| Address::parse(path).is_some());
                let allowed = match (address, key) {
                    (true, "HELDOUT") => {
                        "wanted: a file; give the address to the corpus alone (corpus.HELDOUT), which hands it on"
                    }
                    _ => "no such file; paths are relative to the dataflow file",
                };
                findings.push(Finding::error(Kind::MissingFile, node.place(key), node.subject(key), found, allowed));
            }
        }
        match &node.settings {
            Settings::Tokenizer(config) => special_tokens(node, config, findings),
            Settings::Evaluator(config) => tasks(node, &config.task_names(), findings),
            _ => {}
        }
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
fn named(node: &Node) -> Vec<(&'static str, PathBuf)> {
    let model = |path: &str| ("BASE_MODEL", Path::new(path).join("config.json"));
    match &node.settings {
        Settings::Tokenizer(c) => {
            let own = c.tokenizer.as_ref().map(|path| ("TOKENIZER", PathBuf::from(path)));
            let template = c.chat_template_file().map(|path| ("CHAT_TEMPLATE", path));
            own.into_iter().chain(template).chain([model(&c.base_model)]).collect()
        }
        Settings::Trainer(c) => vec![model(&c.base_model)],
        Settings::Sampler(_) | Settings::Evaluator(_) => {
            let values = node.values();
            let set = |key: &'static str| {
                let path = values.get(key)?.as_str().filter(|path| !path.is_empty())?;
                Some((key, PathBuf::from(path)))
            };
            ["HELDOUT", "INFILL"].into_iter().filter_map(set).collect()
        }
        _ => Vec::new(),
    }
}

fn sources(node: &Node, key: &str, text: &str, findings: &mut Vec<Finding>) {
    // What cannot be read is said with the keys. A server is asked when the run starts, as the hub is.
    let here = |source: &source::Source| Address::parse(&source.path).is_none();
    for source in source::parse(text).unwrap_or_default().into_iter().filter(here) {
        if let Err(problem) = files::find(&source.path, source.format) {
            let found = format!("`{}`", problem.found);
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

/// Task files must be there and say something.
fn tasks(node: &Node, names: &[String], findings: &mut Vec<Finding>) {
    let Err(problem) = Places::near().tasks(names) else { return };
    let (found, allowed) = match problem {
        EvalError::Task { task, key: "name", allowed, .. } => (format!("`{task}`"), allowed),
        other => (other.to_string(), "docs/EVALUATION.md lists the keys".to_owned()),
    };
    findings.push(Finding::error(Kind::WrongValue, node.place("TASKS"), node.subject("TASKS"), found, allowed));
}

/// The tokens that begin and end a document must be the tokenizer's.
fn special_tokens(node: &Node, config: &difflow_tokenizer::config::Config, findings: &mut Vec<Finding>) {
    let path = config.tokenizer_file();
    // A model on the hub, or one that is said to be missing above.
    if !path.is_file() && (config.tokenizer.is_some() || !Path::new(&config.base_model).is_dir()) {
        return;
    }
    let mut wrong = |key: &str, found: String, allowed: String| {
        findings.push(Finding::error(Kind::WrongValue, node.place(key), node.subject(key), found, allowed));
    };
    match read_tokenizer(&path) {
        Err(_) => wrong(
            "TOKENIZER",
            format!("`{}`", path.display()),
            "wanted: a tokenizer.json of Hugging Face tokenizers".into(),
        ),
        Ok(tokenizer) => {
            for problem in SpecialTokens::find(config, &tokenizer).err().into_iter().flatten() {
                wrong(&problem.key, format!("`{}`", problem.found), problem.allowed);
            }
        }
    }
}
