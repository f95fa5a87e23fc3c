//! Text handling around a model: token ids and back, texts with gaps, and metrics of generated texts. Depends on
//! neither torch nor dora.

mod chat;
mod error;
mod gap_file;
mod gaps;
mod lengths;
mod quality;
mod words;

pub use chat::{ChatError, ChatTemplate, ChatTokens, ChatWords, Rendered, Turns};
pub use error::{GapError, TextError};
pub use gap_file::{Gap, read_gaps};
pub use gaps::{Part, parse_gaps};
pub use lengths::Lengths;
pub use quality::{distinct, entropy, repetition};
pub use words::{Words, read_tokenizer};
