//! Generating text with a model: from nothing, after a prompt, or in gaps.

use difflow_model::{Decoded, Generation, Piece, Prompt, Reveal, Template, Watch};

use crate::decoding::{Decoder, Decoding};
use crate::error::InferenceError;
use crate::progress::{GoOn, Progress};
use crate::session::Session;

/// A text as tokens.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Written {
    /// All tokens, the anchor first. The last is an end-of-text token if `stopped`.
    pub tokens: Vec<u32>,
    /// Which of the tokens were filled in: one entry per token.
    pub filled: Vec<bool>,
    /// Number of forwards that this text took part in.
    pub nfe: u32,
    /// Whether an end-of-text token ended it.
    pub stopped: bool,
    /// What was revealed when; empty for a text that was written from left to right.
    pub history: Vec<Reveal>,
    /// Seconds of its batch divided by the number of texts in it.
    pub seconds: f64,
}

impl Written {
    /// Returns the tokens after the anchor, without the end-of-text token at their end.
    pub fn body(&self) -> &[u32] {
        let body = self.tokens.get(1..).unwrap_or_default();
        if self.stopped { &body[..body.len().saturating_sub(1)] } else { body }
    }

    /// Returns the tokens that were filled in.
    pub fn filling(&self) -> Vec<u32> {
        self.tokens.iter().zip(&self.filled).filter_map(|(token, filled)| filled.then_some(*token)).collect()
    }
}

impl Session {
    /// Returns the decoder to use. Errors if it fills a canvas and the model has no mask token.
    pub fn decoder(&self, asked: Decoder) -> Result<Decoder, InferenceError> {
        match asked {
            Decoder::Auto if self.left_to_right() => Ok(Decoder::Ar),
            Decoder::Auto => Ok(Decoder::Random),
            Decoder::Ar => Ok(asked),
            _ if self.config().adapted.is_some() => Ok(asked),
            _ => {
                let found = format!("{}, a base model without a mask token", self.folder().display());
                Err(InferenceError::unfit("decoder", found, "`ar`, which needs none"))
            }
        }
    }

    /// Writes texts, `rows` of them per forward. Calls `go_on` before every batch, and `watch` with what each step
    /// reveals of each text of its batch. A text does not depend on its batch. Errors if a text does not fit the model
    /// or the decoder, or with the error of `go_on`.
    pub fn write<E: From<InferenceError>>(
        &self,
        texts: &[Template],
        decoding: &Decoding,
        rows: usize,
        watch: &mut Watch,
        go_on: &mut GoOn<E>,
    ) -> Result<Vec<Written>, E> {
        let decoder = self.decoder(decoding.decoder)?;
        let mut all = Vec::with_capacity(texts.len());
        for batch in texts.chunks(rows.max(1)) {
            go_on(Progress { done: all.len(), of: texts.len() })?;
            let start = std::time::Instant::now();
            let mut written = if decoder == Decoder::Ar {
                self.continue_texts(batch, decoding)?
            } else {
                self.fill(batch, &Decoding { decoder, ..decoding.clone() }, watch)?
            };
            let seconds = start.elapsed().as_secs_f64() / batch.len() as f64;
            written.iter_mut().for_each(|text| text.seconds = seconds);
            all.append(&mut written);
        }
        Ok(all)
    }

    fn fill(&self, texts: &[Template], decoding: &Decoding, watch: &mut Watch) -> Result<Vec<Written>, InferenceError> {
        let options = decoding.filling(self.shift(), self.stops(), self.canvas().is_some());
        let filled = self.model().infill(texts, &options, watch)?;
        Ok(filled
            .into_iter()
            .map(|one| {
                let Decoded { tokens, nfe, history, stopped } = one.decoded;
                let mut filled = one.canvas.masked;
                filled.truncate(tokens.len());
                Written { tokens, filled, nfe, stopped, history, seconds: 0.0 }
            })
            .collect())
    }

    fn continue_texts(&self, texts: &[Template], decoding: &Decoding) -> Result<Vec<Written>, InferenceError> {
        let (mut prompts, mut lengths) = (Vec::new(), Vec::new());
        for text in texts {
            let Some(Continuation { tokens, length }) = continuation(text) else {
                let found = "a text with something given behind a gap";
                let wanted = "a free end: the decoder `ar` reads from left to right and cannot fill the gap";
                return Err(InferenceError::unfit("text", found, wanted));
            };
            prompts.push(Prompt { tokens, key: text.key });
            lengths.push(length);
        }
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let options: Generation = decoding.continuing(longest, self.stops());
        let written = self.model().generate(&prompts, &options)?.into_iter().zip(prompts).zip(lengths);
        Ok(written
            .map(|((mut text, prompt), length)| {
                // Texts of one batch go on together; a shorter one is cut to its own length.
                let cut = text.tokens.len() > length;
                text.tokens.truncate(length);
                let given = prompt.tokens.len();
                Written {
                    filled: (0..given + text.tokens.len()).map(|at| at >= given).collect(),
                    nfe: text.tokens.len() as u32,
                    stopped: text.stopped && !cut,
                    tokens: [prompt.tokens, text.tokens].concat(),
                    ..Written::default()
                }
            })
            .collect())
    }
}

/// The text before a free end, and the most tokens that may follow.
struct Continuation {
    tokens: Vec<u32>,
    length: usize,
}

/// Returns `None` if something is given after a gap.
fn continuation(text: &Template) -> Option<Continuation> {
    let (last, before) = text.pieces.split_last()?;
    let Piece::Gap(gap) = last else { return None };
    let mut tokens = Vec::new();
    for piece in before {
        let Piece::Tokens(given) = piece else { return None };
        tokens.extend(given);
    }
    Some(Continuation { tokens, length: gap.most })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use difflow_model::GapLength;

    use super::*;
    use crate::tiny;

    fn nothing(length: usize, key: u64) -> Template {
        Template { pieces: vec![Piece::Tokens(vec![1]), Piece::Gap(GapLength { least: length, most: length })], key }
    }

    fn write(session: &Session, decoder: Decoder, rows: usize) -> Vec<Vec<u32>> {
        let texts: Vec<Template> = (0..5).map(|key| nothing(6 + key as usize, key)).collect();
        let decoding = Decoding { decoder, steps: 4, ..Decoding::default() };
        let mut ready: &mut GoOn<InferenceError> = &mut |_| Ok(());
        let written = session.write(&texts, &decoding, rows, &mut |_, _, _| {}, &mut ready).unwrap();
        written.into_iter().map(|text| text.tokens).collect()
    }

    /// Texts of one checkpoint are compared with those of another: only the weights may make the difference.
    #[test]
    fn the_batch_size_does_not_change_the_texts() {
        let session = tiny::session(true, 0.3);
        for decoder in
            [Decoder::Random, Decoder::FirstHitting, Decoder::Confidence, Decoder::Threshold, Decoder::Greedy]
        {
            assert_eq!(write(&session, decoder, 1), write(&session, decoder, 5), "{decoder:?}");
        }
        let base = tiny::session(false, 0.3);
        assert_eq!(write(&base, Decoder::Auto, 1), write(&base, Decoder::Ar, 5));
    }

    #[test]
    fn a_text_ends_before_its_end_token_and_only_there() {
        let text = |stopped| Written { tokens: vec![2, 5, 6, 2], stopped, ..Written::default() };
        assert_eq!((text(true).body(), text(false).body()), (&[5, 6][..], &[5, 6, 2][..]));
    }

    #[test]
    fn a_stop_is_noticed_between_batches() {
        let session = tiny::session(true, 0.3);
        let texts: Vec<Template> = (0..4).map(|key| nothing(4, key)).collect();
        let mut asked = Vec::new();
        let result = session.write(&texts, &Decoding::default(), 2, &mut |_, _, _| {}, &mut |progress| {
            asked.push(progress.done);
            if asked.len() == 2 { Err(InferenceError::unfit("stop", "", "")) } else { Ok(()) }
        });
        assert!(result.is_err());
        assert_eq!(asked, [0, 2]);
    }

    #[test]
    fn a_model_without_a_mask_token_fills_nothing() {
        let base = tiny::session(false, 0.3);
        assert!(base.decoder(Decoder::Random).unwrap_err().to_string().contains("base model"));
        let gap = Template {
            pieces: vec![Piece::Tokens(vec![1]), Piece::Gap(GapLength { least: 1, most: 1 }), Piece::Tokens(vec![4])],
            key: 0,
        };
        let error = base.continue_texts(&[gap], &Decoding::default()).unwrap_err().to_string();
        assert!(error.contains("left to right"), "{error}");
    }
}
