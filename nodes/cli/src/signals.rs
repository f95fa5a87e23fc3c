//! Ctrl-C, SIGTERM and a closed terminal become one SIGINT to dora, which stops the run cleanly.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, Ordering};

use libc::{SIGHUP, SIGINT, SIGTERM, c_int, time_t};

/// A second signal within so many seconds is the same wish (`timeout` and some shells signal both a process and its group).
const SAME_WISH: time_t = 2;

static CHILD: AtomicI32 = AtomicI32::new(0);
static ASKED: AtomicBool = AtomicBool::new(false);
static LAST: AtomicI64 = AtomicI64::new(0);

/// Ends this process quietly when nobody reads its output any more (`| head`), as other commands do. Not for `run`, which has a child to stop.
pub fn end_on_broken_pipe() {
    // SAFETY: the default action needs no handler.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

/// Catches the signals from now on; [`hand_on_to`] says to whom they go.
pub fn catch() {
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        // SAFETY: the handler uses only atomics, time() and kill(), which are async-signal-safe.
        unsafe { libc::signal(signal, handle as *const () as libc::sighandler_t) };
    }
}

/// Hands signals on to process `pid`, also one that came before; 0 when the process is gone.
pub fn hand_on_to(pid: i32) {
    CHILD.store(pid, Ordering::SeqCst);
    if pid != 0 && asked() {
        interrupt(pid);
    }
}

/// Whether somebody asked for the end.
pub fn asked() -> bool {
    ASKED.load(Ordering::SeqCst)
}

/// Asks process `pid` to stop cleanly.
pub fn interrupt(pid: i32) {
    // SAFETY: kill takes two numbers; `pid` is our child and not yet waited for.
    unsafe { libc::kill(pid, SIGINT) };
}

extern "C" fn handle(_: c_int) {
    ASKED.store(true, Ordering::SeqCst);
    // SAFETY: time() with a null pointer only returns a number.
    let now = unsafe { libc::time(std::ptr::null_mut()) };
    let pid = CHILD.load(Ordering::SeqCst);
    if pid > 0 && now - LAST.swap(now, Ordering::SeqCst) >= SAME_WISH {
        interrupt(pid);
    }
}
