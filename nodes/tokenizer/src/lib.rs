//! The node's keys, for its program and for `difflow validate`, which judges a dataflow file by them.

pub mod config;
pub mod packing;
pub mod special_tokens;
