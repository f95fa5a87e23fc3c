#![allow(clippy::unwrap_used)]

use super::*;
use crate::arithmetic::Arithmetic;
use crate::host::copied;
use crate::objective::{Blocks, Objective, ObjectiveOptions};
use crate::optimizer::AdamW;
use crate::pattern::Context;
use crate::small::{LLAMA, MIXTRAL, model};

const ROWS: usize = 4;
const LENGTH: usize = 48;

/// Rows of documents; every third is cut into blocks, where the objective is of them.
fn batch(number: usize, blocks: bool) -> MicroBatch {
    let hash = |i: usize| ((i + 1000 * number) as u32).wrapping_mul(2_654_435_761) >> 12;
    let mut batch = MicroBatch::clean(ROWS, LENGTH, (0..ROWS * LENGTH).map(|i| hash(i) % 37).collect());
    batch.documents = (0..ROWS * LENGTH).map(|i| u32::from(i % LENGTH > 20 + number % 5)).collect();
    batch.masked = (0..ROWS * LENGTH).map(|i| batch.maskable[i] && hash(i + 991) % 3 > 0).collect();
    batch.weights = (0..ROWS).map(|row| 1.5 + row as f64 + number as f64 / 8.0).collect();
    if blocks {
        batch.blocks = (0..ROWS).map(|row| if row % 2 == 0 { 4 } else { LENGTH }).collect();
    }
    batch
}

fn learner(objective: Objective, fixed_shapes: bool) -> Learner {
    let mut model = model(LLAMA);
    model.set_arithmetic(Arithmetic { kernels: false, fixed_shapes, ..model.arithmetic() });
    model.add_mask_token(7).unwrap();
    let mut learner = Learner::new(model, ObjectiveOptions::recommended(objective), AdamW::default()).unwrap();
    learner.keep_average(0.9).unwrap();
    learner
}

fn objectives() -> [Objective; 3] {
    let blocks = Blocks { size: 4, context: Context::Causal, shift: false, ar_weight: 0.7 };
    [Objective::Diffusion { shift: true }, Objective::Ar, Objective::Block(blocks)]
}

fn pattern(number: usize) -> Pattern {
    // Full attention comes to its end as another operation than a pattern that is nearly full.
    if number < 3 { Pattern::Annealed { ratio: 0.4, seed: 1, draw: number as u64 } } else { Pattern::Full }
}

fn weights(learner: &Learner) -> Vec<Vec<f32>> {
    let average = learner.average.as_ref().unwrap().values.iter();
    let all = learner.model.parameters.iter().map(|parameter| &parameter.tensor).chain(average);
    all.map(|tensor| copied(tensor).unwrap()).collect()
}

/// A position of weight 0 that had a gradient, or a loss that was counted, would train on what is not in the batch.
#[test]
fn positions_that_fill_a_shape_up_change_nothing() {
    crate::set_num_threads(1);
    for objective in objectives() {
        let [narrow, wide] = [false, true].map(|fixed_shapes| {
            let mut learner = learner(objective, fixed_shapes);
            let pattern = if objective == Objective::Ar { Pattern::Causal } else { Pattern::Full };
            let batch = batch(1, matches!(objective, Objective::Block(_)));
            let sums = learner.micro_step(&batch, &pattern).unwrap();
            let of = |learner: &Learner| learner.gradients().unwrap().into_iter().flat_map(|(_, values)| values);
            (sums, of(&learner).map(f64::from).collect::<Vec<_>>())
        });
        assert_eq!(narrow.0.positions + narrow.0.ar_positions, wide.0.positions + wide.0.ar_positions);
        assert!((narrow.0.weighted - wide.0.weighted).abs() < 1e-4, "{objective:?}: {narrow:?} {wide:?}");
        let apart = narrow.1.iter().zip(&wide.1).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(apart < 1e-5, "{objective:?}: {apart}");
    }
}

/// On a CPU a recording names its operations again, on the tensors that it was made with: one that was not given its turn's values would show.
#[test]
fn recorded_updates_have_the_bits_of_others() {
    crate::set_num_threads(1);
    for objective in objectives() {
        let [mut plain, mut recorded] = [(); 2].map(|()| learner(objective, true));
        recorded.start_recording().unwrap();
        let blocks = matches!(objective, Objective::Block(_));
        for step in 0..8 {
            let pattern = if objective == Objective::Ar { Pattern::Causal } else { pattern(step) };
            let lr = 1e-2 / (step + 1) as f64;
            let applied = [&mut plain, &mut recorded].map(|learner| {
                for number in [2 * step, 2 * step + 1] {
                    learner.start_micro_step(&batch(number, blocks), &pattern).unwrap();
                }
                learner.apply(lr).unwrap()
            });
            assert_eq!(applied[0], applied[1], "{objective:?}, step {step}");
            assert!(applied[0].updated && applied[0].totals.weighted > 0.0);
        }
        assert!(weights(&plain) == weights(&recorded), "{objective:?}");
        let GraphUse { recorded, replayed, stopped } = recorded.graph_use().unwrap();
        assert!(
            *recorded >= 1 && *replayed >= 3 && stopped.is_none(),
            "{objective:?}: {recorded} {replayed} {stopped:?}"
        );
    }
}

/// Nothing to predict in any of the micro-batches: no update, and nothing left over for the next one.
#[test]
fn an_update_without_anything_to_learn_is_none() {
    let mut learner = learner(Objective::Diffusion { shift: true }, true);
    learner.start_recording().unwrap();
    let mut empty = batch(0, false);
    empty.masked.fill(false);
    learner.start_micro_step(&empty, &Pattern::Full).unwrap();
    let before = weights(&learner);
    assert!(!learner.apply(1e-2).unwrap().updated);
    assert!(weights(&learner) == before && learner.updates() == 0);
    learner.start_micro_step(&batch(1, false), &Pattern::Full).unwrap();
    let applied = learner.apply(1e-2).unwrap();
    assert_eq!((applied.totals.micro_batches, applied.updated), (1, true));
}

#[test]
fn what_cannot_be_recorded_says_why() {
    let refused = |change: fn(&mut Learner)| {
        let mut learner = learner(Objective::Diffusion { shift: true }, true);
        change(&mut learner);
        learner.start_recording().unwrap_err()
    };
    assert!(refused(|learner| learner.set_dropout(0.1, 0).unwrap()).contains("dropout"));
    assert!(refused(|learner| learner.align(model(LLAMA), 0.5).unwrap()).contains("second loss"));
    assert!(refused(|learner| learner.arithmetic.fixed_shapes = false).contains("shapes change"));
    let mut own = learner(Objective::Ar, true);
    assert!(own.record_updates().unwrap_err().contains("GPU only"));
    let mut experts = model(MIXTRAL);
    experts.set_arithmetic(Arithmetic { kernels: false, fixed_shapes: true, ..experts.arithmetic() });
    let options = ObjectiveOptions::recommended(Objective::Ar);
    let mut experts = Learner::new(experts, options, AdamW::default()).unwrap();
    assert!(experts.start_recording().unwrap_err().contains("experts"));
}
