//! Adapters against hand calculations, and their files.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::batch::MicroBatch;
use crate::device::Device;
use crate::host::copied;
use crate::learner::Learner;
use crate::objective::{Objective, ObjectiveOptions};
use crate::optimizer::AdamW;
use crate::pattern::Pattern;
use crate::small::{FAMILIES, LLAMA, model};

const GPT2: &str = r#"{"architectures":["GPT2LMHeadModel"],"vocab_size":37,"n_embd":16,"n_layer":2,"n_head":4,
    "n_positions":64,"initializer_range":0.3,"bos_token_id":1,"eos_token_id":2}"#;

fn config(targets: Targets) -> AdapterConfig {
    AdapterConfig::new("base".as_ref(), 3, 5.0, targets)
}

fn names(names: &[&str]) -> Targets {
    Targets::Names(names.iter().map(|&name| name.to_owned()).collect())
}

/// The targets of each test: all, some of a map's matrices, and those of GPT-2.
fn cases() -> Vec<(&'static str, Targets)> {
    let own: [&[&str]; 8] = [
        &["query_key_value", "attention.dense", "dense_h_to_4h"],
        &["qkv_proj", "gate_up_proj"],
        &["q_proj", "o_proj"],
        &["k_proj", "down_proj"],
        &["v_proj", "gate_proj"],
        &["q_proj", "v_proj"],
        &["o_proj"],
        &["up_proj"],
    ];
    let families = FAMILIES.iter().zip(own).map(|((_, json), own)| (*json, names(own)));
    let old = [
        (LLAMA, Targets::Word("all-linear".into())),
        (LLAMA, names(&["q_proj", "v_proj", "down_proj"])),
        (LLAMA, names(&["k_proj", "up_proj"])),
        (GPT2, names(&["c_attn", "c_fc", "attn.c_proj"])),
    ];
    old.into_iter().chain(families).collect()
}

fn batch() -> MicroBatch {
    let mut batch = MicroBatch::clean(2, 12, (0..24).map(|at| at * 7 % 37).collect());
    batch.masked = (0..24).map(|at| at % 3 == 1).collect();
    batch
}

fn logits(model: &Model) -> Vec<f32> {
    model.logits(&[3, 1, 4, 1, 5, 9, 2, 6], &Pattern::Full).unwrap()
}

fn gap(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// A model whose adapter has learned something.
fn trained(json: &str, config: &AdapterConfig) -> Learner {
    let mut own = model(json);
    own.add_mask_token(7).unwrap();
    own.add_adapter(config, 1).unwrap();
    let options = ObjectiveOptions::recommended(Objective::Diffusion { shift: true });
    let mut learner = Learner::new(own, options, AdamW::default()).unwrap();
    for _ in 0..3 {
        learner.micro_step(&batch(), &Pattern::Full).unwrap();
        assert!(learner.apply(1e-2).unwrap().updated);
    }
    learner
}

/// Nothing changes at first; then only what the adapter adds, which is the same as its matrices added to the model's.
#[test]
fn an_adapter_begins_with_nothing_and_merged_it_is_the_same_model() {
    for (json, targets) in cases() {
        let mut plain = model(json);
        plain.add_mask_token(7).unwrap();
        let before = logits(&plain);
        let config = config(targets);
        plain.add_adapter(&config, 1).unwrap();
        assert_eq!(logits(&plain), before, "{:?}", config.target_modules);

        let learner = trained(json, &config);
        let after = logits(learner.model());
        assert!(gap(&before, &after) > 1e-2, "nothing was learned");
        let dir = tempfile::tempdir().unwrap();
        learner.save(dir.path()).unwrap();
        plain = model(json);
        plain.add_mask_token(7).unwrap();
        plain.load_adapter(dir.path(), dir.path()).unwrap();
        assert_eq!(logits(&plain), after, "saved and read again");
        plain.merge_adapter().unwrap();
        assert!(gap(&logits(&plain), &after) < 1e-5, "{:?}: {}", config.target_modules, gap(&logits(&plain), &after));
        assert!(plain.adapter().is_none() && plain.parameters.iter().all(|parameter| !parameter.leaf.adapter));
    }
}

/// The base model stays as it was, to the bit; gradients and moments are the adapter's alone.
#[test]
fn only_the_adapter_is_trained() {
    let before = model(LLAMA);
    let learner = trained(LLAMA, &config(names(&["q_proj", "o_proj"])));
    let mut changed = 0;
    for parameter in &learner.model().parameters {
        let name = &parameter.leaf.parts[0].name;
        assert_eq!(parameter.trainable, parameter.leaf.adapter, "{name}");
        assert!(parameter.trainable || !parameter.tensor.grad().defined(), "{name} has a gradient");
        let Some(old) = before.parameters.iter().find(|old| old.leaf.parts[0].name == *name) else {
            changed += 1;
            continue;
        };
        let rows = old.tensor.size()[0];
        assert_eq!(copied(&parameter.tensor.narrow(0, 0, rows)).unwrap(), copied(&old.tensor).unwrap(), "{name}");
    }
    assert_eq!(changed, 2 * 2 * 2, "A and B of two matrices in two layers");
    let dir = tempfile::tempdir().unwrap();
    learner.save(dir.path()).unwrap();
    let files = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut files: Vec<String> = files.collect();
    files.sort();
    assert_eq!(files, ["adapter_config.json", "adapter_model.safetensors", "config.json", "optimizer.safetensors"]);
    let path = dir.path().join(WEIGHTS);
    let saved = TensorFiles::open(path.clone(), &[path]).unwrap();
    assert_eq!(saved.names().count(), 8);
    assert!(saved.names().any(|name| name == "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"));
}

/// The count from the shape is that of what is trained.
#[test]
fn what_is_trained_is_counted_from_the_shape() {
    for (json, targets) in cases() {
        for whole in [
            None,
            Some(vec![
                "embed_tokens".to_owned(),
                "wte".to_owned(),
                "embed_in".to_owned(),
                "lm_head".to_owned(),
                "embed_out".to_owned(),
            ]),
        ] {
            let config = AdapterConfig { modules_to_save: whole, ..config(targets.clone()) };
            let mut own = model(json);
            own.add_mask_token(7).unwrap();
            own.add_adapter(&config, 1).unwrap();
            let trained = own.parameters.iter().filter(|parameter| parameter.trainable);
            let count: usize = trained.map(|parameter| parameter.tensor.numel()).sum();
            assert_eq!(config.parameter_count(&own.config), count as u64, "{config:?}");
        }
    }
}

/// The gradient of A and B by hand: that of the whole matrix, which a model without adapter says, times the other one.
#[test]
fn gradients_are_those_of_the_product() {
    let options = ObjectiveOptions::recommended(Objective::Diffusion { shift: true });
    let config = config(names(&["v_proj"]));
    for (kernels, recompute) in [(true, false), (false, false), (true, true)] {
        let learner = trained(LLAMA, &config);
        let dir = tempfile::tempdir().unwrap();
        learner.save(dir.path()).unwrap();
        let gradients = |merged: bool| {
            let mut own = model(LLAMA);
            own.arithmetic.kernels = kernels;
            own.arithmetic.recompute = recompute;
            own.add_mask_token(7).unwrap();
            own.load_adapter(dir.path(), dir.path()).unwrap();
            if merged {
                own.merge_adapter().unwrap();
            }
            let mut learner = Learner::new(own, options, AdamW::default()).unwrap();
            learner.micro_step(&batch(), &Pattern::Full).unwrap();
            learner.gradients().unwrap()
        };
        let (whole, low) = (gradients(true), gradients(false));
        let of = |all: &[(String, Vec<f32>)], name: &str, shape: [i64; 2]| {
            let (_, values) = all.iter().find(|(found, _)| found.ends_with(name)).unwrap();
            Tensor::from_slice(values).view(shape)
        };
        let path = dir.path().join(WEIGHTS);
        let files = TensorFiles::open(path.clone(), &[path]).unwrap();
        let module = "layers.1.self_attn.v_proj";
        let [a, b] = [("lora_A", [3, 24]), ("lora_B", [12, 3])].map(|(what, shape)| {
            files.get(&format!("base_model.model.model.{module}.{what}.weight"), &shape).unwrap().unwrap()
        });
        let w = of(&whole, &format!("{module}.weight"), [12, 24]);
        let scale = 5.0 / 3.0;
        for (what, shape, wanted) in
            [("lora_A", [3, 24], b.tr().mm(&w) * scale), ("lora_B", [12, 3], w.mm(&a.tr()) * scale)]
        {
            let found = of(&low, &format!("{module}.{what}.weight"), shape);
            let gap = f64::try_from((&found - &wanted).abs().max()).unwrap();
            let size = f64::try_from(wanted.abs().max()).unwrap();
            assert!(gap < 1e-4 * size, "{what}, kernels {kernels}, recompute {recompute}: {gap} of {size}");
        }
    }
}

/// Many rows are multiplied by the sum of the matrices, few by each for itself, and torch's operations always by each: all the same.
#[test]
fn the_sum_of_the_matrices_gives_what_each_for_itself_gives() {
    for (json, targets) in cases() {
        let learner = trained(json, &config(targets.clone()));
        let dir = tempfile::tempdir().unwrap();
        learner.save(dir.path()).unwrap();
        let gradients = |kernels: bool| {
            let mut own = model(json);
            own.arithmetic.kernels = kernels;
            own.add_mask_token(7).unwrap();
            own.load_adapter(dir.path(), dir.path()).unwrap();
            let options = ObjectiveOptions::recommended(Objective::Diffusion { shift: true });
            let mut learner = Learner::new(own, options, AdamW::default()).unwrap();
            let loss = learner.micro_step(&batch(), &Pattern::Full).unwrap().weighted;
            (loss, learner.gradients().unwrap())
        };
        let ((sum_loss, sums), (each_loss, each)) = (gradients(true), gradients(false));
        assert!((sum_loss - each_loss).abs() < 1e-5 * each_loss.abs(), "{targets:?}: {sum_loss} and {each_loss}");
        for ((name, sum), (_, each)) in sums.iter().zip(&each) {
            let size = each.iter().fold(0f32, |size, x| size.max(x.abs()));
            assert!(gap(sum, each) <= 1e-4 * size, "{targets:?}, {name}: {} of {size}", gap(sum, each));
        }
    }
}

/// Changes how a model computes.
type How = fn(&mut Model);

/// A base in bf16 computes what one in fp32 with the same rounded values computes, to the bit, and so it trains; with everything that the
/// products do: sums of matrices, dropout, torch's operations, bf16, recomputing.
#[test]
fn a_base_in_bf16_is_the_same_model_with_rounded_matrices() {
    let start = |json: &str, targets: &Targets, how: How, dropout: f64| {
        let mut own = model(json);
        own.add_mask_token(7).unwrap();
        for parameter in own.parameters.iter_mut().filter(|parameter| parameter.is_matrix()) {
            let rounded = parameter.tensor.to_kind(Kind::BFloat16).to_kind(Kind::Float);
            tch::no_grad(|| parameter.tensor.copy_(&rounded));
        }
        own.add_adapter(&AdapterConfig { lora_dropout: dropout, ..config(targets.clone()) }, 1).unwrap();
        how(&mut own);
        own
    };
    let ways: [(How, f64); 5] = [
        (|_| (), 0.0),
        (|_| (), 0.3),
        (|model| model.arithmetic.kernels = false, 0.0),
        (|model| model.arithmetic.precision = crate::Precision::Bf16, 0.0),
        (|model| model.arithmetic.recompute = true, 0.0),
    ];
    for (json, targets) in cases() {
        for (way, (how, dropout)) in ways.iter().enumerate() {
            let trained = |halved: bool| {
                let mut own = start(json, &targets, *how, *dropout);
                if halved {
                    own.round_base().unwrap();
                    for parameter in &own.parameters {
                        let matrix = parameter.is_matrix() && !parameter.trainable;
                        assert_eq!(
                            parameter.tensor.kind() == Kind::BFloat16,
                            matrix,
                            "{}",
                            parameter.leaf.parts[0].name
                        );
                    }
                }
                let options = ObjectiveOptions::recommended(Objective::Diffusion { shift: true });
                let mut learner = Learner::new(own, options, AdamW::default()).unwrap();
                let mut losses = Vec::new();
                for _ in 0..3 {
                    losses.push(learner.micro_step(&batch(), &Pattern::Full).unwrap().weighted);
                    learner.apply(1e-2).unwrap();
                }
                (losses, logits(learner.model()))
            };
            assert_eq!(trained(true), trained(false), "{targets:?}, way {way}");
        }
    }
}

/// What is kept whole is trained, saved and read beside the low-rank changes.
#[test]
fn embeddings_may_be_trained_whole() {
    let config = AdapterConfig {
        modules_to_save: Some(vec!["embed_tokens".into(), "lm_head".into()]),
        ..config(names(&["q_proj"]))
    };
    let learner = trained(LLAMA, &config);
    let dir = tempfile::tempdir().unwrap();
    learner.save(dir.path()).unwrap();
    let mut again = model(LLAMA);
    // Another mask row, which the file's takes the place of.
    again.add_mask_token(8).unwrap();
    again.load_adapter(dir.path(), dir.path()).unwrap();
    assert_eq!(logits(&again), logits(learner.model()));
}

#[test]
fn what_does_not_fit_is_said_with_its_name() {
    let error = |config: &AdapterConfig| model(LLAMA).add_adapter(config, 1).unwrap_err().to_string();
    let all = || config(Targets::Word("all-linear".into()));
    assert!(error(&config(names(&["query"]))).contains("model.layers.0.self_attn.q_proj"));
    assert!(error(&AdapterConfig { r: 0, ..all() }).contains("rank"));
    assert!(error(&AdapterConfig { lora_alpha: f64::NAN, ..all() }).contains("alpha"));
    assert!(error(&AdapterConfig { lora_dropout: 1.0, ..all() }).contains("dropout"));
    let apart = AdapterConfig { modules_to_save: Some(vec!["embed_tokens".into()]), ..all() };
    assert!(error(&apart).contains("lm_head"));
    let mut twice = model(LLAMA);
    twice.add_adapter(&all(), 1).unwrap();
    assert!(twice.add_adapter(&all(), 1).unwrap_err().to_string().contains("merge the first"));

    let dir = tempfile::tempdir().unwrap();
    trained(LLAMA, &all()).save(dir.path()).unwrap();
    let load = |json: &str| {
        Model::of_json(json, 7, Device::Cpu).unwrap().load_adapter(dir.path(), dir.path()).unwrap_err().to_string()
    };
    let wider = load(&LLAMA.replace(r#""intermediate_size":21"#, r#""intermediate_size":22"#));
    assert!(wider.contains("lora_B") && wider.contains("21"), "{wider}");
    let deeper = load(&LLAMA.replace(r#""num_hidden_layers":2"#, r#""num_hidden_layers":3"#));
    assert!(deeper.contains("layers.2") && deeper.contains(WEIGHTS), "{deeper}");
    let shallower = load(&LLAMA.replace(r#""num_hidden_layers":2"#, r#""num_hidden_layers":1"#));
    assert!(shallower.contains("layers.1"), "{shallower}");
    let file = dir.path().join(CONFIG);
    let text = std::fs::read_to_string(&file).unwrap();
    for (old, new, word) in [
        (r#""peft_type": "LORA""#, r#""peft_type": "IA3""#, "IA3"),
        (r#""bias": "none""#, r#""bias": "all""#, "bias"),
        (r#""r": 3"#, r#""r": 3, "use_dora": true"#, "use_dora"),
        (r#""r": 3"#, r#""r": 3, "rank_pattern": {"q_proj": 4}"#, "rank_pattern"),
        (r#""r": 3"#, r#""r": 0"#, "rank"),
        ("{", "", CONFIG),
    ] {
        assert!(text.contains(old), "{text}");
        std::fs::write(&file, text.replacen(old, new, 1)).unwrap();
        let error = load(LLAMA);
        assert!(error.contains(word) && error.contains(CONFIG), "{error}");
    }
}
