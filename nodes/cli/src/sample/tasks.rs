//! What is to be generated: text from nothing, after prompts, in gaps.

use std::path::Path;

use difflow_inference::{GapLength, Piece, Pieces, Session, Template};
use difflow_text::{Lengths, Part, parse_gaps};
use eyre::{Result, WrapErr, bail, eyre};
use serde::Deserialize;

use crate::sample::arguments::Arguments;

/// One text to be made.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// Number of the prompt, and of the text of this prompt.
    pub prompt_number: u64,
    pub number: u64,
    /// What was given, as it was given.
    pub prompt: String,
    /// Tokens and gaps, the anchor first.
    pub pieces: Vec<Piece>,
    /// Bounds of a free end, drawn per text.
    end: Option<Lengths>,
    seed: u64,
    /// What about the prompt is probably not meant.
    pub doubt: Option<String>,
}

/// A line of --prompts.
#[derive(Deserialize)]
struct Line {
    prompt: Option<String>,
    infill: Option<String>,
    left: Option<String>,
    right: Option<String>,
}

/// The tasks that the arguments ask for, one a prompt.
///
/// # Errors
/// When a file, a line or a gap cannot be read.
pub fn read(arguments: &Arguments, seed: u64, session: &Session) -> Result<Vec<Task>> {
    let parts = match (&arguments.prompts, &arguments.infill) {
        (Some(path), _) => lines(path)?,
        (_, Some(infill)) => vec![(infill.clone(), parse_gaps(infill)?)],
        _ => {
            let prompt = arguments.prompt.clone().unwrap_or_default();
            vec![(prompt.clone(), continued(&prompt))]
        }
    };
    let texts = (0..).zip(parts);
    texts
        .map(|(number, (prompt, parts))| Ok(Task { seed, ..Task::new(number, prompt, &parts, arguments, session)? }))
        .collect()
}

/// Most tokens that a piece can have.
fn longest(piece: &Piece) -> usize {
    match piece {
        Piece::Tokens(tokens) => tokens.len(),
        Piece::Gap(gap) => gap.most,
    }
}

/// A prompt with its free end.
fn continued(prompt: &str) -> Vec<Part> {
    let text = (!prompt.is_empty()).then(|| Part::Text(prompt.to_owned()));
    text.into_iter().chain([Part::Gap(None)]).collect()
}

fn lines(path: &Path) -> Result<Vec<(String, Vec<Part>)>> {
    let text = std::fs::read_to_string(path).wrap_err_with(|| format!("--prompts: cannot read {}", path.display()))?;
    let filled = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
    let all: Vec<_> = filled
        .map(|(number, line)| parts(line).wrap_err_with(|| format!("{}, line {number}", path.display())))
        .collect::<Result<_>>()?;
    if all.is_empty() {
        bail!("--prompts: {} has no lines", path.display());
    }
    Ok(all)
}

fn parts(line: &str) -> Result<(String, Vec<Part>)> {
    let line: Line = serde_json::from_str(line)?;
    match line {
        Line { prompt: Some(prompt), infill: None, left: None, right: None } => {
            let parts = continued(&prompt);
            Ok((prompt, parts))
        }
        Line { infill: Some(infill), prompt: None, left: None, right: None } => {
            let parts = parse_gaps(&infill)?;
            Ok((infill, parts))
        }
        Line { left: Some(left), right: Some(right), prompt: None, infill: None } => {
            let shown = format!("{left} [MASK]{right}");
            Ok((shown, vec![Part::Text(left), Part::Gap(None), Part::Text(right)]))
        }
        _ => Err(eyre!("allowed: {{\"prompt\": …}}, {{\"infill\": …}} or {{\"left\": …, \"right\": …}}")),
    }
}

impl Task {
    fn new(number: u64, prompt: String, parts: &[Part], arguments: &Arguments, session: &Session) -> Result<Self> {
        let Pieces { pieces, end, mut doubt } =
            session.pieces(parts, arguments.gap_length, |room| arguments.length(room))?;
        if parts.iter().all(|part| matches!(part, Part::Text(_))) {
            doubt = Some(format!("there is no gap in `{prompt}`"));
        }
        Ok(Self { prompt_number: number, number: 0, prompt, pieces, end, seed: 0, doubt })
    }

    /// The same task `count` times, each with its own random numbers and, with a free end, its own length.
    pub fn copies(&self, count: u64) -> impl Iterator<Item = Self> + '_ {
        (0..count).map(|number| {
            let mut copy = Self { number, ..self.clone() };
            if let (Some(lengths), Some(Piece::Gap(gap))) = (self.end, copy.pieces.last_mut()) {
                let length = lengths.draw(self.seed, self.prompt_number << 32 | number);
                *gap = GapLength { least: length, most: length };
            }
            copy
        })
    }

    /// As the model takes it. The key does not depend on how many texts or prompts there are.
    pub fn template(&self) -> Template {
        Template { pieces: self.pieces.clone(), key: self.prompt_number << 32 | self.number }
    }

    /// Most tokens that the text can have.
    pub fn longest(&self) -> usize {
        self.pieces.iter().map(longest).sum()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_prompt_a_text_with_gaps_or_two_sides() {
        assert_eq!(parts("{\"prompt\": \"a\"}").unwrap().1, [Part::Text("a".into()), Part::Gap(None)]);
        assert_eq!(parts("{\"prompt\": \"\"}").unwrap().1, [Part::Gap(None)]);
        assert_eq!(parts("{\"infill\": \"a [MASK]\"}").unwrap().1, [Part::Text("a".into()), Part::Gap(None)]);
        let sides = parts("{\"id\": 3, \"left\": \"a\", \"answer\": \"b\", \"right\": \" c\"}").unwrap();
        assert_eq!(sides.1, [Part::Text("a".into()), Part::Gap(None), Part::Text(" c".into())]);
        for wrong in ["{}", "{\"prompt\": \"a\", \"infill\": \"b\"}", "{\"left\": \"a\"}", "text"] {
            assert!(parts(wrong).is_err(), "{wrong}");
        }
    }
}
