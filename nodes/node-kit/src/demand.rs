//! The requesting side of an edge: which batches are in flight, which have arrived, and which must be requested
//! again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use difflow_schema::{Demand, Message};
use eyre::Result;

use crate::{Node, Received};

/// The part of the batches that one of several askers gets: of every `of` batches, `count` from the `first`-th on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Batches that are shared out at a time.
    pub of: u64,
    /// The first of this asker's.
    pub first: u64,
    /// How many it gets; they divide `of`.
    pub count: u64,
}

impl Share {
    /// All batches.
    pub const WHOLE: Self = Self { of: 1, first: 0, count: 1 };

    /// Returns the batch that the asker's `own`-th is, counted from the first that is shared out.
    pub fn batch(self, own: u64) -> u64 {
        own / self.count * self.of + self.first + own % self.count
    }

    /// Returns how many of the first `batches` are the asker's.
    fn before(self, batches: u64) -> u64 {
        batches / self.of * self.count + (batches % self.of).saturating_sub(self.first).min(self.count)
    }
}

/// Pulls batches `first ..` in order from an upstream stage, with at most `window` of them requested and not yet taken.
///
/// dora may drop a message, so what does not arrive is requested again; a stage answers the same request with the same
/// batch. An edge keeps its order: a batch that is missing while a later one is here was lost, and is requested at
/// once. If nothing arrived at all, upstream may still be working: then `patience` must pass first, and twice as long
/// each further time, up to [`LONGEST`] times as long.
///
/// Where several pull from one stage, each has its [`Share`] of the batches; inside, they are counted from 0.
pub struct Puller<M> {
    input: &'static str,
    /// The first batch that is shared out.
    first: u64,
    share: Share,
    next: u64,
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

/// The longest time between two requests of the same batch, in times of patience: a request may be lost after any silence.
const LONGEST: u32 = 16;

impl<M: Message> Puller<M> {
    /// Returns a puller for `input` that starts at batch `first`.
    pub fn new(input: &'static str, first: u64, window: u32, patience: Duration) -> Self {
        Self {
            input,
            first,
            share: Share::WHOLE,
            next: 0,
            asked_until: 0,
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

    /// Returns a puller of a share of the batches from the first on. Call it before anything is asked for.
    pub fn of_share(self, share: Share) -> Self {
        Self { share, ..self }
    }

    /// Returns the number of the batch that [`Puller::take`] will return next.
    pub fn next_seq(&self) -> u64 {
        self.seq(self.next)
    }

    /// Returns the number of the `own`-th batch.
    fn seq(&self, own: u64) -> u64 {
        self.first + self.share.batch(own)
    }

    /// Returns true if the data ended and every batch has been taken.
    pub fn ended(&self) -> bool {
        self.end.is_some_and(|end| self.next >= end)
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
        let limit = (self.next + self.window).min(self.end.unwrap_or(u64::MAX));
        if self.asked_until >= limit {
            return Ok(());
        }
        if self.asked_until == self.next {
            self.last_news = Instant::now();
        }
        let from = std::mem::replace(&mut self.asked_until, limit);
        self.send(from, limit, send)
    }

    fn ask_again_with(&mut self, send: impl FnMut(u64, Demand) -> Result<()>) -> Result<()> {
        if self.asked_until <= self.next || self.held.contains_key(&self.next) {
            return Ok(());
        }
        let first_held = self.held.keys().next().copied();
        let gap = first_held.is_some() && self.gap != Some(self.next);
        if !gap {
            if self.last_news.elapsed() < self.silence {
                return Ok(());
            }
            self.silence = (2 * self.silence).min(LONGEST * self.patience);
        }
        self.gap = first_held.map(|_| self.next);
        self.last_news = Instant::now();
        self.repeats += 1;
        let until = first_held.unwrap_or(self.asked_until);
        self.send(self.next, until, send)
    }

    /// Asks for the own batches `from..until`: those whose numbers follow each other together.
    fn send(&mut self, from: u64, until: u64, mut send: impl FnMut(u64, Demand) -> Result<()>) -> Result<()> {
        let mut own = from;
        while own < until {
            let next_seq = self.seq(own);
            let count = (1..until - own).find(|&n| self.seq(own + n) != next_seq + n).unwrap_or(until - own);
            send(self.demands_sent, Demand { next_seq, count: count as u32 })?;
            self.demands_sent += 1;
            own += count;
        }
        Ok(())
    }

    /// Keeps a received batch. One that was taken before or is already held is ignored, and so are a prelude and, with a
    /// warning, one that was never requested. Errors if the content is not message `M`.
    pub fn accept(&mut self, received: &Received) -> Result<()> {
        if received.prelude {
            return Ok(());
        }
        if received.fin {
            let end = self.share.before(received.seq.saturating_sub(self.first));
            self.end = Some(self.end.unwrap_or(u64::MAX).min(end));
            self.last_news = Instant::now();
            return Ok(());
        }
        self.accept_with(received.seq, || received.read())
    }

    fn accept_with(&mut self, seq: u64, read: impl FnOnce() -> Result<M>) -> Result<()> {
        let own = seq.checked_sub(self.first).map(|batches| self.share.before(batches));
        let Some(own) = own.filter(|own| *own >= self.next && !self.held.contains_key(own)) else { return Ok(()) };
        if own >= self.next + self.window || self.seq(own) != seq {
            let last = self.seq(self.next + self.window - 1);
            // Seen once in many days, on a starved machine: dora gave a message of another input. It is of no use here, and whoever
            // misses it asks again.
            eprintln!(
                "warning: input `{}` got batch {seq}, which was not asked for; wanted at most {last}; it is left out",
                self.input
            );
            return Ok(());
        }
        self.held.insert(own, read()?);
        (self.last_news, self.silence) = (Instant::now(), self.patience);
        Ok(())
    }

    /// Returns the next batch in order, if it is here.
    pub fn take(&mut self) -> Option<M> {
        let batch = self.held.remove(&self.next)?;
        self.next += 1;
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
        // But not ever more: after a long silence a request may be lost, too.
        for times in [4, 8, 16, 16, 16] {
            wait(&mut p, (times - 1) * PATIENCE);
            assert!(asked_again(&mut p).is_empty(), "{times}");
            wait(&mut p, PATIENCE);
            assert_eq!(asked_again(&mut p), [(0, 2)], "{times}");
        }
        give(&mut p, 1);
        // A batch came: patience begins anew, and what is missing before it is asked for at once.
        assert_eq!(asked_again(&mut p), [(0, 1)]);
        wait(&mut p, PATIENCE);
        assert_eq!(asked_again(&mut p), [(0, 1)]);
    }

    /// Two that pull from one stage ask for each batch once, together for all, and neither for the other's.
    #[test]
    fn a_share_is_asked_for_and_taken_in_order() {
        let share = Share { of: 6, first: 3, count: 3 };
        let mut p = puller(10, 4).of_share(share);
        assert_eq!(asked(&mut p), [(13, 3), (19, 1)]);
        give(&mut p, 19);
        assert_eq!(asked_again(&mut p), [(13, 3)]);
        for (seq, next) in [(13, 14), (14, 15), (15, 19), (19, 20)] {
            assert_eq!(p.next_seq(), seq);
            give(&mut p, seq);
            assert_eq!((p.take().unwrap().next_seq, p.next_seq()), (seq, next));
        }
        assert_eq!(asked(&mut p), [(20, 2), (25, 2)]);
        p.accept_with(22, || unreachable!("another's")).unwrap();
        for (batches, own) in [(0, 0), (3, 0), (4, 1), (6, 3), (8, 3), (12, 6)] {
            assert_eq!(share.before(batches), own, "of the first {batches}");
        }
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
    fn a_batch_that_nobody_asked_for_is_left_out() {
        let mut p = puller(0, 2);
        asked(&mut p);
        p.accept_with(2, || unreachable!("it was not asked for")).unwrap();
        assert!(p.take().is_none());
    }
}
