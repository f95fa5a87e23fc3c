//! What the monitor's page shows of a step: a row of its batch and its attention pattern.
//!
//! No node waits for it, so it must not slow down training: at most one every [`EVERY`], and less often if making one
//! takes longer than a two-hundredth of that.

use std::time::{Duration, Instant};

use difflow_model::{PADDING, Pattern};
use difflow_node_kit::Node;
use difflow_schema::{Noised, Preview};
use eyre::Result;

use crate::annealing;
use crate::config::{Config, ObjectiveKind};
use crate::training::Training;

/// The shortest time between two.
const EVERY: Duration = Duration::from_secs(2);
/// Time between two over the time that making one takes.
const REST: u32 = 200;
/// Most tokens of a row that are shown.
const TOKENS: usize = 512;

/// Sends previews on the output `preview`, where the dataflow file has it.
pub struct Previews {
    wanted: bool,
    due: Instant,
    sent: u64,
}

impl Previews {
    /// Ready for the first step.
    ///
    /// # Errors
    /// When dora does not give the dataflow file.
    pub fn new(node: &Node) -> Result<Self> {
        Ok(Self { wanted: node.has_output("preview")?, due: Instant::now(), sent: 0 })
    }

    /// Shows optimizer step `step`, which begins with micro-batch `batch`, if it is time for that.
    ///
    /// # Errors
    /// When the schedule fails, or dora does not take the message.
    pub fn offer(
        &mut self,
        node: &mut Node,
        (training, config): (&Training, &Config),
        step: u64,
        batch: &Noised,
    ) -> Result<()> {
        let began = Instant::now();
        if !self.wanted || began < self.due {
            return Ok(());
        }
        node.send("preview", self.sent, &preview(training, config, step, batch)?)?;
        self.sent += 1;
        self.due = Instant::now() + EVERY.max(began.elapsed() * REST);
        Ok(())
    }
}

fn preview(training: &Training, config: &Config, step: u64, batch: &Noised) -> Result<Preview> {
    let (length, shown) = (batch.sequences.length, step as usize % batch.sequences.rows.max(1));
    let size = batch.blocks.get(shown).map_or(length, |&size| size as usize);
    let (ratio, pattern) = match config.objective {
        ObjectiveKind::Ar => (0.0, Pattern::Causal),
        ObjectiveKind::Diffusion | ObjectiveKind::Block => {
            let ratio = training.annealing.attn_mask_ratio(step)?;
            // The first micro-step's own draw.
            let draw = (config.seed, step * config.accumulation);
            (ratio, annealing::pattern(&training.annealing, (ratio, step), draw, length)?)
        }
    };
    let (pattern, side) = if size < length {
        (Pattern::NoisedBlocks { size, context: config.context }, 2 * length)
    } else {
        (pattern, length)
    };
    let attention = Preview::shrink(&pattern.visible(side)?, side);
    Ok(Preview { step, attn_mask_ratio: ratio, block: size as u64, attention, ..row(batch, shown) })
}

/// Row `row` of a batch without its padding.
fn row(batch: &Noised, row: usize) -> Preview {
    let length = batch.sequences.length;
    let all = row * length..(row + 1) * length;
    let shown: Vec<usize> = all.filter(|&at| batch.sequences.documents[at] != PADDING).take(TOKENS).collect();
    Preview {
        t: mean(batch.t_of(row)),
        weight: mean(batch.weight_of(row)),
        length: length as u64,
        tokens: shown.iter().map(|&at| batch.sequences.tokens[at]).collect(),
        masked: shown.iter().map(|&at| batch.masked[at]).collect(),
        ..Preview::default()
    }
}

/// Of a row noised at one t, that t.
fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

#[cfg(test)]
mod tests {
    use difflow_schema::Sequences;

    use super::*;

    #[test]
    fn a_row_is_shown_with_its_own_noise_and_without_padding() {
        let sequences = Sequences {
            rows: 2,
            length: 3,
            tokens: vec![1, 2, 3, 4, 5, 6],
            documents: vec![0, 0, 0, 0, 1, PADDING],
            maskable: vec![true; 6],
        };
        let masked = vec![true, false, false, false, true, false];
        let batch = Noised { sequences, masked, t: vec![0.1, 0.2], weight: vec![10.0, 5.0], blocks: Vec::new() };
        let shown = row(&batch, 1);
        assert_eq!((shown.tokens, shown.masked), (vec![4, 5], vec![false, true]));
        assert_eq!((shown.t, shown.weight, shown.length), (0.2, 5.0, 3));
        let t = vec![0.1, 0.1, 0.1, 0.25, 0.5, 0.75];
        assert_eq!(row(&Noised { t, ..batch }, 1).t, 0.5);
    }
}
