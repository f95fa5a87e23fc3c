//! Text from left to right with a KV cache: the base model's way, baseline and judge.

use difflow_diffusion::keyed;
use tch::Tensor;

use crate::attention::additive;
use crate::cache::Cache;
use crate::decode::draw::Sampling;
use crate::error::ModelError;
use crate::host::copied;
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
    pub fn generate(&self, prompts: &[Prompt], options: &Generation) -> Result<Vec<Generated>, ModelError> {
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
        let (rows, device) = (prompts.len(), self.device.torch());
        let capacity = longest + options.max_new_tokens - 1;
        let mut cache = Cache::new(&self.config, rows, capacity, self.decoder.kind, device)?;
        // Shorter prompts are padded on the left, so that all rows grow at the same place.
        let pads: Vec<usize> = prompts.iter().map(|prompt| longest - prompt.tokens.len()).collect();
        let mut new = vec![0u32; rows * longest];
        for (row, prompt) in prompts.iter().enumerate() {
            new[row * longest + pads[row]..(row + 1) * longest].copy_from_slice(&prompt.tokens);
        }
        for step in 0..options.max_new_tokens {
            let width = new.len() / rows;
            let first = cache.length as usize;
            let positions: Vec<i64> = (0..rows)
                .flat_map(|row| (first..first + width).map(move |at| (row, at)))
                .map(|(row, at)| at.saturating_sub(pads[row]) as i64)
                .collect();
            let positions =
                Tensor::f_from_slice(&positions)?.f_view((rows as i64, width as i64))?.f_to_device(device)?;
            let bias = self.left_bias(&pads, first, width)?;
            let hidden = self.decoder.extend(&self.ids(&new, rows)?, &positions, bias.as_ref(), &mut cache)?;
            let last: Vec<i64> = (1..=rows).map(|row| (row * width) as i64 - 1).collect();
            let last = hidden.f_index_select(0, &Tensor::f_from_slice(&last)?.f_to_device(device)?)?;
            let mut logits = copied(&self.decoder.logits(&self.decoder.normed(&last)?)?)?;
            new.clear();
            for (row, logits) in logits.chunks_mut(self.config.vocab_size).enumerate() {
                if let Some(adapted) = &self.config.adapted {
                    logits[adapted.mask_token_id as usize] = f32::NEG_INFINITY;
                }
                let mut rng = keyed::rng(options.seed, "generate", step as u64, prompts[row].key);
                let token = options.sampling.draw(logits, keyed::uniform(&mut rng));
                new.push(token);
                let text = &mut all[row];
                if !text.stopped {
                    text.tokens.push(token);
                    text.nfe += 1;
                    text.stopped = options.stop.contains(&token);
                }
            }
            if all.iter().all(|text| text.stopped) {
                break;
            }
        }
        Ok(())
    }

    /// Bias `[B, 1, width, first + width]` of new tokens behind `first` cached ones: causal, without the padding on the left and,
    /// where the model has a window, without what lies further back. `None` when plain causal attention says the same.
    fn left_bias(&self, pads: &[usize], first: usize, width: usize) -> Result<Option<Tensor>, ModelError> {
        let total = first + width;
        let window = self.config.sliding_window.filter(|&window| total > window);
        if pads.iter().all(|&pad| pad == 0) && window.is_none() {
            return Ok(None);
        }
        let mut visible = Vec::with_capacity(pads.len() * width * total);
        for &pad in pads {
            for i in first..total {
                let oldest = window.map_or(0, |window| (i + 1).saturating_sub(window)).max(pad);
                // Padding sees itself: an empty row of the softmax would be NaN.
                visible.extend((0..total).map(|j| (oldest..=i).contains(&j) || j == i));
            }
        }
        let shape = [pads.len() as i64, 1, width as i64, total as i64];
        let visible = Tensor::f_from_slice(&visible)?.f_view(shape)?.f_to_device(self.device.torch())?;
        Ok(Some(additive(&visible, self.decoder.kind)?))
    }
}
