//! Dataflow files, with the place of everything in them.

pub mod file;
pub mod finding;
pub mod programs;
pub mod shape;
pub mod yaml;

pub use file::{File, Input, NodeEntry, Source, Value};
pub use finding::{Finding, Kind, Level};
pub use programs::{PROGRAMS, Settings};
pub use yaml::Mark;
