//! The training objective: which positions carry loss, what they predict and how their loss is weighted.

use std::collections::HashMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::batch::{MicroBatch, PADDING};
use crate::error::ModelError;
use crate::pattern::Context;

/// The training objective.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Objective {
    /// Masked diffusion. With `shift` the hidden state at i predicts token i+1, as in the base model; without, token i.
    Diffusion { shift: bool },
    /// Next-token prediction.
    Ar,
    /// Masked diffusion block by block: the input is `[x_t ; x_0]`, and a block sees the clean text of the blocks before it.
    Block(Blocks),
}

impl Objective {
    /// Which of them it is.
    pub fn kind(self) -> ObjectiveKind {
        match self {
            Self::Diffusion { .. } => ObjectiveKind::Diffusion,
            Self::Ar => ObjectiveKind::Ar,
            Self::Block(_) => ObjectiveKind::Block,
        }
    }
}

impl Blocks {
    /// Errors if no model can be trained so.
    pub(crate) fn check(self, document_attention: bool) -> Result<(), ModelError> {
        if !document_attention {
            return Err(ModelError::input(
                "document attention of block diffusion",
                "off",
                "on: blocks are those of a document",
            ));
        }
        if self.ar_weight > 0.0 && self.context != Context::Causal {
            let wanted = "0, or the context `causal`: with the context `block` a token has its next one in view";
            return Err(ModelError::input("weight of the AR loss", self.ar_weight, wanted));
        }
        Ok(())
    }
}

/// What a block-diffusion model is; the `difflow.block` object of config.json.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Blocks {
    /// Positions of a block, counted from the first token of the document: what it decodes with where nothing else is said. Rows of
    /// training say their own.
    pub size: usize,
    /// What the clean text sees of itself.
    pub context: Context,
    /// With shift, the prediction of token i comes from position i−1: inside a block from x_t, for the first position of a block from the
    /// clean text. In config.json it stands beside the object, as for full diffusion.
    #[serde(skip)]
    pub shift: bool,
    /// Weight of the AR loss, by which the clean text learns to predict its next token; 0 for none. Above 0 only with the causal context.
    pub ar_weight: f64,
}

/// What a model learns, as the key OBJECTIVE and config.json spell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ObjectiveKind {
    /// Masked diffusion: predict the masked tokens.
    #[default]
    Diffusion,
    /// Autoregression: predict the next token. Makes base models.
    Ar,
    /// Masked diffusion block by block, each block with the clean text before it in view.
    Block,
}

/// Which positions count as masked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MaskedSet {
    /// What the noiser masked.
    #[default]
    Explicit,
    /// Where xt equals the mask id, even if the text itself contains that id (the paper's code).
    MaskId,
}

/// The objective and every switch by which the parity preset differs from the recommended one (method.md, "Objective").
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ObjectiveOptions {
    pub objective: Objective,
    pub masked_set: MaskedSet,
    /// Attention, and the targets of shifted predictions, stay inside a document. Off, padding is ignored only as a target.
    pub document_attention: bool,
    /// What the gradient is of: the weighted sum per what.
    pub normaliser: Normaliser,
}

impl ObjectiveOptions {
    /// Explicit mask, documents kept apart.
    pub fn recommended(objective: Objective) -> Self {
        let normaliser = Normaliser::MaskableTokens;
        Self { objective, masked_set: MaskedSet::Explicit, document_attention: true, normaliser }
    }

    /// As the paper's code: masked by id, documents attend across each other, the loss is per masked token.
    pub fn parity(objective: Objective) -> Self {
        let normaliser = Normaliser::MaskedTokens;
        Self { objective, masked_set: MaskedSet::MaskId, document_attention: false, normaliser }
    }
}

/// What the weighted sum of a global batch is divided by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Normaliser {
    /// The maskable tokens of the global batch (all ranks, all micro-steps): the result does not depend on how the batch is split.
    #[default]
    MaskableTokens,
    /// Each micro-batch by its own positions that carry loss, and their sum by the number of micro-batches (the paper's code: the
    /// objective then depends on the split). A micro-batch with nothing masked has loss 0.
    MaskedTokens,
}

/// The predictions that carry loss: those of the objective in row-major order, and after them those of the AR loss beside it.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Selection {
    /// Place in the input, row-major, whose hidden state predicts.
    pub from: Vec<usize>,
    /// Place in the batch, row-major, of the token to be predicted.
    pub at: Vec<usize>,
    /// The token.
    pub target: Vec<i64>,
    /// Sequence of the batch.
    pub row: Vec<usize>,
    /// Loss weight.
    pub weight: Vec<f64>,
    /// The first so many are the objective's own.
    pub own: usize,
}

impl Selection {
    /// The token at place `at` of the batch is predicted from place `from` of the input.
    fn push(&mut self, from: usize, at: usize, batch: &MicroBatch, weight: f64) {
        self.from.push(from);
        self.at.push(at);
        self.target.push(i64::from(batch.tokens[at]));
        self.row.push(at / batch.length);
        self.weight.push(weight);
    }
}

/// xt: x0 with the mask id where masked (AR: x0 itself).
pub(crate) fn noised(
    batch: &MicroBatch,
    objective: Objective,
    mask_token_id: Option<u32>,
) -> Result<Vec<u32>, ModelError> {
    if objective == Objective::Ar {
        return Ok(batch.tokens.clone());
    }
    let mask = mask_token_id.ok_or(ModelError::NoMaskToken)?;
    Ok(batch.tokens.iter().zip(&batch.masked).map(|(&token, &masked)| if masked { mask } else { token }).collect())
}

/// Which positions carry loss. Padding never does, nor does what is not maskable (a prompt), but for the first token of a document, of which
/// the switches decide; a prediction from the position before needs that position to exist and, with document attention, to be of the same
/// document.
pub(crate) fn select(
    batch: &MicroBatch,
    xt: &[u32],
    options: ObjectiveOptions,
    mask_token_id: Option<u32>,
) -> Selection {
    let from_before = match options.objective {
        Objective::Diffusion { shift } => shift,
        Objective::Ar => true,
        Objective::Block(blocks) => return select_blocks(batch, xt, blocks, options.masked_set, mask_token_id),
    };
    let mut selection = Selection::default();
    for (at, &noised) in xt.iter().enumerate() {
        let position = at % batch.length;
        let wanted = options.objective == Objective::Ar || options.masked_set.has(batch, at, noised, mask_token_id);
        if !wanted || batch.is_prompt(at) || batch.documents[at] == PADDING || (from_before && position == 0) {
            continue;
        }
        if from_before && batch.documents[at - 1] != batch.documents[at] {
            // Off the end of padding there is nothing to predict from, whatever the document switch says.
            if options.document_attention || batch.documents[at - 1] == PADDING {
                continue;
            }
        }
        let weight = if options.objective == Objective::Ar { 1.0 } else { batch.weight(at) };
        selection.push(at - usize::from(from_before), at, batch, weight);
    }
    selection.own = selection.from.len();
    selection
}

/// As [`select`], of rows of `[x_t ; x_0]` that are all cut into blocks of this size.
fn select_blocks(
    batch: &MicroBatch,
    xt: &[u32],
    blocks: Blocks,
    masked_set: MaskedSet,
    mask_token_id: Option<u32>,
) -> Selection {
    let (length, size) = (batch.length, blocks.size.max(1));
    let (mut selection, mut next) = (Selection::default(), Vec::new());
    for row in 0..batch.rows {
        let (text, noised_row) = (row * length, 2 * row * length);
        let clean_row = noised_row + length;
        let documents = &batch.documents[text..text + length];
        let mut starts = HashMap::new();
        for (position, document) in documents.iter().enumerate() {
            let start = *starts.entry(document).or_insert(position);
            let (at, begins_block) = (text + position, (position - start) % size == 0);
            if *document == PADDING {
                continue;
            }
            let before = position.checked_sub(1).filter(|&before| documents[before] == *document);
            let from = match (blocks.shift, before) {
                (false, _) => Some(noised_row + position),
                // From x_t, the last position of the block before would have seen another masked text than in decoding.
                (true, Some(before)) if begins_block => Some(clean_row + before),
                (true, before) => before.map(|before| noised_row + before),
            };
            if batch.is_prompt(at) {
                continue;
            }
            if let Some(from) = from.filter(|_| masked_set.has(batch, at, xt[at], mask_token_id)) {
                selection.push(from, at, batch, batch.weight(at));
            }
            next.extend(before.map(|before| (clean_row + before, at)));
        }
    }
    selection.own = selection.from.len();
    if blocks.ar_weight > 0.0 {
        next.into_iter().for_each(|(from, at)| selection.push(from, at, batch, blocks.ar_weight));
    }
    selection
}

impl MaskedSet {
    /// Whether a position of the batch, with this token in xt, counts as masked.
    fn has(self, batch: &MicroBatch, at: usize, noised: u32, mask_token_id: Option<u32>) -> bool {
        match self {
            Self::Explicit => batch.masked[at],
            Self::MaskId => Some(noised) == mask_token_id,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch() -> MicroBatch {
        let mut batch = MicroBatch::clean(1, 6, vec![5, 6, 9, 7, 8, 0]);
        batch.documents = vec![0, 0, 0, 1, 1, PADDING];
        batch.masked = vec![true, true, false, true, true, true];
        batch.weights = vec![2.0];
        batch
    }

    fn positions(options: ObjectiveOptions) -> (Vec<usize>, Vec<i64>) {
        let (batch, mask) = (batch(), Some(9));
        let xt = noised(&batch, options.objective, mask).unwrap_or_default();
        let selection = select(&batch, &xt, options, mask);
        (selection.from, selection.target)
    }

    #[test]
    fn shifted_targets_come_from_the_position_before_in_the_same_document() {
        let options = ObjectiveOptions::recommended(Objective::Diffusion { shift: true });
        assert_eq!(positions(options), (vec![0, 3], vec![6, 8]));
    }

    #[test]
    fn unshifted_targets_are_where_they_are_masked() {
        let options = ObjectiveOptions::recommended(Objective::Diffusion { shift: false });
        assert_eq!(positions(options), (vec![0, 1, 3, 4], vec![5, 6, 7, 8]));
    }

    #[test]
    fn parity_counts_the_mask_id_in_the_text_and_crosses_documents() {
        let options = ObjectiveOptions::parity(Objective::Diffusion { shift: true });
        assert_eq!(positions(options), (vec![0, 1, 2, 3], vec![6, 9, 7, 8]));
    }

    /// A prompt of five tokens and an answer of three, as the second document of a row behind one of two tokens.
    fn conversation() -> MicroBatch {
        let mut batch = MicroBatch::clean(1, 10, vec![5, 6, 9, 7, 8, 5, 4, 3, 2, 1]);
        batch.documents = vec![0, 0, 1, 1, 1, 1, 1, 1, 1, 1];
        batch.maskable = (0..10).map(|at| at == 1 || at > 6).collect();
        batch.masked.clone_from(&batch.maskable);
        batch
    }

    /// Were a prompt's next tokens targets, the model would learn to write prompts, and the loss would be divided by what it is not of.
    #[test]
    fn no_objective_has_a_loss_of_prompts() {
        use crate::pattern::Context;

        let (batch, mask) = (conversation(), Some(9));
        let targets = |objective, options: fn(Objective) -> ObjectiveOptions| {
            let options = options(objective);
            let xt = noised(&batch, objective, mask).unwrap_or_default();
            let Selection { target, own, .. } = select(&batch, &xt, options, mask);
            (target[..own].to_vec(), target[own..].to_vec())
        };
        let blocks = |shift| Objective::Block(Blocks { size: 4, context: Context::Causal, shift, ar_weight: 1.0 });
        for objective in [Objective::Ar, Objective::Diffusion { shift: true }, Objective::Diffusion { shift: false }] {
            assert_eq!(targets(objective, ObjectiveOptions::recommended), (vec![6, 3, 2, 1], vec![]), "{objective:?}");
        }
        for shift in [true, false] {
            let both = (vec![6, 3, 2, 1], vec![6, 3, 2, 1]);
            assert_eq!(targets(blocks(shift), ObjectiveOptions::recommended), both, "shift {shift}");
        }
        // Token 9 of the text is the mask token's; it stands in the prompt, and first in its document.
        let parity = targets(Objective::Diffusion { shift: true }, ObjectiveOptions::parity).0;
        assert_eq!(parity, [6, 9, 3, 2, 1], "the first of a document is the switches' affair");
        assert_eq!(batch.maskable_tokens(), 4, "the denominator");
    }

    #[test]
    fn ar_predicts_every_token_of_a_document_but_its_first() {
        let options = ObjectiveOptions::recommended(Objective::Ar);
        assert_eq!(positions(options), (vec![0, 1, 3], vec![6, 9, 8]));
    }
}
