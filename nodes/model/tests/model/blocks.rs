//! Block diffusion at its limits: where it must equal autoregression, full diffusion, or a calculation by hand.

use difflow_model::{
    Arithmetic, Blocks, Context, Learner, MicroBatch, Model, Objective, ObjectiveOptions, Optimizer, PADDING, Pattern,
    RowSums,
};

use crate::support::{GPT2, LLAMA, distance, model, noised, tokens};

const MASK: u32 = 37;
const VOCABULARY: usize = 38;
const CONTEXTS: [Context; 2] = [Context::Block, Context::Causal];

fn options(blocks: Blocks) -> ObjectiveOptions {
    ObjectiveOptions::recommended(Objective::Block(blocks))
}

fn blocks(size: usize, context: Context, shift: bool) -> Blocks {
    Blocks { size, context, shift, ar_weight: 0.0 }
}

fn rows(model: &Model, batch: &MicroBatch, blocks: Blocks) -> Vec<RowSums> {
    model.nelbo_sums(batch, &Pattern::Full, options(blocks)).unwrap().rows
}

/// Cross-entropy of a token under the logits at a position, in f64.
fn cross_entropy(logits: &[f32], at: usize, target: u32) -> f64 {
    let row = &logits[at * VOCABULARY..(at + 1) * VOCABULARY];
    let top = row.iter().fold(f32::MIN, |a, &b| a.max(b)) as f64;
    let sum: f64 = row.iter().map(|&x| (f64::from(x) - top).exp()).sum();
    sum.ln() + top - f64::from(row[target as usize])
}

/// Two documents of 7 and 10 tokens in rows of 20, padded, half of it masked, with a weight for each position.
fn documents(salt: u64) -> MicroBatch {
    let mut batch = noised(3, 20, salt);
    let document = |at: usize| match at {
        0..7 => 0,
        7..17 => 1,
        _ => PADDING,
    };
    batch.documents = (0..60).map(|at| document(at % 20)).collect();
    batch.maskable = (0..60).map(|at| ![0, 7].contains(&(at % 20)) && at % 20 < 17).collect();
    batch.masked = batch.masked.iter().zip(&batch.maskable).map(|(&masked, &maskable)| masked && maskable).collect();
    batch.weights = (0..60).map(|at| 1.0 + (at % 7) as f64 / 3.0).collect();
    batch
}

/// The loss as the method's table says it, a block at a time, from a text that stands once: clean before the block, noised in it. A wrong
/// place, position, document, short last block or weight is another number.
fn by_hand(model: &Model, batch: &MicroBatch, row: usize, blocks: Blocks) -> (f64, u64) {
    let length = batch.length;
    let part = row * length..(row + 1) * length;
    let (tokens, documents) = (&batch.tokens[part.clone()], &batch.documents[part.clone()]);
    let start = |at: usize| documents.iter().position(|document| *document == documents[at]).unwrap();
    let block = |at: usize| (documents[at], (at - start(at)) / blocks.size);
    let (mut weighted, mut count) = (0.0, 0);
    let mut begin = 0;
    while begin < length && documents[begin] != PADDING {
        let end = (begin..length).find(|&at| block(at) != block(begin)).unwrap_or(length);
        let masked = |at: usize| (begin..end).contains(&at) && batch.masked[part.start + at];
        let text: Vec<u32> = (0..length).map(|at| if masked(at) { MASK } else { tokens[at] }).collect();
        let sees = |i: usize, j: usize| {
            let earlier = match blocks.context {
                Context::Causal => j <= i,
                Context::Block => block(j).1 <= block(i).1,
            };
            documents[i] == documents[j] && if i >= begin { j < end } else { earlier && j < begin }
        };
        let visible: Vec<bool> = (0..length * length).map(|pair| sees(pair / length, pair % length)).collect();
        let logits = model.logits(&text, &Pattern::Explicit { visible: visible.into() }).unwrap();
        for at in (begin..end).filter(|&at| masked(at) && (!blocks.shift || at > start(at))) {
            let from = at - usize::from(blocks.shift);
            weighted += batch.weights[part.start + at] * cross_entropy(&logits, from, tokens[at]);
            count += 1;
        }
        begin = end;
    }
    (weighted, count)
}

#[test]
fn the_loss_is_what_the_table_of_the_method_says() {
    for (json, kernels) in [(LLAMA, true), (LLAMA, false), (GPT2, true)] {
        let mut model = model(json, true);
        model.set_arithmetic(Arithmetic { kernels, ..model.arithmetic() });
        let batch = documents(8);
        for (size, context) in [1, 3, 4].into_iter().flat_map(|size| CONTEXTS.map(|context| (size, context))) {
            for shift in [false, true] {
                let blocks = blocks(size, context, shift);
                let found = rows(&model, &batch, blocks);
                for (row, found) in found.iter().enumerate() {
                    let (wanted, count) = by_hand(&model, &batch, row, blocks);
                    assert!(count > 4 && count == found.positions, "{blocks:?}: {count} {found:?}");
                    assert!((found.weighted - wanted).abs() < 1e-4 * wanted, "{blocks:?}: {found:?}, wanted {wanted}");
                }
            }
        }
    }
}

/// Blocks of one token, all masked: autoregression with the prediction at a mask behind the clean text.
#[test]
fn blocks_of_one_without_shift_are_autoregression_at_the_mask() {
    let model = model(LLAMA, true);
    let mut batch = MicroBatch::clean(1, 12, tokens(12, 5));
    batch.masked.clone_from(&batch.maskable);
    let wanted: f64 = (1..12)
        .map(|at| {
            let text = [&batch.tokens[..at], &[MASK]].concat();
            cross_entropy(&model.logits(&text, &Pattern::Causal).unwrap(), at, batch.tokens[at])
        })
        .sum();
    for context in CONTEXTS {
        let found = rows(&model, &batch, blocks(1, context, false))[0];
        assert!((found.weighted - wanted).abs() < 1e-5 * wanted && found.positions == 11, "{found:?} {wanted}");
    }
}

/// With shift every prediction of a block of one comes from the clean text before it: the base model's own, token by token.
#[test]
fn shifted_blocks_of_one_are_the_base_model_token_by_token() {
    for json in [LLAMA, GPT2] {
        let (base, adapted) = (model(json, false), model(json, true));
        let clean = MicroBatch::clean(1, 12, tokens(12, 5));
        let logits = base.logits(&clean.tokens, &Pattern::Causal).unwrap();
        for at in 1..12 {
            let masked = (0..12).map(|other| other == at).collect();
            let found = rows(&adapted, &MicroBatch { masked, ..clean.clone() }, blocks(1, Context::Causal, true))[0];
            // The mask token is one logit more.
            let with_mask = adapted.logits(&clean.tokens, &Pattern::Causal).unwrap();
            assert!(distance(&logits[(at - 1) * 37..at * 37], &with_mask[(at - 1) * VOCABULARY..][..37]) < 1e-6);
            let wanted = cross_entropy(&with_mask, at - 1, clean.tokens[at]);
            assert!((found.unweighted - wanted).abs() < 1e-5, "token {at}: {found:?} {wanted}");
        }
        let all = MicroBatch { masked: clean.maskable.clone(), ..clean.clone() };
        let found = rows(&adapted, &all, blocks(1, Context::Causal, true))[0];
        let wanted = adapted.ar_sums(&clean).unwrap();
        assert!((found.unweighted - wanted.unweighted).abs() < 1e-5 * wanted.unweighted);
    }
}

fn gradients(objective: Objective, batches: &[MicroBatch]) -> Vec<(String, Vec<f32>)> {
    let mut learner =
        Learner::new(model(LLAMA, true), ObjectiveOptions::recommended(objective), Optimizer::default()).unwrap();
    let pattern = if objective == Objective::Ar { Pattern::Causal } else { Pattern::Full };
    batches.iter().for_each(|batch| drop(learner.micro_step(batch, &pattern).unwrap()));
    learner.gradients().unwrap()
}

fn alike(a: &[(String, Vec<f32>)], b: &[(String, Vec<f32>)]) {
    let scale = a.iter().flat_map(|(_, g)| g).fold(0f32, |a, g| a.max(g.abs()));
    for ((name, a), (_, b)) in a.iter().zip(b) {
        let gap = distance(a, b);
        assert!(gap < 2e-6 * scale.max(1.0), "{name}: {gap} of {scale}");
    }
}

/// One block as long as the document: the clean half is never looked at. Both where rows are cut (the document is shorter than the row)
/// and where a row is one block and has no clean half.
#[test]
fn one_block_is_full_diffusion_in_loss_and_gradient() {
    let mut padded = noised(2, 16, 9);
    padded.documents = (0..32).map(|at| if at % 16 < 12 { 0 } else { PADDING }).collect();
    padded.maskable = (0..32).map(|at| (1..12).contains(&(at % 16))).collect();
    padded.masked = padded.masked.iter().zip(&padded.maskable).map(|(&masked, &maskable)| masked && maskable).collect();
    for (batch, size) in [(&padded, 12), (&padded, 15), (&noised(2, 16, 9), 16), (&noised(2, 16, 9), 64)] {
        for (shift, context) in [(false, Context::Block), (true, Context::Causal)] {
            let objective = Objective::Block(blocks(size, context, shift));
            let full = Objective::Diffusion { shift };
            let model = model(LLAMA, true);
            let sums =
                |objective| model.nelbo_sums(batch, &Pattern::Full, ObjectiveOptions::recommended(objective)).unwrap();
            let (found, wanted) = (sums(objective), sums(full));
            assert!((found.weighted - wanted.weighted).abs() < 1e-5 * wanted.weighted, "{size}: {found:?} {wanted:?}");
            assert_eq!(found.positions_read / wanted.positions_read, if size < 16 { 2 } else { 1 });
            alike(&gradients(objective, std::slice::from_ref(batch)), &gradients(full, std::slice::from_ref(batch)));
        }
    }
}

/// The gradient with respect to the embedding of what is clean: nothing of the block itself or after it, nor of another document.
#[test]
fn no_gradient_leaks_from_the_block_or_what_follows_it() {
    let json = LLAMA.replace("\"tie_word_embeddings\":true", "\"tie_word_embeddings\":false");
    for (context, shift) in CONTEXTS.into_iter().flat_map(|context| [(context, false), (context, true)]) {
        let mut batch = MicroBatch::clean(1, 20, (3..23).collect());
        batch.documents = (0..20).map(|at| u32::from(at >= 14)).collect();
        // The second of the blocks 0..4, 4..8, 8..12, 12..14 of the first document.
        batch.masked = (0..20).map(|at| (4..8).contains(&at)).collect();
        let objective = ObjectiveOptions::recommended(Objective::Block(blocks(4, context, shift)));
        let mut learner = Learner::new(model(&json, true), objective, Optimizer::default()).unwrap();
        learner.micro_step(&batch, &Pattern::Full).unwrap();
        let all = learner.gradients().unwrap();
        let (_, embedding) = all.iter().find(|(name, _)| name == "model.embed_tokens.weight").unwrap();
        for at in 0..20 {
            let row = &embedding[(3 + at) * 16..(4 + at) * 16];
            let seen = row.iter().any(|&value| value != 0.0);
            assert_eq!(seen, at < 4, "{context:?}, shift {shift}: clean token {at}: {row:?}");
        }
    }
}

/// Diffusion + weight · AR, in sums and gradients; the clean half's AR loss is the base model's.
#[test]
fn the_joint_loss_is_the_sum_of_both() {
    let batch = documents(3);
    for shift in [false, true] {
        let alone = blocks(4, Context::Causal, shift);
        let joint = Blocks { ar_weight: 0.6, ..alone };
        let model = model(LLAMA, true);
        let sums = |blocks| model.nelbo_sums(&batch, &Pattern::Full, options(blocks)).unwrap();
        let ar = model.ar_sums(&batch).unwrap();
        let (with, without) = (sums(joint), sums(alone));
        assert_eq!((with.ar_positions, without.ar_positions, ar.positions), (3 * 15, 0, 3 * 15));
        assert!((with.ar - ar.unweighted).abs() < 1e-5 * ar.unweighted, "{} {}", with.ar, ar.unweighted);
        assert!(
            (with.weighted - without.weighted).abs() < 1e-6 * without.weighted && with.positions == without.positions
        );
        let [with, without, ar] = [Objective::Block(joint), Objective::Block(alone), Objective::Ar]
            .map(|objective| gradients(objective, std::slice::from_ref(&batch)));
        let sum = without
            .iter()
            .zip(&ar)
            .map(|((name, a), (_, b))| (name.clone(), a.iter().zip(b).map(|(a, b)| a + 0.6 * b).collect::<Vec<f32>>()));
        alike(&with, &sum.collect::<Vec<_>>());
    }
}

/// Rows of several sizes in one micro-batch are what each is alone, in the order of the batch, whatever the split into micro-batches.
#[test]
fn a_mixture_is_its_rows() {
    let mut batch = noised(5, 12, 4);
    batch.blocks = vec![4, 12, 2, 4, 20];
    let mixed = Blocks { ar_weight: 0.5, ..blocks(3, Context::Causal, true) };
    let model = model(LLAMA, true);
    let all = model.nelbo_sums(&batch, &Pattern::Full, options(mixed)).unwrap();
    assert_eq!((all.positions_read, all.ar_positions), (3 * 24 + 2 * 12, 3 * 11));
    for row in 0..5 {
        let one = MicroBatch { blocks: Vec::new(), ..batch.rows(row, row + 1) };
        let size = batch.blocks[row];
        let alone = rows(&model, &one, Blocks { size, ..mixed })[0];
        let gap = (alone.weighted - all.rows[row].weighted).abs();
        assert!(gap < 1e-5 * alone.weighted && alone.positions == all.rows[row].positions, "row {row}: {gap}");
    }
    let objective = Objective::Block(mixed);
    alike(&gradients(objective, &[batch.clone()]), &gradients(objective, &[batch.rows(0, 2), batch.rows(2, 5)]));
    // The pattern is for rows that are not cut.
    let causal = model.nelbo_sums(&batch, &Pattern::Causal, options(mixed)).unwrap();
    let differs: Vec<bool> = causal.rows.iter().zip(&all.rows).map(|(a, b)| a.weighted != b.weighted).collect();
    assert_eq!(differs, [false, true, false, false, true]);
}

#[test]
fn what_cannot_be_trained_is_said() {
    let new = |options| Learner::new(model(LLAMA, true), options, Optimizer::default()).err().unwrap().to_string();
    let wide = Blocks { ar_weight: 0.5, ..blocks(4, Context::Block, false) };
    assert!(new(options(wide)).contains("causal"));
    let across = ObjectiveOptions { document_attention: false, ..options(blocks(4, Context::Block, false)) };
    assert!(new(across).contains("document"));
    let error = |batch: &MicroBatch, pattern: &Pattern, options| {
        model(LLAMA, true).nelbo_sums(batch, pattern, options).unwrap_err().to_string()
    };
    let good = noised(2, 8, 1);
    let cut = Pattern::NoisedBlocks { size: 4, context: Context::Causal };
    let full = ObjectiveOptions::recommended(Objective::Diffusion { shift: false });
    assert!(error(&good, &cut, full).contains("[x_t ; x_0]"));
    for wrong in [vec![4], vec![4, 0]] {
        let batch = MicroBatch { blocks: wrong, ..good.clone() };
        assert!(error(&batch, &Pattern::Full, options(blocks(4, Context::Block, false))).contains("2 block sizes"));
    }
}
