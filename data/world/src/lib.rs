//! The self-made little world of `data/tiny`: a story generator, a checker that reads stories back, gaps for infilling, a tokenizer.
//!
//! A story is a title line, one to three lines of body, and a last line that names what happened; about 75 words of a closed vocabulary of
//! some 280. Facts (people, places, things, colours, counts, causes) agree across it.
//!
//! Others reach it as a command: `difflow-world check --json` reads texts and answers with verdicts. `infill.jsonl` is a file of gaps as
//! `difflow_text` reads it.
//!
//! Invariant: [`tell`] (the generator) and the checker share [`lexicon`] and [`forms`] as data, and no logic.

pub mod bpe;
pub mod check;
pub mod corpus;
pub mod corrupt;
pub mod dice;
pub mod endings;
pub mod error;
pub mod forms;
pub mod gaps;
pub mod instruct;
mod judge;
pub mod lexicon;
pub mod mentions;
mod parse;
pub mod skeleton;
pub mod stats;
pub mod tell;
pub mod template;

pub use check::{Facts, Problem, ProblemKind, check, check_beginning};
pub use error::WorldError;
