//! Real processes: a test starts its own program again, once a rank, with the part that it plays in the environment.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use difflow_tests::skip;

use super::*;
use crate::Model;
use crate::adapter::{AdapterConfig, Targets};
use crate::arithmetic::Arithmetic;
use crate::batch::MicroBatch;
use crate::host::copied;
use crate::learner::{Applied, Learner};
use crate::nccl::Nccl;
use crate::objective::{Blocks, Normaliser, Objective, ObjectiveOptions};
use crate::optimizer::{Muon, Optimizer, StateKind};
use crate::pattern::{Context, Pattern};
use crate::ranks::{Reduction, Sharding, exchanged_bytes};
use crate::small::{FAMILIES, LLAMA, MIXTRAL, model};
use crate::tensor_files::READ;
use tch::Kind;

const PART: &str = "DIFFLOW_TEST_RANK";

/// The rank, the number of ranks and the port, in a process that a test started as one.
fn part() -> Option<(Place, u16)> {
    let text = std::env::var(PART).ok()?;
    let numbers: Vec<usize> = text.split(' ').map(|number| number.parse().unwrap()).collect();
    Some((Place { rank: numbers[0], size: numbers[1] }, numbers[2] as u16))
}

fn patience(seconds: u64) -> Patience {
    Patience { join: Duration::from_secs(60), exchange: Duration::from_secs(seconds) }
}

/// This process's group, in a process that a test started.
fn joined((place, port): (Place, u16), seconds: u64) -> Group {
    let meeting = Meeting::Connect(([127, 0, 0, 1], port).into());
    Group::open(meeting, place, &format!("rank-{}", place.rank), patience(seconds)).unwrap()
}

/// Starts ranks 1 … size − 1 of test `name`, and is rank 0.
fn begun(name: &str, size: usize, seconds: u64) -> (Group, Vec<Child>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let start = |rank: usize| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([&format!("group::tests::{name}"), "--exact", "--nocapture", "--test-threads=1"]);
        command.env(PART, format!("{rank} {size} {port}")).stdout(Stdio::null()).spawn().unwrap()
    };
    let children = (1..size).map(start).collect();
    let group = Group::open(Meeting::Listen(listener), Place { rank: 0, size }, "rank-0", patience(seconds)).unwrap();
    (group, children)
}

fn all_well(children: Vec<Child>) {
    for mut child in children {
        assert!(child.wait().unwrap().success(), "another rank failed");
    }
}

/// A broadcast that went the wrong way, or parts in another order, would train every rank on something else.
#[test]
fn every_exchange_brings_each_rank_what_is_its_own() {
    let check = |group: &Group| {
        let Place { rank, size } = group.place();
        let numbers = group.gather(&[rank as f64, 0.5]).unwrap();
        let wanted: Vec<f64> = (0..size).flat_map(|rank| [rank as f64, 0.5]).collect();
        assert_eq!(numbers, wanted);
        let bytes = group.bytes_of(1, &[rank as u8, 7]).unwrap();
        assert_eq!(bytes, [1, 7]);
        assert_eq!(group.check(crate::Device::Cpu).unwrap().len(), 4);
        group.gather(&[0.0]).unwrap();
    };
    if let Some(part) = part() {
        return check(&joined(part, 60));
    }
    let (group, children) = begun("every_exchange_brings_each_rank_what_is_its_own", 3, 60);
    check(&group);
    all_well(children);
}

/// Where libtorch has CUDA, whether there is a GPU or not: NCCL brings what was sent, or says what is missing.
#[test]
fn nccl_brings_each_rank_what_is_its_own_or_says_that_there_is_no_gpu() {
    let nccl = match Nccl::load(&difflow_tests::root().join("bin/libdifflow_nccl.so")) {
        Ok(nccl) => nccl,
        Err(why) => return skip("cuda", "the library for NCCL", &why),
    };
    let (mut group, _) = begun("", 1, 60);
    match group.add_device(0, nccl.open) {
        Ok(()) => assert_eq!(group.check(crate::Device::Cuda(0)).unwrap().len(), 3),
        Err(e) => {
            assert!(e.to_string().contains("no GPUs found"), "{e}");
            assert_eq!(group.exchanges_on(Device::Cuda(0)), Device::Cpu);
            assert!(nccl.identity(0).is_err());
        }
    }
}

/// What a person needs to know: which one, and that the run can go on.
#[test]
fn a_rank_that_was_killed_or_stopped_or_is_silent_is_named() {
    if let Some(part) = part() {
        let group = joined(part, 600);
        _ = group.gather(&[0.0]);
        // Rank 1 waits for rank 2, and stays: it must not look lost itself.
        if part.0.rank == 1 {
            _ = group.gather(&[1.0]);
        }
        std::thread::sleep(Duration::from_secs(600));
        return;
    }
    // Without a signal it is there, and says nothing: as one beyond a network that is cut.
    let silent = "failed, or did not answer for 2 s";
    for (signal, seconds, how) in [(libc::SIGKILL, 600, "has ended"), (libc::SIGSTOP, 2, "is stopped"), (0, 2, silent)]
    {
        let (group, mut children) = begun("a_rank_that_was_killed_or_stopped_or_is_silent_is_named", 3, seconds);
        group.gather(&[0.0]).unwrap();
        let pid = children[1].id();
        // SAFETY: kill takes two numbers; the child has not been waited for.
        unsafe { libc::kill(pid as i32, signal) };
        let error = group.gather(&[2.0]).unwrap_err().to_string();
        let named = error.split(&format!("rank 2 of 3 (rank-2, process {pid} on ")).nth(1);
        assert!(named.is_some_and(|rest| rest.contains(&format!(") {how}"))), "{error}");
        assert!(error.contains("last checkpoint") && error.lines().count() == 1, "{error}");
        assert_eq!(error.contains("rank 1 of 3"), how == silent, "{error}");
        for child in &mut children {
            _ = child.kill();
            _ = child.wait();
        }
    }
}

/// Micro-batches of different sizes; the fourth carries no loss. In blocks of two sizes they take two backward passes.
fn batch(number: usize, blocks: bool) -> MicroBatch {
    let (rows, length) = (2 + number % 2, 14);
    let hash = |i: usize| ((i + 100 * number) as u32).wrapping_mul(2_654_435_761) >> 12;
    let mut batch = MicroBatch::clean(rows, length, (0..rows * length).map(|i| hash(i) % 37).collect());
    batch.masked = (0..rows * length).map(|i| number != 3 && batch.maskable[i] && hash(i + 991) % 3 > 0).collect();
    batch.weights = (0..rows).map(|row| 1.5 + row as f64).collect();
    if blocks {
        batch.blocks = (0..rows).map(|row| if row == 0 { 3 } else { length }).collect();
    }
    batch
}

/// The numbers of a step's micro-batches that are a rank's.
fn of_rank(Place { rank, size }: Place, micro_batches: usize, sharding: Sharding) -> Vec<usize> {
    let own = micro_batches / size;
    match sharding {
        Sharding::Gradients | Sharding::Parameters => (0..own).map(|own| own * size + rank).collect(),
        Sharding::None | Sharding::Optimizer => (rank * own..(rank + 1) * own).collect(),
    }
}

/// As [`added`], in the order of one process.
fn trained(
    group: Option<Arc<Group>>,
    variant: Variant,
    micro_batches: usize,
    sharding: Sharding,
) -> (Vec<Vec<f32>>, Vec<Applied>, Vec<String>) {
    added(group, variant, micro_batches, sharding, Reduction::Tree)
}

/// The weights and what the updates did, after three updates by so many micro-batches each, of which this rank has its part.
fn added(
    group: Option<Arc<Group>>,
    Variant { json, normaliser, optimizer, adapter, router_weight, blocks, torch, recompute, average }: Variant,
    micro_batches: usize,
    sharding: Sharding,
    reduction: Reduction,
) -> (Vec<Vec<f32>>, Vec<Applied>, Vec<String>) {
    crate::set_num_threads(1);
    let own_folder = tempfile::tempdir().unwrap();
    // Some of the ranks do not see the folder in which rank 0 writes.
    let dir = match &group {
        Some(group) if !average => told(group, own_folder.path()),
        _ => own_folder.path().to_owned(),
    };
    let mut model = model(json);
    model.add_mask_token(7).unwrap();
    if adapter {
        let config = AdapterConfig::new("base".as_ref(), 3, 5.0, Targets::Word("all-linear".into()));
        let whole = Some(AdapterConfig::vocabulary_modules(model.config()).to_vec());
        model.add_adapter(&AdapterConfig { lora_dropout: 0.2, modules_to_save: whole, ..config }, 5).unwrap();
        model.round_base().unwrap();
    }
    // A block that is computed again gives its gradients in a backward pass inside the other.
    model.set_arithmetic(Arithmetic { recompute, kernels: !torch, ..model.arithmetic() });
    let diffusion = Objective::Diffusion { shift: true };
    let cut = Objective::Block(Blocks { size: 3, context: Context::Causal, shift: true, ar_weight: 0.5 });
    let objective = if blocks { cut } else { diffusion };
    let options = ObjectiveOptions { normaliser, ..ObjectiveOptions::recommended(objective) };
    let place = group.as_ref().map_or(Place { rank: 0, size: 1 }, |group| group.place());
    let own = of_rank(place, micro_batches, sharding);
    let mut learner = match group {
        None => Learner::new(model, options, optimizer).unwrap(),
        Some(group) => {
            Learner::of_ranks(model, options, optimizer, group, own.len() as u64, sharding, reduction).unwrap()
        }
    };
    learner.set_dropout(if recompute { 0.0 } else { 0.25 }, 3).unwrap();
    learner.balance_experts(router_weight).unwrap();
    if average {
        learner.keep_average(0.7).unwrap();
    }
    let mut applied = Vec::new();
    for step in 0..3 {
        for number in &own {
            learner.micro_step(&batch(micro_batches * step + number, blocks), &Pattern::Full).unwrap();
            let holds = learner.model().parameters.iter().any(|parameter| parameter.tensor.grad().defined());
            assert!(!holds || !sharding.takes_turns(), "gradients that were to be exchanged are kept");
        }
        applied.push(learner.apply(1e-2).unwrap());
    }
    // Several files.
    learner.limit_files(40_000);
    let parts = sharding != Sharding::Parameters;
    let trained = learner.model().parameters.iter().filter(|parameter| parts && parameter.trainable);
    let weights = trained.map(|parameter| copied(&parameter.tensor).unwrap()).collect();
    (weights, applied, files(&learner, place, &dir))
}

/// What is written, in rank 0, and what this rank wrote, in the others: the names of the files, and their sha256.
fn files(learner: &Learner, place: Place, dir: &Path) -> Vec<String> {
    let files = if place.rank == 0 { learner.save(dir).unwrap() } else { learner.help_save(dir).unwrap() };
    let mut files: Vec<String> = files.into_iter().map(|file| format!("{} {}", file.name, file.sha256)).collect();
    files.sort();
    files
}

/// What is trained, and how.
#[derive(Debug, Clone, Copy)]
struct Variant {
    json: &'static str,
    normaliser: Normaliser,
    optimizer: Optimizer,
    /// An adapter, with embeddings and head whole, beside a base in bf16.
    adapter: bool,
    router_weight: f64,
    /// Rows of two sizes of blocks.
    blocks: bool,
    /// Everything by operations of torch, updates too: what a GPU does.
    torch: bool,
    /// Blocks of the model are computed again in the backward pass.
    recompute: bool,
    /// A moving average of the weights.
    average: bool,
}

impl Variant {
    /// Whether ranks can keep shares of what is trained.
    fn allows(&self, sharding: Sharding) -> bool {
        sharding != Sharding::Parameters || (!self.adapter && self.optimizer.muon.is_none() && !self.torch)
    }
}

fn variants() -> [Variant; 14] {
    let plain = Variant {
        json: LLAMA,
        normaliser: Normaliser::MaskableTokens,
        optimizer: Optimizer::default(),
        adapter: false,
        router_weight: 0.0,
        blocks: false,
        torch: false,
        recompute: false,
        average: false,
    };
    let experts = Variant { json: MIXTRAL, router_weight: 0.3, ..plain };
    let muon = Optimizer { muon: Some(Muon::default()), ..Optimizer::default() };
    let bf16 = Optimizer { state: StateKind::Bf16, ..Optimizer::default() };
    [
        Variant { optimizer: bf16, ..plain },
        Variant { optimizer: Optimizer { state: StateKind::Bf16, ..muon }, ..plain },
        plain,
        Variant { blocks: true, recompute: true, average: true, ..plain },
        Variant { normaliser: Normaliser::MaskedTokens, ..plain },
        Variant { optimizer: muon, ..plain },
        Variant { adapter: true, ..plain },
        Variant { adapter: true, optimizer: bf16, normaliser: Normaliser::MaskedTokens, ..plain },
        experts,
        Variant { optimizer: muon, normaliser: Normaliser::MaskedTokens, ..experts },
        Variant { torch: true, adapter: true, ..plain },
        Variant { torch: true, blocks: true, recompute: true, ..plain },
        Variant { json: FAMILIES[8].1, blocks: true, ..plain },
        Variant { json: FAMILIES[3].1, average: true, optimizer: bf16, ..plain },
    ]
}

/// The bytes that all ranks have sent since the last call.
fn sent(group: &Group) -> u64 {
    let own = group.take_exchanged().bytes as f64;
    let all: f64 = group.gather(&[own]).unwrap().iter().sum();
    group.take_exchanged();
    all as u64
}

/// Ranks, micro-batches of a step, and what is trained in them: three ranks only where each takes a leaf of the tree in turn.
fn cases() -> Vec<(usize, usize, Vec<Sharding>, Vec<Variant>)> {
    let all = [Sharding::None, Sharding::Optimizer, Sharding::Gradients, Sharding::Parameters];
    let several = variants()[2..6].to_vec();
    vec![
        (2, 4, all.to_vec(), variants().to_vec()),
        (4, 4, all.to_vec(), variants().to_vec()),
        (3, 6, vec![Sharding::Gradients, Sharding::Parameters], several),
    ]
}

/// By torch, a norm in parts differs in the last bits of an f64, and weights are updated by fp32 numbers.
fn same_but_for_the_norm(found: &[Applied], wanted: &[Applied]) {
    for (found, wanted) in found.iter().zip(wanted) {
        assert!((found.grad_norm / wanted.grad_norm - 1.0).abs() < 1e-12, "{found:?}, {wanted:?}");
        assert!(wanted.clipped, "a norm that does not matter");
        assert_eq!(&Applied { grad_norm: wanted.grad_norm, ..*found }, wanted);
    }
}

/// The promise: whoever adds, in whatever part, and whoever updates, the bytes are those of one process, checkpoints included.
#[test]
fn two_three_and_four_ranks_train_the_bytes_of_one() {
    if let Some(part) = part() {
        let group = Arc::new(joined(part, 60));
        for (_, micro_batches, shardings, variants) in cases().into_iter().filter(|case| case.0 == part.0.size) {
            for variant in variants {
                for &sharding in shardings.iter().filter(|sharding| variant.allows(**sharding)) {
                    trained(Some(group.clone()), variant, micro_batches, sharding);
                    sent(&group);
                }
            }
        }
        return;
    }
    for (size, micro_batches, shardings, variants) in cases() {
        let (group, children) = begun("two_three_and_four_ranks_train_the_bytes_of_one", size, 60);
        let group = Arc::new(group);
        for variant in variants {
            let alone = trained(None, variant, micro_batches, Sharding::None);
            for &sharding in shardings.iter().filter(|sharding| variant.allows(**sharding)) {
                let (weights, applied, files) = trained(Some(group.clone()), variant, micro_batches, sharding);
                if variant.torch {
                    same_but_for_the_norm(&applied, &alone.1);
                } else {
                    assert_eq!(applied, alone.1, "{size} ranks, {sharding:?}, {variant:?}");
                }
                assert!(
                    weights == alone.0 || sharding == Sharding::Parameters,
                    "{size} ranks, {sharding:?}, {variant:?}: other weights"
                );
                assert_eq!(files, alone.2, "{size} ranks, {sharding:?}, {variant:?}: other files");
                // A checkpoint is shared state by state.
                let (sent, count) = (sent(&group), alone.0.iter().map(Vec::len).sum::<usize>() as u64);
                let formula = 3 * exchanged_bytes(count, size as u64, micro_batches as u64, sharding);
                let most = if sharding == Sharding::None { formula * 11 / 10 } else { u64::MAX };
                assert!((formula..most).contains(&sent), "{size} ranks, {variant:?}: {sent} bytes for {formula}");
            }
        }
        all_well(children);
    }
}

/// In another order, so the last bits may be other ones; the ranks must not drift apart, nor add a gradient twice or not at all.
#[test]
fn a_ring_adds_up_to_the_same_but_for_the_last_bits_and_alike_in_all_ranks() {
    let check = |group: &Arc<Group>| {
        for variant in [variants()[2], variants()[6]] {
            let (weights, applied, _) = added(Some(group.clone()), variant, 6, Sharding::None, Reduction::Ring);
            let all: Vec<u8> = weights.iter().flatten().flat_map(|weight| weight.to_le_bytes()).collect();
            assert!(group.bytes_of(0, &all).unwrap() == all, "a rank has other weights");
            if group.place().rank > 0 {
                continue;
            }
            let (alone, wanted, _) = trained(None, variant, 6, Sharding::None);
            for (found, wanted) in applied.iter().zip(&wanted) {
                assert!((found.grad_norm / wanted.grad_norm - 1.0).abs() < 1e-5, "{found:?}, {wanted:?}");
            }
            // AdamW turns a last bit of a gradient near 0 into a part of a step.
            let off = weights.iter().flatten().zip(alone.iter().flatten()).map(|(a, b)| f64::from((a - b).abs()));
            let (count, sum) = off.fold((0.0, 0.0), |(count, sum), off| (count + 1.0, sum + off));
            assert!(sum / count < 1e-5, "{variant:?}: {sum} of {count}");
        }
        let options = ObjectiveOptions::recommended(Objective::Diffusion { shift: true });
        for sharding in [Sharding::Optimizer, Sharding::Gradients, Sharding::Parameters] {
            let mut model = model(LLAMA);
            model.add_mask_token(7).unwrap();
            let refused =
                Learner::of_ranks(model, options, Optimizer::default(), group.clone(), 2, sharding, Reduction::Ring);
            assert!(refused.unwrap_err().to_string().contains("ring"));
        }
    };
    if let Some(part) = part() {
        return check(&Arc::new(joined(part, 60)));
    }
    let (group, children) = begun("a_ring_adds_up_to_the_same_but_for_the_last_bits_and_alike_in_all_ranks", 3, 60);
    check(&Arc::new(group));
    all_well(children);
}

/// Rank 0 says where something is.
fn told(group: &Group, path: &Path) -> std::path::PathBuf {
    let mut text = path.display().to_string().into_bytes();
    text.resize(256, 0);
    let text = String::from_utf8(group.bytes_of(0, &text).unwrap()).unwrap();
    text.trim_end_matches('\0').into()
}

/// Bytes of the tensors in a folder's file, or in those of its index.
fn tensor_bytes(dir: &Path, name: &str) -> usize {
    let of = |path: &Path| {
        let file = std::fs::read(path).unwrap();
        file.len() - 8 - u64::from_le_bytes(file[..8].try_into().unwrap()) as usize
    };
    let names = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let fits = |path: &std::path::PathBuf| {
        let file = path.file_name().unwrap().to_str().unwrap();
        file.starts_with(name) && file.ends_with(".safetensors")
    };
    names.filter(fits).map(|path| of(&path)).sum()
}

/// A rank that reads all of the state, or of the weights, and then keeps a part of it, needs the memory that sharding is to save.
#[test]
fn a_rank_reads_its_share_of_the_state_and_goes_on_from_it() {
    let check = |group: &Arc<Group>| {
        let Place { rank, size } = group.place();
        for (sharding, optimizer) in [
            (Sharding::Optimizer, Optimizer::default()),
            (Sharding::Gradients, Optimizer { muon: Some(Muon::default()), ..Optimizer::default() }),
            (Sharding::Parameters, Optimizer::default()),
        ] {
            let options = ObjectiveOptions::recommended(Objective::Diffusion { shift: true });
            let begin = |model| {
                let mut learner =
                    Learner::of_ranks(model, options, optimizer, group.clone(), 1, sharding, Reduction::Tree).unwrap();
                learner.keep_average(0.7).unwrap();
                // Several files.
                learner.limit_files(16_000);
                learner
            };
            let mut first = model(LLAMA);
            first.add_mask_token(7).unwrap();
            let step = |learner: &mut Learner, number: usize| {
                learner.micro_step(&batch(size * number + rank, false), &Pattern::Full).unwrap();
                learner.apply(1e-2).unwrap();
            };
            let mut whole = begin(first);
            step(&mut whole, 1);
            let own = tempfile::tempdir().unwrap();
            let dir = told(group, own.path());
            let wrote = files(&whole, group.place(), &dir);
            let state = wrote.iter().filter(|file| file.starts_with("optimizer-")).count();
            let state = group.gather(&[state as f64]).unwrap();
            assert!(
                state[1] >= 1.0 && state[1] == (state[0] / 2.0).floor(),
                "{sharding:?}: rank 1 wrote of all {state:?}"
            );
            READ.set(0);
            let loaded = match sharding {
                Sharding::Parameters => Model::load_apart(&dir, None, crate::Device::Cpu).unwrap(),
                _ => Model::load(&dir, crate::Device::Cpu).unwrap(),
            };
            let mut resumed = begin(loaded);
            let read = READ.get();
            if sharding == Sharding::Parameters {
                // Nobody else takes part in this: it must not wait for them, nor read what is not there.
                let alone = resumed.model().logits(&[1, 2, 3], &Pattern::Full).unwrap_err().to_string();
                let saved = resumed.model().save(&dir).unwrap_err().to_string();
                let apart = Model::load_apart(&dir, None, crate::Device::Cpu).unwrap();
                let one = Learner::new(apart, options, optimizer).unwrap_err().to_string();
                assert!(alone.contains("for training only"), "{alone}");
                assert!(saved.contains("a share of them") && one.contains("several ranks"), "{saved} {one}");
                let apart = Model::load_apart(&dir, None, crate::Device::Cpu).unwrap();
                let muon = Optimizer { muon: Some(Muon::default()), ..optimizer };
                let refused =
                    Learner::of_ranks(apart, options, muon, group.clone(), 1, sharding, Reduction::Tree).unwrap_err();
                assert!(refused.to_string().contains("AdamW"), "{refused}");
            }
            let (read, all) = (read as f64, tensor_bytes(&dir, "model-") as f64);
            let wanted = if sharding == Sharding::Parameters { 0.5 } else { 1.0 };
            assert!((read / all - wanted).abs() < 0.02, "{sharding:?}: {read} of {all} bytes read");
            READ.set(0);
            resumed.load_optimizer(&dir).unwrap();
            let (read, all) = (READ.get() as f64, tensor_bytes(&dir, "optimizer") as f64);
            // The weights are in it, too, all of them or a share.
            let (own, weights) = (resumed.state_share(), tensor_bytes(&dir, "model-") as f64);
            let weights_read = if sharding == Sharding::Parameters { own * weights } else { weights };
            let wanted = own * (all - weights) + weights_read;
            assert!(own < 0.7 && (read / wanted - 1.0).abs() < 1e-9, "{sharding:?}: {read} of {all} read, {own} kept");
            for learner in [&mut whole, &mut resumed] {
                step(learner, 2);
            }
            let written = |learner: &Learner| files(learner, group.place(), tempfile::tempdir().unwrap().path());
            assert!(written(&whole) == written(&resumed), "{sharding:?}: other weights");
        }
    };
    if let Some(part) = part() {
        return check(&Arc::new(joined(part, 60)));
    }
    let (group, children) = begun("a_rank_reads_its_share_of_the_state_and_goes_on_from_it", 2, 60);
    check(&Arc::new(group));
    all_well(children);
}

/// A tensor that one rank's share of could be written in the element type that it was read in, and another's could not.
#[test]
fn ranks_write_a_tensor_in_the_element_type_that_one_process_writes() {
    let check = |group: &Arc<Group>| {
        let mut model = model(LLAMA);
        for parameter in &mut model.parameters {
            let rounded = parameter.tensor.to_kind(Kind::BFloat16).to_kind(Kind::Float);
            parameter.tensor.copy_(&rounded);
            parameter.stored.fill(Kind::BFloat16);
        }
        // The matrix behind attention lies across the middle of the block.
        let odd = model.parameters[3].tensor.view(-1);
        _ = odd.narrow(0, odd.numel() as i64 - 1, 1).fill_(0.30001);
        let (place, dir) = (group.place(), tempfile::tempdir().unwrap());
        let mut alone: Vec<String> = Vec::new();
        for file in model.save(dir.path()).unwrap() {
            alone.push(format!("{} {}", file.name, file.sha256));
        }
        let options = ObjectiveOptions::recommended(Objective::Ar);
        let learner = Learner::of_ranks(
            model,
            options,
            Optimizer::default(),
            group.clone(),
            1,
            Sharding::Parameters,
            Reduction::Tree,
        )
        .unwrap();
        let shared = files(&learner, place, dir.path());
        assert!(place.rank > 0 || alone.iter().all(|file| shared.contains(file)), "{alone:?} {shared:?}");
    };
    if let Some(part) = part() {
        return check(&Arc::new(joined(part, 60)));
    }
    let (group, children) = begun("ranks_write_a_tensor_in_the_element_type_that_one_process_writes", 2, 60);
    check(&Arc::new(group));
    all_well(children);
}
