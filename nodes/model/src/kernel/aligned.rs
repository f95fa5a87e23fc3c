//! Arrays of fp32 that begin with a cache line, so that a vector of a whole line is never in two of them.

use std::ops::{Deref, DerefMut};

/// Bytes of a line.
const LINE: usize = 64;

/// A fixed number of fp32, the first of which begins a cache line.
#[derive(Debug, Default)]
pub(crate) struct Aligned {
    numbers: Vec<f32>,
    start: usize,
    length: usize,
}

impl Aligned {
    pub fn zeros(length: usize) -> Self {
        let numbers = vec![0.0; length + LINE / size_of::<f32>() - 1];
        let start = numbers.as_ptr().align_offset(LINE);
        Self { numbers, start, length }
    }

    /// Makes it one of `length` numbers, of which nothing is known.
    pub fn resize(&mut self, length: usize) {
        if self.start + length <= self.numbers.len() {
            self.length = length;
        } else {
            *self = Self::zeros(length);
        }
    }
}

impl Deref for Aligned {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.numbers[self.start..self.start + self.length]
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.numbers[self.start..self.start + self.length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_begin_with_a_line() {
        let mut array = Aligned::default();
        assert!(array.is_empty());
        for length in [1, 16, 17, 1000, 3] {
            array.resize(length);
            array[length - 1] = length as f32;
            assert_eq!((array.len(), array.as_ptr().addr() % 64), (length, 0));
        }
        assert_eq!((Aligned::zeros(33).len(), Aligned::zeros(0).len()), (33, 0));
    }
}
