//! Sequences in, noised sequences out: a pure function of the batch, its number and the configuration.

use difflow_diffusion::context::context_weights;
use difflow_diffusion::masking::masked_positions;
use difflow_node_kit::{Problem, Problems};
use difflow_plugin_host::{NoiseSchedule, PluginError, Transforms};
use difflow_schema::sequences::PADDING;
use difflow_schema::{Noised, RowNoised, Sequences};

use crate::blocks::{Blocks, Place};
use crate::config::Config;

/// The schedule and the transforms, ready for any batch.
pub struct Noiser {
    /// Micro-batches of one optimizer step: t is stratified over all of them.
    pub accumulation: u64,
    /// Whether the sequences are of conversations: what is not maskable in them is a prompt, and stays so wherever it stands.
    pub conversations: bool,
    config: Config,
    schedule: NoiseSchedule,
    transforms: Transforms,
    blocks: Option<Blocks>,
}

impl Noiser {
    /// Opens the plug-ins that the configuration names.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn open(config: Config) -> Result<Self, Problems> {
        let schedule = NoiseSchedule::open(&config.noise_schedule, &config.noise_schedule_config)
            .map_err(|e| Problem::new(e.key("NOISE_SCHEDULE"), &config.noise_schedule, e.to_string()));
        let transforms = Transforms::open::<RowNoised>(&config.transforms)
            .map_err(|e| Problem::new("TRANSFORMS", &config.transforms, e.to_string()));
        match (schedule, transforms, Blocks::open(&config)) {
            (Ok(schedule), Ok(transforms), Ok(blocks)) => {
                Ok(Self { accumulation: 1, conversations: false, config, schedule, transforms, blocks })
            }
            (schedule, transforms, blocks) => {
                let problems = schedule.err().into_iter().chain(transforms.err()).chain(blocks.err());
                Err(Problems(problems.collect()))
            }
        }
    }

    /// Noises micro-batch `seq`.
    ///
    /// # Errors
    /// When a plug-in fails.
    pub fn noise(&mut self, seq: u64, mut sequences: Sequences) -> Result<Noised, PluginError> {
        let config = &self.config;
        if config.masks_first() && !self.conversations {
            open_first(&mut sequences);
        }
        let (step, micro) = (seq / self.accumulation, seq % self.accumulation);
        let rows = sequences.rows as u64;
        let all = rows * self.accumulation;
        if let Some(blocks) = &self.blocks {
            let place = Place { seq, step, first_row: micro * rows, all_rows: all };
            return blocks.noise(config, &self.schedule, place, sequences);
        }
        let timesteps = config.timestep_draw();
        let draw = |row| timesteps.draw(config.seed, step, micro * rows + row, all, config.min_t);
        let t: Vec<f64> = (0..rows).map(draw).collect();
        let (alpha, weight) = (self.schedule.alpha(&t)?, self.schedule.weight(&t)?);
        let mut masked = Vec::with_capacity(sequences.tokens.len());
        for (row, (maskable, &alpha)) in sequences.maskable.chunks(sequences.length.max(1)).zip(&alpha).enumerate() {
            masked.extend(masked_positions(maskable, alpha, config.seed, seq * rows + row as u64));
        }
        let noised = RowNoised(Noised { sequences, masked, t, weight, blocks: Vec::new() });
        let mut noised = self.transforms.apply(seq, config.seed, noised)?.0;
        if let Some(p) = config.context_weight {
            noised.weight = weights_by_context(&noised, p);
        }
        Ok(noised)
    }
}

/// One weight a position, by its context.
fn weights_by_context(noised: &Noised, p: f64) -> Vec<f64> {
    let length = noised.sequences.length.max(1);
    let rows = noised.masked.chunks(length).zip(noised.sequences.documents.chunks(length));
    rows.flat_map(|(masked, documents)| context_weights(masked, documents, p)).collect()
}

/// Makes the first position of each row maskable, unless it is padding.
fn open_first(sequences: &mut Sequences) {
    for first in (0..sequences.tokens.len()).step_by(sequences.length.max(1)) {
        sequences.maskable[first] = sequences.documents[first] != PADDING;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
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

    fn noise(config: &Config, seq: u64, sequences: Sequences) -> Noised {
        Noiser::open(config.clone()).unwrap().noise(seq, sequences).unwrap()
    }

    /// A row's noise may not depend on how the global batch is cut into micro-batches.
    #[test]
    fn two_micro_batches_of_four_are_one_of_eight() {
        let whole = noise(&Config { seed: 5, ..Config::default() }, 3, sequences(8));
        let mut split = Noiser::open(Config { seed: 5, ..Config::default() }).unwrap();
        split.accumulation = 2;
        let [first, second] = [6, 7].map(|seq| split.noise(seq, sequences(4)).unwrap());
        assert_eq!(whole.t, [first.t, second.t].concat());
        assert_eq!(whole.masked, [first.masked, second.masked].concat());
        assert_eq!(whole.weight, [first.weight, second.weight].concat());
    }

    #[test]
    fn presets_differ_in_t_and_in_the_first_position() {
        use difflow_node_kit::Preset;

        use crate::config::{Anchor, Timesteps};
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

    /// Rows of two documents: weights are those of the formula, by the mask that transforms have left, and nothing else changes.
    #[test]
    fn with_context_weight_each_position_has_its_own() {
        let mut batch = sequences(8);
        (0..8 * 32).filter(|i| i % 32 >= 20).for_each(|i| batch.documents[i] = 1);
        let plain = Config { transforms: r#"["builtin:span-mask"]"#.into(), ..Config::default() };
        let with = Config { context_weight: Some(0.3), ..plain.clone() };
        let (plain, found) = (noise(&plain, 1, batch.clone()), noise(&with, 1, batch));
        assert_eq!((&plain.sequences, &plain.masked, &plain.t), (&found.sequences, &found.masked, &found.t));
        for row in 0..8 {
            for n in 0..32usize {
                let same = |i: &usize| (*i < 20) == (n < 20) && *i != n && !found.masked[row * 32 + i];
                let wanted: f64 =
                    (0..32).filter(same).map(|i: usize| 0.15 * 0.7f64.powi(i.abs_diff(n) as i32 - 1)).sum();
                assert!((found.weight_of(row)[n] - wanted).abs() < 1e-12);
            }
        }
    }

    /// The paper's preset may mask the first position of a row; of a conversation that is its prompt.
    #[test]
    fn no_preset_masks_a_prompt() {
        use difflow_node_kit::Preset;

        let mut batch = sequences(64);
        batch.maskable = (0..64 * 32).map(|at| at % 32 > 20).collect();
        let mut noiser = Noiser::open(Config { preset: Preset::Parity, ..Config::default() }).unwrap();
        noiser.conversations = true;
        let noised = noiser.noise(3, batch.clone()).unwrap();
        assert_eq!(noised.sequences.maskable, batch.maskable);
        assert!((0..64 * 32).all(|at| !noised.masked[at] || at % 32 > 20));
        assert!(noised.masked.contains(&true));
    }

    #[test]
    fn the_same_batch_can_be_made_again_and_the_next_one_differs() {
        let config = Config::default();
        assert_eq!(noise(&config, 9, sequences(4)), noise(&config, 9, sequences(4)));
        assert_ne!(noise(&config, 9, sequences(4)).masked, noise(&config, 10, sequences(4)).masked);
    }

    #[test]
    fn a_transform_changes_the_batch_on_its_way() {
        let with = Config { transforms: r#"["builtin:span-mask"]"#.into(), ..Config::default() };
        let (plain, spans) = (noise(&Config::default(), 1, sequences(8)), noise(&with, 1, sequences(8)));
        assert_eq!((&plain.sequences, &plain.t, &plain.weight), (&spans.sequences, &spans.t, &spans.weight));
        assert_ne!(plain.masked, spans.masked);
        let count = |noised: &Noised| noised.masked.iter().filter(|&&on| on).count();
        assert_eq!(count(&plain), count(&spans));
    }

    /// A researcher who mends one key per start would give up.
    #[test]
    fn every_wrong_key_is_named_with_what_would_be_right() {
        let config = Config {
            noise_schedule: "polynomial".into(),
            noise_schedule_config: r#"{"power": -1}"#.into(),
            transforms: r#"["builtin:span"]"#.into(),
            ..Config::default()
        };
        let text = Noiser::open(config).err().unwrap().to_string();
        for part in ["NOISE_SCHEDULE_CONFIG: found", "/power", "exclusiveMinimum", "TRANSFORMS: found", "span-mask"] {
            assert!(text.contains(part), "{part} not in\n{text}");
        }
    }
}
