//! Training by operations of a device, on the CPU, where they are torch's: what only a GPU has is compared with these there by the
//! self-test.
#![allow(clippy::unwrap_used)]

use tch::Tensor;

use crate::arithmetic::{Arithmetic, Precision};
use crate::attention::Attention;
use crate::batch::MicroBatch;
use crate::host::{copied, reads};
use crate::learner::Learner;
use crate::model::Model;
use crate::objective::{Blocks, Normaliser, Objective, ObjectiveOptions};
use crate::optimizer::AdamW;
use crate::pattern::{Context, Pattern};
use crate::small::{LLAMA, model};
use crate::step_sums::StepSums;

const GPT2: &str = r#"{"architectures":["GPT2LMHeadModel"],"vocab_size":37,"n_embd":32,"n_layer":2,"n_head":2,
    "n_positions":64,"initializer_range":0.3}"#;
const QWEN: &str = r#"{"architectures":["Qwen3ForCausalLM"],"model_type":"qwen3","vocab_size":37,"hidden_size":24,
    "intermediate_size":21,"num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,"head_dim":8,
    "max_position_embeddings":64,"initializer_range":0.3,"tie_word_embeddings":false}"#;

fn batch(number: usize) -> MicroBatch {
    let (rows, length) = (2 + number % 2, 15);
    let hash = |i: usize| ((i + 100 * number) as u32).wrapping_mul(2_654_435_761) >> 12;
    let mut batch = MicroBatch::clean(rows, length, (0..rows * length).map(|i| hash(i) % 37).collect());
    batch.masked = (0..rows * length).map(|i| batch.maskable[i] && hash(i + 991) % 3 > 0).collect();
    batch.weights = (0..rows).map(|row| 1.5 + row as f64).collect();
    batch
}

fn learner(json: &str, kernels: bool, precision: Precision) -> Learner {
    crate::set_num_threads(1);
    let mut model = model(json);
    model.set_arithmetic(Arithmetic { kernels, precision, ..model.arithmetic() });
    model.add_mask_token(7).unwrap();
    let options = ObjectiveOptions::recommended(Objective::Diffusion { shift: true });
    // Low enough to clip.
    Learner::new(model, options, AdamW { clip: Some(0.05), weight_decay: 0.1, ..AdamW::default() }).unwrap()
}

fn weights(model: &Model) -> Vec<Vec<f32>> {
    model.parameters.iter().map(|parameter| copied(&parameter.tensor).unwrap()).collect()
}

fn gap(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    let pairs = a.iter().flatten().zip(b.iter().flatten());
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// How far each value went.
fn moved(from: &[Vec<f32>], to: &[Vec<f32>]) -> Vec<f32> {
    moved_one(&from.concat(), &to.concat())
}

fn moved_one(from: &[f32], to: &[f32]) -> Vec<f32> {
    from.iter().zip(to).map(|(from, to)| to - from).collect()
}

fn norm(values: &[f32]) -> f64 {
    values.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt()
}

const PATTERN: Pattern = Pattern::Annealed { ratio: 0.4, seed: 1, draw: 1 };

/// Loss and every gradient, for every family, objective and option: torch's operations, which a GPU computes with, against the CPU's
/// kernels. In bf16 both round, at different places.
#[test]
fn losses_and_gradients_by_torchs_operations_are_those_of_the_cpu_kernels() {
    let window =
        LLAMA.replace("LlamaForCausalLM", "MistralForCausalLM").replace("\"vocab", "\"sliding_window\":5,\"vocab");
    let blocks = |shift, context, ar_weight| Objective::Block(Blocks { size: 4, context, shift, ar_weight });
    let objectives = [
        Objective::Diffusion { shift: true },
        Objective::Diffusion { shift: false },
        Objective::Ar,
        blocks(false, Context::Block, 0.0),
        blocks(true, Context::Causal, 0.5),
    ];
    let documents = |mut batch: MicroBatch| {
        let length = batch.length;
        batch.documents.iter_mut().enumerate().for_each(|(at, id)| *id = (at % length / 6) as u32);
        batch
    };
    for json in [LLAMA, GPT2, QWEN, &window] {
        for objective in objectives {
            for normaliser in [Normaliser::MaskableTokens, Normaliser::MaskedTokens] {
                let step = |kernels: bool, precision: Precision| {
                    crate::set_num_threads(1);
                    let mut model = model(json);
                    model.set_arithmetic(Arithmetic { kernels, precision, ..model.arithmetic() });
                    model.add_mask_token(7).unwrap();
                    let options = ObjectiveOptions { normaliser, ..ObjectiveOptions::recommended(objective) };
                    let mut learner = Learner::new(model, options, AdamW::default()).unwrap();
                    let pattern = if objective == Objective::Ar { Pattern::Causal } else { PATTERN };
                    let sums = learner.micro_step(&documents(batch(1)), &pattern).unwrap();
                    let slopes: Vec<f32> =
                        learner.gradients().unwrap().into_iter().flat_map(|(_, slope)| slope).collect();
                    (sums, slopes)
                };
                for (precision, allowed) in [(Precision::Fp32, 1e-5), (Precision::Bf16, 4e-2)] {
                    let ((wanted, wanted_slopes), (found, slopes)) = (step(true, precision), step(false, precision));
                    let what = format!("{objective:?}, {normaliser:?}, {precision:?}: {json}");
                    let loss = |sums: &StepSums| sums.weighted + sums.ar;
                    assert!((loss(&found) / loss(&wanted) - 1.0).abs() < allowed, "{what}: {found:?} {wanted:?}");
                    assert_eq!(
                        (found.positions, found.ar_positions),
                        (wanted.positions, wanted.ar_positions),
                        "{what}"
                    );
                    let apart = norm(&moved_one(&wanted_slopes, &slopes)) / norm(&wanted_slopes);
                    assert!(apart < allowed && slopes != wanted_slopes, "{what}: {apart}");
                }
            }
        }
    }
}

/// A GPU that is waited for stands still meanwhile.
#[test]
fn a_step_reads_nothing_back_and_its_update_is_read_once() {
    let mut learner = learner(LLAMA, false, Precision::Bf16);
    learner.keep_average(0.9).unwrap();
    for step in 0..3 {
        let before = reads();
        learner.start_micro_step(&batch(2 * step), &PATTERN).unwrap();
        learner.start_micro_step(&batch(2 * step + 1), &PATTERN).unwrap();
        let update = learner.start_update(1e-3).unwrap();
        assert_eq!(reads(), before, "step {step}");
        assert!(learner.read(update).unwrap().updated);
        assert_eq!(reads(), before + 1, "step {step}");
    }
}

/// Losses, norms, clipping, decay, moments, averages: all of an update, made by the device's operations and by the CPU's code. A read
/// that comes a step later finds the same.
#[test]
fn updates_by_torchs_operations_are_those_of_the_cpu_kernels() {
    for json in [LLAMA, GPT2, QWEN] {
        let run = |kernels: bool, later: bool| {
            let mut learner = learner(json, kernels, Precision::Fp32);
            let start = weights(learner.model());
            learner.keep_average(0.9).unwrap();
            let (mut applied, mut unread) = (Vec::new(), None);
            for step in 0..4 {
                for number in [2 * step, 2 * step + 1] {
                    learner.start_micro_step(&batch(number), &PATTERN).unwrap();
                }
                let update = learner.start_update(1e-2).unwrap();
                let due = if later { unread.replace(update) } else { Some(update) };
                applied.extend(due.map(|due| learner.read(due).unwrap()));
            }
            applied.extend(unread.map(|last| learner.read(last).unwrap()));
            let dir = tempfile::tempdir().unwrap();
            learner.save(dir.path()).unwrap();
            let averages = weights(&Model::load(dir.path(), crate::Device::Cpu).unwrap());
            (applied, moved(&start, &weights(learner.model())), moved(&start, &averages))
        };
        let ((wanted, wanted_weights, wanted_averages), found) = (run(true, false), run(false, false));
        for (found, wanted) in found.0.iter().zip(&wanted) {
            assert_eq!(found.totals.positions, wanted.totals.positions);
            assert!((found.totals.weighted / wanted.totals.weighted - 1.0).abs() < 1e-4, "{found:?} {wanted:?}");
            assert!((found.grad_norm / wanted.grad_norm - 1.0).abs() < 1e-4, "{found:?} {wanted:?}");
            assert!(found.clipped && wanted.clipped && found.updated);
        }
        // Of how far the weights went. Where a gradient is nearly nothing, rounding decides the sign of its first updates.
        let apart = |a: &[f32], b: &[f32]| norm(&moved_one(a, b)) / norm(b);
        assert!(apart(&found.1, &wanted_weights) < 5e-3, "{}", apart(&found.1, &wanted_weights));
        assert!(apart(&found.2, &wanted_averages) < 5e-3, "{}", apart(&found.2, &wanted_averages));
        assert!(apart(&found.2, &found.1) > 0.1);
        assert!(run(false, true) == found);
    }
}

#[test]
fn an_update_that_is_no_number_changes_nothing_on_the_device_either() {
    for precision in [Precision::Fp32, Precision::Bf16] {
        let mut learner = learner(LLAMA, false, precision);
        learner.keep_average(0.5).unwrap();
        learner.start_micro_step(&batch(0), &PATTERN).unwrap();
        learner.apply(1e-2).unwrap();
        let (before, mut sick) = (weights(learner.model()), batch(1));
        // Too large for fp32.
        sick.weights[0] = 1e300;
        learner.start_micro_step(&sick, &PATTERN).unwrap();
        let applied = learner.apply(1e-2).unwrap();
        assert!(!applied.updated && !applied.finite);
        assert_eq!((weights(learner.model()), learner.updates()), (before, 1));
        // The next one is the second, on the device as well: as in a run without the sick batch.
        learner.start_micro_step(&batch(2), &PATTERN).unwrap();
        assert!(learner.apply(1e-2).unwrap().updated);
        let mut healthy = self::learner(LLAMA, false, precision);
        for number in [0, 2] {
            healthy.start_micro_step(&batch(number), &PATTERN).unwrap();
            healthy.apply(1e-2).unwrap();
        }
        assert_eq!(weights(learner.model()), weights(healthy.model()));
    }
}

/// Rounded weights that nobody rounds again would stand still while the masters learn.
#[test]
fn rounded_weights_follow_the_masters() {
    let mut learner = learner(GPT2, false, Precision::Bf16);
    let before = weights(learner.model());
    for number in 0..2 {
        learner.start_micro_step(&batch(number), &PATTERN).unwrap();
        learner.apply(1e-2).unwrap();
    }
    assert!(gap(&before, &weights(learner.model())) > 1e-3);
    let (rounded, masters) = learner.model().decoder.own().unwrap().rounded().unwrap();
    // Four matrices and their biases in each of two blocks, and the head.
    assert_eq!(rounded.len(), 17);
    for (rounded, master) in rounded.iter().zip(&masters) {
        assert_eq!(*rounded, master.to_kind(rounded.kind()));
    }
    // The same weights without rounded ones give the same gradients: the kept ones are what a forward would round.
    let dir = tempfile::tempdir().unwrap();
    learner.save(dir.path()).unwrap();
    let slopes = |learner: &mut Learner| {
        learner.micro_step(&batch(3), &PATTERN).unwrap();
        learner.gradients().unwrap()
    };
    let mut again = Model::load(dir.path(), crate::Device::Cpu).unwrap();
    again.set_arithmetic(Arithmetic { kernels: false, precision: Precision::Bf16, ..again.arithmetic() });
    let options = ObjectiveOptions::recommended(Objective::Diffusion { shift: true });
    let muon = crate::Optimizer { state: crate::StateKind::Bf16, ..AdamW::default().into() };
    let mut again = Learner::new(again, options, muon).unwrap();
    assert_eq!(slopes(&mut learner), slopes(&mut again));
}

/// Training that goes on from files gives the same bits as training that never stopped.
#[test]
fn a_resumed_learner_goes_on_with_the_same_bits() {
    for precision in [Precision::Fp32, Precision::Bf16] {
        let step = |learner: &mut Learner, number| {
            learner.start_micro_step(&batch(number), &PATTERN).unwrap();
            learner.apply(1e-2).unwrap()
        };
        let mut whole = learner(LLAMA, false, precision);
        whole.keep_average(0.9).unwrap();
        (0..2).for_each(|number| _ = step(&mut whole, number));
        let dir = tempfile::tempdir().unwrap();
        whole.save(dir.path()).unwrap();
        let mut model = Model::load(dir.path(), crate::Device::Cpu).unwrap();
        model.set_arithmetic(whole.model().arithmetic());
        let options = ObjectiveOptions::recommended(Objective::Diffusion { shift: true });
        let adamw = AdamW { clip: Some(0.05), weight_decay: 0.1, ..AdamW::default() };
        let mut resumed = Learner::new(model, options, adamw).unwrap();
        resumed.keep_average(0.9).unwrap();
        resumed.load_optimizer(dir.path()).unwrap();
        assert_eq!(step(&mut whole, 2), step(&mut resumed, 2));
        assert_eq!(weights(whole.model()), weights(resumed.model()));
    }
}

/// The forward whose blocks are joined, against the one that goes block by block: hidden states and every gradient.
#[test]
fn joined_blocks_compute_what_blocks_compute() {
    for json in [LLAMA, GPT2, QWEN] {
        let model = model(json);
        let how = Arithmetic { kernels: false, ..model.arithmetic() };
        let run = |joined: bool| {
            for parameter in &model.parameters {
                let mut tensor = parameter.tensor.set_requires_grad(true);
                tensor.zero_grad();
            }
            let decoder = model.decoder.own().unwrap();
            let ids = model.ids(&(0..30).map(|id| id * 5 % 37).collect::<Vec<_>>(), 2).unwrap();
            let layout = crate::input::Layout { rows: 2, ..crate::input::Layout::row(15) };
            let attention = Attention::new(&PATTERN, layout, &model.config.windows(), decoder.target(how)).unwrap();
            let hidden = if joined {
                decoder.hidden_joined(&ids, &attention, how, None).unwrap()
            } else {
                // Recomputing keeps to one block after the other.
                decoder.hidden(&ids, &attention, Arithmetic { recompute: true, ..how }).unwrap()
            };
            (&hidden * &hidden).sum(tch::Kind::Float).backward();
            let slopes = model.parameters.iter().map(|parameter| parameter.tensor.grad()).filter(Tensor::defined);
            (copied(&hidden).unwrap(), slopes.map(|slope| copied(&slope).unwrap()).collect::<Vec<_>>())
        };
        let ((wanted, wanted_slopes), (found, found_slopes)) = (run(false), run(true));
        assert!(gap(&[wanted], &[found]) < 1e-4);
        let scale = wanted_slopes.iter().flatten().fold(0f32, |most, slope| most.max(slope.abs()));
        assert!(gap(&wanted_slopes, &found_slopes) < 1e-5 * scale, "{}", gap(&wanted_slopes, &found_slopes) / scale);
    }
}
