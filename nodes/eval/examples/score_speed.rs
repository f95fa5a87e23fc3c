//! Times how the candidates of a task are measured, and prints one JSON line. With `--asked` it first writes the questions with the masks of
//! all draws there, so that a peer measures the same.
//!
//! `cargo run --release -p difflow-eval --example score_speed -- MODEL TASKS TASK QUESTIONS THREADS [--asked FILE] [--mask ID]`

use std::error::Error;
use std::path::Path;

use difflow_eval::{Asked, Evaluation, Options, Places};
use difflow_inference::{Document, Opening, Question, Session};
use serde_json::{Value, json};

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [model, tasks, task, questions, threads, ..] = words.as_slice() else {
        return Err("MODEL TASKS TASK QUESTIONS THREADS [--asked FILE] [--mask ID]".into());
    };
    let option = |name: &str| words.iter().position(|word| word == name).and_then(|at| words.get(at + 1));
    let mask_token = option("--mask").map(|id| id.parse()).transpose()?;
    let opening = Opening { device: "cpu".into(), threads: Some(threads.parse()?), mask_token, ..Opening::default() };
    let session = Session::open(Path::new(model), &opening)?;
    let task = Places::of(Path::new(tasks)).tasks(std::slice::from_ref(task))?.remove(0);
    let options = Options { limit: Some(questions.parse()?), ..Options::default() };
    let evaluation = Evaluation::prepare(&task, &session, &options)?;
    let draws = evaluation.scorer.draws;
    if let Some(path) = option("--asked") {
        let candidate = |question: &Question, document: &Document| {
            let masks: Vec<Vec<bool>> =
                (0..draws).map(|draw| evaluation.scorer.masked(question.id, draw, document.measured())).collect();
            json!({"tokens": document.tokens, "given": document.given, "masks": masks})
        };
        let asked: Vec<Value> = evaluation
            .questions
            .iter()
            .filter_map(|one| if let Asked::Measure(question) = &one.asked { Some(question) } else { None })
            .map(|question| question.candidates.iter().map(|document| candidate(question, document)).collect())
            .collect();
        std::fs::write(path, Value::from(asked).to_string())?;
    }
    let before = processor_seconds();
    let found = evaluation.run(None, "", &mut |_| Ok(()))?;
    let cpu_seconds = processor_seconds() - before;
    let values: Vec<&Vec<f64>> = found.answers.iter().map(|answer| &answer.values).collect();
    println!("{}", json!({"seconds": found.seconds, "cpu_seconds": cpu_seconds, "values": values}));
    Ok(())
}

/// What all threads of this process have taken so far.
fn processor_seconds() -> f64 {
    let mut used = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the pointer is to a structure of the right type, which any bytes make a valid value of.
    let used = unsafe {
        libc::getrusage(libc::RUSAGE_SELF, used.as_mut_ptr());
        used.assume_init()
    };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    seconds(used.ru_utime) + seconds(used.ru_stime)
}
