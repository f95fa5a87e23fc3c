//! Decoding: from a canvas with masked positions, or from a prompt, to text.

mod autoregressive;
mod calm;
mod canvas;
mod choose;
mod diffusion;
mod draw;
mod gap_length;
mod gaps;
mod lanes;
mod options;
mod order;
mod row;
mod speculative;
mod there;
mod verify;
mod watch;

pub use autoregressive::{Generated, Generation, Prompt, Writing, Written};
pub use canvas::{Canvas, Decoded, Reveal};
pub use diffusion::{Filling, Revealed};
pub use draw::Sampling;
pub use gap_length::GoOn;
pub use gaps::{GapLength, Infilled, Measured, Piece, Template};
pub use options::{Budget, Caching, DiffusionDecoding, Reveals, Score};
pub use speculative::{Checked, Speculated, Speculating, Speculation, Start};
pub use watch::{Watch, Watched};

#[cfg(test)]
mod block_tests;
