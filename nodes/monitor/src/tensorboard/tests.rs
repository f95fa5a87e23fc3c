use std::process::Command;

use super::*;
use crate::history::tests::{row, sample};

/// Reads a folder with TensorBoard's own reader and prints every scalar and text.
const READER: &str = r#"
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator(sys.argv[1], size_guidance={"scalars": 0, "tensors": 0})
events.Reload()
tags = events.Tags()
scalars = {tag: [[e.step, e.value] for e in events.Scalars(tag)] for tag in tags["scalars"]}
texts = {tag: [[e.step, e.tensor_proto.string_val[0].decode()] for e in events.Tensors(tag)] for tag in tags["tensors"]}
print(json.dumps({"scalars": scalars, "texts": texts}))
"#;

/// The numbers of TFRecord's own tests and of a file that TensorFlow wrote: RFC 3720's CRC-32C of 32 zeros is 8a9136aa.
#[test]
fn the_checksum_is_tfrecords() {
    assert_eq!(crc32c::crc32c(&[0; 32]), 0x8a91_36aa);
    assert_eq!(masked_crc(&[0; 32]), 0x8a91_36aa_u32.rotate_right(15).wrapping_add(0xa282_ead8));
    // The first record of every event file: length 24, as TensorFlow writes it.
    assert_eq!(record(&[0; 24])[..12], [24, 0, 0, 0, 0, 0, 0, 0, 0xa3, 0x7f, 0x4b, 0x22]);
}

#[test]
fn tensorboards_own_reader_finds_every_scalar_and_text() {
    let Some(python) = difflow_tests::python("reading event files with TensorBoard") else { return };
    let dir = tempfile::tempdir().unwrap();
    let metrics = ["loss", "loss_unweighted", "grad_norm", "learning_rate"];
    let mut first = Events::create(dir.path(), false).unwrap();
    first.scalars("validation", &[row("nelbo", 0, 9.5)]).unwrap();
    for step in 1..=300 {
        first.training_begins(step).unwrap();
        let rows: Vec<Row> = metrics.iter().map(|name| row(name, step, step as f64 / 4.0)).collect();
        first.scalars("training", &rows).unwrap();
    }
    let bad = [row("loss", 301, f64::NAN), row("grad_norm", 301, f64::INFINITY)];
    first.scalars("training", &bad).unwrap();
    first
        .texts(&[
            sample("unconditional", 300, 0, "Mia has *two* kites.\nThe end."),
            sample("infill", 300, 99, "left out"),
        ])
        .unwrap();
    first.flush().unwrap();
    // A second process goes on from the checkpoint of step 200, later.
    fs::rename(&first.path, dir.path().join("events.out.tfevents.0000000001.difflow.1")).unwrap();
    let mut second = Events::create(dir.path(), true).unwrap();
    second.scalars("validation", &[row("nelbo", 200, 3.5)]).unwrap();
    for step in 201..=250 {
        second.training_begins(step).unwrap();
        second.scalars("training", &[row("loss", step, -1.0)]).unwrap();
    }
    second.flush().unwrap();

    let output = Command::new(python).args(["-c", READER]).arg(dir.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let read: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let scalars = read["scalars"].as_object().unwrap();
    let tags: Vec<&str> = scalars.keys().map(String::as_str).collect();
    for metric in metrics {
        assert!(tags.contains(&format!("training/{metric}").as_str()), "{metric} not in {tags:?}");
    }
    let values = |tag: &str| -> Vec<(u64, f64)> {
        let points = scalars[tag].as_array().unwrap();
        points.iter().map(|point| (point[0].as_u64().unwrap(), point[1].as_f64().unwrap_or(f64::NAN))).collect()
    };
    assert_eq!(values("validation/nelbo"), [(0, 9.5), (200, 3.5)]);
    let loss = values("training/loss");
    let wanted: Vec<(u64, f64)> =
        (1..=200).map(|n| (n, n as f64 / 4.0)).chain((201..=250).map(|n| (n, -1.0))).collect();
    assert_eq!(loss, wanted, "steps that were repeated count once, as the second process measured them");
    let texts = read["texts"].as_object().unwrap();
    assert_eq!(texts.keys().collect::<Vec<_>>(), ["samples/unconditional 0"]);
}
