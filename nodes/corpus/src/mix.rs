//! Which source the next document comes from.

use difflow_diffusion::keyed;

/// The draw for document `index`: a place in `weights`, in proportion to them; sources with weight 0 are ended and never
/// drawn. `None` when all are. A pure function, so that the corpus can be read again and be the same.
pub fn draw(weights: &[f64], seed: u64, index: u64) -> Option<usize> {
    let live = |place: &usize| weights[*place] > 0.0;
    let last = (0..weights.len()).rfind(live)?;
    let total: f64 = weights.iter().sum();
    let mut left = keyed::uniform(&mut keyed::rng(seed, "mix", 0, index)) * total;
    // Rounding may leave a little after the last one: then it is that one.
    let drawn = (0..weights.len()).filter(live).find(|&place| {
        left -= weights[place];
        left < 0.0
    });
    Some(drawn.unwrap_or(last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_drawn_in_proportion_to_their_weights() {
        let mut counts = [0u32; 3];
        for index in 0..30_000 {
            counts[draw(&[2.0, 0.0, 1.0], 5, index).expect("two are live")] += 1;
        }
        assert_eq!(counts[1], 0);
        // Five standard deviations of a binomial with p = 2/3.
        assert!((f64::from(counts[0]) - 20_000.0).abs() < 5.0 * 82.0, "{counts:?}");
    }

    #[test]
    fn no_source_left_means_none() {
        assert_eq!(draw(&[0.0, 0.0], 1, 2), None);
        assert_eq!(draw(&[], 1, 2), None);
    }
}
