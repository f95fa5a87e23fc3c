//! A row of the batch that the trainer is processing, as text.

use std::collections::HashMap;

use difflow_schema::Preview;
use serde::Serialize;

/// Token ids as text, each looked up once; none are known without a tokenizer.
#[derive(Default)]
pub struct Words {
    words: Option<difflow_text::Words>,
    known: HashMap<u32, String>,
}

/// A row on the page.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    step: u64,
    t: f64,
    weight: f64,
    masked_share: f64,
    /// Text, whether it is masked, whether it is a special token.
    tokens: Vec<(String, bool, bool)>,
}

impl Words {
    /// Reads tokenizer.json. Without a good one, which the tokenizer node complains about, tokens are shown by number.
    pub fn open(tokenizer: &str) -> Self {
        // Nothing is encoded here, so nothing begins or ends a document.
        Self { words: difflow_text::Words::open(std::path::Path::new(tokenizer), 0, 0).ok(), known: HashMap::new() }
    }

    /// The row of a preview.
    pub fn row(&mut self, preview: &Preview) -> Row {
        let Preview { step, t, weight, .. } = *preview;
        let masked = preview.masked.iter().filter(|&&masked| masked).count();
        let token = |(&id, &masked): (&u32, &bool)| {
            let text = self.text(id);
            let special = text.len() > 2 && text.starts_with('<') && text.ends_with('>');
            (text, masked, special)
        };
        let tokens: Vec<_> = preview.tokens.iter().zip(&preview.masked).map(token).collect();
        Row { step, t, weight, masked_share: masked as f64 / tokens.len().max(1) as f64, tokens }
    }

    fn text(&mut self, id: u32) -> String {
        let words = &self.words;
        let look_up = || words.as_ref().and_then(|words| words.decode_inner(&[id]).ok());
        self.known.entry(id).or_insert_with(|| look_up().unwrap_or_else(|| format!(" {id}"))).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_tokenizer_tokens_are_numbers() {
        let preview = Preview { tokens: vec![7, 8], masked: vec![false, true], ..Preview::default() };
        let row = Words::open("nowhere.json").row(&preview);
        assert_eq!(row.tokens, [(" 7".to_owned(), false, false), (" 8".to_owned(), true, false)]);
        assert_eq!(row.masked_share, 0.5);
    }

    #[test]
    fn tokens_keep_their_spaces_and_special_ones_are_told_apart() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../data/tiny/tokenizer.json");
        let Ok(known) = difflow_text::Words::open(path.as_ref(), 0, 1) else { panic!("{path} is no tokenizer") };
        let ids = [vec![known.bos], known.encode("Mia has two kites.").unwrap_or_default()].concat();
        let masked = vec![false; ids.len()];
        let row = Words::open(path).row(&Preview { tokens: ids, masked, ..Preview::default() });
        let text: String = row.tokens.iter().map(|(text, ..)| text.as_str()).collect();
        assert_eq!(text, "<bos>Mia has two kites.");
        let special: Vec<bool> = row.tokens.iter().map(|(.., special)| *special).collect();
        assert!(special[0] && !special[1..].contains(&true));
    }
}
