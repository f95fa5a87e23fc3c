//! Batches over the boundary and back, valid and broken.

use difflow_schema::{Message, Noised, PlainDocuments, RowNoised, Sequences};

use super::*;
use crate::arrow_export::Lent;

fn noised() -> Noised {
    let sequences =
        Sequences { rows: 3, length: 11, tokens: (0..33).collect(), documents: vec![1; 33], maskable: vec![true; 33] };
    let masked = (0..33).map(|i| i % 3 == 0).collect();
    Noised { sequences, masked, t: vec![0.1, 0.2, 0.3], weight: vec![1.0, 2.0, 3.0], blocks: Vec::new() }
}

fn documents() -> PlainDocuments {
    PlainDocuments { doc: vec![4, 5, 6], text: vec!["".into(), "zwei".into(), "αβγ".into()] }
}

/// # Safety
/// `array` is a live array.
unsafe extern "C-unwind" fn forget(array: *mut ArrowArray) {
    // SAFETY: the caller's contract.
    unsafe { (*array).release = None }
}

/// What a plug-in gives that passes its input on, after `spoil`.
fn received(lent: &Lent, spoil: impl FnOnce(&mut ArrowArray)) -> Received {
    // SAFETY: the copy's own release frees nothing.
    let array = unsafe { (&raw const lent.array).read() };
    let mut received = Received { id: "test".into(), array: ArrowArray { release: Some(forget), ..array } };
    spoil(&mut received.array);
    received
}

/// Out and in again, with rows that begin in the middle of a byte.
#[test]
fn every_message_survives_the_way_over_the_boundary() {
    for array in [RowNoised(noised()).to_array().unwrap(), documents().to_array().unwrap()] {
        for (from, rows) in [(0, 3), (1, 2), (2, 1), (1, 0)] {
            let part = array.slice(from, rows);
            let lent = Lent::new(&part);
            // SAFETY: made by arrow.
            let back = unsafe { received(&lent, |_| {}).import(part.fields()) }.unwrap();
            assert_eq!(back, part, "rows {from} + {rows}");
        }
    }
}

/// The memory that a plug-in gave is given back once, and not before the batch is gone.
#[test]
fn a_batch_is_given_back_when_nothing_refers_to_it() {
    let array = RowNoised(noised()).to_array().unwrap();
    let lent = Lent::new(&array);
    // SAFETY: made by arrow; the copy's release only counts.
    let copy = Received { id: "test".into(), array: unsafe { (&raw const lent.array).read() } };
    // SAFETY: as above.
    let back = unsafe { copy.import(array.fields()) }.unwrap();
    let part = back.slice(1, 1);
    drop(back);
    assert_eq!(lent.releases(), 0, "given back while a part of it is in use");
    drop(part);
    assert_eq!(lent.releases(), 1);
}

/// Column `at` of a batch.
fn column(array: &mut ArrowArray, at: usize) -> &mut ArrowArray {
    // SAFETY: made by arrow, with that many columns.
    unsafe { &mut **array.children.add(at) }
}

/// Puts other values into a buffer.
fn put<T>(array: &mut ArrowArray, buffer: usize, values: Vec<T>) {
    // SAFETY: the layout has this buffer; the values are never freed.
    unsafe { *array.buffers.add(buffer) = values.leak().as_ptr().cast() };
}

/// Takes a buffer away.
fn take(array: &mut ArrowArray, buffer: usize) {
    // SAFETY: the layout has this buffer.
    unsafe { *array.buffers.add(buffer) = std::ptr::null() };
}

/// Each of these would be read past its end, or stop the node without the plug-in's name.
#[test]
fn a_batch_that_is_malformed_is_refused_in_words() {
    type Spoil = fn(&mut ArrowArray);
    let of_lists: [(&str, Spoil, &str); 13] = [
        ("rows below none", |a| a.length = -1, "a size of -1"),
        ("rows past counting", |a| a.length = i64::MAX, "a size of"),
        ("more rows than its columns", |a| a.length = 4, "has 3 rows, the batch 4"),
        ("an offset past its columns", |a| a.offset = 1, "has 3 rows, the batch 3"),
        ("a column too few", |a| a.n_children -= 1, "columns instead of"),
        ("no columns", |a| a.children = null_mut(), "NULL for its columns"),
        // SAFETY: there is a first column.
        ("a column that is NULL", |a| unsafe { *a.children = null_mut() }, "no column `tokens`"),
        ("a buffer too few", |a| column(a, 0).n_buffers = 1, "column `tokens`: 1 buffers, wanted 2"),
        ("no buffers", |a| column(a, 0).buffers = null_mut(), "column `tokens`: NULL for its buffers"),
        ("no offsets", |a| take(column(a, 0), 1), "offsets"),
        ("falling offsets", |a| put(column(a, 0), 1, vec![0, 22, 11, 33]), "ffset"),
        ("offsets past the items", |a| put(column(a, 0), 1, vec![0, 11, 22, 34]), "ffset"),
        ("offsets below none", |a| put(column(a, 0), 1, vec![0, 11, 22, -1]), "offsets"),
    ];
    let of_texts: [(&str, Spoil, &str); 5] = [
        ("no UTF-8", |a| put(column(a, 1), 2, vec![0xff_u8; 32]), "UTF"),
        ("letters cut in half", |a| put(column(a, 1), 1, vec![0, 0, 5, 10]), "utf-8"),
        ("no text", |a| take(column(a, 1), 2), "null"),
        ("a dictionary", |a| column(a, 1).dictionary = a, "dictionary"),
        (
            "nulls",
            |a| {
                put(column(a, 1), 0, vec![0_u8]);
                column(a, 1).null_count = 3;
            },
            "column `text`: it has nulls",
        ),
    ];
    for (array, cases) in
        [(RowNoised(noised()).to_array().unwrap(), &of_lists[..]), (documents().to_array().unwrap(), &of_texts[..])]
    {
        for (case, spoil, said) in cases {
            let lent = Lent::new(&array);
            let spoiled = received(&lent, spoil);
            // SAFETY: what is broken is refused before it is followed.
            let problem = unsafe { spoiled.import(array.fields()) }.expect_err(case);
            assert!(problem.contains(said), "{case}: {problem}");
            // What it owns was spoiled with it.
            std::mem::forget(lent);
        }
    }
}
