//! The noiser's loop: a demand goes up, the batches that come are noised and go down. It holds nothing.

use difflow_node_kit::{Event, Node};
use difflow_schema::{Demand, Noised, Sequences};
use eyre::Result;

use crate::config::Config;
use crate::noise::Noiser;

/// Runs until nobody asks any more.
pub fn run(config: Config, mut node: Node) -> Result<()> {
    let mut noiser = Noiser::open(config)?;
    let mut demands = 0;
    loop {
        match node.next(None)? {
            Event::Message(message) if message.input == "demand" => {
                node.send("demand", demands, &message.read::<Demand>()?)?;
                demands += 1;
            }
            Event::Message(message) if message.fin => node.send_fin::<Noised>("noised", message.seq)?,
            Event::Message(message) => {
                let noised = noiser.noise(message.seq, message.read::<Sequences>()?)?;
                node.send("noised", message.seq, &noised)?;
            }
            Event::Closed(_) | Event::Failed { .. } | Event::Stop { .. } => return Ok(()),
            Event::Tick | Event::Timeout => {}
        }
    }
}
