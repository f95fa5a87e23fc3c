//! Text around a model: token ids and back. Knows no torch and no dora.

mod error;
mod words;

pub use error::{TextError, Unfit};
pub use words::Words;
