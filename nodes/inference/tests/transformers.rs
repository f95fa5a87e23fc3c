//! Checkpoints of every family, trained for full, block and hybrid diffusion, in plain `transformers`: the same logits and the same greedy
//! texts. `DIFFLOW_PYTHON` names a Python that has it; without one this says what it skips.
#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use difflow_inference::{Decoding, GapLength, GoOn, InferenceError, Piece, Session, Template, tiny};
use difflow_model::{Blocks, Context, Device, Family, Model, Objective, Pattern};
use difflow_tests::skip;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

const SIZE: usize = 4;
const MASK: u32 = 37;
const SENTENCE: &str = "a text, [read] twice.";

/// What a checkpoint was trained for.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Full,
    Block,
    Hybrid,
}

/// A checkpoint in a folder, and what both sides are asked of it.
struct Checkpoint {
    dir: TempDir,
    /// Where `transformers` saves what it has read.
    saved: TempDir,
    title: String,
    kind: Kind,
    shift: bool,
    asks: Vec<Ask>,
    texts: Vec<Text>,
}

struct Ask {
    ids: Vec<u32>,
    attention: Option<&'static str>,
    /// Positions of padding before the row.
    pad: usize,
}

struct Text {
    /// Mask tokens are gaps.
    ids: Vec<u32>,
    /// Most new tokens; `None`: as many as the checkpoint says.
    most: Option<usize>,
    /// By the names of a command line.
    options: Value,
}

impl Kind {
    fn objective(self, shift: bool) -> Objective {
        let blocks = |context, ar_weight| Objective::Block(Blocks { size: SIZE, context, shift, ar_weight });
        match self {
            Self::Full => Objective::Diffusion { shift },
            Self::Block => blocks(Context::Block, 0.0),
            Self::Hybrid => blocks(Context::Causal, 0.5),
        }
    }

    /// The pattern that `attention` of the Python file names, of a row with these tokens.
    fn pattern(self, attention: Option<&str>, ids: &[u32]) -> Pattern {
        match (attention, self) {
            (Some("causal"), _) => Pattern::Causal,
            (Some("full"), _) | (None, Self::Full) => Pattern::Full,
            (_, Self::Block) => Pattern::Block { size: SIZE },
            (_, Self::Full | Self::Hybrid) => {
                let open = |block: usize| ids.chunks(SIZE).nth(block).unwrap().contains(&MASK);
                let sees = |i: usize, j: usize| j <= i || (i / SIZE == j / SIZE && open(i / SIZE));
                let pairs = (0..ids.len()).flat_map(|i| (0..ids.len()).map(move |j| (i, j)));
                Pattern::Explicit { visible: Arc::from(pairs.map(|(i, j)| sees(i, j)).collect::<Vec<_>>()) }
            }
        }
    }
}

fn ids(length: u32, salt: u32) -> Vec<u32> {
    std::iter::once(1).chain((1..length).map(|i| 3 + (7 * i * i + 5 * i + salt) % 34)).collect()
}

fn with_gaps(mut ids: Vec<u32>, gaps: &[usize]) -> Vec<u32> {
    gaps.iter().for_each(|&at| ids[at] = MASK);
    ids
}

impl Checkpoint {
    fn write(number: usize, title: &str, config: &Value, kind: Kind) -> Self {
        let (shift, dir, base) = (number.is_multiple_of(2), TempDir::new().unwrap(), TempDir::new().unwrap());
        let mut config = config.clone();
        config["initializer_range"] = json!(0.3);
        std::fs::write(base.path().join("config.json"), config.to_string()).unwrap();
        std::fs::write(base.path().join("tokenizer.json"), tiny::tokenizer().to_string()).unwrap();
        let mut model = Model::initialise(base.path(), 7 + number as u64, Device::Cpu).unwrap();
        model.add_mask_token(7).unwrap();
        model.set_objective(kind.objective(shift));
        // What it says itself is greedy, so that a text without options is, too.
        let own = match kind {
            Kind::Full => json!({"DECODER": "threshold", "THRESHOLD": 0.3, "TEMPERATURE": 0.0}),
            Kind::Block | Kind::Hybrid => json!({"TEMPERATURE": 0.0, "THRESHOLD": 0.4}),
        };
        model.set_generation(own.as_object().unwrap().clone()).unwrap();
        model.save(dir.path()).unwrap();
        tiny::write_origin(dir.path(), None, |origin| {
            origin.sequence_length = 23;
            origin.canvas = (kind == Kind::Full && number.is_multiple_of(3)).then_some(19);
            origin.blocks = (kind != Kind::Full).then(|| if kind == Kind::Block { "4" } else { "4:3,row" }.to_owned());
        });
        let (title, asks, texts) = (title.to_owned(), asks(kind), texts(kind, number));
        let saved = TempDir::new().unwrap();
        Self { dir, saved, title, kind, shift, asks, texts }
    }

    fn job(&self) -> Value {
        let ask = |Ask { ids, attention, pad }: &Ask| json!({"ids": ids, "attention": attention, "pad": pad});
        let text = |Text { ids, most, options }: &Text| json!({"ids": ids, "most": most, "options": options});
        let (asks, texts) = (self.asks.iter().map(ask), self.texts.iter().map(text));
        json!({"dir": self.dir.path(), "asks": asks.collect::<Vec<_>>(), "texts": texts.collect::<Vec<_>>(),
            "sentence": SENTENCE, "saved": self.saved.path()})
    }

    /// What is different in `found`, and how many of the texts ended by themselves.
    fn compare(&self, found: &Value) -> (Vec<String>, usize) {
        let (mut wrong, mut stopped) = (Vec::new(), 0);
        let what =
            |detail: &dyn std::fmt::Display| format!("{}, {:?}, shift {}: {detail}", self.title, self.kind, self.shift);
        let model = Model::load(self.dir.path(), Device::Cpu).unwrap();
        if found["class"] != model.config().architecture {
            wrong.push(what(&found["class"]));
        }
        let again = Model::load(self.saved.path(), Device::Cpu).unwrap();
        let causal = |model: &Model| model.logits(&ids(19, 8), &Pattern::Causal).unwrap();
        if again.config().adapted != model.config().adapted || causal(&again) != causal(&model) {
            wrong.push(what(&"saved by transformers and read by difflow"));
        }
        for (ask, logits) in self.asks.iter().zip(found["logits"].as_array().unwrap()) {
            let own = model.logits(&ask.ids, &self.kind.pattern(ask.attention, &ask.ids)).unwrap();
            let width = model.config().vocab_size;
            // Of the token at the position; the anchor has those of the one behind it.
            let moved = if self.shift { [&own[..width], &own[..own.len() - width]].concat() } else { own };
            // Before the first token there is padding, or nothing.
            let skipped = if ask.pad > 0 { width } else { 0 };
            let logits: Vec<f64> = logits.as_array().unwrap().iter().map(|n| n.as_f64().unwrap_or(f64::NAN)).collect();
            let gap = relative(&moved[skipped..], &logits[skipped..]);
            if gap.is_nan() || gap > 2e-5 {
                wrong.push(what(&format!("{:?} with {} before: {gap}", ask.attention, ask.pad)));
            }
        }
        let session = Session::open(self.dir.path(), &tiny::opening()).unwrap();
        let tokens = [vec![MASK], session.words().encode(SENTENCE).unwrap()].concat();
        // `transformers` 5 takes any tokenizer of a Qwen2 for that of Qwen2 itself.
        if found["tokens"] != json!(tokens) && session.config().family != Family::Qwen2 {
            wrong.push(what(&format!("{} as tokens, difflow {tokens:?}", found["tokens"])));
        }
        for (text, tokens) in self.texts.iter().zip(found["texts"].as_array().unwrap()) {
            let (own, ended) = text.written(&session);
            stopped += usize::from(ended);
            if *tokens != json!(own) {
                wrong.push(what(&format!("{} {:?}: {tokens}, difflow {own:?}", text.options, text.most)));
            }
        }
        (wrong, stopped)
    }
}

impl Text {
    /// The text that difflow writes, and whether it ended by itself.
    fn written(&self, session: &Session) -> (Vec<u32>, bool) {
        let names = Decoding::keys();
        let options =
            self.options.as_object().unwrap().iter().map(|(name, value)| (names[name].clone(), value.clone()));
        let decoding = session.decoding(&options.collect::<Map<_, _>>()).unwrap();
        let mut pieces = Vec::new();
        for part in self.ids.chunk_by(|a, b| (*a == MASK) == (*b == MASK)) {
            let gap = GapLength { least: part.len(), most: part.len() };
            pieces.push(if part[0] == MASK { Piece::Gap(gap) } else { Piece::Tokens(part.to_vec()) });
        }
        if !self.ids.contains(&MASK) {
            let most = self.most.unwrap_or_else(|| session.room_behind(self.ids.len()).unwrap());
            pieces.push(Piece::Gap(GapLength { least: most, most }));
        }
        let mut ready: &mut GoOn<InferenceError> = &mut |_| Ok(());
        let written = session.write(&[Template { pieces, key: 0 }], &decoding, 1, &mut |_, _| {}, &mut ready).unwrap();
        (written[0].tokens.clone(), written[0].stopped)
    }
}

fn asks(kind: Kind) -> Vec<Ask> {
    let row = with_gaps(ids(19, 1), &[2, 9, 10, 17, 18]);
    let mut asks =
        vec![Ask { ids: row.clone(), attention: None, pad: 0 }, Ask { ids: row.clone(), attention: None, pad: 3 }];
    if kind == Kind::Hybrid {
        asks.push(Ask { ids: row, attention: Some("full"), pad: 0 });
        asks.push(Ask { ids: ids(19, 2), attention: Some("causal"), pad: 0 });
    }
    asks
}

/// The texts of a checkpoint: as it says itself, and by some decoders, others for each checkpoint.
fn texts(kind: Kind, number: usize) -> Vec<Text> {
    // Where one token is left to be drawn, random numbers do not count.
    let adaptive = [
        json!({"decoder": "greedy", "steps": 4}),
        json!({"decoder": "confidence", "score": "margin", "temperature": 0.0, "steps": 5, "block": 5}),
        json!({"decoder": "threshold", "score": "entropy", "threshold": -1.2, "window": 2, "temperature": 0.0}),
        json!({"decoder": "entropy-bound", "entropy_bound": 1.5, "temperature": 1.3, "top_k": 1, "top_p": 1.0}),
        json!({"decoder": "stable", "kl_threshold": 0.3, "threshold": 0.2, "stable_forwards": 1, "temperature": 0.0}),
        json!({"decoder": "threshold", "repetition_penalty": 1.6, "temperature": 0.7, "top_p": 1e-6}),
    ];
    let own = if kind == Kind::Full && !number.is_multiple_of(3) { Some(13) } else { None };
    let mut texts = vec![Text { ids: ids(6, 3), most: own, options: json!({}) }];
    for at in [number, number + 1] {
        let options = adaptive[at % adaptive.len()].clone();
        texts.push(Text { ids: ids(1 + (at % 7) as u32, 4), most: Some(11), options });
    }
    let gaps = with_gaps(ids(15, 5), &[3, 4, 5, 9, 14]);
    match kind {
        Kind::Full => {
            texts.push(Text { ids: gaps.clone(), most: None, options: adaptive[number % 5].clone() });
            let guided = json!({"decoder": "greedy", "guidance": 0.5, "steps": 3});
            texts.push(Text { ids: ids(5, 6), most: Some(9), options: guided });
        }
        Kind::Block => {}
        Kind::Hybrid => {
            texts.push(Text {
                ids: ids(9, 7),
                most: Some(8),
                options: json!({"decoder": "ar", "repetition_penalty": 1.3}),
            });
            texts.push(Text { ids: with_gaps(ids(15, 5), &[3, 4, 5, 9]), most: None, options: json!({}) });
        }
    }
    texts
}

/// The largest distance, as a share of the largest of the wanted numbers; NaN when there is one.
fn relative(found: &[f32], wanted: &[f64]) -> f64 {
    assert_eq!(found.len(), wanted.len());
    let gaps = found.iter().zip(wanted).map(|(a, b)| (f64::from(*a) - b).abs());
    gaps.fold(0.0, |a, b| if a >= b { a } else { b }) / wanted.iter().fold(0.0, |most: f64, b| most.max(b.abs()))
}

fn read_by_transformers(python: &Path, checkpoints: &[Checkpoint]) -> Vec<Value> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/goldens/remote.py");
    let mut child = Command::new(python).arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let jobs = json!(checkpoints.iter().map(Checkpoint::job).collect::<Vec<_>>()).to_string();
    child.stdin.take().unwrap().write_all(jobs.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "see above what Python says");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Attention, windows, soft caps, the shift, blocks, where a text ends, or a decoder's order: whatever the Python file has otherwise than
/// difflow gives other logits or other texts for some of these.
#[test]
fn transformers_gives_the_logits_and_greedy_texts_of_full_block_and_hybrid_checkpoints_of_every_family() {
    let Some(python) = std::env::var_os("DIFFLOW_PYTHON") else {
        return skip(
            "transformers",
            "checkpoints in transformers with our code",
            "DIFFLOW_PYTHON names no Python that has it",
        );
    };
    difflow_model::set_num_threads(1);
    let golden: Value = serde_json::from_str(include_str!("../../model/tests/goldens/transformers.json")).unwrap();
    // A recipe's model is none of `transformers`; version 4 does not load the other one.
    let left = |case: &&Value| case.get("recipe").is_none() && case["title"] != "phi-3 longrope with its own factor";
    let mut checkpoints = Vec::new();
    for (number, case) in golden["cases"].as_array().unwrap().iter().filter(left).enumerate() {
        for (at, kind) in [Kind::Full, Kind::Block, Kind::Hybrid].into_iter().enumerate() {
            let title = case["title"].as_str().unwrap();
            checkpoints.push(Checkpoint::write(number + at, title, &case["config"], kind));
        }
    }
    let found = read_by_transformers(Path::new(&python), &checkpoints);
    assert_eq!(found.len(), checkpoints.len());
    let compared = checkpoints.iter().zip(&found).map(|(checkpoint, found)| checkpoint.compare(found));
    let (wrong, stopped): (Vec<_>, Vec<_>) = compared.unzip();
    let (wrong, stopped, texts) =
        (wrong.concat(), stopped.iter().sum::<usize>(), checkpoints.iter().map(|c| c.texts.len()).sum::<usize>());
    println!("{} checkpoints, {texts} texts, {stopped} of which ended by themselves", checkpoints.len());
    assert!(wrong.is_empty(), "{} differ: {wrong:#?}", wrong.len());
    assert!(stopped > 0 && texts > 500, "{stopped} of {texts} texts ended by themselves");
}
