//! Two ranks of one thread against one process of two threads, which has the micro-batches of both: tokens a second, in alternation, and
//! the share of a step in which the ranks exchange. Then the bytes that two and four ranks send in a step, as they count them, as the
//! loopback interface does, and by the formula. A GPT-2 of 11.5 million parameters, 4 rows of 512 tokens a micro-batch.
//!
//! What others send on the loopback interface is counted, too: `unshare --net sh -c 'ip link set lo up; …'` keeps them out.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use difflow_model::{
    AdamW, Device, Exchanged, Group, Learner, Meeting, MicroBatch, Model, ModelError, Objective, ObjectiveOptions,
    Patience, Pattern, Place, Sharding, exchanged_bytes,
};

const ROWS: usize = 4;
const LENGTH: usize = 512;
const WARM_UP: usize = 2;
const STEPS: usize = 6;
const ROUNDS: usize = 5;
const SHAPE: &str = r#"{"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_positions": 1024, "vocab_size": 50257, "n_embd": 192,
    "n_layer": 4, "n_head": 6, "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "tie_word_embeddings": true}"#;

fn batch(number: u64, tokens: u64) -> MicroBatch {
    let hash = |at: usize| (at as u64 + 10_000 * number).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20;
    let ids = (0..ROWS * LENGTH).map(|at| (hash(at) % tokens) as u32).collect();
    let mut batch = MicroBatch::clean(ROWS, LENGTH, ids);
    batch.masked = (0..ROWS * LENGTH).map(|at| batch.maskable[at] && hash(at) % 2 == 0).collect();
    batch
}

fn failed(e: impl std::fmt::Display) -> ModelError {
    ModelError::Ranks(e.to_string())
}

/// One of the processes: prints of each step the milliseconds, those of exchanges, and the bytes sent in them.
fn rank(place: Place, meeting: Option<Meeting>, shape: &Path) -> Result<(), ModelError> {
    difflow_model::set_num_threads((2 / place.size).max(1));
    let mut model = Model::initialise(shape, 1, Device::Cpu)?;
    let mask = model.add_mask_token(0)?;
    let options = ObjectiveOptions::recommended(Objective::Diffusion { shift: true });
    let mut learner = Learner::new(model, options, AdamW::default())?;
    let own = (2 / place.size as u64).max(1);
    let mut group = None;
    if let Some(meeting) = meeting {
        let patience = Patience { join: Duration::from_secs(60), exchange: Duration::from_secs(60) };
        let joined = group.insert(Arc::new(Group::open(meeting, place, "bench", patience)?));
        learner.join(joined.clone(), own, Sharding::None)?;
    }
    let exchanged = || group.as_ref().map(|group| group.take_exchanged()).unwrap_or_default();
    for step in 0..(WARM_UP + STEPS) as u64 {
        exchanged();
        let begin = Instant::now();
        for number in 0..own {
            let number = own * place.size as u64 * step + place.rank as u64 * own + number;
            learner.micro_step(&batch(number, u64::from(mask)), &Pattern::Full)?;
        }
        learner.apply(1e-4)?;
        if step >= WARM_UP as u64 {
            let Exchanged { seconds, bytes } = exchanged();
            println!("{} {} {bytes}", begin.elapsed().as_secs_f64() * 1e3, seconds * 1e3);
        }
    }
    Ok(())
}

/// What so many processes did.
struct Measured {
    /// Of the median step.
    tokens_per_second: f64,
    /// Of all steps of the rank that exchanged least, and most.
    exchange_share: [f64; 2],
    /// Of all ranks, a step.
    bytes: f64,
}

/// Bytes that the loopback interface has sent.
fn loopback() -> f64 {
    let text = std::fs::read_to_string("/proc/net/dev").unwrap_or_default();
    // After the name, eight numbers of what was received, the first of them bytes, and then the same of what was sent.
    let of = |line: &str| line.trim().strip_prefix("lo:")?.split_whitespace().nth(8)?.parse().ok();
    text.lines().find_map(of).unwrap_or(f64::NAN)
}

fn measured(size: usize, shape: &Path) -> Result<Measured, ModelError> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    drop(listener);
    let start = |rank: usize| {
        let mut command = Command::new(std::env::current_exe()?);
        command.env("DIFFLOW_BENCH_RANK", format!("{rank} {size} {address} {}", shape.display()));
        command.stdout(Stdio::piped()).spawn()
    };
    let children = (0..size).map(start).collect::<Result<Vec<_>, _>>().map_err(failed)?;
    let (mut times, mut shares, mut bytes) = (Vec::new(), Vec::new(), 0.0);
    for child in children {
        let text = child.wait_with_output().map_err(failed)?.stdout;
        let text = String::from_utf8_lossy(&text);
        let rows: Vec<Vec<f64>> = text.lines().map(|line| line.split(' ').flat_map(str::parse).collect()).collect();
        let column = |at: usize| rows.iter().filter_map(move |row| row.get(at).copied());
        times = column(0).collect();
        shares.push(column(1).sum::<f64>() / column(0).sum::<f64>());
        bytes += column(2).sum::<f64>() / STEPS as f64;
    }
    times.sort_by(f64::total_cmp);
    shares.sort_by(f64::total_cmp);
    let median = times.get(STEPS / 2).ok_or_else(|| failed("a rank failed"))?;
    let micro_batches = size.max(2);
    Ok(Measured {
        tokens_per_second: (micro_batches * ROWS * LENGTH) as f64 / median * 1e3,
        exchange_share: [shares[0], shares[size - 1]],
        bytes,
    })
}

fn main() -> Result<ExitCode, ModelError> {
    if let Ok(text) = std::env::var("DIFFLOW_BENCH_RANK") {
        let words: Vec<&str> = text.splitn(4, ' ').collect();
        let [rank_of, size, address, shape] = words[..] else { return Ok(ExitCode::FAILURE) };
        let place = Place { rank: rank_of.parse().map_err(failed)?, size: size.parse().map_err(failed)? };
        let address: SocketAddr = address.parse().map_err(failed)?;
        let meeting = match place {
            Place { size: 1, .. } => None,
            Place { rank: 0, .. } => Some(Meeting::Listen(TcpListener::bind(address).map_err(failed)?)),
            Place { .. } => Some(Meeting::Connect(address)),
        };
        rank(place, meeting, Path::new(shape))?;
        return Ok(ExitCode::SUCCESS);
    }
    let folder = tempfile::tempdir().map_err(failed)?;
    std::fs::write(folder.path().join("config.json"), SHAPE).map_err(failed)?;
    let mut ratios = Vec::new();
    for _ in 0..ROUNDS {
        let one = measured(1, folder.path())?.tokens_per_second;
        let Measured { tokens_per_second: two, exchange_share: [least, most], .. } = measured(2, folder.path())?;
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
        let before = loopback();
        let Measured { bytes, .. } = measured(size, folder.path())?;
        let (seen, formula) = (loopback() - before, exchanged_bytes(parameters, size as u64, size as u64, Sharding::None) as f64);
        println!(
            "{size} ranks: {:.1} MB a step counted, {:.1} by the formula ({:.4}), {:.1} on the interface (of all {} steps)",
            bytes / 1e6,
            formula / 1e6,
            bytes / formula,
            seen / (WARM_UP + STEPS) as f64 / 1e6,
            WARM_UP + STEPS
        );
    }
    Ok(ExitCode::SUCCESS)
}
