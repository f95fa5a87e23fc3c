use super::links::Link;
use super::*;
use crate::ranks::exchanged_bytes;

const MB: u64 = 1 << 20;
/// What few ranks exchange together.
const BLOCK: u64 = 4 * MB;

/// Two blocks of more than what is exchanged together at least, with small units around them; seconds that are sums of powers of two.
fn two_blocks() -> Compute {
    let block = BLOCK;
    Compute {
        units: vec![vec![0], vec![block], vec![block], vec![0]],
        forward: vec![2.0, 2.0],
        back: vec![4.0, 4.0],
        head: 1.0,
        update: 0.0,
        byte: 0.0,
    }
}

/// So many bytes a second from each rank, and nothing else that takes time.
fn links(bytes_per_second: f64) -> Links {
    let link = Link { bytes_per_second, message: 0.0 };
    Links { ranks_per_machine: 1 << 20, inside: link, between: link, begin: 0.0, hop: 0.0, way: Way::Ring }
}

/// As on GPUs of several machines.
fn machines() -> Links {
    let (inside, between) =
        (Link { bytes_per_second: 360e9, message: 1e-6 }, Link { bytes_per_second: 46e9, message: 3e-6 });
    Links { ranks_per_machine: 8, inside, between, begin: 20e-6, hop: 50e-6, way: Way::Ring }
}

const ALL: [Sharding; 4] = [Sharding::None, Sharding::Optimizer, Sharding::Gradients, Sharding::Parameters];

fn team(ranks: u64, own: u64, sharding: Sharding) -> Team {
    Team { ranks, micro_batches: ranks * own, sharding }
}

fn near(found: f64, wanted: f64) -> bool {
    (found - wanted).abs() <= 1e-9 * wanted.abs()
}

#[test]
fn what_takes_no_time_to_exchange_is_not_waited_for() {
    for sharding in ALL {
        let found = step(team(4, 3, sharding), &two_blocks(), &links(f64::INFINITY));
        assert_eq!((found.seconds, found.waiting), (3.0 * 13.0, 0.0), "{sharding:?}");
    }
}

/// Nothing to compute: three of four parts come from others, and then each of the four is passed on, one after the other.
#[test]
fn what_only_exchanges_takes_its_bytes_by_the_speed_of_the_link() {
    let still = Compute { forward: vec![0.0; 2], back: vec![0.0; 2], head: 0.0, ..two_blocks() };
    let bytes = 4.0 * 2.0 * BLOCK as f64;
    for (sharding, wanted) in [
        (Sharding::None, 3.0 / 4.0 + 1.0),
        (Sharding::Optimizer, 3.0 / 4.0 + 1.0),
        // Two micro-batches, and the weights once.
        (Sharding::Gradients, 2.0 * 3.0 / 4.0 + 1.0),
        // Of each micro-batch weights forward and back, and gradients.
        (Sharding::Parameters, 2.0 * (1.0 + 1.0 + 3.0 / 4.0)),
    ] {
        let found = step(team(4, 2, sharding), &still, &links(bytes));
        assert!(near(found.seconds, wanted) && near(found.waiting, wanted), "{sharding:?}: {found:?}, not {wanted}");
    }
}

/// By hand, two ranks: gradients of a block take half a block's bytes, 3 s; giving the block's weights takes 6.
#[test]
fn gradients_of_a_block_are_exchanged_beside_the_next() {
    let links = links(4.0 * BLOCK as f64 / 6.0);
    let (forward, back, given) = (2.0 + 2.0 + 1.0, 4.0, 2.0 * 6.0);
    // The first exchange is hidden behind the second block, and the last is not.
    for sharding in [Sharding::None, Sharding::Optimizer, Sharding::Gradients] {
        let found = step(team(2, 1, sharding), &two_blocks(), &links);
        assert!(near(found.seconds, forward + 2.0 * back + 3.0 + given), "{sharding:?}: {found:?}");
        assert!(near(found.waiting, 3.0 + given), "{sharding:?}: {found:?}");
    }
    // The last of a micro-batch is hidden behind the next forward; or there is one in a step.
    for sharding in [Sharding::Gradients, Sharding::Optimizer] {
        let found = step(team(2, 2, sharding), &two_blocks(), &links);
        assert!(near(found.seconds, 2.0 * (forward + 2.0 * back) + 3.0 + given), "{sharding:?}: {found:?}");
    }
    // One that is slower than a block: what is left of it is waited for. 12 s and 24 s at a quarter of the speed.
    let slow = self::links(4.0 * BLOCK as f64 / 24.0);
    let beside = step(team(2, 1, Sharding::Gradients), &two_blocks(), &slow);
    assert!(near(beside.seconds, forward + back + 12.0 + 12.0 + 2.0 * 24.0), "{beside:?}");
}

/// By hand, two ranks: a block comes in 2 s, which one that takes 2 s to compute hides; its gradients go in 1.
#[test]
fn weights_come_one_unit_ahead() {
    let links = links(4.0 * BLOCK as f64 / 2.0);
    let found = step(team(2, 1, Sharding::Parameters), &two_blocks(), &links);
    // The first block is waited for, and the second comes meanwhile. The last block is asked for when the head (1 s) begins. The
    // gradients of a block are exchanged beside the next one's 4 s, and those of the last by themselves.
    let wanted = 2.0 + 2.0 + 2.0 + 1.0 + (2.0 - 1.0) + 2.0 * 4.0 + 1.0;
    assert!(near(found.seconds, wanted), "{found:?}, not {wanted}");
    // Where there is a last norm, its gradients go when the way back begins, behind the first block, which has been asked for; nobody waits for them.
    let mut normed = two_blocks();
    normed.units[3] = vec![64];
    let found = step(team(2, 1, Sharding::Parameters), &normed, &links).seconds;
    assert!((found - wanted).abs() < 1e-3, "{found}, not {wanted}");
}

#[test]
fn as_many_bytes_are_sent_as_the_formula_says() {
    let tied = Compute { units: vec![vec![5 * MB, 640], vec![MB, 64], vec![MB, 64], vec![64]], ..two_blocks() };
    let untied = Compute { units: [tied.units.clone(), vec![vec![5 * MB]]].concat(), ..tied.clone() };
    for compute in [&tied, &untied] {
        let values: u64 = compute.units.iter().flatten().sum();
        for (ranks, own) in [(2, 1), (4, 2), (8, 3)] {
            for sharding in ALL {
                let formula = exchanged_bytes(values, ranks, ranks * own, sharding) as f64;
                // The formula has all weights come twice. Embeddings that are the head do, and else neither, nor the last norm.
                let once = if compute.units.len() == 5 { 10 * MB + 640 + 64 } else { 64 };
                let once = if sharding == Sharding::Parameters { own * (ranks - 1) * 4 * once } else { 0 };
                let found = step(team(ranks, own, sharding), compute, &machines()).bytes;
                assert!(near(found, formula - once as f64), "{sharding:?}, {ranks}: {found}, not {formula} - {once}");
            }
        }
    }
}

#[test]
fn more_ranks_are_never_more_efficient() {
    let compute = Compute {
        units: vec![vec![32 * MB], vec![4 * MB, 5 * MB, MB], vec![4 * MB, 5 * MB, MB], vec![4096]],
        forward: vec![0.01, 0.02],
        back: vec![0.02, 0.04],
        head: 0.01,
        update: 0.05,
        byte: 1.0 / 2e12,
    };
    // With fewer ranks a part has more rounds, each of which has to begin: two may be slower than four for that.
    let links = Links { begin: 0.0, ..machines() };
    for sharding in ALL {
        let mut before = (1.0, 0.0);
        for ranks in (0..=10).map(|power| 1 << power) {
            let alone = step(team(1, 2 * ranks, Sharding::None), &compute, &links).seconds;
            let found = step(team(ranks, 2, sharding), &compute, &links);
            let (efficiency, waiting) = (alone / ranks as f64 / found.seconds, found.waiting / found.seconds);
            assert!(efficiency <= before.0 + 1e-9, "{sharding:?}, {ranks}: {efficiency} after {before:?}");
            assert!(waiting >= before.1 - 1e-9 && waiting < 1.0, "{sharding:?}, {ranks}: {waiting} after {before:?}");
            before = (efficiency, waiting);
        }
        assert!(before.0 < 0.9, "{sharding:?}: these numbers prove nothing: {before:?}");
    }
}

/// Parameters of less than a block are exchanged with those before them, when the first of them has its gradient.
#[test]
fn small_parameters_are_exchanged_together() {
    let block = BLOCK;
    let compute = Compute { units: vec![vec![8], vec![block - 8, 3], vec![block, 5], vec![7]], ..two_blocks() };
    assert_eq!(compute.together(BLOCK), [(2, 12), (1, block + 3), (0, block)]);
    let small = Compute { units: vec![vec![8], vec![9], vec![9], vec![7]], ..two_blocks() };
    assert_eq!(small.together(BLOCK), [(0, 33)]);
}
