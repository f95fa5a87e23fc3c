//! A batch transform as a plug-in: the masked tokens of each row become one span at a random position.

use difflow_plugin_sdk::batch::{Field, Kind};
use difflow_plugin_sdk::{Batch, BatchTransform, Error, config, plugin};

config! {
    pub struct OneSpan {}
}

impl BatchTransform for OneSpan {
    fn accepts(&self, fields: &[Field]) -> Result<(), Error> {
        let has = |name: &str| fields.iter().any(|field| field.name == name && field.kind == Kind::FlagLists);
        if has("masked") && has("maskable") {
            return Ok(());
        }
        Err(Error::incompatible(
            "it works on noised batches, with columns `masked` and `maskable`: put it on the noiser",
        ))
    }

    fn process(&mut self, seq: u64, seed: u64, mut batch: Batch) -> Result<Batch, Error> {
        let missing = || Error::incompatible("no columns `masked` and `maskable`");
        let maskable = batch.flag_lists("maskable").ok_or_else(missing)?.clone();
        let rows = batch.flag_lists_mut("masked").ok_or_else(missing)?.iter_mut().zip(&maskable);
        for (row, (masked, maskable)) in rows.enumerate() {
            let free: Vec<usize> = (0..maskable.len()).filter(|&at| maskable[at]).collect();
            let wanted = masked.iter().filter(|&&on| on).count();
            masked.fill(false);
            // Anywhere in the row, wrapping round at its end, so that every token is masked equally often.
            let start = mix(seed ^ mix(seq) ^ mix(row as u64 + 1)) as usize;
            for i in 0..wanted {
                masked[free[(start % free.len() + i) % free.len()]] = true;
            }
        }
        Ok(batch)
    }
}

/// SplitMix64's finalizer: a number that looks random, from (seed, seq, row) alone, so that a batch can be made again.
fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

plugin! {
    batch_transform OneSpan {
        id: "org.difflow.examples.span-mask",
        name: "One span",
        vendor: "difflow",
        license: "Apache-2.0",
        description: "Masks as many tokens of each row as before, in one span"
    }
}
