//! Sums that do not depend on who adds: gradients are added in a tree over the numbers of their micro-batches. Neighbours are added first,
//! then pairs of pairs; an odd last one goes up as it is. A part of the tree can be added elsewhere.

use tch::Tensor;

use crate::error::ModelError;

/// What is added: a tensor of each parameter. A gradient that is not there is undefined, and the other one is the sum.
pub(crate) type Leaf = Vec<Tensor>;

/// The leaves that came so far, added up as far as the tree allows: a binary counter, whose digits are sums of 2^level leaves.
#[derive(Debug, Default)]
pub(crate) struct Tree(Vec<(u32, Leaf)>);

impl Tree {
    /// Takes the next leaf, whose memory becomes that of the sum.
    pub fn push(&mut self, leaf: Leaf) -> Result<(), ModelError> {
        let mut node = (0, leaf);
        while let Some((_, left)) = self.0.pop_if(|(level, _)| *level == node.0) {
            node = (node.0 + 1, added(left, node.1)?);
        }
        self.0.push(node);
        Ok(())
    }

    /// Returns the sum of all leaves, and is empty then; `None` where there were none.
    pub fn take(&mut self) -> Result<Option<Leaf>, ModelError> {
        let Some((_, mut sum)) = self.0.pop() else { return Ok(None) };
        while let Some((_, left)) = self.0.pop() {
            sum = added(left, sum)?;
        }
        Ok(Some(sum))
    }

    /// Returns whether there is no leaf.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the same leaves in memory of their own.
    pub fn copied(&self) -> Result<Self, ModelError> {
        let copy = |(level, leaf): &(u32, Leaf)| Ok::<_, ModelError>((*level, copied(leaf)?));
        Ok(Self(self.0.iter().map(copy).collect::<Result<_, _>>()?))
    }
}

/// A leaf in memory of its own.
pub(crate) fn copied(leaf: &Leaf) -> Result<Leaf, ModelError> {
    let copy = |tensor: &Tensor| {
        if !tensor.defined() {
            return Ok(Tensor::new());
        }
        let mut copy = tensor.f_zeros_like()?;
        copy.f_copy_(tensor)?;
        Ok(copy)
    };
    leaf.iter().map(copy).collect()
}

/// left + right, in the memory of `left`.
fn added(left: Leaf, right: Leaf) -> Result<Leaf, ModelError> {
    let add = |(mut left, right): (Tensor, Tensor)| {
        if !left.defined() {
            return Ok(right);
        }
        if right.defined() {
            let _ = left.f_add_(&right)?;
        }
        Ok(left)
    };
    left.into_iter().zip(right).map(add).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// The sum of `leaves` by the definition, level by level.
    fn by_definition(leaves: &[f32]) -> f32 {
        let mut level = leaves.to_vec();
        while level.len() > 1 {
            level = level.chunks(2).map(|pair| pair.iter().copied().reduce(|a, b| a + b).unwrap()).collect();
        }
        level[0]
    }

    fn value(number: usize) -> f32 {
        ((number * 2_654_435_761) % 1013) as f32 * 1.1f32.powi(number as i32 % 40 - 20) - 300.0
    }

    fn sum(leaves: &[f32]) -> f32 {
        let mut tree = Tree::default();
        leaves.iter().for_each(|&leaf| tree.push(vec![Tensor::from_slice(&[leaf])]).unwrap());
        let sum = tree.take().unwrap().unwrap();
        assert!(tree.is_empty());
        sum[0].double_value(&[0]) as f32
    }

    /// One after the other gives other bits for most of these.
    #[test]
    fn leaves_are_added_in_pairs_and_parts_of_a_power_of_two_can_be_added_elsewhere() {
        let mut differs = 0;
        for count in 1..40 {
            let leaves: Vec<f32> = (0..count).map(value).collect();
            let whole = sum(&leaves);
            assert_eq!(whole.to_bits(), by_definition(&leaves).to_bits(), "{count}");
            for part in [1, 2, 4, 8].into_iter().filter(|part| count % part == 0) {
                let parts: Vec<f32> = leaves.chunks(part).map(sum).collect();
                assert_eq!(sum(&parts).to_bits(), whole.to_bits(), "{count} in parts of {part}");
            }
            differs += usize::from(leaves.iter().sum::<f32>().to_bits() != whole.to_bits());
        }
        assert!(differs > 10, "these numbers prove nothing");
    }

    /// A micro-batch without a loss has no gradients.
    #[test]
    fn a_gradient_that_is_not_there_adds_nothing() {
        let mut tree = Tree::default();
        for leaf in [Tensor::new(), Tensor::from_slice(&[-0.0f32]), Tensor::new()] {
            tree.push(vec![leaf]).unwrap();
        }
        let sum = tree.take().unwrap().unwrap();
        assert!(sum[0].double_value(&[0]).is_sign_negative(), "not 0 + −0, which is 0");
    }
}
