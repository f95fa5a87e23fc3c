//! Drops or repeats documents selected by a predicate.

use difflow_diffusion::keyed;
use difflow_plugin_sdk::batch::{Field, Kind};
use difflow_plugin_sdk::{Batch, BatchTransform, Component, Error, config};

use crate::span_mask::needs;

config! {
    pub struct DocumentsOptions {
        /// Chooses documents that contain this text; empty chooses all.
        contains: String = "";
        /// Chooses documents of at least so many characters.
        min_characters: u64 = 0;
        /// Chooses documents of at most so many characters; 0 sets no limit.
        max_characters: u64 = 0;
        /// How often a chosen document comes: 0 drops it, 2 doubles it, 1.5 repeats every other one (drawn by seed).
        chosen: f64 = 1.0, minimum 0.0, maximum 100.0;
        /// How often the other documents come.
        others: f64 = 1.0, minimum 0.0, maximum 100.0;
    }
}

/// A filter and a weight.
pub struct Documents(DocumentsOptions);

impl Component for Documents {
    type Config = DocumentsOptions;

    fn create(options: DocumentsOptions) -> Result<Self, Error> {
        if options.chosen == 0.0 && options.others == 0.0 {
            return Err(Error::config("/others", "chosen and others are both 0: no document would be left"));
        }
        Ok(Self(options))
    }
}

impl BatchTransform for Documents {
    fn accepts(&self, fields: &[Field]) -> Result<(), Error> {
        needs(fields, &[("doc", Kind::U64), ("text", Kind::Text)])
    }

    fn process(&mut self, _: u64, seed: u64, batch: Batch) -> Result<Batch, Error> {
        let missing = || Error::incompatible("the batch has no columns `doc` and `text`");
        let (docs, texts) = (batch.u64("doc").ok_or_else(missing)?, batch.text("text").ok_or_else(missing)?);
        let copies = |row: usize| {
            let times = if self.chooses(&texts[row]) { self.0.chosen } else { self.0.others };
            // The fraction by the document's own number, so that it does not depend on how documents are batched.
            let more = keyed::uniform(&mut keyed::rng(seed, "documents", docs[row], 0)) < times.fract();
            times as usize + usize::from(more)
        };
        let which: Vec<usize> = (0..batch.rows).flat_map(|row| std::iter::repeat_n(row, copies(row))).collect();
        Ok(batch.pick(&which))
    }
}

impl Documents {
    fn chooses(&self, text: &str) -> bool {
        let DocumentsOptions { contains, min_characters, max_characters, .. } = &self.0;
        let characters = text.chars().count() as u64;
        text.contains(contains.as_str())
            && characters >= *min_characters
            && (*max_characters == 0 || characters <= *max_characters)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use difflow_plugin_sdk::Column;

    use super::*;

    fn batch(texts: &[&str]) -> Batch {
        let texts: Vec<String> = texts.iter().map(|&text| text.to_owned()).collect();
        let docs = (0..texts.len() as u64).collect();
        Batch {
            rows: texts.len(),
            columns: vec![("doc".into(), Column::U64(docs)), ("text".into(), Column::Text(texts))],
        }
    }

    fn left(options: &str, texts: &[&str]) -> Vec<u64> {
        let options = difflow_plugin_sdk::config::parse(options).unwrap();
        let batch = Documents::create(options).unwrap().process(0, 1, batch(texts)).unwrap();
        assert_eq!(batch.rows, batch.u64("doc").unwrap().len());
        batch.u64("doc").unwrap().clone()
    }

    #[test]
    fn documents_are_dropped_and_repeated_by_the_predicate() {
        let texts = ["a cat", "a dog", "two cats and a dog"];
        assert_eq!(left(r#"{"contains": "cat", "others": 0}"#, &texts), [0, 2]);
        assert_eq!(left(r#"{"contains": "cat", "chosen": 0}"#, &texts), [1]);
        assert_eq!(left(r#"{"min_characters": 6, "chosen": 3}"#, &texts), [0, 1, 2, 2, 2]);
        assert_eq!(left(r#"{"max_characters": 5, "others": 0}"#, &texts), [0, 1]);
    }

    #[test]
    fn a_fraction_repeats_that_share() {
        let texts = ["x"; 4000];
        let count = left(r#"{"chosen": 1.5}"#, &texts).len();
        assert!((5850..6150).contains(&count), "{count}");
    }
}
