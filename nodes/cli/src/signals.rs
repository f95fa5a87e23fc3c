//! Ctrl-C, SIGTERM and a closed terminal are turned into one SIGINT to dora, which stops the run cleanly.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{io, thread};

use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// A second signal within this time is the same wish (`timeout` and some shells signal both a process and its group).
const SAME_WISH: Duration = Duration::from_secs(2);

/// What was asked for, and who is to be told.
struct Wish {
    child: Option<Pid>,
    /// When somebody last asked for the end.
    asked: Option<Instant>,
}

static WISH: Mutex<Wish> = Mutex::new(Wish { child: None, asked: None });

fn wish() -> MutexGuard<'static, Wish> {
    WISH.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends this process quietly when nobody reads its output any more (`| head`), as other commands do. Not for `run`, which has a child to stop.
pub fn end_on_broken_pipe() {
    // SAFETY: the default action needs no handler.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

/// Catches the signals from now on; [`hand_on_to`] says to whom they go.
///
/// # Errors
/// When the system refuses a handler or a thread.
pub fn catch() -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    let hand_on = move || {
        for _ in signals.forever() {
            let mut wish = wish();
            let new = wish.asked.replace(Instant::now()).is_none_or(|before| before.elapsed() >= SAME_WISH);
            wish.child.filter(|_| new).into_iter().for_each(interrupt);
        }
    };
    thread::Builder::new().name("signals".into()).spawn(hand_on).map(drop)
}

/// Hands signals on to a child, also one that came before; to nobody when the child is gone.
pub fn hand_on_to(child: Option<Pid>) {
    let mut wish = wish();
    wish.child = child;
    child.filter(|_| wish.asked.is_some()).into_iter().for_each(interrupt);
}

/// Whether somebody asked for the end.
pub fn asked() -> bool {
    wish().asked.is_some()
}

/// Asks a child to stop cleanly.
pub fn interrupt(child: Pid) {
    // One that has just ended by itself needs no asking.
    _ = kill_process(child, Signal::INT);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use rustix::process::getpid;

    use super::*;

    /// A Ctrl-C while dora is being started must not be lost, nor end this program before dora has ended.
    #[test]
    fn a_signal_that_came_before_the_child_ends_the_child() {
        catch().unwrap();
        kill_process(getpid(), Signal::TERM).unwrap();
        while !asked() {
            thread::yield_now();
        }
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        hand_on_to(Some(Pid::from_child(&child)));
        assert_eq!(child.wait().unwrap().signal(), Some(SIGINT));
        hand_on_to(None);
    }
}
