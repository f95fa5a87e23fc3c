//! The lengths of the canvases.

use difflow_diffusion::keyed;

/// A range of numbers of tokens, both ends included.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Lengths {
    /// Shortest.
    pub low: usize,
    /// Longest.
    pub high: usize,
}

impl Lengths {
    /// Reads `80..125`; `None` when it is not two numbers from 1 on, in order.
    pub fn parse(text: &str) -> Option<Self> {
        let (low, high) = text.split_once("..")?;
        let (low, high) = (low.trim().parse().ok()?, high.trim().parse().ok()?);
        (1 <= low && low <= high).then_some(Self { low, high })
    }

    /// The length of sample `index`, the same at every checkpoint.
    pub fn draw(self, seed: u64, index: u64) -> usize {
        let unit = keyed::uniform(&mut keyed::rng(seed, "length", 0, index));
        self.low + (unit * (self.high - self.low + 1) as f64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_range_of_numbers_is_one() {
        assert_eq!(Lengths::parse("80..125"), Some(Lengths { low: 80, high: 125 }));
        for wrong in ["", "80", "125..80", "0..3", "80-125", "a..b", "80..=125"] {
            assert_eq!(Lengths::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn both_ends_are_drawn_and_nothing_beyond() {
        let lengths = Lengths { low: 3, high: 5 };
        let mut drawn = [0; 7];
        (0..300).for_each(|index| drawn[lengths.draw(1, index)] += 1);
        assert!(drawn[3..=5].iter().all(|&n| n > 60), "{drawn:?}");
        assert_eq!(drawn[3..=5].iter().sum::<i32>(), 300);
    }
}
