//! What a checkpoint records about itself, so that its users need no other node's keys: `origin.json`, or, if an
//! older difflow wrote the checkpoint, the keys in `lineage.json`.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use difflow_schema::{Component, ExampleFacts, Origin};
use serde_json::{Map, Value};

use crate::error::InferenceError;

/// What is known about a model besides its configuration and weights; empty for a model that is not a checkpoint.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Facts {
    /// Folder (or hub id) of the base model.
    pub base_model: Option<String>,
    /// The recipe that the base model is read with.
    pub model_recipe: Option<Component>,
    /// The torch model that base model and checkpoint are read with.
    pub torch_model: Option<Component>,
    /// The token that begins a document.
    pub bos: Option<Token>,
    /// The token that ends a document.
    pub eos: Option<Token>,
    /// tokenizer.json, if there is none beside the weights.
    pub tokenizer: Option<PathBuf>,
    /// Tokens of a training row.
    pub sequence_length: Option<usize>,
    /// Optimizer steps of the run: the checkpoint after this many is the last.
    pub steps: Option<u64>,
    /// Entropy of the lengths of the training documents, in nats.
    pub length_entropy: Option<f64>,
    /// The sizes of blocks in training, as the noiser's key BLOCK_SIZE spells them.
    pub blocks: Option<String>,
    /// Tokens of the longest canvas of a document with an open end; `None` if every canvas ended with its text.
    pub canvas: Option<usize>,
    /// How conversations became rows; `None` where documents were none.
    pub examples: Option<ExampleFacts>,
}

/// A special token, as a file names it.
#[derive(Debug, Clone, PartialEq)]
pub enum Token {
    Id(u32),
    Name(String),
}

impl Facts {
    /// Returns what the files in `dir` record. Errors if one of them is damaged.
    pub fn read(dir: &Path) -> Result<Self, InferenceError> {
        let wrong = |name: &str, reason: String| InferenceError::Origin { path: dir.join(name), reason };
        let origin = Origin::read(dir).map_err(|e| wrong(difflow_schema::origin::ORIGIN, e.to_string()))?;
        if let Some(origin) = origin {
            return Ok(origin.into());
        }
        match fs::read(dir.join(LINEAGE)) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(Self::default()),
            bytes => {
                let bytes = bytes.map_err(|e| wrong(LINEAGE, e.to_string()))?;
                let lineage: Value = serde_json::from_slice(&bytes).map_err(|e| wrong(LINEAGE, e.to_string()))?;
                Ok(lineage.get("configuration").and_then(Value::as_object).map(Self::of_keys).unwrap_or_default())
            }
        }
    }

    /// Returns what the keys of a dataflow file say, as lineage.json has them: `KEY` for all nodes, `node.KEY` for one.
    fn of_keys(keys: &Map<String, Value>) -> Self {
        // A node's own key comes first; the ids of the nodes are the file's choice.
        let find = |key: &str| {
            let own = keys.iter().find(|(name, _)| name.strip_suffix(key).is_some_and(|node| node.ends_with('.')));
            own.map(|(_, value)| value).or_else(|| keys.get(key))
        };
        let text = |key: &str| {
            let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            find(key).map(plain).filter(|text| !text.is_empty())
        };
        let number = |key: &str| text(key).and_then(|text| text.parse().ok());
        let component = |key: &str| {
            let config = text(&format!("{key}_CONFIG")).unwrap_or_else(|| "{}".to_owned());
            text(key).map(|name| Component { name, config })
        };
        Self {
            base_model: text("BASE_MODEL"),
            model_recipe: component("MODEL_RECIPE"),
            torch_model: component("TORCH_MODEL"),
            bos: text("BOS_TOKEN").map(Token::Name),
            eos: text("EOS_TOKEN").map(Token::Name),
            tokenizer: text("TOKENIZER").map(PathBuf::from),
            sequence_length: number("SEQUENCE_LENGTH").map(|length| length as usize),
            steps: number("STEPS"),
            length_entropy: None,
            blocks: None,
            canvas: None,
            examples: None,
        }
    }
}

impl From<Origin> for Facts {
    fn from(origin: Origin) -> Self {
        Self {
            base_model: Some(origin.base_model.to_string_lossy().into_owned()),
            model_recipe: origin.model_recipe,
            torch_model: origin.torch_model,
            bos: Some(Token::Id(origin.bos)),
            eos: Some(Token::Id(origin.eos)),
            tokenizer: None,
            sequence_length: Some(origin.sequence_length),
            steps: Some(origin.steps),
            length_entropy: origin.length_entropy,
            blocks: origin.blocks,
            canvas: origin.canvas,
            examples: origin.examples,
        }
    }
}

/// What became of keys of sampler and evaluator that the checkpoint now records.
pub const IN_CHECKPOINT: &str = "the checkpoint has its own copy of it";

/// Returns [`IN_CHECKPOINT`] for a key that both sampler and evaluator once had.
pub fn in_checkpoint(key: &str) -> Option<&'static str> {
    let model = ["MODEL_RECIPE", "MODEL_RECIPE_CONFIG", "TORCH_MODEL", "TORCH_MODEL_CONFIG"];
    let words = ["TOKENIZER", "BOS_TOKEN", "EOS_TOKEN"];
    (model.contains(&key) || words.contains(&key)).then_some(IN_CHECKPOINT)
}

/// Its name in a checkpoint's folder.
const LINEAGE: &str = "lineage.json";

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Checkpoints of November 2026 have no origin.json.
    #[test]
    fn an_older_checkpoint_is_known_by_its_lineage() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Facts::read(dir.path()).unwrap(), Facts::default());
        let lineage = json!({"difflow": "0.1.0", "configuration": {
            "RUN": "old", "BASE_MODEL": "data/tiny/model", "STEPS": 600, "SEQUENCE_LENGTH": "384", "evaluator.TEXT_COLUMN": "text",
            "trainer.TORCH_MODEL": "libplain.so", "BOS_TOKEN": "<s>", "tokenizer.EOS_TOKEN": "</s>", "MODEL_RECIPE": ""}});
        std::fs::write(dir.path().join(LINEAGE), lineage.to_string()).unwrap();
        let facts = Facts::read(dir.path()).unwrap();
        assert_eq!((facts.steps, facts.sequence_length), (Some(600), Some(384)));
        assert_eq!(facts.base_model.as_deref(), Some("data/tiny/model"));
        assert_eq!(facts.torch_model.unwrap(), Component { name: "libplain.so".into(), config: "{}".into() });
        let name = |name: &str| Some(Token::Name(name.into()));
        assert_eq!((facts.bos, facts.eos, facts.model_recipe), (name("<s>"), name("</s>"), None));
        std::fs::write(dir.path().join(LINEAGE), "{").unwrap();
        assert!(Facts::read(dir.path()).unwrap_err().to_string().contains(LINEAGE));
    }

    #[test]
    fn origin_counts_before_lineage() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(LINEAGE), json!({"configuration": {"STEPS": 7}}).to_string()).unwrap();
        let origin = Origin {
            base_model: "/base".into(),
            model_recipe: None,
            torch_model: None,
            noise_schedule: Component { name: "clipped".into(), config: "{}".into() },
            blocks: None,
            tokenizer_sha256: String::new(),
            bos: 3,
            eos: 4,
            sequence_length: 12,
            steps: 9,
            length_entropy: Some(1.5),
            canvas: Some(11),
            examples: None,
        };
        std::fs::write(dir.path().join("origin.json"), serde_json::to_string(&origin).unwrap()).unwrap();
        let facts = Facts::read(dir.path()).unwrap();
        assert_eq!((facts.steps, facts.length_entropy, facts.eos), (Some(9), Some(1.5), Some(Token::Id(4))));
        assert_eq!(facts.canvas, Some(11));
    }
}
