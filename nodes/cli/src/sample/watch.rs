//! `--watch`: the canvas as it is unmasked, block by block too; or drafts, and which of them are kept.

use std::io::{IsTerminal, Write, stdout};
use std::thread;
use std::time::Duration;

use difflow_inference::{Checked, Watched};
use difflow_text::Words;

use crate::terminal::width;

/// Time that a step stays on a terminal: the eye is slower than a small model.
const FRAME: Duration = Duration::from_millis(60);

/// The part of the terminal that shows the first text of a batch; a line a step where stdout is none.
pub struct Screen<'a> {
    words: &'a Words,
    on: bool,
    in_place: bool,
    tokens: Vec<Option<u32>>,
    /// Lines of the frame that is shown.
    lines: usize,
}

impl<'a> Screen<'a> {
    pub fn new(on: bool, words: &'a Words) -> Self {
        Self { words, on, in_place: stdout().is_terminal(), tokens: Vec::new(), lines: 0 }
    }

    /// Shows what a step did to text `number`.
    pub fn show(&mut self, number: usize, watched: &Watched) {
        if !self.on || number != 0 {
            return;
        }
        let frame = match watched {
            Watched::Revealed { canvas, open, reveals } => {
                if self.tokens.is_empty() {
                    let known = canvas.tokens.iter().zip(&canvas.masked);
                    self.tokens = known.map(|(&token, &masked)| (!masked).then_some(token)).collect();
                }
                for reveal in *reveals {
                    self.tokens[reveal.position as usize] = Some(reveal.token);
                }
                let new = |at: usize| reveals.iter().any(|reveal| reveal.position as usize == at);
                // Behind an open block there is nothing yet.
                frame(self.words, &self.tokens[..open.end.min(self.tokens.len())], &new, self.in_place)
            }
            Watched::Checked { prompt, checked } => {
                if self.tokens.is_empty() {
                    self.tokens = prompt.iter().copied().map(Some).collect();
                }
                let before = self.tokens.len();
                self.tokens.extend(checked.tokens.iter().copied().map(Some));
                let text = frame(self.words, &self.tokens, &|at| at >= before, self.in_place);
                format!("{text}{}", drafts(self.words, checked, self.in_place))
            }
        };
        if self.in_place {
            self.erase();
            println!("{frame}");
            self.lines = lines(&frame, width());
            _ = stdout().flush();
            thread::sleep(FRAME);
        } else {
            println!("{}", frame.replace('\n', "⏎"));
        }
    }

    /// Ends a batch: the frame makes way for the text.
    pub fn close(&mut self) {
        if self.in_place {
            self.erase();
        }
        self.tokens.clear();
    }

    fn erase(&mut self) {
        if self.lines > 0 {
            print!("\x1b[{}A\r\x1b[J", self.lines);
        }
        self.lines = 0;
    }
}

/// Known tokens as text, masked ones as `░`; with `colour` what is new is bold.
fn frame(words: &Words, tokens: &[Option<u32>], new: &dyn Fn(usize) -> bool, colour: bool) -> String {
    let state = |at: usize| (tokens[at].is_some(), new(at));
    let mut text = String::new();
    let places: Vec<usize> = (1..tokens.len()).collect();
    for part in places.chunk_by(|&a, &b| state(a) == state(b)) {
        let known: Vec<u32> = part.iter().filter_map(|&at| tokens[at]).filter(|token| *token != words.eos).collect();
        match state(part[0]) {
            (false, _) => text.extend(part.iter().map(|_| '░')),
            (true, fresh) => {
                // What cannot be shown alone (part of a letter) is shown with its neighbours, later.
                let shown = words.decode_inner(&known).unwrap_or_default();
                text.push_str(&if fresh && colour { format!("\x1b[1;32m{shown}\x1b[0m") } else { shown });
            }
        }
    }
    text
}

/// What the model drafted behind the text, and before it what it had drafted and did not keep; with `colour` dim, and red and struck out.
fn drafts(words: &Words, checked: &Checked, colour: bool) -> String {
    let shown = |ids: &[u32], sign: &str, style: &str| {
        let known: Vec<u32> = ids.iter().copied().filter(|id| *id != words.eos).collect();
        let text = words.decode_inner(&known).unwrap_or_default();
        match ids {
            [] => String::new(),
            _ if colour => format!("\x1b[{style}m{text}\x1b[0m"),
            _ => format!(" ⟨{sign}{text}⟩"),
        }
    };
    shown(&checked.rejected, "✗", "9;31") + &shown(&checked.drafts, "?", "2")
}

/// Lines that a text takes on a terminal of some columns, escape sequences not counted.
fn lines(text: &str, columns: usize) -> usize {
    let mut plain = String::new();
    let mut inside = false;
    for letter in text.chars() {
        match letter {
            '\x1b' => inside = true,
            'm' if inside => inside = false,
            _ if inside => {}
            _ => plain.push(letter),
        }
    }
    plain.split('\n').map(|line| line.chars().count().div_ceil(columns.max(1)).max(1)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrapped_lines_are_counted_without_colours() {
        assert_eq!(lines("abc", 80), 1);
        assert_eq!(lines("abc\n\nd", 80), 3);
        assert_eq!(lines("0123456789", 4), 3);
        assert_eq!(lines("\x1b[1;32m0123\x1b[0m", 4), 1);
    }
}
