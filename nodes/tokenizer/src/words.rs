//! The tokenizer file: texts to token ids.

use std::path::Path;

use difflow_node_kit::{Problem, Problems};
use difflow_text::{ChatWords, read_tokenizer};
use eyre::{Result, eyre};
use tokenizers::Tokenizer;

use crate::config::Config;
use crate::special_tokens::SpecialTokens;

/// A tokenizer with its two special tokens.
pub struct Words {
    tokenizer: Tokenizer,
    /// The same for conversations.
    pub chat: ChatWords,
    /// They begin and end a document.
    pub special: SpecialTokens,
}

impl Words {
    /// Reads TOKENIZER and compares it with BASE_MODEL.
    ///
    /// # Errors
    /// What is wrong with TOKENIZER, BOS_TOKEN, EOS_TOKEN or BASE_MODEL.
    pub fn open(config: &Config) -> Result<Self, Problems> {
        let path = config.tokenizer_file();
        let tokenizer = read_tokenizer(&path).map_err(|e| {
            let allowed = match &config.tokenizer {
                Some(_) => format!("{e}; wanted: a tokenizer.json of Hugging Face tokenizers"),
                None => format!("{e}; wanted: BASE_MODEL with a tokenizer.json of its own, or TOKENIZER to name one"),
            };
            Problem::new("TOKENIZER", path.display(), allowed)
        })?;
        let special = SpecialTokens::find(config, &tokenizer);
        let largest = tokenizer.get_vocab(true).into_values().max().unwrap_or_default();
        let fit = fit(&config.base_model, &path.display().to_string(), largest);
        match (special, fit) {
            (Ok(special), Ok(())) => {
                let chat = ChatWords::new(&tokenizer, special.bos, special.eos);
                Ok(Self { tokenizer, chat, special })
            }
            (special, fit) => Err(Problems(special.err().into_iter().flatten().chain(fit.err()).collect())),
        }
    }

    /// The token ids of each text, without special tokens.
    ///
    /// # Errors
    /// When the tokenizer refuses a text.
    pub fn encode(&self, texts: Vec<String>) -> Result<Vec<Vec<u32>>> {
        let encodings =
            self.tokenizer.encode_batch_fast(texts, false).map_err(|e| eyre!("the tokenizer failed: {e}"))?;
        Ok(encodings.iter().map(|encoding| encoding.get_ids().to_vec()).collect())
    }
}

impl Words {
    /// The token of an id, as it is written.
    pub fn name(&self, id: u32) -> Option<String> {
        self.tokenizer.id_to_token(id)
    }
}

/// Whether every token id has a row in the model's embedding.
fn fit(base_model: &str, tokenizer: &str, largest: u32) -> Result<(), Problem> {
    let problem = |allowed: String| Problem::new("BASE_MODEL", base_model, allowed);
    let path = Path::new(base_model).join("config.json");
    let text = std::fs::read(&path)
        .map_err(|e| problem(format!("{}: {e}; wanted: the folder of a Hugging Face model", path.display())))?;
    let json: serde_json::Value =
        serde_json::from_slice(&text).map_err(|e| problem(format!("{}: {e}", path.display())))?;
    let rows = json.get("vocab_size").and_then(serde_json::Value::as_u64);
    let rows = rows.ok_or_else(|| problem(format!("{} has no vocab_size", path.display())))?;
    if u64::from(largest) < rows {
        return Ok(());
    }
    let allowed =
        format!("{rows} rows in {}, ids up to {largest} in {tokenizer}; use the model's own tokenizer", path.display());
    Err(problem(allowed))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub mod tests {
    use super::*;

    /// A tokenizer of letters and a model's config.json in `dir`: ids 0 `<bos>`, 1 `<eos>`, 2 `<unk>`, then a, b, c …
    pub fn world(dir: &Path, rows: u64) -> Config {
        let mut vocabulary = serde_json::json!({"<bos>": 0, "<eos>": 1, "<unk>": 2});
        for (id, letter) in ('a'..='z').enumerate() {
            vocabulary[letter.to_string()] = (id + 3).into();
        }
        let special = |id: u32, content: &str| serde_json::json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true});
        let tokenizer = serde_json::json!({
            "version": "1.0",
            "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
            "padding": {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 1, "pad_type_id": 0, "pad_token": "<eos>"},
            "added_tokens": [special(0, "<bos>"), special(1, "<eos>")],
            "normalizer": null,
            "pre_tokenizer": {"type": "WhitespaceSplit"},
            "post_processor": null,
            "decoder": null,
            "model": {"type": "BPE", "vocab": vocabulary, "merges": [], "unk_token": "<unk>"},
        });
        let path = dir.join("tokenizer.json");
        std::fs::write(&path, tokenizer.to_string()).unwrap();
        std::fs::write(
            dir.join("config.json"),
            serde_json::json!({"vocab_size": rows, "bos_token_id": 0, "eos_token_id": 1}).to_string(),
        )
        .unwrap();
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        Config { tokenizer: Some(text(&path)), base_model: text(dir), ..Config::default() }
    }

    #[test]
    fn a_document_is_encoded_whole_and_cannot_forge_special_tokens() {
        let dir = tempfile::tempdir().unwrap();
        let words = Words::open(&world(dir.path(), 29)).unwrap();
        assert_eq!(words.special, SpecialTokens { bos: 0, eos: 1 });
        let ids = words.encode(vec!["a b c d".into(), String::new(), "a <eos> b".into()]).unwrap();
        assert_eq!(ids[..2], [vec![3, 4, 5, 6], vec![]]);
        assert!(!ids[2].contains(&1), "{:?}", ids[2]);
    }

    /// `tokenizers` panics on some files that break off; the node ended with a panic and not with exit code 78.
    #[test]
    fn a_tokenizer_file_that_breaks_off_is_refused_wherever_it_does() {
        let dir = tempfile::tempdir().unwrap();
        let config = world(dir.path(), 29);
        let path = config.tokenizer_file();
        let mut whole: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        whole["decoder"] =
            serde_json::json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
        let whole = whole.to_string();
        for end in 0..whole.len() {
            std::fs::write(&path, &whole[..end]).unwrap();
            let text = Words::open(&config).err().unwrap().to_string();
            assert!(text.starts_with("TOKENIZER: found"), "cut at {end}: {text}");
        }
    }

    #[test]
    fn a_tokenizer_that_does_not_fit_is_refused_with_every_reason() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config { bos_token: Some("<s>".into()), eos_token: Some("</s>".into()), ..world(dir.path(), 28) };
        let text = Words::open(&config).err().unwrap().to_string();
        for part in
            ["BOS_TOKEN: found `<s>`", "EOS_TOKEN: found `</s>`", "tokens: <bos>, <eos>", "28 rows", "ids up to 28"]
        {
            assert!(text.contains(part), "{part} not in {text}");
        }
        let missing = Config { tokenizer: Some("nowhere.json".into()), ..config.clone() };
        assert!(Words::open(&missing).err().unwrap().to_string().starts_with("TOKENIZER: found `nowhere.json`"));
        let none = Config { tokenizer: None, base_model: "nowhere".into(), ..config.clone() };
        let text = Words::open(&none).err().unwrap().to_string();
        assert!(text.contains("nowhere/tokenizer.json") && text.contains("TOKENIZER to name one"), "{text}");
        let no_model = Config { base_model: "nowhere".into(), ..world(dir.path(), 29) };
        assert!(Words::open(&no_model).err().unwrap().to_string().contains("BASE_MODEL: found `nowhere`"));
    }
}

#[cfg(test)]
#[path = "special_tokens_tests.rs"]
#[allow(clippy::unwrap_used)]
mod special_tokens_tests;
