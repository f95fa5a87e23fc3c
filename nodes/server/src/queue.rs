//! Work that waits for the model: bounded, and fair between those who ask.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::worker::Work;

/// Lines of work, one for each client. Whoever comes next is the one whose turn is longest ago.
pub struct Queue {
    lines: Mutex<Lines>,
    changed: Condvar,
    capacity: usize,
}

#[derive(Default)]
struct Lines {
    lines: VecDeque<Line>,
    length: usize,
    ended: bool,
}

struct Line {
    client: String,
    work: VecDeque<Work>,
}

/// Why work is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    Full,
    Ended,
}

impl Queue {
    pub fn new(capacity: usize) -> Self {
        Self { lines: Mutex::default(), changed: Condvar::new(), capacity }
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes all of the work of a request, or none of it.
    pub fn push(&self, client: &str, work: Vec<Work>) -> Result<(), Refused> {
        let mut lines = self.lines();
        if lines.ended {
            return Err(Refused::Ended);
        }
        if lines.length + work.len() > self.capacity {
            // Those whom nobody waits for hold no place.
            lines.lines.iter_mut().for_each(|line| line.work.retain(Work::wanted));
            lines.lines.retain(|line| !line.work.is_empty());
            lines.length = lines.lines.iter().map(|line| line.work.len()).sum();
        }
        if lines.length + work.len() > self.capacity {
            return Err(Refused::Full);
        }
        lines.length += work.len();
        match lines.lines.iter_mut().find(|line| line.client == client) {
            Some(line) => line.work.extend(work),
            None => lines.lines.push_back(Line { client: client.to_owned(), work: work.into() }),
        }
        self.changed.notify_all();
        Ok(())
    }

    /// Takes out what comes next, if anything waits.
    pub fn pop(&self) -> Option<Work> {
        let mut lines = self.lines();
        let mut line = lines.lines.pop_front()?;
        let work = line.work.pop_front();
        lines.length -= usize::from(work.is_some());
        if !line.work.is_empty() {
            lines.lines.push_back(line);
        }
        work
    }

    /// How much waits.
    pub fn length(&self) -> usize {
        self.lines().length
    }

    /// Takes no more work; what waits is still done.
    pub fn end(&self) {
        self.lines().ended = true;
        self.changed.notify_all();
    }

    /// Wakes who waits.
    pub fn wake(&self) {
        drop(self.lines());
        self.changed.notify_all();
    }

    /// Waits until there is work, `woken` says so, or the end has come; returns whether it has, with nothing left to do.
    pub fn wait(&self, woken: impl Fn() -> bool) -> bool {
        let waits = |lines: &mut Lines| lines.length == 0 && !lines.ended && !woken();
        let lines = self.changed.wait_while(self.lines(), waits).unwrap_or_else(PoisonError::into_inner);
        lines.ended && lines.length == 0
    }

    /// Drops what waits.
    pub fn clear(&self) {
        let mut lines = self.lines();
        (lines.lines, lines.length) = (VecDeque::new(), 0);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::worker::tests::work;

    #[test]
    fn clients_take_turns_and_the_work_of_one_is_done_in_order() {
        let queue = Queue::new(9);
        let (mut works, mut kept) = (Vec::new(), Vec::new());
        for key in 0..6 {
            let (one, receiver) = work(key);
            works.push(one);
            kept.push(receiver);
        }
        let mut works = works.into_iter();
        queue.push("a", works.by_ref().take(3).collect()).unwrap();
        queue.push("b", works.by_ref().take(2).collect()).unwrap();
        queue.push("c", works.collect()).unwrap();
        let order: Vec<u64> = std::iter::from_fn(|| queue.pop()).map(|work| work.key()).collect();
        assert_eq!(order, [0, 3, 5, 1, 4, 2]);
        assert_eq!(queue.length(), 0);
    }

    #[test]
    fn a_request_is_taken_whole_or_not_and_who_is_gone_holds_no_place() {
        let queue = Queue::new(3);
        let (first, gone) = work(0);
        let (second, _kept) = work(1);
        queue.push("a", vec![first, second]).unwrap();
        let two = || vec![work(2).0, work(3).0];
        assert_eq!(queue.push("b", two()), Err(Refused::Full));
        assert_eq!(queue.length(), 2);
        drop(gone);
        queue.push("b", two()).unwrap();
        assert_eq!(queue.length(), 3);
        queue.end();
        assert_eq!(queue.push("b", vec![work(4).0]), Err(Refused::Ended));
        assert!(!queue.wait(|| false), "work is left");
        queue.clear();
        assert!(queue.wait(|| false));
    }
}
