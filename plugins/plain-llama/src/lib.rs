//! A torch model as a plug-in: a LLaMA written in plain operations, with its own forward. It reads the same folders
//! as difflow's own LLaMA, so that the two can be compared.

mod forward;
mod weights;

use std::collections::BTreeMap;
use std::path::Path;

use difflow_plugin_sdk::{Component, Error, config, plugin};
use difflow_plugin_torch::tch::{Kind, Tensor};
use difflow_plugin_torch::{Result, Source, TorchModel, grown};
use serde_json::{Map, Value};

config! {
    pub struct Options {
        /// Tokens of a model with random weights. The sizes of one that is read are in its config.json.
        vocab_size: u64 = 32, minimum 2;
        /// Width of a model with random weights.
        hidden_size: u64 = 16, minimum 4;
        /// Blocks of a model with random weights.
        layers: u64 = 2, minimum 1;
        /// Attention heads of a model with random weights; they divide its width into even parts.
        heads: u64 = 2, minimum 1;
    }
}

pub struct PlainLlama {
    options: Options,
    /// config.json.
    config: Map<String, Value>,
    /// By the names of Hugging Face.
    weights: BTreeMap<String, Tensor>,
    /// Of matrix products and attention.
    kind: Kind,
}

impl Component for PlainLlama {
    type Config = Options;

    fn create(options: Options) -> std::result::Result<Self, Error> {
        if !options.hidden_size.is_multiple_of(2 * options.heads) {
            let found = format!("found {}; 2 · heads must divide hidden_size ({})", options.heads, options.hidden_size);
            return Err(Error::config("/heads", found));
        }
        Ok(Self { options, config: Map::new(), weights: BTreeMap::new(), kind: Kind::Float })
    }
}

impl TorchModel for PlainLlama {
    fn load(&mut self, source: &Source) -> Result<()> {
        self.kind = source.kind;
        match source.weights {
            Some(dir) => self.read(dir, source.device),
            None => self.random(source),
        }
    }

    fn parameters(&self) -> Vec<(&str, &Tensor)> {
        self.weights.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect()
    }

    fn forward(&mut self, input_ids: &Tensor, attn_bias: &Tensor, _train: bool) -> Result<Tensor> {
        self.logits(input_ids, attn_bias)
    }

    fn save(&self, dir: &Path) -> Result<()> {
        self.write(dir)
    }

    fn set_vocab_size(&mut self, size: i64) -> Result<()> {
        for name in ["model.embed_tokens.weight", "lm_head.weight"] {
            if let Some(rows) = self.weights.get_mut(name) {
                *rows = grown(rows, size)?;
            }
        }
        self.config.insert("vocab_size".into(), size.into());
        Ok(())
    }
}

plugin! {
    torch_model PlainLlama {
        id: "org.difflow.examples.plain-llama",
        name: "Plain LLaMA",
        vendor: "difflow",
        license: "Apache-2.0",
        description: "A LLaMA in plain torch operations, with its own forward pass"
    }
}
