//! Experts: gradients and the routers' loss against torch's autograd (tests/goldens/experts.py says how they were made), and what does not
//! depend on how a model is trained or read.

use difflow_model::{
    AdamW, AdapterConfig, Arithmetic, Device, Learner, MicroBatch, Model, ModelConfig, Objective, ObjectiveOptions,
    Optimizer, Pattern, Precision, StepSums, Summary, Targets,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::goldens::{numbers, value, write_weights};
use crate::support::{LLAMA, MIXTRAL, QWEN3_MOE, config_dir, distance, model, noised};

const AR: ObjectiveOptions = ObjectiveOptions {
    objective: Objective::Ar,
    masked_set: difflow_model::MaskedSet::Explicit,
    document_attention: true,
    normaliser: difflow_model::Normaliser::MaskableTokens,
};

fn learner(model: Model, options: ObjectiveOptions, router_weight: f64) -> Learner {
    let mut learner = Learner::new(model, options, AdamW::default()).unwrap();
    learner.balance_experts(router_weight).unwrap();
    learner
}

/// An expert's matrix that another one's rows reach, a share that is not divided, a router that learns nothing from its choice, or padding that
/// counts: each changes some gradient, or the loss.
#[test]
fn gradients_and_the_routers_loss_are_those_of_torch() {
    difflow_model::set_num_threads(1);
    let golden: Value = serde_json::from_str(include_str!("../goldens/experts.json")).unwrap();
    let weight = golden["weight"].as_f64().unwrap();
    for case in golden["cases"].as_array().unwrap() {
        let dir = config_dir(&case["config"].to_string());
        write_weights(dir.path(), &case["tensors"]);
        let row = |row: &Value| numbers(row).iter().map(|&id| id as u32).collect();
        let batch = MicroBatch::padded(&case["rows"].as_array().unwrap().iter().map(row).collect::<Vec<_>>());
        for (kernels, recompute) in [(true, false), (false, false), (true, true)] {
            let mut model = Model::load(dir.path(), Device::Cpu).unwrap();
            model.set_arithmetic(Arithmetic { kernels, recompute, ..model.arithmetic() });
            let mut learner = learner(model, AR, weight);
            let sums = learner.micro_step(&batch, &Pattern::Causal).unwrap();
            let what = format!("{}, kernels {kernels}, recompute {recompute}", case["title"]);
            let near = |found: f64, key: &str| {
                let wanted = case[key].as_f64().unwrap();
                assert!((found - wanted).abs() < 2e-5 * wanted, "{what}: {key} {found}, wanted {wanted}");
            };
            near(sums.unweighted / sums.maskable as f64, "loss");
            near(sums.balance / sums.balanced as f64, "router_loss");
            let (found, wanted) = (learner.gradients().unwrap(), case["gradients"].as_object().unwrap());
            assert_eq!(found.len(), wanted.len(), "{what}");
            let most = wanted.values().map(|of| numbers(of)[0]).fold(0.0, f64::max);
            for (name, gradient) in &found {
                let wanted = numbers(&wanted[name]);
                let probe = |(at, x): (usize, &f32)| f64::from(*x) * value(&format!("probe of {name}"), at as u64);
                let product: f64 = gradient.iter().enumerate().map(probe).sum();
                let norm = gradient.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
                for (found, wanted) in [(norm, wanted[0]), (product, wanted[1])] {
                    assert!((found - wanted).abs() < 2e-5 * most, "{what}, {name}: {found}, wanted {wanted}");
                }
            }
        }
    }
}

fn sums(model: Model, batches: &[MicroBatch], router_weight: f64) -> (Vec<StepSums>, Vec<(String, Vec<f32>)>) {
    let options = ObjectiveOptions::recommended(Objective::Diffusion { shift: true });
    let mut learner = learner(model, options, router_weight);
    let sums = batches.iter().map(|batch| learner.micro_step(batch, &Pattern::Full).unwrap()).collect();
    (sums, learner.gradients().unwrap())
}

/// The loss of a forward is that of its own tokens; of two micro-batches the gradient is the mean, as the objective's is.
#[test]
fn the_routers_loss_of_several_forwards_is_their_mean() {
    for json in [MIXTRAL, QWEN3_MOE] {
        let batches = [noised(2, 12, 1), noised(3, 12, 2)];
        let of = |batches: &[MicroBatch], weight| sums(model(json, true), batches, weight);
        // What the routers' loss adds to the gradient.
        let added = |batches: &[MicroBatch]| {
            let (with, without) = (of(batches, 2.0).1, of(batches, 0.0).1);
            let pairs = with.into_iter().zip(without);
            pairs.flat_map(|((_, a), (_, b))| a.into_iter().zip(b).map(|(a, b)| a - b)).collect::<Vec<f32>>()
        };
        let (both, first, second) = (added(&batches), added(&batches[..1]), added(&batches[1..]));
        let mean: Vec<f32> = first.iter().zip(&second).map(|(a, b)| (2.0 * a + 3.0 * b) / 5.0).collect();
        let size = both.iter().fold(0f32, |most, x| most.max(x.abs()));
        assert!(size > 1e-3 && distance(&mean, &both) < 1e-4 * size, "{size}, {}", distance(&mean, &both));
        let (sums, _) = of(&batches, 2.0);
        let chosen = if json == MIXTRAL { 2.0 } else { 3.0 };
        for sums in &sums {
            assert_eq!(sums.balanced, sums.maskable);
            let loss = sums.balance / sums.balanced as f64;
            assert!(loss > 0.9 * chosen && loss < 4.0 * chosen, "{loss}");
        }
        assert_eq!(of(&batches, 0.0).0[0].balanced, 0);
    }
}

/// A bf16 forward chooses by shares in fp32, and a product of an expert is one in bf16.
#[test]
fn bf16_trains_experts() {
    for json in [MIXTRAL, QWEN3_MOE] {
        for kernels in [true, false] {
            let with = |precision| {
                let mut model = model(json, true);
                model.set_arithmetic(Arithmetic { kernels, precision, ..model.arithmetic() });
                let (sums, gradients) = sums(model, &[noised(3, 12, 2)], 0.1);
                assert!(
                    gradients
                        .iter()
                        .any(|(name, slope)| name.contains("experts.3.") && slope.iter().any(|x| *x != 0.0))
                );
                sums[0].weighted
            };
            let (fp32, bf16) = (with(Precision::Fp32), with(Precision::Bf16));
            assert!(fp32 != bf16 && (fp32 - bf16).abs() < 0.05 * fp32, "{json}, kernels {kernels}: {fp32} {bf16}");
        }
    }
}

#[test]
fn what_has_no_experts_has_no_routers_loss() {
    let options = ObjectiveOptions::recommended(Objective::Diffusion { shift: true });
    let mut learner = Learner::new(model(LLAMA, true), options, AdamW::default()).unwrap();
    learner.balance_experts(0.0).unwrap();
    let error = learner.balance_experts(0.5).unwrap_err().to_string();
    assert!(error.contains("routers' loss") && error.contains("LlamaForCausalLM"), "{error}");
}

/// An adapter of an expert would be lost to half of the programs that read it: they have no module of its own for it.
#[test]
fn an_adapter_leaves_experts_out_and_says_so_where_it_is_asked_for_them() {
    let adapter = |targets: &str| AdapterConfig::new("base".as_ref(), 2, 4.0, Targets::parse(targets));
    for (json, wrong) in [(MIXTRAL, "w1"), (MIXTRAL, "q_proj,gate"), (QWEN3_MOE, "gate_proj"), (QWEN3_MOE, "down_proj")]
    {
        let error = model(json, true).add_adapter(&adapter(wrong), 1).unwrap_err().to_string();
        assert!(error.contains("all-linear leaves them out") && error.contains("layers.0."), "{error}");
    }
    for (json, targets, count) in
        [(MIXTRAL, "all-linear", 4 * 2), (QWEN3_MOE, "all-linear", 4 * 3 + 3), (QWEN3_MOE, "mlp.gate_proj", 1)]
    {
        let mut own = model(json, true);
        own.add_adapter(&adapter(targets), 1).unwrap();
        let trained = adapter(targets).parameter_count(own.config());
        let (_, gradients) = sums(own, &[noised(2, 12, 1)], 0.0);
        assert_eq!(gradients.len(), 2 * count, "{json}, {targets}");
        assert_eq!(gradients.iter().map(|(_, values)| values.len() as u64).sum::<u64>(), trained, "{json}, {targets}");
    }
}

/// As files of `transformers` 4 and 5 have it: 5 would take a model of 4 for one with 128 experts, or the other way round.
#[test]
fn the_number_of_experts_is_read_and_written_by_both_of_its_names() {
    let other = QWEN3_MOE.replace("num_experts\"", "num_local_experts\"");
    for json in [QWEN3_MOE, &other] {
        let (own, dir) = (model(json, true), TempDir::new().unwrap());
        assert_eq!(own.config().experts.as_ref().unwrap().count, 7);
        own.save(dir.path()).unwrap();
        let saved: Value = serde_json::from_slice(&std::fs::read(dir.path().join("config.json")).unwrap()).unwrap();
        assert_eq!((saved["num_experts"].as_u64(), saved["num_local_experts"].as_u64()), (Some(7), Some(7)));
    }
    let both = QWEN3_MOE.replace("\"num_experts\":7", "\"num_experts\":7,\"num_local_experts\":8");
    for (json, key) in [
        (both, "num_local_experts"),
        (MIXTRAL.replace("\"num_local_experts\":5", "\"num_local_experts\":1"), "num_experts_per_tok"),
        (MIXTRAL.replace("\"num_local_experts\":5", "\"num_local_experts\":999999"), "num_local_experts"),
        (MIXTRAL.replace('}', ",\"router_jitter_noise\":0.1}"), "router_jitter_noise"),
        (QWEN3_MOE.replace("[1]", "[-1]"), "mlp_only_layers"),
    ] {
        let error = Model::initialise(config_dir(&json).path(), 7, Device::Cpu).unwrap_err().to_string();
        assert!(error.contains(key), "{json}: {error}");
    }
}

/// What a token does not pass is no work, and keeps nothing for the backward pass.
#[test]
fn only_the_experts_of_a_token_are_counted_as_work() {
    let dir = TempDir::new().unwrap();
    model(QWEN3_MOE, false).save(dir.path()).unwrap();
    let summary = Summary::read(dir.path()).unwrap();
    let config = &summary.config;
    assert_eq!(config.parameter_count(), summary.parameters);
    assert_eq!(config.idle_count(), 2 * (7 - 3) * 3 * 11 * 24);
    let activations = |config: &ModelConfig| {
        difflow_model::Memory::of_training(config, 0, &Optimizer::default(), 1, 1, false).activations
    };
    let mut other = config.clone();
    other.experts.as_mut().unwrap().count = 1000;
    assert_eq!(activations(config), activations(&other));
    other.experts.as_mut().unwrap().chosen = 6;
    assert_eq!(activations(&other) - activations(config), 4 * 2 * 3 * (3 * 11 + 2 * 24));
}
