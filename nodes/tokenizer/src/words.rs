//! The tokenizer file: texts to token ids.

use std::path::Path;

use difflow_node_kit::{Problem, Problems};
use difflow_text::read_tokenizer;
use eyre::{Result, eyre};
use tokenizers::Tokenizer;

use crate::config::Config;

/// A tokenizer with its two special tokens.
pub struct Words {
    tokenizer: Tokenizer,
    /// Begins a document.
    pub bos: u32,
    /// Ends a document.
    pub eos: u32,
}

impl Words {
    /// Reads TOKENIZER and compares it with BASE_MODEL.
    ///
    /// # Errors
    /// What is wrong with TOKENIZER, BOS_TOKEN, EOS_TOKEN or BASE_MODEL.
    pub fn open(config: &Config) -> Result<Self, Problems> {
        let tokenizer = read_tokenizer(Path::new(&config.tokenizer)).map_err(|e| {
            Problem::new(
                "TOKENIZER",
                &config.tokenizer,
                format!("{e}; wanted: a tokenizer.json of Hugging Face tokenizers"),
            )
        })?;
        let mut problems = Vec::new();
        let mut special = |key: &str, name: &str| {
            let id = tokenizer.token_to_id(name);
            if id.is_none() {
                problems.push(Problem::new(key, name, format!("no such token; {}", special_tokens(&tokenizer))));
            }
            id.unwrap_or_default()
        };
        let (bos, eos) = (special("BOS_TOKEN", &config.bos_token), special("EOS_TOKEN", &config.eos_token));
        let largest = tokenizer.get_vocab(true).into_values().max().unwrap_or_default();
        problems.extend(fit(&config.base_model, &config.tokenizer, largest).err());
        Problems(problems).into_result()?;
        Ok(Self { tokenizer, bos, eos })
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

fn special_tokens(tokenizer: &Tokenizer) -> String {
    let added = tokenizer.get_added_tokens_decoder();
    let mut names: Vec<(&u32, &str)> = added.iter().map(|(id, token)| (id, token.content.as_str())).collect();
    names.sort_unstable();
    let names: Vec<&str> = names.into_iter().map(|(_, name)| name).collect();
    format!("the tokenizer's special tokens: {}", names.join(", "))
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
        std::fs::write(dir.join("config.json"), serde_json::json!({"vocab_size": rows}).to_string()).unwrap();
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        Config { tokenizer: text(&path), base_model: text(dir), ..Config::default() }
    }

    #[test]
    fn a_document_is_encoded_whole_and_cannot_forge_special_tokens() {
        let dir = tempfile::tempdir().unwrap();
        let words = Words::open(&world(dir.path(), 29)).unwrap();
        assert_eq!((words.bos, words.eos), (0, 1));
        let ids = words.encode(vec!["a b c d".into(), String::new(), "a <eos> b".into()]).unwrap();
        assert_eq!(ids[..2], [vec![3, 4, 5, 6], vec![]]);
        assert!(!ids[2].contains(&1), "{:?}", ids[2]);
    }

    /// `tokenizers` panics on some files that break off; the node ended with a panic and not with exit code 78.
    #[test]
    fn a_tokenizer_file_that_breaks_off_is_refused_wherever_it_does() {
        let dir = tempfile::tempdir().unwrap();
        let config = world(dir.path(), 29);
        let mut whole: serde_json::Value = serde_json::from_slice(&std::fs::read(&config.tokenizer).unwrap()).unwrap();
        whole["decoder"] = serde_json::json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
        let whole = whole.to_string();
        for end in 0..whole.len() {
            std::fs::write(&config.tokenizer, &whole[..end]).unwrap();
            let text = Words::open(&config).err().unwrap().to_string();
            assert!(text.starts_with("TOKENIZER: found"), "cut at {end}: {text}");
        }
    }

    #[test]
    fn a_tokenizer_that_does_not_fit_is_refused_with_every_reason() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config { bos_token: "<s>".into(), eos_token: "</s>".into(), ..world(dir.path(), 28) };
        let text = Words::open(&config).err().unwrap().to_string();
        for part in
            ["BOS_TOKEN: found `<s>`", "EOS_TOKEN: found `</s>`", "tokens: <bos>, <eos>", "28 rows", "ids up to 28"]
        {
            assert!(text.contains(part), "{part} not in {text}");
        }
        let missing = Config { tokenizer: "nowhere.json".into(), ..config.clone() };
        assert!(Words::open(&missing).err().unwrap().to_string().starts_with("TOKENIZER: found `nowhere.json`"));
        let no_model = Config { base_model: "nowhere".into(), ..world(dir.path(), 29) };
        assert!(Words::open(&no_model).err().unwrap().to_string().starts_with("BASE_MODEL: found `nowhere`"));
    }
}
