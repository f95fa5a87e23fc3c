//! The asking side of an edge: which batches are on their way, which have come, and which must be asked for again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use difflow_schema::{Demand, Message};
use eyre::{Result, bail};

use crate::{Node, Received};

/// Pulls batches `first ..` in order from an upstream stage, with at most `window` asked for and not yet taken.
///
/// dora may drop a message; what does not come within `patience` is asked for again (a stage answers the same question
/// with the same batch). Only when dora itself reports nothing and upstream stays silent does the caller wait for ever: then
/// upstream is working, or its end closes the input.
pub struct Puller<M> {
    input: &'static str,
    next_seq: u64,
    asked_until: u64,
    window: u64,
    patience: Duration,
    last_news: Instant,
    held: BTreeMap<u64, M>,
    end: Option<u64>,
    demands_sent: u64,
    /// How often batches had to be asked for again.
    pub repeats: u64,
}

impl<M: Message> Puller<M> {
    /// A puller for `input`, starting at batch `first`.
    pub fn new(input: &'static str, first: u64, window: u32, patience: Duration) -> Self {
        Self {
            input,
            next_seq: first,
            asked_until: first,
            window: u64::from(window.max(1)),
            patience,
            last_news: Instant::now(),
            held: BTreeMap::new(),
            end: None,
            demands_sent: 0,
            repeats: 0,
        }
    }

    /// The number of the batch that [`Puller::take`] gives next.
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// True when every batch there is has been taken.
    pub fn ended(&self) -> bool {
        self.end.is_some_and(|end| self.next_seq >= end)
    }

    /// Asks on output `demand` for what the window allows, and again for what is overdue. Call it whenever a batch was taken and
    /// after every wait.
    ///
    /// # Errors
    /// When dora does not take the demand.
    pub fn ask(&mut self, node: &mut Node) -> Result<()> {
        self.ask_with(|seq, demand| node.send("demand", seq, &demand))
    }

    fn ask_with(&mut self, mut send: impl FnMut(u64, Demand) -> Result<()>) -> Result<()> {
        let overdue = self.asked_until > self.next_seq
            && !self.held.contains_key(&self.next_seq)
            && self.last_news.elapsed() >= self.patience;
        if overdue {
            self.asked_until = self.next_seq;
            self.repeats += 1;
        }
        let limit = (self.next_seq + self.window).min(self.end.unwrap_or(u64::MAX));
        if self.asked_until >= limit {
            return Ok(());
        }
        let demand = Demand { next_seq: self.asked_until, count: (limit - self.asked_until) as u32 };
        if self.asked_until == self.next_seq {
            self.last_news = Instant::now();
        }
        send(self.demands_sent, demand)?;
        self.demands_sent += 1;
        self.asked_until = limit;
        Ok(())
    }

    /// Keeps a received batch; one that was taken before, or is held already, is ignored.
    ///
    /// # Errors
    /// When the content is not message `M`, or the batch was never asked for.
    pub fn accept(&mut self, received: &Received) -> Result<()> {
        if received.fin {
            self.end = Some(self.end.unwrap_or(u64::MAX).min(received.seq));
            self.last_news = Instant::now();
            return Ok(());
        }
        self.accept_with(received.seq, || received.read())
    }

    fn accept_with(&mut self, seq: u64, read: impl FnOnce() -> Result<M>) -> Result<()> {
        if seq < self.next_seq || self.held.contains_key(&seq) {
            return Ok(());
        }
        if seq >= self.next_seq + self.window {
            bail!(
                "input `{}` got batch {seq}, which was not asked for; wanted at most {}",
                self.input,
                self.next_seq + self.window - 1
            );
        }
        self.held.insert(seq, read()?);
        self.last_news = Instant::now();
        Ok(())
    }

    /// The next batch in order, if it is here.
    pub fn take(&mut self) -> Option<M> {
        let batch = self.held.remove(&self.next_seq)?;
        self.next_seq += 1;
        Some(batch)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn puller(first: u64, window: u32) -> Puller<Demand> {
        Puller::new("data", first, window, Duration::from_millis(20))
    }

    fn asked(puller: &mut Puller<Demand>) -> Vec<(u64, u32)> {
        let mut out = Vec::new();
        puller
            .ask_with(|_, d| {
                out.push((d.next_seq, d.count));
                Ok(())
            })
            .unwrap();
        out
    }

    fn give(puller: &mut Puller<Demand>, seq: u64) {
        puller.accept_with(seq, || Ok(Demand { next_seq: seq, count: 1 })).unwrap();
    }

    #[test]
    fn never_more_than_the_window_is_asked_for() {
        let mut p = puller(5, 3);
        assert_eq!(asked(&mut p), [(5, 3)]);
        assert!(asked(&mut p).is_empty());
        give(&mut p, 5);
        assert!(asked(&mut p).is_empty());
        assert_eq!(p.take().unwrap().next_seq, 5);
        assert_eq!(asked(&mut p), [(8, 1)]);
    }

    /// Out of order, twice, late: the taker sees 0, 1, 2, … once each.
    #[test]
    fn batches_are_taken_once_and_in_order() {
        let mut p = puller(0, 4);
        asked(&mut p);
        for seq in [2, 0, 0, 1, 2, 3] {
            give(&mut p, seq);
        }
        let taken: Vec<u64> = std::iter::from_fn(|| p.take()).map(|d| d.next_seq).collect();
        assert_eq!(taken, [0, 1, 2, 3]);
        give(&mut p, 1);
        assert!(p.take().is_none());
    }

    #[test]
    fn what_does_not_come_is_asked_for_again() {
        let mut p = puller(0, 2);
        asked(&mut p);
        give(&mut p, 1);
        std::thread::sleep(Duration::from_millis(25));
        assert_eq!(asked(&mut p), [(0, 2)]);
        assert_eq!(p.repeats, 1);
        give(&mut p, 0);
        assert_eq!(p.take().unwrap().next_seq, 0);
        assert_eq!(p.take().unwrap().next_seq, 1);
    }

    #[test]
    fn a_batch_that_nobody_asked_for_is_an_error() {
        let mut p = puller(0, 2);
        asked(&mut p);
        assert!(p.accept_with(2, || Ok(Demand { next_seq: 2, count: 1 })).is_err());
    }
}
