//! Arrays that no difflow node sends: every message either reads them or refuses them, and what it reads it can write again.
//! 17,500 mutations, the same ones each time.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BooleanArray, Float64Array, Int64Array, ListArray, NullArray, StringArray, StructArray,
    UInt32Array, UInt64Array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field};
use difflow_schema::{Checkpoint, Demand, Documents, Message, Metrics, Noised, Sample, Samples, Sequences};

/// splitmix64
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        ((x ^ (x >> 29)) % n as u64) as usize
    }

    fn number(&mut self) -> u64 {
        [0, 1, 2, 7, u64::from(u32::MAX), u64::MAX, i64::MAX as u64, 1 << 40][self.below(8)]
    }
}

/// A column of `len` values of any type, perhaps with nulls.
fn column(random: &mut Random, len: usize, deep: bool) -> ArrayRef {
    let nulls = (random.below(4) == 0).then(|| NullBuffer::from_iter((0..len).map(|_| random.below(3) > 0)));
    match random.below(if deep { 9 } else { 7 }) {
        0 => Arc::new(UInt32Array::new((0..len).map(|_| random.number() as u32).collect(), nulls)),
        1 => Arc::new(UInt64Array::new((0..len).map(|_| random.number()).collect(), nulls)),
        2 => Arc::new(Int64Array::new((0..len).map(|_| random.number() as i64).collect(), nulls)),
        3 => {
            let value = |random: &mut Random| [0.0, -1.0, 0.5, f64::NAN, f64::INFINITY, 1e308][random.below(6)];
            Arc::new(Float64Array::new((0..len).map(|_| value(random)).collect(), nulls))
        }
        4 => Arc::new(BooleanArray::new((0..len).map(|_| random.below(2) > 0).collect(), nulls)),
        5 => Arc::new(StringArray::from_iter_values((0..len).map(|_| ["", "ÿ", "../..", "\0"][random.below(4)]))),
        6 => Arc::new(NullArray::new(len)),
        // Lists with rows of one length, or of any.
        kind => {
            let same = random.below(5);
            let lengths: Vec<usize> = (0..len).map(|_| if kind == 7 { same } else { random.below(5) }).collect();
            let values = column(random, lengths.iter().sum(), false);
            let field = Arc::new(Field::new("item", values.data_type().clone(), true));
            Arc::new(ListArray::new(field, OffsetBuffer::from_lengths(lengths), values, nulls))
        }
    }
}

/// `array` with a column replaced or left out, or cut to some rows.
fn mutated(random: &mut Random, array: &StructArray) -> StructArray {
    let mut columns: Vec<(Arc<Field>, ArrayRef)> = Vec::new();
    let (victim, how) = (random.below(array.num_columns()), random.below(5));
    for (at, (field, values)) in array.fields().iter().zip(array.columns()).enumerate() {
        let values = match (at == victim, how) {
            (true, 0) => continue,
            (true, _) => column(random, array.len(), true),
            (false, _) => values.clone(),
        };
        columns.push((Arc::new(Field::new(field.name(), values.data_type().clone(), true)), values));
    }
    if columns.is_empty() {
        let nothing: ArrayRef = Arc::new(NullArray::new(array.len()));
        columns.push((Arc::new(Field::new("nothing", DataType::Null, true)), nothing));
    }
    let whole = StructArray::from(columns);
    let first = random.below(whole.len() + 1);
    if how == 4 { whole.slice(first, random.below(whole.len() - first + 1)) } else { whole }
}

fn survives<M: Message + PartialEq + std::fmt::Debug>(message: &M, seed: u64) {
    let mut random = Random(seed);
    let array = message.to_array().unwrap();
    for _ in 0..2500 {
        let mut hostile = mutated(&mut random, &array);
        if random.below(3) == 0 {
            hostile = mutated(&mut random, &hostile);
        }
        if let Ok(read) = M::from_array(&hostile) {
            read.to_array().unwrap();
        }
    }
}

#[test]
fn no_array_makes_a_message_panic() {
    let sequences = || Sequences {
        rows: 2,
        length: 3,
        tokens: vec![0, 5, 6, 0, 7, 8],
        documents: vec![0, 0, 0, 0, 0, 1],
        maskable: vec![false, true, true, false, true, true],
    };
    survives(&Demand { next_seq: 7, count: 4 }, 1);
    survives(&Documents { doc: vec![3, 4], text: vec!["a b".into(), String::new()] }, 2);
    survives(&sequences(), 3);
    let masked = vec![false, true, false, false, false, true];
    survives(&Noised { sequences: sequences(), masked, t: vec![0.5, 0.25], weight: vec![2.0, 4.0] }, 4);
    survives(&Checkpoint { step: 9, path: "/r/c".into(), sha256: "ab".into(), bytes: 10, tokens_seen: 11 }, 5);
    survives(&Metrics::of_step(3, [("loss", 1.5), ("grad_norm", f64::INFINITY)]), 6);
    let (kind, prompt, text, verdict) = ("infill".into(), "a […]".into(), "a b".into(), "ok".into());
    survives(&Samples(vec![Sample { step: 1, index: 2, kind, prompt, text, verdict, nfe: 3, seconds: 0.5 }]), 7);
}
