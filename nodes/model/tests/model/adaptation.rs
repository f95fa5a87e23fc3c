//! The objective against hand-computed losses, the attention patterns' meaning, and independence from how a batch is split.

use difflow_model::{
    AdamW, Learner, MicroBatch, Model, ModelError, Normaliser, Objective, ObjectiveOptions, PADDING, Pattern, Precision,
};

use crate::support::{GPT2, LLAMA, QWEN3, distance, model, noised, tokens};

const SHIFTED: Objective = Objective::Diffusion { shift: true };
const UNSHIFTED: Objective = Objective::Diffusion { shift: false };

fn annealed(ratio: f64) -> Pattern {
    Pattern::Annealed { ratio, seed: 5, draw: 2 }
}

#[test]
fn ratio_zero_is_causal_and_ratio_one_is_full() {
    let ids = tokens(20, 1);
    for json in [LLAMA, GPT2, QWEN3] {
        let model = model(json, false);
        let logits = |pattern: &Pattern| model.logits(&ids, pattern).unwrap();
        assert_eq!(logits(&annealed(0.0)), logits(&Pattern::Causal));
        assert_eq!(logits(&annealed(1.0)), logits(&Pattern::Full));
        assert!(distance(&logits(&annealed(0.5)), &logits(&Pattern::Causal)) > 1e-2);
    }
}

/// Guards the fused kernel: no bias must not turn causal, and a bias must not be ignored.
#[test]
fn a_bias_and_the_fused_form_of_the_same_pattern_agree() {
    let ids = tokens(20, 1);
    for json in [LLAMA, GPT2, QWEN3] {
        let model = model(json, false);
        for pattern in [Pattern::Causal, Pattern::Full] {
            let explicit = Pattern::Explicit { visible: pattern.visible(20).unwrap().into() };
            let gap = distance(&model.logits(&ids, &pattern).unwrap(), &model.logits(&ids, &explicit).unwrap());
            assert!(gap < 1e-4, "{pattern:?} {gap}");
        }
    }
}

#[test]
fn later_tokens_matter_exactly_when_the_pattern_shows_them() {
    for json in [LLAMA, GPT2, QWEN3] {
        let model = model(json, false);
        let v = model.config().vocab_size;
        let mut ids = tokens(12, 3);
        let before = |pattern: &Pattern, ids: &[u32]| model.logits(ids, pattern).unwrap()[..11 * v].to_vec();
        let (causal, full) = (before(&Pattern::Causal, &ids), before(&Pattern::Full, &ids));
        ids[11] = if ids[11] == 5 { 6 } else { 5 };
        assert_eq!(distance(&causal, &before(&Pattern::Causal, &ids)), 0.0);
        let changed = before(&Pattern::Full, &ids);
        for position in 0..11 {
            let at = position * v..(position + 1) * v;
            assert!(distance(&full[at.clone()], &changed[at]) > 1e-4, "position {position}");
        }
    }
}

/// Cross-entropy of one position, from logits, in f64.
fn cross_entropy(logits: &[f32], target: u32) -> f64 {
    let max = logits.iter().fold(f32::MIN, |a, &b| a.max(b)) as f64;
    let sum: f64 = logits.iter().map(|&x| (f64::from(x) - max).exp()).sum();
    sum.ln() + max - f64::from(logits[target as usize])
}

/// method.md: L(t) = w(t) · Σ over masked positions of cross-entropy(model(x_t), x_0), by hand for both shift settings.
#[test]
fn losses_equal_those_computed_by_hand() {
    let model = model(LLAMA, true);
    let (v, mask) = (model.config().vocab_size, model.config().mask_token_id().unwrap());
    let batch = noised(2, 10, 4);
    for (objective, back) in [(SHIFTED, 1), (UNSHIFTED, 0)] {
        let (mut weighted, mut unweighted, mut count) = (0.0, 0.0, 0);
        for row in 0..2 {
            let at = row * 10;
            let xt: Vec<u32> = (at..at + 10).map(|i| if batch.masked[i] { mask } else { batch.tokens[i] }).collect();
            let logits = model.logits(&xt, &annealed(0.4)).unwrap();
            for i in (0..10).filter(|i| batch.masked[at + i]) {
                let loss = cross_entropy(&logits[(i - back) * v..(i - back + 1) * v], batch.tokens[at + i]);
                weighted += batch.weights[row] * loss;
                unweighted += loss;
                count += 1;
            }
        }
        let options = ObjectiveOptions::recommended(objective);
        let sums = model.nelbo_sums(&batch, &annealed(0.4), options).unwrap();
        assert!((sums.weighted - weighted).abs() < 1e-3, "{} {weighted}", sums.weighted);
        assert!((sums.unweighted - unweighted).abs() < 1e-3);
        assert_eq!((sums.positions, sums.maskable), (count, 18));
    }
}

/// method.md: with r = 0 the shifted diffusion loss on clean context is the AR loss on the masked targets.
#[test]
fn ratio_zero_with_shift_is_the_ar_loss_on_the_masked_target() {
    let model = model(GPT2, true);
    let mut batch = MicroBatch::clean(1, 9, tokens(9, 8));
    let all = model.ar_sums(&batch).unwrap();
    let mut sum = 0.0;
    for i in 1..9 {
        // Only the target itself is masked, so a causal model sees exactly the AR context.
        batch.masked = (0..9).map(|j| j == i).collect();
        sum += model.nelbo_sums(&batch, &annealed(0.0), ObjectiveOptions::recommended(SHIFTED)).unwrap().unweighted;
    }
    assert!((sum - all.unweighted).abs() < 1e-3, "{sum} {}", all.unweighted);
    assert_eq!(all.positions, 8);
}

#[test]
fn padding_and_rows_with_nothing_masked_stay_finite() {
    for json in [LLAMA, GPT2] {
        let mut batch = noised(3, 8, 9);
        batch.documents[5..8].fill(PADDING);
        batch.documents[8..16].fill(PADDING);
        batch.masked[16..].fill(false);
        let options = ObjectiveOptions::recommended(SHIFTED);
        let mut learner = Learner::new(model(json, true), options, AdamW::default()).unwrap();
        for pattern in [Pattern::Full, annealed(0.5), Pattern::Causal] {
            let sums = learner.micro_step(&batch, &pattern).unwrap();
            assert!(sums.is_finite() && sums.rows[1].positions == 0 && sums.rows[2].positions == 0);
        }
        let applied = learner.apply(1e-3).unwrap();
        assert!(applied.updated && applied.grad_norm.is_finite());
        // Nothing masked at all: no loss, no NaN from 0/0 in either normalisation, no update.
        batch.masked.fill(false);
        for options in [options, ObjectiveOptions { normaliser: Normaliser::MaskedTokens, ..options }] {
            let mut learner = Learner::new(model(json, true), options, AdamW::default()).unwrap();
            assert_eq!(learner.micro_step(&batch, &Pattern::Full).unwrap().weighted, 0.0);
            assert!(!learner.apply(1e-3).unwrap().updated);
        }
    }
}

/// A row's padding and neighbours must not change its loss.
#[test]
fn padding_changes_nothing_for_the_tokens_before_it() {
    let model = model(LLAMA, true);
    let alone = noised(1, 6, 10);
    let mut padded = noised(2, 9, 11);
    padded.tokens[..6].copy_from_slice(&alone.tokens);
    padded.masked[..6].copy_from_slice(&alone.masked);
    padded.weights[0] = alone.weights[0];
    padded.documents[6..9].fill(PADDING);
    let options = ObjectiveOptions::recommended(UNSHIFTED);
    for pattern in [Pattern::Full, Pattern::Causal, Pattern::Band { right: 2 }] {
        let one = model.nelbo_sums(&alone, &pattern, options).unwrap();
        let two = model.nelbo_sums(&padded, &pattern, options).unwrap();
        assert!((one.weighted - two.rows[0].weighted).abs() < 1e-4, "{pattern:?}");
    }
}

/// A weight of each position counts for that position; rows with one weight have the same bits either way of saying it.
#[test]
fn a_weight_of_each_position_weighs_that_position() {
    let model = model(LLAMA, true);
    let rows = noised(3, 14, 21);
    let options = ObjectiveOptions::recommended(SHIFTED);
    let sums =
        |weights: Vec<f64>| model.nelbo_sums(&MicroBatch { weights, ..rows.clone() }, &Pattern::Full, options).unwrap();
    let expanded: Vec<f64> = (0..3 * 14).map(|at| rows.weights[at / 14]).collect();
    let whole = sums(rows.weights.clone());
    assert_eq!(whole, sums(expanded));
    let only = |keep: &dyn Fn(usize) -> bool| sums((0..3 * 14).map(|at| f64::from(keep(at))).collect()).weighted;
    let (first, second) = (only(&|at| at % 14 < 7), only(&|at| at % 14 >= 7));
    assert!(first > 0.0 && second > 0.0);
    assert!((first + second - whole.unweighted).abs() < 1e-9 * whole.unweighted);
    assert_eq!(rows.rows(1, 3).weights, rows.weights[1..]);
}

/// Two documents packed in a row have the losses they have alone in a row, positions aside.
#[test]
fn packed_documents_do_not_see_each_other() {
    let model = model(LLAMA, true);
    let mut packed = noised(1, 12, 12);
    packed.documents = (0..12).map(|i| u32::from(i >= 7)).collect();
    packed.masked[7] = false;
    let options = ObjectiveOptions::recommended(SHIFTED);
    let before = model.nelbo_sums(&packed, &Pattern::Full, options).unwrap();
    let first = packed.rows(0, 1);
    let mut changed = first.clone();
    // Other tokens in the second document: the first document's share of the loss must not move.
    changed.masked[7..].fill(false);
    let mut other = changed.clone();
    other.tokens[8] = if other.tokens[8] == 5 { 6 } else { 5 };
    let sums = |batch: &MicroBatch| model.nelbo_sums(batch, &Pattern::Full, options).unwrap().weighted;
    assert_eq!(sums(&changed), sums(&other));
    assert!(before.weighted > sums(&changed));
    let crossing = ObjectiveOptions { document_attention: false, ..options };
    let sums = |batch: &MicroBatch| model.nelbo_sums(batch, &Pattern::Full, crossing).unwrap().weighted;
    assert_ne!(sums(&changed), sums(&other));
}

fn gradients(
    model: Model,
    batch: &MicroBatch,
    split: usize,
    options: ObjectiveOptions,
) -> (f64, Vec<(String, Vec<f32>)>) {
    let mut learner = Learner::new(model, options, AdamW::default()).unwrap();
    let mut loss = 0.0;
    for start in (0..batch.rows).step_by(split) {
        // One draw for all parts, so that only the split differs.
        let sums = learner.micro_step(&batch.rows(start, start + split), &annealed(0.5)).unwrap();
        loss += sums.weighted / batch.maskable_tokens() as f64;
    }
    (loss, learner.gradients().unwrap())
}

#[test]
fn loss_and_gradients_do_not_depend_on_the_split_into_micro_batches() {
    let batch = noised(32, 10, 13);
    for (json, objective) in [(LLAMA, SHIFTED), (GPT2, SHIFTED), (LLAMA, UNSHIFTED), (LLAMA, Objective::Ar)] {
        let options = ObjectiveOptions::recommended(objective);
        let (whole, wanted) = gradients(model(json, true), &batch, 32, options);
        let scale = wanted.iter().flat_map(|(_, g)| g).fold(0f32, |a, g| a.max(g.abs()));
        for split in [8, 1] {
            let (loss, found) = gradients(model(json, true), &batch, split, options);
            assert!((loss - whole).abs() < 1e-5 * whole, "{loss} {whole}");
            for ((name, a), (_, b)) in wanted.iter().zip(&found) {
                assert!(distance(a, b) < 2e-5 * scale, "{name}: {} of {scale}", distance(a, b));
            }
        }
    }
}

/// Gradients against finite differences of the loss, through files: perturbs one weight of each tensor.
#[test]
fn gradients_are_slopes_of_the_loss() {
    let batch = noised(2, 8, 14);
    let options = ObjectiveOptions::recommended(SHIFTED);
    for json in [LLAMA, GPT2, QWEN3] {
        let (_, gradients) = gradients(model(json, true), &batch, 2, options);
        let mut steep = 0;
        let dir = tempfile::TempDir::new().unwrap();
        model(json, true).save(dir.path()).unwrap();
        let path = dir.path().join("model.safetensors");
        let original = std::fs::read(&path).unwrap();
        let header = u64::from_le_bytes(original[..8].try_into().unwrap()) as usize + 8;
        let offsets: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&original[8..header]).unwrap();
        for (name, gradient) in gradients {
            let (place, slope) = gradient.iter().enumerate().max_by(|a, b| a.1.abs().total_cmp(&b.1.abs())).unwrap();
            let at = header + offsets[&name]["data_offsets"][0].as_u64().unwrap() as usize + 4 * place;
            let loss = |step: f32| {
                let mut bytes = original.clone();
                let value = f32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) + step;
                bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
                std::fs::write(&path, bytes).unwrap();
                let model = Model::load(dir.path(), difflow_model::Device::Cpu).unwrap();
                model.nelbo_sums(&batch, &annealed(0.5), options).unwrap().weighted / batch.maskable_tokens() as f64
            };
            let numeric = (loss(2e-3) - loss(-2e-3)) / 4e-3;
            let gap = (numeric - f64::from(*slope)).abs();
            assert!(gap < 2e-3 + 0.02 * numeric.abs(), "{name}: {numeric} {slope}");
            steep += usize::from(numeric.abs() > 2e-2);
        }
        // Of slopes near 0 the tolerance would let anything pass.
        assert!(steep > 6, "{json}: only {steep} tensors have a slope to compare");
    }
}

#[test]
fn a_few_steps_lower_the_loss_and_an_infinite_weight_is_reported_not_applied() {
    let options = ObjectiveOptions::recommended(SHIFTED);
    let mut learner = Learner::new(model(LLAMA, true), options, AdamW::default()).unwrap();
    let batch = noised(4, 16, 15);
    let first = learner.micro_step(&batch, &Pattern::Full).unwrap().weighted;
    learner.apply(1e-2).unwrap();
    for _ in 0..20 {
        learner.micro_step(&batch, &Pattern::Full).unwrap();
        learner.apply(1e-2).unwrap();
    }
    let last = learner.micro_step(&batch, &Pattern::Full).unwrap().weighted;
    assert!(last < 0.7 * first, "{first} {last}");
    let before = learner.model().logits(&[5, 6], &Pattern::Full).unwrap();
    let mut broken = batch.clone();
    broken.weights[0] = 1e300;
    learner.micro_step(&broken, &Pattern::Full).unwrap();
    let applied = learner.apply(1e-2).unwrap();
    assert!(!applied.updated && !applied.finite);
    assert_eq!(before, learner.model().logits(&[5, 6], &Pattern::Full).unwrap());
}

/// bf16 products over fp32 master weights: near the fp32 loss and gradient, and weights that stay fp32 values.
#[test]
fn bf16_is_near_fp32_and_learns() {
    let options = ObjectiveOptions::recommended(SHIFTED);
    let batch = noised(8, 24, 18);
    for json in [LLAMA, GPT2, QWEN3] {
        let learner = |precision| {
            let mut model = model(json, true);
            model.set_precision(precision);
            Learner::new(model, options, AdamW::default()).unwrap()
        };
        let (mut exact, mut rough) = (learner(Precision::Fp32), learner(Precision::Bf16));
        let step = |learner: &mut Learner| learner.micro_step(&batch, &annealed(0.5)).unwrap().weighted;
        let (wanted, found) = (step(&mut exact), step(&mut rough));
        assert!((wanted - found).abs() < 0.02 * wanted, "{wanted} {found}");
        let (mut dot, mut sizes) = (0.0, (0.0, 0.0));
        for ((_, a), (_, b)) in exact.gradients().unwrap().iter().zip(rough.gradients().unwrap()) {
            for (a, b) in a.iter().zip(b) {
                let (a, b) = (f64::from(*a), f64::from(b));
                (dot, sizes) = (dot + a * b, (sizes.0 + a * a, sizes.1 + b * b));
            }
        }
        assert!(dot / (sizes.0 * sizes.1).sqrt() > 0.995, "{json}: gradients point elsewhere");
        for _ in 0..20 {
            rough.apply(1e-2).unwrap();
            step(&mut rough);
        }
        assert!(step(&mut rough) < 0.8 * found);
    }
}

#[test]
fn bad_batches_are_refused_with_place_found_and_wanted() {
    let model = model(GPT2, true);
    let options = ObjectiveOptions::recommended(SHIFTED);
    let error = |batch: &MicroBatch| model.nelbo_sums(batch, &Pattern::Full, options).unwrap_err().to_string();
    let good = noised(2, 8, 16);
    assert!(error(&MicroBatch { tokens: vec![99; 16], ..good.clone() }).contains("found 99"));
    assert!(error(&MicroBatch { weights: vec![1.0], ..good.clone() }).contains("weights"));
    assert!(error(&MicroBatch { weights: vec![1.0, f64::NAN], ..good.clone() }).contains("row 1"));
    let mut each = vec![1.0; 16];
    each[9] = f64::INFINITY;
    assert!(error(&MicroBatch { weights: each, ..good }).contains("row 1"));
    assert!(error(&noised(1, 65, 17)).contains("64"));
    let base = crate::support::model(LLAMA, false);
    assert!(matches!(base.nelbo_sums(&noised(1, 8, 1), &Pattern::Full, options), Err(ModelError::NoMaskToken)));
}
