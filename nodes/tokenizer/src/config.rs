//! The keys of the tokenizer node.

use std::path::{Path, PathBuf};

use difflow_node_kit::problem::Kind;
use difflow_node_kit::{Problem, RunKeys};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::packing::{LongDocuments, Packing};

/// What CHAT_TEMPLATE says where prompt and response are only joined.
pub const NO_TEMPLATE: &str = "none";

/// Which answers of a conversation are learned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TurnsKey {
    /// Each answer in an example of its own, with the conversation before it as its prompt: right for every OBJECTIVE.
    #[default]
    Apart,
    /// All answers in one example. Costs less, but where attention sees to the right an answer has in view what is said later.
    Together,
    /// The last answer; the conversation before it is its prompt.
    Last,
}

/// What follows an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PadPolicy {
    /// One end token, which is learned; behind it the next example, or padding.
    EosOnce,
    /// End tokens up to FILL_MULTIPLE, all of them seen, masked and learned (LLaDA): a model learns to end an answer anywhere in its canvas.
    #[default]
    EosFill,
    /// Nothing: the model does not learn where an answer ends, unless the chat template ends it.
    Ignore,
}

/// How documents become sequences, and in which order they are served.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE", default)]
pub struct Config {
    #[serde(flatten)]
    pub run: RunKeys,
    /// Seed of the run: the order of the sequences depends on it.
    pub seed: u64,
    /// The tokenizer's file, or the hub id of a model that has one. Empty: the `tokenizer.json` of BASE_MODEL.
    #[schemars(extend("x-by-content" = true))]
    pub tokenizer: Option<String>,
    /// Folder or hub id of the base model; the tokenizer's ids must fit the vocabulary in its config.json.
    pub base_model: String,
    /// The token that begins every document. Empty: the one that BASE_MODEL's own files name, and EOS_TOKEN where they name none.
    pub bos_token: Option<String>,
    /// The token that ends every document; padding uses its id, too. It may be the same as BOS_TOKEN. Empty: the one that BASE_MODEL's
    /// own files name.
    pub eos_token: Option<String>,
    /// Tokens in a sequence.
    #[schemars(range(min = 2, max = 1_048_576))]
    pub sequence_length: usize,
    /// Sequences in a batch.
    #[schemars(range(min = 1, max = 65_536))]
    pub micro_batch: usize,
    /// How documents fill sequences.
    pub packing: Packing,
    /// What happens to a document that is longer than a sequence, with PACKING documents or one. Of a conversation only the prompt is ever
    /// cut, from its left; an answer that is longer than a sequence ends the run.
    pub long_documents: LongDocuments,
    /// For conversations (PROMPT_COLUMN or MESSAGES_COLUMN of the corpus; the keys from here to FILL_MULTIPLE are for them alone): the chat
    /// template by which they become text, a Jinja file; `none` joins prompt and response by SEPARATOR. Empty: that of BASE_MODEL
    /// (chat_template.jinja or tokenizer_config.json), and `none` where it has none.
    #[schemars(extend("x-by-content" = true))]
    pub chat_template: String,
    /// Without a chat template: what stands between the prompt and its response.
    pub separator: String,
    /// The date that a chat template gets where it asks for today's: a run must not depend on the day.
    pub template_date: String,
    /// Which answers of a conversation of several turns are learned.
    pub turns: TurnsKey,
    /// What follows an answer.
    pub pad_policy: PadPolicy,
    /// With PAD_POLICY eos-fill: the end tokens fill up to a multiple of so many, counted from the first token of the example; for
    /// OBJECTIVE: block of the trainer, the size of a block, or several of them. Empty: SEQUENCE_LENGTH, the whole row.
    #[schemars(range(min = 1))]
    pub fill_multiple: Option<usize>,
    /// Share of the documents that get an open end: a tail of EOS_TOKEN behind their own, of random length, that is seen and masked like
    /// the text, so that a model learns to end a text somewhere in its canvas. 0: a canvas always ends with its text, and whoever writes
    /// with the model must say how long. Only with PACKING documents.
    #[schemars(range(min = 0, max = 1))]
    pub open_end: f64,
    /// Tokens of the longest document with its open end: the canvas in which the model will write. Empty: SEQUENCE_LENGTH.
    #[schemars(range(min = 3))]
    pub canvas: Option<usize>,
    /// Sequences that are shuffled among each other; the first batch leaves when so many are there. 0: corpus order.
    #[schemars(range(min = 0, max = 4_294_967_295u32))]
    pub shuffle_window: u64,
    /// How often the corpus is gone through; empty: for ever. Sequences that do not fill a last batch are left out.
    #[schemars(range(min = 1))]
    pub epochs: Option<u64>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            run: RunKeys::default(),
            seed: 0,
            tokenizer: None,
            base_model: "data/tiny/model".into(),
            bos_token: None,
            eos_token: None,
            sequence_length: 256,
            micro_batch: 16,
            packing: Packing::Documents,
            long_documents: LongDocuments::default(),
            chat_template: String::new(),
            separator: "\n".into(),
            template_date: "2024-07-26".into(),
            turns: TurnsKey::default(),
            pad_policy: PadPolicy::default(),
            fill_multiple: None,
            open_end: 0.0,
            canvas: None,
            shuffle_window: 8192,
            epochs: None,
        }
    }
}

impl difflow_node_kit::Config for Config {
    fn run(&self) -> &RunKeys {
        &self.run
    }

    fn validate(&self) -> Vec<Problem> {
        let stream = (self.open_end > 0.0 && self.packing == Packing::Stream).then(|| {
            Problem::new("OPEN_END", self.open_end, "allowed: 0 with PACKING stream, which cuts texts anywhere")
        });
        let canvas = self.canvas.filter(|&canvas| canvas > self.sequence_length).map(|canvas| {
            Problem::new("CANVAS", canvas, format!("allowed: at most SEQUENCE_LENGTH ({})", self.sequence_length))
        });
        stream.into_iter().chain(canvas).collect()
    }

    fn fetch(&mut self) -> Result<(), Problem> {
        let mut tokenizer = self.tokenizer.take().unwrap_or_default();
        difflow_hub::fetch_keys(&mut self.base_model, &mut tokenizer)
            .map_err(|(key, found, e)| Problem::new(key, found, e.to_string()).of_kind(Kind::File))?;
        self.tokenizer = (!tokenizer.is_empty()).then_some(tokenizer);
        Ok(())
    }
}

impl Config {
    /// What is wrong with the keys where documents are conversations.
    pub fn of_conversations(&self) -> Vec<Problem> {
        let stream = (self.packing == Packing::Stream).then(|| {
            let allowed = "allowed for conversations: documents, or one: a stream cuts examples anywhere";
            Problem::new("PACKING", "stream", allowed)
        });
        let open = (self.open_end > 0.0 && self.pad_policy != PadPolicy::EosOnce).then(|| {
            let allowed = "allowed for conversations: 0, or PAD_POLICY: eos-once, behind which an open end may follow";
            Problem::new("OPEN_END", self.open_end, allowed)
        });
        let fill = self.fill_multiple.filter(|&multiple| multiple > self.sequence_length).map(|multiple| {
            Problem::new(
                "FILL_MULTIPLE",
                multiple,
                format!("allowed: at most SEQUENCE_LENGTH ({})", self.sequence_length),
            )
        });
        stream.into_iter().chain(open).chain(fill).collect()
    }

    /// Whether a sequence may have several conversations.
    pub fn several_conversations_a_row(&self) -> bool {
        self.packing != Packing::One && self.whole_canvas().is_none()
    }

    /// The canvas that every conversation fills to its end, if it does.
    pub fn whole_canvas(&self) -> Option<usize> {
        let whole = self.fill_multiple.is_none_or(|multiple| multiple == self.sequence_length);
        (self.pad_policy == PadPolicy::EosFill && whole).then_some(self.sequence_length)
    }

    /// The Jinja file that CHAT_TEMPLATE names, if it does.
    pub fn chat_template_file(&self) -> Option<PathBuf> {
        (!["", NO_TEMPLATE].contains(&self.chat_template.as_str())).then(|| PathBuf::from(&self.chat_template))
    }

    /// The tokenizer's file.
    pub fn tokenizer_file(&self) -> PathBuf {
        self.tokenizer.as_ref().map_or_else(|| Path::new(&self.base_model).join("tokenizer.json"), PathBuf::from)
    }
}
