//! Sequences in, noised sequences out: a pure function of the batch, its number and the configuration.

use difflow_diffusion::masking::masked_positions;
use difflow_schema::sequences::PADDING;
use difflow_schema::{Noised, Sequences};

use crate::config::Config;

/// Noises micro-batch `seq`.
pub fn noise(config: &Config, seq: u64, mut sequences: Sequences) -> Noised {
    if config.masks_first() {
        open_first(&mut sequences);
    }
    let (step, micro) = (seq / config.accumulation, seq % config.accumulation);
    let rows = sequences.rows as u64;
    let (mut masked, mut ts, mut weights) = (Vec::with_capacity(sequences.tokens.len()), Vec::new(), Vec::new());
    let timesteps = config.timestep_draw();
    for row in 0..rows {
        let t = timesteps.draw(config.seed, step, micro * rows + row, rows * config.accumulation, config.min_t);
        let from = row as usize * sequences.length;
        let maskable = &sequences.maskable[from..from + sequences.length];
        masked.extend(masked_positions(maskable, config.noise_schedule.alpha(t), config.seed, seq * rows + row));
        ts.push(t);
        weights.push(config.noise_schedule.weight(t));
    }
    Noised { sequences, masked, t: ts, weight: weights }
}

/// Makes the first position of each row maskable, unless it is padding.
fn open_first(sequences: &mut Sequences) {
    for first in (0..sequences.tokens.len()).step_by(sequences.length.max(1)) {
        sequences.maskable[first] = sequences.documents[first] != PADDING;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequences(rows: usize) -> Sequences {
        let length = 32;
        Sequences {
            rows,
            length,
            tokens: vec![7; rows * length],
            documents: vec![0; rows * length],
            maskable: (0..rows * length).map(|i| i % length != 0).collect(),
        }
    }

    /// A row's noise may not depend on how the global batch is cut into micro-batches.
    #[test]
    fn two_micro_batches_of_four_are_one_of_eight() {
        let whole = noise(&Config { seed: 5, ..Config::default() }, 3, sequences(8));
        let split = Config { seed: 5, accumulation: 2, ..Config::default() };
        let (first, second) = (noise(&split, 6, sequences(4)), noise(&split, 7, sequences(4)));
        assert_eq!(whole.t, [first.t, second.t].concat());
        assert_eq!(whole.masked, [first.masked, second.masked].concat());
        assert_eq!(whole.weight, [first.weight, second.weight].concat());
    }

    #[test]
    fn presets_differ_in_t_and_in_the_first_position() {
        use crate::config::{Anchor, Preset, Timesteps};
        let parity = Config { preset: Preset::Parity, ..Config::default() };
        let own = Config { timesteps: Timesteps::Stratified, anchor: Anchor::Clean, ..parity.clone() };
        let mut batch = sequences(64);
        batch.documents[32..64].fill(PADDING);
        let [recommended, parity, own] =
            [Config::default(), parity, own].map(|config| noise(&config, 4, batch.clone()));
        assert_eq!(own, recommended, "keys of their own go before the preset");
        assert_ne!(parity.t, recommended.t);
        let firsts = |noised: &Noised| noised.masked.iter().step_by(32).filter(|&&on| on).count();
        assert_eq!(firsts(&recommended), 0);
        assert!(firsts(&parity) > 10 && !parity.masked[32] && !parity.sequences.maskable[32]);
    }

    #[test]
    fn the_weight_belongs_to_its_t() {
        let noised = noise(&Config::default(), 0, sequences(16));
        for (t, weight) in noised.t.iter().zip(&noised.weight) {
            assert!((weight * t - 1.0).abs() < 1e-9);
        }
    }

    #[test]
    fn the_same_batch_can_be_made_again_and_the_next_one_differs() {
        let config = Config::default();
        assert_eq!(noise(&config, 9, sequences(4)), noise(&config, 9, sequences(4)));
        assert_ne!(noise(&config, 9, sequences(4)).masked, noise(&config, 10, sequences(4)).masked);
    }
}
