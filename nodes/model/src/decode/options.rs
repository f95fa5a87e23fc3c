//! The options for decoding a canvas.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::decode::draw::Sampling;
use crate::error::ModelError;

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
        if let Reveals::Threshold { threshold, .. } = self.reveals
            && threshold.is_nan()
        {
            return Err(ModelError::input("threshold", threshold, "a number"));
        }
        if let Reveals::Threshold { window: Some(0), .. } = self.reveals {
            return Err(ModelError::input("window", 0, "at least one position"));
        }
        Ok(())
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
            cache: Caching::None,
            refresh: None,
            guidance: 0.0,
            stop: Vec::new(),
            open_end: false,
        }
    }
}
