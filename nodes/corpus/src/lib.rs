//! The node's keys, for its program and for `difflow validate`, which checks a dataflow file against them.

pub mod config;
pub mod source;
