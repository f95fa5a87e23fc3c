//! What `difflow plan` simulates beside what is measured. The simulation's sources are those of the command, which no library can depend on.

use difflow_model::{Device, Group, Model, ModelError, Team};

#[allow(dead_code, unused_imports, reason = "as much of it as is compared")]
#[path = "../../../cli/src/plan/links.rs"]
mod links;
#[allow(dead_code, unused_imports, reason = "as much of it as is compared")]
#[path = "../../../cli/src/plan/simulate.rs"]
mod simulate;

use links::{Link, Links, Way};
use simulate::{Compute, Simulated};

use crate::{Job, Measured, SHARDINGS, measured};

/// Prints the seconds in which 16 MiB of a rank come to all others, and those in which a number of each does.
pub fn measure_links(group: &Group) -> Result<(), ModelError> {
    let (part, times) = (vec![0; 1 << 24], 5 * group.place().size);
    let median = |exchange: &dyn Fn(usize) -> Result<(), ModelError>| -> Result<f64, ModelError> {
        let mut seconds = Vec::with_capacity(times);
        for time in 0..times {
            group.gather(&[0.0])?;
            group.take_exchanged();
            exchange(time)?;
            seconds.push(group.take_exchanged().seconds);
        }
        seconds.sort_by(f64::total_cmp);
        Ok(seconds[times / 2])
    };
    let turn = median(&|time| group.bytes_of(time % group.place().size, &part).map(drop))?;
    let number = median(&|_| group.gather(&[1.0]).map(drop))?;
    println!("step 1 1 1\nlinks {turn} {number}");
    Ok(())
}

/// What the ranks that these numbers are of would need for a step, by the simulation of `difflow plan`.
fn simulated(job: &Job, compute: &Compute, [turn, number]: [f64; 2]) -> [Simulated; 2] {
    let team = Team { ranks: job.size as u64, micro_batches: job.micro_batches, sharding: SHARDINGS[job.sharding] };
    let hop = number / (team.ranks.max(2) - 1) as f64;
    // As `Links::turns` counts a rank's turn.
    let message = ((turn - hop) / f64::from(team.ranks.max(2).next_power_of_two().ilog2()) - hop).max(1e-9);
    let link = Link { bytes_per_second: f64::from(1 << 24) / message, message: hop };
    let links = Links { ranks_per_machine: u64::MAX, inside: link, between: link, begin: hop, hop, way: Way::Tree };
    [simulate::OVERLAPS, true].map(|overlap| simulate::step(team, compute, &links, overlap))
}

/// Steps of one, two and four ranks beside what is simulated.
pub fn compared(job: &impl Fn(usize) -> Job) -> Result<(), ModelError> {
    let model = Model::initialise(&job(1).shape, 1, Device::Cpu)?;
    let (units, layers) = (model.config().unit_values(1), model.config().layers);
    drop(model);
    for size in [1, 2, 4] {
        // As many at the same time as there will be ranks: they share the processor then, too.
        let own = 2;
        let job = Job { micro_batches: own * size as u64, ..job(size) };
        let step = |of: &Measured| (job.micro_batches as usize * job.rows * job.length) as f64 / of.tokens_per_second;
        let alone = step(&measured(&Job { apart: true, ..job.clone() })?);
        let links = if size > 1 { measured(&Job { links: true, ..job.clone() })?.links } else { Vec::new() };
        // The rank that waited least says how long it takes.
        let least = |at: usize| links.iter().filter_map(|of| of.get(at).copied()).fold(f64::INFINITY, f64::min);
        let links = if size > 1 { [least(0), least(1)] } else { [1.0, 0.0] };
        // Most of a step of this model is its head: 6 · 50,257 · 192 / 2 operations a token beside 72 · 192² + 12 · 192 · 512 of a block.
        let (head, block) = (3.0 * 50_257.0 * 192.0, 72.0 * 192.0 * 192.0 + 12.0 * 192.0 * 512.0);
        let second = alone / own as f64 / (head + block * layers as f64);
        let compute = Compute {
            units: units.clone(),
            forward: vec![block * second / 3.0; layers],
            back: vec![2.0 * block * second / 3.0; layers],
            head: head * second,
            // It is in what was measured.
            update: 0.0,
            byte: 1e-10,
        };
        println!("{size} by themselves: {:.1} ms a step", 1e3 * alone);
        if size > 1 {
            println!("16 MiB to all others: {:.2} ms, a number {:.0} µs", 1e3 * links[0], 1e6 * links[1]);
        }
        let all = if size > 1 { SHARDINGS.len() } else { 1 };
        for (number, sharding) in SHARDINGS.into_iter().enumerate().take(all) {
            let job = Job { sharding: number, ..job.clone() };
            let found = measured(&job)?;
            let [now, beside] = simulated(&job, &compute, links);
            println!(
                "{size} ranks, {sharding:?}: {:.1} ms a step simulated, {:.1} % of it waiting ({:.1} ms beside the backward pass); measured {:.1} ms ({:.3}), {:.1} to {:.1} %",
                1e3 * now.seconds,
                100.0 * now.waiting / now.seconds,
                1e3 * beside.seconds,
                1e3 * step(&found),
                step(&found) / now.seconds,
                100.0 * found.exchange_share[0],
                100.0 * found.exchange_share[1],
            );
        }
    }
    Ok(())
}
