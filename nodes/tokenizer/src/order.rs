//! In which order the sequences of the store are served: a pure function of the seed and the number of the sequence.

use difflow_diffusion::keyed;

/// Serves every row once in each epoch. Rows are shuffled inside windows of `window` rows, so that a window can be served before
/// the corpus has been read to its end.
#[derive(Debug)]
pub struct Order {
    seed: u64,
    window: u64,
    /// The permutation used last, by (epoch, window, size).
    last: Option<((u64, u64, u64), Vec<u32>)>,
}

impl Order {
    /// An order over windows of `window` rows; 0 means no shuffling.
    pub fn new(seed: u64, window: u64) -> Self {
        Self { seed, window, last: None }
    }

    /// The row of sequence number `g`, when `rows` are there; `complete` when there will be no more. `None`: more rows are
    /// needed first (see [`Order::needs`]), or there is none at all.
    pub fn row(&mut self, g: u64, rows: u64, complete: bool) -> Option<u64> {
        if rows == 0 || (!complete && self.needs(g) > rows) {
            return None;
        }
        let (epoch, at) = if complete { (g / rows, g % rows) } else { (0, g) };
        if self.window == 0 {
            return Some(at);
        }
        let (window, within) = (at / self.window, at % self.window);
        let first = window * self.window;
        let size = self.window.min(rows - first);
        Some(first + u64::from(self.permutation(epoch, window, size)[within as usize]))
    }

    /// How many rows must be there before sequence `g` of the first epoch can be served, unless the corpus is shorter.
    pub fn needs(&self, g: u64) -> u64 {
        let window = self.window.max(1);
        (g / window).saturating_add(1).saturating_mul(window)
    }

    /// Rows in a window.
    pub fn window(&self) -> u64 {
        self.window
    }

    fn permutation(&mut self, epoch: u64, window: u64, size: u64) -> &[u32] {
        let key = (epoch, window, size);
        if self.last.as_ref().is_none_or(|(last, _)| *last != key) {
            let shuffle = |index| keyed::permutation(size as usize, &mut keyed::rng(self.seed, "order", epoch, index));
            self.last = Some((key, shuffle(window)));
        }
        self.last.as_ref().map_or(&[], |(_, permutation)| permutation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epoch(order: &mut Order, epoch: u64, rows: u64) -> Vec<u64> {
        (epoch * rows..(epoch + 1) * rows).filter_map(|g| order.row(g, rows, true)).collect()
    }

    #[test]
    fn every_row_comes_once_an_epoch_and_each_epoch_has_its_own_order() {
        let mut order = Order::new(3, 100);
        let epochs: Vec<Vec<u64>> = (0..3).map(|e| epoch(&mut order, e, 250)).collect();
        for rows in &epochs {
            for window in 0..3 {
                let mut rows: Vec<u64> = rows.iter().copied().skip(window * 100).take(100).collect();
                assert!(!rows.is_sorted());
                rows.sort_unstable();
                assert!(rows.iter().enumerate().all(|(i, &row)| row == (window * 100 + i) as u64));
            }
        }
        assert_ne!(epochs[0], epochs[1]);
        assert_ne!(epochs[1], epochs[2]);
        assert_eq!(epochs[1], epoch(&mut Order::new(3, 100), 1, 250));
        assert_ne!(epochs[1], epoch(&mut Order::new(4, 100), 1, 250));
    }

    /// Timing must not show: what is served while the corpus is being read is what is served afterwards.
    #[test]
    fn a_row_served_early_is_the_row_served_late() {
        let (mut early, mut late) = (Order::new(9, 8), Order::new(9, 8));
        for rows in 0..=50 {
            for g in 0..50 {
                if let Some(row) = early.row(g, rows, false) {
                    assert!(row < rows);
                    assert_eq!(Some(row), late.row(g, 50, true), "row of {g} with {rows} rows");
                }
            }
        }
        assert_eq!(early.row(7, 7, false), None);
        assert!(early.row(7, 8, false).is_some());
        assert_eq!(early.row(48, 50, false), None);
    }

    #[test]
    fn without_a_window_rows_come_in_corpus_order() {
        let mut order = Order::new(3, 0);
        assert_eq!(epoch(&mut order, 5, 40), (0..40).collect::<Vec<_>>());
        assert_eq!((order.row(3, 3, false), order.row(3, 4, false)), (None, Some(3)));
    }

    #[test]
    fn an_empty_store_serves_nothing() {
        assert_eq!(Order::new(1, 4).row(0, 0, true), None);
    }
}
