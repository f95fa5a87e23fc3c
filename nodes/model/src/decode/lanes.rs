//! Sequences that share the forwards of one decode: each has an id for the caller and a lane in the cache, and joins
//! and leaves independently.
//!
//! What has been read from left to right depends on nothing behind it, so a sequence that begins like another one, there or gone, takes
//! over the keys and values of what they have in common.

use std::collections::BTreeSet;

/// How a sequence is read from left to right. Sequences that are read alike have the same keys and values where they have the same tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Manner {
    /// Positions that see each other: 1 where each sees what stands before it alone.
    pub together: usize,
    /// What the rotary embedding goes by, where it goes by a length.
    pub rotary_length: Option<usize>,
}

/// A sequence of tokens, as far as it is read from left to right.
pub(crate) trait Reads {
    fn manner(&self) -> Manner;
    /// What may be taken over from others when it joins: its beginning, less what must be read for its first forward to answer anything.
    fn opening(&self) -> &[u32];
    /// What has been read.
    fn read(&self) -> &[u32];
    /// Takes so many of its first tokens as read.
    fn know(&mut self, count: usize);
}

/// Sequences by lane. A lane that is given up is used again by another sequence.
#[derive(Debug)]
pub(crate) struct Lanes<T> {
    lanes: Vec<Lane<T>>,
    next: u64,
    left: u64,
    known: u64,
}

#[derive(Debug)]
enum Lane<T> {
    Held(u64, T),
    Free(Left),
}

/// What a sequence left in its lane.
#[derive(Debug, Default)]
struct Left {
    read: Vec<u32>,
    manner: Manner,
    /// How many had left before.
    since: u64,
}

/// Where a sequence has its place, and what is known of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Joined {
    pub id: u64,
    pub lane: usize,
    /// Its first positions that have been read, in lane `from`.
    pub known: usize,
    pub from: usize,
}

impl<T> Default for Lanes<T> {
    fn default() -> Self {
        Self { lanes: Vec::new(), next: 0, left: 0, known: 0 }
    }
}

impl<T: Reads> Lanes<T> {
    /// Takes a sequence, which knows from now on what is known of it. Ids count from 0 and are never used again. Of the free lanes it gets
    /// the one that knows most of it, else the one that has been free for longest.
    pub fn join(&mut self, mut sequence: T) -> Joined {
        let known: Vec<usize> = self.lanes.iter().map(|lane| lane.knows(&sequence)).collect();
        let free = self.lanes.iter().enumerate().filter_map(|(lane, kept)| match kept {
            Lane::Free(left) => Some((lane, left.since)),
            Lane::Held(..) => None,
        });
        let best = free.min_by_key(|&(lane, since)| (usize::MAX - known[lane], since));
        let lane = best.map_or(self.lanes.len(), |(lane, _)| lane);
        let from = (0..known.len()).max_by_key(|&other| (known[other], other == lane)).unwrap_or(lane);
        let known = known.get(from).copied().unwrap_or(0);
        sequence.know(known);
        self.known += known as u64;
        let id = self.next;
        self.next += 1;
        if lane == self.lanes.len() {
            self.lanes.push(Lane::Held(id, sequence));
        } else {
            self.lanes[lane] = Lane::Held(id, sequence);
        }
        Joined { id, lane, known, from }
    }

    /// Tokens that were known of the sequences when they joined, of all so far.
    pub fn known(&self) -> u64 {
        self.known
    }

    /// The rotary lengths of the sequences that go on: each has a forward of its own.
    pub fn rotary_lengths(&self, goes_on: impl Fn(&T) -> bool) -> Vec<Option<usize>> {
        let going = self.iter().filter(|(_, _, one)| goes_on(one));
        let lengths: BTreeSet<_> = going.map(|(_, _, one)| one.manner().rotary_length).collect();
        lengths.into_iter().collect()
    }

    /// Number of lanes in use or to be used again.
    pub fn count(&self) -> usize {
        self.lanes.len()
    }

    /// Lane, id and sequence of each.
    pub fn iter(&self) -> impl Iterator<Item = (usize, u64, &T)> {
        self.lanes.iter().enumerate().filter_map(|(lane, kept)| match kept {
            Lane::Held(id, one) => Some((lane, *id, one)),
            Lane::Free(_) => None,
        })
    }

    /// The same, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (usize, u64, &mut T)> {
        self.lanes.iter_mut().enumerate().filter_map(|(lane, kept)| match kept {
            Lane::Held(id, one) => Some((lane, *id, one)),
            Lane::Free(_) => None,
        })
    }

    /// Takes out the sequences that `leaves` says, in the order they joined.
    pub fn take(&mut self, leaves: impl Fn(u64, &T) -> bool) -> Vec<(u64, T)> {
        let mut taken = Vec::new();
        for kept in &mut self.lanes {
            let Lane::Held(id, one) = kept else { continue };
            if !leaves(*id, one) {
                continue;
            }
            let left = Left { read: one.read().to_vec(), manner: one.manner(), since: self.left };
            self.left += 1;
            if let Lane::Held(id, one) = std::mem::replace(kept, Lane::Free(left)) {
                taken.push((id, one));
            }
        }
        taken.sort_by_key(|(id, _)| *id);
        taken
    }
}

impl<T: Reads> Lane<T> {
    /// How many of a sequence's first positions have been read here.
    fn knows(&self, sequence: &T) -> usize {
        let (read, manner) = match self {
            Self::Held(_, one) => (one.read(), one.manner()),
            Self::Free(left) => (left.read.as_slice(), left.manner),
        };
        if manner != sequence.manner() {
            return 0;
        }
        let common = read.iter().zip(sequence.opening()).take_while(|(a, b)| a == b).count();
        common - common % manner.together.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Text {
        tokens: &'static [u32],
        together: usize,
    }

    impl Reads for Text {
        fn manner(&self) -> Manner {
            Manner { together: self.together, rotary_length: None }
        }
        fn opening(&self) -> &[u32] {
            &self.tokens[..self.tokens.len() - 1]
        }
        fn read(&self) -> &[u32] {
            self.tokens
        }
        fn know(&mut self, _: usize) {}
    }

    fn text(tokens: &'static [u32]) -> Text {
        Text { tokens, together: 1 }
    }

    #[test]
    fn a_lane_is_used_again_and_an_id_is_not() {
        let mut lanes = Lanes::default();
        let join = |lanes: &mut Lanes<Text>| {
            let joined = lanes.join(text(&[1]));
            (joined.id, joined.lane)
        };
        let ids = |taken: Vec<(u64, Text)>| taken.into_iter().map(|(id, _)| id).collect::<Vec<_>>();
        assert_eq!([join(&mut lanes), join(&mut lanes), join(&mut lanes)], [(0, 0), (1, 1), (2, 2)]);
        assert_eq!(ids(lanes.take(|id, _| id < 2)), [0, 1]);
        assert_eq!([join(&mut lanes), join(&mut lanes), join(&mut lanes)], [(3, 0), (4, 1), (5, 3)]);
        assert_eq!(ids(lanes.take(|_, _| true)), [2, 3, 4, 5]);
        assert_eq!((lanes.count(), lanes.iter().count()), (4, 0));
    }

    /// Those that are there, too, and never the last token; the lane of the one that is gone is taken where it knows as much.
    #[test]
    fn what_a_sequence_has_in_common_with_another_is_known() {
        let mut lanes = Lanes::default();
        let known = |joined: Joined| (joined.lane, joined.from, joined.known);
        assert_eq!(known(lanes.join(text(&[1, 2, 3, 4]))), (0, 0, 0));
        assert_eq!(known(lanes.join(text(&[1, 2, 9, 9]))), (1, 0, 2));
        assert_eq!(known(lanes.join(text(&[1, 2, 3]))), (2, 1, 2));
        assert_eq!(lanes.take(|id, _| id != 1).len(), 2);
        // In lane 2 there is as much as in lane 0, which has been free for longer.
        assert_eq!(known(lanes.join(text(&[1, 2, 7]))), (0, 0, 2));
        // Nobody's beginning: the only free lane. Then the one that is held knows more than the free one.
        assert_eq!(known(lanes.join(text(&[5, 5]))), (2, 2, 0));
        assert_eq!(lanes.take(|id, _| id == 4).len(), 1);
        assert_eq!(known(lanes.join(text(&[1, 2, 9, 9, 3]))), (2, 1, 4));
    }

    #[test]
    fn only_whole_blocks_and_only_sequences_that_are_read_alike_are_known() {
        let mut lanes = Lanes::default();
        let blocks = |tokens| Text { tokens, together: 4 };
        lanes.join(blocks(&[1, 2, 3, 4, 5, 6, 7, 8, 9]));
        assert_eq!(lanes.join(blocks(&[1, 2, 3, 4, 5, 6, 7, 7, 7])).known, 4);
        assert_eq!(lanes.join(text(&[1, 2, 3, 4, 5])).known, 0);
    }
}
