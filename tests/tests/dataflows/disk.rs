//! Disks that are full or read-only. They need the right to mount, which CI has; without it a line says what is skipped.

use std::fs;
use std::path::Path;
use std::time::Duration;

use difflow_tests::{Dataflow, Disk, Random};

use crate::faults::same;

const STEPS: u64 = 12;
const SOON: Duration = Duration::from_secs(90);

/// A dataflow whose runs lie on a disk of its own.
fn on_disk(kib: u64, what: &str) -> Option<(Dataflow, Disk)> {
    let dataflow = Dataflow::tiny(STEPS);
    let path = dataflow.folder().join("disk");
    let disk = Disk::mount(&path, kib, what)?;
    Some((dataflow.set("", "RUNS", path.display().to_string()), disk))
}

fn fill(disk: &Path, kib: usize) {
    fs::write(disk.join("filler"), vec![1; kib << 10]).expect("the disk takes the filler");
}

/// `lives` runs on a disk with a random rest of space, then one with enough.
fn fill_up(lives: u64) {
    let Some((broken, _disk)) = on_disk(8192, "a disk that fills up") else { return };
    let disk = broken.folder().join("disk");
    let whole = Dataflow::tiny(STEPS);
    whole.run().well();
    let (mut random, mut full) = (Random::new(lives), 0);
    for life in 0..lives {
        fs::remove_file(disk.join("filler")).ok();
        let used: u64 =
            walk(&disk).iter().map(|path| fs::metadata(path).map_or(0, |meta| meta.len().div_ceil(4096) * 4)).sum();
        let free = 60 + random.below(400);
        fill(&disk, (8192 - used as usize).saturating_sub(free + 64));
        let outcome = broken.run_within(SOON);
        let said = outcome.text.contains("No space left on device");
        println!("life {life}: about {free} KiB free, exit code {}", outcome.code);
        assert_eq!(outcome.code != 0, said, "{}", outcome.text);
        full += usize::from(said);
    }
    assert!(full > 0, "the disk was never full");
    fs::remove_file(disk.join("filler")).expect("a filler");
    broken.run().well();
    same(&whole, &broken, STEPS);
}

fn walk(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

#[test]
fn a_full_disk_costs_nothing_that_was_on_it() {
    fill_up(2);
}

#[test]
#[ignore = "minutes: scripts/faults.sh"]
fn long_form_of_a_full_disk() {
    fill_up(10);
}

#[test]
fn a_read_only_folder_is_refused_before_anything_is_trained() {
    let Some((dataflow, disk)) = on_disk(1024, "a read-only folder") else { return };
    disk.remount("ro");
    let outcome = dataflow.run_within(SOON);
    assert_ne!(outcome.code, 0);
    outcome.says(&["error: RUNS", "cannot be written to", "Read-only file system"]);
}
