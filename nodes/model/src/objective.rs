//! The training objective: which positions carry loss, what they predict and how their loss is weighted.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::batch::{MicroBatch, PADDING};
use crate::error::ModelError;
use crate::input::{Copies, Layout};
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

/// The positions that carry loss, in row-major order.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Selection {
    /// Position of the batch, row-major, whose hidden state predicts.
    pub from: Vec<usize>,
    /// Token to be predicted.
    pub target: Vec<i64>,
    /// Sequence of the batch.
    pub row: Vec<usize>,
    /// Loss weight.
    pub weight: Vec<f64>,
    /// The hidden state before a token predicts it, as in the base model.
    pub from_before: bool,
}

impl Selection {
    /// Rows of the hidden states `[B·L', D]` of an input. Errors if the input has no place that a prediction should come from.
    pub fn places(&self, layout: &Layout) -> Result<Vec<i64>, ModelError> {
        if layout.copies == Copies::NoisedAndClean && self.from_before {
            let found = "the prediction from the position before, of [x_t ; x_0]";
            return Err(ModelError::input("objective", found, "the prediction at its own position (shift off)"));
        }
        let place = |at: &usize| (at / layout.text * layout.length() + at % layout.text) as i64;
        Ok(self.from.iter().map(place).collect())
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

/// Which positions carry loss. Padding never does; a prediction from the position before needs that position to exist and,
/// with document attention, to be of the same document.
pub(crate) fn select(
    batch: &MicroBatch,
    xt: &[u32],
    options: ObjectiveOptions,
    mask_token_id: Option<u32>,
) -> Selection {
    let from_before = match options.objective {
        Objective::Diffusion { shift } => shift,
        Objective::Ar => true,
        Objective::Block(blocks) => blocks.shift,
    };
    let mut selection = Selection { from_before, ..Selection::default() };
    for (at, &noised) in xt.iter().enumerate() {
        let (row, position) = (at / batch.length, at % batch.length);
        let wanted = match (options.objective, options.masked_set) {
            (Objective::Ar, _) => true,
            (_, MaskedSet::Explicit) => batch.masked[at],
            (_, MaskedSet::MaskId) => Some(noised) == mask_token_id,
        };
        if !wanted || batch.documents[at] == PADDING || (from_before && position == 0) {
            continue;
        }
        if from_before && batch.documents[at - 1] != batch.documents[at] {
            // Off the end of padding there is nothing to predict from, whatever the document switch says.
            if options.document_attention || batch.documents[at - 1] == PADDING {
                continue;
            }
        }
        selection.from.push(at - usize::from(from_before));
        selection.target.push(i64::from(batch.tokens[at]));
        selection.row.push(row);
        selection.weight.push(if options.objective == Objective::Ar { 1.0 } else { batch.weight(at) });
    }
    selection
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

    #[test]
    fn ar_predicts_every_token_of_a_document_but_its_first() {
        let options = ObjectiveOptions::recommended(Objective::Ar);
        assert_eq!(positions(options), (vec![0, 1, 3], vec![6, 9, 8]));
    }
}
