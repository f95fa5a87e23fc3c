//! `difflow sample`: generates text with a checkpoint.

mod arguments;
mod measure;
mod output;
mod picture;
mod tasks;
mod watch;

use difflow_inference::{Decoder, InferenceError, Opening, Progress, Session, Watched};
use eyre::{Result, bail, eyre};
use serde_json::{Map, Value};

pub use arguments::{Arguments, EXAMPLES};

use crate::sample::output::Printer;
use crate::sample::tasks::Task;
use crate::sample::watch::Screen;
use crate::terminal::warning;

/// Writes texts, or measures the decoders; `given` are the decoding options of the command line, by their names as keys. Returns the exit
/// code. Errors if an argument does not fit the checkpoint, or a file cannot be
/// read.
pub fn run(arguments: &Arguments, given: &Map<String, Value>) -> Result<u8> {
    let opening = Opening {
        device: arguments.device.clone(),
        threads: arguments.threads,
        tokenizer: arguments.tokenizer.clone(),
        adapter: arguments.adapter.clone(),
        ..Opening::default()
    };
    let session = Session::open(&arguments.checkpoint, &opening).map_err(|e| match e {
        InferenceError::NoModel { .. } => eyre!("--checkpoint: {e}"),
        InferenceError::Text(_) => eyre!("{e}; --tokenizer FILE gives another"),
        e => e.into(),
    })?;
    let decoding = session.decoding(given)?;
    let decoder = session.decoder(decoding.decoder)?;
    if arguments.measure {
        return measure::run(arguments, decoding, &session);
    }
    if arguments.watch && decoder == Decoder::Ar {
        bail!("--watch shows a canvas being unmasked; `--decoder ar` has none");
    }
    let tasks = tasks::read(arguments, decoding.seed, &session)?;
    for problem in doubts(&session, &tasks).into_iter().chain(session.doubts(&decoding)) {
        eprintln!("{}", warning(&problem));
    }
    let printer = Printer::new(arguments, session.words());
    let mut screen = Screen::new(arguments.watch, session.words());
    let many = tasks.len() * arguments.count as usize > 1;
    let all: Vec<Task> = tasks.iter().flat_map(|task| task.copies(arguments.count)).collect();
    // A batch is printed when it is written.
    for chunk in all.chunks(arguments.batch) {
        let templates: Vec<_> = chunk.iter().map(Task::template).collect();
        let mut watch = |number: usize, watched: &Watched| screen.show(number, watched);
        let mut ready = |_: Progress| Ok::<(), InferenceError>(());
        let written = session.write(&templates, &decoding, arguments.batch, &mut watch, &mut ready)?;
        screen.close();
        for (task, written) in chunk.iter().zip(&written) {
            printer.print(task, written, many)?;
        }
    }
    Ok(0)
}

/// What may make the texts worse than the model could.
fn doubts(session: &Session, tasks: &[Task]) -> Vec<String> {
    let longest = tasks.iter().map(Task::longest).max().unwrap_or(0);
    let context = session.config().max_positions;
    let mut doubts = Vec::new();
    if longest > context {
        doubts.push(format!(
            "a text may become {longest} tokens long, the model was trained on at most {context}; expect nonsense beyond"
        ));
    }
    doubts.extend(tasks.iter().filter_map(|task| task.doubt.clone()));
    doubts
}
