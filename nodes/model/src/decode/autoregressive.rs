//! Text from left to right with a KV cache: the base model's way, baseline and judge.

use difflow_diffusion::keyed;

use crate::cache::Active;
use crate::decode::choose::Ask;
use crate::decode::draw::Sampling;
use crate::decode::options::Score;
use crate::error::ModelError;
use crate::model::Model;

/// A text to be continued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// At least one token, BOS first if the model wants one.
    pub tokens: Vec<u32>,
    /// Key of this sequence's random numbers.
    pub key: u64,
}

/// How far and how to continue.
#[derive(Debug, Clone, PartialEq)]
pub struct Generation {
    /// Most new tokens.
    pub max_new_tokens: usize,
    pub sampling: Sampling,
    pub seed: u64,
    /// Tokens that end a text; the ending token is kept. Normally `config.eos_token_ids`.
    pub stop: Vec<u32>,
}

/// A continued text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Generated {
    /// The new tokens only.
    pub tokens: Vec<u32>,
    /// True when a stop token ended it, false when the length did.
    pub stopped: bool,
    /// Forwards that this sequence took part in.
    pub nfe: u32,
}

impl Model {
    /// Continues prompts of equal or different lengths. The call ends when the last of them does.
    ///
    /// # Errors
    /// When a prompt or an option does not fit the model.
    pub fn generate(&self, prompts: &[Prompt], options: &Generation) -> Result<Vec<Generated>, ModelError> {
        options.sampling.check()?;
        let longest = prompts.iter().map(|prompt| prompt.tokens.len()).max().unwrap_or(0);
        for prompt in prompts {
            self.check_prompt(&prompt.tokens, options.max_new_tokens)?;
        }
        let mut all = vec![Generated::default(); prompts.len()];
        if prompts.is_empty() || options.max_new_tokens == 0 {
            return Ok(all);
        }
        tch::no_grad(|| self.continue_all(prompts, longest, options, &mut all))?;
        Ok(all)
    }

    fn check_prompt(&self, tokens: &[u32], more: usize) -> Result<(), ModelError> {
        if tokens.is_empty() {
            return Err(ModelError::input("prompt", "no tokens", "at least one (BOS, for text from nothing)"));
        }
        if let Some(id) = tokens.iter().find(|&&id| id as usize >= self.config.vocab_size) {
            let wanted = format!("an id below the vocabulary's {}", self.config.vocab_size);
            return Err(ModelError::input("token of the prompt", id, wanted));
        }
        match self.longest() {
            Some(longest) if tokens.len() + more > longest + 1 => {
                let wanted = format!("at most {}, the model's learned positions", longest + 1);
                Err(ModelError::input("prompt and new tokens", tokens.len() + more, wanted))
            }
            _ => Ok(()),
        }
    }

    fn continue_all(
        &self,
        prompts: &[Prompt],
        longest: usize,
        options: &Generation,
        all: &mut [Generated],
    ) -> Result<(), ModelError> {
        let capacity = longest + options.max_new_tokens - 1;
        let mut cache = self.decoder.cache(&self.config, (prompts.len(), capacity), true, self.arithmetic)?;
        let window = self.config.sliding_window.unwrap_or(usize::MAX);
        let mut texts: Vec<Vec<u32>> = prompts.iter().map(|prompt| prompt.tokens.clone()).collect();
        for step in 0..options.max_new_tokens {
            let going: Vec<usize> = (0..prompts.len()).filter(|&row| !all[row].stopped).collect();
            if going.is_empty() {
                break;
            }
            let mut active = Active::default();
            for &row in &going {
                let text = &texts[row];
                let last = text.len() - 1;
                let new = if step == 0 { 0..text.len() } else { last..text.len() };
                let seen = |at: usize| (at + 1).saturating_sub(window)..at + 1;
                active.add(row, new.map(|at| (at, text[at])), seen, std::iter::once(last));
            }
            let hidden = self.decoder.partial(&active, &mut cache, self.arithmetic)?;
            let present: Vec<Vec<u32>> = match options.sampling.repetition_penalty == 1.0 {
                true => vec![Vec::new(); going.len()],
                false => going.iter().map(|&row| different(&texts[row])).collect(),
            };
            let asks: Vec<Ask> = (0..)
                .zip(&going)
                .zip(&present)
                .map(|((at, &row), present)| {
                    let mut rng = keyed::rng(options.seed, "generate", step as u64, prompts[row].key);
                    Ask { row: at, unguided: at, uniform: keyed::uniform(&mut rng), present }
                })
                .collect();
            let choices = self.choose(&hidden, &asks, (&options.sampling, Score::Probability, 0.0))?;
            for (&row, choice) in going.iter().zip(choices) {
                let (text, generated) = (&mut texts[row], &mut all[row]);
                text.push(choice.token);
                generated.tokens.push(choice.token);
                generated.nfe += 1;
                generated.stopped = options.stop.contains(&choice.token);
            }
        }
        Ok(())
    }
}

fn different(text: &[u32]) -> Vec<u32> {
    let mut tokens = text.to_vec();
    tokens.sort_unstable();
    tokens.dedup();
    tokens
}
