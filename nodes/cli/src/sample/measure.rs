//! `difflow sample --measure`: quality of many ways to decode, each against the forwards it takes.

use std::time::Instant;

use difflow_model::{
    Budget, Caching, Canvas, Device, DiffusionDecoding, Generation, Model, Prompt, Reveals, Sampling, Score,
};
use difflow_text::{TextError, distinct, entropy, repetition};
use eyre::{Result, WrapErr, eyre};
use serde::Serialize;

use crate::sample::arguments::{Arguments, Checker};
use crate::sample::checkpoint::Checkpoint;
use crate::sample::output;
use crate::sample::picture;
use crate::sample::questions::{Question, every_second_sentence_hidden};
use crate::sample::writer::filling;

/// Forwards of the ways that have a number of steps.
const STEPS: [u32; 4] = [64, 32, 16, 8];
const THRESHOLDS: [f64; 4] = [0.95, 0.9, 0.8, 0.6];
/// Block length of the ways with a cache.
const BLOCK: usize = 32;

/// A way to decode.
struct Way {
    /// Name of its curve, and of its point on it.
    family: &'static str,
    setting: String,
    decoding: Decoding,
}

enum Decoding {
    Fill(Box<DiffusionDecoding>),
    /// The judge, from left to right.
    Ar,
}

/// What was measured of one way. A number that was not asked for is absent.
#[derive(Debug, Default, Serialize)]
pub struct Row {
    pub family: &'static str,
    pub setting: String,
    /// Forwards a text, in the mean.
    pub nfe: f64,
    /// Written tokens (end-of-text included) over the seconds of all batches.
    pub tokens_per_s: f64,
    pub pass_rate: Option<f64>,
    pub infill_exact_match: Option<f64>,
    pub infill_nfe: Option<f64>,
    /// Of stories of which every second sentence was hidden and written anew, those that the checker passes; and forwards a story.
    pub completed_pass_rate: Option<f64>,
    pub completed_nfe: Option<f64>,
    /// Of the texts, under the judge.
    pub perplexity: Option<f64>,
    pub distinct_1: f64,
    pub distinct_2: f64,
    pub distinct_3: f64,
    pub entropy: f64,
    pub repetition: f64,
}

/// Measures and prints; writes the picture.
///
/// # Errors
/// When the judge, the gaps or a text cannot be read or written.
pub fn run(arguments: &Arguments, checkpoint: &Checkpoint) -> Result<u8> {
    let device = Device::open(&arguments.device)?;
    let judge = arguments.judge.as_ref().map(|path| Model::load(path, device)).transpose()?;
    let mut gaps = arguments.gaps.as_ref().map_or(Ok(Vec::new()), |path| difflow_world::read_gaps(path))?;
    gaps.truncate(arguments.gap_count);
    let words = &checkpoint.words;
    let questions = gaps.iter().map(|gap| Question::new(gap, words)).collect::<Result<_, _>>()?;
    let mut unfinished = Vec::new();
    if arguments.checker == Checker::World {
        for (key, gap) in (0..).zip(&gaps) {
            unfinished.push(every_second_sentence_hidden(gap, words, key)?);
        }
    }
    let bench = Bench { arguments, checkpoint, judge: judge.as_ref(), questions, unfinished };
    let mut rows = Vec::new();
    if !arguments.json {
        println!("{}", heading());
    }
    for way in ways(arguments, checkpoint, judge.is_some()) {
        let row = bench.measure(&way)?;
        match arguments.json {
            true => println!("{}", serde_json::to_string(&row)?),
            false => println!("{}", line(&row)),
        }
        rows.push(row);
    }
    if let Some(path) = &arguments.picture {
        let svg = picture::draw(&rows).map_err(|e| eyre!("cannot draw the curves: {e}"))?;
        std::fs::write(path, svg).wrap_err_with(|| format!("--picture: cannot write {}", path.display()))?;
    }
    Ok(0)
}

/// Every way that is compared; the base model's own last.
fn ways(arguments: &Arguments, checkpoint: &Checkpoint, judge: bool) -> Vec<Way> {
    let mut ways = Vec::new();
    let stop = vec![checkpoint.words.eos];
    let mut add = |family, setting: String, reveals, change: &dyn Fn(&mut DiffusionDecoding)| {
        let mut options = filling(arguments, &checkpoint.model, reveals, stop.clone());
        (options.block, options.cache) = (None, Caching::None);
        change(&mut options);
        ways.push(Way { family, setting, decoding: Decoding::Fill(Box::new(options)) });
    };
    let (one, probability) = ("1 token/step", Score::Probability);
    let surest = |score| Reveals::Confidence { score, budget: Budget::PerStep(1) };
    add("first-hitting", one.into(), Reveals::FirstHitting, &|_| ());
    for steps in STEPS {
        add("random", format!("T={steps}"), Reveals::Random { steps }, &|_| ());
    }
    for (family, score) in [("probability", probability), ("margin", Score::Margin), ("entropy", Score::Entropy)] {
        add(family, one.into(), surest(score), &|_| ());
        for steps in STEPS {
            add(family, format!("T={steps}"), Reveals::Confidence { score, budget: Budget::Steps(steps) }, &|_| ());
        }
    }
    add("greedy", one.into(), surest(probability), &|options| options.sampling = Sampling::GREEDY);
    add("probability, blocks of 4", one.into(), surest(probability), &|options| options.block = Some(4));
    let mut sure = |family, window, change: &dyn Fn(&mut DiffusionDecoding)| {
        for threshold in THRESHOLDS {
            let reveals = Reveals::Threshold { score: probability, threshold, window };
            add(family, format!("τ={threshold}"), reveals, change);
        }
    };
    sure("threshold", None, &|_| ());
    sure("threshold, window of 4", Some(4), &|_| ());
    sure("threshold, blocks, dual cache", None, &|options| {
        (options.block, options.cache) = (Some(BLOCK), Caching::Dual)
    });
    if judge {
        ways.push(Way { family: "AR base", setting: "KV cache".into(), decoding: Decoding::Ar });
    }
    ways
}

struct Bench<'a> {
    arguments: &'a Arguments,
    checkpoint: &'a Checkpoint,
    judge: Option<&'a Model>,
    questions: Vec<Question>,
    /// Stories with hidden sentences.
    unfinished: Vec<Canvas>,
}

impl Bench<'_> {
    fn measure(&self, way: &Way) -> Result<Row> {
        let words = &self.checkpoint.words;
        let start = Instant::now();
        let (sequences, nfe) = self.texts(way)?;
        let seconds = start.elapsed().as_secs_f64();
        let texts = sequences.iter().map(|ids| output::text(words, ids)).collect::<Result<Vec<_>, TextError>>()?;
        let bodies: Vec<Vec<u32>> = sequences.iter().map(|ids| ids[1..].to_vec()).collect();
        let written: usize = bodies.iter().map(Vec::len).sum();
        let passed = || texts.iter().filter(|text| difflow_world::check(text).is_ok()).count() as f64;
        let distinct = |n| distinct(n, texts.iter().map(String::as_str));
        let infill = if self.questions.is_empty() { None } else { Some(self.infill(way)?) };
        let completed = self.completed(way)?;
        let count = sequences.len() as f64;
        Ok(Row {
            family: way.family,
            setting: way.setting.clone(),
            nfe: nfe as f64 / count,
            tokens_per_s: written as f64 / seconds,
            pass_rate: (self.arguments.checker == Checker::World).then(|| passed() / count),
            infill_exact_match: infill.map(|(share, _)| share),
            infill_nfe: infill.map(|(_, nfe)| nfe),
            completed_pass_rate: completed.map(|(share, _)| share),
            completed_nfe: completed.map(|(_, nfe)| nfe),
            perplexity: self.judge.map(|judge| judge.perplexity(&sequences, self.arguments.batch)).transpose()?,
            distinct_1: distinct(1),
            distinct_2: distinct(2),
            distinct_3: distinct(3),
            entropy: entropy(&bodies),
            repetition: repetition(&bodies),
        })
    }

    /// Texts from nothing, anchor first, and the forwards of all.
    fn texts(&self, way: &Way) -> Result<(Vec<Vec<u32>>, u64)> {
        let (arguments, bos) = (self.arguments, self.checkpoint.words.bos);
        let (mut sequences, mut nfe) = (Vec::new(), 0);
        let keys: Vec<u64> = (0..arguments.count).collect();
        for keys in keys.chunks(arguments.batch) {
            match (&way.decoding, self.judge) {
                (Decoding::Ar, Some(judge)) => {
                    let prompts: Vec<Prompt> = keys.iter().map(|&key| Prompt { tokens: vec![bos], key }).collect();
                    for text in judge.generate(&prompts, &self.generation(arguments.length.high))? {
                        nfe += u64::from(text.nfe);
                        sequences.push([vec![bos], text.tokens].concat());
                    }
                }
                (Decoding::Fill(options), _) => {
                    let length = |key| arguments.length.draw(arguments.seed, key);
                    let canvases: Vec<Canvas> =
                        keys.iter().map(|&key| Canvas::unconditional(bos, length(key), key)).collect();
                    for text in self.decode(&canvases, options)? {
                        nfe += u64::from(text.nfe);
                        sequences.push(text.tokens);
                    }
                }
                (Decoding::Ar, None) => {}
            }
        }
        Ok((sequences, nfe))
    }

    /// Share of the gaps that are filled with the answer (most probable tokens, its length given), and forwards a gap.
    fn infill(&self, way: &Way) -> Result<(f64, f64)> {
        let (mut right, mut nfe) = (0, 0);
        for questions in self.questions.chunks(self.arguments.batch) {
            match (&way.decoding, self.judge) {
                (Decoding::Ar, Some(judge)) => {
                    let prompt = |question: &Question| Prompt { tokens: question.left.clone(), key: 0 };
                    let prompts: Vec<Prompt> = questions.iter().map(prompt).collect();
                    let longest = questions.iter().map(|question| question.answer.len()).max().unwrap_or(0);
                    let options =
                        Generation { sampling: Sampling::GREEDY, stop: Vec::new(), ..self.generation(longest) };
                    for (question, text) in questions.iter().zip(judge.generate(&prompts, &options)?) {
                        right += usize::from(text.tokens[..question.answer.len()] == question.answer);
                        nfe += question.answer.len();
                    }
                }
                (Decoding::Fill(options), _) => {
                    let options = DiffusionDecoding { sampling: Sampling::GREEDY, ..(**options).clone() };
                    let canvases: Vec<Canvas> = questions.iter().map(Question::canvas).collect();
                    for (question, filled) in questions.iter().zip(self.decode(&canvases, &options)?) {
                        let start = question.left.len();
                        right += usize::from(filled.tokens[start..start + question.answer.len()] == question.answer);
                        nfe += filled.nfe as usize;
                    }
                }
                (Decoding::Ar, None) => {}
            }
        }
        let count = self.questions.len() as f64;
        Ok((right as f64 / count, nfe as f64 / count))
    }

    /// Share of the unfinished stories that the checker passes when they are filled, and forwards a story; nothing from left to
    /// right, where what follows a gap cannot be seen.
    fn completed(&self, way: &Way) -> Result<Option<(f64, f64)>> {
        let Decoding::Fill(options) = &way.decoding else { return Ok(None) };
        let (mut passed, mut nfe) = (0, 0);
        for canvases in self.unfinished.chunks(self.arguments.batch) {
            for filled in self.decode(canvases, options)? {
                nfe += filled.nfe;
                let text = output::text(&self.checkpoint.words, &filled.tokens)?;
                passed += usize::from(difflow_world::check(&text).is_ok());
            }
        }
        let count = self.unfinished.len() as f64;
        Ok((count > 0.0).then(|| (passed as f64 / count, f64::from(nfe) / count)))
    }

    fn decode(&self, canvases: &[Canvas], options: &DiffusionDecoding) -> Result<Vec<difflow_model::Decoded>> {
        Ok(self.checkpoint.model.decode(canvases, options)?)
    }

    fn generation(&self, max_new_tokens: usize) -> Generation {
        let Arguments { temperature, top_p, top_k, repetition_penalty, seed, .. } = *self.arguments;
        let sampling = Sampling { temperature, top_p, top_k, repetition_penalty };
        Generation { max_new_tokens, sampling, seed, stop: vec![self.checkpoint.words.eos] }
    }
}

fn heading() -> String {
    format!(
        "{:<30} {:<13} {:>6} {:>9} {:>6} {:>7} {:>6} {:>7} {:>6} {:>7} {:>6} {:>6} {:>6} {:>7} {:>6}",
        "decoder",
        "setting",
        "NFE",
        "tokens/s",
        "pass",
        "infill",
        "NFE",
        "compl.",
        "NFE",
        "perpl.",
        "dist-1",
        "dist-2",
        "dist-3",
        "entropy",
        "repet."
    )
}

fn line(row: &Row) -> String {
    let percent = |share: Option<f64>| share.map_or("-".to_owned(), |share| format!("{:.1}%", share * 100.0));
    let forwards = |nfe: Option<f64>| nfe.map_or("-".to_owned(), |nfe| format!("{nfe:.1}"));
    format!(
        "{:<30} {:<13} {:>6.1} {:>9.0} {:>6} {:>7} {:>6} {:>7} {:>6} {:>7} {:>6.3} {:>6.3} {:>6.3} {:>7.3} {:>6.3}",
        row.family,
        row.setting,
        row.nfe,
        row.tokens_per_s,
        percent(row.pass_rate),
        percent(row.infill_exact_match),
        forwards(row.infill_nfe),
        percent(row.completed_pass_rate),
        forwards(row.completed_nfe),
        row.perplexity.map_or("-".to_owned(), |value| format!("{value:.2}")),
        row.distinct_1,
        row.distinct_2,
        row.distinct_3,
        row.entropy,
        row.repetition,
    )
}
