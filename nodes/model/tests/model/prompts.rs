//! Conversations: prompts carry no loss in any objective, and the loss is per token of the answers, however the batch is split.

use difflow_model::{
    AdamW, Blocks, Context, Learner, MicroBatch, Objective, ObjectiveOptions, PADDING, Pattern, StepSums,
};

use crate::support::{LLAMA, distance, model, noised};

const PROMPT: usize = 9;
const LENGTH: usize = 16;

fn objectives() -> [(Objective, Pattern); 4] {
    let blocks = Blocks { size: 4, context: Context::Causal, shift: true, ar_weight: 0.5 };
    [
        (Objective::Ar, Pattern::Causal),
        (Objective::Diffusion { shift: true }, Pattern::Full),
        (Objective::Diffusion { shift: false }, Pattern::Full),
        (Objective::Block(blocks), Pattern::Full),
    ]
}

fn learner(objective: Objective) -> Learner {
    Learner::new(model(LLAMA, true), ObjectiveOptions::recommended(objective), AdamW::default()).unwrap()
}

/// Sums, and the gradients of the sums, not of their mean.
fn step(objective: Objective, pattern: &Pattern, batch: &MicroBatch) -> (StepSums, Vec<f32>) {
    let mut learner = learner(objective);
    let sums = learner.micro_step(batch, pattern).unwrap();
    let maskable = sums.maskable as f32;
    let gradients = learner.gradients().unwrap();
    (sums, gradients.into_iter().flat_map(|(_, values)| values).map(|value| value * maskable).collect())
}

/// A document of a row of which tokens `learned` may be masked; all of them are, where `masked`.
fn document(learned: std::ops::Range<usize>, masked: bool) -> MicroBatch {
    let mut batch = noised(1, LENGTH, 4);
    batch.maskable = (0..LENGTH).map(|at| learned.contains(&at)).collect();
    batch.masked = batch.maskable.iter().map(|&maskable| maskable && masked).collect();
    batch
}

/// Under causal attention a document's gradient is that of its first part, read alone, and that of the rest: were a token of the prompt among
/// the targets, or one of the answer missing, the parts would not add up. The AR loss beside blocks alone, for nothing is masked.
#[test]
fn the_ar_gradient_of_an_answer_is_that_of_the_document_without_that_of_its_prompt() {
    for (objective, pattern) in [objectives()[0].clone(), objectives()[3].clone()] {
        let whole = step(objective, &pattern, &document(1..LENGTH, false));
        let mut first = document(1..PROMPT, false);
        first.documents[PROMPT..].fill(PADDING);
        let (first, answer) =
            (step(objective, &pattern, &first), step(objective, &pattern, &document(PROMPT..LENGTH, false)));
        let counted = |sums: &StepSums| sums.positions + sums.ar_positions;
        assert_eq!([&whole.0, &first.0, &answer.0].map(counted), [15, 8, 7], "{objective:?}");
        assert_eq!(answer.0.maskable, 7);
        let parts: Vec<f32> = first.1.iter().zip(&answer.1).map(|(a, b)| a + b).collect();
        let size = distance(&whole.1, &vec![0.0; whole.1.len()]);
        assert!(
            size > 0.1 && distance(&whole.1, &parts) < 1e-4 * size,
            "{objective:?}: {}",
            distance(&whole.1, &parts)
        );
        assert!(distance(&whole.1, &answer.1) > 1e-2 * size, "{objective:?}: the prompt has no gradient of its own");
    }
}

/// A batch of prompts alone moves no weight, whatever is learned.
#[test]
fn a_batch_without_answers_has_no_gradient() {
    for (objective, pattern) in objectives() {
        let mut learner = learner(objective);
        learner.micro_step(&document(0..0, true), &pattern).unwrap();
        assert!(learner.gradients().unwrap().iter().all(|(_, values)| values.iter().all(|&value| value == 0.0)));
        assert!(!learner.apply(1e-2).unwrap().updated, "{objective:?}");
    }
}

/// Answers of 1 to 11 tokens: a mean of means, or a division by all tokens, would be another gradient for each split.
#[test]
fn the_loss_is_per_token_of_the_answers_for_any_split() {
    let mut batch = noised(4, LENGTH, 9);
    let starts = [15, 5, 12, 9];
    batch.maskable = (0..4 * LENGTH).map(|at| at % LENGTH >= starts[at / LENGTH]).collect();
    batch.masked = (0..4 * LENGTH).map(|at| batch.maskable[at] && (at % 3 > 0 || at % LENGTH == 15)).collect();
    for (objective, pattern) in objectives() {
        let of = |parts: &[(usize, usize)]| {
            let mut learner = learner(objective);
            let steps = parts.iter().map(|&(from, to)| learner.micro_step(&batch.rows(from, to), &pattern).unwrap());
            let steps: Vec<StepSums> = steps.collect();
            let all: Vec<f32> = learner.gradients().unwrap().into_iter().flat_map(|(_, values)| values).collect();
            (steps.iter().map(|sums| sums.maskable).sum::<u64>(), all)
        };
        let whole = of(&[(0, 4)]);
        assert_eq!(whole.0, 1 + 11 + 4 + 7);
        let size = distance(&whole.1, &vec![0.0; whole.1.len()]);
        for parts in [vec![(0, 1), (1, 2), (2, 3), (3, 4)], vec![(0, 3), (3, 4)], vec![(0, 1), (1, 4)]] {
            let split = of(&parts);
            assert_eq!(split.0, whole.0);
            assert!(distance(&whole.1, &split.1) < 1e-5 * size.max(1.0), "{objective:?} {parts:?}");
        }
    }
}
