//! The checkpointer's loop.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use difflow_node_kit::{Event, Node};
use difflow_schema::Checkpoint;
use difflow_schema::run::RunDir;
use eyre::{Context, Result};

use crate::config::Config;
use crate::prune::{Keep, removable};
use crate::scores::scores;

/// Runs until the trainer is gone.
pub fn run(config: Config, node: Node) -> Result<()> {
    let dir = config.run.dir();
    let known = dir.checkpoint_steps()?.into_iter().collect();
    Checkpointer { config, node, dir, known, published: 0 }.run()
}

struct Checkpointer {
    config: Config,
    node: Node,
    dir: RunDir,
    /// Steps of the checkpoints that were there before, and of those that the trainer told of.
    known: BTreeSet<u64>,
    published: u64,
}

impl Checkpointer {
    fn run(&mut self) -> Result<()> {
        loop {
            match self.node.next(None)? {
                Event::Message(message) => self.announced(&message.read()?)?,
                Event::Closed(_) | Event::Stop { asked: false } => return self.missed(),
                Event::Failed { .. } | Event::Stop { asked: true } => return Ok(()),
                Event::Tick | Event::Timeout => {}
            }
        }
    }

    fn announced(&mut self, announced: &Checkpoint) -> Result<()> {
        self.known.insert(announced.step);
        let Some(found) = good(announced.step, Path::new(&announced.path)) else { return Ok(()) };
        if found.sha256 != announced.sha256 {
            eprintln!(
                "warning: checkpoint of step {} is passed over: {}: manifest sha256 {}, the trainer announced {}; it was changed \
                 after it was written",
                announced.step, announced.path, found.sha256, announced.sha256
            );
            return Ok(());
        }
        self.publish(announced)
    }

    /// Publishes what the trainer wrote and no message told of: dora's edges may lose one, and the last one counts most.
    fn missed(&mut self) -> Result<()> {
        for step in self.dir.checkpoint_steps()? {
            if !self.known.contains(&step)
                && let Some(checkpoint) = good(step, &self.dir.checkpoint(step))
            {
                self.publish(&checkpoint)?;
            }
        }
        Ok(())
    }

    fn publish(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        self.node.send("published", self.published, checkpoint)?;
        self.published += 1;
        prune(&self.config, &self.dir, checkpoint.step)
    }
}

/// The checkpoint in `folder`; nothing but a warning if it is damaged.
fn good(step: u64, folder: &Path) -> Option<Checkpoint> {
    let found = Checkpoint::verified(folder);
    found.inspect_err(|damage| eprintln!("warning: checkpoint of step {step} is passed over: {damage}")).ok()
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;

    use difflow_node_kit::testing::Heard;
    use difflow_schema::run::{FileRecord, MANIFEST, Manifest, file_sha256, write_atomically};
    use serde_json::{Value, json};
    use tempfile::TempDir;

    use difflow_node_kit::RunKeys;

    use super::*;

    /// A run folder with a trainer's checkpoints.
    struct Run(TempDir);

    impl Run {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn dir(&self) -> RunDir {
            RunDir::new(self.0.path(), "r")
        }

        /// Writes the checkpoint of `step`. Returns its message.
        fn write(&self, step: u64) -> Value {
            let folder = self.dir().checkpoint(step);
            write_atomically(&folder.join("weights"), &step.to_le_bytes()).unwrap();
            let (sha256, bytes) = file_sha256(&folder.join("weights")).unwrap();
            let files = BTreeMap::from([("weights".to_owned(), FileRecord { sha256, bytes })]);
            write_atomically(&folder.join(MANIFEST), &Manifest::new(step, 10 * step, step, files).text()).unwrap();
            let Checkpoint { path, sha256, bytes, tokens_seen, .. } = Checkpoint::verified(&folder).unwrap();
            json!([{"step": step, "path": path, "sha256": sha256, "bytes": bytes, "tokens_seen": tokens_seen}])
        }

        fn flip_a_bit(&self, step: u64) {
            let path = self.dir().checkpoint(step).join("weights");
            let mut bytes = fs::read(&path).unwrap();
            bytes[0] ^= 1;
            fs::write(&path, bytes).unwrap();
        }

        /// Lets the checkpointer hear `heard`, while `meanwhile` happens in the folder. Returns the steps it published.
        fn published(&self, heard: Heard, meanwhile: impl FnOnce()) -> Vec<u64> {
            let run = RunKeys { name: "r".into(), runs: self.0.path().display().to_string() };
            let config = Config { run, ..Config::default() };
            let (node, mut said) = heard.node().unwrap();
            let known = self.dir().checkpoint_steps().unwrap().into_iter().collect();
            meanwhile();
            let mut checkpointer = Checkpointer { config, node, dir: self.dir(), known, published: 0 };
            checkpointer.run().unwrap();
            said.on("published").iter().map(|rows| rows[0]["step"].as_u64().unwrap()).collect()
        }
    }

    fn heard(messages: &[Value]) -> Heard {
        let add = |heard: Heard, (seq, rows): (i64, &Value)| {
            heard.message::<Checkpoint>("checkpoint", seq, rows.clone()).unwrap()
        };
        (0..).zip(messages).fold(Heard::default(), add)
    }

    #[test]
    fn a_checkpoint_whose_message_was_lost_is_published_at_the_end() {
        let run = Run::new();
        run.write(5);
        let messages = [run.write(10)];
        // What an earlier session left (5, and here 10) is not published again unless the trainer tells of it.
        let steps =
            run.published(heard(&messages).closed("checkpoint").unwrap(), || _ = (run.write(20), run.write(30)));
        assert_eq!(steps, [10, 20, 30]);
    }

    #[test]
    fn a_damaged_checkpoint_is_passed_over_and_the_next_one_is_published() {
        let run = Run::new();
        let messages = [run.write(10), run.write(20)];
        let steps = run.published(heard(&messages), || run.flip_a_bit(10));
        assert_eq!(steps, [20]);
        let swapped =
            [json!([{"step": 20, "path": messages[1][0]["path"], "sha256": "0", "bytes": 1, "tokens_seen": 1}])];
        assert!(run.published(heard(&swapped), || ()).is_empty(), "not the checkpoint that was announced");
    }

    #[test]
    fn a_stop_publishes_nothing_more() {
        let run = Run::new();
        assert!(run.published(Heard::default().stop(), || _ = run.write(10)).is_empty());
    }
}
