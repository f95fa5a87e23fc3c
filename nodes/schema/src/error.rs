//! Why an array is not the message it claims to be.

/// A received array that does not fit its message.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum SchemaError {
    /// A column is not there.
    #[error("message {message}: column `{column}` is missing; the sender is of another difflow version")]
    Missing { message: &'static str, column: &'static str },
    /// A column has another Arrow type.
    #[error(
        "message {message}: column `{column}` is {found}, wanted {wanted}; the sender is of another difflow version"
    )]
    Type { message: &'static str, column: &'static str, found: String, wanted: String },
    /// A column's content breaks a rule of the message.
    #[error("message {message}: column `{column}`: {problem}")]
    Content { message: &'static str, column: &'static str, problem: String },
    /// The array is not a struct at all.
    #[error(
        "message {message}: got an array of type {found}, wanted a struct; is the edge connected to the right output?"
    )]
    NotAStruct { message: &'static str, found: String },
    /// Arrow refused to build the array.
    #[error("message {message}: {problem}")]
    Arrow { message: &'static str, problem: String },
}
