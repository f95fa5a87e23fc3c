//! Reports which plug-in a process crashed in. A segmentation fault or an abort inside a plug-in cannot be caught,
//! but the user must learn which plug-in caused it: the handler writes one line and lets the signal take its course.

use std::cell::Cell;
use std::sync::Once;

/// The call at work on this thread, as text that outlives it: component and function.
#[derive(Clone, Copy)]
struct Current {
    id: (*const u8, usize),
    function: &'static str,
}

thread_local! {
    static CURRENT: Cell<Option<Current>> = const { Cell::new(None) };
}

const SIGNALS: [i32; 5] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGABRT];

/// While it lives, this thread is inside a plug-in.
pub struct Inside<'a> {
    before: Option<Current>,
    // The handler reads the id through a raw pointer.
    _id: &'a str,
}

impl<'a> Inside<'a> {
    /// Marks the thread; `id` names the component.
    pub fn enter(id: &'a str, function: &'static str) -> Self {
        install();
        let current = Current { id: (id.as_ptr(), id.len()), function };
        Self { before: CURRENT.replace(Some(current)), _id: id }
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        CURRENT.set(self.before);
    }
}

fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for signal in SIGNALS {
            // SAFETY: the handler is async-signal-safe; it runs on the alternate stack that std gives each thread, and once.
            unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = handle as *const () as usize;
                action.sa_flags = libc::SA_ONSTACK | libc::SA_RESETHAND | libc::SA_NODEFER;
                libc::sigaction(signal, &action, std::ptr::null_mut());
            }
        }
    });
}

extern "C" fn handle(signal: i32) {
    if let Some(current) = CURRENT.get() {
        // SAFETY: the id is alive while its `Inside` is, which is further up this very stack.
        let id = unsafe { std::slice::from_raw_parts(current.id.0, current.id.1) };
        let how = match signal {
            libc::SIGSEGV => "segmentation fault",
            libc::SIGBUS => "bus error",
            libc::SIGILL => "illegal instruction",
            libc::SIGFPE => "arithmetic fault",
            _ => "abort, as after a C++ exception that nobody caught",
        };
        for part in [
            b"error: plug-in component `",
            id,
            b"` crashed in ",
            current.function.as_bytes(),
            b" (",
            how.as_bytes(),
            b"); checkpoints already written are whole; try `difflow plugin check` on its library\n",
        ] {
            // SAFETY: write is async-signal-safe; a short write loses words, nothing else.
            unsafe { libc::write(2, part.as_ptr().cast(), part.len()) };
        }
    }
    // SAFETY: SA_RESETHAND restored the default action, which ends the process.
    unsafe { libc::raise(signal) };
}
