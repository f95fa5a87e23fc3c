//! Keys of the metadata in every message.

/// Absolute sequence number of the message on its edge, counted from 0.
pub const SEQ: &str = "seq";
/// [`crate::Message::NAME`] of the message.
pub const MESSAGE: &str = "message";
/// True on the message after the last one: there is no batch `seq`, the data ended.
pub const FIN: &str = "fin";
/// True on a message that comes before the data and has only [`FACTS`]: who waits for the first batch can prepare meanwhile.
pub const PRELUDE: &str = "prelude";
/// [`crate::Facts`] as JSON, on messages of the data path. It goes with each of them, for any may be the first that a node sees.
pub const FACTS: &str = "facts";
