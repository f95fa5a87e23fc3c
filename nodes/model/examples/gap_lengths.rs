//! Measures how the length of a gap is found: exact fillings (always the most probable token, the surest position first) where the
//! length is searched as [`Model::infill`] does, by the most probable filling alone, and where it is given; each over the gaps of a
//! file, and over stretches of the same texts that are drawn at every length.
//!
//! `cargo run --release -p difflow-model --example gap_lengths -- CHECKPOINT [GAPS] [COUNT]`, GAPS as data/tiny/infill.jsonl.

use std::error::Error;
use std::path::Path;

use difflow_diffusion::keyed;
use difflow_model::{Device, DiffusionDecoding, GapLength, Infilled, Model, Piece, Template};
use difflow_text::Words;
use rand::RngExt;
use serde_json::Value;

/// A text and the stretch of it that is hidden.
struct Question {
    left: Vec<u32>,
    answer: Vec<u32>,
    right: Vec<u32>,
}

impl Question {
    fn template(&self, least: usize, most: usize) -> Template {
        let pieces = vec![
            Piece::Tokens(self.left.clone()),
            Piece::Gap(GapLength { least, most }),
            Piece::Tokens(self.right.clone()),
        ];
        Template { pieces, key: 0 }
    }

    fn is_answered(&self, filled: &Infilled) -> bool {
        let start = self.left.len();
        filled.lengths[0] == self.answer.len() && filled.decoded.tokens[start..start + self.answer.len()] == self.answer
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let word = |at: usize, default: &str| words.get(at).map_or_else(|| default.to_owned(), Clone::clone);
    let (dir, gaps) = (word(0, "runs/tiny-diffusion/checkpoints/step-00001800"), word(1, "data/tiny/infill.jsonl"));
    let count: usize = word(2, "100").parse()?;
    let model = Model::load(Path::new(&dir), Device::Cpu)?;
    let config = model.config();
    let (bos, eos) = (config.bos_token_id.unwrap_or(0), config.eos_token_ids.first().copied().unwrap_or(0));
    let reader = Words::open(&Path::new(&dir).join("tokenizer.json"), bos, eos)?;
    let (mut given, mut drawn) = (Vec::new(), Vec::new());
    for (number, line) in std::fs::read_to_string(gaps)?.lines().take(count).enumerate() {
        let line: Value = serde_json::from_str(line)?;
        let text = |key: &str| line[key].as_str().unwrap_or_default();
        let left = [vec![bos], reader.encode(text("left"))?].concat();
        let answer = reader.encode_inner(text("answer"))?;
        let right = [reader.encode_inner(text("right"))?, vec![eos]].concat();
        let whole = [left.clone(), answer.clone(), right.clone()].concat();
        given.push(Question { left, answer, right });
        let length = 1 + number % 8;
        let start = keyed::rng(0, "gap", number as u64, 0).random_range(1..whole.len() - length);
        let (answer, right) = (whole[start..start + length].to_vec(), whole[start + length..].to_vec());
        drawn.push(Question { left: whole[..start].to_vec(), answer, right });
    }
    for (what, questions, most) in [("gaps of the file", given, 5), ("stretches of 1 to 8", drawn, 8)] {
        measure(&model, what, &questions, most)?;
    }
    Ok(())
}

fn measure(model: &Model, what: &str, questions: &[Question], most: usize) -> Result<(), Box<dyn Error>> {
    let shift = model.config().adapted.as_ref().is_none_or(|adapted| adapted.shift);
    let options = DiffusionDecoding::surest_first(shift);
    let infill = |templates: Vec<Template>| model.infill(&templates, &options, &mut |_, _| {});
    let mut right = [0; 3];
    let (mut nfe, mut lengths) = (0, 0);
    for part in questions.chunks(16) {
        let searched = infill(part.iter().map(|question| question.template(1, most)).collect())?;
        let told = infill(
            part.iter().map(|question| question.template(question.answer.len(), question.answer.len())).collect(),
        )?;
        let mut alone: Vec<(f64, bool)> = vec![(f64::NEG_INFINITY, false); part.len()];
        for length in 1..=most {
            let filled = infill(part.iter().map(|question| question.template(length, length)).collect())?;
            for ((question, filled), best) in part.iter().zip(&filled).zip(&mut alone) {
                let sum = filled.decoded.history.iter().map(|reveal| f64::from(reveal.probability).ln()).sum();
                if sum > best.0 {
                    *best = (sum, question.is_answered(filled));
                }
            }
        }
        for (((question, searched), told), alone) in part.iter().zip(&searched).zip(&told).zip(&alone) {
            right[0] += usize::from(question.is_answered(searched));
            right[1] += usize::from(alone.1);
            right[2] += usize::from(question.is_answered(told));
            lengths += usize::from(searched.lengths[0] == question.answer.len());
            nfe += searched.decoded.nfe;
        }
    }
    let count = questions.len() as f64;
    let share = |n: usize| 100.0 * n as f64 / count;
    println!(
        "{what} ({count}), lengths 1..{most}: exact {:.1} % searched ({:.1} % of the right length, {:.1} forwards), {:.1} % by the \
         filling alone, {:.1} % with the length given",
        share(right[0]),
        share(lengths),
        f64::from(nfe) / count,
        share(right[1]),
        share(right[2])
    );
    Ok(())
}
