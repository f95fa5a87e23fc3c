//! The corpus node's loop: a demand comes, the batches go.

use difflow_node_kit::{Event, Node, Problem, Problems};
use difflow_plugin_host::Transforms;
use difflow_schema::{Demand, Documents};
use eyre::Result;
use tokio::runtime::Builder;

use crate::batches::{Answer, Batches};
use crate::config::Config;

/// Runs until nobody asks any more.
pub fn run(config: Config, mut node: Node) -> Result<()> {
    let runtime = Builder::new_current_thread().build()?;
    let mut transforms = Transforms::open::<Documents>(&config.transforms)
        .map_err(|e| Problems::from(Problem::new("TRANSFORMS", &config.transforms, e.to_string())))?;
    let mut batches = runtime.block_on(Batches::open(&config))?;
    loop {
        match node.next(None)? {
            Event::Message(message) => {
                let demand: Demand = message.read()?;
                for seq in demand.next_seq..demand.next_seq + u64::from(demand.count) {
                    match runtime.block_on(batches.get(seq)).map_err(Problems::from)? {
                        Answer::Batch(batch) => {
                            node.send("documents", seq, &transforms.apply(seq, config.seed, batch)?)?;
                        }
                        Answer::Ended(end) => {
                            node.send_fin::<Documents>("documents", end)?;
                            break;
                        }
                    }
                }
            }
            Event::Closed(_) | Event::Failed { .. } | Event::Stop { .. } => return Ok(()),
            Event::Tick | Event::Timeout => {}
        }
    }
}
