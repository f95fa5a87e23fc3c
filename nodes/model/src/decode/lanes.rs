//! Sequences that share the forwards of one decode: each has an id for the caller and a lane in the cache, and joins
//! and leaves independently.

/// Sequences by lane. A lane that is given up is used again by the next sequence.
#[derive(Debug)]
pub(crate) struct Lanes<T> {
    lanes: Vec<Option<(u64, T)>>,
    next: u64,
}

impl<T> Default for Lanes<T> {
    fn default() -> Self {
        Self { lanes: Vec::new(), next: 0 }
    }
}

impl<T> Lanes<T> {
    /// Takes a sequence; returns its id and its lane. Ids count from 0 and are never used again.
    pub fn join(&mut self, sequence: T) -> (u64, usize) {
        let id = self.next;
        self.next += 1;
        let lane = self.lanes.iter().position(Option::is_none).unwrap_or(self.lanes.len());
        if lane == self.lanes.len() {
            self.lanes.push(None);
        }
        self.lanes[lane] = Some((id, sequence));
        (id, lane)
    }

    /// Number of lanes in use or to be used again.
    pub fn count(&self) -> usize {
        self.lanes.len()
    }

    /// Lane, id and sequence of each.
    pub fn iter(&self) -> impl Iterator<Item = (usize, u64, &T)> {
        self.lanes.iter().enumerate().filter_map(|(lane, held)| held.as_ref().map(|(id, one)| (lane, *id, one)))
    }

    /// The same, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (usize, u64, &mut T)> {
        self.lanes.iter_mut().enumerate().filter_map(|(lane, held)| held.as_mut().map(|(id, one)| (lane, *id, one)))
    }

    /// Takes out the sequences that `leaves` says, in the order they joined.
    pub fn take(&mut self, leaves: impl Fn(u64, &T) -> bool) -> Vec<(u64, T)> {
        let leaving = |held: &mut Option<(u64, T)>| held.take_if(|(id, one)| leaves(*id, one));
        let mut taken: Vec<(u64, T)> = self.lanes.iter_mut().filter_map(leaving).collect();
        taken.sort_by_key(|(id, _)| *id);
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_is_used_again_and_an_id_is_not() {
        let mut lanes = Lanes::default();
        assert_eq!([lanes.join('a'), lanes.join('b'), lanes.join('c')], [(0, 0), (1, 1), (2, 2)]);
        assert_eq!(lanes.take(|id, _| id < 2), [(0, 'a'), (1, 'b')]);
        assert_eq!([lanes.join('d'), lanes.join('e'), lanes.join('f')], [(3, 0), (4, 1), (5, 3)]);
        assert_eq!(lanes.take(|_, _| true), [(2, 'c'), (3, 'd'), (4, 'e'), (5, 'f')]);
        assert_eq!((lanes.count(), lanes.iter().count()), (4, 0));
    }
}
