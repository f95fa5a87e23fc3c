//! The checkpointer's loop.

use std::fs;
use std::path::Path;

use difflow_node_kit::{Event, Node};
use difflow_schema::Checkpoint;
use difflow_schema::run::{Manifest, RunDir};
use eyre::{Context, Result, ensure};

use crate::config::Config;
use crate::prune::{Keep, removable};
use crate::scores::scores;

/// Runs until the trainer is gone.
pub fn run(config: Config, mut node: Node) -> Result<()> {
    let dir = RunDir::new(&config.runs, &config.run);
    let mut published = 0;
    loop {
        match node.next(None)? {
            Event::Message(message) => {
                let checkpoint = message.read::<Checkpoint>()?;
                let (_, sha256) = Manifest::verify(Path::new(&checkpoint.path))?;
                ensure!(
                    sha256 == checkpoint.sha256,
                    "{}: manifest sha256 {sha256}, the trainer announced {}; the checkpoint was changed after it was written",
                    checkpoint.path,
                    checkpoint.sha256
                );
                node.send("published", published, &checkpoint)?;
                published += 1;
                prune(&config, &dir, checkpoint.step)?;
            }
            Event::Closed(_) | Event::Failed { .. } | Event::Stop { .. } => return Ok(()),
            Event::Tick | Event::Timeout => {}
        }
    }
}

fn prune(config: &Config, dir: &RunDir, published: u64) -> Result<()> {
    let steps = dir.checkpoint_steps()?;
    let keep = Keep { last: config.keep_last, every: config.keep_every, best: config.keep_best };
    for step in removable(&steps, published, keep, &scores(dir, &steps)) {
        let path = dir.checkpoint(step);
        // Renamed first: a kill in the middle leaves no folder that looks like a checkpoint and is not.
        let doomed = path.with_extension("pruned");
        fs::rename(&path, &doomed)
            .and_then(|()| fs::remove_dir_all(&doomed))
            .with_context(|| format!("cannot remove old checkpoint {}", path.display()))?;
    }
    Ok(())
}
