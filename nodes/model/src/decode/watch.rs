//! What those see who watch texts being written.

use std::ops::Range;

use crate::decode::canvas::{Canvas, Reveal};
use crate::decode::speculative::Checked;

/// What a step did to a text.
#[derive(Debug)]
pub enum Watched<'a> {
    /// Positions of a canvas became known. It is being filled within `open`: all of it, or a block of block diffusion, behind which there
    /// is nothing yet.
    Revealed { canvas: &'a Canvas, open: Range<usize>, reveals: &'a [Reveal] },
    /// Drafts behind a prompt were kept or replaced.
    Checked { prompt: &'a [u32], checked: &'a Checked },
}

/// Is told the number of a text, and what a step did to it.
pub type Watch<'a> = dyn FnMut(usize, &Watched) + 'a;
