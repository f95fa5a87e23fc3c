//! Tests of batch transforms.

use arrow::array::{Array, StructArray};
use difflow_schema::{Message, Noised, PlainDocuments, RowNoised, SchemaError, Sequences};

use super::{Stop, Test, ensure};
use crate::error::PluginError;
use crate::find::Found;
use crate::transform::BatchTransform;

pub const TESTS: &[Test] = &[
    Test { name: "accepts", what: "it works on the batches of some edge and keeps their schema", run: accepts },
    Test { name: "release", what: "its input is released exactly once, its output is sound", run: release },
    Test { name: "message", what: "what comes out is a batch that the next node takes", run: message },
    Test {
        name: "same-batch",
        what: "the same (seq, seed, batch) gives the same, whatever came between",
        run: same_batch,
    },
    Test { name: "no-rows", what: "a batch without rows passes", run: no_rows },
];

/// A message of an edge that can carry a transform.
struct Example {
    array: StructArray,
    /// What the next node makes of it.
    check: fn(&StructArray) -> Result<(), SchemaError>,
}

fn example<M: Message>(message: &M) -> Result<Example, Stop> {
    let array = message.to_array().map_err(|e| Stop::Fail(e.to_string()))?;
    Ok(Example { array, check: |array| M::from_array(array).map(drop) })
}

/// A message of each edge that can carry a transform.
fn examples() -> Result<Vec<Example>, Stop> {
    let (rows, length) = (5, 37);
    let cells = rows * length;
    let sequences = Sequences {
        rows,
        length,
        tokens: (0..cells as u32).map(|i| i * 7 % 50).collect(),
        documents: (0..cells).map(|i| (i % length / 20) as u32).collect(),
        maskable: (0..cells).map(|i| i % length > 0).collect(),
    };
    let noised = Noised {
        masked: (0..cells).map(|i| i % length > 0 && i % 3 == 0).collect(),
        t: (1..=rows).map(|row| row as f64 / rows as f64).collect(),
        weight: (1..=rows).map(|row| rows as f64 / row as f64).collect(),
        sequences: sequences.clone(),
        blocks: Vec::new(),
    };
    let texts = ["A cat.", "", "Zwei Hunde bellen.", "αβγ", "A cat and a dog."];
    let documents = PlainDocuments { doc: (10..15).collect(), text: texts.map(str::to_owned).to_vec() };
    Ok(vec![example(&RowNoised(noised))?, example(&sequences)?, example(&documents)?])
}

/// The transform on each kind of message that it accepts, with such a message.
fn open(found: &Found) -> Result<Vec<(BatchTransform, Example)>, Stop> {
    let (mut open, mut refusals) = (Vec::new(), Vec::new());
    for example in examples()? {
        match BatchTransform::of(found, "{}", example.array.fields().clone()) {
            Ok(transform) => open.push((transform, example)),
            Err(PluginError::Call { function: "output_schema", message, .. }) => refusals.push(message),
            Err(other) => return Err(other.into()),
        }
    }
    ensure(!open.is_empty(), || format!("it refuses the batches of every edge: {}", refusals.join("; ")))?;
    Ok(open)
}

fn accepts(found: &Found) -> Result<(), Stop> {
    open(found).map(drop)
}

fn release(found: &Found) -> Result<(), Stop> {
    for (mut transform, example) in open(found)? {
        for seq in 0..20 {
            transform.process(seq, 1, &example.array)?;
        }
    }
    Ok(())
}

fn message(found: &Found) -> Result<(), Stop> {
    for (mut transform, example) in open(found)? {
        let out = transform.process(3, 1, &example.array)?;
        (example.check)(&out).map_err(|e| Stop::Fail(e.to_string()))?;
    }
    Ok(())
}

fn same_batch(found: &Found) -> Result<(), Stop> {
    for (mut transform, Example { array, .. }) in open(found)? {
        let first = transform.process(7, 3, &array)?;
        transform.process(8, 3, &array.slice(1, 3))?;
        let again = transform.process(7, 3, &array)?;
        ensure(first == again, || "batch 7 came out differently the second time".into())?;
    }
    Ok(())
}

fn no_rows(found: &Found) -> Result<(), Stop> {
    for (mut transform, example) in open(found)? {
        let rows = transform.process(0, 0, &example.array.slice(0, 0))?.len();
        ensure(rows == 0, || format!("{rows} rows came out"))?;
    }
    Ok(())
}
