//! `difflow sample`: lets a checkpoint write.

mod arguments;
mod checkpoint;
mod measure;
mod output;
mod picture;
mod questions;
mod tasks;
mod watch;
mod writer;

use std::time::Instant;

use eyre::{Result, bail};

pub use arguments::{Arguments, EXAMPLES};

use crate::sample::arguments::Decoder;
use crate::sample::checkpoint::Checkpoint;
use crate::sample::output::Printer;
use crate::sample::tasks::Task;
use crate::sample::watch::Screen;
use crate::sample::writer::Writer;
use crate::terminal::warning;

/// Writes texts, or measures the decoders. Returns the exit code.
///
/// # Errors
/// When an argument does not fit the checkpoint, or a file cannot be read.
pub fn run(arguments: &Arguments) -> Result<u8> {
    if let Some(threads) = arguments.threads {
        difflow_model::set_num_threads(threads);
    }
    let checkpoint = Checkpoint::open(arguments)?;
    let decoder = checkpoint.decoder(arguments)?;
    if arguments.measure {
        return measure::run(arguments, &checkpoint);
    }
    if arguments.watch && decoder == Decoder::Ar {
        bail!("--watch shows a canvas being unmasked; `--decoder ar` has none");
    }
    let tasks = tasks::read(arguments, &checkpoint)?;
    for problem in checkpoint.doubts(&tasks) {
        eprintln!("{}", warning(&problem));
    }
    let writer = Writer::new(arguments, &checkpoint, decoder);
    let printer = Printer::new(arguments, &checkpoint);
    let mut screen = Screen::new(arguments.watch, &checkpoint.words);
    let many = tasks.len() * arguments.count as usize > 1;
    let all: Vec<Task> = tasks.iter().flat_map(|task| task.copies(arguments.count)).collect();
    for chunk in all.chunks(arguments.batch) {
        let start = Instant::now();
        let written = writer.write(chunk, &mut |number, canvas, reveals| screen.show(number, canvas, reveals))?;
        let seconds = start.elapsed().as_secs_f64() / chunk.len() as f64;
        screen.close();
        for (task, written) in chunk.iter().zip(&written) {
            printer.print(task, written, seconds, many)?;
        }
    }
    Ok(0)
}
