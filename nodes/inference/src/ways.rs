//! The decoding methods that `difflow sample --measure` compares.

use difflow_model::{Caching, Context, Score};

use crate::decoding::{Decoder, Decoding};
use crate::session::Session;

/// Forwards of the ways that have a number of steps.
const STEPS: [u32; 4] = [64, 32, 16, 8];
const THRESHOLDS: [f64; 4] = [0.95, 0.9, 0.8, 0.6];
const ENTROPY_BOUNDS: [f64; 4] = [0.05, 0.2, 0.5, 1.0];
/// Block length of the ways with a cache.
const BLOCK: usize = 32;

/// A way to decode: the name of its curve, that of its point on it, and who writes how.
pub(crate) struct Way {
    pub family: &'static str,
    pub setting: String,
    pub decoding: Decoding,
    pub by_judge: bool,
}

/// The ways of a model; with `judge`, that of the judge is the last. `given` is what they have in common.
pub(crate) fn of(session: &Session, given: &Decoding, judge: bool) -> Vec<Way> {
    let common = Decoding { block: None, cache: Caching::None, ..given.clone() };
    let mut ways = match session.blocks() {
        None => on_a_canvas(&common),
        Some(blocks) => {
            // Whole rows may be asked for with blocks of another size than the trained.
            let common = Decoding { block: given.block, ..common.clone() };
            block_by_block(&common, blocks.context == Context::Causal)
        }
    };
    if judge {
        let decoding = Decoding { decoder: Decoder::Ar, ..common };
        ways.push(Way { family: "AR base", setting: "KV cache".to_owned(), decoding, by_judge: true });
    }
    ways
}

fn add(ways: &mut Vec<Way>, family: &'static str, setting: &str, decoding: Decoding) {
    ways.push(Way { family, setting: setting.to_owned(), decoding, by_judge: false });
}

/// One token a step, whatever the length.
const ONE: &str = "1 token/step";

fn confidence(common: &Decoding, score: Score, steps: u32) -> Decoding {
    Decoding { decoder: Decoder::Confidence, score, steps, ..common.clone() }
}

/// The ways that reveal what is sure, by how sure it has to be.
fn adaptive(ways: &mut Vec<Way>, common: &Decoding) {
    for bound in ENTROPY_BOUNDS {
        let decoding = Decoding { decoder: Decoder::EntropyBound, entropy_bound: bound, ..common.clone() };
        add(ways, "entropy bound", &format!("γ={bound}"), decoding);
    }
    for threshold in THRESHOLDS {
        let decoding = Decoding { decoder: Decoder::Stable, threshold, ..common.clone() };
        add(ways, "stable", &format!("τ={threshold}"), decoding);
    }
}

fn block_by_block(common: &Decoding, causal: bool) -> Vec<Way> {
    let mut ways = Vec::new();
    if causal {
        add(&mut ways, "ar", "KV cache", Decoding { decoder: Decoder::Ar, ..common.clone() });
        add(&mut ways, "speculative", "sampled", Decoding { decoder: Decoder::Speculative, ..common.clone() });
        let greedy = Decoding { decoder: Decoder::Speculative, ..common.clone() }.most_probable();
        add(&mut ways, "speculative", "greedy", greedy);
    }
    add(&mut ways, "probability", ONE, confidence(common, Score::Probability, u32::MAX));
    add(&mut ways, "greedy", ONE, confidence(common, Score::Probability, u32::MAX).most_probable());
    for threshold in THRESHOLDS {
        let decoding = Decoding { decoder: Decoder::Threshold, threshold, ..common.clone() };
        add(&mut ways, "threshold", &format!("τ={threshold}"), decoding);
    }
    adaptive(&mut ways, common);
    ways
}

fn on_a_canvas(common: &Decoding) -> Vec<Way> {
    let mut ways = Vec::new();
    let all = u32::MAX;
    let way = |decoder| Decoding { decoder, ..common.clone() };
    add(&mut ways, "first-hitting", ONE, way(Decoder::FirstHitting));
    for steps in STEPS {
        add(&mut ways, "random", &format!("T={steps}"), Decoding { steps, ..way(Decoder::Random) });
    }
    for (family, score) in [("probability", Score::Probability), ("margin", Score::Margin), ("entropy", Score::Entropy)]
    {
        add(&mut ways, family, ONE, confidence(common, score, all));
        for steps in STEPS {
            add(&mut ways, family, &format!("T={steps}"), confidence(common, score, steps));
        }
    }
    add(&mut ways, "greedy", ONE, confidence(common, Score::Probability, all).most_probable());
    let block = Decoding { block: Some(4), ..confidence(common, Score::Probability, all) };
    add(&mut ways, "probability, blocks of 4", ONE, block);
    for (family, window, block, cache) in [
        ("threshold", None, None, Caching::None),
        ("threshold, window of 4", Some(4), None, Caching::None),
        ("threshold, blocks, dual cache", None, Some(BLOCK), Caching::Dual),
    ] {
        for threshold in THRESHOLDS {
            let score = Score::Probability;
            let decoding = Decoding { score, threshold, window, block, cache, ..way(Decoder::Threshold) };
            add(&mut ways, family, &format!("τ={threshold}"), decoding);
        }
    }
    adaptive(&mut ways, common);
    ways
}
