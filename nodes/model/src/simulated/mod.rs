//! One optimizer step of several ranks, as it goes on: what a rank computes, what it exchanges meanwhile, and what it waits for.
//!
//! All ranks do the same at the same time, so one of them stands for all; an exchange lasts as long as it does for the rank with the most to send.
//! A rank has two things that work: what computes, and its way to the others, which does one exchange after the other in the order in which
//! they were asked for. The order is that of the modules `coming`, `gathered` and `ranks`. Left out: that ranks are not
//! equally fast, that their rows are of different kinds, checkpoints, and batches that come late.

pub mod links;

use crate::rank_memory::Team;
use crate::ranks::Sharding;
use links::{Links, Way};

/// Bytes of memory that are read and written for each value that ranks bring each other, beside the exchange: a copy, and the sum.
const BROUGHT: f64 = 20.0;
/// The same of each value that they give each other: a copy.
const GIVEN: f64 = 8.0;
/// Bytes of a value that is exchanged.
const VALUE: f64 = 4.0;
/// Times in a step that all ranks tell each other some numbers: whether they go on, what is to be divided by, and losses.
const TOLD: f64 = 3.0;

/// What a rank computes.
#[derive(Debug, Clone, PartialEq)]
pub struct Compute {
    /// Values of the parameters of the embeddings, of each block, of the last norm, and of the output head where it is a matrix of its own.
    pub units: Vec<Vec<u64>>,
    /// Seconds that each block takes of a micro-batch: forward and back.
    pub forward: Vec<f64>,
    pub back: Vec<f64>,
    /// Seconds of a micro-batch that the output head takes, both ways.
    pub head: f64,
    /// Seconds of an update of all weights.
    pub update: f64,
    /// Seconds in which a byte of memory is read or written.
    pub byte: f64,
}

impl Compute {
    fn blocks(&self) -> usize {
        self.forward.len()
    }

    /// The output head, or the embeddings that serve as one.
    fn head_unit(&self) -> usize {
        if self.units.len() > self.blocks() + 2 { self.blocks() + 2 } else { 0 }
    }

    fn values(&self, unit: usize) -> u64 {
        self.units[unit].iter().sum()
    }

    /// What is exchanged together as it comes, from the last to the first: how many values, and the first unit that has some of them, behind
    /// whose backward pass they are there. `least`: how many at least.
    fn together(&self, least: u64) -> Vec<(usize, u64)> {
        let (mut all, mut block) = (Vec::new(), None);
        for (unit, &values) in self.units.iter().enumerate().flat_map(|(unit, of)| of.iter().map(move |of| (unit, of)))
        {
            let (first, count) = block.unwrap_or((unit, 0));
            block = Some((first, count + values)).filter(|(_, count)| *count < least);
            if block.is_none() {
                all.push((first, count + values));
            }
        }
        all.extend(block);
        all.reverse();
        all
    }
}

/// What a step takes.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Simulated {
    pub seconds: f64,
    /// Of these, those in which a rank waits for an exchange.
    pub waiting: f64,
    /// What all ranks send, numbers beside it left out.
    pub bytes: f64,
}

/// A rank, as far as its step has come.
struct Rank<'a> {
    ranks: u64,
    /// Values that all exchange at a time.
    round: f64,
    links: &'a Links,
    compute: &'a Compute,
    now: f64,
    /// When the last exchange that was asked for ends.
    free: f64,
    /// When that of the gradients that were asked for last ends, which the rank adds up then.
    under_way: f64,
    waiting: f64,
    bytes: f64,
}

/// Something that is exchanged in rounds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Exchange {
    /// Of the links.
    seconds: f64,
    /// Of the rank, beside them.
    copying: f64,
    bytes: f64,
}

impl Rank<'_> {
    fn computes(&mut self, seconds: f64) {
        self.now += seconds;
    }

    /// Asks for an exchange, and returns when it ends. Of nothing there is none.
    fn starts(&mut self, exchange: Exchange) -> f64 {
        if exchange == Exchange::default() {
            return self.now;
        }
        self.computes(exchange.copying);
        self.bytes += exchange.bytes;
        self.free = self.free.max(self.now) + exchange.seconds;
        self.free
    }

    fn waits(&mut self, until: f64) {
        self.waiting += (until - self.now).max(0.0);
        self.now = self.now.max(until);
    }

    fn exchanges(&mut self, exchange: Exchange) {
        let end = self.starts(exchange);
        self.waits(end);
    }

    /// Asks for gradients, and then waits for those that were asked for before.
    fn brings(&mut self, exchange: Exchange) {
        let end = self.starts(exchange);
        self.settles();
        self.under_way = end;
    }

    /// Waits for the gradients that were asked for last.
    fn settles(&mut self) {
        self.waits(self.under_way);
    }

    /// All tell each other some numbers.
    fn tells(&mut self, times: f64) {
        self.exchanges(Exchange { seconds: times * self.links.numbers(self.ranks), ..Exchange::default() });
    }

    /// The parts of every rank of so many values, a round at a time; `seconds` is what one takes in which a part has so many bytes.
    fn rounds(&self, values: u64, copied: f64, seconds: impl Fn(f64) -> f64) -> Exchange {
        let part = values as f64 / self.ranks as f64;
        let round = self.round / self.ranks as f64;
        let whole = (part / round).floor();
        let rest = part - whole * round;
        let last = if rest > 0.0 { seconds(VALUE * rest) } else { 0.0 };
        let whole = if whole > 0.0 { whole * seconds(VALUE * round) } else { 0.0 };
        Exchange {
            seconds: whole + last,
            copying: copied * values as f64 * self.compute.byte,
            bytes: VALUE * values as f64 * (self.ranks - 1) as f64,
        }
    }

    /// Each rank gets its share of these values of every other one, and adds.
    fn bring(&self, values: u64) -> Exchange {
        self.rounds(values, BROUGHT, |bytes| self.links.all_to_all(self.ranks, bytes))
    }

    /// Each rank gives its share of these values to all others.
    fn give(&self, values: u64) -> Exchange {
        self.rounds(values, GIVEN, |bytes| self.links.turns(self.ranks, bytes))
    }

    /// Each rank gives its share of a unit's weights to all others, all of it at once.
    fn gather(&self, unit: usize) -> Exchange {
        let values = self.compute.values(unit) as f64;
        Exchange {
            seconds: self.links.turns(self.ranks, VALUE * values / self.ranks as f64),
            copying: GIVEN * values / self.ranks as f64 * self.compute.byte,
            bytes: VALUE * values * (self.ranks - 1) as f64,
        }
    }

    /// Computes a micro-batch, and exchanges nothing.
    fn passes(&mut self) {
        let Compute { forward, back, head, .. } = self.compute;
        self.computes(forward.iter().chain(back).sum::<f64>() + head);
    }

    /// A micro-batch whose gradients are exchanged as they come.
    fn passes_and_brings(&mut self, together: &[(usize, u64, Exchange)]) {
        let Compute { forward, back, head, .. } = self.compute;
        self.computes(forward.iter().sum::<f64>() + head);
        let mut left = together;
        for unit in (0..self.compute.units.len()).rev() {
            let (own, rest) = left.split_at(left.iter().take_while(|(first, ..)| *first == unit).count());
            left = rest;
            let all: u64 = own.iter().map(|(_, values, _)| values).sum();
            let seconds = unit.checked_sub(1).and_then(|block| back.get(block)).copied().unwrap_or(0.0);
            if own.is_empty() {
                self.computes(seconds);
            }
            for (_, values, exchange) in own {
                self.computes(if all > 0 { seconds * *values as f64 / all as f64 } else { seconds });
                self.brings(*exchange);
            }
        }
    }

    /// A micro-batch of a model whose weights are gathered before they are used, one unit ahead.
    fn gathers_and_brings(&mut self, gathers: &[Exchange], brings: &[Exchange]) {
        let Compute { forward, back, head, .. } = self.compute;
        let (blocks, head_unit) = (self.compute.blocks(), self.compute.head_unit());
        // Units in the order of a pass with what is computed, and those whose gradients are there after it.
        let mut order = vec![(0, 0.0)];
        order.extend(forward.iter().enumerate().map(|(block, seconds)| (block + 1, *seconds)));
        order.extend([(blocks + 1, 0.0), (head_unit, *head)]);
        let ahead = order.len();
        order.extend(back.iter().enumerate().rev().map(|(block, seconds)| (block + 1, *seconds)));
        self.tells(1.0);
        let mut coming = self.starts(gathers[0]);
        for (at, (unit, seconds)) in order.iter().enumerate() {
            self.waits(coming);
            if let Some((next, _)) = order.get(at + 1) {
                coming = self.starts(gathers[*next]);
            }
            // Where the way back begins, the gradients of what is behind the blocks are there.
            let behind = if at == ahead { blocks + 1..brings.len() } else { 0..0 };
            let own = if at >= ahead { *unit..*unit + 1 } else { 0..0 };
            for (computed, ready) in [(0.0, behind), (*seconds, own)] {
                self.computes(computed);
                for unit in ready.rev() {
                    self.brings(brings[unit]);
                }
            }
        }
        self.brings(brings[0]);
    }
}

/// A step of these ranks. Gradients are exchanged while a rank computes, and it waits for those of a block when it has asked for those of the
/// next.
pub fn step(team: Team, compute: &Compute, links: &Links) -> Simulated {
    let Team { ranks, micro_batches, sharding } = team;
    let own = micro_batches / ranks;
    let round = team.round() as f64;
    let mut rank = Rank { ranks, round, links, compute, now: 0.0, free: 0.0, under_way: 0.0, waiting: 0.0, bytes: 0.0 };
    if ranks == 1 {
        (0..own).for_each(|_| rank.passes());
        return Simulated { seconds: rank.now + compute.update, ..Simulated::default() };
    }
    let units = 0..compute.units.len();
    rank.tells(TOLD);
    let together = compute.together(team.round());
    let brought: Vec<_> = together.iter().map(|&(first, values)| (first, values, rank.bring(values))).collect();
    match sharding {
        Sharding::None | Sharding::Optimizer => {
            (1..own).for_each(|_| rank.passes());
            rank.passes_and_brings(&brought);
        }
        Sharding::Gradients => (0..own).for_each(|_| rank.passes_and_brings(&brought)),
        Sharding::Parameters => {
            let gathers: Vec<_> = units.clone().map(|unit| rank.gather(unit)).collect();
            let brings: Vec<_> = units.map(|unit| rank.bring(compute.values(unit))).collect();
            (0..own).for_each(|_| rank.gathers_and_brings(&gathers, &brings));
        }
    }
    rank.settles();
    let gives = |rank: &mut Rank| together.iter().for_each(|&(_, values)| rank.exchanges(rank.give(values)));
    if sharding == Sharding::None {
        gives(&mut rank);
        rank.computes(compute.update);
    } else {
        // The norm, which ranks on the CPU add up one after the other.
        rank.tells(1.0);
        if links.way == Way::Tree {
            rank.exchanges(Exchange { seconds: links.numbers_in_turns(ranks), ..Exchange::default() });
        }
        rank.computes(compute.update / ranks as f64);
    }
    if matches!(sharding, Sharding::Optimizer | Sharding::Gradients) {
        gives(&mut rank);
    }
    Simulated { seconds: rank.now, waiting: rank.waiting, bytes: rank.bytes }
}

#[cfg(test)]
mod tests;
