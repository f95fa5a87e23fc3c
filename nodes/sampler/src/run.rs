//! What the sampler does with each checkpoint.

use difflow_inference::lacks_memory;
use difflow_node_kit::{CheckpointWork, Node, follow};
use difflow_schema::run::RunDir;
use difflow_schema::{Checkpoint, Texts};
use eyre::Result;

use crate::config::Config;
use crate::sampling::Sampler;

/// Lets every published checkpoint write until there are no more.
///
/// # Errors
/// See README.md, "Failure modes".
pub fn run(config: Config, mut node: Node) -> Result<()> {
    let dir = config.run.dir();
    let work = Writing { dir: dir.clone(), sampler: Sampler::open(config)? };
    follow(&mut node, &dir, &work)
}

struct Writing {
    dir: RunDir,
    sampler: Sampler,
}

impl CheckpointWork for Writing {
    type Outcome = Texts;

    fn earlier(&self, checkpoint: &Checkpoint) -> Option<Texts> {
        Texts::earlier(&self.dir.samples(checkpoint.step), checkpoint, &self.sampler.settings(checkpoint))
    }

    fn work(&self, checkpoint: &Checkpoint, check: &mut dyn FnMut() -> Result<()>) -> Result<Texts> {
        let texts = self.sampler.write(checkpoint, check)?;
        texts.write(&self.dir.samples(checkpoint.step))?;
        Ok(texts)
    }

    fn share(&self) -> f64 {
        self.sampler.share()
    }

    fn lacked_memory(&self, problem: &eyre::Report) -> bool {
        lacks_memory(problem.as_ref())
    }

    fn tell(&self, node: &mut Node, seq: u64, texts: &Texts) -> Result<()> {
        node.send("samples", seq, &texts.samples())?;
        node.send("scores", seq, &texts.message())
    }
}
