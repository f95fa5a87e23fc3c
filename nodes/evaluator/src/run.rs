//! The event loop.

use std::path::Path;

use difflow_inference::set_num_threads;
use difflow_node_kit::{Inbox, Node, Stopped};
use difflow_schema::Scores;
use difflow_schema::run::RunDir;
use eyre::Result;

use crate::config::Config;
use crate::evaluation::Evaluation;

/// Scores every published checkpoint until there are no more.
///
/// # Errors
/// See README.md, "Failure modes".
pub fn run(config: Config, mut node: Node) -> Result<()> {
    set_num_threads(config.threads);
    let dir = RunDir::new(&config.runs, &config.run);
    let settings = config.settings();
    let evaluation = Evaluation::open(config)?;
    let mut inbox = Inbox::default();
    let mut seq = 0;
    while let Some(checkpoint) = inbox.next(&mut node)? {
        let path = dir.scores(checkpoint.step);
        let scores = match Scores::earlier(&path, &checkpoint, &settings) {
            Some(scores) => scores,
            None if !Path::new(&checkpoint.path).exists() => {
                eprintln!("step {}: {} was pruned before its turn; not scored", checkpoint.step, checkpoint.path);
                continue;
            }
            None => match evaluation.score(&checkpoint, &mut || inbox.check(&mut node)) {
                Err(e) if e.is::<Stopped>() => return Ok(()),
                scores => {
                    let scores = scores?;
                    scores.write(&path)?;
                    scores
                }
            },
        };
        node.send("scores", seq, &scores.message())?;
        seq += 1;
    }
    Ok(())
}
