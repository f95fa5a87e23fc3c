//! Letting the model write a batch of tasks.

use difflow_model::{Budget, Decoded, DiffusionDecoding, Generation, Model, Prompt, Reveals, Sampling, Watch};
use eyre::{Result, bail};

use crate::sample::arguments::{Arguments, Decoder};
use crate::sample::checkpoint::Checkpoint;
use crate::sample::tasks::Task;

/// A text as tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct Written {
    pub decoded: Decoded,
    /// Which of the tokens were filled in; as long as the tokens.
    pub filled: Vec<bool>,
}

/// How a checkpoint writes.
pub struct Writer<'a> {
    model: &'a Model,
    way: Way,
}

enum Way {
    Fill(DiffusionDecoding),
    Continue(Generation),
}

impl<'a> Writer<'a> {
    /// A writer with the decoder that the arguments name.
    pub fn new(arguments: &Arguments, checkpoint: &'a Checkpoint, decoder: Decoder) -> Self {
        let model = &checkpoint.model;
        let mut stop = model.config().eos_token_ids.clone();
        stop.push(checkpoint.words.eos);
        let way = match reveals(arguments, decoder) {
            Some(reveals) => Way::Fill(filling(arguments, model, reveals, stop)),
            None => {
                let (max_new_tokens, seed) = (0, arguments.seed);
                Way::Continue(Generation { max_new_tokens, sampling: sampling(arguments), seed, stop })
            }
        };
        Self { model, way }
    }

    /// Writes the texts of a batch.
    ///
    /// # Errors
    /// When a task does not fit the model or the decoder.
    pub fn write(&self, tasks: &[Task], watch: &mut Watch) -> Result<Vec<Written>> {
        match &self.way {
            Way::Fill(options) => {
                let templates: Vec<_> = tasks.iter().map(Task::template).collect();
                let filled = self.model.infill(&templates, options, watch)?;
                Ok(filled
                    .into_iter()
                    .map(|one| {
                        let mut filled = one.canvas.masked;
                        filled.truncate(one.decoded.tokens.len());
                        Written { decoded: one.decoded, filled }
                    })
                    .collect())
            }
            Way::Continue(options) => self.continuations(tasks, options),
        }
    }

    fn continuations(&self, tasks: &[Task], options: &Generation) -> Result<Vec<Written>> {
        let mut prompts = Vec::new();
        let mut lengths = Vec::new();
        for task in tasks {
            let Some((tokens, length)) = task.continuation() else {
                bail!("`--decoder ar` reads from left to right and cannot fill the gap in `{}`", task.prompt);
            };
            prompts.push(Prompt { tokens, key: task.template().key });
            lengths.push(length);
        }
        let max_new_tokens = lengths.iter().copied().max().unwrap_or(0);
        let written = self.model.generate(&prompts, &Generation { max_new_tokens, ..options.clone() })?;
        let texts = written.into_iter().zip(prompts).zip(lengths);
        Ok(texts
            .map(|((mut text, prompt), length)| {
                // Texts of one batch go on together; a shorter one is cut to its own length.
                let cut = text.tokens.len() > length;
                text.tokens.truncate(length);
                let filled = (0..prompt.tokens.len() + text.tokens.len()).map(|at| at >= prompt.tokens.len()).collect();
                let decoded = Decoded {
                    nfe: text.tokens.len() as u32,
                    stopped: text.stopped && !cut,
                    tokens: [prompt.tokens, text.tokens].concat(),
                    history: Vec::new(),
                };
                Written { decoded, filled }
            })
            .collect())
    }
}

fn sampling(arguments: &Arguments) -> Sampling {
    Sampling {
        temperature: arguments.temperature,
        top_p: arguments.top_p,
        top_k: arguments.top_k,
        repetition_penalty: arguments.repetition_penalty,
    }
}

/// What a decoder reveals when; `None` for the one that does not fill canvases.
fn reveals(arguments: &Arguments, decoder: Decoder) -> Option<Reveals> {
    let (steps, score) = (arguments.steps, arguments.score);
    Some(match decoder {
        Decoder::Random => Reveals::Random { steps },
        Decoder::FirstHitting => Reveals::FirstHitting,
        Decoder::Confidence | Decoder::Greedy => Reveals::Confidence { score, budget: Budget::Steps(steps) },
        Decoder::Threshold => Reveals::Threshold { score, threshold: arguments.threshold, window: arguments.window },
        Decoder::Ar => return None,
    })
}

/// The options of a diffusion decoder, as the arguments say.
pub fn filling(arguments: &Arguments, model: &Model, reveals: Reveals, stop: Vec<u32>) -> DiffusionDecoding {
    let greedy = arguments.decoder == Some(Decoder::Greedy);
    let sampling = sampling(arguments);
    DiffusionDecoding {
        reveals,
        sampling: if greedy { Sampling { temperature: 0.0, ..sampling } } else { sampling },
        seed: arguments.seed,
        shift: model.config().adapted.as_ref().is_none_or(|adapted| adapted.shift),
        block: arguments.block,
        cache: arguments.cache,
        refresh: arguments.refresh,
        guidance: arguments.guidance,
        stop,
    }
}
