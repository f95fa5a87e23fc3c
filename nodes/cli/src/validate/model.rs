//! Rules between the keys and the base model's configuration.

use std::path::Path;

use difflow_model::{ModelConfig, Positions};

use crate::dataflow::{Finding, Kind, Settings};
use crate::validate::keys::Node;

/// Checks sequence lengths and the mask token against BASE_MODEL's config.json.
pub fn check(nodes: &[Node], findings: &mut Vec<Finding>) {
    let trainer = nodes.iter().find_map(|node| match &node.settings {
        Settings::Trainer(config) => Some((node, config)),
        _ => None,
    });
    let Some((node, config)) = trainer else { return };
    let folder = Path::new(&config.base_model);
    // Recipes and torch models spell the configuration in their own way; a file that is not there is said elsewhere.
    if !config.model_recipe.is_empty() || !config.torch_model.is_empty() || !folder.join("config.json").is_file() {
        return;
    }
    let model = match ModelConfig::load(folder) {
        Ok(model) => model,
        Err(e) => {
            let (key, found) = ("BASE_MODEL", format!("`{}`", config.base_model));
            findings.push(Finding::error(Kind::WrongValue, node.place(key), node.subject(key), found, e.to_string()));
            return;
        }
    };
    let id: Option<usize> = config.mask_token.parse().ok();
    if let Some(id) = id.filter(|id| *id >= model.vocab_size) {
        let (key, found) = ("MASK_TOKEN", format!("token {id}"));
        let allowed = format!("allowed: preset, added, or an id below the {} of the vocabulary", model.vocab_size);
        findings.push(Finding::error(Kind::Contradiction, node.place(key), node.subject(key), found, allowed));
    }
    for node in nodes {
        let Settings::Tokenizer(tokenizer) = &node.settings else { continue };
        let length = tokenizer.sequence_length;
        let key = "SEQUENCE_LENGTH";
        if length > model.max_positions && node.read(key) {
            let found = format!("{length} tokens, for a model of {}", model.max_positions);
            let allowed = format!("wanted: at most {}", model.max_positions);
            let finding = Finding::error(Kind::Contradiction, node.place(key), node.subject(key), found, allowed);
            // Rotary positions go on for ever, if with less and less sense; a learned table ends.
            findings.push(if model.positions == Positions::Learned { finding } else { finding.warning() });
        }
    }
}
