//! The options for decoding a canvas.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::decode::draw::Sampling;
use crate::error::ModelError;
use crate::pattern::Context;

/// What makes a position worth revealing. All are computed from the unfiltered softmax at temperature 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Score {
    /// Probability of the drawn token.
    #[default]
    Probability,
    /// Probability of the best token less that of the second.
    Margin,
    /// Negative entropy of the distribution.
    Entropy,
}

/// How many positions the confidence decoder reveals in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Budget {
    /// The masked positions spread evenly over this many steps.
    Steps(u32),
    /// This many a step, until none is left.
    PerStep(u32),
}

/// Which masked positions are revealed at each step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Reveals {
    /// `steps` on a uniform grid of t from 1 to 0; from t to s each masked position is revealed with probability (t−s)/t, so the
    /// last step leaves nothing. Decoding has this schedule of its own: where training's noise lies (clipped, polynomial, …)
    /// decides which canvases the model has learned from, not how many tokens a step may reveal. A step that reveals nothing
    /// costs no forward.
    Random { steps: u32 },
    /// `Random` with steps so small that each reveals one position: positions in random order, one a forward (the
    /// first-hitting sampler, arXiv 2409.02908).
    FirstHitting,
    /// The positions with the highest score.
    Confidence { score: Score, budget: Budget },
    /// Every position whose score is at least `threshold`, and always the best one of the leftmost `window` masked positions
    /// (`None`: of all, Fast-dLLM, arXiv 2505.22618). A short window keeps unsure choices in reading order while sure tokens
    /// appear anywhere.
    Threshold { score: Score, threshold: f64, window: Option<usize> },
    /// The most positions, those with the lowest entropy first, whose entropies in nats less the largest of them add up to at most
    /// `bound`, always one: what is revealed together then knows almost nothing of each other (arXiv 2505.24857).
    EntropyBound { bound: f64 },
    /// Every position whose distribution has settled: in the last `forwards` forwards it moved by less than `divergence` nats
    /// (KL(now ‖ before)), and the drawn token's probability is at least `threshold`; where there is none, the most probable one
    /// (arXiv 2511.05664).
    Stable { divergence: f64, threshold: f64, forwards: u32 },
}

impl Reveals {
    /// What the positions are compared by.
    pub(crate) fn score(self) -> Score {
        match self {
            Self::Confidence { score, .. } | Self::Threshold { score, .. } => score,
            Self::EntropyBound { .. } => Score::Entropy,
            Self::Random { .. } | Self::FirstHitting | Self::Stable { .. } => Score::Probability,
        }
    }
}

/// What is kept of earlier forwards. Keys and values of positions whose surroundings have changed since are approximations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Caching {
    /// Nothing: every forward reads the whole canvas.
    #[default]
    None,
    /// What stands before the current block.
    Prefix,
    /// What stands before and after the current block.
    Dual,
}

/// Everything that decides what a canvas becomes.
#[derive(Debug, Clone, PartialEq)]
pub struct DiffusionDecoding {
    pub reveals: Reveals,
    pub sampling: Sampling,
    /// With the canvas' key, the key of all random numbers.
    pub seed: u64,
    /// True when the hidden state at j−1 predicts position j; normally `config.adapted.shift`.
    pub shift: bool,
    /// Positions are filled in blocks of this many, from left to right, each block until it is full. `None`: all at once.
    /// Steps are shared among the blocks by their masked positions.
    pub block: Option<usize>,
    /// For a model of block diffusion: what its clean text sees of itself. Blocks are then counted from position 0, a block sees the
    /// clean text before it and nothing behind it, steps are those of each block, and what is cached (prefix) is exact. `None`: a
    /// model that sees the whole canvas.
    pub context: Option<Context>,
    pub cache: Caching,
    /// With a cache: every so many forwards one reads the whole canvas (1: each). `None`: only the first of a block.
    pub refresh: Option<u32>,
    /// Classifier-free guidance: logits become (1 + w)·logits − w·(logits with the given tokens masked). 0 is none; anything
    /// else doubles the forwards of canvases that have given tokens.
    pub guidance: f64,
    /// A canvas that ends in masked positions ends behind the first of these tokens among them; what stands later is dropped.
    pub stop: Vec<u32>,
    /// True for a model that was trained on canvases with an open end: what stands behind the end of a text is then not dropped but
    /// stays in view, as end tokens. The canvas looks as it did in training, and a text is not drawn out to its end.
    pub open_end: bool,
}

impl DiffusionDecoding {
    /// The surest position first, one a step, always its most probable token: how gaps are filled when nothing is left to chance.
    pub fn surest_first(shift: bool) -> Self {
        let reveals = Reveals::Confidence { score: Score::Probability, budget: Budget::PerStep(1) };
        Self { reveals, sampling: Sampling::GREEDY, shift, ..Self::default() }
    }

    pub(crate) fn check(&self) -> Result<(), ModelError> {
        self.sampling.check()?;
        if self.block == Some(0) {
            return Err(ModelError::input("block", 0, "at least one position"));
        }
        self.check_context()?;
        if self.cache != Caching::None && self.block.is_none() {
            return Err(ModelError::input(
                "cache",
                "one without blocks",
                "a block length (what is cached lies outside a block)",
            ));
        }
        if !self.guidance.is_finite() {
            return Err(ModelError::input("guidance", self.guidance, "a finite number"));
        }
        match self.reveals {
            Reveals::Threshold { threshold, .. } | Reveals::Stable { threshold, .. } if threshold.is_nan() => {
                Err(ModelError::input("threshold", threshold, "a number"))
            }
            Reveals::Threshold { window: Some(0), .. } => Err(ModelError::input("window", 0, "at least one position")),
            Reveals::EntropyBound { bound } if bound.is_nan() || bound < 0.0 => {
                Err(ModelError::input("entropy bound", bound, "a number of nats from 0 on"))
            }
            Reveals::Stable { divergence, .. } if divergence.is_nan() || divergence < 0.0 => {
                Err(ModelError::input("KL threshold", divergence, "a number of nats from 0 on"))
            }
            _ => Ok(()),
        }
    }

    /// What lies behind a block does not exist for a model of block diffusion, so what is said of it means nothing.
    fn check_context(&self) -> Result<(), ModelError> {
        let refuse = |what, found: &str, wanted| Err(ModelError::input(what, found, wanted));
        match self {
            Self { context: None, .. } => Ok(()),
            Self { block: None, .. } => {
                refuse("block", "none, with a model of block diffusion", "the size of its blocks")
            }
            Self { cache: Caching::Dual, .. } => {
                refuse("cache", "dual, with a model of block diffusion", "prefix, which is exact, or none")
            }
            Self { refresh: Some(_), .. } => {
                refuse("refresh", "a number, with a model of block diffusion", "none: what it caches never changes")
            }
            Self { guidance, .. } if *guidance != 0.0 => refuse(
                "guidance",
                "some, with a model of block diffusion",
                "0: it was not trained without what is given",
            ),
            _ => Ok(()),
        }
    }
}

impl Default for DiffusionDecoding {
    /// The paper's way, without its sampling: 64 random steps with shift.
    fn default() -> Self {
        Self {
            reveals: Reveals::Random { steps: 64 },
            sampling: Sampling::default(),
            seed: 0,
            shift: true,
            block: None,
            context: None,
            cache: Caching::None,
            refresh: None,
            guidance: 0.0,
            stop: Vec::new(),
            open_end: false,
        }
    }
}
