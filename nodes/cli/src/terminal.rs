//! What the user sees: one progress line that is redrawn in place; everything else is printed line by line.

use std::io::{IsTerminal, Write, stderr, stdout};

/// The terminal, or the file or pipe that stands in for it.
pub struct Terminal {
    in_place: bool,
    progress_shown: bool,
}

impl Terminal {
    /// The one this program was started in.
    pub fn new() -> Self {
        Self { in_place: stdout().is_terminal(), progress_shown: false }
    }

    /// Shows a progress line; on a terminal the next one takes its place.
    pub fn progress(&mut self, text: &str) {
        if self.in_place {
            _ = write!(stdout(), "\r\x1b[2K{}", cut(text, width()));
            _ = stdout().flush();
            self.progress_shown = true;
        } else {
            _ = writeln!(stdout(), "{text}");
        }
    }

    /// Shows a line of the result on stdout.
    pub fn result(&mut self, text: &str) {
        self.clear();
        _ = writeln!(stdout(), "{text}");
    }

    /// Shows a line about the run on stderr.
    pub fn notice(&mut self, text: &str) {
        self.clear();
        _ = writeln!(stderr(), "{text}");
    }

    fn clear(&mut self) {
        if std::mem::take(&mut self.progress_shown) {
            _ = write!(stdout(), "\r\x1b[2K");
            _ = stdout().flush();
        }
    }
}

/// `difflow: error: TEXT`, in colour where stderr is a terminal and NO_COLOR is not set.
pub fn error(text: &str) -> String {
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()) || !stderr().is_terminal();
    let word = if plain { "error:" } else { "\x1b[1;31merror:\x1b[0m" };
    format!("difflow: {word} {text}")
}

/// `difflow: warning: TEXT`.
pub fn warning(text: &str) -> String {
    format!("difflow: warning: {text}")
}

/// Columns of the terminal on stdout; 80 when it does not say.
pub fn width() -> usize {
    let columns = rustix::termios::tcgetwinsize(stdout()).map_or(0, |size| size.ws_col);
    if columns == 0 { 80 } else { usize::from(columns) }
}

/// At most `width - 1` characters: a full line would wrap and could not be rewritten in place.
fn cut(text: &str, width: usize) -> String {
    text.chars().take(width.saturating_sub(1)).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_progress_line_never_wraps() {
        assert_eq!(super::cut("step 120/600", 8), "step 12");
        assert_eq!(super::cut("step", 80), "step");
    }
}
