//! How long training stands still for a checkpoint of more than 100 MB, beside a step, and how much slower steps are while it is
//! written: `scripts/cargo.sh bench --workspace --bench checkpoint`.

use std::path::Path;
use std::time::{Duration, Instant};

use difflow_model::{AdamW, Device, Learner, MicroBatch, Model, ModelError, Objective, ObjectiveOptions, Pattern};

const CONFIG: &str = r#"{"architectures":["LlamaForCausalLM"],"vocab_size":8192,"hidden_size":384,"intermediate_size":1024,
    "num_hidden_layers":6,"num_attention_heads":6,"num_key_value_heads":6,"max_position_embeddings":512,
    "tie_word_embeddings":true,"bos_token_id":0,"eos_token_id":1}"#;
const ROWS: usize = 8;
const LENGTH: usize = 128;
const ROUNDS: usize = 5;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("config.json"), CONFIG)?;
    let mut model = Model::initialise(folder.path(), 0, Device::Cpu)?;
    model.add_mask_token(0)?;
    let options = ObjectiveOptions::recommended(Objective::Diffusion { shift: true });
    let mut learner = Learner::new(model, options, AdamW::default())?;
    (0..2).try_for_each(|_| step(&mut learner).map(drop))?;

    let mut alone: Vec<Duration> = (0..ROUNDS).map(|_| step(&mut learner)).collect::<Result<_, _>>()?;
    let (mut stalls, mut writes, mut beside, mut bytes) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for round in 0..ROUNDS {
        let dir = folder.path().join(format!("checkpoint-{round}"));
        std::fs::create_dir(&dir)?;
        let started = Instant::now();
        let snapshot = learner.snapshot(&dir)?;
        let writer = std::thread::spawn(move || write(&dir, &snapshot).map(|took| (took, snapshot.bytes())));
        stalls.push(started.elapsed());
        while !writer.is_finished() {
            beside.push(step(&mut learner)?);
        }
        let (took, size) = writer.join().map_err(|_| "the writer panicked")??;
        writes.push(took);
        bytes = size;
    }
    println!(
        "state                        {:.0} MB ({} parameters)",
        bytes as f64 / 1e6,
        learner.model().parameter_count()
    );
    println!("step of {ROWS} x {LENGTH} tokens       {:?}", median(&mut alone));
    println!("stall of a checkpoint        {:?}", median(&mut stalls));
    println!("writing it, in its thread    {:?}", median(&mut writes));
    println!("step while it is written     {:?}", median(&mut beside));
    Ok(())
}

fn write(dir: &Path, snapshot: &difflow_model::Snapshot) -> Result<Duration, ModelError> {
    let started = Instant::now();
    snapshot.write(dir)?;
    Ok(started.elapsed())
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// The same batch each time: what it learns does not matter here.
fn step(learner: &mut Learner) -> Result<Duration, ModelError> {
    let mut batch = MicroBatch::clean(ROWS, LENGTH, (0..ROWS * LENGTH).map(|i| 2 + (i * 7919 % 8000) as u32).collect());
    for i in 0..ROWS * LENGTH {
        batch.masked[i] = batch.maskable[i] && i % 2 == 0;
    }
    let started = Instant::now();
    learner.micro_step(&batch, &Pattern::Annealed { ratio: 0.5, seed: 0, draw: 0 })?;
    learner.apply(1e-4)?;
    Ok(started.elapsed())
}
