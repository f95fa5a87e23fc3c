//! The held-out documents: those of HELDOUT, or those that the corpus node leaves in the run's folder.

use std::path::PathBuf;

use difflow_inference::documents::{self, DocumentsError, MESSAGES};
use difflow_node_kit::problem::Kind;
use difflow_node_kit::{Problem, Problems};
use difflow_schema::Conversation;

use crate::config::Config;

/// Where held-out documents are.
pub struct Heldout<'a> {
    pub config: &'a Config,
}

impl Heldout<'_> {
    /// Looks at the documents, as far as the keys say what they are. Errors as [`Self::texts`] and [`Self::conversations`].
    pub fn look(&self) -> Result<(), Problems> {
        if self.config.prompt_column.is_some() || self.config.messages_column.is_some() {
            return self.conversations().map(|_| ());
        }
        self.texts().map(|_| ())
    }

    /// Returns the documents as texts. Errors with the key of what is missing or wrong.
    pub fn texts(&self) -> Result<Vec<String>, Problems> {
        let column = &self.config.text_column;
        let texts = documents::of_parquet(&self.path(), column, self.config.eval_documents);
        self.some(texts.map_err(|e| self.wrong("TEXT_COLUMN", e))?)
    }

    /// Returns the documents as conversations. Errors with the key of what is missing or wrong.
    pub fn conversations(&self) -> Result<Vec<Conversation>, Problems> {
        let Config { heldout, prompt_column, response_column, messages_column, eval_documents, .. } = self.config;
        let (path, limit) = (self.path(), *eval_documents);
        let found = match (heldout.is_empty(), messages_column, prompt_column) {
            (true, ..) => documents::conversations(&path, MESSAGES, limit).map_err(|e| self.wrong("HELDOUT", e)),
            (_, Some(messages), _) => {
                documents::conversations(&path, messages, limit).map_err(|e| self.wrong("MESSAGES_COLUMN", e))
            }
            (_, None, Some(prompt)) => documents::exchanges(&path, prompt, response_column, limit).map_err(|e| {
                let response = matches!(&e, DocumentsError::NoColumn { column, .. } | DocumentsError::NoText { column, .. } if column == response_column);
                self.wrong(if response { "RESPONSE_COLUMN" } else { "PROMPT_COLUMN" }, e)
            }),
            (_, None, None) => {
                let allowed = format!(
                    "the model is finetuned on conversations; wanted: the column of {} with prompts, MESSAGES_COLUMN, or an empty HELDOUT for the \
                     documents that the corpus node leaves in the run's folder",
                    path.display()
                );
                Err(Problem::new("PROMPT_COLUMN", "no value", allowed).into())
            }
        };
        self.some(found?)
    }

    /// The file.
    fn path(&self) -> PathBuf {
        if self.config.heldout.is_empty() {
            self.config.run.dir().heldout()
        } else {
            PathBuf::from(&self.config.heldout)
        }
    }

    fn some<T>(&self, documents: Vec<T>) -> Result<Vec<T>, Problems> {
        if documents.is_empty() {
            return Err(self.unusable("it has no rows").into());
        }
        Ok(documents)
    }

    fn unusable(&self, found: &str) -> Problem {
        let allowed =
            "allowed: a Parquet file of documents, or empty for those that the corpus node leaves in the run's folder";
        Problem::new("HELDOUT", self.path().display(), format!("{found}; {allowed}"))
    }

    /// `key` names the column.
    fn wrong(&self, key: &str, e: DocumentsError) -> Problems {
        let path = self.path();
        let problem = match e {
            DocumentsError::File { reason, .. } => self.unusable(&reason).of_kind(Kind::File),
            DocumentsError::NoColumn { column, columns, .. } => {
                Problem::new(key, column, format!("columns of {}: {columns}", path.display()))
            }
            DocumentsError::NoText { column, kind, .. } => {
                let allowed = format!("it is {kind} in {}; allowed: a column of text", path.display());
                Problem::new(key, column, allowed)
            }
            e @ DocumentsError::NoConversation { .. } => Problem::new(key, path.display(), e.to_string()),
        };
        problem.into()
    }
}
