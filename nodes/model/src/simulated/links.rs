//! How long ranks take to exchange something, from a few constants and the way in which the libraries move it.

/// A way from a rank to another.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Link {
    /// Of one rank, in each direction.
    pub bytes_per_second: f64,
    /// Seconds that a message takes beside its bytes.
    pub message: f64,
}

/// How a rank's part comes to all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// NCCL: from each to the next, in pieces, so that several parts are under way at once. Between machines with all of their adapters.
    Ring,
    /// Gloo: those that have it give it to as many others, again and again; the next part comes when all have this one.
    Tree,
}

/// The ways between ranks, which fill one machine after the other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Links {
    pub ranks_per_machine: u64,
    pub inside: Link,
    pub between: Link,
    /// Seconds until an exchange has begun.
    pub begin: f64,
    /// Seconds in which some numbers come from a rank to the next, which always goes by Gloo.
    pub hop: f64,
    pub way: Way,
}

impl Links {
    /// How many ranks the fullest and the emptiest machine have.
    fn machines(&self, ranks: u64) -> (u64, u64) {
        let full = self.ranks_per_machine.clamp(1, ranks);
        (full, if ranks.is_multiple_of(full) { full } else { ranks % full })
    }

    /// Each rank gives every other one a part of so many bytes. A rank's ways inside its machine and out of it work at the same time; the rank
    /// that has the most to do counts. By Gloo a processor copies what a rank sends in its machine and what it gets, one after the other.
    pub fn all_to_all(&self, ranks: u64, bytes: f64) -> f64 {
        let (full, least) = self.machines(ranks);
        let copied = if self.way == Way::Tree { 2.0 * bytes } else { bytes };
        let time = |link: &Link, parts: u64, bytes: f64| parts as f64 * (link.message + bytes / link.bytes_per_second);
        self.begin + time(&self.inside, full - 1, copied).max(time(&self.between, ranks - least, bytes))
    }

    /// Each rank in its turn gives so many bytes to all others.
    pub fn turns(&self, ranks: u64, bytes: f64) -> f64 {
        let (full, least) = self.machines(ranks);
        let count = ranks as f64;
        match self.way {
            Way::Ring => {
                let out = self.between.bytes_per_second * least as f64;
                let speed =
                    if ranks > full { self.inside.bytes_per_second.min(out) } else { self.inside.bytes_per_second };
                let machines = ranks.div_ceil(full);
                let way =
                    self.inside.message * (ranks - machines) as f64 + self.between.message * (machines - 1) as f64;
                count * (self.begin + bytes / speed) + way
            }
            Way::Tree => {
                let slowest = |link: &Link| link.message + bytes / link.bytes_per_second;
                let inside = slowest(&self.inside);
                let message = if ranks > full { inside.max(slowest(&self.between)) } else { inside };
                count * (self.begin + f64::from(levels(ranks)) * message)
            }
        }
    }

    /// All ranks get some numbers of each.
    pub fn numbers(&self, ranks: u64) -> f64 {
        (ranks - 1) as f64 * self.hop
    }

    /// Each rank in its turn gives some numbers to all others.
    pub fn numbers_in_turns(&self, ranks: u64) -> f64 {
        ranks as f64 * f64::from(levels(ranks)) * self.hop
    }
}

/// How often the ranks that have something double until all have it.
fn levels(ranks: u64) -> u32 {
    ranks.next_power_of_two().ilog2()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Powers of two, so that sums are exact.
    fn links(way: Way) -> Links {
        let (inside, between) =
            (Link { bytes_per_second: 64.0, message: 0.25 }, Link { bytes_per_second: 4.0, message: 1.0 });
        Links { ranks_per_machine: 8, inside, between, begin: 0.5, hop: 2.0, way }
    }

    #[test]
    fn parts_go_to_each_other_rank_by_the_way_to_its_machine() {
        let links = links(Way::Ring);
        // Seven parts of 64 bytes at 64 a second, with seven quarters of a second.
        assert_eq!(links.all_to_all(8, 64.0), 0.5 + 7.0 * 1.25);
        // Eight go out, at 4 a second, while seven stay.
        assert_eq!(links.all_to_all(16, 64.0), 0.5 + 8.0 * 17.0);
        // The ranks of the machine that is not full have more to send out.
        assert_eq!(links.all_to_all(12, 64.0), 0.5 + 8.0 * 17.0);
        assert_eq!(links.all_to_all(1, 64.0), 0.5);
        assert_eq!(self::links(Way::Tree).all_to_all(8, 64.0), 0.5 + 7.0 * 2.25);
    }

    #[test]
    fn a_ring_passes_on_and_a_tree_waits() {
        let (ring, tree) = (links(Way::Ring), links(Way::Tree));
        assert_eq!(ring.turns(8, 64.0), 8.0 * 1.5 + 7.0 * 0.25);
        // Out of a machine all eight ranks' ways together: 32 bytes a second.
        assert_eq!(ring.turns(16, 64.0), 16.0 * 2.5 + 14.0 * 0.25 + 1.0);
        assert_eq!(tree.turns(8, 64.0), 8.0 * (0.5 + 3.0 * 1.25));
        assert_eq!(tree.turns(9, 64.0), 9.0 * (0.5 + 4.0 * 17.0));
        assert_eq!((tree.numbers(4), tree.numbers_in_turns(4)), (6.0, 16.0));
    }
}
