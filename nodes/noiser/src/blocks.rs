//! Noise for block diffusion: a t for each block, and the inverse of each mask where that is wanted.

use difflow_diffusion::BlockSizes;
use difflow_diffusion::blocks::cut;
use difflow_diffusion::masking::masked_where;
use difflow_node_kit::Problem;
use difflow_plugin_host::{AnnealingSchedule, NoiseSchedule, PluginError};
use difflow_schema::{Noised, Sequences};

use crate::config::Config;

/// The sizes of blocks and how they grow.
pub struct Blocks {
    sizes: BlockSizes,
    growth: Option<AnnealingSchedule>,
}

/// Which batch it is.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// Its number.
    pub seq: u64,
    /// The optimizer step that it is for.
    pub step: u64,
    /// Its first row, counted from the first of that step.
    pub first_row: u64,
    /// Rows of the step.
    pub all_rows: u64,
}

/// The noise of one position.
#[derive(Debug, Clone, Copy, Default)]
struct Noise {
    t: f64,
    alpha: f64,
    weight: f64,
}

impl Blocks {
    /// Those that the configuration asks for, if it does.
    ///
    /// # Errors
    /// When BLOCK_SIZE or the schedule of growth cannot be used.
    pub fn open(config: &Config) -> Result<Option<Self>, Problem> {
        if config.block_size.is_empty() {
            return Ok(None);
        }
        let sizes: BlockSizes =
            config.block_size.parse().map_err(|wrong| Problem::new("BLOCK_SIZE", &config.block_size, wrong))?;
        if !sizes.grows() {
            return Ok(Some(Self { sizes, growth: None }));
        }
        let (name, options) = (&config.block_growth, &config.block_growth_config);
        let wrong = |e: PluginError| Problem::new(e.key("BLOCK_GROWTH"), name, e.to_string());
        let mut growth = AnnealingSchedule::open(name, options, config.block_growth_steps).map_err(wrong)?;
        if growth.instance_mut().save_state().map_err(wrong)?.is_some() {
            let allowed = "allowed: a schedule without state: a batch is made anew from its number alone";
            return Err(Problem::new("BLOCK_GROWTH", name, allowed));
        }
        Ok(Some(Self { sizes, growth: Some(growth) }))
    }

    /// Noises a micro-batch.
    ///
    /// # Errors
    /// When a plug-in fails.
    pub fn noise(
        &self,
        config: &Config,
        schedule: &NoiseSchedule,
        place: Place,
        sequences: Sequences,
    ) -> Result<Noised, PluginError> {
        let (rows, length) = (sequences.rows, sequences.length);
        let ratio = self.growth.as_ref().map_or(Ok(1.0), |growth| growth.attn_mask_ratio(place.step))?;
        let drawn = self.sizes.draw(config.seed, (place.step, place.all_rows), ratio, length);
        let sizes = &drawn[place.first_row as usize..][..rows];
        let mut ranges = Vec::new();
        let mut ts = Vec::new();
        for (row, &size) in sizes.iter().enumerate() {
            let at = row * length;
            let maskable = &sequences.maskable[at..at + length];
            let mut blocks = cut(&sequences.documents[at..at + length], size);
            blocks.retain(|block| maskable[block.clone()].contains(&true));
            // The inverse of a mask of t near 1 has few tokens and as large a weight as one of t near 0.
            let most = if config.complementary { 1.0 - config.min_t } else { 1.0 };
            let range =
                if size < length { config.block_min_t..config.block_max_t.min(most) } else { config.min_t..most };
            let row = (place.first_row + row as u64, place.all_rows);
            ts.extend(config.timestep_draw().draw_blocks(config.seed, place.step, row, blocks.len(), range));
            ranges.extend(blocks.into_iter().map(|block| at + block.start..at + block.end));
        }
        let (alphas, weights) = (schedule.alpha(&ts)?, schedule.weight(&ts)?);
        // Positions that cannot be masked outside of all blocks keep t and weight 0.
        let mut noise = vec![Noise { alpha: 1.0, ..Noise::default() }; sequences.tokens.len()];
        for (block, ((&t, &alpha), &weight)) in ranges.into_iter().zip(ts.iter().zip(&alphas).zip(&weights)) {
            noise[block].fill(Noise { t, alpha, weight });
        }
        let mut masked = Vec::with_capacity(noise.len());
        for (row, maskable) in sequences.maskable.chunks(length.max(1)).enumerate() {
            let alphas = noise[row * length..(row + 1) * length].iter().map(|noise| noise.alpha);
            masked.extend(masked_where(maskable, alphas, config.seed, place.seq * rows as u64 + row as u64));
        }
        let blocks = sizes.iter().map(|&size| size as u32).collect();
        let weight = noise.iter().map(|noise| noise.weight).collect();
        let noised = Noised { sequences, masked, t: noise.iter().map(|noise| noise.t).collect(), weight, blocks };
        Ok(if config.complementary { with_inverse(noised, &noise) } else { noised })
    }
}

/// Each row followed by itself with the inverse mask: what was masked with probability 1 − α is now with probability α, so the weight that
/// keeps the bound is w · (1 − α) / α. `t` stays that of the draw.
fn with_inverse(noised: Noised, noise: &[Noise]) -> Noised {
    let length = noised.sequences.length;
    fn twice<T: Copy>(values: &[T], length: usize, inverse: impl Fn(usize) -> T) -> Vec<T> {
        let rows = values.chunks(length.max(1)).enumerate();
        let both = rows.flat_map(|(row, own)| {
            let inverse = &inverse;
            own.iter().copied().chain((row * length..row * length + own.len()).map(inverse))
        });
        both.collect()
    }
    let Noised { sequences, masked, t, weight, blocks } = noised;
    let same = |values: &[u32]| twice(values, length, |at| values[at]);
    Noised {
        masked: twice(&masked, length, |at| sequences.maskable[at] && !masked[at]),
        t: twice(&t, length, |at| t[at]),
        weight: twice(&weight, length, |at| inverse_weight(noise[at])),
        blocks: twice(&blocks, 1, |at| blocks[at]),
        sequences: Sequences {
            rows: 2 * sequences.rows,
            length,
            tokens: same(&sequences.tokens),
            documents: same(&sequences.documents),
            maskable: twice(&sequences.maskable, length, |at| sequences.maskable[at]),
        },
    }
}

fn inverse_weight(Noise { alpha, weight, .. }: Noise) -> f64 {
    if alpha > 0.0 { weight * (1.0 - alpha) / alpha } else { 0.0 }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use difflow_schema::sequences::PADDING;

    use super::*;
    use crate::noise::Noiser;

    /// Two documents of 9 and 20 tokens and padding, 32 positions in all; the first of each document is no target.
    fn sequences(rows: usize) -> Sequences {
        let document = |at: usize| {
            if at < 9 {
                0
            } else if at < 29 {
                1
            } else {
                PADDING
            }
        };
        let each = |of: fn(usize) -> bool| (0..rows * 32).map(|at| of(at % 32)).collect::<Vec<_>>();
        Sequences {
            rows,
            length: 32,
            tokens: (0..rows as u32 * 32).collect(),
            documents: (0..rows * 32).map(|at| document(at % 32)).collect(),
            maskable: each(|at| at != 0 && at != 9 && at < 29),
        }
    }

    fn noiser(block: &str, accumulation: u64, change: impl FnOnce(&mut Config)) -> Noiser {
        let mut config = Config { block_size: block.into(), seed: 5, ..Config::default() };
        change(&mut config);
        let mut noiser = Noiser::open(config).unwrap();
        noiser.accumulation = accumulation;
        noiser
    }

    fn noise(block: &str, seq: u64, rows: usize, change: impl FnOnce(&mut Config)) -> Noised {
        noiser(block, 1, change).noise(seq, sequences(rows)).unwrap()
    }

    /// A row's noise may not depend on how the global batch is cut into micro-batches, and a batch is a function of its number.
    #[test]
    fn two_micro_batches_of_four_are_one_of_eight() {
        let block = "4:2,8..16:1,row:1";
        let whole = noise(block, 3, 8, |_| {});
        let mut split = noiser(block, 2, |_| {});
        let [first, second] = [6, 7].map(|seq| split.noise(seq, sequences(4)).unwrap());
        assert_eq!(whole.blocks, [first.blocks, second.blocks].concat());
        assert_eq!(whole.t, [first.t, second.t].concat());
        assert_eq!(whole.masked, [first.masked, second.masked].concat());
        assert_eq!(whole.weight, [first.weight, second.weight].concat());
        assert_eq!(whole, noise(block, 3, 8, |_| {}));
        assert_ne!(whole.masked, noise(block, 4, 8, |_| {}).masked);
    }

    /// A block that ran on into the next document, or began elsewhere, would have t of two.
    #[test]
    fn a_block_has_one_t_and_its_weight_and_stays_in_its_document() {
        let noised = noise("4", 0, 4, |_| {});
        for row in 0..4 {
            let t = noised.t_of(row);
            let bounds: Vec<usize> = (1..32).filter(|&at| t[at] != t[at - 1]).collect();
            assert_eq!(bounds, [4, 8, 9, 13, 17, 21, 25, 29]);
            let own = |at: usize| noised.sequences.maskable[row * 32 + at];
            let right = |at: usize| (noised.weight_of(row)[at] * t[at] - 1.0).abs() < 1e-9;
            assert!((0..32).all(|at| !own(at) || right(at)));
        }
        assert_eq!(noised.blocks, [4; 4]);
    }

    #[test]
    fn the_range_of_t_is_clipped_for_blocks_and_full_for_whole_rows() {
        let clip = |config: &mut Config| (config.block_min_t, config.block_max_t) = (0.45, 0.95);
        let (mut least, mut most) = (1f64, 0f64);
        for seq in 0..40 {
            let noised = noise("4,row", seq, 8, clip);
            for row in 0..8 {
                for (at, &t) in noised.t_of(row).iter().enumerate() {
                    if !noised.sequences.maskable[row * 32 + at] {
                        continue;
                    }
                    if noised.blocks[row] == 4 {
                        assert!((0.45..0.95).contains(&t), "{t}");
                    } else {
                        (least, most) = (least.min(t), most.max(t));
                    }
                }
            }
        }
        assert!(least < 0.05 && most > 0.95, "{least} {most}");
    }

    /// A token that is a target twice or never, or a weight that is not that of its mask, would bias the loss.
    #[test]
    fn inverse_masks_partition_the_maskable_tokens_and_keep_the_bound() {
        let plain = noise("4,row", 2, 6, |config| config.block_max_t = 0.9);
        let both = noise("4,row", 2, 6, |config| (config.block_max_t, config.complementary) = (0.9, true));
        assert_eq!((both.sequences.rows, both.masked.len()), (12, 12 * 32));
        for row in 0..6 {
            let part = |of: usize| of * 32..(of + 1) * 32;
            let (own, inverse) = (part(2 * row), part(2 * row + 1));
            for values in [&both.sequences.tokens, &both.sequences.documents] {
                assert_eq!(values[own.clone()], values[inverse.clone()]);
            }
            assert_eq!((both.blocks[2 * row], both.blocks[2 * row + 1]), (plain.blocks[row], plain.blocks[row]));
            let pairs = both.masked[own.clone()].iter().zip(&both.masked[inverse]);
            let once: Vec<bool> = pairs.map(|(a, b)| a != b).collect();
            assert_eq!(once, both.sequences.maskable[own], "each maskable token exactly once, and no other");
        }
        // Σ weight · masked over maskable is 1 in the mean, for the masks and for their inverse.
        for schedule in ["linear", "cosine"] {
            let mut sums = [0.0; 2];
            for seq in 0..300 {
                let batch = noise("8", seq, 4, |config| {
                    (config.noise_schedule, config.complementary) = (schedule.into(), true)
                });
                for (at, (&masked, &weight)) in batch.masked.iter().zip(&batch.weight).enumerate() {
                    sums[at / 32 % 2] += f64::from(u8::from(masked)) * weight / (300.0 * 4.0 * 27.0);
                }
            }
            assert!(sums.iter().all(|sum| (sum - 1.0).abs() < 0.12), "{schedule}: {sums:?}");
        }
    }

    #[test]
    fn sizes_grow_with_the_steps() {
        let grow = |config: &mut Config| config.block_growth_steps = 30;
        let sizes: Vec<u32> = [0, 9, 15, 20, 29, 90].map(|seq| noise("4..16", seq, 2, grow).blocks[0]).into();
        assert_eq!(sizes, [4, 8, 8, 16, 16, 16]);
    }

    #[test]
    fn whole_rows_have_the_noise_of_a_noiser_without_blocks() {
        let whole = noise("row", 3, 8, |_| {});
        let plain = noise("", 3, 8, |_| {});
        assert_eq!(whole.masked, plain.masked);
        assert!((0..8).all(|row| whole.t_of(row)[5] == plain.t[row]));
    }

    #[test]
    fn wrong_keys_are_named() {
        use difflow_node_kit::Config as _;
        let keys = |change: fn(&mut Config)| {
            let mut config = Config::default();
            change(&mut config);
            config.validate().iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
        };
        assert_eq!(keys(|config| config.block_size = "4:2,row".into()), "");
        assert!(keys(|config| config.block_size = "4;8".into()).contains("BLOCK_SIZE"));
        assert!(keys(|config| config.complementary = true).contains("COMPLEMENTARY"));
        assert!(
            keys(|config| (config.block_size, config.block_min_t, config.block_max_t) = ("4".into(), 0.5, 0.5))
                .contains("BLOCK_MAX_T")
        );
        assert!(
            keys(|config| (config.block_size, config.transforms) = ("4".into(), r#"["builtin:span-mask"]"#.into()))
                .contains("TRANSFORMS")
        );
        let config = Config { block_size: "4..8".into(), block_growth: "no-such".into(), ..Config::default() };
        assert!(Noiser::open(config).err().unwrap().to_string().contains("BLOCK_GROWTH"));
    }
}
