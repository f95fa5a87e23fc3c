//! data/tiny is what this crate makes, byte for byte.
#![allow(clippy::unwrap_used)]

use arrow::array::AsArray;
use arrow::datatypes::UInt64Type;
use difflow_text::read_gaps;
use difflow_world::check;
use difflow_world::corpus::{Corpus, FILES, GAPS, HELDOUT, SEED, TRAIN, write_all};
use difflow_world::skeleton::skeleton;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::collections::BTreeSet;
use std::path::PathBuf;
use tokenizers::Tokenizer;

fn tiny() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tiny")
}

#[test]
fn remaking_the_files_gives_the_bytes_and_the_sums_that_are_in_the_repository() {
    let dir = tempfile::tempdir().unwrap();
    let sums = write_all(dir.path(), SEED).unwrap();
    let readme = std::fs::read_to_string(tiny().join("README.md")).unwrap();
    for (name, sum) in &sums {
        let (made, kept) = (std::fs::read(dir.path().join(name)).unwrap(), std::fs::read(tiny().join(name)).unwrap());
        assert!(made == kept, "{name} is not what `difflow-world make --out data/tiny` makes");
        assert!(readme.contains(sum), "README.md of data/tiny lacks the sum of {name}: {sum}");
    }
    assert_eq!(sums.iter().map(|(name, _)| *name).collect::<Vec<_>>(), FILES);
}

#[test]
fn no_two_stories_have_the_same_skeleton_so_no_held_out_one_is_trained_on() {
    let corpus = Corpus::tell(SEED);
    assert_eq!((corpus.train.len(), corpus.heldout.len()), (TRAIN, HELDOUT));
    let all: BTreeSet<String> = corpus.train.iter().chain(&corpus.heldout).map(|text| skeleton(text)).collect();
    assert_eq!(all.len(), TRAIN + HELDOUT);
}

#[test]
fn the_tokenizer_gives_back_every_text_exactly() {
    let tokenizer = Tokenizer::from_file(tiny().join("tokenizer.json")).unwrap();
    assert_eq!(tokenizer.token_to_id("<bos>"), Some(0));
    assert_eq!(tokenizer.token_to_id("<eos>"), Some(1));
    let size = tokenizer.get_vocab_size(true);
    assert!((512..=1024).contains(&size), "{size} tokens");
    let corpus = Corpus::tell(SEED);
    let foreign = ["Über 7 Æpfel?\t\"ja\"\r\n", "  two  spaces ", "日本語 \u{1F600}", "don't won't"].map(str::to_owned);
    for text in corpus.heldout.iter().chain(&foreign) {
        let encoding = tokenizer.encode(text.as_str(), false).unwrap();
        assert_eq!(tokenizer.decode(encoding.get_ids(), false).unwrap(), *text);
        assert!(encoding.len() + 2 <= 250, "{} tokens", encoding.len());
    }
}

#[test]
fn each_gap_cuts_a_held_out_story_at_token_borders() {
    let tokenizer = Tokenizer::from_file(tiny().join("tokenizer.json")).unwrap();
    let corpus = Corpus::tell(SEED);
    let gaps = read_gaps(&tiny().join("infill.jsonl")).unwrap();
    assert_eq!(gaps.len(), GAPS);
    let ids: BTreeSet<u64> = gaps.iter().map(|gap| gap.id).collect();
    assert_eq!(ids.len(), GAPS, "two gaps in one story");
    let ids_of = |text: &str| tokenizer.encode(text, false).unwrap().get_ids().to_vec();
    for gap in gaps {
        let text = format!("{}{}{}", gap.left, gap.answer, gap.right);
        assert_eq!(text, corpus.heldout[usize::try_from(gap.id).unwrap() - TRAIN]);
        assert!(check(&text).is_ok());
        let parts = [ids_of(&gap.left), ids_of(&gap.answer), ids_of(&gap.right)].concat();
        assert_eq!(parts, ids_of(&text), "{gap:?}");
    }
}

#[test]
fn the_parquet_files_hold_the_stories_under_consecutive_ids() {
    let corpus = Corpus::tell(SEED);
    for (name, first_id, stories) in
        [("train.parquet", 0u64, &corpus.train), ("heldout.parquet", TRAIN as u64, &corpus.heldout)]
    {
        let file = std::fs::File::open(tiny().join(name)).unwrap();
        let mut rows = 0;
        for batch in ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap() {
            let batch = batch.unwrap();
            let ids = batch.column_by_name("doc_id").unwrap().as_primitive::<UInt64Type>().clone();
            let texts = batch.column_by_name("text").unwrap().as_string::<i32>().clone();
            for (id, text) in ids.values().iter().zip(texts.iter()) {
                assert_eq!((*id, text.unwrap()), (first_id + rows as u64, stories[rows].as_str()), "{name}");
                rows += 1;
            }
        }
        assert_eq!(rows, stories.len(), "{name}");
    }
}
