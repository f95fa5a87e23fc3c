//! Ranks on a GPU, against one process without a group: `group_check [--device cuda:0] [--seconds 38]`. A JSON line for each check; exit code
//! 0 where all of them hold.
//!
//! * NCCL in a group of one, or of two where there are two GPUs: every exchange, and training with every `SHARDING`.
//! * Two ranks on one GPU, for which NCCL is refused, and which exchange through host memory: the bytes of one process.
//!
//! With `--device cpu` the second one only.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use difflow_model::{
    Arithmetic, Device, DeviceSettings, Group, Learner, Meeting, MicroBatch, Model, ModelError, Muon, Objective,
    ObjectiveOptions, Optimizer, Patience, Pattern, Place, Precision, Reduction, Route, Sharding, Transport,
    nccl_library,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Checks ranks on a GPU, and prints a JSON line for each check.
#[derive(Parser)]
struct Arguments {
    /// cpu, or cuda:N.
    #[arg(long, default_value = "cuda:0")]
    device: String,
    /// All together; what is not done by then has failed.
    #[arg(long, default_value_t = 38)]
    seconds: u64,
    /// Torch operations instead of difflow's own kernels: on a CPU, the updates of a GPU.
    #[arg(long)]
    plain: bool,
}

/// What one process is to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Job {
    rank: usize,
    size: usize,
    /// Where the ranks meet.
    address: SocketAddr,
    device: String,
    /// Whether NCCL must be there; otherwise it must be refused to several.
    nccl: bool,
    plain: bool,
    /// The folder of the model's config.json.
    shape: PathBuf,
}

/// What is trained.
const CASES: [&str; 3] = ["fp32, AdamW", "bf16, AdamW", "bf16, Muon"];
const SHARDINGS: [(&str, Sharding); 3] =
    [("none", Sharding::None), ("optimizer", Sharding::Optimizer), ("gradients", Sharding::Gradients)];
const STEPS: usize = 5;
/// Of a step, of all ranks.
const MICRO_BATCHES: usize = 4;
const SHAPE: &str = r#"{"architectures": ["LlamaForCausalLM"], "vocab_size": 1000, "hidden_size": 256, "intermediate_size": 512,
    "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "max_position_embeddings": 256,
    "initializer_range": 0.1, "tie_word_embeddings": true}"#;
const PART: &str = "DIFFLOW_GROUP_CHECK";

fn failed(e: impl std::fmt::Display) -> ModelError {
    ModelError::Ranks(e.to_string())
}

fn batch(number: usize) -> MicroBatch {
    let (rows, length) = (2 + number % 2, 64);
    let hash = |at: usize| (at as u64 + 10_000 * number as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20;
    let mut batch = MicroBatch::clean(rows, length, (0..rows * length).map(|at| (hash(at) % 999) as u32).collect());
    batch.masked = (0..rows * length).map(|at| batch.maskable[at] && hash(at) % 2 == 0).collect();
    batch
}

/// sha256 of weights and optimizer's state after some steps, and what the last one measured; as rank 0, which alone writes files.
fn trained(
    job: &Job,
    device: Device,
    case: usize,
    group: Option<(&Arc<Group>, Sharding)>,
) -> Result<Value, ModelError> {
    let mut model = Model::initialise(&job.shape, 1, device)?;
    model.add_mask_token(0)?;
    let precision = if case == 0 { Precision::Fp32 } else { Precision::Bf16 };
    let (kernels, device_kernels) = (!job.plain, !job.plain);
    model.set_arithmetic(Arithmetic { precision, kernels, device_kernels, ..model.arithmetic() });
    let options = ObjectiveOptions::recommended(Objective::Diffusion { shift: true });
    let optimizer = Optimizer { muon: (case == 2).then(Muon::default), ..Optimizer::default() };
    let (place, sharding) = match group {
        Some((group, sharding)) => (group.place(), sharding),
        None => (Place { rank: 0, size: 1 }, Sharding::None),
    };
    let own = MICRO_BATCHES / place.size;
    let mut learner = match group {
        Some((group, sharding)) => {
            Learner::of_ranks(model, options, optimizer, group.clone(), own as u64, sharding, Reduction::Tree)?
        }
        None => Learner::new(model, options, optimizer)?,
    };
    let mut last = None;
    for step in 0..STEPS {
        for number in 0..own {
            let number = match sharding {
                Sharding::Gradients | Sharding::Parameters => number * place.size + place.rank,
                Sharding::None | Sharding::Optimizer => place.rank * own + number,
            };
            learner.start_micro_step(&batch(step * MICRO_BATCHES + number), &Pattern::Full)?;
        }
        last = Some(learner.apply(1e-3)?);
    }
    let folder = tempfile::tempdir().map_err(failed)?;
    learner.help_save(folder.path())?;
    let files = if place.rank == 0 { learner.save(folder.path())? } else { Vec::new() };
    let sha256 = |name: &str| files.iter().find(|file| file.name == name).map(|file| file.sha256.clone());
    let loss = last.map(|applied| applied.totals.unweighted / applied.totals.positions as f64);
    Ok(json!({
        "weights": sha256("model.safetensors"),
        "state": sha256("optimizer.safetensors"),
        "loss": loss,
        "grad_norm": last.map(|applied| applied.grad_norm),
        "clipped": last.map(|applied| applied.clipped),
    }))
}

/// One of the processes: prints what it has found.
fn rank(job: &Job) -> Result<(), ModelError> {
    let began = Instant::now();
    DeviceSettings { deterministic: true, ..DeviceSettings::default() }.set()?;
    difflow_model::set_num_threads(1);
    let library = if job.nccl { nccl_library().map_or_else(|why| json!(why), |()| json!(true)) } else { Value::Null };
    println!("{}", json!({"library": library}));
    let device = Device::open(&job.device)?;
    let second = job.size == 1 && matches!(device, Device::Cuda(_)) && Device::open("cuda:1").is_ok();
    println!("{}", json!({"opened": device.to_string(), "second": second, "seconds": began.elapsed().as_secs_f64()}));
    let place = Place { rank: job.rank, size: job.size };
    let meeting = match job.rank {
        0 => Meeting::Listen(TcpListener::bind(job.address).map_err(failed)?),
        _ => Meeting::Connect(job.address),
    };
    let patience = Patience { join: Duration::from_secs(20), exchange: Duration::from_secs(15) };
    let mut group = Group::open(meeting, place, &format!("rank-{}", job.rank), patience)?;
    let alone = job.size == 1 && !job.nccl;
    let route = match group.connect(device, if alone { Transport::Host } else { Transport::Nccl }) {
        Ok(route) => route,
        Err(e) if job.nccl => return Err(e),
        Err(e) => {
            println!("{}", json!({"refused": e.to_string()}));
            group.connect(device, Transport::Auto)?
        }
    };
    let route = if let Route::Host(why) = route { why } else { "NCCL".to_owned() };
    let exchanges = group.check(device)?;
    println!("{}", json!({"route": route, "exchanges": exchanges, "seconds": began.elapsed().as_secs_f64()}));
    let group = Arc::new(group);
    for (case, name) in CASES.iter().enumerate() {
        if job.size == 1 {
            let alone = trained(job, device, case, None)?;
            println!("{}", json!({"case": name, "sharding": "alone", "trained": alone}));
        }
        for (sharding, kind) in SHARDINGS {
            let trained = trained(job, device, case, Some((&group, kind)))?;
            println!("{}", json!({"case": name, "sharding": sharding, "trained": trained}));
        }
    }
    let again = trained(job, device, 1, Some((&group, Sharding::Optimizer)))?;
    println!("{}", json!({"case": CASES[1], "sharding": "again", "trained": again}));
    println!(
        "{}",
        json!({"seconds": began.elapsed().as_secs_f64(), "peak_mib": device.peak_memory()?.map(|bytes| bytes >> 20)})
    );
    Ok(())
}

/// What rank 0 of some processes printed; errors say which did not end well, and what it had printed.
fn run(
    folder: &Path,
    devices: &[&str],
    (nccl, plain): (bool, bool),
    deadline: Instant,
) -> (Vec<Value>, Option<String>) {
    let start = |rank: usize, device: &str, address: SocketAddr| -> std::io::Result<Child> {
        let (shape, device) = (folder.to_owned(), device.to_owned());
        let job = Job { rank, size: devices.len(), address, device, nccl, plain, shape };
        let out = std::fs::File::create(folder.join(format!("out-{rank}")))?;
        let mut command = Command::new(std::env::current_exe()?);
        command.env(PART, serde_json::to_string(&job)?).stdout(out).stdin(Stdio::null()).spawn()
    };
    let address = TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr());
    let children = address
        .and_then(|address| devices.iter().enumerate().map(|(rank, device)| start(rank, device, address)).collect());
    let mut children: Vec<Child> = match children {
        Ok(children) => children,
        Err(e) => return (Vec::new(), Some(e.to_string())),
    };
    let mut problem = None;
    for (rank, child) in children.iter_mut().enumerate() {
        loop {
            match child.try_wait() {
                Ok(Some(status)) if status.success() => break,
                Ok(Some(status)) => {
                    problem.get_or_insert(format!("rank {rank} of {}: {status}", devices.len()));
                    break;
                }
                Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(20)),
                Ok(None) => {
                    problem.get_or_insert(format!("rank {rank} of {} has not ended in time", devices.len()));
                    _ = child.kill();
                    _ = child.wait();
                    break;
                }
                Err(e) => {
                    problem.get_or_insert(e.to_string());
                    break;
                }
            }
        }
    }
    let lines = |rank: usize| {
        let text = std::fs::read_to_string(folder.join(format!("out-{rank}"))).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).collect::<Vec<_>>()
    };
    let error = (0..devices.len()).flat_map(lines).find_map(|line| Some(line.get("error")?.as_str()?.to_owned()));
    let problem = problem.map(|problem| error.map_or(problem.clone(), |error| format!("{problem}: {error}")));
    (lines(0), problem)
}

/// Prints a check.
fn say(name: &str, holds: bool, what: Value) -> bool {
    println!("{}", json!({"check": name, "holds": holds, "found": what}));
    holds
}

/// What was trained, of a case with a sharding.
fn of<'a>(lines: &'a [Value], case: &str, sharding: &str) -> Option<&'a Value> {
    lines.iter().find(|line| line["case"] == case && line["sharding"] == sharding).map(|line| &line["trained"])
}

/// Compares weights and state with those of a process without a group.
fn compare(name: &str, lines: &[Value], alone: &[Value]) -> bool {
    let mut all = true;
    for (case, sharding) in CASES.iter().flat_map(|case| SHARDINGS.map(|(sharding, _)| (*case, sharding))) {
        let (found, wanted) = (of(lines, case, sharding), of(alone, case, "alone"));
        let same = |key: &str| {
            found.zip(wanted).is_some_and(|(found, wanted)| !found[key].is_null() && found[key] == wanted[key])
        };
        let holds = same("weights") && same("state");
        all &= say(&format!("{name}: {case}, SHARDING {sharding}"), holds, json!({"trained": found, "alone": wanted}));
    }
    let (first, again) = (of(lines, CASES[1], "optimizer"), of(lines, CASES[1], "again"));
    all & say(&format!("{name}: the same again"), again.is_some() && first == again, Value::Null)
}

/// The lines that are not of a training.
fn others(lines: &[Value]) -> Vec<&Value> {
    lines.iter().filter(|line| line.get("case").is_none()).collect()
}

fn checks(a: &Arguments) -> Result<bool, ModelError> {
    let deadline = Instant::now() + Duration::from_secs(a.seconds);
    let folder = tempfile::tempdir().map_err(failed)?;
    let folder = folder.path();
    std::fs::write(folder.join("config.json"), SHAPE).map_err(failed)?;
    let gpu = a.device != "cpu";
    let (mut alone, problem) = run(folder, &[&a.device], (gpu, a.plain), deadline);
    let name = if gpu { "a group of one, NCCL" } else { "a group of one" };
    let mut all = say(name, problem.is_none(), json!({"problem": problem, "said": others(&alone)}));
    if alone.iter().all(|line| line.get("opened").is_none()) {
        return Ok(false);
    }
    all &= compare(name, &alone, &alone);
    if problem.is_some() && gpu {
        // What does not need NCCL is looked at all the same.
        let (lines, problem) = run(folder, &[&a.device], (false, a.plain), deadline);
        let name = "a group of one through host memory";
        alone = lines;
        all &= say(name, problem.is_none(), json!({"problem": problem, "said": others(&alone)}));
        all &= compare(name, &alone, &alone);
    }
    let device = a.device.as_str();
    let name = format!("two ranks on {device} through host memory");
    let (lines, problem) = run(folder, &[device, device], (false, a.plain), deadline);
    all &= say(&name, problem.is_none(), json!({"problem": problem, "said": others(&lines)}));
    let why = if gpu { "have the same GPU" } else { "rank 0 computes on the CPU" };
    let refused = lines.iter().find_map(|line| line.get("refused")?.as_str()).unwrap_or_default();
    all &= say("NCCL is refused to them", refused.contains(why), json!(refused));
    all &= compare(&name, &lines, &alone);
    if alone.iter().any(|line| line["second"] == true) {
        let name = "two ranks on two GPUs, NCCL";
        let (lines, problem) = run(folder, &["cuda:0", "cuda:1"], (true, a.plain), deadline);
        all &= say(name, problem.is_none(), json!({"problem": problem, "said": others(&lines)}));
        all &= compare(name, &lines, &alone);
    } else {
        println!("{}", json!({"check": "two ranks on two GPUs, NCCL", "not_run": "one device"}));
    }
    Ok(all)
}

fn main() -> ExitCode {
    if let Ok(text) = std::env::var(PART) {
        return match serde_json::from_str(&text).map_err(failed).and_then(|job| rank(&job)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => {
                println!("{}", json!({"error": e.to_string()}));
                eprintln!("error: {e}");
                ExitCode::FAILURE
            }
        };
    }
    match checks(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}
