//! What the evaluator does with each checkpoint.

use difflow_inference::lacks_memory;
use difflow_node_kit::record::deciding;
use difflow_node_kit::{CheckpointWork, Node, follow};
use difflow_schema::run::RunDir;
use difflow_schema::{Checkpoint, Scores};
use eyre::Result;
use serde_json::Value;

use crate::config::Config;
use crate::evaluation::Evaluation;

/// Scores every published checkpoint until there are no more.
///
/// # Errors
/// See README.md, "Failure modes".
pub fn run(config: Config, mut node: Node) -> Result<()> {
    let dir = config.run.dir();
    let settings = deciding(&config);
    let work = Scoring { dir: dir.clone(), settings, evaluation: Evaluation::open(config)? };
    follow(&mut node, &dir, &work)
}

struct Scoring {
    dir: RunDir,
    settings: Value,
    evaluation: Evaluation,
}

impl CheckpointWork for Scoring {
    type Outcome = Scores;

    fn earlier(&self, checkpoint: &Checkpoint) -> Option<Scores> {
        Scores::earlier(&self.dir.scores(checkpoint.step), checkpoint, &self.settings)
    }

    fn work(&self, checkpoint: &Checkpoint, check: &mut dyn FnMut() -> Result<()>) -> Result<Scores> {
        let scores = self.evaluation.score(checkpoint, check)?;
        scores.write(&self.dir.scores(checkpoint.step))?;
        Ok(scores)
    }

    fn share(&self) -> f64 {
        self.evaluation.share()
    }

    fn lacked_memory(&self, problem: &eyre::Report) -> bool {
        lacks_memory(problem.as_ref())
    }

    fn tell(&self, node: &mut Node, seq: u64, scores: &Scores) -> Result<()> {
        node.send("scores", seq, &scores.message())
    }
}
