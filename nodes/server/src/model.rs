//! The model that is served.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use axum::http::StatusCode;
use difflow_inference::{Chat, Decoder, InferenceError, ModelError, Opening, Session};
use difflow_text::ChatWords;

use crate::error::ApiError;

/// An open model with what is known of it.
pub struct Loaded {
    pub session: Session,
    /// How it is asked to answer; `None` where it only continues texts.
    pub chat: Option<Chat>,
    /// The tokenizer for texts in which what looks like a special token is one.
    pub special: ChatWords,
    /// Most tokens of a text.
    pub longest: usize,
    /// Whether it is a model that reads from left to right, alone or beside its other ways.
    pub reads_on: bool,
    /// Tokens by their ids, as they are written in the middle of a text.
    tokens: Mutex<BTreeMap<u32, Arc<str>>>,
}

impl Loaded {
    /// Opens a checkpoint. `most` is the longest text that is allowed, where somebody says so. Errors if the checkpoint, or its chat
    /// template, cannot be read.
    pub fn open(
        checkpoint: &Path,
        opening: &Opening,
        most: Option<usize>,
    ) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let session = Session::open(checkpoint, opening)?;
        let chat = session.chat_or_own_template()?;
        let special = session.words().for_chat();
        let trained = session.config().max_positions.max(session.sequence_length());
        let longest = most.unwrap_or(trained).min(session.longest().unwrap_or(usize::MAX));
        // A canvas model can be read so, but has not learned to.
        let learned = session.left_to_right() || session.blocks().is_some();
        let reads_on = learned && session.decoder(Decoder::Ar).is_ok();
        Ok(Self { session, chat, special, longest, reads_on, tokens: Mutex::default() })
    }

    /// A token as it is written in the middle of a text; nothing where the tokenizer has none.
    pub fn token(&self, id: u32) -> Arc<str> {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || self.session.words().decode_inner(&[id]).unwrap_or_default().into();
        tokens.entry(id).or_insert_with(new).clone()
    }

    /// What is said of an error of the model: nothing of this machine.
    pub fn error(&self, error: &InferenceError) -> ApiError {
        let message = error.to_string().replace(&self.session.folder().display().to_string(), "the model");
        match error {
            InferenceError::Unfit { what, .. } => {
                ApiError { param: Some((*what).to_owned()), ..ApiError::wrong(message) }
            }
            InferenceError::Model(ModelError::Input { .. } | ModelError::NoMaskToken) | InferenceError::Text(_) => {
                ApiError::wrong(message)
            }
            InferenceError::Model(ModelError::Ended) => ApiError::timed_out(),
            InferenceError::Model(ModelError::OutOfMemory { .. }) => {
                eprintln!("error: {error}");
                let message = "there is not enough memory for this now";
                ApiError { status: StatusCode::SERVICE_UNAVAILABLE, ..ApiError::wrong(message) }
            }
            error => {
                eprintln!("error: {error}");
                ApiError::failed()
            }
        }
    }
}
