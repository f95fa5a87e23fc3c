//! What training in several processes costs. Two ranks of one thread against one process of two threads, which has the micro-batches of both:
//! tokens a second, in alternation, and the share of a step in which the ranks exchange. Then the bytes that two and four ranks send in a
//! step, as they count them, as the loopback interface does, and by the formula. A GPT-2 of 11.5 million parameters, 4 rows of 512 tokens a
//! micro-batch.
//!
//! What others send on the loopback interface is counted, too: `unshare --net sh -c 'ip link set lo up; …'` keeps them out.
//!
//! Last, each of these and one rank beside what `difflow plan` simulates, from what is measured in the same run: ranks that exchange nothing, and
//! the speed of the loopback interface. `-- simulated`: that only. `short`: one step of each, to see that it works.
//!
//! With `-- memory`: the most memory that each rank of a GPT-2 of about 100 million parameters holds with each SHARDING, four micro-batches of
//! one row of 256 tokens a step, against the estimate of `difflow plan --ranks`.
//!
//! With `-- large`: what two ranks hold that keep shares of a model of 2.3 GB, drawn and written, and four that read and write it again. It needs
//! 12 GB of disk.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use difflow_model::{
    AdamW, Device, Exchanged, Group, Learner, Meeting, MicroBatch, Model, ModelError, Objective, ObjectiveOptions,
    Optimizer, Patience, Pattern, Place, RankMemory, Reduction, Sharding, StateKind, Team, Trained, exchanged_bytes,
};
use serde::{Deserialize, Serialize};

#[path = "ranks/simulated.rs"]
mod simulated;

use simulated::{compared, measure_links};

const WARM_UP: usize = 2;
const STEPS: usize = 6;
const ROUNDS: usize = 5;
const SMALL: &str = r#"{"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_positions": 1024, "vocab_size": 50257, "n_embd": 192,
    "n_layer": 4, "n_head": 6, "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "tie_word_embeddings": true}"#;
/// The blocks of GPT-2 small, with a third of its vocabulary.
const LARGE: &str = r#"{"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_positions": 1024, "vocab_size": 16384, "n_embd": 768,
    "n_layer": 12, "n_head": 12, "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "tie_word_embeddings": true}"#;

/// A LLaMA of 573 million parameters: 2.3 GB.
const HUGE: &str = r#"{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 16384, "hidden_size": 2048,
    "intermediate_size": 5504, "num_hidden_layers": 10, "num_attention_heads": 16, "num_key_value_heads": 16,
    "max_position_embeddings": 1024, "tie_word_embeddings": false}"#;

/// What one process is to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Job {
    rank: usize,
    size: usize,
    /// 0: none; 1: optimizer; 2: gradients; 3: parameters.
    sharding: usize,
    /// Where the ranks meet.
    address: SocketAddr,
    /// The folder of its config.json.
    shape: PathBuf,
    /// Micro-batches of a step, of all ranks, and their size.
    micro_batches: u64,
    rows: usize,
    length: usize,
    /// Steps before those that are measured, and those.
    warm_up: usize,
    steps: usize,
    /// Whether a checkpoint is written at the end.
    saves: bool,
    /// Of a large model: where it is read from, and written to. Nothing else is done with one then but a step.
    large: Option<(Option<PathBuf>, PathBuf)>,
    /// Whether each trains by itself, beside the others.
    apart: bool,
    /// Whether nothing is trained: only the links are measured.
    links: bool,
}

const SHARDINGS: [Sharding; 4] = [Sharding::None, Sharding::Optimizer, Sharding::Gradients, Sharding::Parameters];

fn batch(number: u64, (rows, length): (usize, usize), tokens: u64) -> MicroBatch {
    let hash = |at: usize| (at as u64 + 10_000 * number).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20;
    let ids = (0..rows * length).map(|at| (hash(at) % tokens) as u32).collect();
    let mut batch = MicroBatch::clean(rows, length, ids);
    batch.masked = (0..rows * length).map(|at| batch.maskable[at] && hash(at) % 2 == 0).collect();
    batch
}

fn failed(e: impl std::fmt::Display) -> ModelError {
    ModelError::Ranks(e.to_string())
}

/// The most memory that this process has held so far.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = |line: &str| line.strip_prefix("VmHWM:")?.trim().split(' ').next()?.parse::<u64>().ok();
    status.lines().find_map(kib).map_or(0, |kib| 1024 * kib)
}

/// One of the processes: prints of each step the milliseconds, those of exchanges, and the bytes sent in them; and the most memory that it
/// held: before there was a model, at the end, and when it had gone on while a checkpoint was to be written.
fn rank(job: &Job, meeting: Option<Meeting>) -> Result<(), ModelError> {
    let (place, sharding) = (Place { rank: job.rank, size: job.size }, SHARDINGS[job.sharding]);
    difflow_model::set_num_threads((2 / job.size).max(1));
    let patience = Patience { join: Duration::from_secs(60), exchange: Duration::from_secs(60) };
    let group = meeting.map(|meeting| Group::open(meeting, place, "bench", patience)).transpose()?.map(Arc::new);
    let begun = peak();
    if let (true, Some(group)) = (job.links, &group) {
        return measure_links(group);
    }
    if let (Some((from, to)), Some(group)) = (&job.large, &group) {
        return large_rank(job, from.as_deref(), to, group);
    }
    let mut model = match sharding {
        Sharding::Parameters => Model::initialise_apart(&job.shape, 1, Device::Cpu)?,
        _ => Model::initialise(&job.shape, 1, Device::Cpu)?,
    };
    let mask = model.add_mask_token(0)?;
    let options = ObjectiveOptions::recommended(Objective::Diffusion { shift: true });
    let own = job.micro_batches / job.size as u64;
    let mut learner = match &group {
        None => Learner::new(model, options, AdamW::default())?,
        Some(group) => {
            Learner::of_ranks(model, options, AdamW::default(), group.clone(), own, sharding, Reduction::Tree)?
        }
    };
    let exchanged = || group.as_ref().map(|group| group.take_exchanged()).unwrap_or_default();
    let train = |learner: &mut Learner, step: u64| -> Result<(), ModelError> {
        for number in 0..own {
            // Which of the step it is makes no difference here, but that no two ranks have the same.
            let number = job.micro_batches * step + place.rank as u64 * own + number;
            learner.micro_step(&batch(number, (job.rows, job.length), u64::from(mask)), &Pattern::Full)?;
        }
        learner.apply(1e-4).map(drop)
    };
    for step in 0..(job.warm_up + job.steps) as u64 {
        exchanged();
        let begin = Instant::now();
        train(&mut learner, step)?;
        if step >= job.warm_up as u64 {
            let Exchanged { seconds, bytes } = exchanged();
            println!("step {} {} {bytes}", begin.elapsed().as_secs_f64() * 1e3, seconds * 1e3);
        }
    }
    let trained = peak();
    if job.saves {
        let folder = tempfile::tempdir().map_err(failed)?;
        learner.help_save(folder.path())?;
        let snapshot = if place.rank == 0 { Some(learner.snapshot(folder.path())?) } else { None };
        // It is written while training goes on.
        train(&mut learner, job.steps as u64)?;
        snapshot.map(|snapshot| snapshot.write(folder.path())).transpose()?;
    }
    println!("memory {begun} {trained} {}", peak());
    Ok(())
}

/// One of the processes that share a large model: reads its share, or draws it, and writes the model and its state. Prints the most memory that
/// it held until it had its share, and until all was written; then, after a step.
fn large_rank(job: &Job, from: Option<&Path>, to: &Path, group: &Arc<Group>) -> Result<(), ModelError> {
    let begun = peak();
    let mut model = match from {
        Some(from) => Model::load_apart(from, None, Device::Cpu)?,
        None => Model::initialise_apart(&job.shape, 1, Device::Cpu)?,
    };
    let mask = model.add_mask_token(0)?;
    let options = ObjectiveOptions::recommended(Objective::Diffusion { shift: true });
    let optimizer = Optimizer { state: StateKind::Bf16, ..Optimizer::default() };
    let (sharding, tree) = (Sharding::Parameters, Reduction::Tree);
    let mut learner = Learner::of_ranks(model, options, optimizer, group.clone(), 1, sharding, tree)?;
    if from.is_some() {
        learner.load_optimizer(from.unwrap_or(to))?;
    }
    learner.limit_files(1 << 29);
    let read = peak();
    for file in learner.help_save(to)? {
        println!("wrote {} {}", file.name, file.bytes);
    }
    if job.rank == 0 {
        for file in learner.save(to)? {
            println!("file {} {} {}", file.name, file.bytes, file.sha256);
        }
    }
    let written = peak();
    group.gather(&[0.0])?;
    if from.is_some() {
        learner.micro_step(&batch(job.rank as u64, (1, 64), u64::from(mask)), &Pattern::Full)?;
        learner.apply(1e-4)?;
    }
    println!("step 1 1 1\nmemory {begun} {read} {written} {}", peak());
    Ok(())
}

/// A model of 2.3 GB, drawn and written by two processes of which none has more than half of it, and read and written again by four.
fn large(folder: &Path) -> Result<(), ModelError> {
    std::fs::write(folder.join("config.json"), HUGE).map_err(failed)?;
    let mut before: Vec<String> = Vec::new();
    let (first, second) = (folder.join("first"), folder.join("second"));
    for (size, from, to) in [(2, None, &first), (4, Some(first.clone()), &second)] {
        std::fs::create_dir(to).map_err(failed)?;
        let job = Job {
            rank: 0,
            size,
            sharding: 3,
            address: ([127, 0, 0, 1], 0).into(),
            shape: folder.to_owned(),
            micro_batches: size as u64,
            rows: 1,
            length: 64,
            warm_up: 0,
            steps: 1,
            saves: false,
            large: Some((from, to.clone())),
            apart: false,
            links: false,
        };
        let begin = Instant::now();
        let Measured { memory, files, wrote, .. } = measured(&job)?;
        println!("{size} ranks; files that those behind the first wrote: {wrote:?}, of {}", files.len());
        for of in &memory {
            let mb: Vec<String> = of.iter().map(|bytes| format!("{:.0}", bytes / 1e6)).collect();
            println!("MB before there is a model, with its share, all written, after a step: {}", mb.join(", "));
        }
        println!(
            "{:.0} s; {}",
            begin.elapsed().as_secs_f64(),
            if files == before { "the same files" } else { "files" }
        );
        if before.is_empty() {
            files.iter().for_each(|file| println!("  {file}"));
            before = files;
        }
    }
    Ok(())
}

/// What so many processes did.
struct Measured {
    /// Of each rank the most memory that it held: before there was a model, at the end, and with a checkpoint.
    memory: Vec<Vec<f64>>,
    /// Of the median step.
    tokens_per_second: f64,
    /// Of all steps of the rank that exchanged least, and most.
    exchange_share: [f64; 2],
    /// Of all ranks, a step.
    bytes: f64,
    /// Name, bytes and sha256 of what was written of a large model.
    files: Vec<String>,
    /// How many of these each rank behind the first wrote.
    wrote: Vec<usize>,
    /// Of each rank what [`measure_links`] printed.
    links: Vec<Vec<f64>>,
}

/// Bytes that the loopback interface has sent.
fn loopback() -> f64 {
    let text = std::fs::read_to_string("/proc/net/dev").unwrap_or_default();
    // After the name, eight numbers of what was received, the first of them bytes, and then the same of what was sent.
    let of = |line: &str| line.trim().strip_prefix("lo:")?.split_whitespace().nth(8)?.parse().ok();
    text.lines().find_map(of).unwrap_or(f64::NAN)
}

/// Does a job in all of its ranks.
fn measured(job: &Job) -> Result<Measured, ModelError> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    drop(listener);
    let start = |rank: usize| {
        let own = Job { rank, address, ..job.clone() };
        let mut command = Command::new(std::env::current_exe()?);
        command.env("DIFFLOW_BENCH_RANK", serde_json::to_string(&own)?);
        command.stdout(Stdio::piped()).spawn()
    };
    let size = job.size;
    let children = (0..size).map(start).collect::<Result<Vec<_>, _>>().map_err(failed)?;
    let (mut times, mut shares, mut bytes) = (Vec::new(), Vec::new(), 0.0);
    let (mut memory, mut files, mut wrote, mut links) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (rank, child) in children.into_iter().enumerate() {
        let text = child.wait_with_output().map_err(failed)?.stdout;
        let text = String::from_utf8_lossy(&text);
        let of = |what: &'static str| text.lines().filter_map(move |line| line.strip_prefix(what));
        let numbers = |line: &str| line.split_whitespace().flat_map(str::parse::<f64>).collect::<Vec<_>>();
        let rows: Vec<Vec<f64>> = of("step ").map(numbers).collect();
        let column = |at: usize| rows.iter().filter_map(move |row| row.get(at).copied());
        times = column(0).collect();
        shares.push(column(1).sum::<f64>() / column(0).sum::<f64>());
        bytes += column(2).sum::<f64>() / job.steps as f64;
        memory.extend(of("memory ").map(numbers));
        files.extend(of("file ").map(str::to_owned));
        wrote.extend((rank > 0).then(|| of("wrote ").count()));
        links.extend(of("links ").map(numbers));
    }
    times.sort_by(f64::total_cmp);
    shares.sort_by(f64::total_cmp);
    let median = times.get(times.len() / 2).ok_or_else(|| failed("a rank failed"))?;
    Ok(Measured {
        memory,
        files,
        wrote,
        links,
        tokens_per_second: (job.micro_batches as usize * job.rows * job.length) as f64 / median * 1e3,
        exchange_share: [shares[0], shares[size - 1]],
        bytes,
    })
}

/// The most that each rank holds, and what was to be expected.
fn memory(folder: &Path) -> Result<(), ModelError> {
    std::fs::write(folder.join("config.json"), LARGE).map_err(failed)?;
    let model = Model::initialise(folder, 1, Device::Cpu)?;
    let (config, parameters) = (model.config().clone(), model.parameter_count() + 768);
    drop(model);
    let (micro_batches, rows, length) = (4, 1, 256);
    let trained = Trained::whole(&config, parameters, &Optimizer::default(), rows as u64, length as u64);
    println!(
        "{parameters} parameters, {micro_batches} micro-batches of {rows} × {length} a step; MB of each rank: training, with a checkpoint"
    );
    for size in [1, 2, 4] {
        for (number, sharding) in SHARDINGS.into_iter().enumerate().filter(|(number, _)| size > 1 || *number == 0) {
            let address = SocketAddr::from(([127, 0, 0, 1], 0));
            let job = Job {
                rank: 0,
                size,
                sharding: number,
                address,
                shape: folder.to_owned(),
                micro_batches,
                rows,
                length,
                warm_up: 0,
                steps: 1,
                saves: true,
                large: None,
                apart: false,
                links: false,
            };
            let Measured { memory, .. } = measured(&job)?;
            let team = Team { ranks: size as u64, micro_batches, sharding };
            let plan = RankMemory::of(&trained, team);
            let mb = |at: usize| memory.iter().map(|of| format!("{:.0}", of[at] / 1e6)).collect::<Vec<_>>().join(", ");
            let off = |at: usize, plan: u64| {
                let most = memory.iter().map(|of| of[at]).fold(0.0, f64::max);
                100.0 * (plan as f64 / most - 1.0)
            };
            println!(
                "{size} ranks, {sharding:?}: {} ({} before there is a model), plan {:.0} ({:+.1} %); with a checkpoint {}, plan {:.0} ({:+.1} %)",
                mb(1),
                mb(0),
                plan.total() as f64 / 1e6,
                off(1, plan.total()),
                mb(2),
                plan.with_checkpoint() as f64 / 1e6,
                off(2, plan.with_checkpoint())
            );
        }
    }
    Ok(())
}

fn main() -> Result<ExitCode, ModelError> {
    if let Ok(text) = std::env::var("DIFFLOW_BENCH_RANK") {
        let job: Job = serde_json::from_str(&text).map_err(failed)?;
        let meeting = match (job.rank, job.size) {
            (_, 1) => None,
            _ if job.apart => None,
            (0, _) => Some(Meeting::Listen(TcpListener::bind(job.address).map_err(failed)?)),
            (_, _) => Some(Meeting::Connect(job.address)),
        };
        rank(&job, meeting)?;
        return Ok(ExitCode::SUCCESS);
    }
    let folder = tempfile::tempdir().map_err(failed)?;
    if std::env::args().any(|argument| argument == "memory") {
        memory(folder.path())?;
        return Ok(ExitCode::SUCCESS);
    }
    if std::env::args().any(|argument| argument == "large") {
        large(folder.path())?;
        return Ok(ExitCode::SUCCESS);
    }
    std::fs::write(folder.path().join("config.json"), SMALL).map_err(failed)?;
    let short = std::env::args().any(|argument| argument == "short");
    let job = |size: usize| Job {
        rank: 0,
        size,
        sharding: 0,
        address: ([127, 0, 0, 1], 0).into(),
        shape: folder.path().to_owned(),
        micro_batches: size.max(2) as u64,
        rows: 4,
        length: 512,
        warm_up: if short { 0 } else { WARM_UP },
        steps: if short { 1 } else { STEPS },
        saves: false,
        large: None,
        apart: false,
        links: false,
    };
    if std::env::args().any(|argument| argument == "simulated") {
        compared(&job)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut ratios = Vec::new();
    for _ in 0..ROUNDS {
        let one = measured(&job(1))?.tokens_per_second;
        let Measured { tokens_per_second: two, exchange_share: [least, most], .. } = measured(&job(2))?;
        println!(
            "one process of two threads {one:.0} tokens/s, two ranks of one thread {two:.0}: {:.3}; exchange {:.1} and {:.1} % of a step",
            two / one,
            100.0 * least,
            100.0 * most
        );
        ratios.push(two / one);
    }
    ratios.sort_by(f64::total_cmp);
    println!("median of {ROUNDS}: {:.3}; {:.3} to {:.3}", ratios[ROUNDS / 2], ratios[0], ratios[ROUNDS - 1]);
    let parameters = Model::initialise(folder.path(), 1, Device::Cpu)?.parameter_count() + 192;
    for size in [2, 4] {
        for (number, sharding) in SHARDINGS.into_iter().enumerate() {
            let before = loopback();
            // Two micro-batches a rank, which gradients that are exchanged as they come are exchanged after.
            let job = Job { sharding: number, micro_batches: 2 * size as u64, ..job(size) };
            let Measured { bytes, .. } = measured(&job)?;
            let seen = loopback() - before;
            let formula = exchanged_bytes(parameters, size as u64, job.micro_batches, sharding) as f64;
            println!(
                "{size} ranks, {sharding:?}: {:.1} MB a step counted, {:.1} by the formula ({:.4}), {:.1} on the interface (of all {} steps)",
                bytes / 1e6,
                formula / 1e6,
                bytes / formula,
                seen / (job.warm_up + job.steps) as f64 / 1e6,
                job.warm_up + job.steps
            );
        }
    }
    compared(&job)?;
    Ok(ExitCode::SUCCESS)
}
