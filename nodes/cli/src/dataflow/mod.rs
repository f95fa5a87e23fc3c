//! Dataflow files, with the position of everything in them.

pub mod assign;
pub mod file;
pub mod finding;
mod modules;
mod parts;
pub mod programs;
mod ranks;
pub mod shape;
pub mod tree;
mod write;
pub mod yaml;

pub use assign::Assignment;
pub use file::{File, Input, NodeEntry, Source, Value};
pub use finding::{Finding, Kind, Level, Names};
pub use programs::{PROGRAMS, Settings, program};
pub use ranks::absolute;
pub use tree::Tree;
pub use yaml::Mark;
