//! What every difflow node shares, and the only crate that uses dora: connecting, the configuration from the node's
//! `env:` block, events, sending, demand with absolute sequence numbers, and exit codes.
//!
//! A node's `main` is a single call of [`main`]; its `run` loops over [`Node::next`]. See docs/ARCHITECTURE.md for
//! the rules of flow control.

pub mod config;
pub mod dataflow;
pub mod demand;
pub mod entry;
pub mod facts;
pub mod follow;
pub mod inbox;
pub mod keys;
pub mod node;
pub mod problem;
pub mod record;
pub mod testing;

pub use config::Config;
pub use demand::{Puller, Share};
pub use entry::{About, main};
pub use facts::Upstream;
pub use follow::{CheckpointWork, follow};
pub use inbox::{Inbox, Stopped};
pub use keys::{Preset, RunKeys};
pub use node::{Event, Node, Received};
pub use problem::{Problem, Problems};
