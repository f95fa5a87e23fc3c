//! The keys of the corpus node.

use difflow_node_kit::{Problem, RunKeys};
use difflow_tables::Address;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::source;

/// Which documents there are, and in which order.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE", default)]
pub struct Config {
    #[serde(flatten)]
    pub run: RunKeys,
    /// Where the documents come from: a JSON list of objects with `path` (a file, a folder or a pattern such as `data/*.jsonl`; in an
    /// object store the same as `s3://bucket/data/*.jsonl` or `gs://…`; or one file as `https://…`, see docs/DATA.md),
    /// and optionally `name` (of its SQL table; default `source1`, `source2`, …), `format` (parquet, jsonl, csv or text;
    /// default by the file's extension) and `weight` (default 1): with several sources, each next document comes from a source
    /// drawn in proportion to the weights, until every source ended.
    pub sources: String,
    /// The column that holds the text. NULL and empty texts are no documents.
    pub text_column: String,
    /// The column that holds the prompt of a document, where documents have a prompt and a response: the response is learned, the prompt
    /// is never masked and carries no loss (docs/FINETUNING.md). Empty: documents are texts, or MESSAGES_COLUMN has them.
    pub prompt_column: Option<String>,
    /// The column that holds the response to PROMPT_COLUMN. An empty one is an error.
    pub response_column: String,
    /// The column that holds the messages of a document, where documents are conversations: a list of objects with `role` and `content`, or
    /// its JSON as a text. Only what the assistant says is learned. Empty: documents are texts, or PROMPT_COLUMN has them.
    pub messages_column: Option<String>,
    /// A query that gives the columns above. A query over the table `source` is run for each source in turn and the
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
            prompt_column: None,
            response_column: "response".into(),
            messages_column: None,
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
        if let Some(Err(problem)) = self.heldout.as_ref().and_then(|path| Address::parse(path)) {
            problems.push(Problem::new("HELDOUT", problem.found, problem.allowed));
        }
        if self.text_column.is_empty() {
            problems.push(Problem::new("TEXT_COLUMN", "", "wanted: the name of a column"));
        }
        if let (Some(_), Some(messages)) = (&self.prompt_column, &self.messages_column) {
            let allowed = "allowed: one of PROMPT_COLUMN and MESSAGES_COLUMN: a document has a prompt and a response, or messages";
            problems.push(Problem::new("MESSAGES_COLUMN", messages, allowed));
        }
        if self.prompt_column.is_some() && self.response_column.is_empty() {
            problems.push(Problem::new("RESPONSE_COLUMN", "", "wanted: the name of a column, beside PROMPT_COLUMN"));
        }
        problems
    }
}

/// The columns that make a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Columns {
    /// A text.
    Text(String),
    /// A prompt and its response.
    Exchange { prompt: String, response: String },
    /// Messages.
    Messages(String),
}

impl Config {
    /// Those that the keys name.
    pub fn columns(&self) -> Columns {
        match (&self.messages_column, &self.prompt_column) {
            (Some(messages), _) => Columns::Messages(messages.clone()),
            (None, Some(prompt)) => {
                Columns::Exchange { prompt: prompt.clone(), response: self.response_column.clone() }
            }
            (None, None) => Columns::Text(self.text_column.clone()),
        }
    }

    /// Whether documents are conversations, of which only answers are learned.
    pub fn conversations(&self) -> bool {
        !matches!(self.columns(), Columns::Text(_))
    }
}
