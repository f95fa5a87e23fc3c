//! What may be switched on in training, and what it must and must not change.

use difflow_model::{AdamW, Arithmetic, Device, Learner, Model, Objective, ObjectiveOptions, Pattern, Precision};
use tempfile::TempDir;

use crate::support::{GPT2, LLAMA, MIXTRAL, QWEN3, QWEN3_MOE, distance, model, noised, read};

const OPTIONS: ObjectiveOptions = ObjectiveOptions {
    objective: Objective::Diffusion { shift: true },
    masked_set: difflow_model::MaskedSet::Explicit,
    document_attention: true,
    normaliser: difflow_model::Normaliser::MaskableTokens,
};

fn learner(model: Model) -> Learner {
    Learner::new(model, OPTIONS, AdamW::default()).unwrap()
}

fn step(learner: &mut Learner, n: u64) -> f64 {
    let pattern = Pattern::Annealed { ratio: 0.4, seed: 2, draw: n };
    let sums = learner.micro_step(&noised(3, 14, n), &pattern).unwrap();
    assert!(learner.apply(1e-2).unwrap().updated);
    sums.weighted
}

#[test]
fn activation_checkpointing_changes_no_gradient() {
    let batch = noised(4, 24, 3);
    for json in [LLAMA, GPT2, QWEN3, MIXTRAL, QWEN3_MOE] {
        for (kernels, precision) in [(true, Precision::Fp32), (false, Precision::Fp32), (true, Precision::Bf16)] {
            let gradients = |checkpointing: bool| {
                let mut model = model(json, true);
                model.set_arithmetic(Arithmetic { kernels, ..model.arithmetic() });
                model.set_precision(precision);
                model.set_arithmetic(Arithmetic { recompute: checkpointing, ..model.arithmetic() });
                let mut learner = learner(model);
                let sums = learner.micro_step(&batch, &Pattern::Band { right: 5 }).unwrap();
                (sums, learner.gradients().unwrap())
            };
            let ((sums, wanted), (again, found)) = (gradients(false), gradients(true));
            assert_eq!(sums, again);
            assert_eq!(wanted.len(), found.len());
            let scale = wanted.iter().flat_map(|(_, g)| g).fold(0f32, |a, g| a.max(g.abs()));
            for ((name, a), (_, b)) in wanted.iter().zip(&found) {
                assert!(distance(a, b) < 1e-6 * scale, "{json} {name} {}", distance(a, b));
            }
        }
    }
}

/// By hand: average ← d·average + (1 − d)·weight after every update; the checkpoint's model is the average.
#[test]
fn a_checkpoint_holds_the_averaged_weights() {
    let files = |average: Option<f64>, steps: u64| {
        let mut learner = learner(model(LLAMA, true));
        if let Some(decay) = average {
            learner.keep_average(decay).unwrap();
        }
        (0..steps).for_each(|n| _ = step(&mut learner, n));
        let dir = TempDir::new().unwrap();
        learner.save(dir.path()).unwrap();
        let bytes = read(&dir.path().join("model.safetensors"));
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let data = tensors.tensor("model.norm.weight").unwrap().data().to_vec();
        data.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect::<Vec<f32>>()
    };
    let raw = [files(None, 0), files(None, 1), files(None, 2)];
    let wanted: Vec<f32> = (0..raw[0].len())
        .map(|i| {
            let one = 0.75 * raw[0][i] + 0.25 * raw[1][i];
            0.75 * one + 0.25 * raw[2][i]
        })
        .collect();
    let found = files(Some(0.75), 2);
    assert!(distance(&wanted, &found) < 1e-6, "{wanted:?} {found:?}");
    assert!(distance(&raw[2], &found) > 1e-3, "the average must differ from the weights");
}

#[test]
fn training_with_averaged_weights_resumes_to_the_same_bytes() {
    let (middle, through, resumed) = (TempDir::new().unwrap(), TempDir::new().unwrap(), TempDir::new().unwrap());
    let mut whole = learner(model(GPT2, true));
    whole.keep_average(0.9).unwrap();
    (0..2).for_each(|n| _ = step(&mut whole, n));
    whole.save(middle.path()).unwrap();
    (2..4).for_each(|n| _ = step(&mut whole, n));
    let saved = whole.save(through.path()).unwrap();
    let mut second = learner(Model::load(middle.path(), Device::Cpu).unwrap());
    second.keep_average(0.9).unwrap();
    second.load_optimizer(middle.path()).unwrap();
    (2..4).for_each(|n| _ = step(&mut second, n));
    second.save(resumed.path()).unwrap();
    for file in saved {
        assert!(read(&through.path().join(&file.name)) == read(&resumed.path().join(&file.name)), "{}", file.name);
    }
    // Without the average the file does not fit, and says so.
    let mut other = learner(Model::load(middle.path(), Device::Cpu).unwrap());
    assert!(other.load_optimizer(middle.path()).unwrap_err().to_string().contains("optimizer.safetensors"));
}

/// Dropout changes training and nothing else, is the same for the same key, and differs from step to step.
#[test]
fn dropout_is_keyed_and_only_in_training() {
    for json in [GPT2, LLAMA] {
        let run = |share: f64, seed: u64| {
            let mut learner = learner(model(json, true));
            learner.set_dropout(share, seed).unwrap();
            let batch = noised(3, 14, 0);
            let logits = learner.model().logits(&batch.tokens[..14], &Pattern::Full).unwrap();
            let mut once = || learner.micro_step(&batch, &Pattern::Full).unwrap().weighted;
            (logits, once(), once())
        };
        let (plain, dropped) = (run(0.0, 1), run(0.3, 1));
        assert!(distance(&plain.0, &dropped.0) < 1e-4, "logits are not for training");
        assert!((plain.1 - dropped.1).abs() > 1e-3 && dropped.1 != dropped.2);
        assert_eq!(dropped, run(0.3, 1));
        assert_ne!(dropped.1, run(0.3, 2).1);
    }
    let mut both = model(GPT2, true);
    both.set_arithmetic(Arithmetic { recompute: true, ..both.arithmetic() });
    let error = learner(both).set_dropout(0.1, 0).unwrap_err().to_string();
    assert!(error.contains("one of the two"), "{error}");
}

/// The paper's presets take a rare token of the vocabulary: no row is added.
#[test]
fn an_existing_token_can_be_the_mask() {
    let mut model = model(LLAMA, false);
    assert!(model.use_mask_token(37).unwrap_err().to_string().contains("below 37"));
    assert_eq!(model.use_mask_token(31).unwrap(), 31);
    assert_eq!(model.add_mask_token(0).unwrap(), 31, "a second mask token must not appear");
    assert_eq!((model.config().vocab_size, model.config().mask_token_id().unwrap()), (37, 31));
}

/// What a low-rank adaptation needs: the rest of the model stays byte for byte, costs no moments, and is in the checkpoint.
#[test]
fn frozen_parameters_get_no_gradient_and_no_moments_and_are_saved() {
    let chosen = |name: &str| name.contains(".1.") && name.contains("mlp");
    for (json, checkpointing, average) in [(LLAMA, false, false), (GPT2, true, false), (QWEN3, false, true)] {
        let begin = |mut model: Model| {
            let count = model.set_trainable(chosen).unwrap();
            assert!(0 < count && count < model.parameter_count());
            model.set_arithmetic(Arithmetic { recompute: checkpointing, ..model.arithmetic() });
            let mut learner = learner(model);
            if average {
                learner.keep_average(0.5).unwrap();
            }
            learner
        };
        let [start, middle, through, resumed] = std::array::from_fn(|_| TempDir::new().unwrap());
        let mut whole = begin(model(json, true));
        whole.save(start.path()).unwrap();
        whole.micro_step(&noised(3, 14, 0), &Pattern::Full).unwrap();
        let gradients = whole.gradients().unwrap();
        assert!(!gradients.is_empty() && gradients.iter().all(|(name, _)| chosen(name)), "{json}");
        whole.apply(1e-2).unwrap();
        whole.save(middle.path()).unwrap();
        step(&mut whole, 1);
        let saved = whole.save(through.path()).unwrap();
        let mut second = begin(Model::load(middle.path(), Device::Cpu).unwrap());
        second.load_optimizer(middle.path()).unwrap();
        step(&mut second, 1);
        second.save(resumed.path()).unwrap();
        for file in saved {
            assert!(read(&through.path().join(&file.name)) == read(&resumed.path().join(&file.name)), "{}", file.name);
        }
        let bytes = [&start, &through].map(|dir| read(&dir.path().join("model.safetensors")));
        let [before, after] = [&bytes[0], &bytes[1]].map(|bytes| safetensors::SafeTensors::deserialize(bytes).unwrap());
        for name in before.names() {
            let same = before.tensor(name).unwrap().data() == after.tensor(name).unwrap().data();
            assert_eq!(same, !chosen(name), "{name}");
        }
        let bytes = read(&through.path().join("optimizer.safetensors"));
        let moments = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert!(moments.names().iter().all(|name| chosen(name)), "{:?}", moments.names());
    }
    let mut model = model(LLAMA, true);
    let error = model.set_trainable(|name| name.contains("q_proj")).unwrap_err().to_string();
    assert!(error.contains("q_proj") && error.contains("k_proj"), "{error}");
}
