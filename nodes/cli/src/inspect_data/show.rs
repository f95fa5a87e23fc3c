//! An example as text: what is given, what may be masked, and what is masked in this batch.

use difflow_text::Words;
use eyre::Result;

use crate::inspect_data::Example;

/// So many equal tokens in a row are counted and not repeated.
const MANY: usize = 4;

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    /// Seen, never masked, without loss.
    Given,
    /// Could have been masked.
    Maskable,
    /// Masked, and learned in this batch.
    Masked,
}

impl Class {
    /// A text of it; without colour in brackets.
    fn written(self, text: &str, colour: bool) -> String {
        match (self, colour) {
            (Self::Given, true) => format!("\x1b[2m{text}\x1b[0m"),
            (Self::Maskable, true) => format!("\x1b[32m{text}\x1b[0m"),
            (Self::Masked, true) => format!("\x1b[7;32m{text}\x1b[0m"),
            (Self::Given, false) => text.to_owned(),
            (Self::Maskable, false) => format!("⟦{text}⟧"),
            (Self::Masked, false) => format!("⟦▒{text}⟧"),
        }
    }
}

/// How the classes look.
pub fn legend(colour: bool) -> String {
    let all = [
        (Class::Given, "given, never masked, no loss"),
        (Class::Maskable, "learned"),
        (Class::Masked, "learned, and masked in this batch"),
    ];
    all.map(|(class, what)| class.written(what, colour)).join("  ")
}

/// A head line, and the text.
pub fn example(words: &Words, example: &Example, colour: bool) -> Result<String> {
    let class = |at: usize| match (example.maskable[at], example.masked[at]) {
        (_, true) => Class::Masked,
        (true, false) => Class::Maskable,
        (false, false) => Class::Given,
    };
    let learned = example.maskable.iter().filter(|&&maskable| maskable).count();
    let masked = example.masked.iter().filter(|&&masked| masked).count();
    let t = example.t.iter().sum::<f64>() / example.t.len().max(1) as f64;
    let mut text = format!(
        "batch {}, row {}, document {}: {} tokens given, {learned} learned, of which {masked} are masked (t {t:.2}), {} of padding behind\n",
        example.batch,
        example.row,
        example.document,
        example.tokens.len() - learned,
        example.padding
    );
    let places: Vec<usize> = (0..example.tokens.len()).collect();
    for part in places.chunk_by(|&a, &b| class(a) == class(b)) {
        let ids: Vec<u32> = part.iter().map(|&at| example.tokens[at]).collect();
        let mut shown = String::new();
        // Runs of one token, such as end tokens up to the end of a canvas, and what is between them.
        let mut between = Vec::new();
        for run in ids.chunk_by(|a, b| a == b) {
            if run.len() < MANY {
                between.extend_from_slice(run);
                continue;
            }
            shown += &words.decode_inner(&std::mem::take(&mut between))?;
            shown += &format!("{}×{}", words.decode_inner(&run[..1])?, run.len());
        }
        shown += &words.decode_inner(&between)?;
        text += &class(part[0]).written(&shown, colour);
    }
    Ok(text)
}
