//! Published checkpoints, in the order in which they arrived.
//!
//! Work on a checkpoint takes a long time. Calling [`Inbox::check`] between its batches keeps dora's queue empty, so
//! that no message is dropped, and detects at once that the run is ending.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use difflow_schema::Checkpoint;
use eyre::{Result, bail};

use crate::node::{Event, Node};

/// The work was cut short because the run ends. This is no failure.
#[derive(Debug, thiserror::Error)]
#[error("the run ends")]
pub struct Stopped;

/// Checkpoints that wait for their turn, and whether more may come.
#[derive(Default)]
pub struct Inbox {
    waiting: VecDeque<Checkpoint>,
    closed: bool,
    leave: bool,
}

/// What to do next.
#[derive(Debug, PartialEq)]
enum Turn {
    Work(Checkpoint),
    Wait,
    End,
}

impl Inbox {
    /// Returns the next checkpoint, or `None` if there will be none or the run ends before its turn. Errors if dora
    /// fails, or an input carries something else.
    pub fn next(&mut self, node: &mut Node) -> Result<Option<Checkpoint>> {
        self.collect(node)?;
        loop {
            match self.turn() {
                Turn::Work(checkpoint) => return Ok(Some(checkpoint)),
                Turn::End => return Ok(None),
                Turn::Wait => self.take(node.next(None)?)?,
            }
        }
    }

    /// Returns true if the run ends before its work is done: what is waiting is left undone.
    pub fn left(&self) -> bool {
        self.leave
    }

    /// Returns true if a checkpoint waits for its turn.
    pub fn waits(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Takes in what has arrived meanwhile. Errors with [`Stopped`] if the work at hand is to be left, otherwise as
    /// [`Inbox::next`].
    pub fn check(&mut self, node: &mut Node) -> Result<()> {
        self.collect(node)?;
        if self.leave { Err(Stopped.into()) } else { Ok(()) }
    }

    /// Waits that long, or until nothing more will be published: then nobody trains any more. Takes in what arrives meanwhile. Errors as
    /// [`Inbox::check`].
    pub fn rest(&mut self, node: &mut Node, time: Duration) -> Result<()> {
        let begin = Instant::now();
        while !self.closed && !self.leave {
            let left = time.saturating_sub(begin.elapsed());
            if left.is_zero() {
                break;
            }
            self.take(node.next(Some(left))?)?;
        }
        self.check(node)
    }

    fn collect(&mut self, node: &mut Node) -> Result<()> {
        loop {
            match node.next(Some(Duration::ZERO))? {
                Event::Timeout => return Ok(()),
                // An ended stream says so whenever it is asked.
                event @ Event::Stop { .. } => return self.take(event),
                event => self.take(event)?,
            }
        }
    }

    fn turn(&mut self) -> Turn {
        if self.leave {
            return Turn::End;
        }
        match self.waiting.pop_front() {
            Some(checkpoint) => Turn::Work(checkpoint),
            None if self.closed => Turn::End,
            None => Turn::Wait,
        }
    }

    fn take(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Message(received) if received.input != "published" => {
                bail!("there is no input `{}`; the node has one, `published`", received.input)
            }
            Event::Message(received) if received.fin => self.closed = true,
            Event::Message(received) => self.waiting.push_back(received.read()?),
            Event::Closed(input) => self.closed |= input == "published",
            Event::Stop { asked: false } => self.closed = true,
            Event::Stop { asked: true } | Event::Failed { .. } => self.leave = true,
            Event::Tick | Event::Timeout => {}
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::Heard;

    fn checkpoint(step: u64) -> Checkpoint {
        Checkpoint { step, path: String::new(), sha256: String::new(), bytes: 0, tokens_seen: 0 }
    }

    /// The last checkpoint comes together with the end of the run; it is the one that counts.
    #[test]
    fn what_was_published_before_the_end_is_still_worked_on() {
        for end in [Event::Closed("published".into()), Event::Stop { asked: false }] {
            let mut inbox = Inbox::default();
            inbox.waiting.extend([checkpoint(1), checkpoint(2)]);
            inbox.take(end).unwrap();
            assert_eq!(inbox.turn(), Turn::Work(checkpoint(1)));
            assert_eq!(inbox.turn(), Turn::Work(checkpoint(2)));
            assert_eq!(inbox.turn(), Turn::End);
        }
    }

    #[test]
    fn a_stop_or_a_failure_leaves_what_waits() {
        for end in [Event::Stop { asked: true }, Event::Failed { node: "trainer".into() }] {
            let mut inbox = Inbox::default();
            inbox.waiting.push_back(checkpoint(1));
            inbox.take(end).unwrap();
            assert_eq!(inbox.turn(), Turn::End);
        }
    }

    /// A day's rest is over as soon as nobody trains any more, and what came meanwhile is not lost.
    #[test]
    fn a_rest_ends_with_the_run() {
        let row = json!([{"step": 3, "path": "", "sha256": "", "bytes": 0, "tokens_seen": 0}]);
        let heard = Heard::default().message::<Checkpoint>("published", 0, row).unwrap().closed("published").unwrap();
        let (mut node, _said) = heard.node().unwrap();
        let mut inbox = Inbox::default();
        inbox.rest(&mut node, Duration::ZERO).unwrap();
        inbox.rest(&mut node, Duration::from_secs(86_400)).unwrap();
        assert!(inbox.closed);
        assert_eq!(inbox.turn(), Turn::Work(checkpoint(3)));
        let (mut node, _said) = Heard::default().stop().node().unwrap();
        let stopped = Inbox::default().rest(&mut node, Duration::from_secs(86_400)).unwrap_err();
        assert!(stopped.is::<Stopped>());
    }

    #[test]
    fn without_an_end_it_waits() {
        let mut inbox = Inbox::default();
        inbox.take(Event::Closed("another".into())).unwrap();
        assert_eq!(inbox.turn(), Turn::Wait);
    }
}
