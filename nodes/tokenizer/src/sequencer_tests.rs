//! The whole path from documents to batches, without dora: what is served depends only on documents, seed and number.

use std::path::Path;

use difflow_schema::Documents;
use difflow_schema::sequences::PADDING;

use super::*;
use crate::build::Build;
use crate::packing::Packing;
use crate::store_writer::UNFINISHED;
use crate::words::Words;
use crate::words::tests::world;

fn config(dir: &Path) -> Config {
    Config { sequence_length: 8, micro_batch: 4, shuffle_window: 16, seed: 11, ..world(dir, 29) }
}

/// `count` documents of 1 to 6 letters, no two neighbours alike.
fn documents(count: u64) -> Documents {
    let text = |doc: u64| {
        let letters = (0..1 + doc % 6).map(|i| char::from(b'a' + ((doc * 7 + i) % 26) as u8).to_string());
        letters.collect::<Vec<_>>().join(" ")
    };
    Documents { doc: (0..count).collect(), text: (0..count).map(text).collect(), messages: Vec::new() }
}

/// A sequencer over a store into which the documents go in batches of `size`; `each` sees it after every batch.
fn build(
    dir: &Path,
    config: &Config,
    count: u64,
    size: usize,
    mut each: impl FnMut(&mut Sequencer),
) -> Result<Sequencer, Problem> {
    let (all, store) = (documents(count), dir.join("tokens"));
    let mut build = Build::begin(&store, "key".into(), Words::open(config).unwrap(), None, config).unwrap();
    let store = Store::open(&store, UNFINISHED, config.sequence_length, false).unwrap();
    let mut sequencer = Sequencer::new(store, config);
    for (doc, text) in all.doc.chunks(size).zip(all.text.chunks(size)) {
        let (doc, text) = (doc.to_vec(), text.to_vec());
        build.push(Documents { doc, text, messages: Vec::new() }).unwrap();
        sequencer.grow(build.rows());
        each(&mut sequencer);
    }
    sequencer.complete(&build.finish().unwrap())?;
    Ok(sequencer)
}

fn batch(sequencer: &mut Sequencer, seq: u64) -> Sequences {
    match sequencer.get(seq).unwrap() {
        Answer::Batch(batch) => batch,
        other => panic!("{other:?}"),
    }
}

/// The texts' letters in a batch, row by row.
fn letters(batch: &Sequences) -> Vec<Vec<u32>> {
    let rows = batch.tokens.chunks(batch.length).zip(batch.documents.chunks(batch.length));
    rows.map(|(tokens, documents)| {
        let used = tokens.iter().zip(documents).filter(|(token, document)| **token > 2 && **document != PADDING);
        used.map(|(token, _)| *token).collect()
    })
    .collect()
}

#[test]
fn what_is_served_does_not_depend_on_when_it_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let mut early = Vec::new();
    let mut late = build(dir.path(), &config, 300, 5, |sequencer| {
        let seq = early.len() as u64;
        if let Answer::Batch(batch) = sequencer.get(seq).unwrap() {
            early.push(batch);
        }
    })
    .unwrap();
    assert!(early.len() > 20, "{}", early.len());
    for (seq, wanted) in early.iter().enumerate() {
        assert_eq!(*wanted, batch(&mut late, seq as u64));
    }
    // Another size of the corpus' messages, all at once, and another process.
    let mut other = build(dir.path(), &config, 300, 300, |_| {}).unwrap();
    let (store, record) = Store::reopen(&dir.path().join("tokens"), "key").unwrap();
    let mut reopened = Sequencer::new(store, &config);
    reopened.complete(&record).unwrap();
    for seq in [0, 1, 40, 1_000_000_007] {
        let wanted = batch(&mut late, seq);
        assert_eq!(wanted, batch(&mut other, seq));
        assert_eq!(wanted, batch(&mut reopened, seq));
    }
}

#[test]
fn an_epoch_holds_every_token_of_every_document_once() {
    let dir = tempfile::tempdir().unwrap();
    for packing in [Packing::Documents, Packing::One, Packing::Stream] {
        let config = Config { packing, micro_batch: 1, epochs: Some(2), ..config(dir.path()) };
        let mut sequencer = build(dir.path(), &config, 300, 50, |_| {}).unwrap();
        let Answer::Ended(end) = sequencer.get(u64::MAX).unwrap() else { panic!("no end") };
        let rows = end / 2;
        let mut epochs = [Vec::new(), Vec::new()];
        for seq in 0..end {
            let batch = batch(&mut sequencer, seq);
            assert!((batch.rows, batch.length) == (1, 8) && !batch.maskable[0]);
            epochs[(seq / rows) as usize].push(letters(&batch).remove(0));
        }
        assert_ne!(epochs[0], epochs[1]);
        let sorted = |epoch: &[Vec<u32>]| {
            let mut all = epoch.concat();
            all.sort_unstable();
            all
        };
        assert_eq!(sorted(&epochs[0]), sorted(&epochs[1]));
        let words = Words::open(&config).unwrap();
        let mut wanted = words.encode(documents(300).text).unwrap().concat();
        wanted.sort_unstable();
        let served = sorted(&epochs[0]).len();
        match packing {
            Packing::Documents | Packing::One => assert_eq!(sorted(&epochs[0]), wanted),
            Packing::Stream => {
                assert!((wanted.len() - 8..=wanted.len()).contains(&served), "{served} of {}", wanted.len())
            }
        }
    }
}

/// Rows with open ends: each document is its text, its end, and more ends, all of one document and all but its beginning maskable.
#[test]
fn open_ends_are_seen_masked_and_part_of_their_document() {
    let dir = tempfile::tempdir().unwrap();
    let plain =
        Config { micro_batch: 1, epochs: Some(1), shuffle_window: 0, sequence_length: 24, ..config(dir.path()) };
    let rows = |config: &Config| {
        let mut sequencer = build(dir.path(), config, 400, 50, |_| {}).unwrap();
        let Answer::Ended(end) = sequencer.get(u64::MAX).unwrap() else { panic!("no end") };
        (0..end).map(|seq| batch(&mut sequencer, seq)).collect::<Vec<Sequences>>()
    };
    let words = Words::open(&plain).unwrap();
    let (bos, eos) = (words.special.bos, words.special.eos);
    let texts = words.encode(documents(400).text).unwrap();
    let open = Config { open_end: 0.5, canvas: Some(12), ..plain.clone() };
    let mut found = Vec::new();
    for row in rows(&open) {
        let last = row.documents.iter().filter(|&&document| document != PADDING).max().copied().unwrap();
        for document in 0..=last {
            let at: Vec<usize> = (0..24).filter(|&i| row.documents[i] == document).collect();
            assert_eq!(at.len(), at[at.len() - 1] + 1 - at[0], "in one piece");
            assert!(!row.maskable[at[0]] && at[1..].iter().all(|&i| row.maskable[i]));
            found.push(at.iter().map(|&i| row.tokens[i]).collect::<Vec<u32>>());
        }
    }
    let mut tails = 0;
    for (text, tokens) in texts.iter().zip(&found) {
        let closed = [&[bos], &text[..], &[eos]].concat();
        let (own, tail) = tokens.split_at(closed.len());
        assert!(own == closed && tail.iter().all(|&token| token == eos) && tokens.len() <= 12, "{tokens:?}");
        tails += usize::from(!tail.is_empty());
    }
    assert!(found.len() == 400 && (160..240).contains(&tails), "{tails} tails");
    // The bytes of before there were any, and a pure function of seed and document.
    assert_eq!(rows(&plain), rows(&Config { open_end: 0.0, canvas: Some(12), ..plain.clone() }));
    assert_eq!(rows(&open), rows(&open));
    assert_ne!(rows(&open), rows(&Config { seed: 12, ..open.clone() }));
}

#[test]
fn open_ends_that_mean_nothing_are_problems_of_their_keys() {
    use difflow_node_kit::Config as _;
    let keys = |config: Config| config.validate().into_iter().map(|problem| problem.key).collect::<Vec<_>>();
    assert_eq!(keys(Config { open_end: 0.1, packing: Packing::Stream, ..Config::default() }), ["OPEN_END"]);
    assert_eq!(keys(Config { canvas: Some(300), ..Config::default() }), ["CANVAS"]);
    assert!(keys(Config { open_end: 1.0, canvas: Some(256), ..Config::default() }).is_empty());
}

/// The corpus may be larger than any disk: it is read as far as needed and a window further.
#[test]
fn the_store_grows_only_as_far_as_it_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { shuffle_window: 2048, ..config(dir.path()) };
    let (mut first, mut asked) = (None, false);
    build(dir.path(), &config, 20_000, 100, |sequencer| {
        if !sequencer.wants_rows() && first.is_none() {
            first = Some(sequencer.rows);
            assert!(matches!(sequencer.get(0).unwrap(), Answer::Batch(_)));
            assert!(!sequencer.wants_rows(), "batch 0 is in the first window");
            assert_eq!(sequencer.get(2048).unwrap(), Answer::Wait);
            asked = sequencer.wants_rows();
        }
    })
    .unwrap();
    assert!((4096..4300).contains(&first.unwrap()), "{first:?}");
    assert!(asked);
}

#[test]
fn a_corpus_without_a_batch_is_refused_with_the_key_to_change() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let with = |config: &Config, count| build(dir.path(), config, count, 10, |_| {}).err().unwrap().to_string();
    assert!(with(&config, 0).contains("the corpus ended before its first"));
    let stream = Config { packing: Packing::Stream, sequence_length: 512, ..config.clone() };
    assert!(with(&stream, 3).starts_with("SEQUENCE_LENGTH: found `512`"));
    let large = Config { micro_batch: 1000, epochs: Some(2), ..config };
    assert!(with(&large, 30).starts_with("MICRO_BATCH: found `1000`"));
}

/// A bad conversation at the end is to be heard of before those at the beginning are trained on.
#[test]
fn of_conversations_nothing_is_served_before_all_are_there() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { shuffle_window: 0, ..config(dir.path()) };
    let early = |sequencer: Sequencer, rows| {
        let mut sequencer = sequencer;
        sequencer.grow(rows);
        (sequencer.wants_rows(), sequencer.get(0).unwrap() == Answer::Wait)
    };
    drop(build(dir.path(), &config, 300, 50, |_| {}).unwrap());
    let open = || Store::reopen(&dir.path().join("tokens"), "key").unwrap().0;
    // Far more rows than are read ahead of what is asked for.
    assert_eq!(early(Sequencer::new(open(), &config), 5000), (false, false));
    assert_eq!(early(Sequencer::new(open(), &config).wait_for_all(), 5000), (true, true));
}

/// A store of 10¹⁰ tokens, sparse but for the rows that are asked for: an offset that does not fit into 32 bits would give another row.
/// Prints what the first of them costs and what the ten-millionth does (`--no-capture`); docs/DATA.md has the numbers.
#[test]
fn the_ten_millionth_sequence_is_found_where_it_is() {
    use std::fs::{self, File};
    use std::os::unix::fs::FileExt;

    use crate::store::{ENDS, RECORD, ROWS, TOKENS};

    const LENGTH: u64 = 512;
    const COUNT: u64 = 10_000_000_000 / LENGTH;
    let dir = tempfile::tempdir().unwrap();
    let config =
        Config { sequence_length: LENGTH as usize, micro_batch: 1, shuffle_window: 8192, ..config(dir.path()) };
    let record = Record {
        key: "key".into(),
        rows: COUNT,
        length: LENGTH as usize,
        ends: COUNT,
        documents: COUNT,
        ..Record::default()
    };
    fs::write(dir.path().join(RECORD), serde_json::to_vec(&record).unwrap()).unwrap();
    let sized = |name: &str, bytes: u64| {
        let file = File::create_new(dir.path().join(name)).unwrap();
        file.set_len(bytes).unwrap();
        file
    };
    let (tokens, ends, rows) = (sized(TOKENS, COUNT * LENGTH * 4), sized(ENDS, COUNT * 4), sized(ROWS, COUNT * 8));
    let mut order = Order::new(config.seed, config.shuffle_window);
    let sequences = [0, 1, 10_000_000, 10_000_001, COUNT - 1];
    for seq in sequences {
        let row = order.row(seq, COUNT, true).unwrap();
        let own: Vec<u8> = (0..LENGTH).flat_map(|at| ((row + at) as u32).to_le_bytes()).collect();
        tokens.write_all_at(&own, row * LENGTH * 4).unwrap();
        ends.write_all_at(&(LENGTH as u32).to_le_bytes(), row * 4).unwrap();
        rows.write_all_at(&(row + 1).to_le_bytes(), row * 8).unwrap();
        rows.write_all_at(&row.to_le_bytes(), row.saturating_sub(1) * 8).unwrap();
    }
    let mut took = Vec::new();
    for seq in sequences {
        let (store, record) = Store::reopen(dir.path(), "key").unwrap();
        let mut sequencer = Sequencer::new(store, &config);
        sequencer.complete(&record).unwrap();
        let begin = std::time::Instant::now();
        let found = batch(&mut sequencer, seq);
        took.push(begin.elapsed().as_secs_f64() * 1e6);
        let row = order.row(seq, COUNT, true).unwrap();
        assert!((0..LENGTH).all(|at| found.tokens[at as usize] == (row + at) as u32), "sequence {seq}");
        assert!(found.documents.iter().all(|&document| document == 0), "sequence {seq}");
    }
    println!("microseconds of sequences {sequences:?}: {took:.0?}");
}
