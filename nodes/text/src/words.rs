//! Text to token ids and back.

use std::path::{Path, PathBuf};

use tokenizers::Tokenizer;

use crate::chat::ChatWords;
use crate::error::TextError;

/// A tokenizer with its two special tokens.
#[derive(Clone)]
pub struct Words {
    tokenizer: Tokenizer,
    path: PathBuf,
    /// Begins a document.
    pub bos: u32,
    /// Ends a document; it may be the same.
    pub eos: u32,
}

impl Words {
    /// Reads the tokenizer.json at `path`; `bos` begins a document and `eos` ends it. Errors if the file is none.
    pub fn open(path: &Path, bos: u32, eos: u32) -> Result<Self, TextError> {
        let tokenizer =
            read_tokenizer(path).map_err(|reason| TextError::Tokenizer { path: path.to_owned(), reason })?;
        Ok(Self { tokenizer, path: path.to_owned(), bos, eos })
    }

    /// Errors if a model of `rows` vocabulary rows has none for some token of the tokenizer. The token `except` (the mask token of a
    /// checkpoint, beside the base model that it was made from) needs no row.
    pub fn fit(&self, rows: usize, except: Option<u32>) -> Result<(), TextError> {
        let ids = self.tokenizer.get_vocab(true).into_values().filter(|id| Some(*id) != except);
        let largest = ids.max().unwrap_or(0) as usize;
        if largest < rows {
            return Ok(());
        }
        Err(TextError::Rows { path: self.path.clone(), largest, rows })
    }

    /// Errors if a token of `other` has another id here: ids of the one would be other texts in the other. A token that only one of
    /// them has (a mask token) is none of the model's business.
    pub fn agree(&self, other: &Self) -> Result<(), TextError> {
        let mine = self.tokenizer.get_vocab(true);
        let differs = |(token, id): &(String, u32)| mine.get(token).is_some_and(|own| own != id);
        match other.tokenizer.get_vocab(true).into_iter().filter(differs).min() {
            None => Ok(()),
            Some((token, _)) => Err(TextError::Differ { path: self.path.clone(), other: other.path.clone(), token }),
        }
    }

    /// The tokenizer as it reads the texts of conversations.
    pub fn for_chat(&self) -> ChatWords {
        ChatWords::new(&self.tokenizer, self.bos, self.eos)
    }

    /// The name of a token; `None` if there is none.
    pub fn name(&self, id: u32) -> Option<String> {
        self.tokenizer.id_to_token(id)
    }

    /// The id of a token by its name; `None` if there is none.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.tokenizer.token_to_id(token)
    }

    /// Returns the token ids of a piece of text, whole and without special tokens. Errors if the tokenizer cannot read the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TextError> {
        let encoding = self.tokenizer.encode(text, false).map_err(|e| TextError::Encode(e.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Returns the special tokens that the tokenizer's own file puts before a text (LLaMA's: BOS; GPT-2's: none). Errors if the tokenizer
    /// cannot read a text.
    pub fn own_start(&self) -> Result<Vec<u32>, TextError> {
        let encoding = self.tokenizer.encode("a", true).map_err(|e| TextError::Encode(e.to_string()))?;
        let special = encoding.get_special_tokens_mask().iter().take_while(|&&special| special == 1).count();
        Ok(encoding.get_ids()[..special].to_vec())
    }

    /// Returns the token ids of a piece of text that stands behind others: some tokenizers (LLaMA 2) put a space before whatever they
    /// are given. Errors if the tokenizer cannot read the text.
    pub fn encode_inner(&self, text: &str) -> Result<Vec<u32>, TextError> {
        let (head, whole) = (self.encode(BEFORE)?, self.encode(&format!("{BEFORE}{text}"))?);
        match whole.strip_prefix(&head[..]) {
            Some(inner) => Ok(inner.to_vec()),
            // The tokenizer joins the two; then it is no such tokenizer.
            None => self.encode(text),
        }
    }

    /// Returns the text of token ids that stand behind others, so that it keeps the space that it may begin with. Errors if the
    /// tokenizer cannot decode the ids.
    pub fn decode_inner(&self, ids: &[u32]) -> Result<String, TextError> {
        let head = self.encode(BEFORE)?;
        let (before, whole) = (self.decode(&head)?, self.decode(&[&head[..], ids].concat())?);
        Ok(whole.strip_prefix(&before).unwrap_or(&whole).to_owned())
    }

    /// Returns the text of token ids; special tokens are shown by name. Errors if the tokenizer cannot decode the ids.
    pub fn decode(&self, ids: &[u32]) -> Result<String, TextError> {
        self.tokenizer.decode(ids, false).map_err(|e| TextError::Decode(e.to_string()))
    }
}

/// What [`Words::encode_inner`] and [`Words::decode_inner`] put before a piece: no tokenizer at hand joins it with a word.
const BEFORE: &str = "\n";

/// Reads a tokenizer.json as every part of difflow uses it: what the file says of truncation and padding is for other programs (a
/// text is wanted whole and alone), and a text that contains `<eos>` means these letters, so that it cannot end itself. Errors with
/// the reason if the file cannot be read, whatever is in it.
pub fn read_tokenizer(path: &Path) -> Result<Tokenizer, String> {
    let bytes = std::fs::read(path).map_err(|e| e.to_string())?;
    // `tokenizers` panics where the JSON of a decoder breaks off.
    serde_json::from_slice::<serde_json::Value>(&bytes).map_err(|e| e.to_string())?;
    let mut tokenizer = Tokenizer::from_bytes(bytes).map_err(|e| e.to_string())?;
    tokenizer.with_padding(None).with_truncation(None).map_err(|e| e.to_string())?;
    tokenizer.set_encode_special_tokens(true);
    Ok(tokenizer)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    /// One token a letter; `<eos>` is a special token.
    fn words(change: impl FnOnce(&mut serde_json::Value)) -> Words {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokenizer.json");
        let mut vocab = json!({"<bos>": 0, "<eos>": 1, "?": 2});
        for (id, letter) in (3..).zip("abcdeos<>".chars()) {
            vocab[letter.to_string()] = id.into();
        }
        let special = json!({"id": 1, "content": "<eos>", "single_word": false, "lstrip": false, "rstrip": false,
                             "normalized": false, "special": true});
        let mut tokenizer = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [special], "normalizer": null,
            "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "[\\s\\S]"}, "behavior": "Isolated", "invert": false},
            "post_processor": null, "decoder": {"type": "Fuse"},
            "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "?"}
        });
        change(&mut tokenizer);
        std::fs::write(&path, tokenizer.to_string()).unwrap();
        Words::open(&path, 0, 1).unwrap()
    }

    /// Evaluator, sampler and `difflow score` obeyed both: documents were scored cut, or with padding behind them.
    #[test]
    fn truncation_and_padding_of_the_file_cut_and_pad_no_text() {
        let words = words(|tokenizer| {
            let truncation = json!({"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0});
            let padding = json!({"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 1,
                                 "pad_type_id": 0, "pad_token": "<eos>"});
            (tokenizer["truncation"], tokenizer["padding"]) = (truncation, padding);
        });
        assert_eq!(words.encode("abcd").unwrap(), [3, 4, 5, 6]);
        assert_eq!(words.encode_inner("a").unwrap(), [3]);
    }

    #[test]
    fn tokenizers_whose_ids_differ_are_told_apart_and_a_mask_token_makes_no_difference() {
        let plain = words(|_| ());
        let masked = words(|tokenizer| tokenizer["model"]["vocab"]["<mask>"] = 12.into());
        assert!(masked.agree(&plain).is_ok() && plain.agree(&masked).is_ok());
        let other = words(|tokenizer| {
            let vocab = &mut tokenizer["model"]["vocab"];
            (vocab["a"], vocab["b"]) = (4.into(), 3.into());
        });
        assert!(other.agree(&plain).unwrap_err().to_string().contains("`a`"));
        assert!(masked.fit(12, None).is_err() && masked.fit(12, Some(12)).is_ok());
    }

    #[test]
    fn the_file_says_what_stands_before_a_text() {
        assert!(words(|_| ()).own_start().unwrap().is_empty());
        let led = words(|tokenizer| {
            tokenizer["post_processor"] = json!({
                "type": "TemplateProcessing", "pair": [],
                "single": [{"SpecialToken": {"id": "<bos>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                "special_tokens": {"<bos>": {"id": "<bos>", "ids": [0], "tokens": ["<bos>"]}}
            });
        });
        assert_eq!((led.own_start().unwrap(), led.encode("a").unwrap()), (vec![0], vec![3]));
    }

    /// A prompt that spells a special token must not be able to end the text.
    #[test]
    fn a_special_tokens_name_in_a_text_is_letters() {
        let words = words(|_| ());
        let ids = words.encode("a<eos>b").unwrap();
        assert!(!ids.contains(&words.eos), "{ids:?}");
        assert_eq!(words.decode(&ids).unwrap(), "a<eos>b");
    }

    /// The tokenizers of LLaMA 2 put a space before any text; behind a gap that would be a second one.
    #[test]
    fn pieces_behind_others_are_read_and_written_as_in_the_whole_text() {
        let Some(data) = difflow_tests::real_data("a LLaMA 2 and a GPT-2 tokenizer") else { return };
        for path in ["models/stories260K/tokenizer.json", "tokenizers/gpt2/tokenizer.json"] {
            let words = Words::open(&data.join(path), 1, 2).unwrap();
            let (left, right) = ("Once upon a time", " there was a cat.");
            let whole = words.encode(&format!("{left}{right}")).unwrap();
            let (head, tail) = (words.encode(left).unwrap(), words.encode_inner(right).unwrap());
            assert_eq!([head, tail.clone()].concat(), whole, "{path}");
            assert_eq!(words.decode_inner(&tail).unwrap(), right, "{path}");
        }
    }

    #[test]
    fn a_model_with_too_few_rows_is_refused() {
        let words = words(|_| ());
        assert!(words.fit(12, None).is_ok());
        assert!(words.fit(11, None).unwrap_err().to_string().contains("11 rows"));
    }

    /// A tokenizer.json is somebody else's file: whatever stands in it, it is read or refused.
    #[test]
    fn no_tokenizer_file_makes_the_reader_panic() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokenizer.json");
        let special = json!({"id": 0, "content": "<eos>", "single_word": false, "lstrip": false, "rstrip": false,
                             "normalized": false, "special": true});
        let good = json!({
            "version": "1.0", "truncation": {"max_length": 8, "stride": 0, "strategy": "LongestFirst", "direction": "Right"},
            "padding": {"strategy": {"Fixed": 4}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "<eos>"},
            "added_tokens": [special], "normalizer": {"type": "NFC"},
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
            "post_processor": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true},
            "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
            "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                      "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                      "vocab": {"<eos>": 0, "a": 1, "b": 2, "ab": 3}, "merges": ["a b"]}
        })
        .to_string()
        .into_bytes();
        let mut state = 7u64;
        let mut below = |n: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % n
        };
        let pieces = ["null", "-1", "18446744073709551615", "\"\"", "[]", "{}", "1e999", "true", "\"[\"", "4294967295"];
        let mut read = 0;
        for _ in 0..2000 {
            let mut bytes = good.clone();
            for _ in 0..1 + below(3) {
                let at = below(bytes.len());
                match below(4) {
                    0 => bytes[at] = below(256) as u8,
                    1 => bytes.truncate(at),
                    2 => drop(bytes.drain(at..(at + 1 + below(9)).min(bytes.len()))),
                    _ => drop(bytes.splice(at..at, pieces[below(pieces.len())].bytes())),
                }
                if bytes.is_empty() {
                    break;
                }
            }
            std::fs::write(&path, &bytes).unwrap();
            if let Ok(words) = Words::open(&path, 0, 0) {
                read += 1;
                _ = words.encode("ab a<eos>").and_then(|ids| words.decode(&ids));
            }
        }
        assert!(read > 0, "nothing was read: the good file is none");
    }
}
