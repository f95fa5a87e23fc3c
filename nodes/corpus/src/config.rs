//! The keys of the corpus node.

use difflow_node_kit::{Problem, RunKeys};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::source;

/// Which documents there are, and in which order.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE", default)]
pub struct Config {
    #[serde(flatten)]
    pub run: RunKeys,
    /// Where the documents come from: a JSON list of objects with `path` (a file, a folder or a pattern such as `data/*.jsonl`),
    /// and optionally `name` (of its SQL table; default `source1`, `source2`, …), `format` (parquet, jsonl, csv or text;
    /// default by the file's extension) and `weight` (default 1): with several sources, each next document comes from a source
    /// drawn in proportion to the weights, until every source ended.
    pub sources: String,
    /// The column that holds the text. NULL and empty texts are no documents.
    pub text_column: String,
    /// A query that gives the column TEXT_COLUMN. A query over the table `source` is run for each source in turn and the
    /// results are mixed by weight; a query over the sources' names is run once, and its order is the order of the corpus.
    /// Default: all rows of every source. (`SELECT text FROM source WHERE length(text) > 200`)
    pub sql: Option<String>,
    /// For text files: what stands between two documents in a file, for example `<|endoftext|>`; white space around a document
    /// is then cut off. Default: every file is one document.
    pub text_separator: Option<String>,
    /// Held-out documents of your own, for the evaluator: a file, folder or pattern as in SOURCES, with the same TEXT_COLUMN. Empty:
    /// HELDOUT_DOCUMENTS are split off the corpus.
    #[schemars(extend("x-may-change" = true))]
    pub heldout: Option<String>,
    /// Documents that are split off the corpus and left out of training where HELDOUT gives none: at most this many, and of a small
    /// corpus about one in twenty. Which ones depends on their texts, not on SEED, so that runs on the same corpus are scored alike.
    /// 0: none.
    pub heldout_documents: u64,
    /// Documents that are sent at once.
    #[schemars(range(min = 1, max = 1_000_000), extend("x-may-change" = true))]
    pub documents_per_batch: u64,
    /// Batch transforms on the documents, in order: a JSON list of components, each a text or an object with `use` and `config`, such
    /// as `[{"use": "builtin:documents", "config": {"min_characters": 200, "others": 0}}]`. Empty for none.
    pub transforms: String,
    /// Seed of the run: the same seed gives the same mixture of the sources.
    pub seed: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            run: RunKeys::default(),
            sources: r#"[{"path":"data/tiny/train.parquet"}]"#.into(),
            text_column: "text".into(),
            sql: None,
            text_separator: None,
            heldout: None,
            heldout_documents: 128,
            documents_per_batch: 512,
            transforms: String::new(),
            seed: 0,
        }
    }
}

impl difflow_node_kit::Config for Config {
    fn run(&self) -> &RunKeys {
        &self.run
    }

    fn validate(&self) -> Vec<Problem> {
        let mut problems = source::parse(&self.sources).err().map(|p| p.0).unwrap_or_default();
        if self.text_column.is_empty() {
            problems.push(Problem::new("TEXT_COLUMN", "", "wanted: the name of a column"));
        }
        problems
    }
}
