//! Text to token ids and back.

use difflow_model::Model;
use difflow_node_kit::{Problem, Problems};
use eyre::{Result, eyre};
use tokenizers::Tokenizer;

/// A tokenizer with its two special tokens.
pub struct Words {
    tokenizer: Tokenizer,
    path: String,
    /// Begins a document.
    pub bos: u32,
    /// Ends a document.
    pub eos: u32,
}

impl Words {
    /// Reads a tokenizer.json.
    ///
    /// # Errors
    /// [`Problems`] with the keys TOKENIZER, BOS_TOKEN and EOS_TOKEN.
    pub fn open(path: &str, bos: &str, eos: &str) -> Result<Self, Problems> {
        let tokenizer = Tokenizer::from_file(path)
            .map_err(|e| Problem::new("TOKENIZER", path, format!("not a readable tokenizer.json: {e}")))?;
        let mut problems = Vec::new();
        let mut special = |key: &str, name: &str| {
            tokenizer.token_to_id(name).unwrap_or_else(|| {
                problems.push(Problem::new(key, name, format!("allowed: a token that is in {path}")));
                0
            })
        };
        let (bos, eos) = (special("BOS_TOKEN", bos), special("EOS_TOKEN", eos));
        Problems(problems).into_result()?;
        Ok(Self { tokenizer, path: path.to_owned(), bos, eos })
    }

    /// Fails when the model has no row for some token of the tokenizer.
    ///
    /// # Errors
    /// [`Problems`] with the key TOKENIZER.
    pub fn fit(&self, model: &Model) -> Result<(), Problems> {
        let rows = model.config().vocab_size;
        let largest = self.tokenizer.get_vocab(true).into_values().max().unwrap_or(0) as usize;
        if largest < rows {
            return Ok(());
        }
        let allowed =
            format!("its ids go up to {largest}, the model has {rows} rows; give the model's own tokenizer.json");
        Err(Problem::new("TOKENIZER", &self.path, allowed).into())
    }

    /// Token ids of a piece of text, without special tokens.
    ///
    /// # Errors
    /// When the tokenizer cannot read the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.tokenizer.encode(text, false).map_err(|e| eyre!("cannot tokenize a text: {e}"))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of token ids; special tokens are shown by name.
    ///
    /// # Errors
    /// When the tokenizer cannot decode the ids.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.tokenizer.decode(ids, false).map_err(|e| eyre!("cannot turn tokens into text: {e}"))
    }
}
