//! The node in the trainer's place: it asks for batches as the trainer does, and writes what came into a file.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use difflow_node_kit::{Event, Node, Puller, Upstream, config};
use difflow_schema::{Facts, Noised};
use eyre::{Context, Result};

use crate::inspect_data::{Found, examples};

/// Batches on their way.
const WINDOW: u32 = 2;
/// After this time without a batch it is asked for again.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Args)]
pub struct BatchesArguments {
    /// The file for the examples.
    #[arg(long)]
    to: PathBuf,
    /// How many.
    #[arg(long)]
    examples: u64,
}

impl BatchesArguments {
    /// Runs until there are so many examples, or the data ends.
    ///
    /// # Errors
    /// When it is no node of a dataflow, or a batch cannot be read.
    pub fn run(self) -> Result<u8> {
        let mut node = Node::connect()?;
        let (own, shared) = node.keys()?;
        let names: Vec<String> = own.keys().cloned().collect();
        let lookup = |key: &str| own.get(key).or_else(|| shared.get(key)).cloned();
        let trainer = config::read::<difflow_trainer::config::Config>(&names, lookup)?;
        // t is stratified over the batches of a step.
        node.say("demand", &Facts { accumulation: Some(trainer.accumulation), ..Facts::default() })?;
        let mut puller = Puller::<Noised>::new("noised", 0, WINDOW, PATIENCE);
        let (mut upstream, mut all) = (Upstream::default(), Vec::new());
        while (all.len() as u64) < self.examples && !puller.ended() {
            puller.ask(&mut node)?;
            match node.next(Some(PATIENCE / 5))? {
                Event::Message(message) => {
                    upstream.hear(&message)?;
                    puller.accept(&message)?;
                }
                Event::Timeout => puller.ask_again(&mut node)?,
                Event::Tick => {}
                Event::Closed(_) | Event::Failed { .. } | Event::Stop { .. } => break,
            }
            while let Some(batch) = puller.take() {
                all.extend(examples::of(puller.next_seq() - 1, &batch));
            }
        }
        all.truncate(self.examples as usize);
        if !all.is_empty() {
            let found = Found { facts: upstream.facts().clone(), examples: all };
            fs::write(&self.to, serde_json::to_vec(&found)?).with_context(|| self.to.display().to_string())?;
        }
        Ok(0)
    }
}
