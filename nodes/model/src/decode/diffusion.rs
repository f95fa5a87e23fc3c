//! Filling the masked positions of canvases with a diffusion model.

use difflow_diffusion::keyed;
use tch::Tensor;

use crate::attention::{Attention, Pattern};
use crate::batch::PADDING;
use crate::decode::canvas::{Canvas, Decoded, Reveal};
use crate::decode::draw::{Sampling, argmax};
use crate::error::ModelError;
use crate::host::copied;
use crate::model::Model;

/// What makes a position worth revealing. All are computed from the unfiltered softmax at temperature 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reveals {
    /// `steps` on a uniform grid of t; from t to s each masked position is revealed with probability (α(s)−α(t))/(1−α(t)). A
    /// step that reveals nothing costs no forward.
    Random { steps: u32 },
    /// The positions with the highest score.
    Confidence { score: Score, budget: Budget },
}

/// Everything that decides what a canvas becomes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DiffusionDecoding {
    pub reveals: Reveals,
    pub sampling: Sampling,
    /// With the canvas' key, the key of all random numbers.
    pub seed: u64,
    /// True when the hidden state at j−1 predicts position j; normally `config.adapted.shift`.
    pub shift: bool,
}

/// A canvas on its way.
struct Progress {
    tokens: Vec<u32>,
    masked: Vec<bool>,
    key: u64,
    nfe: u32,
    history: Vec<Reveal>,
}

/// A masked position that this step needs logits for, with its uniform number.
struct Candidate {
    position: usize,
    uniform: f64,
}

/// A token for a candidate, and how sure the model is.
struct Guess {
    position: usize,
    token: u32,
    score: f64,
}

impl Model {
    /// Fills every masked position of the canvases; clean positions never change. `alpha` is the noise schedule's α(t), used by
    /// [`Reveals::Random`]. Canvases may have different lengths.
    pub fn decode(
        &self,
        canvases: &[Canvas],
        options: &DiffusionDecoding,
        alpha: &dyn Fn(f64) -> f64,
    ) -> Result<Vec<Decoded>, ModelError> {
        let mask = self.config.mask_token_id()?;
        for canvas in canvases {
            canvas.check(self.config.vocab_size, self.longest())?;
        }
        let mut rows: Vec<Progress> = canvases.iter().map(|canvas| Progress::new(canvas, mask)).collect();
        tch::no_grad(|| match options.reveals {
            Reveals::Random { steps } => self.random(&mut rows, options, steps.max(1), alpha),
            Reveals::Confidence { score, budget } => self.confident(&mut rows, options, score, budget),
        })?;
        Ok(rows.into_iter().map(|row| Decoded { tokens: row.tokens, nfe: row.nfe, history: row.history }).collect())
    }

    fn random(
        &self,
        rows: &mut [Progress],
        options: &DiffusionDecoding,
        steps: u32,
        alpha: &dyn Fn(f64) -> f64,
    ) -> Result<(), ModelError> {
        for step in 0..steps {
            let at = |k: u32| f64::from(k) / f64::from(steps);
            let (t, s) = (at(steps - step), at(steps - step - 1));
            // The last step reveals what is left, also under a schedule with α(0) < 1.
            let reveal = if step + 1 == steps { 1.0 } else { (alpha(s) - alpha(t)) / (1.0 - alpha(t)) };
            let wanted: Vec<Vec<Candidate>> =
                rows.iter().map(|row| row.candidates(options.seed, step, |coin| coin < reveal)).collect();
            let guesses = self.guess(rows, &wanted, options, Score::Probability)?;
            for (row, guesses) in rows.iter_mut().zip(guesses) {
                row.reveal(step, &guesses);
            }
        }
        Ok(())
    }

    fn confident(
        &self,
        rows: &mut [Progress],
        options: &DiffusionDecoding,
        score: Score,
        budget: Budget,
    ) -> Result<(), ModelError> {
        let mut step = 0;
        while rows.iter().any(|row| row.masked.contains(&true)) {
            let wanted: Vec<Vec<Candidate>> =
                rows.iter().map(|row| row.candidates(options.seed, step, |_| true)).collect();
            let guesses = self.guess(rows, &wanted, options, score)?;
            for (row, mut guesses) in rows.iter_mut().zip(guesses) {
                let places = match budget {
                    Budget::PerStep(k) => k.max(1) as usize,
                    Budget::Steps(steps) => guesses.len().div_ceil(steps.saturating_sub(step).max(1) as usize),
                };
                // Positions already known do not compete; equal scores go to the earlier position.
                guesses.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.position.cmp(&b.position)));
                guesses.truncate(places);
                row.reveal(step, &guesses);
            }
            step += 1;
        }
        Ok(())
    }

    /// One forward over the rows that have candidates, the output head at the candidates only, one token for each.
    fn guess(
        &self,
        rows: &mut [Progress],
        wanted: &[Vec<Candidate>],
        options: &DiffusionDecoding,
        score: Score,
    ) -> Result<Vec<Vec<Guess>>, ModelError> {
        let active: Vec<usize> = (0..rows.len()).filter(|&row| !wanted[row].is_empty()).collect();
        let mut guesses: Vec<Vec<Guess>> = rows.iter().map(|_| Vec::new()).collect();
        let Some(length) = active.iter().map(|&row| rows[row].tokens.len()).max() else { return Ok(guesses) };
        let mask = self.config.mask_token_id()?;
        let mut tokens = vec![mask; active.len() * length];
        let mut documents = vec![PADDING; active.len() * length];
        let mut index = Vec::new();
        for (place, &row) in active.iter().enumerate() {
            let at = place * length;
            tokens[at..at + rows[row].tokens.len()].copy_from_slice(&rows[row].tokens);
            documents[at..at + rows[row].tokens.len()].fill(0);
            let back = usize::from(options.shift);
            index.extend(wanted[row].iter().map(|candidate| (at + candidate.position - back) as i64));
            rows[row].nfe += 1;
        }
        let size = (active.len(), length);
        let attention = Attention::new(&Pattern::Full, size, Some(&documents), None, self.decoder.target())?;
        let hidden = self.decoder.hidden(&self.ids(&tokens, active.len())?, &attention)?;
        let index = Tensor::f_from_slice(&index)?.f_to_device(self.device.torch())?;
        let logits = self.decoder.logits(&self.decoder.normed(&hidden.f_index_select(0, &index)?)?)?;
        let mut logits = copied(&logits)?;
        let candidates = active.iter().flat_map(|&row| wanted[row].iter().map(move |candidate| (row, candidate)));
        for ((row, candidate), logits) in candidates.zip(logits.chunks_mut(self.config.vocab_size)) {
            logits[mask as usize] = f32::NEG_INFINITY;
            let token = options.sampling.draw(logits, candidate.uniform);
            let score = match options.reveals {
                Reveals::Random { .. } => 0.0,
                Reveals::Confidence { .. } => confidence(logits, token, score),
            };
            guesses[row].push(Guess { position: candidate.position, token, score });
        }
        Ok(guesses)
    }
}

impl Progress {
    fn new(canvas: &Canvas, mask: u32) -> Self {
        let known = canvas.tokens.iter().zip(&canvas.masked);
        Self {
            tokens: known.map(|(&token, &masked)| if masked { mask } else { token }).collect(),
            masked: canvas.masked.clone(),
            key: canvas.key,
            nfe: 0,
            history: Vec::new(),
        }
    }

    /// The masked positions whose coin passes. Every masked position draws a coin and a uniform number at every step, so what
    /// one position draws does not depend on the others.
    fn candidates(&self, seed: u64, step: u32, passes: impl Fn(f64) -> bool) -> Vec<Candidate> {
        let mut rng = keyed::rng(seed, "decode", u64::from(step), self.key);
        let masked = (0..self.masked.len()).filter(|&i| self.masked[i]);
        let drawn = masked.map(|position| (position, keyed::uniform(&mut rng), keyed::uniform(&mut rng)));
        drawn
            .filter(|&(_, coin, _)| passes(coin))
            .map(|(position, _, uniform)| Candidate { position, uniform })
            .collect()
    }

    fn reveal(&mut self, step: u32, guesses: &[Guess]) {
        for guess in guesses {
            self.tokens[guess.position] = guess.token;
            self.masked[guess.position] = false;
            self.history.push(Reveal { step, position: guess.position as u32, token: guess.token });
        }
    }
}

/// Larger is surer.
fn confidence(logits: &[f32], token: u32, score: Score) -> f64 {
    let best = argmax(logits);
    let max = logits[best];
    let weights = logits.iter().map(|&l| f64::from((l - max).exp()));
    let total: f64 = weights.clone().sum();
    let probability = |id: usize| f64::from((logits[id] - max).exp()) / total;
    match score {
        Score::Probability => probability(token as usize),
        Score::Margin => {
            let others = (0..logits.len()).filter(|&id| id != best);
            probability(best) - others.map(probability).fold(0.0, f64::max)
        }
        Score::Entropy => weights.map(|w| w / total).filter(|p| *p > 0.0).map(|p| p * p.ln()).sum(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_those_of_the_softmax() {
        let logits = [8f32.ln(), 4f32.ln(), f32::NEG_INFINITY, 4f32.ln()];
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-6, "{a} {b}");
        close(confidence(&logits, 1, Score::Probability), 0.25);
        close(confidence(&logits, 1, Score::Margin), 0.25);
        close(confidence(&logits, 1, Score::Entropy), 0.5 * 0.5f64.ln() + 0.5 * 0.25f64.ln());
    }
}
