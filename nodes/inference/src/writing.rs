//! Generating text with a model: from nothing, after a prompt, or in gaps.

use difflow_model::{
    Blocks, Canvas, Context, Decoded, Generation, Piece, Prompt, Reveal, Speculated, Start, Template, Watch,
};

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
    /// What was revealed when; empty for a text that was written from left to right without drafts.
    pub history: Vec<Reveal>,
    /// Drafts that were checked, and those that were kept.
    pub drafted: u32,
    pub accepted: u32,
    /// Seconds of its batch divided by the number of texts in it.
    pub seconds: f64,
}

impl Written {
    /// Returns the tokens after the anchor, without the end-of-text token at their end.
    pub fn body(&self) -> &[u32] {
        let body = self.tokens.get(1..).unwrap_or_default();
        if self.stopped { &body[..body.len().saturating_sub(1)] } else { body }
    }

    /// A canvas that was filled.
    fn of(decoded: Decoded, canvas: Canvas) -> Self {
        let Decoded { tokens, nfe, history, stopped } = decoded;
        let mut filled = canvas.masked;
        filled.truncate(tokens.len());
        Self { tokens, filled, nfe, stopped, history, ..Self::default() }
    }

    /// Returns the tokens that were filled in.
    pub fn filling(&self) -> Vec<u32> {
        self.tokens.iter().zip(&self.filled).filter_map(|(token, filled)| filled.then_some(*token)).collect()
    }
}

impl Session {
    /// Returns the decoder to use. Errors if the model cannot be decoded so: a canvas needs a mask token, the decoder `ar` a
    /// model that reads from left to right, and drafts a model of blocks whose clean text is causal.
    pub fn decoder(&self, asked: Decoder) -> Result<Decoder, InferenceError> {
        let refuse = |found: &str, wanted| {
            Err(InferenceError::unfit("decoder", format!("{}, {found}", self.folder().display()), wanted))
        };
        let causal = |blocks: Blocks| blocks.context == Context::Causal;
        match (asked, self.blocks()) {
            (Decoder::Auto, _) if self.left_to_right() => Ok(Decoder::Ar),
            (Decoder::Auto, Some(blocks)) if causal(blocks) && blocks.ar_weight > 0.0 => Ok(Decoder::Speculative),
            (Decoder::Auto, Some(_)) => Ok(Decoder::Threshold),
            (Decoder::Auto, None) => Ok(Decoder::Random),
            (Decoder::Ar | Decoder::Speculative, Some(blocks)) if !causal(blocks) => {
                let found = "whose clean text sees its whole block (context block) and predicts no next token";
                refuse(found, "a decoder that fills blocks, such as threshold")
            }
            (Decoder::Speculative, None) => {
                refuse("which writes no blocks", "a model of block diffusion with a causal context")
            }
            (Decoder::Ar, _) => Ok(asked),
            _ if self.config().adapted.is_some() => Ok(asked),
            _ => refuse("a base model without a mask token", "`ar`, which needs none"),
        }
    }

    /// What the texts may suffer from, in words.
    pub fn doubts(&self, decoding: &Decoding) -> Vec<String> {
        let mut doubts = Vec::new();
        let Some(blocks) = self.blocks() else { return doubts };
        if let Some(block) = decoding.block.filter(|&block| block != blocks.size) {
            let trained = blocks.size;
            doubts
                .push(format!("blocks of {block}: the model was trained with blocks of {trained} and is best at them"));
        }
        if blocks.ar_weight == 0.0 && matches!(decoding.decoder, Decoder::Ar | Decoder::Speculative) {
            doubts
                .push("the model was trained without an AR loss: what it reads from left to right may be poor".into());
        }
        doubts
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
        // A decoder that does not fit the model does no harm where nothing is written.
        if texts.is_empty() {
            return Ok(Vec::new());
        }
        let decoder = self.decoder(decoding.decoder)?;
        let mut all = Vec::with_capacity(texts.len());
        for batch in texts.chunks(rows.max(1)) {
            go_on(Progress { done: all.len(), of: texts.len() })?;
            let start = std::time::Instant::now();
            let mut written = self.write_batch(batch, &Decoding { decoder, ..decoding.clone() }, watch)?;
            let seconds = start.elapsed().as_secs_f64() / batch.len() as f64;
            written.iter_mut().for_each(|text| text.seconds = seconds);
            all.append(&mut written);
        }
        Ok(all)
    }

    fn write_batch(
        &self,
        texts: &[Template],
        decoding: &Decoding,
        watch: &mut Watch,
    ) -> Result<Vec<Written>, InferenceError> {
        let blocks = match self.blocks() {
            _ if decoding.decoder == Decoder::Ar => return self.continue_texts(texts, decoding),
            None => return self.fill(texts, decoding, watch),
            Some(blocks) => blocks,
        };
        // Texts with a free end are written block by block, gaps on a canvas.
        let (free, gaps): (Vec<usize>, Vec<usize>) =
            (0..texts.len()).partition(|&number| continuation(&texts[number]).is_some());
        if !gaps.is_empty() && !self.fills_gaps() {
            let found = "a text with something given behind a gap";
            let wanted = "a free end: the model writes block by block and has never seen what stands behind a block (it was trained \
                          without whole rows)";
            return Err(InferenceError::unfit("text", found, wanted));
        }
        let pick = |numbers: &[usize]| numbers.iter().map(|&number| texts[number].clone()).collect::<Vec<_>>();
        let mut all = vec![Written::default(); texts.len()];
        let continued = {
            let watch: &mut Watch = &mut |number, watched| watch(free[number], watched);
            match decoding.decoder {
                Decoder::Speculative => self.speculate(&pick(&free), decoding, &blocks, watch)?,
                _ => self.write_blocks(&pick(&free), decoding, &blocks, watch)?,
            }
        };
        let filled = self.fill(&pick(&gaps), decoding, &mut |number, watched| watch(gaps[number], watched))?;
        for (number, written) in free.into_iter().chain(gaps).zip(continued.into_iter().chain(filled)) {
            all[number] = written;
        }
        Ok(all)
    }

    fn write_blocks(
        &self,
        texts: &[Template],
        decoding: &Decoding,
        blocks: &Blocks,
        watch: &mut Watch,
    ) -> Result<Vec<Written>, InferenceError> {
        let options = decoding.block_by_block(blocks, self.stops(), self.canvas().is_some())?;
        let canvas = |text: &Template| {
            let Continuation { tokens, length } = continuation(text)?;
            Some(Canvas::continuation(&tokens, length, text.key))
        };
        let canvases: Vec<Canvas> = texts.iter().filter_map(canvas).collect();
        let decoded = self.model().decode_watched(&canvases, &options, watch)?;
        Ok(decoded.into_iter().zip(canvases).map(|(decoded, canvas)| Written::of(decoded, canvas)).collect())
    }

    fn speculate(
        &self,
        texts: &[Template],
        decoding: &Decoding,
        blocks: &Blocks,
        watch: &mut Watch,
    ) -> Result<Vec<Written>, InferenceError> {
        let options = decoding.speculating(blocks, self.stops());
        let (prompts, lengths) = prompts(texts)?;
        let starts = prompts.into_iter().zip(lengths).map(|(prompt, most)| Start { prompt, most });
        let starts: Vec<Start> = starts.collect();
        let written = self.model().speculate(&starts, &options, watch)?;
        let text = |(start, text): (Start, Speculated)| {
            let given = start.prompt.tokens.len();
            Written {
                filled: (0..given + text.tokens.len()).map(|at| at >= given).collect(),
                tokens: [start.prompt.tokens, text.tokens].concat(),
                nfe: text.nfe,
                stopped: text.stopped,
                history: text.history,
                drafted: text.drafted,
                accepted: text.accepted,
                seconds: 0.0,
            }
        };
        Ok(starts.into_iter().zip(written).map(text).collect())
    }

    fn fill(&self, texts: &[Template], decoding: &Decoding, watch: &mut Watch) -> Result<Vec<Written>, InferenceError> {
        let options = decoding.filling(self.shift(), self.stops(), self.canvas().is_some());
        let filled = self.model().infill(texts, &options, watch)?;
        Ok(filled.into_iter().map(|one| Written::of(one.decoded, one.canvas)).collect())
    }

    fn continue_texts(&self, texts: &[Template], decoding: &Decoding) -> Result<Vec<Written>, InferenceError> {
        let (prompts, lengths) = prompts(texts)?;
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

/// The prompts of texts with a free end, and the most tokens that may follow each. Errors if something is given behind a gap.
fn prompts(texts: &[Template]) -> Result<(Vec<Prompt>, Vec<usize>), InferenceError> {
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
    Ok((prompts, lengths))
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
        let written = session.write(&texts, &decoding, rows, &mut |_, _| {}, &mut ready).unwrap();
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
        let result = session.write(&texts, &Decoding::default(), 2, &mut |_, _| {}, &mut |progress| {
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

    const BLOCKS: Blocks = Blocks { size: 4, context: Context::Causal, shift: false, ar_weight: 0.5 };

    /// Every decoder but those for canvases of a given length; the AR text is that of the drafts, greedily.
    #[test]
    fn a_block_model_writes_block_by_block_with_drafts_or_from_left_to_right() {
        let session = tiny::block_session(BLOCKS, "4:3,row");
        assert_eq!(session.decoder(Decoder::Auto).unwrap(), Decoder::Speculative);
        for decoder in [
            Decoder::Auto,
            Decoder::Random,
            Decoder::FirstHitting,
            Decoder::Confidence,
            Decoder::Threshold,
            Decoder::EntropyBound,
            Decoder::Stable,
            Decoder::Greedy,
            Decoder::Ar,
            Decoder::Speculative,
        ] {
            assert_eq!(write(&session, decoder, 1), write(&session, decoder, 5), "{decoder:?}");
        }
        let greedy = |decoder| {
            let decoding = Decoding { decoder, ..Decoding::default() }.most_probable();
            let mut ready: &mut GoOn<InferenceError> = &mut |_| Ok(());
            let texts = [nothing(20, 0), nothing(9, 1)];
            let written = session.write(&texts, &decoding, 2, &mut |_, _| {}, &mut ready).unwrap();
            written.into_iter().map(|text| (text.tokens, text.filled, text.stopped)).collect::<Vec<_>>()
        };
        assert_eq!(greedy(Decoder::Ar), greedy(Decoder::Speculative));
    }

    /// Texts with gaps lie on a canvas beside texts with a free end, which are written block by block.
    #[test]
    fn a_block_model_fills_gaps_if_it_was_trained_on_whole_rows_and_says_why_not_else() {
        let gap = Template {
            pieces: vec![
                Piece::Tokens(vec![1, 5]),
                Piece::Gap(GapLength { least: 2, most: 2 }),
                Piece::Tokens(vec![9, 2]),
            ],
            key: 7,
        };
        let texts = [nothing(6, 0), gap, nothing(3, 1)];
        let mut ready: &mut GoOn<InferenceError> = &mut |_| Ok(());
        let session = tiny::block_session(BLOCKS, "4:3,row");
        for decoder in [Decoder::Threshold, Decoder::Speculative] {
            let decoding = Decoding { decoder, ..Decoding::default() };
            let mut seen = Vec::new();
            let mut watch = |number: usize, _: &difflow_model::Watched| seen.push(number);
            let written = session.write(&texts, &decoding, 3, &mut watch, &mut ready).unwrap();
            assert_eq!(written[1].filled, [false, false, true, true, false, false]);
            assert_eq!((&written[1].tokens[..2], &written[1].tokens[4..]), (&[1, 5][..], &[9, 2][..]));
            assert!(written[0].tokens.len() <= 7 && written[2].tokens.len() <= 4);
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen, [0, 1, 2]);
            let alone = session.write(&texts[2..], &decoding, 1, &mut |_, _| {}, &mut ready).unwrap();
            assert_eq!(alone[0].tokens, written[2].tokens);
        }
        let without = tiny::block_session(BLOCKS, "4");
        let error = without.write(&texts, &Decoding::default(), 3, &mut |_, _| {}, &mut ready).unwrap_err().to_string();
        assert!(error.contains("whole rows") && error.contains("block by block"), "{error}");
        assert!(session.fills_gaps() && !without.fills_gaps());
    }

    #[test]
    fn what_does_not_fit_a_block_model_is_refused_or_doubted() {
        let session = tiny::block_session(BLOCKS, "4:3,row");
        let mut ready: &mut GoOn<InferenceError> = &mut |_| Ok(());
        let base = Decoding { decoder: Decoder::Threshold, ..Decoding::default() };
        for (option, decoding) in [
            ("guidance", Decoding { guidance: 0.5, ..base.clone() }),
            ("cache", Decoding { cache: difflow_model::Caching::Dual, ..base.clone() }),
            ("refresh", Decoding { refresh: Some(2), ..base.clone() }),
        ] {
            let error =
                session.write(&[nothing(4, 0)], &decoding, 1, &mut |_, _| {}, &mut ready).unwrap_err().to_string();
            assert!(error.contains(option) && error.contains("block by block"), "{error}");
        }
        assert!(session.doubts(&base).is_empty());
        let other = Decoding { block: Some(8), ..base.clone() };
        assert!(session.doubts(&other)[0].contains("blocks of 8") && session.doubts(&other)[0].contains("blocks of 4"));
        let untaught = tiny::block_session(Blocks { ar_weight: 0.0, ..BLOCKS }, "4");
        assert_eq!(untaught.decoder(Decoder::Auto).unwrap(), Decoder::Threshold);
        assert!(untaught.doubts(&Decoding { decoder: Decoder::Ar, ..base.clone() })[0].contains("AR loss"));
        let both = tiny::block_session(Blocks { context: Context::Block, ar_weight: 0.0, ..BLOCKS }, "4");
        for decoder in [Decoder::Ar, Decoder::Speculative] {
            assert!(both.decoder(decoder).unwrap_err().to_string().contains("context block"));
        }
        let full = tiny::session(true, 0.3);
        assert!(full.decoder(Decoder::Speculative).unwrap_err().to_string().contains("block diffusion"));
    }
}
