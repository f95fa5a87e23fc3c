//! The key of a token store: what its content depends on. The same key means the same tokens.

use difflow_schema::TokenizerFacts;
use difflow_schema::run::bytes_sha256;
use serde_json::{Value, json};

use crate::config::Config;
use crate::open_end::OpenEnd;

/// The key: sha256 of the tokenizer, this node's keys that shape rows, how conversations become rows (`examples`) where documents are
/// conversations, and the fingerprint of the documents. Returns `None` where the documents have no fingerprint: a program that is not
/// difflow's sent them, and nobody knows whether they are the same again.
pub fn store_key(
    config: &Config,
    tokenizer: &TokenizerFacts,
    examples: Option<&Value>,
    corpus: Option<&str>,
) -> Option<String> {
    let mut content = json!({
        "layout": 2,
        "tokenizer": tokenizer.sha256,
        "bos": tokenizer.bos,
        "eos": tokenizer.eos,
        "length": config.sequence_length,
        "packing": config.packing,
        "corpus": corpus?,
    });
    // Without open ends the key is that of the stores which were made before there were any.
    if let Some(canvas) = OpenEnd::new(config).canvas() {
        content["open_end"] = json!({"share": config.open_end, "canvas": canvas, "seed": config.seed});
    }
    if let Some(examples) = examples {
        content["examples"] = examples.clone();
    }
    Some(bytes_sha256(content.to_string().as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packing::Packing;

    /// What changes the tokens changes the key; what does not, does not. A store of another corpus served in silence would be the
    /// worst of errors.
    #[test]
    fn the_key_changes_with_everything_that_changes_the_tokens() {
        let config = Config::default();
        let tokenizer = TokenizerFacts {
            path: "a".into(),
            sha256: "1".into(),
            bos: 0,
            eos: 1,
            sequence_length: 8,
            length_entropy: None,
            canvas: None,
            examples: None,
        };
        let base = store_key(&config, &tokenizer, None, Some("c"));
        let moved = TokenizerFacts { path: "b".into(), length_entropy: Some(1.0), ..tokenizer.clone() };
        assert_eq!(base, store_key(&Config { seed: 5, micro_batch: 3, ..config.clone() }, &moved, None, Some("c")));
        let open = |open_end, canvas, seed| Config { open_end, canvas, seed, ..config.clone() };
        let mut keys = vec![
            base,
            store_key(&Config { sequence_length: 8, ..config.clone() }, &tokenizer, None, Some("c")),
            store_key(&Config { packing: Packing::Stream, ..config.clone() }, &tokenizer, None, Some("c")),
            store_key(&open(0.5, None, 0), &tokenizer, None, Some("c")),
            store_key(&open(0.25, None, 0), &tokenizer, None, Some("c")),
            store_key(&open(0.5, Some(64), 0), &tokenizer, None, Some("c")),
            store_key(&open(0.5, None, 1), &tokenizer, None, Some("c")),
            store_key(&config, &TokenizerFacts { bos: 1, ..tokenizer.clone() }, None, Some("c")),
            store_key(&config, &TokenizerFacts { eos: 0, ..tokenizer.clone() }, None, Some("c")),
            store_key(&config, &TokenizerFacts { sha256: "2".into(), ..tokenizer.clone() }, None, Some("c")),
            store_key(&config, &tokenizer, None, Some("d")),
            store_key(&config, &tokenizer, None, None),
            store_key(&config, &tokenizer, Some(&json!(["eos-once"])), Some("c")),
            store_key(&config, &tokenizer, Some(&json!(["eos-fill"])), Some("c")),
        ];
        let count = keys.len();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), count);
    }
}
