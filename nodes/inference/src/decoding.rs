//! The decoding options: the one type behind the sampler's keys and `difflow sample`'s options.

use difflow_model::{Blocks, Budget, Caching, DiffusionDecoding, Generation, Reveals, Sampling, Score, Speculation};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::InferenceError;

/// Which positions become known first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum Decoder {
    /// What suits the model: random; ar where it reads from left to right; where it writes block by block speculative if it has
    /// learned to check its drafts, else threshold.
    #[default]
    Auto,
    /// Any, over the diffusion steps.
    Random,
    /// Any, one a forward: random with ever smaller steps.
    FirstHitting,
    /// Those with the highest score, evenly over the diffusion steps.
    Confidence,
    /// All whose score is at least the threshold.
    Threshold,
    /// The most with the lowest entropies that together, less the largest, stay below the entropy bound.
    EntropyBound,
    /// All whose distribution has hardly moved in the last forwards and whose probability is at least the threshold.
    Stable,
    /// As confidence, and always the most probable token.
    Greedy,
    /// From left to right, one token a forward with a KV cache: for base models, and models of block diffusion with a causal context.
    Ar,
    /// As ar, several tokens a forward: drafts of the next block are checked by the model itself. The texts are those of ar.
    Speculative,
}

/// How a model writes. As keys of a dataflow file the names are in upper case.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "clap", derive(clap::Args))]
#[serde(rename_all = "SCREAMING_SNAKE_CASE", default)]
pub struct Decoding {
    /// Which positions become known first.
    #[cfg_attr(feature = "clap", arg(long, value_enum, default_value = "auto"))]
    pub decoder: Decoder,
    /// What makes a position sure, for the decoders that ask: probability, margin or entropy.
    #[cfg_attr(feature = "clap", arg(long, default_value = "probability", value_parser = named::<Score>))]
    pub score: Score,
    /// With the decoder threshold: reveals every position whose score is at least this. With the decoder stable: whose probability is.
    #[cfg_attr(feature = "clap", arg(long, default_value_t = Self::default().threshold))]
    pub threshold: f64,
    /// With the decoder threshold: always reveals the best of this many masked positions from the left, too; empty: of all.
    #[schemars(range(min = 1))]
    #[cfg_attr(feature = "clap", arg(long))]
    pub window: Option<usize>,
    /// With the decoder entropy-bound: most nats of entropy of what is revealed together, the largest not counted.
    #[schemars(range(min = 0))]
    #[cfg_attr(feature = "clap", arg(long, default_value_t = Self::default().entropy_bound))]
    pub entropy_bound: f64,
    /// With the decoder stable: nats that a distribution may move in a forward (KL divergence).
    #[schemars(range(min = 0))]
    #[cfg_attr(feature = "clap", arg(long, default_value_t = Self::default().kl_threshold))]
    pub kl_threshold: f64,
    /// With the decoder stable: for how many forwards in a row it may have moved no more than that.
    #[schemars(range(min = 1))]
    #[cfg_attr(feature = "clap", arg(long, default_value_t = Self::default().stable_forwards))]
    pub stable_forwards: u32,
    /// Fills blocks of this many positions from left to right; empty: all at once, or the blocks that a model of block diffusion was
    /// trained with.
    #[schemars(range(min = 1))]
    #[cfg_attr(feature = "clap", arg(long))]
    pub block: Option<usize>,
    /// With blocks: what is kept of earlier forwards, so that they read less: none, prefix or dual.
    #[cfg_attr(feature = "clap", arg(long, default_value = "none", value_parser = named::<Caching>))]
    pub cache: Caching,
    /// With a cache: reads the whole canvas every so many forwards; empty: at the start of a block.
    #[schemars(range(min = 1))]
    #[cfg_attr(feature = "clap", arg(long))]
    pub refresh: Option<u32>,
    /// Classifier-free guidance by the given tokens; 0 is none.
    #[cfg_attr(feature = "clap", arg(long, default_value_t = 0.0, allow_negative_numbers = true))]
    pub guidance: f64,
    /// Steps from the empty canvas to the text; with a model of block diffusion those of each block.
    #[serde(rename = "DIFFUSION_STEPS")]
    #[schemars(range(min = 1))]
    #[cfg_attr(feature = "clap", arg(
        long,
        default_value_t = Self::default().steps,
        value_parser = clap::value_parser!(u32).range(1..)
    ))]
    pub steps: u32,
    /// Divides the logits; 0 takes the most probable token.
    #[schemars(range(min = 0))]
    #[cfg_attr(feature = "clap", arg(long, default_value_t = Self::default().temperature))]
    pub temperature: f64,
    /// Draws from the most probable tokens with this mass together.
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 1))]
    #[cfg_attr(feature = "clap", arg(long, default_value_t = Self::default().top_p))]
    pub top_p: f64,
    /// Draws from this many most probable tokens; empty: from all.
    #[schemars(range(min = 1))]
    #[cfg_attr(feature = "clap", arg(long))]
    pub top_k: Option<usize>,
    /// Makes tokens that the text already has less probable; 1 is off.
    #[schemars(extend("exclusiveMinimum" = 0))]
    #[cfg_attr(feature = "clap", arg(long, default_value_t = 1.0))]
    pub repetition_penalty: f64,
    /// Key of all random numbers: the same seed gives the same texts, in any batch.
    #[cfg_attr(feature = "clap", arg(long, default_value_t = 0))]
    pub seed: u64,
}

impl Default for Decoding {
    fn default() -> Self {
        Self {
            decoder: Decoder::Auto,
            score: Score::Probability,
            threshold: 0.9,
            window: None,
            entropy_bound: 0.1,
            kl_threshold: 0.01,
            stable_forwards: 2,
            block: None,
            cache: Caching::None,
            refresh: None,
            guidance: 0.0,
            steps: 64,
            temperature: 0.95,
            top_p: 0.9,
            top_k: None,
            repetition_penalty: 1.0,
            seed: 0,
        }
    }
}

impl Decoding {
    /// Returns the deterministic way: the surest position first, one per step, always its most probable token.
    pub fn surest_first() -> Self {
        // Any canvas has fewer positions than this has steps, so each step reveals one.
        Self { decoder: Decoder::Greedy, steps: u32::MAX, temperature: 0.0, top_p: 1.0, ..Self::default() }
    }

    /// Returns the same way, but always with the most probable token.
    #[must_use]
    pub fn most_probable(self) -> Self {
        Self { temperature: 0.0, repetition_penalty: 1.0, ..self }
    }

    fn sampling(&self) -> Sampling {
        let temperature = if self.decoder == Decoder::Greedy { 0.0 } else { self.temperature };
        let Self { top_p, top_k, repetition_penalty, .. } = *self;
        Sampling { temperature, top_p, top_k, repetition_penalty }
    }

    /// Returns the options of a diffusion model.
    pub(crate) fn filling(&self, shift: bool, stop: Vec<u32>, open_end: bool) -> DiffusionDecoding {
        let Self { score, steps, threshold, window, .. } = *self;
        let reveals = match self.decoder {
            Decoder::FirstHitting => Reveals::FirstHitting,
            Decoder::Confidence | Decoder::Greedy => Reveals::Confidence { score, budget: Budget::Steps(steps) },
            // What writes block by block from left to right fills a gap in the surest places first.
            Decoder::Threshold | Decoder::Speculative => Reveals::Threshold { score, threshold, window },
            Decoder::EntropyBound => Reveals::EntropyBound { bound: self.entropy_bound },
            Decoder::Stable => {
                Reveals::Stable { divergence: self.kl_threshold, threshold, forwards: self.stable_forwards }
            }
            Decoder::Auto | Decoder::Random | Decoder::Ar => Reveals::Random { steps },
        };
        DiffusionDecoding {
            reveals,
            sampling: self.sampling(),
            seed: self.seed,
            shift,
            block: self.block,
            context: None,
            cache: self.cache,
            refresh: self.refresh,
            guidance: self.guidance,
            stop,
            open_end,
        }
    }

    /// As options of a model of block diffusion, whose cache is exact. Errors if an option is about what lies behind a block, where there
    /// is nothing.
    pub(crate) fn block_by_block(
        &self,
        blocks: &Blocks,
        stop: Vec<u32>,
        open_end: bool,
    ) -> Result<DiffusionDecoding, InferenceError> {
        let refuse = |what, wanted| {
            let found = "one for canvases, with a model that writes block by block";
            Err(InferenceError::unfit(what, found, wanted))
        };
        match self {
            Self { cache: Caching::Dual, .. } => {
                refuse("cache", "none or prefix: what lies before a block never changes, and behind it is nothing")
            }
            Self { refresh: Some(_), .. } => refuse("refresh", "none: what is cached never changes"),
            Self { guidance, .. } if *guidance != 0.0 => {
                refuse("guidance", "0: the model was not trained without what is given")
            }
            _ => Ok(DiffusionDecoding {
                block: Some(self.block.unwrap_or(blocks.size)),
                context: Some(blocks.context),
                cache: Caching::Prefix,
                ..self.filling(blocks.shift, stop, open_end)
            }),
        }
    }

    /// As options of a model of block diffusion that checks its own drafts.
    pub(crate) fn speculating(&self, blocks: &Blocks, stop: Vec<u32>) -> Speculation {
        Speculation {
            sampling: self.sampling(),
            seed: self.seed,
            stop,
            shift: blocks.shift,
            block: self.block.unwrap_or(blocks.size),
        }
    }

    /// Returns the options of a model that writes from left to right.
    pub(crate) fn continuing(&self, max_new_tokens: usize, stop: Vec<u32>) -> Generation {
        Generation { max_new_tokens, sampling: self.sampling(), seed: self.seed, stop }
    }
}

/// Returns the choice of that name; configurations use the same names.
#[cfg(feature = "clap")]
fn named<T: serde::de::DeserializeOwned>(name: &str) -> Result<T, String> {
    serde_json::from_value(name.into()).map_err(|e| e.to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_by_their_configuration_names_and_the_rest_is_default() {
        let found: Decoding = serde_json::from_str(
            r#"{"DECODER": "first-hitting", "DIFFUSION_STEPS": 7, "CACHE": "dual", "WINDOW": null}"#,
        )
        .unwrap();
        let wanted = Decoding { decoder: Decoder::FirstHitting, steps: 7, cache: Caching::Dual, ..Decoding::default() };
        assert_eq!(found, wanted);
        assert!(serde_json::from_str::<Decoding>(r#"{"SCORE": "sure"}"#).unwrap_err().to_string().contains("margin"));
    }

    #[test]
    fn greedy_draws_nothing_and_the_surest_goes_first() {
        let options = Decoding::surest_first().filling(true, Vec::new(), false);
        assert_eq!(options.sampling.temperature, 0.0);
        let Reveals::Confidence { budget: Budget::Steps(steps), .. } = options.reveals else { panic!("{options:?}") };
        assert_eq!(steps, u32::MAX);
    }
}
