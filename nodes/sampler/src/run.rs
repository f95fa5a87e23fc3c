//! The event loop.

use std::path::Path;

use difflow_inference::set_num_threads;
use difflow_node_kit::{Inbox, Node, Stopped};
use difflow_schema::Texts;
use difflow_schema::run::RunDir;
use eyre::Result;

use crate::config::Config;
use crate::sampling::Sampler;

/// Lets every published checkpoint write until there are no more.
///
/// # Errors
/// See README.md, "Failure modes".
pub fn run(config: Config, mut node: Node) -> Result<()> {
    set_num_threads(config.threads);
    let dir = RunDir::new(&config.runs, &config.run);
    let sampler = Sampler::open(config)?;
    let mut inbox = Inbox::default();
    let mut seq = 0;
    while let Some(checkpoint) = inbox.next(&mut node)? {
        let path = dir.samples(checkpoint.step);
        let texts = match Texts::earlier(&path, &checkpoint, &sampler.settings(&checkpoint)) {
            Some(texts) => texts,
            None if !Path::new(&checkpoint.path).exists() => {
                eprintln!("step {}: {} was pruned before its turn; no samples", checkpoint.step, checkpoint.path);
                continue;
            }
            None => match sampler.write(&checkpoint, &mut || inbox.check(&mut node)) {
                Err(e) if e.is::<Stopped>() => return Ok(()),
                texts => {
                    let texts = texts?;
                    texts.write(&path)?;
                    texts
                }
            },
        };
        node.send("samples", seq, &texts.samples())?;
        node.send("scores", seq, &texts.message())?;
        seq += 1;
    }
    Ok(())
}
