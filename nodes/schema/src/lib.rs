//! The messages on difflow's edges: one message type per file, each with its Arrow fields, and the checks that every
//! receiver makes. dora's own runtime type checks skip structs, so these are the ones that count.
//!
//! A message is one Arrow struct array. Its metadata contains [`meta::SEQ`], [`meta::MESSAGE`] and [`meta::FIN`], and
//! [`meta::FACTS`] if the sender has any.

pub mod audit;
pub mod checkpoint;
pub mod columns;
pub mod conversation;
pub mod demand;
pub mod documents;
pub mod error;
pub mod facts;
pub mod lock;
pub mod manifest;
pub mod measures;
pub mod meta;
pub mod metrics;
pub mod noised;
pub mod origin;
pub mod ports;
pub mod preview;
pub mod record;
pub mod results;
pub mod run;
pub mod samples;
pub mod sequences;
pub mod unmasking;

use arrow::array::StructArray;
use arrow::datatypes::Fields;

pub use checkpoint::Checkpoint;
pub use conversation::{Conversation, ConversationError};
pub use demand::Demand;
pub use documents::{Documents, PlainDocuments};
pub use error::SchemaError;
pub use facts::{BlockFacts, ExampleFacts, Facts, TokenizerFacts};
pub use metrics::{Metric, Metrics};
pub use noised::{Noised, RowNoised};
pub use origin::{Component, Origin};
pub use preview::Preview;
pub use record::{Record, RecordError};
pub use results::{Measured, Measurements, Results, Scored, Scores, Text, Texts, Written};
pub use samples::{Sample, Samples};
pub use sequences::Sequences;
pub use unmasking::{Unmasked, Unmaskings, read_unmaskings};

/// A message that an edge carries.
pub trait Message: Sized {
    /// Name and version, for example `sequences/1`; sent along and compared by the receiver.
    const NAME: &'static str;

    /// The Arrow fields of the struct array.
    fn fields() -> Fields;

    /// Whether a message of this name can be read as this one: its own name, and those of older versions.
    fn reads(name: &str) -> bool {
        name == Self::NAME
    }

    /// The message as one Arrow struct array with [`Message::fields`].
    fn to_array(&self) -> Result<StructArray, SchemaError>;

    /// Reads and checks a received array.
    ///
    /// # Errors
    /// [`SchemaError`] names the message, the column, what was found and what is wanted.
    fn from_array(array: &StructArray) -> Result<Self, SchemaError>;
}
