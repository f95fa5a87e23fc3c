//! Every message survives its own encoding, and a wrong array is refused with the column named.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use arrow::array::{ArrayRef, StructArray, UInt32Array};
use arrow::datatypes::{DataType, Field};
use difflow_schema::columns::list_column;
use difflow_schema::{
    Checkpoint, Demand, Documents, Message, Metrics, Noised, PlainDocuments, RowNoised, Sample, Samples, SchemaError,
    Sequences,
};

fn sequences() -> Sequences {
    Sequences {
        rows: 2,
        length: 3,
        tokens: vec![0, 5, 6, 0, 7, 8],
        documents: vec![0, 0, 0, 0, 0, 1],
        maskable: vec![false, true, true, false, true, true],
    }
}

fn noised() -> Noised {
    Noised {
        sequences: sequences(),
        masked: vec![false, true, false, false, false, true],
        t: vec![0.5, 0.25],
        weight: vec![2.0, 4.0],
        blocks: Vec::new(),
    }
}

/// With t and weight of every position.
fn by_position() -> Noised {
    let t: Vec<f64> = (1..=6).map(|at| f64::from(at) / 6.0).collect();
    Noised { weight: t.iter().map(|t| 1.0 / t).collect(), t, ..noised() }
}

fn survives<M: Message + PartialEq + std::fmt::Debug>(message: M) {
    let array = message.to_array().unwrap();
    assert_eq!(array.fields(), &M::fields());
    assert_eq!(M::from_array(&array).unwrap(), message);
}

#[test]
fn every_message_survives_its_encoding() {
    survives(Demand { next_seq: 7, count: 4 });
    let (doc, text) = (vec![3, 4], vec!["a b".to_owned(), String::new()]);
    survives(PlainDocuments { doc: doc.clone(), text: text.clone() });
    survives(Documents { doc: doc.clone(), text: text.clone(), messages: Vec::new() });
    survives(Documents { doc, text, messages: vec!["[1]".into(), "[2]".into()] });
    survives(Documents::default());
    survives(sequences());
    survives(noised());
    survives(by_position());
    survives(Noised { blocks: vec![2, 3], ..by_position() });
    survives(RowNoised(noised()));
    survives(Checkpoint { step: 9, path: "/r/c".into(), sha256: "ab".into(), bytes: 10, tokens_seen: 11 });
    survives(Metrics::of_step(3, [("loss", 1.5), ("grad_norm", f64::INFINITY)]));
    survives(Samples(vec![Sample {
        step: 1,
        index: 2,
        kind: "infill".into(),
        prompt: "a […]".into(),
        text: "a b".into(),
        verdict: "ok".into(),
        nfe: 3,
        seconds: 0.5,
    }]));
}

/// A corpus of one's own sends what it always sent; and a batch is of texts or of conversations, or half of it would be learned otherwise.
#[test]
fn documents_of_the_version_before_are_read_and_none_are_mixed() {
    let before = PlainDocuments { doc: vec![3, 4], text: vec!["a".into(), "b".into()] };
    let read = Documents::from_array(&before.to_array().unwrap()).unwrap();
    assert_eq!(read, Documents { doc: vec![3, 4], text: before.text, messages: Vec::new() });
    assert!(Documents::reads("documents/1") && Documents::reads("documents/2") && !Documents::reads("documents/3"));
    assert!(!Sequences::reads("documents/1"));
    let mixed = Documents { messages: vec!["[1]".into(), String::new()], ..read };
    let error = Documents::from_array(&mixed.to_array().unwrap()).unwrap_err().to_string();
    assert!(error.contains("`messages`") && error.contains("1 of 2 documents"), "{error}");
}

/// dora may hand over a slice of a larger buffer: offsets must be honoured.
#[test]
fn a_sliced_array_reads_as_its_rows() {
    let whole = noised().to_array().unwrap();
    let second = Noised::from_array(&whole.slice(1, 1)).unwrap();
    assert_eq!(second.sequences.tokens, [0, 7, 8]);
    assert_eq!(second.masked, [false, false, true]);
    assert_eq!(second.weight, [4.0]);
    let second = Noised::from_array(&by_position().to_array().unwrap().slice(1, 1)).unwrap();
    assert_eq!(second.t, by_position().t_of(1));
    assert_eq!(second.weight_of(0), [6.0 / 4.0, 6.0 / 5.0, 1.0]);
}

/// A weight for every second position would be read as that of another position.
#[test]
fn noise_is_one_number_a_row_or_one_a_position() {
    let wrong = Noised { t: vec![0.5; 4], ..noised() };
    let error = Noised::from_array(&wrong.to_array().unwrap()).unwrap_err().to_string();
    assert!(error.contains("`t`") && error.contains("rows of 2 values, wanted 1") && error.contains("or 3"), "{error}");
}

/// A plug-in that was built for a number a row must not be handed something else, and must get what it always got.
#[test]
fn batch_transforms_get_the_columns_that_they_always_got() {
    let array = RowNoised(noised()).to_array().unwrap();
    let types: Vec<String> =
        array.fields().iter().map(|field| format!("{} {}", field.name(), field.data_type())).collect();
    assert_eq!(types[4..], ["t Float64", "weight Float64"]);
    let error = RowNoised(by_position()).to_array().unwrap_err().to_string();
    assert!(error.contains("noised/1") && error.contains("one a row"), "{error}");
}

#[test]
fn a_missing_column_is_named() {
    let array = sequences().to_array().unwrap();
    assert_eq!(Noised::from_array(&array), Err(SchemaError::Missing { message: "noised/2", column: "masked" }));
}

#[test]
fn a_wrong_type_and_ragged_rows_are_refused() {
    let mut message = noised().to_array().unwrap();
    message = StructArray::try_from(vec![("tokens", message.column(3).clone())]).unwrap();
    let error = Sequences::from_array(&message).unwrap_err().to_string();
    assert!(error.contains("`tokens`") && error.contains("UInt32"), "{error}");

    let ragged = arrow::array::ListArray::from_iter_primitive::<arrow::datatypes::UInt32Type, _, _>([
        Some(vec![Some(1), Some(2)]),
        Some(vec![Some(3)]),
    ]);
    let array =
        StructArray::from(vec![(Arc::new(Field::new("tokens", ragged_type(), true)), Arc::new(ragged) as ArrayRef)]);
    let error = Sequences::from_array(&array).unwrap_err().to_string();
    assert!(error.contains("row 0 has 2 values") || error.contains("row 1 has 1 values"), "{error}");
    assert_eq!(list_column(Arc::new(UInt32Array::from(vec![1, 2, 3, 4])), 2).len(), 2);
}

fn ragged_type() -> DataType {
    DataType::List(Arc::new(Field::new("item", DataType::UInt32, true)))
}

/// A mask on an anchor or a pad, or a weight that is not a number, must not reach the trainer.
#[test]
fn content_that_breaks_a_rule_is_refused() {
    let mut message = noised();
    message.masked[0] = true;
    let error = Noised::from_array(&message.to_array().unwrap()).unwrap_err().to_string();
    assert!(error.contains("position 0 is masked but not maskable"), "{error}");

    let mut message = noised();
    message.weight[1] = f64::NAN;
    assert!(Noised::from_array(&message.to_array().unwrap()).is_err());

    let message = Noised { blocks: vec![2, 0], ..by_position() };
    let error = Noised::from_array(&message.to_array().unwrap()).unwrap_err().to_string();
    assert!(error.contains("`block`") && error.contains("1 of 2 rows"), "{error}");

    let none = Demand { next_seq: 1, count: 0 }.to_array().unwrap();
    assert!(Demand::from_array(&none).is_err());
}
