//! How long a step takes in several processes, by what each keeps, and how that goes on with more of them.

use difflow_model::simulated::links::Link;
use difflow_model::simulated::{Compute, Simulated, step};
use difflow_model::{ModelConfig, RankMemory, Sharding, Team};
use serde_json::{Value, json};

use crate::plan::cost::{Cost, Work, block_products, forward_products};
use crate::plan::hardware::Hardware;
use crate::plan::ranks::{ALL, own, team};
use crate::plan::{bytes, grouped};

/// The most ranks of the table.
const MOST: u64 = 1024;

/// A step of a run, on some machines.
pub struct Scaling<'a> {
    work: &'a Work,
    cost: &'a Cost,
    hardware: &'a Hardware,
    compute: Compute,
    tokens_per_micro_batch: f64,
}

/// A step of some ranks.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Outcome {
    team: Team,
    now: Simulated,
    tokens_per_second: f64,
    /// Tokens a second by those that one process has with as many micro-batches, and by the number of ranks.
    efficiency: f64,
}

impl Outcome {
    fn waiting(&self) -> f64 {
        self.now.waiting / self.now.seconds
    }
}

impl<'a> Scaling<'a> {
    /// Of ranks of which each computes so many operations a second.
    pub fn new(work: &'a Work, cost: &'a Cost, config: &ModelConfig, hardware: &'a Hardware, rate: f64) -> Self {
        let t = &work.trainer;
        let micro_batches = t.steps * t.accumulation;
        let seconds = cost.flops / micro_batches as f64 / rate;
        let length = work.tokenizer.sequence_length as u64;
        let blocks = block_products(config, length);
        // As `Cost` counts them: twice forward back, and forward once more where that is recomputed.
        let (behind, head) = (
            if t.activation_checkpointing { 3.0 } else { 2.0 },
            3.0 * cost.head_share * forward_products(config, length).1,
        );
        let second = seconds / (blocks.iter().sum::<f64>() * (1.0 + behind) + head);
        let trained = &cost.trained;
        let units = if t.lora_rank > 0 {
            // An adapter has the same beside each block, more or less.
            let layers = config.layers as u64;
            let block = |layer| vec![trained.values * (layer + 1) / layers - trained.values * layer / layers];
            [vec![Vec::new()], (0..layers).map(block).collect(), vec![Vec::new()]].concat()
        } else {
            config.unit_values(u64::from(cost.mask_rows > 0))
        };
        // Weights and moments are read and written, gradients read, and on a GPU rounded weights written.
        let update = (4 + 8 + if trained.on_device { 2 } else { 0 }) * trained.values + 2 * trained.state;
        let compute = Compute {
            units,
            forward: blocks.iter().map(|products| products * second).collect(),
            back: blocks.iter().map(|products| behind * products * second).collect(),
            head: head * second,
            update: update as f64 / hardware.bytes_per_second,
            byte: 1.0 / hardware.bytes_per_second,
        };
        let tokens_per_micro_batch = cost.tokens_per_step as f64 / t.accumulation as f64;
        Self { work, cost, hardware, compute, tokens_per_micro_batch }
    }

    fn of(&self, team: Team) -> Outcome {
        let simulated = |team| step(team, &self.compute, &self.hardware.links);
        let now = simulated(team);
        let alone = simulated(Team { ranks: 1, ..team }).seconds;
        Outcome {
            team,
            now,
            tokens_per_second: team.micro_batches as f64 * self.tokens_per_micro_batch / now.seconds,
            efficiency: alone / team.ranks as f64 / now.seconds,
        }
    }

    /// With each value of SHARDING that these ranks can have, and whether the ACCUMULATION is that of the file.
    fn by_sharding(&self, ranks: u64) -> impl Iterator<Item = (&'static str, Outcome, bool)> {
        let team = move |(name, kind)| Some((name, team(self.work, ranks, kind).ok()?));
        ALL.into_iter().filter_map(team).map(|(name, (team, problem))| (name, self.of(team), problem.is_none()))
    }

    /// Seconds of a step with the SHARDING and the ACCUMULATION of the file, where these ranks can have it.
    pub fn seconds(&self, ranks: u64) -> Option<f64> {
        let sharding = Sharding::from(self.work.trainer.sharding);
        let chosen = self.by_sharding(ranks).find(|(_, of, as_said)| *as_said && of.team.sharding == sharding);
        chosen.map(|(_, of, _)| of.now.seconds)
    }

    fn memory(&self, team: Team) -> RankMemory {
        // One process has no shares.
        let sharding = if team.ranks == 1 { Sharding::None } else { team.sharding };
        RankMemory::of(&self.cost.trained, Team { sharding, ..team })
    }

    /// Whether a rank has enough memory, where that is known.
    fn fits(&self, team: Team) -> Option<bool> {
        let known = self.hardware.memory.filter(|_| self.cost.trained.on_device)?;
        Some(self.memory(team).total() as f64 <= known)
    }

    /// Micro-batches of each rank, of more or fewer of them.
    fn own(&self, ranks: u64) -> u64 {
        own(self.work.trainer.accumulation, ranks, Sharding::from(self.work.trainer.sharding))
    }

    /// With the SHARDING of the file: ranks that have as many micro-batches each as `ranks`, and those that share the file's ACCUMULATION.
    fn rows(&self, ranks: u64) -> Vec<(Outcome, Option<Outcome>)> {
        let (sharding, micro_batches) = (Sharding::from(self.work.trainer.sharding), self.work.trainer.accumulation);
        let (own, allowed) = (self.own(ranks), self.work.trainer.allowed_ranks());
        let counts = (0..=MOST.ilog2()).map(|power| 1 << power);
        let row = |ranks: u64| {
            let as_many = self.of(Team { ranks, micro_batches: own * ranks, sharding });
            let shared = allowed.contains(&ranks).then(|| self.of(Team { ranks, micro_batches, sharding }));
            (as_many, shared)
        };
        counts.map(row).collect()
    }

    /// For people, as the other lines of a plan.
    pub fn lines(&self, ranks: u64) -> Vec<(&'static str, String)> {
        let mut lines = Vec::new();
        let file = Sharding::from(self.work.trainer.sharding);
        for (name, of, as_said) in self.by_sharding(ranks) {
            let mark = if of.team.sharding == file { " (as in the file)" } else { "" };
            let with =
                if as_said { String::new() } else { format!(" with ACCUMULATION {}", grouped(of.team.micro_batches)) };
            let fits = match (self.fits(of.team), self.hardware.memory) {
                (Some(fits), Some(memory)) => {
                    format!("; {} in {}", if fits { "fits" } else { "does NOT fit" }, bytes(memory as u64))
                }
                _ => String::new(),
            };
            let text = format!(
                "{name}{mark}{with}: {}, {} tokens/s, efficiency {:.3}, waits {:.1} % of it{fits}",
                seconds(of.now.seconds),
                grouped(of.tokens_per_second as u64),
                of.efficiency,
                100.0 * of.waiting()
            );
            lines.push((if lines.is_empty() { "a step of ranks" } else { "" }, text));
        }
        let (name, accumulation, own) = (self.name(), self.work.trainer.accumulation, self.own(ranks));
        let plural = if own == 1 { "" } else { "es" };
        lines.push((
            "more ranks",
            format!(
                "SHARDING {name}, {own} micro-batch{plural} of each rank; behind | all ranks share the {accumulation} of the file"
            ),
        ));
        lines.push((
            "",
            "ranks  ACCUMULATION      a step      tokens/s  efficiency   waits  memory     |   a step  efficiency"
                .into(),
        ));
        for (of, shared) in self.rows(ranks) {
            let shared = shared.map_or_else(
                || "not possible".to_owned(),
                |of| format!("{:>8}  {:>10.3}", seconds(of.now.seconds), of.efficiency),
            );
            let memory = bytes(self.memory(of.team).total());
            let mark = if self.fits(of.team) == Some(false) { "!" } else { " " };
            lines.push((
                "",
                format!(
                    "{:>5}  {:>12}  {:>10}  {:>12}  {:>10.3}  {:>4.1} %  {memory:>9}{mark} | {shared}",
                    of.team.ranks,
                    grouped(of.team.micro_batches),
                    seconds(of.now.seconds),
                    grouped(of.tokens_per_second as u64),
                    of.efficiency,
                    100.0 * of.waiting(),
                ),
            ));
        }
        let too_much = self.rows(ranks).iter().any(|(of, _)| self.fits(of.team) == Some(false));
        lines.push((
            "",
            format!(
                "efficiency: tokens/s against those of one process with as many micro-batches, times the ranks{}",
                if too_much { "; ! does not fit" } else { "" }
            ),
        ));
        for (at, source) in self.hardware.sources.iter().enumerate() {
            lines.push((if at == 0 { "simulated with" } else { "" }, source.clone()));
        }
        lines
    }

    fn name(&self) -> &'static str {
        ALL.into_iter().find(|(_, kind)| *kind == self.work.trainer.sharding).map_or("none", |(name, _)| name)
    }

    /// For programs.
    pub fn to_json(&self, ranks: u64) -> Value {
        let outcome = |of: &Outcome| {
            json!({
                "ranks": of.team.ranks,
                "accumulation": of.team.micro_batches,
                "seconds_per_step": of.now.seconds,
                "tokens_per_second": of.tokens_per_second,
                "efficiency": of.efficiency,
                "waiting_share": of.waiting(),
                "sent_bytes_per_step": of.now.bytes,
                "memory_bytes": self.memory(of.team).total(),
                "fits": self.fits(of.team),
            })
        };
        let links = &self.hardware.links;
        let link = |link: &Link| json!({"bytes_per_second": link.bytes_per_second, "message_seconds": link.message});
        let by_sharding = self.by_sharding(ranks).map(|(name, of, _)| (name.to_owned(), outcome(&of)));
        let rows = self.rows(ranks).into_iter().map(|(of, shared)| {
            json!({"same_micro_batches_per_rank": outcome(&of), "same_accumulation": shared.as_ref().map(outcome)})
        });
        json!({
            "supposed": {
                "ranks_per_machine": (links.ranks_per_machine < u64::MAX).then_some(links.ranks_per_machine),
                "inside": link(&links.inside),
                "between": link(&links.between),
                "begin_seconds": links.begin,
                "numbers_seconds": links.hop,
                "memory_bytes": self.hardware.memory,
                "memory_bytes_per_second": self.hardware.bytes_per_second,
                "sources": self.hardware.sources,
            },
            "by_sharding": by_sharding.collect::<serde_json::Map<_, _>>(),
            "scaling": rows.collect::<Vec<_>>(),
        })
    }
}

/// 0.01234 as 12.3 ms.
fn seconds(of: f64) -> String {
    match of {
        s if s < 1.0 => format!("{:.1} ms", 1e3 * s),
        s if s < 120.0 => format!("{s:.2} s"),
        s => format!("{s:.0} s"),
    }
}
