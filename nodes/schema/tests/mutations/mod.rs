//! Arrays that no difflow node sends, made from choices: random ones in tests/hostile.rs, a fuzzer's in fuzz/.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, ListArray, NullArray, StringArray, StructArray,
    UInt8Array, UInt32Array, UInt64Array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field};
use difflow_schema::{Checkpoint, Demand, Documents, Message, Metrics, Noised, Preview, Sample, Samples, Sequences};

/// Messages that [`survive`] knows.
pub const KINDS: usize = 8;

/// Where choices come from.
pub trait Choices {
    /// One of `0..n`.
    fn below(&mut self, n: usize) -> usize;
}

/// A message of the kind, changed once or twice, is read or refused; what is read can be written again. Returns whether it was read.
pub fn survive(choices: &mut impl Choices, kind: usize) -> bool {
    let sequences = || Sequences {
        rows: 2,
        length: 3,
        tokens: vec![0, 5, 6, 0, 7, 8],
        documents: vec![0, 0, 0, 0, 0, 1],
        maskable: vec![false, true, true, false, true, true],
    };
    let masked = vec![false, true, false, false, false, true];
    match kind {
        0 => changed(choices, &Demand { next_seq: 7, count: 4 }),
        1 => {
            let (text, messages) = (vec!["a b".into(), String::new()], vec!["[1]".into(), "[]".into()]);
            changed(choices, &Documents { doc: vec![3, 4], text, messages })
        }
        2 => changed(choices, &sequences()),
        3 => changed(
            choices,
            &Noised { sequences: sequences(), masked, t: vec![0.5, 0.25], weight: vec![2.0, 4.0], blocks: Vec::new() },
        ),
        4 => {
            let (path, sha256) = ("/r/c".into(), "ab".into());
            changed(choices, &Checkpoint { step: 9, path, sha256, bytes: 10, tokens_seen: 11 })
        }
        5 => changed(choices, &Metrics::of_step(3, [("loss", 1.5), ("grad_norm", f64::INFINITY)])),
        6 => {
            let (kind, prompt, text, verdict) = ("infill".into(), "a […]".into(), "a b".into(), "ok".into());
            let sample = Sample { step: 1, index: 2, kind, prompt, text, verdict, nfe: 3, seconds: 0.5 };
            changed(choices, &Samples(vec![sample]))
        }
        _ => {
            let (tokens, attention) = (vec![4, 5, 6, 7, 8, 9], vec![255, 0, 255, 255]);
            changed(choices, &Preview { step: 1, length: 8, tokens, masked, attention, ..Preview::default() })
        }
    }
}

fn changed<M: Message>(choices: &mut impl Choices, message: &M) -> bool {
    let good = message.to_array().expect("a good message");
    let mut hostile = mutated(choices, &good);
    if choices.below(3) == 0 {
        hostile = mutated(choices, &hostile);
    }
    let read = M::from_array(&hostile);
    read.map(|read| read.to_array().expect("what was read can be written")).is_ok()
}

fn number(choices: &mut impl Choices) -> u64 {
    [0, 1, 2, 7, u64::from(u32::MAX), u64::MAX, i64::MAX as u64, 1 << 40][choices.below(8)]
}

/// Types of columns that are no lists.
const FLAT: usize = 8;

/// A column of `len` values of a type, perhaps with nulls.
fn flat(choices: &mut impl Choices, kind: usize, len: usize) -> ArrayRef {
    let nulls = (choices.below(4) == 0).then(|| NullBuffer::from_iter((0..len).map(|_| choices.below(3) > 0)));
    match kind {
        0 => Arc::new(UInt32Array::new((0..len).map(|_| number(choices) as u32).collect(), nulls)),
        1 => Arc::new(UInt64Array::new((0..len).map(|_| number(choices)).collect(), nulls)),
        2 => Arc::new(Int64Array::new((0..len).map(|_| number(choices) as i64).collect(), nulls)),
        3 => {
            let values = [0.0, -1.0, 0.5, f64::NAN, f64::INFINITY, 1e308];
            Arc::new(Float64Array::new((0..len).map(|_| values[choices.below(values.len())]).collect(), nulls))
        }
        4 => Arc::new(BooleanArray::new((0..len).map(|_| choices.below(2) > 0).collect(), nulls)),
        5 => Arc::new(StringArray::from_iter_values((0..len).map(|_| ["", "ÿ", "../..", "\0"][choices.below(4)]))),
        6 => Arc::new(UInt8Array::new((0..len).map(|_| choices.below(256) as u8).collect(), nulls)),
        _ => Arc::new(NullArray::new(len)),
    }
}

/// A column of `len` values of any type.
fn column(choices: &mut impl Choices, len: usize) -> ArrayRef {
    let kind = choices.below(FLAT + 2);
    if kind < FLAT {
        return flat(choices, kind, len);
    }
    // Lists with rows of one length, or of any.
    let same = choices.below(5);
    let lengths: Vec<usize> = (0..len).map(|_| if kind == FLAT { same } else { choices.below(5) }).collect();
    let inner = choices.below(FLAT);
    let values = flat(choices, inner, lengths.iter().sum());
    let field = Arc::new(Field::new("item", values.data_type().clone(), true));
    Arc::new(ListArray::new(field, OffsetBuffer::from_lengths(lengths), values, None))
}

/// Other values of the same type, in rows of the same lengths: what is read gets past the types to the rules.
fn other_values(choices: &mut impl Choices, values: &ArrayRef) -> ArrayRef {
    let kind = match values.data_type() {
        DataType::UInt32 => 0,
        DataType::UInt64 => 1,
        DataType::Float64 => 3,
        DataType::Boolean => 4,
        DataType::Utf8 => 5,
        DataType::UInt8 => 6,
        DataType::List(field) => {
            let list = values.as_list::<i32>();
            let inner = other_values(choices, list.values());
            let field = Arc::new(Field::new(field.name(), inner.data_type().clone(), true));
            return Arc::new(ListArray::new(field, list.offsets().clone(), inner, None));
        }
        _ => FLAT - 1,
    };
    flat(choices, kind, values.len())
}

/// `array` with a column replaced or left out, or cut to some rows.
fn mutated(choices: &mut impl Choices, array: &StructArray) -> StructArray {
    let mut columns: Vec<(Arc<Field>, ArrayRef)> = Vec::new();
    let (victim, how) = (choices.below(array.num_columns()), choices.below(5));
    for (at, (field, values)) in array.fields().iter().zip(array.columns()).enumerate() {
        let values = match (at == victim, how) {
            (true, 0) => continue,
            (true, 1) => column(choices, array.len()),
            (true, _) => other_values(choices, values),
            (false, _) => values.clone(),
        };
        columns.push((Arc::new(Field::new(field.name(), values.data_type().clone(), true)), values));
    }
    if columns.is_empty() {
        let nothing: ArrayRef = Arc::new(NullArray::new(array.len()));
        columns.push((Arc::new(Field::new("nothing", DataType::Null, true)), nothing));
    }
    let whole = StructArray::from(columns);
    let first = choices.below(whole.len() + 1);
    if how == 4 { whole.slice(first, choices.below(whole.len() - first + 1)) } else { whole }
}
