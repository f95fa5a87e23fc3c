//! Checkpoints of a small model, written the way training writes them.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use difflow_diffusion::keyed;
use difflow_model::{Device, Model};
use difflow_schema::run::{Manifest, RunDir};
use difflow_schema::{BlockFacts, Component, Facts, Noised, Origin, Sequences};
use tempfile::TempDir;

use super::*;
use crate::config::{ArithmeticKind, Config, ObjectiveKind};
use crate::lineage::{Lineage, Trained};
use crate::plugins::Plugins;
use crate::saver::Saver;
use crate::training::{self, Training};

const MODEL: &str = r#"{"architectures":["LlamaForCausalLM"],"vocab_size":37,"hidden_size":16,"intermediate_size":24,
    "num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,"max_position_embeddings":64,
    "initializer_range":0.3,"tie_word_embeddings":true,"bos_token_id":1,"eos_token_id":2}"#;

/// A run that trains on batches of its own.
struct Run {
    _folder: TempDir,
    config: Config,
    dir: RunDir,
    training: Training,
    trained: Trained,
    saver: Saver,
    position: Position,
}

impl Run {
    fn begin() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("config.json"), MODEL).unwrap();
        let base_model = folder.path().display().to_string();
        let config =
            Config { base_model, from_scratch: true, device: "cpu".into(), ema_decay: 0.9, ..Config::default() };
        let dir = RunDir::new(folder.path(), "run");
        fs::create_dir_all(dir.root()).unwrap();
        tidy(&dir).unwrap();
        let saver = Saver::new(dir.clone(), Plugins::new(), Some(origin()), None);
        let training = training::begin(&config, None).unwrap();
        let (trained, position) = (Trained::nothing(), Position::default());
        Self { _folder: folder, config, dir, training, trained, saver, position }
    }

    fn step(&mut self) {
        let batch = batch(self.position.next_seq);
        self.trained.count(self.position.next_seq, &batch).unwrap();
        self.training.micro_step(&self.config, self.position.step, batch).unwrap();
        let finished = self.training.finish(self.position.step).unwrap();
        let report = self.training.report(finished).unwrap();
        assert!(report.finite);
        self.position.step += 1;
        self.position.next_seq += 1;
        self.position.tokens_seen += report.tokens;
    }

    fn save(&mut self) {
        self.saver.begin(&mut self.training, self.position, &mut self.trained).unwrap();
    }
}

fn origin() -> Origin {
    Origin {
        base_model: "/base".into(),
        model_recipe: None,
        torch_model: None,
        noise_schedule: Component { name: "cosine".into(), config: "{}".into() },
        blocks: None,
        tokenizer_sha256: "ab".into(),
        bos: 1,
        eos: 2,
        sequence_length: 12,
        steps: 5,
        length_entropy: Some(2.5),
        canvas: None,
        examples: None,
    }
}

fn batch(seq: u64) -> Noised {
    let (rows, length) = (2, 12);
    let n = rows * length;
    let draw = |index: u64| keyed::uniform(&mut keyed::rng(3, "test", seq, index));
    let maskable: Vec<bool> = (0..n).map(|i| i % length != 0).collect();
    let masked = (0..n).map(|i| maskable[i] && draw(100 + i as u64) < 0.5).collect();
    let tokens = (0..n).map(|i| 3 + (draw(i as u64) * 33.0) as u32).collect();
    let sequences = Sequences { rows, length, tokens, documents: vec![0; n], maskable };
    Noised { sequences, masked, t: vec![0.5; rows], weight: vec![2.0; rows], blocks: Vec::new() }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// Must show 3 of the durable runs: one byte at a random place of a random file, a hundred times.
#[test]
fn a_changed_byte_anywhere_in_a_checkpoint_is_found_and_the_one_before_is_used() {
    let mut run = Run::begin();
    for _ in 0..3 {
        run.save();
        run.step();
    }
    run.saver.wait().unwrap();
    let last = run.dir.checkpoint(2);
    let all = files(&last);
    assert!(all.len() >= 6, "{all:?}");
    for round in 0..100u64 {
        let draw = |index: u64| keyed::uniform(&mut keyed::rng(9, "damage", round, index));
        // Every file gets its turn; small ones matter as much as large ones.
        let file = &all[round as usize % all.len()];
        let good = fs::read(file).unwrap();
        let mut damaged = good.clone();
        let at = (draw(0) * good.len() as f64) as usize;
        damaged[at] ^= 1 + (draw(1) * 255.0) as u8;
        fs::write(file, &damaged).unwrap();
        let found = last_good(&run.dir).unwrap().unwrap();
        assert_eq!(found.position.step, 1, "byte {at} of {} was not noticed", file.display());
        // It was moved aside: put it back as it was.
        let aside =
            files(&run.dir.checkpoints()).into_iter().find(|path| path.display().to_string().contains("damaged"));
        fs::rename(aside.unwrap(), &last).unwrap();
        fs::write(file, &good).unwrap();
    }
    let found = last_good(&run.dir).unwrap().unwrap();
    assert_eq!(found.position, Position { step: 2, next_seq: 2, tokens_seen: 48 });
    assert_eq!(found.sha256, Manifest::read(&last).unwrap().1);
}

/// Sampler and evaluator are not told by keys what a checkpoint was made with.
#[test]
fn a_checkpoint_says_where_it_comes_from() {
    let mut run = Run::begin();
    run.save();
    run.saver.wait().unwrap();
    let path = run.dir.checkpoint(0);
    assert_eq!(Origin::read(&path).unwrap(), Some(origin()));
    assert!(Manifest::verify(&path).unwrap().0.files.contains_key("origin.json"));
}

/// A checkpoint is of one step. Training goes on while it is written, and what it changes must not be in it.
#[test]
fn training_does_not_reach_into_a_checkpoint_that_is_being_written() {
    let (mut quick, mut patient) = (Run::begin(), Run::begin());
    for round in 0..4 {
        quick.save();
        quick.step();
        patient.save();
        patient.saver.wait().unwrap();
        patient.step();
        quick.saver.wait().unwrap();
        for file in files(&patient.dir.checkpoint(round)) {
            let other = quick.dir.checkpoint(round).join(file.file_name().unwrap());
            assert!(fs::read(&file).unwrap() == fs::read(&other).unwrap(), "step {round}: {}", file.display());
        }
    }
}

/// Each checkpoint names the one before it, and the records of all prove the last.
#[test]
fn a_checkpoint_holds_everything_and_knows_where_it_comes_from() {
    let mut run = Run::begin();
    for _ in 0..3 {
        run.save();
        run.step();
        run.step();
    }
    run.saver.wait().unwrap();
    let last = run.dir.checkpoint(4);
    let names: Vec<String> = files(&last).iter().map(|path| path.file_name().unwrap().display().to_string()).collect();
    assert_eq!(
        names,
        [
            "config.json",
            "lineage.json",
            "manifest.json",
            "model.safetensors",
            "modeling_difflow.py",
            "optimizer.safetensors",
            "origin.json",
            "plugins.json"
        ]
    );
    let lineage = Lineage::read(&last).unwrap().unwrap();
    let (_, before) = Manifest::verify(&run.dir.checkpoint(2)).unwrap();
    assert_eq!((lineage.parent, lineage.first_seq, lineage.batches), (Some(before), 2, 2));
    let (_, newest) = Manifest::verify(&last).unwrap();
    let proof = audit::prove(&audit::read(&run.dir.audit()).unwrap(), &newest).unwrap();
    assert_eq!(proof.links.last().unwrap().chain, lineage.chain);
    assert_eq!(proof.links.iter().map(|link| link.next_seq).collect::<Vec<_>>(), [0, 2, 4]);

    // Going on from it is going on: the same weights, average and moments.
    let mut resumed = training::resume(&run.config, &last, None).unwrap();
    resumed.micro_step(&run.config, 4, batch(4)).unwrap();
    let finished = resumed.finish(4).unwrap();
    resumed.report(finished).unwrap();
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    resumed.learner.save(folder.path()).unwrap();
    let mut whole = Run::begin();
    (0..5).for_each(|_| whole.step());
    whole.training.learner.save(other.path()).unwrap();
    for name in ["model.safetensors", "optimizer.safetensors"] {
        assert!(fs::read(folder.path().join(name)).unwrap() == fs::read(other.path().join(name)).unwrap(), "{name}");
    }
}

/// Their manifest.
#[derive(serde::Serialize)]
struct Format1<'a> {
    step: u64,
    tokens_seen: u64,
    next_seq: u64,
    files: BTreeMap<&'a String, &'a FileRecord>,
}

/// Checkpoints of before the manifest had a sha256 of its own and lineage.json beside it: runs of then go on.
#[test]
fn a_checkpoint_of_format_1_is_taken_and_what_follows_is_whole() {
    let mut run = Run::begin();
    run.step();
    run.step();
    run.save();
    run.saver.wait().unwrap();
    let path = run.dir.checkpoint(2);
    fs::remove_file(path.join("lineage.json")).unwrap();
    let old = Manifest::read(&path).unwrap().0;
    let files: BTreeMap<&String, &FileRecord> = old.files.iter().filter(|(name, _)| *name != "lineage.json").collect();
    let text = Format1 { step: 2, tokens_seen: old.tokens_seen, next_seq: 2, files };
    fs::write(path.join(MANIFEST), serde_json::to_vec_pretty(&text).unwrap()).unwrap();
    let good = last_good(&run.dir).unwrap().unwrap();
    assert_eq!(good.position, Position { step: 2, next_seq: 2, tokens_seen: 48 });
    let mut trained = Trained::since(Lineage::read(&path).unwrap(), 2);
    trained.count(2, &batch(2)).unwrap();
    assert_eq!(trained.close(3).first_seq, 2);
    // It is checked as far as it can be.
    fs::write(path.join("config.json"), "{}").unwrap();
    assert!(last_good(&run.dir).unwrap().is_none());
}

#[test]
fn what_a_killed_process_left_half_done_is_removed() {
    let mut run = Run::begin();
    run.save();
    run.saver.wait().unwrap();
    let folder = run.dir.checkpoints();
    for name in ["step-00000005.partial", "step-00000003.pruned", "step-00000002.aside-1234abcd"] {
        fs::create_dir_all(folder.join(name).join("inner")).unwrap();
    }
    tidy(&run.dir).unwrap();
    let left: Vec<PathBuf> = files(&folder);
    assert_eq!(left, [folder.join("step-00000000"), folder.join("step-00000002.aside-1234abcd")]);
}

/// A file stands where the checkpoint's folder should: as bad as a full disk.
#[test]
fn a_checkpoint_that_cannot_be_written_is_an_error_and_leaves_nothing() {
    let mut run = Run::begin();
    fs::write(run.dir.checkpoint(0), "in the way").unwrap();
    run.save();
    let error = format!("{:#}", run.saver.wait().unwrap_err());
    assert!(error.contains("cannot write checkpoint") && error.contains("step-00000000"), "{error}");
    assert_eq!(files(&run.dir.checkpoints()), [run.dir.checkpoint(0)]);
}

/// Block diffusion on rows that nobody cut would be trained on whole rows in silence, and full diffusion on cut ones with t of blocks.
#[test]
fn the_objective_and_the_noiser_have_to_agree() {
    let cut = Facts { blocks: Some(BlockFacts { sizes: "4:2,8".into(), usual: 4 }), ..Facts::default() };
    let mut run = Run::begin();
    run.training.hear(&run.config, &Facts::default()).unwrap();
    let error = run.training.hear(&run.config, &cut).unwrap_err().to_string();
    assert!(error.contains("OBJECTIVE") && error.contains("4:2,8"), "{error}");
    let config = Config { objective: ObjectiveKind::Block, ar_weight: 0.5, shift: false, ..run.config.clone() };
    let mut training = training::begin(&config, None).unwrap();
    let error = training.hear(&config, &Facts::default()).unwrap_err().to_string();
    assert!(error.contains("OBJECTIVE") && error.contains("BLOCK_SIZE"), "{error}");
    training.hear(&config, &cut).unwrap();
    let blocks = training.learner.model().config().adapted.as_ref().unwrap().blocks.unwrap();
    assert_eq!((blocks.size, blocks.ar_weight, blocks.shift), (4, 0.5, false));
    training.micro_step(&config, 0, Noised { blocks: vec![4, 12], ..batch(0) }).unwrap();
    let finished = training.finish(0).unwrap();
    let report = training.report(finished).unwrap();
    assert!(report.loss_ar.is_some_and(|loss| loss > 0.0) && report.positions_read == 24 + 12, "{report:?}");
}

/// Masked tokens have a distance to the base model, whose weights are those of BASE_MODEL after a resume too.
#[test]
fn align_weight_aligns_with_the_base_model() {
    let run = Run::begin();
    let base = tempfile::tempdir().unwrap();
    Model::initialise(run.config.base_model.as_ref(), 7, Device::Cpu).unwrap().save(base.path()).unwrap();
    let base_model = base.path().display().to_string();
    let config = Config { base_model, from_scratch: false, align_weight: 10.0, ..run.config.clone() };
    let step = |training: &mut Training, step| {
        training.micro_step(&config, step, batch(step)).unwrap();
        let finished = training.finish(step).unwrap();
        training.report(finished).unwrap().alignment
    };
    let (mut plain, mut whole) = (training::begin(&run.config, None).unwrap(), training::begin(&config, None).unwrap());
    assert_eq!(step(&mut plain, 0), None);
    let first = step(&mut whole, 0).unwrap();
    assert!(first > 0.0 && first < 2.0, "{first}");
    let dir = tempfile::tempdir().unwrap();
    whole.learner.save(dir.path()).unwrap();
    let mut resumed = training::resume(&config, dir.path(), None).unwrap();
    assert_eq!(step(&mut whole, 1), step(&mut resumed, 1));
}

/// The routers' loss is there where it is asked for, also after a resume; a model without routers cannot have it.
#[test]
fn router_weight_adds_the_routers_loss() {
    let run = Run::begin();
    let wrong = Config { router_weight: 0.5, ..run.config.clone() };
    let error = training::begin(&wrong, None).err().unwrap().to_string();
    assert!(error.contains("ROUTER_WEIGHT") && error.contains("LlamaForCausalLM has no experts"), "{error}");
    let base = tempfile::tempdir().unwrap();
    let experts = MODEL.replace("LlamaForCausalLM", "MixtralForCausalLM");
    let experts = experts.replacen('{', r#"{"num_local_experts":4,"num_experts_per_tok":2,"#, 1);
    std::fs::write(base.path().join("config.json"), experts).unwrap();
    let config =
        |router_weight| Config { base_model: base.path().display().to_string(), router_weight, ..run.config.clone() };
    let step = |config: &Config, training: &mut Training, step| {
        training.micro_step(config, step, batch(step)).unwrap();
        let finished = training.finish(step).unwrap();
        training.report(finished).unwrap().router_loss
    };
    let (without, with) = (config(0.0), config(0.5));
    assert_eq!(step(&without, &mut training::begin(&without, None).unwrap(), 0), None);
    let mut whole = training::begin(&with, None).unwrap();
    let first = step(&with, &mut whole, 0).unwrap();
    assert!(first > 1.5 && first < 4.0, "{first}");
    let dir = tempfile::tempdir().unwrap();
    whole.learner.save(dir.path()).unwrap();
    let mut resumed = training::resume(&with, dir.path(), None).unwrap();
    assert_eq!(step(&with, &mut whole, 1), step(&with, &mut resumed, 1));
}

/// A checkpoint of an adapter is the adapter alone; training goes on from it with the same bits, and another base model is refused.
#[test]
fn a_run_with_an_adapter_saves_the_adapter_and_goes_on_from_it() {
    let run = Run::begin();
    let base = tempfile::tempdir().unwrap();
    let made = |seed| Model::initialise(run.config.base_model.as_ref(), seed, Device::Cpu).unwrap().save(base.path());
    made(7).unwrap();
    let base_model = base.path().display().to_string();
    let config = Config {
        base_model,
        from_scratch: false,
        lora_rank: 2,
        lora_targets: "q_proj, down_proj".into(),
        lora_dropout: 0.1,
        ..run.config.clone()
    };
    let step = |training: &mut Training, step| {
        training.micro_step(&config, step, batch(step)).unwrap();
        let finished = training.finish(step).unwrap();
        training.report(finished).unwrap();
    };
    let mut whole = training::begin(&config, None).unwrap();
    step(&mut whole, 0);
    let (first, last, again) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    whole.learner.save(first.path()).unwrap();
    step(&mut whole, 1);
    whole.learner.save(last.path()).unwrap();
    assert!(!first.path().join("model.safetensors").exists());
    // The embeddings too: they have the mask token's row.
    let adapter: serde_json::Value =
        serde_json::from_slice(&fs::read(first.path().join("adapter_config.json")).unwrap()).unwrap();
    assert_eq!(
        (&adapter["r"], &adapter["modules_to_save"]),
        (&2.into(), &serde_json::json!(["embed_tokens", "lm_head"]))
    );

    let mut resumed = training::resume(&config, first.path(), None).unwrap();
    step(&mut resumed, 1);
    resumed.learner.save(again.path()).unwrap();
    for name in ["adapter_model.safetensors", "optimizer.safetensors"] {
        assert!(fs::read(last.path().join(name)).unwrap() == fs::read(again.path().join(name)).unwrap(), "{name}");
    }
    made(8).unwrap();
    let error = format!("{:#}", training::resume(&config, first.path(), None).err().unwrap());
    assert!(error.contains("base model of the adapter") && error.contains("sha256"), "{error}");
}

/// A key that is ignored would give the same bits.
#[test]
fn arithmetic_torch_computes_without_difflows_kernels() {
    let run = Run::begin();
    let report = |arithmetic| {
        let config = Config { arithmetic, ..run.config.clone() };
        let mut training = training::begin(&config, None).unwrap();
        training.micro_step(&config, 0, batch(0)).unwrap();
        let finished = training.finish(0).unwrap();
        training.report(finished).unwrap()
    };
    let (own, torch) = (report(ArithmeticKind::Difflow), report(ArithmeticKind::Torch));
    assert!((own.loss / torch.loss - 1.0).abs() < 1e-5 && (own.grad_norm / torch.grad_norm - 1.0).abs() < 1e-5);
    assert_ne!(own.grad_norm, torch.grad_norm);
}
