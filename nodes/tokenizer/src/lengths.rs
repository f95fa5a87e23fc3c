//! The lengths of the documents: the cost of stating a document's length is part of the cost of a text.

/// Documents by their number of tokens, with both special tokens; longer ones count as as long as a sequence.
#[derive(Debug)]
pub struct Lengths(Vec<u64>);

impl Lengths {
    /// None yet, for sequences of `length` tokens.
    pub fn new(length: usize) -> Self {
        Self(vec![0; length + 1])
    }

    /// Counts a document of so many tokens.
    pub fn count(&mut self, tokens: usize) {
        let longest = self.0.len() - 1;
        self.0[tokens.min(longest)] += 1;
    }

    /// Entropy in nats; 0 where there is no document.
    pub fn entropy(&self) -> f64 {
        let total: u64 = self.0.iter().sum();
        let shares = self.0.iter().filter(|&&count| count > 0).map(|&count| count as f64 / total as f64);
        shares.map(|share| -share * share.ln()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_entropy_is_that_of_the_lengths_as_cut() {
        let mut lengths = Lengths::new(8);
        assert_eq!(lengths.entropy(), 0.0);
        for tokens in [3, 3, 5, 5, 8, 9, 100, 8] {
            lengths.count(tokens);
        }
        // Two of eight, two of eight, four of eight.
        let wanted = 0.5 * 4f64.ln() + 0.5 * 2f64.ln();
        assert!((lengths.entropy() - wanted).abs() < 1e-12, "{}", lengths.entropy());
        let mut alike = Lengths::new(8);
        (0..9).for_each(|_| alike.count(4));
        assert_eq!(alike.entropy(), 0.0);
    }
}
