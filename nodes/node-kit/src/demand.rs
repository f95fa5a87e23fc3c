//! The requesting side of an edge: which batches are in flight, which have arrived, and which must be requested
//! again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use difflow_schema::{Demand, Message};
use eyre::{Result, bail};

use crate::{Node, Received};

/// Pulls batches `first ..` in order from an upstream stage, with at most `window` of them requested and not yet taken.
///
/// dora may drop a message, so what does not arrive is requested again; a stage answers the same request with the same
/// batch. An edge keeps its order: a batch that is missing while a later one is here was lost, and is requested at
/// once. If nothing arrived at all, upstream may still be working: then `patience` must pass first, and twice as long
/// each further time.
pub struct Puller<M> {
    input: &'static str,
    next_seq: u64,
    asked_until: u64,
    window: u64,
    patience: Duration,
    /// How long the current silence may last.
    silence: Duration,
    last_news: Instant,
    /// The missing batch that was requested again because a later one is here.
    gap: Option<u64>,
    held: BTreeMap<u64, M>,
    end: Option<u64>,
    demands_sent: u64,
    /// How often batches had to be requested again.
    pub repeats: u64,
}

impl<M: Message> Puller<M> {
    /// Returns a puller for `input` that starts at batch `first`.
    pub fn new(input: &'static str, first: u64, window: u32, patience: Duration) -> Self {
        Self {
            input,
            next_seq: first,
            asked_until: first,
            window: u64::from(window.max(1)),
            patience,
            silence: patience,
            last_news: Instant::now(),
            gap: None,
            held: BTreeMap::new(),
            end: None,
            demands_sent: 0,
            repeats: 0,
        }
    }

    /// Returns the number of the batch that [`Puller::take`] will return next.
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// Returns true if the data ended and every batch has been taken.
    pub fn ended(&self) -> bool {
        self.end.is_some_and(|end| self.next_seq >= end)
    }

    /// Requests on output `demand` what the window allows. Call it whenever a batch was taken. Errors if dora does not
    /// take the demand.
    pub fn ask(&mut self, node: &mut Node) -> Result<()> {
        self.ask_with(|seq, demand| node.send("demand", seq, &demand))
    }

    /// Requests again what was lost. Call it when everything that came in has been accepted and the next batch is not
    /// there. Errors if dora does not take the demand.
    pub fn ask_again(&mut self, node: &mut Node) -> Result<()> {
        self.ask_again_with(|seq, demand| node.send("demand", seq, &demand))
    }

    fn ask_with(&mut self, send: impl FnMut(u64, Demand) -> Result<()>) -> Result<()> {
        let limit = (self.next_seq + self.window).min(self.end.unwrap_or(u64::MAX));
        if self.asked_until >= limit {
            return Ok(());
        }
        let demand = Demand { next_seq: self.asked_until, count: (limit - self.asked_until) as u32 };
        if self.asked_until == self.next_seq {
            self.last_news = Instant::now();
        }
        self.asked_until = limit;
        self.send(demand, send)
    }

    fn ask_again_with(&mut self, send: impl FnMut(u64, Demand) -> Result<()>) -> Result<()> {
        if self.asked_until <= self.next_seq || self.held.contains_key(&self.next_seq) {
            return Ok(());
        }
        let first_held = self.held.keys().next().copied();
        let gap = first_held.is_some() && self.gap != Some(self.next_seq);
        if !gap {
            if self.last_news.elapsed() < self.silence {
                return Ok(());
            }
            self.silence *= 2;
        }
        self.gap = first_held.map(|_| self.next_seq);
        self.last_news = Instant::now();
        self.repeats += 1;
        let until = first_held.unwrap_or(self.asked_until);
        self.send(Demand { next_seq: self.next_seq, count: (until - self.next_seq) as u32 }, send)
    }

    fn send(&mut self, demand: Demand, mut send: impl FnMut(u64, Demand) -> Result<()>) -> Result<()> {
        send(self.demands_sent, demand)?;
        self.demands_sent += 1;
        Ok(())
    }

    /// Keeps a received batch. One that was taken before or is already held is ignored, and so is a prelude. Errors if
    /// the content is not message `M`, or the batch was never requested.
    pub fn accept(&mut self, received: &Received) -> Result<()> {
        if received.prelude {
            return Ok(());
        }
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
        (self.last_news, self.silence) = (Instant::now(), self.patience);
        Ok(())
    }

    /// Returns the next batch in order, if it is here.
    pub fn take(&mut self) -> Option<M> {
        let batch = self.held.remove(&self.next_seq)?;
        self.next_seq += 1;
        Some(batch)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use difflow_schema::Facts;

    use super::*;
    use crate::Event;
    use crate::testing::Heard;

    /// Longer than any pause of a busy machine: only [`wait`] makes it pass.
    const PATIENCE: Duration = Duration::from_secs(3600);

    /// Lets so much time pass.
    fn wait(puller: &mut Puller<Demand>, time: Duration) {
        puller.last_news -= time;
    }

    fn puller(first: u64, window: u32) -> Puller<Demand> {
        Puller::new("data", first, window, PATIENCE)
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

    fn asked_again(puller: &mut Puller<Demand>) -> Vec<(u64, u32)> {
        let mut out = Vec::new();
        puller
            .ask_again_with(|_, d| {
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
    fn a_batch_missing_before_a_later_one_is_asked_for_at_once_and_again_after_a_while() {
        let mut p = puller(0, 4);
        asked(&mut p);
        give(&mut p, 2);
        assert_eq!(asked_again(&mut p), [(0, 2)]);
        assert!(asked_again(&mut p).is_empty());
        wait(&mut p, PATIENCE);
        assert_eq!(asked_again(&mut p), [(0, 2)]);
        assert_eq!(p.repeats, 2);
        give(&mut p, 0);
        assert_eq!(p.take().unwrap().next_seq, 0);
        assert_eq!(asked_again(&mut p), [(1, 1)]);
        give(&mut p, 1);
        assert_eq!(p.take().unwrap().next_seq, 1);
        assert_eq!(p.take().unwrap().next_seq, 2);
    }

    /// Upstream may be at work on something long: the same question is not put every second.
    #[test]
    fn in_silence_everything_is_asked_for_again_ever_more_rarely() {
        let mut p = puller(0, 2);
        asked(&mut p);
        assert!(asked_again(&mut p).is_empty());
        wait(&mut p, PATIENCE);
        assert_eq!(asked_again(&mut p), [(0, 2)]);
        wait(&mut p, PATIENCE);
        assert!(asked_again(&mut p).is_empty(), "not yet: twice as long");
        wait(&mut p, PATIENCE);
        assert_eq!(asked_again(&mut p), [(0, 2)]);
        give(&mut p, 1);
        // A batch came: patience begins anew, and what is missing before it is asked for at once.
        assert_eq!(asked_again(&mut p), [(0, 1)]);
        wait(&mut p, PATIENCE);
        assert_eq!(asked_again(&mut p), [(0, 1)]);
    }

    /// Taken for batch 0, a step would be trained on no rows.
    #[test]
    fn a_prelude_is_no_batch() {
        let (mut node, _said) = Heard::default().prelude::<Demand>("data", &Facts::default()).unwrap().node().unwrap();
        let Event::Message(prelude) = node.next(None).unwrap() else { panic!("no message") };
        let mut p = puller(0, 2);
        asked(&mut p);
        p.accept(&prelude).unwrap();
        assert!(p.take().is_none() && !p.ended());
        give(&mut p, 0);
        assert!(p.take().is_some());
    }

    #[test]
    fn a_batch_that_nobody_asked_for_is_an_error() {
        let mut p = puller(0, 2);
        asked(&mut p);
        assert!(p.accept_with(2, || Ok(Demand { next_seq: 2, count: 1 })).is_err());
    }
}
