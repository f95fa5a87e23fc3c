//! Losses by hand for each preset, noise schedule and shift setting, and which token may matter to which prediction.

use std::f64::consts::{FRAC_PI_2, PI};

use difflow_model::{
    AdamW, Learner, MicroBatch, Model, Normaliser, Objective, ObjectiveOptions, PADDING, Pattern, StepSums,
};

use crate::support::{GPT2, LLAMA, distance, model, noised, tokens};

/// Cross-entropy of one position, from logits, in f64.
fn cross_entropy(logits: &[f32], target: u32) -> f64 {
    let top = logits.iter().fold(f32::MIN, |a, &b| a.max(b)) as f64;
    let sum: f64 = logits.iter().map(|&x| (f64::from(x) - top).exp()).sum();
    sum.ln() + top - f64::from(logits[target as usize])
}

/// Loss weight of the linear schedule α = 1 − t.
fn linear(t: f64) -> f64 {
    1.0 / t
}

/// Loss weight −α′/(1 − α) of the cosine schedule α = cos²(πt/2).
fn cosine(t: f64) -> f64 {
    PI * (FRAC_PI_2 * t).cos() / (FRAC_PI_2 * t).sin()
}

/// Two documents a row, padding at its end, weights of a noise schedule at two times, and a mask token that is also an ordinary
/// token of the text (id 31), at a place that was not masked.
fn batch(weight: fn(f64) -> f64) -> MicroBatch {
    let mut batch = noised(2, 12, 4);
    batch.tokens.iter_mut().filter(|id| **id == 31).for_each(|id| *id = 30);
    batch.documents = (0..24).map(|i| if i % 12 < 5 { 0 } else { 1 }).collect();
    (batch.tokens[3], batch.masked[3]) = (31, false);
    (batch.documents[23], batch.maskable[23], batch.masked[23]) = (PADDING, false, false);
    batch.weights = [0.3, 0.8].map(weight).to_vec();
    batch
}

/// What method.md's table says, written out: (weighted sum, number of positions).
fn by_hand(
    model: &Model,
    batch: &MicroBatch,
    pattern: &Pattern,
    options: ObjectiveOptions,
    parity: bool,
) -> (f64, u64) {
    let (v, mask) = (model.config().vocab_size, 31);
    let back = usize::from(options.objective == Objective::Diffusion { shift: true });
    let (mut weighted, mut count) = (0.0, 0);
    for row in 0..2 {
        let at = row * 12;
        let xt: Vec<u32> = (at..at + 12).map(|i| if batch.masked[i] { mask } else { batch.tokens[i] }).collect();
        let documents = &batch.documents[at..at + 12];
        let mut visible = pattern.visible(12).unwrap();
        if !parity {
            for (at, pair) in visible.iter_mut().enumerate() {
                *pair &= documents[at / 12] == documents[at % 12];
            }
        }
        let logits = model.logits(&xt, &Pattern::Explicit { visible: visible.into() }).unwrap();
        for i in 0..12 {
            let hit = if parity { xt[i] == mask } else { batch.masked[at + i] };
            let from_here = i >= back && (parity || back == 0 || documents[i - 1] == documents[i]);
            if hit && from_here && documents[i] != PADDING {
                weighted += batch.weights[row] * cross_entropy(&logits[(i - back) * v..][..v], batch.tokens[at + i]);
                count += 1;
            }
        }
    }
    (weighted, count)
}

#[test]
fn losses_of_every_preset_schedule_and_shift_equal_those_by_hand() {
    let pattern = Pattern::Annealed { ratio: 0.4, seed: 5, draw: 2 };
    let mut counts = Vec::new();
    for json in [LLAMA, GPT2] {
        let mut model = model(json, false);
        model.use_mask_token(31).unwrap();
        for (schedule, weight) in [("linear", linear as fn(f64) -> f64), ("cosine", cosine)] {
            let batch = batch(weight);
            for shift in [true, false] {
                for parity in [false, true] {
                    let objective = Objective::Diffusion { shift };
                    let options = if parity {
                        ObjectiveOptions::parity(objective)
                    } else {
                        ObjectiveOptions::recommended(objective)
                    };
                    let (wanted, count) = by_hand(&model, &batch, &pattern, options, parity);
                    let sums = model.nelbo_sums(&batch, &pattern, options).unwrap();
                    let what = format!("{schedule}, shift {shift}, parity {parity}");
                    assert!((sums.weighted - wanted).abs() < 1e-4 * wanted, "{what}: {} {wanted}", sums.weighted);
                    assert_eq!((sums.positions, sums.maskable), (count, 21), "{what}");
                    counts.push(count);
                }
            }
        }
    }
    // The presets and shifts must really differ on this batch.
    assert!(counts[..4].windows(2).all(|pair| pair[0] != pair[1]), "{counts:?}");
}

/// The paper's normalisation divides by the masked tokens of the micro-batch, ours by the maskable ones of the global batch: the
/// gradients differ by exactly that factor, and only the paper's depends on the split.
#[test]
fn the_papers_normalisation_is_another_factor_and_depends_on_the_split() {
    let batch = noised(4, 12, 6);
    let run = |parts: usize, normaliser: Normaliser| -> (StepSums, Vec<(String, Vec<f32>)>) {
        let objective = Objective::Diffusion { shift: true };
        let options = ObjectiveOptions { normaliser, ..ObjectiveOptions::recommended(objective) };
        let mut learner = Learner::new(model(LLAMA, true), options, AdamW::default()).unwrap();
        let mut last = StepSums::default();
        for start in (0..4).step_by(4 / parts) {
            let part = batch.rows(start, start + 4 / parts);
            last = learner.micro_step(&part, &Pattern::Full).unwrap();
        }
        (last, learner.gradients().unwrap())
    };
    let maskable = batch.maskable_tokens() as f64;
    let (sums, global) = run(1, Normaliser::MaskableTokens);
    let (_, paper) = run(1, Normaliser::MaskedTokens);
    let (_, split) = run(2, Normaliser::MaskedTokens);
    let factor = maskable / sums.positions as f64;
    let scale = paper.iter().flat_map(|(_, g)| g).fold(0f32, |a, g| a.max(g.abs()));
    for ((name, a), (_, b)) in global.iter().zip(&paper) {
        assert!(
            a.iter().zip(b).all(|(a, b)| (f64::from(*a) * factor - f64::from(*b)).abs() < 1e-5 * f64::from(scale)),
            "{name}"
        );
    }
    let gap = paper.iter().zip(&split).map(|((_, a), (_, b))| distance(a, b)).fold(0.0, f32::max);
    assert!(gap > 1e-3 * scale, "{gap} of {scale}");
}

/// One layer, so that what a position sees is exactly what the pattern says: changing token j moves the logits at i when, and
/// only when, i sees j.
#[test]
fn a_token_matters_to_a_position_exactly_when_the_pattern_lets_it() {
    let patterns = [
        Pattern::Causal,
        Pattern::Full,
        Pattern::Annealed { ratio: 0.3, seed: 1, draw: 7 },
        Pattern::Band { right: 2 },
        Pattern::Block { size: 3 },
    ];
    for json in [LLAMA, GPT2] {
        let one_layer = json
            .replace("\"num_hidden_layers\":2", "\"num_hidden_layers\":1")
            .replace("\"n_layer\":2", "\"n_layer\":1");
        let model = model(&one_layer, false);
        let (v, length) = (model.config().vocab_size, 10);
        let ids = tokens(length, 2);
        for pattern in &patterns {
            let visible = pattern.visible(length).unwrap();
            let before = model.logits(&ids, pattern).unwrap();
            for j in 0..length {
                let mut changed = ids.clone();
                changed[j] = if ids[j] == 5 { 6 } else { 5 };
                let after = model.logits(&changed, pattern).unwrap();
                for i in (0..length).filter(|&i| i != j) {
                    let gap = distance(&before[i * v..(i + 1) * v], &after[i * v..(i + 1) * v]);
                    assert_eq!(gap > 1e-5, visible[i * length + j], "{pattern:?}: position {i}, token {j}: {gap}");
                }
            }
        }
    }
}
