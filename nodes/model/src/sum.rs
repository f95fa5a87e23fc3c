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

    /// Returns the sum of one tensor of all leaves and of one more leaf, whose other tensors are not there yet; in the memory of the leaves before.
    pub fn sum_with(&mut self, at: usize, last: Tensor) -> Result<Tensor, ModelError> {
        let mut left = self.0.iter_mut().rev().map(|(_, leaf)| std::mem::take(&mut leaf[at]));
        left.try_fold(last, |sum, left| Ok(added(vec![left], vec![sum])?.remove(0)))
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

/// A tree over flat leaves that come part by part, the same part of several leaves at a time. Its nodes are whole, in memory that is used
/// again: what is added to a node stays in the node's place.
#[derive(Debug)]
pub(crate) struct Parts {
    /// Elements of a leaf.
    count: i64,
    /// Of the nodes, from the left.
    levels: Vec<u32>,
    /// Those with the leaves whose parts are coming.
    coming: Vec<u32>,
    /// At least as many as there are levels.
    nodes: Vec<Tensor>,
}

impl Parts {
    pub fn new(count: usize) -> Self {
        Self { count: count as i64, levels: Vec::new(), coming: Vec::new(), nodes: Vec::new() }
    }

    /// Takes the elements from `begin` on of the next leaves, whose memory may change.
    pub fn push(&mut self, begin: usize, leaves: Vec<Tensor>) -> Result<(), ModelError> {
        let width = leaves.first().map_or(0, Tensor::numel) as i64;
        let part = |node: &Tensor| node.f_narrow(0, begin as i64, width);
        let mut tree = Tree::default();
        for (level, node) in self.levels.iter().zip(&self.nodes) {
            tree.0.push((*level, vec![part(node)?]));
        }
        leaves.into_iter().try_for_each(|leaf| tree.push(vec![leaf]))?;
        for (at, (_, sum)) in tree.0.iter().enumerate() {
            if at == self.nodes.len() {
                self.nodes.push(Tensor::f_empty([self.count], (sum[0].kind(), sum[0].device()))?);
            }
            // Sums are made in the memory of what is left of them, so a node that was there is in its place.
            let mut place = part(&self.nodes[at])?;
            if place.data_ptr() != sum[0].data_ptr() {
                place.f_copy_(&sum[0])?;
            }
        }
        self.coming = tree.0.iter().map(|(level, _)| *level).collect();
        Ok(())
    }

    /// All parts of the leaves are there.
    pub fn end(&mut self) {
        self.levels.clone_from(&self.coming);
    }

    /// Returns the sum of all leaves, and is empty then, but for the memory, which is that of the sum; `None` where there were none.
    pub fn take(&mut self) -> Result<Option<Tensor>, ModelError> {
        let nodes = self.levels.drain(..).zip(&self.nodes).map(|(level, node)| (level, vec![node.shallow_clone()]));
        let sum = Tree(nodes.collect()).take()?;
        self.coming.clear();
        Ok(sum.map(|mut sum| sum.remove(0)))
    }
}

/// Returns the most nodes that [`Parts`] keeps where so many leaves come so many at a time.
pub(crate) fn most_nodes(leaves: u64, at_a_time: u64) -> u64 {
    (1..=leaves / at_a_time).map(|times| u64::from((times * at_a_time).count_ones())).max().unwrap_or(0)
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

    #[test]
    fn a_last_leaf_may_come_tensor_by_tensor() {
        for count in 1..20 {
            let leaf =
                |number: usize| vec![Tensor::from_slice(&[value(number)]), Tensor::from_slice(&[value(number + 50)])];
            let mut tree = Tree::default();
            (1..count).for_each(|number| tree.push(leaf(number)).unwrap());
            for (at, last) in leaf(count).into_iter().enumerate().rev() {
                let sum = tree.sum_with(at, last).unwrap().double_value(&[0]) as f32;
                let values: Vec<f32> = (1..=count).map(|number| value(number + 50 * at)).collect();
                assert_eq!(sum.to_bits(), by_definition(&values).to_bits(), "{count}");
            }
        }
    }

    /// Two leaves at a time, three, or five, of nine elements, four at a time: what is added elsewhere must be the same sum.
    #[test]
    fn leaves_that_come_in_parts_are_added_in_the_same_tree() {
        for (at_a_time, count) in [(1, 7), (2, 6), (3, 12), (4, 12), (5, 15)] {
            let leaves: Vec<Vec<f32>> =
                (0..count).map(|leaf| (0..9).map(|at| value(9 * leaf + at)).collect()).collect();
            let mut parts = Parts::new(9);
            for round in 0..2 {
                for leaves in leaves.chunks(at_a_time) {
                    for begin in (0..9).step_by(4) {
                        let part = |leaf: &Vec<f32>| Tensor::from_slice(&leaf[begin..(begin + 4).min(9)]);
                        parts.push(begin, leaves.iter().map(part).collect()).unwrap();
                    }
                    parts.end();
                }
                let most = most_nodes(count as u64, at_a_time as u64) as usize;
                assert_eq!(parts.nodes.len(), most, "{count} in {at_a_time}: memory for other nodes");
                let sum = Vec::<f32>::try_from(parts.take().unwrap().unwrap()).unwrap();
                for (at, sum) in sum.iter().enumerate() {
                    let wanted = by_definition(&leaves.iter().map(|leaf| leaf[at]).collect::<Vec<_>>());
                    assert_eq!(sum.to_bits(), wanted.to_bits(), "{count} in {at_a_time}, {round}: element {at}");
                }
            }
            assert!(parts.take().unwrap().is_none());
        }
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
