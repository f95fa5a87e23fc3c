//! Decoding: from a canvas with masked positions, or from a prompt, to text.

mod autoregressive;
mod canvas;
mod diffusion;
mod draw;

pub use autoregressive::{Generated, Generation, Prompt};
pub use canvas::{Canvas, Decoded, Reveal};
pub use diffusion::{Budget, DiffusionDecoding, Reveals, Score};
pub use draw::Sampling;
