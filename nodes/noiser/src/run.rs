//! The noiser's loop: a demand is passed upstream; the batches that arrive are noised and sent downstream, to the rank
//! that asked for them. All that it keeps is who asked.

use std::collections::{BTreeMap, BTreeSet};

use difflow_diffusion::BlockSizes;
use difflow_node_kit::{Event, Node, Upstream};
use difflow_plugin_host::{Kind, Record, Transforms};
use difflow_schema::ports::{of_rank, rank_of};
use difflow_schema::{BlockFacts, Component, Demand, Facts, Noised, Sequences};
use eyre::Result;

use crate::config::Config;
use crate::noise::Noiser;

/// Who asked for what.
#[derive(Default)]
struct Asked {
    /// The ranks that have asked.
    ranks: BTreeSet<usize>,
    /// Whose each batch is that has not been sent yet.
    batches: BTreeMap<u64, usize>,
}

impl Asked {
    fn take_in(&mut self, rank: usize, demand: &Demand) {
        self.ranks.insert(rank);
        self.batches.extend((demand.next_seq..demand.next_seq + u64::from(demand.count)).map(|seq| (seq, rank)));
    }

    /// The outputs on which everybody hears: of rank 0 in any case, which begins the run.
    fn outputs(&self) -> impl Iterator<Item = String> {
        let others = self.ranks.iter().filter(|&&rank| rank > 0);
        std::iter::once(0).chain(others.copied()).map(|rank| of_rank(NOISED, rank))
    }
}

const NOISED: &str = "noised";
const DEMAND: &str = "demand";

/// Runs until nobody asks any more.
pub fn run(config: Config, mut node: Node) -> Result<()> {
    let own = facts(&config, &node.name())?;
    let mut noiser = Noiser::open(config)?;
    let (mut trainer, mut upstream) = (Upstream::default(), Upstream::default());
    let (mut asked, mut said) = (Asked::default(), own.clone());
    node.say(NOISED, &own)?;
    let mut demands = 0;
    loop {
        match node.next(None)? {
            Event::Message(message) => {
                if let Some(rank) = rank_of(DEMAND, &message.input) {
                    if trainer.hear(&message)? {
                        noiser.accumulation = trainer.facts().accumulation.unwrap_or(1).max(1);
                    }
                    let demand: Demand = message.read()?;
                    if !asked.ranks.contains(&rank) {
                        node.say(&of_rank(NOISED, rank), &said)?;
                    }
                    asked.take_in(rank, &demand);
                    node.send(DEMAND, demands, &demand)?;
                    demands += 1;
                    continue;
                }
                if upstream.hear(&message)? {
                    noiser.conversations = upstream.facts().conversations;
                    said = with(upstream.facts(), &own);
                    for output in asked.outputs() {
                        node.say(&output, &said)?;
                    }
                }
                if message.prelude {
                    for output in asked.outputs() {
                        node.send_prelude::<Noised>(&output)?;
                    }
                } else if message.fin {
                    for output in asked.outputs() {
                        node.send_fin::<Noised>(&output, message.seq)?;
                    }
                } else if let Some(rank) = asked.batches.remove(&message.seq) {
                    // One that nobody waits for is passed over: it came a second time, or before the demand that says how many make a step.
                    let noised = noiser.noise(message.seq, message.read::<Sequences>()?)?;
                    node.send(&of_rank(NOISED, rank), message.seq, &noised)?;
                }
            }
            Event::Closed(_) | Event::Failed { .. } | Event::Stop { .. } => return Ok(()),
            Event::Tick | Event::Timeout => {}
        }
    }
}

/// What this node says of the data.
fn facts(config: &Config, name: &str) -> Result<Facts> {
    let Config { noise_schedule: schedule, noise_schedule_config: options, transforms, .. } = config;
    let mut plugins = std::collections::BTreeMap::new();
    // One that cannot be found is reported where it is opened.
    if let Ok(record) = Record::new(Kind::NoiseSchedule, schedule, options) {
        plugins.insert(format!("{name}.NOISE_SCHEDULE"), serde_json::to_value(record)?);
    }
    for (number, record) in Transforms::records(transforms).unwrap_or_default().into_iter().enumerate() {
        plugins.insert(format!("{name}.TRANSFORMS.{number}"), serde_json::to_value(record)?);
    }
    let sizes = config.block_size.parse::<BlockSizes>().ok();
    let (growth, options) = (&config.block_growth, &config.block_growth_config);
    if sizes.as_ref().is_some_and(BlockSizes::grows)
        && let Ok(record) = Record::new(Kind::AnnealingSchedule, growth, options)
    {
        plugins.insert(format!("{name}.BLOCK_GROWTH"), serde_json::to_value(record)?);
    }
    let blocks = sizes.map(|sizes| BlockFacts { sizes: config.block_size.clone(), usual: sizes.usual(usize::MAX) });
    let noise_schedule = Some(Component { name: schedule.clone(), config: options.clone() });
    Ok(Facts { noise_schedule, blocks, plugins, ..Facts::default() })
}

/// What is said upstream, and what this node adds.
fn with(upstream: &Facts, own: &Facts) -> Facts {
    let mut all = upstream.clone();
    all.noise_schedule.clone_from(&own.noise_schedule);
    all.blocks.clone_from(&own.blocks);
    if let (Some(blocks), Some(tokenizer)) = (&mut all.blocks, &upstream.tokenizer) {
        // A row that is not cut is as long as the tokenizer makes it.
        blocks.usual = blocks.usual.min(tokenizer.sequence_length);
    }
    all.plugins.extend(own.plugins.clone());
    all
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use difflow_node_kit::testing::Heard;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_came_is_handed_on_with_the_schedule_and_the_plugins() {
        let config = Config {
            noise_schedule: "polynomial".into(),
            noise_schedule_config: r#"{"power": 3}"#.into(),
            transforms: r#"["builtin:span-mask"]"#.into(),
            ..Config::default()
        };
        let upstream = Facts { corpus: Some("c".into()), ..facts(&config, "other").unwrap() };
        let all = with(&upstream, &facts(&config, "noiser").unwrap());
        let keys: Vec<&String> = all.plugins.keys().collect();
        let wanted = ["noiser.NOISE_SCHEDULE", "noiser.TRANSFORMS.0", "other.NOISE_SCHEDULE", "other.TRANSFORMS.0"];
        assert_eq!(keys, wanted);
        let noise = &all.plugins["noiser.NOISE_SCHEDULE"];
        assert_eq!((&noise["id"], &noise["config"]["power"]), (&"difflow.noise.polynomial".into(), &3.into()));
        assert_eq!((all.corpus.as_deref(), all.noise_schedule.unwrap().name.as_str()), (Some("c"), "polynomial"));
    }

    /// A batch on the output of another rank would be refused there, and missing here.
    #[test]
    fn each_rank_gets_what_it_asked_for() {
        let ask = |seq: u64| json!([{"next_seq": seq, "count": 1}]);
        let row = |token: u64| json!([{"tokens": [token, token], "documents": [0, 0], "maskable": [true, true]}]);
        let tokens = |output: &str| {
            let heard = Heard::default().message::<Demand>("demand", 0, ask(4)).unwrap();
            let mut heard = heard.message::<Demand>("demand-1", 0, ask(5)).unwrap();
            for seq in [5, 4, 6] {
                heard = heard.message::<Sequences>("sequences", seq, row(seq as u64)).unwrap();
            }
            let (node, mut said) = heard.node().unwrap();
            run(Config::default(), node).unwrap();
            said.on(output).iter().map(|rows| rows[0]["tokens"][0].clone()).collect::<Vec<_>>()
        };
        assert_eq!((tokens("noised"), tokens("noised-1")), (vec![json!(4)], vec![json!(5)]));
    }

    /// The trainer writes its first checkpoint as soon as it hears what the batches are made from.
    #[test]
    fn what_comes_before_the_data_is_handed_on_before_the_data() {
        let facts = Facts { corpus: Some("c".into()), ..Facts::default() };
        let heard = Heard::default().prelude::<Sequences>("sequences", &facts).unwrap();
        let (node, mut said) = heard.node().unwrap();
        run(Config::default(), node).unwrap();
        let said = said.on("noised");
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].as_array().is_some_and(Vec::is_empty), "no batch: {said:?}");
    }
}
